"""The example's page, as a script and as a notebook: what it reads is what the file says, what it draws is what was
read, and it runs from the file to scores with any model.

The notebook's cells run in order and in one namespace, as in a kernel: that takes neither Jupyter nor nbclient.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import fsimformer as fsf
from fsimformer.nn import NetworkConfig
from fsimformer.simulations import default_design
from fsimformer.simulators import Epidemic
from fsimformer.train import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import epidemic_workflow as page

NOTEBOOK = Path(page.__file__).with_suffix(".ipynb")
SCORED = [("Coast", "cases"), ("Coast", "deaths"), ("Plain", "cases"), ("Plain", "deaths"), ("Hills", "cases")]


def cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text())["cells"]


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("epidemic") / "cases.csv"
    page.simulated().to_csv(path, index=False)
    return path


def test_the_file_has_holes_and_is_read_as_it_stands(csv: Path) -> None:
    table, data = pd.read_csv(csv, parse_dates=["date"]), page.read(csv)
    assert dict(data.sizes) == {"region": 3, "time": 112}
    for region, own in table.groupby("region"):
        for name in page.SERIES:
            found = data[name].sel(region=region, time=own["date"].to_numpy()).to_numpy()
            np.testing.assert_array_equal(found, own[name].to_numpy())
        assert float(data["population"].sel(region=region)) == own["population"].iloc[0]
    assert bool(data["cases"].sel(region="Plain")[50:57].isnull().all())
    assert bool(data["deaths"].sel(region="Hills")[65:].isnull().all())
    assert 0.03 < float(data["cases"].isnull().mean()) < 0.2
    assert float(data["cases"].sum("time").min()) > 2_000 and float(data["deaths"].sum("time").min()) > 10


def test_netcdf_and_zarr_say_what_the_table_says(csv: Path, tmp_path: Path) -> None:
    data = page.read(csv)
    data.to_netcdf(tmp_path / "cases.nc", engine="h5netcdf")
    xr.testing.assert_equal(page.read(tmp_path / "cases.nc"), data)
    data.to_zarr(tmp_path / "cases.zarr", consolidated=False)
    xr.testing.assert_equal(page.read(tmp_path / "cases.zarr"), data)


def test_the_picture_shows_every_reading_once(csv: Path) -> None:
    """Closed circles before the cut, open ones after it, none outside the panel; axes and marks say what they are."""
    data, rng = page.read(csv), np.random.default_rng(0)
    cut = pd.Timestamp("2025-11-24")
    dims, ahead = ("chain", "draw", "region", "time"), data["time"][data["time"] >= cut]
    counts = {name: (dims, rng.poisson(40.0, (2, 10, 3, len(ahead))).astype(float)) for name in page.SERIES}
    number = {"reproduction_number": (dims, rng.gamma(9.0, 0.1, (2, 10, 3, data.sizes["time"])))}
    draws = xr.DataTree.from_dict({
        "posterior": xr.Dataset(number, {"time": data["time"].values, "region": data["region"].values}),
        "predictions": xr.Dataset(counts, {"time": ahead.values, "region": data["region"].values}),
        "observed_data": data.where(data["time"] < cut),
    })  # fmt: skip
    drawn = page.picture(data, draws, "Plain", cut, " (simulated)")
    for ax, name in zip(drawn.axes, page.SERIES, strict=False):
        known, later = data[name].sel(region="Plain"), (data["time"] >= cut).to_numpy()
        closed, opened = (np.asarray(c.get_offsets()) for c in ax.collections[-2:])
        np.testing.assert_array_equal(closed[:, 1], known.to_numpy()[~later & known.notnull().to_numpy()])
        np.testing.assert_array_equal(opened[:, 1], known.to_numpy()[later & known.notnull().to_numpy()])
        low, high = ax.get_ylim()
        assert low < 0 and high > float(known.max())
        assert "a day" in ax.get_ylabel()
    assert drawn.axes[2].get_ylabel() == "reproduction number R(t)" and drawn.axes[2].get_ylim()[0] == 0
    assert [t.get_text() for t in drawn.legends[0].get_texts()] == ["median", "50 %", "90 %", "reported", "held back"]
    assert drawn.axes[0].get_title(loc="left") == "Plain, 2,100,000 inhabitants (simulated)"


def test_a_region_with_too_few_readings_is_named_and_not_scored(csv: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, rng, cut = page.read(csv), np.random.default_rng(0), pd.Timestamp("2025-11-24")
    early = (data["time"] < cut) & (data["region"] == "Coast")
    late_start = data["cases"].where(~early | (data["time"] >= pd.Timestamp("2025-11-21")))
    data = data.assign(cases=late_start)
    ahead = data["time"][data["time"] >= cut].values
    counts = {k: (("chain", "draw", "region", "time"), rng.poisson(40.0, (2, 5, 3, len(ahead))).astype(float))
              for k in page.SERIES}  # fmt: skip
    draws = xr.DataTree.from_dict({"predictions": xr.Dataset(counts, {"time": ahead, "region": data["region"].values})})
    table = page.scores(data, draws, cut, 0)
    assert "Coast: cases has" in capsys.readouterr().out
    assert ("Coast", "cases") not in set(zip(table["region"], table["series"], strict=True))
    assert {"Coast", "Plain", "Hills"} == set(table["region"])


def test_the_notebook_is_stored_without_its_results() -> None:
    results = [cell["outputs"] for cell in cells() if cell["cell_type"] == "code"]
    assert len(results) > 5 and len(json.dumps(results)) < 4_000


def test_the_notebook_runs_and_agrees_with_the_script(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the model that ships: few draws, by the fast sampler."""
    monkeypatch.chdir(tmp_path)
    session: dict[str, Any] = {"__name__": "__main__"}
    for i, cell in enumerate(cells()):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {i}", "exec"), session)
    assert (tmp_path / "cases.csv").read_text() == csv.read_text()
    xr.testing.assert_identical(session["data"], page.read(csv))
    scores = session["scores"]
    assert set(zip(scores["region"], scores["series"], strict=True)) == set(SCORED)
    assert np.isfinite(scores[["crps", "energy_score", "coverage_90"]].to_numpy()).all()
    with xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf") as tree:
        number = tree["posterior"]["reproduction_number"]
        assert number.sizes["region"] == 3 and bool((number > 0).all())
        assert str(number["time"].values[-1])[:10] == "2025-12-18"
    assert all((tmp_path / f"{region}.png").exists() for region in ("Coast", "Plain", "Hills"))


