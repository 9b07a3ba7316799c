"""Inputs that mean nothing: each has one thing wrong, and what is beside it differs from draw to draw."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import cftime
import numpy as np
import pandas as pd
import torch
import xarray as xr
from hostile_cases import Case, Rng

Make = Callable[[Rng], Any]


def series(values: Any, times: Any = None, name: str = "lynx", **attrs: Any) -> xr.Dataset:
    """A series of two readings, or of as many as there are values."""
    times = np.arange(len(values), dtype=float) if times is None else times
    return xr.Dataset({name: ("time", values)}, {"time": ("time", times, attrs)})


def frame(rng: Rng, **columns: Any) -> pd.DataFrame:
    """A long frame of two readings of lynx."""
    held = {"time": [0.0, float(rng.integers(1, 20))], "variable": "lynx", "value": rng.normal(size=2)}
    return pd.DataFrame(held | columns, index=range(2))


def objects(*x: Any) -> np.ndarray:
    return np.array([*x, None], object)[:-1]


def _value(rng: Rng, wrong: Any) -> Any:
    """One wrong value among numbers, in a series or alone in a mapping."""
    if rng.random() < 0.3:
        return {"total": wrong}
    values = objects(1.0, float(rng.integers(9)), wrong)
    return series(values[rng.permutation(3)])


def _time(rng: Rng, wrong: Any, like: str = "number") -> Any:
    """One wrong place among numbers, dates or durations."""
    fine = {
        "number": [0.0, float(rng.integers(1, 9))],
        "date": [dt.datetime(2020, 2, 28), dt.datetime(2020, 2, 29)],
        "duration": [dt.timedelta(1), dt.timedelta(2)],
    }[like]
    labels = objects(*fine, wrong)[rng.permutation(3)]
    if rng.random() < 0.3:
        return pd.DataFrame({"time": labels, "variable": "lynx", "value": [1.0, 2.0, 3.0]})
    return series([1.0, 2.0, 3.0], labels)


VALUES: dict[str, Make] = {
    "text among values": lambda r: _value(r, r.choice(["1", "n/a", "", "1,5", "five"])),
    "bytes as a value": lambda r: {"total": bytes(r.integers(0, 255, 3).tolist())},
    "complex values": lambda r: _value(r, complex(r.normal(), r.normal())),
    "complex dtype": lambda r: series(np.array([1, 2 + 0j], r.choice(["c8", "c16"]))),
    "dates as values": lambda r: series(np.array(["2020-01-01", "2020-01-02"], f"M8[{r.choice(['s', 'ns'])}]")),
    "durations as values": lambda r: series(np.array([1, 2], f"m8[{r.choice(['s', 'ns'])}]")),
    "an integer beyond all doubles": lambda r: _value(r, int(r.choice([-1, 1])) * 10 ** int(r.integers(309, 999))),
    "a signalling NaN": lambda r: _value(r, Decimal("sNaN")),
    "a decimal beyond all doubles": lambda r: _value(r, Decimal(f"1e{r.integers(309, 9999)}")),
    "infinite values": lambda r: series([1.0, float(r.choice([-np.inf, np.inf]))]),
    "values off the support": lambda r: series([1.0, -float(r.integers(0, 99))], name="hare"),
    "the end of a support": lambda r: {"alpha": float(r.integers(0, 2))},
    "arrays in an array": lambda r: series(objects(np.zeros(1), np.zeros(int(r.integers(2, 4))))),
    "records": lambda r: {"total": np.zeros((), [("a", "f8")])},
    "ragged lists": lambda r: {"weights": [[1.0], [2.0] * int(r.integers(2, 4)), 3.0]},
    "text of a dtype": lambda r: series(np.array(["1", "2"])),
    "any object": lambda r: _value(r, object()),
    "an iterator": lambda r: {"weights": iter([1.0, 2.0, 3.0])},
    "a packed scale": lambda r: _attributes(r, {"scale_factor": float(r.integers(2, 8)) / 8}),
    "a packed offset": lambda r: _attributes(r, {"add_offset": float(r.integers(1, 9))}),
    "a fill value": lambda r: _attributes(r, {str(r.choice(["_FillValue", "missing_value"])): 2.0}),
    "gaps in an array": lambda r: {"image": np.where(np.eye(2, 3) > 0, np.nan, 1.0)},
    "something that will not be an array": lambda r: {"total": _Refuses()},
}


class _Refuses:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("no")


def _attributes(r: Rng, attrs: dict[str, Any]) -> xr.Dataset:
    out = series([1.0, 2.0, float(r.integers(3, 9))])
    out["lynx"].attrs |= attrs
    return out


TIMES: dict[str, Make] = {
    "a missing place": lambda r: _time(
        r, *[(np.nan, "number"), (None, "number"), (pd.NaT, "date"), (None, "duration")][int(r.integers(4))]
    ),
    "an infinite place": lambda r: series([1.0, 2.0], [0.0, float(r.choice([-np.inf, np.inf]))]),
    "text among places": lambda r: _time(
        r, str(r.choice(["2020-01-01", "soon", "1"])), str(r.choice(["number", "date"]))
    ),
    "dates as text": lambda r: series([1.0, 2.0], np.array(["2020-01-01", "2020-01-02"])),
    "true and false": lambda r: series([1.0, 2.0], [True, False]),
    "complex places": lambda r: _time(r, [1j, np.complex64(1), np.complex128(2)][int(r.integers(3))]),
    "a zone": lambda r: series(
        [1.0, 2.0], pd.date_range("2020", periods=2, tz=str(r.choice(["UTC", "Europe/Berlin", "Asia/Kolkata"])))
    ),
    "a zone in one of the dates": lambda r: _time(r, dt.datetime(2020, 3, 1, tzinfo=dt.UTC), "date"),
    "a zone in a frame": lambda r: frame(r, time=pd.date_range("2020", periods=2, tz="UTC")),
    "periods": lambda r: series(
        [1.0, 2.0], pd.period_range("2020", periods=2, freq=str(r.choice(["D", "W", "M", "Y"])))
    ),
    "intervals": lambda r: series([1.0, 2.0], pd.interval_range(0, 2)),
    "times of the day": lambda r: _time(r, dt.time(12), str(r.choice(["number", "date"]))),
    "dates among numbers": lambda r: _time(r, dt.datetime(2020, 1, 1), "number"),
    "dates among durations": lambda r: _time(r, dt.datetime(2020, 1, 1), "duration"),
    "two calendars": lambda r: series(
        [1.0, 2.0], objects(cftime.DatetimeNoLeap(2020, 1, 1), cftime.Datetime360Day(2020, 1, 2))
    ),
    "cftime among dates": lambda r: _time(r, cftime.DatetimeNoLeap(2020, 3, 1), "date"),
    "a calendar that numbers do not tell": lambda r: series(
        [1.0, 2.0], units="days since 2020-01-01", calendar=str(r.choice(["noleap", "360_day", "julian", "martian"]))
    ),
    "units since never": lambda r: series(
        [1.0, 2.0],
        units=f"days since {r.choice(['once', '2020-02-30', '2021-02-29', '2020-13-01', '01/02/2020', '12:30'])}",
    ),
    "units of no time": lambda r: series(
        [1.0, 2.0], units=f"{r.choice(['moons', 'kg', 'fortnights'])} since 2020-01-01"
    ),
    "a zone in the units": lambda r: series(
        [1.0, 2.0], units=f"hours since 2020-01-01 00:00{r.choice(['Z', ' UTC', '+02:00', ' -5:00'])}"
    ),
    "days that the reform left out": lambda r: series([1.0, 2.0], units="days since 1582-10-10", calendar="standard"),
    "a place out of all proportion": lambda r: series(
        [1.0, 2.0], [0.0, float(r.choice([-1, 1])) * 10.0 ** int(r.integers(21, 300))]
    ),
    "an integer place beyond all doubles": lambda r: _time(r, 10 ** int(r.integers(309, 999))),
    "dates beyond all seconds": lambda r: frame(r, time=objects(np.datetime64("2020"), np.datetime64(10**12, "Y"))),
    "a span of dates beyond all seconds": lambda r: series([1.0, 2.0], [1e30, 2e30], units="days since 2020-01-01"),
    "packed places": lambda r: series([1.0, 2.0], scale_factor=0.5),
    "a fill value among places": lambda r: series([1.0, 2.0], [0.0, 9.0], _FillValue=9.0),
    "an index object": lambda r: series(
        [1.0, 2.0], pd.MultiIndex.from_arrays([[0, 1], [0, 1]], names=["a", "b"]).to_flat_index()
    ),
    "dates of an index that is no time": lambda r: xr.Dataset(
        {"height": (("x", "time"), [[1.0]])}, {"x": np.array(["2020"], "M8[s]"), "time": [1.0]}
    ),
}


def _conflict(r: Rng) -> Any:
    weights = xr.DataArray([1.0, 2.0, 3.0], {"part": ["a", "b", "c"]}, ("part",))
    counts = xr.DataArray([[1.0, 2.0, 3.0]], {"time": [0.0], "part": ["c", "b", "a"]}, ("time", "part"))
    return {"weights": weights, "counts": counts}


SHAPES: dict[str, Make] = {
    "an unknown variable": lambda r: series([1.0, 2.0], name=str(r.choice(["fox", "Lynx", "lynx ", ""]))),
    "a name that is no text": lambda r: xr.Dataset({[1, None, ("lynx",), 2.5][int(r.integers(4))]: ("time", [1.0])}),
    "a variable as coordinate": lambda r: xr.Dataset(coords={"alpha": float(r.random())}),
    "no coordinate": lambda r: xr.Dataset({"lynx": ("time", r.normal(size=3))}),
    "a coordinate of another name": lambda r: xr.Dataset({"lynx": ("date", [1.0])}, {"date": [0.0]}),
    "a coordinate along another dim": lambda r: xr.Dataset({"lynx": ("i", [1.0])}, {"time": ("j", [0.0])}),
    "one dim too many": lambda r: series([1.0, 2.0]).expand_dims(region=int(r.integers(2, 4))),
    "a dim twice": lambda r: xr.Dataset({"lynx": xr.Variable(("time", "time"), np.ones((2, 2)))}, {"time": [0.0, 1.0]}),
    "length zero": lambda r: series([]),
    "a vector of another size": lambda r: {"weights": r.normal(size=int(r.choice([1, 2, 4])))},
    "a scalar of many": lambda r: {"total": r.normal(size=int(r.integers(2, 5)))},
    "an array of another size": lambda r: {"image": np.ones((2, int(r.choice([2, 4]))))},
    "a component twice": lambda r: xr.Dataset(
        {"weights": ("part", [1.0, 2.0, 3.0])}, {"part": [0, 1, int(r.integers(0, 2))]}
    ),
    "components in two orders": _conflict,
    "components that are not there": lambda r: xr.Dataset(coords={"part": range(int(r.choice([1, 2, 4])))}),
    "coordinates of two kinds": lambda r: {
        "lynx": series([1.0]).lynx,
        "hare": series([1.0], np.array(["2020"], "M8[s]"), "hare").hare,
    },
    "bare values of a function": lambda r: {"lynx": r.normal(size=3)},
    "a pair of dim and values": lambda r: {"lynx": ("time", [1.0, 2.0]), "weights": ("part", [1.0, 2.0, 3.0])},
    "what is no data": lambda r: [
        3.0,
        "outbreak.nc",
        [series([1.0])],
        {"lynx"},
        np.ones(3),
        torch.ones(3),
        object(),
        len,
        pd.Series([1.0]),
        xr.DataTree(series([1.0])),
    ][int(r.integers(10))],
    "what is no value": lambda r: {
        "lynx": ["x", None, {"a": 1}, series([1.0]), pd.DataFrame({"a": [1.0, 2.0]})][int(r.integers(5))]
    },
    "a DataArray without a name": lambda r: series([1.0]).lynx.rename(None),
    "a Series with doubled places": lambda r: {
        "height": pd.Series([1.0, 2.0], pd.MultiIndex.from_tuples([(0.0, 1.0)] * 2, names=["x", "time"]))
    },
    "a Series without a name for its places": lambda r: {"lynx": pd.Series([1.0, 2.0], [0.5, 1.5])},
}

FRAMES: dict[str, Make] = {
    "a wide frame": lambda r: pd.DataFrame({"time": [0.0, 1.0], "lynx": r.normal(size=2)}),
    "an empty frame": lambda r: [pd.DataFrame(), frame(r).iloc[:0]][int(r.integers(2))],
    "an unknown column": lambda r: frame(r, comment="x"),
    "a column twice": lambda r: pd.concat([frame(r), frame(r)[[str(r.choice(["time", "variable", "value"]))]]], axis=1),
    "a column that is the index as well": lambda r: frame(r).set_index("time", drop=False),
    "a level without a name": lambda r: frame(r).set_index(
        pd.MultiIndex.from_tuples([(0, 1), (0, 2)], names=["x", None])
    ),
    "columns of two levels": lambda r: pd.concat({"a": frame(r)}, axis=1),
    "columns without names": lambda r: pd.DataFrame([[0.0, "lynx", 1.0]]),
    "a row without a variable": lambda r: frame(r, variable=["lynx", None]),
    "an unknown variable in a frame": lambda r: frame(r, variable=[str(r.choice(["fox", "Lynx", ""])), "lynx"]),
    "a variable that is a number": lambda r: frame(r, variable=[1, 2]),
    "text in a frame": lambda r: frame(r, value=pd.array(["1", "2"], dtype=[object, "string"][int(r.integers(2))])),
    "a component by name": lambda r: frame(r, variable="weights", time=np.nan, part=["a", "b"]),
    "half a component": lambda r: frame(r, variable="weights", time=np.nan, part=[0.0, 0.5]),
    "a component too many": lambda r: frame(r, variable="weights", time=np.nan, part=[0, int(r.choice([-1, 3, 99]))]),
    "a component twice in a frame": lambda r: frame(r, variable="weights", time=np.nan, part=[1, 1]),
    "a vector without components": lambda r: frame(r, variable="weights", time=np.nan),
    "a series without places": lambda r: frame(r, time=np.nan),
    "a scalar with a place": lambda r: frame(r, variable="total"),
    "a scalar twice": lambda r: frame(r, variable="total", time=np.nan),
    "an array in rows": lambda r: frame(r, variable="image", time=np.nan),
    "periods in a frame": lambda r: frame(r, time=pd.period_range("2020", periods=2)),
    "complex numbers in a frame": lambda r: frame(r, value=[1j, 2.0]),
}

ORIGINS: dict[str, Make] = {
    "an origin that is no date": lambda r: [
        "soon",
        "",
        "now",
        "today",
        "12:30",
        "01/02/2020",
        "2020Q1",
        3,
        2020,
        True,
        np.nan,
        pd.NaT,
        [1],
        {},
        b"2020",
        dt.timedelta(1),
        "2020-02-30",
        "5",
        np.datetime64(10**12, "Y"),
    ][int(r.integers(19))],
    "an origin with a zone": lambda r: [
        "2020-01-01T00:00Z",
        "2020-01-01 00:00:00+02:00",
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
        pd.Timestamp("2020", tz="UTC"),
    ][int(r.integers(4))],
}

QUESTIONS: dict[str, Make] = {
    "asked by text": lambda r: [str(r.choice(["soon", "2020-01-01"])), ["a"], objects(1.0, "b")][int(r.integers(3))],
    "asked by nothing": lambda r: [[], None, ..., [None], [np.nan], np.array([np.inf])][int(r.integers(6))],
    "asked by what is no number": lambda r: [
        [1j],
        [True],
        {1.0},
        object(),
        iter([1.0]),
        [[1.0], [1.0, 2.0]],
        objects(np.complex64(1)),
    ][int(r.integers(7))],
    "asked in the wrong shape": lambda r: [[[1.0]], pd.DataFrame({"time": [1.0]}), np.ones((2, 2, 2))][
        int(r.integers(3))
    ],
    "asked beyond all doubles": lambda r: [[10 ** int(r.integers(309, 999))], [1e300], [2.0**90]][int(r.integers(3))],
    "asked by a masked point": lambda r: np.ma.MaskedArray([1.0, 5.0], [False, True]),
    "asked by other names": lambda r: {str(r.choice(["Time", "x", ""])): [1.0]},
    "asked by a slice that means nothing": lambda r: slice(
        *[("a", "b"), (1j, None), (np.nan, None), (50, 60), (3, 1), (0, 5, 2), ([], None)][int(r.integers(7))]
    ),
    "asked by dates without an origin": lambda r: [
        dt.date(2020, 1, 1),
        np.array(["2020"], "M8[s]"),
        pd.date_range("2020", periods=2, tz="UTC"),
    ][int(r.integers(3))],
    "asked by durations of no length": lambda r: np.array([1], f"m8[{r.choice(['Y', 'M'])}]"),
    "asked in attoseconds": lambda r: np.array([5], f"m8[{r.choice(['ps', 'fs', 'as'])}]"),
}


def injured(rng: Rng) -> Case:
    """An input with one injury, any of them as often as any other."""
    every = [(group, name) for group in (VALUES, TIMES, SHAPES, FRAMES, ORIGINS, QUESTIONS) for name in group]
    group, name = every[int(rng.integers(len(every)))]
    made = group[name](rng)
    if group is ORIGINS:
        data = series([1.0, 2.0], np.array(["2020-01-01", "2020-01-02"], "M8[D]"))
        return Case(f"injured: {name}", data, None, origin=made)
    if group is QUESTIONS:
        return Case(f"injured: {name}", series([1.0, 2.0], name="hare"), None, at={"hare": made})
    return Case(f"injured: {name}", made, None)
