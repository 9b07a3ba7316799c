"""Simulators: the solver's order, its agreement with an adaptive one, conserved quantities, and the priors."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torchdiffeq import odeint

from fsimformer.priors import Support, Uniform
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.simulators import (
    SIRD,
    FunctionSimulator,
    HareLynx,
    LotkaVolterra,
    Simulator,
    bernoulli_glm,
    check,
    gaussian_linear,
    gaussian_mixture,
    hmm,
    hudson_bay,
    slcp,
    tree,
    two_moons,
)
from fsimformer.simulators.lotka_volterra import log_field
from fsimformer.simulators.protocol import draw_priors
from fsimformer.simulators.solver import DOPRI5, RK4, Tableau, solve, solve_to_tolerance

DYNAMICS = ("alpha", "beta", "gamma", "delta", "hare_initial", "lynx_initial")
ALL: list[Simulator] = [
    LotkaVolterra(),
    HareLynx(horizon=5.0, grid_points=51),
    SIRD(),
    two_moons(),
    slcp(),
    gaussian_linear(),
    gaussian_mixture(),
    bernoulli_glm(),
    tree(),
    hmm(),
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def adaptive(field: Callable[[Tensor, Tensor], Tensor], initial: Tensor, grid: Tensor) -> Tensor:
    """torchdiffeq's adaptive dopri5, (T, k, n). Its own norm averages over the rows, which lets a wild one slip."""
    options = {"norm": lambda error: error.abs().max()}
    return odeint(field, initial, grid, rtol=1e-9, atol=1e-9, method="dopri5", options=options)


def relative(value: Tensor, truth: Tensor) -> float:
    """Largest error, relative where the truth exceeds 1."""
    return float(((value - truth).abs() / truth.abs().clamp(min=1.0)).max())


# ---- the solver


@pytest.mark.parametrize("method", [RK4, DOPRI5], ids=["rk4", "dopri5"])
def test_the_error_falls_with_the_stated_order(method: Tableau) -> None:
    """y' = y cos t has the solution e^(sin t); the slope of log error over log step is the order."""
    grid = torch.linspace(0.0, 3.0, 7, dtype=torch.float64)
    truth = grid.sin().exp()
    steps = [2, 4, 8, 16]
    start = torch.ones(1, 1, dtype=torch.float64)
    solutions = [solve(lambda t, y: y * math.cos(t), start, grid, s, method)[:, 0, 0] for s in steps]
    error = [float((y - truth).abs().max()) for y in solutions]
    slope = -np.polyfit(np.log(steps), np.log(error), 1)[0]
    assert slope == pytest.approx(method.order, abs=0.25)


@pytest.mark.parametrize("method", [RK4, DOPRI5], ids=["rk4", "dopri5"])
def test_tableau_is_consistent(method: Tableau) -> None:
    """Each row of the matrix sums to its node, the weights integrate polynomials below the order exactly."""
    assert [sum(row) for row in method.matrix] == pytest.approx(list(method.nodes), abs=1e-14)
    for power in range(method.order):
        moment = sum(b * c**power for b, c in zip(method.weights, method.nodes, strict=True))
        assert moment == pytest.approx(1 / (power + 1), abs=1e-14)


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    simulator = HareLynx(horizon=5.0, grid_points=51)
    draws = draw_priors(simulator.schema, 40, generator())
    parameters = torch.stack([draws[k] for k in DYNAMICS])
    together, alone = simulator.solve_log(parameters), simulator.solve_log(parameters[:, 7:8])
    torch.testing.assert_close(together[:, :, 7:8], alone, rtol=0, atol=1e-11)


def test_rows_that_miss_the_tolerance_are_nan_and_harm_no_other() -> None:
    """y' = λy cos t with a λ that two sub-steps cannot follow, beside an easy one."""
    rates = torch.tensor([0.5, 300.0], dtype=torch.float64)
    grid = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)

    def field_of(rows: Tensor) -> Callable[[float, Tensor], Tensor]:
        return lambda t, y: rates[rows] * math.cos(t) * torch.ones_like(y) + torch.sin(rates[rows] * y)

    out = solve_to_tolerance(field_of, torch.ones(1, 2, dtype=torch.float64), grid, 1e-6, 4, 16)
    assert bool(torch.isfinite(out[:, 0, 0]).all())
    assert bool(torch.isnan(out[:, 0, 1]).all())


def test_substeps_are_checked() -> None:
    with pytest.raises(ValueError, match=r"substeps: expected at least 1, got 0\."):
        solve(lambda t, y: y, torch.ones(1, 1, dtype=torch.float64), torch.arange(2.0, dtype=torch.float64), 0)


# ---- agreement with torchdiffeq, to 1e-6


