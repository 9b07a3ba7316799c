"""Many ragged data sets in one call; many readings, many draws."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from wildlife import DAYS, SCHEMA, WHITENING, draws, hare

from fsimformer.convert import (
    Observation,
    ObservationWarning,
    observed_tokens,
    query,
    read,
    read_many,
    to_tree,
    to_tree_many,
)


def regions() -> xr.Dataset:
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 2.0]])
    return xr.Dataset(
        {"hare": (("region", "time"), values), "alpha": ("region", [np.nan, 2.0]), "total": 1.0},
        coords={"region": ["north", "south"], "time": DAYS[:3]},
    )


def one_by_one(ds: xr.Dataset) -> list[Observation]:
    return [read(SCHEMA, ds.sel(region=r, drop=True)) for r in ds.region.values]


def assert_same(a: Observation, b: Observation) -> None:
    ta, tb = observed_tokens(SCHEMA, WHITENING, a), observed_tokens(SCHEMA, WHITENING, b)
    for field in ("variable", "index", "value"):
        torch.testing.assert_close(getattr(ta, field), getattr(tb, field), rtol=0, atol=0)
    qa, qb = query(SCHEMA, a), query(SCHEMA, b)
    assert list(qa.points) == list(qb.points)
    for name in qa.points:
        assert qa.points[name].index.tolist() == qb.points[name].index.tolist()
        assert qa.points[name].labels.keys() == qb.points[name].labels.keys()


def test_a_batch_reads_as_its_rows_do() -> None:
    labels, many = read_many(SCHEMA, regions(), "region")
    assert labels.dims == ("region",) and labels.values.tolist() == ["north", "south"]
    for a, b in zip(many, one_by_one(regions()), strict=True):
        assert_same(a, b)
    frame = regions()[["hare", "total"]].to_dataframe().reset_index()
    long = frame.melt(id_vars=["region", "time"], value_vars=["hare"], var_name="variable")
    labels, rows = read_many(SCHEMA, long.sample(frac=1, random_state=0).sort_values("time"), "region")
    for a, label in zip(rows, labels.values, strict=True):
        assert_same(a, read(SCHEMA, regions()[["hare"]].sel(region=label, drop=True)))


def test_ragged_frames_count_dates_from_their_own_first() -> None:
    frame = pd.DataFrame(
        {
            "region": ["a", "b", "b", "a", "b"],
            "time": DAYS[[0, 3, 4, 1, 5]],
            "variable": ["hare", "hare", "hare", "lynx", "lynx"],
            "value": [1.0, 2.0, np.nan, 3.0, 4.0],
        }
    )
    labels, (a, b) = read_many(SCHEMA, frame, "region")
    assert labels.values.tolist() == ["a", "b"]
    assert a.channels["lynx"].points.index.tolist() == [[1.0]]
    assert b.channels["hare"].points.index.tolist() == [[0.0], [1.0]]


def test_a_ragged_batch_comes_home_padded_on_its_own_coordinates() -> None:
    labels, many = read_many(SCHEMA, regions(), "region")
    queries = [query(SCHEMA, o, {"rate": DAYS[:2], "hare": slice(None)}) for o in many]
    zs = [draws(q, seed=i) for i, q in enumerate(queries)]
    stats = {"seed": 0, "accepted": np.array([1.0, 0.5]), "log_density": np.arange(8.0).reshape(2, 4)}
    out = to_tree_many(SCHEMA, WHITENING, labels, "region", many, queries, zs, stats)
    alone = [to_tree(SCHEMA, WHITENING, o, q, z, {}) for o, q, z in zip(many, queries, zs, strict=True)]
    rate = out["posterior/rate"]
    assert rate.dims == ("chain", "draw", "region", "time")
    np.testing.assert_array_equal(rate.sel(region="south").values, alone[1]["posterior/rate"].values)
    alpha = out["posterior/alpha"]
    assert np.isnan(alpha.sel(region="south")).all()  # observed there
    np.testing.assert_array_equal(alpha.sel(region="north").values, alone[0]["posterior/alpha"].values)
    hares = out["posterior_predictive/hare"]
    assert hares.dims == ("chain", "draw", "region", "point_hare")
    when = out["posterior_predictive/time_hare"]
    assert when.dims == ("region", "point_hare")
    assert when.sel(region="north").values.tolist() == DAYS[[0, 2]].values.tolist()
    assert np.isnat(when.sel(region="south").values).tolist() == [False, True]
    np.testing.assert_array_equal(hares.values[:, :, 1, :1], alone[1]["posterior_predictive/hare"].values)
    assert np.isnan(hares.values[:, :, 1, 1]).all()
    assert out["constant_data/t_hare"].dims == ("region", "point_hare")
    assert out["observed_data/total"].dims == ("region",)
    assert out["sample_stats/log_density"].sel(region="south").values.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert out["sample_stats/accepted"].dims == ("region",)
    again, back = read_many(SCHEMA, out["observed_data"].to_dataset(), "region")  # padding is no reading
    assert again.values.tolist() == labels.values.tolist()
    for a, b in zip(back, many, strict=True):
        torch.testing.assert_close(
            observed_tokens(SCHEMA, WHITENING, a).value, observed_tokens(SCHEMA, WHITENING, b).value
        )


def test_a_batch_without_labels_and_with_an_empty_row() -> None:
    ds = xr.Dataset({"total": ("set", [1.0, np.nan, 3.0])})
    with pytest.warns(ObservationWarning, match=r"1 of 3 data sets hold no finite value \(set: 1\)"):
        labels, many = read_many(SCHEMA, ds, "set")
    queries = [query(SCHEMA, o, {"total": None}) for o in many]
    out = to_tree_many(SCHEMA, WHITENING, labels, "set", many, queries, [draws(q) for q in queries], {})
    assert out["posterior/weights"].dims == ("chain", "draw", "set", "part")
    assert np.isnan(out["posterior_predictive/total"].values).all(axis=(0, 1)).tolist() == [False, True, False]
    assert np.isnan(out["predictions/total"].values).all(axis=(0, 1)).tolist() == [True, False, True]


def test_ten_thousand_readings_and_a_thousand_draws_are_quick() -> None:
    t = np.linspace(0, 20, 10_000)
    start = time.process_time()
    o = read(SCHEMA, hare(np.exp(np.sin(t)), t))
    q = query(SCHEMA, o, {"hare": t})
    assert len(observed_tokens(SCHEMA, WHITENING, o)) == 10_000
    out = to_tree(SCHEMA, WHITENING, o, q, torch.zeros(1000, len(q)), {})
    assert out["posterior_predictive/hare"].shape == (2, 500, 10_000)
    assert time.process_time() - start < 10


def test_a_thousand_data_sets_are_quick() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=(1000, 20)))
    values[rng.random(values.shape) < 0.3] = np.nan
    ds = xr.Dataset({"hare": (("region", "time"), values)}, coords={"time": pd.date_range("2020", periods=20)})
    start = time.process_time()
    labels, many = read_many(SCHEMA, ds, "region")
    queries = [query(SCHEMA, o) for o in many]
    tokens = [observed_tokens(SCHEMA, WHITENING, o) for o in many]
    assert sum(map(len, tokens)) == np.isfinite(values).sum()
    out = to_tree_many(SCHEMA, WHITENING, labels, "region", many, queries, [draws(q, 2) for q in queries], {})
    assert out["posterior/rate"].shape == (2, 1, 1000, 20)
    assert time.process_time() - start < 10
