"""Reads clean simulations at random index points: the rows of a training batch.

A simulation is a path on a dense grid. A token's value is the path interpolated at the token's own index, with fresh
measurement noise added there (design.md, D5): noise that is interpolated loses a third of its variance and correlates
neighbours. Every row draws its own number of points, its own places and its own noise, each time it is read.

Values are kept in working units u, in which noise is additive and whitening is z = u or tail·asinh(u/tail). The noise
of counts is additive nowhere: they are drawn about their mean, and u is that of the count spread over its unit
interval, x + U(−½, ½). On the atoms 0, 1, 2, … a density would have no bound; rounding gives the count back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsimformer.counts import count_moments, draw_counts
from fsimformer.functions import ReferenceSet, knots
from fsimformer.grids import stencil
from fsimformer.tokens import TokenBatch, TokenSet, select


@dataclass(frozen=True)
class Series:
    """A function on a dense grid, one token id.

    Args:
        id: token id. dims: positions of its dims among the index dims.
        path: (N, *grid); the grid is regular over [-1, 1] in every dim.
        units: from the path's units to working units, applied after interpolation; None = the path is in working units.
        sd: noise sd in working units, (N,) or a number; 0 = no noise. Of counts, `Noise.sd` itself.
        tail: asinh tail of its whitening, or None.
        reference: the function's reference set, if it has one.
        counts: (loc, scale) of the working units u = (log(1 + x) − loc)/scale of a series of counts; None = no counts.
    """

    id: int
    dims: tuple[int, ...]
    path: Tensor
    sd: Tensor | float = 0.0
    tail: float | None = None
    units: Callable[[Tensor], Tensor] | None = None
    reference: ReferenceSet | None = None
    counts: tuple[float, float] | None = None


@dataclass(frozen=True)
class Store:
    """Simulations as tensors: `scalar_ids` (S,), `scalars` (N, S) whitened, `series`, number of index dims.

    `arrays`: ids of an array variable -> (N, *shape) whitened float32.
    """

    scalar_ids: Tensor
    scalars: Tensor
    series: tuple[Series, ...]
    n_index: int
    arrays: Mapping[range, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.scalars.shape[0]


@dataclass(frozen=True)
class Design:
    """How many readings a function has in a row, and where.

    Args:
        n_max: largest number of readings of each series, in the order of `Store.series`.
        skew: n = ⌊(n_max + 1) · u^skew⌋, u ~ U(0, 1): above 1, short rows are more frequent.
        shared: probability that all series with the same dims share count and places, as on a common time axis.
        regular, window: probabilities that a row's places are a regular grid with random ends, or crowd a random
            window; otherwise they are uniform over the range.
        reference: probability that a row holds a function's reference set, if it has one; then with at most `beside`
            other points of it, and `residuals` points of what lies between.
    """

    n_max: tuple[int, ...]
    skew: float = 2.0
    shared: float = 0.4
    regular: float = 0.35
    window: float = 0.15
    reference: float = 0.6
    beside: int = 8
    residuals: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.n_max, Iterable):
            raise TypeError(
                f"Design: expected n_max as a tuple, a count for each series, got {self.n_max!r}: ({self.n_max},)?"
            )
        object.__setattr__(self, "n_max", tuple(self.n_max))
        if min(self.n_max, default=0) < 0 or self.skew < 0:
            raise ValueError(f"Design: expected counts n_max >= 0 and skew >= 0, got {self}.")
        chances = (self.shared, self.regular, self.window, self.reference)
        if min(self.beside, self.residuals) < 0:
            raise ValueError(f"Design: expected beside, residuals >= 0, got {self.beside}, {self.residuals}.")
        if min(chances) < 0 or max(self.shared, self.reference) > 1 or self.regular + self.window > 1:
            raise ValueError(f"Design: expected probabilities, regular + window <= 1, got {self}.")


def draw_index(n_rows: int, n: Tensor, n_slots: int, n_dims: int, design: Design, generator: torch.Generator) -> Tensor:
    """Places (n_rows, n_slots, n_dims) in [-1, 1] for n (n_rows,) readings; slots beyond n hold junk to be masked."""
    device = generator.device
    uniform = torch.rand(n_rows, n_slots, n_dims, generator=generator, device=device)
    kind = torch.rand(n_rows, 1, 1, generator=generator, device=device)
    ends = torch.rand(n_rows, 1, n_dims, 2, generator=generator, device=device)
    full = torch.rand(n_rows, 1, n_dims, generator=generator, device=device) < 0.5
    ends = ends.sort(dim=-1).values
    lower = torch.where(full, 0.0, ends[..., 0])
    upper = torch.where(full, 1.0, ends[..., 1])
    rank = torch.arange(n_slots, device=device)[None, :, None] / (n[:, None, None] - 1).clamp(min=1)
    regular = lower + (upper - lower) * rank.clamp(max=1)
    if n_dims > 1:  # a lattice needs a side length a dim; several dims crowd or spread at random instead
        regular = uniform
    window = ends[..., 0] + (ends[..., 1] - ends[..., 0]) * uniform
    u = torch.where(kind < design.regular, regular, torch.where(kind < design.regular + design.window, window, uniform))
    return 2 * u - 1


def interpolate(path: Tensor, rows: Tensor, index: Tensor, within: bool = False) -> Tensor:
    """Values of path (N, *grid) of the given rows (B,) at index (B, n, d) in [-1, 1], (B, n).

    One dim: cubic Hermite with central-difference slopes, error O(h³) (O(h²) at the ends); several dims: multilinear.
    `within` holds the cubic between the lowest and highest of its four points, at a cost of O(h²) at extrema: where
    values must not leave their support.
    """
    grid, row, flat = path.shape[1:], rows[:, None], path.flatten(1)
    weights = stencil(grid, index)
    values = [flat[row, place] for place, _ in weights]
    u = sum((w * v for (_, w), v in zip(weights, values, strict=True)), torch.zeros_like(values[0]))
    if within and len(grid) == 1:
        four = torch.stack(values)
        u = u.clamp(four.amin(0), four.amax(0))
    return u


def read(store: Store, rows: Tensor, design: Design, generator: torch.Generator) -> TokenBatch:
    """Tokens of the given simulations (B,) at freshly drawn places with fresh noise; nothing observed yet."""
    b, device = len(rows), store.scalars.device
    n_scalars = len(store.scalar_ids)
    counts, places = _draw_designs(store, b, design, generator)
    variable = [store.scalar_ids.expand(b, -1)]
    index = [torch.zeros(b, n_scalars, store.n_index, device=device)]
    value = [store.scalars[rows]]
    valid = [torch.ones(b, n_scalars, dtype=torch.bool, device=device)]

    def add(id: int, dims: tuple[int, ...], where: Tensor, z: Tensor, real: Tensor) -> None:
        full = torch.zeros(b, where.shape[1], store.n_index, device=device)
        full[..., list(dims)] = where
        variable.append(torch.full(z.shape, id, device=device))
        index.append(full)
        value.append(z)
        valid.append(real)

    for series, n_max, n, where in zip(store.series, design.n_max, counts, places, strict=True):
        if series.reference is not None:
            held = torch.rand(b, generator=generator, device=generator.device).to(device) < design.reference
            n = torch.where(held, n.clamp(max=design.beside), n)
            _add_reference(series, series.reference, rows, held[:, None], design.residuals, generator, add)
        z = read_noisy(series, rows, where, generator)
        add(series.id, series.dims, where, z, torch.arange(n_max, device=device)[None] < n[:, None])
    for ids in store.arrays:
        variable.append(torch.tensor(ids, device=device).expand(b, -1))
        index.append(torch.zeros(b, len(ids), store.n_index, device=device))
        value.append(torch.zeros(b, len(ids), device=device))
        valid.append(torch.ones(b, len(ids), dtype=torch.bool, device=device))
    ok = torch.cat(valid, 1)
    batch = TokenBatch(
        torch.cat(variable, 1),
        torch.cat(index, 1),
        torch.cat(value, 1).float(),
        torch.zeros_like(ok),
        ok,
        {ids: x[rows] for ids, x in store.arrays.items()},
    )
    position, taken = select(ok)
    packed = batch.gather(position)
    return packed.replace(valid=packed.valid & taken)


def _add_reference(
    series: Series,
    reference: ReferenceSet,
    rows: Tensor,
    held: Tensor,
    n_residuals: int,
    generator: torch.Generator,
    add: Callable[[int, tuple[int, ...], Tensor, Tensor, Tensor], None],
) -> None:
    """Tokens of the knots, and of the residual at uniform places, real in the rows that are `held` (B, 1)."""
    b, device = len(rows), rows.device
    at_knots = knots(reference.reference).float().to(device).expand(b, -1, -1)
    z_knots = read_clean(series, rows, at_knots)
    add(series.id, series.dims, at_knots, z_knots, held.expand(-1, reference.n_knots))
    where = 2 * torch.rand(b, n_residuals, len(series.dims), generator=generator, device=generator.device) - 1
    where = where.to(device)
    r = reference.residual(read_clean(series, rows, where), z_knots, where)
    add(reference.residual_id, series.dims, where, r, held.expand(-1, n_residuals))


def read_at(store: Store, rows: Tensor, tokens: TokenSet, generator: torch.Generator) -> TokenBatch:
    """Tokens of the given simulations (B,) at the ids and places of `tokens`, noise drawn; nothing observed yet."""
    b = len(rows)
    value = torch.zeros(b, len(tokens))
    for column, id in enumerate(store.scalar_ids.tolist()):
        value[:, tokens.variable == id] = store.scalars[rows, column, None]
    for series in store.series:
        mine = tokens.variable == series.id
        where = tokens.index[mine][:, list(series.dims)].expand(b, -1, -1)
        value[:, mine] = read_noisy(series, rows, where, generator)
    observed = torch.zeros(b, len(tokens), dtype=torch.bool)
    return TokenBatch(
        tokens.variable.expand(b, -1),
        tokens.index.expand(b, -1, -1),
        value,
        observed,
        torch.ones_like(observed),
        {ids: store.arrays[ids][rows] for ids in tokens.arrays},
    )


def read_noisy(series: Series, rows: Tensor, where: Tensor, generator: torch.Generator) -> Tensor:
    """Whitened readings (B, n) at places (B, n, d), noise added."""
    u = _working_units_at(series, rows, where)
    if series.counts is not None:
        loc, scale = series.counts
        x = draw_counts(torch.expm1(loc + scale * u.double()), _sd(series, rows), generator)
        x = x + torch.rand(x.shape, generator=generator, device=where.device) - 0.5
        return _whitened(series, ((torch.log1p(x) - loc) / scale).float())
    noise = torch.randn(where.shape[:2], generator=generator, device=where.device)
    return _whitened(series, u + _sd(series, rows) * noise)


def read_moments(series: Series, rows: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a whitened reading over its noise, (B, n) float64 each, at places (B, n, d).

    Three-point Gauss–Hermite quadrature: without an asinh tail exact, value and noise variance. Of counts, to second
    order in their noise.
    """
    u, sd = _working_units_at(series, rows, where).double(), _sd(series, rows)
    if series.counts is not None:
        loc, scale = series.counts
        mean, variance = count_moments(torch.expm1(loc + scale * u), sd)
        u, sd = (mean - loc) / scale, variance.sqrt() / scale
    if not isinstance(sd, Tensor) and sd == 0:
        z = _whitened(series, u)
        return z, torch.zeros_like(z)
    z = torch.stack([_whitened(series, u + shift * sd) for shift in (-(3**0.5), 0.0, 3**0.5)])
    weight = z.new_tensor([1 / 6, 2 / 3, 1 / 6])[:, None, None]
    mean = (weight * z).sum(0)
    return mean, (weight * (z - mean) ** 2).sum(0)


