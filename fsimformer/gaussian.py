"""The Gaussian that has the simulations' means and covariances: its conditional mean is the best linear denoiser.

Whitened values follow a factor model over everything that a simulator draws, functions at any point among them,

    x(v, s) = μ_v(s) + φ_v(s)·g + e,   g ~ N(0, I_k),   e ~ N(0, d_v(s)) at every token,

with tables μ, φ, d on a regular grid of the index, interpolated between; d holds measurement noise and what k factors
miss. Given observed tokens o and y = x + λ ε at the latent ones, g is normal with precision and mean

    P = I + Φ_oᵀ D_o⁻¹ Φ_o + Φ_lᵀ (D_l + λ²)⁻¹ Φ_l,   ĝ = P⁻¹ (Φ_oᵀ D_o⁻¹ (x_o − μ_o) + Φ_lᵀ (D_l + λ²)⁻¹ (y − μ_l)),

and so is x: a k × k system a row and noise level, whatever the number of tokens. Only first and second moments are
used, so that E|x − x̂|² is what the variance says for every law with the moments of this factor model. Where whitened
values are jointly Gaussian (linear simulators, Gaussian-process functions) x̂ is exact; elsewhere a network corrects it
(denoise.py). At high noise every denoiser is nearly linear (arXiv 2412.09726).

A function that whitening bends, z = T(u) = tail·asinh(u/tail), may follow the model in u instead (moments.py chooses):
where the tail draws in a range that is wide beside the noise, u was the Gaussian one. Observed values are unbent,
u = T⁻¹(z); a latent one is u ~ N(m, s²) given the observed tokens, and T is replaced by the line that is best under
this normal, with what it misses in the token's own part (statistical linearisation; by Stein's lemma b = E T'(u)):

    z ≈ E T(u) + b (u − m) + r,   b = E[(u − m) T(u)] / s²,   r ~ N(0, Var T(u) − b² s²),

so that at high noise x̂ = E T(u) and its error Var T(u): exact where u is jointly Gaussian.

All is worked out in float64, on the CPU where a device has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from fsimformer.grids import stencil
from fsimformer.tokens import Streams, TokenBatch

FLOOR = 1e-6  # of d: a sampler resolves no smaller variance
_SINGLE = ("mps",)  # devices without float64


def exact_device(device: torch.device) -> torch.device:
    """Where float64 of this device's tensors is worked out: there, or on the CPU."""
    return torch.device("cpu") if device.type in _SINGLE else device


@dataclass(frozen=True)
class Grid:
    """Where a function's rows lie in the tables: token id, positions of its dims, points along each, first row.

    `tail`: of its whitening T, if the rows are those of u; None = of the whitened values themselves.
    """

    id: int
    dims: tuple[int, ...]
    shape: tuple[int, ...]
    start: int
    tail: float | None = None


