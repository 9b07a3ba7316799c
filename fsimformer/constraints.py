"""What is known of a draw besides readings: intervals, of values or of linear functionals, and potentials of any kind.

An interval is a 0/1 likelihood: the constrained law is p(draw | observed) 1[lower <= u <= upper]/P. A potential
multiplies p by the exponential of what it returns. Several constraints hold at once.

    Between("deaths", upper=0.02, at=[30.0, 50.0])                    a series, each reading by itself
    Between(Integral("contact_rate", 0.0, 50.0), 5.0, 8.0)            ∫ f dt
    Between(Average("contact_rate", 10.0, 20.0), upper=0.1)           ∫ f dt/(stop − start)
    Between(Difference("infected", at=30.0, minus=20.0), lower=0.0)   f(30) − f(20)
    Potential(lambda draws: draws["alpha"] > draws["gamma"])          whatever can be said of a Dataset of draws

How they are met, `constrained.py` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from fsimformer.points import Observation, Points, Query
from fsimformer.query import query
from fsimformer.schema import Schema

_NODES = 33  # of a Gauss–Legendre rule: smooth functions of a few dozen knots are integrated to rounding


@dataclass(frozen=True)
class Integral:
    """∫ f dt of a function of one index dim from `start` to `stop`, in the function's unit times the index's.

    Args:
        variable: the function's name.
        start, stop: index points, numbers or dates as in `at`.
        n_nodes: of the Gauss–Legendre rule.
    """

    variable: str
    start: Any
    stop: Any
    n_nodes: int = _NODES

    def nodes(self, schema: Schema, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Index points (P,) in the index's units, and weights (P,)."""
        return _rule(schema, observation, self)


