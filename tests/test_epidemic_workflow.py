"""The example's page: what it reads is what the file says, and it runs from the file to scores with any model."""

from __future__ import annotations

import sys
from pathlib import Path

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
    asked = ["--csv", str(csv), "--folder", str(tmp_path), "--model", str(tmp_path / "model"), "--draws", "10"]
    monkeypatch.setattr(sys, "argv", ["epidemic_workflow.py", *asked])
    page.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scored = {tuple(line[:3]) for line in lines if len(line) == 6 and line[1] in page.SERIES}
    forecasts = ("network", "last_value", "log_linear")
    held_back = [("Coast", "cases"), ("Coast", "deaths"), ("Plain", "cases"), ("Plain", "deaths"), ("Hills", "cases")]
    assert scored == {(*known, who) for known in held_back for who in forecasts}  # of Hills' deaths nobody knows
    with xr.open_datatree(tmp_path / "posterior.nc", engine="h5netcdf") as tree:
        cases = tree["predictions"]["cases"]
        assert cases.sizes["time"] == 28 and bool((cases == cases.round()).all()) and float(cases.min()) >= 0
        assert str(cases["time"].values[0])[:10] == "2025-11-24"
    assert all((tmp_path / f"{region}.png").exists() for region in ("Coast", "Plain", "Hills"))
    assert set(pd.read_csv(tmp_path / "forecast.csv")["region"]) == {"Coast", "Plain", "Hills"}
