"""Trials: fresh data sets whose truth is known, and what a model draws given each.

A data set is a draw of the simulator that training never saw (its generator has a purpose of its own, seeds.py), read
as training reads: its design of how many readings lie where, fresh noise on each. Drawn are, as `Conditional.sample`
draws them, all scalar and vector parameters, every function on a grid, and in a second pass half of the readings given
the other half.

The log density of a draw is that of scalars, vectors and functions together, these at their knots or at a few places,
by a coarse probability-flow ODE with one Hutchinson probe a data set. Its errors are the same function of truth and
draws, so that ranks by it stay exactly uniform for a calibrated model; they cost power at worst.

xarray stays out: truths and draws are arrays by name, on the original scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsimformer.convert import is_parameter, query_tokens
from fsimformer.draws import Settings, solved
from fsimformer.evidence import plausible
from fsimformer.extension import Drawn, knot_tokens
from fsimformer.likelihood import log_prob
from fsimformer.model_file import Model
from fsimformer.paths import with_noise
from fsimformer.points import Observation, Points, Query
from fsimformer.readings import Design, Store, read, read_clean
from fsimformer.sample import SamplerConfig
from fsimformer.schema import Index, Schema
from fsimformer.seeds import generator_at, seed_at
from fsimformer.simulations import build_store, default_design, simulate
from fsimformer.simulators import Simulator
from fsimformer.simulators.protocol import given_parameters, natural_functions
from fsimformer.stages import Budget
from fsimformer.tokens import TokenSet, collate, join, split, take, uncollate

Array = NDArray[np.float64]
Callback = Callable[[int, int], None]  # data sets done, of how many

_TRIALS = 8  # first number of the path, seeds.py
_PLACES = 8  # of a function without knots in the log density
_HELD_OUT = 16  # most readings of a data set that are predicted together
_GROUP = 8  # data sets drawn at a time: progress is told, memory bounded
_ATTEMPTS = 50  # collections of n simulations, of which those with plausible readings are kept
_ODE = 8  # midpoint steps of the log density


@dataclass(frozen=True)
class Trials:
    """n data sets with m draws each.

    Args:
        truth: parameter -> (n,), (n, size) or, of functions on one index, (n, [size,] T).
        draws: the same with m after n.
        grid: function -> (T,) in units of its index.
        log_density: (n, 1 + k): of the truth, then of the first k draws; whitened, up to what the module says.
        held_out: data variable -> for each data set that has some (r,) readings and (m, r) predictions of them,
            whitened, in the order of the index.
        n_readings: (n,) finite readings of each data set, values of scalars and vectors included.
        skipped: functions on several indexes, which no trial draws.
    """

    truth: dict[str, Array]
    draws: dict[str, Array]
    grid: dict[str, Array]
    log_density: Array
    held_out: dict[str, list[tuple[Array, Array]]]
    n_readings: NDArray[np.int64]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fresh:
    """Simulated data sets as tokens: all data of each, and where the simulations themselves can be read again."""

    store: Store
    values: Mapping[str, Tensor]
    data: list[TokenSet]


@dataclass(frozen=True)
class Plan:
    """How to draw.

    Args:
        grid: function on one index -> places (T,) in its units.
        n_draws: even. n_density: how many of them get a log density.
    """

    grid: Mapping[str, Array]
    n_draws: int
    n_density: int
    config: SamplerConfig
    seed: int
    budget: Budget = field(default_factory=Budget)


def design_of(model: Model) -> Design:
    """How training read its simulations; the default where the model's card does not say. No reference sets: who
    observes readings holds none."""
    held = model.provenance.get("design")
    design = default_design(model.schema) if held is None else Design(**held)
    return replace(design, reference=0.0)


def fresh(model: Model, simulator: Simulator, n: int, seed: int, *, purpose: int = 0) -> Fresh:
    """n data sets that no training saw; `purpose` tells independent collections of one seed apart.

    Raises:
        TypeError: no simulator. ValueError: one of another schema than the model's, or whose draws are not finite, or
            hardly any of whose data sets have plausible readings alone.
    """
    if isinstance(simulator, type) or not isinstance(simulator, Simulator):
        raise TypeError(
            f"simulator: expected the one that the model was trained on, such as fsimformer.simulators.HareLynx(), or "
            f"a FunctionSimulator; got {simulator!r}."
        )
    require_schema(model.schema, simulator.schema)
    parameter, natural, spread = is_parameter(model.schema), natural_functions(simulator), model.spread or None
    simulations, readings = generator_at(seed, _TRIALS, 0, purpose, 0), generator_at(seed, _TRIALS, 0, purpose, 1)
    parts, data = list[Mapping[str, Tensor]](), list[TokenSet]()
    for _ in range(_ATTEMPTS):  # as training, which never sees a data set with an implausible reading
        drawn = simulate(simulator, n, simulations).values
        store = build_store(model.schema, model.whitening, drawn, natural, spread)
        batch = read(store, torch.arange(n), design_of(model), readings)
        sound = (plausible(model, batch) | ~batch.valid).all(1).nonzero()[:, 0]
        parts.append({k: x[sound] for k, x in drawn.items()})
        rows = [take(row, (~parameter[row.variable]).nonzero()[:, 0]) for row in uncollate(batch.rows(sound))]
        data += [replace(row, condition_mask=torch.ones(len(row)).bool()) for row in rows]
        if len(data) >= n:
            break
    else:
        raise ValueError(f"check: {len(data)} of {n * _ATTEMPTS} simulated data sets have plausible readings alone.")
    values = {k: torch.cat([p[k] for p in parts])[:n] for k in parts[0]}
    return Fresh(build_store(model.schema, model.whitening, values, natural, spread), values, data[:n])


def require_schema(ours: Schema, theirs: Schema) -> None:
    """A simulator draws the variables that the model knows.

    Raises:
        ValueError: what differs.
    """
    if ours == theirs:
        return
    a, b = ({v.name: v for v in s.variables} for s in (ours, theirs))
    names = sorted(k for k in {*a, *b} if a.get(k) != b.get(k))
    what = f"variables {names} differ" if names else f"index dims differ, {ours.dims} and {theirs.dims}"
    raise ValueError(f"simulator: expected one with the model's schema; {what}. Take the one it was trained on.")


def run_trials(model: Model, data: Fresh, plan: Plan, callback: Callback | None = None) -> Trials:
    """Draws given every data set, and their log densities and predictions.

    Args:
        callback: told how many data sets are done, of how many.
    """
    schema, n = model.schema, len(data.data)
    parameters = [v.name for v in schema.variables if v.role == "parameter"]
    functions = [name for name in parameters if schema.is_function(name)]
    skipped = tuple(name for name in functions if len(schema.index_dims(name)) > 1)
    names = [name for name in parameters if name not in skipped]
    query = Query({name: _asked(schema, name, plan.grid) for name in names}, {})
    truth = _truths(model, data, query)
    draws: dict[str, list[Array]] = {name: [] for name in names}
    density: list[Array] = []
    held_out: dict[str, list[tuple[Array, Array]]] = {}
    for start in range(0, n, _GROUP):
        rows = range(start, min(start + _GROUP, n))
        own = [data.data[i] for i in rows]
        drawn = _drawn(model, own, [query] * len(own), plan, 5, start)
        for d, z in drawn:
            for name, x in _named(model, query, z).items():
                draws[name].append(x)
            assert len(d.z) == plan.n_draws
        if names:
            density += [_log_density(model, data, query, i, own[i - start], d, plan) for i, (d, _) in zip(rows, drawn)]
        _predict(model, own, plan, start, held_out)
        if callback is not None:
            callback(rows[-1] + 1, n)
    grid = {name: np.asarray(plan.grid[name], dtype=np.float64) for name in names if schema.is_function(name)}
    return Trials(
        truth,
        {name: np.stack(x) for name, x in draws.items()},
        grid,
        np.stack(density) if density else np.zeros((n, 0)),
        held_out,
        np.array([len(row) for row in data.data]),
        skipped,
    )


def _asked(schema: Schema, name: str, grid: Mapping[str, Array]) -> Points:
    """A scalar, a whole vector, or all components of a function on its grid, components first."""
    size = schema.n_components(name)
    places = np.asarray(grid[name], dtype=np.float64)[:, None] if schema.is_function(name) else np.zeros((1, 0))
    return Points(np.repeat(np.arange(size), len(places)), np.tile(places, (size, 1)), {}, None)


def _truths(model: Model, data: Fresh, query: Query) -> dict[str, Array]:
    """On the original scale; functions interpolated as readings are."""
    tokens, rows = query_tokens(model.schema, query), torch.arange(len(data.data))
    out, first = {}, 0
    for name, points in query.points.items():
        where = slice(first, first + len(points))
        first += len(points)
        if model.schema.is_function(name):
            z = _clean(data.store, rows, tokens.variable[where], tokens.index[where])
            out[name] = _shaped(model, name, z, points)
        else:
            out[name] = data.values[name].double().numpy().reshape(len(rows), *_shape(model.schema, name, points))
    return out


def _clean(store: Store, rows: Tensor, variable: Tensor, index: Tensor) -> Tensor:
    """Whitened values (B, L) of the simulations at tokens of functions, without noise."""
    z = torch.zeros(len(rows), len(variable))
    for series in store.series:
        mine = variable == series.id
        z[:, mine] = read_clean(series, rows, index[mine][:, list(series.dims)].expand(len(rows), -1, -1))
    return z


def _shape(schema: Schema, name: str, points: Points) -> tuple[int, ...]:
    size = schema.n_components(name)
    own = (size,) if schema.component_dim(name) is not None else ()
    return (*own, len(points) // size) if schema.is_function(name) else own


def _shaped(model: Model, name: str, z: Tensor, points: Points) -> Array:
    """Whitened (B, len(points)) -> (B, [size,] [T]) on the original scale."""
    x = model.whitening.inverse(name, z.double(), points.component).numpy()
    return x.reshape(len(x), *_shape(model.schema, name, points))


def _named(model: Model, query: Query, z: Tensor) -> dict[str, Array]:
    out, first = {}, 0
    for name, points in query.points.items():
        out[name] = _shaped(model, name, z[:, first : first + len(points)], points)
        first += len(points)
    return out


def _drawn(
    model: Model, observed: Sequence[TokenSet], queries: Sequence[Query], plan: Plan, *purpose: int
) -> list[tuple[Drawn, Tensor]]:
    """What `Conditional.sample` draws: everything solved, and the whitened values asked for (m, len(query))."""
    schema, seed = model.schema, seed_at(plan.seed, _TRIALS, *purpose) % 2**32
    settings = Settings(plan.config, model.n_active_observed, plan.budget)
    drawn = solved(model, observed, queries, plan.n_draws, settings, seed)
    nothing = Observation({}, {}, {})
    return [
        (d, with_noise(schema, model.whitening, nothing, q, d.z, generator_at(seed, 4, i, 3)))
        for i, (d, q) in enumerate(zip(drawn, queries, strict=True))
    ]


def _log_density(
    model: Model, data: Fresh, query: Query, row: int, observed: TokenSet, drawn: Drawn, plan: Plan
) -> Array:
    """(1 + k,): truth and the first k draws, one probe for all."""
    schema, tokens = model.schema, query_tokens(model.schema, query)
    references = {r.id: r for r in model.references(schema.references) if r.id in drawn.knots}
    room = model.max_latents - sum(r.n_knots for r in references.values())
    kept, first = [], 0
    bare = [n for n in query.points if schema.is_function(n) and n not in schema.references]
    scalars = sum(len(p) for n, p in query.points.items() if not schema.is_function(n))
    for name, points in query.points.items():
        every = np.arange(first, first + len(points))
        first += len(points)
        if name in bare:
            n_places = len(points) // schema.n_components(name)
            few = min(_PLACES, n_places, max(1, (room - scalars) // sum(schema.n_components(b) for b in bare)))
            some = np.unique(np.linspace(0, n_places - 1, few).round().astype(int))
            every = every.reshape(-1, n_places)[:, some].reshape(-1)
        if name not in schema.references:
            kept.append(every)
    chosen = torch.from_numpy(np.concatenate([*kept, np.zeros(0, dtype=np.int64)]))
    latents = join(take(tokens, chosen), *(knot_tokens(r, tokens.index.shape[1]) for r in references.values()))
    draws = torch.cat([drawn.z[:, chosen], *(drawn.knots[id].double() for id in references)], 1)[: plan.n_density]
    truth = torch.zeros(1, len(latents), dtype=torch.float64)
    truth[:] = _clean(data.store, torch.tensor([row]), latents.variable, latents.index)
    for column, id in enumerate(data.store.scalar_ids.tolist()):
        truth[:, latents.variable == id] = data.store.scalars[row, column].double()
    both = torch.cat([truth, draws])
    streams = split(collate([join(observed, latents)]), model.n_active_observed).to(model.denoiser.device)
    latent, generator = streams.active.latent[0].cpu(), generator_at(plan.seed, _TRIALS, 8, row)
    x = torch.zeros(1, len(both), len(latent))
    x[0][:, latent] = both.float()
    probe = (torch.randint(2, (1, 1, len(latent)), generator=generator) * 2.0 - 1).expand_as(x)
    with torch.no_grad():
        encoded = model.denoiser.encode(streams)
        device = model.denoiser.device
        found = log_prob(model.denoiser, encoded, x.to(device), probe=probe.to(device), n_steps=_ODE)
    return np.asarray(found[0].double().cpu().numpy(), dtype=np.float64)


def _predict(
    model: Model,
    observed: Sequence[TokenSet],
    plan: Plan,
    first: int,
    held_out: dict[str, list[tuple[Array, Array]]],
) -> None:
    """Half of each data set's readings, at most `_HELD_OUT`, given all its others; appended by variable."""
    schema = model.schema
    on_index = torch.from_numpy(schema.uses_index().any(axis=1))
    sets, queries, truths = [], [], []
    for i, tokens in enumerate(observed):
        readings = on_index[tokens.variable].nonzero()[:, 0]
        generator = generator_at(plan.seed, _TRIALS, 7, first + i)
        mixed = readings[torch.randperm(len(readings), generator=generator)]
        chosen = mixed[: min(len(readings) // 2, _HELD_OUT)]
        if not len(chosen):
            continue
        stays = torch.ones(len(tokens), dtype=torch.bool)
        stays[chosen] = False
        query, truth = _held_out_query(schema, take(tokens, chosen))
        sets.append(take(tokens, stays.nonzero()[:, 0]))
        queries.append(query)
        truths.append(truth)
    n_parameters = sum(schema.n_components(name) for name in given_parameters(schema))
    for (_, z), query, truth in zip(_drawn(model, sets, queries, plan, 6, first), queries, truths, strict=True):
        at, start = n_parameters, 0
        for name, points in query.points.items():
            if schema[name].role == "data":
                part = slice(at, at + len(points))
                mine = truth[start : start + len(points)]
                held_out.setdefault(name, []).append((mine.double().numpy(), z[:, part].double().numpy()))
                at, start = at + len(points), start + len(points)


def _held_out_query(schema: Schema, tokens: TokenSet) -> tuple[Query, Tensor]:
    """Scalar parameters and these readings, by variable in the order of their index; and their values, (L,)."""
    points = {name: _asked(schema, name, {}) for name in given_parameters(schema)}
    values = []
    for name in schema.data:
        if name in schema.arrays or not schema.is_function(name):
            continue
        ids = schema.ids(name)
        mine = ((tokens.variable >= ids.start) & (tokens.variable < ids.stop)).nonzero()[:, 0]
        if not len(mine):
            continue
        columns = [[d.name for d in schema.indexes].index(d) for d in schema.index_dims(name)]
        place = tokens.index[mine][:, columns].double().numpy()
        component = (tokens.variable[mine] - ids.start).numpy()
        order = np.lexsort((*place.T[::-1], component))
        ends = [d for d in map(schema.dim, schema.index_dims(name)) if isinstance(d, Index)]
        units = np.stack([e.lower + (place[:, j] + 1) / 2 * (e.upper - e.lower) for j, e in enumerate(ends)], axis=1)
        points[name] = Points(component[order], units[order], {}, None)
        values.append(tokens.value[mine[torch.from_numpy(order)]])
    return Query(points, {}), torch.cat(values)
