"""Draws of functions with an exact network: their law, their agreement with themselves, and what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from gp_network import KERNEL, LENGTHSCALE, NOISE, SD, exact_joint

from fsimformer.joint import Conditional
from fsimformer.kernels import Kernel
from fsimformer.simulators import GaussianProcess

TIMES = np.array([1.0, 4.0, 4.3, 8.0])
EXACT = GaussianProcess(
    Kernel(lengthscale=1.75), sd=SD, noise=NOISE, dims={"time": (0.0, 10.0)}
)  # 1.75 of 10 is .35 of 2
OBSERVED = xr.Dataset({"x": ("time", [1.5, -1.0, -0.2, 3.0])}, {"time": TIMES})


def conditional() -> Conditional:
    return exact_joint().condition(OBSERVED)


def values(tree: xr.DataTree, name: str, group: str = "posterior") -> np.ndarray:
    found = tree[group][name]
    return found.values.reshape(-1, *found.shape[2:])


def test_draws_at_any_points_have_the_exact_law() -> None:
    """Means and covariances of f at points of which none is a knot, against the closed form."""
    at = np.array([0.3, 1.0, 1.1, 3.9, 4.8, 6.6, 9.6])
    draws = values(conditional().sample(1_000, {"f": at}, quality="exact"), "f")
    exact = EXACT.posterior({"x": OBSERVED["x"]})
    sd = exact.covariance(at).diagonal().sqrt().numpy()
    error = (draws.mean(0) - exact.mean(at).numpy()) / sd
    assert np.abs(error).max() < 4 / np.sqrt(1_000)
    ratio = np.cov(draws.T) / np.outer(sd, sd) - exact.covariance(at).numpy() / np.outer(sd, sd)
    assert np.abs(ratio).max() < 4 * np.sqrt(2 / 1_000) + 0.02


def test_a_draw_does_not_depend_on_what_else_is_asked_and_extends_later(tmp_path: Path) -> None:
    """f(A) alone, f(A) within A ∪ B, and f(A) asked of a file: one function."""
    asked = conditional()
    a, b = np.array([0.7, 2.2, 5.1]), np.linspace(0, 10, 150)
    alone = asked.sample(20, {"f": a})
    both = asked.sample(20, {"f": np.concatenate([b, a])})
    np.testing.assert_allclose(values(both, "f")[:, -3:], values(alone, "f"), rtol=0, atol=1e-5)
    both.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    later = asked.extend(xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf"), {"f": a})
    np.testing.assert_allclose(values(later, "f"), values(alone, "f"), rtol=0, atol=1e-4)
    assert later["posterior"]["time"].values.tolist() == a.tolist()
    at_knots = asked.extend(alone, {"f": np.linspace(0, 10, 9)})
    np.testing.assert_allclose(values(at_knots, "f"), values(alone, "f", "functions"), rtol=0, atol=2e-3)


def test_a_draw_is_continuous_and_as_rough_as_the_process() -> None:
    """Increments over a hundredth of a lengthscale have the process's variance."""
    start = np.linspace(0.2, 9.7, 25)
    near = np.stack([start, start + 0.05 * LENGTHSCALE], 1).ravel()
    draws = values(exact_joint().condition(None).sample(400, {"f": near}, quality="exact"), "f", "prior")
    increment = np.square(draws[:, 1::2] - draws[:, ::2]).mean() / SD**2
    points = torch.tensor([[0.0], [0.01 * LENGTHSCALE]], dtype=torch.float64)
    assert increment == pytest.approx(2 * (1 - float(KERNEL(points, points)[0, 1])), rel=0.15)


def test_readings_are_the_path_with_noise_of_their_own() -> None:
    at = np.array([0.5, 0.5, 4.0, 6.2])
    tree = conditional().sample(1_000, {"f": at, "x": at})
    f, new = values(tree, "f"), values(tree, "x", "predictions")
    assert set(tree["posterior_predictive"]["x"].time_x.values) == {4.0}  # a replicate of a reading
    noise = new - f[:, [0, 1, 3]]
    assert np.abs(np.cov(noise.T) - NOISE**2 * np.eye(3)).max() < 4 * NOISE**2 * np.sqrt(2 / 1_000)
    assert np.abs(np.corrcoef(noise.T, f[:, [0, 1, 3]].T)[:3, 3:]).max() < 4 / np.sqrt(1_000)
    np.testing.assert_allclose(f[:, 0], f[:, 1], rtol=0, atol=1e-5)


def test_more_draws_change_none_and_seeds_differ() -> None:
    asked, at = conditional(), {"f": np.array([0.7, 5.1])}
    few, many, other = (values(asked.sample(n, at, seed=s), "f") for n, s in ((4, 0), (8, 0), (4, 1)))
    np.testing.assert_allclose(many[:4], few, rtol=0, atol=1e-5)
    assert np.abs(few - other).min() > 1e-4


def test_where_the_spline_says_it_all_the_network_is_not_asked() -> None:
    joint = exact_joint()
    dull = replace(joint.model, spread={"f": (torch.full((9,), 1e-3),)})
    network = joint.model.denoiser.network
    asked = replace(joint, model=dull).condition(OBSERVED)
    asked.sample(4, {"f": np.linspace(0, 10, 9)})
    before = network.calls  # type: ignore[attr-defined]
    asked.sample(4, {"f": np.linspace(0, 10, 999)})
    assert network.calls == 2 * before == 64  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ({"x": [1.0]}, r"\['x'\] are no functions that these draws hold. Functions: \['f'\]"),
        ({"g": [1.0]}, r"\['g'\] are no functions that these draws hold"),
        ({}, "extend: expected a function with a reference set and its new points, got an empty `at`"),
    ],
)
def test_what_cannot_be_extended_is_refused(at: dict[str, Any], message: str) -> None:
    asked = conditional()
    draws = asked.sample(2, {"f": [1.0]})
    with pytest.raises(ValueError, match=message):
        asked.extend(draws, at)


def test_draws_of_another_observation_or_without_their_noise_are_refused() -> None:
    asked = conditional()
    draws = asked.sample(2, {"f": [1.0]})
    with pytest.raises(ValueError, match="extend: the draws were not conditioned on these readings of 'x'"):
        exact_joint().condition(OBSERVED + 1).extend(draws, {"f": [2.0]})
    moved = exact_joint().condition({"x": OBSERVED["x"].assign_coords(time=TIMES + np.array([0, 0, 0.1, 0]))})
    with pytest.raises(ValueError, match="extend: the draws were conditioned on 'x' at other places along 'time'"):
        moved.extend(draws, {"f": [1.0]})
    whole = exact_joint().condition({"x": OBSERVED["x"].assign_coords(time=np.arange(4))})  # integers are numbers, too
    with pytest.raises(ValueError, match="extend: the draws were conditioned on 'x' at other places along 'time'"):
        whole.extend(draws, {"f": [1.0]})
    with pytest.raises(ValueError, match=r"extend: the draws were conditioned on \['x'\] as well"):
        exact_joint().condition(None).extend(draws, {"f": [2.0]})
    del draws["functions"]["noise_f"]
    with pytest.raises(KeyError, match="holds 'f' but not 'noise_f'"):
        asked.extend(draws, {"f": [2.0]})
    with pytest.raises(ValueError, match=r"refine: \['f'\] are drawn through their reference sets"):
        asked.refine(asked.sample(2, {"f": [1.0]}, quality="exact"), lambda d: d["f"].sum("time"))
