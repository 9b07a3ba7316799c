"""Scores against closed forms; the test of scores accepts the exact posterior and no other."""

from __future__ import annotations

import numpy as np
import pytest
from conjugate import WRONG, conjugate
from scipy.special import gamma
from scipy.stats import norm

from fsimformer.scores import crps, energy_score, score_test


def crps_of_normal(y: np.ndarray, loc: float, sd: float) -> np.ndarray:
    z = (y - loc) / sd
    return sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize("m", [2, 3, 25])
def test_crps_of_few_draws_is_unbiased(m: int) -> None:
    """Its mean over many samples of m draws of N(1, 2²) is the closed form at every y, however small m."""
    rng, y = np.random.default_rng(m), np.array([-3.0, 0.5, 1.0, 6.0])
    n = 40_000
    for value in y:
        found = crps(np.full(n, value), 1 + 2 * rng.standard_normal((n, m)))
        error = found.std() / np.sqrt(n)
        assert abs(found.mean() - crps_of_normal(value, 1.0, 2.0)) < 3.5 * error


def test_crps_is_the_double_sum() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.standard_normal(5), rng.standard_normal((5, 8))
    pairs = np.abs(x[:, :, None] - x[:, None]).sum((1, 2)) / (8 * 7)
    np.testing.assert_allclose(crps(y, x), np.abs(x - y[:, None]).mean(1) - pairs / 2, rtol=1e-12)
    np.testing.assert_allclose(energy_score(y[:, None], x[..., None]), crps(y, x), rtol=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_energy_score_of_a_normal_at_its_centre(d: int) -> None:
    """E‖Z‖ − ½E‖Z − Z'‖ = (1 − 1/√2) E‖Z‖ with E‖Z‖ = √2 Γ((d + 1)/2)/Γ(d/2)."""
    x = np.random.default_rng(d).standard_normal((4_000, 12, d))
    found = energy_score(np.zeros((4_000, d)), x)
    expected = (1 - 0.5**0.5) * 2**0.5 * gamma((d + 1) / 2) / gamma(d / 2)
    assert abs(found.mean() - expected) < 3.5 * found.std() / 4_000**0.5


def test_scores_move_and_scale_with_their_units() -> None:
    rng = np.random.default_rng(0)
    y, x = rng.standard_normal((4, 3)), rng.standard_normal((4, 9, 3))
    np.testing.assert_allclose(energy_score(7 - 2 * y, 7 - 2 * x), 2 * energy_score(y, x), rtol=1e-12)


def test_the_exact_posterior_has_the_lowest_expected_score() -> None:
    means = {}
    for name, (spread, shift) in {"exact": (1.0, 0.0), **WRONG}.items():
        truth, _, draws = conjugate(3_000, 20, 2, spread, shift)
        means[name] = energy_score(truth, draws).mean()
    assert min(means, key=lambda name: means[name]) == "exact"


@pytest.mark.parametrize("d", [1, 3])
def test_score_test_accepts_the_exact_posterior(d: int) -> None:
    truth, _, draws = conjugate(300, 40, d)
    found = score_test(truth, draws)
    assert found.p_value > 0.01 and abs(found.z) < 2.6
    assert found.score == pytest.approx(energy_score(truth, draws).mean(), rel=1e-12)


@pytest.mark.parametrize(("wrong", "sign"), [("too narrow", 1), ("too wide", -1), ("shifted", 1)])
def test_score_test_rejects_the_others_and_says_in_which_direction(wrong: str, sign: int) -> None:
    truth, _, draws = conjugate(300, 40, 3, *WRONG[wrong])
    found = score_test(truth, draws)
    assert found.p_value < 1e-3 and sign * found.z > 3 and sign * (found.score - found.expected) > 0


def test_score_test_keeps_its_level_with_few_data_sets_and_draws() -> None:
    p = np.array([score_test(*conjugate(8, 4, 1, seed=s)[::2], n_choices=199, seed=s).p_value for s in range(400)])
    for level in (0.1, 0.3):
        assert abs((p <= level).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / 400)


def test_ties_cost_no_level() -> None:
    """Draws and truth all equal: no order, no rejection."""
    assert score_test(np.zeros(20), np.zeros((20, 5))).p_value == 1.0


def test_errors_name_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"crps: expected truth and draws \(n,\) and \(n, m\), m >= 2, got"):
        crps(np.zeros(3), np.zeros((3, 1)))
    with pytest.raises(ValueError, match=r"energy_score: .* got \(3, 2\) and \(3, 5, 4\)"):
        energy_score(np.zeros((3, 2)), np.zeros((3, 5, 4)))
    with pytest.raises(ValueError, match="m >= 3"):
        score_test(np.zeros(3), np.zeros((3, 2)))
