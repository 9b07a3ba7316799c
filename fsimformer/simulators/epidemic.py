"""Epidemics as they are reported: S(E)IRD with an unknown start, a transmission rate that is a function, and counts.

    S' = −β(t) S I,   E' = β(t) S I − σE,   I' = σE − ρI,   H' = fρI − δH;   ρ = γ + μ = γ/(1 − f)

S, E, I, H are fractions of the population: susceptible, incubating, infectious, and dying, who infect nobody any more
but are not yet counted as deaths. γ is the recovery rate; of those who leave I the share f, the fatality, dies:
μ = γf/(1 − f). Without an incubation period new infections are infectious at once; without a delay deaths come at the
rate μI.

    reproduction number   R(t) = β(t) S(t)/(γ + μ)
    cases(t)  ~ counts about  N r w(t) σE(t)   (N r w(t) β(t) S(t) I(t) without incubation)
    deaths(t) ~ counts about  N δH(t)          (N μI(t) without delay)
    infected(t) = N I(t) exp(sd ε)

N is the population, r the share of infections that is reported. A count at time t is that of the day about t: the day's
mean rate differs from the rate at its middle by the share (growth a day)²/24. Counts are negative binomial (counts.py).

Weekdays: reporting changes with period 7 days by the factor w(t) = exp(h(t))/m, h(t) = Σ_k a_k cos(2πkt/7) +
b_k sin(2πkt/7), k = 1, 2, 3, with m the mean of exp(h) over seven whole days. At whole days these six numbers give
every pattern of seven factors of mean 1, so r is what a whole week reports. Time 0 is the first day of the data,
whatever weekday that is: phases are inferred. Deaths are counted when they happen and have none.

The transmission rate is log-normal at every time:

    log β(t) = log β₀ + c + g(t),   c ~ N(0, level_sd²),   g ~ GP(0, sd² exp(−(t − t')²/(2·lengthscale²)))

c lets an epidemic return to a level of its own. At the start E, I and H have the proportions in which they grow or
decline together at β(0), so that the first days are an exponential and no transient. Solved for the logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fsimformer.priors import COUNTS, POSITIVE, LogitNormal, LogNormal, LogUniform, Normal, Prior
from fsimformer.schema import Components, Index, Noise, Schema, Variable
from fsimformer.simulators.protocol import draw_priors
from fsimformer.simulators.solver import RK4, Field, solve
from fsimformer.whiten import prior_from_z

_DYNAMICS = ("recovery_rate", "fatality", "incubation_period", "death_delay", "initial_infected")
_READ_BY = {
    "cases": ("population", "reporting_rate", "case_noise"),
    "deaths": ("population", "death_noise"),
    "infected": ("population", "infected_noise"),
}
_WEEK = 7.0  # days
_HARMONICS = 3
_ROWS = 4096  # rows solved together: bounds memory, changes no result
_FLOOR = 1e-30  # of what has a logarithm; float32 holds it

# 95 %: infectious for 2.7 to 13 days; .05 to 5 % die; 3 to 79 % are reported; large counts scatter by 8 to 53 %
_RECOVERY = LogNormal(math.log(1 / 6), 0.4)
_FATALITY = LogitNormal(math.log(0.005), 1.2)
_START = LogUniform(1e-7, 1e-2)
_REPORTING = LogitNormal(-1.0, 1.2)
_SCATTER = LogNormal(math.log(0.2), 0.5)


@dataclass(frozen=True)
class Epidemic:
    """Scalars, the transmission rate and the reproduction number as functions, and the series that are read.

    Every scalar takes a prior, which makes it a variable of the schema, or a number, which is then known and none. The
    defaults are wide for respiratory infections; where more is known, say so.

    Args:
        observed: of "cases" and "deaths" (new a day, counts) and "infected" (prevalence, in persons).
        population: persons; a prior makes it a data variable: a model that serves many regions, each stating its own.
        recovery_rate: γ a day; by default log-normal about 1/6 (95 %: 2.7 to 13 days infectious).
        fatality: share of the infected that dies, below 1; by default logit-normal about 0.5 % (95 %: .05 to 5 %).
        incubation_period: mean days from infection to infectiousness; None = no such compartment.
        death_delay: mean days from the end of infectiousness to death; None = none.
        initial_infected: share of the population that incubates or is infectious at time 0; everybody else is
            susceptible. By default every order of magnitude from one in ten million to one in a hundred.
        reporting_rate: share of infections that is reported as cases, on the day of onset.
        case_noise, death_noise: relative standard deviation of large counts.
        infected_noise: standard deviation of the log of a reading of prevalence.
        weekday_sd: of each of the six coefficients of the weekdays' log factors; 0 = all days alike.
        transmission_rate: β₀ a day, its median. transmission_level_sd, transmission_sd, transmission_lengthscale: as
            above, in logs and days. With the default rates R is 1.5 in the median, .3 to 8 in 95 % of the prior.
        horizon: end of the trained range in days; a whole number of weeks keeps weekdays in step with the range.
        step: of the dense grid and of the solver, in days; 1/step whole, so that whole days lie on the grid.
        reference: knots of the reference sets of both functions; (): none. 13 lie .44 lengthscales apart.
    """

    observed: tuple[str, ...] = ("cases", "deaths")
    population: float | Prior = 1e6
    recovery_rate: float | Prior = _RECOVERY
    fatality: float | Prior = _FATALITY
    incubation_period: float | Prior | None = None
    death_delay: float | Prior | None = None
    initial_infected: float | Prior = _START
    reporting_rate: float | Prior = _REPORTING
    case_noise: float | Prior = _SCATTER
    death_noise: float | Prior = _SCATTER
    infected_noise: float | Prior = 0.1
    weekday_sd: float = 0.15
    transmission_rate: float = 0.25
    transmission_level_sd: float = 0.5
    transmission_sd: float = 0.6
    transmission_lengthscale: float = 21.0
    horizon: float = 112.0
    step: float = 0.5
    reference: tuple[int, ...] = (13,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "observed", tuple(self.observed))
        if not self.observed or not set(self.observed) <= set(_READ_BY):
            raise ValueError(f"Epidemic: expected observed among {list(_READ_BY)}, got {self.observed}.")
        for name in ("transmission_rate", "transmission_sd", "transmission_lengthscale", "horizon", "step"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Epidemic: expected {name} > 0, got {getattr(self, name)}.")
        if min(self.weekday_sd, self.transmission_level_sd) < 0:
            raise ValueError(
                f"Epidemic: expected weekday_sd, transmission_level_sd >= 0, got {self.weekday_sd}, "
                f"{self.transmission_level_sd}."
            )
        if any(abs(x - round(x)) > 1e-9 for x in (1 / self.step, self.horizon / self.step)):
            raise ValueError(
                f"Epidemic: expected whole days on the grid, 1/step and horizon/step whole, got step {self.step} and "
                f"horizon {self.horizon}."
            )
        for name in _scalars(self):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value > 0:
                raise ValueError(f"Epidemic: expected {name} > 0 or a prior, got {value}.")
        if isinstance(self.fatality, int | float) and not self.fatality < 1:
            raise ValueError(f"Epidemic: expected fatality below 1, got {self.fatality}.")

    @property
    def schema(self) -> Schema:
        unknown = [name for name in _scalars(self) if not isinstance(getattr(self, name), int | float)]
        scalars = [
            Variable(name, "data" if name == "population" else "parameter", prior=getattr(self, name))
            for name in unknown
        ]
        dims: list[Index | Components] = [Index("time", 0.0, self.horizon, "days")]
        if self.has_weekdays:
            dims.append(Components("harmonic", 2 * _HARMONICS))
            weekday = Variable("weekday_effect", "parameter", ("harmonic",), Normal(0.0, self.weekday_sd))
        spread = math.hypot(self.transmission_level_sd, self.transmission_sd)
        law = LogNormal(math.log(self.transmission_rate), spread)
        rate = Variable("transmission_rate", "parameter", ("time",), law, reference=self.reference)
        moves = (*(name for name in unknown if name in _DYNAMICS), "transmission_rate")
        number = Variable(
            "reproduction_number", "parameter", ("time",), None, POSITIVE, None, moves, reference=self.reference
        )
        series = []
        for name in self.observed:
            own = tuple(k for k in _READ_BY[name] if k in unknown)
            weekly = ("weekday_effect",) if name == "cases" and self.has_weekdays else ()
            size = {"cases": "case_noise", "deaths": "death_noise", "infected": "infected_noise"}[name]
            noise = Noise("lognormal" if name == "infected" else "negbinomial", _noise(self, size))
            support = POSITIVE if name == "infected" else COUNTS
            series.append(Variable(name, "data", ("time",), None, support, noise, (*moves, *own, *weekly)))
        return Schema((*scalars, *([weekday] if self.has_weekdays else []), rate, number, *series), tuple(dims))

    @property
    def has_weekdays(self) -> bool:
        """Cases are read, and not all days alike."""
        return self.weekday_sd > 0 and "cases" in self.observed

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"time": torch.linspace(0.0, self.horizon, round(self.horizon / self.step) + 1, dtype=torch.float64)}

    @cached_property
    def gp_factor(self) -> Tensor:
        """(points at half steps, rank): log β − log β₀ = factor @ ξ, ξ ~ N(0, I)."""
        t = torch.linspace(0.0, self.horizon, 2 * round(self.horizon / self.step) + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((t[:, None] - t) / self.transmission_lengthscale) ** 2)
        values, vectors = torch.linalg.eigh(kernel)
        keep = values > 1e-10 * values[-1]
        level = torch.full((len(t), 1), self.transmission_level_sd, dtype=torch.float64)
        return torch.cat([level, self.transmission_sd * vectors[:, keep] * values[keep].sqrt()], 1)

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws; parameters float64, (n,) and (n, 6); functions and clean series float32 (n, grid points)."""
        draws = draw_priors(self.schema, n, generator)
        if self.has_weekdays:
            white = torch.randn(n, 2 * _HARMONICS, generator=generator, dtype=torch.float64)
            draws["weekday_effect"] = self.weekday_sd * white
        return {**draws, **self._draw(n, draws, generator)}

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Population and transmission rate from their priors, and the series, for scalars (n,) and weekdays (n, 6)."""
        return self._draw(len(next(iter(parameters.values()))), parameters, generator)

    def _draw(self, n: int, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        drawn = dict[str, Tensor]()
        if not isinstance(self.population, int | float):
            drawn["population"] = prior_from_z(
                self.population, torch.randn(n, generator=generator, dtype=torch.float64)
            )
        parameters = {**parameters, **drawn}
        white = torch.randn(n, self.gp_factor.shape[1], generator=generator, dtype=torch.float64)
        names = ("transmission_rate", "reproduction_number", *self.observed)
        out = {name: torch.empty(n, len(self.grid["time"])) for name in names}
        for rows in torch.split(torch.arange(n), _ROWS):
            fine = self.transmission_rate * (self.gp_factor @ white[rows].T).exp()  # (fine, m)
            paths = self.courses({k: x[rows] for k, x in parameters.items()}, fine)
            for name in names:
                out[name][rows] = paths[name].T.float().clamp(min=_FLOOR)
        return {**drawn, **out}

    def courses(self, parameters: Mapping[str, Tensor], contact: Tensor) -> dict[str, Tensor]:
        """Functions and clean series on the grid.

        Args:
            parameters: the unknown scalars, (n,) float64, and `weekday_effect` (n, 6).
            contact: β at every half step, (2·(T − 1) + 1, n) float64.

        Returns:
            name -> (T, n) float64.
        """
        known, on_grid = _Known(self, parameters), contact[::2]
        parts = self.compartments(parameters, contact)
        population = known["population"]
        out = {
            "transmission_rate": on_grid,
            "reproduction_number": on_grid * parts["susceptible"] / known.leaving,
        }
        if "cases" in self.observed:
            onset = on_grid * parts["susceptible"] * parts["infectious"]
            if self.incubation_period is not None:
                onset = parts["incubating"] / known["incubation_period"]
            out["cases"] = population * known["reporting_rate"] * onset
            if self.has_weekdays:
                out["cases"] = out["cases"] * weekday_factor(parameters["weekday_effect"], self.grid["time"])
        if "deaths" in self.observed:
            dying = known["fatality"] * known.leaving * parts["infectious"]
            if self.death_delay is not None:
                dying = parts["dying"] / known["death_delay"]
            out["deaths"] = population * dying
        if "infected" in self.observed:
            out["infected"] = population * parts["infectious"]
        return out

    def compartments(self, parameters: Mapping[str, Tensor], contact: Tensor) -> dict[str, Tensor]:
        """susceptible, infectious, and incubating, dying where there are such; fractions on the grid, (T, n) float64.

        Arguments as of `courses`.
        """
        known, first = _Known(self, parameters), contact[0]
        leave, half_step = known.leaving.expand_as(first), self.step / 2
        onset = None if self.incubation_period is None else 1 / known["incubation_period"].expand_as(first)
        die = None if not self.delays else 1 / known["death_delay"].expand_as(first)
        infected = known["initial_infected"].expand_as(first)
        if onset is None:
            growth, start = first - leave, [infected]
        else:
            root = ((onset - leave) ** 2 + 4 * onset * first).sqrt()
            growth = (root - onset - leave) / 2  # (growth + σ)(growth + ρ) = σβ
            # growth + ρ, without cancellation where σ > ρ or σ < ρ
            gain = torch.where(onset < leave, (root + leave - onset) / 2, 2 * onset * first / (root + onset - leave))
            start = [infected * onset / (onset + gain), infected * gain / (onset + gain)]
        fatal = known["fatality"] * leave if die is not None else None
        if die is not None and fatal is not None:
            start.append(fatal * start[0] / (die + growth.clamp(min=0.0)))

        def rates(t: float, y: Tensor) -> Tensor:
            force, s, i = contact[round(t / half_step)], y[0], y[1]
            now = i.exp()
            out = [-force * now]
            if onset is None:
                out.append(force * s.exp() - leave)
            else:
                ratio = (i - y[2]).exp()
                out += [onset / ratio - leave, force * s.exp() * ratio - onset]
            if die is not None and fatal is not None:
                out.append(fatal * (i - y[-1]).exp() - die)
            return torch.stack(out)

        names = ["susceptible", "infectious", *(["incubating"] if onset is not None else [])]
        names += ["dying"] if die is not None else []
        initial = torch.stack([torch.log1p(-infected), *(x.log() for x in start)])
        field: Field = rates
        path = solve(field, initial, self.grid["time"], 1, RK4).exp()
        return dict(zip(names, path.unbind(1), strict=True))

    @property
    def delays(self) -> bool:
        """Deaths are read, and they come late."""
        return "deaths" in self.observed and self.death_delay is not None


def weekday_factor(effect: Tensor, time: Tensor) -> Tensor:
    """w(t) of the module's docstring: coefficients (n, 6), a_1, b_1, …, b_3, and days (T,) -> (T, n)."""

    def log_factor(t: Tensor) -> Tensor:
        phase = 2 * math.pi / _WEEK * t[:, None] * torch.arange(1, _HARMONICS + 1, dtype=torch.float64)
        return torch.stack((phase.cos(), phase.sin()), -1).flatten(1) @ effect.T

    whole = log_factor(torch.arange(_WEEK, dtype=torch.float64))
    return (log_factor(time) - whole.logsumexp(0) + math.log(_WEEK)).exp()


