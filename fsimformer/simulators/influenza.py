"""Influenza in a boarding school: a SIR model of which one compartment is seen, and the outbreak of 1978.

    s' = −βsi,   i' = βsi − i/τ;   i(0) = I₀/N, s(0) = 1 − i(0), time in days since the first reading
    β ~ LogNormal(log 1.7, 0.5) a day;  τ ~ LogNormal(log 2, 0.5) days;  log I₀ ~ U(0, log 10);
    σ ~ LogNormal(log 0.2, 0.5);        log in_bed(t) ~ N(log N i(t), σ²),   N = 763 boys

τ is the mean time that a boy is infectious, and in bed; who has recovered is never observed. The outbreak: "Influenza
in a boarding school", Br. Med. J. 1978, 1, 587: boys confined to bed on each of fourteen days. Solved in log s, log i.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.priors import POSITIVE, LogNormal, Prior, Uniform
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators.protocol import draw_priors, require_priors
from fsimformer.simulators.solver import RK4, solve

_PARAMETERS = ("contact_rate", "infectious_period", "log_initial_infected", "noise")
_IN_BED = (3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4)
_ROWS = 8192  # rows solved together: bounds memory, changes no result
_SMALLEST_LOG = -80.0  # of a fraction: float32 holds its exponential


def boarding_school() -> xr.Dataset:
    """Boys in bed with influenza in an English boarding school of 763, 22 January to 4 February 1978: in_bed(time)."""
    days = np.datetime64("1978-01-22", "ns") + np.arange(len(_IN_BED)) * np.timedelta64(1, "D")
    in_bed = xr.DataArray(np.array(_IN_BED, dtype=np.float64), dims="time", attrs={"units": "boys"})
    return xr.Dataset({"in_bed": in_bed}, {"time": days})


def _default_priors() -> dict[str, Prior]:
    laws = (LogNormal(math.log(1.7), 0.5), LogNormal(math.log(2.0), 0.5), Uniform(0.0, math.log(10.0)),
            LogNormal(math.log(0.2), 0.5))  # fmt: skip
    return dict(zip(_PARAMETERS, laws, strict=True))


@dataclass(frozen=True)
class Influenza:
    """Four parameters, one series with log-normal noise.

    Args:
        priors: of contact_rate (a day), infectious_period (days), log_initial_infected (log of a number of boys) and
            noise (standard deviation of the log of a reading).
        population: boys.
        horizon: end of the trained range in days since 22 January 1978; more than the data, for forecasts.
        step: of the dense grid and of the solver, in days.
        fewest, most: readings that training may observe: an outbreak that dies out, or is over within days, reads
            fractions of a boy. The posterior given readings in this range does not change.
    """

    priors: dict[str, Prior] = field(default_factory=_default_priors)
    population: float = 763.0
    horizon: float = 20.0
    step: float = 0.1
    fewest: float = 0.5
    most: float = 2_000.0

    def __post_init__(self) -> None:
        require_priors(self.priors, _PARAMETERS)

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _PARAMETERS]
        series = Variable("in_bed", "data", ("time",), None, POSITIVE, Noise("lognormal", "noise"), _PARAMETERS)
        return Schema((*parameters, series), (Index("time", 0.0, self.horizon, "days", "1978-01-22"),))

    @property
    def plausible(self) -> dict[str, tuple[float, float]]:
        return {"in_bed": (self.fewest, self.most)}

    @property
    def grid(self) -> dict[str, Tensor]:
        points = round(self.horizon / self.step) + 1
        return {"time": torch.linspace(0.0, self.horizon, points, dtype=torch.float64)}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws; parameters float64 (n,), the clean series float32 (n, grid points)."""
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.clean(draws)}

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Boys in bed without noise, float32 (n, grid points), for given parameters, each (n,) float64."""
        n = len(parameters["contact_rate"])
        out = torch.empty(n, len(self.grid["time"]))
        for rows in torch.split(torch.arange(n), _ROWS):
            path = self.solve_log(torch.stack([parameters[k][rows] for k in _PARAMETERS[:3]]))
            out[rows] = (self.population * path[:, 1].clamp(min=_SMALLEST_LOG).exp()).T.float()
        return {"in_bed": out}

    def solve_log(self, parameters: Tensor) -> Tensor:
        """log s and log i on the grid, (T, 2, n) float64, for parameters (3, n): β, τ, log I₀."""
        contact, period, log_start = parameters
        log_i = log_start - math.log(self.population)

        def rates(t: float, y: Tensor) -> Tensor:
            return torch.stack((-contact * y[1].exp(), contact * y[0].exp() - 1 / period))

        initial = torch.stack((torch.log1p(-log_i.exp()), log_i))
        return solve(rates, initial, self.grid["time"], 1, RK4)
