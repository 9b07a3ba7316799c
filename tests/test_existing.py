"""Simulations that exist train without a schema written by hand, from a file, an archive or a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer.archive import Archive
from fsimformer.child import fields_of
from fsimformer.existing import PriorWarning
from fsimformer.recorded import OneDraw, Recorded, draw
from fsimformer.simulators import check

HOURS = np.linspace(0, 10, 21)
PRIORS = {"rate": fsf.LogNormal(-1.0, 0.5)}
NOISE = {"level": ("lognormal", 0.1)}
DECAY = fsf.simulator(
    lambda rate, time: {"level": 100 * np.exp(-rate * time)}, priors=PRIORS, grid={"time": HOURS}, noise=NOISE
)
DATA = draw(DECAY, 120, seed=5)


def rows(recorded: Recorded) -> torch.Tensor:
    values = recorded.simulations.values
    table = torch.cat([values["rate"][:, None], values["level"]], 1)
    return table[table[:, 0].argsort()]


def test_a_file_a_folder_and_a_dataset_hold_the_same_simulations(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    DATA.to_netcdf(tmp_path / "all.nc", engine="h5netcdf")
    DATA.isel(simulation=slice(100)).to_netcdf(folder / "a.nc", engine="h5netcdf")
    for i in range(100, 120):  # one file a simulation
        DATA.isel(simulation=i).to_netcdf(folder / f"b{i}.nc", engine="h5netcdf")
    known = Recorded.of(DATA, DECAY.schema)
    for source in (DATA, tmp_path / "all.nc", folder):
        runs = fsf.recorded(source, priors=PRIORS, noise=NOISE)
        check(runs)
        assert runs.schema == DECAY.schema and torch.equal(runs.grid["time"], DECAY.grid["time"])
        torch.testing.assert_close(rows(runs), rows(known), rtol=0, atol=0)
    learnt = fsf.recorded(
        DATA, parameters=["rate"], support={"rate": fsf.POSITIVE}, noise=NOISE, plausible={"level": (1, 200)}
    )
    assert learnt.schema["rate"].prior is None and learnt.plausible == {"level": (1, 200)}


def test_an_archive_brings_its_schema(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "a.zarr", 3, 50, "decay", DECAY.schema)
    one = OneDraw(DECAY)
    with archive.writing() as writer:
        writer.write({k: fields_of(one(k)) for k in range(50)})
    assert fsf.recorded(archive.path).schema == DECAY.schema
    assert fsf.recorded(archive.path, priors=PRIORS).schema["level"].noise is None  # as it is said, not as it was


def test_a_prior_that_the_draws_do_not_follow_is_said() -> None:
    with pytest.warns(PriorWarning, match=r"'rate': the recorded values do not follow LogNormal.* distance 0\.[3-9]"):
        fsf.recorded(DATA, priors={"rate": fsf.LogNormal(0.0, 0.5)}, noise=NOISE)


def test_files_that_do_not_belong_together_are_named(tmp_path: Path) -> None:
    for name, other, message in (
        (
            "grid",
            DATA.isel(simulation=0).assign_coords(time=2 * HOURS),
            "its coordinate 'time' differs from that of a.nc",
        ),
        ("names", DATA.isel(simulation=0).rename(level="height"), r"b.nc: has \['height', 'rate'\], where a.nc has"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        DATA.to_netcdf(folder / "a.nc", engine="h5netcdf")
        other.to_netcdf(folder / "b.nc", engine="h5netcdf")
        with pytest.raises(ValueError, match=message):
            fsf.recorded(folder, priors=PRIORS, noise=NOISE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="expected a file, or a folder of files: .nc"):
        fsf.recorded(tmp_path / "empty", priors=PRIORS)
    with pytest.raises(FileNotFoundError, match="No such file: .*nowhere"):
        fsf.recorded(tmp_path / "nowhere", priors=PRIORS)


def test_what_is_said_must_be_there() -> None:
    with pytest.raises(KeyError, match=r"priors: no variable 'raet'. Did you mean 'rate'\?"):
        fsf.recorded(DATA, priors={"raet": fsf.LogNormal()})
    with pytest.raises(ValueError, match=r"Which of the variables \['rate', 'level'\] are parameters"):
        fsf.recorded(DATA)
    with pytest.raises(ValueError, match=r"no dim 'run' of simulations; the dims are \['simulation', 'time'\]"):
        fsf.recorded(DATA, priors=PRIORS, dim="run")
    with pytest.raises(ValueError, match="Grid of 'time': expected evenly spaced points"):
        fsf.recorded(DATA.assign_coords(time=("time", HOURS**2)), priors=PRIORS)


def test_points_of_a_function_that_hang_together_are_no_evidence_against_its_prior() -> None:
    rng, time = np.random.default_rng(0), np.arange(50.0)
    level = np.exp(rng.normal(size=(40, 1)) + np.zeros(50))  # constant in time: 40 draws, not 2,000
    data = xr.Dataset({"rate": (("simulation", "time"), level), "x": ("simulation", level[:, 0])}, {"time": time})
    with warnings.catch_warnings():
        warnings.simplefilter("error", PriorWarning)
        fsf.recorded(data, priors={"rate": fsf.LogNormal(0.0, 1.0)}, reference={"rate": (5,)})
    with pytest.warns(PriorWarning, match="'rate'"):
        fsf.recorded(data, priors={"rate": fsf.LogNormal(3.0, 1.0)}, reference={"rate": (5,)})