def test_lotka_volterra_agrees_with_torchdiffeq() -> None:
    """On all corners of the prior's box and on draws; torchdiffeq integrates in natural units."""
    simulator = LotkaVolterra(reference=())
    corners = torch.tensor(list(itertools.product([1.0, 3.0], repeat=4)), dtype=torch.float64).T
    draws = torch.stack(list(draw_priors(simulator.schema, 30, generator()).values()))
    parameters = torch.cat((corners, draws), 1)
    alpha, beta, gamma, delta = parameters

    def field(t: Tensor, y: Tensor) -> Tensor:
        u, v = y
        return torch.stack(((alpha - beta * v) * u, (delta * u - gamma) * v))

    initial = torch.tensor([[1.0], [0.5]], dtype=torch.float64).expand(2, parameters.shape[1]).contiguous()
    truth = adaptive(field, initial, simulator.grid["time"])
    assert relative(simulator.solve(parameters), truth) < 1e-6


def test_hare_lynx_agrees_with_torchdiffeq() -> None:
    simulator = dataclasses.replace(HareLynx(), grid_points=126)
    draws = draw_priors(simulator.schema, 60, generator(3))
    parameters = torch.stack([draws[k] for k in DYNAMICS])
    field = log_field(*parameters[:4])
    truth = adaptive(lambda t, y: field(float(t), y), parameters[4:].log(), simulator.grid["time"])
    assert relative(simulator.solve_log(parameters), truth) < 1e-6


def test_sird_agrees_with_torchdiffeq() -> None:
    """With a contact rate in closed form, and in natural units."""
    simulator = SIRD()
    parameters = torch.stack(list(draw_priors(simulator.schema, 50, generator()).values()))
    recovery, death, infected = parameters
    speed = torch.linspace(0.05, 0.4, 50, dtype=torch.float64)

    def contact(t: Tensor) -> Tensor:
        return torch.sigmoid(2.5 * torch.sin(speed * t + 1.0))

    def field(t: Tensor, y: Tensor) -> Tensor:
        s, i, _, _ = y
        new = contact(t) * s * i
        return torch.stack((-new, new - (recovery + death) * i, recovery * i, death * i))

    points = 2 * simulator.substeps * (simulator.grid_points - 1) + 1
    fine = contact(torch.linspace(0.0, 50.0, points, dtype=torch.float64)[:, None])
    zero = torch.zeros_like(infected)
    truth = adaptive(field, torch.stack((torch.ones_like(infected), infected, zero, zero)), simulator.grid["time"])
    assert relative(simulator.solve(parameters, fine), truth) < 1e-6


# ---- what the equations conserve


def test_lotka_volterra_conserves_its_invariant() -> None:
    """H = δu − γ log u + βv − α log v along every clean path."""
    simulator = LotkaVolterra(reference=())
    parameters = torch.stack(list(draw_priors(simulator.schema, 200, generator()).values()))
    alpha, beta, gamma, delta = parameters
    u, v = simulator.solve(parameters).unbind(1)
    energy = delta * u - gamma * u.log() + beta * v - alpha * v.log()
    assert float((energy - energy[0]).abs().max()) < 1e-6


def test_hare_lynx_conserves_its_invariant_in_the_wild_tail() -> None:
    """In the returned populations too, wherever they are: also at e^-100."""
    draws = HareLynx(grid_points=126).simulate(500, generator(5))
    alpha, beta, gamma, delta = (draws[k][:, None] for k in DYNAMICS[:4])
    u, v = draws["hare"], draws["lynx"]
    assert float(u.min()) < 1e-20 and float(v.min()) < 1e-10  # the tail is there
    energy = delta * u - gamma * u.log() + beta * v - alpha * v.log()
    drift = (energy - energy[:, :1]).abs() / energy.abs().amax(1, keepdim=True).clamp(min=1.0)
    assert float(drift.max()) < 1e-4


def test_sird_loses_nobody() -> None:
    """S + I + R + D = 1 + I(0)."""
    simulator = SIRD(floor=1e-30)
    parameters = torch.stack(list(draw_priors(simulator.schema, 200, generator()).values()))
    weights = torch.randn(simulator.gp_factor.shape[1], 200, generator=generator(1), dtype=torch.float64)
    path = simulator.solve(parameters, torch.sigmoid(simulator.gp_factor @ weights))
    assert float((path.sum(1) - 1 - parameters[2]).abs().max()) < 1e-6


def test_sird_floors_recovered_and_deaths_at_the_start_only() -> None:
    draws = SIRD().simulate(100, generator())
    for name in ("recovered", "deaths"):
        assert float(draws[name].min()) == pytest.approx(1e-8)
        assert bool((draws[name][:, 0] == draws[name].min()).all())
        assert bool((draws[name].diff() >= 0).all())  # nobody comes back


