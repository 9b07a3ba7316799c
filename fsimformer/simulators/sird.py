"""SIRD epidemic with a contact rate that is a function of time, as in the Simformer paper (arXiv 2404.09636).

    S' = −βSI,  I' = βSI − (γ+μ)I,  R' = γI,  D' = μI;   S(0) = 1, I(0) ~ U(0, 0.2), R(0) = D(0) = 0
    γ, μ ~ U(0, 0.5);   β(t) = sigmoid(g(t)),  g ~ GP(0, sd² exp(−(t − t')²/(2·lengthscale²)))

S, I, R, D are fractions of the population that was susceptible at the start. Solved for S, log I and C = ∫I dt, so
that I stays positive and its decay is exact; R = γC, D = μC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from fsimformer.priors import POSITIVE, LogitNormal, Prior, Uniform
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators.protocol import draw_priors, require_priors
from fsimformer.simulators.solver import RK4, solve

_SCALARS = ("recovery_rate", "death_rate", "initial_infected")
_ROWS = 4096  # rows solved together: bounds memory, changes no result


@dataclass(frozen=True)
class SIRD:
    """Three scalar parameters, one functional parameter, three series with log-normal noise.

    Args:
        priors: of recovery_rate, death_rate (per day) and initial_infected (fraction).
        contact_sd, contact_lengthscale: of the logit of the contact rate; lengthscale in days.
        horizon: end of the trained range in days.
        noise: standard deviation of the log of a reading.
        floor: smallest clean value of recovered and deaths. They are 0 at t = 0, where log-normal noise has no
            meaning; this is far below one person in a million and reached in the first seconds only.
        grid_points: size of the dense grid on [0, horizon].
        substeps: solver steps per grid interval.
        reference: knots of the contact rate's reference set; (): none. 17 lie .45 lengthscales apart.
    """

    priors: dict[str, Prior] = field(
        default_factory=lambda: {
            "recovery_rate": Uniform(0.0, 0.5),
            "death_rate": Uniform(0.0, 0.5),
            "initial_infected": Uniform(0.0, 0.2),
        }
    )
    contact_sd: float = 2.5
    contact_lengthscale: float = 7.0
    horizon: float = 50.0
    noise: float = 0.05
    floor: float = 1e-8
    grid_points: int = 201
    substeps: int = 2
    reference: tuple[int, ...] = (17,)

    def __post_init__(self) -> None:
        require_priors(self.priors, _SCALARS)

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _SCALARS]
        contact = Variable(
            "contact_rate", "parameter", ("time",), LogitNormal(0.0, self.contact_sd), reference=self.reference
        )
        noise = Noise("lognormal", self.noise)
        series = [
            Variable(k, "data", ("time",), None, POSITIVE, noise, (*_SCALARS, "contact_rate"))
            for k in ("infected", "recovered", "deaths")
        ]
        return Schema((*parameters, contact, *series), (Index("time", 0.0, self.horizon, "days"),))

    @property
    def natural(self) -> tuple[str, ...]:
        """They start at 0, where their logarithms have no slope."""
        return ("recovered", "deaths")

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"time": torch.linspace(0.0, self.horizon, self.grid_points, dtype=torch.float64)}

    @cached_property
    def gp_factor(self) -> Tensor:
        """(fine points, rank): g = factor @ ξ, ξ ~ N(0, I), on the grid and at the solver's nodes in between.

        The spectrum falls off faster than exponentially: 20 eigenvectors carry the covariance to 3e-9.
        """
        points = 2 * self.substeps * (self.grid_points - 1) + 1  # RK4 looks at both ends and the middle of a step
        t = torch.linspace(0.0, self.horizon, points, dtype=torch.float64)
        kernel = torch.exp(-0.5 * ((t[:, None] - t) / self.contact_lengthscale) ** 2)
        values, vectors = torch.linalg.eigh(kernel)
        keep = values > 1e-10 * values[-1]
        factor: Tensor = self.contact_sd * vectors[:, keep] * values[keep].sqrt()
        return factor

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws; parameters float64, (n,) and (n, grid_points); clean series float32 (n, grid_points)."""
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.simulate_at(draws, generator)}

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """A contact rate drawn from its prior, and the series, for given scalars, each (n,) float64."""
        n = len(parameters["recovery_rate"])
        weights = torch.randn(n, self.gp_factor.shape[1], generator=generator, dtype=torch.float64)
        contact = torch.empty(n, self.grid_points, dtype=torch.float64)
        series = {k: torch.empty(n, self.grid_points) for k in ("infected", "recovered", "deaths")}
        for rows in torch.split(torch.arange(n), _ROWS):
            fine = torch.sigmoid(self.gp_factor @ weights[rows].T)  # (fine, m)
            contact[rows] = fine[:: 2 * self.substeps].T
            path = self.solve(torch.stack([parameters[k][rows] for k in _SCALARS]), fine)
            for k, clean in zip(series, path[:, 1:].unbind(1), strict=True):
                series[k][rows] = clean.T.float()
        return {"contact_rate": contact, **series}

    def solve(self, parameters: Tensor, contact: Tensor) -> Tensor:
        """S, I, R, D on the grid.

        Args:
            parameters: recovery_rate, death_rate, initial_infected, (3, n) float64.
            contact: β at every half step of the solver, (2·substeps·(T − 1) + 1, n) float64.

        Returns:
            (T, 4, n) float64; R and D not below `floor`.
        """
        recovery, death, infected = parameters
        leave = recovery + death
        half_step = self.horizon / (contact.shape[0] - 1)

        def field(t: float, y: Tensor) -> Tensor:
            force = contact[round(t / half_step)]
            susceptible, log_infected, _ = y
            now = log_infected.exp()
            infection = force * susceptible
            return torch.stack((-infection * now, infection - leave, now))

        initial = torch.stack((torch.ones_like(infected), infected.log(), torch.zeros_like(infected)))
        s, log_i, burden = solve(field, initial, self.grid["time"], self.substeps, RK4).unbind(1)
        removed = [(rate * burden).clamp(min=self.floor) for rate in (recovery, death)]
        return torch.stack((s, log_i.exp(), *removed), 1)
