"""The user's data → tokens. With points, tables, query and tree the only place where NaN and dates mean anything.

A finite value is an observed token. A NaN, or a new coordinate, that `at` asks for is a latent token. Any other NaN,
and a variable that is absent, is no token (design.md §1).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.numeric import read_numbers
from fsimformer.points import (
    Channel,
    Observation,
    ObservationWarning,
    Points,
    Query,
    earliest,
    elapsed,
    kind,
    warn_outside,
    warn_units,
)
from fsimformer.query import query
from fsimformer.schema import Index, Schema
from fsimformer.tables import Table, read_tables
from fsimformer.tokens import TokenSet
from fsimformer.tree import resampled, to_tree, to_tree_many
from fsimformer.units import read_date
from fsimformer.whiten import Whitening

_RISES = 10  # without a fall: of 3,000 simulations of `epidemic` at most 1 in 100, however many days are known
_CHANCE = 0.05  # of many data sets so large a share is told; single ones among them may grow

__all__ = [
    "Observation",
    "ObservationWarning",
    "Query",
    "drawn_query",
    "drawn_values",
    "is_parameter",
    "is_residual",
    "observed_points",
    "observed_tokens",
    "query",
    "query_tokens",
    "read",
    "read_many",
    "resampled",
    "to_tree",
    "to_tree_many",
]


def read(schema: Schema, observed: Any, *, origin: Any = None) -> Observation:
    """Read one data set.

    Args:
        schema: the model's variables.
        observed: Dataset, named DataArray, mapping of name -> DataArray (or a number, or the values of a vector),
            pandas frame in long form (columns `variable`, `value` and one a dim), or None. A function of the index
            `time` lies on a coordinate called `time` or `time_<variable>`, along whatever dim; of several indexes, on
            their grid or pointwise along one dim. The labels 0 to n − 1 of a vector's components are their numbers;
            others are names, in the order of the components.
        origin: date that index 0 stands for; else the index's own; else the earliest date that came in, be the reading
            there missing or not.

    Raises:
        KeyError: a variable that the schema does not know.
        ValueError: dims, dtypes, coordinates or values that do not fit; the message says what was expected.

    Warns:
        ObservationWarning: no finite value (what follows is the prior), or readings outside the trained range.
    """
    tables, held, _ = read_tables(schema, observed, None)
    (out,) = _cut(schema, tables, held, 1, origin)
    if observed is not None and out.n_observed == 0:
        warnings.warn("The observation holds no finite value: what follows is the prior.", ObservationWarning, 3)
    _warn_counts(schema, tables, [""])
    return out


def read_many(
    schema: Schema, observed: Any, batch_dim: str, *, origin: Any = None
) -> tuple[xr.DataArray, list[Observation]]:
    """Read many ragged data sets, one a label of `batch_dim` (a dim of the Dataset, or a column of the frame).

    A variable without this dim belongs to every data set. Padding (neither coordinate nor value) is left out.

    Returns:
        The labels, a DataArray along `batch_dim`, and an `Observation` for each. Dates count from the origin of each.

    Raises:
        KeyError, ValueError: as `read`; and where nothing has the dim `batch_dim`.
    """
    if not isinstance(batch_dim, str):
        raise ValueError(f"batch_dim: expected the name of a dim or column, got {batch_dim!r}.")
    if batch_dim in {*schema.names, *(d.name for d in schema.dims)}:
        raise ValueError(f"batch_dim={batch_dim!r} is a name of the model's own; rename the dim of your data sets.")
    tables, held, labels = read_tables(schema, observed, batch_dim)
    assert labels is not None
    out = _cut(schema, tables, held, labels.size, origin)
    if empty := [str(label) for label, o in zip(labels.values, out, strict=True) if o.n_observed == 0]:
        some = ", ".join(empty[:5]) + (", ..." if len(empty) > 5 else "")
        text = (
            f"{len(empty)} of {len(out)} data sets hold no finite value ({batch_dim}: {some}): the prior follows there."
        )
        warnings.warn(text, ObservationWarning, 3)
    _warn_counts(schema, tables, [str(label) for label in labels.values])
    return labels, out


def _warn_counts(schema: Schema, tables: Mapping[str, Table], labels: Sequence[str]) -> None:
    """Rates, or sums that somebody has spread over days, read as counts tell more than they know; totals less."""
    for name, table in tables.items():
        noise, x = schema[name].noise, table.value[np.isfinite(table.value)]
        if noise is None or noise.kind != "negbinomial":
            continue
        if n := int((x % 1 != 0).sum()):
            first = x[x % 1 != 0][0]
            text = (
                f"{name!r}: {n} of {len(x)} values are no whole numbers, such as {first:g}; expected counts, new ones "
                "a reading, not rates, averages or shares."
            )
            warnings.warn(text, ObservationWarning, 4)
        rising = _never_falling(schema, name, table)
        if len(rising) > _CHANCE * len(labels):
            some = ", ".join(labels[r] for r in rising[:5]) + (", …" if len(rising) > 5 else "")
            where = f" in {len(rising)} of {len(labels)} data sets ({some})" if len(labels) > 1 else ""
            text = (
                f"{name!r} never falls{where}. Are these totals so far? Expected counts, new ones a reading: the steps "
                "of totals, of each data set by itself."
            )
            warnings.warn(text, ObservationWarning, 4)


def _never_falling(schema: Schema, name: str, table: Table) -> list[int]:
    """Data sets in which a series of counts rises `_RISES` times and never falls."""
    if len(dims := schema.index_dims(name)) != 1:
        return []
    known = np.isfinite(table.value)
    row, component, value = table.row[known], table.component[known], table.value[known]
    order = np.lexsort((table.labels[dims[0]][known], component, row))
    row, component, value = row[order], component[order], value[order]
    out, ends = dict[int, None](), np.flatnonzero(np.diff(row) | np.diff(component)) + 1
    for rows, part in zip(np.split(row, ends), np.split(value, ends), strict=True):
        steps = np.diff(part)
        if int((steps > 0).sum()) >= _RISES and not bool((steps < 0).any()):
            out[int(rows[0])] = None
    return list(out)


def _cut(
    schema: Schema, tables: Mapping[str, Table], held: Mapping[str, Table], n: int, origin: Any
) -> list[Observation]:
    """One `Observation` a data set; labels become index units, dates counted from the data set's own origin."""
    fixed: dict[str, Any] = {}
    for index in schema.indexes:
        _check_kinds(index, tables, held)
        given = index.origin if origin is None else origin
        fixed[index.name] = None if given is None else read_date(f"origin of {index.name!r}", given)
    edges = {
        k: np.searchsorted(t.row, np.arange(n + 1)) for k, t in {**tables, **held}.items()
    }  # no name is used twice
    out = []
    for r in range(n):
        at = {k: slice(int(e[r]), int(e[r + 1])) for k, e in edges.items() if e[r] < e[r + 1]}
        origins = {d: _first_date(d, tables, held, at) if o is None else o for d, o in fixed.items()}
        channels = {
            k: Channel(_points(schema, repr(k), schema[k].dims, t, at[k], origins), t.value[at[k]], t.attrs)
            for k, t in tables.items()
            if k in at
        }
        besides = {
            d: _points(schema, f"coordinate {d!r}", tuple(t.labels), t, at[d], origins)
            for d, t in held.items()
            if d in at
        }
        implied = frozenset(d for d, date in origins.items() if date is not None and fixed[d] is None)
        out.append(Observation(channels, besides, origins, implied))
    for name in tables:
        if schema.is_function(name):
            seen = [c.points.take(np.isfinite(c.value)) for o in out if (c := o.channels.get(name)) is not None]
            warn_outside(schema, name, "readings", seen, out[0].origins, out[0].implied, 4)
    return out


