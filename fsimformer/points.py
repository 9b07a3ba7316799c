"""Places of a variable: the user's own coordinates beside the float64 numbers that tokens carry.

Numbers in a coordinate are index units since index 0. Durations are divided by the index's unit; dates are counted
from the origin. Labels are kept as they came, so the way home needs no inverse: the date that went in comes out.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fsimformer.schema import Index, Schema
from fsimformer.units import read_cf, require_span, seconds, since_of

_REACH = 1e18  # half ranges: squares of what tokens carry stay within float32


class ObservationWarning(UserWarning):
    """Something about the observation or query that is allowed, and that the user should know."""


@dataclass(frozen=True)
class Points:
    """n places of one variable, a token each.

    Args:
        component: (n,) int64, position along the variable's `Components` dim; 0 where it has none.
        index: (n, d) float64 in units of each `Index`, in the order of the variable's own index dims.
        labels: dim name -> (n,) the user's own coordinate there (dates stay dates); also the `Components` dim.
        shape: sizes along the variable's dims where the points are their full grid in C order, else None (pointwise).
        attrs: dim name -> attributes of the user's coordinate.
    """

    component: np.ndarray
    index: np.ndarray
    labels: dict[str, np.ndarray]
    shape: tuple[int, ...] | None
    attrs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.component)

    def take(self, which: np.ndarray) -> Points:
        """The chosen points; a grid only where there is at most one dim."""
        labels = {d: v[which] for d, v in self.labels.items()}
        component = self.component[which]
        shape = {0: (), 1: (len(component),)}.get(len(self.labels))
        return Points(component, self.index[which], labels, shape, self.attrs)


@dataclass(frozen=True)
class Channel:
    """What the user holds of one variable: `value` (n,) float64 on the original scale, NaN = missing."""

    points: Points
    value: np.ndarray
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Observation:
    """One data set: channels by variable name in the schema's order.

    Args:
        channels: the variables that the user's object holds, missing readings included.
        held: coordinate values that it holds besides, by the dim: m `Points` of that one dim, or of several index dims
            whose coordinates lie along one and the same.
        origins: index dim -> date that index 0 stands for; None where no date came in and none was given.
        implied: index dims whose origin nobody stated: it is the earliest date that came in.
    """

    channels: dict[str, Channel]
    held: dict[str, Points]
    origins: dict[str, Any]
    implied: frozenset[str] = frozenset()

    @property
    def n_observed(self) -> int:
        """Finite values: observed tokens."""
        return sum(int(np.isfinite(c.value).sum()) for c in self.channels.values())


@dataclass(frozen=True)
class Query:
    """Latents asked for, by variable name in the schema's order; tokens stand in this order, points in the order asked.

    Args:
        points: where each variable is asked for.
        replicate: variable -> (n,) bool: a finite value of it was observed at this very point.
    """

    points: dict[str, Points]
    replicate: dict[str, np.ndarray]

    def __len__(self) -> int:
        return sum(len(p) for p in self.points.values())


def readings_of(observation: Observation, names: Collection[str]) -> dict[str, dict[str, list[Any]]]:
    """The finite values of some variables as plain JSON: name -> component, index (in its units), value, n of each.

    Sorted by place, so that the order in which readings came does not count; arrays stand as they are.
    """
    out = {}
    for name, channel in observation.channels.items():
        finite = np.isfinite(channel.value)
        if name in names and finite.any():
            points = channel.points.take(finite)
            columns = zip(points.component.tolist(), points.index.tolist(), channel.value[finite].tolist(), strict=True)
            held = zip(*(sorted(columns) if points.index.shape[1] else columns), strict=True)
            out[name] = dict(zip(("component", "index", "value"), map(list, held), strict=True))
    return out


def same_readings(a: Mapping[str, Mapping[str, list[Any]]], b: Mapping[str, Mapping[str, list[Any]]]) -> bool:
    """Whether two results of `readings_of` are the same up to rounding."""
    if set(a) != set(b) or any(len(a[k]["value"]) != len(b[k]["value"]) for k in a):
        return False
    return all(
        np.allclose(np.array(a[k][part], dtype=float), np.array(b[k][part], dtype=float), rtol=1e-6, atol=1e-9)
        for k in a
        for part in ("component", "index", "value")
    )


def kind(labels: np.ndarray, attrs: dict[str, Any]) -> str:
    """ "numbers", "durations", "dates", "cftime dates", or undecoded CF units such as "days since 2020-01-01"."""
    names = {"m": "durations", "M": "dates", "O": "cftime dates"}
    if labels.dtype.kind in names:
        return names[labels.dtype.kind]
    since = since_of(attrs.get("units", ""))
    return "numbers" if since is None else " since ".join(since)


def _cf(where: str, what: str, attrs: dict[str, Any]) -> tuple[float, np.datetime64]:
    unit, _, since = what.partition(" since ")
    return read_cf(where, unit, since, attrs)


def earliest(where: str, labels: np.ndarray, attrs: dict[str, Any]) -> Any:
    """The earliest date of a coordinate without gaps; None where it holds numbers or durations."""
    what = kind(labels, attrs)
    if what in ("numbers", "durations") or not labels.size:
        return None
    if " since " not in what:
        return min(labels) if labels.dtype == object else labels.min()
    length, since = _cf(where, what, attrs)
    first = float(labels.min())
    require_span(where, first, length)
    return since + np.timedelta64(round(first * length * 1e6), "us")


def elapsed(where: str, index: Index, labels: np.ndarray, attrs: dict[str, Any], origin: Any) -> np.ndarray:
    """Units of the index since index 0: (t − t0)/unit for dates, t/unit for durations, numbers as they stand.

    A number whose `units` attribute is another unit of time than the index's (hours for days) is converted.

    Args:
        where: what the coordinate belongs to, for messages.
        labels: (n,) from `read_labels`.
        attrs: the coordinate's attributes (`units`, `calendar`).
        origin: datetime64 or cftime date of index 0; None where there is none.

    Returns:
        (n,) float64.

    Raises:
        ValueError: dates where there is no origin, another calendar than the origin's, places out of all proportion.
    """
    out = _elapsed(where, index, labels, attrs, origin)
    with np.errstate(over="ignore"):
        far = np.abs(index.scaled(out)) > _REACH
    if far.any():
        raise ValueError(
            f"{where}: {int(far.sum())} of {far.size} places lie out of all proportion to the trained range of "
            f"{index.name!r}, [{index.lower:g}, {index.upper:g}]; the first is {out[far][0]:g}."
        )
    return out


def _elapsed(where: str, index: Index, labels: np.ndarray, attrs: dict[str, Any], origin: Any) -> np.ndarray:
    what = kind(labels, attrs)
    unit = seconds("days" if index.units is None else index.units)
    if what == "numbers":
        own = None if index.units is None else seconds(attrs.get("units"))
        return labels.astype(np.float64) * (1.0 if own is None or unit is None else own / unit)
    if unit is None:
        raise ValueError(f"{where}: got {what}, but index {index.name!r} is in {index.units!r}, no unit of time.")
    if what == "durations":
        return np.asarray(labels / np.timedelta64(1, "s") / unit, dtype=np.float64)
    if origin is None:
        raise ValueError(
            f"{where}: got {what}, but nothing says which date is {index.name} = 0. Pass it with the data, "
            f"condition(..., origin='2020-01-31'), or give numbers of {index.units or 'days'}, such as "
            f"{[index.lower, index.upper]}."
        )
    if what == "cftime dates":
        if isinstance(origin, np.datetime64) and labels.size:  # the same reading of clock and calendar page
            origin = _in_calendar(where, pd.Timestamp(origin), labels[0])
        if labels.size and origin.calendar != labels[0].calendar:
            raise ValueError(
                f"{where}: dates of the calendar {labels[0].calendar!r}, but {index.name} = 0 is {origin} in "
                f"{origin.calendar!r}."
            )
        return np.array([(t - origin).total_seconds() / unit for t in labels], dtype=np.float64)
    if not isinstance(origin, np.datetime64):
        raise ValueError(f"{where}: got {what}, but {index.name} = 0 is the cftime date {origin}.")
    if what == "dates":
        return _seconds_between(labels, origin) / unit
    length, since = _cf(where, what, attrs)
    return labels.astype(np.float64) * (length / unit) + _seconds_between(since, origin) / unit


def _in_calendar(where: str, day: pd.Timestamp, like: Any) -> Any:
    parts = ("year", "month", "day", "hour", "minute", "second", "microsecond")
    try:
        return like.replace(**{part: getattr(day, part) for part in parts})
    except ValueError as error:
        raise ValueError(
            f"{where}: the calendar {like.calendar!r} has no {day}, the date of index 0: {error}."
        ) from error


def _seconds_between(later: Any, earlier: Any) -> Any:
    """float64 seconds; whole seconds and the rest apart, so that nanoseconds neither overflow nor are cut off."""
    one = np.timedelta64(1, "s")
    whole, whole0 = later.astype("datetime64[s]"), earlier.astype("datetime64[s]")
    return (whole - whole0) / one + ((later - whole) / one - (earlier - whole0) / one)


def outside_trained(schema: Schema, name: str, index: np.ndarray) -> Iterator[tuple[Index, np.ndarray, np.ndarray]]:
    """For each index dim of a function: the dim, the places there of its points (n, d), and which lie outside, (n,)."""
    for j, dim in enumerate(schema.index_dims(name)):
        trained, x = schema.dim(dim), index[:, j]
        assert isinstance(trained, Index)
        slack = 1e-9 * (trained.upper - trained.lower)  # dates in years are not exact
        yield trained, x, (x < trained.lower - slack) | (x > trained.upper + slack)


def require_stated_zero(where: str, index: Index, labels: np.ndarray, attrs: dict[str, Any], o: Observation) -> None:
    """Plain numbers beside dates have a meaning only where somebody said which date is 0.

    Raises:
        ValueError: they would be counted from the earliest date of the data.
    """
    if index.name not in o.implied or kind(labels, attrs) != "numbers" or seconds(attrs.get("units")) is not None:
        return
    day = _day(o.origins[index.name])
    raise ValueError(
        f"{where}: the data carry dates, and {float(labels.flat[0]):g} is a plain number. Give dates, such as "
        f"numpy.array(['{day}'], dtype='datetime64[ns]'); or say which date is {index.name} = 0, "
        f"condition(..., origin='{day}'), and give {index.units or 'days'} since then."
    )


def _day(date: Any) -> str:
    """A date as it is written; the time of day only where there is one."""
    text = str(date.astype("datetime64[s]") if isinstance(date, np.datetime64) else date)
    return text.removesuffix("T00:00:00")


def zero_dates(observations: Sequence[Observation], how: str = "origin=") -> tuple[list[str], list[str]]:
    """Which date each index counts from, one sentence an index dim: where somebody said so, and where nobody did.

    Args:
        how: what names another date, for the message.
    """
    stated, implied = list[str](), list[str]()
    for name in observations[0].origins if observations else ():
        days = sorted({_day(o.origins[name]) for o in observations if o.origins[name] is not None})
        if not days:
            continue
        if not any(name in o.implied for o in observations):
            stated.append(f"{name} = 0 is {days[0]}")
            continue
        which = f"{days[0]}, the earliest date that came in" if len(days) == 1 else "the earliest date of each data set"
        implied.append(f"{name} = 0 is {which}; {how} names another")
    return stated, implied


def warn_units(index: Index, labels: np.ndarray, attrs: Mapping[str, Any], stacklevel: int) -> None:
    """Warn where a coordinate states a unit that is neither the index's nor converted to it."""
    stated, own = str(attrs.get("units", "")).strip(), "" if index.units is None else index.units.strip()
    words = [x.lower().removesuffix("s") for x in (stated, own)]
    if not own or stated in ("", "1") or words[0] == words[1] or kind(labels, dict(attrs)) != "numbers":
        return
    if seconds(stated) is None or seconds(own) is None:
        text = f"coordinate {index.name!r} is in {stated!r}, index {index.name!r} of the model in {own!r}"
        warnings.warn(f"{text}: its numbers are read as they stand.", ObservationWarning, stacklevel + 1)


