"""Means and covariances of simulations as a factor model (gaussian.py): principal components of everything together."""

from __future__ import annotations

import torch
from torch import Tensor

from fsimformer.functions import knots
from fsimformer.gaussian import FLOOR, FactorModel, Grid
from fsimformer.readings import Store, read_clean, read_noisy

_POINTS = {1: 257, 2: 33}  # of a function's table along each dim, at most; more dims: 9
_ROWS = 4_096  # simulations that are looked at
_LOST = 1e-6  # share of the variance that the factors may miss


def fit_factors(store: Store, n_train: int, n_ids: int, generator: torch.Generator, max_rank: int = 64) -> FactorModel:
    """The factor model of the first `n_train` simulations of a store.

    Every scalar and every function (mean over its grid) has weight 1; arrays and the residuals of reference sets are
    left alone.
    """
    rows = torch.linspace(0, n_train - 1, min(n_train, _ROWS)).long()
    parts: list[Tensor] = [store.scalars[rows].double()]
    noise: list[Tensor] = [torch.zeros(len(store.scalar_ids), dtype=torch.float64)]
    weights = [torch.ones(len(store.scalar_ids), dtype=torch.float64)]
    grids, start = list[Grid](), 0
    for series in store.series:
        shape = tuple(min(n, _POINTS.get(len(series.dims), 9)) for n in series.path.shape[1:])
        where = knots(shape).float().expand(len(rows), -1, -1)
        clean = read_clean(series, rows, where).double()
        parts.append(clean)
        noisy = isinstance(series.sd, Tensor) or series.sd > 0
        read = read_noisy(series, rows, where, generator).double() if noisy else clean
        noise.append((read - clean).square().mean(0))
        weights.append(torch.full((clean.shape[1],), clean.shape[1] ** -0.5, dtype=torch.float64))
        grids.append(Grid(series.id, series.dims, shape, start))
        start += clean.shape[1]
    x, weight = torch.cat(parts, 1), torch.cat(weights)
    mean = x.mean(0)
    centred = (x - mean) * weight
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    missed = 1 - values.cumsum(0) / values.sum()
    rank = min(max_rank, int((missed > _LOST).sum()) + 1, len(values))
    loading = vectors[:, :rank] * values[:rank].sqrt() / weight[:, None]
    own = (x.var(0, unbiased=False) - loading.square().sum(1)).clamp(min=FLOOR) + torch.cat(noise)
    table = torch.cat([loading, mean[:, None], own[:, None]], 1).float()
    n_scalars = len(store.scalar_ids)
    scalars = torch.zeros(n_ids, rank + 2)
    scalars[:, -1] = 1.0
    scalars[store.scalar_ids] = table[:n_scalars]
    return FactorModel(scalars, table[n_scalars:].contiguous(), grids)
