"""Predator–prey dynamics of the neural-process field (arXiv 2303.14468): a stochastic Lotka–Volterra process.

    dX = X(α − βY) dt + σ X^{1/6} dW₁,    dY = Y(−δ + γX) dt + σ Y^{1/6} dW₂,    X, Y(−10) ~ U(5, 100)

by Euler–Maruyama with steps of 0.022, the absolute value taken after each; the populations from time 0 on, times a
scale of their own, are the series. They are read without noise: the process itself is random. It has no memory but its
state: the ten units before time 0, rounded up to whole steps, only wear down the start.

Paths are as rough as Brownian motion. Between two Euler points training interpolates, which makes them smoother by one
step's variance; readings for an evaluation belong on the Euler points themselves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsimformer.priors import POSITIVE, Prior, Uniform
from fsimformer.schema import Index, Schema, Variable
from fsimformer.simulators.protocol import draw_priors, require_priors

_PARAMETERS = ("alpha", "beta", "delta", "gamma", "sigma", "scale")
_ROWS = 2_048  # rows stepped together: what they need stays in cache


def euler_maruyama(
    parameters: Mapping[str, Tensor], initial: Tensor, n_steps: int, step: float, generator: torch.Generator
) -> Tensor:
    """Populations (n_steps + 1, 2, n) float64 from initial (2, n), the initial ones first; `scale` does not count."""
    birth = torch.stack((parameters["alpha"], -parameters["delta"])).double()  # (2, n)
    meet = torch.stack((-parameters["beta"], parameters["gamma"])).double()
    sd = parameters["sigma"].double() * math.sqrt(step)
    path = initial.new_empty(n_steps + 1, *initial.shape, dtype=torch.float64)
    path[0] = z = initial.double()
    for k in range(1, n_steps + 1):
        drift = torch.addcmul(birth, meet, z.flip(0)) * z
        white = torch.randn(z.shape, generator=generator, dtype=torch.float32).double()
        z = (z + step * drift + sd * z.pow(1 / 6) * white).abs()
        path[k] = z
    return path


@dataclass(frozen=True)
class PredatorPrey:
    """Six parameters, two series without measurement noise; the populations at time −`burn_in` are integrated out.

    Args:
        priors: of alpha, beta, delta, gamma, sigma, scale.
        initial: prior of both populations at −`burn_in`, before scaling; above 0, where a path would stay.
        step: of Euler–Maruyama, in units of time.
        burn_in, duration: time before and after time 0, both rounded up to whole steps.
    """

    priors: dict[str, Prior] = field(
        default_factory=lambda: {
            "alpha": Uniform(0.2, 0.8),
            "beta": Uniform(0.04, 0.08),
            "delta": Uniform(0.8, 1.2),
            "gamma": Uniform(0.04, 0.08),
            "sigma": Uniform(0.5, 10.0),
            "scale": Uniform(1.0, 5.0),
        }
    )
    initial: Uniform = field(default_factory=lambda: Uniform(5.0, 100.0))
    step: float = 0.022
    burn_in: float = 10.0
    duration: float = 100.0

    def __post_init__(self) -> None:
        require_priors(self.priors, _PARAMETERS)
        if not (0 < self.step <= self.duration and self.burn_in >= 0 and self.initial.lower > 0):
            raise ValueError(
                f"PredatorPrey: expected 0 < step <= duration, burn_in >= 0 and positive initial, got {self}."
            )

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _PARAMETERS]
        series = [Variable(k, "data", ("time",), None, POSITIVE, parents=_PARAMETERS) for k in ("prey", "predator")]
        return Schema((*parameters, *series), (Index("time", 0.0, self._steps(self.duration) * self.step),))

    @property
    def grid(self) -> dict[str, Tensor]:
        """The Euler points from time 0 on."""
        n = self._steps(self.duration)
        return {"time": torch.linspace(0.0, n * self.step, n + 1, dtype=torch.float64)}

    def _steps(self, time: float) -> int:
        return math.ceil(time / self.step - 1e-9)

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws; parameters float64 (n,), series float32 (n, Euler points)."""
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.simulate_at(draws, generator)}

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Series for given parameters, each (n,) float64."""
        n, before, after = len(parameters["alpha"]), self._steps(self.burn_in), self._steps(self.duration)
        prey, predator = torch.empty(n, after + 1), torch.empty(n, after + 1)
        lower, upper = self.initial.lower, self.initial.upper
        for rows in torch.arange(n).split(_ROWS):
            mine = {k: parameters[k][rows] for k in _PARAMETERS}
            start = torch.rand(2, len(rows), generator=generator, dtype=torch.float64) * (upper - lower) + lower
            if before:
                start = euler_maruyama(mine, start, before, self.step, generator)[-1]
            path = mine["scale"] * euler_maruyama(mine, start, after, self.step, generator)
            prey[rows], predator[rows] = path[:, 0].T.float(), path[:, 1].T.float()
        return {"prey": prey, "predator": predator}
