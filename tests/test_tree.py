"""What goes in comes out: points, draws, names, groups."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from wildlife import DAYS, SCHEMA, WHITENING, draws, hare, tree

from fsimformer.convert import (
    ObservationWarning,
    observed_tokens,
    query,
    query_tokens,
    read,
    to_tree,
)

finite = st.floats(0.01, 100.0)
times = st.floats(0.0, 20.0, allow_nan=False)
readings = st.lists(st.tuples(times, st.one_of(finite, st.just(np.nan))), min_size=1, max_size=8)


@given(hares=readings, lynxes=readings, common=st.booleans())
@settings(max_examples=60, deadline=None)
def test_decode_inverts_encode_for_any_gaps_order_and_duplicates(hares: Any, lynxes: Any, common: bool) -> None:
    t, v = (np.array(x) for x in zip(*hares, strict=True))
    s, w = (np.array(x) for x in zip(*lynxes, strict=True))
    if common:
        n = min(len(t), len(s))
        ds = xr.Dataset({"hare": ("time", v[:n]), "lynx": ("time", w[:n])}, coords={"time": t[:n]})
        t, v, s, w = t[:n], v[:n], t[:n], w[:n]
    else:
        ds = xr.Dataset(
            {"hare": ("time_hare", v), "lynx": ("i", w)},
            coords={"time_hare": t, "time": ("i", s)},  # a coordinate of the index's name along another dim
        )
    before = ds.copy(deep=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObservationWarning)
        o = read(SCHEMA, ds)
    xr.testing.assert_identical(ds, before)
    tokens = observed_tokens(SCHEMA, WHITENING, o)
    for name, at, values in (("hare", t, v), ("lynx", s, w)):
        (id,) = SCHEMA.ids(name)
        mine = tokens.variable == id
        kept = np.isfinite(values)
        np.testing.assert_allclose(10 * (tokens.index[mine, 1].double() + 1), at[kept], atol=1e-5)
        back = WHITENING[name].inverse(tokens.value[mine].double())
        np.testing.assert_allclose(back, values[kept], rtol=1e-5)
        assert (
            name not in (q := query(SCHEMA, o)).points or q.points[name].labels["time"].tolist() == at[~kept].tolist()
        )
    q = query(SCHEMA, o, {"hare": ds[("time" if common else "time_hare")], "lynx": s})
    z = draws(q)
    out = to_tree(SCHEMA, WHITENING, o, q, z, {})
    ids = query_tokens(SCHEMA, q).variable
    for name, at in (("hare", t), ("lynx", s)):
        expected = WHITENING[name].inverse(z[:, ids == SCHEMA.ids(name)[0]].double()).numpy().reshape(2, 2, -1)
        again = q.replicate[name]
        for group, which in (("posterior_predictive", again), ("predictions", ~again)):
            if not which.any():
                assert group not in out.children or name not in out[group]
                continue
            got = out[group][name]
            np.testing.assert_array_equal(got.values, expected[..., which])
            np.testing.assert_array_equal(got[got.dims[-1]].values, at[which])
    if o.n_observed:
        back = read(SCHEMA, out["observed_data"].to_dataset())  # what comes out can go in again
        again_tokens = observed_tokens(SCHEMA, WHITENING, back)
        torch.testing.assert_close(again_tokens.value, tokens.value)
        torch.testing.assert_close(again_tokens.index, tokens.index)


@given(gaps=st.lists(st.booleans(), min_size=6, max_size=6), flip=st.booleans(), pointwise=st.booleans())
@settings(max_examples=30, deadline=None)
def test_several_dims_any_order_gridded_or_pointwise(gaps: list[bool], flip: bool, pointwise: bool) -> None:
    values = np.where(gaps, np.nan, np.arange(6.0)).reshape(2, 3)
    grid = xr.DataArray(values, coords={"x": [0.5, -0.5], "time": [4.0, 0.0, 2.0]}, dims=("x", "time"), name="height")
    given_: Any = grid.transpose() if flip else grid
    if pointwise:
        given_ = given_.stack(obs=given_.dims).reset_index("obs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObservationWarning)
        o = read(SCHEMA, given_)
    expected = {(x, t): grid.sel(x=x, time=t).item() for x in (0.5, -0.5) for t in (0.0, 2.0, 4.0)}
    channel = o.channels["height"]
    got = {tuple(p): v for p, v in zip(channel.points.index.tolist(), channel.value.tolist(), strict=True)}
    assert got == pytest.approx(expected, nan_ok=True)
    tokens = observed_tokens(SCHEMA, WHITENING, o)
    places = {(x, round(10 * (t + 1), 5)) for x, t in tokens.index.tolist()}
    assert places == {k for k, v in expected.items() if np.isfinite(v)}
    q = query(SCHEMA, o)
    if "height" not in q.points:
        return
    z = draws(q)
    out = to_tree(SCHEMA, WHITENING, o, q, z, {})["predictions/height"]
    grid_again = ("chain", "draw", "x", "time_height") if all(gaps) else ("chain", "draw", "point")
    assert out.dims == (("chain", "draw", "point") if pointwise else grid_again)
    first = int((query_tokens(SCHEMA, q).variable == SCHEMA.ids("height")[0]).nonzero()[0])
    flat = out.stack(p=[d for d in out.dims if d not in ("chain", "draw")], create_index=False)
    for j, (x, t) in enumerate(zip(flat.x.values, _broadcast_time(flat), strict=True)):
        assert not np.isfinite(expected[x, t])
        np.testing.assert_allclose(flat.values[0, 0, j], 0.3 + 2.0 * z[0, first + j].item(), rtol=1e-6)


def _broadcast_time(flat: xr.DataArray) -> np.ndarray:
    (name,) = [c for c in flat.coords if str(c).startswith("time")]
    return flat[name].values


def test_queries_of_several_dims() -> None:
    o = read(SCHEMA, None)
    pairs = {"x": [0.0, 0.5], "time": [1.0, 2.0]}
    for at in (pairs, np.array([[0.0, 1.0], [0.5, 2.0]]), xr.Dataset({k: ("obs", v) for k, v in pairs.items()})):
        points = query(SCHEMA, o, {"height": at}).points["height"]
        assert points.index.tolist() == [[0.0, 1.0], [0.5, 2.0]] and points.shape is None
    grid = query(SCHEMA, o, {"height": xr.Dataset(coords=pairs)}).points["height"]
    assert grid.shape == (2, 2)
    assert grid.index.tolist() == [[0.0, 1.0], [0.0, 2.0], [0.5, 1.0], [0.5, 2.0]]
    line = query(SCHEMA, o, {"height": {"x": 0.25, "time": [1.0, 2.0, 3.0]}}).points["height"]
    assert line.shape == (1, 3)
    whole = query(SCHEMA, o, {"counts": [1.0, 2.0]})
    assert whole.points["counts"].shape == (2, 3)
    assert query_tokens(SCHEMA, whole).variable[-6:].tolist() == [*SCHEMA.ids("counts")] * 2
    out = tree(None, {"counts": [1.0, 2.0], "height": pairs})["predictions"]
    assert out["counts"].dims == ("chain", "draw", "time_counts", "part")
    assert out["height"].dims == ("chain", "draw", "point") and out["time_height"].dims == ("point",)


def test_draws_become_two_chains_in_order_and_prior_draws_stay_inside() -> None:
    o = read(SCHEMA, {"total": 1.0})
    q = query(SCHEMA, o)
    z = torch.linspace(-5, 5, 4 * len(q)).reshape(4, len(q))
    out = to_tree(SCHEMA, WHITENING, o, q, z, {"seed": 1, "log_density": np.arange(4.0), "sampler": "ab2"})
    np.testing.assert_allclose(out["posterior/alpha"].values.ravel(), z[:, 0].double().exp())
    assert ((out["posterior/weights"] > 0) & (out["posterior/weights"] < 2)).all()
    stats = out["sample_stats"]
    assert stats["log_density"].values.tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert stats["seed"].item() == 1 and stats["sampler"].item() == "ab2"


def test_names_are_shared_where_points_are_and_units_are_kept() -> None:
    ds = hare([1.0, 2.0], DAYS[:2], units="thousands")
    out = tree(ds, {"hare": DAYS[2:4], "lynx": DAYS[2:4]})["predictions"]
    assert out["hare"].dims == out["lynx"].dims == ("chain", "draw", "time")
    assert out["hare"].attrs == {"units": "thousands"} and not out["lynx"].attrs
    out = tree(ds, {"hare": DAYS[2:4], "lynx": DAYS[3:5]})["predictions"]
    assert out["hare"].dims[-1] == "time_hare" and out["lynx"].dims[-1] == "time_lynx"
    assert "time_hare" in tree(ds)["observed_data"].coords  # always its own there
    constant = tree(ds)["constant_data"]
    assert constant["t_hare"].dims == ("time_hare",)
    assert (constant["t_hare"].values == DAYS[:2].values).all()
