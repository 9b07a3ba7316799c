"""Draws into a store, batch by batch: what `sample` gives, whoever is killed on the way, with one batch in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gp_network
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_archive import files
from tiny import joint

import fsimformer as fsf
import fsimformer.streamed
from fsimformer.joint import Conditional
from fsimformer.request import Request
from fsimformer.sample import SamplerConfig

QUICK = SamplerConfig("ab2", 3)


def regions(n: int = 7, n_times: int = 5) -> xr.Dataset:
    """Readings of y with holes at common dates, one region without any; `a` known in some."""
    rng = np.random.default_rng(0)
    y = np.exp(rng.normal(size=(n, n_times)))
    y[rng.random(y.shape) < 0.4] = np.nan
    y[2] = np.nan
    a = np.where(np.arange(n) % 3 == 0, 0.5, np.nan)
    names = [f"r{k}" for k in range(n)]
    days = pd.date_range("2021-03-01", periods=n_times)
    return xr.Dataset({"y": (("region", "time"), y), "a": ("region", a)}, {"region": names, "time": days})


@pytest.fixture
def many() -> Conditional:
    with pytest.warns(fsf.ObservationWarning, match="1 of 7 data sets hold no finite value"):
        return joint().condition(regions().drop_vars("a"), batch_dim="region")


def assert_same_tree(a: xr.DataTree, b: xr.DataTree) -> None:
    """Values to float32's rounding, everything else exactly; in what order variables stand does not count."""
    assert set(a.children) == set(b.children)
    for group in a.children:
        one, other = a[group].to_dataset(), b[group].to_dataset().load()
        assert set(one.variables) == set(other.variables) and set(one.data_vars) == set(other.data_vars)
        for name, v in one.variables.items():
            w = other.variables[name]
            assert v.dims == w.dims and v.attrs == w.attrs, (group, name)
            assert v.dtype == w.dtype or v.dtype.kind == w.dtype.kind == "M", (group, name)  # files have nanoseconds
            if name in one.data_vars and "draw" in v.dims:
                np.testing.assert_allclose(w.values, v.values, rtol=2e-4, atol=2e-5, err_msg=f"{group}/{name}")
            else:
                xr.testing.assert_equal(v, w)
    attrs = dict(b.attrs)
    json.loads(attrs.pop("request"))
    assert attrs == a.attrs


AT = {"rate": pd.date_range("2021-03-02", periods=3), "y": slice(None)}


@pytest.mark.parametrize(("at", "batch"), [(None, 1), (None, 7), (AT, 3), (AT, None)])
def test_the_store_holds_what_sample_gives(many: Conditional, tmp_path: Path, at: Any, batch: int | None) -> None:
    path = tmp_path / "draws.zarr"
    stored = many.sample_to(path, 6, at, seed=3, quality=QUICK, batch=batch)
    whole = many.sample(6, at, seed=3, quality=QUICK)
    assert_same_tree(whole, stored)
    with xr.open_datatree(path, engine="zarr") as tree:  # as any other tool opens it
        assert set(tree.children) == set(whole.children)
        np.testing.assert_array_equal(tree["posterior/a"], stored["posterior/a"])
    assert not (tmp_path / ".draws.zarr.writing").exists()
    one = stored["posterior"].sel(region="r4")
    np.testing.assert_allclose(one["rate"], whole["posterior"].sel(region="r4")["rate"], rtol=2e-4, atol=2e-5)


def test_ragged_data_sets_are_padded_along_the_batch_as_sample_pads_them(tmp_path: Path) -> None:
    """Points that differ, parameters known in some, predictions here and replicates there."""
    c = joint().condition(regions().drop_sel(region="r2"), batch_dim="region")
    stored = c.sample_to(tmp_path / "d.zarr", 4, {"rate": slice(None), "y": slice(None)}, quality=QUICK, batch=4)
    assert stored["predictions/y"].dims == ("chain", "draw", "region", "point_y")
    assert bool(np.isnan(stored["posterior/a"].values).any())
    assert_same_tree(c.sample(4, {"rate": slice(None), "y": slice(None)}, quality=QUICK), stored)


