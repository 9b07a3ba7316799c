"""The dims that a schema's variables live on: a continuous index, the components of a vector, the axes of an array."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Index:
    """A continuous index dim (time, a place) and the closed range that training covers.

    Args:
        name: dim and coordinate name in the user's Dataset.
        lower, upper: trained range, in `units`.
        units: what one unit of the index is; dates are converted with it ("days", "years", ...).
        origin: ISO date that index 0 stands for when the user's coordinate holds dates; None: the earliest coordinate.
    """

    name: str
    lower: float
    upper: float
    units: str | None = None
    origin: str | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise ValueError(f"Index {self.name!r}: expected finite lower < upper, got [{self.lower}, {self.upper}].")

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Values in `units` to [−1, 1] over the trained range, as tokens carry them."""
        return 2 * (x - self.lower) / (self.upper - self.lower) - 1


@dataclass(frozen=True)
class Components:
    """A dim of `size` unordered components: the dim of a vector variable. Each component is a token with its own id."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Components {self.name!r}: expected size >= 1, got {self.size}.")


@dataclass(frozen=True)
class Axis:
    """A dim of an array variable: `size` places in their order, the samples of a trace or the rows of an image."""

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Axis {self.name!r}: expected size >= 1, got {self.size}.")


def default_reference(n_dims: int) -> tuple[int, ...]:
    """Points of a reference set along each of `n_dims` index dims.

    33 on a line keep the covariance of a posterior within 2 % for lengthscales from a twentieth of the range, rough
    (Matérn 3/2) or smooth, and the variance of increments over a thousandth of it within a factor .73-1
    (benchmarks/knots.py). In several dims all points are drawn together: 9 along each of two are enough along a line
    for smooth functions down to a fifth of the range (the same table; fields were not measured); 5 along each of three
    are what a network can draw, no table's advice.
    """
    return (33,) if n_dims == 1 else ({2: 9, 3: 5}.get(n_dims, 3),) * n_dims
