"""Diagnostics accept the exact and reject over-dispersed, under-dispersed and shifted draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from fsimformer.diagnostics import Classifier, c2st, coverage, density_levels, sliced_wasserstein


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


def test_sliced_wasserstein_of_a_shift_and_a_scale_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    x, shift = rng.standard_normal((500, 7)), np.array([3.0, 0, -1, 0, 2, 0, 0.5])
    many = {"n_projections": 20_000, "seed": 1}
    assert sliced_wasserstein(x, x + shift, **many) == pytest.approx(np.linalg.norm(shift) / 7**0.5, rel=0.01)
    # a dilation about any centre: W2 along u is (c − 1) times the root mean square of u·x
    rms = np.sqrt(np.mean(np.sum(x**2, 1)) / 7)
    assert sliced_wasserstein(x, 1.5 * x, **many) == pytest.approx(0.5 * rms, rel=0.01)


def test_sliced_wasserstein_of_gaussians_goes_to_that_of_their_laws() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20_000, 3)), 0.6 + 2 * rng.standard_normal((20_000, 3))
    # N(0, 1) and N(m·u, 4) along u: W2² = (u·m)² + (2 − 1)²
    assert sliced_wasserstein(x, y) == pytest.approx(np.sqrt(0.36 + 1), rel=0.02)


def test_sliced_wasserstein_on_a_line_is_the_wasserstein_distance() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200, 1)), rng.exponential(size=(200, 1))
    ours = sliced_wasserstein(x, y, order=1)
    assert ours == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-12)


def test_sliced_wasserstein_is_a_symmetric_distance_of_sets() -> None:
    rng = np.random.default_rng(0)
    x, y, z = (rng.standard_normal((100, 4)) + i for i in range(3))
    assert sliced_wasserstein(x, rng.permutation(x)) < 1e-12
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(y, x), rel=1e-12)
    assert sliced_wasserstein(x, z) <= sliced_wasserstein(x, y) + sliced_wasserstein(y, z)


def test_sliced_wasserstein_refuses_what_it_cannot_compare() -> None:
    x = np.zeros((10, 2))
    for other in (np.zeros((9, 2)), np.zeros((10, 3))):
        with pytest.raises(ValueError, match="one shape"):
            sliced_wasserstein(x, other)
    with pytest.raises(ValueError, match="order >= 1"):
        sliced_wasserstein(x, x, order=0.5)
