"""The truncated prior: what its region holds, and that draws inside are those of the prior."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.truncate import Region, draw_inside, fit_region, from_kernels, inside

MEAN, SD = torch.tensor([0.4, 0.6], dtype=torch.float64), torch.tensor([0.02, 0.05], dtype=torch.float64)


def gaussian(n: int, seed: int = 0) -> Tensor:
    return MEAN + SD * torch.randn(n, 2, generator=seeded(seed), dtype=torch.float64)


def ellipse(radius: float, mean: Tensor = MEAN) -> Region:
    """One kernel: the highest-density region of N(mean, diag(SD²)), exactly; radius in standard deviations."""
    density = -0.5 * radius**2 - math.log(2 * math.pi) - float(SD.log().sum())
    return Region((mean / SD)[None], torch.diag(SD), density)


@pytest.mark.parametrize(("candidates", "method"), [(10_000_000, "rejection"), (1, "kernels")])
def test_draws_are_uniform_inside_the_exact_region_of_a_gaussian(candidates: int, method: str) -> None:
    """Within an ellipse of radius ρ: (r/ρ)² ~ U(0, 1), angle ~ U(−π, π), independent; its area is πρ²·sd₁·sd₂."""
    region = ellipse(3.0)
    found = draw_inside([region], 4_000, 2, seeded(1), candidates)
    assert found.method == method and bool(region.contains(found.u).all())
    x, y = ((found.u - MEAN) / SD).T
    radius, angle = (x**2 + y**2) / 9, torch.atan2(y, x)
    assert scipy.stats.kstest(radius.numpy(), scipy.stats.uniform.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(angle.numpy(), scipy.stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3
    assert abs(float(torch.corrcoef(torch.stack([radius, angle]))[0, 1])) < 4 / 4_000**0.5
    area = math.pi * 9 * float(SD.prod())
    assert found.share == pytest.approx(area, rel=0.08)  # rejection: 4,000 hits; kernels: weights of range e^4.5
    again = draw_inside([region], 4_000, 2, seeded(1), candidates)
    assert torch.equal(again.u, found.u)


@pytest.mark.parametrize("candidates", [10_000_000, 1])
def test_several_regions_are_their_intersection_within_the_prior(candidates: int) -> None:
    """Two overlapping ellipses, the last one cut by the edge of the prior: brute force says what is inside."""
    corner = ellipse(3.0, torch.tensor([0.4, 0.95], dtype=torch.float64))
    wide = ellipse(3.0, torch.tensor([0.43, 0.9], dtype=torch.float64))
    found = draw_inside([wide, corner], 3_000, 2, seeded(2), candidates).u
    cube = torch.rand(2_000_000, 2, generator=seeded(3), dtype=torch.float64)
    exact = cube[wide.contains(cube) & corner.contains(cube)]
    assert bool(((found > 0) & (found < 1) & inside([wide, corner], found)[:, None]).all())
    for k in range(2):
        assert scipy.stats.ks_2samp(found[:, k].numpy(), exact[:, k].numpy()).pvalue > 1e-3
    assert scipy.stats.ks_2samp(found.sum(1).numpy(), exact.sum(1).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("epsilon", [0.2, 0.02])
def test_a_region_of_draws_leaves_out_epsilon_of_fresh_ones(epsilon: float) -> None:
    region = fit_region(gaussian(2_000), epsilon)
    outside = 1 - float(region.contains(gaussian(10_000, 1)).double().mean())
    assert outside == pytest.approx(epsilon, abs=4 * math.sqrt(epsilon / 2_000))
    # hardly larger than the highest-density region, whose radius is √(−2 log ε)
    share = draw_inside([region], 1_000, 2, seeded(), candidates=1).share
    assert share < 1.5 * 2 * math.pi * -math.log(epsilon) * float(SD.prod())


def test_the_region_of_two_modes_holds_nothing_between_them() -> None:
    modes = torch.where(torch.rand(3_000, 1, generator=seeded(4)) < 0.5, 0.0, torch.tensor([0.3, -0.3]))
    region = fit_region(gaussian(3_000) + modes, 0.01)
    where = torch.tensor([[0.4, 0.6], [0.7, 0.3], [0.55, 0.45]], dtype=torch.float64)
    assert region.contains(where).tolist() == [True, True, False]


def test_the_density_is_one() -> None:
    """s integrates to 1 over a box that holds its kernels: the threshold is a density, and kernels propose by it."""
    region = fit_region(gaussian(200), 0.1)
    u = torch.rand(100_000, 2, generator=seeded(5), dtype=torch.float64)
    value = region.log_density(u).exp()
    assert float(value.mean()) == pytest.approx(1.0, abs=5 * float(value.std()) / 100_000**0.5)


def test_epsilon_nought_accepts_everything() -> None:
    region = fit_region(gaussian(100), 0.0)
    u = torch.rand(1_000, 2, generator=seeded(), dtype=torch.float64)
    assert bool(region.contains(u).all())
    found = draw_inside([region], 10_000, 2, seeded(6), candidates=1)
    assert (found.method, found.share) == ("rejection", 1.0)
    assert scipy.stats.kstest(found.u[:, 0].numpy(), scipy.stats.uniform.cdf).pvalue > 1e-3


def test_what_makes_no_region_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 0 <= epsilon < 1"):
        fit_region(gaussian(100), 1.0)
    with pytest.raises(ValueError, match="at least 50 draws of the posterior, got 10"):
        fit_region(gaussian(10), 0.1)
    with pytest.raises(ValueError, match="do not vary"):
        fit_region(gaussian(100) * torch.tensor([1.0, 0.0]), 0.1)
    far = ellipse(3.0, torch.tensor([0.8, 0.2], dtype=torch.float64))
    with pytest.raises(ValueError, match="0 of .* candidates lie in the region"):
        from_kernels([far, ellipse(3.0)], 10, 2, seeded(), most=100_000)
