"""Lotka–Volterra as in the Simformer paper (arXiv 2404.09636): prey u and predator v from a known start.

    u' = αu − βuv,   v' = −γv + δuv,   α, β, γ, δ = 1 + 2·sigmoid(z), z ~ N(0, 1)

Solved in p = log u, q = log v:  p' = α − β e^q,  q' = −γ + δ e^p.  There the populations stay positive and the troughs
are as precise as the peaks. H = δ e^p − γ p + β e^q − α q is conserved.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsimformer.priors import LogitNormal, Prior
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators.protocol import draw_priors, require_priors
from fsimformer.simulators.solver import Field, solve

_PARAMETERS = ("alpha", "beta", "gamma", "delta")
_ROWS = 8192  # rows solved together: bounds memory, changes no result


def log_field(alpha: Tensor, beta: Tensor, gamma: Tensor, delta: Tensor) -> Field:
    """The field of (p, q) = (log u, log v) for rows with these parameters, each (n,)."""
    birth = torch.stack((alpha, -gamma))  # (2, n)
    meet = torch.stack((-beta, delta))

    def field(t: float, y: Tensor) -> Tensor:
        return torch.addcmul(birth, meet, y.exp().flip(0))

    return field


@dataclass(frozen=True)
class LotkaVolterra:
    """Four parameters, two series with normal noise and, with a reference set, the populations beneath the noise.

    Args:
        priors: of alpha, beta, gamma, delta.
        prey_initial, predator_initial: populations at time 0.
        horizon: end of the trained range; time has no unit.
        noise: standard deviation of a reading.
        grid_points: size of the dense grid on [0, horizon].
        substeps: solver steps per grid interval.
        reference: knots of the reference sets of prey_path and predator_path, the populations without the noise of a
            reading; (): these are no variables, and the model knows readings only. 17 lie .9 units of time apart;
            between them the four parameters, drawn with them, say how the curves go.
    """

    priors: dict[str, Prior] = field(default_factory=lambda: {k: LogitNormal(0.0, 1.0, 1.0, 3.0) for k in _PARAMETERS})
    prey_initial: float = 1.0
    predator_initial: float = 0.5
    horizon: float = 15.0
    noise: float = 0.1
    grid_points: int = 301
    substeps: int = 5
    reference: tuple[int, ...] = (17,)

    def __post_init__(self) -> None:
        require_priors(self.priors, _PARAMETERS)

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _PARAMETERS]
        series = [
            Variable(k, "data", ("time",), noise=Noise("normal", self.noise), parents=_PARAMETERS)
            for k in ("prey", "predator")
        ]
        names = ("prey", "predator") if self.reference else ()
        paths = [
            Variable(f"{k}_path", "parameter", ("time",), parents=_PARAMETERS, reference=self.reference, path_of=k)
            for k in names
        ]
        return Schema((*parameters, *series, *paths), (Index("time", 0.0, self.horizon),))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"time": torch.linspace(0.0, self.horizon, self.grid_points, dtype=torch.float64)}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws; parameters float64 (n,), clean series float32 (n, grid_points)."""
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.clean(draws)}

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clean series float32 (n, grid_points) for given parameters, each (n,) float64."""
        n = len(parameters["alpha"])
        prey, predator = torch.empty(n, self.grid_points), torch.empty(n, self.grid_points)
        for rows in torch.split(torch.arange(n), _ROWS):
            path = self.solve(torch.stack([parameters[k][rows] for k in _PARAMETERS]))  # (T, 2, m)
            prey[rows], predator[rows] = path[:, 0].T.float(), path[:, 1].T.float()
        return {"prey": prey, "predator": predator}

    def solve(self, parameters: Tensor) -> Tensor:
        """Populations on the grid, (T, 2, n) float64, for alpha, beta, gamma, delta in (4, n) float64."""
        start = torch.tensor([math.log(self.prey_initial), math.log(self.predator_initial)], dtype=torch.float64)
        initial = start[:, None].expand(2, parameters.shape[1]).contiguous()
        return solve(log_field(*parameters), initial, self.grid["time"], self.substeps).exp()
