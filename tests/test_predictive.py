"""Predictive p-values: uniform of held-out readings, conservative of those that were conditioned on."""

from __future__ import annotations

import numpy as np
import pytest

from fsimformer.predictive import STATISTICS, predictive_p_values
from fsimformer.uniformity import uniform_test

N, M, READINGS = 400, 99, 12


def replicates(spread: float = 1.0, shift: float = 0.0, noise: float = 1.0, held_out: bool = True) -> list[np.ndarray]:
    """θ ~ N(0, 1), readings N(θ, 1): readings (N, R) and replicates (N, M, R) given R others, or given themselves."""
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((N, 1))
    seen, new = (theta + rng.standard_normal((N, READINGS)) for _ in range(2))
    s = 1 / np.sqrt(1 + READINGS)
    posterior = (seen.sum(1) * s**2 + shift)[:, None] + spread * s * rng.standard_normal((N, M))
    again = posterior[..., None] + noise * rng.standard_normal((N, M, READINGS))
    return [new if held_out else seen, again]


@pytest.mark.parametrize("name", STATISTICS)
def test_held_out_readings_of_the_exact_posterior_are_accepted(name: str) -> None:
    p = predictive_p_values(*(STATISTICS[name](y) for y in replicates()))
    assert uniform_test(p).p_value > 0.01


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mean", {"spread": 0.2, "noise": 0.6}),
        ("mean", {"spread": 3.0}),
        ("mean", {"shift": 0.3}),
        ("spread", {"noise": 0.8}),
        ("spread", {"noise": 1.25}),
        ("largest", {"shift": 0.5}),
        ("smallest", {"noise": 1.25}),
        ("roughness", {"noise": 0.8}),
    ],
)
def test_wrong_predictions_are_rejected(name: str, wrong: dict[str, float]) -> None:
    p = predictive_p_values(*(STATISTICS[name](y) for y in replicates(**wrong)))
    assert uniform_test(p).p_value < 1e-3


def test_a_posterior_that_has_seen_the_readings_has_p_values_about_one_half() -> None:
    p = predictive_p_values(*(STATISTICS["mean"](y) for y in replicates(held_out=False)))
    assert abs(p.mean() - 0.5) < 0.03 and p.std() < 0.1 < 12**-0.5


def test_p_is_the_share_of_replicates_above() -> None:
    p = predictive_p_values(np.array([10.0, -10.0, 0.5]), np.array([[0.0, 1.0, 2.0]] * 3))
    assert 0 < p[0] < 0.25 and 0.75 < p[1] < 1 and 0.5 < p[2] < 0.75


def test_statistics_by_hand() -> None:
    y = np.array([1.0, 3.0, 2.0])
    assert {k: float(f(y)) for k, f in STATISTICS.items()} == pytest.approx(
        {"mean": 2, "spread": (2 / 3) ** 0.5, "largest": 3, "smallest": 1, "roughness": 2.5**0.5}
    )
    assert STATISTICS["roughness"](np.ones((2, 1))).tolist() == [0, 0]
