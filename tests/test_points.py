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
    read_many,
)
from fsimformer.labels import read_labels
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
    o = read(SCHEMA, hare([1.0], DAYS[:1]), origin=DAYS[0])
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


@pytest.mark.parametrize("at", [[1.5, 3.0], 2, slice(0, 3), np.array([1905])])
def test_plain_numbers_beside_dates_are_refused_unless_their_zero_was_stated(at: Any) -> None:
    """Counted from the data's own first date they would be a guess: another data set has another one."""
    message = (
        r"at: 'rate', 'time': the data carry dates, and [\d.]+ is a plain number. Give dates, such as "
        r"numpy.array\(\['2020-03-01'\], .*; or say which date is time = 0, condition\(..., origin='2020-03-01'\), and "
        "give days since then"
    )
    ds = hare([1.0, np.nan, 2.0], DAYS[:3])
    with pytest.raises(ValueError, match=message):
        query(SCHEMA, read(SCHEMA, ds), {"rate": at})
    if not isinstance(at, np.ndarray):
        assert len(query(SCHEMA, read(SCHEMA, ds, origin="2020-03-01"), {"rate": at}))
        assert len(query(SCHEMA, read(SCHEMA, hare([1.0, 2.0], [0.0, 3.0])), {"rate": at}))
    two_days = xr.DataArray([48.0], dims="i", attrs={"units": "hours"})
    assert query(SCHEMA, read(SCHEMA, ds), {"rate": two_days}).points["rate"].index.tolist() == [[2.0]]


def years(*times: Any, origin: str | None = "1900-01-01") -> tuple[Schema, xr.Dataset]:
    schema = Schema((Variable("hare", "data", ("time",)),), (Index("time", 0, 25, "years", origin),))
    return schema, hare(np.ones(len(times)), list(times))


@pytest.mark.parametrize(
    ("schema", "observed", "hint"),
    [
        (*years(1905, 1920), r"Are they counted from another zero than 1900-01-01. Subtract it, or give dates, and"),
        (
            *years(1905, 1920, origin=None),
            r"Are they counted from another zero. Subtract it, or give dates, and origin=",
        ),
        (*years(5.0, 30.0), "not to be trusted.$"),  # some lie inside: the zero is right
        (*years(100.0, 150.0), "not to be trusted.$"),  # no shift brings them inside
        (
            *years(*pd.to_datetime(["1950-01-01", "1960-01-01"])),
            "time = 0 is 1900-01-01; if another date is meant, pass origin= to condition.$",
        ),
        (
            *years(*pd.to_datetime(["1950-01-01 12:00", "1990-01-01 00:00"]), origin=None),
            "time = 0 is 1950-01-01T12:00:00; if another date is meant, pass origin=",
        ),
    ],
)
def test_what_lies_outside_the_trained_range_may_have_another_zero(
    schema: Schema, observed: xr.Dataset, hint: str
) -> None:
    with pytest.warns(ObservationWarning, match=hint):
        read(schema, observed)


def test_places_of_another_zero_are_no_dates() -> None:
    schema = Schema((Variable("hare", "data", ("time",)),), (Index("time", 0, 25, "km"),))
    with pytest.warns(ObservationWarning, match="Are they counted from another zero. Subtract it.$"):
        read(schema, hare([1.0], [30.0]))


def test_each_data_set_of_a_batch_has_its_own_zero() -> None:
    schema, _ = years(origin=None)
    t = pd.to_datetime(["1950-01-01", "1990-01-01", "1960-01-01", "1970-01-01"]).to_numpy().reshape(2, 2)
    many = xr.Dataset({"hare": (("site", "i"), np.ones((2, 2)))}, {"time": (("site", "i"), t)})
    with pytest.warns(ObservationWarning, match="1 of 4 readings .*time = 0 is the earliest date of each data set; if"):
        read_many(schema, many, "site")
