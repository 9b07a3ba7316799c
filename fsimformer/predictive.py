"""Predictive checks: do replicated data have the statistics of the data?

    p = P(T(y_rep) ≥ T(y)),    y_rep ~ p(y_rep | what was observed)

Of readings that were held out, p is uniform if model and posterior are right. Of the very readings that the posterior
was conditioned on it is not: it crowds around ½, since the posterior has seen them (Meng, Annals of Statistics 1994); a
p near 0 or 1 still tells, a moderate one does not, and a test of uniformity would reject what is right. Hold readings
out where the p-values are to be counted. Plain arrays.

The statistics below take readings (…, n) in the order of their index.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fsimformer.sbc import ranks

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]


def predictive_p_values(observed: Array, replicated: Array, seed: int = 0) -> Array:
    """p of each data set by Monte Carlo: (#{T(y_rep) > T(y)} + u·(1 + #ties))/(m + 1), u ~ U(0, 1).

    Exactly uniform where observed and replicated statistics are exchangeable.

    Args:
        observed: (n,) statistics of the data. replicated: (n, m) those of m replicates of each.

    Returns:
        (n,) in (0, 1).

    Raises:
        ValueError: shapes that do not fit, or NaN.
    """
    replicated = np.asarray(replicated, dtype=np.float64)
    above = replicated.shape[-1] - ranks(observed, replicated, seed)
    u = np.random.default_rng([seed, 1]).random(len(above))
    return (above + u) / (replicated.shape[1] + 1)


def mean(y: Array) -> Array:
    """Mean reading."""
    return np.mean(y, axis=-1)


def spread(y: Array) -> Array:
    """Standard deviation of the readings."""
    return np.std(y, axis=-1)


def largest(y: Array) -> Array:
    """Largest reading."""
    return np.max(y, axis=-1)


def smallest(y: Array) -> Array:
    """Smallest reading."""
    return np.min(y, axis=-1)


def roughness(y: Array) -> Array:
    """Root mean square of the differences of neighbours: the noise of a smooth series; 0 of a single reading."""
    return np.zeros(y.shape[:-1]) if y.shape[-1] < 2 else np.sqrt(np.mean(np.diff(y, axis=-1) ** 2, axis=-1))


STATISTICS: dict[str, Statistic] = {
    "mean": mean, "spread": spread, "largest": largest, "smallest": smallest, "roughness": roughness
}  # fmt: skip
