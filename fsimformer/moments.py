"""Means and covariances of simulations as a factor model (gaussian.py): principal components of everything together.

μ and φ are moments of values as they are read, averaged over measurement noise, on the points of each function's table.
d is the mean square of what the model misses of a reading: of simulations that μ and φ were not fitted on, at random
places about each point of the table, so that it holds the noise, what k factors miss, what components fitted to a
sample promise too much, and what a table misses between its points.

Where whitening bends a function by an asinh tail, either whitened values may be nearer to Gaussian (the tail tamed some
wild simulations) or those before the tail (it tamed a range that is wide beside the noise). The model is fitted both
ways, and each such function keeps the way whose x̂ tells more of the truth, in simulations apart from both.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fsimformer.functions import knots
from fsimformer.gaussian import FLOOR, FactorModel, Grid
from fsimformer.readings import Design, Series, Store, interpolate, read, read_moments
from fsimformer.tokens import TokenBatch, split

MAX_DIMS = 3
"""Index dims of a function that tables can hold: from four on they would be too coarse, or too large."""

_POINTS = {1: 257, 2: 33, 3: 9}  # of a function's table along each dim, at most
_TABLE = 2_300  # points of all tables together, at most: their covariance is decomposed, at the cube of this
_ROWS = 5_120  # simulations that are looked at: of five, four for μ and φ, one for d
_LOST = 1e-6  # share of the variance that the factors may miss
_ALONE = 4  # functions with tails that choose one by one; more of them choose together
_RATIOS = (0.05, 0.3, 1.0, 20.0)  # noise levels λ at which ways are compared


def fit_factors(store: Store, n_train: int, n_ids: int, generator: torch.Generator, max_rank: int = 64) -> FactorModel:
    """The factor model of the first `n_train` simulations of a store.

    Every scalar and every function (mean over its grid) has weight 1; arrays and the residuals of reference sets are
    left alone.

    Args:
        generator: draws the places at which d is estimated, and the tokens of rows on which ways are compared.

    Raises:
        ValueError: a function of more than `MAX_DIMS` index dims; fewer than ten simulations.
    """
    if n_train < 10:
        raise ValueError(f"fit_factors: expected at least 10 simulations, got {n_train}.")
    if large := [series.id for series in store.series if len(series.dims) > MAX_DIMS]:
        raise ValueError(f"fit_factors: expected functions of at most {MAX_DIMS} index dims, ids {large} have more.")
    looked_at = torch.linspace(0, n_train - 1, min(n_train, _ROWS)).long()
    part = torch.arange(len(looked_at)) % 5
    first, other, judge = looked_at[part < 4], looked_at[part == 4], looked_at[part == 3]
    straight = frozenset[int]()  # ids whose tables hold values before the tail
    tailed = [series.id for series in store.series if series.tail is not None]
    if tailed:
        batch = _judged(store, judge, n_ids, generator)
        seed = int(torch.randint(2**31, (1,), generator=generator))  # all are judged with the same noise

        def loss(straight: frozenset[int]) -> float:
            apart = torch.Generator().manual_seed(seed)
            model = _fit(store, looked_at[part < 3], other, n_ids, apart, max_rank, straight)
            return _loss(model, batch, apart)

        least = loss(straight)
        for ids in [[id] for id in tailed] if len(tailed) <= _ALONE else [tailed]:
            found = loss(straight.union(ids))
            if found < least:
                straight, least = straight.union(ids), found
    return _fit(store, first, other, n_ids, generator, max_rank, straight)


def _judged(store: Store, rows: Tensor, n_ids: int, generator: torch.Generator) -> TokenBatch:
    """Rows of up to eight readings a function, each variable observed or not by a coin."""
    store = replace(store, arrays={})  # which the model leaves alone
    batch = read(store, rows, Design((8,) * len(store.series), skew=0.5, reference=0.0), generator)
    coin = torch.rand(len(rows), n_ids, generator=generator) < 0.5
    return batch.replace(condition_mask=coin.gather(1, batch.variable))


def _loss(model: FactorModel, batch: TokenBatch, generator: torch.Generator) -> float:
    """What a network that weighs x̂ by the best number at each noise level leaves of its target: 0 all told, 1 nothing.

    With a = x̂ − y/(1 + λ²) and b the same of x, mean over `_RATIOS` of 1 − (Σ ab)²/(Σ a² Σ b²), sums over the latents
    that the model knows.
    """
    streams = split(batch)
    active = streams.active
    latent = (active.latent & model.knows[active.variable])[:, None]
    ratio = torch.tensor(_RATIOS, dtype=torch.float64).expand(len(active.value), -1)
    x = active.value.double()[:, None]
    y = x + ratio[..., None] * torch.randn(*ratio.shape, x.shape[-1], generator=generator, dtype=torch.float64)
    x_hat, _ = model.denoise(y, ratio, model.given(streams))
    a, b = ((z - y / (1 + ratio**2)[..., None]) * latent for z in (x_hat, x))
    both, own, target = ((v * w).sum((0, 2)) for v, w in ((a, b), (a, a), (b, b)))
    return float((1 - both.clamp(min=0) ** 2 / (own * target).clamp(min=1e-30)).mean())


def _fit(
    store: Store,
    rows: Tensor,
    other: Tensor,
    n_ids: int,
    generator: torch.Generator,
    max_rank: int,
    straight: frozenset[int] = frozenset(),
) -> FactorModel:
    """μ and φ of `rows`, d of `other` rows; of values before the tail for the ids in `straight`."""
    tails = [series.tail if series.id in straight else None for series in store.series]
    unbent = tuple(replace(series, tail=None) if series.id in straight else series for series in store.series)
    store = replace(store, series=unbent)
    shapes = [_table_shape(series, len(store.series)) for series in store.series]
    x = _on_tables(store, shapes, rows)
    sizes = [len(store.scalar_ids), *(int(torch.tensor(shape).prod()) for shape in shapes)]
    weight = torch.cat([torch.full((n,), 1.0 if i == 0 else n**-0.5).double() for i, n in enumerate(sizes)])
    mean = x.mean(0)
    centred = (x - mean) * weight
    values, vectors = _components(centred, max_rank)
    loading = vectors * values.sqrt() / weight[:, None]

    x = _on_tables(store, shapes, other)
    fitted = mean + ((x - mean) * weight) @ vectors @ (vectors / weight[:, None]).T
    parts = list(zip(x.split(sizes, 1), fitted.split(sizes, 1), strict=True))
    own = [(parts[0][0] - parts[0][1]).square().mean(0)]
    for series, shape, (_, fit) in zip(store.series, shapes, parts[1:], strict=True):
        where = _about(shape, len(other), generator)
        value, noise = read_moments(series, other, where)
        found = interpolate(fit.view(-1, *shape), torch.arange(len(other)), where.double())
        own.append(((value - found) ** 2 + noise).mean(0))
    table = torch.cat([loading, mean[:, None], torch.cat(own).clamp(min=FLOOR)[:, None]], 1).float()

    scalars = torch.zeros(n_ids, table.shape[1])
    scalars[:, -1] = 1.0
    scalars[store.scalar_ids] = table[: sizes[0]]
    starts = torch.tensor([0, *sizes[1:]]).cumsum(0).tolist()
    grids = [Grid(s.id, s.dims, *rest) for s, *rest in zip(store.series, shapes, starts, tails)]
    return FactorModel(scalars, table[sizes[0] :].contiguous(), grids)


def _components(x: Tensor, max_rank: int) -> tuple[Tensor, Tensor]:
    """Variances (k,) and directions (p, k) of the principal components of centred x (n, p), all but a share `_LOST`."""
    n, p = x.shape
    values, vectors = torch.linalg.eigh((x @ x.T if n < p else x.T @ x) / n)  # one has the other's eigenvalues
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    missed = 1 - values.cumsum(0) / values.sum()
    rank = min(max_rank, int((missed > _LOST).sum()) + 1, len(values))
    values, vectors = values[:rank], vectors[:, :rank]
    return values, x.T @ vectors / (n * values).sqrt().clamp(min=1e-30) if n < p else vectors


def _table_shape(series: Series, n_series: int) -> tuple[int, ...]:
    """Points along each dim: the path's, unless tables of `n_series` functions like this one would be too large."""
    d = len(series.dims)
    most = min(_POINTS[d], int((_TABLE / n_series) ** (1 / d) + 1e-9))
    return tuple(max(2, min(n, most)) for n in series.path.shape[1:])


def _on_tables(store: Store, shapes: list[tuple[int, ...]], rows: Tensor) -> Tensor:
    """(rows, columns) float64: scalars, and readings at the tables' points averaged over their noise."""
    parts = [store.scalars[rows].double()]
    for series, shape in zip(store.series, shapes, strict=True):
        parts.append(read_moments(series, rows, knots(shape).float().expand(len(rows), -1, -1))[0])
    return torch.cat(parts, 1)


def _about(shape: tuple[int, ...], n: int, generator: torch.Generator) -> Tensor:
    """(n, points, d): a place within half a cell of each of the table's points, for each row its own."""
    points = knots(shape).float()
    cell = 2 / (torch.tensor(shape) - 1)
    return (points + (torch.rand(n, *points.shape, generator=generator) - 0.5) * cell).clamp(-1, 1)
