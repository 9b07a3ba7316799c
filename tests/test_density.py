"""Log densities of values against closed forms: a Gaussian process, and its readings, with an exact network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gp_network import KERNEL, NOISE, SD, exact_joint
from scipy.stats import multivariate_normal
from test_mode import joint_of

import fsimformer as fsf
from fsimformer import ObservationWarning
from fsimformer.joint import Joint

JOINT = exact_joint()
SEEN = xr.Dataset({"x": ("time", [1.0, -0.5])}, {"time": [2.0, 6.0]})


def law(times: dict[str, np.ndarray]) -> multivariate_normal:
    """Of f and x at these times given SEEN."""
    at = np.concatenate([SEEN["time"].to_numpy(), *times.values()])
    noise = np.concatenate([np.ones(2), *(np.full(len(t), float(k == "x")) for k, t in times.items())])
    points = torch.from_numpy(2 * at / 10 - 1)[:, None]
    k = SD**2 * KERNEL(points, points).numpy() + NOISE**2 * np.diag(noise)
    gain = np.linalg.solve(k[:2, :2], k[:2, 2:]).T
    return multivariate_normal(gain @ SEEN["x"].to_numpy(), k[2:, 2:] - gain @ k[:2, 2:], allow_singular=False)


@pytest.mark.parametrize("n", [1, 4, 24])
def test_readings_have_the_density_of_the_process(n: int) -> None:
    """At most .02 nats a value; samples along a dim of any name."""
    at = np.linspace(0.3, 9.8, n)
    exact = law({"x": at})
    x = exact.rvs(5, random_state=0).reshape(5, n)
    found = JOINT.condition(SEEN).log_prob(xr.Dataset({"x": (("future", "time"), x)}, {"time": at}))
    assert found.dims == ("future",) and found.attrs["n_values"] == n
    np.testing.assert_allclose(found, exact.logpdf(x), rtol=0, atol=0.02 * n)


def test_values_of_several_variables_and_a_single_row() -> None:
    times = {"f": np.array([1.0, 8.0]), "x": np.array([4.0, 4.0, 9.0])}
    exact = law(times)
    value = exact.rvs(1, random_state=1)
    row = xr.Dataset(
        {"f": ("time_f", value[:2]), "x": ("time_x", value[2:])}, {f"time_{k}": t for k, t in times.items()}
    )
    found = JOINT.condition(SEEN).log_prob(row)
    assert found.dims == ()
    assert abs(float(found) - exact.logpdf(value)) < 0.02 * 5
    far = float(exact.logpdf(value + 5))
    assert abs(float(JOINT.condition(SEEN).log_prob(row + 5)) - far) < 0.02 * 5 and far < float(found) - 10


def test_blocks_follow_the_chain_rule() -> None:
    """At most five values in one solve: the same density, draw by draw."""
    at = np.linspace(0.3, 9.8, 12)
    exact = law({"x": at})
    x = exact.rvs(3, random_state=0)
    values = xr.Dataset({"x": (("draw", "time"), x)}, {"time": at})
    model = JOINT.model
    few = type(model)(**{**{k: getattr(model, k) for k in model.__dataclass_fields__}, "max_latents": 5})
    found = Joint(few).condition(SEEN).log_prob(values)
    assert found.attrs["n_blocks"] == 3
    np.testing.assert_allclose(found, exact.logpdf(x), rtol=0, atol=0.02 * 12)


def test_joint_and_conditional_densities_agree() -> None:
    """log p(a, b) = log p(a) + log p(b | a)."""
    at = np.array([1.0, 3.0, 7.0])
    x = np.array([0.4, -1.0, 2.0])
    pick = lambda *i: xr.Dataset({"x": ("time", x[list(i)])}, {"time": at[list(i)]})  # noqa: E731
    whole, part = JOINT.log_prob(pick(0, 1, 2)), JOINT.log_prob(pick(0, 2))
    rest = JOINT.condition(pick(0, 2)).log_prob(pick(1))
    assert abs(float(whole) - float(part) - float(rest)) < 0.02 * 3


def test_draws_in_their_own_shape_and_jacobians_of_every_support() -> None:
    """Of parameters whitened by their priors, of which the network knows all: the prior's density."""
    rng = np.random.default_rng(0)
    names = ["alpha", "beta", "gamma", "delta"]
    joint = joint_of({k: fsf.LogitNormal(0.0, 1.0, 1.0, 3.0) for k in names}, torch.eye(5).double())
    prior = xr.Dataset({k: (("chain", "draw"), rng.uniform(1.2, 2.8, (2, 3))) for k in names})
    found = joint.log_prob(prior)
    u = {k: (v - 1) / 2 for k, v in prior.items()}
    logit = {k: np.log(p / (1 - p)) for k, p in u.items()}
    exact = sum(-0.5 * logit[k] ** 2 - 0.5 * np.log(2 * np.pi) - np.log(2 * u[k] * (1 - u[k])) for k in names)
    assert found.dims == ("chain", "draw")
    assert float(np.abs(found - exact).max()) < 0.02
    joint = fsf.load("lotka_volterra")
    draws = joint.condition({"prey": xr.DataArray([1.0], {"time": [1.0]}, "time")}).sample(4, at={"prey": [3.0]})
    alone = joint.condition({"prey": xr.DataArray([1.0], {"time": [1.0]}, "time")}).log_prob(draws)
    assert alone.dims == ("chain", "draw") and alone.attrs["n_values"] == 4  # the readings are integrated out


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (xr.Dataset(), ValueError, "got an empty one"),
        (xr.Dataset({"y": 1.0}), KeyError, "no variable 'y'"),
        (xr.Dataset({"x": ("time", [1.0])}), ValueError, "'x' lacks a coordinate 'time'"),
        (xr.Dataset({"x": ("time", [np.nan])}, {"time": [1.0]}), ValueError, "some draws are NaN"),
    ],
)
def test_values_that_make_no_sense(values: xr.Dataset, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        JOINT.condition(SEEN).log_prob(values)


def test_text_is_no_number_and_a_number_in_an_object_array_is_one() -> None:
    one = xr.Dataset({"x": ("time", [0.3])}, {"time": [1.0]})
    with pytest.raises(ValueError, match="'x': expected real numbers, got dtype <U3"):
        JOINT.log_prob(one.assign(x=("time", ["0.3"])))
    with pytest.raises(ValueError, match="'x': expected numbers, got dtype object with values such as '0.3'"):
        JOINT.log_prob(one.assign(x=("time", np.array(["0.3"], dtype=object))))
    held = one.assign(x=("time", np.array([0.3], dtype=object)))
    assert float(JOINT.log_prob(held)) == float(JOINT.log_prob(one))


def test_a_solver_that_fails_says_so_and_the_other_samples_keep_their_densities() -> None:
    at, x = np.array([1.0, 8.0]), np.array([[0.4, -1.0], [1e30, -1.0], [0.1, 0.2]])
    values = xr.Dataset({"x": (("draw", "time"), x)}, {"time": at})
    with pytest.warns(ObservationWarning, match="the solver failed for 1 of 3 samples, whose density is NaN"):
        found = JOINT.condition(SEEN).log_prob(values)
    assert np.isnan(found).to_numpy().tolist() == [False, True, False]
    np.testing.assert_allclose(found[[0, 2]], law({"x": at}).logpdf(x[[0, 2]]), rtol=0, atol=0.04)


def test_values_are_a_dataset_or_a_tree() -> None:
    with pytest.raises(ValueError, match=r"log_prob: expected an xarray.Dataset of values, .* got dict"):
        JOINT.log_prob({"f": 0.2})  # type: ignore[arg-type]


def test_observed_parameters_and_tolerances() -> None:
    known = fsf.load("lotka_volterra").condition({"alpha": 1.5})
    with pytest.raises(ValueError, match=r"\['alpha'\] were observed"):
        known.log_prob(xr.Dataset({"alpha": 1.6, "beta": 1.5}))
    one = xr.Dataset({"x": ("time", [0.3])}, {"time": [1.0]})
    with pytest.raises(ValueError, match="expected tolerance > 0"):
        JOINT.log_prob(one, tolerance=0)
    with pytest.warns(ObservationWarning, match="after 192 steps two solutions are still"):
        JOINT.log_prob(one + 30, tolerance=1e-9)