@pytest.mark.slow
def test_from_the_file_to_scores_pictures_and_a_posterior(
    csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a network that has learned next to nothing: the page's business is everything around it."""
    world = Epidemic(population=fsf.LogUniform(3e4, 3e8))
    config = TrainConfig(steps=2, batch_size=8, n_micro=2, pool=1, warmup=0, n_validation=8)
    joint = fsf.train(
        world, simulations=200, config=config, design=default_design(world.schema, 112, 8), baseline=False,
        network=NetworkConfig(width=16, depth=1, n_heads=2),
    )  # fmt: skip
    joint.save(tmp_path / "model")
    asked = ["--data", str(csv), "--folder", str(tmp_path), "--model", str(tmp_path / "model"), "--draws", "10"]
    monkeypatch.setattr(sys, "argv", ["epidemic_workflow.py", *asked])
    page.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scored = {tuple(line[:3]) for line in lines if len(line) == 6 and line[1] in page.SERIES}
    forecasts = ("network", "last_value", "log_linear")
    assert scored == {(*known, who) for known in SCORED for who in forecasts}  # of Hills' deaths nobody knows
    with xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf") as tree:
        cases = tree["predictions"]["cases"]
        assert cases.sizes["time"] == 28 and bool((cases == cases.round()).all()) and float(cases.min()) >= 0
        assert str(cases["time"].values[0])[:10] == "2025-11-24"
    assert all((tmp_path / f"{region}.png").exists() for region in ("Coast", "Plain", "Hills"))
    assert set(pd.read_csv(tmp_path / "forecast.csv")["region"]) == {"Coast", "Plain", "Hills"}
