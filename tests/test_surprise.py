"""Surprise: false alarms at the stated rate whatever the network; alarms at noise, units, channels, single readings."""

from __future__ import annotations

import linear
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer.convert import ObservationWarning, observed_tokens, read
from fsimformer.evidence import Evidence
from fsimformer.joint import Joint
from fsimformer.simulators import SIRD, HareLynx, LotkaVolterra, hudson_bay
from fsimformer.surprise import Statistics, distances, rank_p, robust, where_it_shows, with_simulations

TIMES = np.linspace(0.5, 9.5, 12)


def observed(seed: int, noise: float = linear.NOISE, times: np.ndarray = TIMES) -> xr.Dataset:
    """Twelve readings of x and one of y, of the linear model."""
    generator = torch.Generator().manual_seed(10_000 + seed)
    drawn = linear.simulate(1, generator)
    x = np.interp(times, linear.GRID.numpy(), drawn["x"][0].numpy())
    x = x + noise * torch.randn(len(times), generator=generator, dtype=torch.float64).numpy()
    return xr.Dataset({"x": ("time", x), "y": float(drawn["y"][0])}, {"time": times})


def p_of(joint: Joint, data: xr.Dataset, n: int = 99) -> float:
    return float(joint.surprise(data, linear.SIMULATOR, n)["p_value"])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1.0, 3.0], ids=["exact network", "wrong network"])
def test_false_alarms_come_at_the_stated_rate(noise: float) -> None:
    """The network chooses where to look; the level rests on exchangeability alone."""
    joint = linear.joint(noise)
    trees = [joint.surprise(observed(s), linear.SIMULATOR, 19, seed=s) for s in range(120)]
    for name in ("p_value", "p_odd"):
        p = np.array([float(t[name]) for t in trees])
        for level in (0.1, 0.3):
            assert abs((p <= level + 1e-9).mean() - level) < 3.3 * np.sqrt(level * (1 - level) / 120)
    p = np.stack([t["p_variable"] for t in trees])
    assert (np.abs((p <= 0.2 + 1e-9).mean(0) - 0.2) < 3.3 * np.sqrt(0.16 / 120)).all()


@pytest.mark.filterwarnings("ignore::fsimformer.convert.ObservationWarning")
def test_alarms_at_noise_and_units_of_the_linear_model() -> None:
    joint, many = linear.joint(), np.linspace(0.1, 9.9, 40)
    for seed in range(3):  # with few readings the series between them hides how large the noise is
        assert p_of(joint, observed(seed, 3 * linear.NOISE, many)) == 0.01
        assert p_of(joint, observed(seed, 0.0, many)) <= 0.02  # too smooth is unusual, too
        data = observed(seed)
        assert p_of(joint, 100 * data) == 0.01
        assert p_of(joint, data.assign(x=100 * data["x"])) == 0.01


def test_the_odd_reading_is_found_and_named() -> None:
    data = observed(1)
    data["x"][5] += 4.0
    with pytest.warns(ObservationWarning, match=r"unlike simulated ones .*log density.* reading is 'x' at time 4\.59"):
        found = linear.joint().surprise(data, linear.SIMULATOR, 99)
    assert found.attrs["alarm"] == 1 and float(found["p_odd"]) == 0.01
    assert int(np.abs(found["x"]["z"]).to_numpy().argmax()) == 5 and found["x"]["z"][5] > 4
    np.testing.assert_array_equal(found["x"]["value"], data["x"])
    np.testing.assert_array_equal(found["x"]["time"], TIMES)


