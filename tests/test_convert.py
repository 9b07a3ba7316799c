"""Which readings and which questions become tokens: the NaN contract of design.md §1, and the doors in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from wildlife import DAYS, SCHEMA, WHITENING, hare, tree

from fsimformer.convert import (
    ObservationWarning,
    observed_tokens,
    query,
    query_tokens,
    read,
)
from fsimformer.priors import Normal, Support
from fsimformer.schema import Schema, Variable
from fsimformer.whiten import Transform, Whitening


def test_finite_is_observed_asked_is_latent_and_nothing_else_is_a_token() -> None:
    o = read(SCHEMA, hare([1.0, np.nan, 3.0, np.nan], [0.0, 1.0, 2.0, 3.0]))
    tokens = observed_tokens(SCHEMA, WHITENING, o)
    (hare_id,) = SCHEMA.ids("hare")
    assert tokens.variable.tolist() == [hare_id, hare_id]
    torch.testing.assert_close(tokens.index, torch.tensor([[0.0, -1.0], [0.0, -0.8]]))
    assert bool(tokens.condition_mask.all())
    expected = (torch.tensor([1.0, 3.0]).log() - 0.3) / 2.0
    torch.testing.assert_close(tokens.value, expected)
    q = query(SCHEMA, o, {"hare": [1.0]})
    latent = query_tokens(SCHEMA, q)
    assert list(q.points) == ["alpha", "weights", "hare"]  # parameters that were not observed come always
    assert latent.variable.tolist() == [*SCHEMA.ids("alpha"), *SCHEMA.ids("weights"), hare_id]
    torch.testing.assert_close(latent.index[-1], torch.tensor([0.0, -0.9]))
    assert not latent.condition_mask.any() and not latent.value.any()


def test_without_at_everything_unobserved_at_the_points_held() -> None:
    ds = hare([1.0, np.nan, 3.0], [4.0, 2.0, 0.0]).assign(weights=("part", [0.5, np.nan, 1.5]))
    q = query(SCHEMA, read(SCHEMA, ds))
    assert set(q.points) == {"alpha", "weights", "rate", "hare", "lynx", "counts", "total"}  # nothing is held of x
    assert q.points["weights"].component.tolist() == [1]
    assert q.points["hare"].index.tolist() == [[2.0]]
    assert q.points["rate"].index[:, 0].tolist() == [0.0, 2.0, 4.0]  # the union, sorted
    assert q.points["counts"].shape == (3, 3)


def test_union_of_own_coordinates_and_those_held_besides() -> None:
    ds = xr.Dataset(
        {"hare": ("time_hare", [1.0, 2.0]), "lynx": ("time_lynx", [np.nan, 2.0])},
        coords={"time_hare": [3.0, 1.0], "time_lynx": [1.0, 2.0], "time": [7.0], "x": [0.5, -0.5]},
    )
    q = query(SCHEMA, read(SCHEMA, ds))
    assert q.points["rate"].index[:, 0].tolist() == [1.0, 2.0, 3.0, 7.0]
    assert "hare" not in q.points
    assert q.points["lynx"].index.tolist() == [[1.0]]
    assert q.points["height"].shape == (2, 4)


def test_nothing_observed_is_the_prior() -> None:
    out = tree(None, {"rate": [0.0, 10.0], "hare": [5.0]})
    assert set(out.children) == {"prior", "predictions"}
    assert out["prior/rate"].dims == ("chain", "draw", "time")
    with pytest.warns(ObservationWarning, match="no finite value: what follows is the prior"):
        out = tree(hare([np.nan, np.nan], [0.0, 1.0]))
    assert "observed_data" not in out.children
    assert out["predictions/hare"].sizes["time"] == 2


def test_query_may_be_empty() -> None:
    one = Schema((Variable("alpha", "parameter"), Variable("beta", "parameter")))
    assert len(query(one, read(one, {"alpha": 1.0, "beta": 2.0}))) == 0


def test_observed_points_are_replicates_new_points_predictions() -> None:
    out = tree(hare([1.0, np.nan, 3.0], DAYS[:3]), {"hare": DAYS[[3, 2, 1, 2]]})
    again, new = out["posterior_predictive/hare"], out["predictions/hare"]
    assert list(again.time_hare.values) == list(DAYS[[2, 2]].values)  # duplicates stay
    assert list(new.time.values) == list(DAYS[[3, 1]].values)  # in the order asked
    near = query(SCHEMA, read(SCHEMA, hare([1.0], [0.3])), {"hare": [0.1 + 0.2, 0.3001]})
    assert near.replicate["hare"].tolist() == [True, False]  # rounding is no new point


def test_observed_data_scalar_and_vector_can_be_asked_again() -> None:
    ds = xr.Dataset({"total": 2.0, "weights": ("part", [1.0, 0.5, np.nan])}, coords={"part": ["a", "b", "c"]})
    q = query(SCHEMA, read(SCHEMA, ds), {"total": None, "weights": ...})
    assert q.points["weights"].labels["part"].tolist() == ["c"]
    assert q.replicate["total"].tolist() == [True]
    out = tree(ds, {"total": None})
    assert out["posterior_predictive/total"].dims == ("chain", "draw")
    assert out["posterior/weights"].part.values.tolist() == ["c"]
    assert out["observed_data/weights"].values.tolist() == [1.0, 0.5]
    assert out["observed_data/total"].item() == 2.0


def test_slices_pick_from_what_is_held_both_ends_included() -> None:
    ds = hare(np.arange(1.0, 7.0), DAYS)
    o = read(SCHEMA, ds)
    q = query(SCHEMA, o, {"hare": slice(DAYS[1], DAYS[3]), "lynx": slice(None)})
    assert q.points["hare"].labels["time"].tolist() == DAYS[1:4].values.tolist()
    assert len(q.points["lynx"]) == 6
    numbers = read(SCHEMA, hare([1.0, 2.0, 3.0], [0, 5, 10]))
    assert query(SCHEMA, numbers, {"rate": slice(5, None)}).points["rate"].index[:, 0].tolist() == [5.0, 10.0]


def test_every_door_leads_to_the_same_tokens() -> None:
    ds = xr.Dataset(
        {"alpha": 1.5, "hare": ("time", [1.0, np.nan, 3.0]), "weights": ("part", [0.5, 1.0, 1.5])},
        coords={"time": [0.0, 2.0, 4.0]},
    )
    frame = pd.DataFrame(
        {
            "time": [0.0, 2.0, 4.0, None, None, None, None],
            "part": pd.array([None, None, None, None, 0, 1, 2], dtype="Int64"),
            "variable": ["hare"] * 3 + ["alpha"] + ["weights"] * 3,
            "value": pd.array([1.0, None, 3.0, 1.5, 0.5, 1.0, 1.5], dtype="Float64"),
        }
    )
    doors: list[Any] = [
        ds,
        {"alpha": 1.5, "hare": ds.hare, "weights": [0.5, 1.0, 1.5]},
        {"alpha": np.array([1.5]), "hare": ds.hare.to_series(), "weights": np.array([0.5, 1.0, 1.5])},
        {"alpha": ds.alpha.expand_dims(i=1), "hare": ds.hare.astype(object), "weights": ds.weights},
        ds.rename_dims(time="t").assign_coords(time=("t", [0, 2, 4])),
        frame,
        frame.set_index("time"),
        frame.sample(frac=1, random_state=1).sort_index(),
    ]
    expected = observed_tokens(SCHEMA, WHITENING, read(SCHEMA, ds))
    assert len(expected) == 6
    for observed in doors:
        o = read(SCHEMA, observed)
        got = observed_tokens(SCHEMA, WHITENING, o)
        torch.testing.assert_close(got.value, expected.value)
        torch.testing.assert_close(got.index, expected.index)
        assert query(SCHEMA, o).points["hare"].index.tolist() == [[2.0]]
    array = read(SCHEMA, ds.hare)
    assert list(array.channels) == ["hare"] and array.n_observed == 2


def test_a_frame_of_duplicates_and_dates_keeps_every_reading() -> None:
    frame = pd.DataFrame({"time": DAYS[[1, 0, 0]], "variable": "hare", "value": [3, 1, 2]})
    o = read(SCHEMA, frame)
    assert o.channels["hare"].value.tolist() == [3.0, 1.0, 2.0]
    assert o.channels["hare"].points.index[:, 0].tolist() == [1.0, 0.0, 0.0]


def test_nullable_and_object_numbers_and_a_single_point() -> None:
    frame = pd.DataFrame({"time": [0, 1], "hare": pd.array([1, None], dtype="Int64")}).set_index("time")
    o = read(SCHEMA, frame.to_xarray())
    np.testing.assert_array_equal(o.channels["hare"].value, [1.0, np.nan])
    point = hare([1.0, 2.0], [3.0, 4.0]).isel(time=1)
    o = read(SCHEMA, point)
    assert o.channels["hare"].points.index.tolist() == [[4.0]]


def test_prior_of_a_normal_is_exact() -> None:
    s = Schema((Variable("mu", "parameter", prior=Normal(3.0, 2.0)),))
    w = Whitening({"mu": Transform(Normal(3.0, 2.0), Support())})
    assert observed_tokens(s, w, read(s, {"mu": 5.0})).value.item() == 1.0