def _check_kinds(index: Index, tables: Mapping[str, Table], held: Mapping[str, Table]) -> None:
    every = {**tables, **{f"coordinate {d!r}": t for d, t in held.items()}}
    kinds = {
        k: kind(t.labels[index.name], t.label_attrs.get(index.name, {}))
        for k, t in every.items()
        if index.name in t.labels
    }
    if len(set(kinds.values())) > 1:
        raise ValueError(f"Index {index.name!r}: expected coordinates of one kind, got {kinds}.")
    stated = {str(t.label_attrs.get(index.name, {}).get("units", "")): t for k, t in every.items() if k in kinds}
    for t in stated.values():
        warn_units(index, t.labels[index.name], t.label_attrs.get(index.name, {}), 5)


def _first_date(dim: str, tables: Mapping[str, Table], held: Mapping[str, Table], at: Mapping[str, slice]) -> Any:
    """The earliest date among the readings, else among the coordinates held besides."""
    for some in (tables, held):
        dates = [
            earliest(repr(k), t.labels[dim][at[k]], t.label_attrs.get(dim, {}))
            for k, t in some.items()
            if k in at and dim in t.labels
        ]
        if any(d is not None for d in dates):
            return min(d for d in dates if d is not None)
    return None


def _points(
    schema: Schema, where: str, dims: tuple[str, ...], table: Table, at: slice, origins: Mapping[str, Any]
) -> Points:
    labels = {d: v[at] for d, v in table.labels.items()}
    component = table.component[at]
    columns = [
        elapsed(where, index, labels[d], table.label_attrs.get(d, {}), origins[d])
        for d in dims
        if isinstance(index := schema.dim(d), Index)
    ]
    n = len(component)
    index_values = np.stack(columns, axis=1) if columns else np.zeros((n, 0))
    whole = table.shape is not None and int(np.prod(table.shape)) == n
    shape = table.shape if whole else (n,) if len(dims) == 1 else None
    return Points(component, index_values, labels, shape, table.label_attrs)