def read_clean(series: Series, rows: Tensor, where: Tensor) -> Tensor:
    """Whitened values (B, n) of the path itself at places (B, n, d)."""
    return _whitened(series, _working_units_at(series, rows, where))


def _working_units_at(series: Series, rows: Tensor, where: Tensor) -> Tensor:
    u = interpolate(series.path, rows, where, within=series.units is not None)
    return u if series.units is None else series.units(u.double()).float()


def _sd(series: Series, rows: Tensor) -> Tensor | float:
    return series.sd[rows][:, None] if isinstance(series.sd, Tensor) else series.sd


def _whitened(series: Series, u: Tensor) -> Tensor:
    return u if series.tail is None else series.tail * torch.asinh(u / series.tail)


def _draw_designs(
    store: Store, b: int, design: Design, generator: torch.Generator
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Counts (B,) and places (B, n_max, d) of every series."""
    device = generator.device
    counts: list[Tensor] = []
    places: list[Tensor] = []
    share = torch.rand(b, generator=generator, device=device) < design.shared
    common: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for series, n_max in zip(store.series, design.n_max, strict=True):
        u = torch.rand(b, generator=generator, device=device)
        n = ((n_max + 1) * u**design.skew).floor().clamp(max=n_max)
        where = draw_index(b, n, n_max, len(series.dims), design, generator)
        if series.dims in common and common[series.dims][1].shape == where.shape:
            n = torch.where(share, common[series.dims][0], n)
            where = torch.where(share[:, None, None], common[series.dims][1], where)
        else:
            common[series.dims] = (n, where)
        counts.append(n.to(store.scalars.device))
        places.append(where.to(store.scalars.device))
    return counts, places
