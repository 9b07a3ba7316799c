"""Twisted SMC against truncated Gaussians that are known exactly, by quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from gaussian import GaussianNetwork
from torch import Tensor

from fsimformer.denoise import Denoiser
from fsimformer.sample import SamplerConfig
from fsimformer.tokens import TokenSet
from fsimformer.twisted import Particles, Term, Twist, draw_twisted, log_interval, shared_power, systematic

MEAN = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
COV = torch.tensor([[0.8, 0.4, -0.2], [0.4, 0.6, 0.1], [-0.2, 0.1, 0.5]], dtype=torch.float64)
FINE = SamplerConfig("sde_3m", 64, power=5.0, log_min=-6.2, log_max=3.0)
NOTHING = TokenSet(
    torch.zeros(0, dtype=torch.long), torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, dtype=torch.bool)
)
STAGE = TokenSet(torch.arange(3), torch.zeros(3, 0), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


def box(*ends: tuple[float, float]) -> Twist:
    """Intervals of the first variables."""
    eye, one = torch.eye(3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    sd = COV.diagonal().sqrt()
    return Twist(tuple(Term(eye[k, None], 0 * one, one, None, *e, float(sd[k])) for k, e in enumerate(ends)))


def run(twist: Twist, n: int, seed: int = 0, config: SamplerConfig = FINE, repeats: int | None = None) -> Particles:
    denoiser = Denoiser(GaussianNetwork(MEAN, COV), "trig")  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    return draw_twisted(denoiser, NOTHING, STAGE, twist, n, config, 0, 100_000, generator, repeats)


def inside(z: Tensor, *ends: tuple[float, float]) -> Tensor:
    lower, upper = torch.tensor(ends, dtype=torch.float64).T
    own = z[:, : len(ends)].double()
    return ((own >= lower) & (own <= upper)).all(1)


def exact(*ends: tuple[float, float]) -> tuple[float, Tensor, Tensor]:
    """P, mean and covariance of the truncated Gaussian; the third variable is integrated in closed form."""
    grids = []
    for k in range(2):
        lower, upper = ends[k] if k < len(ends) else (-math.inf, math.inf)
        reach = 9 * float(COV[k, k].sqrt())
        x, w = np.polynomial.legendre.leggauss(600)
        lower, upper = max(lower, float(MEAN[k]) - reach), min(upper, float(MEAN[k]) + reach)
        grids.append((lower + (upper - lower) / 2 * (1 + x), (upper - lower) / 2 * w))
    a, b = np.meshgrid(grids[0][0], grids[1][0], indexing="ij")
    two = torch.from_numpy(np.stack([a.ravel(), b.ravel()], 1))
    law = torch.distributions.MultivariateNormal(MEAN[:2], COV[:2, :2])
    mass = law.log_prob(two).exp() * torch.from_numpy(np.outer(grids[0][1], grids[1][1]).ravel())
    gain = COV[2:, :2] @ torch.linalg.inv(COV[:2, :2])
    third = MEAN[2] + (two - MEAN[:2]) @ gain[0]
    points = torch.cat([two, third[:, None]], 1)
    p = mass.sum()
    mean = (mass[:, None] * points).sum(0) / p
    cov = torch.einsum("n,ni,nj->ij", mass / p, points - mean, points - mean)
    cov[2, 2] += COV[2, 2] - (gain @ COV[:2, 2:])[0, 0]
    return float(p), mean, cov


BOXES = {
    "half": ((0.4, math.inf),),
    "one in 60": ((1.6, 3.0), (-0.5, 0.3)),
    "one in 10,000": ((3.0, 4.0), (-0.5, 0.3)),
    "one in a million": ((4.65, math.inf),),
}


@pytest.mark.parametrize("name", BOXES)
def test_weighted_particles_have_the_truncated_law_and_its_probability(name: str) -> None:
    ends = BOXES[name]
    n, (p, mean, cov) = 4_000, exact(*ends)
    out = run(box(*ends), n)
    total = (out.log_weight - out.log_psi).masked_fill(~inside(out.z, *ends), -torch.inf)
    log_p = out.log_mean + float(total.logsumexp(0)) - math.log(n)
    w = (total - total.max()).exp()
    w, ess = w / w.sum(), float(w.sum() ** 2 / (w**2).sum())
    assert ess > 0.2 * n
    # the sampler's own error in the variance, 3e-3, moves a tail at d sd by d²/2 times that
    far = float(((ends[0][0] - MEAN[0]) / COV[0, 0].sqrt()).clamp(min=0))
    assert abs(log_p - math.log(p)) < 0.05 + 3e-3 * far**2
    z, sd = out.z.double(), cov.diagonal().sqrt()
    found = (w[:, None] * z).sum(0)
    assert float(((found - mean) / sd).abs().max()) < 5 / ess**0.5
    spread = torch.einsum("n,ni,nj->ij", w, z - found, z - found)
    assert float(((spread - cov) / (sd[:, None] * sd)).abs().max()) < 8 / ess**0.5


def test_the_probability_is_unbiased_with_few_particles() -> None:
    ends = ((1.6, 3.0), (-0.5, 0.3))
    found = []
    coarse = SamplerConfig("sde_3m", 16, power=4.0, log_min=-4.0, log_max=3.0)
    for seed in range(100):
        out = run(box(*ends), 30, seed, coarse)
        total = (out.log_weight - out.log_psi).exp() * inside(out.z, *ends)
        found.append(math.exp(out.log_mean) * float(total.mean()))
    plain = run(Twist(()), 100_000, 1, coarse)
    p = float(inside(plain.z, *ends).double().mean())  # the sampler's own
    error = float(np.std(found)) / len(found) ** 0.5
    assert error < 0.1 * p
    assert abs(float(np.mean(found)) - p) < 4 * error


def test_a_wrong_twist_costs_effective_draws_and_no_truth() -> None:
    """ψ of an interval elsewhere: the weights undo it."""
    ends, n = ((1.0, math.inf),), 4_000
    p, mean, cov = exact(*ends)
    out = run(box((0.6, math.inf)), n)
    total = (out.log_weight - out.log_psi).masked_fill(~inside(out.z, *ends), -torch.inf)
    w = (total - total.max()).exp()
    w, ess = w / w.sum(), float(w.sum() ** 2 / (w**2).sum())
    assert abs(out.log_mean + float(total.logsumexp(0)) - math.log(n) - math.log(p)) < 0.1
    assert float((((w[:, None] * out.z).sum(0) - mean) / cov.diagonal().sqrt()).abs().max()) < 5 / ess**0.5


def test_linear_functionals_on_the_original_scale() -> None:
    """x = exp(z): lower <= x₀ − x₁ <= upper, against the same draws by rejection."""
    rows = torch.eye(3, dtype=torch.float64)[:2]
    weights = torch.tensor([1.0, -1.0], dtype=torch.float64)
    inverse = (torch.exp, lambda z: z)
    plain = run(Twist(()), 100_000, 5).z.double()
    u = plain[:, :2].exp() @ weights
    keep = plain[(u >= 4.5) & (u <= 6.0)]
    twist = Twist((Term(rows, torch.zeros(2).double(), weights, inverse, 4.5, 6.0, float(u.std())),))
    out = run(twist, 4_000)
    mine = out.z.double()[:, :2].exp() @ weights
    total = (out.log_weight - out.log_psi).masked_fill((mine < 4.5) | (mine > 6.0), -torch.inf)
    w = (total - total.max()).exp()
    w, ess = w / w.sum(), float(w.sum() ** 2 / (w**2).sum())
    p = len(keep) / len(plain)
    assert p < 0.03 and ess > 400
    assert abs(out.log_mean + float(total.logsumexp(0)) - math.log(4_000 * p)) < 0.15
    found, sd = (w[:, None] * out.z).sum(0), keep.std(0)
    assert float(((found - keep.mean(0)) / sd).abs().max()) < 5 * (1 / ess + 1 / len(keep)) ** 0.5


def test_where_the_twist_is_no_number_another_does_its_work() -> None:
    """A scale that overflows beyond 1.2, and one that is never a number: law and probability as before."""
    rows, one = torch.eye(3, dtype=torch.float64)[:1], torch.ones(1, dtype=torch.float64)
    inverse = (lambda z: z.masked_fill(z > 1.2, torch.nan), torch.zeros_like)
    twist = Twist((Term(rows, 0 * one, one, inverse, 0.2, 0.9, float(COV[0, 0].sqrt())),))
    out, n = run(twist, 2_000), 2_000
    total = (out.log_weight - out.log_psi).masked_fill(~inside(out.z, (0.2, 0.9)), -torch.inf)
    assert not bool(total.isnan().any())
    w, (p, mean, cov) = total.softmax(0), exact((0.2, 0.9))
    assert abs(out.log_mean + float(total.logsumexp(0)) - math.log(n * p)) < 0.15
    assert float((((w[:, None] * out.z).sum(0) - mean) / cov.diagonal().sqrt()).abs().max()) < 0.15
    nowhere = Twist((Term(rows, 0 * one, one, (lambda z: z * torch.nan, torch.zeros_like), 0.2, 0.9, 1.0),))
    plain = run(nowhere, 2_000)
    assert bool((plain.log_weight == plain.log_psi).all())
    torch.testing.assert_close(plain.z, run(Twist(()), 2_000).z)


def test_guidance_reaches_the_box_and_is_only_near_the_law() -> None:
    ends = BOXES["one in 10,000"]
    _, mean, cov = exact(*ends)
    z = run(box(*ends), 4_000, repeats=2).z
    good = inside(z, *ends)
    assert float(good.double().mean()) > 0.5
    assert float(((z[good].double().mean(0) - mean) / cov.diagonal().sqrt()).abs().max()) < 0.5


def test_without_constraints_it_is_the_sampler() -> None:
    out = run(Twist(()), 20_000)
    assert bool((out.log_weight == 0).all()) and out.log_mean == 0.0
    assert float((out.z.double().mean(0) - MEAN).abs().max()) < 0.03
    assert float((torch.cov(out.z.double().T) - COV).abs().max()) < 0.03


def test_log_interval_in_the_tails() -> None:
    from scipy.stats import norm

    ends = np.array([[-1.0, 0.5], [3.0, np.inf], [-np.inf, -12.0], [8.0, 8.1], [-8.1, -8.0], [-20.0, 20.0]])
    found = log_interval(*torch.from_numpy(ends).T.unbind())
    low, high = np.where(ends[:, 0] > 0, -ends[:, 1], ends[:, 0]), np.where(ends[:, 0] > 0, -ends[:, 0], ends[:, 1])
    expected = norm.logcdf(high) + np.log1p(-np.exp(norm.logcdf(low) - norm.logcdf(high)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_systematic_resampling_takes_each_as_often_as_its_weight_to_within_one() -> None:
    log_weight = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = log_weight.softmax(0) * 200
    for seed in range(20):
        times = systematic(log_weight, 200, torch.Generator().manual_seed(seed)).bincount(minlength=50)
        assert bool((times >= w.floor()).all()) and bool((times <= w.ceil()).all())


def test_shared_power_of_independent_and_of_equal_numbers() -> None:
    x = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(shared_power(x) - 1) < 1e-3
    assert abs(shared_power(x[:, :1].expand(-1, 4)) - 0.25) < 1e-6


def test_an_ode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a sampler of \['sde_2m', 'sde_3m'\], got 'ab2'"):
        run(Twist(()), 4, config=SamplerConfig())
