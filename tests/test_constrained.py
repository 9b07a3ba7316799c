"""Constraints on a Gaussian process with an exact network: whatever is linear in it has a truncated normal law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import xarray as xr
from gp_network import KERNEL, NOISE, SD, exact_joint
from scipy.stats import truncnorm

import fsimformer as fsf
from fsimformer import Average, Between, Difference, Integral, ObservationWarning, Potential
from fsimformer.joint import Conditional

JOINT = exact_joint()
SEEN = xr.Dataset({"x": ("time", [1.0, -0.5, np.nan])}, {"time": [2.0, 6.0, 9.0]})
GRID = np.linspace(0.0, 10.0, 201)


def conditional() -> Conditional:
    return JOINT.condition(SEEN)


def linear(at: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Mean and sd of Σ weights · f(at) given the readings."""
    t, seen = 2 * at / 10 - 1, 2 * np.array([2.0, 6.0]) / 10 - 1
    points = torch.from_numpy(np.concatenate([seen, t]))[:, None]
    k = SD**2 * KERNEL(points, points).numpy()
    noisy = k[:2, :2] + NOISE**2 * np.eye(2)
    gain = np.linalg.solve(noisy, k[:2, 2:]).T
    mean, cov = gain @ np.array([1.0, -0.5]), k[2:, 2:] - gain @ k[:2, 2:]
    return float(weights @ mean), float((weights @ cov @ weights) ** 0.5)


def trapezoid(start: float, stop: float) -> tuple[np.ndarray, np.ndarray]:
    at = np.linspace(start, stop, 201)
    w = np.full(201, (stop - start) / 200)
    w[[0, -1]] /= 2
    return at, w


FUNCTIONALS = {
    "value": ("f", 4.0, np.array([4.0]), np.ones(1)),
    "integral": (Integral("f", 3.0, 8.0, 5), None, *trapezoid(3.0, 8.0)),
    "average": (Average("f", 3.0, 8.0, 5), None, trapezoid(3.0, 8.0)[0], trapezoid(3.0, 8.0)[1] / 5),
    "difference": (Difference("f", at=7.0, minus=4.5), None, np.array([7.0, 4.5]), np.array([1.0, -1.0])),
}


@pytest.mark.parametrize(
    ("what", "method"),
    [("value", "rejection"), ("value", "smc"), ("difference", "smc"), ("average", "rejection"), ("integral", "smc")],
)
def test_law_and_probability_are_those_of_the_truncated_normal(what: str, method: str) -> None:
    of, at, points, weights = FUNCTIONALS[what]
    mean, sd = linear(points, weights)
    low, high = (0.5, 2.0) if method == "rejection" else (2.2, 3.5)  # one in 4, one in 70
    between = Between(of, mean + low * sd, mean + high * sd, at=at)
    n = 200
    draws = conditional().constrain(between, method=method).sample(n, {"f": points}, seed=1)
    u = draws["posterior"]["f"].to_numpy().reshape(n, -1) @ weights
    stats = draws["sample_stats"].to_dataset()
    assert str(stats["method"].item()) == method
    law = truncnorm(low, high)
    standard = (u - mean) / sd
    slack = 0.05 if what in ("integral", "average") else 1e-6  # other nodes than those of the constraint
    assert standard.min() > low - slack and standard.max() < high + slack
    assert abs(standard.mean() - law.mean()) < 4 * law.std() / float(stats["ess"]) ** 0.5
    exact = math.log(truncnorm(-np.inf, np.inf).cdf(high) - truncnorm(-np.inf, np.inf).cdf(low))
    trials = n / float(stats["acceptance"])
    error = (1 / n - 1 / trials) ** 0.5 if method == "rejection" else 0.15
    assert abs(float(stats["constraint_log_prob"]) - exact) < 4 * error


