"""The prior truncated to where a posterior has its mass, and exact draws of it (TSNPE, arXiv 2210.04815).

Parameters are taken to u = Φ(z) ∈ (0, 1)^d, where the prior is uniform (design.md, D4). A region is

    R = {u : s(u) ≥ τ},   s = 1/M Σ_j N(u; u_j, S),   τ = the ε quantile of s over the draws u_j,

s a kernel density of M posterior draws (each left out of its own s), S the covariance of a draw's differences from its
nearest neighbours. Whatever fixed function s is, a fresh posterior draw lies outside R with probability ε up to 1/M, so
truncation loses nothing but ε; a better s only makes R smaller. Hence kernels: the network's own density is an ODE a
point, 3 to 20 ms of a core, and tens of thousands of points are to be judged. On the exact posteriors of two_moons and
slcp this R holds 1.3–2 and 8–10 % of the prior at ε = 1e-3; the highest-density region of slcp holds 2.5–3 %.

The truncated prior, uniform on R, is drawn by rejection from the prior, or where that would take too many candidates by
rejection from s: a draw u of s is kept with probability τ/s(u), at most 1 inside R. Both are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NEIGHBOURS, _ROUNDS = 5, 2  # of the kernel's covariance: how many, and how often their distances are measured anew
_ENTRIES = 1_000_000  # of a table of distances; bounds memory
_FIRST = 8_192  # candidates that say whether rejection from the prior is worth it
_HOPELESS = 10_000_000  # proposals of the kernels


@dataclass(frozen=True)
class Region:
    """{u : log s(u) ≥ threshold}.

    Args:
        centres: (M, d) draws in units of the kernel, factor⁻¹ u.
        factor: (d, d) lower Cholesky factor of the kernel's covariance S.
        threshold: log τ; −inf = everything.
    """

    centres: Tensor
    factor: Tensor
    threshold: float

    def log_density(self, u: Tensor) -> Tensor:
        """log s of u (n, d), (n,)."""
        return _log_kernels(_units(u, self.factor), self.centres) - float(self.factor.diagonal().log().sum())

    def contains(self, u: Tensor) -> Tensor:
        """(n,) bool."""
        if self.threshold == -math.inf:
            return torch.ones(len(u), dtype=torch.bool)
        return self.log_density(u) >= self.threshold


@dataclass(frozen=True)
class Inside:
    """Draws of the prior inside regions.

    Args:
        u: (n, d).
        method: "rejection" from the prior, or "kernels": rejection from the last region's s.
        share: estimate of the regions' mass under the prior.
        candidates: points that were judged.
    """

    u: Tensor
    method: str
    share: float
    candidates: int


def fit_region(u: Tensor, epsilon: float) -> Region:
    """The region of draws u (M, d) in (0, 1)^d that leaves out the share `epsilon` of them; 0 = everything.

    Raises:
        ValueError: epsilon outside [0, 1), fewer than 50 draws, or draws that do not vary.
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon: expected 0 <= epsilon < 1, the posterior mass left out; got {epsilon}.")
    if len(u) < 50:
        raise ValueError(f"truncation: expected at least 50 draws of the posterior, got {len(u)}.")
    u = u.double()
    centred = u - u.mean(0)
    spread = centred.T @ centred / len(u)
    for _ in range(_ROUNDS):
        spread = _neighbour_covariance(u, _factor(spread))
    factor = _factor(spread)
    centres = _units(u, factor)
    if epsilon == 0:
        return Region(centres, factor, -math.inf)
    own = _log_kernels(centres, centres, left_out=True) - float(factor.diagonal().log().sum())
    return Region(centres, factor, float(own.sort().values[int(epsilon * len(u))]))


def inside(regions: Sequence[Region], u: Tensor) -> Tensor:
    """(n,) bool: u (n, d) lies in all regions; each judges only what those before it have kept."""
    kept = torch.arange(len(u))
    for region in regions:
        kept = kept[region.contains(u[kept])]
    out = torch.zeros(len(u), dtype=torch.bool)
    out[kept] = True
    return out


