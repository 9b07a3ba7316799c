"""Proper scores of draws, and whether they are as good as the draws say they are.

    CRPS(F, y) = E|X − y| − ½ E|X − X'|,    ES(F, y) = E‖X − y‖ − ½ E‖X − X'‖;    X, X' ~ F independent

(Gneiting and Raftery, JASA 2007). From m draws the second expectation is taken over pairs of different draws: the
"fair" estimate, unbiased whatever m (with all m² pairs it would be too small by the factor 1 − 1/m, and few draws would
look worse than many). Lower is better; on the units of y.

A score alone knows no reference. But truth and draws are exchangeable if the draws are those of the posterior, so that
any of the m + 1 may play the truth, scored by the others: `score_test` compares the truth's mean score with those of
random choices, one a data set. The p-value is exact for any number of data sets and draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreTest:
    """The mean score of the truth, what it would be were the draws calibrated, and how unlikely the difference is.

    Args:
        score: mean over data sets of the fair score of the truth.
        expected: mean over data sets of the scores of all that could be the truth. A truth that scores worse, score >
            expected: draws too narrow or elsewhere; better: too wide.
        z: the difference in standard deviations of a random choice.
        p_value: two-sided, of `n_choices` random choices.
    """

    score: float
    expected: float
    z: float
    p_value: float


def crps(truth: Array, draws: Array) -> Array:
    """Fair CRPS of each data set, (n,).

    Args:
        truth: (n,). draws: (n, m), m >= 2.

    Raises:
        ValueError: shapes that do not fit, or a single draw.
    """
    truth, draws = _checked("crps", truth, draws, 2)
    m, s = draws.shape[1], np.sort(draws, axis=1)
    pairs = (s * (2 * np.arange(1, m + 1) - m - 1)).sum(1) / (m * (m - 1))
    return np.abs(draws - truth[:, None]).mean(1) - pairs


def energy_score(truth: Array, draws: Array) -> Array:
    """Fair energy score of each data set, (n,).

    Args:
        truth: (n, d). draws: (n, m, d), m >= 2. Of coordinates in different units divide by scales first.

    Raises:
        ValueError: shapes that do not fit, or a single draw.
    """
    truth, draws = _checked("energy_score", truth, draws, 3)
    return _scores(truth, draws)[:, 0]


def score_test(truth: Array, draws: Array, *, n_choices: int = 9_999, seed: int = 0) -> ScoreTest:
    """Whether truths score as draws do: exact test of exchangeability by the energy score (d = 1: CRPS).

    Args:
        truth: (n, d) or (n,). draws: (n, m, d) or (n, m), m >= 3.
        n_choices: random choices of who plays the truth; the smallest p-value is 2/(n_choices + 1).

    Raises:
        ValueError: shapes that do not fit, or fewer than three draws.
    """
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if truth.ndim == 1 and draws.ndim == 2:
        truth, draws = truth[:, None], draws[..., None]
    truth, draws = _checked("score_test", truth, draws, 3)
    if draws.shape[1] < 3:
        raise ValueError(f"score_test: expected draws (n, m, d) with m >= 3, got {draws.shape}.")
    each = _scores(truth, draws)  # (n, 1 + m)
    rng, n = np.random.default_rng(seed), len(each)
    chosen = np.concatenate([
        each[np.arange(n), rng.integers(each.shape[1], size=(part, n))].mean(1)
        for part in np.diff([*range(0, n_choices, 1_000), n_choices])
    ])  # fmt: skip
    mine = each[:, 0].mean()
    slack = 1e-12 * np.abs(each).max()
    above, below = (1 + int((chosen >= mine - slack).sum())), (1 + int((chosen <= mine + slack).sum()))
    sd = np.sqrt(each.var(1).sum()) / n
    z = (mine - each.mean()) / sd if sd > 0 else 0.0
    return ScoreTest(float(mine), float(each.mean()), float(z), min(1.0, 2 * min(above, below) / (n_choices + 1)))


def _scores(truth: Array, draws: Array) -> Array:
    """(n, 1 + m): the fair score of each of truth and draws by the others.

    With r_k the sum of its distances and Σ that of all pairs (each twice): r_k/m − (Σ − 2 r_k)/(2 m (m − 1)).
    """
    out = np.empty((len(truth), 1 + draws.shape[1]))
    m = draws.shape[1]
    for i, (y, x) in enumerate(zip(truth, draws, strict=True)):
        both = np.concatenate([y[None], x])
        r = np.sqrt(((both[:, None] - both[None]) ** 2).sum(-1)).sum(1)
        out[i] = r / m - (r.sum() - 2 * r) / (2 * m * (m - 1))
    return out


def _checked(what: str, truth: Array, draws: Array, n_dims: int) -> tuple[Array, Array]:
    truth, draws = np.asarray(truth, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    fits = draws.ndim == n_dims and truth.shape == draws.shape[:1] + draws.shape[2:] and truth.size > 0
    if not fits or draws.shape[1] < 2:
        shapes = "(n,) and (n, m)" if n_dims == 2 else "(n, d) and (n, m, d)"
        raise ValueError(f"{what}: expected truth and draws {shapes}, m >= 2, got {truth.shape} and {draws.shape}.")
    return truth, draws
