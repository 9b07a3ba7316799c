"""Diagnostics accept the exact and reject over-dispersed, under-dispersed and shifted draws."""

from __future__ import annotations

import numpy as np
import pytest

from fsimformer.diagnostics import c2st, coverage, density_levels


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


def test_c2st_knows_equal_from_shifted() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((400, 2)), rng.standard_normal((400, 2))
    assert abs(c2st(x, y, n_trees=30) - 0.5) < 0.06
    assert c2st(x, y + 2.0, n_trees=30) > 0.85
    assert c2st(x, 3.0 * y, n_trees=30) > 0.65


def test_c2st_refuses_unequal_samples() -> None:
    with pytest.raises(ValueError, match=r"two arrays of one shape \(n, d\), got \(4, 2\) and \(5, 2\)"):
        c2st(np.zeros((4, 2)), np.zeros((5, 2)))
