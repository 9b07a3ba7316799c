"""Counts about a mean: negative binomial, which is Poisson at a rate that differs from reading to reading.

    x ~ Poisson(λ),   λ ~ Gamma with mean m and variance (s m)²:   E x = m,   Var x = m + (s m)²
    log p(x) = log Γ(x + k) − log Γ(k) − log Γ(x + 1) + k log(k/(k + m)) + x log(m/(k + m)),   k = 1/s²

s is the relative standard deviation of large counts, as of log-normal noise; small ones are Poisson. 0 is a count like
any other, so the working scale is log(1 + x).

Quantiles of mixtures of such laws need P(Poisson(λ) <= x) many times: with a = x + 1 it is P(Gamma(a) > λ), and by
Wilson and Hilferty the cube root of a gamma variate is nearly normal,

    P(Poisson(λ) <= x) ≈ Φ(3 √a (1 − 1/(9a) − ∛(λ/a))),   wrong by less than .004 for x >= 1,

and exactly e^(−λ) for x = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RATES, _BLOCKS = 32, 128  # gamma variates of each sd; rates that stand for all those of a mixture
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
    """log p(x) of counts about `mean` with relative sd `sd`, broadcast against each other, float64; −inf below 0.

    Terms of the size of x log x cancel: in float32 a count of a million would leave no digit of their sum.
    """
    size = torch.as_tensor(sd, dtype=torch.float64, device=x.device) ** -2.0
    x, mean = x.double(), mean.double().clamp(min=TINY)
    log_total = (size + mean).log()
    ways = torch.lgamma(x + size) - torch.lgamma(size) - torch.lgamma(x + 1)
    return torch.where(x < 0, -torch.inf, ways + size * (size.log() - log_total) + x * (mean.log() - log_total))


def count_quantiles(mean: Tensor, sd: Tensor, p: Tensor) -> Tensor:
    """Quantiles of counts whose mean and relative sd are uncertain: the least x with F(x) >= p, (P, n) whole numbers.

    F(x) = E P(Poisson(m g) <= x) over means m, sds s, and g ~ Gamma with mean 1 and variance s², all of them at equally
    likely values.

    Args:
        mean: (M, n), equally likely means of each of n counts; M is a multiple of 4.
        sd: (S,), equally likely, the same for all.
        p: (P,) in (0, 1).
    """
    g = _gamma_quantiles(sd.double() ** -2.0)
    rates = mean.double().clamp(min=0.0)[:, None] * g.reshape(1, -1, 1)
    rate = rates.flatten(0, 1).sort(0).values.unflatten(0, (_BLOCKS, -1)).mean(1)
    least = torch.full((len(p), rate.shape[1]), -1.0, dtype=torch.float64, device=rate.device)  # F < p here
    most = (rate[-1] + 10 * rate[-1].sqrt() + 20).ceil().expand_as(least)
    while bool((((x := ((least + most) / 2).floor()) > least) & (x < most)).any()):  # beyond 2^53 numbers lie > 1 apart
        reached = _poisson_cdf(x[:, None], rate).mean(1) >= p[:, None]
        least, most = torch.where(reached, least, x), torch.where(reached, x, most)
    return most


def _poisson_cdf(x: Tensor, rate: Tensor) -> Tensor:
    """P(Poisson(rate) <= x) for whole x >= 0, as above."""
    a = x + 1
    cubes = torch.special.ndtr(3 * a.sqrt() * (1 - 1 / (9 * a) - (rate / a) ** (1 / 3)))
    return torch.where(x == 0, (-rate).exp(), cubes)


def _gamma_quantiles(size: Tensor) -> Tensor:
    """(S, _RATES): equally likely values of Gamma(k)/k for each k of `size` (S,), by bisection of log x."""
    p = (torch.arange(_RATES, dtype=torch.float64, device=size.device) + 0.5) / _RATES
    k = size[:, None].expand(-1, _RATES)
    low, high = torch.full_like(k, -700.0), (k + 20 * k.sqrt() + 20).log()
    for _ in range(70):  # 700 · 2^−70 is below rounding
        middle = (low + high) / 2
        above = torch.special.gammainc(k, middle.exp()) >= p
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return high.exp() / k