def test_many_points_at_once_and_the_draws_are_still_functions() -> None:
    """f < 1.2 on a grid of 8 points: SMC against rejection; a knot's value, a reading and `extend` go along."""
    at, n = np.linspace(0.5, 9.5, 8), 300
    base = conditional().constrain(Between("f", upper=1.2, at=at))
    asked = {"f": at, "x": [8.0]}
    by = {}
    for method in ("rejection", "smc"):
        c = Conditional(base.joint, base.observations, None, None, 0, base.constraints).constrain(method=method)
        draws = c.sample(n, asked, seed=2)
        assert float(draws["posterior"]["f"].max()) <= 1.2
        by[method] = draws
    f, g = (d["posterior"]["f"].to_numpy().reshape(n, -1) for d in by.values())
    ess = float(by["smc"]["sample_stats"]["ess"])
    assert ess > 40
    assert np.abs((f.mean(0) - g.mean(0)) / f.std(0)).max() < 5 * (1 / n + 1 / ess) ** 0.5
    x, y = (d["predictions"]["x"].to_numpy().ravel() for d in by.values())
    assert abs(x.mean() - y.mean()) < 5 * x.std() * (1 / n + 1 / ess) ** 0.5
    p, q = (float(d["sample_stats"]["constraint_log_prob"]) for d in by.values())
    assert abs(p - q) < 0.4
    more = conditional().extend(by["smc"], {"f": GRID})["posterior"]["f"]
    again = more.sel(time=at, method="nearest").to_numpy().reshape(n, -1)
    assert np.abs(again - g).max() < 0.2  # the grid's own points lie up to .025 beside
    assert np.abs(more.diff("time")).max() < 0.2  # paths are continuous


def test_a_rare_event_falls_to_smc_by_itself_and_an_impossible_one_ends() -> None:
    mean, sd = linear(np.array([4.0]), np.ones(1))
    rare = conditional().constrain(Between("f", lower=mean + 3.72 * sd, at=[4.0])).sample(200, {"f": [4.0]}, seed=0)
    stats = rare["sample_stats"].to_dataset()
    assert str(stats["method"].item()) == "smc" and float(stats["ess"]) > 100
    assert abs(float(stats["constraint_log_prob"]) - math.log(1e-4)) < 0.5
    assert float(rare["posterior"]["f"].min()) >= mean + 3.72 * sd
    apart = [Between("f", lower=2.0, at=[4.0]), Between("f", upper=-2.0, at=[4.001])]
    with pytest.raises(ValueError, match=r"0 of 5,000 draws satisfied .* probability is below 0.0006"):
        conditional().constrain(*apart, method="rejection", max_draws=5_000).sample(10, {"f": [4.0]})
    with pytest.raises(ValueError, match=r"0 of 1,000 guided draws satisfied the constraints, .*for\. They may"):
        conditional().constrain(*apart, max_draws=1_000).sample(10, {"f": [4.0]})


def test_guidance_says_what_it_is() -> None:
    mean, sd = linear(np.array([4.0]), np.ones(1))
    c = conditional().constrain(Between("f", mean + 2.5 * sd, mean + 3.5 * sd, at=[4.0]), method="guidance")
    draws = c.sample(200, {"f": [4.0]}, seed=0)
    stats = draws["sample_stats"].to_dataset()
    assert str(stats["method"].item()) == "guidance" and np.isnan(float(stats["constraint_log_prob"]))
    u = (draws["posterior"]["f"].to_numpy().ravel() - mean) / sd
    assert u.min() >= 2.5 - 1e-6 and u.max() <= 3.5 + 1e-6
    assert abs(u.mean() - truncnorm(2.5, 3.5).mean()) < 0.15


def test_a_constrained_reading_is_the_one_that_is_returned() -> None:
    c = conditional().constrain(Between("x", 0.0, 1.0, at=[8.0]))
    draws = c.sample(400, {"x": [7.0, 8.0], "f": [8.0]}, seed=0)
    x = draws["predictions"]["x"].sel(time=8.0).to_numpy()
    assert x.min() >= 0 and x.max() <= 1
    f = draws["posterior"]["f"].to_numpy()
    assert f.min() < 0 or f.max() > 1  # the reading is meant, not the path beneath it


def test_a_rare_reading_leaves_its_path_as_free_as_noise_allows() -> None:
    """x(8) in an interval half as wide as its noise, by SMC: f(8) has the law of a Gaussian given that reading."""
    mean, sd = linear(np.array([8.0]), np.ones(1))
    total = math.hypot(sd, NOISE)
    low, high = mean + 2.2 * total, mean + 2.2 * total + 0.3
    c = conditional().constrain(Between("x", low, high, at=[8.0]), method="smc")
    draws = c.sample(1_000, {"f": [8.0], "x": [8.0]}, seed=0)
    x, f = draws["predictions"]["x"].to_numpy(), draws["posterior"]["f"].to_numpy()
    assert x.min() >= low and x.max() <= high
    ess = float(draws["sample_stats"]["ess"])
    assert ess > 100
    spread = sd * NOISE / total
    assert abs(f.mean() - (mean + (sd / total) ** 2 * (x.mean() - mean))) < 5 * spread / ess**0.5
    assert abs(f.std() / spread - 1) < 5 / (2 * ess) ** 0.5
    exact = math.log(np.diff(truncnorm(-np.inf, np.inf).cdf([(low - mean) / total, (high - mean) / total])).item())
    assert abs(float(draws["sample_stats"]["constraint_log_prob"]) - exact) < 0.4


