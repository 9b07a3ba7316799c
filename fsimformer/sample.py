"""Integrates the reverse process: from noise to draws.

A sampler is a short function of a denoiser `denoise(x_t, t) -> x̂`, a schedule and a falling grid of times; it reads
like its paper. ODE samplers follow dx/dt = α' x̂ + σ'(x − α x̂)/σ: equal noise, equal draws. The SDE sampler adds noise
on the way and forgets early errors, which counts for more on trained networks (`benchmarks/sampler_choice.py`). Their
stated orders are tested on exact Gaussian denoisers.

A network that was distilled (flow_map.py) needs no solver: a few jumps along the flow, which it has learned.

The path that a sampler integrates need not be the one that training weighted: a denoiser depends on λ = σ/α alone, and
y = x_t/α_t moves between paths. On the trigonometric path the velocity is bounded at both ends, which is why the
defaults use it; `benchmarks/sampler_error.py` has the comparison that they follow from (design.md, D6).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsimformer.denoise import Denoiser, Encoded
from fsimformer.flow_map import FLOW_MAP, JUMPS, jumped
from fsimformer.noise import Schedule, TrigSchedule, time_grid, velocity

Denoise = Callable[[Tensor, Tensor], Tensor]
StepNoise = Callable[[int], Tensor]  # step -> standard normals of x's shape
Sampler = Callable[[Denoise, Schedule, Tensor, Tensor, StepNoise | None], Tensor]


def _velocity(denoise: Denoise, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    return velocity(schedule, x, denoise(x, t), t)


def euler(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """Order 1, one evaluation a step (DDIM-like): overconfident at few steps; kept as the known-bad comparison."""
    for t, s in itertools.pairwise(grid):
        x = x + (s - t) * _velocity(denoise, schedule, x, t)
    return x / schedule.alpha(grid[-1])


def ab2(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """Adams–Bashforth with variable steps: order 2, one evaluation a step; the first step is Euler's."""
    before: Tensor | None = None
    ratio = torch.zeros(())
    for i, (t, s) in enumerate(itertools.pairwise(grid)):
        v = _velocity(denoise, schedule, x, t)
        h = s - t
        if before is None:
            x = x + h * v
        else:
            ratio = h / (t - grid[i - 1])
            x = x + h * ((1 + ratio / 2) * v - ratio / 2 * before)
        before = v
    return x / schedule.alpha(grid[-1])


