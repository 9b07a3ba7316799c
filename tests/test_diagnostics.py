"""Diagnostics accept the exact and reject over-dispersed, under-dispersed and shifted draws."""

from __future__ import annotations

import numpy as np
import pytest

from fsimformer.diagnostics import Classifier, c2st, coverage, density_levels


def conjugate(n: int, m: int, spread: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Densities of truth and draws under the estimator N(posterior mean + shift, (spread · posterior sd)²)."""
    rng = np.random.default_rng(seed)
    theta = rng.standard_normal(n)
    x = theta + rng.standard_normal(n)
    mean, sd = x / 2 + shift, spread * np.sqrt(0.5)
    draws = mean[:, None] + sd * rng.standard_normal((n, m))
    log_p = lambda t, centre: -0.5 * ((t - centre) / sd) ** 2  # noqa: E731
    return log_p(theta, mean), log_p(draws, mean[:, None])


def test_levels_of_the_exact_posterior_are_uniform() -> None:
    levels = density_levels(*conjugate(4000, 99, 1.0, 0.0))
    for nominal in (0.5, 0.8, 0.9, 0.95):
        share, error = coverage(levels, nominal)
        assert abs(share - nominal) < 3.5 * error


@pytest.mark.parametrize(
    ("spread", "shift", "sign"), [(0.7, 0.0, -1), (1.4, 0.0, 1), (1.0, 0.7, -1)], ids=["under", "over", "shifted"]
)
def test_wrong_posteriors_are_rejected_in_the_right_direction(spread: float, shift: float, sign: int) -> None:
    share, error = coverage(density_levels(*conjugate(2000, 99, spread, shift)), 0.9)
    assert sign * (share - 0.9) > 4 * error


def test_equal_densities_are_broken_by_chance_not_by_order() -> None:
    truth, draws = np.zeros(5000), np.zeros((5000, 9))
    levels = density_levels(truth, draws)
    assert abs(levels.mean() - 0.5) < 0.02 and levels.std() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("classifier", ["rf", "mlp"])
def test_c2st_accepts_equal_laws_and_rejects_shifted_too_wide_and_too_narrow(classifier: Classifier) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((300, 2)) * [1.0, 1e3] for _ in range(2))  # scales must not matter
    for wrong, low, high in [(y, 0.44, 0.56), (y + np.array([2.0, 0.0]), 0.75, 1), (3 * y, 0.65, 1), (y / 3, 0.65, 1)]:
        assert low < c2st(x, wrong, classifier=classifier, n_trees=30) < high


def test_c2st_of_a_network_stays_below_what_any_classifier_can_reach() -> None:
    """A shift of 1 sd in each of two dimensions: no accuracy above Φ(√2/2) = .760, up to the error of 300 points."""
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((150, 2)), rng.standard_normal((150, 2)) + 1.0
    first = c2st(x, y, classifier="mlp")
    assert 0.65 < first < 0.760 + 3 * (0.76 * 0.24 / 300) ** 0.5
    assert c2st(x, y, classifier="mlp") == first


def test_c2st_says_nothing_of_a_network_that_was_stopped() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 2))
    assert c2st(x, x + 5.0, classifier="mlp", max_iter=20) > 0.5  # warnings are errors here


def test_c2st_refuses_an_unknown_classifier() -> None:
    with pytest.raises(ValueError, match=r"c2st: unknown classifier 'svm'. Choices: 'rf', 'mlp'"):
        c2st(np.zeros((4, 2)), np.zeros((4, 2)), classifier="svm")  # type: ignore[arg-type]


def test_c2st_refuses_unequal_samples() -> None:
    with pytest.raises(ValueError, match=r"two arrays of one shape \(n, d\), got \(4, 2\) and \(5, 2\)"):
        c2st(np.zeros((4, 2)), np.zeros((5, 2)))
