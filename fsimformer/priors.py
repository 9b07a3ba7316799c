"""Where a variable's values may lie, the priors whose CDF is known, and the noise that readings carry."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

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
COUNTS = Support(-1.0)
"""Whole numbers from 0 on, each as wide as the interval about it: the working scale is log(1 + x)."""


@dataclass(frozen=True)
class Noise:
    """Measurement noise of a series, added where the series is read.

    normal: y = f(t) + sd·ε;  lognormal: log y = log f(t) + sd·ε;  ε ~ N(0, 1) independent at every reading.
    negbinomial: y is a count with mean f(t) and variance f(t) + (sd·f(t))² (counts.py), independent at every reading.

    Args:
        kind: "normal", "lognormal" or "negbinomial".
        sd: a number, or the name of the scalar parameter that holds it; of counts, their relative standard deviation
            where they are large.
    """

    kind: Literal["normal", "lognormal", "negbinomial"]
    sd: float | str

    def __post_init__(self) -> None:
        if self.kind not in ("normal", "lognormal", "negbinomial"):
            raise ValueError(f"Noise: unknown kind {self.kind!r}. Choices: 'normal', 'lognormal', 'negbinomial'.")
        if not isinstance(self.sd, str) and not self.sd > 0:
            raise ValueError(f"Noise: expected sd > 0 or a parameter's name, got {self.sd!r}.")


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
class LogUniform:
    """log θ ~ U(log lower, log upper): every order of magnitude is as likely; 0 < lower < upper."""

    lower: float = 1e-3
    upper: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.lower < self.upper < math.inf:
            raise ValueError(f"LogUniform: expected 0 < lower < upper, finite, got ({self.lower}, {self.upper}).")

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


Prior = Normal | TruncatedNormal | LogNormal | Uniform | LogUniform | LogitNormal
PRIORS: dict[str, type[Any]] = {
    c.__name__: c for c in (Normal, TruncatedNormal, LogNormal, Uniform, LogUniform, LogitNormal)
}
