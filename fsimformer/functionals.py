"""Numbers that say what a function does: its integral, maximum, where that lies, when it first crosses a level.

Every one takes values (…, T) on a rising grid (T,) and gives (…); draws and truth are read on the same grid, so that
what a grid cannot show is missing from both and ranks stay exact. Plain arrays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Functional = Callable[[Array, Array], Array]


def integral(values: Array, grid: Array) -> Array:
    """∫ f dt by the trapezoid rule."""
    return np.sum((values[..., 1:] + values[..., :-1]) / 2 * np.diff(grid), axis=-1)


def maximum(values: Array, grid: Array) -> Array:
    """max f, over the points of the grid."""
    return np.max(values, axis=-1)


def argmax(values: Array, grid: Array) -> Array:
    """Where f is largest, the first such place, by the parabola through the grid's maximum and its neighbours.

    On an uneven grid, and at its ends, a point of the grid.
    """
    k, steps = np.argmax(values, axis=-1), np.diff(grid)
    at = np.asarray(grid, dtype=np.float64)[k]
    if len(grid) < 3 or np.ptp(steps) > 1e-6 * steps.mean():
        return at
    inner = np.clip(k, 1, len(grid) - 2)[..., None]
    before, here, after = (np.take_along_axis(values, inner + j, -1)[..., 0] for j in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = np.where(bend < 0, (before - after) / np.where(bend < 0, 2 * bend, 1.0), 0.0)
    return np.where((k > 0) & (k < len(grid) - 1), at + np.clip(shift, -0.5, 0.5) * steps.mean(), at)


def total_variation(values: Array, grid: Array) -> Array:
    """Σ |f(t_{i+1}) − f(t_i)|."""
    return np.abs(np.diff(values, axis=-1)).sum(-1)


def first_crossing(level: float) -> Functional:
    """When f first changes sides of a level, linear between points; inf where it never does."""

    def crossing(values: Array, grid: Array) -> Array:
        above = values > level
        changed = above[..., 1:] != above[..., :-1]
        first = changed.argmax(-1)[..., None]
        f, g = (np.take_along_axis(values, first + j, -1)[..., 0] for j in (0, 1))
        span = np.where(f == g, 1.0, g - f)
        place = grid[first[..., 0]] + (level - f) / span * np.diff(grid)[first[..., 0]]
        return np.where(changed.any(-1), place, np.inf)

    return crossing


def value_at(place: float) -> Functional:
    """f at a place of the grid's range, linear between points.

    Raises:
        ValueError: when called, a place off the grid.
    """

    def value(values: Array, grid: Array) -> Array:
        if not grid[0] <= place <= grid[-1]:
            raise ValueError(f"value_at: expected a place in [{grid[0]:g}, {grid[-1]:g}], got {place:g}.")
        i = int(np.clip(np.searchsorted(grid, place) - 1, 0, len(grid) - 2))
        w = (place - grid[i]) / (grid[i + 1] - grid[i])
        return (1 - w) * values[..., i] + w * values[..., i + 1]

    return value
