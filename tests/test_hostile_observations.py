"""Whatever is handed to `read` keeps its documented meaning, to the last bit, or is refused with a message of ours."""

from __future__ import annotations

import datetime as dt
import warnings
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import example, given
from hypothesis import strategies as st
from wildlife import SCHEMA, hare

from fsimformer.convert import ObservationWarning, query, read, read_many
from fsimformer.units import read_cf, read_date

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def total(given: Any) -> float:
    return float(read(SCHEMA, {"total": given}).channels["total"].value[0])


@given(st.floats(allow_infinity=False, allow_nan=False))
@example(-0.0)
@example(5e-324)
def test_a_double_is_read_to_the_last_bit(x: float) -> None:
    for given_ in (x, np.float64(x), np.array(x, ">f8"), np.array([x], object), pd.Series([x]), xr.DataArray(x)):
        assert total(given_).hex() == x.hex()


@given(st.integers(-(2**63), 2**64 - 1))
@example(2**53 + 1)
def test_an_integer_is_the_nearest_double(n: int) -> None:
    assert total(n) == total(np.array([n], object)) == float(n)


@given(st.integers(-(2**63) + 1, 2**63 - 1), st.sampled_from(["Y", "M", "D", "s", "ms", "us", "ns"]))
@example(10**12, "Y")
@example(8029, "Y")
@example(-12 * 1969, "M")
@pytest.mark.filterwarnings("ignore::fsimformer.convert.ObservationWarning")
def test_a_date_is_so_many_days_after_the_origin_or_too_far(n: int, unit: str) -> None:
    """numpy's own arithmetic wraps around without a word; Python's integers do not."""
    o = read(SCHEMA, None, origin="1970-01-01")
    try:
        found = query(SCHEMA, o, {"rate": np.array([n], f"datetime64[{unit}]")}).points["rate"].index[0, 0]
    except ValueError as error:
        assert "lie beyond 1,000,000,000 years" in str(error)
        return
    if unit in ("Y", "M"):
        year, month = divmod(n if unit == "M" else 12 * n, 12)
        cycles, year = divmod(1970 + year, 400)  # of 146,097 days
        days = 146_097 * cycles + (dt.date(2000 + year, month + 1, 1) - dt.date(2000, 1, 1)).days - 719_528
    else:
        days = n * {"D": 1.0, "s": 1 / 86400, "ms": 1 / 86400e3, "us": 1 / 86400e6, "ns": 1 / 86400e9}[unit]
    assert found == pytest.approx(days, rel=1e-12)


DAY = st.tuples(st.integers(1, 3000), st.integers(1, 12), st.integers(1, 31))


@given(DAY, st.sampled_from(["standard", "gregorian", "proleptic_gregorian"]))
@example((1582, 10, 4), "standard")
@example((1582, 10, 15), "gregorian")
@example((1500, 2, 29), "standard")
@example((1900, 2, 29), "standard")
def test_days_since_a_date_are_those_of_cftime(day: tuple[int, int, int], calendar: str) -> None:
    """A calendar that is Julian before the reform, and Gregorian after it: ten days, and leap years of 1500."""
    y, m, d = day
    try:
        there = cftime.datetime(y, m, d, calendar=calendar)
    except ValueError:
        with pytest.raises(ValueError, match="expected a date such as"):
            read_cf("time", "days", f"{y}-{m}-{d}", {"calendar": calendar})
        return
    expected = (cftime.datetime(2020, 1, 1, calendar=calendar) - there).days
    length, since = read_cf("time", "days", f"{y}-{m}-{d} 00:00:00.0", {"calendar": calendar})
    assert length == 86400 and (np.datetime64("2020-01-01") - since) / np.timedelta64(1, "D") == expected


@given(st.text(st.sampled_from("0123456789-:TZ W/.+Qnow"), max_size=20) | st.dates().map(str))
@example("12:30")
@example("now")
@example("2020Q1")
def test_an_origin_is_an_iso_date_or_none(text: str) -> None:
    try:
        found = read_date("origin", text)
    except ValueError as error:
        assert "expected a date" in str(error)
        return
    whole = text.strip() if len(text.strip()) > 7 else f"{text.strip()}-01-01"[:10]
    assert found == np.datetime64(dt.datetime.fromisoformat(whole))


READING = st.tuples(st.integers(0, 20), st.floats(0.125, 1e6) | st.just(np.nan))


