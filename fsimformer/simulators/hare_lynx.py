"""Hare and lynx: the eight-parameter Lotka–Volterra model of the Stan case study, and Hudson's Bay pelts of 1900–1920.

    u' = (α − βv) u,   v' = (−γ + δu) v,   time in years, populations in thousands of pelts
    α, γ ~ Normal⁺(1, 0.5);  β, δ ~ Normal⁺(0.05, 0.05);  u(0), v(0) ~ LogNormal(log 10, 1);  σ ~ LogNormal(−1, 1)
    log count_k(t) ~ N(log z_k(t), σ_k²), the first count included

The prior holds wild trajectories: populations fall to e^-100 and peaks pass within days. Solved in log u, log v with
as many sub-steps as each row needs; rows that miss the tolerance are NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import xarray as xr
from torch import Tensor

from fsimformer.priors import POSITIVE, LogNormal, Prior, TruncatedNormal
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators.lotka_volterra import log_field
from fsimformer.simulators.protocol import draw_priors, require_priors
from fsimformer.simulators.solver import solve_to_tolerance

_DYNAMICS = ("alpha", "beta", "gamma", "delta", "hare_initial", "lynx_initial")
_PARAMETERS = (*_DYNAMICS, "hare_noise", "lynx_noise")
_ROWS = 8192  # rows solved together, about 300 MB; the few wild ones cost the same however many these are
_SMALLEST_LOG = math.log(1e-300)  # exp() underflows to 0 at -745, and log 0 is no number

_HARE = "30 47.2 70.2 77.4 36.3 20.6 18.1 21.4 22 25.4 27.1 40.3 57 76.6 52.3 19.5 11.2 7.6 14.6 16.2 24.7"
_LYNX = "4 6.1 9.8 35.2 59.4 41.7 19 13 8.3 9.1 7.4 8 12.3 19.5 45.7 51.1 29.7 15.8 9.7 10.1 8.6"


def hudson_bay() -> xr.Dataset:
    """Pelts, in thousands, that the Hudson's Bay Company took in: hare(time), lynx(time); time in years since 1900."""
    time = [float(year) for year in range(21)]
    series = {name: ("time", [float(x) for x in text.split()]) for name, text in (("hare", _HARE), ("lynx", _LYNX))}
    data = xr.Dataset(series, {"time": time})
    data["time"].attrs["units"] = "years"
    for name in series:
        data[name].attrs["units"] = "thousand pelts"
    return data


def _default_priors() -> dict[str, Prior]:
    rate, meeting = TruncatedNormal(1.0, 0.5), TruncatedNormal(0.05, 0.05)
    start, noise = LogNormal(math.log(10.0), 1.0), LogNormal(-1.0, 1.0)
    return dict(zip(_PARAMETERS, (rate, meeting, rate, meeting, start, start, noise, noise), strict=True))


@dataclass(frozen=True)
class HareLynx:
    """Eight parameters, two series with log-normal noise.

    Args:
        priors: of alpha, beta, gamma, delta, hare_initial, lynx_initial, hare_noise, lynx_noise.
        horizon: end of the trained range in years since 1900; a little more than the data, for forecasts.
        grid_points: size of the dense grid on [0, horizon].
        tolerance: error of the log path, relative where it exceeds 1.
        most_substeps: solver steps per grid interval after which a row is given up as NaN.
        fewest, most: readings, in thousands of pelts, that training may observe. The prior's wild half is not seen
            there, and the posterior given readings in this range does not change.
    """

    priors: dict[str, Prior] = field(default_factory=_default_priors)
    horizon: float = 25.0
    grid_points: int = 501
    tolerance: float = 1e-6
    most_substeps: int = 128
    fewest: float = 0.5
    most: float = 500.0

    def __post_init__(self) -> None:
        require_priors(self.priors, _PARAMETERS)

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _PARAMETERS]
        series = [
            Variable(k, "data", ("time",), None, POSITIVE, Noise("lognormal", sd), (*_DYNAMICS, sd))
            for k, sd in (("hare", "hare_noise"), ("lynx", "lynx_noise"))
        ]
        return Schema((*parameters, *series), (Index("time", 0.0, self.horizon, "years", "1900-01-01"),))

    @property
    def plausible(self) -> dict[str, tuple[float, float]]:
        """Of both series."""
        return dict.fromkeys(("hare", "lynx"), (self.fewest, self.most))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"time": torch.linspace(0.0, self.horizon, self.grid_points, dtype=torch.float64)}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws, float64: parameters (n,), clean series (n, grid_points).

        Populations below 1e-300 are returned as 1e-300, the edge of float64.
        """
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.clean(draws)}

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clean series (n, grid_points) for given parameters, each (n,); all float64. NaN where the solver gave up."""
        n = len(parameters["alpha"])
        hare = torch.empty(n, self.grid_points, dtype=torch.float64)
        lynx = torch.empty_like(hare)
        for rows in torch.split(torch.arange(n), _ROWS):
            path = self.solve_log(torch.stack([parameters[k][rows] for k in _DYNAMICS]))  # (T, 2, m)
            path = path.clamp(min=_SMALLEST_LOG).exp()
            hare[rows], lynx[rows] = path[:, 0].T, path[:, 1].T
        return {"hare": hare, "lynx": lynx}

    def solve_log(self, parameters: Tensor) -> Tensor:
        """Log populations on the grid, (T, 2, n) float64; `parameters` (6, n): alpha … delta, the two starts."""
        rates, initial = parameters[:4], parameters[4:].log()
        return solve_to_tolerance(
            lambda rows: log_field(*rates[:, rows]),
            initial,
            self.grid["time"],
            self.tolerance,
            most_substeps=self.most_substeps,
        )
