"""Settings from a TOML file, help with examples that parse, JSON for machines, and silence in pipes."""

from __future__ import annotations

import argparse
import io
import json
import shlex
from pathlib import Path

import pytest
import xarray as xr
from test_cli import require_one_line_error, written
from test_cli_archive import KNOWN

import fsimformer
from fsimformer.cli import _parser, main
from fsimformer.cli_check import verdict
from fsimformer.cli_command import progress_bar, settings, settled
from fsimformer.masks import MaskConfig
from fsimformer.train_config import TrainConfig

RUN = """
simulator = "known.py:ours"
simulations = 200
seed = 3
out = "from_file"

[train]
steps = 3
batch_size = 16
n_validation = 16
dial = [["few", 1.0]]

[network]
width = 16
depth = 1
n_heads = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "known.py", KNOWN)
    written(tmp_path / "run.toml", RUN)
    return tmp_path


def parse(*argv: str) -> argparse.Namespace:
    parser = _parser()
    return settled(parser, parser.parse_args(argv), argv)


def test_the_line_wins_over_the_file_and_the_file_over_the_defaults(folder: Path) -> None:
    args = parse("train", "--config", "run.toml", "--seed", "4")
    assert (args.simulator, args.simulations, args.seed, str(args.out)) == ("known.py:ours", 200, 4, "from_file")
    assert args.device == "cpu" and args.checkpoint is None and args.tables["network"]["width"] == 16
    args = parse("train", "sird", "--config", "run.toml", "--fresh")
    assert args.simulator == "sird" and args.fresh and args.simulations == 100_000  # of the file's there is no word
    args = parse("simulate", "sird", "--out", "a.nc", "--config", str(written(folder / "s.toml", "n = 7\nlimit = 2\n")))
    assert (args.n, args.limit) == (7, 2.0)


def test_train_from_a_file_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "run.toml", "--json"]) == 0
    out, error = capsys.readouterr()
    found, joint = json.loads(out), fsimformer.load("from_file")
    assert error == "" and found["out"] == "from_file" and found["n_parameters"] == joint.n_parameters
    card = joint.provenance
    assert (card["seed"], card["simulations"], card["train"]["batch_size"]) == (3, 200, 16)
    assert joint.model.denoiser.network.config.width == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sede = 3", "bad.toml: unknown key 'sede'. Did you mean 'seed'? Keys: simulator, simulations"),
        ("[trian]\nsteps = 3", "unknown key '[trian]'. Did you mean '[train]'?"),
        ("[train]\nstpes = 3", "bad.toml, [train]: unknown key 'stpes'. Did you mean 'steps'? Keys: steps, batch_size"),
        ("[train]\nseed = 3", "[train]: the seed is no part of a table; write seed = 3 above"),
        ('[train]\nsteps = "3"', "[train]: expected int for 'steps', got '3'"),
        ("[train]\nsteps = true", "[train]: expected int for 'steps', got True"),
        ("[train]\nsteps = 0", "TrainConfig: expected steps >= 1, got 0"),
        ("[design]\nskew = 1.0", "[design]: "),
        ("seed = 3.5", "bad.toml: expected int for 'seed', got 3.5"),
        ("fresh = 1", "bad.toml: expected bool for 'fresh', got 1"),
        ("simulations = 100\nfresh = true", "bad.toml: 'fresh' and 'simulations' exclude each other"),
        ("seed = ", "bad.toml: no TOML: Invalid value"),
    ],
)
def test_a_file_that_means_nothing_is_one_line(
    text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder / "bad.toml", text)
    line = ["train", "known.py:ours", "--config", "bad.toml", "--out", "m"]
    require_one_line_error(line, message, capsys)
    assert not (folder / "m").exists()


def test_what_is_required_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["train"], ["simulate", "--config", str(written(folder / "n.toml", "n = 3"))]):
        with pytest.raises(SystemExit, match="2"):
            main(argv)
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "are required: SIMULATOR, --out, on the line or in the file of --config" in error
    require_one_line_error(["train", "--config", "no.toml"], "No such file or directory: no.toml", capsys)


def test_settings_of_a_table_are_a_config() -> None:
    assert settings(TrainConfig, "t", {"steps": 5, "learning_rate": 1, "dial": [["few", 1]]}, seed=2) == TrainConfig(
        steps=5, learning_rate=1, dial=(("few", 1.0),), seed=2
    )
    assert settings(MaskConfig, "t", {"posterior": 1}) == MaskConfig(posterior=1)


def test_every_help_ends_with_examples_that_parse(folder: Path) -> None:
    parser = _parser()
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    assert {"infer", "train", "simulate", "check", "plot", "info"} <= commands.choices.keys()
    for name, command in commands.choices.items():
        assert command.epilog is not None, name
        lines = [x.strip() for x in command.epilog.splitlines() if x.strip().startswith("fsimformer ")]
        assert lines, name
        for line in lines:
            words = shlex.split(line.split("|")[0], comments=True)
            args = parser.parse_args(words[1:])
            assert args.run is not None and words[1] == name


def test_the_example_of_a_config_file_is_one(folder: Path) -> None:
    parser = _parser()
    (commands,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    epilog = commands.choices["train"].epilog
    assert epilog is not None
    text = epilog.split("run.toml:")[1]
    written(folder / "run.toml", "\n".join(x.strip() for x in text.splitlines()))
    args = parse("train", "--config", "run.toml")
    assert str(args.out) == "decay_model" and args.tables == {
        "train": {"steps": 20_000, "batch_size": 64}, "network": {"width": 64},
    }  # fmt: skip


def test_simulate_tells_machines_what_it_wrote(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "known.py:ours", "--n", "5", "--seed", "3", "--out", "a.nc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "a.nc", "n": 5, "n_failed": 0, "seed": 3}


def test_a_verdict_is_json() -> None:
    tests = xr.Dataset(
        {
            "effect": ("test", [0.5, float("nan")]),
            "p_adjusted": ("test", [1e-4, 1.0]),
            "rejected": ("test", [True, False]),
        },
        {"test": ["sbc a", "tarp"]},
    )
    tree = xr.DataTree.from_dict({"tests": tests})
    tree.attrs["verdict"] = "1 of 2 tests reject calibration"
    found = json.loads(json.dumps(verdict(tree)))
    assert found["rejected"] == ["sbc a"] and found["verdict"] == "1 of 2 tests reject calibration"
    assert found["tests"][1] == {"test": "tarp", "effect": None, "p_adjusted": 1.0, "rejected": False}


def test_bars_move_on_a_terminal_and_are_silent_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr("sys.stderr", stream)
        with progress_bar(10, "step") as show:
            show(4, "validation=1")
            show(10, None)
        assert ("10/10" in stream.getvalue()) == shown
        if not shown:
            assert stream.getvalue() == ""