def test_beyond_the_trained_range_knots_bend_nothing() -> None:
    """f(11), solved alone given the knots, by SMC: they say little of it, and are not moved as if they did."""
    mean, sd = linear(np.array([11.0]), np.ones(1))
    c = conditional().constrain(Between("f", mean + 1.0 * sd, mean + 3.0 * sd, at=[11.0]), method="smc")
    with pytest.warns(ObservationWarning, match="outside the trained range") as caught:
        draws = c.sample(200, {"f": [9.0]}, seed=0)
    assert {w.filename for w in caught} == {__file__}  # the line that asks, not one of ours
    f, ess = draws["posterior"]["f"].to_numpy(), float(draws["sample_stats"]["ess"])
    near, spread = linear(np.array([9.0]), np.ones(1))
    both = linear(np.array([9.0, 11.0]), np.ones(2))[1]
    along = (both**2 - spread**2 - sd**2) / 2 / sd  # Cov(f(9), f(11))/sd
    assert ess > 50
    assert abs(f.mean() - (near + along * truncnorm(1.0, 3.0).mean())) < 5 * spread / ess**0.5


def test_more_draws_change_none_of_the_first_and_another_seed_all() -> None:
    c = conditional().constrain(Between("f", lower=0.5, at=[4.0]))
    few, many = (c.sample(n, {"f": [4.0, 9.0]}, seed=3)["posterior"]["f"].to_numpy() for n in (20, 60))
    np.testing.assert_array_equal(few.reshape(20, 2), many.reshape(60, 2)[:20])
    other = c.sample(20, {"f": [4.0, 9.0]}, seed=4)["posterior"]["f"].to_numpy()
    assert not (other == few).any()


def test_potentials_tilt_the_law() -> None:
    """exp(−½ (f(4) − 2)²/s²), a reading with noise s: the posterior is normal, the evidence known."""
    mean, sd = linear(np.array([4.0]), np.ones(1))
    s = 0.4

    def reading(draws: xr.Dataset) -> xr.DataArray:
        assert set(draws.data_vars) == {"f"} and draws["f"].dims == ("chain", "draw", "time")
        return -0.5 * ((draws["f"].isel(time=0) - 2.0) / s) ** 2

    total = sd**2 + s**2
    tilted, spread = mean + sd**2 / total * (2.0 - mean), (sd**2 * s**2 / total) ** 0.5
    log_p = math.log(s / total**0.5) - 0.5 * (2.0 - mean) ** 2 / total
    for bound, method in ((0.0, "rejection"), (None, "smc")):
        c = conditional().constrain(Potential(reading, at={"f": [4.0]}, bound=bound))
        draws = c.sample(400, {"f": [9.0, 4.0]}, seed=1)
        stats, f = draws["sample_stats"].to_dataset(), draws["posterior"]["f"].sel(time=4.0).to_numpy().ravel()
        assert str(stats["method"].item()) == method
        assert abs(f.mean() - tilted) < 5 * spread / float(stats["distinct"]) ** 0.5
        assert abs(f.std() / spread - 1) < 5 / (2 * float(stats["distinct"])) ** 0.5
        assert abs(float(stats["constraint_log_prob"]) - log_p) < 0.3


