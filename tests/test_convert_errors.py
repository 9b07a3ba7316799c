"""Each mistake's message: the variable, what came, what was expected, the choices."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from fsimformer.convert import ObservationWarning, observed_tokens, query, read, read_many, to_tree, to_tree_many
from fsimformer.numeric import read_numbers
from fsimformer.priors import POSITIVE, Support, Uniform
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.whiten import Transform, Whitening

SCHEMA = Schema(
    (
        Variable("alpha", "parameter", prior=Uniform(0, 1)),
        Variable("weights", "parameter", ("part",)),
        Variable("hare", "data", ("time",), support=POSITIVE),
        Variable("lynx", "data", ("time",)),
        Variable("height", "data", ("x", "time")),
    ),
    (Index("x", 0, 1, "km"), Index("time", 0, 20, "days"), Components("part", 3)),
)
WHITENING = Whitening({v.name: Transform(v.prior, v.support) for v in SCHEMA.variables})
BERLIN = pd.date_range("2020", periods=2, tz="Europe/Berlin")


def hare(values: Any, times: Any = None) -> xr.Dataset:
    return xr.Dataset({"hare": ("time", values)}, coords={"time": [0.0, 1.0] if times is None else times})


def frame(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"time": [0.0, 1.0], "variable": "hare", "value": [1.0, 2.0]} | columns, index=range(2))


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (xr.Dataset({"hares": 1.0, "fox": 2.0}), r"no variables \['hares', 'fox'\].*'alpha', 'weights', 'hare'"),
        ({"hares": 1.0}, r"no variables \['hares'\]"),
        (frame(variable="hares"), r"no variables \['hares'\]"),
        (xr.DataArray(1.0, name="hares"), r"no variables \['hares'\]"),
    ],
)
def test_unknown_variables(observed: Any, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        read(SCHEMA, observed)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (3.0, r"expected a Dataset, a DataArray, a mapping .* got float"),
        (pd.Series([1.0], [2.0], name="f"), r"got Series. A Series goes in as .to_xarray\(\)"),
        (xr.DataArray([1.0]), r"no name; \.rename it to one of \['alpha'"),
        (xr.Dataset(coords={"alpha": 1.0}), r"\['alpha'\] are variables .* reset_coords"),
        (
            {"hare": [1.0, 2.0]},
            r"'hare' is a function of \('time',\) and came as bare values.*coords=\{'time': \.\.\.\}",
        ),
        ({"alpha": "0.3"}, r"'alpha': expected a DataArray or numbers, got str"),
        ({"hare": None}, r"'hare': expected a DataArray or numbers, got NoneType"),
        ({"hare": hare([1.0, 2.0])}, r"'hare': expected a DataArray or numbers, got Dataset"),
        ({"weights": [[1.0]]}, r"'weights': expected dims \('part',\), got values of shape \(1, 1\)"),
        ({"alpha": [0.1, 0.2]}, r"'alpha': expected dims \(\), got values of shape \(2,\)"),
        ({"weights": [1.0, 2.0]}, r"'weights': expected a dim 'part' of size 3, got \{'part': 2\}"),
        (xr.Dataset({"alpha": ("i", [0.1, 0.2])}), r"'alpha': expected a scalar, got dims \('i',\).*batch_dim="),
        (xr.Dataset({"hare": ("time", [1.0, 2.0])}), r"'hare': dim 'time' has no coordinate; .*assign_coords\(time="),
        (
            xr.Dataset({"hare": ("t", [1.0])}),
            r"'hare': expected a dim 'time', or a coordinate 'time' or 'time_hare', got",
        ),
        (
            hare([1.0, 2.0]).expand_dims(region=2),
            r"'hare': expected dims \('time',\), got dims .*; nothing is known of \['region'\].*batch_dim=",
        ),
        (hare([], []), r"'hare' has length zero, \{'time': 0\}; leave it out"),
        (hare([1.0, np.inf]), r"'hare': 1 of 2 values are infinite; mark missing readings NaN"),
        (hare([1.0, -2.0]), r"'hare': 1 of 2 values lie outside its support \(0, inf\), the first is -2; mark missing"),
        (hare([1.0, 0.0]), r"the first is 0; mark missing readings NaN; a positive variable is never 0"),
        ({"alpha": 1.5}, r"'alpha': 1 of 1 values lie outside its support \(0, 1\), the first is 1.5"),
        (hare(["a", "b"]), r"'hare': expected (real )?numbers, got dtype"),
        (
            hare(np.array([1.0, "b"], dtype=object)),
            r"'hare': expected numbers, got dtype object with values such as 'b'",
        ),
        (hare([1 + 1j, 2.0]), r"'hare': expected real numbers, got dtype complex128"),
        (hare(pd.date_range("2020", periods=2)), r"'hare': expected real numbers, got dtype datetime64"),
        (hare([1.0, 2.0], [0.0, np.nan]), r"'hare', coordinate 'time': 1 of 2 places are NaN, NaT or infinite"),
        (hare([1.0, np.nan], [0.0, np.nan]), r"'hare', coordinate 'time': 1 of 2 places are NaN"),
        (hare([1.0, 2.0], [0.0, np.inf]), r"'hare', coordinate 'time': 1 of 2 places are NaN, NaT or infinite"),
        (hare([1.0, 2.0], pd.DatetimeIndex(["2020", None])), r"1 of 2 places are NaN, NaT"),
        (hare([1.0, 2.0], ["2020-01-01", "2020-01-02"]), r"'hare', coordinate 'time'.*pandas\.to_datetime"),
        (
            hare([1.0, 2.0], [True, False]),
            r"'hare', coordinate 'time': expected numbers, dates or durations, got dtype bool",
        ),
        (
            hare([1.0, 2.0], pd.period_range("2020", periods=2)),
            r"expected numbers, dates or durations, got objects such as",
        ),
        (hare([1.0, 2.0], BERLIN), r"'hare', coordinate 'time': dates carry the time zone Europe/Berlin; .*tz_convert"),
        (
            {"hare": hare([1.0, 2.0]).hare, "lynx": hare([1.0, 2.0], pd.date_range("2020", periods=2)).hare},
            r"Index 'time': expected coordinates of one kind, got \{'hare': 'numbers', 'lynx': 'dates'\}",
        ),
        (
            xr.DataArray([[1.0]], {"x": pd.date_range("2020", periods=1), "time": [0.0]}, ("x", "time"), name="height"),
            r"'height': got dates, but index 'x' is in 'km', no unit of time",
        ),
        (
            hare([1.0], ("time", [1.0], {"units": "moons since 2020"})),
            r"cannot read the units 'moons since 2020'.*decode_cf",
        ),
        (
            hare([1.0], ("time", [1.0], {"units": "days since 2020-01-01", "calendar": "noleap"})),
            r"cannot read the units 'days since 2020-01-01' in calendar 'noleap'",
        ),
        (
            hare([1.0], ("time", [1.0], {"units": "days since once"})),
            r"expected a date such as '2020-01-31', got 'once'",
        ),
        (frame().rename(columns={"value": "reading"}), r"expected columns .* no 'value'.*\.to_xarray"),
        (
            frame(comment="x"),
            r"Frame: unknown columns \['comment'\]\. Known: \['part', 'time', 'value', 'variable', 'x'\]",
        ),
        (frame().iloc[:0], r"Frame: it has length zero"),
        (frame(variable=["hare", None]), r"Frame: column 'variable' has gaps"),
        (
            frame(time=np.nan),
            r"'hare': expected a column 'time' that says where each value lies; it is absent or empty",
        ),
        (frame(time=[0.0, np.nan]), r"'hare', coordinate 'time': 1 of 2 places are NaN"),
        (frame(variable="alpha", value=0.5), r"'alpha' has dims \(\): leave column 'time' empty"),
        (
            frame(variable="alpha", value=0.5, time=np.nan),
            r"'alpha' has dims \(\): expected one value each, got 2 rows",
        ),
        (frame(variable="weights", time=np.nan, part=[0, 3]), r"'weights', column 'part': expected positions 0 to 2"),
        (frame(value=["1", "b"]), r"'hare': expected numbers, got dtype"),
        (frame(time=["2020-01-01", "2020-01-02"]), r"'hare', column 'time'.*pandas\.to_datetime"),
        (frame(time=BERLIN), r"'hare', column 'time': dates carry the time zone"),
    ],
)
def test_what_cannot_be_read(observed: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(SCHEMA, observed)


def test_origins_that_are_no_dates() -> None:
    ds = hare([1.0, 2.0], pd.date_range("2020", periods=2))
    with pytest.raises(ValueError, match="origin of 'x': expected a date such as '2020-01-31', got 3"):
        read(SCHEMA, ds, origin=3)
    with pytest.raises(ValueError, match="expected a date without time zone"):
        read(SCHEMA, ds, origin=datetime(2020, 1, 1, tzinfo=UTC))


def test_outside_the_trained_range_warns_and_keeps() -> None:
    with pytest.warns(
        ObservationWarning, match=r"'hare': 1 of 2 readings lie outside .* 'time', \[0, 20\] days \(from"
    ):
        o = read(SCHEMA, hare([1.0, 2.0], [5.0, 25.0]))
    assert len(observed_tokens(SCHEMA, WHITENING, o)) == 2
    read(SCHEMA, hare([1.0, np.nan], [5.0, 25.0]))  # a place without reading is no token: no warning
    with pytest.warns(ObservationWarning, match=r"'lynx': 2 of 2 points asked for lie outside .* \(from -3 to -1\)"):
        q = query(SCHEMA, o, {"lynx": [-1.0, -3.0]})
    assert q.points["lynx"].index.tolist() == [[-1.0], [-3.0]]


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ([1.0], r"at: expected a mapping of variable -> index points, got list"),
        ({"alpha": None}, r"at: the parameter 'alpha' was observed"),
        (
            {"weights": [1]},
            r"at: 'weights' is a vector .* with None, or --at weights; single ones cannot be asked for, got \[1\]",
        ),
        ({"weights": slice(None)}, r"'weights' is a vector without index; ask for all its components with None"),
        ({"alpha": [1.0]}, r"at: 'alpha' is a scalar without index; ask for it with None, or --at alpha; got \[1\.0\]"),
        ({"hare": None}, r"at: 'hare' is a function of \('time',\); give index points, or slice\(None\)"),
        ({"hare": ...}, r"at: 'hare' is a function"),
        ({"hare": []}, r"at: 'hare', 'time': expected points in one row, at least one, got shape \(0,\)"),
        ({"hare": [[1.0]]}, r"at: 'hare', 'time': expected points in one row, .* got shape \(1, 1\)"),
        ({"hare": [1.0, np.nan]}, r"at: 'hare', 'time': 1 of 2 points are NaN"),
        ({"hare": ["soon"]}, r"at: 'hare', 'time': expected numbers, dates or durations, got dtype <U4; .*to_datetime"),
        ({"hare": BERLIN}, r"time zone"),
        ({"hare": BERLIN[0]}, r"time zone"),
        (
            {"hare": pd.Timestamp("2020")},
            r"at: 'hare', 'time': got dates, but nothing says which date is time = 0. Pass it with the data, "
            r"condition\(..., origin='2020-01-31'\), or give numbers of days, such as \[0, 20\]",
        ),
        ({"hare": np.array([1], dtype="timedelta64[M]")}, r"calendar months or years have no fixed length"),
        ({"hare": slice(0, 5, 2)}, r"a slice picks from the points of one index, without a step"),
        (
            {"hare": slice([0.0, 1.0], None)},
            r"at: .hare., .time.: expected single points as the ends of a slice, got \[0.0, 1.0\]",
        ),
        ({"hare": slice(7, 9)}, r"at: 'hare': no point lies in slice\(7, 9, None\); the observation holds 0 to 1"),
        ({"height": slice(None)}, r"at: 'height': the observation holds no points of \('x', 'time'\)"),
        ({"height": {"x": [0.5]}}, r"expected coordinates of \('x', 'time'\), \['time'\] are absent; got \['x'\]"),
        (
            {"height": {"x": [0.1, 0.2], "time": [1.0]}},
            r"expected coordinates of equal length, got \{'x': 2, 'time': 1\}",
        ),
        (
            {"height": [0.1, 0.2]},
            r"expected a Dataset or mapping with \('x', 'time'\), or an array \(n, 2\), got shape \(2,\)",
        ),
    ],
)
def test_what_cannot_be_asked(at: Any, message: str) -> None:
    o = read(SCHEMA, hare([1.0, 2.0]).assign(alpha=0.5))
    with pytest.raises(ValueError, match=message):
        query(SCHEMA, o, at)


def test_unknown_names_in_at() -> None:
    with pytest.raises(KeyError, match=r"at: the model has no variables \['fox'\]\. Its variables: \['alpha'"):
        query(SCHEMA, read(SCHEMA, None), {"fox": [1.0]})


def test_batches_that_do_not_fit() -> None:
    ds = xr.Dataset({"alpha": ("region", [0.1, 0.2])}, coords={"region": ["a", "b"]})
    with pytest.raises(ValueError, match=r"batch_dim='set': no variable has this dim\. Dims that came: \['region'\]"):
        read_many(SCHEMA, ds, "set")
    with pytest.raises(ValueError, match="batch_dim='time' is a name of the model's own"):
        read_many(SCHEMA, ds, "time")
    with pytest.raises(ValueError, match="Variables differ in their labels along 'region'"):
        read_many(SCHEMA, {"alpha": ds.alpha, "hare": ds.alpha.assign_coords(region=["a", "c"])}, "region")
    with pytest.raises(ValueError, match="batch_dim='region' has length zero"):
        read_many(SCHEMA, ds.isel(region=slice(0)), "region")
    with pytest.raises(ValueError, match="no 'region'"):
        read_many(SCHEMA, frame(), "region")
    with pytest.raises(ValueError, match="column 'region' has gaps"):
        read_many(SCHEMA, frame(region=["a", None]), "region")
    padded = xr.Dataset(
        {"hare": (("region", "i"), [[1.0, 2.0], [3.0, 4.0]])},
        coords={"time": (("region", "i"), [[0.0, 1.0], [0.0, np.nan]])},
    )
    with pytest.raises(ValueError, match="'hare', coordinate 'time': 1 of 4 places are NaN"):  # there is a value there
        read_many(SCHEMA, padded, "region")


def test_a_value_that_whitens_to_infinity() -> None:
    narrow = Schema((Variable("alpha", "parameter", prior=Uniform(1, 2)),))
    whitening = Whitening({"alpha": Transform(Uniform(1, 2), Support(1, 2))})
    edge = float(np.nextafter(1e-320, 1))
    tight = Schema((Variable("alpha", "parameter", prior=Uniform(0, 1)),))
    with pytest.raises(ValueError, match=r"'alpha': .* lies too near the end of its support \(0, 1\)"):
        observed_tokens(
            tight, Whitening({"alpha": Transform(Uniform(0, 1e20), Support(0, 1))}), read(tight, {"alpha": edge})
        )
    assert len(observed_tokens(narrow, whitening, read(narrow, {"alpha": 1.5}))) == 1


def test_draws_that_do_not_fit_the_query() -> None:
    o = read(SCHEMA, None)
    q = query(SCHEMA, o)
    with pytest.raises(ValueError, match="one even number of draws .* got \\[3\\]"):
        to_tree(SCHEMA, WHITENING, o, q, torch.zeros(3, len(q)), {})
    with pytest.raises(ValueError, match=r"z: expected shape \(2, 4\), got \(2, 5\)"):
        to_tree(SCHEMA, WHITENING, o, q, torch.zeros(2, 5), {})
    with pytest.raises(ValueError, match=r"stats 'lp': expected a scalar or shape \(2,\), got \(3,\)"):
        to_tree(SCHEMA, WHITENING, o, q, torch.zeros(2, 4), {"lp": np.zeros(3)})
    with pytest.raises(ValueError, match="2 labels, 1 observations, 1 queries, 1 zs"):
        to_tree_many(SCHEMA, WHITENING, ["a", "b"], "region", [o], [q], [torch.zeros(2, 4)], {})
    with pytest.raises(ValueError, match=r"stats 'lp': expected a scalar or shape \(1,\) or \(1, 2\)"):
        to_tree_many(SCHEMA, WHITENING, ["a"], "region", [o], [q], [torch.zeros(2, 4)], {"lp": np.zeros(3)})


def test_the_word_among_numbers_is_named() -> None:
    """A column of a table with one word in it is text, all of it; the message names the word."""
    with pytest.raises(ValueError, match="'hare': expected numbers, .* such as 'minus'"):
        read_numbers("'hare'", np.array(["30", "minus"], dtype=object))
