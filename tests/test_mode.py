"""Modes against closed forms: Gaussian conditionals by exact networks, and the Jacobians that move their modes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from gaussian import GaussianNetwork, condition
from gp_network import KERNEL, NOISE, SD, exact_joint
from scipy.optimize import brentq

import fsimformer as fsf
from fsimformer import LogitNormal, LogNormal, Normal, ObservationWarning, Uniform, Variable
from fsimformer.denoise import Denoiser
from fsimformer.joint import Joint
from fsimformer.mode import climb
from fsimformer.model_file import Model
from fsimformer.priors import Prior
from fsimformer.schema import Schema
from fsimformer.whiten import Standardise, Transform, Whitening


def joint_of(priors: dict[str, Prior], covariance: torch.Tensor) -> Joint:
    """Parameters whose whitened values are, with data y, N(0, covariance): y stands last and is whitened already."""
    parameters = [Variable(k, "parameter", prior=p) for k, p in priors.items()]
    schema = Schema((*parameters, Variable("y", "data")))
    transforms: dict[str, Transform | tuple[Transform, ...]] = {
        v.name: Transform(v.prior, v.support, Standardise()) for v in schema.variables
    }
    network = GaussianNetwork(torch.zeros(len(covariance), dtype=torch.float64), covariance)
    denoiser = Denoiser(network, "trig")  # type: ignore[arg-type]
    return Joint(Model(schema, Whitening(transforms), denoiser, "trig", "dense", None, {}, 32, {}, (), {}))


ROOT = torch.tensor([[1.0, 0, 0, 0], [0.3, 0.8, 0, 0], [-0.4, 0.2, 0.7, 0], [0.7, 0.5, -0.4, 0.4]]).double()
ROOT = ROOT / ROOT.norm(dim=1, keepdim=True)
COVARIANCE = ROOT @ ROOT.T
PRIORS: dict[str, Prior] = {"a": LogNormal(0.3, 0.8), "b": Normal(1.0, 2.0), "c": Uniform(-2.0, 3.0)}


def test_jacobians_of_log_normal_and_bounded_parameters_move_the_mode() -> None:
    """log p(x) = −½ (z − m)' S⁻¹ (z − m) − .8 z_a + ½ z_c² + const is quadratic: its top is known."""
    joint, y = joint_of(PRIORS, COVARIANCE), 0.9
    mean, cov = condition(torch.zeros(4).double(), COVARIANCE, torch.arange(3), torch.tensor([3]), torch.tensor([y]))
    curvature = torch.linalg.inv(cov) - torch.diag(torch.tensor([0.0, 0.0, 1.0]).double())
    assert bool((torch.linalg.eigvalsh(curvature) > 0).all())
    z = torch.linalg.solve(curvature, torch.linalg.solve(cov, mean) - torch.tensor([0.8, 0.0, 0.0]).double())
    posterior = joint.condition({"y": y})
    found = posterior.mode(seed=1)
    assert {k: v.dims for k, v in found.data_vars.items()} == {"a": (), "b": (), "c": ()}
    top = [joint.model.whitening[k].forward(torch.tensor(float(found[k])).double()) for k in PRIORS]
    apart = torch.stack(top) - z
    assert 0.5 * float(apart @ curvature @ apart) < 2e-3  # nats: what the tolerance says
    assert float((z - mean).abs().max()) > 0.3  # of the whitened values the mode lies elsewhere
    assert abs(found.attrs["log_prob"] - float(posterior.log_prob(found))) < 0.01
    assert found.attrs["log_prob"] > found.attrs["log_prob_draw"] - 1e-3 and found.attrs["left"] < 1e-3


def test_a_bounded_parameter_by_itself_is_the_root_of_its_slope() -> None:
    """x = σ(g), g = .4 + 1.5 z: (z − m)/s² + 1.5 (1 − 2σ(g)) = 0."""
    joint = joint_of({"a": LogitNormal(0.4, 1.5), "b": Normal()}, COVARIANCE[1:, 1:])
    known = {"y": 0.5, "b": 0.0}
    given = torch.tensor([0.0, 0.5]).double()
    zero = torch.zeros(3).double()
    mean, cov = condition(zero, COVARIANCE[1:, 1:], torch.tensor([0]), torch.tensor([1, 2]), given)
    z = brentq(lambda z: (z - float(mean)) / float(cov) + 1.5 * (1 - 2 / (1 + math.exp(-0.4 - 1.5 * z))), -6, 6)
    found = float(joint.condition(known).mode()["a"])
    assert abs(float(joint.model.whitening["a"].forward(torch.tensor(found).double())) - z) < 0.03
    assert abs(z - float(mean)) > 0.2


