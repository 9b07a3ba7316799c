"""TARP and curves of expected coverage: uniform levels and a diagonal under the exact posterior only."""

from __future__ import annotations

import numpy as np
import pytest
from conjugate import WRONG, conjugate

from fsimformer.tarp import coverage_curve, tarp_levels
from fsimformer.uniformity import uniform_test

N, M = 400, 60


@pytest.mark.parametrize("d", [1, 2, 6])
def test_the_exact_posterior_is_accepted(d: int) -> None:
    truth, _, draws = conjugate(N, M, d)
    levels = tarp_levels(truth, draws)
    assert uniform_test(levels).p_value > 0.01
    curve = coverage_curve(levels, probability=0.99)
    assert ((curve.lower <= curve.level) & (curve.level <= curve.upper)).all()


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_posteriors_are_rejected(wrong: str) -> None:
    truth, _, draws = conjugate(N, M, 2, *WRONG[wrong])
    levels = tarp_levels(truth, draws)
    assert uniform_test(levels).p_value < 0.01
    curve = coverage_curve(levels)
    assert ((curve.level < curve.lower) | (curve.level > curve.upper)).any()


@pytest.mark.parametrize(("wrong", "sign"), [("too narrow", -1), ("too wide", 1)])
def test_about_the_centre_coverage_is_the_share_of_truths_inside(wrong: str, sign: int) -> None:
    """Roles: level c is the ball that holds the share c of the draws; too narrow draws cover too few truths."""
    truth, x, draws = conjugate(N, M, 2, *WRONG[wrong])
    curve = coverage_curve(tarp_levels(truth, draws, references=x / 2))
    at = np.argmin(np.abs(curve.level - 0.8))
    assert sign * (curve.coverage[at] - 0.8) > 0.08
    # closed form: |θ − x/2|²/(s²·spread²) ≤ q with P(χ²_2 ≤ q) = c, so coverage is 1 − (1 − c)^(spread²)
    expected = 1 - (1 - 0.8) ** (WRONG[wrong][0] ** 2)
    assert curve.coverage[at] == pytest.approx(expected, abs=3.5 * np.sqrt(expected * (1 - expected) / N) + 0.01)


def test_the_prior_passes_unless_references_know_the_data() -> None:
    """The paper's own caveat."""
    truth, x, _ = conjugate(N, M)
    prior = np.random.default_rng(9).standard_normal((N, M, 2))
    assert uniform_test(tarp_levels(truth, prior)).p_value > 0.01
    assert uniform_test(tarp_levels(truth, prior, references=x)).p_value < 1e-6


def test_units_do_not_matter_and_nobody_is_its_own_reference() -> None:
    truth, _, draws = conjugate(50, 9)
    scale = np.array([1.0, 1e6])
    np.testing.assert_allclose(tarp_levels(truth, draws), tarp_levels(truth * scale, draws * scale), rtol=1e-9)
    far = 100.0 * np.arange(50)[:, None]  # references of other data sets are far away: the first draw is never near
    levels = tarp_levels(far, far[:, None] + np.zeros((50, 9, 1)))
    assert uniform_test(levels).p_value > 0.01  # all nine draws tie with the truth


def test_band_holds_the_true_curve_as_often_as_it_says() -> None:
    rng, at, n = np.random.default_rng(0), np.linspace(0, 1, 11), 200
    held = 0
    for s in range(300):
        curve = coverage_curve(rng.random(n) ** 0.7, probability=0.9, n_levels=10, n_bootstrap=300, seed=s)
        expected = at ** (1 / 0.7)
        held += bool(((curve.lower <= expected + 1e-9) & (expected <= curve.upper + 1e-9)).all())
    assert 0.84 < held / 300 < 0.96


def test_curve_is_the_share_of_levels_below() -> None:
    curve = coverage_curve(np.array([0.05, 0.45, 0.55, 1.0]), n_levels=10)
    np.testing.assert_allclose(curve.coverage[[0, 1, 5, 6, 10]], [0, 0.25, 0.5, 0.75, 1])


def test_errors_name_the_shapes() -> None:
    with pytest.raises(ValueError, match=r"tarp: expected truth \(n, d\) and draws \(n, m, d\), got \(4, 2\) and"):
        tarp_levels(np.zeros((4, 2)), np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match=r"references of shape \(4, 2\), got \(3, 2\)"):
        tarp_levels(np.zeros((4, 2)), np.zeros((4, 5, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="two data sets and two draws"):
        tarp_levels(np.zeros((1, 2)), np.zeros((1, 5, 2)))
    with pytest.raises(ValueError, match=r"levels \(n,\), n >= 2"):
        coverage_curve(np.zeros(1))