def heun(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """Order 2, two evaluations a step (arXiv 2206.00364)."""
    for t, s in itertools.pairwise(grid):
        v = _velocity(denoise, schedule, x, t)
        x = x + (s - t) * (v + _velocity(denoise, schedule, x + (s - t) * v, s)) / 2
    return x / schedule.alpha(grid[-1])


def rk4(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """Order 4, four evaluations a step."""
    for t, s in itertools.pairwise(grid):
        h, middle = s - t, (s + t) / 2
        k1 = _velocity(denoise, schedule, x, t)
        k2 = _velocity(denoise, schedule, x + h / 2 * k1, middle)
        k3 = _velocity(denoise, schedule, x + h / 2 * k2, middle)
        k4 = _velocity(denoise, schedule, x + h * k3, s)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x / schedule.alpha(grid[-1])


def dpm_2m(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """Exponential multistep in log λ: order 2, one evaluation a step (DPM-Solver++ 2M, arXiv 2211.01095).

    In y = x/α:  y_s = e^{−h} y_t + ∫₀ʰ e^{−(h−τ)} x̂(τ) dτ with x̂ linear in log λ through the last two evaluations.
    """
    return _exponential(denoise, schedule, x, grid, None, rate=1.0)


def sde_2m(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """The reverse SDE, exponential multistep: weak order 2, one evaluation a step (arXiv 2211.01095).

    y_s = e^{−2h} y_t + ∫₀ʰ 2e^{−2(h−τ)} x̂(τ) dτ + λ_s √(1 − e^{−2h}) z,   z ~ N(0, K).
    """
    if noise is None:
        raise ValueError("sde_2m needs `noise`: a function step -> standard normals.")
    return _exponential(denoise, schedule, x, grid, noise, rate=2.0)


def sde_3m(denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None = None) -> Tensor:
    """The reverse SDE as in `sde_2m`, x̂ quadratic in log λ through the last three evaluations.

    Weak order 2 as before, since x̂ follows a path with noise, but at 32 evaluations .7 % of the variance are wrong
    instead of 6 %.

    τ is how far log λ has fallen since the last evaluation x̂₀; x̂₁ and x̂₂, at −h₁ and −h₁ − h₂, give the divided
    differences d₀₁, d₁₂, d₀₁₂:

        x̂(τ) ≈ x̂₀ + τ d₀₁ + τ (τ + h₁) d₀₁₂,   ∫₀ʰ 2e^{−2(h−τ)} (1, τ, τ²) dτ = (I₀, I₁, I₂),
        I₀ = 1 − e^{−2h},   I₁ = h − I₀/2,   I₂ = h² − I₁.
    """
    if noise is None:
        raise ValueError("sde_3m needs `noise`: a function step -> standard normals.")
    return _exponential(denoise, schedule, x, grid, noise, rate=2.0, order=3)


def _exponential(
    denoise: Denoise, schedule: Schedule, x: Tensor, grid: Tensor, noise: StepNoise | None, rate: float, order: int = 2
) -> Tensor:
    log_ratio = (schedule.sigma(grid) / schedule.alpha(grid)).log()
    y = x / schedule.alpha(grid[0])
    history = History()
    for i in range(len(grid) - 1):
        x_hat = denoise(y * schedule.alpha(grid[i]), grid[i])
        y, history = advance(y, x_hat, history, log_ratio, i, rate, order)
        if noise is not None:
            y = y + step_sd(log_ratio, i) * noise(i)
    return y


@dataclass(frozen=True)
class History:
    """What a multistep sampler remembers: the last x̂, and the divided difference of the two before it."""

    x_hat: Tensor | None = None
    slope: Tensor | None = None

    def take(self, which: Tensor) -> History:
        """Of the chosen rows."""
        return History(*(None if v is None else v[which] for v in (self.x_hat, self.slope)))


def advance(
    y: Tensor, x_hat: Tensor, history: History, log_ratio: Tensor, i: int, rate: float, order: int
) -> tuple[Tensor, History]:
    """The mean of y after step i of an exponential multistep sampler, from y = x_t/α_t and x̂ there.

    Args:
        log_ratio: log λ on the grid. rate: 1 for the ODE, 2 for the SDE. order: 2 or 3.
    """
    h = log_ratio[i] - log_ratio[i + 1]
    gain = -torch.expm1(-rate * h)
    y = (1 - gain) * y + gain * x_hat
    if history.x_hat is None:
        return y, History(x_hat)
    h_1 = log_ratio[i - 1] - log_ratio[i]
    slope, first = (x_hat - history.x_hat) / h_1, h - gain / rate
    y = y + first * slope
    if order == 3 and history.slope is not None:
        curvature = (slope - history.slope) / (log_ratio[i - 2] - log_ratio[i])
        y = y + (h * h - 2 / rate * first + h_1 * first) * curvature
    return y, History(x_hat, slope)


def step_sd(log_ratio: Tensor, i: int) -> Tensor:
    """Standard deviation of the noise that the SDE adds to y in step i: λ_{i+1} √(1 − e^{−2h})."""
    return log_ratio[i + 1].exp() * (-torch.expm1(-2 * (log_ratio[i] - log_ratio[i + 1]))).sqrt()


SAMPLERS: dict[str, Sampler] = {
    "euler": euler, "ab2": ab2, "heun": heun, "rk4": rk4, "dpm_2m": dpm_2m, "sde_2m": sde_2m, "sde_3m": sde_3m,
}  # fmt: skip
STOCHASTIC = frozenset({"sde_2m", "sde_3m"})
"""Samplers that add noise on the way: their draws have the law of the SDE, not of the probability-flow ODE."""
_EVALUATIONS = {"heun": 2, "rk4": 4}


@dataclass(frozen=True)
class SamplerConfig:
    """Which sampler, how many steps, on which grid.

    Args:
        method: "euler", "ab2", "heun", "rk4", "dpm_2m", "sde_2m" or "sde_3m"; of a distilled Joint "flow_map", with 1,
            2 or 4 steps on the grid it has learned.
        n_steps: steps; `evaluations` says what they cost.
        power: density of the time grid near the data.
        log_min, log_max: log λ at which the grid ends and starts; what is drawn is x + λ ε with λ = exp(log_min).

    Raises:
        ValueError: an unknown method, n_steps < 2, power <= 0, log_min >= log_max; other steps of a flow map.
    """

    method: str = "ab2"
    n_steps: int = 18
    power: float = 4.0
    log_min: float = -5.2
    log_max: float = 4.0

    def __post_init__(self) -> None:
        if self.method == FLOW_MAP:
            if self.n_steps not in JUMPS:
                raise ValueError(f"SamplerConfig: expected n_steps of a flow map in {JUMPS}, got {self.n_steps}.")
            return
        if self.method not in SAMPLERS:
            raise ValueError(f"Unknown sampler {self.method!r}. Choices: {sorted([*SAMPLERS, FLOW_MAP])}.")
        if self.n_steps < 2:
            raise ValueError(f"SamplerConfig: expected n_steps >= 2, got {self.n_steps}.")
        if not (self.power > 0 and self.log_min < self.log_max):
            raise ValueError(f"SamplerConfig: expected power > 0 and log_min < log_max, got {self}.")

    @property
    def evaluations(self) -> int:
        """Network evaluations of one draw."""
        return self.n_steps * _EVALUATIONS.get(self.method, 1)

    def stats(self, times: int = 1) -> dict[str, Any]:
        """For `sample_stats`; `times`: how often every step is taken."""
        return {"evaluations": times * self.evaluations, "sampler": self.method}

    @property
    def stochastic(self) -> bool:
        return self.method in STOCHASTIC

    def run(self, denoise: Denoise, epsilon: Tensor, noise: StepNoise | None = None) -> Tensor:
        """From standard normals ε (any shape) to draws, on the trigonometric path.

        `denoise` gets x_t and a scalar float64 time. The start ε stands for α x + σ ε: at log λ = log_max it lacks the
        share exp(−2·log_max) of the variance, 3e-4 by default.
        """
        schedule = TrigSchedule()
        grid = time_grid(schedule, self.n_steps, self.log_min, self.log_max, self.power)
        return SAMPLERS[self.method](denoise, schedule, epsilon, grid, noise)


# by benchmarks/sampler_error.py: largest error of the variance, for posterior variances from 1 to 1e-3
QUALITY: dict[str, SamplerConfig] = {
    "fast": SamplerConfig("ab2", 20, power=5.0, log_min=-6.2),  # 2 %
    "exact": SamplerConfig("rk4", 12, power=5.0, log_min=-6.9),  # 0.3 %
    "sde": SamplerConfig("sde_3m", 32, power=5.0, log_min=-6.2, log_max=3.0),  # 0.7 %
}
FEW = SamplerConfig(FLOW_MAP, 4)
"""quality="few", of distilled Joints; SamplerConfig("flow_map", 1) or 2 for still fewer evaluations."""
DEFAULT_QUALITY = "sde"
"""By benchmarks/sampler_choice.py: networks err more than solvers, and the SDE forgets what they got wrong early."""


def quality_named(quality: str | SamplerConfig) -> SamplerConfig:
    """A preset by name, or the config itself.

    Raises:
        ValueError: with the choices.
    """
    if isinstance(quality, SamplerConfig):
        return quality
    if quality != "few" and quality not in QUALITY:
        raise ValueError(f"Unknown quality {quality!r}. Choices: {sorted([*QUALITY, 'few'])}, or a SamplerConfig.")
    return FEW if quality == "few" else QUALITY[quality]


def drawing(denoiser: Denoiser, config: SamplerConfig) -> Denoiser:
    """The network that a sampler evaluates.

    Raises:
        ValueError: a flow map of a network that was not distilled.
    """
    if config.method != FLOW_MAP:
        return denoiser
    if denoiser.flow_map is None:
        raise ValueError(
            f"quality 'few': this Joint was not distilled; choices: {sorted(QUALITY)}, or fsimformer.distill it first."
        )
    return denoiser.flow_map


@torch.no_grad()
def sample_active(
    denoiser: Denoiser, encoded: Encoded, epsilon: Tensor, config: SamplerConfig, noise: StepNoise | None = None
) -> Tensor:
    """Draws of the active tokens, (B, R, n_a), from standard normals of that shape; observed ones as given.

    `denoiser` is the one that encoded: see `drawing`.
    """
    observed = encoded.active.condition_mask[:, None]
    given = encoded.active.value[:, None]
    if config.method == FLOW_MAP:
        draws = jumped(denoiser, encoded, epsilon, config.n_steps)
    else:
        draws = config.run(denoise_on_path(denoiser, encoded), epsilon, noise)
    return torch.where(observed, given, draws)


def denoise_on_path(denoiser: Denoiser, encoded: Encoded) -> Denoise:
    """x̂ from x_t and t on the trigonometric path."""
    path = TrigSchedule()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        ratio = (sigma / alpha).to(x).expand(len(x), 1)  # one level for all draws; no longer a number: x's device, too
        return denoiser.at_ratio(x / alpha.to(x.dtype), ratio, encoded)

    return denoise