def test_a_function_of_a_gaussian_process_is_likeliest_at_its_mean() -> None:
    joint, at = exact_joint(), np.array([3.0, 5.0, 8.0])
    seen = xr.Dataset({"x": ("time", [1.0, -0.5])}, {"time": [2.0, 6.0]})
    t = torch.from_numpy(2 * np.concatenate([[2.0, 6.0], at]) / 10 - 1)[:, None]
    k = SD**2 * KERNEL(t, t).numpy()
    mean = k[2:, :2] @ np.linalg.solve(k[:2, :2] + NOISE**2 * np.eye(2), [1.0, -0.5])
    found = joint.condition(seen).mode({"f": at}, n=60)
    assert found["f"].dims == ("time",)
    np.testing.assert_array_equal(found["f"]["time"], at)
    np.testing.assert_allclose(found["f"], mean, atol=0.05)  # of sds from .7 to 1.8
    dated = xr.Dataset({"x": ("time", [1.0, -0.5])}, {"time": pd.to_datetime(["2021-03-03", "2021-03-07"])})
    day = np.array(["2021-03-04"], dtype="datetime64[ns]")
    assert joint.condition(dated, origin="2021-03-01").mode({"f": day}, n=20)["f"]["time"].dtype.kind == "M"


def test_a_density_that_rises_to_the_end_of_its_support_is_told() -> None:
    """z* = y/ρ for a uniform parameter: far off where any draw lies."""
    rho = 0.3
    joint = joint_of({"c": Uniform(0.0, 1.0)}, torch.tensor([[1.0, rho], [rho, 1.0]]).double())
    with pytest.warns(ObservationWarning, match=r"the density of \['c'\] is highest at the edge of where draws lie"):
        found = joint.condition({"y": 3.5}).mode(n=50)
    assert 0.99 < float(found["c"]) < 1.0


def test_the_climb_ends_at_the_top_of_a_banana_and_stays_in_its_box() -> None:
    """Rosenbrock's valley, from its far end; then with the top cut off by a bound."""

    def valley(z: torch.Tensor) -> torch.Tensor:
        return -((1 - z[:, 0]) ** 2) - 20 * (z[:, 1] - z[:, 0] ** 2) ** 2

    start, wide = torch.tensor([-1.0, 1.0]).double(), torch.full((2,), 4.0).double()
    found = climb(valley, start, torch.eye(2).double(), -wide, wide, 1e-6)
    torch.testing.assert_close(found.z, torch.ones(2).double(), atol=5e-3, rtol=0)
    assert found.left < 1e-6 and not bool(found.edge.any())
    narrow = torch.tensor([0.5, 4.0]).double()
    cut = climb(valley, start, torch.eye(2).double(), -wide, narrow, 1e-6)
    torch.testing.assert_close(cut.z, torch.tensor([0.5, 0.25]).double(), atol=5e-3, rtol=0)
    assert cut.edge.tolist() == [True, False]


def test_counts_and_seeds_may_be_numpy_s() -> None:
    """As those of `sample`: what `len` of an array's shape, or a loop over `np.arange`, gives."""
    posterior = joint_of({"a": Normal()}, COVARIANCE[2:, 2:]).condition({"y": 0.5})
    of_numpy: dict[str, Any] = {"n": np.int64(20), "seed": np.uint32(3)}
    found = posterior.mode(**of_numpy)
    xr.testing.assert_identical(found, posterior.mode(n=20, seed=3))
    assert type(found.attrs["n_draws"]) is int  # netCDF and JSON take it


def test_errors_name_what_came() -> None:
    joint = joint_of(PRIORS, COVARIANCE)
    with pytest.raises(ValueError, match="got n=20.0"):
        joint.condition({"y": 0.0}).mode(n=20.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 6, twice the values; got n=4"):
        joint.condition({"y": 0.0}).mode(n=4)
    with pytest.raises(ValueError, match="expected tolerance > 0, got 0"):
        joint.condition({"y": 0.0}).mode(tolerance=0)
    with pytest.raises(ValueError, match=r"mode: nothing is left to sample: \['a', 'b', 'c'\] are observed"):
        joint.condition({"a": 1.0, "b": 1.0, "c": 1.0}).mode()
    with pytest.raises(ValueError, match="mode and refine know nothing of constraints"):
        joint.condition({"y": 0.0}).constrain(fsf.Between("a", upper=1.0)).mode()
