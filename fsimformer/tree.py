"""The way home: whitened draws → a plain `xarray.DataTree` that ArviZ takes as it is.

Groups: `posterior` (parameters; `prior` where nothing was observed), `posterior_predictive` (data where a finite value
was observed), `predictions` (data anywhere else), `observed_data` (missing readings dropped), `constant_data` (the
index of each channel as the variable `t_<channel>`), `sample_stats`. Dims: `chain` (2), `draw`, the batch dim, the
variable's own.

Where all variables of a group stand at the same points of a dim, its coordinate keeps the plain name (`time`); else
each has its own, `time_<variable>`. In `observed_data` and `posterior_predictive` each always has its own: ArviZ's
predictive checks want the same dims in both, whatever else was observed or asked. Points of several index dims that are
no grid lie along `point`; data sets of a batch that differ in their points along `point_<variable>`, padded, with
coordinates `time_<variable>` (batch, point).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr

from fsimformer.groups import GROUPS
from fsimformer.points import Observation, Points, Query
from fsimformer.schema import Index, Schema
from fsimformer.whiten import Whitening

_POINT = "point"


@dataclass
class _Entry:
    """One variable of a group: for each data set its points and values (..., n), None where it has none."""

    points: list[Points | None]
    values: list[np.ndarray | None]
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Layout:
    """Where the values of one variable lie: sizes and coordinates by plain dim name; `ragged`: coordinates have the
    batch dim in front. Coordinates are (dims, labels, attrs)."""

    sizes: dict[str, int]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]
    ragged: bool


def to_tree(
    schema: Schema,
    whitening: Whitening,
    observation: Observation,
    query: Query,
    z: torch.Tensor | np.ndarray,
    stats: Mapping[str, Any],
) -> xr.DataTree:
    """Draws of one data set on the original scale.

    Args:
        schema: the model's variables.
        whitening: the model's transforms.
        observation: what was conditioned on.
        query: what was sampled.
        z: (n_draws, len(query)) whitened draws in the query's order; n_draws even, the first half becomes chain 0.
        stats: for `sample_stats`: a scalar (number or text), or (n_draws,) values.

    Raises:
        ValueError: a shape that does not fit.
    """
    n_draws = _n_draws([query], [z])
    groups = _draw_groups(schema, whitening, [observation], [query], [z], None)
    rows = {k: np.asarray(v) for k, v in stats.items()}
    sample_stats = {}
    for k, v in rows.items():
        if v.shape not in ((), (n_draws,)):
            raise ValueError(f"stats {k!r}: expected a scalar or shape ({n_draws},), got {v.shape}.")
        sample_stats[k] = (("chain", "draw"), v.reshape(2, -1)) if v.ndim else ((), v)
    return _assemble(groups, sample_stats, n_draws, None)


def to_tree_many(
    schema: Schema,
    whitening: Whitening,
    labels: xr.DataArray | Sequence[Any],
    batch_dim: str,
    observations: Sequence[Observation],
    queries: Sequence[Query],
    zs: Sequence[torch.Tensor | np.ndarray],
    stats: Mapping[str, Any],
) -> xr.DataTree:
    """Draws of many data sets, along `batch_dim` after `chain` and `draw`; what a data set lacks is NaN.

    Args:
        labels: (n_sets,) coordinate of `batch_dim`.
        zs: for each data set (n_draws, len(its query)).
        stats: for `sample_stats`: a scalar, (n_sets,), or (n_sets, n_draws) values.
        (the others as in `to_tree`, one a data set)

    Raises:
        ValueError: lengths or shapes that do not fit.
    """
    n = len(labels)
    if not n == len(observations) == len(queries) == len(zs):
        raise ValueError(
            f"to_tree_many: {n} labels, {len(observations)} observations, {len(queries)} queries, {len(zs)} zs."
        )
    n_draws = _n_draws(queries, zs)
    plain = labels.variable if isinstance(labels, xr.DataArray) else np.asarray(labels)
    batch = xr.DataArray(plain, dims=batch_dim, coords={batch_dim: (batch_dim, np.asarray(plain))})
    if isinstance(labels, xr.DataArray):
        batch = labels.rename(batch_dim)
    groups = _draw_groups(schema, whitening, observations, queries, zs, batch)
    sample_stats = {}
    for k, v in {k: np.asarray(v) for k, v in stats.items()}.items():
        if v.shape not in ((), (n,), (n, n_draws)):
            raise ValueError(f"stats {k!r}: expected a scalar or shape ({n},) or ({n}, {n_draws}), got {v.shape}.")
        dims = ((), (batch_dim,), ("chain", "draw", batch_dim))[v.ndim]
        sample_stats[k] = (dims, v if v.ndim < 2 else v.T.reshape(2, -1, n))
    return _assemble(groups, sample_stats, n_draws, batch)


def to_dataset(schema: Schema, whitening: Whitening, query: Query, z: torch.Tensor) -> xr.Dataset:
    """Everything that a query asked for in one Dataset, whatever its role, from whitened draws (n, len(query)); n even.

    A dim on which variables stand at different points is each one's own, `time_<variable>`.
    """
    entries, first = dict[str, _Entry](), 0
    for name, points in query.points.items():
        own = z[:, first : first + len(points)].double()
        x = whitening.readings(schema[name], own, points.component).numpy().reshape(2, -1, len(points))
        entries[name] = _Entry([points], [x])
        first += len(points)
    return _group(schema, entries, ("chain", "draw"), None, own=False)


def drawn_rows(
    schema: Schema,
    whitening: Whitening,
    queries: Sequence[Query],
    zs: Sequence[torch.Tensor | np.ndarray],
    whole: xr.DataTree,
    batch_dim: str,
) -> dict[str, dict[str, xr.Variable]]:
    """Draws of some data sets, laid out as those of all are in a tree of `to_tree_many`: by group and variable.

    Args:
        queries, zs: of the data sets that are wanted.
        whole: a tree of all of them; its values are not read.
        batch_dim: its dim of data sets.
    """
    n, parameters = len(queries), "prior" if "prior" in whole.children else "posterior"
    flat: dict[str, dict[str, np.ndarray]] = {}
    for group in (g for g in GROUPS if g in whole.children):
        for name, v in whole[group].data_vars.items():
            size = int(np.prod(v.shape[3:]))
            flat.setdefault(group, {})[str(name)] = np.full((2, v.sizes["draw"], n, size), np.nan)
    for r, (query, z) in enumerate(zip(queries, zs, strict=True)):
        for group, name, _, x in _parts(schema, whitening, query, z, parameters):
            flat[group][name][:, :, r, : x.shape[-1]] = x
    out: dict[str, dict[str, xr.Variable]] = {}
    for group, own in flat.items():
        for name, x in own.items():
            v = whole[group].data_vars[name]
            assert v.dims[:3] == ("chain", "draw", batch_dim)
            out.setdefault(group, {})[name] = xr.Variable(v.dims, x.reshape(*x.shape[:3], *v.shape[3:]))
    return out


def resampled(tree: xr.DataTree, chosen: np.ndarray, stats: Mapping[str, Any]) -> xr.DataTree:
    """The tree with the chosen draws in the place of its own, in every group; `stats` joins `sample_stats`.

    Args:
        chosen: (n,) positions among the draws, chain after chain; n even, the first half becomes chain 0.
    """
    out = {}
    for name, node in tree.children.items():
        data = node.to_dataset()
        if {"chain", "draw"} <= set(data.dims):
            pairs = np.unravel_index(chosen, (data.sizes["chain"], data.sizes["draw"]))
            at = {d: xr.DataArray(i.reshape(2, -1), dims=("chain", "draw")) for d, i in zip(("chain", "draw"), pairs)}
            data = data.isel(at).assign_coords(chain=np.arange(2), draw=np.arange(len(chosen) // 2))
        out[f"/{name}"] = data
    out["/sample_stats"] = out.get("/sample_stats", xr.Dataset()).assign(stats)
    new = xr.DataTree.from_dict(out)
    new.attrs = dict(tree.attrs)
    return new


def without_padding(group: xr.Dataset) -> xr.Dataset:
    """The group of one data set that was cut out of a batch: without what it lacks, and without ragged ends."""
    out = group.drop_vars([name for name, v in group.data_vars.items() if v.size and bool(v.isnull().all())])
    for name, v in out.data_vars.items():
        dim = f"{_POINT}_{name}"
        if dim in v.dims:
            out = out.isel({dim: v.notnull().any([d for d in v.dims if d != dim]).to_numpy()})
    return out


def _n_draws(queries: Sequence[Query], zs: Sequence[Any]) -> int:
    counts = {len(z) for z in zs}
    if len(counts) != 1 or (n_draws := counts.pop()) % 2:
        raise ValueError(
            f"z: expected one even number of draws (they become two chains), got {sorted({len(z) for z in zs})}."
        )
    for query, z in zip(queries, zs, strict=True):
        if tuple(z.shape) != (n_draws, len(query)):
            raise ValueError(f"z: expected shape ({n_draws}, {len(query)}), got {tuple(z.shape)}.")
    return n_draws


def _assemble(
    groups: dict[str, xr.Dataset], stats: dict[str, Any], n_draws: int, batch: xr.DataArray | None
) -> xr.DataTree:
    if stats:
        groups["sample_stats"] = xr.Dataset(stats)
    for name, group in groups.items():
        if "draw" in group.dims:
            groups[name] = group = group.assign_coords(chain=np.arange(2), draw=np.arange(n_draws // 2))
        if batch is not None and batch.dims[0] in group.dims and batch.name in batch.coords:
            groups[name] = group.assign_coords({batch.dims[0]: batch.coords[batch.name].variable})
    return xr.DataTree.from_dict({f"/{name}": group for name, group in groups.items()})


def _draw_groups(
    schema: Schema,
    whitening: Whitening,
    observations: Sequence[Observation],
    queries: Sequence[Query],
    zs: Sequence[Any],
    batch: xr.DataArray | None,
) -> dict[str, xr.Dataset]:
    parameters = "posterior" if any(o.n_observed for o in observations) else "prior"
    entries: dict[str, dict[str, _Entry]] = {parameters: {}, "posterior_predictive": {}, "predictions": {}}
    observed: dict[str, _Entry] = {}
    n = len(observations)

    def entry(group: dict[str, _Entry], name: str) -> _Entry:
        attrs = next((o.channels[name].attrs for o in observations if name in o.channels), {})
        return group.setdefault(name, _Entry([None] * n, [None] * n, attrs))

    for r, (observation, query, z) in enumerate(zip(observations, queries, zs, strict=True)):
        for group, name, points, x in _parts(schema, whitening, query, z, parameters):
            e = entry(entries[group], name)
            e.points[r], e.values[r] = points, x
        for name, channel in observation.channels.items():
            finite = np.isfinite(channel.value)
            if finite.any():
                e = entry(observed, name)
                whole = name in schema.arrays  # a grid stays one
                e.points[r] = channel.points if whole else channel.points.take(finite)
                e.values[r] = channel.value[finite]
    lead = ("chain", "draw")
    groups = {k: _group(schema, v, lead, batch, own=k == "posterior_predictive") for k, v in entries.items() if v}
    if observed:
        groups["observed_data"] = _group(schema, observed, (), batch, own=True)
        if constant := _indexes(schema, groups["observed_data"]):
            groups["constant_data"] = xr.Dataset(constant)
    return groups


def _parts(
    schema: Schema, whitening: Whitening, query: Query, z: torch.Tensor | np.ndarray, parameters: str
) -> Iterator[tuple[str, str, Points, np.ndarray]]:
    """Group, variable, points and values (2, n_draws/2, n) of one data set's draws; `parameters`: their group."""
    first, draws = 0, torch.as_tensor(z).detach().to("cpu", torch.float64)
    for name, points in query.points.items():
        own = draws[:, first : first + len(points)]
        x = whitening.readings(schema[name], own, points.component).numpy().reshape(2, -1, len(points))
        first += len(points)
        again = query.replicate[name]
        if schema[name].role == "parameter":
            yield parameters, name, points, x
            continue
        for group, which in (("posterior_predictive", again), ("predictions", ~again)):
            if which.all():
                yield group, name, points, x
            elif which.any():
                yield group, name, points.take(which), x[..., which]