@pytest.mark.parametrize("method", ["rejection", "smc"])
def test_every_component_has_its_own_interval(method: str) -> None:
    """A vector, whole and half observed, and a function with components; a network of random weights."""
    joint, both = tiny.joint(), {"w": None, "x": [5.0]}
    free = joint.condition(None).sample(200, both, seed=1)
    w, x = free["prior"]["w"].median(("chain", "draw")), free["predictions"]["x"].median(("chain", "draw"))
    known = [
        Between("w", lower=[0, float(w[1])], upper=[float(w[0]), math.inf]),
        Between("x", lower=[float(x[0, 0]), -math.inf], upper=[math.inf, float(x[0, 1])], at=[5.0]),
    ]
    draws = joint.condition(None).constrain(*known, method=method).sample(40, both, seed=0)
    assert float(draws["prior"]["w"][..., 0].max()) <= w[0] and float(draws["prior"]["w"][..., 1].min()) >= w[1]
    assert float(draws["predictions"]["x"][..., 0].min()) >= x[0, 0]
    assert float(draws["predictions"]["x"][..., 1].max()) <= x[0, 1]
    half = joint.condition({"w": xr.DataArray([np.nan, float(w[1]) + 1], dims="part")})
    assert float(half.constrain(known[0], method=method).sample(40, {}, seed=0)["posterior"]["w"].max()) <= w[0]
    with pytest.raises(ValueError, match=r"'w' was observed to be .*, not in"):
        joint.condition({"w": xr.DataArray([np.nan, float(w[1]) / 2], dims="part")}).constrain(known[0]).sample(40, {})
    with pytest.raises(ValueError, match=r"a function of one index dim, got 'x'. Functions: \['rate', 'y'\]"):
        joint.condition(None).constrain(Between(Average("x", 1.0, 2.0), 0)).sample(40, both)


def test_a_bool_potential_is_an_interval() -> None:
    a = conditional().constrain(Potential(lambda d: d["f"].isel(time=0) > 0.5, at={"f": [4.0]}))
    b = conditional().constrain(Between("f", lower=0.5, at=[4.0]))
    left, right = (c.sample(40, {"f": [4.0]}, seed=0)["posterior"]["f"].to_numpy() for c in (a, b))
    np.testing.assert_array_equal(left, right)


def test_every_data_set_of_a_batch_by_itself() -> None:
    batch = xr.Dataset({"x": (("region", "time"), [[1.0, -0.5], [3.0, 2.0]])}, {"time": [2.0, 6.0]})
    c = JOINT.condition(batch, batch_dim="region").constrain(Between("f", lower=0.8, at=[4.0]))
    draws = c.sample(100, {"f": [4.0]}, seed=0)
    assert float(draws["posterior"]["f"].min()) >= 0.8
    p = draws["sample_stats"]["constraint_log_prob"]
    assert p.dims == ("region",) and float(p[1]) > float(p[0])
    assert [str(m) for m in draws["sample_stats"]["method"].to_numpy()] == ["rejection"] * 2
    with pytest.raises(ValueError, match="was observed to be 3, not in") as caught:
        JOINT.condition(batch, batch_dim="region").constrain(Between("x", upper=2.0, at=[2.0])).sample(10, {"f": [4.0]})
    assert caught.value.__notes__ == ["In data set number 1, counted from 0."]


@pytest.mark.parametrize(
    ("of", "lower", "upper", "message"),
    [
        ("f", 1, 0, r"Between\('f'\): expected lower <= upper, got \[1, 0\]"),
        ("f", 0.5, np.array([1.0, 0.25]), r"got \[0.5, \[1. +0.25\]\]"),
        (Integral("f", 0.0, 1.0), np.inf, -1, r"Between\(Integral\(.*\): expected lower <= upper, got \[inf, -1\]"),
    ],
)
def test_bounds_that_are_crossed_are_refused_where_they_are_written(
    of: Any, lower: Any, upper: Any, message: str
) -> None:
    """Not a thousand lines later, when draws are asked for."""
    with pytest.raises(ValueError, match=message):
        Between(of, lower, upper, at=[4.0])


