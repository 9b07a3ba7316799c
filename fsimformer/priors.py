"""Where a variable's values may lie, and the priors whose CDF is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Support:
    """An open interval (lower, upper); either end may be infinite."""

    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        if not self.lower < self.upper:
            raise ValueError(f"Support: expected lower < upper, got ({self.lower}, {self.upper}).")
        if math.isinf(self.lower) and math.isfinite(self.upper):
            raise ValueError("Support: an interval with only an upper end is not offered; negate the variable.")

    def contains(self, value: np.ndarray) -> np.ndarray:
        """Elementwise: is the value strictly inside?"""
        return (value > self.lower) & (value < self.upper)

    def __str__(self) -> str:
        return f"({self.lower:g}, {self.upper:g})"


REAL = Support()
POSITIVE = Support(0.0)


@dataclass(frozen=True)
class Normal:
    """θ ~ N(loc, scale²); scale is the standard deviation."""

    loc: float = 0.0
    scale: float = 1.0

    @property
    def support(self) -> Support:
        return REAL


@dataclass(frozen=True)
class TruncatedNormal:
    """N(loc, scale²) restricted to θ > lower; "Normal⁺" where lower = 0."""

    loc: float = 0.0
    scale: float = 1.0
    lower: float = 0.0

    @property
    def support(self) -> Support:
        return Support(self.lower)


@dataclass(frozen=True)
class LogNormal:
    """log θ ~ N(loc, scale²)."""

    loc: float = 0.0
    scale: float = 1.0

    @property
    def support(self) -> Support:
        return POSITIVE


@dataclass(frozen=True)
class Uniform:
    """θ ~ U(lower, upper)."""

    lower: float = 0.0
    upper: float = 1.0

    @property
    def support(self) -> Support:
        return Support(self.lower, self.upper)


@dataclass(frozen=True)
class LogitNormal:
    """θ = lower + (upper − lower)·sigmoid(z), z ~ N(loc, scale²)."""

    loc: float = 0.0
    scale: float = 1.0
    lower: float = 0.0
    upper: float = 1.0

    @property
    def support(self) -> Support:
        return Support(self.lower, self.upper)


Prior = Normal | TruncatedNormal | LogNormal | Uniform | LogitNormal
PRIORS: dict[str, type[Any]] = {c.__name__: c for c in (Normal, TruncatedNormal, LogNormal, Uniform, LogitNormal)}
