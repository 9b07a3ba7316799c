"""How much noise (`Schedule`) and which (`NoiseProcess`).

    x_t = α_t x + σ_t ε,   ε ~ N(0, K),   t from 0 (data) to 1 (noise),   λ_t = σ_t/α_t.

With the posterior mean x̂ = E[x | x_t] the probability-flow velocity is

    dx_t/dt = α' x̂ + σ' (x_t − α x̂)/σ,

which holds for every covariance K: samplers know a schedule and a denoiser, nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fsimformer.kernels import Kernel
from fsimformer.seeds import normals


class Schedule(Protocol):
    """α, σ and their derivatives on t ∈ (0, 1); every function maps a tensor to one of its shape."""

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def d_alpha(self, t: Tensor) -> Tensor: ...
    def d_sigma(self, t: Tensor) -> Tensor: ...
    def t_of(self, log_ratio: Tensor) -> Tensor:
        """The t at which log(σ/α) = log_ratio."""
        ...


@dataclass(frozen=True)
class TrigSchedule:
    """α = cos(πt/2), σ = sin(πt/2): variance preserving, constant speed on the circle (arXiv 2209.15571)."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(t * (math.pi / 2))

    def d_alpha(self, t: Tensor) -> Tensor:
        return -(math.pi / 2) * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return (math.pi / 2) * self.alpha(t)

    def t_of(self, log_ratio: Tensor) -> Tensor:
        return torch.atan(log_ratio.exp()) * (2 / math.pi)


@dataclass(frozen=True)
class VPSchedule:
    """log α = −¼(β₁ − β₀)t² − ½β₀t, σ² = 1 − α²: the variance-preserving SDE (arXiv 2011.13456)."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * (self.beta_min + (self.beta_max - self.beta_min) * t) * self.alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)  # from α² + σ² = 1

    def t_of(self, log_ratio: Tensor) -> Tensor:
        log_alpha = -0.5 * torch.nn.functional.softplus(2 * log_ratio)  # α² = 1/(1 + λ²)
        d = self.beta_max - self.beta_min
        # the stable root of d/4 t² + β₀/2 t + log α = 0
        return -2 * log_alpha / (0.5 * self.beta_min + (0.25 * self.beta_min**2 - d * log_alpha).sqrt())


@dataclass(frozen=True)
class RectifiedSchedule:
    """α = 1 − t, σ = t: the straight path of flow matching (arXiv 2210.02747, 2209.03003)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def t_of(self, log_ratio: Tensor) -> Tensor:
        return torch.sigmoid(log_ratio)


SCHEDULES: dict[str, type[TrigSchedule] | type[VPSchedule] | type[RectifiedSchedule]] = {
    "trig": TrigSchedule,
    "vp": VPSchedule,
    "rectified": RectifiedSchedule,
}


def schedule_named(name: str) -> Schedule:
    """The schedule of this name.

    Raises:
        ValueError: with the choices.
    """
    if name not in SCHEDULES:
        raise ValueError(f"Unknown schedule {name!r}. Choices: {sorted(SCHEDULES)}.")
    return SCHEDULES[name]()


def time_grid(
    schedule: Schedule, n_steps: int, log_min: float = -5.2, log_max: float = 4.0, power: float = 4.0
) -> Tensor:
    """n_steps + 1 falling times, t_i^{1/power} evenly spaced, from log λ = log_max to log_min; float64.

    Power 4 is dense near the data, where sharp posteriors are decided.
    """
    ends = schedule.t_of(torch.tensor([log_max, log_min], dtype=torch.float64)) ** (1 / power)
    u = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)
    return (ends[0] + (ends[1] - ends[0]) * u) ** power


def velocity(schedule: Schedule, x_t: Tensor, x_hat: Tensor, t: Tensor) -> Tensor:
    """dx_t/dt of the probability-flow ODE from x_t and x̂ = E[x | x_t], of one shape."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return schedule.d_alpha(t) * x_hat + schedule.d_sigma(t) * (x_t - alpha * x_hat) / sigma


class NoiseProcess(Protocol):
    """The law of ε over the tokens of a row; the only place that knows its covariance K.

    `WhiteNoise` and `matern.MaternNoise` have a log density, `log_prob(index, value)`; `SmoothNoise` has none: its
    values at more points than it has coefficients hang on each other.
    """

    def sample(self, index: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """index (L, D) -> n draws of ε, (n, L)."""
        ...

    def times_covariance(self, index: Tensor, g: Tensor) -> Tensor:
        """K g, g (…, L): a score g moves the posterior mean by (σ²/α) K g."""
        ...


@dataclass(frozen=True)
class WhiteNoise:
    """K = I: independent at every token."""

    def sample(self, index: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """(n, L) standard normals; the first m of n draws do not depend on n."""
        return normals(n, index.shape[0], generator).to(index.device)

    def log_prob(self, index: Tensor, value: Tensor) -> Tensor:
        """log N(value; 0, K), value (…, L) -> (…)."""
        return -0.5 * (value**2 + math.log(2 * math.pi)).sum(-1)

    def times_covariance(self, index: Tensor, g: Tensor) -> Tensor:
        return g


@dataclass(frozen=True)
class SmoothNoise:
    """One random smooth function of the index a draw, evaluated wherever it is asked, today or later.

        ε(s) = n^{-1/2} Σ_k a_k cos(ω_k·s) + b_k sin(ω_k·s),   a, b ~ N(0, 1),

    with fixed frequencies ω from the kernel's spectral density (random Fourier features, Rahimi & Recht 2007): Gaussian
    with variance 1 at every point, stationary, its covariance mean_k cos(ω_k·(s − s')) near the kernel's. The
    coefficients are the draw: whoever keeps them has the function.

    Args:
        kernel: roughness and lengthscale.
        n_features: pairs of coefficients.
    """

    kernel: Kernel = field(default_factory=Kernel)
    n_features: int = 64

    def __post_init__(self) -> None:
        if self.n_features < 1:
            raise ValueError(f"SmoothNoise: expected n_features >= 1, got {self.n_features}.")

    def coefficients(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, 2·n_features) standard normals, float32; more draws change none."""
        return normals(n, 2 * self.n_features, generator)

    def evaluate(self, coefficients: Tensor, index: Tensor) -> Tensor:
        """Values (…, L) of the functions with these coefficients (…, 2·n_features) at index (L, D), float32.

        Every point is worked out in float64 by itself: its value does not depend on what else is asked.
        """
        features = self._features(index)
        if coefficients.shape[-1] != features.shape[1]:
            raise ValueError(
                f"SmoothNoise: expected {features.shape[1]} coefficients a draw, got {coefficients.shape[-1]}."
            )
        return (coefficients.to(index.device).double() @ features.T).float()

    def sample(self, index: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """index (L, D) -> n draws (n, L)."""
        return self.evaluate(self.coefficients(n, generator), index)

    def times_covariance(self, index: Tensor, g: Tensor) -> Tensor:
        """K g through the features, O(L·n_features)."""
        features = self._features(index).to(g.dtype)
        return (g @ features) @ features.T

    def _features(self, index: Tensor) -> Tensor:
        """(L, 2·n_features) float64."""
        omega = self.kernel.frequencies(self.n_features, index.shape[1]).to(index.device)
        phase = index.double() @ omega.T
        return torch.cat([phase.cos(), phase.sin()], 1) / math.sqrt(self.n_features)