def test_where_it_shows_is_what_is_rarest() -> None:
    """A variable; all of them together, or the parameters, only where these are rarer than any variable."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 1))
    pooled = {"log density given all others": x[:, 0].copy(), "distance of the parameters": x[:, 0].copy()}
    plain = Statistics({}, {"x": ["mean given nothing"]}, {"x": x}, pooled, frozenset())
    x[0], pooled["log density given all others"][0] = -3.2, -9.0
    assert where_it_shows(plain, [0.01], 0.5) == "'x': mean given nothing is -3.2 robust sd from theirs"
    assert where_it_shows(plain, [0.2], 0.5).startswith(
        "all readings together: log density given all others is -9.0 robust sd"
    )
    assert where_it_shows(plain, [0.2], 0.1).startswith("the parameters that it implies, 0.1 robust sd farther off")


def series(simulator: fsf.simulators.Simulator, seed: int, n: int = 15, noisier: float = 1.0) -> xr.Dataset:
    """All series of a shipped simulator at common random times, with its noise, or so many times as much."""
    rng, grid = np.random.default_rng(seed), simulator.grid["time"].numpy()
    drawn = simulator.simulate(1, torch.Generator().manual_seed(10_000 + seed))
    times, out = np.sort(rng.uniform(grid[0] + 1, grid[-1], n)), {}
    for name in simulator.schema.data:
        noise, clean = simulator.schema[name].noise, np.interp(times, grid, drawn[name][0].numpy())
        assert noise is not None
        e = noisier * float(noise.sd) * rng.standard_normal(n)
        out[name] = ("time", clean + e if noise.kind == "normal" else clean * np.exp(e))
    return xr.Dataset(out, {"time": times})


@pytest.mark.filterwarnings("ignore::fsimformer.convert.ObservationWarning")
def test_simulated_data_do_not_alarm_a_shipped_model() -> None:
    simulator = LotkaVolterra()
    assert float(fsf.load("lotka_volterra").surprise(series(simulator, 0), simulator, 59)["p_value"]) > 0.05


def test_swapped_channels_alarm_a_shipped_model() -> None:
    simulator = LotkaVolterra()
    swapped = series(simulator, 0).rename(prey="predator", predator="prey")
    assert float(fsf.load("lotka_volterra").surprise(swapped, simulator, 59)["p_value"]) < 0.05


def test_per_cent_alarms_a_shipped_model() -> None:
    epidemic = SIRD(reference=fsf.load("sird").schema["contact_rate"].reference)
    per_cent = series(epidemic, 0)
    per_cent["infected"] = 100 * per_cent["infected"]
    found = fsf.load("sird").surprise(per_cent, epidemic, 39)
    # one simulation of forty is farther off as a whole; in the channel that is wrong, none
    assert float(found["p_value"]) <= 0.05 and float(found["p_variable"].sel(variable="infected")) < 0.05


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::fsimformer.convert.ObservationWarning")
def test_fourfold_noise_on_fifteen_readings_and_a_tenfold_unit_alarm() -> None:
    """Of an epidemic whose noise is known; and of pelts whose noise is not, but whose rates and levels are together
    unlike any: 10 × the real counts, of which one leaves the plausible range."""
    simulator = SIRD(reference=fsf.load("sird").schema["contact_rate"].reference)
    p = [
        [float(fsf.load("sird").surprise(series(simulator, s, noisier=k), simulator, 59)["p_value"]) for s in range(4)]
        for k in (1.0, 4.0)
    ]
    assert sum(x <= 0.05 for x in p[0]) <= 1 and sum(x <= 0.05 for x in p[1]) >= 3
    joint, counts = fsf.load("hare_lynx"), hudson_bay()
    assert float(joint.surprise(counts, HareLynx(), 59)["p_value"]) > 0.05
    tenfold = joint.surprise(counts.map(lambda x: 10 * x), HareLynx(), 59)
    assert float(tenfold["p_parameters"]) <= 0.05 and float(tenfold["p_value"]) < 0.02


def test_the_sd_given_all_others_is_that_of_the_law() -> None:
    """Twelve readings and y, each held out by itself: a linear Gaussian model knows mean and sd in closed form."""
    joint, data = linear.joint(), observed(3)
    tokens = observed_tokens(joint.schema, joint.model.whitening, read(joint.schema, data))
    found = Evidence.of(joint.model, with_simulations(joint.model, linear.SIMULATOR, tokens, 19, 0))
    phi = linear.loading(torch.from_numpy(TIMES)).numpy()
    rows = np.concatenate([phi, np.eye(1, linear.RANK)])  # y reads g_0
    noise = np.append(np.full(len(TIMES), linear.NOISE**2), linear.Y_NOISE**2)
    precision = np.linalg.inv(rows @ rows.T + np.diag(noise))
    sd = 1 / np.sqrt(np.diag(precision))
    mean = found.value - found.value @ precision / np.diag(precision)
    interpolated = 0.02  # the model reads its loadings off a grid of 161 points
    np.testing.assert_allclose(found.sd, np.tile(sd, (20, 1)), rtol=0.03)
    np.testing.assert_allclose(found.others, mean, atol=interpolated * 2)
    half = np.linalg.inv(rows.T @ (rows / noise[:, None]) + np.eye(linear.RANK))
    a = found.value / noise @ rows @ half
    np.testing.assert_allclose(found.parameters[:, 0], a[:, 0], atol=2 * interpolated)


def test_distances_are_those_of_mahalanobis_and_the_same_on_other_scales() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4_000, 3)) @ np.array([[1, 0, 0], [0.9, 0.3, 0], [0, 0, 0.5]])
    x[0] = [1.0, -1.0, 0.0]  # one sd off in each, and far off what the two have in common
    found = distances(x)
    assert found[0] > np.quantile(found, 0.995)
    assert abs(found[1:].mean() - 0.93) < 0.07  # χ²₃/3, less what the ridge takes


def test_a_reading_that_is_declared_implausible_gets_the_smallest_p() -> None:
    """And simulations with such are left aside: what is kept is the law given that all are plausible."""
    model = linear.joint().model
    names = {k: getattr(model, k) for k in model.__dataclass_fields__}
    bounded = Joint(type(model)(**{**names, "plausible": ("x",), "value_range": {"x": (-1.2, 1.2)}}))
    data = observed(4)
    data["x"][:] = np.clip(data["x"], -1.1, 1.1)
    tokens = observed_tokens(model.schema, model.whitening, read(model.schema, data))
    batch = with_simulations(bounded.model, linear.SIMULATOR, tokens, 40, 0)
    x = batch.value[1:, batch.variable[0] == model.schema.ids("x")[0]]
    assert batch.shape[0] == 41 and float(x.abs().max()) <= 1.2 + 1e-4
    data["x"][3] = 1.3
    found = bounded.surprise(data, linear.SIMULATOR, 19)
    assert float(found["p_value"]) == 0.05 and float(found["p_variable"][0]) == 0.05
    narrow = Joint(type(model)(**{**names, "plausible": ("x",), "value_range": {"x": (-1e-3, 1e-3)}}))
    with pytest.raises(ValueError, match="0 of 380 simulations have plausible readings at these places, 19 are asked"):
        narrow.surprise(data, linear.SIMULATOR, 19)


def test_readings_outside_the_trained_range_are_left_out_and_warned_of() -> None:
    times = np.append(TIMES, 14.0)
    data = observed(0, times=times)
    with pytest.warns(ObservationWarning, match=r"'x': 1 of 13 readings lie outside the trained range of 'time'"):
        found = linear.joint().surprise(data, linear.SIMULATOR, 19)
    np.testing.assert_array_equal(found["x"]["time"], TIMES)


def test_equal_seeds_give_equal_answers_and_parameters_are_left_aside() -> None:
    joint, data = linear.joint(), observed(2)
    a = joint.surprise(data, linear.SIMULATOR, 19, seed=3)
    b = joint.surprise(data.assign(a=0.3), linear.SIMULATOR, 19, seed=3)
    xr.testing.assert_identical(a["x"].to_dataset(), b["x"].to_dataset())
    c = joint.surprise(data, linear.SIMULATOR, 19, seed=4)
    assert not np.array_equal(a["x"]["z"], c["x"]["z"])


def test_ranks_and_robust_scales_by_hand() -> None:
    assert rank_p(np.array([3.0, 1.0, 3.0, 4.0])) == 0.75
    assert rank_p(np.array([9.0, 1.0, 3.0, 4.0])) == 0.25
    x = robust(np.array([[0.0], [-2.0], [-1.0], [4.0], [8.0]]))
    np.testing.assert_allclose(x[:, 0] * 1.4826, [0, -2, -1, 1, 2])  # medians 4 of {0, 4, 8} and 1 of {0, 1, 2}


def test_errors_name_what_came() -> None:
    joint = linear.joint()
    with pytest.raises(ValueError, match="at least 19 simulations, got n=9"):
        joint.surprise(observed(0), linear.SIMULATOR, 9)
    with pytest.raises(ValueError, match=r"no readings to judge; expected some of \['x', 'y'\]"):
        joint.surprise(xr.Dataset({"a": 0.5}), linear.SIMULATOR)
    with pytest.raises(ValueError, match="expected one with the model's schema"):
        joint.surprise(observed(0), SIRD())
    with pytest.raises(ValueError, match="expected one with the model's schema"):
        tiny.joint().surprise(pd.DataFrame({"time": [1.0], "variable": ["y"], "value": [2.0]}), linear.SIMULATOR)
