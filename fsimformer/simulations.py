"""From a simulator's named draws to tensors that training reads: simulate, drop what failed, whiten, store.

A draw that holds a non-finite number is no draw: it is dropped, counted and reported, never mended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fsimformer.functions import ReferenceSet, fit_spread
from fsimformer.measurement import noisy
from fsimformer.readings import Design, Series, Store, read_clean
from fsimformer.schema import Schema
from fsimformer.simulators.protocol import Simulator
from fsimformer.whiten import Transform, Whitening

_FITTED = 2_000  # simulations that tell how much a spline misses


@dataclass(frozen=True)
class Simulations:
    """Finite draws by variable name (leading dim n), how many were dropped, and the grid they lie on.

    `grid`: as a Simulator's (protocol.py); None = nobody says, the simulator's is meant.
    """

    values: dict[str, Tensor]
    n_dropped: int
    grid: Mapping[str, Tensor] | None = None

    def __len__(self) -> int:
        return next(iter(self.values.values())).shape[0]


def simulate(
    simulator: Simulator, n: int, generator: torch.Generator, chunk: int = 10_000, max_dropped: float = 0.5
) -> Simulations:
    """Exactly n finite draws; failed ones are replaced by new ones and counted.

    Raises:
        TypeError: draws come in no mapping.
        ValueError: more than the share `max_dropped` of the first thousand or more draws is not finite, or a variable
            is missing.
    """
    schema = simulator.schema
    parts: list[dict[str, Tensor]] = []
    have = dropped = 0
    while have < n:
        m = min(chunk, n - have) if not dropped else min(chunk, n - have + 64)
        draws = simulator.simulate(m, generator)
        if not isinstance(draws, Mapping):
            raise TypeError(f"simulate: expected a dict of variable -> tensor, got {type(draws).__name__}.")
        expected = [name for name in schema.names if name not in schema.paths]
        if missing := set(expected) ^ set(draws):
            raise ValueError(f"simulate: expected the variables {expected}, got {list(draws)}: {missing}.")
        kept, n_dropped = finite_rows(schema, draws, m)
        parts.append(kept)
        have += m - n_dropped
        dropped += n_dropped
        if have + dropped >= min(1000, n) and dropped > max_dropped * (have + dropped):
            raise ValueError(f"simulate: {dropped} of {have + dropped} draws were not finite or outside their support.")
    values = {k: torch.cat([p[k] for p in parts])[:n] for k in schema.names}
    return Simulations(values, dropped, simulator.grid)


def measured(schema: Schema, values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Clean draws, n first, as they are read at every point of the grid: each series with fresh noise (measurement.py).

    float64 where there is noise; the noise-free paths that a schema names, parameters and functions stay what they are.
    A reading may leave the range of plausible ones that a simulator states, as training has none.
    """
    out = dict(values)
    for name in schema.data:
        if (noise := schema[name].noise) is None:
            continue
        x, sd = (
            values[name].double(),
            values[noise.sd] if isinstance(noise.sd, str) else torch.tensor(noise.sd, dtype=torch.float64),
        )
        out[name] = noisy(noise, x, sd.double().reshape(-1, *(1,) * (x.dim() - 1)), generator)
    return out


def require_same_grid(simulations: Simulations, simulator: Simulator) -> None:
    """Simulations made before lie on the simulator's grid: values are read by their position on it.

    Raises:
        ValueError: other index dims, another number of points, or points that lie elsewhere.
    """
    schema, grid = simulator.schema, simulator.grid
    for name, dims in ((v.name, schema.index_dims(v.name)) for v in schema.variables):
        at = [1 + schema[name].dims.index(d) for d in dims]
        expected, shape = [len(grid[d]) for d in dims], simulations.values[name].shape
        if (sizes := [shape[i] for i in at]) != expected:
            raise ValueError(
                f"Simulations: {name!r} has {sizes} points along {list(dims)}, expected {expected}, the simulator's."
            )
    if simulations.grid is None:
        return
    if set(simulations.grid) != set(grid):
        raise ValueError(f"Simulations: expected a grid of {sorted(grid)}, got one of {sorted(simulations.grid)}.")
    for name, points in grid.items():
        found = simulations.grid[name]
        slack = 1e-3 * float(points.diff().min())  # of a step: a grid that was stored in float32 is still the same
        if found.shape != points.shape or not torch.allclose(found.double(), points.double(), rtol=0, atol=slack):
            raise ValueError(
                f"Simulations: their grid of {name!r} has {len(found)} points over [{float(found[0]):g}, "
                f"{float(found[-1]):g}], expected the simulator's {len(points)} over [{float(points[0]):g}, "
                f"{float(points[-1]):g}]. Train on Recorded, which has their own grid, or interpolate them first."
            )


