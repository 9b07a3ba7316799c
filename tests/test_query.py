"""Which points are asked for without `at`: grids where the data lie on grids, points where they lie scattered."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from fsimformer.convert import Query, query, read, read_many
from fsimformer.query import nothing_asked
from fsimformer.schema import Components, Index, Schema, Variable

SCHEMA = Schema(
    (
        Variable("field", "parameter", ("x1", "x2")),
        Variable("rows", "parameter", ("x1",)),
        Variable("wind", "parameter", ("x1", "x2", "part")),
        Variable("pressure", "data", ("x1", "x2")),
        Variable("rain", "data", ("x2", "time", "x1")),
        Variable("sun", "data", ("time",)),
    ),
    (Index("x1", 0, 1), Index("x2", 0, 1), Index("time", 0, 20, "days"), Components("part", 2)),
)
X1, X2 = np.array([0.9, 0.1, 0.5, 0.1]), np.array([0.2, 0.4, 0.3, 0.7])
PLACES = np.stack([X1, X2], 1)
AT_POINTS = {"x1": ("point", X1), "x2": ("point", X2)}
NO_VALUE = pytest.mark.filterwarnings("ignore:The observation holds no finite value")


def asked(observed: Any) -> Query:
    return query(SCHEMA, read(SCHEMA, observed))


def places(q: Query, name: str) -> np.ndarray:
    return q.points[name].index


def test_scattered_readings_ask_for_other_functions_at_their_points() -> None:
    """n points, not the n × n lattice of their coordinates, in their order; with all components of a vector field."""
    q = asked(xr.Dataset({"pressure": ("point", [1.0, np.nan, 2.0, 3.0])}, AT_POINTS))
    np.testing.assert_array_equal(places(q, "field"), PLACES)
    assert q.points["field"].labels["x1"].tolist() == X1.tolist() and q.points["field"].shape is None
    np.testing.assert_array_equal(places(q, "wind"), PLACES.repeat(2, 0))
    assert q.points["wind"].component.tolist() == [0, 1] * 4
    assert places(q, "pressure").tolist() == [[0.1, 0.4]]  # the gap
    assert places(q, "rows")[:, 0].tolist() == [0.1, 0.5, 0.9]  # of one dim: each place once
    assert "rain" not in q.points and "sun" not in q.points  # nothing is held of time


def test_a_thousand_points_ask_for_a_thousand() -> None:
    at = np.random.default_rng(0).uniform(size=(2, 1_000))
    q = asked(xr.Dataset({"pressure": ("p", at[0])}, {"x1": ("p", at[0]), "x2": ("p", at[1])}))
    assert len(q.points["field"]) == 1_000


@NO_VALUE
def test_scattered_coordinates_alone_are_points_too() -> None:
    q = asked(xr.Dataset(coords=AT_POINTS))
    np.testing.assert_array_equal(places(q, "field"), PLACES)
    np.testing.assert_array_equal(places(q, "pressure"), PLACES)
    assert places(q, "rows")[:, 0].tolist() == [0.1, 0.5, 0.9]


def test_points_of_several_channels_are_joined_and_each_counts_once() -> None:
    ds = xr.Dataset(
        {"pressure": ("a", [1.0, 2.0]), "rain": ("b", [1.0, 2.0, 3.0])},
        {
            **{"x1_pressure": ("a", X1[:2]), "x2_pressure": ("a", X2[:2])},
            **{"x1_rain": ("b", X1[1:]), "x2_rain": ("b", X2[1:]), "time": 3.0},
        },
    )
    np.testing.assert_array_equal(places(asked(ds), "field"), PLACES)
    lattice = ds.assign_coords(x1=[0.0, 1.0], x2=[0.0, 1.0])  # a lattice held besides is asked for as well
    assert places(asked(lattice), "field").tolist() == [*PLACES.tolist(), [0, 0], [0, 1], [1, 0], [1, 1]]


def test_stations_in_space_and_a_grid_in_time() -> None:
    """Scattered over (x1, x2), gridded over time: a function of all three lies at every station at every time."""
    days = pd.date_range("2020-01-01", periods=3)
    stations = xr.Dataset(
        {"pressure": ("station", X1[:2])}, {"x1": ("station", X1[:2]), "x2": ("station", X2[:2]), "time": days}
    )
    q = asked(stations)
    expected = [[x2, t, x1] for x1, x2 in PLACES[:2].tolist() for t in (0.0, 1.0, 2.0)]
    assert sorted(places(q, "rain").tolist()) == sorted(expected)
    assert set(q.points["rain"].labels["time"]) == set(days.values)
    rain = xr.Dataset({"rain": (("station", "time"), np.ones((2, 3)))}, stations.coords)
    np.testing.assert_array_equal(places(asked(rain), "field"), PLACES[:2])
    assert places(asked(rain), "sun")[:, 0].tolist() == [0.0, 1.0, 2.0]


@NO_VALUE
def test_a_lattice_stays_one_however_it_comes() -> None:
    grid = xr.Dataset({"pressure": (("x1", "x2"), np.ones((2, 3)))}, {"x1": [0.0, 1.0], "x2": [0.0, 0.5, 1.0]})
    frame = grid.to_dataframe().reset_index().melt(["x1", "x2"]).sample(frac=1, random_state=0)
    for observed in (grid, grid.drop_vars("pressure"), frame):
        assert asked(observed).points["field"].shape == (2, 3)
    assert asked(frame.iloc[1:]).points["field"].shape is None  # one place less: five points


def test_each_data_set_of_a_batch_has_its_own_points() -> None:
    x1, x2 = np.stack([X1, X2]), np.stack([X2, np.where(X1 > 0.8, np.nan, X1)])
    dims = ("site", "point")
    ds = xr.Dataset({"pressure": (dims, x2)}, {"x1": (dims, x1), "x2": (dims, x2)})
    _, many = read_many(SCHEMA, ds, "site")
    np.testing.assert_array_equal(places(query(SCHEMA, many[0]), "field"), PLACES)
    np.testing.assert_array_equal(places(query(SCHEMA, many[1]), "field"), PLACES[1:, ::-1])


FUNCTIONS = Schema((Variable("f", "parameter", ("time",)), Variable("y", "data", ("time",))), (Index("time", 0, 20),))
SCALARS = Schema((Variable("a", "parameter"), Variable("x", "data")))
SUN = xr.Dataset({"sun": ("time", [1.0])}, {"time": [1.0]})
Y = xr.Dataset({"y": ("time", [1.0, 2.0])}, {"time": [1.0, 3.0]})


@pytest.mark.parametrize(
    ("schema", "observed", "at", "message"),
    [
        (
            FUNCTIONS,
            Y,
            {},
            r"left to sample: the model has no scalar parameters, and `at` names no points of a function.",
        ),
        (FUNCTIONS, Y, {}, r"functions are drawn where `at` says, .*: \['f', 'y'\], as in at={'f': \[0, 20\]}.$"),
        (FUNCTIONS, None, None, r"hold no points at which \['f', 'y'\] could be drawn. Ask for more: .*'f': \[0, 20"),
        (FUNCTIONS, Y.assign(f=Y["y"]), None, r"every variable is observed, .*: \['f', 'y'\], as in at={'f'"),
        (
            SCALARS,
            {"a": 1.0, "x": 2.0},
            {},
            r"\['a'\] are observed, and `at` names .* data .*again with at={'x': None}.$",
        ),
        (Schema((Variable("a", "parameter"),)), {"a": 1.0}, None, r"every variable is observed, .* asked for again.$"),
        (SCHEMA, SUN, {}, r"as in at={'field': {'x1': \[0, 1\], 'x2': \[0, 1\]}}"),
    ],
)
def test_an_empty_query_says_what_could_be_asked(schema: Schema, observed: Any, at: Any, message: str) -> None:
    o = read(schema, observed)
    assert not len(query(schema, o, at))
    assert re.search(message, nothing_asked(schema, [o], at))
