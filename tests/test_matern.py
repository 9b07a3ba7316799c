"""The state-space Matérn process is the dense one, at any points, and stays exact where they crowd."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import seeded
from torch.distributions import MultivariateNormal

from fsimformer.kernels import Kernel
from fsimformer.matern import MaternNoise, _root

NU = (0.5, 1.5, 2.5)


@given(st.sampled_from(NU), st.floats(0.1, 2.0), st.integers(1, 12), st.integers(0, 100))
def test_log_density_is_that_of_a_dense_normal(nu: float, scale: float, length: int, seed: int) -> None:
    """Unsorted, irregular points; a batch of values equals each by itself."""
    order = torch.randperm(length, generator=seeded(seed))
    at = (torch.arange(length) + 0.8 * torch.rand(length, generator=seeded(seed)))[order, None].double() * 0.3
    value = torch.randn(3, 2, length, generator=seeded(seed + 1), dtype=torch.float64)
    dense = MultivariateNormal(torch.zeros(length).double(), Kernel(nu, scale)(at, at))
    got = MaternNoise(nu, scale).log_prob(at, value)
    torch.testing.assert_close(got, dense.log_prob(value), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(MaternNoise(nu, scale).log_prob(at, value[1, 0]), got[1, 0])


@pytest.mark.parametrize("nu", NU)
def test_draws_have_the_kernels_covariance(nu: float) -> None:
    at = torch.tensor([0.9, -0.4, 0.3, 0.31, 5.0, 0.0])[:, None]
    draws = MaternNoise(nu, 0.5).sample(at, 40_000, seeded(int(2 * nu)))
    error = torch.cov(draws.T) - Kernel(nu, 0.5)(at.double(), at.double())
    assert float(error.abs().max()) < 4 * math.sqrt(2 / 40_000)
    assert float(draws.mean(0).abs().max()) < 4 / math.sqrt(40_000)


@pytest.mark.parametrize("nu", NU)
@pytest.mark.parametrize("step", [1e-2, 1e-4, 1e-6])
def test_increments_between_near_duplicates_have_the_exact_variance(nu: float, step: float) -> None:
    """E (f(s + h) − f(s))² = 2(1 − k(h)), k(h) from its series; subtracting covariances would lose it."""
    at = torch.tensor([[0.0], [step], [0.7]], dtype=torch.float64)
    draws = MaternNoise(nu, 1.0).sample(at, 20_000, seeded(3))
    increment = (draws[:, 1] - draws[:, 0]).square().mean()
    u = math.sqrt(2 * nu) * step
    exact = 2 * {0.5: -math.expm1(-u), 1.5: u**2 / 2 - u**3 / 3, 2.5: u**2 / 6 - u**4 / 24}[nu]
    assert float(increment) == pytest.approx(exact, rel=5 * math.sqrt(2 / 20_000))


@pytest.mark.parametrize("nu", NU)
def test_transition_covariances_keep_their_digits(nu: float) -> None:
    """Q(u) = P − A(u) P A(u)ᵀ where that can be trusted; its leading term where it cannot; Q(a + b) from two steps."""
    process, p = MaternNoise(nu, 1.0), round(nu + 0.5)
    u = torch.tensor([0.3, 1.0, 4.0, 30.0], dtype=torch.float64)
    stationary, move, spread = process._stationary(u.device), process._move(u), process._spread(u)
    torch.testing.assert_close(spread, stationary - move @ stationary @ move.mT, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(move[0], torch.matrix_exp(0.3 * companion(nu)))
    together = move[1] @ spread[0] @ move[1].T + spread[1]
    torch.testing.assert_close(process._spread(u[:1] + u[1:2])[0], together)
    tiny = process._spread(torch.tensor([1e-8], dtype=torch.float64))[0]
    density = {0.5: 2.0, 1.5: 4.0, 2.5: 16 / 3}[nu]
    leading = density * 1e-8 ** (2 * p - 1) / ((2 * p - 1) * math.factorial(p - 1) ** 2)
    assert float(tiny[0, 0]) == pytest.approx(leading, rel=1e-6)
    root = _root(tiny[None])[0]
    torch.testing.assert_close(root @ root.T, tiny, rtol=1e-6, atol=0)


def companion(nu: float) -> torch.Tensor:
    """F of (d/ds + 1)^p."""
    rows = {0.5: [[-1.0]], 1.5: [[0, 1], [-1, -2.0]], 2.5: [[0, 1, 0], [0, 0, 1], [-1, -3, -3.0]]}[nu]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("nu", NU)
def test_one_point_has_one_value(nu: float) -> None:
    at = torch.tensor([0.2, -1.0, 0.2, 0.2])[:, None]
    process = MaternNoise(nu, 0.4)
    draws = process.sample(at, 6, seeded(0))
    assert torch.equal(draws[:, 0], draws[:, 2]) and torch.equal(draws[:, 0], draws[:, 3])
    torch.testing.assert_close(process.log_prob(at, draws), process.log_prob(at[:2], draws[:, :2]))
    draws[2, 3] += 0.1
    assert process.log_prob(at, draws).isinf().tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("nu", NU)
def test_more_draws_change_none_and_the_covariance_multiplies(nu: float) -> None:
    at = torch.rand(5, 1, generator=seeded(4))
    process = MaternNoise(nu, 0.4)
    torch.testing.assert_close(
        process.sample(at, 3, seeded(5)), process.sample(at, 9, seeded(5))[:3], rtol=0, atol=1e-12
    )
    g = torch.randn(2, 5, generator=seeded(6), dtype=torch.float64)
    torch.testing.assert_close(process.times_covariance(at, g), g @ Kernel(nu, 0.4)(at.double(), at.double()))


def test_what_is_no_matern_process_on_a_line_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown smoothness inf. Choices: \[0.5, 1.5, 2.5\]"):
        MaternNoise(math.inf)
    with pytest.raises(ValueError, match=r"expected a positive, finite lengthscale, got -1"):
        MaternNoise(0.5, -1)
    with pytest.raises(ValueError, match=r"index of shape \(L, 1\), one dim, got \(3, 2\)"):
        MaternNoise().sample(torch.zeros(3, 2), 1, seeded(0))
