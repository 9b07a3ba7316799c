"""Places of a variable: the user's own coordinates beside the float64 numbers that tokens carry.

Numbers in a coordinate are index units since index 0. Durations are divided by the index's unit; dates are counted
from the origin. Labels are kept as they came, so the way home needs no inverse: the date that went in comes out.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from fsimformer.schema import Index, Schema


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


_SECONDS = {
    **dict.fromkeys(("second", "sec", "s"), 1.0),
    **dict.fromkeys(("minute", "min"), 60.0),
    **dict.fromkeys(("hour", "hr", "h"), 3600.0),
    **dict.fromkeys(("day", "d"), 86400.0),
    **dict.fromkeys(("week", "w"), 7 * 86400.0),
    **dict.fromkeys(("month",), 365.25 / 12 * 86400.0),
    **dict.fromkeys(("year", "yr", "a"), 365.25 * 86400.0),
    **dict.fromkeys(("millisecond", "ms"), 1e-3),
    **dict.fromkeys(("microsecond", "us"), 1e-6),
    **dict.fromkeys(("nanosecond", "ns"), 1e-9),
}
_CALENDARS = (None, "standard", "gregorian", "proleptic_gregorian")


def seconds(units: object) -> float | None:
    """Seconds in one unit of time ("days", "hour", "yr" = 365.25 days, ...); None where it is no unit of time."""
    word = str(units).strip().lower()
    return _SECONDS.get(word, _SECONDS.get(word.removesuffix("s")))


def missing(labels: np.ndarray) -> np.ndarray:
    """(n,) bool: NaN, NaT, None, or an infinite number."""
    if labels.dtype.kind == "f":
        return ~np.isfinite(labels)
    return np.asarray(pd.isna(labels), dtype=bool)


def read_labels(where: str, raw: Any) -> np.ndarray:
    """The user's coordinate as a new plain array: numbers, datetime64, timedelta64, or cftime objects.

    Args:
        where: what the coordinate belongs to, for messages.
        raw: numpy scalar or array, list, pandas Index or Series, DataArray.

    Raises:
        ValueError: strings, bools, time zones, other objects.
    """
    # a copy: the caller's array may change later. A lone Timestamp would lose its zone in to_numpy
    out = np.array(raw.to_numpy() if hasattr(raw, "to_numpy") and not isinstance(raw, date) else raw)
    if out.dtype.kind == "m" and np.datetime_data(out.dtype)[0] in ("Y", "M"):
        raise ValueError(f"{where}: durations in calendar months or years have no fixed length, got {out.dtype}.")
    if out.dtype.kind in "iufmM":
        return out
    if out.dtype.kind != "O":
        hint = "; turn text into dates with pandas.to_datetime" if out.dtype.kind in "UST" else ""
        raise ValueError(f"{where}: expected numbers, dates or durations, got dtype {out.dtype}{hint}.")
    held = out[~pd.isna(out)].ravel()
    first: Any = held[0] if held.size else np.nan
    if any(getattr(x, "tzinfo", None) is not None for x in held):
        raise ValueError(
            f"{where}: dates carry the time zone {first.tzinfo}; drop it first, say with "
            ".tz_convert('UTC').tz_localize(None)."
        )
    if all(isinstance(x, (Number, Decimal)) and not isinstance(x, (bool, complex)) for x in held):
        return np.where(pd.isna(out), np.nan, out).astype(np.float64)
    if all(isinstance(x, (date, np.datetime64)) for x in held):
        return np.where(pd.isna(out), np.datetime64("NaT"), out).astype("datetime64[us]")
    if all(isinstance(x, (timedelta, np.timedelta64)) for x in held):
        return np.where(pd.isna(out), np.timedelta64("NaT"), out).astype("timedelta64[us]")
    if all(hasattr(x, "calendar") and hasattr(x, "replace") for x in held):  # cftime, which stays optional
        return out
    hint = "; turn text into dates with pandas.to_datetime" if isinstance(first, str) else ""
    raise ValueError(f"{where}: expected numbers, dates or durations, got objects such as {first!r}{hint}.")


def kind(labels: np.ndarray, attrs: dict[str, Any]) -> str:
    """ "numbers", "durations", "dates", "cftime dates", or undecoded CF units such as "days since 2020-01-01"."""
    names = {"m": "durations", "M": "dates", "O": "cftime dates"}
    if labels.dtype.kind in names:
        return names[labels.dtype.kind]
    units = str(attrs.get("units", ""))
    return units if " since " in units else "numbers"


def read_date(where: str, given: Any) -> Any:
    """A date (ISO string, datetime, datetime64, Timestamp; cftime as it is) as datetime64."""
    if hasattr(given, "calendar") and hasattr(given, "replace"):
        return given
    try:
        if isinstance(given, Number):
            raise TypeError("a number is no date")
        stamp = pd.Timestamp(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a date such as '2020-01-31', got {given!r}.") from error
    if pd.isna(stamp) or stamp.tzinfo is not None:
        raise ValueError(f"{where}: expected a date without time zone, got {given!r}.")
    return stamp.to_datetime64()


def _cf(where: str, units: str, attrs: dict[str, Any]) -> tuple[float, np.datetime64]:
    """Seconds in a unit of "days since 2020-01-01", and the date."""
    unit, _, since = units.partition(" since ")
    length = seconds(unit)
    if length is None or attrs.get("calendar") not in _CALENDARS:
        calendar = f" in calendar {attrs['calendar']!r}" if "calendar" in attrs else ""
        raise ValueError(f"{where}: cannot read the units {units!r}{calendar}; decode them with xarray.decode_cf.")
    return length, read_date(f"{where}, units {units!r}", since)


def earliest(where: str, labels: np.ndarray, attrs: dict[str, Any]) -> Any:
    """The earliest date of a coordinate without gaps; None where it holds numbers or durations."""
    what = kind(labels, attrs)
    if what in ("numbers", "durations") or not labels.size:
        return None
    if " since " not in what:
        return min(labels) if labels.dtype == object else labels.min()
    length, since = _cf(where, what, attrs)
    return since + np.timedelta64(round(float(labels.min()) * length * 1e6), "us")


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
    """
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
            day = pd.Timestamp(origin)
            parts = ("year", "month", "day", "hour", "minute", "second", "microsecond")
            origin = labels[0].replace(**{part: getattr(day, part) for part in parts})
        return np.array([(t - origin).total_seconds() / unit for t in labels], dtype=np.float64)
    if not isinstance(origin, np.datetime64):
        raise ValueError(f"{where}: got {what}, but {index.name} = 0 is the cftime date {origin}.")
    if what == "dates":
        return _seconds_between(labels, origin) / unit
    length, since = _cf(where, what, attrs)
    return labels.astype(np.float64) * (length / unit) + _seconds_between(since, origin) / unit


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