# ---- priors


@pytest.mark.parametrize(
    ("simulator", "expected"),
    [
        (LotkaVolterra(reference=()), {k: scipy.stats.norm() for k in ("alpha", "beta", "gamma", "delta")}),
        (
            HareLynx(),
            {
                "alpha": scipy.stats.truncnorm(-2, np.inf, 1.0, 0.5),
                "gamma": scipy.stats.truncnorm(-2, np.inf, 1.0, 0.5),
                "beta": scipy.stats.truncnorm(-1, np.inf, 0.05, 0.05),
                "delta": scipy.stats.truncnorm(-1, np.inf, 0.05, 0.05),
                "hare_initial": scipy.stats.lognorm(1.0, scale=10.0),
                "lynx_initial": scipy.stats.lognorm(1.0, scale=10.0),
                "hare_noise": scipy.stats.lognorm(1.0, scale=math.exp(-1.0)),
                "lynx_noise": scipy.stats.lognorm(1.0, scale=math.exp(-1.0)),
            },
        ),
        (
            SIRD(),
            {
                "recovery_rate": scipy.stats.uniform(0, 0.5),
                "death_rate": scipy.stats.uniform(0, 0.5),
                "initial_infected": scipy.stats.uniform(0, 0.2),
            },
        ),
    ],
    ids=["lotka_volterra", "hare_lynx", "sird"],
)
def test_draws_follow_their_priors(simulator: Simulator, expected: dict[str, scipy.stats.rv_continuous]) -> None:
    """Kolmogorov–Smirnov against scipy's own distributions; a wrong prior is rejected at this n."""
    draws = draw_priors(simulator.schema, 20_000, generator())
    assert set(draws) == set(expected)
    for name, law in expected.items():
        value = draws[name].numpy()
        if isinstance(simulator, LotkaVolterra):  # 1 + 2·sigmoid(z)
            assert value.min() > 1 and value.max() < 3
            value = np.log((value - 1) / (3 - value))
        assert scipy.stats.kstest(value, law.cdf).pvalue > 1e-3, name
        assert scipy.stats.kstest(value, lambda x, law=law: law.cdf(0.95 * x)).pvalue < 1e-3, name


def test_logit_contact_rate_has_the_kernel_as_covariance() -> None:
    """Var of a product of two normals with covariance k is (k² + v²)/n: five standard errors at every pair."""
    simulator, n = SIRD(), 4000
    g = torch.logit(simulator.simulate(n, generator())["contact_rate"])[:, ::10]
    t = simulator.grid["time"][::10]
    kernel = 6.25 * torch.exp(-0.5 * ((t[:, None] - t) / 7.0) ** 2)
    error = (g.T @ g / n - kernel).abs()
    assert bool((error < 5 * ((kernel**2 + 6.25**2) / n).sqrt()).all())
    shorter = 6.25 * torch.exp(-0.5 * ((t[:, None] - t) / 6.0) ** 2)
    assert bool(((g.T @ g / n - shorter).abs() > 5 * ((shorter**2 + 6.25**2) / n).sqrt()).any())


def test_truncated_factor_keeps_the_covariance() -> None:
    simulator = SIRD()
    factor = simulator.gp_factor[:: 2 * simulator.substeps]
    t = simulator.grid["time"]
    kernel = 6.25 * torch.exp(-0.5 * ((t[:, None] - t) / 7.0) ** 2)
    assert factor.shape[1] < 30
    assert float((factor @ factor.T - kernel).abs().max()) < 1e-6


def test_priors_horizon_and_noise_are_arguments() -> None:
    mine = LotkaVolterra(priors={k: Uniform(0.5, 0.6) for k in DYNAMICS[:4]}, horizon=3.0, noise=0.2, grid_points=31)
    check(mine)
    assert mine.schema["prey"].noise.sd == 0.2 and mine.schema.dim("time") == Index("time", 0.0, 3.0)
    assert 0.5 < float(mine.simulate(10, generator())["gamma"].min()) < 0.6
    with pytest.raises(ValueError, match=r"priors: expected one for each of \['alpha', .*got \['alpha'\]"):
        LotkaVolterra(priors={"alpha": Uniform(0.0, 1.0)})


def test_hudson_bay_is_the_table() -> None:
    data = hudson_bay()
    assert dict(data.sizes) == {"time": 21}
    assert float(data.hare.sel(time=3.0)) == 77.4 and float(data.lynx.sel(time=4.0)) == 59.4
    assert float(data.hare.sum()) == pytest.approx(715.7)
    assert set(data.data_vars) <= set(HareLynx().schema.names)
    assert HareLynx().horizon >= data.time.values.max()


