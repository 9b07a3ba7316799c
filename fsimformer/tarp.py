"""TARP: tests of accuracy with random points (arXiv 2302.03026).

A credible region of level c is the ball about a reference point r that holds the share c of the draws. The truth lies
in it where f = #{draws nearer to r than the truth}/m < c; the expected coverage of level c is the share of data sets
with f < c, and equals c for all c if the draws are those of the posterior, whatever r that does not know the truth. The
converse holds if r may depend on the data: with r independent of them, the prior in place of the posterior passes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoverageCurve:
    """Expected coverage (K,) of credibility levels (K,), with a bootstrap band over data sets.

    `lower`, `upper`: simultaneous: with the band's probability it holds the whole curve of infinitely many data sets.
    """

    level: Array
    coverage: Array
    lower: Array
    upper: Array


def tarp_levels(truth: Array, draws: Array, references: Array | None = None, seed: int = 0) -> Array:
    """Per data set, the credibility level at which its ball about the reference begins to hold the truth.

    (#{draws nearer} + u·(1 + #{as near}))/(m + 1), u ~ U(0, 1): uniform and independent if the draws are calibrated.
    Distances are Euclidean after division by the standard deviation of all draws, coordinate by coordinate.

    Args:
        truth: (n, d). draws: (n, m, d).
        references: (n, d), from anything but the truth. None: the first draw of another data set, which then leaves the
            draws of its own: random points where the parameters are.

    Returns:
        (n,) in (0, 1).

    Raises:
        ValueError: shapes that do not fit; a single data set or draw, without references.
    """
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if draws.ndim != 3 or truth.shape != (draws.shape[0], draws.shape[2]):
        raise ValueError(f"tarp: expected truth (n, d) and draws (n, m, d), got {truth.shape} and {draws.shape}.")
    rng = np.random.default_rng(seed)
    if references is None:
        if min(draws.shape[:2]) < 2:
            raise ValueError(f"tarp: expected two data sets and two draws at least, got draws of shape {draws.shape}.")
        order = rng.permutation(len(truth))
        references = np.empty_like(truth)
        references[order] = draws[np.roll(order, 1), 0]  # one cycle: nobody's reference is a draw of its own
        draws = draws[:, 1:]
    elif references.shape != truth.shape:
        raise ValueError(f"tarp: expected references of shape {truth.shape}, got {references.shape}.")
    sd = draws.std((0, 1))
    scale = np.where(sd > 0, sd, 1.0)
    mine = np.sqrt((((truth - references) / scale) ** 2).sum(-1))[:, None]
    theirs = np.sqrt((((draws - references[:, None]) / scale) ** 2).sum(-1))
    nearer, ties = (theirs < mine).sum(1), (theirs == mine).sum(1)
    return (nearer + rng.random(len(truth)) * (1 + ties)) / (draws.shape[1] + 1)


def coverage_curve(
    levels: Array, *, probability: float = 0.95, n_levels: int = 50, n_bootstrap: int = 1_000, seed: int = 0
) -> CoverageCurve:
    """Expected coverage as a function of the level, data sets resampled for its band.

    Band: coverage ± q·s(c), q the quantile of the largest |bootstrap deviation|/s, and s the standard error of a share,
    s² = p̃(1 − p̃)/(n + 4), p̃ = (n·coverage + 2)/(n + 4): at the ends, where resampling never leaves 0 or 1, it is not 0.

    Args:
        levels: (n,) from `tarp_levels`, or from `diagnostics.density_levels`.

    Raises:
        ValueError: fewer than two levels; a probability off (0, 1).
    """
    levels = np.asarray(levels, dtype=np.float64)
    if levels.ndim != 1 or len(levels) < 2 or not 0 < probability < 1:
        raise ValueError(
            f"coverage_curve: expected levels (n,), n >= 2, and a probability in (0, 1), got {levels.shape} and "
            f"{probability!r}."
        )
    n, rng = len(levels), np.random.default_rng(seed)
    at = np.linspace(0, 1, n_levels + 1)
    share = np.bincount(np.minimum((levels * n_levels).astype(int), n_levels - 1), minlength=n_levels) / n
    curve = np.concatenate([[0.0], np.cumsum(share)])
    again = np.cumsum(rng.multinomial(n, share, size=n_bootstrap), axis=1) / n - curve[1:]
    p = (n * curve + 2) / (n + 4)
    s = np.sqrt(p * (1 - p) / (n + 4))
    q = np.quantile(np.abs(again / s[1:]).max(1), probability)
    lower, upper = np.clip(curve - q * s, 0, 1), np.clip(curve + q * s, 0, 1)
    return CoverageCurve(at, curve, lower, upper)
