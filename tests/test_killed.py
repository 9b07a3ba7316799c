"""A kill −9 at any moment leaves the last good state, and the next run goes on from it."""

from __future__ import annotations

import errno
import importlib
import json
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import xarray as xr

import fsimformer as fsf
from fsimformer import beside
from fsimformer.beside import aside, exchange, replaced
from fsimformer.cli import main

HERE = Path(__file__).parent


def program(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.Popen(
        whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_who_is_killed_at_any_step_leaves_the_old_or_the_new_whole(tmp_path: Path) -> None:
    output, errors = program(HERE / "killed.py", tmp_path).communicate()
    assert output, errors
    every = json.loads(output)
    assert set(every) == {"model", "checkpoint", "draws", "report"}
    for writer, found in every.items():
        steps, inside = [f for f in found if f[0] == "step"], [f for f in found if f[0] == "bytes"]
        assert len(steps) >= 2 and len(inside) >= 3  # it did die
        assert {version for _, _, version in steps} <= {1, 2}, writer
        assert {version for _, _, version in inside} == {1}, writer  # never in the middle of a file
        assert found[len(steps)][2] == 2, writer  # and who lives has written


def test_directories_are_exchanged_where_the_system_cannot_do_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is never gone before the new one is there, and whoever is killed between the two finds it named."""
    monkeypatch.setattr("fsimformer.beside._swapped", lambda a, b: False)
    target = tmp_path / "model"
    tiny.joint(seed=1).save(target)
    tiny.joint(seed=2).save(target)
    assert fsf.load(target).provenance == {"seed": 2} and [p.name for p in tmp_path.iterdir()] == ["model"]
    part = tmp_path / "part"
    tiny.joint(seed=3).save(part)
    rename = os.rename

    def killed_at_the_second(a: Path, b: Path) -> None:
        if b == target:
            raise KeyboardInterrupt
        rename(a, b)

    monkeypatch.setattr(os, "rename", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        exchange(part, target)
    assert fsf.load(aside(target)).provenance == {"seed": 2}
    with pytest.raises(FileNotFoundError, match=r"It was being replaced; what it was is in .*\.model\.old"):
        fsf.load(target / "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_nothing_takes_its_place_before_all_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a machine that loses its power would keep the new name and lose what it stands for: by inode, all of it."""
    killed: Any = importlib.import_module("killed")  # it forks
    synced, moved = set[int](), list[str]()
    fsync, replace, swapped = os.fsync, os.replace, beside._swapped

    def waits(file: int) -> None:
        fsync(file)
        synced.add(os.fstat(file).st_ino)

    def checked(part: Path, target: Path) -> None:
        assert {p.stat().st_ino for p in (part, *Path(part).rglob("*"))} <= synced, part
        moved.append(Path(target).name)

    def replaces(part: Path, target: Path) -> None:
        checked(part, target)
        replace(part, target)

    def swaps(part: Path, target: Path) -> bool:
        checked(part, target)
        return swapped(part, target)

    monkeypatch.setattr(os, "fsync", waits)
    monkeypatch.setattr(os, "replace", replaces)
    monkeypatch.setattr(os, "rename", replaces)
    monkeypatch.setattr(beside, "_swapped", swaps)
    for version in (killed.OLD, killed.NEW):
        for file, write, read in killed.WRITERS.values():
            folder = tmp_path / file
            folder.mkdir(exist_ok=True)
            write(folder / file, version)
            assert read(folder / file) == version
            assert folder.stat().st_ino in synced  # the name, too
            assert [p.name for p in folder.iterdir()] == [file]
            synced.clear()
    assert set(moved) == {file for file, *_ in killed.WRITERS.values()} and len(moved) == 2 * len(killed.WRITERS)


@pytest.mark.skipif(sys.platform == "win32", reason="directories are not waited for")
def test_a_disk_that_cannot_wait_for_names_takes_files_and_one_that_loses_values_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network disks refuse fsync of a directory; where a file's is refused, its place keeps what it was."""
    target, refused = tmp_path / "a.txt", [stat.S_ISDIR]

    def fsync(file: int) -> None:
        if refused[0](os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with replaced(target) as part:
        part.write_text("one")
    assert target.read_text() == "one"
    refused[0] = stat.S_ISREG
    with pytest.raises(OSError, match="Invalid argument"), replaced(target) as part:
        part.write_text("two")
    assert target.read_text() == "one" and list(tmp_path.iterdir()) == [target]


def test_two_who_write_the_same_at_once_do_not_write_into_one_file(tmp_path: Path) -> None:
    """Threads of one process, say: who is done last is what is found, whole."""
    target = tmp_path / "a.txt"
    with replaced(target) as first:
        first.write_text("one")
        with replaced(target) as second:
            second.write_text("two, longer")
        assert target.read_text() == "two, longer" and first.read_text() == "one"
    assert target.read_text() == "one" and list(tmp_path.iterdir()) == [target]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "tiny"
    tiny.joint().save(path)
    return path


def half_written(self: Any, path: Path, *args: Any, **options: Any) -> None:
    Path(path).write_text("half")
    raise OSError("disk full")


def test_infer_and_simulate_that_fail_while_they_write_leave_the_last_result(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "a.csv").write_text("time,y\n1,1.5\n3,\n")
    draws, picture, runs = tmp_path / "draws.nc", tmp_path / "draws.png", tmp_path / "runs.nc"
    for file in (draws, picture, runs):
        file.write_text("last good")
    infer = ["infer", str(model), str(tmp_path / "a.csv"), "--draws", "4", "--quality", "fast"]
    monkeypatch.setattr(xr.DataTree, "to_netcdf", half_written)
    monkeypatch.setattr(xr.Dataset, "to_netcdf", half_written)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half_written)
    assert main([*infer, "--out", str(draws)]) == main([*infer, "--plot", str(picture)]) == 2
    assert main(["simulate", "hare_lynx", "--n", "2", "--out", str(runs)]) == 2
    assert "disk full" in capsys.readouterr().err
    assert {file.read_text() for file in (draws, picture, runs)} == {"last good"}
    assert len(list(tmp_path.iterdir())) == 4  # nothing half-written beside them
    assert main([*infer, "--plot", str(tmp_path / "draws.xls")]) == 2
    assert "unknown ending '.xls'. Choices: .png, .pdf, .svg" in capsys.readouterr().err


TRAIN = """
import sys, fsimformer as fsf
from fsimformer.simulators import HareLynx
config = fsf.TrainConfig(steps=60, batch_size=16, n_micro=1, pool=1, warmup=5, validate_every=10, checkpoint_every=3)
network = fsf.NetworkConfig(width=16, depth=1, n_heads=2)
joint = fsf.train(HareLynx(), simulations=200, config=config, network=network, checkpoint=sys.argv[1])
joint.save(sys.argv[2])
print(joint.model.fingerprint)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """At moments that nobody chose; by fingerprint of the weights. Each run gets further, for checkpoints are kept."""
    output, errors = program("-c", TRAIN, tmp_path / "a.safetensors", tmp_path / "a").communicate()
    expected = output.strip()
    assert len(expected) == 16, errors
    checkpoint, rng, deaths = tmp_path / "b.safetensors", random.Random(0), 0
    for _ in range(3):
        child = program("-c", TRAIN, checkpoint, tmp_path / "b")
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while child.poll() is None and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
            time.sleep(0.01)  # it works
        time.sleep(rng.random() * 0.3)
        child.kill()
        child.communicate()
        deaths += child.returncode == -9
    assert deaths >= 1
    assert program("-c", TRAIN, checkpoint, tmp_path / "b").communicate()[0].strip() == expected
