"""The Gaussian that has the simulations' means and covariances: its conditional mean is the best linear denoiser.

Whitened values follow a factor model over everything that a simulator draws, functions at any point among them,

    x(v, s) = μ_v(s) + φ_v(s)·g + e,   g ~ N(0, I_k),   e ~ N(0, d_v(s)) at every token,

with tables μ, φ, d on a regular grid of the index, interpolated between; d holds measurement noise and what k factors
miss. Given observed tokens o and y = x + λ ε at the latent ones, g is normal with precision and mean

    P = I + Φ_oᵀ D_o⁻¹ Φ_o + Φ_lᵀ (D_l + λ²)⁻¹ Φ_l,   ĝ = P⁻¹ (Φ_oᵀ D_o⁻¹ (x_o − μ_o) + Φ_lᵀ (D_l + λ²)⁻¹ (y − μ_l)),

and so is x: a k × k system a row and noise level, whatever the number of tokens. Only first and second moments are
used, so that E|x − x̂|² is what the variance says for every law with the moments of this factor model. Where whitened
values are jointly Gaussian (linear simulators and Gaussian-process functions, unless whitening bends them by an asinh
tail) x̂ is exact; elsewhere a network corrects it (denoise.py). At high noise every denoiser is nearly linear
(arXiv 2412.09726).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fsimformer.grids import stencil
from fsimformer.tokens import Streams, TokenBatch

FLOOR = 1e-6  # of d: a sampler resolves no smaller variance


@dataclass(frozen=True)
class Grid:
    """Where a function's rows lie in the tables: token id, positions of its dims, points along each, first row."""

    id: int
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Given:
    """A row's Gaussian given its observed tokens, float64.

    Args:
        precision, shift: (B, k, k) and (B, k), of g given the observed tokens: P without latents, and P ĝ.
        mean, loading, own: (B, n_a), (B, n_a, k), (B, n_a): μ, φ, d of the active tokens; φ = 0 where observed.
    """

    precision: Tensor
    shift: Tensor
    mean: Tensor
    loading: Tensor
    own: Tensor


class FactorModel(nn.Module):
    """Tables of μ, φ and d, and the conditionals that follow from them.

    Args:
        scalars: (n_ids, k + 2): φ, μ, d of ids that are no functions; functions and what the model leaves alone have
            φ = μ = 0, d = 1.
        table: (rows, k + 2): those of functions, each on its own grid over [−1, 1], in C order.
        grids: where each function's rows lie.
    """

    scalars: Tensor
    table: Tensor

    def __init__(self, scalars: Tensor, table: Tensor, grids: Sequence[Grid]) -> None:
        super().__init__()
        self.register_buffer("scalars", scalars)
        self.register_buffer("table", table)
        self.grids = tuple(grids)

    @property
    def knows(self) -> Tensor:
        """(n_ids,) bool, ids that are not left alone."""
        out = self.scalars[:, :-2].any(1)
        out[[grid.id for grid in self.grids]] = True
        return out

    def shape(self) -> dict[str, Any]:
        """What `empty_factors` needs besides the number of ids, as JSON types."""
        grids = [{"id": g.id, "dims": list(g.dims), "shape": list(g.shape)} for g in self.grids]
        return {"rank": self.scalars.shape[1] - 2, "grids": grids}

    def at(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """φ (B, n, k), μ (B, n) and d (B, n) of the tokens, float64."""
        out = self.scalars[batch.variable]
        for grid in self.grids:
            mine = batch.variable == grid.id
            if bool(mine.any()):
                out[mine] = self._read(grid, batch.index[mine][:, list(grid.dims)])
        out = out.double()
        return out[..., :-2], out[..., -2], out[..., -1].clamp(min=FLOOR)

    def _read(self, grid: Grid, at: Tensor) -> Tensor:
        """(n, k + 2) at points (n, d). Beyond the range, by δ from the end e, the tables know nothing of x(e + δ):

        ρφ(e), μ(e), d(e) + (1 − ρ²)|φ(e)|²,    ρ = correlation of x(e) and x(e − δ) but for d,

        as if correlations went on beyond the end as they are before it. φ(e) alone would take x(e + δ) for x(e).
        """
        rows, end = self.table[grid.start :], at.clamp(-1, 1)

        def read(points: Tensor) -> Tensor:
            return torch.stack([w[:, None] * rows[place] for place, w in stencil(grid.shape, points)]).sum(0)

        out = read(end)
        beyond = (at != end).any(1)
        if bool(beyond.any()):
            loading = out[beyond, :-2]
            before = read((2 * end - at)[beyond].clamp(-1, 1))[:, :-2]
            rho = torch.nn.functional.cosine_similarity(loading, before, dim=1)[:, None]
            out[beyond, -1] += ((1 - rho**2) * loading**2).sum(1)
            out[beyond, :-2] = rho * loading
        return out

    def given(self, streams: Streams) -> Given:
        """Condition on the observed tokens of both streams."""
        k, b = self.scalars.shape[1] - 2, streams.active.shape[0]
        precision = torch.eye(k, dtype=torch.float64, device=self.table.device).expand(b, k, k)
        shift = precision.new_zeros(b, k)
        for batch in (streams.frozen, streams.active):
            loading, mean, own = self.at(batch)
            weight = batch.observed / own
            precision = precision + loading.mT @ (loading * weight[..., None])
            shift = shift + (loading.mT @ (weight * (batch.value - mean))[..., None])[..., 0]
        return Given(precision, shift, mean, loading * batch.latent[..., None], own)

    def denoise(self, y: Tensor, ratio: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """x̂ and its mean square error, both (B, R, n_a) in the dtype of y, from y (B, R, n_a) and λ (B, R)."""
        b, r, n = y.shape
        one = r > 1 and bool((ratio == ratio[:, :1]).all())  # all draws stand at one level: one system serves them
        level = (ratio[:, :1] if one else ratio).double() ** 2
        own, loading = given.own[:, None], given.loading
        weight = 1 / (own + level[..., None])  # (B, R or 1, n_a)
        precision = given.precision[:, None] + torch.einsum("bnk,brn,bnl->brkl", loading, weight, loading)
        root = torch.linalg.cholesky(precision)
        centred = y.double() - given.mean[:, None]
        shift = given.shift[:, None] + torch.einsum("bnk,brn->brk", loading, weight * centred)
        if one:  # the draws as columns of one right-hand side
            g = torch.cholesky_solve(shift.mT, root[:, 0]).mT
        else:
            g = torch.cholesky_solve(shift[..., None], root)[..., 0]
        fit = torch.einsum("bnk,brk->brn", loading, g)
        spread = torch.linalg.solve_triangular(root, loading.mT[:, None], upper=False).square().sum(-2)
        share = own * weight  # of what is left, how much is the token's own
        x_hat = given.mean[:, None] + fit + share * (centred - fit)
        error = spread * (1 - share) ** 2 + share * level[..., None]
        return x_hat.to(y), error.expand(b, r, n).to(y)


def empty_factors(n_ids: int, rank: int, grids: Sequence[Mapping[str, Any]]) -> FactorModel:
    """A model of this `shape`, its tables 0, for a file to fill."""
    placed, start = list[Grid](), 0
    for grid in grids:
        placed.append(Grid(int(grid["id"]), tuple(grid["dims"]), tuple(grid["shape"]), start))
        start += math.prod(placed[-1].shape)
    return FactorModel(torch.zeros(n_ids, rank + 2), torch.zeros(start, rank + 2), placed)