def observed_points(channel: Channel) -> tuple[np.ndarray, np.ndarray]:
    """Index (n,) in its units and values (n,) of the finite readings of a series on one index dim."""
    finite = np.isfinite(channel.value)
    return channel.points.index[finite, 0], channel.value[finite]


def observed_tokens(schema: Schema, whitening: Whitening, observation: Observation) -> TokenSet:
    """The finite readings as observed tokens, whitened in float64; float32 out. Arrays lie beside their tokens.

    Raises:
        ValueError: a value so near the end of its support that its whitened value is infinite.
    """
    variable, index, value = [], [], []
    arrays: dict[range, Tensor] = {}
    for name, channel in observation.channels.items():
        finite = np.isfinite(channel.value)
        x = torch.from_numpy(channel.value[finite])
        z = whitening.forward(name, x, channel.points.component[finite]).to(torch.float32)
        if not bool(torch.isfinite(z).all()):
            wrong = float(x[~torch.isfinite(z)][0])
            raise ValueError(f"{name!r}: {wrong!r} lies too near the end of its support {schema[name].support}.")
        if name in schema.arrays:
            own = np.array(schema.ids(name) if len(z) else [], dtype=np.int64)  # all of it, or nothing
            variable.append(own)
            index.append(np.zeros((len(own), len(schema.indexes)), dtype=np.float32))
            value.append(torch.zeros(len(own)))
            arrays |= {schema.ids(name): z.view(schema.arrays[name])} if len(z) else {}
            continue
        ids, places = _places(schema, name, channel.points)
        variable.append(ids[finite])
        index.append(places[finite])
        value.append(z)
    return replace(_token_set(schema, variable, index, value, condition=True), arrays=arrays)


def query_tokens(schema: Schema, query: Query) -> TokenSet:
    """The latents asked for, in the order of the query; value 0."""
    places = [_places(schema, name, points) for name, points in query.points.items()]
    value = [torch.zeros(len(p)) for p in query.points.values()]
    return _token_set(schema, [p[0] for p in places], [p[1] for p in places], value, condition=False)


