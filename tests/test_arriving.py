"""Training while simulations arrive: the same as if all had been there, whenever they came and whoever was killed."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fsimformer as fsf
import fsimformer.learn
import fsimformer.stock
from fsimformer.archive import Archive, Failure
from fsimformer.arriving import Arriving
from fsimformer.child import fields_of
from fsimformer.joint import Joint
from fsimformer.readings import Design
from fsimformer.seeds import seed_at
from fsimformer.simulators import check

SCHEMA = fsf.Schema((fsf.Variable("theta", "parameter", prior=fsf.Normal()), fsf.Variable("x", "data")))
SD = 0.5
N, CHUNK = 400, 20
CONFIG = fsf.TrainConfig(
    steps=24, batch_size=60, pool=4, n_micro=2, n_validation=32, validate_every=8, checkpoint_every=3, warmup=2
)
NETWORK = fsf.NetworkConfig(width=16, depth=1, n_heads=2)


def gaussian(seed: int) -> dict[str, float]:
    """θ ~ N(0, 1), x = θ + 0.5 ε: θ given x is N(x / 1.25, 0.2)."""
    theta, noise = np.random.default_rng(seed).normal(size=2)
    return {"theta": theta, "x": theta + SD * noise}


def numbered(number: int) -> dict[str, float]:
    """θ says which simulation this is."""
    return {"theta": number / 100 - 2, "x": 0.0}


def is_held_out(k: int) -> bool:
    """A tenth of N is 40, which is less than half of the first 100: two of every five of these."""
    return k < 100 and k % 5 in (2, 4)


def made(archive: Archive, number: int, of_number: bool = False) -> Any:
    """Every seventh simulation fails."""
    seed = seed_at(archive.seed, 7, number)
    if number % 7 == 3:
        return Failure(number, seed, "ArithmeticError", "no")
    return fields_of(numbered(number) if of_number else gaussian(seed))


def write(archive: Archive, n: int = N, of_number: bool = False, pause: Callable[[int], None] = lambda _: None) -> None:
    """Chunk after chunk, the even ones before the odd ones of every four."""
    with archive.writing() as writer:
        todo = archive.missing(n)
        for k, numbers in enumerate(todo[i] for i in sorted(range(len(todo)), key=lambda i: (i // 4, i % 2, i))):
            pause(k)
            writer.write({number: made(archive, number, of_number) for number in numbers})


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    archive = Archive.create(tmp_path_factory.mktemp("archives") / "full.zarr", 1, CHUNK, "gaussian", SCHEMA)
    write(archive)
    return archive


def opened(path: Path, n: int = N, **settings: Any) -> Arriving:
    return Arriving.open(path, SCHEMA, n, first=100, patience=30.0, **settings)


def trained(runs: Arriving, config: fsf.TrainConfig = CONFIG, **settings: Any) -> Joint:
    return fsf.train(runs, simulations=runs, config=config, network=NETWORK, **settings)


def assert_same(a: Joint, b: Joint) -> None:
    for p, q in zip(a.model.denoiser.parameters(), b.model.denoiser.parameters(), strict=True):
        assert torch.equal(p, q)
    assert a.provenance["history"] == b.provenance["history"]


def test_when_simulations_arrive_changes_nothing(full: Archive, tmp_path: Path) -> None:
    """Written while it trains, in another order, by someone who pauses: bit for bit what a full archive gives."""
    late = Archive.create(tmp_path / "late.zarr", 1, CHUNK, "gaussian", SCHEMA)
    steps, waits = list[int](), list[int]()

    def pause(k: int) -> None:
        if k >= 8:  # the first 160 are there at once, the others when training has come so far
            waits.append(len(steps))
            deadline = time.monotonic() + 20
            while len(steps) < min(4, k - 7) and time.monotonic() < deadline:
                time.sleep(0.005)

    thread = threading.Thread(target=write, args=(late, N, False, pause))
    thread.start()
    try:
        online = trained(opened(late.path), callback=lambda at: steps.append(len(late)))
    finally:
        thread.join()
    assert steps[0] < N, "training was to begin before all simulations were there"
    assert_same(online, trained(opened(full.path)))
    card = online.provenance
    assert card["simulations"] == N and card["simulations_held_out"] == sum(
        k % 7 != 3 for k in range(N) if is_held_out(k)
    )
    assert card["simulations_dropped"] == sum(k % 7 == 3 for k in range(N))
    assert card["arriving"]["trained_on"] == N - card["simulations_held_out"] - card["simulations_dropped"]


def test_where_the_first_are_all_the_reserve_changes_nothing(full: Archive) -> None:
    """All are there before the first step: that is training afterwards."""
    whole = Arriving.open(full.path, SCHEMA, N, first=N, reserve=0.2)
    assert_same(trained(whole), trained(replace(whole, reserve=1.0)))


def test_a_run_that_is_killed_goes_on_as_if_nothing_had_been(full: Archive, tmp_path: Path) -> None:
    """Killed within a pool of four steps; its checkpoint holds the urn."""

    class Killed(Exception):
        pass

    def kill(progress: fsf.Progress) -> None:
        if progress.step == 11:
            raise Killed

    file = tmp_path / "run.ckpt"
    with pytest.raises(Killed):
        trained(opened(full.path), checkpoint=file, callback=kill)
    resumed = trained(opened(full.path), checkpoint=file)
    through = trained(opened(full.path))
    assert_same(resumed, through)
    assert resumed.provenance["arriving"] == through.provenance["arriving"]
    with pytest.raises(ValueError, match=r"written with other settings of \['arriving.reserve'\]"):
        trained(opened(full.path, reserve=0.2), checkpoint=file)
    other = Archive.create(tmp_path / "other.zarr", 2, CHUNK, "gaussian", SCHEMA)
    write(other)
    with pytest.raises(ValueError, match=r"other settings of \['arriving.seed', 'simulations_digest'\]"):
        trained(opened(other.path), checkpoint=file)


def test_each_is_seen_equally_often_and_those_held_out_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real loop, watched where it reads rows: θ tells which simulation a row is of.

    N = 400, 57 of them fail, 34 are held out: 309 rows, 12 steps of 103 are four views each.
    """
    archive = Archive.create(tmp_path / "a.zarr", 1, CHUNK, "numbered", SCHEMA)
    write(archive, of_number=True)
    rows: dict[str, list[Tensor]] = {"stock": [], "learn": []}
    for module, read in (("stock", fsimformer.stock.read), ("learn", fsimformer.learn.read)):

        def watched(store: Any, which: Tensor, design: Design, generator: Any, module: str = module, read: Any = read):
            rows[module].append(store.scalars[which, 0])
            return read(store, which, design, generator)

        monkeypatch.setattr(f"fsimformer.{module}.read", watched)
    joint = trained(opened(archive.path), replace(CONFIG, steps=12, batch_size=103))
    assert joint.provenance["arriving"]["times_seen"] == [4, 4]
    counts = torch.bincount(((torch.cat(rows["stock"]).double() + 2) * 100).round().long(), minlength=N)
    held_out = torch.tensor([is_held_out(k) for k in range(N)])
    failed = torch.tensor([k % 7 == 3 for k in range(N)])
    assert torch.equal(counts, torch.where(held_out | failed, 0, 4))
    validated = torch.unique(((rows["learn"][-1].double() + 2) * 100).round().long())  # the last read before training
    assert set(validated.tolist()) <= set((held_out & ~failed).nonzero()[:, 0].tolist())


