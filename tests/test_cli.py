"""The command line: what files and arguments mean, and that an error is one line and exit code 2."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import xarray as xr

import fsimformer
from fsimformer.cli import main, told
from fsimformer.cli_infer import parse_at, table
from fsimformer.cli_train import find_simulator
from fsimformer.files import read_observations
from fsimformer.recorded import Recorded
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.simulators import SIRD, FunctionSimulator, HareLynx, hudson_bay


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "name", "points"),
    [
        ("rate=0:50:101", "rate", np.linspace(0, 50, 101)),
        ("rate=-1:1:3", "rate", [-1, 0, 1]),
        ("rate=2:9:1", "rate", [2]),
        ("rate=1,4,2.5", "rate", [1, 4, 2.5]),
        ("rate=1e-3", "rate", [0.001]),
        ("d=2020-01-01:2020-01-03:5", "d", pd.date_range("2020-01-01", "2020-01-03", periods=5)),
        ("d=2020-01-01,2020-02-29T12:00", "d", pd.DatetimeIndex(["2020-01-01", "2020-02-29T12:00"])),
    ],
)
def test_at_means_these_points(text: str, name: str, points: object) -> None:
    found, at = parse_at(text)
    assert found == name
    np.testing.assert_array_equal(at, np.asarray(points))


def test_at_picks_from_the_file_or_names_a_scalar() -> None:
    assert parse_at("rate") == ("rate", None)
    assert parse_at("rate=:") == ("rate", slice(None))
    assert parse_at("rate=10:") == ("rate", slice(10, None))
    assert parse_at("d=1900-01-01:1905-06-01")[1] == slice(np.datetime64("1900-01-01"), np.datetime64("1905-06-01"))


@pytest.mark.parametrize(
    "text", ["rate=", "=1,2", "rate=0:50:0", "rate=a,b", "rate=0:x:3", "rate=0:50:3:4", "d=2024-03-01T12:00", "d=now"]
)
def test_at_that_means_nothing_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f"^--at {text}: expected"):
        parse_at(text)


def test_wide_table(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "time,infected,deaths\n0.5,1,\n2,,3e-2\n1,4,5\n")
    data = read_observations(path, ["time"])
    expected = xr.Dataset(
        {"infected": ("time", [1, np.nan, 4]), "deaths": ("time", [np.nan, 0.03, 5])}, {"time": [0.5, 2, 1]}
    )
    xr.testing.assert_identical(data, expected)


def test_wide_table_with_dates_and_two_readings_at_one_time(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "time\thare\n1900-01-01\t30\n1901-01-01 12:00\t47.2\n1901-01-01 12:00\t48\n")
    data = read_observations(path, ["time"])
    expected = pd.DatetimeIndex(["1900-01-01T00:00", "1901-01-01T12:00", "1901-01-01T12:00"])
    np.testing.assert_array_equal(data.time, expected)
    np.testing.assert_array_equal(data.hare, [30, 47.2, 48])


def test_long_table_goes_on_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "time,variable,value\n2020-01-01,a,1\n2020-01-02,b,\n,c,3\n")
    frame = read_observations(path, ["time"])
    assert frame["variable"].tolist() == ["a", "b", "c"]
    assert frame["time"].dtype.kind == "M" and frame["time"].isna().tolist() == [False, False, True]


def test_scalars_are_one_row(tmp_path: Path) -> None:
    data = read_observations(written(tmp_path / "a.csv", "x1,x2\n0.5,\n"), [])
    xr.testing.assert_identical(data, xr.Dataset({"x1": 0.5, "x2": np.nan}))
    with pytest.raises(ValueError, match="expected one row of scalars, got 2"):
        read_observations(written(tmp_path / "a.csv", "x1,x2\n0.5,\n1,2\n"), [])


def test_netcdf_comes_back_as_it_was(tmp_path: Path) -> None:
    times = pd.DatetimeIndex(["2020-01-01T06:00", "2020-01-03T00:00"])
    data = xr.Dataset({"infected": ("time", [0.1, np.nan])}, {"time": times})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(read_observations(tmp_path / "a.nc", ["time"]), data)


def test_netcdf_whose_time_xarray_cannot_decode(tmp_path: Path) -> None:
    counts = hudson_bay()
    counts["time"].attrs["units"] = "years since 1900"  # looks like CF time, but years are no CF unit
    counts.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    data = read_observations(tmp_path / "a.nc", ["time"])
    assert data["time"].attrs["units"] == "years since 1900"
    xr.testing.assert_equal(data, counts)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file: .*nowhere.nc"):
        read_observations(tmp_path / "nowhere.nc", ["time"])
    with pytest.raises(ValueError, match=r"unknown ending '.xlsx'. Choices: .nc, .nc4, .h5, .csv"):
        read_observations(written(tmp_path / "a.xlsx", ""), ["time"])
    with pytest.raises(ValueError, match=r"expected an index column \['time'\], got the columns \['day', 'hare'\]"):
        read_observations(written(tmp_path / "a.csv", "day,hare\n1,2\n"), ["time"])
    with pytest.raises(ValueError, match="column 'time' holds neither numbers nor ISO dates"):
        read_observations(written(tmp_path / "a.csv", "time,hare\nMonday,2\n"), ["time"])
    xr.DataTree.from_dict({"/posterior": xr.Dataset({"a": 1.0})}).to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="no variables at its root, at most in groups; is it a result"):
        read_observations(tmp_path / "r.nc", ["time"])


def test_table_prints_median_and_interval_of_scalars() -> None:
    x = np.arange(101.0)[None].repeat(2, 0)
    sample = ("chain", "draw")
    posterior = xr.Dataset({"x": (sample, x), "v": ((*sample, "k"), np.stack([x, -x], -1))}, {"k": [0, 1]})
    predictions = xr.Dataset({"f": ((*sample, "time"), np.zeros((2, 101, 4)))}, {"time": np.arange(4)})
    predictions["g"] = (*sample, "time_g"), np.zeros((2, 101, 21))
    schema = Schema(
        (
            Variable("x", "parameter"),
            Variable("v", "parameter", ("k",)),
            Variable("f", "data", ("time",)),
            Variable("g", "data", ("time",)),
        ),
        (Components("k", 2), Index("time", 0, 3)),
    )
    lines = table(xr.DataTree.from_dict({"posterior": posterior, "predictions": predictions}), schema).splitlines()
    assert [line.split() for line in lines] == [
        ["parameter", "median", "90", "%", "interval"],
        ["x", "50", "[5,", "95]"],
        ["v[0]", "50", "[5,", "95]"],
        ["v[1]", "-50", "[-95,", "-5]"],
        *([f"f({k})", "0", "[0,", "0]"] for k in range(4)),
        ["g:", "21", "points", "(predictions)"],
    ]


def test_simulator_by_name_by_file_and_not_at_all(tmp_path: Path) -> None:
    assert find_simulator("sird") == SIRD()
    own = "from fsimformer.simulators import FunctionSimulator, HareLynx as Mine\nnothing = 3\n"
    own += "ours = FunctionSimulator(Mine().schema, Mine().simulate, Mine().grid)\n"
    path = written(tmp_path / "own.py", own)
    assert isinstance(find_simulator(f"{path}:Mine"), HareLynx)
    assert isinstance(find_simulator(f"{path}:ours"), FunctionSimulator)
    assert isinstance(find_simulator("fsimformer.simulators:HareLynx"), HareLynx)
    with pytest.raises(
        KeyError, match="No simulator named 'flu'. Choices: epidemic, hare_lynx, hodgkin_huxley, influenza, "
    ):
        find_simulator("flu")
    with pytest.raises(KeyError, match="has no 'theirs'"):
        find_simulator(f"{path}:theirs")
    with pytest.raises(ValueError, match="is a int; a Simulator has"):
        find_simulator(f"{path}:nothing")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with random weights."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    joint = tiny.joint()
    card = {"seed": 0, "n_parameters": joint.n_parameters}  # as training writes it
    fsimformer.Joint(replace(joint.model, provenance=card)).save(path)
    return path


def test_infer_is_condition_and_sample(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "a.csv", "time,y\n2020-01-01,1.5\n2020-01-03,\n2020-01-09,0.5\n")
    out, plot = tmp_path / "draws.nc", tmp_path / "draws.png"
    at = ["--at", "rate=0:20:5", "--at", "y=2020-01-03,2020-01-15T12:00"]
    options = ["--draws", "10", "--seed", "4", "--origin", "2020-01-01", "--out", str(out), "--plot", str(plot)]
    assert main(["infer", str(model), str(data), *at, *options]) == 0
    printed, error = capsys.readouterr()
    assert error == ""
    rates, days = [f"rate({t})" for t in (0.0, 5.0, 10.0, 15.0, 20.0)], ["y(2020-01-03)", "y(2020-01-15T12:00:00)"]
    assert [x.split()[0] for x in printed.splitlines()] == ["parameter", "a", "w[0]", "w[1]", *rates, *days]
    assert plot.read_bytes().startswith(b"\x89PNG")

    observed = read_observations(data, ["time"])
    dates = pd.DatetimeIndex(["2020-01-03T00:00", "2020-01-15T12:00"]).to_numpy()
    points = {"rate": np.linspace(0, 20, 5), "y": dates}
    expected = tiny.joint().condition(observed, origin="2020-01-01").sample(10, points, seed=4)
    with xr.open_datatree(out, engine="h5netcdf") as tree:
        assert set(tree.children) == set(expected.children)
        for group in expected.children:
            xr.testing.assert_equal(tree[group].to_dataset(), expected[group].to_dataset())
        np.testing.assert_array_equal(tree["predictions"]["time"], dates)


def test_info_tells_all(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert Schema.from_dict(found["schema"]) == tiny.SCHEMA
    assert found["n_parameters"] == tiny.joint().n_parameters and found["provenance"]["seed"] == 0
    assert main(["info", str(model)]) == 0
    text = capsys.readouterr().out
    for name in tiny.SCHEMA.names:
        assert f"\n{name} " in text
    assert "time: trained on [0, 20] days" in text and "lognormal, sd 0.1" in text
    assert main(["info", "sird"]) == 0
    joint, text = fsimformer.load("sird"), capsys.readouterr().out
    assert text.startswith(f"sird: {joint.n_parameters:,} parameters\n")
    assert re.search(r"\nrecovery_rate  +parameter +Uniform\(0, 0.5\) +0.025 to 0.475", text)
    assert "'" not in text and "{" not in text  # nothing as Python writes it
    steps, levels = joint.provenance["train"]["steps"], joint.provenance["levels"]
    assert f"\ntrain: steps {steps}, batch_size " in text
    assert f"\nlevels: mean {levels['mean']:g}, sd {levels['sd']:g}, " in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_reader_who_has_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "fsimformer.cli", "info", "sird"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 141


def test_json_is_told_as_a_person_reads_it() -> None:
    entry = {"n": [4, 60], "dial": [["few", 0.9], [None, 0.1]], "told": True, "rate": 1e-08, "empty": {}}
    assert told(entry) == "n (4, 60), dial ((few, 0.9), (none, 0.1)), told yes, rate 1e-08, empty none"
    assert told([]) == "none" and told(["a", "b"]) == "a, b" and told("as it is") == "as it is"


def test_info_needs_the_card_alone(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((model / "model.json").read_text())
    del card["provenance"]["n_parameters"]
    written(tmp_path / "model.json", json.dumps(card))
    assert main(["info", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}\nvariable ")
    (tmp_path / "model.json").unlink()
    assert main(["info", str(tmp_path)]) == 2
    assert "is no model directory: no model.json in it" in capsys.readouterr().err


def test_train_saves_a_model_that_load_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = """
import torch, fsimformer as fsf
def draw(n, generator):
    a = torch.randn(n, generator=generator)
    return {"a": a, "x": a + torch.randn(n, generator=generator)}
