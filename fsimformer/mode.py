"""The mode of a conditional: the likeliest values together, on the original scale.

    x* = argmax log p(x | observed),   log p(x | observed) = log p(z | observed) − Σ log |dx/dz|.

A mode depends on the scale: of a log-normal parameter e^m is the median and the mode of log x, and the mode of x is
e^(m − s²). Meant is the scale of the variables, in their own units; the whitening's Jacobian moves the mode.

The density is that of the probability flow (density.py). It is climbed from the likeliest of some draws by BFGS: the
metric H begins as the draws' covariance, gradients are central differences along the columns of its root, the steps
along a direction are tried together. What is left to gain is ½ g'Hg, the Newton decrement: the search ends where that
is negligible. Several modes: it is the one that the likeliest draw lies at.

No search leaves the draws by more than their sd. Where a density rises up to the end of a support, or is flat, the mode
lies there, and a warning says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.convert import Observation, ObservationWarning, query
from fsimformer.density import Density
from fsimformer.draws import Settings, draw_conditional
from fsimformer.model_file import Model, Trained
from fsimformer.query import nothing_asked
from fsimformer.sample import QUALITY
from fsimformer.seeds import seed_at
from fsimformer.stages import Budget
from fsimformer.tokens import Dial
from fsimformer.tree import to_dataset

_MODE = 13  # first number of the path, seeds.py
_STEPS = 24  # midpoint steps of the flow
_RANKED = 12  # of the draws, of which only the best is wanted
_STEP = 0.05  # of a central difference, in standard deviations
_MOST = 60  # iterations
_TRIED = (2.0, 1.0, 0.5, 0.25, 0.125, 0.03, 0.008)  # shares of a step
_FLAT = 1e-4  # smallest variance of a direction, of the largest: below lies rounding


class Conditioned(Protocol):
    """A `Conditional`, whose method `mode` is."""

    @property
    def joint(self) -> Trained: ...

    @property
    def n_active_observed(self) -> Dial: ...

    def _only(self) -> Observation: ...


@dataclass(frozen=True)
class Summit:
    """Where a climb ended.

    Args:
        z: (L,).
        value: the function there.
        left: what a Newton step would still gain, nats.
        edge: (L,) bool, coordinates that were stopped at their bounds.
        n_iterations: of BFGS.
    """

    z: Tensor
    value: float
    left: float
    edge: Tensor
    n_iterations: int


def mode(
    self: Conditioned, at: Mapping[str, Any] | None = None, *, n: int = 200, seed: int = 0, tolerance: float = 1e-3
) -> xr.Dataset:
    """The values that are likeliest together, argmax log p(x | observed), on the original scale of the variables.

    Another scale has another mode: that of log x is not the logarithm of that of x. What is not asked for is integrated
    out, so that the mode of some variables is no part of the mode of more.

    Args:
        at: variable -> index points, as for `sample`; None: the scalar and vector parameters that were not observed.
        n: draws, of which the likeliest is where the search begins, and whose covariance scales it.
        seed: of these.
        tolerance: nats by which a better point may still be missed.

    Returns:
        A Dataset of the variables in the shapes of their draws, without `chain` and `draw`. Attributes: `log_prob`, the
        density there; `log_prob_draw`, that of the likeliest draw; `left`, nats that a Newton step would still gain.

    Raises:
        KeyError, ValueError: as `sample` with this `at`; constraints, or several data sets; fewer draws than twice as
            many as values; a density that the solver fails to find.

    Warns:
        ObservationWarning: the density is highest at the edge of the draws, where a support may end; or the search
            ended early.
    """
    observation, model = self._only(), self.joint.model
    asked = query(model.schema, observation, at or {})
    if not len(asked):
        raise ValueError(nothing_asked(model.schema, [observation], at or {}).replace("sample:", "mode:", 1))
    fewest = 2 * len(asked)
    if not isinstance(n, int | np.integer) or n < fewest or n % 2:
        raise ValueError(f"mode: expected an even number of draws, at least {fewest}, twice the values; got n={n!r}.")
    if not tolerance > 0:
        raise ValueError(f"mode: expected tolerance > 0, got {tolerance!r}.")
    settings = Settings(QUALITY["exact"], self.n_active_observed, Budget(n_joint=model.max_latents))
    n, start = int(n), seed_at(seed, _MODE) % 2**32
    drawn = draw_conditional(model, [observation], [asked], n, settings, start)[0].z.double()
    density = Density.of(model, observation, asked, self.n_active_observed)

    def height(z: Tensor, n_steps: int = _STEPS) -> Tensor:
        return density(z, n_steps) - _log_det(model, asked.points, z)

    ranked = height(drawn, _RANKED)
    if not bool(ranked.isfinite().any()):
        raise ValueError("mode: the solver finds no density at any of the draws; do the weights hold NaN?")
    best = drawn[int(torch.nan_to_num(ranked, nan=-torch.inf).argmax())]
    sd = drawn.std(0)
    found = climb(height, best, torch.cov(drawn.T).view(len(asked), -1), drawn.amin(0) - sd, drawn.amax(0) + sd,
                  tolerance)  # fmt: skip
    if bool(found.edge.any()):
        names = [k for k, p in asked.points.items() for _ in range(len(p))]
        stopped = sorted({k for k, edge in zip(names, found.edge.tolist(), strict=True) if edge})
        warnings.warn(
            f"mode: the density of {stopped} is highest at the edge of where draws lie: it rises up to an end of a "
            "support, or is flat. What is returned is that edge.",
            ObservationWarning,
            stacklevel=2,
        )
    elif found.left > tolerance:
        warnings.warn(
            f"mode: the search ended with {found.left:.2g} nats still to gain after {found.n_iterations} iterations. "
            "The density is rough there; take fewer points of a function, or more draws.",
            ObservationWarning,
            stacklevel=2,
        )
    both = torch.stack([best, found.z])
    value = (4 * height(both, 2 * _STEPS) - height(both, _STEPS)) / 3  # as `log_prob` extrapolates
    out = to_dataset(model.schema, model.whitening, asked, found.z.expand(2, -1)).isel(chain=0, draw=0, drop=True)
    return out.assign_attrs(log_prob=float(value[1]), log_prob_draw=float(value[0]), left=found.left, n_draws=n)


def climb(
    height: Callable[[Tensor], Tensor],
    start: Tensor,
    covariance: Tensor,
    lower: Tensor,
    upper: Tensor,
    tolerance: float,
) -> Summit:
    """A local maximum of a smooth function between bounds, by BFGS on central differences.

    Args:
        height: (m, L) -> (m,) float64; NaN = nowhere to go.
        start: (L,), between `lower` and `upper` (L,).
        covariance: (L, L) of the peak, roughly: inverse curvature to begin with.
        tolerance: of what is left to gain.
    """
    spread, axes = torch.linalg.eigh(covariance)
    first = axes * spread.clamp(min=_FLAT * float(spread[-1])) @ axes.T
    z, metric, value, left = start.clone(), first, float(height(start[None])[0]), float("inf")
    step, before = torch.zeros_like(z), torch.zeros(0)
    edge, n_iterations = torch.zeros(len(z), dtype=torch.bool), 0
    while n_iterations < _MOST:
        n_iterations += 1
        root = torch.linalg.cholesky(metric)  # differences as long as the peak is wide, as far as it is known
        sides = height(torch.cat([z + _STEP * root.T, z - _STEP * root.T])).view(2, -1)
        gradient = torch.linalg.solve(root.T, torch.nan_to_num((sides[0] - sides[1]) / (2 * _STEP)))
        if len(before):
            metric = _updated(metric, step, before - gradient)
        edge = ((z <= lower) & (gradient < 0)) | ((z >= upper) & (gradient > 0))
        free = (~edge).double()
        direction = free * (metric @ (free * gradient))
        left = 0.5 * float(direction @ gradient)
        if left < tolerance:
            break
        tried = (z + torch.tensor(_TRIED, dtype=z.dtype)[:, None] * direction).clamp(lower, upper)
        heights = torch.nan_to_num(height(tried), nan=-torch.inf)
        chosen = int(heights.argmax())
        if float(heights[chosen]) > value:
            step, before, value, z = tried[chosen] - z, gradient, float(heights[chosen]), tried[chosen]
        elif metric is first:
            break
        else:  # what was learned of the curvature misleads here
            metric, before = first, torch.zeros(0)
    return Summit(z, value, left, edge, n_iterations)


def _updated(metric: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """BFGS: the inverse curvature that explains how the gradient fell by `change` along `step`."""
    along = float(step @ change)
    if not along > 1e-10 * float(step.norm() * change.norm()):
        return metric  # not concave along this step: what is known stays
    left = torch.eye(len(step), dtype=step.dtype) - torch.outer(step, change) / along
    return left @ metric @ left.T + torch.outer(step, step) / along


def _log_det(model: Model, points: Mapping[str, Any], z: Tensor) -> Tensor:
    """Σ log |dx/dz|, (n,)."""
    out, first = torch.zeros(len(z), dtype=torch.float64), 0
    for name, own in points.items():
        part = z[:, first : first + len(own)]
        out, first = out + model.whitening.log_det(name, part, own.component).sum(1), first + len(own)
    return out
