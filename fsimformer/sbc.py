"""Simulation-based calibration: where the truth stands among the draws (arXiv 1804.06788).

If θ ~ p(θ), x ~ p(x | θ) and the draws come from p(θ | x), then truth and draws are exchangeable given x, and for every
statistic T the rank of T(θ, x) among the T(draw, x) is uniform. So is it for a statistic with ties once they are broken
by chance, and for a coordinate, a functional or the log density alike (arXiv 2211.02383); for the dependent draws of a
chain only once they are thinned. Whether ranks are uniform `uniformity.rank_test` says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ranks(truth: Array, draws: Array, seed: int = 0) -> NDArray[np.int64]:
    """Rank of the truth among its draws, a data set: #{draws < truth}, ties broken by chance.

    Args:
        truth: (n,). draws: (n, m), independent within a data set (`stride` thins those of a chain). ±inf are values
            like others (a crossing that never comes); NaN is refused.
        seed: breaks the ties: with k draws equal to the truth each of its k + 1 places is as likely.

    Returns:
        (n,) from 0 to m.

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if truth.ndim != 1 or draws.ndim != 2 or len(truth) != len(draws) or not draws.size:
        raise ValueError(f"ranks: expected truth (n,) and draws (n, m), got {truth.shape} and {draws.shape}.")
    if n := int(np.isnan(truth).sum() + np.isnan(draws).sum()):
        raise ValueError(f"ranks: {n} values are NaN; what has no order has no rank.")
    below, ties = (draws < truth[:, None]).sum(1), (draws == truth[:, None]).sum(1)
    return below + np.floor(np.random.default_rng(seed).random(len(truth)) * (ties + 1)).astype(np.int64)


def stride(draws: Array) -> int:
    """Every how many-th draw of a chain to keep, so that those kept are nearly independent.

    The smallest k with autocorrelation ρ_k < .05, ρ averaged over data sets and coordinates, about the mean of each
    chain; 1 for independent draws. No less than m/2 where there is none: the chain is too short to tell.

    Args:
        draws: (n, m) or (n, m, d), in the order of the chain.

    Raises:
        ValueError: fewer than four draws.
    """
    x = np.asarray(draws, dtype=np.float64)
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[1] < 4:
        raise ValueError(f"stride: expected draws (n, m) or (n, m, d), m >= 4, got {np.shape(draws)}.")
    m = x.shape[1]
    x = x - x.mean(1, keepdims=True)
    spectrum = np.abs(np.fft.rfft(x, 2 * m, axis=1)) ** 2
    covariance = np.fft.irfft(spectrum, axis=1)[:, : m // 2] / (m - np.arange(m // 2))[None, :, None]
    variance = covariance[:, :1]
    found = (covariance / np.where(variance > 0, variance, 1.0)).mean((0, 2))
    rho, k = found, 1
    for _ in range(20):  # about its own mean a chain of length m seems to lose τ/m of its correlation
        small = np.flatnonzero(rho[1:] < 0.05)
        k = int(small[0]) + 1 if len(small) else m // 2
        lost = min(0.5, (1 + 2 * float(rho[1:k].sum())) / m)
        rho = found * (1 - lost) + lost
    return k
