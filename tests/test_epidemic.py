"""The Epidemic family: closed forms of its equations, the solver's order, what is reported, what its prior holds."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.priors import LogNormal, LogUniform, Uniform
from fsimformer.simulators import Epidemic, check
from fsimformer.simulators.epidemic import weekday_factor

SIR: dict[str, Any] = {
    **{"recovery_rate": 0.2, "fatality": 0.1, "initial_infected": 1e-3},
    **{"reporting_rate": 0.5, "weekday_sd": 0.0, "horizon": 84.0},
}
SEIR: dict[str, Any] = {**SIR, "incubation_period": 4.0, "death_delay": 10.0}
LEAVE = 0.2 / 0.9  # γ/(1 − f)


def contact(epidemic: Epidemic, rate: float | Tensor, n: int = 1) -> Tensor:
    """β at half steps, (points, n): a number, or a function given at half steps."""
    points = 2 * round(epidemic.horizon / epidemic.step) + 1
    return torch.as_tensor(rate, dtype=torch.float64).reshape(-1, 1).expand(points, n)


def waves(epidemic: Epidemic) -> Tensor:
    """A rate that falls and rises again, at half steps."""
    t = torch.linspace(0, epidemic.horizon, 2 * round(epidemic.horizon / epidemic.step) + 1, dtype=torch.float64)
    return contact(epidemic, 0.35 + 0.3 * torch.cos(t / 12))


def integral(y: Tensor, step: float) -> Tensor:
    """∫ y dt from the first point to the last by Simpson's rule, whose order is the solver's."""
    return step / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum(0) + 2 * y[2:-1:2].sum(0))


@pytest.mark.parametrize("form", [SIR, SEIR], ids=["sird", "seird"])
def test_nobody_is_lost_and_the_error_falls_with_order_four(form: dict[str, Any]) -> None:
    lost, wrong = [], []
    exact = Epidemic(**form, step=1 / 16)
    truth = exact.compartments({}, waves(exact))
    for step in (0.5, 0.25):
        epidemic = Epidemic(**form, step=step)
        parts = epidemic.compartments({}, waves(epidemic))
        living = parts["susceptible"] + parts["infectious"] + parts.get("incubating", torch.zeros(1))
        removed = LEAVE * integral(parts["infectious"], step)
        lost.append(float((living[-1] + removed - 1).abs()))
        each = round(step * 16)
        wrong.append(max(float((parts[k].log() - truth[k][::each].log()).abs().max()) for k in parts))
    assert lost[0] < 1e-4 and wrong[0] < 1e-3
    assert math.log2(wrong[0] / wrong[1]) == pytest.approx(4, abs=0.4)
    assert lost[1] < lost[0] / 8


def test_without_transmission_it_decays_and_the_dead_are_the_fatal_share() -> None:
    epidemic = Epidemic(**SIR)
    paths = epidemic.courses({}, contact(epidemic, 0.0))
    t = epidemic.grid["time"]
    torch.testing.assert_close(paths["deaths"][:, 0], 1e6 * 0.1 * LEAVE * 1e-3 * (-LEAVE * t).exp(), rtol=1e-4, atol=0)
    assert float(integral(paths["deaths"], 0.5)) == pytest.approx(0.1 * 1e6 * 1e-3, rel=1e-4)
    assert not paths["cases"].any() and not paths["reproduction_number"].any()


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.6])
def test_early_growth_is_that_of_the_linear_equations_from_the_first_day(rate: float) -> None:
    for form in (SIR, SEIR, {**SEIR, "recovery_rate": 0.9, "incubation_period": 8.0}):
        changes = {"initial_infected": 1e-14, "observed": ("cases", "deaths", "infected"), "horizon": 21.0}
        epidemic = Epidemic(**{**form, **changes})
        paths = epidemic.courses({}, contact(epidemic, rate))
        leave = epidemic.recovery_rate / 0.9  # type: ignore[operator]
        if "incubation_period" in form:
            onset = 1 / form["incubation_period"]
            matrix = torch.tensor([[-onset, rate], [onset, -leave]], dtype=torch.float64)
            growth = float(torch.linalg.eigvals(matrix).real.max())
        else:
            growth = rate - leave
        names = ("cases", "infected", *(["deaths"] if growth > 0 else []))  # the dying may outlast a decline
        for name in names:
            slope = paths[name][:, 0].log().diff() / epidemic.step
            torch.testing.assert_close(slope, torch.full_like(slope, growth), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("form", [SIR, SEIR], ids=["sird", "seird"])
def test_final_size_and_final_deaths(form: dict[str, Any]) -> None:
    """log S(∞)/S(0) = −R₀ (1 − S(∞)) for any incubation; the share f of all that were infected dies."""
    epidemic = Epidemic(**{**form, "horizon": 400.0})
    parts = epidemic.compartments({}, contact(epidemic, 0.5))
    s = parts["susceptible"][:, 0]
    assert float((s[-1] / s[0]).log()) == pytest.approx(float(-0.5 / LEAVE * (1 - s[-1])), rel=1e-4)
    deaths = integral(epidemic.courses({}, contact(epidemic, 0.5))["deaths"], 0.5)
    already = parts["dying"][0] if "dying" in parts else 0.0
    assert float(deaths) == pytest.approx(float(1e6 * (0.1 * (1 - s[-1]) + already)), rel=1e-3)


@pytest.mark.parametrize("form", [SIR, SEIR], ids=["sird", "seird"])
def test_the_infected_grow_exactly_while_the_reproduction_number_is_above_one(form: dict[str, Any]) -> None:
    epidemic = Epidemic(**{**form, "initial_infected": 0.01})
    parts = epidemic.compartments({}, waves(epidemic))
    number = epidemic.courses({}, waves(epidemic))["reproduction_number"]
    infected = parts["infectious"] + parts.get("incubating", torch.zeros(1))
    sure = (number[:-1] - 1) * (number[1:] - 1) > 0  # a change of sign falls between two points
    grows = infected.diff(dim=0) > 0
    assert bool((grows == (number[:-1] > 1))[sure].all()) and 0.1 < float(grows.double().mean()) < 0.9
    expected = waves(epidemic)[::2] * parts["susceptible"] / LEAVE
    torch.testing.assert_close(number, expected)


def test_a_share_is_reported_and_whole_weeks_report_just_that() -> None:
    """Weekday factors have mean 1 over any seven days in a row, and make every pattern of seven."""
    pattern = torch.tensor([1.3, 1.2, 1.1, 1.0, 0.9, 0.5, 1.0], dtype=torch.float64)
    days = torch.arange(7, dtype=torch.float64)
    phase = 2 * math.pi / 7 * days[:, None] * torch.arange(1, 4)
    basis = torch.stack((phase.cos(), phase.sin()), -1).flatten(1)
    effect = (2 / 7 * basis.T @ pattern.log())[None]
    torch.testing.assert_close(weekday_factor(effect, days)[:, 0], pattern / pattern.mean())
    later = weekday_factor(effect, torch.arange(3, 10, dtype=torch.float64))
    assert float(later.mean()) == pytest.approx(1, abs=1e-12)

    plain = Epidemic(**{**SEIR, "reporting_rate": 0.4})
    weekly = replace(plain, weekday_sd=0.15)
    flat, wavy = (e.courses({"weekday_effect": effect}, waves(e))["cases"] for e in (plain, weekly))
    torch.testing.assert_close((wavy / flat)[::2][:7, 0], pattern / pattern.mean())
    parts = plain.compartments({}, waves(plain))
    torch.testing.assert_close(flat, 1e6 * 0.4 * parts["incubating"] / 4)
    torch.testing.assert_close(
        replace(plain, reporting_rate=0.2, population=2e6).courses({}, waves(plain))["cases"], flat
    )


def test_cases_without_incubation_are_the_new_infections() -> None:
    epidemic = Epidemic(**SIR)
    parts = epidemic.compartments({}, waves(epidemic))
    cases = epidemic.courses({}, waves(epidemic))["cases"]
    fallen = 0.5 * 1e6 * (parts["susceptible"][0] - parts["susceptible"][-1])
    assert float(integral(cases, 0.5)) == pytest.approx(float(fallen), rel=1e-5)


def test_the_log_transmission_rate_has_the_stated_covariance() -> None:
    epidemic, n = Epidemic(), 4000
    rate = epidemic.simulate(n, seeded())["transmission_rate"].double().log() - math.log(0.25)
    t = epidemic.grid["time"][::20]
    found = rate[:, ::20].T @ rate[:, ::20] / n
    expected = 0.25 + 0.36 * torch.exp(-0.5 * ((t[:, None] - t) / 21) ** 2)
    assert float((found - expected).abs().max()) < 5 * 0.61 * math.sqrt(2 / n)
    assert abs(float(rate.mean())) < 0.05


NATION = Epidemic(
    ("cases", "deaths", "infected"),
    population=6e7,
    incubation_period=LogNormal(math.log(4), 0.4),
    death_delay=LogNormal(math.log(12), 0.4),
)


def test_a_national_first_wave_lies_inside_the_prior() -> None:
    """Of 60 million, 200 infected become 100,000 in five to eight weeks, and the wave recedes in the fourth month.

    Every day's course lies within the middle 95 % of the prior, and draws that do all this are no accident.
    """
    n = 4000
    draws = NATION.simulate(n, seeded(2))
    day = round(1 / NATION.step)
    infected = draws["infected"][:, ::day]
    t = torch.arange(113.0)
    growth = torch.where(t < 42, math.log(500) / 42, torch.where(t < 56, 0.02, -0.04))
    course = 200 * torch.cat([torch.zeros(1), growth[:-1].cumsum(0)]).exp()
    assert float(course[42]) == pytest.approx(1e5, rel=1e-3)
    rank = (infected < course).double().mean(0)
    assert float(rank.min()) > 0.025 and float(rank.max()) < 0.975
    start = (infected[:, 0] > 100) & (infected[:, 0] < 400)
    takes_off = (infected[:, 35:57].amax(1) > 1e5) & (infected[:, :35].amax(1) < 1e5)
    recedes = infected[:, 112] < infected[:, :90].amax(1)
    whole = start & takes_off & recedes
    assert float(start.double().mean()) > 0.1 and int(whole.sum()) > 10
    deaths = draws["deaths"].sum(1)[whole] * NATION.step
    cases = draws["cases"].sum(1)[whole] * NATION.step
    assert float(deaths.amin()) < 5_000 and float(deaths.amax()) > 5_000  # some thousand died in such waves
    assert float(cases.amin()) < 150_000 < float(cases.amax())


@pytest.mark.parametrize(
    "epidemic",
    [
        Epidemic(),
        NATION,
        Epidemic(("infected",), population=763.0, recovery_rate=0.5, initial_infected=Uniform(1e-3, 1e-2)),
        Epidemic(("deaths",), population=LogUniform(1e4, 1e8), reference=()),
    ],
    ids=["default", "nation", "school", "deaths"],
)
def test_it_keeps_the_protocol(epidemic: Epidemic) -> None:
    check(epidemic, n=50)
    draws = epidemic.simulate(500, seeded(1))
    assert all(torch.isfinite(x).all() and (x > 0).all() for k, x in draws.items() if k != "weekday_effect")


def test_a_number_is_no_variable_and_what_is_not_read_is_left_out() -> None:
    school = Epidemic(("infected",), population=763.0, recovery_rate=0.5)
    assert school.schema.names == ("initial_infected", "transmission_rate", "reproduction_number", "infected")
    noise = school.schema["infected"].noise
    assert noise is not None and (noise.kind, noise.sd) == ("lognormal", 0.1)
    regions = Epidemic(("deaths",), population=LogUniform(1e4, 1e8)).schema
    assert regions["population"].role == "data" and "reporting_rate" not in regions and "fatality" in regions
    assert regions["deaths"].parents[-2:] == ("population", "death_noise")
    cases = Epidemic(("cases",), fatality=0.5).schema  # nobody counts the dead: γ is all that ends infectiousness
    assert "fatality" not in cases and cases["cases"].parents[-1] == "weekday_effect"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observed": ("case",)}, r"expected observed among \['cases', 'deaths', 'infected'\], got \('case',\)"),
        ({"observed": ()}, "expected observed among"),
        ({"population": -3.0}, "expected population > 0 or a prior, got -3.0"),
        ({"fatality": 1.0}, "expected fatality below 1, got 1.0"),
        ({"step": 0.3}, "expected whole days on the grid.* got step 0.3 and horizon 112"),
        ({"transmission_sd": 0.0}, "expected transmission_sd > 0, got 0.0"),
        ({"weekday_sd": -0.1}, "expected weekday_sd, transmission_level_sd >= 0, got -0.1"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Epidemic: {message}"):
        Epidemic(**changes)


def test_the_shipped_recipe_has_room_for_a_draw_of_each_function() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from train_shipped import RECIPES

    (recipe,) = RECIPES["epidemic"]
    schema = recipe.simulator.schema
    scalars = int((~schema.uses_index().any(1)).sum())
    assert scalars + schema["transmission_rate"].reference[0] <= recipe.config.max_latents
    assert recipe.design is not None and len(recipe.design.n_max) == 4
