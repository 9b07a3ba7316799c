"""The exact test of uniformity: its probabilities against closed forms and simulation, its level, its power."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from fsimformer.uniformity import holm, rank_test, uniform_test


def test_one_number_has_its_own_two_sided_p_value() -> None:
    """n = 1, L = 1: a rank of 0 or 1, each with probability ½; nothing can be rejected."""
    for rank in (0, 1):
        assert rank_test(np.array([rank]), 1).p_value == pytest.approx(1.0)


@pytest.mark.parametrize("n", [7, 40])
def test_one_place_is_the_binomial_test(n: int) -> None:
    """L = 1: the only count is Bin(n, ½), and the p-value is that of all counts with as small a tail."""
    for count in (0, n // 4, n // 2, n):
        ranks = np.repeat([0, 1], [count, n - count])
        tail = np.minimum(
            1, 2 * np.minimum(stats.binom.cdf(range(n + 1), n, 0.5), stats.binom.sf(np.arange(-1, n), n, 0.5))
        )
        expected = stats.binom.pmf(np.flatnonzero(tail <= tail[count] * (1 + 1e-9)), n, 0.5).sum()
        assert rank_test(ranks, 1).p_value == pytest.approx(expected, rel=1e-9)


def test_all_ranks_of_two_data_sets_by_hand() -> None:
    """n = 2, L = 2: every pair of ranks has probability 1/9, and the p-values are those of the nine pairs."""
    pairs = [(a, b) for a in range(3) for b in range(3)]
    p = [rank_test(np.array(pair), 2).p_value for pair in pairs]
    for value in set(p):
        assert np.mean(np.array(p) <= value + 1e-12) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("n", "n_draws"), [(50, 19), (120, 99), (60, 500), (33, 7)])
def test_level_of_ranks_is_at_most_the_stated_one_and_near_it(n: int, n_draws: int) -> None:
    rng = np.random.default_rng(n)
    p = np.array([rank_test(rng.integers(n_draws + 1, size=n), n_draws).p_value for _ in range(300)])
    for level in (0.05, 0.2, 0.5):
        rejected = (p <= level).mean()
        sd = np.sqrt(level * (1 - level) / 300)
        assert level - 0.05 - 3 * sd < rejected < level + 3 * sd


def test_level_of_uniform_numbers() -> None:
    rng = np.random.default_rng(1)
    p = np.array([uniform_test(rng.random(80)).p_value for _ in range(300)])
    assert np.abs((p <= 0.1).mean() - 0.1) < 3.5 * np.sqrt(0.09 / 300)


def test_p_value_and_band_are_one_test() -> None:
    """The ECDF leaves the band of level 1 − α exactly where p ≤ α."""
    rng = np.random.default_rng(2)
    left = []
    for bend in np.linspace(0.6, 1.6, 60):
        test = uniform_test(rng.random(90) ** bend, level=0.9)
        outside = bool(((test.ecdf < test.lower - 1e-12) | (test.ecdf > test.upper + 1e-12)).any())
        assert outside == (test.p_value <= 0.1)
        left.append(outside)
    assert 5 < sum(left) < 55


def test_band_holds_the_whole_ecdf_as_often_as_it_says() -> None:
    rng, n = np.random.default_rng(3), 100
    band = uniform_test(rng.random(n))
    u = np.sort(rng.random((4_000, n)), axis=1)
    ecdf = np.stack([np.searchsorted(row, band.z) for row in u]) / n
    inside = ((ecdf >= band.lower - 1e-12) & (ecdf <= band.upper + 1e-12)).all(1).mean()
    assert 0.95 - 3 * np.sqrt(0.0475 / 4_000) < inside < 0.97


@pytest.mark.parametrize("bend", [0.7, 1.4, "middle", "ends"])
def test_what_is_not_uniform_is_rejected(bend: float | str) -> None:
    rng = np.random.default_rng(4)
    u = rng.random(600)
    shapes = {"middle": rng.beta(2, 2, 600), "ends": rng.beta(0.5, 0.5, 600)}
    wrong = shapes[bend] if isinstance(bend, str) else u**bend
    assert uniform_test(wrong).p_value < 1e-4
    assert uniform_test(u).p_value > 0.01  # the level of all such tests here


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(adjusted) == ["a", "b", "c", "d"]
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_errs_anywhere_at_most_as_often_as_stated() -> None:
    rng = np.random.default_rng(5)
    tests = [holm({str(i): p for i, p in enumerate(rng.random(20))}) for _ in range(1_000)]
    errors = np.mean([min(t.values()) <= 0.1 for t in tests])
    assert 0.06 < errors < 0.13


def test_errors_name_what_came() -> None:
    with pytest.raises(ValueError, match=r"whole ranks \(n,\) from 0 to n_draws = 9, got shape \(2,\), from 3 to 10"):
        rank_test(np.array([3, 10]), 9)
    with pytest.raises(ValueError, match=r"in \[0, 1\], at least one, got shape \(0,\)"):
        uniform_test(np.zeros(0))
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        uniform_test(np.array([np.nan, 0.5]))
    with pytest.raises(ValueError, match="level: expected a probability"):
        uniform_test(np.array([0.5]), level=1.0)
    with pytest.raises(ValueError, match=r"holm: .*'a': 1.5"):
        holm({"a": 1.5})
