"""A campaign's archive follows from its seed alone: not from workers, order, interruptions, or what simulations do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from functools import partial, wraps
from pathlib import Path
from typing import Any

import black_boxes
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from test_archive import files
from test_child import gone

from fsimformer.archive import Archive, Failure
from fsimformer.campaign import SimulationWarning, Tally, _name, _stated, simulate_to
from fsimformer.child import fields_of
from fsimformer.seeds import generator_at, seed_at
from fsimformer.simulators import SIRD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def ragged(folder: Path) -> Archive:
    """24 simulations by two workers, in chunks of four."""
    return simulate_to(folder / "ragged.zarr", black_boxes.gated, 24, seed=2, chunk=4, workers=2)


@pytest.fixture(scope="module")
def troubled(folder: Path) -> Archive:
    """16 simulations, of which some raise, hang, kill their process, leave it and return text, by one worker."""
    with pytest.warns(SimulationWarning, match=r"of 16 simulations failed \(.*; Archive.failures tells which and why"):
        return simulate_to(folder / "t.zarr", black_boxes.troubled, 16, seed=5, chunk=4, limit=3.0, workers=1)


def test_a_simulation_is_a_function_of_its_number(ragged: Archive) -> None:
    data = ragged.read()
    assert data["simulation"].values.tolist() == list(range(24)) and ragged.failures == ()
    for k in range(24):
        expected = fields_of(black_boxes.ragged(seed_at(2, 7, k)))
        n = len(expected["level"].values)
        np.testing.assert_array_equal(data["level"].sel(simulation=k)[:n], expected["level"].values)
        assert data["rate"].sel(simulation=k) == expected["rate"].values


def test_nothing_of_a_campaign_is_served_beyond_this_machine(tmp_path: Path) -> None:
    """dask serves pages to the whole network unless it is told where."""
    with LocalCluster(n_workers=1, processes=False, dashboard_address="0.0.0.0:0") as open_to_all, Client(open_to_all):
        assert black_boxes.listeners(os.getpid()) > 0
    drawn = simulate_to(tmp_path / "tapped.zarr", black_boxes.wiretap, 2, seed=1).read()
    assert drawn["open"].values.tolist() == [0.0, 0.0]


def test_failures_are_recorded_and_the_rest_completes(troubled: Archive) -> None:
    fates = [black_boxes.fate(seed_at(5, 7, k)) for k in range(16)]
    assert {*black_boxes.FATES, "lives"} == set(fates), "choose a seed that shows all"
    lives = [k for k in range(16) if fates[k] == "lives"]
    data = troubled.read()
    assert data["simulation"].values.tolist() == lives and data.attrs["n_failed"] == 16 - len(lives)
    said = {
        "raises": ("ArithmeticError", "no {seed}"),
        "hangs": ("TimeoutError", "no result within 3 s; killed."),
        "dies": ("ChildProcessError", "the simulation's process died: signal 9 (Killed)."),
        "exits": ("ChildProcessError", "the simulation's process died: exit code 3."),
        "is text": ("TypeError", "'level' holds <U4 values; expected numbers of at most 64 bits, or truth values."),
    }
    expected = []
    for k in set(range(16)) - set(lives):
        seed, (error, message) = seed_at(5, 7, k), said[fates[k]]
        expected.append(Failure(k, seed, error, message.format(seed=seed)))
    assert troubled.failures == tuple(sorted(expected, key=lambda f: f.number))


def test_workers_and_order_change_nothing(troubled: Archive, tmp_path: Path) -> None:
    """Two workers finish in another order: one hangs while the other goes on."""
    with pytest.warns(SimulationWarning):
        two = simulate_to(tmp_path / "b.zarr", black_boxes.troubled, 16, seed=5, chunk=4, limit=3.0, workers=2)
    assert files(two.path) == files(troubled.path)


def test_only_what_was_asked_for_is_tallied(troubled: Archive) -> None:
    """An archive may be longer than n; its later failures are not among those n. Nothing is run, one call is made."""
    tallies: list[Tally] = []
    with pytest.warns(SimulationWarning):
        simulate_to(
            troubled.path, black_boxes.troubled, np.int64(5), seed=5, chunk=4, limit=3.0, callback=tallies.append
        )
    n_failed = [f.number for f in troubled.failures if f.number < 5]
    assert tallies == [Tally(5, 5, len(n_failed))] and len(n_failed) < len(troubled.failures)


def test_simulators_of_one_name_in_two_modules_are_two(ragged: Archive) -> None:
    def gated(seed: int) -> dict[str, float]:
        return {"rate": float(seed)}

    gated.__qualname__ = "gated"
    with pytest.raises(ValueError, match="begun with the simulator 'black_boxes.gated', not 'test_campaign.gated'"):
        simulate_to(ragged.path, gated, 25, seed=2, chunk=4)


def started(simulator: str, path: Path, pids: Path, limit: str = "") -> subprocess.Popen[bytes]:
    """A process that writes an archive; its children leave their numbers in `pids`."""
    command = [sys.executable, black_boxes.__file__, simulator, str(path), "24", *limit.split()]
    return subprocess.Popen(command, env=os.environ | {"BLACK_BOX_PIDS": str(pids)})


def allow(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    """Only the first n simulations of seed 2 end, whatever the machine is doing."""
    monkeypatch.setenv("BLACK_BOX_SEEDS", " ".join(str(seed_at(2, 7, k)) for k in range(n)))


def test_a_killed_campaign_is_resumed_without_a_trace(
    ragged: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from outside while it is written, killed with −9 in the third chunk, its children gone, then resumed."""
    path, pids = tmp_path / "a.zarr", tmp_path / "pids"
    pids.mkdir()
    with monkeypatch.context() as patch:
        allow(patch, 10)
        program = started("gated", path, pids)
    try:
        expected, seen = ragged.read(), 0
        while seen < 8:
            assert program.poll() is None
            time.sleep(0.05)
            if path.exists():
                data = Archive.open(path).read()
                assert data.sizes["simulation"] % 4 == 0, "a part of a chunk"
                seen = data.sizes["simulation"]
                if seen:
                    np.testing.assert_array_equal(data["rate"], expected["rate"].sel(simulation=data["simulation"]))
    finally:
        program.kill()  # −9
        program.wait()
    children = [int(p.name) for p in pids.iterdir()]
    assert len(children) == 2 and all(map(gone, children))
    assert len(Archive.open(path)) == 8
    tallies: list[Tally] = []
    resumed = simulate_to(path, black_boxes.gated, 24, seed=2, chunk=4, workers=2, callback=tallies.append)
    assert tallies == [Tally(24, k, 0) for k in range(8, 25)], "each missing one once"
    assert files(path) == files(ragged.path), "byte for byte"
    assert resumed.read().identical(expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "pids"]