def _indexes(schema: Schema, observed: xr.Dataset) -> dict[str, xr.DataArray]:
    """`t_<channel>` of each channel; `t_<dim>_<channel>` where it has several index dims."""
    out = {}
    for name in map(str, observed.data_vars):
        dims = schema.index_dims(name)
        for d in dims:
            coord = observed[f"{d}_{name}"]
            values = xr.DataArray(coord.to_numpy(), dims=coord.dims, attrs=coord.attrs)
            own = {str(k): v.variable for k, v in coord.coords.items()}
            out[f"t_{name}" if len(dims) == 1 else f"t_{d}_{name}"] = values.assign_coords(own)
    return out


def _group(
    schema: Schema, entries: dict[str, _Entry], lead: tuple[str, ...], batch: xr.DataArray | None, own: bool
) -> xr.Dataset:
    """A Dataset of the variables; `own`: index coordinates carry the variable's name though they could be shared."""
    layouts = {name: _layout(e) for name, e in entries.items()}
    users: dict[str, set[Any]] = {}
    for name, layout in layouts.items():
        for d in {*layout.sizes, *layout.coords}:
            users.setdefault(d, set()).add(_signature(name, layout, d))
    data, coords = {}, {}
    batch_dims = () if batch is None else tuple(map(str, batch.dims))
    for name, layout in layouts.items():
        rename = {}
        for d in {*layout.sizes, *layout.coords}:
            continuous = d == _POINT or isinstance(schema.dim(d), Index)
            alone = layout.ragged or len(users[d]) > 1 or (own and continuous)
            rename[d] = f"{d}_{name}" if alone else d
        e = entries[name]
        dims = (*lead, *batch_dims, *(rename[d] for d in layout.sizes))
        data[name] = xr.Variable(dims, _values(e, layout, batch is not None), dict(e.attrs))
        for d, (along, labels, attrs) in layout.coords.items():
            front = batch_dims if layout.ragged else ()
            coords[rename[d]] = xr.Variable((*front, *(rename[a] for a in along)), labels, dict(attrs))
    return xr.Dataset(data, coords=coords)


