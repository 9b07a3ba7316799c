"""The doors: Dataset, DataArray, mapping or long frame → one `Table` of checked readings a variable.

Bad input raises here, with the variable's name, what came and what was expected. The caller's objects are only read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from fsimformer.labels import missing, read_labels
from fsimformer.numeric import plain_array, read_numbers, require_decoded
from fsimformer.schema import Axis, Components, Index, Schema
from fsimformer.spelling import did_you_mean

Tables = dict[str, "Table"]


@dataclass(frozen=True)
class Table:
    """Readings of one variable, those of all data sets one after the other.

    Args:
        row: (m,) number of the data set, rising.
        component: (m,) position along the `Components` dim, else 0.
        labels: dim -> (m,) the user's coordinate.
        value: (m,) float64, NaN = missing.
        shape: sizes along the variable's dims within every data set where its readings are their full grid, else None.
        attrs: attributes of the variable; label_attrs: dim -> attributes of its coordinate.
    """

    row: np.ndarray
    component: np.ndarray
    labels: dict[str, np.ndarray]
    value: np.ndarray
    shape: tuple[int, ...] | None = None
    attrs: dict[str, Any] = field(default_factory=dict)
    label_attrs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def take(self, which: np.ndarray) -> Table:
        """The chosen readings; no longer a grid."""
        labels = {d: v[which] for d, v in self.labels.items()}
        row, component, value = self.row[which], self.component[which], self.value[which]
        return replace(self, row=row, component=component, labels=labels, value=value, shape=None)


def read_tables(
    schema: Schema, observed: Any, batch_dim: str | None
) -> tuple[dict[str, Table], dict[str, Table], xr.DataArray | None]:
    """Tables by variable; tables of the coordinates held besides, by dim or dims; labels along `batch_dim`."""
    if isinstance(observed, pd.DataFrame):
        tables, labels = _from_frame(schema, observed, batch_dim)
        return tables, {}, labels
    arrays: dict[str, xr.DataArray] = {}
    coords: dict[str, xr.DataArray] = {}
    if isinstance(observed, xr.Dataset):
        arrays = {str(k): v for k, v in observed.data_vars.items()}
        coords = {str(k): v for k, v in observed.coords.items()}
        for axis in (d.name for d in schema.dims if not isinstance(d, Index) and d.name in coords):
            given = coords[axis]
            order = _order(f"coordinate {axis!r}", given.to_numpy()) if given.dims == (axis,) else None
            coords[axis] = given if order is None else given.isel({axis: order})
        if shadowed := sorted(set(coords) & set(schema.names)):
            raise ValueError(
                f"{shadowed} are variables of the model but coordinates of the Dataset; reset_coords them."
            )
    elif isinstance(observed, xr.DataArray):
        if observed.name is None:
            raise ValueError(f"The DataArray has no name; .rename it to one of {list(schema.names)}.")
        arrays = {str(observed.name): observed}
    elif isinstance(observed, xr.DataTree):
        raise ValueError(f"observed: expected one Dataset, got a DataTree of {list(observed.children)}; pick a group.")
    elif isinstance(observed, Mapping):
        _known(schema, observed)
        arrays = {str(name): _as_array(schema, str(name), given) for name, given in observed.items()}
    elif observed is not None:
        raise ValueError(
            "observed: expected a Dataset, a DataArray, a mapping of name -> DataArray, a pandas frame in long form or "
            f"None, got {type(observed).__name__}."
            + (" A Series goes in as .to_xarray()." if isinstance(observed, pd.Series) else "")
        )
    _known(schema, arrays)
    for name, array in arrays.items():
        if len(set(array.dims)) < len(array.dims):
            raise ValueError(f"{name!r}: a dim comes twice in its dims {tuple(map(str, array.dims))}.")
    arrays = {name: _in_order(schema, name, array) for name, array in arrays.items()}
    _check_components(schema, arrays, coords)
    labels = None if batch_dim is None else _batch_labels({**arrays, **coords}, batch_dim)
    n_rows = 1 if labels is None else labels.size
    tables = {k: _from_array(schema, k, arrays[k], batch_dim, n_rows) for k in schema.names if k in arrays}
    held, along = {}, dict[Any, list[Table]]()
    for dim in schema.dims:
        c = coords.get(dim.name)
        if c is not None and not isinstance(dim, Axis) and c.size and sum(d != batch_dim for d in c.dims) <= 1:
            table = _held(c, dim.name, isinstance(dim, Components), batch_dim, n_rows)
            own = [d for d in c.dims if d != batch_dim] if isinstance(dim, Index) else []
            along.setdefault(own[0] if own else dim.name, []).append(table)
    for some in along.values():
        table = _points_of(some)
        held[", ".join(table.labels)] = table
    return tables, held, labels


def _known(schema: Schema, names: Iterable[Any]) -> None:
    if unknown := [n for n in names if n not in schema]:
        hint = did_you_mean(str(unknown[0]), schema.names)
        known = f"Its variables: {list(schema.names)}; leave others out (--drop)."
        raise KeyError(f"The model has no variables {unknown}. {hint}{known}")


def _as_array(schema: Schema, name: str, given: Any) -> xr.DataArray:
    """An entry of a mapping as a DataArray."""
    if isinstance(given, xr.DataArray):
        return given
    if isinstance(given, pd.Series) and not (given.index.name is None and isinstance(given.index, pd.RangeIndex)):
        try:
            return xr.DataArray.from_series(given)
        except ValueError as error:
            raise ValueError(
                f"{name!r}: the Series makes no array: {error}. A long frame, a row a reading, may hold several at one "
                "point."
            ) from error
    if isinstance(given, (xr.Dataset, Mapping, str)) or given is None:
        raise ValueError(f"{name!r}: expected a DataArray or numbers, got {type(given).__name__}.")
    dims = schema[name].dims
    if schema.is_function(name):
        wanted = ", ".join(f"{d!r}: ..." for d in schema.index_dims(name))
        raise ValueError(
            f"{name!r} is a function of {schema.index_dims(name)} and came as bare values; give them coordinates: "
            f"xarray.DataArray(values, coords={{{wanted}}})."
        )
    values = plain_array(repr(name), given)
    if not dims and values.size == 1:
        return xr.DataArray(values.reshape(()))
    if values.ndim != len(dims):
        raise ValueError(f"{name!r}: expected dims {dims}, got values of shape {values.shape}.")
    return xr.DataArray(values, dims=dims)


def _component_labels(schema: Schema, name: str, array: xr.DataArray, dim: str) -> np.ndarray | None:
    """The coordinate of a `Components` or `Axis` dim, if it has one of its own length."""
    c = next((array.coords[k] for k in (f"{dim}_{name}", dim) if k in array.coords), None)
    return None if c is None or c.dims != (dim,) else c.to_numpy()


def _in_order(schema: Schema, name: str, array: xr.DataArray) -> xr.DataArray:
    """Components and places of an axis in the order of their numbers 0 to n − 1; other labels are names in order."""
    for dim in schema[name].dims:
        labels = None if isinstance(schema.dim(dim), Index) else _component_labels(schema, name, array, dim)
        if labels is not None and (order := _order(f"{name!r}, dim {dim!r}", labels)) is not None:
            array = array.isel({dim: order})
    return array


def _order(where: str, labels: np.ndarray) -> np.ndarray | None:
    """Where the labels 0 to n − 1 stand; None where they are others.

    Raises:
        ValueError: one of them comes twice.
    """
    if labels.dtype.kind not in "iu" or not np.isin(labels, np.arange(len(labels))).all():
        return None
    if len(np.unique(labels)) < len(labels):
        raise ValueError(f"{where}: expected each of 0 to {len(labels) - 1} once, got {labels.tolist()}.")
    return np.argsort(labels)


def _check_components(schema: Schema, arrays: Mapping[str, xr.DataArray], coords: Mapping[str, xr.DataArray]) -> None:
    """Components have the same names everywhere: their values are told by their place.

    Raises:
        ValueError: variables that name the components of one dim in different orders; a coordinate of another length.
    """
    for dim in (d for d in schema.dims if not isinstance(d, Index)):
        c = coords.get(dim.name)
        if c is not None and c.dims == (dim.name,) and c.size != dim.size:
            raise ValueError(f"coordinate {dim.name!r}: expected {dim.size} places, got {c.size}.")
        found = {n: _component_labels(schema, n, a, dim.name) for n, a in arrays.items() if dim.name in schema[n].dims}
        names = {n: x.tolist() for n, x in found.items() if x is not None and x.tolist() != list(range(x.size))}
        if any(x != next(iter(names.values())) for x in names.values()):
            raise ValueError(f"dim {dim.name!r}: expected the same labels in the same order, got {names}.")


def _batch_labels(arrays: dict[str, xr.DataArray], batch_dim: str) -> xr.DataArray:
    """The labels of `batch_dim`, which every array that has this dim must share."""
    having = [v[batch_dim] for v in arrays.values() if batch_dim in v.dims]
    if not having:
        dims = sorted({str(d) for v in arrays.values() for d in v.dims})
        raise ValueError(f"batch_dim={batch_dim!r}: no variable has this dim. Dims that came: {dims}.")
    first = having[0].reset_coords(drop=True)
    if pd.isna(first.to_numpy()).any():
        raise ValueError(f"batch_dim={batch_dim!r}: expected a label for each data set, some are NaN, NaT or None.")
    if any(not np.array_equal(first.to_numpy(), other.to_numpy()) for other in having):
        raise ValueError(f"Variables differ in their labels along {batch_dim!r}; bring them together by xarray.merge.")
    if first.size == 0:
        raise ValueError(f"batch_dim={batch_dim!r} has length zero.")
    return first


def _held(c: xr.DataArray, dim: str, components: bool, batch_dim: str | None, n_rows: int) -> Table:
    values = c.to_numpy() if components else read_labels(f"coordinate {dim!r}", c)
    order = [d for d in c.dims if d != batch_dim]
    flat = _spread(xr.Variable(c.dims, values), order, batch_dim, c.sizes, n_rows)
    row = np.repeat(np.arange(n_rows), flat.size // n_rows)
    component = np.arange(flat.size) % c.size if components else np.zeros(flat.size, dtype=np.int64)
    table = Table(row, component, {dim: flat}, np.full(flat.size, np.nan), None, {}, {dim: dict(c.attrs)})
    if batch_dim is None and not components:
        _check_labels(f"coordinate {dim!r}", flat)
    return table


def _points_of(tables: list[Table]) -> Table:
    """Coordinates that lie along one dim as one table: a point has them all."""
    labels = {d: v for t in tables for d, v in t.labels.items()}
    attrs = {d: v for t in tables for d, v in t.label_attrs.items()}
    whole = replace(tables[0], labels=labels, label_attrs=attrs)
    return whole.take(~np.any([missing(v) for v in labels.values()], axis=0))


def _spread(
    variable: xr.Variable, order: list[Any], batch_dim: str | None, sizes: Mapping[Any, int], n_rows: int
) -> np.ndarray:
    """(n_rows · n,) values of a variable repeated over the dims that it lacks, `order` running fastest at its end."""
    batch = {} if batch_dim is None else {batch_dim: n_rows}
    wide = variable.set_dims({**batch, **{d: sizes[d] for d in order}})
    return np.asarray(wide.to_numpy()).reshape(-1)


def _from_array(schema: Schema, name: str, array: xr.DataArray, batch_dim: str | None, n_rows: int) -> Table:
    variable, sizes = schema[name], array.sizes
    rest = [d for d in array.dims if d != batch_dim]
    came, hint = f"got dims {tuple(map(str, array.dims))}", "For many data sets in one call pass batch_dim=."
    if array.size == 0:
        raise ValueError(f"{name!r} has length zero, {dict(sizes)}; leave it out, or mark missing readings NaN.")
    value = xr.Variable(array.dims, read_numbers(repr(name), array))
    require_decoded(repr(name), value.to_numpy(), array.attrs)
    if not variable.dims:
        if any(sizes[d] > 1 for d in rest):
            raise ValueError(f"{name!r}: expected a scalar, {came}. {hint}")
        flat = _spread(value, rest, batch_dim, sizes, n_rows)
        table = Table(np.arange(n_rows), np.zeros(n_rows, dtype=np.int64), {}, flat, (), dict(array.attrs))
        return _checked(schema, name, table)
    along: dict[str, list[Any]] = {}  # dim of the model -> dims of the array that its coordinate lies along
    labels: dict[str, xr.Variable] = {}
    attrs: dict[str, dict[str, Any]] = {}
    component = xr.Variable((), np.int64(0))
    for dim in variable.dims:
        found = schema.dim(dim)
        # membership first: .get on a dim without coordinate answers 0, 1, 2, ...
        c = next((array.coords[k] for k in (f"{dim}_{name}", dim) if k in array.coords), None)
        if isinstance(found, (Components, Axis)):
            if dim not in rest or sizes[dim] != found.size:
                raise ValueError(f"{name!r}: expected a dim {dim!r} of size {found.size}, got {dict(sizes)}.")
            places = xr.Variable((dim,), np.arange(found.size))
            component = places if isinstance(found, Components) else component
            labels[dim] = places if c is None or c.dims != (dim,) else xr.Variable((dim,), c.to_numpy())
            along[dim], attrs[dim] = [dim], {} if c is None else dict(c.attrs)
            continue
        if c is None and dim in rest:
            raise ValueError(f"{name!r}: dim {dim!r} has no coordinate; give it one with .assign_coords({dim}=...).")
        if c is None:
            raise ValueError(f"{name!r}: expected a dim {dim!r}, or a coordinate {dim!r} or '{dim}_{name}', {came}.")
        labels[dim] = xr.Variable(c.dims, read_labels(f"{name!r}, coordinate {str(c.name)!r}", c))
        along[dim], attrs[dim] = [d for d in c.dims if d != batch_dim], dict(c.attrs)
    covered = [d for dims in along.values() for d in dims]
    if extra := [str(d) for d in rest if d not in covered]:
        raise ValueError(f"{name!r}: expected dims {variable.dims}, {came}; nothing is known of {extra}. {hint}")
    gridded = len(set(covered)) == len(covered) and all(len(dims) <= 1 for dims in along.values())
    order = covered if gridded else rest
    shape = tuple(sizes[dims[0]] if dims else 1 for dims in along.values()) if gridded else None

    def flat_of(v: xr.Variable) -> np.ndarray:
        return _spread(v, order, batch_dim, sizes, n_rows)

    flat = flat_of(value)
    row = np.repeat(np.arange(n_rows), flat.size // n_rows)
    table = Table(
        row, flat_of(component), {d: flat_of(v) for d, v in labels.items()}, flat, shape, dict(array.attrs), attrs
    )
    if batch_dim is not None:  # padding of ragged data sets: neither a place nor a value
        gaps = np.any(
            [missing(table.labels[d]) for d in schema.index_dims(name)] or [np.zeros(flat.size, bool)], axis=0
        )
        gaps &= np.isnan(flat)
        table = table.take(~gaps) if gaps.any() else table
    return _checked(schema, name, table)


def _from_frame(
    schema: Schema, frame: pd.DataFrame, batch_dim: str | None
) -> tuple[dict[str, Table], xr.DataArray | None]:
    """Long form: a row a reading, in the order in which they stand. Several rows at one point are several readings."""
    indexed = any(n is not None for n in frame.index.names)
    every = [*(n for n in frame.index.names if n is not None), *frame.columns]
    if twice := sorted({str(n) for n in every if every.count(n) > 1}):
        raise ValueError(f"Frame: the columns {twice} come twice, among {list(map(str, every))}.")
    if indexed:
        frame = frame.reset_index()
    known = {"variable", "value", *(d.name for d in schema.dims)} | ({batch_dim} if batch_dim else set())
    columns, dims = list(map(str, frame.columns)), [batch_dim, *(d.name for d in schema.dims)]
    names = [d for d in dims if d in columns]
    for column in ("variable", "value", *([batch_dim] if batch_dim else [])):
        if column not in columns:
            raise ValueError(
                f"Frame: expected columns 'variable', 'value' and one a dim (long form), got {columns}: no {column!r}. "
                f"A wide frame, a column a variable, becomes a Dataset by "
                f"{'' if indexed else f'.set_index({names})'}.to_xarray()."
            )
    if extra := [c for c in columns if c not in known]:
        raise ValueError(f"Frame: unknown columns {extra}. Known: {sorted(known)}. For many data sets pass batch_dim=.")
    if not len(frame):
        raise ValueError("Frame: it has length zero; pass None for the prior.")
    row, labels = np.zeros(len(frame), dtype=np.int64), None
    if batch_dim is not None:
        row, unique = pd.factorize(frame[batch_dim])
        if (row < 0).any():
            at = f"the first in row {int(np.argmax(row < 0))}; expected a label in every row, and none that reads as NA"
            raise ValueError(f"Frame: column {batch_dim!r} has gaps, {at}.")
        labels = xr.DataArray(np.asarray(unique), dims=batch_dim, coords={batch_dim: np.asarray(unique)})
    if frame["variable"].isna().any():
        raise ValueError("Frame: column 'variable' has gaps.")
    owner = frame["variable"].astype(str).to_numpy()
    _known(schema, dict.fromkeys(owner.tolist()))
    tables = {}
    for name in (n for n in schema.names if n in set(owner)):
        part = np.flatnonzero(owner == name)
        part = part[np.argsort(row[part], kind="stable")]  # data sets together, readings in their order
        tables[name] = _from_rows(schema, name, frame.iloc[part], row[part])
    return tables, labels


def _from_rows(schema: Schema, name: str, rows: pd.DataFrame, row: np.ndarray) -> Table:
    dims, found = schema[name].dims, {}
    if name in schema.arrays:
        raise ValueError(f"{name!r} is an array of dims {dims}; pass it as a DataArray, not in the rows of a frame.")
    for dim in (d.name for d in schema.dims):
        given = dim in rows.columns and not rows[dim].isna().all()
        if dim in dims and not given:
            raise ValueError(
                f"{name!r}: expected a column {dim!r} that says where each value lies; it is absent or empty."
            )
        if dim not in dims and given:
            raise ValueError(f"{name!r} has dims {dims}: leave column {dim!r} empty in its rows.")
        if given:
            read = read_labels if isinstance(schema.dim(dim), Index) else read_numbers
            found[dim] = read(f"{name!r}, column {dim!r}", rows[dim])
    component = np.zeros(len(rows), dtype=np.int64)
    if (c_dim := schema.component_dim(name)) is not None:
        n, positions = schema.n_components(name), found[c_dim]
        if not (sound := np.isin(positions, np.arange(n))).all():
            raise ValueError(
                f"{name!r}, column {c_dim!r}: expected positions 0 to {n - 1}, got {positions[~sound][0]:g}."
            )
        component = found[c_dim] = positions.astype(np.int64)
    table = Table(row, component, {d: found[d] for d in dims}, read_numbers(repr(name), rows["value"]))
    if not schema.is_function(name):
        key = row * schema.n_components(name) + component
        if len(np.unique(key)) < len(key):
            raise ValueError(f"{name!r} has dims {dims}: expected one value each, got {len(key)} rows.")
    return _checked(schema, name, table)


def _checked(schema: Schema, name: str, table: Table) -> Table:
    for dim in schema.index_dims(name):
        _check_labels(f"{name!r}, coordinate {dim!r}", table.labels[dim])
    value, support = table.value, schema[name].support
    if n := int(np.isinf(value).sum()):
        raise ValueError(f"{name!r}: {n} of {value.size} values are infinite; mark missing readings NaN.")
    wrong = np.isfinite(value) & ~support.contains(value)
    if wrong.any():
        zeros = support.lower == 0 and bool((value[wrong] == 0).all())
        hint = "; a positive variable is never 0: for a counted zero give half of the smallest count" if zeros else ""
        raise ValueError(
            f"{name!r}: {int(wrong.sum())} of {value.size} values lie outside its support {support}, the first is "
            f"{value[wrong][0]:g}; mark missing readings NaN{hint}."
        )
    if name in schema.arrays:
        _check_whole(schema, name, table)
    return table


def _check_whole(schema: Schema, name: str, table: Table) -> None:
    """Every data set has the array with all its values, or not at all."""
    n = np.isnan(table.value).reshape(-1, int(np.prod(schema.arrays[name]))).sum(1)
    size = table.value.size // len(n)
    if (partly := n[(n > 0) & (n < size)]).size:
        raise ValueError(
            f"{name!r}: {partly[0]} of {size} values are NaN, and an array is observed as a whole or absent. Fill its "
            "gaps (.interpolate_na), make all of it NaN, or train with an Index dim instead, where readings may miss."
        )


def _check_labels(where: str, labels: np.ndarray) -> None:
    if n := int(missing(labels).sum()):
        raise ValueError(f"{where}: {n} of {labels.size} places are NaN, NaT or infinite; every reading needs a place.")
