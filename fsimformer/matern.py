"""Matérn processes on a line in O(n): exact draws and log densities at irregular, unsorted, repeated points.

A Matérn process with ν = p − ½ is the first component of a linear SDE in p dimensions (Hartikainen & Särkkä 2010):

    (d/ds + λ)^p f = white noise,   λ = √(2ν)/ℓ,   x(s) = (f, f'/λ, …) Markov.

In u = λ·Δs the transition is x(s + Δs) = A(u) x(s) + N(0, Q(u)) with A = exp(uF) and Q(u) = q ∫₀ᵘ v vᵀ ds, v the last
column of exp(sF). Its entries are polynomials times exp(−2s): incomplete gamma functions, precise however small u is,
where P∞ − A P∞ Aᵀ would lose every digit (Q₁₁ ~ u⁵ for ν = 5/2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fsimformer.kernels import Kernel
from fsimformer.seeds import normals

# last column v of exp(sF) without its factor exp(−s), as coefficients of 1, s, s²; and q, which makes the variance 1
_COLUMN = {
    0.5: ((1.0,),),
    1.5: ((0.0, 1.0), (1.0, -1.0)),
    2.5: ((0.0, 0.0, 0.5), (0.0, 1.0, -0.5), (1.0, -2.0, 0.5)),
}
_DENSITY = {0.5: 2.0, 1.5: 4.0, 2.5: 16 / 3}


@dataclass(frozen=True)
class MaternNoise:
    """ε(s) of unit variance with Matérn covariance, on one index dim.

    Args:
        smoothness: ν, one of 0.5, 1.5, 2.5.
        lengthscale: ℓ in units of the index.

    Raises:
        ValueError: another smoothness, a lengthscale that is not positive.
    """

    smoothness: float = 1.5
    lengthscale: float = 1.0

    def __post_init__(self) -> None:
        if self.smoothness not in _COLUMN:
            raise ValueError(f"MaternNoise: unknown smoothness {self.smoothness!r}. Choices: {list(_COLUMN)}.")
        if not 0 < self.lengthscale < math.inf:
            raise ValueError(f"MaternNoise: expected a positive, finite lengthscale, got {self.lengthscale}.")

    def sample(self, index: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """index (L, 1) -> n draws (n, L), float64; repeated points have one value, more draws change none.

        Raises:
            ValueError: an index of several dims.
        """
        points, place = self._sorted(index)
        p = len(_COLUMN[self.smoothness])
        move, spread = self._transitions(points)
        z = normals(n, len(points) * p, generator).view(n, len(points), p).double().to(index.device)
        state = z[:, 0] @ _root(self._stationary(index.device)).T
        out = torch.empty(n, len(points), dtype=torch.float64, device=index.device)
        out[:, 0] = state[:, 0]
        root = _root(spread)
        for i in range(1, len(points)):
            state = state @ move[i - 1].T + z[:, i] @ root[i - 1].T
            out[:, i] = state[:, 0]
        return out[:, place]

    def log_prob(self, index: Tensor, value: Tensor) -> Tensor:
        """log density of value (…, L) at index (L, 1), float64 (…), by a Kalman filter without measurement noise.

        Repeated points carry one number: the density is that of the distinct points, −∞ where values at one point
        differ by more than 1e-6.

        Raises:
            ValueError: an index of several dims.
        """
        points, place = self._sorted(index)
        first = torch.full_like(points, len(place), dtype=torch.long).scatter_reduce(
            0, place, torch.arange(len(place), device=place.device), "amin"
        )
        value = value.double()
        y = value[..., first]
        agree = ((value - y[..., place]).abs() <= 1e-6).all(-1)
        move, spread = self._transitions(points)
        p = len(_COLUMN[self.smoothness])
        mean, cov = y.new_zeros(*y.shape[:-1], p), self._stationary(index.device)
        total = torch.zeros(y.shape[:-1], dtype=torch.float64, device=y.device)
        for i in range(len(points)):
            if i:
                mean, cov = mean @ move[i - 1].T, move[i - 1] @ cov @ move[i - 1].T + spread[i - 1]
            error, variance = y[..., i] - mean[..., 0], cov[0, 0]
            total = total - 0.5 * (error**2 / variance + torch.log(2 * math.pi * variance))
            mean = mean + error[..., None] * (cov[:, 0] / variance)
            cov = cov - torch.outer(cov[:, 0], cov[0]) / variance
            cov[0], cov[:, 0] = 0.0, 0.0  # f is known here: rounding must not say otherwise
        return torch.where(agree, total, -torch.inf)

    def times_covariance(self, index: Tensor, g: Tensor) -> Tensor:
        """K g for g (…, L), in O(L²)."""
        kernel = Kernel(self.smoothness, self.lengthscale)
        return g @ kernel(index.double(), index.double()).to(g.dtype)

    def _sorted(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct points in order, and the place of every given point among them."""
        if index.dim() != 2 or index.shape[1] != 1:
            raise ValueError(f"MaternNoise: expected an index of shape (L, 1), one dim, got {tuple(index.shape)}.")
        points, place = torch.unique(index[:, 0].double(), sorted=True, return_inverse=True)
        return points, place

    def _stationary(self, device: torch.device) -> Tensor:
        """Covariance of the state at any single point, (p, p)."""
        return self._spread(torch.full((1,), torch.inf, dtype=torch.float64, device=device))[0]

    def _transitions(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """A and Q, each (L − 1, p, p)."""
        u = points.diff() * math.sqrt(2 * self.smoothness) / self.lengthscale
        return self._move(u), self._spread(u)

    def _move(self, u: Tensor) -> Tensor:
        """exp(uF), F the companion matrix of (d/du + 1)^p: (n, p, p)."""
        one, e = torch.ones_like(u), torch.exp(-u)
        rows = {
            0.5: [[one]],
            1.5: [[1 + u, u], [-u, 1 - u]],
            2.5: [
                [1 + u + u * u / 2, u * (1 + u), u * u / 2],
                [-u * u / 2, 1 + u - u * u, u * (1 - u / 2)],
                [u * (u / 2 - 1), u * (u - 3), 1 - 2 * u + u * u / 2],
            ],
        }[self.smoothness]
        return torch.stack([torch.stack(row, -1) for row in rows], -2) * e[:, None, None]

    def _spread(self, u: Tensor) -> Tensor:
        """q ∫₀ᵘ v vᵀ exp(−2s) ds: (n, p, p); u = ∞ gives the stationary covariance."""
        column = _COLUMN[self.smoothness]
        degree = 2 * len(column) - 1
        k = torch.arange(degree, dtype=torch.float64, device=u.device)
        # ∫₀ᵘ s^k exp(−2s) ds = k!/2^{k+1} · P(k + 1, 2u)
        moments = torch.special.gammainc(k + 1, 2 * u[:, None]) * torch.exp(torch.lgamma(k + 1)) / 2 ** (k + 1)
        out = u.new_zeros(len(u), len(column), len(column))
        for i, a in enumerate(column):
            for j, b in enumerate(column):
                for m, x in enumerate(a):
                    for n, y in enumerate(b):
                        out[:, i, j] += x * y * moments[:, m + n]
        return _DENSITY[self.smoothness] * out


def _root(spread: Tensor) -> Tensor:
    """Cholesky factor of (…, p, p); scaled to a unit diagonal first, for its entries differ by powers of u."""
    scale = spread.diagonal(dim1=-2, dim2=-1).sqrt()
    safe = torch.where(scale > 0, scale, 1.0)
    unit = spread / safe[..., :, None] / safe[..., None, :]
    return torch.linalg.cholesky(unit) * safe[..., :, None]
