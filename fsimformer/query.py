"""Which latents are asked for: `at`, or everything that was not observed.

Asking where a finite value was observed is asking for a fresh replicate of it there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import xarray as xr

from fsimformer.labels import missing, read_labels
from fsimformer.numeric import plain_array
from fsimformer.points import (
    Observation,
    Points,
    Query,
    elapsed,
    kind,
    require_stated_zero,
    warn_outside,
    warn_units,
)
from fsimformer.schema import Components, Index, Schema
from fsimformer.spelling import did_you_mean

_MOST_POINTS = 100_000_000


def query(schema: Schema, observation: Observation, at: Mapping[str, Any] | None = None, stacklevel: int = 3) -> Query:
    """Latents to sample, with the user's own coordinates kept for the way home.

    Without `at`: every scalar and vector component that was not observed; functions where their reading is missing, and
    absent functions at all points that the observation holds of their dims (left out where it holds none): on the grid
    of these dims, but at scattered points where readings lie scattered over several of them.

    With `at`: parameters that are scalars or vectors and were not observed, always; anything else where `at` asks.

    Args:
        schema: the model's variables.
        observation: what was read in.
        at: variable -> index points: numbers in index units, dates, or durations; a slice picks, as xarray's `sel`
            does, those that the observation holds. For several index dims a Dataset or mapping of coordinates (of equal
            length; dims of their own make a grid), or an array (n, d). For a scalar or vector: None or `...`.
        stacklevel: whose line a warning names; 3 = the caller of the caller.

    Returns:
        The query; it is empty where everything was observed.

    Raises:
        KeyError: a name that is no variable.
        ValueError: points that do not fit the variable; an observed parameter.

    Warns:
        ObservationWarning: points outside the trained range.
    """
    if at is not None and not isinstance(at, Mapping):
        raise ValueError(f"at: expected a mapping of variable -> index points, got {type(at).__name__}.")
    if unknown := [name for name in at or {} if name not in schema]:
        hint = did_you_mean(str(unknown[0]), schema.names)
        raise KeyError(f"at: the model has no variables {unknown}. {hint}Its variables: {list(schema.names)}.")
    asked: dict[str, Points] = {}
    for variable in schema.variables:
        name = variable.name
        if name in schema.arrays:
            if name in (at or {}):
                raise ValueError(
                    f"at: {name!r} is an array variable, observed as a whole or absent and never sampled; leave it out."
                )
        elif at is not None and name in at:
            if schema.is_function(name):
                asked[name] = _at(schema, name, at[name], observation)
            else:
                asked[name] = _at_components(schema, name, at[name], observation)
        elif not schema.is_function(name) and (at is None or variable.role == "parameter"):
            asked[name] = _latent_components(schema, name, observation)
        elif at is None:
            asked[name] = _unread(schema, name, observation)
    asked = {name: points for name, points in asked.items() if len(points)}
    for name, points in asked.items():
        if at is not None and name in at:
            for d in points.attrs:
                if isinstance(index := schema.dim(d), Index):
                    warn_units(index, points.labels[d], points.attrs[d], stacklevel)
        if schema.is_function(name):
            origins = observation.origins, observation.implied
            warn_outside(schema, name, "points asked for", [points], *origins, stacklevel)
    return Query(asked, {name: _replicates(schema, name, points, observation) for name, points in asked.items()})


def nothing_asked(schema: Schema, observations: Sequence[Observation], at: Mapping[str, Any] | None) -> str:
    """Why a query is empty, and what could be asked for."""
    open_ = [v.name for v in schema.variables if schema.is_function(v.name) and v.name not in (at or {})]
    again = [name for name in schema.data if not schema.is_function(name) and name not in schema.arrays]
    seen = {name for o in observations for name, c in o.channels.items() if np.isfinite(c.value).any()}
    if at is None and seen >= set(open_):
        given = [name for name in schema.arrays if name not in seen]
        but = f" but {given}, arrays, which are never sampled" if given else ""
        why = f"every variable is observed{but}, and without `at` nothing is asked for again."
    elif at is None:
        why = f"the data hold no points at which {[name for name in open_ if name not in seen]} could be drawn."
    else:
        scalars = [v.name for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name)]
        held = "the model has no scalar parameters" if not scalars else f"{scalars} are observed"
        why = f"{held}, and `at` names no points of a function."
    ways = []
    if open_:
        name = next((name for name in open_ if name not in seen), open_[0])
        ends = {d.name: [d.lower, d.upper] for d in map(schema.dim, schema.index_dims(name)) if isinstance(d, Index)}
        example = ends if len(ends) > 1 else next(iter(ends.values()))
        ways.append(f"functions are drawn where `at` says, observed or not: {open_}, as in at={{{name!r}: {example}}}")
    if again:
        ways.append(f"data without index again with at={{{again[0]!r}: None}}")
    return f"sample: nothing is left to sample: {why}" + (f" Ask for more: {'; '.join(ways)}." if ways else "")


def _unread(schema: Schema, name: str, observation: Observation) -> Points:
    """A function where its reading is missing, or where it could have been read."""
    channel = observation.channels.get(name)
    if channel is None:
        return _held(schema, name, observation)
    gaps = np.isnan(channel.value)
    return channel.points if gaps.all() else channel.points.take(gaps)


def _held(schema: Schema, name: str, observation: Observation) -> Points:
    """All points that the observation holds for a function: its own, else every combination of what is held of its
    dims, where places that lie scattered over several dims stay together."""
    if name in observation.channels:
        return observation.channels[name].points
    scattered = _scattered(schema, schema.index_dims(name), observation)
    together = {d: group for group in scattered for d in group}
    axes = {d: scattered[together[d]][d] if d in together else _axis(schema, d, observation) for d in schema[name].dims}
    if not scattered:
        return _grid(schema, name, axes)
    blocks = list(dict.fromkeys(together.get(d, (d,)) for d in schema.index_dims(name)))
    sizes = [len(axes[group[0]]) for group in blocks]
    _require_few(repr(name), schema.index_dims(name), sizes)
    places = dict(zip(blocks, np.indices(sizes).reshape(len(sizes), -1), strict=True))
    return _pointwise(schema, name, axes, {d: places[together.get(d, (d,))] for d in schema.index_dims(name)})


def _scattered(
    schema: Schema, dims: tuple[str, ...], observation: Observation
) -> dict[tuple[str, ...], dict[str, Points]]:
    """Groups of these dims over which the observation holds scattered points: each dim's coordinates, point by point.

    A group's points are all that came for all of its dims together, each once, in their order; those that fill a
    lattice are none.
    """
    sources = [(schema.index_dims(name), c.points) for name, c in observation.channels.items()]
    sources += [(tuple(p.labels), p) for p in observation.held.values() if p.index.shape[1]]
    out: dict[tuple[str, ...], dict[str, Points]] = {}
    found = {tuple(d for d in dims if d in own) for own, points in sources if points.shape is None}
    for group in sorted(found, key=len, reverse=True):
        if len(group) < 2 or any(d in other for other in out for d in group):
            continue
        mine = [(own, p) for own, p in sources if set(group) <= set(own)]
        if all(d in observation.held for d in group):
            mine.append((group, _lattice(group, observation.held)))
        index = np.concatenate([p.index[:, [own.index(d) for d in group]] for own, p in mine])
        first = np.sort(np.unique(index, axis=0, return_index=True)[1])
        if len(first) == np.prod([len(np.unique(x)) for x in index.T]):
            continue
        labels = {d: np.concatenate([p.labels[d] for _, p in mine])[first] for d in group}
        none, attrs = np.zeros(len(first), dtype=np.int64), mine[0][1].attrs
        out[group] = {
            d: Points(none, index[first, j, None], {d: labels[d]}, None, {d: attrs.get(d, {})})
            for j, d in enumerate(group)
        }
    return out


def _lattice(dims: tuple[str, ...], axes: Mapping[str, Points]) -> Points:
    """Every combination of points along index dims, the last dim fastest."""
    shape = tuple(len(axes[d]) for d in dims)
    _require_few("the observation", dims, shape)
    where = dict(zip(dims, np.indices(shape).reshape(len(dims), -1), strict=True))
    index = np.stack([axes[d].index[where[d], 0] for d in dims], axis=1)
    return Points(np.zeros(len(index), dtype=np.int64), index, {d: axes[d].labels[d][where[d]] for d in dims}, shape)


def _require_few(what: str, dims: Sequence[str], sizes: Sequence[int]) -> None:
    """Every combination of what is held of some dims, before it fills the memory.

    Raises:
        ValueError: there are too many.
    """
    if (n := math.prod(sizes)) > _MOST_POINTS:
        raise ValueError(
            f"{what}: every combination of the points held of {tuple(dims)}, {tuple(sizes)} of them, would be {n:,} "
            f"points, more than {_MOST_POINTS:,}; name those that are wanted, sample(at=...)."
        )


def _axis(schema: Schema, dim: str, observation: Observation) -> Points:
    """Coordinate values of one dim that the observation holds, sorted, each once."""
    found = schema.dim(dim)
    if isinstance(found, Components):
        return _components(schema, dim, found.size, observation)
    parts = [p for p in observation.held.values() if dim in p.labels]
    columns = [p.index[:, list(p.labels).index(dim)] for p in parts]
    for name, channel in observation.channels.items():
        if dim in schema.index_dims(name):
            parts.append(channel.points)
            columns.append(channel.points.index[:, schema.index_dims(name).index(dim)])
    if not parts:
        return Points(np.zeros(0, dtype=np.int64), np.zeros((0, 1)), {dim: np.zeros(0)}, (0,))
    index, first = np.unique(np.concatenate(columns), return_index=True)
    labels = np.concatenate([p.labels[dim] for p in parts])[first]
    attrs = {dim: parts[0].attrs.get(dim, {})}
    return Points(np.zeros(len(index), dtype=np.int64), index[:, None], {dim: labels}, (len(index),), attrs)


def _components(schema: Schema, dim: str, size: int, observation: Observation) -> Points:
    """All components, under the labels by which the observation knows them."""
    component = np.arange(size)
    for points in (*observation.held.values(), *(c.points for c in observation.channels.values())):
        if dim in points.labels and (points.component.size and np.isin(component, points.component).all()):
            first = np.array([np.flatnonzero(points.component == k)[0] for k in component])
            attrs = {dim: points.attrs.get(dim, {})}
            return Points(component, np.zeros((size, 0)), {dim: points.labels[dim][first]}, (size,), attrs)
    return Points(component, np.zeros((size, 0)), {dim: component}, (size,))


def _grid(schema: Schema, name: str, axes: Mapping[str, Points]) -> Points:
    """Every combination of points along the variable's dims, the last dim fastest."""
    dims = schema[name].dims
    shape = tuple(len(axes[d]) for d in dims)
    _require_few(repr(name), dims, shape)
    where = dict(zip(dims, np.indices(shape).reshape(len(dims), int(np.prod(shape))), strict=True))
    index = [axes[d].index[where[d], 0] for d in schema.index_dims(name)]
    c_dim = schema.component_dim(name)
    n = int(np.prod(shape))
    return Points(
        np.zeros(n, dtype=np.int64) if c_dim is None else axes[c_dim].component[where[c_dim]],
        np.stack(index, axis=1) if index else np.zeros((n, 0)),
        {d: axes[d].labels[d][where[d]] for d in dims},
        shape,
        {d: axes[d].attrs.get(d, {}) for d in dims},
    )