@dataclass(frozen=True)
class Average:
    """The mean of a function of one index dim over an interval; arguments as of `Integral`."""

    variable: str
    start: Any
    stop: Any
    n_nodes: int = _NODES

    def nodes(self, schema: Schema, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Index points (P,) in the index's units, and weights (P,)."""
        at, w = _rule(schema, observation, self)
        return at, w / w.sum()


@dataclass(frozen=True)
class Difference:
    """f(at) − f(minus) of a function of one index dim."""

    variable: str
    at: Any
    minus: Any

    def nodes(self, schema: Schema, observation: Observation) -> tuple[np.ndarray, np.ndarray]:
        """Index points (2,) in the index's units, and weights (2,)."""
        at = _places(schema, observation, self.variable, [self.at, self.minus], stacklevel=8)
        if at[0] == at[1]:
            raise ValueError(f"{self}: expected two different points.")
        return at, np.array([1.0, -1.0])


Functional = Integral | Average | Difference


@dataclass(frozen=True)
class Between:
    """lower <= u <= upper, ends included.

    Args:
        variable: a variable's name, each of whose values at `at` is u, or an `Integral`, `Average` or `Difference`.
        lower, upper: in the variable's units; numbers, or an array with one for each value.
        at: index points of a function, as in `sample`; None for scalars, vectors (all components) and functionals. A
            series is meant as it is read, its noise included. Where a value was observed it must lie in the interval;
            a second reading there, which `sample` gives when asked, is another value and stays free. A functional, too,
            takes what was observed where something was: a difference from a reading is one from its value.
    """

    variable: str | Functional
    lower: Any = -math.inf
    upper: Any = math.inf
    at: Any = None

    def __post_init__(self) -> None:
        """Raises ValueError where an upper bound is below its lower; what is no number is told where it is asked."""
        ends = [np.asarray(v) for v in (self.lower, self.upper)]
        if all(v.dtype.kind in "biuf" for v in ends):
            try:
                crossed = (ends[0] > ends[1]).any()
            except ValueError:  # lengths that do not fit
                return
            if crossed:
                of = repr(self.variable) if isinstance(self.variable, str) else self.variable
                raise ValueError(f"Between({of}): expected lower <= upper, got [{self.lower}, {self.upper}].")


@dataclass(frozen=True)
class Potential:
    """A log weight of draws: any function of them.

    Args:
        log_weight: a Dataset of draws (dims chain, draw, the variables' own) -> (chain, draw), bool (True = allowed) or
            float, −inf = impossible. The Dataset holds the scalars and vectors that are drawn, and what `at` names.
        at: variable -> index points of the functions that it needs, as in `sample`.
        bound: upper bound of a float log weight; known, draws can be rejected exactly.
    """

    log_weight: Callable[[xr.Dataset], xr.DataArray]
    at: Mapping[str, Any] | None = None
    bound: float | None = None

    def __post_init__(self) -> None:
        if not callable(self.log_weight):
            got = type(self.log_weight).__name__
            raise TypeError(f"Potential: expected a function of a Dataset of draws, got {got}: {self.log_weight!r}.")


Constraint = Between | Potential


@dataclass(frozen=True)
class Interval:
    """A `Between` where it is asked: of each of P points, or of Σ weights · values.

    Args:
        label: for messages.
        query: the one variable at its points.
        weights: (P,), or None: each point by itself.
        lower, upper: (P,), or (1,) with weights.
    """

    label: str
    query: Query
    weights: np.ndarray | None
    lower: np.ndarray
    upper: np.ndarray

    @property
    def variable(self) -> str:
        return next(iter(self.query.points))

    def satisfied(self, values: np.ndarray) -> np.ndarray:
        """(n,) bool, of values (n, P) on the original scale."""
        u = values if self.weights is None else values @ self.weights[:, None]
        return np.asarray(((self.lower <= u) & (u <= self.upper)).all(1))


@dataclass(frozen=True)
class Weighing:
    """A `Potential` and the query of what it needs."""

    potential: Potential
    query: Query

    def log_weight(self, draws: xr.Dataset, n: int) -> tuple[np.ndarray, float | None]:
        """(n,) of n draws in two chains, and its upper bound, if one is known.

        Raises:
            TypeError, ValueError: no array (chain, draw), NaN, +inf, or above the bound.
        """
        try:
            found: Any = self.potential.log_weight(draws)
        except KeyError as error:
            error.add_note(
                f"Potential: its Dataset of draws holds {list(draws.data_vars)}; functions and data are there where "
                "at= names their points, Potential(..., at={name: points}), observed parameters never."
            )
            raise
        shape = (2, n // 2)
        if isinstance(found, xr.DataArray) and set(found.dims) == {"chain", "draw"}:
            found = found.transpose("chain", "draw").to_numpy()
        if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind not in "bif":
            got = f"{found.dims}" if isinstance(found, xr.DataArray) else type(found).__name__
            raise TypeError(
                f"Potential: expected log_weight to return numbers or bools of dims (chain, draw), got {got}."
            )
        value = np.where(found, 0.0, -np.inf) if found.dtype.kind == "b" else found.astype(np.float64)
        bound = 0.0 if found.dtype.kind == "b" else self.potential.bound
        if np.isnan(value).any() or np.isposinf(value).any() or (bound is not None and (value > bound + 1e-9).any()):
            raise ValueError(
                f"Potential: expected log weights < inf, not NaN, at most bound={bound}; got {value.max()}."
            )
        return value.reshape(-1), bound


def resolve(schema: Schema, observation: Observation, constraint: Constraint) -> Interval | Weighing | None:
    """A constraint at its points; None where what was observed settles it.

    Raises:
        TypeError: no constraint. KeyError: unknown variable.
        ValueError: bounds that are NaN, crossed, equal, of another shape, or outside the support; a function without
            `at`, or anything else with it; an observed value outside the interval.
    """
    if isinstance(constraint, Potential):
        everything = query(schema, observation, constraint.at or {}, stacklevel=6)
        return Weighing(constraint, everything)
    if not isinstance(constraint, Between):
        raise TypeError(
            f"constrain: expected Between or Potential, got {type(constraint).__name__}. Several are several "
            "arguments; a functional goes into Between, a function of draws into Potential."
        )
    of = constraint.variable
    if isinstance(of, str):
        return _values(schema, observation, constraint, of)
    if not isinstance(of, Integral | Average | Difference):
        raise TypeError(f"Between: expected a variable's name or a functional, got {type(of).__name__}.")
    if constraint.at is not None:
        raise ValueError(f"Between({of}): a functional says itself where; leave `at` out.")
    index, weights = of.nodes(schema, observation)
    points = Points(np.zeros(len(index), dtype=np.int64), index[:, None], {}, None)
    lower, upper = _bounds(constraint, 1)
    seen = _read_at(observation, of.variable, points)
    known = np.isfinite(seen)
    constant = float(weights[known] @ seen[known])
    if known.all():
        if not lower[0] <= constant <= upper[0]:
            raise ValueError(f"Between: {of} was observed to be {constant:g}, not in [{lower[0]:g}, {upper[0]:g}].")
        return None
    _require_width(str(of), lower, upper)
    left = points.take(~known)
    asked = Query({of.variable: left}, {of.variable: np.zeros(len(left), dtype=bool)})
    return Interval(str(of), asked, weights[~known], lower - constant, upper - constant)


def require_common(intervals: Sequence[Interval]) -> None:
    """Intervals of the same value, or of the same functional, overlap. Pairs tell: on a line that is enough.

    Raises:
        ValueError: no draw can lie in two of them.
    """
    for j, b in enumerate(intervals):
        for a in intervals[:j]:
            if a.variable != b.variable or (a.weights is None) != (b.weights is None):
                continue
            if a.weights is not None:
                if a.label == b.label:
                    _require_overlap(a, 0, b, 0)
                continue
            own, others = a.query.points[a.variable], b.query.points[b.variable]
            for k in range(len(others)):
                for i in np.flatnonzero(_same(own, others, k)).tolist():
                    _require_overlap(a, i, b, k)


def _require_overlap(a: Interval, i: int, b: Interval, k: int) -> None:
    if max(a.lower[i], b.lower[k]) < min(a.upper[i], b.upper[k]):
        return
    points = a.query.points[a.variable]
    where = "" if a.weights is not None else "".join(f" at {d} {v[i]}" for d, v in points.labels.items())
    both = " and in ".join(f"[{c.lower[n]:g}, {c.upper[n]:g}]" for c, n in ((a, i), (b, k)))
    raise ValueError(
        f"constrain: {a.label}{where} is to lie in {both}, which contradict each other: no draw can satisfy both. "
        "Constraints add up; begin with `condition` anew to replace one."
    )


def _values(schema: Schema, observation: Observation, constraint: Between, name: str) -> Interval | None:
    if name not in schema:
        raise KeyError(f"Between: the model has no variable {name!r}. Its variables: {list(schema.names)}.")
    if name in schema.arrays:
        raise ValueError(f"Between: {name!r} is an array variable, observed as a whole or absent, and never drawn.")
    function = schema.is_function(name)
    if function == (constraint.at is None):
        what = "a function: say where with at=" if function else "no function: leave `at` out"
        raise ValueError(f"Between: {name!r} is {what}.")
    observed = observation.channels.get(name)
    if function:
        found = query(schema, observation, {name: constraint.at}, stacklevel=7)
        points, known = found.points[name], found.replicate[name]
    else:  # all components, those observed among them
        size = schema.n_components(name)
        points = Points(np.arange(size), np.zeros((size, 0)), {d: np.arange(size) for d in schema[name].dims}, None)
        known = np.zeros(size, dtype=bool)
        if observed is not None:
            known[observed.points.component[np.isfinite(observed.value)]] = True
    lower, upper = _bounds(constraint, len(points))
    support = schema[name].support
    if (wrong := (upper <= support.lower) | (lower >= support.upper)).any():  # supports are open
        k = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"Between: {name!r} never lies in [{lower[k]:g}, {upper[k]:g}]; its support is {support}.")
    for k in np.flatnonzero(known).tolist():
        assert observed is not None
        value = observed.value[_same(observed.points, points, k)]
        value = value[np.isfinite(value)]
        if ((value < lower[k]) | (value > upper[k])).any():
            raise ValueError(f"Between: {name!r} was observed to be {value[0]:g}, not in [{lower[k]:g}, {upper[k]:g}].")
    if known.all():
        return None
    left = points.take(~known)
    _require_width(repr(name), lower[~known], upper[~known])
    asked = Query({name: left}, {name: np.zeros(len(left), dtype=bool)})
    return Interval(repr(name), asked, None, lower[~known], upper[~known])


def _bounds(constraint: Between, n: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        for v in (constraint.lower, constraint.upper):
            if np.asarray(v).dtype.kind in "USTmM":  # NumPy would read "50", and count dates
                raise TypeError(f"{v!r} is no number")
        lower, upper = (
            np.broadcast_to(np.asarray(v, dtype=np.float64), n) for v in (constraint.lower, constraint.upper)
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"Between: expected bounds as numbers, one or {n} of them, got {constraint}.") from error
    if not (lower <= upper).all():  # NaN fails, too
        nan = "; leave a bound out where there is none" if np.isnan([lower, upper]).any() else ""
        raise ValueError(f"Between: expected lower <= upper, got [{lower}, {upper}]{nan}.")
    return lower, upper


def _read_at(observation: Observation, name: str, points: Points) -> np.ndarray:
    """(P,) what was observed at points of a variable, the mean of several readings there; NaN where nothing was."""
    out, channel = np.full(len(points), np.nan), observation.channels.get(name)
    for k in range(len(points)) if channel is not None else ():
        assert channel is not None
        value = channel.value[_same(channel.points, points, k)]
        if np.isfinite(value).any():
            out[k] = np.nanmean(value)
    return out


def _same(a: Points, b: Points, k: int) -> np.ndarray:
    """(n,) bool: points of a that are point k of b."""
    near = np.isclose(a.index, b.index[k], rtol=0, atol=1e-9 * (1 + np.abs(b.index[k]))).all(1)
    return near & (a.component == b.component[k])


def _rule(schema: Schema, observation: Observation, of: Integral | Average) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Legendre: index points (P,) in the index's units, and weights (P,) of the integral."""
    start, stop = _places(schema, observation, of.variable, [of.start, of.stop], stacklevel=9)
    if not start < stop or of.n_nodes < 1:
        raise ValueError(f"{of}: expected start < stop and n_nodes >= 1.")
    x, w = np.polynomial.legendre.leggauss(of.n_nodes)
    half = (stop - start) / 2
    return start + half * (1 + x), half * w


def _require_width(of: str, lower: np.ndarray, upper: np.ndarray) -> None:
    if (flat := lower == upper).any():
        k = int(np.flatnonzero(flat)[0])
        raise ValueError(
            f"Between: {of} in [{lower[k]:g}, {upper[k]:g}], which no draw meets: expected lower < upper. A value that "
            "is known is an observation, for `condition`."
        )


def _places(schema: Schema, observation: Observation, name: str, at: list[Any], stacklevel: int) -> np.ndarray:
    """Index points in the index's units, in the order given."""
    if name not in schema or not schema.is_function(name) or len(schema[name].dims) != 1:
        raise ValueError(
            f"A functional is of a function of one index dim, got {name!r}. Functions: "
            f"{[v for v in schema.names if schema.is_function(v) and len(schema[v].dims) == 1]}."
        )
    found: np.ndarray = query(schema, observation, {name: np.array(at)}, stacklevel).points[name].index[:, 0]
    return found