def test_functions_with_reference_sets_can_be_extended_from_the_store(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    sets = xr.Dataset({"x": (("set", "time"), rng.normal(size=(3, 4)))}, {"time": [1.0, 2.0, 5.0, 9.0]})
    c = gp_network.exact_joint().condition(sets, batch_dim="set", n_active_observed=0)
    at = {"f": [0.5, 3.0, 7.2], "x": [4.0]}
    stored = c.sample_to(tmp_path / "d.zarr", 6, at, quality=QUICK, batch=2)
    whole = c.sample(6, at, quality=QUICK)
    assert "functions" in stored.children
    assert_same_tree(whole, stored)
    new = c.extend(stored, {"f": [2.5]})
    np.testing.assert_allclose(new["posterior/f"], c.extend(whole, {"f": [2.5]})["posterior/f"], rtol=2e-4, atol=2e-5)


class Killed(BaseException):
    """Somebody pulls the plug."""


@pytest.mark.parametrize("stage", ["laid out", "asked", "drawn", "written", "moved"])
def test_whoever_is_interrupted_leaves_no_trace(
    many: Conditional, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """At every step from nothing to the end; the resumed store has the same bytes, and no data set is drawn twice."""
    asked = {"seed": 1, "quality": QUICK, "batch": 2}
    many.sample_to(tmp_path / "whole.zarr", 4, **asked)
    drawn, calls = list[range](), list[str]()
    own = Request.draw

    def noted(self: Request, numbers: range) -> Any:
        drawn.append(numbers)
        return own(self, numbers)

    monkeypatch.setattr(Request, "draw", noted)

    def stopped(module: Any, name: str, after: int, first: bool) -> None:
        original = getattr(module, name)

        def call(*args: Any, **settings: Any) -> Any:
            calls.append(name)
            if not first:
                original(*args, **settings)
            if len(calls) > after:
                raise Killed
            return original(*args, **settings) if first else None

        patch.setattr(module, name, call)

    streamed = fsimformer.streamed
    with monkeypatch.context() as patch:
        match stage:
            case "laid out":
                stopped(streamed, "commit", 0, True)
            case "asked":
                stopped(streamed, "commit", 1, True)
            case "drawn":
                stopped(streamed, "_write", 1, True)
            case "written":
                stopped(streamed, "_write", 1, False)
            case "moved":
                stopped(streamed, "move", 0, False)
        with pytest.raises(Killed):
            many.sample_to(tmp_path / "a.zarr", 4, **asked)
    done = {"laid out": 0, "asked": 0, "drawn": 1, "written": 1, "moved": 4}[stage]
    before = len(drawn)
    n_done: list[int] = []
    many.sample_to(tmp_path / "a.zarr", 4, **asked, callback=lambda n, of: n_done.append(n))
    assert files(tmp_path / "a.zarr") == files(tmp_path / "whole.zarr")
    assert len(drawn) - before == 4 - done
    assert n_done == ([min(7, 2 * k) for k in range(done, 5)] if done < 4 else [])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "whole.zarr"]


SCRIPT = """
import os, sys
sys.path.insert(0, sys.argv[2])
import warnings; warnings.simplefilter("ignore")
from test_streamed import QUICK, joint, regions

def kill(n, of):
    if n == 4:
        os.kill(os.getpid(), 9)

joint().condition(regions().drop_vars("a"), batch_dim="region").sample_to(
    sys.argv[1], 4, seed=1, quality=QUICK, batch=2, callback=kill)
"""


def test_killed_with_9_and_gone_on_with(many: Conditional, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    command = [sys.executable, "-c", SCRIPT, str(path), str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not path.exists() and (tmp_path / ".a.zarr.writing").is_dir()
    n_done: list[int] = []
    tree = many.sample_to(
        path, 4, seed=1, quality=QUICK, callback=lambda n, of: n_done.append(n)
    )  # the batch of before
    assert n_done == [4, 6, 7]
    assert_same_tree(many.sample(4, seed=1, quality=QUICK), tree)


def test_one_batch_is_held_at_a_time(many: Conditional, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the next is drawn, the draws of the one before are gone."""
    own, alive, most = Request.draw, list[weakref.ref[Any]](), list[int]()

    def noted(self: Request, numbers: range) -> Any:
        most.append(sum(r() is not None for r in alive))
        out = own(self, numbers)
        alive.extend(weakref.ref(d) for d in out)
        assert len(out) == len(numbers) <= 2
        return out

    monkeypatch.setattr(Request, "draw", noted)
    many.sample_to(tmp_path / "a.zarr", 4, quality=QUICK, batch=2)
    assert most == [0] * 4
    monkeypatch.setattr(fsimformer.streamed, "_BATCH_VALUES", 4 * 60)  # a data set has some twenty values of 4 draws
    alive.clear()
    many.sample_to(tmp_path / "b.zarr", 4, quality=QUICK)
    assert len(most) == 8


def test_equal_calls_do_nothing_twice(many: Conditional, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = many.sample_to(tmp_path / "a.zarr", 4, quality=QUICK)
    monkeypatch.setattr(Request, "draw", lambda *_: pytest.fail("drawn again"))
    again = many.sample_to(tmp_path / "a.zarr", 4, quality=QUICK)
    xr.testing.assert_identical(tree["posterior"].to_dataset(), again["posterior"].to_dataset())


ASKED: dict[str, Any] = {"n": 4, "seed": 1, "quality": QUICK}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A store that is whole, and one whose writer was killed after two data sets."""

    def kill(n: int, of: int) -> None:
        if n == 2:
            raise Killed

    with pytest.warns(fsf.ObservationWarning):
        c = joint().condition(regions().drop_vars("a"), batch_dim="region")
    paths = {k: tmp_path_factory.mktemp("stores") / f"{k}.zarr" for k in ("whole", "part")}
    c.sample_to(paths["whole"], **ASKED)
    with pytest.raises(Killed):
        c.sample_to(paths["part"], **ASKED, batch=2, callback=kill)
    return paths


def other_readings() -> Conditional:
    data = regions().drop_vars("a")
    data["y"][0, 0] = 1.25
    with pytest.warns(fsf.ObservationWarning):
        return joint().condition(data, batch_dim="region")


def other_network() -> Conditional:
    with pytest.warns(fsf.ObservationWarning):
        return joint(seed=1).condition(regions().drop_vars("a"), batch_dim="region")


@pytest.mark.parametrize(
    ("what", "settings", "message"),
    [
        (None, {"n": 6}, "differs in n 4"),
        (None, {"seed": 2}, "differs in seed 1"),
        (None, {"quality": "fast"}, "differs in quality"),
        (None, {"at": {"rate": slice(None)}}, "differs in at"),
        (None, {"budget": fsf.Budget(8)}, "differs in budget"),
        (other_readings, {}, "differs in observations"),
        (other_network, {}, "differs in network"),
    ],
)
def test_a_store_of_another_request_is_refused(
    many: Conditional,
    what: Callable[[], Conditional] | None,
    settings: dict[str, Any],
    message: str,
    begun: dict[str, Path],
) -> None:
    """Whole, or begun by somebody who was killed."""
    for path in begun.values():
        before = files(path.parent)
        with pytest.raises(ValueError, match=f"holds draws of another request: it {message}"):
            (many if what is None else what()).sample_to(path, **ASKED | settings)
        assert files(path.parent) == before
    with pytest.raises(ValueError, match="was begun with batch=2, not 3; pass that or None"):
        many.sample_to(begun["part"], **ASKED, batch=3)


def test_bad_calls(many: Conditional, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected many data sets, condition"):
        joint().condition(regions().isel(region=0, drop=True)).sample_to(tmp_path / "a.zarr", 4)
    with pytest.raises(ValueError, match="expected an even number of draws"):
        many.sample_to(tmp_path / "a.zarr", 3)
    for batch in (0, 2.5):
        with pytest.raises(ValueError, match="expected batch >= 1 data sets or None"):
            many.sample_to(tmp_path / "a.zarr", 4, batch=batch)  # type: ignore[arg-type]
    (tmp_path / "notes").mkdir()
    with pytest.raises(FileExistsError, match="notes exists and holds no draws of sample_to"):
        many.sample_to(tmp_path / "notes", 4)
    assert [p.name for p in tmp_path.iterdir()] == ["notes"]