def _all_components(schema: Schema, name: str, observation: Observation) -> Points:
    """A scalar or a whole vector."""
    return _grid(schema, name, {d: _axis(schema, d, observation) for d in schema[name].dims})


def _latent_components(schema: Schema, name: str, observation: Observation) -> Points:
    """What was not observed of a scalar or a vector."""
    points = _all_components(schema, name, observation)
    known = _replicates(schema, name, points, observation)
    return points.take(~known) if known.any() else points


def _at_components(schema: Schema, name: str, spec: Any, observation: Observation) -> Points:
    if spec is not None and not isinstance(spec, EllipsisType):
        if not schema[name].dims:
            raise ValueError(
                f"at: {name!r} is a scalar without index; ask for it with None, or --at {name}; got {spec!r}."
            )
        raise ValueError(
            f"at: {name!r} is a vector without index; ask for all its components with None, or --at {name}; single "
            f"ones cannot be asked for, got {spec!r}."
        )
    if schema[name].role == "data":
        return _all_components(schema, name, observation)
    points = _latent_components(schema, name, observation)
    if not len(points):
        raise ValueError(f"at: the parameter {name!r} was observed; there is nothing to sample.")
    return points


def _at(schema: Schema, name: str, spec: Any, observation: Observation) -> Points:
    """A function at the points that the user names."""
    dims = schema.index_dims(name)
    if spec is None or isinstance(spec, EllipsisType):
        raise ValueError(
            f"at: {name!r} is a function of {dims}; give index points, or slice(None) for all that were held."
        )
    if isinstance(spec, slice):
        return _at_slice(schema, name, spec, observation)
    raws = dict(zip(dims, _columns(name, dims, spec), strict=True))
    read = {d: read_labels(f"at: {name!r}, {d!r}", raw) for d, raw in raws.items()}
    named = all(isinstance(raw, xr.DataArray) for d, raw in raws.items() if read[d].ndim)
    variables: dict[str, xr.DataArray] = {}
    axes: dict[str, Points] = {}
    for d, raw in raws.items():
        where = f"at: {name!r}, {d!r}"
        labels, index = read[d], schema.dim(d)
        assert isinstance(index, Index)
        if labels.ndim > 1 or not labels.size:
            raise ValueError(f"{where}: expected points in one row, at least one, got shape {labels.shape}.")
        if n := int(missing(labels).sum()):
            raise ValueError(f"{where}: {n} of {labels.size} points are NaN, NaT or infinite.")
        along = raw.dims if named and isinstance(raw, xr.DataArray) else ("point",) * labels.ndim
        attrs = dict(raw.attrs) if isinstance(raw, xr.DataArray) else {}
        require_stated_zero(where, index, labels, attrs, observation)
        values = elapsed(where, index, labels.reshape(-1), attrs, observation.origins[d])
        n = len(values)
        axes[d] = Points(np.zeros(n, dtype=np.int64), values[:, None], {d: labels.reshape(-1)}, (n,), {d: attrs})
        variables[d] = xr.DataArray(np.arange(n).reshape(labels.shape), dims=along)
    for d in schema[name].dims:
        if d not in dims:
            axes[d] = _axis(schema, d, observation)
    along_all = [d for v in variables.values() for d in v.dims]
    if len(set(along_all)) == len(along_all):  # each index dim by itself: a grid
        return _grid(schema, name, axes)
    lengths = {d: v.size for d, v in variables.items()}
    if len({v.sizes[d] for v in variables.values() for d in v.dims if d == "point"}) > 1:
        raise ValueError(f"at: {name!r}: expected coordinates of equal length, got {lengths}.")
    picks = [v.to_numpy().reshape(-1) for v in xr.broadcast(*variables.values())]
    return _pointwise(schema, name, axes, dict(zip(dims, picks, strict=True)))


