"""The reference that others are checked against is checked by a second way of working it out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import seeded
from torch.distributions import MultivariateNormal

from fsimformer.kernels import Kernel
from fsimformer.priors import LogNormal
from fsimformer.simulators import GaussianProcess, check

LINEAR = GaussianProcess()
OU = GaussianProcess(Kernel(0.5, 0.3), sd=2.0, noise=0.5)
UNKNOWN = GaussianProcess(Kernel(1.5), lengthscale=LogNormal(-1.5, 0.7), noise=0.2, grid_points=41)
FIELD = GaussianProcess(Kernel(lengthscale=(0.4, 0.8)), dims={"x1": (0.0, 1.0), "x2": (-1.0, 1.0)}, grid_points=21)


def series(times, values) -> xr.DataArray:
    return xr.DataArray(np.asarray(values, dtype=float), {"time": np.asarray(times, dtype=float)}, "time")


@pytest.mark.parametrize("simulator", [LINEAR, OU, UNKNOWN, FIELD])
def test_it_is_a_simulator_of_its_schema(simulator) -> None:
    check(simulator)


@pytest.mark.parametrize("nu", [0.5, 1.5, 2.5, math.inf])
def test_the_posterior_is_that_of_the_joint_normal_by_its_precision(nu: float) -> None:
    """The block of the inverse of the joint covariance, never formed in the class itself."""
    simulator = GaussianProcess(Kernel(nu, 0.2), sd=1.5, noise=0.3)
    times = torch.tensor([0.9, 0.1, 0.45, 0.5], dtype=torch.float64)
    y = torch.tensor([1.0, -0.5, 0.2, 0.7], dtype=torch.float64)
    at = torch.tensor([0.0, 0.3, 0.47, 1.0], dtype=torch.float64)
    both = torch.cat([at, times])[:, None]
    joint = 1.5**2 * Kernel(nu, 0.2)(both, both) + torch.diag(torch.tensor([0.0] * 4 + [0.09] * 4).double())
    precision = torch.linalg.inv(joint)
    covariance = torch.linalg.inv(precision[:4, :4])
    mean = -covariance @ precision[:4, 4:] @ y
    exact = simulator.posterior({"x": series(times, y)})
    torch.testing.assert_close(exact.mean(at), mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(exact.covariance(at), covariance, rtol=1e-5, atol=1e-6)
    noisy = covariance + 0.09 * torch.eye(4)
    torch.testing.assert_close(exact.covariance(at, readings=True), noisy, rtol=1e-5, atol=1e-6)
    value = torch.randn(3, 4, generator=seeded(1), dtype=torch.float64)
    dense = MultivariateNormal(mean, noisy).log_prob(value)
    torch.testing.assert_close(exact.log_prob(at, value, readings=True), dense, rtol=1e-5, atol=1e-5)


def test_values_of_the_function_itself_are_kept_and_nan_is_no_reading() -> None:
    times = [0.2, 0.6, 0.8]
    exact = LINEAR.posterior({"theta": series(times, [1.0, np.nan, -1.0])})
    torch.testing.assert_close(exact.mean([0.2, 0.8]), torch.tensor([1.0, -1.0]).double(), rtol=0, atol=1e-8)
    variance = exact.covariance([0.2, 0.6, 0.8]).diagonal()
    torch.testing.assert_close(variance, torch.tensor([0.0, 1.0, 0.0]).double(), rtol=0, atol=1e-6)
    nothing = LINEAR.posterior()
    torch.testing.assert_close(
        nothing.covariance([0.3, 0.31]), LINEAR.kernel(*2 * [torch.tensor([[0.3], [0.31]]).double()])
    )


def test_ornstein_uhlenbeck_forgets_what_lies_behind_a_known_value() -> None:
    far, near = (OU.posterior({"theta": series(t, v)}) for t, v in (([0.1, 0.5], [3.0, -1.0]), ([0.5], [-1.0])))
    at = [0.6, 0.9]
    torch.testing.assert_close(far.mean(at), near.mean(at), rtol=0, atol=1e-6)
    torch.testing.assert_close(far.covariance(at), near.covariance(at), rtol=0, atol=1e-6)
    torch.testing.assert_close(near.mean(at), -torch.exp(-torch.tensor([0.1, 0.4]).double() / 0.3))


def test_an_unknown_lengthscale_is_integrated_out() -> None:
    """Evidence of a node is the dense normal's; weighted draws of the prior agree within their error."""
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    y = torch.tensor([0.1, 0.5, 0.9, 1.0, 0.4, -0.2, -0.9, -0.8, -0.1], dtype=torch.float64)
    exact = UNKNOWN.posterior({"x": series(times, y)})
    kernel = exact.kernels[90]
    dense = MultivariateNormal(torch.zeros(9).double(), kernel(times[:, None], times[:, None]) + 0.04 * torch.eye(9))
    torch.testing.assert_close(exact.log_evidence[90], dense.log_prob(y))
    finer = UNKNOWN.posterior({"x": series(times, y)}, n_nodes=401)
    torch.testing.assert_close(exact.mean([0.07, 0.33]), finer.mean([0.07, 0.33]), rtol=0, atol=1e-8)
    scale = UNKNOWN.simulate(500, seeded(2))["lengthscale"]
    log_weight = torch.stack([
        UNKNOWN.posterior({"x": series(times, y), "lengthscale": xr.DataArray(float(s))}).log_evidence[0] for s in scale
    ])  # fmt: skip
    weight = torch.softmax(log_weight, 0)
    ours, theirs = (exact.weights @ exact.nodes.log()), (weight @ scale.log())
    error = (weight.square() * (scale.log() - theirs).square()).sum().sqrt()
    assert abs(float(ours - theirs)) < 4 * float(error) < 0.2
    prior = UNKNOWN.posterior()
    assert float(prior.weights @ prior.nodes.log()) == pytest.approx(-1.5, abs=1e-9)