@dataclass(frozen=True)
class Given:
    """A row's Gaussian given its observed tokens, float64, on the `exact_device`.

    Args:
        precision, shift: (B, k, k) and (B, k), of g given the observed tokens: P without latents, and P ĝ.
        mean, loading, own: (B, n_a), (B, n_a, k), (B, n_a): μ, φ, d of the active tokens' whitened values; φ = 0 where
            observed.
    """

    precision: Tensor
    shift: Tensor
    mean: Tensor
    loading: Tensor
    own: Tensor

    def detached(self) -> Given:
        """Without a gradient."""
        return Given(*(getattr(self, f.name).detach() for f in fields(self)))


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
        tails = {str(g.id): g.tail for g in self.grids if g.tail is not None}
        return {"rank": self.scalars.shape[1] - 2, "grids": grids} | ({"tails": tails} if tails else {})

    def at(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """φ (B, n, k), μ (B, n) and d (B, n) of the tokens, float64; of u, where the tables are.

        The batch is on the `exact_device` of the tables.
        """
        scalars, table = self.scalars.to(batch.value.device), self.table.to(batch.value.device)
        out = scalars[batch.variable]
        for grid in self.grids:
            mine = batch.variable == grid.id
            if bool(mine.any()):
                out[mine] = _read(table[grid.start :], grid.shape, batch.index[mine][:, list(grid.dims)])
        out = out.double()
        return out[..., :-2], out[..., -2], out[..., -1].clamp(min=FLOOR)

    def information(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """What observed tokens add to P and to P ĝ, (B, k, k) and (B, k): sums over tokens."""
        phi, mu, d = self.at(batch)
        value, bend = batch.value.double(), self._tails(batch)
        if bend is not None:  # observed values as the tables have them
            u = bend * torch.sinh(value / bend.masked_fill(bend == 0, 1.0))
            value = torch.where((bend > 0) & batch.observed, u, value)
        weight = batch.observed / d
        return phi.mT @ (phi * weight[..., None]), (phi.mT @ (weight * (value - mu))[..., None])[..., 0]

    def given(self, streams: Streams, before: tuple[Tensor, Tensor] | None = None) -> Given:
        """Condition on the observed tokens of both streams, and on the `information` of others that all rows share."""
        k, b, device = self.scalars.shape[1] - 2, streams.active.shape[0], exact_device(self.table.device)
        if device != self.table.device:
            streams = streams.to(device)
        precision = torch.eye(k, dtype=torch.float64, device=device).expand(b, k, k)
        shift = precision.new_zeros(b, k)
        if before is not None:
            precision, shift = precision + before[0].to(device), shift + before[1].to(device)
        frozen, active = streams.frozen, streams.active
        (loading, mean, own), tail = self.at(active), self._tails(active)
        for batch in (frozen, active):
            more, toward = self.information(batch)
            precision, shift = precision + more, shift + toward
        loading = loading * active.latent[..., None]
        if tail is not None:
            root = torch.linalg.cholesky(precision)
            centre = mean + (loading @ torch.cholesky_solve(shift[..., None], root))[..., 0]
            spread = torch.linalg.solve_triangular(root, loading.mT, upper=False).square().sum(-2) + own
            mean, loading, own = _bent(tail * active.latent, centre, spread.sqrt(), mean, loading, own)
        return Given(precision, shift, mean, loading, own)

    def _tails(self, batch: TokenBatch) -> Tensor | None:
        """(B, n) float64: the tail of each token that the tables hold as u, 0 of others; None = there are none."""
        tails = {grid.id: grid.tail for grid in self.grids if grid.tail is not None}
        if not tails:
            return None
        out = torch.zeros_like(batch.value, dtype=torch.float64)
        for id, tail in tails.items():
            out[batch.variable == id] = tail
        return out

    @staticmethod
    def denoise(y: Tensor, ratio: Tensor, given: Given) -> tuple[Tensor, Tensor]:
        """x̂ and its mean square error, both (B, R, n_a) in the dtype of y, from y (B, R, n_a) and λ (B, R or 1)."""
        b, r, n = y.shape
        like, y, ratio = y, y.to(given.mean.device).double(), ratio.to(given.mean.device).double()
        one = r > 1 and (
            ratio.shape[1] == 1 or bool((ratio == ratio[:, :1]).all())
        )  # all draws stand at one level: one system serves them
        level = (ratio[:, :1] if one else ratio) ** 2
        own, loading = given.own[:, None], given.loading
        weight = 1 / (own + level[..., None])  # (B, R or 1, n_a)
        precision = given.precision[:, None] + torch.einsum("bnk,brn,bnl->brkl", loading, weight, loading)
        root = torch.linalg.cholesky(precision)
        centred = y - given.mean[:, None]
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
        return x_hat.to(like), error.expand(b, r, n).to(like)


def _read(rows: Tensor, shape: tuple[int, ...], at: Tensor) -> Tensor:
    """A table's rows (points, k + 2) read at points (n, d): (n, k + 2).

    Beyond the range, by δ from the end e, the tables know nothing of x(e + δ):

        ρφ(e), μ(e), d(e) + (1 − ρ²)|φ(e)|²,    ρ = correlation of x(e) and x(e − δ) but for d,

    as if correlations went on beyond the end as they are before it. φ(e) alone would take x(e + δ) for x(e).
    """
    end = at.clamp(-1, 1)

    def read(points: Tensor) -> Tensor:
        return torch.stack([w[:, None] * rows[place] for place, w in stencil(shape, points)]).sum(0)

    out = read(end)
    beyond = (at != end).any(1)
    if bool(beyond.any()):
        loading = out[beyond, :-2]
        before = read((2 * end - at)[beyond].clamp(-1, 1))[:, :-2]
        rho = torch.nn.functional.cosine_similarity(loading, before, dim=1)[:, None]
        out[beyond, -1] += ((1 - rho**2) * loading**2).sum(1)
        out[beyond, :-2] = rho * loading
    return out


def _bent(
    tail: Tensor, centre: Tensor, spread: Tensor, mean: Tensor, loading: Tensor, own: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """μ, φ, d of z = T(u) by the best line under u ~ N(centre, spread²), where `tail` (B, n) is not 0."""
    mine = tail > 0
    a, m, s = tail[mine][:, None], centre[mine][:, None], spread[mine][:, None]
    node = torch.linspace(-6, 6, 97, dtype=torch.float64, device=tail.device)  # T is smooth: even steps converge fast
    weight = torch.softmax(-0.5 * node**2, 0)
    z = a * torch.asinh((m + s * node) / a)
    average = z @ weight
    slope = (z * node) @ weight / s[:, 0]
    left = (z - average[:, None]).square() @ weight - (slope * s[:, 0]) ** 2
    mean, loading, own = mean.clone(), loading.clone(), own.clone()
    mean[mine] = average + slope * (mean[mine] - m[:, 0])
    loading[mine] = slope[:, None] * loading[mine]
    own[mine] = (slope**2 * own[mine] + left.clamp(min=0)).clamp(min=FLOOR)
    return mean, loading, own


def empty_factors(
    n_ids: int, rank: int, grids: Sequence[Mapping[str, Any]], tails: Mapping[str, float] | None = None
) -> FactorModel:
    """A model of this `shape`, its tables 0, for a file to fill."""
    placed, start = list[Grid](), 0
    for grid in grids:
        tail = (tails or {}).get(str(grid["id"]))
        placed.append(Grid(int(grid["id"]), tuple(grid["dims"]), tuple(grid["shape"]), start, tail))
        start += math.prod(placed[-1].shape)
    return FactorModel(torch.zeros(n_ids, rank + 2), torch.zeros(start, rank + 2), placed)