def _pointwise(schema: Schema, name: str, axes: Mapping[str, Points], pick: Mapping[str, np.ndarray]) -> Points:
    """Points (axes[d][pick[d]])_d, each with all components."""
    c_dim, size = schema.component_dim(name), schema.n_components(name)
    n = len(next(iter(pick.values())))
    where = {d: np.repeat(p, size) for d, p in pick.items()}
    if c_dim is not None:
        where[c_dim] = np.tile(np.arange(size), n)
    return Points(
        np.tile(np.arange(size), n),
        np.stack([axes[d].index[where[d], 0] for d in pick], axis=1),
        {d: axes[d].labels[d][w] for d, w in where.items()},
        None,
        {d: axes[d].attrs.get(d, {}) for d in where},
    )


def _columns(name: str, dims: tuple[str, ...], spec: Any) -> list[Any]:
    """Raw coordinates of each index dim."""
    if isinstance(spec, (Mapping, xr.Dataset)):
        if lacking := [d for d in dims if d not in spec]:
            raise ValueError(f"at: {name!r}: expected coordinates of {dims}, {lacking} are absent; got {list(spec)}.")
        return [spec[d] for d in dims]
    if len(dims) == 1:
        return [spec]
    points = plain_array(f"at: {name!r}", spec)
    if points.ndim != 2 or points.shape[1] != len(dims):
        raise ValueError(
            f"at: {name!r}: expected a Dataset or mapping with {dims}, or an array (n, {len(dims)}), got shape "
            f"{points.shape}."
        )
    return list(points.T)


