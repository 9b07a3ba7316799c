"""Covariance functions are covariances, and their frequencies give them back."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import seeded

from fsimformer.kernels import SMOOTHNESS, Kernel


@given(st.sampled_from(SMOOTHNESS), st.integers(1, 3), st.floats(0.05, 3.0), st.integers(0, 100))
def test_a_kernel_is_a_stationary_covariance_of_unit_variance(nu: float, d: int, scale: float, seed: int) -> None:
    a = torch.rand(12, d, generator=seeded(seed), dtype=torch.float64)
    kernel = Kernel(nu, scale)
    k = kernel(a, a)
    torch.testing.assert_close(k.diagonal(), torch.ones(12).double())
    torch.testing.assert_close(k, k.T)
    assert float(torch.linalg.eigvalsh(k).min()) > -1e-12
    torch.testing.assert_close(kernel(a + 5, a + 5), k, rtol=0, atol=1e-9)
    torch.testing.assert_close(Kernel(nu, 2 * scale)(2 * a, 2 * a), k)


def test_kernels_at_one_lengthscale_have_the_textbook_values() -> None:
    at = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    value = {nu: float(Kernel(nu, 1.0)(at, at)[0, 1]) for nu in SMOOTHNESS}
    r3, r5 = math.sqrt(3), math.sqrt(5)
    matern = {0.5: math.exp(-1), 1.5: (1 + r3) * math.exp(-r3), 2.5: (1 + r5 + 5 / 3) * math.exp(-r5)}
    assert value == pytest.approx(matern | {math.inf: math.exp(-0.5)})


def test_each_dim_may_have_its_lengthscale() -> None:
    a = torch.rand(5, 2, generator=seeded(0), dtype=torch.float64)
    scaled = a / torch.tensor([0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(Kernel(1.5, (0.5, 2.0))(a, a), Kernel(1.5, 1.0)(scaled, scaled))
    with pytest.raises(ValueError, match=r"3 index dims, but lengthscales \(0.5, 2.0\)"):
        Kernel(1.5, (0.5, 2.0)).lengthscales(3)


@pytest.mark.parametrize(
    ("nu", "d", "worst"),
    [(math.inf, 1, 0.005), (2.5, 1, 0.02), (1.5, 1, 0.03), (0.5, 1, 0.05), (math.inf, 2, 0.03), (1.5, 2, 0.06)],
)
def test_frequencies_give_the_kernel_back(nu: float, d: int, worst: float) -> None:
    """mean cos ω·(s − s') against k over ten lengthscales, and better with more of them."""
    a = 10 * torch.rand(200, d, generator=seeded(1), dtype=torch.float64)
    error = []
    for n in (128, 2048):
        omega = Kernel(nu, 1.0).frequencies(n, d)
        phase = a @ omega.T
        k = (phase.cos() @ phase.cos().T + phase.sin() @ phase.sin().T) / n
        error.append(float((k - Kernel(nu, 1.0)(a, a)).abs().max()))
    assert error[0] < 5 * worst and error[1] < worst and error[1] < 0.6 * error[0]


def test_what_makes_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown smoothness 1.0. Choices: \[0.5, 1.5, 2.5, inf\]"):
        Kernel(1.0)
    with pytest.raises(ValueError, match=r"expected positive, finite lengthscales, got 0"):
        Kernel(0.5, 0)
