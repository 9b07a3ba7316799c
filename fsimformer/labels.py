"""The user's coordinate as a plain array of labels: numbers, dates without a time zone, durations, or cftime dates."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from fsimformer.numeric import gaps, plain_array, read_numbers, require_decoded
from fsimformer.units import require_within


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
    out = plain_array(where, raw)
    require_decoded(where, out, getattr(raw, "attrs", {}))
    if out.dtype.kind in "mM":
        unit = np.datetime_data(out.dtype)[0]
        if out.dtype.kind == "m" and unit in ("Y", "M"):
            raise ValueError(f"{where}: durations in calendar months or years have no fixed length, got {out.dtype}.")
        if unit in ("ps", "fs", "as"):
            raise ValueError(f"{where}: expected nanoseconds at the finest, got dtype {out.dtype}.")
        require_within(where, out)
    if out.dtype.kind in "iufmM":
        return out
    if out.dtype.kind != "O":
        hint = "; turn text into dates with pandas.to_datetime" if out.dtype.kind in "UST" else ""
        raise ValueError(f"{where}: expected numbers, dates or durations, got dtype {out.dtype}{hint}.")
    return _from_objects(where, out)


def _from_objects(where: str, out: np.ndarray) -> np.ndarray:
    absent = gaps(where, out)
    held = out[~absent].ravel()
    first: Any = held[0] if held.size else np.nan
    if (zoned := next((x for x in held if getattr(x, "tzinfo", None) is not None), None)) is not None:
        raise ValueError(
            f"{where}: dates carry the time zone {zoned.tzinfo}; drop it first, say with "
            ".tz_convert('UTC').tz_localize(None)."
        )
    if all(isinstance(x, (Real, Decimal)) and not isinstance(x, bool) for x in held):
        return read_numbers(where, out)
    if all(isinstance(x, (date, np.datetime64)) for x in held):
        return _one_unit(where, out, absent)
    if all(isinstance(x, (timedelta, np.timedelta64)) for x in held):
        return np.where(absent, np.timedelta64("NaT"), out).astype("timedelta64[us]")
    if all(hasattr(x, "calendar") and hasattr(x, "replace") for x in held):  # cftime, which stays optional
        if len(calendars := {str(x.calendar): None for x in held}) > 1:
            raise ValueError(f"{where}: expected dates of one calendar, got {list(calendars)}.")
        return out
    hint = "; turn text into dates with pandas.to_datetime" if isinstance(first, str) else ""
    hint = "; periods become dates by .to_timestamp()" if isinstance(first, pd.Period) else hint
    raise ValueError(f"{where}: expected numbers, dates or durations, got objects such as {first!r}{hint}.")


def _one_unit(where: str, objects: np.ndarray, absent: np.ndarray) -> np.ndarray:
    """Objects of date, datetime, Timestamp or datetime64 as microseconds, or finer where one of them is."""
    each = [
        np.datetime64("NaT", "us") if gone else x.to_datetime64() if isinstance(x, pd.Timestamp) else np.datetime64(x)
        for x, gone in zip(objects.ravel(), absent.ravel(), strict=True)
    ]
    for x in each:
        require_within(where, np.asarray(x))
    whole = np.array([x.astype("datetime64[s]") for x in each])
    out = np.array([*each, np.datetime64("NaT", "us")])[:-1]
    if not np.array_equal(out.astype("datetime64[s]"), whole, equal_nan=True):  # far dates beside nanoseconds
        out = np.array(each, dtype="datetime64[us]")
    return out.reshape(objects.shape)
