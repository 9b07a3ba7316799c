"""Benchmark tasks against their definitions: laws, moments and symmetries in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from fsimformer.priors import Normal, Uniform
from fsimformer.simulators import gaussian_linear, slcp, two_moons
from fsimformer.simulators.tasks import draw_gaussian_mixture, draw_slcp, draw_two_moons

TASKS = {"two_moons": two_moons, "slcp": slcp, "gaussian_linear": gaussian_linear}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "sizes"), [("two_moons", (2, 2)), ("slcp", (5, 8)), ("gaussian_linear", (10, 10))])
def test_tasks_have_the_published_sizes(name: str, sizes: tuple[int, int]) -> None:
    schema = TASKS[name]().schema
    assert (schema.n_components("theta"), schema.n_components("x")) == sizes
    assert schema.names == ("theta", "x") and schema["x"].parents == ("theta",)


def test_two_moons_is_a_half_circle() -> None:
    """At fixed θ the distance to the centre is N(0.1, 0.01) and the angle is uniform on the right half."""
    theta = torch.tensor([[0.3, -0.7]], dtype=torch.float64).expand(20_000, 2)
    x = draw_two_moons(theta, generator()).numpy()
    centre = np.array([0.25 - abs(0.3 - 0.7) / math.sqrt(2), (-0.7 - 0.3) / math.sqrt(2)])
    radius, angle = np.hypot(*(x - centre).T), np.arctan2(*(x - centre).T[::-1])
    assert scipy.stats.kstest(radius, scipy.stats.norm(0.1, 0.01).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(angle, scipy.stats.uniform(-math.pi / 2, math.pi).cdf).pvalue > 1e-3


def test_two_moons_has_two() -> None:
    """(θ₁, θ₂) and (−θ₂, −θ₁) cannot be told apart: |θ₁+θ₂| and θ₂−θ₁ are the same."""
    theta = torch.tensor([[0.3, 0.5]], dtype=torch.float64).expand(10, 2)
    torch.testing.assert_close(draw_two_moons(theta, generator()), draw_two_moons(-theta.flip(1), generator()))


def test_slcp_has_the_stated_mean_and_covariance() -> None:
    n = 50_000
    theta = torch.tensor([[1.0, -2.0, -1.2, 0.8, 0.6]], dtype=torch.float64).expand(n, 5)
    x = draw_slcp(theta, generator())
    s1, s2, rho = 1.44, 0.64, math.tanh(0.6)
    block = torch.tensor([[s1**2, rho * s1 * s2], [rho * s1 * s2, s2**2]], dtype=torch.float64)
    truth = torch.block_diag(*[block] * 4)
    variance = truth.diagonal()
    mean = torch.tensor([1.0, -2.0] * 4, dtype=torch.float64)
    assert bool(((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all())
    error = 5 * ((truth**2 + torch.outer(variance, variance)) / n).sqrt()
    assert bool(((x.T.cov() - truth).abs() < error).all())


def test_gaussian_tasks_have_the_stated_laws() -> None:
    draws = gaussian_linear().simulate(20_000, generator())
    noise = (draws["x"] - draws["theta"]).numpy()
    assert scipy.stats.kstest(noise.ravel(), scipy.stats.norm(0, math.sqrt(0.1)).cdf).pvalue > 1e-3
    assert scipy.stats.kstest(draws["theta"].numpy().ravel(), scipy.stats.norm(0, math.sqrt(0.1)).cdf).pvalue > 1e-3
    noise = draw_gaussian_mixture(torch.zeros(20_000, 2, dtype=torch.float64), generator()).numpy()
    law = scipy.stats.norm
    assert scipy.stats.kstest(noise[:, 0], lambda x: (law.cdf(x) + law.cdf(x / 0.1)) / 2).pvalue > 1e-3
    # both coordinates share their component: E[x²y²] = (1 + 0.1⁴)/2, not ((1 + 0.1²)/2)²
    fourth = (noise**2).prod(1)
    assert fourth.mean() == pytest.approx((1 + 1e-4) / 2, abs=5 * fourth.std() / math.sqrt(len(fourth)))


def test_user_prior_of_a_task_is_whitened() -> None:
    assert two_moons().schema["theta"].prior == Uniform(-1.0, 1.0)
    assert gaussian_linear().schema["theta"].prior == Normal(0.0, math.sqrt(0.1))