def draw_inside(
    regions: Sequence[Region], n: int, d: int, generator: torch.Generator, candidates: int = 100_000
) -> Inside:
    """n independent draws of the uniform law on (0, 1)^d inside all regions.

    Args:
        candidates: draws of the prior that rejection may be expected to take; beyond, the kernels propose.

    Raises:
        ValueError: hardly a point lies in all regions.
    """
    first = torch.rand(_FIRST, d, generator=generator, dtype=torch.float64)
    kept = [first[inside(regions, first)]]
    have, judged = len(kept[0]), _FIRST
    everything = all(region.threshold == -math.inf for region in regions)
    if everything or have * candidates >= n * _FIRST:
        while have < n:
            more = torch.rand(_FIRST, d, generator=generator, dtype=torch.float64)
            kept.append(more[inside(regions, more)])
            have, judged = have + len(kept[-1]), judged + _FIRST
        return Inside(torch.cat(kept)[:n], "rejection", have / judged, judged)
    return from_kernels(regions, n, d, generator)


def from_kernels(
    regions: Sequence[Region], n: int, d: int, generator: torch.Generator, most: int = _HOPELESS
) -> Inside:
    """As `draw_inside`, by rejection from the last region's s; at most `most` proposals."""
    last, earlier = regions[-1], regions[:-1]
    kept: list[Tensor] = []
    have, judged, inverse = 0, 0, 0.0
    while have < n:
        if judged >= most:
            raise ValueError(f"truncation: {have} of {judged} candidates lie in the region; raise epsilon.")
        chosen = torch.randint(len(last.centres), (_FIRST,), generator=generator)
        noise = torch.randn(_FIRST, d, generator=generator, dtype=torch.float64)
        u = (last.centres[chosen] + noise) @ last.factor.T
        judged += _FIRST
        u = u[((u > 0) & (u < 1)).all(1)]
        density = last.log_density(u)
        ok = density >= last.threshold
        u, density = u[ok], density[ok]
        ok = inside(earlier, u)
        u, density = u[ok], density[ok]
        inverse += float((-density).exp().sum())  # E_s[1_R/s] is the volume of R
        coin = torch.rand(len(u), generator=generator, dtype=torch.float64)
        kept.append(u[coin.log() < last.threshold - density])
        have += len(kept[-1])
    return Inside(torch.cat(kept)[:n], "kernels", inverse / judged, judged)


def _units(u: Tensor, factor: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(factor, u.double().T, upper=False).T


def _factor(covariance: Tensor) -> Tensor:
    """Cholesky factor, after a share of 1e-9 of every variance is added."""
    variance = covariance.diagonal()
    if not bool((variance > 0).all()):
        raise ValueError(
            "truncation: the posterior's draws do not vary in some parameter, or pile up at its prior's end."
        )
    return torch.linalg.cholesky(covariance + 1e-9 * torch.diag(variance))


def _chunks(x: Tensor, n: int) -> Sequence[Tensor]:
    return x.split(max(1, _ENTRIES // n)) if len(x) else [x]


def _neighbour_covariance(u: Tensor, factor: Tensor) -> Tensor:
    """Mean outer product of the differences between each draw and its nearest ones, nearest in units of `factor`."""
    y = _units(u, factor)
    total, start = u.new_zeros(u.shape[1], u.shape[1]), 0
    for part in _chunks(y, len(y)):
        near = torch.cdist(part, y).topk(_NEIGHBOURS + 1, largest=False).indices[:, 1:]
        difference = (u[near] - u[start : start + len(part), None]).flatten(0, 1)
        total, start = total + difference.T @ difference, start + len(part)
    return total / (_NEIGHBOURS * len(u))


def _log_kernels(y: Tensor, centres: Tensor, left_out: bool = False) -> Tensor:
    """log 1/M Σ_j N(y; c_j, I), (n,); `left_out`: y are the centres, and row j does without its own."""
    (m, d), middle = centres.shape, centres.mean(0)
    shifted = centres - middle  # far from 0 the difference of squares would lose digits
    half = -0.5 * shifted.square().sum(1)
    out, start = [], 0
    for part in _chunks(y, m):
        exponent = torch.addmm(half, part - middle, shifted.T) - 0.5 * (part - middle).square().sum(1, keepdim=True)
        if left_out:
            rows = torch.arange(len(part))
            exponent[rows, start + rows] = -torch.inf
        out.append(exponent.float().logsumexp(1).double())  # the sum of many exponentials, four times as fast
        start += len(part)
    return torch.cat(out) - math.log(m - left_out) - 0.5 * d * math.log(2 * math.pi)