def test_a_part_of_what_arrived_gives_the_statistics(full: Archive) -> None:
    """Whitening and held-out rows are those of the first numbers, whatever else is there."""
    runs = opened(full.path)
    pilot, n_held = runs.pilot()
    numbers = [k for k in range(100) if k % 7 != 3]
    order = [k for k in numbers if not is_held_out(k)] + [k for k in numbers if is_held_out(k)]
    expected = torch.tensor([gaussian(seed_at(1, 7, k))["theta"] for k in order], dtype=torch.float64)
    assert torch.equal(pilot.values["theta"], expected)
    assert n_held == sum(map(is_held_out, numbers)) and pilot.n_dropped == 100 - len(numbers)
    check(runs)
    with pytest.raises(ValueError, match="no new draws can be made"):
        runs.simulate(11, torch.Generator())
    with pytest.raises(ValueError, match="no new draws can be made"):
        fsf.train(runs, config=CONFIG)


@pytest.mark.parametrize(
    ("n", "first", "held"), [(1_000, 1_000, 100), (8_000, 1_000, 500), (40_000, 4_000, 2_000), (100_000, 30_000, 2_000)]
)
def test_as_many_are_held_out_as_by_training_afterwards_or_half_of_the_first(
    full: Archive, n: int, first: int, held: int
) -> None:
    """Evenly among the first, and none after."""
    runs = replace(opened(full.path), n=n, first=first)
    numbers = runs.is_held_out(torch.arange(n)).nonzero()[:, 0]
    assert len(numbers) == held == runs.n_to_hold_out and int(numbers.max()) < first
    gaps = numbers.diff()
    assert int(gaps.max()) - int(gaps.min()) <= 1
    assert runs.n_to_train(runs.n_blocks) == n - held


