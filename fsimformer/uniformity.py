"""Are these numbers uniform? An exact test by their ECDF, its simultaneous band, and Holm's correction.

Of n independent uniform numbers, N_i = #{u < z_i} is Bin(n, z_i), and the N_i are a Markov chain:

    N_i | N_{i−1} = k  ~  k + Bin(n − k, (z_i − z_{i−1})/(1 − z_{i−1})),

so that the probability that the whole ECDF stays between given bounds is one recursion, not a simulation
(arXiv 2103.10522). At every z_i the observed count has a two-sided tail probability 2·min(P(N ≤ N_i), P(N ≥ N_i));
their minimum γ is the statistic, and P(γ ≤ γ observed) the p-value. The band of level 1 − α holds the counts whose
tails exceed the largest γ with P(some tail ≤ γ) ≤ α: an ECDF leaves it exactly where p ≤ α. Counts being whole, the
true level is at most the stated one.

Ranks among L draws are uniform on 0, …, L; the count of ranks below i is Bin(n, i/(L + 1)) without approximation. No
bins are laid, so that none can fail to divide L + 1. Plain arrays in and out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST = 128  # places at which an ECDF is compared; more cost time and add little power


@dataclass(frozen=True)
class Ecdf:
    """The ECDF of n numbers at places z, its simultaneous band under uniformity, and the p-value of the test.

    Args:
        z: (K,) places in (0, 1). ecdf: (K,) share of numbers below z.
        lower, upper: (K,) the band that holds all of it with probability >= level, were the numbers uniform.
        p_value: exact; <= 1 − level where the ECDF leaves the band.
    """

    z: Array
    ecdf: Array
    lower: Array
    upper: Array
    p_value: float


def uniform_test(u: Array, level: float = 0.95) -> Ecdf:
    """The test of numbers (n,) that should be independent and uniform on [0, 1].

    Raises:
        ValueError: no numbers, NaN, or numbers off [0, 1]; a level off (0, 1).
    """
    u = np.asarray(u, dtype=np.float64)
    if u.ndim != 1 or not u.size or not ((u >= 0) & (u <= 1)).all():
        raise ValueError(f"uniform_test: expected numbers (n,) in [0, 1], at least one, got {_told(u)}.")
    z = np.arange(1, _MOST) / _MOST
    return _compared(np.searchsorted(np.sort(u), z, side="left"), z, len(u), level)


def rank_test(ranks: NDArray[np.int64], n_draws: int, level: float = 0.95) -> Ecdf:
    """The test of ranks (n,) that should be independent and uniform on 0, …, n_draws.

    Raises:
        ValueError: no ranks, ranks off this range or not whole; a level off (0, 1).
    """
    ranks = np.asarray(ranks)
    whole = ranks.dtype.kind in "iu" or bool(np.equal(np.mod(ranks, 1), 0).all())
    if ranks.ndim != 1 or not ranks.size or not whole or ranks.min() < 0 or ranks.max() > n_draws:
        raise ValueError(f"rank_test: expected whole ranks (n,) from 0 to n_draws = {n_draws}, got {_told(ranks)}.")
    edges = np.arange(1, n_draws + 1)
    if n_draws > _MOST:
        edges = np.unique(np.linspace(1, n_draws, _MOST).round().astype(int))
    return _compared(np.searchsorted(np.sort(ranks), edges, side="left"), edges / (n_draws + 1), len(ranks), level)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: rejecting where they are <= α errs anywhere with probability <= α, whatever depends.

    p̃_(k) = max_{j ≤ k} min(1, (m − j + 1) p_(j)),  p_(1) ≤ … ≤ p_(m).

    Raises:
        ValueError: a p-value off [0, 1] or NaN.
    """
    if wrong := {name: p for name, p in p_values.items() if not 0 <= p <= 1}:
        raise ValueError(f"holm: expected p-values in [0, 1], got {wrong}.")
    order = sorted(p_values, key=lambda name: p_values[name])
    out, worst = {}, 0.0
    for k, name in enumerate(order):
        worst = max(worst, min(1.0, (len(order) - k) * p_values[name]))
        out[name] = worst
    return {name: out[name] for name in p_values}


