"""The spline is scipy's, residual and value undo each other, and s is what the spline misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline
from tiny import seeded

from fsimformer.functions import FLOOR, ReferenceSet, fit_spread, knots, spline
from fsimformer.kernels import Kernel
from fsimformer.noise import SmoothNoise


@given(st.integers(2, 20), st.integers(0, 50))
def test_on_a_line_it_is_the_natural_cubic_spline(n: int, seed: int) -> None:
    z = torch.randn(n, generator=seeded(seed), dtype=torch.float64)
    at = 2 * torch.rand(30, 1, generator=seeded(seed + 1), dtype=torch.float64) - 1
    theirs = CubicSpline(np.linspace(-1, 1, n), z.numpy(), bc_type="natural")
    torch.testing.assert_close(spline((n,), at) @ z, torch.from_numpy(theirs(at[:, 0].numpy())))
    for end in (-1.0, 1.0):  # beyond the ends, a straight line
        beyond = spline((n,), torch.tensor([[1.3 * end]], dtype=torch.float64)) @ z
        straight = float(theirs(end)) + 0.3 * end * float(theirs(end, 1))
        assert float(beyond) == pytest.approx(straight, rel=1e-9, abs=1e-9)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.integers(0, 50))
def test_it_goes_through_the_knots_and_keeps_straight_lines(reference: list[int], seed: int) -> None:
    shape = tuple(reference)
    points = knots(shape)
    torch.testing.assert_close(spline(shape, points), torch.eye(len(points)).double(), rtol=0, atol=1e-12)
    slope = torch.randn(len(shape), generator=seeded(seed), dtype=torch.float64)
    at = 2 * torch.rand(9, len(shape), generator=seeded(seed), dtype=torch.float64) - 1
    torch.testing.assert_close(spline(shape, at) @ (points @ slope + 2), at @ slope + 2)


def test_several_dims_are_a_product_of_splines() -> None:
    a, b = (torch.randn(n, generator=seeded(n), dtype=torch.float64) for n in (4, 5))
    at = 2 * torch.rand(7, 2, generator=seeded(1), dtype=torch.float64) - 1
    product = (spline((4,), at[:, :1]) @ a) * (spline((5,), at[:, 1:]) @ b)
    torch.testing.assert_close(spline((4, 5), at) @ torch.outer(a, b).flatten(), product)


@pytest.mark.parametrize(("reference", "lengthscale"), [((17,), 0.2), ((9,), 0.5), ((5, 6), 0.8)])
def test_the_spread_is_what_the_spline_misses(reference: tuple[int, ...], lengthscale: float) -> None:
    """Of Gaussian functions the missed variance is known: k(q, q) − 2 w·k(knots, q) + w·k(knots, knots)·w."""
    noise = SmoothNoise(Kernel(math.inf, lengthscale), 128)
    functions = noise.coefficients(4_000, seeded(1))
    found = ReferenceSet(
        0,
        5,
        (0, 1)[: len(reference)],
        reference,
        fit_spread(reference, lambda points: noise.evaluate(functions, points)),
    )
    at = 2 * torch.rand(200, len(reference), generator=seeded(4), dtype=torch.float64) - 1
    points, w = knots(reference), spline(reference, at)
    k = noise.times_covariance(torch.cat([at, points]), torch.eye(200 + len(points)).double())
    cross, own = (w * k[:200, 200:]).sum(1), torch.einsum("nk,kl,nl->n", w, k[200:, 200:], w)
    exact = (1 - 2 * cross + own).clamp(min=FLOOR**2).sqrt()
    assert float(exact.max()) > 5e-3
    torch.testing.assert_close(found.scale(at), exact, rtol=0.1, atol=6e-3)


@given(st.lists(st.integers(2, 6), min_size=1, max_size=3), st.integers(0, 50))
def test_residual_and_value_undo_each_other(reference: list[int], seed: int) -> None:
    d, g = len(reference), seeded(seed)
    spread = torch.rand([4] * d, generator=g)
    found = ReferenceSet(0, 5, tuple(range(d)), tuple(reference), spread)
    at = 2 * torch.rand(3, 20, d, generator=g, dtype=torch.float64) - 1
    z_knots, z = torch.randn(3, found.n_knots, generator=g), torch.randn(3, 20, generator=g)
    back = found.value(found.residual(z, z_knots, at), z_knots, at)
    torch.testing.assert_close(back, z.double(), rtol=1e-5, atol=1e-5)
    nothing = ReferenceSet(0, 5, tuple(range(d)), tuple(reference), torch.zeros([4] * d))
    at_knots = nothing.value(torch.ones(3, found.n_knots), z_knots, knots(tuple(reference)))
    torch.testing.assert_close(at_knots, z_knots.double(), rtol=0, atol=2 * FLOOR)


def test_tokens_of_the_knots_lie_on_the_functions_own_dims() -> None:
    found = ReferenceSet(3, 7, (1,), (3,), torch.zeros(5))
    assert found.tokens(3).tolist() == [[0, -1, 0], [0, 0, 0], [0, 1, 0]]
    assert found.n_knots == 3 and float(found.scale(torch.tensor([0.3]))) == pytest.approx(FLOOR)