def test_only_whole_chunks_are_seen_while_it_runs(tmp_path: Path) -> None:
    """What a reader sees after each simulation is the union of the chunks that are complete by then; then it is longer
    than before: the same call with a larger n extends it, and the seam does not show."""
    path, seen = tmp_path / "a.zarr", list[int]()

    def look(tally: Tally) -> None:
        numbers = Archive.open(path).read()["simulation"].values
        blocks = {k // 4 for k in numbers}
        assert sorted(numbers) == [k for k in range(10) if k // 4 in blocks] and len(numbers) <= tally.n_done
        seen.append(len(numbers))

    simulate_to(path, black_boxes.ragged, 10, seed=2, chunk=4, workers=2, callback=look)
    assert seen[0] == 0 and seen[-1] == 10 and len(set(seen)) == 4
    longer = simulate_to(path, black_boxes.ragged, 13, seed=2, chunk=4, workers=2)
    assert longer.read().identical(simulate_to(tmp_path / "b.zarr", black_boxes.ragged, 13, seed=2, chunk=5).read())


def test_who_stops_half_way_leaves_nobody_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the callback ends the campaign: no child goes on, no thread, no lock."""
    monkeypatch.setenv("BLACK_BOX_PIDS", str(tmp_path))
    allow(monkeypatch, 5)

    def stop(tally: Tally) -> None:
        if tally.n_done == 5:
            raise KeyboardInterrupt

    archive = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt):
        simulate_to(archive, black_boxes.gated, 24, seed=2, chunk=4, workers=2, callback=stop)
    children = [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]
    assert len(children) == 2 and all(map(gone, children))
    assert not (tmp_path / ".a.zarr.writing").exists() and len(Archive.open(archive)) == 4


def test_a_simulator_with_a_schema_is_drawn_one_by_one(tmp_path: Path) -> None:
    sird = SIRD()
    archive = simulate_to(tmp_path / "a.zarr", sird, 3, seed=4, workers=1)
    assert (
        Archive.open(archive.path).schema == sird.schema and archive.simulator == f"fsimformer.simulators.sird.{sird!r}"
    )
    with pytest.raises(ValueError, match=r"with the simulator .*SIRD\(.*substeps=2.*, not .*SIRD\(.*substeps=3"):
        simulate_to(archive.path, SIRD(substeps=3), 3, seed=4, workers=1)
    data = archive.read()
    for k in range(3):
        drawn = sird.simulate(1, generator_at(4, 7, k))
        assert set(drawn) == set(data.data_vars)
        for name, x in drawn.items():
            np.testing.assert_array_equal(data[name].sel(simulation=k), x[0])
    assert data["infected"].dims == ("simulation", "time")
    np.testing.assert_array_equal(data["time"], sird.grid["time"])
    assert data["infected"].attrs["comment"] == "clean path; a reading has lognormal noise of sd 0.05"


def test_what_a_partial_binds_is_part_of_its_name(tmp_path: Path) -> None:
    path, steps = tmp_path / "a.zarr", np.arange(2_000.0)
    simulate_to(path, partial(black_boxes.scaled, factor=2.0, steps=steps), 4, chunk=2, workers=1)
    again = simulate_to(path, partial(black_boxes.scaled, factor=2.0, steps=steps.copy()), 6, chunk=2, workers=1)
    assert again.read()["y"].values.tolist() == [2.0 * steps.sum()] * 6
    other = steps.copy()
    other[1_000] += 1  # repr leaves it out
    for factor, bound in ((3.0, steps), (2.0, other)):
        changed = partial(black_boxes.scaled, factor=factor, steps=bound)
        with pytest.raises(ValueError, match="was begun with the simulator .*scaled"):
            simulate_to(path, changed, 8, chunk=2, workers=1)


def test_what_is_told_apart() -> None:
    @wraps(black_boxes.scaled)
    def decorated(seed: int) -> dict[str, float]:
        return {}

    class Tank:
        level = 1.0

        def run(self, seed: int) -> dict[str, float]:
            return {"y": self.level}

    f, long = black_boxes.scaled, np.arange(2_000.0)
    for sure in (f, decorated, partial(f, factor=1.0), partial(f, steps=[long, {"a": 1}]), np.sin):
        assert _stated(sure)[1], sure
    for unsure in (lambda seed: {}, Tank().run, Tank(), partial(f, factor=Tank()), partial(f, steps=xr.Dataset())):
        assert not _stated(unsure)[1], unsure
    assert _name(partial(f, factor=1.0, steps=2)) == _name(partial(f, steps=2, factor=1.0))
    other = long.copy()
    other[1_000] += 1
    assert _name(partial(f, factor=Tally(1, 0, 0))) != _name(partial(f, factor=Tally(2, 0, 0)))  # a dataclass
    assert _name(partial(f, steps=[long])) != _name(partial(f, steps=[other]))


def test_a_simulator_that_cannot_be_told_from_another_goes_on_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    simulate_to(path, lambda seed: {"y": 1.0}, 2, chunk=2, workers=1)
    with pytest.warns(
        SimulationWarning, match="continued with .*lambda.*, which may not be the simulator that began it"
    ):
        simulate_to(path, lambda seed: {"y": 2.0}, 4, chunk=2, workers=1)
    simulate_to(path, lambda seed: {"y": 3.0}, 4, chunk=2, workers=1)  # nothing left to run


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": 3}, ValueError, "was begun with the seed 2, not 3; choose another path"),
        ({"chunk": 5}, ValueError, "was begun with the chunk 4, not 5"),
        (
            {"simulator": black_boxes.ragged},
            ValueError,
            "was begun with the simulator 'black_boxes.gated', not 'black_boxes.ragged'",
        ),
        ({"simulator": 3}, TypeError, "expected a callable seed -> Dataset or mapping, got a int"),
        ({"simulator": threading.Lock().__enter__}, TypeError, "cannot be sent to another process"),
        ({"n": 1e3}, ValueError, "n: expected an integer, got 1000.0, a float"),
        ({"n": 10.5}, ValueError, "n: expected an integer, got 10.5, a float"),
        ({"n": True}, ValueError, "n: expected an integer, got True, a bool"),
        ({"workers": 1.5}, ValueError, "workers: expected an integer, got 1.5"),
        ({"n": 0}, ValueError, "n: expected at least 1 simulation, got 0"),
        ({"limit": "60s"}, ValueError, "limit: expected seconds as a number, or None, got '60s'"),
        ({"limit": True}, ValueError, "limit: expected seconds as a number"),
        ({"client": "tcp://x"}, TypeError, "expected a dask.distributed.Client, got 'tcp://x'; a scheduler's address"),
        ({"limit": 0.0}, ValueError, "limit: expected seconds above 0"),
        ({"workers": 0}, ValueError, "workers: expected at least 1"),
        ({"seed": -1}, ValueError, "seed: expected integers from 0"),
    ],
)
def test_arguments_that_make_no_sense(
    ragged: Archive, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"simulator": black_boxes.gated, "n": 25, "seed": 2, "chunk": 4}
    with pytest.raises(error, match=message):
        simulate_to(ragged.path, **(arguments | change))
    assert len(ragged) == 24


def test_a_simulator_that_no_child_can_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.endswith("tests")])
    with pytest.raises(ImportError, match="of its own: ModuleNotFoundError: No module named 'black_boxes'"):
        simulate_to(tmp_path / "a.zarr", black_boxes.ragged, 3, workers=1)


@pytest.mark.slow
def test_children_that_hear_nothing_outlive_a_killed_campaign_but_a_little(tmp_path: Path) -> None:
    program = started("deaf", tmp_path / "a.zarr", tmp_path, "5")
    try:
        while len(children := [int(p.name) for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
            assert program.poll() is None
            time.sleep(0.05)
    finally:
        program.kill()
        program.wait()
    assert all(gone(pid, 60.0) for pid in children)


@pytest.mark.slow
def test_on_a_cluster_of_processes(ragged: Archive, tmp_path: Path) -> None:
    """Children of dask's daemons, which multiprocessing would forbid."""
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        with pytest.raises(ValueError, match="a client brings its own workers"):
            simulate_to(tmp_path / "b.zarr", black_boxes.gated, 24, workers=1, client=client)
        archive = simulate_to(tmp_path / "a.zarr", black_boxes.gated, 24, seed=2, chunk=4, client=client)
    assert files(archive.path) == files(ragged.path)