@pytest.mark.parametrize("simulator", [LINEAR, OU, UNKNOWN])
def test_draws_of_a_posterior_have_its_moments(simulator) -> None:
    exact = simulator.posterior({"x": series([0.2, 0.5, 0.52], [1.0, -0.3, 0.1])})
    at = [0.1, 0.5, 0.51, 0.8]
    draws, scale = exact.sample(at, 20_000, seeded(3), readings=True)
    sd = exact.covariance(at, readings=True).diagonal().sqrt()
    torch.testing.assert_close(draws.mean(0) / sd, exact.mean(at) / sd, rtol=0, atol=4 / math.sqrt(20_000))
    error = (torch.cov(draws.T) - exact.covariance(at, readings=True)) / torch.outer(sd, sd)
    assert float(error.abs().max()) < 5 * math.sqrt(2 / 20_000)
    assert float(scale.log().mean()) == pytest.approx(float(exact.weights @ exact.nodes.log()), abs=0.03)


@pytest.mark.parametrize("simulator", [LINEAR, OU, UNKNOWN, FIELD])
def test_simulations_have_the_kernels_covariance(simulator) -> None:
    """For an unknown lengthscale, the mean of the kernels of the draws' own lengthscales."""
    n = 4_000
    draws = simulator.simulate(n, seeded(4))
    assert torch.equal(draws["theta"], draws["x"])  # clean: noise is added where it is read
    points = torch.stack(torch.meshgrid(*simulator.grid.values(), indexing="ij"), -1).flatten(0, -2)
    some = torch.tensor([0, 1, 7, len(points) // 2, len(points) - 1])
    found = draws["theta"].flatten(1)[:, some].T @ draws["theta"].flatten(1)[:, some] / n
    scales = draws["lengthscale"][:500] if "lengthscale" in draws else [simulator.kernel.lengthscale]
    kernels = [Kernel(simulator.kernel.smoothness, s if isinstance(s, tuple) else float(s)) for s in scales]
    exact = simulator.sd**2 * torch.stack([k(points[some], points[some]) for k in kernels]).mean(0)
    assert float((found - exact).abs().max()) < 5 * simulator.sd**2 * math.sqrt(2 / n)


def test_a_field_is_read_on_a_grid_or_at_points() -> None:
    x1, x2 = np.array([0.1, 0.7]), np.array([-0.5, 0.0, 0.9])
    values = np.arange(6.0).reshape(2, 3) / 3
    grid = xr.DataArray(values, {"x1": x1, "x2": x2}, ("x1", "x2"))
    first, second = (a.ravel() for a in np.meshgrid(x1, x2, indexing="ij"))
    points = xr.DataArray(values.ravel(), {"x1": ("point", first), "x2": ("point", second)}, "point")
    at = np.array([[0.3, 0.3], [0.7, 0.0]])
    by_grid, by_point = (FIELD.posterior({"x": a}) for a in (grid, points))
    torch.testing.assert_close(by_grid.mean(at), by_point.mean(at), rtol=0, atol=1e-10)
    torch.testing.assert_close(by_grid.covariance(at), by_point.covariance(at), rtol=0, atol=1e-10)


def test_what_it_cannot_be_is_said() -> None:
    with pytest.raises(KeyError, match=r"no variables \['y'\]. Variables: \['theta', 'x'\]"):
        LINEAR.posterior({"y": series([0.1], [1.0])})
    with pytest.raises(KeyError, match=r"'x' has no coordinates \['time'\]"):
        LINEAR.posterior({"x": xr.DataArray([1.0], dims="time")})
    with pytest.raises(ValueError, match="expected sd, noise > 0"):
        GaussianProcess(noise=0.0)
    with pytest.raises(ValueError, match=r"2 index dims, but lengthscales \(0.1, 0.2, 0.3\)"):
        GaussianProcess(Kernel(lengthscale=(0.1, 0.2, 0.3)), dims=FIELD.dims)