@pytest.mark.parametrize(
    ("constraint", "error", "message"),
    [
        (Between("g", 0, 1), KeyError, "no variable 'g'. Its variables"),
        (Between("f", 0, 1), ValueError, "'f' is a function: say where with at="),
        (Between("f", float("nan"), at=[4.0]), ValueError, "expected lower <= upper"),
        (Between("f", None, 1.0, at=[4.0]), ValueError, "leave a bound out where there is none"),
        (Between("f", upper="50", at=[4.0]), ValueError, "expected bounds as numbers"),
        (Between("f", 1, 1, at=[4.0]), ValueError, r"'f' in \[1, 1\], which no draw meets"),
        (Between(Difference("f", 4.0, 5.0), 0, 0), ValueError, "which no draw meets: expected lower < upper"),
        (Between(Difference("f", 4.0, 4.0), 0), ValueError, "expected two different points"),
        (Between("f", [0, 1], at=[4.0, 5.0, 6.0]), ValueError, "expected bounds as numbers, one or 3 of them"),
        (Between("x", lower=1.5, at=[2.0]), ValueError, r"'x' was observed to be 1, not in \[1.5, inf\]"),
        (Between(Integral("x", 5.0, 4.0)), ValueError, "expected start < stop"),
        (Between(Average("f", 0.0, 1.0), at=[3.0]), ValueError, "a functional says itself where"),
        (Between(Integral("nothing", 0.0, 1.0)), ValueError, r"got 'nothing'. Functions: \['f', 'x'\]"),
        (Between(3, 0, 1), TypeError, "a variable's name or a functional, got int"),
        ("f < 3", TypeError, "expected Between or Potential, got str"),
        ([Between("f", 0, 1, at=[4.0])], TypeError, "got list. Several are several arguments"),
        (Potential(lambda d: 1.0), TypeError, r"of dims \(chain, draw\), got float"),
        (Potential(lambda d: d["f"] * np.nan, at={"f": [4.0]}), TypeError, "got .*time"),
        (
            Potential(lambda d: d["f"].isel(time=0) * 0 + 3, at={"f": [4.0]}, bound=2.0),
            ValueError,
            r"at most bound=2.0; got 3",
        ),
    ],
)
def test_constraints_that_make_no_sense(constraint: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        conditional().constrain(constraint).sample(10, {"f": [4.0]})  # type: ignore[arg-type]


def test_a_potential_that_lacks_something_says_what_it_has() -> None:
    with pytest.raises(TypeError, match="Potential: expected a function of a Dataset of draws, got str: 'f < 3'"):
        Potential("f < 3")  # type: ignore[arg-type]
    asked = []

    def log_weight(draws: xr.Dataset) -> xr.DataArray:
        asked.append(dict(draws.sizes))
        return draws["f"] > 0

    with pytest.raises(KeyError) as caught:
        conditional().constrain(Potential(log_weight, at={"x": [8.0]})).sample(10, {"f": [4.0]})
    assert asked == [{"chain": 2, "draw": 1, "time": 1}]  # not after a thousand draws
    assert "there where at= names their points" in caught.value.__notes__[0]


def test_a_point_that_is_asked_for_twice_is_refused() -> None:
    """Each of two readings there would need the constraint."""
    with pytest.raises(ValueError, match="'x' is asked for twice at a point of a constraint"):
        conditional().constrain(Between("x", 0, 1, at=[8.0])).sample(10, {"x": [8.0, 8.0]})


def test_a_sharp_potential_without_a_bound_says_what_is_missing() -> None:
    sharp = Potential(lambda d: -0.5 * ((d["f"].isel(time=0) - 4) / 1e-3) ** 2, at={"f": [9.0]})
    with pytest.raises(ValueError, match="too few particles are left, and guidance needs a bound"):
        conditional().constrain(sharp).sample(10, {"f": [4.0]})


def test_outside_of_the_support_and_unknown_methods() -> None:
    lv = fsf.load("lotka_volterra").condition({"prey": xr.DataArray([1.0], {"time": [1.0]}, "time")})
    with pytest.raises(ValueError, match=r"'alpha' never lies in \[5, 6\]; its support is"):
        lv.constrain(Between("alpha", 5, 6)).sample(10, at={})
    with pytest.raises(ValueError, match=r"'alpha' never lies in \[-inf, 1\]"):  # supports are open
        lv.constrain(Between("alpha", upper=1.0)).sample(10, at={})
    with pytest.raises(ValueError, match="unknown method 'mcmc'. Choices"):
        conditional().constrain(method="mcmc")
    with pytest.raises(ValueError, match="max_draws >= 1"):
        conditional().constrain(max_draws=0)


def test_what_was_observed_inside_needs_nothing_more() -> None:
    free = conditional().sample(20, {"f": [4.0]}, seed=0)
    settled = conditional().constrain(Between("x", 0.5, 1.5, at=[2.0])).sample(20, {"f": [4.0]}, seed=0)
    assert float(settled["sample_stats"]["acceptance"]) == 1.0
    assert free["posterior"]["f"].shape == settled["posterior"]["f"].shape


def test_a_functional_takes_what_was_observed_where_something_was() -> None:
    """x(9) − x(2) >= 0 where x(2) was read to be 1: x(9) >= 1, not more than a second reading at 2 would be."""
    rise = conditional().constrain(Between(Difference("x", at=9.0, minus=2.0), lower=0.0))
    same = conditional().constrain(Between("x", lower=1.0, at=[9.0]))
    a, b = (c.sample(40, {"x": [9.0]}, seed=0)["predictions"]["x"].to_numpy() for c in (rise, same))
    assert a.min() >= 1.0
    np.testing.assert_array_equal(a, b)
    twice = xr.Dataset({"x": ("time", [1.0, 2.0])}, {"time": [2.0, 2.0]})  # two readings there: their mean
    c = JOINT.condition(twice).constrain(Between(Difference("x", 9.0, 2.0), lower=0.0))
    assert c.sample(40, {"x": [9.0]}, seed=0)["predictions"]["x"].min() >= 1.5
    settled = conditional().constrain(Between(Difference("x", 6.0, 2.0), upper=0.0)).sample(20, {"f": [4.0]}, seed=0)
    assert float(settled["sample_stats"]["acceptance"]) == 1.0
    with pytest.raises(ValueError, match=r"was observed to be -1.5, not in \[0, inf\]"):
        conditional().constrain(Between(Difference("x", 6.0, 2.0), lower=0.0)).sample(20, {"f": [4.0]})


@pytest.mark.slow
def test_scalars_of_a_shipped_model_by_both_methods() -> None:
    """Two intervals on parameters of `lotka_volterra`: SMC against rejection on the same network."""
    t, read = [0.5, 4.0, 9.0], {"prey": [1.57, 1.75, 0.54], "predator": [0.66, 0.94, 0.75]}  # all four parameters 2
    data = {k: xr.DataArray(v, {f"time_{k}": t}, f"time_{k}") for k, v in read.items()}
    given = fsf.load("lotka_volterra").condition(data)
    free = given.sample(200, at={}, seed=1)["posterior"]
    alpha, delta = (float(free[k].median()) for k in ("alpha", "delta"))
    known = given.constrain(Between("alpha", upper=alpha), Between("delta", delta - 0.4, delta + 0.4))
    found, n = {}, 100
    for method in ("rejection", "smc"):
        draws = known.constrain(method=method).sample(n, at={}, seed=0)
        stats, group = draws["sample_stats"].to_dataset(), draws["posterior"].to_dataset()
        assert float(group["alpha"].max()) <= alpha and float(np.abs(group["delta"] - delta).max()) <= 0.4
        found[method] = group, float(stats["constraint_log_prob"]), float(stats["ess"])
    (a, p, _), (b, q, ess) = found.values()
    assert abs(p - q) < 0.4
    for name in ("alpha", "beta", "gamma", "delta"):
        x, y = a[name].to_numpy(), b[name].to_numpy()
        assert abs(x.mean() - y.mean()) < 5 * x.std() * (1 / n + 1 / ess) ** 0.5


def test_densities_under_constraints_are_refused() -> None:
    c = conditional().constrain(Between("f", lower=0.5, at=[4.0]))
    with pytest.raises(ValueError, match="know nothing of constraints: ask the conditional without them"):
        c.log_prob(xr.Dataset({"f": ("time", [0.2])}, {"time": [4.0]}))


def test_refining_constrained_draws_is_refused() -> None:
    lv = fsf.load("lotka_volterra").condition({"prey": xr.DataArray([1.0], {"time": [1.0]}, "time")})
    draws = lv.constrain(Between("alpha", upper=2.5)).sample(10, at={})
    with pytest.raises(ValueError, match=r"under constraints \(rejection\)"):
        lv.refine(draws, lambda d: d["alpha"])
    with pytest.raises(ValueError, match="know nothing of constraints"):
        lv.constrain(Between("alpha", upper=2.5)).refine(lv.sample(10, at={}), lambda d: d["alpha"])


def test_auto_warns_of_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SMC is left with too few draws. No case of this size needs it: the threshold is raised instead."""
    monkeypatch.setattr("fsimformer.constrained._FEWEST", 10**9)
    mean, sd = linear(np.array([4.0]), np.ones(1))
    c = conditional().constrain(Between("f", mean + 3.6 * sd, mean + 5 * sd, at=[4.0]))
    with pytest.warns(ObservationWarning, match="guided towards them, which is approximate"):
        draws = c.sample(20, {"f": [4.0]}, seed=0)
    assert str(draws["sample_stats"]["method"].item()) == "guidance"
