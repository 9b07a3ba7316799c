"""Distributions of Pyro, which are torch's, and of NumPyro, as priors and supports of ours.

A family is known by its class's name, through `.to_event()` and `.expand()`; its numbers must be the same for all
elements of a site, for a variable has one prior. A support is the interval that holds a site's values in every run that
was seen. Neither library is imported: both name what is the same alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from fsimformer.priors import REAL, LogitNormal, LogNormal, LogUniform, Normal, Prior, Support, TruncatedNormal, Uniform

_BASES = ("Normal", "Uniform", "Independent", "ExpandedDistribution")  # of a transformed distribution


def prior_of(fn: Any) -> Prior | None:
    """The prior of ours that a distribution is, the same for all of its elements; None where there is none."""
    while type(fn).__name__ in ("Independent", "ExpandedDistribution"):
        fn = fn.base_dist
    transforms, kind = list(getattr(fn, "transforms", [])), type(fn).__name__
    if kind == "TransformedDistribution" and type(fn.base_dist).__name__ in _BASES:
        base = prior_of(fn.base_dist)
        names = [type(t).__name__ for t in transforms]
        if isinstance(base, Normal) and names == ["ExpTransform"]:
            return LogNormal(base.loc, base.scale)
        if isinstance(base, Uniform) and names == ["ExpTransform"]:
            return LogUniform(math.exp(base.lower), math.exp(base.upper))
        if isinstance(base, Normal) and names == ["SigmoidTransform"]:
            return LogitNormal(base.loc, base.scale)
        if isinstance(base, Normal) and names == ["SigmoidTransform", "AffineTransform"]:
            lower, width = _constants(transforms[1].loc, transforms[1].scale) or (0.0, 0.0)
            return LogitNormal(base.loc, base.scale, lower, lower + width) if width > 0 else None
        return None
    if kind == "LeftTruncatedDistribution" and type(fn.base_dist).__name__ == "Normal":
        ends = _constants(fn.base_dist.loc, fn.base_dist.scale, fn.low)
        return None if ends is None else TruncatedNormal(*ends)
    families: dict[str, tuple[str, ...]] = {
        "Normal": ("loc", "scale"),
        "LogNormal": ("loc", "scale"),
        "LogUniform": ("low", "high"),
        "Uniform": ("low", "high"),
        "HalfNormal": ("scale",),
        "Beta": ("concentration1", "concentration0"),
    }
    numbers = _constants(*(getattr(fn, k) for k in families.get(kind, ())))
    if numbers is None or not numbers:
        return None
    if kind == "HalfNormal":
        return TruncatedNormal(0.0, numbers[0], 0.0)
    if kind == "Beta":
        return Uniform() if numbers == (1.0, 1.0) else None
    made: dict[str, Callable[..., Prior]] = {
        "Normal": Normal,
        "LogNormal": LogNormal,
        "LogUniform": LogUniform,
        "Uniform": Uniform,
    }
    return made[kind](*numbers)


def _constants(*values: Any) -> tuple[float, ...] | None:
    """One number for each, where all of its elements are the same."""
    flat = [_array(v) for v in values]
    return tuple(float(x[0]) for x in flat) if all(bool((x == x[0]).all()) for x in flat) else None


def _array(x: Any) -> np.ndarray:
    """Numbers, a tensor or an array of another library, flat."""
    return np.asarray(x.detach() if hasattr(x, "detach") else x, dtype=np.float64).reshape(-1)


def support_of(where: str, name: str, elements: Iterable[str], runs: Iterable[Mapping[str, Any]], role: str) -> Support:
    """The interval that holds a site's values in all runs: ends that move from run to run are none.

    Args:
        where: who asks, for messages.
        name: the site. elements: the names that its elements have in a run. runs: name -> message with the key "fn".

    Raises:
        ValueError: a latent site is discrete; a support that is no interval, or one with only an upper end.
    """
    ends: tuple[set[float], set[float]] = set(), set()
    for constraint in [run[k]["fn"].support for run in runs for k in elements if k in run]:
        while hasattr(constraint, "base_constraint"):
            constraint = constraint.base_constraint
        if constraint.is_discrete:
            if role == "data":
                return REAL  # a count is a number: what it is given matters, not that it is whole
            raise ValueError(
                f"{where}: the latent site {name!r} is discrete, and variables are continuous; leave it out, "
                f"leave_out=[{name!r}]: it is integrated out."
            )
        bounds = [getattr(constraint, k, None) for k in ("lower_bound", "upper_bound")]
        if all(b is None for b in bounds) and type(constraint).__name__ not in ("_Real", "_RealVector"):
            raise ValueError(
                f"{where}: the site {name!r} has the support {constraint}; expected numbers or an interval. Draw it "
                "from unconstrained sites and make it of them (deterministic), or leave it out."
            )
        for held, bound, pick in zip(ends, bounds, (np.min, np.max), strict=True):
            held.add(float("nan") if bound is None else float(pick(_array(bound))))
    lower, upper = (next(iter(e)) if len(e) == 1 else float("nan") for e in ends)
    if lower != lower or lower == -math.inf:
        if upper == upper and upper != math.inf:
            raise ValueError(
                f"{where}: the site {name!r} lies below {upper:g} and has no lower end that holds in every run, and a "
                f"support with only an upper end is not offered. Sample what lies above instead, {upper:g} - {name}, "
                f"and make {name} of it (deterministic); or state support={{{name!r}: fsimformer.REAL}}, and draws may "
                "leave it."
            )
        return REAL
    return Support(lower) if upper != upper else Support(lower, upper)
