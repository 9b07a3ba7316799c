"""Units of time, and CF's "days since 2020-01-01": how long, and since when.

CF's calendars "standard" and "gregorian" are Julian before 15 October 1582 (CF conventions, 4.4.1), numpy's datetime64
is Gregorian throughout: a date of the former is given as the day that it was, whatever the calendar calls it.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

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
_MIXED, _PROLEPTIC = ("none", "standard", "gregorian"), ("proleptic_gregorian",)
_SINCE = re.compile(r"\s*(\S.*?)\s+since\s+(\S.*?)\s*", re.IGNORECASE)
_ISO = re.compile(r"(?!0000)(\d{4}|\d{8}|\d{4}-\d\d(-\d\d([T ]\d\d(:?\d\d(:?\d\d(\.\d{1,9})?)?)?)?)?)")
_CF_DATE = re.compile(r"(\d+)(?:-(\d+)(?:-(\d+)(?:[T\s]+(\d+)(?::(\d+)(?::(\d+)(\.\d+)?)?)?)?)?)?")
_ZONE = re.compile(r"(?<=:\d\d)(\.\d+)?\s*(Z|UTC|[+-]\d\d?(:?\d\d)?)$", re.IGNORECASE)
_MOST_YEARS = 10**9  # seconds within are far from the ends of int64


def seconds(units: object) -> float | None:
    """Seconds in one unit of time ("days", "hour", "yr" = 365.25 days, ...); None where it is no unit of time."""
    word = str(units).strip().lower()
    return _SECONDS.get(word, _SECONDS.get(word.removesuffix("s")))


def since_of(units: object) -> tuple[str, str] | None:
    """The two halves of "days since 2020-01-01"; None where it is nothing of the kind."""
    found = _SINCE.fullmatch(str(units))
    return None if found is None else (found[1], found[2])


def read_cf(where: str, unit: str, since: str, attrs: dict[str, Any]) -> tuple[float, np.datetime64]:
    """Seconds in a unit of "days since 2020-01-01", and the date.

    Raises:
        ValueError: no unit of time, a calendar other than Gregorian, no date, or one with a time zone.
    """
    length, calendar = seconds(unit), str(attrs.get("calendar", "none")).lower()
    if length is None or calendar not in (*_MIXED, *_PROLEPTIC):
        named = f" in calendar {attrs['calendar']!r}" if "calendar" in attrs else ""
        raise ValueError(
            f"{where}: cannot read the units {f'{unit} since {since}'!r}{named}; decode them with xarray.decode_cf."
        )
    where = f"{where}, units {f'{unit} since {since}'!r}"
    found = _CF_DATE.fullmatch(since)
    if found is None:
        if _ZONE.search(since):
            raise ValueError(
                f"{where}: expected a date without time zone, got {since!r}; decode with xarray.decode_cf."
            )
        raise ValueError(f"{where}: expected a date such as '2020-01-31', got {since!r}.")
    year, month, day = int(found[1]), int(found[2] or 1), int(found[3] or 1)
    clock = [int(x or 0) for x in found.groups()[3:6]]
    try:
        day0 = _day(year, month, day, calendar in _MIXED)
        if clock[0] > 23 or max(clock[1:]) > 59:
            raise ValueError("no such time of day")
    except ValueError as error:
        raise ValueError(f"{where}: expected a date such as '2020-01-31', got {since!r}: {error}.") from None
    whole = day0.astype("datetime64[us]") + np.timedelta64(3600 * clock[0] + 60 * clock[1] + clock[2], "s")
    return length, whole + np.timedelta64(round(float(found[7] or 0) * 1e6), "us")


def _day(year: int, month: int, day: int, mixed: bool) -> np.datetime64:
    """A day by its name; in the mixed calendar a name before the reform is Julian."""
    if year > 9999:
        raise ValueError("expected a year of at most four digits")
    if not mixed or (year, month, day) >= (1582, 10, 15):
        return np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "D")
    if (year, month, day) > (1582, 10, 4):
        raise ValueError("the calendar leaves these ten days of 1582 out")
    like = 2000 if year % 4 == 0 else 2001  # Julian: every fourth year leaps; numpy knows which days there are
    np.datetime64(f"{like}-{month:02d}-{day:02d}", "D")
    a = (14 - month) // 12
    y, m = year + 4800 - a, month + 12 * a - 3
    julian_day = day + (153 * m + 2) // 5 + 365 * y + y // 4 - 32083
    return np.datetime64(julian_day - 2440588, "D")  # 2440588: 1 January 1970


def read_date(where: str, given: Any) -> Any:
    """A date (ISO string, datetime, datetime64, Timestamp; cftime as it is) as datetime64.

    Raises:
        ValueError: anything else. "12:30" or "now" would be today, 01/02/2020 is a matter of taste.
    """
    if hasattr(given, "calendar") and hasattr(given, "replace"):
        return given
    try:
        text = given.strip() if isinstance(given, str) else None
        if text is not None and not _ISO.fullmatch(_ZONE.sub("", text)):
            raise ValueError("no ISO date")
        if text is None and not hasattr(given, "year") and not isinstance(given, np.datetime64):
            raise TypeError("no date")
        stamp = pd.Timestamp(given)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{where}: expected a date such as '2020-01-31', got {given!r}.") from error
    if pd.isna(stamp) or stamp.tzinfo is not None:
        raise ValueError(f"{where}: expected a date without time zone, got {given!r}.")
    return stamp.to_datetime64()


def require_within(where: str, dates: np.ndarray) -> None:
    """Dates or durations whose seconds an int64 can hold: numpy would wrap around without a word.

    Raises:
        ValueError: some lie further off.
    """
    if dates.dtype.kind == "M":
        years: np.ndarray = dates.astype("datetime64[Y]").astype(np.int64)
    else:
        years = dates.astype("timedelta64[W]").astype(np.int64) // 52
    far = ((years > _MOST_YEARS) | (years < -_MOST_YEARS)) & ~np.isnat(dates)
    if far.any():
        what = "dates" if dates.dtype.kind == "M" else "durations"
        raise ValueError(f"{where}: {int(far.sum())} of {far.size} {what} lie beyond {_MOST_YEARS:,} years.")


def require_span(where: str, span: float, unit: float) -> None:
    """So many units of so many seconds, before they are added to a date.

    Raises:
        ValueError: as `require_within`.
    """
    if not abs(span) * unit < 200_000 * _SECONDS["year"]:  # microseconds in an int64
        raise ValueError(f"{where}: {span:g} units of {unit:g} s are no distance of dates.")
