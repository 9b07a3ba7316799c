"""Stationary covariance functions of an index: how two values of a random function hang together.

With r² = Σ_d ((s_d − s'_d)/ℓ_d)², unit variance and smoothness ν:

    ν = ½     exp(−r)                                              continuous, nowhere differentiable
    ν = 3/2   (1 + √3 r) exp(−√3 r)                                once differentiable
    ν = 5/2   (1 + √5 r + 5r²/3) exp(−√5 r)                        twice
    ν = ∞     exp(−r²/2), squared exponential                      always

The first three are Matérn's (Rasmussen & Williams 2006, ch. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMOOTHNESS = (0.5, 1.5, 2.5, math.inf)


@dataclass(frozen=True)
class Kernel:
    """k(s, s') of unit variance.

    Args:
        smoothness: ν, one of 0.5, 1.5, 2.5 (Matérn), inf (squared exponential).
        lengthscale: ℓ in units of the index, one for all dims or one a dim.

    Raises:
        ValueError: another smoothness, a lengthscale that is not positive.
    """

    smoothness: float = math.inf
    lengthscale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if self.smoothness not in SMOOTHNESS:
            raise ValueError(f"Kernel: unknown smoothness {self.smoothness!r}. Choices: {list(SMOOTHNESS)}.")
        if not isinstance(self.lengthscale, (int, float)):
            object.__setattr__(self, "lengthscale", tuple(float(x) for x in self.lengthscale))
        if not all(0 < x < math.inf for x in self.lengthscales(1)):
            raise ValueError(f"Kernel: expected positive, finite lengthscales, got {self.lengthscale}.")

    def lengthscales(self, n_dims: int) -> tuple[float, ...]:
        """One a dim.

        Raises:
            ValueError: there are several, and not `n_dims`.
        """
        if isinstance(self.lengthscale, tuple):
            if n_dims != 1 and len(self.lengthscale) != n_dims:
                raise ValueError(f"Kernel: {n_dims} index dims, but lengthscales {self.lengthscale}.")
            return self.lengthscale
        return (float(self.lengthscale),) * n_dims

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Covariances (…, n, m) of the values at a (…, n, D) and b (…, m, D)."""
        scale = torch.tensor(self.lengthscales(a.shape[-1]), dtype=a.dtype, device=a.device)
        return of_distance(self.smoothness, torch.cdist(a / scale, b / scale, compute_mode=_EXACT))

    def frequencies(self, n: int, n_dims: int) -> Tensor:
        """(n, n_dims) float64: quasi-random points of the spectral density, in rad per unit of the index.

        k(s, s') ≈ mean over ω of cos ω·(s − s'). For Matérn ω is Student's t with 2ν degrees of freedom. On a line: its
        quantiles, evenly spaced. In several dims: normals over the root of a mean of 2ν squared normals, all from a
        Sobol sequence.
        """
        scale = torch.tensor(self.lengthscales(n_dims), dtype=torch.float64)
        degrees = 0 if math.isinf(self.smoothness) else round(2 * self.smoothness)
        if n_dims == 1:  # ω and −ω are one frequency: the positive ones hold all
            u = (torch.arange(n, dtype=torch.float64) + 0.5) / (2 * n) + 0.5
            return _student_quantile(u, degrees)[:, None] / scale
        u = torch.quasirandom.SobolEngine(n_dims + degrees).draw(n, dtype=torch.float64)
        u = u + 0.5 / 2 ** math.ceil(math.log2(max(2, n)))  # the sequence starts at 0, where a normal has no quantile
        u[:, 0] = 0.5 + 0.5 * u[:, 0]
        z = torch.special.ndtri(u)
        if degrees:
            z = z[:, :n_dims] / z[:, n_dims:].square().mean(1, keepdim=True).sqrt()
        return z / scale


def _student_quantile(u: Tensor, degrees: int) -> Tensor:
    """Quantiles at u > ½ of Student's t with 1, 3 or 5 degrees of freedom, by bisection; 0 stands for a normal."""
    if degrees == 0:
        return torch.special.ndtri(u)
    lower, upper = torch.zeros_like(u), torch.full_like(u, math.pi / 2)
    for _ in range(60):  # in the angle a = atan(x/√degrees), where the distribution function is elementary
        a = (lower + upper) / 2
        c, s = a.cos(), a.sin()
        more = {1: torch.zeros_like(a), 3: s * c, 5: s * c * (1 + 2 * c * c / 3)}[degrees]
        f = 0.5 + (a + more) / math.pi
        lower, upper = torch.where(f < u, a, lower), torch.where(f < u, upper, a)
    return math.sqrt(degrees) * lower.tan()


_EXACT = "donot_use_mm_for_euclid_dist"  # the fast way loses near-duplicates to cancellation


def of_distance(smoothness: float, r: Tensor) -> Tensor:
    """k at scaled distances r >= 0, of any shape."""
    if math.isinf(smoothness):
        return torch.exp(-0.5 * r * r)
    x = math.sqrt(2 * smoothness) * r
    polynomial = {0.5: torch.ones_like(x), 1.5: 1 + x, 2.5: 1 + x + x * x / 3}[smoothness]
    return polynomial * torch.exp(-x)
