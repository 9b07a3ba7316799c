"""Several processes train as one: equal weights, resumed by more or fewer, ended by an error of one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch
from safetensors.torch import load_file
from test_train import Killed, equal, kill_at, weights
from torch import Tensor, nn

from fsimformer.checkpoint import Run
from fsimformer.cli import main
from fsimformer.devices import Group, joined
from fsimformer.joint import load
from fsimformer.model_file import read_card

HERE = Path(__file__).parent
CLOSE = {"rtol": 0.0, "atol": 1e-9}


@pytest.mark.parametrize("size", range(1, 8))
def test_shares_hold_every_row_once_and_cost_alike(size: int) -> None:
    """Each process's cost is within one row of its share; one that could have a whole batch gets it whole."""
    rows, costs = [5, 7, 0, 3, 1], [2, 9, 4, 30, 0]
    shares = [Group(rank, size).shares(rows, costs) for rank in range(size)]
    for n, of_batch in zip(rows, zip(*shares), strict=True):
        assert [i for s in of_batch for i in range(n)[s]] == list(range(n))  # in order, without a gap
    total = sum(n * c for n, c in zip(rows, costs, strict=True))
    for share in shares:
        spent = sum(c * (s.stop - s.start) for s, c in zip(share, costs, strict=True))
        assert abs(spent - total / size) <= max(costs)
    assert Group(1, 3).shares([4, 4, 4], [7, 7, 7]) == [slice(4, 4), slice(0, 4), slice(0, 0)]


def test_alone_nothing_is_summed_or_asked() -> None:
    p = nn.Parameter(torch.ones(2))
    Group().sum_gradients([p])
    Group().require_equal({"weights": "00"})
    assert p.grad is None and Group().sum(0.1) == 0.1 and Group().first
    with joined("cpu") as group:
        assert group == Group()


def test_what_several_processes_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ValueError, match=r"WORLD_SIZE=2 .* without \['RANK', .*'MASTER_PORT'\]; start .* torchrun"),
        joined(),
    ):
        pass
    for name, value in {"RANK": "1", "LOCAL_RANK": "99", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ValueError, match=r"device 'cuda:1' for 2 processes; choices: \['cpu', 'cuda'\]"),
        joined("cuda:1"),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"process 99 of this machine has no GPU, there are \d+; start as many"),
        joined("cuda"),
    ):
        pass


def one_process(folder: Path) -> tuple[dict[str, Tensor], Run]:
    """The uninterrupted run of one process; of one killed after step 5 the checkpoint is left in the folder."""
    model = processes.model()
    run = processes.fitted(model, Group())
    assert min(run.history, key=lambda h: h[2])[0] == 4 and run.best_step == run.step == 12
    with pytest.raises(Killed):
        path = folder / "1_at_3.safetensors"
        processes.fitted(processes.model(), Group(), checkpoint=path, callback=kill_at(5))
    return weights(model), run


def start(size: int, folder: Path, *tasks: str) -> None:
    """`processes.py`, as torchrun would start it."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(size)}
    shared["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the processes meet at it, none of them hosts their own
    command = [sys.executable, "-W", "error", str(HERE / "processes.py"), str(folder), *tasks]
    running = [
        subprocess.Popen(command, env=shared | {"RANK": str(r), "LOCAL_RANK": str(r)}, stderr=subprocess.PIPE)
        for r in range(size)
    ]
    try:
        ended = [(p.communicate(timeout=100)[1].decode(), p.returncode) for p in running]
    finally:
        for p in running:
            p.kill()
    assert [code for _, code in ended] == [0] * size, "\n".join(text for text, _ in ended)


def require_alike(folder: Path, name: str, size: int, expected: dict[str, Tensor], run: Run) -> None:
    """All processes end with the same bits, and with one process's weights and losses to 1e-9."""
    found = [load_file(folder / f"{name}_{rank}_of_{size}.safetensors") for rank in range(size)]
    assert all(equal(f, found[0]) for f in found)
    torch.testing.assert_close(found[0].pop("history"), torch.tensor(run.history, dtype=torch.float64), **CLOSE)
    torch.testing.assert_close(found[0], expected, **CLOSE)


@pytest.mark.slow
def test_two_processes_train_as_one_which_goes_on_from_theirs_and_they_fail_together(tmp_path: Path) -> None:
    """Also resumed: two at first, one from step 6 on. A step's rows are 18 in 4 batches: one is shared."""
    expected, run = one_process(tmp_path)
    start(2, tmp_path, "whole", "others")
    start(2, tmp_path, "fails")
    require_alike(tmp_path, "whole", 2, expected, run)
    model = processes.model()
    again = processes.fitted(model, Group(), checkpoint=tmp_path / "2_at_6.safetensors")
    torch.testing.assert_close(weights(model), expected, **CLOSE)
    assert again.best_step == run.best_step and again.cpu_seconds > 0
    for rank in (0, 1):
        differs = (tmp_path / f"others_{rank}.txt").read_text()
        assert differs.startswith("ValueError: 2 processes differ in ['held-out simulations']: all need the same files")
    assert (tmp_path / "fails_1.txt").read_text() == "MemoryError: no room"
    assert (tmp_path / "fails_0.txt").read_text().startswith("ConnectionError: process 0 of 2: another one ended or")


def test_three_processes_go_on_where_one_was_killed(tmp_path: Path) -> None:
    expected, run = one_process(tmp_path)
    start(3, tmp_path, "resumed")
    require_alike(tmp_path, "resumed", 3, expected, run)


@pytest.mark.slow
def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    start(2, tmp_path, "hangs")
    assert (tmp_path / "hangs_0.txt").read_text().startswith("ConnectionError: process 0 of 2: another one ended or")


@pytest.mark.slow
def test_torchrun_starts_the_command_line(tmp_path: Path) -> None:
    """One model is written, near the one that a single process trains; a mistake ends all of them."""
    few = ["--simulations", "200", "--steps", "3"]
    assert main(["train", "hare_lynx", *few, "--out", str(tmp_path / "one")]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fsimformer"]
    command = [*torchrun, "train", "hare_lynx", *few, "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parameters, validation loss") == 1
    one, two = (dict(load(str(tmp_path / name)).model.denoiser.named_parameters()) for name in ("one", "two"))
    for name, p in one.items():
        torch.testing.assert_close(two[name], p, rtol=0.0, atol=1e-4)
    card = read_card(tmp_path / "two")[1]["provenance"]
    assert card["processes"] == 2 and card["steps"] == 3
    again = subprocess.run([*torchrun, "train", "nothing", "--out", "three"], capture_output=True, text=True)
    assert again.returncode != 0 and "No simulator named 'nothing'" in again.stderr