def _layout(e: _Entry) -> _Layout:
    given = [p for p in e.points if p is not None]
    first = given[0]
    coords: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]] = {}
    if all(p is first or _equal(p, first) for p in given[1:]):
        if first.shape is None:
            n = len(first)
            coords = {d: ((_POINT,), v, first.attrs.get(d, {})) for d, v in first.labels.items()}
            return _Layout({_POINT: n}, coords, ragged=False)
        sizes = dict(zip(first.labels, first.shape, strict=True))
        for j, (d, v) in enumerate(first.labels.items()):
            axis = np.moveaxis(v.reshape(first.shape), j, 0).reshape(first.shape[j], -1)[:, 0]
            coords[d] = ((d,), axis, first.attrs.get(d, {}))
        return _Layout(sizes, coords, ragged=False)
    n = max(len(p) for p in given)
    for d in first.labels:
        padded = _pad([None if p is None else p.labels[d] for p in e.points], n)
        coords[d] = ((_POINT,), padded, first.attrs.get(d, {}))
    return _Layout({_POINT: n}, coords, ragged=True)


def _equal(a: Points, b: Points) -> bool:
    same = a.shape == b.shape and len(a) == len(b) and np.array_equal(a.component, b.component)
    return same and all(a.labels[d].dtype == v.dtype and np.array_equal(a.labels[d], v) for d, v in b.labels.items())


