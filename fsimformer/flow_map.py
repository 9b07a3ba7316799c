"""Few evaluations: the probability flow of a network, learned as a map from one noise level to another.

Along the flow y = x_t/α_t obeys dy/dλ = (y − x̂(y, λ))/λ. Where it leads from λ to a smaller μ is written as

    y_μ = (μ/λ) y_λ + (1 − μ/λ) g(y_λ, λ, μ),                                  (arXiv 2310.02279, 2406.07507)

g a mean of the x̂ on the way; g = x̂ is a step of DDIM, and where μ → λ that is exact. So g has the form of a denoiser,
its network is told μ beside λ, and a network that ignores μ is where training starts (distill.py). For x ~ N(m, s²)

    y_μ = m + (y_λ − m) √((s² + μ²)/(s² + λ²)).

A draw takes 1, 2 or 4 jumps between the same five noise levels; these seven jumps are all that is learned.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

from torch import Tensor

from fsimformer.denoise import Denoiser, Encoded
from fsimformer.noise import TrigSchedule, time_grid

FLOW_MAP = "flow_map"
JUMPS = (1, 2, 4)
POWER, LOG_MIN, LOG_MAX = 5.0, -6.2, 4.0  # of the grid; a solver with 4k steps on it passes through all levels


def log_ratios(n_jumps: int = 4) -> Tensor:
    """log λ between which a draw jumps, falling, (n_jumps + 1,); float64."""
    schedule = TrigSchedule()
    grid = time_grid(schedule, max(JUMPS), LOG_MIN, LOG_MAX, POWER)
    return (schedule.sigma(grid) / schedule.alpha(grid)).log()[:: max(JUMPS) // n_jumps]


def require_levels(found: Any, where: str) -> None:
    """The log λ between which a flow map has learned to jump are those above; None = there is no flow map.

    Raises:
        ValueError: others.
    """
    known = log_ratios().tolist()
    if found is not None and not (
        len(found) == len(known) and all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(found, known, strict=True))
    ):
        raise ValueError(f"{where}: expected jumps between the log noise levels {known}, got {found}.")


def jump(denoiser: Denoiser, y: Tensor, ratio: Tensor, target: Tensor, encoded: Encoded) -> Tensor:
    """y_μ (B, R, n_a) from y_λ (B, R, n_a), λ = `ratio` and μ = `target` (B, R or 1)."""
    left = (target / ratio)[..., None]
    return left * y + (1 - left) * denoiser.at_ratio(y, ratio, encoded, target)


def jumped(denoiser: Denoiser, encoded: Encoded, epsilon: Tensor, n_jumps: int) -> Tensor:
    """Draws (B, R, n_a) from standard normals of that shape, in 1, 2 or 4 evaluations."""
    levels = log_ratios(n_jumps).exp().to(epsilon)
    y = epsilon * (1 + levels[0] ** 2).sqrt()
    for ratio, target in itertools.pairwise(levels):
        y = jump(denoiser, y, ratio.expand(len(y), 1), target.expand(len(y), 1), encoded)
    return y
