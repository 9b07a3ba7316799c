"""Counts about a mean: negative binomial, which is Poisson at a rate that differs from reading to reading.

    x ~ Poisson(λ),   λ ~ Gamma with mean m and variance (s m)²:   E x = m,   Var x = m + (s m)²
    log p(x) = log Γ(x + k) − log Γ(k) − log Γ(x + 1) + k log(k/(k + m)) + x log(m/(k + m)),   k = 1/s²

s is the relative standard deviation of large counts, as of log-normal noise; small ones are Poisson. 0 is a count like
any other, so the working scale is log(1 + x).
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-300  # a mean below it cannot be told from none, and has a logarithm


def draw_counts(mean: Tensor, sd: Tensor | float, generator: torch.Generator) -> Tensor:
    """Counts about `mean` (…) with relative sd `sd`, broadcast against it; float64.

    Means below 0, the rounding error of a path that touches it, count as 0. The first rows do not depend on how many
    follow: gammas and Poisson counts are drawn one after another, each kind from a generator of its own.
    """
    mean = mean.double().clamp(min=0.0)
    size = (torch.as_tensor(sd, dtype=torch.float64, device=mean.device) ** -2.0).expand(mean.shape)
    seeds = torch.randint(2**62, (2,), generator=generator, device=generator.device).tolist()
    first, second = (torch.Generator(device=generator.device).manual_seed(seed) for seed in seeds)
    rate = mean * torch._standard_gamma(size.contiguous(), generator=first) / size
    return torch.poisson(rate, generator=second)


def count_moments(mean: Tensor, sd: Tensor | float) -> tuple[Tensor, Tensor]:
    """Mean and variance of log(1 + x + U(−½, ½)) of counts x about `mean`, to second order in their noise.

    With v = m + (s m)² + 1/12:  log(1 + m) − ½ v/(1 + m)²,   v/(1 + m)².
    """
    mean = mean.clamp(min=0.0)
    relative = (mean + (sd * mean) ** 2 + 1 / 12) / (1 + mean) ** 2
    return torch.log1p(mean) - relative / 2, relative


def counts_log_prob(x: Tensor, mean: Tensor, sd: Tensor | float) -> Tensor:
    """log p(x) of counts about `mean` with relative sd `sd`, broadcast against each other; −inf below 0."""
    size, mean = torch.as_tensor(sd, dtype=torch.float64) ** -2.0, mean.clamp(min=TINY)
    log_total = (size + mean).log()
    ways = torch.lgamma(x + size) - torch.lgamma(size) - torch.lgamma(x + 1)
    return torch.where(x < 0, -torch.inf, ways + size * (size.log() - log_total) + x * (mean.log() - log_total))
