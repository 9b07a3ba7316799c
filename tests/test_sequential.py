"""Sequential refinement: which rows it trains on, what it says of the Joint, what it refuses."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import traces
import xarray as xr
from tiny import seeded, token_set
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import is_parameter, observed_tokens, read
from fsimformer.pool import TruncatedPrior, parameters_of, pooled, uniform_of
from fsimformer.readings import Design, read_at
from fsimformer.sequential import _require_data, rows_as_observed
from fsimformer.simulations import Simulations, build_store, simulate
from fsimformer.simulators import FunctionSimulator, LotkaVolterra, two_moons
from fsimformer.simulators.protocol import SimulateAt, check, conditional_simulator, draw_priors
from fsimformer.truncate import fit_region
from fsimformer.whiten import Whitening

NOISE = 0.3
CONFIG = fsf.TrainConfig(
    steps=6, batch_size=16, n_micro=1, pool=1, n_validation=16, warmup=0, validate_every=3, max_levels=1, seed=1
)  # fmt: skip
NETWORK = fsf.NetworkConfig(width=16, depth=2, n_heads=2)
SCHEMA = fsf.Schema(
    (
        fsf.Variable("a", "parameter", prior=fsf.Normal(1.0, 2.0)),
        fsf.Variable("b", "parameter", ("part",), prior=fsf.Uniform(-1.0, 1.0), blocks=2),
        fsf.Variable("x", "data", ("reading",), parents=("a", "b")),
    ),
    (fsf.Components("part", 2), fsf.Components("reading", 3)),
)
OBSERVED = {"x": xr.DataArray([2.0, 0.5, -0.2], dims="reading")}


def draw_x(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """x ~ N((a, b₁, b₂), 0.3²)."""
    mean = torch.cat([parameters["a"][:, None], parameters["b"]], 1)
    return {"x": mean + NOISE * torch.randn(mean.shape, generator=generator, dtype=torch.float64)}


def linear(simulate_at: SimulateAt | None = draw_x) -> FunctionSimulator:
    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        a = 1.0 + 2.0 * torch.randn(n, generator=generator, dtype=torch.float64)
        b = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
        return {"a": a, "b": b, **draw_x({"a": a, "b": b}, generator)}

    return FunctionSimulator(SCHEMA, simulate, simulate_at=simulate_at)


def posterior_u(n: int, seed: int) -> Tensor:
    """Exact draws of p(a, b | x_o) as u: a normal, and normals cut to (−1, 1)."""
    rng = np.random.default_rng(seed)
    precision = 1 / 4 + 1 / NOISE**2
    a = rng.normal((1 / 4 + 2.0 / NOISE**2) / precision, precision**-0.5, n)
    columns = [scipy.stats.norm.cdf(a, 1, 2)]
    for x in (0.5, -0.2):
        b = scipy.stats.truncnorm((-1 - x) / NOISE, (1 - x) / NOISE, x, NOISE).rvs(n, random_state=rng)
        columns.append((b + 1) / 2)
    return torch.from_numpy(np.stack(columns, 1))


@pytest.fixture(scope="module")
def run() -> fsf.Sequential:
    return train()


def train(**changes: Any) -> fsf.Sequential:
    call: dict[str, Any] = {"rounds": 2, "simulations": 200, "epsilon": 0.02, "draws": 200, "config": CONFIG, **changes}
    return fsf.train_sequential(linear(), OBSERVED, network=NETWORK, **call)


def test_rows_of_both_rounds_in_the_region_have_one_law() -> None:
    """Pooled parameters: the prior cut to the region, as brute force has it; x given them as ever; outside: dropped."""
    simulator = linear()
    whitening, prior = Whitening.fit(SCHEMA, {"x": torch.randn(100, 3)}), simulate(linear(), 6_000, seeded(1))
    region = fit_region(posterior_u(500, 0), 0.02)
    truncated = TruncatedPrior(simulator, draw_x, whitening, (region,), 100_000)
    second = simulate(truncated, 1_500, seeded(2))
    assert bool(region.contains(uniform_of(SCHEMA, whitening, second.values)).all())
    rows = pooled(SCHEMA, whitening, [prior, second], [region])
    first = region.contains(uniform_of(SCHEMA, whitening, prior.values))
    assert 0 < int(first.sum()) < 6_000 and len(rows) == int(first.sum()) + 1_500
    u = uniform_of(SCHEMA, whitening, rows.values)
    assert bool(region.contains(u).all())
    brute = torch.rand(60_000, 3, generator=seeded(3), dtype=torch.float64)
    brute = brute[region.contains(brute)]
    for column in (*range(3), slice(None)):
        ours, exact = (x[:, column].reshape(len(x), -1).sum(1).numpy() for x in (u, brute))
        assert scipy.stats.ks_2samp(ours, exact).pvalue > 1e-3
    noise = rows.values["x"] - torch.cat([rows.values["a"][:, None], rows.values["b"]], 1)
    assert scipy.stats.kstest(noise.numpy().ravel(), scipy.stats.norm(0, NOISE).cdf).pvalue > 1e-3


def test_all_calls_of_a_round_have_a_say_in_how_it_drew() -> None:
    """Of many rows rejection is expected to take too long, of few it is not."""
    whitening = Whitening.fit(SCHEMA, {"x": torch.randn(100, 3)})
    region = fit_region(posterior_u(500, 0), 0.02)
    truncated = TruncatedPrior(linear(), draw_x, whitening, (region,), 5_000)
    truncated.simulate(900, seeded(1))
    assert truncated.method == "kernels"
    truncated.simulate(3, seeded(2))
    truncated.simulate(3, seeded(3))
    kernels, first, second = truncated.drawn
    assert truncated.method == "kernels, rejection"
    assert truncated.share == pytest.approx((900 * kernels.share + 3 * first.share + 3 * second.share) / 906)


def test_a_row_that_was_held_out_stays_held_out() -> None:
    whitening = Whitening.fit(SCHEMA, {"x": torch.randn(100, 3)})
    made = []
    for number in range(2):
        drawn = simulate(linear(), 100, seeded(number)).values
        made.append(Simulations({**drawn, "x": torch.arange(100.0)[:, None].expand(100, 3) + 1000 * number}, 0))
    rows = pooled(SCHEMA, whitening, made, [fit_region(posterior_u(200, 0), 0.0)])
    place = rows.values["x"][:, 0] % 1000
    assert len(rows) == 200 and rows.n_train == 180
    assert float(place[:180].max()) == 89 and float(place[180:].min()) == 90
    none = fit_region(posterior_u(200, 0) / 1000, 0.5)
    with pytest.raises(ValueError, match="only 0 rows to train on and 0 held out"):
        pooled(SCHEMA, whitening, made, [none])


def test_parameters_and_their_uniforms_are_inverse() -> None:
    whitening = Whitening.fit(SCHEMA, {"x": torch.randn(100, 3)})
    u = torch.rand(50, 3, generator=seeded(), dtype=torch.float64)
    parameters = parameters_of(SCHEMA, whitening, u)
    torch.testing.assert_close(parameters["a"], 1 + 2 * torch.special.ndtri(u[:, 0]))
    torch.testing.assert_close(parameters["b"], 2 * u[:, 1:] - 1)
    torch.testing.assert_close(uniform_of(SCHEMA, whitening, parameters), u)


def test_rows_hold_the_tokens_of_the_observation_and_all_parameters() -> None:
    """A series: readings at the observation's own times, of the simulation's path, with fresh noise; nothing else."""
    simulator = LotkaVolterra(reference=())
    drawn = simulator.simulate(64, seeded())
    schema, whitening = simulator.schema, Whitening.fit(simulator.schema, drawn)
    store = build_store(schema, whitening, drawn)
    observed = token_set([4, 4, 4], [-1.0, 0.0, 0.5], [0.0, 0.0, 0.0], True)
    rows = torch.arange(64)
    batch = rows_as_observed(store, rows, Design((5, 5)), observed, is_parameter(schema), seeded(1))
    assert batch.shape == (64, 7) and bool(batch.valid.all())
    assert batch.variable[0].tolist() == [0, 1, 2, 3, 4, 4, 4]
    torch.testing.assert_close(batch.value[:, :4], store.scalars)
    assert batch.index[:, 4:, 0].unique(dim=0).tolist() == [[-1.0, 0.0, 0.5]]
    on_grid = store.series[0].path[:, [0, 150, 225]]
    noise = (batch.value[:, 4:] - on_grid) / store.series[0].sd
    assert scipy.stats.kstest(noise.numpy().ravel(), scipy.stats.norm.cdf).pvalue > 1e-3
    again = read_at(store, rows, observed, seeded(2))
    assert float((again.value - batch.value[:, 4:]).abs().min()) > 0


def test_two_rounds_say_what_they_did(run: fsf.Sequential) -> None:
    first, second = run.rounds
    assert (first.method, first.share, first.threshold, first.pooled) == ("prior", 1.0, None, 200)
    assert second.method == "rejection" and 0 < second.share < 1 and second.simulations == 200
    assert 200 <= second.pooled <= 400 and run.joint is second.joint
    card = run.joint.provenance
    assert card["truncated"]["observed"]["x"]["value"] == [2.0, 0.5, -0.2]
    assert card["truncated"]["rounds"][1] == second.summary()
    assert card["initial"]["simulations"] == 200 and card["initial"]["initial"] is None
    assert card["simulations"] == second.pooled and card["generation"] == 1


def test_a_refined_joint_is_no_start_for_the_whole_prior(run: fsf.Sequential) -> None:
    message = r"initial: this Joint was refined for one observation of \['x'\].*not drawn from the prior\. Train anew"
    with pytest.raises(ValueError, match=message):
        fsf.train(linear(), simulations=200, config=CONFIG, initial=run.joint)
    on = fsf.train(linear(), simulations=200, config=CONFIG, initial=run.rounds[0].joint)  # the first saw the prior
    assert on.model.refined_for is None and on.provenance["generation"] == 1


def test_equal_seeds_give_equal_weights(run: fsf.Sequential) -> None:
    again, other = train(), train(config=replace(CONFIG, seed=2))
    same = [torch.equal(a, b) for a, b in zip(weights(run), weights(again), strict=True)]
    assert all(same) and again.rounds[1].summary() == run.rounds[1].summary()
    assert any(not torch.equal(a, b) for a, b in zip(weights(run), weights(other), strict=True))


def weights(run: fsf.Sequential) -> list[Tensor]:
    return [p for r in run.rounds for p in r.joint.model.denoiser.parameters()]


def test_the_first_round_is_train_and_epsilon_nought_keeps_every_row() -> None:
    whole = train(epsilon=0.0)
    plain = fsf.train(linear(), simulations=200, config=CONFIG, network=NETWORK)
    for a, b in zip(whole.rounds[0].joint.model.denoiser.parameters(), plain.model.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (whole.rounds[1].pooled, whole.rounds[1].share, whole.rounds[1].threshold) == (400, 1.0, None)


def test_the_joint_says_that_it_is_for_one_observation(run: fsf.Sequential, tmp_path: Path) -> None:
    run.joint.save(tmp_path / "narrow")
    others = {
        "another value": {"x": xr.DataArray([2.0, 0.5, -0.1], dims="reading")},
        "one less": {"x": xr.DataArray([2.0, 0.5, np.nan], dims="reading")},
        "nothing": None,
    }
    for joint in (run.joint, fsf.load(tmp_path / "narrow")):
        assert "refined for one observation" in repr(joint)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            joint.condition(OBSERVED)
            joint.condition({**OBSERVED, "a": 1.5})  # the same readings, and a parameter
        for other in others.values():
            with pytest.warns(fsf.ObservationWarning, match="refined for one observation of \\['x'\\], and this"):
                joint.condition(other)
        many = xr.Dataset({"x": (("site", "reading"), [[2.0, 0.5, -0.2], [1.0, 0.0, 0.0]])}, {"site": ["a", "b"]})
        with pytest.warns(fsf.ObservationWarning, match="1 of 2 data sets"):
            joint.condition(many, batch_dim="site")
    assert '"format": 3' in (tmp_path / "narrow" / "model.json").read_text()
    run.rounds[0].joint.save(tmp_path / "wide")
    assert '"format": 2' in (tmp_path / "wide" / "model.json").read_text()  # a reader of old files can read it
    fsf.load(tmp_path / "wide").condition(others["another value"])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("refined_for", {"y": {"component": [0], "index": [[]], "value": [1.0]}}, "expected refined_for as data"),
        ("refined_for", {"x": {"component": [0], "index": [[]], "value": []}}, "expected refined_for as data"),
        ("format", 2, r"unknown keys \['refined_for'\]"),
    ],
)
def test_a_damaged_file_is_refused(run: fsf.Sequential, tmp_path: Path, key: str, value: Any, message: str) -> None:
    run.joint.save(tmp_path / "narrow")
    card = json.loads((tmp_path / "narrow" / "model.json").read_text())
    (tmp_path / "narrow" / "model.json").write_text(json.dumps({**card, key: value}))
    with pytest.raises(ValueError, match=message):
        fsf.load(tmp_path / "narrow")


def test_arrays_and_series_beside_each_other(tmp_path: Path) -> None:
    """Rows as observed hold the array of their own simulation; an array that is not observed is no token."""
    simulator = replace(traces.SIMULATOR, simulate_at=simulate_traces)
    drawn = simulator.simulate(8, seeded())
    whitening = Whitening.fit(traces.SCHEMA, drawn)
    store = build_store(traces.SCHEMA, whitening, drawn)
    given = {"trace": traces.trace(), "y": xr.DataArray([0.1], {"time": [3.0]}, "time")}
    observed = observed_tokens(traces.SCHEMA, whitening, read(traces.SCHEMA, given))
    batch = rows_as_observed(store, torch.arange(8), Design((4,)), observed, is_parameter(traces.SCHEMA), seeded())
    assert batch.variable[0].tolist() == [0, 4, 1, 2, 3] and list(batch.arrays) == [traces.TRACE]
    assert torch.equal(batch.arrays[traces.TRACE], store.arrays[traces.TRACE])
    run = fsf.train_sequential(
        simulator, given, rounds=2, simulations=100, epsilon=0.1, draws=50, config=replace(CONFIG, steps=2),
        network=NETWORK, embeddings=traces.modules(),
    )  # fmt: skip
    run.joint.save(tmp_path / "arrays")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fsf.load(tmp_path / "arrays", embeddings=traces.modules(1)).condition(given)
    with pytest.warns(fsf.ObservationWarning, match="refined for one observation"):
        run.joint.condition({**given, "trace": traces.trace()[::-1]})  # the order of an array counts


def simulate_traces(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    drawn = traces.simulate(len(parameters["a"]), generator)
    return {k: drawn[k] for k in ("y", "trace", "image")}


def test_series_and_a_simulator_that_has_clean_paths() -> None:
    times = np.linspace(0, 5, 70)  # more than a default training reads
    observed = xr.DataArray(np.full(70, 1.2), {"time": times}, "time", name="prey")
    run = fsf.train_sequential(
        LotkaVolterra(grid_points=61, substeps=2, reference=()), observed, rounds=2, simulations=100, epsilon=0.1,
        draws=50, config=replace(CONFIG, steps=2), network=NETWORK,
    )  # fmt: skip
    assert run.joint.model.max_readings == {"prey": 70, "predator": 60}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.joint.condition(observed[::-1])  # in another order


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "expected rounds >= 1, got 0"),
        ({"simulations": 50}, "expected simulations >= 100, got 50"),
        ({"epsilon": 1.0}, "expected 0 <= epsilon < 1"),
        ({"epsilon": 1e-3}, "draws >= 50 and >= 1/epsilon, got 200 for epsilon 0.001"),
        ({"candidates": 0}, "expected candidates >= 1"),
    ],
)
def test_counts_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(**change)


def test_what_cannot_be_refined_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a method simulate_at\(parameters, generator\)"):
        fsf.train_sequential(linear(simulate_at=None), OBSERVED)
    with pytest.raises(ValueError, match=r"holds parameters \['a'\]; expected data only"):
        fsf.train_sequential(linear(), {**OBSERVED, "a": 1.0})
    bare = fsf.Schema((fsf.Variable("a", "parameter"), *SCHEMA.variables[1:]), SCHEMA.dims)
    with pytest.raises(ValueError, match=r"a prior and no parents, got \['a'\]"):
        fsf.train_sequential(replace(linear(), schema=bare), OBSERVED)
    nothing = {"x": xr.DataArray([np.nan] * 3, dims="reading")}
    with pytest.raises(ValueError, match="no finite reading"), pytest.warns(fsf.ObservationWarning):
        fsf.train_sequential(linear(), nothing)
    joint = fsf.train(linear(), simulations=200, config=CONFIG, network=NETWORK)
    given = simulate(linear(), 200, seeded())
    with pytest.raises(ValueError, match="given simulations with an initial Joint"):
        fsf.train(linear(), simulations=given, config=CONFIG, initial=joint)


def test_readings_where_no_path_is_simulated_are_refused() -> None:
    """Training at t = 16 would read an extrapolated cubic; at t = 15, or of a missing one, it would not."""

    def prey(*readings: tuple[float, float]) -> xr.DataArray:
        times, values = zip(*readings, strict=True)
        return xr.DataArray(np.array(values), {"time": np.array(times)}, "time", name="prey")

    message = r"'prey' is observed at time = 16, outside the trained range \[0, 15\]"
    with pytest.warns(fsf.ObservationWarning, match="outside"), pytest.raises(ValueError, match=message):
        fsf.train_sequential(LotkaVolterra(reference=()), prey((3.0, 1.0), (16.0, 1.0)))
    schema = LotkaVolterra(reference=()).schema
    _require_data(schema, read(schema, prey((15.0, 1.0), (16.0, np.nan))))


def test_simulators_draw_at_chosen_parameters() -> None:
    check(linear())
    theta = torch.tensor([[0.3, -0.7]], dtype=torch.float64).expand(2_000, 2)
    x = conditional_simulator(two_moons())({"theta": theta}, seeded())["x"]
    centre = torch.tensor([0.25 - 0.4 / 2**0.5, -1.0 / 2**0.5], dtype=torch.float64)
    radius = (x - centre).norm(dim=1)
    assert scipy.stats.kstest(radius.numpy(), scipy.stats.norm(0.1, 0.01).cdf).pvalue > 1e-3
    sird = fsf.simulators.SIRD(grid_points=26, reference=())
    whole, generator = sird.simulate(5, seeded(3)), seeded(3)
    scalars = {k: whole[k] for k in ("recovery_rate", "death_rate", "initial_infected")}
    draw_priors(sird.schema, 5, generator)  # as `simulate` starts
    check(sird)
    rest = sird.simulate_at(scalars, generator)
    assert set(rest) == {"contact_rate", "infected", "recovered", "deaths"}
    assert all(torch.equal(rest[k], whole[k]) for k in rest)
    other = sird.simulate_at({**scalars, "recovery_rate": 2 * scalars["recovery_rate"]}, seeded(3))
    assert not any(torch.equal(other[k], whole[k]) for k in rest)
    with pytest.raises(ValueError, match=r"simulate_at\(\): expected the variables \['x'\], got \['y'\]"):
        check(linear(lambda parameters, generator: {"y": parameters["a"]}))
    with pytest.raises(ValueError, match=r"simulate_at\(\): 'x' differs for one seed"):
        check(linear(lambda parameters, generator: draw_x(parameters, torch.default_generator)))


@pytest.mark.parametrize(
    ("takes_rate", "message"),
    [
        (True, r"clean\(\): asks for 'contact_rate' besides .*'initial_infected'.*expected a method simulate_at"),
        (False, r"clean\(\): expected the variables \['contact_rate', 'deaths', .*got \['deaths', 'infected', 'recov"),
    ],
)
def test_clean_paths_that_leave_out_a_function_are_refused_before_any_training(takes_rate: bool, message: str) -> None:
    """A function has no closed path of scalars alone; without `simulate_at` round two could not simulate."""
    sird = fsf.simulators.SIRD(grid_points=26, reference=())

    def clean(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if takes_rate:
            assert len(parameters["contact_rate"])
        drawn = sird.simulate_at(parameters, seeded())
        return {k: drawn[k] for k in ("infected", "recovered", "deaths")}

    simulator = SimpleNamespace(
        schema=sird.schema, grid=sird.grid, natural=sird.natural, simulate=sird.simulate, clean=clean
    )
    observed = xr.DataArray([0.1], {"time": [3.0]}, "time", name="infected")
    steps: list[Any] = []
    with pytest.raises(ValueError, match=message):
        fsf.train_sequential(simulator, observed, simulations=100, config=CONFIG, callback=steps.append)
    assert not steps
