"""Sampler error against evaluations on exact Gaussian denoisers (design.md, D6).

A posterior N(m, v) in whitened units has x̂ = (v y + λ² m)/(v + λ²), y = x_t/α_t. Every sampler is then a linear map
plus noise, so its output variance is computed exactly: no draws, no Monte-Carlo error. Reported: the largest
|variance ratio − 1| over v from 1 to 1e-3, and the largest error of the mean in posterior sds, at m = 1.
"""

from __future__ import annotations

import torch
from record import no_arguments, save
from torch import Tensor

from fsimformer.sample import QUALITY, SAMPLERS, SamplerConfig

VARIANCES = torch.logspace(-3, 0, 25, dtype=torch.float64)
MEAN = 1.0


def gaussian(x: Tensor, t: Tensor) -> Tensor:
    """Exact x̂ on the trigonometric path; x (…, n_variances)."""
    ratio = torch.tan(t * torch.pi / 2)
    y = x / torch.cos(t * torch.pi / 2)
    return (VARIANCES * y + ratio**2 * MEAN) / (VARIANCES + ratio**2)


def moments(config: SamplerConfig) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of the output: impulse responses of the start and of every step's noise."""
    zero = torch.zeros_like(VARIANCES)
    silent = lambda k: zero  # noqa: E731
    mean = config.run(gaussian, zero, silent)
    variance = (config.run(gaussian, zero + 1, silent) - mean) ** 2
    if config.stochastic:
        for step in range(config.n_steps):
            variance += (config.run(gaussian, zero, lambda k, s=step: zero + float(k == s)) - mean) ** 2
    return mean, variance


def main() -> None:
    rows = []
    for method in SAMPLERS:
        per_step = SamplerConfig(method, 2).evaluations // 2
        for evaluations in (8, 12, 16, 18, 20, 32, 48, 64, 96):
            if evaluations % per_step or evaluations // per_step < 2:
                continue
            for power in (2.0, 3.0, 4.0, 6.0):
                for log_min in (-5.2, -6.9):
                    config = SamplerConfig(method, evaluations // per_step, power=power, log_min=log_min)
                    rows.append(describe(config))
    presets = {name: describe(config) for name, config in QUALITY.items()}
    print(save("sampler_error", 0, {"rows": rows, "presets": presets, "monte_carlo_floor": 0.0}))


def describe(config: SamplerConfig) -> dict[str, object]:
    mean, variance = moments(config)
    ratio = variance / VARIANCES
    return {
        "method": config.method,
        "evaluations": config.evaluations,
        "power": config.power,
        "log_min": config.log_min,
        "variance_ratio_min": float(ratio.min()),
        "variance_ratio_max": float(ratio.max()),
        "mean_error_sd": float(((mean - MEAN) / VARIANCES.sqrt()).abs().max()),
    }


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
