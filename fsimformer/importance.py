"""Importance weights: from draws of an approximate posterior to the exact one, where the likelihood is known.

    w_i ∝ p(x | θ_i) p(θ_i) / q(θ_i | x),   Σ w_i = 1.

A network that is somewhat too wide is a good proposal; one that is too narrow, or elsewhere, is not, and the weights
say so: their largest ones are fitted by a generalised Pareto distribution, whose shape k is below 0.7 where the weights
can be trusted (Pareto-smoothed importance sampling, arXiv 1507.02646; fit of Zhang and Stephens, Technometrics 2009).
Plain arrays in and out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

TRUSTED_K = 0.7


@dataclass(frozen=True)
class Weights:
    """Self-normalised, smoothed weights.

    Args:
        weight: (n,), sums to 1.
        ess: effective number of draws, 1/Σw².
        pareto_k: shape of the tail of the raw weights; inf where there are too few to fit, −inf where all are equal.
    """

    weight: Array
    ess: float
    pareto_k: float


def smoothed_weights(log_ratio: Array) -> Weights:
    """Normalised weights of log ratios (n,), the largest of them replaced by quantiles of the Pareto fit.

    Args:
        log_ratio: log p(x | θ) + log p(θ) − log q(θ | x) up to a constant; −inf = impossible.

    Raises:
        ValueError: NaN, +inf, or no draw with a finite ratio.
    """
    log_ratio = np.asarray(log_ratio, dtype=np.float64)
    if log_ratio.ndim != 1 or np.isnan(log_ratio).any() or np.isposinf(log_ratio).any():
        raise ValueError(f"importance: expected log ratios (n,) < inf and not NaN, got shape {log_ratio.shape}.")
    if not np.isfinite(log_ratio).any():
        raise ValueError("importance: not one of the draws has a positive likelihood.")
    w = np.exp(log_ratio - log_ratio.max())
    n_tail = int(min(0.2 * len(w), 3 * len(w) ** 0.5))
    k = np.inf if np.ptp(w) > 0 else -np.inf
    if n_tail >= 5:
        order = np.argsort(w)
        tail, cut = order[-n_tail:], w[order[-n_tail - 1]]
        excess = w[tail] - cut
        if excess[0] > 0:
            k, scale = fit_pareto(excess)
            p = (np.arange(n_tail) + 0.5) / n_tail
            w[tail] = np.minimum(cut + pareto_quantile(p, k, scale), 1.0)  # no weight above the largest raw one
    w /= w.sum()
    return Weights(w, float(1 / (w**2).sum()), float(k))


def fit_pareto(excess: Array) -> tuple[float, float]:
    """Shape k and scale of a generalised Pareto distribution from rising positive excesses (n,).

    The shape is drawn towards ½ with the weight of ten observations, as in arXiv 1507.02646, appendix C.
    """
    n = len(excess)
    m = 30 + int(n**0.5)
    quartile = excess[int(n / 4 + 0.5) - 1]
    theta = 1 / excess[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    shape = np.log1p(-theta[:, None] * excess).mean(1)
    profile = n * (np.log(-theta / shape) - shape - 1)
    share = np.exp(profile - profile.max())
    mean = float((theta * share).sum() / share.sum())
    k = float(np.log1p(-mean * excess).mean())
    scale = -k / mean
    return (n * k + 10 * 0.5) / (n + 10), scale


def pareto_quantile(p: Array, k: float, scale: float) -> Array:
    """x with 1 − (1 + kx/scale)^(−1/k) = p."""
    return scale * (np.expm1(-k * np.log1p(-p)) / k if abs(k) > 1e-12 else -np.log1p(-p))


def resample(weight: Array, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """n indices, each expected n·w_i times, by systematic resampling, in random order."""
    position = (rng.random() + np.arange(n)) / n
    found = np.searchsorted(np.cumsum(weight) / weight.sum(), position)
    return rng.permutation(np.minimum(found, len(weight) - 1))