class _Known:
    """Scalars by name, those that are known as tensors of one row; and ρ = γ + μ."""

    def __init__(self, epidemic: Epidemic, parameters: Mapping[str, Tensor]) -> None:
        self.epidemic, self.parameters = epidemic, parameters

    def __getitem__(self, name: str) -> Tensor:
        if name in self.parameters:
            return self.parameters[name]
        return torch.tensor([getattr(self.epidemic, name)], dtype=torch.float64)

    @property
    def leaving(self) -> Tensor:
        return self["recovery_rate"] / (1 - self["fatality"]) if _fatal(self.epidemic) else self["recovery_rate"]


def _fatal(epidemic: Epidemic) -> bool:
    return "deaths" in epidemic.observed


def _scalars(epidemic: Epidemic) -> list[str]:
    """Names of the scalars that the model has, in the schema's order."""
    absent = set() if _fatal(epidemic) else {"fatality", "death_delay"}
    moves = [name for name in _DYNAMICS if getattr(epidemic, name) is not None and name not in absent]
    reads = [name for series in epidemic.observed for name in _READ_BY[series]]
    return list(dict.fromkeys(["population", *moves, *reads]))


def _noise(epidemic: Epidemic, name: str) -> float | str:
    value = getattr(epidemic, name)
    return float(value) if isinstance(value, int | float) else name