a = fsf.Variable("a", "parameter", prior=fsf.Normal())
ours = fsf.simulators.FunctionSimulator(fsf.Schema((a, fsf.Variable("x", "data"))), draw)
"""
    simulator = f"{written(tmp_path / 'own.py', own)}:ours"
    how = ["--simulations", "200", "--steps", "3", "--seed", "5"]
    arguments = ["train", simulator, *how, "--out", str(tmp_path / "m")]
    assert main(arguments) == 0
    out, error = capsys.readouterr()
    assert error == "" and "parameters, validation loss" in out
    joint = fsimformer.load(tmp_path / "m")
    assert joint.schema.names == ("a", "x")
    assert (joint.provenance["seed"], joint.provenance["simulations"], joint.provenance["steps"]) == (5, 200, 3)
    assert main([*arguments, "--checkpoint", str(tmp_path / "m" / "run.safetensors")]) == 2
    assert "lies in the model's directory" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "m holds a model; choose another path, or --replace it." in capsys.readouterr().err
    assert main([*arguments, "--steps", "2", "--replace"]) == 0
    assert fsimformer.load(tmp_path / "m").provenance["steps"] == 2


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("time,y\n1,2\n", ["--at", "z=1,2"], "at: the model has no variables ['z']"),
        ("time;y\n1;2\n", [], "cannot be read as a table: its fields are separated by semicolons; write it anew with"),
        ("time,y\n20250901,2\n", [], "'time' holds numbers that look like dates, 20250901; write 2025-09-01."),
        ("time,y\n01/09/2025,2\n", [], "holds neither numbers nor ISO dates: Time data 01/09/2025 is not ISO8601"),
        ("time,y\n1,2\n", ["--drop", "why"], "a.csv has no column 'why'. It has ['time', 'y']."),
        ("time,rat\n1,2\n", [], "The model has no variables ['rat']. Did you mean 'rate'? Its variables: "),
        ("day,y\n1,2\n", [], "got the columns ['day', 'y']. Where one of them is it, say so: --rename COLUMN=time."),
        ("time,z\n1,2\n", [], "The model has no variables ['z']. Its variables: ['a', 'w', 'rate', 'y', 'x']; leave"),
        ("time,region,y\n1,n,2\n", [], "The model has no 'region'. Where it tells data sets apart: --batch region"),
        ("region,time,variable,value\nn,1,y,2\n", [], "The model has no 'region'. Where it tells data sets apart"),
        ("time,y\n1,2\n", ["--batch", "region"], "a.csv has no column 'region'. It has ['time', 'y']."),
        (
            "date,y\n1,2\n",
            ["--rename", "dat=time"],
            "a.csv has no column 'dat'. Did you mean 'date'? It has ['date', 'y'].",
        ),
        ("time,y\n1,2\n", ["--rename", "day"], "--rename day: expected COLUMN=NAME."),
        ("time,y\n1,2\n", ["--out", "a.zarr"], "--out a.zarr: a .zarr is for many data sets, --batch DIM"),
        ("time,y\n1,-2\n", [], "'y': 1 of 1 values lie outside its support (0, inf)"),
        ("time,y\n1,two\n", [], "'y': expected numbers"),
        ('time,y\n1,"2,300,000"\n', [], "such as '2,300,000'. Write numbers without separators of thousands."),
        ('time,y\n1,"0,013"\n', [], "such as '0,013'. Write a decimal comma as a point, and numbers without sep"),
        (
            "time,y,z\n1,2,3\n",
            ["--rename", "z=y"],
            "--rename z=y: it has a column 'y' already; leave it out: --drop y.",
        ),
        ("time,y\n1,-\n2,3\n", [], "such as '-'. Leave missing values blank."),
        ("time,y\n1,<5\n", [], "such as '<5'. A bound is no value: leave it blank, or write the number"),
        ("time,y\n1,2\n", ["--draws", "3"], "expected an even number of draws"),
        ("time,y\n1,2\n", ["--at", "rate=a"], "--at rate=a: expected START:STOP:COUNT"),
        ("time,y\n1,2\n", ["--plot", "no/where/a.png"], "No such directory"),
        ("time,y\n1,2\n", ["--out", "a.txt"], "unknown ending '.txt'"),
    ],
)
def test_bad_input_to_infer_is_one_line(
    text: str, options: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = written(tmp_path / "a.csv", text)
    assert main(["infer", str(model), str(data), *options]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith("fsimformer infer: error: ") and message in error


def test_a_warning_is_one_line_and_no_failure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "a.csv", "time,y\n1,2\n30,1\n")
    assert main(["infer", str(model), str(data), "--at", "y=2,3", "--draws", "2"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("fsimformer infer: warning: ") and error.count("\n") == 1 and "[0, 20]" in error


def test_simulate_writes_what_the_simulator_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "sird", "--n", "5", "--seed", "3", "--out", str(tmp_path / "sims.nc")]) == 0
    assert "5 simulations" in capsys.readouterr().out
    drawn = SIRD().simulate(5, torch.Generator().manual_seed(3))
    with xr.open_dataset(tmp_path / "sims.nc", engine="h5netcdf") as data:
        for name, x in drawn.items():
            np.testing.assert_array_equal(data[name], x)
        assert data["infected"].dims == ("simulation", "time")
        assert "lognormal noise of sd 0.05" in data["infected"].attrs["comment"]
        clean = data.load()
    assert main(["simulate", "sird", "--n", "5", "--seed", "3", "--noise", "--out", str(tmp_path / "noisy.nc")]) == 0
    with xr.open_dataset(tmp_path / "noisy.nc", engine="h5netcdf") as data:
        np.testing.assert_array_equal(data["contact_rate"], clean["contact_rate"])
        error = np.log(data["infected"] / clean["infected"]).to_numpy() / 0.05
        assert abs(error.std() - 1) < 4 / (2 * error.size) ** 0.5
        with pytest.raises(ValueError, match="were written with noise"):
            Recorded.of(data, SIRD().schema)


def require_one_line_error(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    assert error.startswith(f"fsimformer {arguments[0]}: error: ") and message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["simulate", "flu", "--out", "a.nc"],
            "No simulator named 'flu'. Choices: epidemic, hare_lynx, hodgkin_huxley, influenza, ",
        ),
        (["simulate", "sird", "--out", "a.txt"], "a.txt: unknown ending '.txt'. Choices: .nc"),
        (["simulate", "sird", "--noise", "--out", "a.zarr"], "--noise: archives are to be trained on and hold clean"),
        (["simulate", "sird", "--out", "no/where/a.nc"], "No such directory: "),
        (["simulate", "sird", "--n", "0", "--out", "a.nc"], "--n: expected at least 1, got 0."),
        (["simulate", "gone.py:sim", "--out", "a.nc"], "No such file: gone.py"),
        (["simulate", "no_such_module:sim", "--out", "a.nc"], "No module named 'no_such_module'"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    require_one_line_error(arguments, message, capsys)


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["simulate", "sird"], ["simulate", "sird", "--out", "a.nc", "--n", "x"]]
)
def test_arguments_that_do_not_parse_are_one_line_too(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.count("\n") == 1


def test_as_a_program() -> None:
    """Once for real: the exit status is the process's."""
    command = [sys.executable, "-m", "fsimformer.cli", "info", "no_such_model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "error: No model named 'no_such_model'" in done.stderr and done.stderr.count("\n") == 1
