"""Counts about a mean: their law, the scale they are learned on, and that every layer keeps them counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as ss
import torch
import xarray as xr
from tiny import seeded
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import ObservationWarning, query, read, read_many, to_tree
from fsimformer.counts import count_moments, count_quantiles, counts_log_prob, draw_counts
from fsimformer.paths import noise_variance, with_noise
from fsimformer.readings import Series, read_moments, read_noisy
from fsimformer.schema import Schema
from fsimformer.simulations import build_store
from fsimformer.simulators import FunctionSimulator
from fsimformer.whiten import Whitening


def scipy_law(mean: float, sd: float) -> Any:
    size = sd**-2
    return ss.nbinom(size, size / (size + mean))


@pytest.mark.parametrize(("mean", "sd"), [(0.3, 0.5), (4.0, 0.2), (50.0, 1.0), (1e6, 0.1)])
def test_draws_have_the_mean_the_variance_and_the_law(mean: float, sd: float) -> None:
    n = 100_000
    x = draw_counts(torch.full((n,), mean), sd, seeded()).numpy()
    variance, law = mean + (sd * mean) ** 2, scipy_law(mean, sd)
    assert (x == np.round(x)).all() and (x >= 0).all()
    assert abs(x.mean() - mean) < 4 * math.sqrt(variance / n)
    kurtosis = float(law.stats("k")) + 2
    assert abs(x.var() / variance - 1) < 4 * math.sqrt(kurtosis / n)
    for p in (0.1, 0.5, 0.9):
        at = law.ppf(p)
        assert abs((x <= at).mean() - law.cdf(at)) < 4 * math.sqrt(p * (1 - p) / n)


def test_log_probabilities_are_those_of_scipy() -> None:
    x = torch.tensor([0.0, 1, 7, 300, 20_000], dtype=torch.float64)
    for mean, sd in ((0.01, 0.5), (9.0, 0.3), (15_000.0, 0.05)):
        found = counts_log_prob(x, torch.tensor(mean, dtype=torch.float64), sd)
        np.testing.assert_allclose(found.numpy(), scipy_law(mean, sd).logpmf(x.numpy()), rtol=1e-9, atol=1e-9)
    none = counts_log_prob(torch.tensor([0.0, 1.0, -1.0]).double(), torch.zeros(3).double(), 0.3)
    assert abs(float(none[0])) < 1e-12 and float(none[1]) < -600 and float(none[2]) == -math.inf


def test_the_first_rows_do_not_depend_on_how_many_follow_and_no_mean_gives_no_count() -> None:
    mean = 20 * torch.rand(500, 7, generator=seeded(1))
    sd = 0.1 + torch.rand(500, 1, generator=seeded(2))
    few, many = (draw_counts(mean[:n], sd[:n], seeded(3)) for n in (40, 500))
    assert torch.equal(few, many[:40])
    assert not draw_counts(torch.tensor([0.0, -1e-9]), 0.5, seeded()).any()


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.0, 40.0, 1e5])
def test_moments_on_the_working_scale_are_those_of_many(mean: float) -> None:
    """To second order in the noise: within a fifth of the spread, where counts of 0 and 1 prevail a little more."""
    m = torch.full((100_000,), mean, dtype=torch.float64)
    x = draw_counts(m, 0.3, seeded()) + torch.rand(len(m), generator=seeded(1)).double() - 0.5
    y, (centre, variance) = torch.log1p(x), count_moments(m[:1], 0.3)
    assert abs(float(y.mean() - centre)) < 0.2 * float(y.std())
    assert float(y.var() / variance) == pytest.approx(1.0, abs=0.35 if mean < 10 else 0.15)


def test_log_probabilities_of_large_counts_in_float32_keep_their_digits() -> None:
    x = torch.tensor([900_000.0, 1_000_003.0, 1.2e7])
    for mean, sd in ((1e6, 0.05), (1.1e7, 0.3)):
        found = counts_log_prob(x, torch.tensor(mean), torch.tensor(sd))
        exact = scipy_law(mean, float(torch.tensor(sd))).logpmf(x.double().numpy())
        np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 0.2, 3.0, 60.0, 1e4, 3e6])
@pytest.mark.parametrize("sd", [0.01, 0.3, 2.0])
def test_quantiles_are_where_the_law_reaches_their_probabilities(mean: float, sd: float) -> None:
    """Of one law, and of a mixture over means and sds: F(q − 1) < p <= F(q), but for what the nodes leave out."""
    p = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64)
    for means, sds in (([mean] * 4, [sd]), ([mean, 2 * mean, 4 * mean, 5 * mean], [sd, sd / 2])):
        q = count_quantiles(torch.tensor(means).double()[:, None], torch.tensor(sds), p)[:, 0].numpy()
        assert (q == np.round(q)).all() and (q >= 0).all()
        laws = [scipy_law(m, s) for m in means for s in sds]
        below, at = (np.mean([law.cdf(x) for law in laws], 0) for x in (q - 1, q))
        assert (below < p.numpy() + 0.016).all() and (at > p.numpy() - 0.016).all(), (below, at)


def test_quantiles_beyond_whole_numbers_that_floats_tell_apart_come_to_an_end() -> None:
    p = torch.tensor([0.25, 0.75], dtype=torch.float64)
    for mean in (1e17, 1e30):
        low, high = (count_quantiles(torch.full((4, 1), mean).double(), torch.tensor([0.3]), p)[:, 0] / mean).tolist()
        assert 0.7 < low < 0.85 and 1.1 < high < 1.3


def law(noise: float | str = "scatter", **more: Any) -> Schema:
    return Schema(
        (
            fsf.Variable("scatter", "parameter", prior=fsf.Uniform(0.05, 1.0)),
            fsf.Variable("cases", "data", ("time",), support=fsf.COUNTS, noise=fsf.Noise("negbinomial", noise), **more),
        ),
        (fsf.Index("time", 0, 10, "days"),),
    )


def draws(n: int = 400) -> dict[str, Tensor]:
    """Means e^(a t/10) from far below one to thousands."""
    t, a = torch.linspace(0, 1, 21), torch.linspace(-4, 9, n)
    scatter = 0.05 + 0.9 * torch.rand(n, generator=seeded(9))
    return {"scatter": scatter.double(), "cases": (a[:, None] * t).exp()}


def test_a_reading_is_a_count_about_the_path_at_its_own_place_drawn_anew_each_time() -> None:
    schema, simulated = law(), draws()
    whitening = Whitening.fit(schema, simulated)
    (series,) = build_store(schema, whitening, simulated).series
    rows, many = torch.tensor([150, 399]), 20_000
    where = torch.tensor([-0.3, 0.8]).view(1, 2, 1).expand(2, -1, -1)
    z = read_noisy(series, rows.repeat(many), where.repeat(many, 1, 1), seeded(4)).double()
    raw = whitening["cases"].inverse(z)
    counts = whitening.readings(schema["cases"], z, np.zeros(2, int)).view(many, 2, 2)
    assert float((raw.view(many, 2, 2) - counts).abs().max()) <= 0.5 + 1e-3 * float(counts.max())  # float32 tokens
    a, s = torch.linspace(-4, 9, 400)[rows].double(), simulated["scatter"][rows]
    mean = (a[:, None] * torch.tensor([0.35, 0.9]).double()).exp()
    variance = mean + (s[:, None] * mean) ** 2
    assert float(((counts.mean(0) - mean) / (variance / many).sqrt()).abs().max()) < 4.5
    assert float((counts.var(0) / variance - 1).abs().max()) < 0.1
    both = (counts - mean) / variance.sqrt()
    assert float((both[:, :, 0] * both[:, :, 1]).mean(0).abs().max()) < 0.05  # neighbours are independent


def test_zeros_are_counts_and_the_baseline_knows_the_noise() -> None:
    """Moments behind an asinh tail as well."""
    for tail in (None, 2.0):
        series = Series(0, (0,), torch.full((1, 5), -1.0), 0.4, tail, counts=(2.0, 1.3))  # mean e^0.7 − 1 = 1.01
        rows, where = torch.zeros(50_000, dtype=torch.long), torch.zeros(50_000, 1, 1)
        z = read_noisy(series, rows, where, seeded(5)).double()
        zero = (z < math.asinh((math.log(1.5) - 2) / 1.3 / 2) * 2) if tail else z < (math.log(1.5) - 2) / 1.3
        assert float(zero.double().mean()) == pytest.approx(scipy_law(math.expm1(0.7), 0.4).pmf(0), abs=0.01)
        mean, variance = read_moments(series, rows[:1], where[:1])
        assert abs(float(mean - z.mean())) < 0.15 * float(z.std())
        assert float(variance / z.var()) == pytest.approx(1.0, abs=0.25)


def test_rates_in_the_place_of_counts_are_told() -> None:
    times = {"time": [0.0, 1.0, 2.0]}
    with pytest.warns(
        ObservationWarning, match="'cases': 2 of 3 values are no whole numbers, such as 2.04; expected co"
    ):
        read(law(), xr.Dataset({"cases": ("time", [2.04, 3.0, 0.5])}, times))
    both = xr.Dataset(
        {"cases": (("region", "time"), [[2.0, 3.5, np.nan], [1.0, 0.0, 4.0]])}, times | {"region": [0, 1]}
    )
    with pytest.warns(ObservationWarning, match="1 of 5 values are no whole numbers"):
        read_many(law(), both, "region")
    read(law(), xr.Dataset({"cases": ("time", [2.0, 0.0, np.nan])}, times))  # warnings are errors


def test_totals_in_the_place_of_counts_are_told() -> None:
    """Ten rises without a fall, in the order of time, in any of the data sets."""
    times, daily = np.arange(15) / 2, np.array([0, 2, 1, 3, 2, 4, 1, 5, 2, 3, 0, 2, 1, 4, 3.0])
    total = daily.cumsum()
    held = np.where(times == 5, np.nan, total)
    with pytest.warns(ObservationWarning, match="'cases' never falls. Are these totals so far"):
        read(law(), xr.Dataset({"cases": ("time", held[::-1])}, {"time": times[::-1]}))
    both = {"cases": (("region", "time"), np.stack([daily, held]))}
    with pytest.warns(ObservationWarning, match=r"'cases' never falls in 1 of 2 data sets \(south\)"):
        read_many(law(), xr.Dataset(both, {"time": times, "region": ["north", "south"]}), "region")
    many = {"cases": (("region", "time"), np.stack([*[daily] * 19, held]))}
    read_many(law(), xr.Dataset(many, {"time": times, "region": range(20)}), "region")  # one of twenty may grow
    read(law(), xr.Dataset({"cases": ("time", daily)}, {"time": times}))  # warnings are errors
    read(law(), xr.Dataset({"cases": ("time", total[:10])}, {"time": times[:10]}))  # nine steps: may be a growth
    read(law(), xr.Dataset({"cases": ("time", np.repeat([0.0, 3.0, 4.0], 5))}, {"time": times}))  # two rises


def test_draws_of_counts_are_whole_in_the_tree() -> None:
    schema, simulated = law(), draws()
    whitening = Whitening.fit(schema, simulated)
    observation = read(schema, None)
    asked = query(schema, observation, {"cases": [0.0, 3.0, 9.0]})
    z = torch.randn(200, len(asked), generator=seeded(6))
    tree = to_tree(schema, whitening, observation, asked, z, {})
    cases = tree["predictions"]["cases"].to_numpy()
    assert (cases == np.round(cases)).all() and cases.min() == 0 and len(np.unique(cases)) > 20
    assert not (tree["prior"]["scatter"].to_numpy() == 1).any()


def test_a_path_beneath_counts_is_no_count_and_its_readings_are() -> None:
    path = fsf.Variable("expected", "parameter", ("time",), support=fsf.COUNTS, path_of="cases", reference=(5,))
    schema = Schema((*law(0.4).variables, path), law().dims)
    simulated = draws()
    whitening = Whitening.fit(schema, simulated)
    observation = read(schema, None)
    asked = query(schema, observation, {"cases": [2.0, 9.0]})
    z = torch.zeros(40_000, len(asked))  # every draw of the path is the same
    own = asked.points["cases"].component
    mean = whitening.inverse("cases", torch.zeros(1, 2).double(), own)[0]
    noisy = with_noise(schema, whitening, observation, asked, z, seeded(7))
    columns = slice(-2, None) if list(asked.points)[-1] == "cases" else slice(0, 2)
    counts = whitening.inverse("cases", noisy[:, columns].double(), own)
    assert float((counts - counts.round()).abs().max()) < 1e-3
    variance = mean + (0.4 * mean) ** 2
    assert float(((counts.mean(0) - mean) / (variance / 40_000).sqrt()).abs().max()) < 4.5
    assert float((counts.var(0) / variance - 1).abs().max()) < 0.05
    slope = (-whitening.log_det("cases", torch.zeros(1, 2).double(), own)).exp()[0]
    sd = torch.full((1, 1), 0.4).double()
    found = noise_variance(schema, whitening, "cases", torch.zeros(1, 2).double(), own, sd)
    torch.testing.assert_close(found, variance * slope**2)


def test_the_likelihood_of_a_known_simulator_is_scipys() -> None:
    grid = torch.linspace(0, 10, 41, dtype=torch.float64)
    schema = Schema((fsf.Variable("rate", "parameter", prior=fsf.Uniform(0, 1)), law(0.3).variables[1]), law().dims)

    def clean(parameters: Any) -> dict[str, Tensor]:
        return {"cases": (parameters["rate"][:, None] * grid).exp()}

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        rate = torch.rand(n, generator=generator, dtype=torch.float64)
        return {"rate": rate, **clean({"rate": rate})}

    simulator = FunctionSimulator(schema, simulate, {"time": grid}, paths=clean)
    days = np.array([0.0, 2.5, 8.0])
    observed = xr.Dataset({"cases": ("time", [0.0, 3.0, 11.0])}, {"time": days})
    given = xr.Dataset({"rate": (("chain", "draw"), [[0.1, 0.3]])})
    found = fsf.log_likelihood(simulator, observed)(given).to_numpy()[0]
    expected = [sum(scipy_law(math.exp(r * t), 0.3).logpmf(x) for t, x in zip(days, [0, 3, 11])) for r in (0.1, 0.3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_counts_in_a_schema() -> None:
    schema = law()
    assert Schema.from_dict(schema.to_dict()) == schema
    with pytest.raises(ValueError, match=r"'y': counts need the support COUNTS, \(-1, inf\), got \(0, inf\)"):
        fsf.Variable("y", "data", ("time",), support=fsf.POSITIVE, noise=fsf.Noise("negbinomial", 0.1))
