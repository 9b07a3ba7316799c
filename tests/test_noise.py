"""Schedules against autograd and their identities; noise against torch.distributions and its kernel."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import seeded
from torch import Tensor
from torch.distributions import MultivariateNormal

from fsimformer.kernels import SMOOTHNESS, Kernel
from fsimformer.noise import SCHEDULES, Schedule, SmoothNoise, VPSchedule, WhiteNoise, schedule_named

T = torch.linspace(0.005, 0.995, 67, dtype=torch.float64)
everyone = pytest.mark.parametrize("name", SCHEDULES)


@everyone
def test_derivatives_are_those_of_autograd(name: str) -> None:
    s, t = schedule_named(name), T.clone().requires_grad_()
    (d_alpha,) = torch.autograd.grad(s.alpha(t).sum(), t)
    (d_sigma,) = torch.autograd.grad(s.sigma(t).sum(), t)
    torch.testing.assert_close(s.d_alpha(T), d_alpha, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(s.d_sigma(T), d_sigma, rtol=1e-10, atol=1e-12)


@everyone
def test_t_of_inverts_the_noise_ratio(name: str) -> None:
    s = schedule_named(name)
    log_ratio = (s.sigma(T) / s.alpha(T)).log()
    torch.testing.assert_close(s.t_of(log_ratio), T, rtol=0, atol=1e-9)
    wanted = torch.linspace(-7, 4, 45, dtype=torch.float64)
    t = s.t_of(wanted)
    assert bool((t.diff() > 0).all()) and float(t[0]) > 0 and float(t[-1]) < 1
    torch.testing.assert_close((s.sigma(t) / s.alpha(t)).log(), wanted, rtol=0, atol=1e-6)


@everyone
def test_paths_run_from_data_to_noise(name: str) -> None:
    s = schedule_named(name)
    ends = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)
    torch.testing.assert_close(s.alpha(ends), torch.tensor([1.0, 0.0]).double(), rtol=0, atol=0.01)
    torch.testing.assert_close(s.sigma(ends), torch.tensor([0.0, 1.0]).double(), rtol=0, atol=0.01)
    assert bool((s.d_alpha(T) <= 0).all()) and bool((s.d_sigma(T) >= 0).all())


@pytest.mark.parametrize("name", ["trig", "vp"])
def test_variance_is_preserved(name: str) -> None:
    s = schedule_named(name)
    torch.testing.assert_close(s.alpha(T) ** 2 + s.sigma(T) ** 2, torch.ones_like(T), rtol=0, atol=1e-12)


def test_the_straight_path_is_straight() -> None:
    s = schedule_named("rectified")
    torch.testing.assert_close(s.alpha(T) + s.sigma(T), torch.ones_like(T))


def test_vp_is_the_stated_sde() -> None:
    """d log α/dt = −β(t)/2 with β linear from β₀ to β₁."""
    s = VPSchedule(0.1, 20.0)
    torch.testing.assert_close(s.d_alpha(T) / s.alpha(T), -0.5 * (0.1 + 19.9 * T))


@everyone
def test_velocity_in_posterior_mean_form_is_the_paths_own(name: str) -> None:
    """Along x_t = α x + σ ε with x̂ = x the velocity is α' x + σ' ε."""
    s: Schedule = schedule_named(name)
    x, eps = torch.randn(2, len(T), generator=seeded(), dtype=torch.float64)
    x_t = s.alpha(T) * x + s.sigma(T) * eps
    v = s.d_alpha(T) * x + s.d_sigma(T) * (x_t - s.alpha(T) * x) / s.sigma(T)
    torch.testing.assert_close(v, s.d_alpha(T) * x + s.d_sigma(T) * eps, rtol=1e-8, atol=1e-9)


def test_unknown_schedule_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"Unknown schedule 'cosine'. Choices: \['rectified', 'trig', 'vp'\]"):
        schedule_named("cosine")


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 30), st.integers(0, 1000))
def test_more_white_draws_change_none(n: int, length: int, more: int, seed: int) -> None:
    index = torch.zeros(length, 1)
    few, many = (WhiteNoise().sample(index, m, seeded(seed)) for m in (n, n + more))
    assert few.shape == (n, length)
    assert torch.equal(few, many[:n])


def test_the_prefix_test_rejects_a_plain_fill() -> None:
    """Why `sample` fills whole blocks of 16."""
    few, many = (torch.randn(n, generator=seeded(1)) for n in (20, 40))
    assert not torch.equal(few, many[:20])


def test_white_noise_is_standard_normal() -> None:
    eps = WhiteNoise().sample(torch.zeros(3, 1), 20_000, seeded(2))
    torch.testing.assert_close(torch.cov(eps.T), torch.eye(3), rtol=0, atol=0.04)
    torch.testing.assert_close(eps.mean(0), torch.zeros(3), rtol=0, atol=0.03)


def test_log_density_and_covariance_are_those_of_a_dense_normal() -> None:
    value: Tensor = torch.randn(5, 4, generator=seeded(3), dtype=torch.float64)
    index, g = torch.rand(4, 2, dtype=torch.float64, generator=seeded(4)), value + 1
    dense = MultivariateNormal(torch.zeros(4).double(), torch.eye(4).double())
    torch.testing.assert_close(WhiteNoise().log_prob(index, value), dense.log_prob(value))
    torch.testing.assert_close(WhiteNoise().times_covariance(index, g), g @ dense.covariance_matrix)


@pytest.mark.parametrize("nu", SMOOTHNESS)
@pytest.mark.parametrize("d", [1, 2])
def test_a_smooth_noise_function_is_one_function_of_unit_variance(nu: float, d: int) -> None:
    """Its value at a point does not depend on what else is asked; its covariance is near the kernel's."""
    noise = SmoothNoise(Kernel(nu, 0.5), 64)
    index = 2 * torch.rand(40, d, generator=seeded(7), dtype=torch.float64) - 1
    a = noise.coefficients(20_000, seeded(8))
    values = noise.evaluate(a, index)
    torch.testing.assert_close(values[:, 11:13], noise.evaluate(a, index[11:13]), rtol=0, atol=1e-6)
    assert torch.equal(a[:100], noise.coefficients(100, seeded(8)))
    assert torch.equal(noise.sample(index, 100, seeded(8)), values[:100])
    exact = noise.times_covariance(index, torch.eye(40).double())
    torch.testing.assert_close(exact.diagonal(), torch.ones(40).double())
    assert float((torch.cov(values.T.double()) - exact).abs().max()) < 5 * (2 / 20_000) ** 0.5
    assert float((exact - Kernel(nu, 0.5)(index, index)).abs().max()) < (0.1 if d == 1 else 0.25)


def test_a_smooth_noise_function_is_as_rough_as_its_kernel() -> None:
    """Mean square of an increment over h = 1e-3 lengthscales: 2(1 − k(h)), within the share of frequencies kept."""
    index = torch.tensor([[0.0], [1e-3]], dtype=torch.float64)
    increment = {nu: 2 * (1 - float(SmoothNoise(Kernel(nu), 1024).times_covariance(index, torch.eye(2).double())[0, 1]))
                 for nu in SMOOTHNESS}  # fmt: skip
    exact = {nu: 2 * (1 - float(Kernel(nu)(index, index)[0, 1])) for nu in SMOOTHNESS}
    for nu in (1.5, 2.5, math.inf):
        assert increment[nu] == pytest.approx(exact[nu], rel=0.2)
    assert exact[0.5] / 4 < increment[0.5] < exact[0.5]  # a finite sum of waves is differentiable, ν = ½ is not


def test_noise_functions_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="expected n_features >= 1, got 0"):
        SmoothNoise(n_features=0)
    with pytest.raises(ValueError, match="expected 128 coefficients a draw, got 64"):
        SmoothNoise().evaluate(torch.zeros(3, 64), torch.zeros(2, 1))