def _at_slice(schema: Schema, name: str, spec: slice, observation: Observation) -> Points:
    """The points held, in the order held, between the ends of a slice, both included."""
    held, dims = _held(schema, name, observation), schema.index_dims(name)
    if not len(held):
        raise ValueError(f"at: {name!r}: the observation holds no points of {dims} that a slice could pick from.")
    if spec == slice(None):
        return held
    if spec.step is not None or len(dims) > 1:
        raise ValueError(f"at: {name!r}: a slice picks from the points of one index, without a step, got {spec}.")
    index = schema.dim(dims[0])
    assert isinstance(index, Index)
    inside = np.ones(len(held), dtype=bool)
    for end, sign in ((spec.start, 1.0), (spec.stop, -1.0)):
        if end is not None:
            where = f"at: {name!r}, {dims[0]!r}"
            labels = read_labels(where, end).reshape(-1)
            if labels.size != 1 or missing(labels).any():
                raise ValueError(f"{where}: expected single points as the ends of a slice, got {end!r}.")
            attrs = held.attrs.get(dims[0], {}) if kind(labels, {}) == "numbers" else {}
            require_stated_zero(where, index, labels, attrs, observation)
            inside &= (
                sign * (held.index[:, 0] - elapsed(where, index, labels, attrs, observation.origins[dims[0]])) >= 0
            )
    if not inside.any():
        low, high = held.index.min(), held.index.max()
        raise ValueError(f"at: {name!r}: no point lies in {spec}; the observation holds {low:g} to {high:g}.")
    return held.take(inside)


def _replicates(schema: Schema, name: str, points: Points, observation: Observation) -> np.ndarray:
    """(n,) bool: was a finite value of the variable observed at this very point (to 1e-9 of the trained range)?"""
    channel = observation.channels.get(name)
    if channel is None:
        return np.zeros(len(points), dtype=bool)
    spans = [schema.dim(d) for d in schema.index_dims(name)]
    step = 1e-9 * np.array([s.upper - s.lower for s in spans if isinstance(s, Index)])
    seen = channel.points.take(np.isfinite(channel.value))
    keys = np.concatenate([np.column_stack([p.component, np.round(p.index / step)]) for p in (seen, points)])
    _, number = np.unique(keys, axis=0, return_inverse=True)
    return np.isin(number.reshape(-1)[len(seen) :], number.reshape(-1)[: len(seen)])