def _signature(name: str, layout: _Layout, dim: str) -> Any:
    """Equal for two variables exactly where they can share the dim and its coordinate."""
    if layout.ragged:
        return name
    dims = layout.coords if _POINT in layout.sizes else {dim: layout.coords[dim]}
    return tuple(
        (d, along, labels.dtype.str, labels.tobytes() if labels.dtype != object else tuple(labels), repr(attrs))
        for d, (along, labels, attrs) in dims.items()
    )


def _pad(rows: Sequence[np.ndarray | None], n: int) -> np.ndarray:
    """(n_sets, n): labels, filled up with NaN, NaT, None or empty text."""
    dtype = np.result_type(*(v for v in rows if v is not None))
    fill: Any = {"f": np.nan, "M": np.datetime64("NaT"), "m": np.timedelta64("NaT"), "U": "", "O": None}.get(dtype.kind)
    if dtype.kind in "iub":
        dtype, fill = np.dtype(np.float64), np.nan
    out = np.full((len(rows), n), fill, dtype=dtype)
    for r, v in enumerate(rows):
        if v is not None:
            out[r, : len(v)] = v
    return out


def _values(e: _Entry, layout: _Layout, batched: bool) -> np.ndarray:
    """(*lead, [n_sets,] *sizes); NaN where a data set has no value."""
    shape = tuple(layout.sizes.values())
    if not batched:
        (only,) = e.values
        assert only is not None
        return only.reshape((*only.shape[:-1], *shape))
    some = next(v for v in e.values if v is not None)
    out = np.full((*some.shape[:-1], len(e.values), int(np.prod(shape))), np.nan)
    for r, v in enumerate(e.values):
        if v is not None:
            out[..., r, : v.shape[-1]] = v
    return out.reshape((*some.shape[:-1], len(e.values), *shape))
