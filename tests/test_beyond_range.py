"""Beyond the trained range of an index: a warning, and no answer that is surer than it may be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from gp_network import LENGTHSCALE, NOISE, SD, exact_joint
from tiny import joint
from torch import Tensor

import fsimformer as fsf
from fsimformer.gaussian import FactorModel, Given, Grid
from fsimformer.kernels import Kernel
from fsimformer.simulators import GaussianProcess
from fsimformer.tokens import TokenBatch, TokenSet, collate, split

READINGS = {"y": xr.DataArray([1.0, 2.0], dims="time", coords={"time": [18.0, 25.0]})}


def test_readings_and_points_beyond_are_warned_of_where_they_came_in() -> None:
    model = joint()
    with pytest.warns(fsf.ObservationWarning, match=r"'y': 1 of 2 readings lie outside .* not to be trusted") as caught:
        asked = model.condition(READINGS)
    assert [w.filename for w in caught] == [__file__]
    with pytest.warns(fsf.ObservationWarning, match=r"'rate': 1 of 2 points asked for .* \(from 3 to 22\)") as caught:
        asked.sample(2, {"rate": [3.0, 22.0]}, quality="fast")
    assert [w.filename for w in caught] == [__file__]
    function = exact_joint().condition({"x": xr.DataArray([1.0], dims="time", coords={"time": [3.0]})})
    draws = function.sample(2, {"f": [1.0]}, quality="fast")
    with pytest.warns(fsf.ObservationWarning, match=r"'f': 2 of 2 points asked for lie outside .* \[0, 10\]"):
        function.extend(draws, {"f": [-0.5, 11.0]})


def line(index: list[float], observed: list[bool]) -> TokenBatch:
    value = torch.linspace(1.0, -0.5, len(index))
    one = torch.tensor(index)[:, None]
    return collate([TokenSet(torch.zeros(len(index), dtype=torch.long), one, value, torch.tensor(observed))])


def process(smoothness: float, lengthscale: float, n: int = 41) -> FactorModel:
    """Exact tables of a Gaussian process on n points."""
    grid = torch.linspace(-1, 1, n, dtype=torch.float64)[:, None]
    covariance = Kernel(smoothness, lengthscale)(grid, grid) + 1e-10 * torch.eye(n, dtype=torch.float64)
    table = torch.cat([torch.linalg.cholesky(covariance), torch.zeros(n, 2, dtype=torch.float64)], 1)
    return FactorModel(torch.zeros(1, n + 2).double(), table, (Grid(0, (0,), (n,), 0),))


def moments(given: Given) -> tuple[Tensor, Tensor]:
    """Mean and variance of the active tokens given the observed ones."""
    root = torch.linalg.cholesky(given.precision)
    mean = given.mean[0] + given.loading[0] @ torch.cholesky_solve(given.shift[..., None], root)[0, :, 0]
    spread = torch.linalg.solve_triangular(root[0], given.loading[0].mT, upper=False).square().sum(0)
    return mean, spread + given.own[0]


def test_the_baseline_goes_on_as_an_ornstein_uhlenbeck_process_does() -> None:
    """Of a process that forgets all but its last value the baseline is exact beyond both ends, to its floor of d."""
    index, asked = [-0.5, 0.1, 0.8], [1.0, 1.05, 1.3, 1.8, -1.4]
    batch = line([*index, *asked], [True] * 3 + [False] * 5)
    mean, variance = moments(process(0.5, 0.4).given(split(batch, 0)))
    exact = GaussianProcess(Kernel(0.5, 0.4), dims={"time": (-1.0, 1.0)})
    theta = xr.DataArray(batch.value[0, :3].numpy(), dims="time", coords={"time": np.float32(index)})
    law = exact.posterior({"theta": theta})
    at = np.float32(asked).astype(float)
    torch.testing.assert_close(mean, law.mean(at), rtol=0, atol=1e-4)
    torch.testing.assert_close(variance, law.covariance(at).diagonal(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("smoothness", [0.5, 1.5, 2.5])
def test_the_baseline_returns_to_the_prior_and_never_below_what_it_knows_at_the_end(smoothness: float) -> None:
    asked = [1.0, 1.1, 1.2, 1.4, 1.8, 2.6]
    batch = line([0.3, 0.7, 0.9, *asked], [True] * 3 + [False] * 6)
    mean, variance = moments(process(smoothness, 0.2).given(split(batch, 0)))
    assert bool((variance.diff() > 0).all()) and float(variance[-1]) == pytest.approx(1, abs=1e-3)
    assert float(mean[-1].abs()) < 1e-2 * float(mean[0].abs())
    own = process(smoothness, 0.2).at(line([-1.0, 0.33, 1.0], [False] * 3))
    again = process(smoothness, 0.2).at(line([-1.0, 0.33, 1.0, 1.5], [False] * 4))
    for x, y in zip(own, again, strict=True):
        assert torch.equal(x, y[:, :3])  # within the range nothing changes


@pytest.mark.filterwarnings("ignore::fsimformer.ObservationWarning")
def test_a_function_with_a_reference_set_keeps_its_law_and_its_draws_beyond_the_range() -> None:
    """With an exact network: marginals as in closed form, not a straight line; whatever else is asked; later, too."""
    observed = xr.Dataset({"x": ("time", [1.5, -1.0, -0.2, 3.0])}, {"time": [1.0, 4.0, 4.3, 9.5]})
    asked, at = exact_joint().condition(observed), np.array([-2.0, -0.2, 10.3, 11.0, 12.5])

    def values(tree: xr.DataTree) -> np.ndarray:
        return tree["posterior"]["f"].values.reshape(-1, tree["posterior"]["f"].sizes["time"])

    tree = asked.sample(1_000, {"f": at}, quality="exact")
    process = GaussianProcess(Kernel(lengthscale=LENGTHSCALE * 5), sd=SD, noise=NOISE, dims={"time": (0.0, 10.0)})
    law = process.posterior({"x": observed["x"]})
    sd = law.covariance(at).diagonal().sqrt().numpy()
    assert np.abs((values(tree).mean(0) - law.mean(at).numpy()) / sd).max() < 4 / np.sqrt(1_000)
    assert np.abs(values(tree).var(0, ddof=1) / sd**2 - 1).max() < 4 * np.sqrt(2 / 1_000) + 0.02
    among = asked.sample(20, {"f": np.concatenate([[5.0, 10.7], at, [-1.0]])}, quality="exact")
    np.testing.assert_allclose(values(among)[:, 2:-1], values(asked.sample(20, {"f": at}, quality="exact")), atol=1e-4)
    np.testing.assert_allclose(values(asked.extend(among, {"f": at})), values(among)[:, 2:-1], rtol=0, atol=1e-4)
