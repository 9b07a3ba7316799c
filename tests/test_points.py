"""Dates, durations and numbers name the same points and come back as they went in."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from wildlife import DAYS, SCHEMA, hare, tree

from fsimformer.convert import (
    ObservationWarning,
    query,
    read,
)
from fsimformer.points import read_labels
from fsimformer.schema import Index, Schema, Variable


@pytest.mark.parametrize("unit", ["D", "h", "s", "ms", "us", "ns"])
def test_dates_of_any_unit_come_back_as_they_went_in(unit: str) -> None:
    t = np.array(["2020-03-05", "2020-03-01", "2020-03-03"], dtype=f"datetime64[{unit}]")
    o = read(SCHEMA, hare([1.0, np.nan, 2.0], t))  # the origin counts at a missing reading too
    assert o.channels["hare"].points.index[:, 0].tolist() == [4.0, 0.0, 2.0]
    out = tree(hare([1.0, np.nan, 2.0], t), {"hare": t, "rate": t[:1]})
    assert out["predictions/hare"].time.values == t[1]
    assert (out["posterior/rate"].time.values == t[:1]).all()


def test_numbers_dates_and_durations_name_the_same_points() -> None:
    o = read(SCHEMA, hare([1.0], DAYS[:1]))
    ways: list[Any] = [
        [1.5, 3],
        pd.DatetimeIndex([datetime(2020, 3, 2, 12), datetime(2020, 3, 4)]),
        [datetime(2020, 3, 2, 12), datetime(2020, 3, 4)],
        pd.to_timedelta([1.5, 3], unit="D"),
        [timedelta(days=1.5), timedelta(days=3)],
        xr.DataArray([36.0, 72.0], dims="i", attrs={"units": "hours"}),
        xr.DataArray([1.0, 2.5], dims="i", attrs={"units": "days since 2020-03-01 12:00"}),
    ]
    for at in ways:
        assert query(SCHEMA, o, {"rate": at}).points["rate"].index[:, 0].tolist() == [1.5, 3.0]
    for one in (2, np.float32(2), np.datetime64("2020-03-03"), date(2020, 3, 3), pd.Timestamp("2020-03-03")):
        assert query(SCHEMA, o, {"rate": one}).points["rate"].index.tolist() == [[2.0]]


def test_origin_argument_before_index_before_earliest() -> None:
    def first(index: Index, origin: Any = None) -> float:
        s = Schema((Variable("hare", "data", ("time",)),), (index,))
        return float(read(s, hare([1.0], DAYS[2:3]), origin=origin).channels["hare"].points.index[0, 0])

    assert first(Index("time", 0, 20)) == 0.0
    assert first(Index("time", 0, 20, "days", "2020-03-01")) == 2.0
    assert first(Index("time", 0, 20, "days", "2020-03-01"), "2020-03-02") == 1.0
    assert first(Index("time", 0, 80, "hours", "2020-03-01")) == 48.0
    assert first(Index("time", 0, 80, "weeks"), date(2020, 2, 18)) == 2.0
    assert first(Index("time", 0, 80, "years"), np.datetime64("2018-03-03")) == pytest.approx(731 / 365.25)


def test_undecoded_cf_units_are_read_and_given_back() -> None:
    ds = hare([1.0, np.nan, 2.0], ("time", [240.0, 264.0, 276.0], {"units": "hours since 2020-02-20"}))
    o = read(SCHEMA, ds)
    assert o.channels["hare"].points.index[:, 0].tolist() == [0.0, 1.0, 1.5]
    assert o.origins["time"] == np.datetime64("2020-03-01")
    out = tree(ds)["predictions"]["hare"]
    assert out.time_hare.values == 264.0 and out.time_hare.attrs["units"] == "hours since 2020-02-20"
    assert query(SCHEMA, o, {"rate": DAYS[1]}).points["rate"].index.tolist() == [[1.0]]


class NoLeap:
    """What is asked of a cftime date: a calendar in which February has 28 days."""

    calendar = "noleap"

    def __init__(self, year: int, month: int, day: int) -> None:
        self.parts = (year, month, day)

    def replace(self, year: int, month: int, day: int, **_: int) -> NoLeap:
        return NoLeap(year, month, day)

    def __sub__(self, other: NoLeap) -> timedelta:
        def days(parts: tuple[int, int, int]) -> int:
            return 365 * parts[0] + (date(2001, *parts[1:]) - date(2001, 1, 1)).days

        return timedelta(days=days(self.parts) - days(other.parts))

    def __lt__(self, other: NoLeap) -> bool:
        return self.parts < other.parts


def test_cftime_dates_count_in_their_own_calendar() -> None:
    t = np.array([NoLeap(2020, 3, 1), NoLeap(2020, 2, 28)], dtype=object)
    o = read(SCHEMA, hare([1.0, 2.0], t))
    assert o.channels["hare"].points.index[:, 0].tolist() == [1.0, 0.0]
    assert o.channels["hare"].points.labels["time"].tolist() == t.tolist()
    o = read(SCHEMA, hare([1.0, 2.0], t), origin="2020-02-27")
    assert o.channels["hare"].points.index[:, 0].tolist() == [2.0, 1.0]


def test_nanoseconds_neither_overflow_nor_vanish() -> None:
    s = Schema((Variable("hare", "data", ("time",)),), (Index("time", 0, 1, "seconds", "1500-01-01"),))
    fine = Schema((Variable("hare", "data", ("time",)),), (Index("time", 0, 1e-6, "s"),))
    t = np.array(["2020-01-01T00:00:00.000000000", "2020-01-01T00:00:00.000000250"], dtype="datetime64[ns]")
    with pytest.warns(ObservationWarning, match="trained range"):
        far = read(s, hare([1.0, 2.0], t)).channels["hare"].points.index
    assert far[0, 0] == (datetime(2020, 1, 1) - datetime(1500, 1, 1)).total_seconds()
    assert read(fine, hare([1.0, 2.0], t)).channels["hare"].points.index[1, 0] == pytest.approx(2.5e-7, rel=1e-12)


def test_a_copy_is_kept_not_the_callers_array() -> None:
    t = np.array([1.0, 2.0])
    q = query(SCHEMA, read(SCHEMA, None), {"rate": t})
    t[0] = 9.0
    assert q.points["rate"].labels["time"].tolist() == [1.0, 2.0]
    assert read_labels("", pd.array([1, None], dtype="Int64")).tolist()[0] == 1.0
