"""The command line around archives: simulate into one, resume it, train from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_cli import require_one_line_error, written

import fsimformer
from fsimformer.archive import Archive
from fsimformer.cli import main
from fsimformer.seeds import seed_at

OWN = """
import numpy as np

def tank(seed):
    rng = np.random.default_rng(seed)
    a = rng.normal()
    if a > 1:
        raise ArithmeticError("overflow")
    return {"a": a, "x": a + rng.normal()}
"""
KNOWN = """
import fsimformer as fsf
from fsimformer.simulators import FunctionSimulator
import torch

def draw(n, generator):
    a = torch.randn(n, generator=generator)
    return {"a": a, "x": a + torch.randn(n, generator=generator)}

a = fsf.Variable("a", "parameter", prior=fsf.Normal())
schema = fsf.Schema((a, fsf.Variable("x", "data")))
ours = FunctionSimulator(schema, draw)
series = fsf.Schema((a, fsf.Variable("x", "data", ("t",))), (fsf.Index("t", 0.0, 1.0),))

def draw_series(n, generator):
    return draw(n, generator) | {"x": torch.randn(n, 5, generator=generator)}

paths = FunctionSimulator(series, draw_series, {"t": torch.linspace(0, 1, 5).double()})
"""


def test_simulate_resume_and_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, own = tmp_path / "runs.zarr", written(tmp_path / "own.py", OWN)
    command = ["simulate", f"{own}:tank", "--out", str(out), "--seed", "3", "--workers", "1", "--limit", "60"]
    assert main([*command, "--n", "30"]) == 0
    assert main([*command, "--n", "150"]) == 0
    printed, error = capsys.readouterr()
    a = np.array([np.random.default_rng(seed_at(3, 7, k)).normal() for k in range(150)])
    n_bad = int((a > 1).sum())
    assert printed.splitlines()[-1] == f"{out}: 150 simulations, {n_bad} of them failed"
    assert error.splitlines()[-1].startswith(f"fsimformer simulate: warning: {n_bad} of 150 simulations failed (Arith")
    np.testing.assert_array_equal(Archive.open(out).read()["a"], a[a <= 1])

    known, model = written(tmp_path / "known.py", KNOWN), tmp_path / "model"
    for name in ("ours", "schema"):  # who has a black box alone states its schema
        train = ["train", f"{known}:{name}", "--archive", str(out), "--steps", "2", "--out", str(model), "--replace"]
        assert main(train) == 0
        assert fsimformer.load(model).provenance["simulations"] == 150 - n_bad
    assert main([*train, "--online", "150"]) == 0
    card = fsimformer.load(model).provenance
    assert card["simulations"] == 150 and card["simulations_dropped"] == n_bad and card["arriving"]["first"] == 150


def test_a_file_of_another_range_than_the_simulator_s_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known, runs = written(tmp_path / "known.py", KNOWN), tmp_path / "runs.nc"
    rng = np.random.default_rng(0)
    data = {"a": ("simulation", rng.normal(size=120)), "x": (("simulation", "t"), rng.normal(size=(120, 5)))}
    xr.Dataset(data, {"t": np.linspace(0, 2, 5)}).to_netcdf(runs, engine="h5netcdf")
    assert main(["train", f"{known}:paths", "--archive", str(runs), "--steps", "2", "--out", str(tmp_path / "m")]) == 2
    assert "expected the trained range" in capsys.readouterr().err


def test_simulations_on_another_grid_than_the_trained_range_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values are read by their place on the grid: those of 35 days would be taken for those of all."""
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "sird", "--n", "110", "--out", "whole.nc"]) == 0
    with xr.open_dataset("whole.nc", engine="h5netcdf") as whole:
        whole.isel(time=slice(whole.sizes["time"] // 2)).to_netcdf("half.nc", engine="h5netcdf")
    assert main(["train", "sird", "--archive", "half.nc", "--steps", "1", "--out", "m"]) == 2
    assert "Grid of 'time': expected the trained range" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["simulate", "own.py:tank", "--out", "a.nc"], "own.py:tank is a function; a Simulator has `schema`"),
        (["simulate", "own.py:tank", "--out", "a.zarr", "--limit", "0"], "limit: expected seconds above 0"),
        (["simulate", "own.py:tank", "--out", "a.zarr", "--chunk", "0"], "chunk: expected at least 1 simulation"),
        (
            ["simulate", "sird", "--out", "a.nc", "--chunk", "100", "--limit", "9"],
            "--limit, --chunk: for archives only, got --out a.nc",
        ),
        (["simulate", "sird", "--out", "a.nc", "--workers", "2"], "--workers: for archives only"),
        (
            ["train", "own.py:tank", "--archive", "a.zarr", "--out", "m"],
            "is a function; --archive needs a Schema",
        ),
        (["train", "sird", "--archive", "a.zarr", "--out", "m"], "No such file: a.zarr"),
        (["train", "sird", "--online", "100", "--out", "m"], "--online: expected --archive FILE, an archive that is"),
        (
            ["train", "sird", "--archive", "own.py", "--online", "100", "--out", "m"],
            "own.py is no archive of simul",
        ),
        (["train", "sird", "--archive", "a.csv", "--out", "m"], "a.csv: unknown ending '.csv'. Choices: .nc, .nc4"),
    ],
)
def test_an_error_is_one_line(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "own.py", OWN)
    require_one_line_error(command, message, capsys)
