"""What `extend` gives back: the same draws, whole, with their functions at other points. Random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from tiny import randomise

import fsimformer as fsf
from fsimformer.convert import ObservationWarning
from fsimformer.joint import Joint
from fsimformer.model_file import Model, build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.sample import SamplerConfig
from fsimformer.whiten import Standardise, Transform, Whitening

QUICK = SamplerConfig("ab2", 4)
SCHEMA = fsf.Schema(
    (
        fsf.Variable("a", "parameter", prior=fsf.Uniform(-2, 2)),
        fsf.Variable("f", "parameter", ("time",), reference=5),
        fsf.Variable("w", "parameter", ("part",), prior=fsf.LogNormal()),
        fsf.Variable("g", "parameter", ("time", "part"), reference=4),
        fsf.Variable("rough", "parameter", ("time",)),
        fsf.Variable("y", "data", ("time",), noise=fsf.Noise("normal", 0.1)),
    ),
    (fsf.Index("time", 0, 20, "days"), fsf.Components("part", 2)),
)
SOME, OTHER = [1.0, 4.5, 17.0], np.linspace(0, 20, 9)


def joint(seed: int = 0) -> Joint:
    uses = tuple(map(tuple, SCHEMA.uses_index().tolist()))
    denoiser = build_denoiser(SCHEMA, NetworkConfig(uses, width=16, depth=2, n_heads=2), "trig", "dense")
    randomise(denoiser, seed, gain=0.7)
    whitening = Whitening({v.name: Transform(v.prior, v.support, Standardise(0.3, 0.8)) for v in SCHEMA.variables})
    spread = {"f": (torch.full((5,), 0.2),), "g": (torch.full((4,), 0.1), torch.full((4,), 0.3))}
    readings = dict.fromkeys(("f", "g", "rough", "y"), 20)
    ranges = {"y": (-9.0, 9.0)}
    return Joint(
        Model(SCHEMA, whitening, denoiser.eval(), "trig", "dense", 2, readings, 40, ranges, (), {}, spread=spread)
    )


def readings(n: int = 4, seed: int = 0, **scalars: float) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=n)
    values[1] = np.nan
    return xr.Dataset({"y": ("time", values), **scalars}, {"time": np.sort(rng.uniform(0, 20, n))})


def test_everything_else_is_kept_and_can_be_extended_again(tmp_path: Path) -> None:
    asked = joint().condition(readings())
    draws = asked.sample(6, {"f": SOME, "g": SOME, "rough": SOME, "y": SOME}, quality=QUICK)
    before = draws.copy(deep=True)
    later = asked.extend(draws, {"f": OTHER})
    assert list(later.children) == list(draws.children) and later.attrs == draws.attrs
    for name in set(draws.children) - {"posterior"}:
        xr.testing.assert_identical(later[name].to_dataset(), draws[name].to_dataset())
    new, old = later["posterior"], draws["posterior"]
    assert list(new.data_vars) == ["a", "f", "w", "g", "rough"]
    for name in ("a", "w", "g", "rough"):
        xr.testing.assert_identical(new[name], old[name])
    assert new["f"]["time_f"].values.tolist() == OTHER.tolist() and new["g"]["time"].values.tolist() == SOME
    for name in draws.children:
        xr.testing.assert_identical(draws[name].to_dataset(), before[name].to_dataset())
    later.to_netcdf(tmp_path / "later.nc", engine="h5netcdf")
    again = asked.extend(xr.open_datatree(tmp_path / "later.nc", engine="h5netcdf"), {"f": SOME})
    np.testing.assert_allclose(again["posterior"]["f"].values, old["f"].values, rtol=0, atol=2e-5)
    assert again["posterior"].sizes["time"] == 3  # all at one place again: one name for it


def test_a_function_that_was_not_asked_for_is_added() -> None:
    asked = joint().condition(readings(a=0.5))
    both = asked.sample(4, {"f": SOME, "g": SOME}, quality=QUICK)
    later = asked.extend(asked.extend(both, {"g": OTHER}), {"f": OTHER, "g": SOME})
    assert set(later["posterior"].data_vars) == {"f", "w", "g"}
    np.testing.assert_allclose(later["posterior"]["g"].values, both["posterior"]["g"].values, rtol=0, atol=2e-5)
    assert later["observed_data"]["a"].item() == 0.5


def test_draws_of_any_quality_can_be_extended() -> None:
    """An extension hangs on knots and noise, which the draws bring along: it is what `sample` would have given."""
    asked = joint().condition(None)
    for quality in (QUICK, SamplerConfig("sde_2m", 4)):
        some, other = (asked.sample(4, {"f": at}, quality=quality) for at in (SOME, OTHER))
        later = asked.extend(some, {"f": OTHER})
        np.testing.assert_allclose(later["prior"]["f"].values, other["prior"]["f"].values, rtol=0, atol=2e-5)


def test_draws_of_another_network_are_refused(tmp_path: Path) -> None:
    ours, theirs = joint(), joint(seed=1)
    draws = theirs.condition(readings()).sample(4, {"f": SOME}, quality=QUICK)
    with pytest.raises(
        ValueError, match="extend: the draws are another network's .attribute 'network': [0-9a-f]{16}, "
    ):
        ours.condition(readings()).extend(draws, {"f": OTHER})
    draws.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="another network's"):
        ours.condition(readings()).extend(xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf"), {"f": OTHER})
    theirs.save(tmp_path / "model")  # the same weights, saved, loaded and copied, are the same network
    for same in (fsf.load(tmp_path / "model"), theirs.to("cpu")):
        assert same.model.fingerprint == theirs.model.fingerprint
        same.condition(readings()).extend(draws, {"f": OTHER})
    shifted = replace(theirs.model.whitening.transforms["f"], standardise=Standardise(0.0, 0.8))  # type: ignore[type-var]
    other = Whitening({**theirs.model.whitening.transforms, "f": shifted})
    assert replace(theirs.model, whitening=other).fingerprint != theirs.model.fingerprint
    del draws.attrs["network"]
    ours.condition(readings()).extend(draws, {"f": OTHER})  # who does not say is believed


def batch() -> tuple[xr.Dataset, list[xr.Dataset]]:
    """Three data sets of different lengths, the last without a reading."""
    sets = [readings(4, 1), readings(9, 2), readings(2, 3).where(False)]
    y, t = np.full((2, 3, 9), np.nan)
    for i, ds in enumerate(sets):
        y[i, : ds.sizes["time"]], t[i, : ds.sizes["time"]] = ds.y, ds.time
    dims = ("site", "obs")
    return xr.Dataset({"y": (dims, y)}, {"time": (dims, t), "site": ["p", "q", "r"]}), sets


@pytest.mark.filterwarnings("ignore::fsimformer.ObservationWarning")
@pytest.mark.parametrize("at", [{"f": SOME, "g": SOME}, None], ids=["at", "held"])
def test_many_data_sets_are_extended_as_each_alone(at: Any, tmp_path: Path) -> None:
    ds, sets = batch()
    asked = joint().condition(ds, batch_dim="site")
    draws = asked.sample(4, at, quality=QUICK)
    draws.to_netcdf(tmp_path / "draws.nc", engine="h5netcdf")
    later = asked.extend(xr.open_datatree(tmp_path / "draws.nc", engine="h5netcdf"), {"f": OTHER})
    assert later["posterior"]["f"].dims == ("chain", "draw", "site", "time" if at is None else "time_f")
    for name in ("a", "w", "g"):
        np.testing.assert_array_equal(later["posterior"][name].values, draws["posterior"][name].values)
    for i, site in enumerate("pqr"):
        alone = joint().condition(sets[i])
        one = alone.extend(draws.sel(site=site), {"f": OTHER})
        np.testing.assert_allclose(
            later["posterior"]["f"].sel(site=site).values, one["posterior"]["f"].values, rtol=0, atol=2e-5
        )
    again = asked.extend(later, {"f": SOME, "g": SOME})
    assert again["posterior"]["f"].shape == (2, 2, 3, 3)
    if at is not None:
        np.testing.assert_allclose(again["posterior"]["f"], draws["posterior"]["f"], rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore::fsimformer.ObservationWarning")
def test_one_data_set_of_a_ragged_batch_is_a_result_of_its_own() -> None:
    """What lies beyond its readings is padding: its densities are those of the data set alone."""
    ds, sets = batch()
    asked = joint().condition(ds, batch_dim="site")
    draws = asked.sample(4, {}, quality=QUICK)
    one = joint().condition(sets[0]).log_prob(draws.sel(site="p"))
    alone = joint().condition(sets[0]).sample(4, {}, quality=QUICK)
    np.testing.assert_allclose(one, joint().condition(sets[0]).log_prob(alone), rtol=0, atol=1e-3)
    with pytest.warns(ObservationWarning, match="weights are uneven"):
        joint().condition(sets[0]).refine(draws.sel(site="p"), lambda d: d["a"])
    with pytest.raises(ValueError, match="were not conditioned on these readings of 'y'"):
        joint().condition(sets[0]).refine(draws.sel(site="q"), lambda d: d["a"])


@pytest.mark.filterwarnings("ignore::fsimformer.ObservationWarning")
def test_draws_of_other_data_sets_are_refused() -> None:
    ds, sets = batch()
    asked = joint().condition(ds, batch_dim="site")
    draws = asked.sample(4, {"f": SOME}, quality=QUICK)
    with pytest.raises(ValueError, match=r"expected draws of 2 data sets along 'site', got \[3\]"):
        joint().condition(ds.isel(site=[0, 1]), batch_dim="site").extend(draws, {"f": OTHER})
    with pytest.raises(ValueError, match=r"expected draws of 3 data sets along 'site', got no such dim"):
        asked.extend(joint().condition(sets[0]).sample(4, {"f": SOME}, quality=QUICK), {"f": OTHER})
    with pytest.raises(ValueError, match="were not conditioned on these readings of 'y'"):
        asked.extend(draws.isel(site=[1, 0, 2]), {"f": OTHER})
    with pytest.raises(ValueError, match=r"extend: 'a' holds draws of several data sets.*draws.sel\(site=...\)"):
        joint().condition(sets[0]).extend(draws, {"f": OTHER})


def test_a_warning_of_an_extension_points_at_the_callers_line() -> None:
    asked = joint().condition(readings())
    draws = asked.sample(4, {"f": SOME}, quality=QUICK)
    with pytest.warns(ObservationWarning, match="'f': 1 of 1 points asked for lie outside") as caught:
        asked.extend(draws, {"f": [25.0]})
    assert [w.filename for w in caught] == [__file__]


def test_dates_come_back_as_dates() -> None:
    days = pd.date_range("2021-03-01", periods=4)
    asked = joint().condition(readings().assign_coords(time=days))
    draws = asked.sample(4, {"f": days[:2]}, quality=QUICK)
    later = asked.extend(draws, {"f": days[1:]})
    assert later["posterior"]["time"].values.tolist() == days[1:].values.tolist()
    np.testing.assert_allclose(later["posterior"]["f"][..., 0], draws["posterior"]["f"][..., 1], rtol=0, atol=2e-5)
