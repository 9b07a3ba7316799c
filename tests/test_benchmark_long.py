"""The exact posteriors of benchmarks/long_context.py against dense closed forms, and its section of the tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from fsimformer.kernels import Kernel
from fsimformer.matern import MaternNoise

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
try:
    from long_context import LINE_NOISE, LINE_SPREAD, MATERN_NOISE, Line, Matern, transition
    from tables_long import long_context
finally:
    sys.path.remove(str(BENCHMARKS))


def log_normal(y: np.ndarray, covariance: np.ndarray) -> float:
    """log N(y; 0, covariance) up to a constant."""
    return float(-0.5 * (y @ np.linalg.solve(covariance, y) + np.linalg.slogdet(covariance)[1]))


def test_exact_draws_of_the_line_have_the_moments_of_dense_normals() -> None:
    rng = np.random.default_rng(0)
    t, y = Line().observe(25, rng)
    x = np.stack([np.ones(25), t], 1)
    z = np.linspace(-6, 6, 601)
    s = LINE_NOISE * np.exp(LINE_SPREAD * z)
    log_p = np.array([log_normal(y, x @ x.T + k**2 * np.eye(25)) for k in s]) - 0.5 * z**2
    p = np.exp(log_p - log_p.max()) / np.exp(log_p - log_p.max()).sum()
    ab = np.stack([x.T @ np.linalg.solve(x @ x.T + k**2 * np.eye(25), y) for k in s])
    draws = Line().exact(t, y, 40_000, rng)
    for found, mean in ((draws["a"], p @ ab[:, 0]), (draws["b"], p @ ab[:, 1]), (draws["s"], p @ s)):
        assert abs(found.mean() - mean) < 4 * found.std() / 200
    between = np.stack([np.linalg.inv(np.eye(2) + x.T @ x / k**2) for k in s])
    for i, name in enumerate(("a", "b")):
        sd = np.sqrt(p @ (between[:, i, i] + (ab[:, i] - p @ ab[:, i]) ** 2))
        assert abs(draws[name].std() / sd - 1) < 0.02


def test_the_filter_of_the_process_is_a_dense_normal() -> None:
    rng = np.random.default_rng(1)
    t, y = Matern().observe(30, rng)
    scale = np.array([0.4, 1.0, 2.5])
    order = rng.permutation(30)
    found, mean, sd = Matern()._filter(t[order], y[order], scale)
    exact = []
    for i, k in enumerate(scale):
        points = torch.from_numpy(t)[:, None]
        f = Kernel(1.5, float(k))(points, points).numpy() + MATERN_NOISE**2 * np.eye(30)
        both, ones = f + 1.0, np.ones(30)
        exact.append(log_normal(y, both))
        assert abs(mean[i] - ones @ np.linalg.solve(both, y)) < 1e-8
        assert abs(sd[i] ** 2 - (1 - ones @ np.linalg.solve(both, ones))) < 1e-8
    np.testing.assert_allclose(np.diff(found), np.diff(exact), rtol=0, atol=1e-7)


def test_transitions_are_those_of_the_library_at_any_step() -> None:
    points = torch.tensor([0.0, 1e-7, 1e-3, 0.02, 0.3, 1.3, 7.0], dtype=torch.float64)
    move, spread = MaternNoise(1.5, 1.0)._transitions(points)
    ours = transition(np.diff(points.numpy()) * np.sqrt(3))
    np.testing.assert_allclose(ours[0], move.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours[1], spread.numpy(), rtol=1e-6, atol=1e-30)


def test_simulated_paths_have_the_covariance_of_the_process() -> None:
    draws = Matern().simulate(4_000, torch.Generator().manual_seed(0))
    y, m = draws["y"].double(), draws["m"]
    assert abs(float((y[:, 700] - m).var()) - 1) < 0.1
    lag = 20 * 50 / 2_000
    expected = (1 + np.sqrt(3) * lag / draws["scale"]) * torch.exp(-np.sqrt(3) * lag / draws["scale"])
    assert abs(float(((y[:, 700] - m) * (y[:, 720] - m)).mean() - expected.mean())) < 0.07


def test_the_section_names_every_figure_and_its_floor() -> None:
    parameter = {"exact_sd": 0.25, "mean_error_sd": 0.14, "mean_error_sd_floor": 0.03, "sd_ratio": 1.07,
                 "sd_ratio_standard_error": 0.02, "sd_ratio_floor": 1.01}  # fmt: skip
    cost = {"cpu_seconds": 3.21, "added_gib": 0.4, "peak_gib": 0.9}
    record = {
        "task": "line", "baseline": False, "n": 1000, "trained_up_to": 2048, "steps": 7, "train_cpu_seconds": 8.0,
        "inducing": 32, "compress_above": 256,
        "rows": [{"readings": 100, "sets": 5, "parameters": {"a": parameter}, "cost": cost, "cost_plain": cost},
                 {"readings": 100_000, "sets": 2, "parameters": {"a": parameter}, "cost": cost}],
    }  # fmt: skip
    lines = "\n".join(long_context([record]))
    assert "0.14 (0.03)" in lines and "1.07 ± 0.02 (1.01)" in lines and "100,000" in lines and lines.count("3.2") == 3