def warn_outside(
    schema: Schema,
    name: str,
    what: str,
    points: Sequence[Points],
    origins: Mapping[str, Any],
    implied: Collection[str],
    stacklevel: int,
) -> None:
    """Warn where points of a function lie outside the range that training covered; they are kept.

    Args:
        points: of each data set; origins, implied: as `Observation` has them, of the first.
    """
    index = np.concatenate([p.index for p in points])
    for trained, x, outside in outside_trained(schema, name, index):
        if n := int(outside.sum()):
            units = f" {trained.units}" if trained.units else ""
            labels, attrs = points[0].labels[trained.name], points[0].attrs.get(trained.name, {})
            of_dates = kind(labels, attrs) not in ("numbers", "durations")
            origin = None if origins.get(trained.name) is None else _day(origins[trained.name])
            text = (
                f"{name!r}: {n} of {len(x)} {what} lie outside the trained range of {trained.name!r}, "
                f"[{trained.lower:g}, {trained.upper:g}]{units} (from {x.min():g} to {x.max():g}). They are kept, and "
                "not to be trusted."
            )
            if of_dates:
                since = "the earliest date of each data set" if trained.name in implied and len(points) > 1 else origin
                text += f" {trained.name} = 0 is {since}; if another date is meant, pass origin= to condition."
            elif n == len(x) and np.ptp(x) <= trained.upper - trained.lower:
                zero = "another zero" if origin is None else f"another zero than {origin}"
                dates = "" if seconds(trained.units) is None else ", or give dates, and origin= for the date of 0"
                text += f" Are they counted from {zero}? Subtract it{dates}."
            warnings.warn(text, ObservationWarning, stacklevel + 1)
