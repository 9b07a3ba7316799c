"""A simulator from a function: the schema that it means, the draws that it makes, and each mistake's message."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer.simulators import check

HOURS = np.linspace(0, 10, 21)
PRIORS = {"rate": fsf.LogNormal(-1.0, 0.5)}
NOISE = {"level": ("lognormal", 0.1)}
DECAY = fsf.simulator(
    lambda rate, time: {"level": 100 * np.exp(-rate * time)}, priors=PRIORS, grid={"time": HOURS}, noise=NOISE
)
BY_HAND = fsf.Schema(
    (
        fsf.Variable("rate", "parameter", prior=fsf.LogNormal(-1.0, 0.5)),
        fsf.Variable("level", "data", ("time",), support=fsf.POSITIVE, noise=fsf.Noise("lognormal", 0.1)),
    ),
    (fsf.Index("time", 0.0, 10.0),),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_function_and_priors_mean_the_schema_written_by_hand() -> None:
    check(DECAY)
    assert DECAY.schema == BY_HAND
    drawn = DECAY.simulate(500, seeded())
    torch.testing.assert_close(drawn["level"], 100 * torch.exp(-drawn["rate"][:, None] * torch.from_numpy(HOURS)))
    log_rate = drawn["rate"].log()
    assert abs(float(log_rate.mean()) + 1.0) < 4 * 0.5 / 500**0.5 and abs(float(log_rate.std()) - 0.5) < 0.07


def test_a_dataset_says_the_same_with_its_dims_coordinates_and_units() -> None:
    def f(rate: float) -> xr.Dataset:
        level = 100 * np.exp(-rate * HOURS)
        data = xr.Dataset({"rate": rate, "level": ("time", level)}, {"time": ("time", HOURS, {"units": "hours"})})
        return data.assign(parts=("part", [rate, 2 * rate]), names=("part", [1.0, rate]))

    simulator = fsf.simulator(f, priors=PRIORS, noise=NOISE, parents={"level": ["rate"]})
    check(simulator)
    schema = simulator.schema
    assert schema.dims == (fsf.Index("time", 0.0, 10.0, "hours"), fsf.Components("part", 2))
    assert schema.names == ("rate", "level", "parts", "names") and schema["level"].parents == ("rate",)
    drawn = simulator.simulate(4, seeded(3))
    torch.testing.assert_close(drawn["level"], DECAY.simulate(4, seeded(3))["level"])
    torch.testing.assert_close(drawn["parts"], torch.stack([drawn["rate"], 2 * drawn["rate"]], 1))


def test_dates_are_days_since_the_first() -> None:
    dates = np.datetime64("2020-03-01", "ns") + np.arange(11) * np.timedelta64(12, "h")
    simulator = fsf.simulator(
        lambda a, time: {"y": a + np.arange(len(time))}, priors={"a": fsf.Normal()}, grid={"time": dates}, noise=None
    )
    assert simulator.schema.dims == (fsf.Index("time", 0.0, 5.0, "days", "2020-03-01T00:00:00"),)
    torch.testing.assert_close(simulator.grid["time"], torch.arange(11, dtype=torch.float64) / 2)
    check(simulator)


def test_noise_says_where_readings_lie() -> None:
    supports = {"normal": fsf.REAL, "lognormal": fsf.POSITIVE, "negbinomial": fsf.COUNTS}
    for kind, support in supports.items():
        simulator = fsf.simulator(
            lambda rate, time: {"y": 1 + rate * time}, priors=PRIORS, grid={"time": HOURS}, noise=(kind, 0.2)
        )
        assert simulator.schema["y"].support == support and simulator.schema["y"].noise == fsf.Noise(kind, 0.2)


def test_batched_is_row_by_row() -> None:
    prior = {**PRIORS, "w": (fsf.Normal(2.0, 0.1), 3)}
    one = fsf.simulator(
        lambda rate, w, time: {"level": w.sum() * np.exp(-rate * time), "v": 2 * w, "s": rate},
        priors=prior, grid={"time": HOURS},
    )  # fmt: skip
    many = fsf.simulator(
        lambda rate, w, time: {"level": w.sum(1)[:, None] * np.exp(-rate[:, None] * time), "v": 2 * w, "s": rate},
        priors=prior, grid={"time": HOURS}, batched=True,
    )  # fmt: skip
    assert one.schema == many.schema and one.schema.dim("w_dim") == fsf.Components("w_dim", 3)
    check(many)
    a, b = one.simulate(5, seeded(1)), many.simulate(5, seeded(1))
    for name in one.schema.names:
        torch.testing.assert_close(a[name], b[name])


@pytest.mark.parametrize("batched", [False, True])
def test_a_function_that_works_in_place_changes_nothing_but_its_own(batched: bool) -> None:
    def f(weights: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
        total = weights.sum(-1, keepdims=True).copy()
        weights /= total
        time *= 2
        return {"x": total * time}

    grid, hours = {"time": HOURS.copy()}, torch.from_numpy(HOURS)
    simulator = fsf.simulator(f, priors={"weights": (fsf.Uniform(0.0, 1.0), 3)}, grid=grid, batched=batched)
    drawn = simulator.simulate(5, seeded())
    torch.testing.assert_close(drawn["x"], 2 * drawn["weights"].sum(1, keepdim=True) * hours)
    assert np.array_equal(grid["time"], HOURS) and torch.equal(simulator.grid["time"], hours)


def test_randomness_comes_from_the_generator_that_is_given() -> None:
    def noisy(mean: float, rng: np.random.Generator) -> dict[str, Any]:
        return {"x": mean + rng.normal(size=400)}

    simulator = fsf.simulator(noisy, priors={"mean": fsf.Normal(0.0, 10.0)})
    check(simulator)
    drawn = simulator.simulate(3, seeded(2))
    error = drawn["x"] - drawn["mean"][:, None]
    np.testing.assert_allclose(error.std(1), 1.0, atol=4 / 800**0.5)
    assert float(torch.corrcoef(error)[0, 1].abs()) < 4 / 400**0.5  # rows do not share their noise
    assert torch.equal(drawn["x"], simulator.simulate(3, seeded(2))["x"])
    by_torch = fsf.simulator(
        lambda mean, generator: {"x": mean + torch.randn(3, generator=generator)}, priors={"mean": fsf.Normal()}
    )
    check(by_torch)
    assert by_torch.paths is None  # the likelihood of what the function draws is nobody's to know


def test_a_function_that_draws_its_own_parameters_and_a_rate_in_time() -> None:
    def f(rng: np.random.Generator, days: np.ndarray) -> dict[str, Any]:
        a = rng.normal()
        return {"a": a, "rate": ("days", np.exp(a + 0 * days)), "y": a + rng.normal(size=2)}

    simulator = fsf.simulator(
        f, parameters=("a", "rate"), grid={"days": np.arange(6)}, support={"rate": fsf.POSITIVE}, reference={"rate": 4}
    )
    check(simulator)
    assert [v.role for v in simulator.schema.variables] == ["parameter", "parameter", "data"]
    assert simulator.schema["rate"].reference == (4,) and simulator.simulate_at is None
    drawn = simulator.simulate(3, seeded())
    torch.testing.assert_close(drawn["rate"], drawn["a"].exp()[:, None].expand(-1, 6))


def test_its_likelihood_is_the_closed_form() -> None:
    """A function that draws nothing and whose noise is stated: refine weighs by the exact likelihood."""
    observed = xr.DataArray([45.0, 13.0], {"time": [2.5, 6.0]}, "time", name="level")
    rate = xr.Dataset({"rate": (("chain", "draw"), np.array([[0.3, 0.35]]))}, {"chain": [0], "draw": [0, 1]})
    found = fsf.log_likelihood(DECAY, observed)(rate)
    z = (np.log([45.0, 13.0]) - (math.log(100) - np.array([[0.3], [0.35]]) * [2.5, 6.0])) / 0.1
    expected = -0.5 * z**2 - np.log(0.1 * np.array([45.0, 13.0])) - 0.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(found[0], expected.sum(1), atol=1e-6)


def test_a_failed_simulation_is_nan_and_a_broken_function_raises() -> None:
    def f(a: float) -> dict[str, float]:
        if a > 1:
            raise ZeroDivisionError
        return {"x": math.sqrt(2 - a)}

    simulator = fsf.simulator(f, priors={"a": fsf.Normal()})
    drawn = simulator.simulate(200, seeded())
    assert torch.equal(torch.isnan(drawn["x"]), drawn["a"] > 1) and bool((drawn["a"] > 1).any())
    always = fsf.simulator(lambda a: {"x": math.log(a)}, priors={"a": fsf.Uniform(0.5, 2.0)})
    with pytest.raises(ValueError, match="math domain error|positive input"):
        always.simulate_at({"a": torch.tensor([-1.0])}, seeded())


def test_what_comes_back_must_be_as_in_the_example() -> None:
    def ragged(a: float) -> dict[str, Any]:
        return {"x": np.zeros(3 if a < 100 else 4)}

    def elsewhere(a: float) -> xr.Dataset:
        return xr.Dataset({"x": ("t", [a, a])}, {"t": [0.0, 1.0 if a < 100 else 2.0]})

    def forgets(a: float) -> dict[str, Any]:
        return {"x": a, "y": a} if a < 100 else {"x": a}

    far = {"a": torch.tensor([200.0])}
    for f, message in (
        (ragged, r"'x' of shape \(4,\), expected \(3,\)"),
        (elsewhere, "another coordinate 't' than in its example"),
        (forgets, r"returned \['x'\], no 'y' as in its example"),
    ):
        simulator = fsf.simulator(f, priors={"a": fsf.Normal()})
        assert simulator.simulate_at is not None
        with pytest.raises(ValueError, match=message):
            simulator.simulate_at(far, seeded())


P = {"priors": PRIORS}
BOTH = {**P, "grid": {"time": HOURS}}


@pytest.mark.parametrize(
    ("f", "arguments", "error", "message"),
    [
        (3, {}, TypeError, "expected a function, got a int"),
        (lambda raet: {"x": raet}, P, KeyError, "no variable 'raet'. Did you mean 'rate'"),
        (lambda time: {"x": time}, BOTH, ValueError, r"\['rate'\] have priors, but the func"),
        (lambda rate: {"x": rate}, {"priors": {"rate": 3.0}}, TypeError, "expected one of .* for 'rate', or a pair"),
        (lambda rate: {"x": rate}, {**P, "noise": {"y": ("normal", 1)}}, KeyError, "noise: no variable 'y'"),
        (lambda rate: {"x": rate}, {**P, "noise": {"x": ("normal", 1)}}, ValueError, "no Index dim, so its"),
        (lambda rate: {"x": rate}, {**P, "parents": {"x": "rate"}}, TypeError, r"such as \('rate',\)"),
        (lambda rate: {"x": rate}, {**P, "parents": {"x": ["r"]}}, ValueError, "unknown parent 'r'"),
        (lambda rate: {"rate": rate}, P, ValueError, "no data"),
        (lambda rate: {"rate": 2 * rate, "x": 1}, P, ValueError, "returns 'rate' other than it was"),
        (lambda rng: {"x": rng.normal()}, {}, ValueError, r"Which of the variables \['x'\] are parameters"),
        (lambda rate: rate, P, TypeError, "returned a float; expected a Dataset or a mapping"),
        (lambda rate: {"x": "a"}, P, TypeError, "expected real numbers"),
        (lambda rate: {"x": np.zeros((2, 3))}, P, ValueError, "leave open what its dims are; return"),
        (lambda rate: {"x": rate @ 1}, P, ValueError, "failed on an example, called with shapes"),
        (lambda rate: {"x": 1 / 0}, P, ValueError, "none of 20 simulations from the priors"),
        (lambda rate, time: {"x": rate * time}, {**P, "grid": {"time": [0, 1, 3]}}, ValueError, "evenly spac"),
        (lambda rate, time: {"x": rate * time}, {**P, "grid": {"time": [1]}}, ValueError, "at least two"),
        (lambda rate, time: {"x": rate * time[1:]}, BOTH, ValueError, r"nothing that .* lies on \{'time': \d+\}"),
        (lambda rate: {"x": 1.0}, {**P, "batched": True}, ValueError, r"shape \(\) for 3 simulations"),
    ],
)  # fmt: skip
def test_mistakes_are_named_at_the_door(
    f: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fsf.simulator(f, **arguments)