def finite_rows(schema: Schema, draws: Mapping[str, Tensor], n: int) -> tuple[dict[str, Tensor], int]:
    """Those of n draws that are finite and inside their supports, noise-free paths added; how many were dropped.

    Raises:
        ValueError: a variable has another number of rows.
    """
    draws, ok = finite(schema, draws, n)
    return {k: x[ok] for k, x in draws.items()}, int((~ok).sum())


def finite(schema: Schema, draws: Mapping[str, Tensor], n: int) -> tuple[dict[str, Tensor], Tensor]:
    """The n draws, noise-free paths added, and which of them (n,) are finite and inside their supports.

    Raises:
        ValueError: a variable has another number of rows.
    """
    draws = {**draws, **{path: draws[series] for path, series in schema.paths.items()}}
    ok = torch.ones(n, dtype=torch.bool)
    for name, x in draws.items():
        if x.shape[0] != n:
            raise ValueError(f"simulate: {name!r} has {x.shape[0]} rows, expected {n}.")
        inside = (x > schema[name].support.lower) & (x < schema[name].support.upper)
        ok &= (torch.isfinite(x) & inside).reshape(n, -1).all(1)
    return draws, ok


def build_store(
    schema: Schema,
    whitening: Whitening,
    simulations: Mapping[str, Tensor],
    natural: Collection[str] = (),
    spread: Mapping[str, Sequence[Tensor]] | None = None,
) -> Store:
    """Whitened scalars and arrays, functions in working units (readings.py); `natural` ones are interpolated first.

    `spread`: of each function with a reference set, one a component (`functions.ReferenceSet`); None = fitted here.
    """
    ids, columns, series, arrays = [], [], [], {}
    index_names = [i.name for i in schema.indexes]
    for v in schema.variables:
        if v.name in schema.arrays:  # in parts: all of them in float64 may not fit
            t, parts = whitening[v.name], simulations[v.name].split(4_096)
            arrays[schema.ids(v.name)] = torch.cat([t.forward(x.double()).float() for x in parts])
            continue
        x = simulations[v.name].double()
        component = schema.component_dim(v.name)
        # one entry an id: the components come first
        x = x[None] if component is None else x.movedim(1 + v.dims.index(component), 0)
        for c, (id, values) in enumerate(zip(schema.ids(v.name), x, strict=True)):
            t = whitening.part(v.name, c)
            if not schema.is_function(v.name):
                ids.append(id)
                columns.append(t.forward(values).float())
                continue
            dims = tuple(index_names.index(d) for d in schema.index_dims(v.name))
            s = t.standardise
            units = partial(_working_units, t)
            is_natural = v.name in natural or v.path_of in natural
            path = values.to(simulations[v.name].dtype) if is_natural else units(values).float()
            sd: Tensor | float = 0.0
            counted = v.noise is not None and v.noise.kind == "negbinomial"
            if v.noise is not None:
                raw = simulations[v.noise.sd].double() if isinstance(v.noise.sd, str) else float(v.noise.sd)
                raw = raw if counted else raw / s.scale
                sd = raw.float() if isinstance(raw, Tensor) else raw
            tail = s.tail if t.prior is None else None
            counts = (s.loc, s.scale) if counted else None
            one = Series(id, dims, path, sd, tail, units if is_natural else None, counts=counts)
            if v.reference:
                known = None if spread is None else spread[v.name][c]
                one = replace(one, reference=_reference(one, schema.residual_ids(v.name)[c], v.reference, known))
            series.append(one)
    n = next(iter(simulations.values())).shape[0]
    scalars = torch.stack(columns, 1) if columns else torch.zeros(n, 0)
    return Store(torch.tensor(ids, dtype=torch.long), scalars, tuple(series), len(schema.indexes), arrays)


def _reference(series: Series, residual_id: int, reference: tuple[int, ...], spread: Tensor | None) -> ReferenceSet:
    """The reference set of a series; its spread is that of at most `_FITTED` simulations."""
    if spread is None:
        rows = torch.arange(min(_FITTED, len(series.path)))

        def read(points: Tensor) -> Tensor:
            return read_clean(series, rows, points.float().expand(len(rows), -1, -1))

        spread = fit_spread(reference, read)
    return ReferenceSet(series.id, residual_id, series.dims, reference, spread)


def _working_units(t: Transform, x: Tensor) -> Tensor:
    return t.forward(x) if t.prior is not None else (t.unbound(x) - t.standardise.loc) / t.standardise.scale


def default_design(schema: Schema, n_readings: int = 60, n_function: int = 40) -> Design:
    """0 to `n_readings` readings a data channel, 0 to `n_function` points a functional parameter."""
    n_max = []
    for v in schema.variables:
        if schema.is_function(v.name):
            n = n_readings if v.role == "data" else n_function
            n_max += [n] * schema.n_components(v.name)
    return Design(tuple(n_max))