# ---- the protocol


@pytest.mark.parametrize("simulator", ALL, ids=lambda s: type(s).__name__)
def test_simulators_keep_the_protocol(simulator: Simulator) -> None:
    assert isinstance(simulator, Simulator)
    check(simulator, n=5)


@pytest.mark.parametrize("simulator", ALL, ids=lambda s: type(s).__name__)
def test_the_generator_decides_every_draw(simulator: Simulator) -> None:
    before = torch.get_rng_state()
    first, again, other = (simulator.simulate(4, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first)
    assert torch.equal(before, torch.get_rng_state())


def line(**changes: object) -> FunctionSimulator:
    """A straight line with unknown slope, and one thing wrong."""
    time = torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
    schema = Schema(
        (
            Variable("slope", "parameter", prior=Uniform(0.0, 1.0)),
            Variable("height", "data", ("time", "site"), support=Support(0.0)),
        ),
        (Index("time", 0.0, 2.0), Components("site", 2)),
    )

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws = draw_priors(schema, n, generator)
        height = 1 + (draws["slope"][:, None] * time)[:, :, None].expand(n, 5, 2)
        draws = {**draws, "height": height, **{k: v for k, v in changes.items() if k != "grid"}}
        return {k: v for k, v in draws.items() if v is not None}

    return FunctionSimulator(schema, simulate, changes.get("grid", {"time": time}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"height": None}, ValueError, r"Missing: \['height'\], unknown: \[\]"),
        ({"width": torch.ones(3)}, ValueError, r"Missing: \[\], unknown: \['width'\]"),
        ({"height": torch.ones(3, 2, 5)}, ValueError, r"'height': expected shape \(3, 5, 2\) for .*got \(3, 2, 5\)"),
        ({"slope": torch.ones(3, 1) / 2}, ValueError, r"'slope': expected shape \(3,\).*got \(3, 1\)"),
        ({"height": torch.ones(3, 5, 2).long()}, TypeError, r"'height': expected a float32 .* got torch.int64"),
        ({"height": np.ones((3, 5, 2))}, TypeError, r"'height': expected .* tensor, got ndarray"),
        ({"height": -torch.ones(3, 5, 2)}, ValueError, r"'height': values outside its support \(0, inf\), from -1"),
        ({"grid": {}}, ValueError, r"Grid: expected one entry for each Index dim \['time'\], got \[\]"),
        ({"grid": {"time": torch.linspace(0, 1, 5).double()}}, ValueError, r"trained range \[0, 2\], got \[0, 1\]"),
        ({"grid": {"time": torch.tensor([0.0, 2.0, 1.0]).double()}}, ValueError, r"'time': .* increasing float64"),
        ({"grid": {"time": torch.linspace(0, 2, 5)}}, ValueError, r"increasing float64 points, got torch.float32"),
    ],
)  # fmt: skip
def test_check_names_the_mistake(changes: dict[str, object], error: type[Exception], message: str) -> None:
    check(line())
    with pytest.raises(error, match=message):
        check(line(**changes))


def test_check_finds_randomness_that_no_seed_repeats() -> None:
    calls = iter(range(9))

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {**line().simulate(n, generator), "height": torch.full((n, 5, 2), 1.0 + next(calls))}

    with pytest.raises(ValueError, match="'height' differs for one seed; draw all randomness from the generator"):
        check(replace(line(), simulate=simulate))


@pytest.mark.parametrize(
    ("factor", "shape", "message"),
    [
        (1.0, (5, 2), None),
        (1.1, (5, 2), "'height' differs from what simulate"),
        (1.0, (5, 1), r"got 'height' \(3, 5, 1\)"),
    ],
)
def test_check_compares_paths_with_draws(factor: float, shape: tuple[int, int], message: str | None) -> None:
    def paths(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rise = parameters["slope"][:, None] * torch.linspace(0.0, 2.0, 5, dtype=torch.float64)
        return {"height": factor * (1 + rise)[:, :, None].expand(-1, *shape)}

    simulator = replace(line(), paths=paths)
    if message is None:
        return check(simulator)
    with pytest.raises(ValueError, match=message):
        check(simulator)


def test_check_rejects_what_is_no_simulator() -> None:
    with pytest.raises(TypeError, match=r"dict is no Simulator: it lacks \['schema', 'grid', 'simulate'\]"):
        check({})  # type: ignore[arg-type]


def test_check_lets_nan_rows_pass() -> None:
    """A row that could not be computed is the trainer's to drop."""
    check(line(height=torch.full((3, 5, 2), torch.nan)))