def test_training_waits_and_gives_up(full: Archive, tmp_path: Path) -> None:
    """A writer that is gone: whoever waits says what is missing; when the rest is made, the same call goes on."""
    path, file = tmp_path / "a.zarr", tmp_path / "run.ckpt"
    shutil.copytree(full.path, path)
    archive = Archive.open(path)
    for chunk in archive.chunks()[10:]:
        shutil.rmtree(chunk.path)
    runs = replace(opened(path), patience=0.2)
    with pytest.raises(TimeoutError, match=r"200 of 400 simulations are there.*simulations 200 to 219 are due"):
        trained(runs, checkpoint=file)
    assert file.exists()
    write(archive)
    assert_same(trained(runs, checkpoint=file), trained(opened(full.path)))


def test_the_writer_s_error_is_raised_where_training_waits(full: Archive) -> None:
    def writer() -> None:
        raise ArithmeticError("the simulator is broken")

    with pytest.raises(ArithmeticError, match="the simulator is broken"):
        trained(opened(full.path, n=600, writer=writer))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 50}, "expected n, an integer >= 100, simulations, got 50"),
        ({"n": 1e3}, "expected n, an integer >= 100, simulations, got 1000.0"),
        ({"first": 99}, "expected first from 100 to n = 400 simulations, got 99"),
        ({"first": 401}, "expected first from 100 to n = 400 simulations, got 401"),
        ({"reserve": 1.5}, "expected reserve from 0 to 1 and patience > 0, got 1.5"),
        ({"patience": 0.0}, "expected reserve from 0 to 1 and patience > 0, got 0.5 and 0.0"),
    ],
)
def test_numbers_that_make_no_sense(full: Archive, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arriving.open(full.path, SCHEMA, **{"n": N, **settings})


def test_what_is_no_archive_or_another_one(full: Archive, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such archive: .*, for 0.1 s. Begin the simulations first"):
        Arriving.open(tmp_path / "none.zarr", SCHEMA, N, patience=0.1)
    (tmp_path / "a.nc").touch()
    with pytest.raises(ValueError, match=r"a.nc is no archive of simulations; only an archive can be trained from as"):
        Arriving.open(tmp_path / "a.nc", SCHEMA, N)
    wider = fsf.Schema((*SCHEMA.variables, fsf.Variable("y", "data")))
    with pytest.raises(ValueError, match=r"full.zarr was made with another schema"):
        Arriving.open(full.path, wider, N)
    bad = Archive.create(tmp_path / "bad.zarr", 1, 100, "failing", SCHEMA)
    with bad.writing() as writer:
        writer.write({k: Failure(k, 0, "OSError", "full") for k in range(100)})
    runs = replace(opened(full.path), archive=bad, n=100)
    with pytest.raises(ValueError, match="of the first 100 simulations 0 are of use; expected at least 20 to train on"):
        runs.pilot()
    initial = trained(opened(full.path), replace(CONFIG, steps=1))
    with pytest.raises(ValueError, match="given simulations with an initial Joint"):
        trained(opened(full.path), initial=initial)