@given(st.lists(READING, min_size=1, max_size=12), st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore::fsimformer.convert.ObservationWarning")
def test_order_gaps_and_replicates(held: list[tuple[int, float]], random: Any) -> None:
    shuffled = list(held)
    random.shuffle(shuffled)
    for rows in (held, shuffled):
        o = read(SCHEMA, hare([v for _, v in rows], [float(t) for t, _ in rows]))
        c = o.channels["hare"]
        found = [(t, float(v).hex()) for t, v in zip(c.points.index[:, 0], c.value, strict=True)]
        assert found == [(t, v.hex()) for t, v in rows]
        assert o.n_observed == sum(not np.isnan(v) for _, v in rows)


@given(st.integers(0, 2**32 - 1))
@example(0)
def test_inputs_in_any_dress_or_with_any_injury(seed: int) -> None:
    """The cases of benchmarks/hostile_inputs.py, which tries thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import hostile_inputs

        for kind in hostile_inputs.SHARES:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what pandas and xarray think of it before it is ours
                case = kind(np.random.default_rng(seed))
            what, told = hostile_inputs.outcome(case)
            assert not what.startswith("defect"), f"{case.category}: {told}"


def test_components_go_by_their_numbers_and_names_must_agree() -> None:
    shuffled = xr.Dataset({"weights": ("part", [1.0, 0.5, 1.5])}, {"part": [2, 0, 1]})
    o = read(SCHEMA, shuffled)
    assert dict(zip(o.channels["weights"].points.component, o.channels["weights"].value)) == {0: 0.5, 1: 1.5, 2: 1.0}
    assert query(SCHEMA, o, {"counts": [1.0]}).points["counts"].labels["part"].tolist() == [0, 1, 2]
    named = xr.DataArray([1.0, 0.5, 1.5], {"part": ["c", "a", "b"]}, ("part",))
    assert read(SCHEMA, {"weights": named}).channels["weights"].value.tolist() == [1.0, 0.5, 1.5]
    counts = xr.DataArray([[1.0, 2.0, 3.0]], {"time": [0.0], "part": ["a", "b", "c"]}, ("time", "part"))
    with pytest.raises(
        ValueError, match=r"dim 'part': expected the same labels in the same order, got .*'c', 'a', 'b'"
    ):
        read(SCHEMA, {"weights": named, "counts": counts})
    with pytest.raises(ValueError, match=r"expected each of 0 to 2 once, got \[2, 2, 1\]"):
        read(SCHEMA, shuffled.assign_coords(part=[2, 2, 1]))
    with pytest.raises(ValueError, match=r"coordinate 'part': expected 3 places, got 2"):
        read(SCHEMA, xr.Dataset(coords={"part": ["a", "b"]}))


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        ({"weights": [[1.0], [2.0, 3.0], 4.0]}, "'weights': expected numbers in one array, got list: .*inhomogeneous"),
        ({"total": 10**400}, "'total': expected numbers that a double can hold"),
        (hare([1.0], [1e300]), r"1 of 1 places lie out of all proportion to the trained range of 'time', \[0, 20\]"),
        (hare([1.0], pd.period_range("2020", periods=1)), r"objects such as Period.*become dates by \.to_timestamp"),
        (hare([1.0, 2.0], [0.0, 1.0], scale_factor=0.1), r"attributes \{'scale_factor': 0.1\} .*xarray\.decode_cf"),
        (hare([1.0, 9.0], [0.0, 1.0], missing_value=9.0), r"attributes \{'missing_value': 9.0\} .*xarray\.decode_cf"),
        (
            pd.DataFrame([[0.0, 1.0, "hare", 1.0]], columns=["time", "time", "variable", "value"]),
            r"\['time'\] come twice",
        ),
    ],
)
def test_what_an_inner_library_would_have_said_or_kept_silent(observed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(SCHEMA, observed)


@pytest.mark.filterwarnings("ignore:Duplicate dimension names")
def test_a_dim_that_comes_twice() -> None:
    twice = xr.Dataset({"hare": xr.Variable(("time", "time"), np.ones((2, 2)))})
    with pytest.raises(ValueError, match=r"'hare': a dim comes twice in its dims \('time', 'time'\)"):
        read(SCHEMA, twice)


def test_a_unit_that_is_not_the_model_s_is_told() -> None:
    schema = SCHEMA.__class__(
        tuple(v for v in SCHEMA.variables if v.name == "height"),
        (SCHEMA.dims[0].__class__("x", 0, 1000, "km"), SCHEMA.dim("time")),
    )
    at = xr.DataArray([500.0], dims="x", attrs={"units": "m"})
    ds = xr.Dataset({"height": (("x", "time"), [[1.0]])}, {"x": at, "time": [0.0]})
    with pytest.warns(ObservationWarning, match="'x' is in 'm', index 'x' of the model in 'km': .* as they stand"):
        o = read(schema, ds)
    with pytest.warns(ObservationWarning, match="'x' is in 'm'"):
        query(schema, o, {"height": {"x": at, "time": xr.DataArray([1.0], dims="time")}})
    read(schema, ds.assign_coords(x=("x", [0.5], {"units": "KM"})))


def test_the_date_of_index_0_must_be_in_the_calendar() -> None:
    t = np.array([cftime.DatetimeNoLeap(2020, 3, 1), None], object)[:1]
    with pytest.raises(ValueError, match=r"the calendar 'noleap' has no 2020-02-29"):
        read(SCHEMA, hare([1.0], t), origin="2020-02-29")
    with pytest.raises(ValueError, match=r"dates of the calendar 'noleap', but time = 0 is .* in '360_day'"):
        read(SCHEMA, hare([1.0], t), origin=cftime.Datetime360Day(2020, 2, 1))


def test_more_points_than_memory_are_asked_for_by_nobody() -> None:
    x = np.linspace(-1, 1, 10**5)
    one = read(SCHEMA, hare([1.0], [0.0]).assign_coords(x=x))
    assert len(query(SCHEMA, one).points["height"]) == 10**5
    many = read(SCHEMA, hare(np.ones(10**4), np.linspace(0, 20, 10**4)).assign_coords(x=x))
    with pytest.raises(ValueError, match=r"'height': every combination .* 1,000,000,000 points, .*sample\(at=\.\.\.\)"):
        query(SCHEMA, many)


def test_batches_by_a_name_and_with_labels() -> None:
    ds = xr.Dataset({"total": ("set", [1.0, 2.0])}, {"set": [0.0, np.nan]})
    with pytest.raises(ValueError, match=r"batch_dim: expected the name of a dim or column, got \['set'\]"):
        read_many(SCHEMA, ds, ["set"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_dim='set': expected a label for each data set, some are NaN"):
        read_many(SCHEMA, ds, "set")