def drawn_query(schema: Schema, observation: Observation, group: xr.Dataset) -> Query:
    """The query that a group of draws answers, its variables at the points where the group holds them.

    Raises:
        KeyError: a variable that is none of the model's.
        ValueError: an unobserved scalar or vector parameter is missing.
    """
    at: dict[str, Any] = {}
    for name, draws in group.data_vars.items():
        if name in schema and schema.is_function(str(name)):
            columns = {d: draws.coords[d if d in draws.coords else f"{d}_{name}"] for d in schema.index_dims(str(name))}
            at[str(name)] = columns if len(columns) > 1 else next(iter(columns.values()))
        else:
            at[str(name)] = None
    out = query(schema, observation, at)
    if lacking := [name for name in out.points if name not in group]:
        raise ValueError(f"The draws lack {lacking}: expected every parameter that was not observed.")
    return out


def drawn_values(schema: Schema, whitening: Whitening, query: Query, group: xr.Dataset) -> tuple[Tensor, Tensor]:
    """Whitened draws (n, len(query)) in the query's order, and Σ log |dx/dz| (n,); float64.

    Raises:
        ValueError: a variable of another size than asked, text in place of numbers, or a value off its support.
    """
    columns, log_det = [], torch.zeros(())
    for name, points in query.points.items():
        own = [next((a for a in (d, f"{d}_{name}") if a in group[name].dims), None) for d in schema[name].dims]
        dims = ["chain", "draw", *(d for d in own if d is not None), ...]  # `point` stays where it is
        x = read_numbers(repr(name), group[name].transpose(*dims))
        if x[0, 0].size != len(points):
            raise ValueError(f"{name!r}: expected {len(points)} values a draw, got {x[0, 0].size}.")
        z = whitening.forward(name, torch.from_numpy(x.reshape(-1, len(points))), points.component)
        if not bool(torch.isfinite(z).all()):
            support = schema[name].support
            raise ValueError(f"{name!r}: some draws are NaN, or lie at or off an end of their support, {support}.")
        columns.append(z)
        log_det = log_det + whitening.log_det(name, z, points.component).sum(1)
    return torch.cat(columns, 1), log_det


def is_parameter(schema: Schema) -> Tensor:
    """(n_ids,) bool: ids of variables whose role is "parameter"."""
    out = torch.zeros(schema.n_ids, dtype=torch.bool)
    for v in schema.variables:
        out[list(schema.ids(v.name))] = v.role == "parameter"
    return out


def is_residual(schema: Schema) -> Tensor:
    """(n_ids,) bool: ids of what lies between the knots of reference sets."""
    out = torch.zeros(schema.n_ids, dtype=torch.bool)
    for name in schema.references:
        out[list(schema.residual_ids(name))] = True
    return out


def _places(schema: Schema, name: str, points: Points) -> tuple[np.ndarray, np.ndarray]:
    """Token ids (n,) and index (n, D) scaled to [−1, 1] over the trained range; 0 on dims that the variable lacks."""
    scaled = np.zeros((len(points), len(schema.indexes)), dtype=np.float32)
    column = {d.name: j for j, d in enumerate(schema.indexes)}
    for j, d in enumerate(schema.index_dims(name)):
        dim = schema.dim(d)
        assert isinstance(dim, Index)
        scaled[:, column[d]] = dim.scaled(points.index[:, j])
    return schema.ids(name)[0] + points.component, scaled


def _token_set(
    schema: Schema, variable: list[np.ndarray], index: list[np.ndarray], value: list[Tensor], condition: bool
) -> TokenSet:
    ids = np.concatenate([*variable, np.zeros(0, dtype=np.int64)])
    places = np.concatenate([*index, np.zeros((0, len(schema.indexes)), dtype=np.float32)])
    return TokenSet(
        torch.from_numpy(ids),
        torch.from_numpy(places),
        torch.cat([*value, torch.zeros(0)]),
        torch.full((len(ids),), condition),
    )