def _compared(counts: NDArray[np.int64], z: Array, n: int, level: float) -> Ecdf:
    if not 0 < level < 1:
        raise ValueError(f"level: expected a probability in (0, 1), got {level!r}.")
    tails = _tails(n, tuple(z.tolist()))
    gamma = float(tails[np.arange(len(z)), counts].min())
    p_value = 1.0 if gamma >= 1 else 1 - _inside(n, z, *_bounds(tails, gamma))
    lower, upper = _band(n, tuple(z.tolist()), level)
    return Ecdf(z, counts / n, lower / n, upper / n, float(np.clip(p_value, 0.0, 1.0)))


@lru_cache(maxsize=8)  # one check asks for the same n and z a hundred times
def _tails(n: int, z: tuple[float, ...]) -> Array:
    """(K, n + 1): 2·min(P(N_i ≤ k), P(N_i ≥ k)), at most 1."""
    pmf = _binomial(np.full(len(z), n), np.asarray(z), np.arange(n + 1)[None])
    below, above = np.cumsum(pmf, axis=1), np.cumsum(pmf[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(1.0, 2 * np.minimum(below, above))


@lru_cache(maxsize=64)
def _band(n: int, z: tuple[float, ...], level: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The narrowest band of the family with probability >= level: bisection over γ."""
    tails, places = _tails(n, z), np.asarray(z)
    low, high = -50.0, 0.0  # log γ: the band of `low` holds all but never anything
    for _ in range(40):
        middle = (low + high) / 2
        inside = _inside(n, places, *_bounds(tails, float(np.exp(middle))))
        low, high = (middle, high) if inside >= level else (low, middle)
    return _bounds(tails, float(np.exp(low)))


def _bounds(tails: Array, gamma: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lowest and highest count at each place whose tail exceeds γ; an empty range where there is none."""
    held = tails > gamma * (1 + 1e-9)  # what ties with γ up to rounding does not exceed it
    lower, upper = held.argmax(1), tails.shape[1] - 1 - held[:, ::-1].argmax(1)
    return lower, np.where(held.any(1), upper, lower - 1)


def _inside(n: int, z: Array, lower: NDArray[np.int64], upper: NDArray[np.int64]) -> float:
    """P(lower_i ≤ N_i ≤ upper_i for all i)."""
    at, held, before = np.zeros(1, dtype=np.int64), np.ones(1), 0.0
    for place, low, high in zip(z, lower, upper, strict=True):
        to = np.arange(low, high + 1)
        if not to.size:
            return 0.0
        step = (place - before) / (1 - before)
        held = held @ _binomial(n - at, np.full(len(at), step), to[None] - at[:, None])
        at, before = to, place
    return float(held.sum())


def _binomial(n: NDArray[np.int64], p: Array, k: NDArray[np.int64]) -> Array:
    """Bin(k; n, p), (A, K), for n, p (A,) and k (A, K) or (1, K); 0 outside 0 ≤ k ≤ n."""
    n, p, k = n[:, None], p[:, None], np.broadcast_to(k, (len(n), k.shape[1]))
    ok = (k >= 0) & (k <= n)
    c = np.where(ok, k, 0)
    log_factorial = _log_factorial(int(n.max()))
    log_pmf = log_factorial[n] - log_factorial[c] - log_factorial[n - c] + c * np.log(p) + (n - c) * np.log1p(-p)
    return np.where(ok, np.exp(log_pmf), 0.0)


@lru_cache(maxsize=8)
def _log_factorial(n: int) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])


def _told(x: NDArray[np.generic]) -> str:
    ends = "" if not x.size or x.dtype.kind not in "iuf" else f", from {x.min():g} to {x.max():g}"
    return f"shape {x.shape}{ends}"
