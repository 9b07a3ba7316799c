"""Ordinary differential equations y' = f(t, y), many rows at once, by explicit Runge–Kutta steps of fixed size.

A step with nodes c, matrix a and weights b:  k_i = f(t + c_i h, y + h Σ_j a_ij k_j),  y ← y + h Σ_i b_i k_i.

Every grid interval is cut into the same number of sub-steps, so a row's result does not depend on the rows beside it.
`solve_to_tolerance` doubles the sub-steps of the rows whose two last solutions disagree. State is kept component first,
(k, n), float64: each component is one contiguous vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[float, Tensor], Tensor]
"""(t, y) -> y', both (k, n)."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method."""

    order: int
    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


RK4 = Tableau(4, (0.0, 0.5, 0.5, 1.0), ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))

DOPRI5 = Tableau(  # Dormand and Prince (1980), the fifth-order weights; fixed steps need no seventh stage
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)


def solve(field: Field, initial: Tensor, grid: Tensor, substeps: int = 1, method: Tableau = DOPRI5) -> Tensor:
    """The solution on the grid.

    Args:
        field: y' = field(t, y).
        initial: y at grid[0], (k, n), float64.
        grid: increasing (T,), float64.
        substeps: steps per grid interval.

    Returns:
        (T, k, n), float64. A row that overflows is non-finite from there on; the others are not touched.

    Raises:
        ValueError: substeps < 1.
    """
    if substeps < 1:
        raise ValueError(f"substeps: expected at least 1, got {substeps}.")
    shape, size = initial.shape, initial.numel()
    matrix = [initial.new_tensor(row) for row in method.matrix]
    weights = initial.new_tensor(method.weights)
    slopes = initial.new_empty(len(method.nodes), size)
    out = initial.new_empty(len(grid), *shape)
    out[0] = initial
    y = initial.reshape(-1)
    times = grid.tolist()
    for i in range(len(times) - 1):
        h = (times[i + 1] - times[i]) / substeps
        for j in range(substeps):
            t = times[i] + j * h
            slopes[0] = field(t, y.view(shape)).reshape(-1)
            for s in range(1, len(method.nodes)):
                stage = torch.addmv(y, slopes[:s].T, matrix[s], alpha=h)
                slopes[s] = field(t + method.nodes[s] * h, stage.view(shape)).reshape(-1)
            y = torch.addmv(y, slopes.T, weights, alpha=h)
        out[i + 1] = y.view(shape)
    return out


def solve_to_tolerance(
    field_of: Callable[[Tensor], Field],
    initial: Tensor,
    grid: Tensor,
    tolerance: float = 1e-6,
    substeps: int = 1,
    most_substeps: int = 64,
    method: Tableau = DOPRI5,
) -> Tensor:
    """The solution on the grid, each row with as many sub-steps as it needs.

    Solves with s and 2s sub-steps and accepts the second where max |y_2s − y_s| / max(1, |y_2s|) ≤ tolerance. Once
    steps are small its own error is that difference divided by 2^order − 1; near spikes they are not, and the factor
    is slack.

    Args:
        field_of: rows (m,) int64 -> the field of these rows, for states (k, m).
        initial: (k, n), float64.
        most_substeps: rows that still disagree at this many become NaN.

    Returns:
        (T, k, n), float64.
    """
    rows = torch.arange(initial.shape[1])
    out = torch.full((len(grid), *initial.shape), torch.nan, dtype=initial.dtype)
    coarse = solve(field_of(rows), initial, grid, substeps, method)
    while len(rows) and 2 * substeps <= most_substeps:
        substeps *= 2
        fine = solve(field_of(rows), initial[:, rows], grid, substeps, method)
        error = ((fine - coarse).abs() / fine.abs().clamp(min=1.0)).amax((0, 1))  # (m,)
        done = error <= tolerance  # NaN compares as False: not done
        out[:, :, rows[done]] = fine[:, :, done]
        rows, coarse = rows[~done], fine[:, :, ~done]
    return out
