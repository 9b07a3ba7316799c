"""Writers that are killed with −9, at every step and in the middle of a file. As a program: killed.py FOLDER.

One process imports what is needed once; each death is a fork of it. A child is killed just before its k-th step that
changes names or opens a file (audit events of Python), for every k until one lives; then by the kernel, with SIGXFSZ,
when a file of its grows beyond so many bytes, inside the C code that writes it. After every death the target is read.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tiny import joint, randomise

import fsimformer as fsf
from fsimformer.beside import replaced
from fsimformer.checkpoint import Run, load_checkpoint, save_checkpoint

STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "ctypes.dlsym"}
OLD, NEW = 1, 2
SETTINGS = {"steps": 9}


def write_model(path: Path, version: int) -> None:
    joint(seed=version).save(path)


def read_model(path: Path) -> Any:
    return fsf.load(path).provenance["seed"]


def _run(version: int) -> tuple[Run, torch.nn.Module, torch.optim.Optimizer]:
    module = torch.nn.Linear(30, 20)
    randomise(module, version)
    ema = {k: p.detach().clone() for k, p in module.named_parameters()}
    return Run(step=version, ema=ema), module, torch.optim.AdamW(module.parameters())


def write_checkpoint(path: Path, version: int) -> None:
    run, module, optimizer = _run(version)
    save_checkpoint(path, run, dict(module.named_parameters()), [optimizer], SETTINGS)


def read_checkpoint(path: Path) -> Any:
    run, module, optimizer = _run(7)
    load_checkpoint(path, run, dict(module.named_parameters()), [optimizer], SETTINGS)
    expected = _run(run.step)[1]
    same = all(torch.equal(a, b) for a, b in zip(module.parameters(), expected.parameters(), strict=True))
    return run.step if same else "torn"


def write_draws(path: Path, version: int) -> None:
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"a": ("draw", np.full(3_000, version))})})
    with replaced(path) as part:
        tree.to_netcdf(part, engine="h5netcdf")


def read_draws(path: Path) -> Any:
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        found = np.unique(tree["posterior/a"].values)
    return found.item() if found.size == 1 else "torn"


def write_report(path: Path, version: int) -> None:
    with replaced(path) as part:
        part.write_text(str(version) * 40_000)


def read_report(path: Path) -> Any:
    text = path.read_text()
    return int(text[0]) if len(text) == 40_000 and len(set(text)) == 1 else "torn"


Writer = Callable[[Path, int], None]
WRITERS: dict[str, tuple[str, Writer, Callable[[Path], Any]]] = {
    "model": ("model", write_model, read_model),
    "checkpoint": ("run.safetensors", write_checkpoint, read_checkpoint),
    "draws": ("draws.nc", write_draws, read_draws),
    "report": ("report.html", write_report, read_report),
}


def _die_at(k: int) -> None:
    left = [k]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in STEPS and not (event == "open" and "/proc" in str(args[0])):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _die_beyond(n_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def died(arm: Callable[[int], None], how: int, write: Writer, target: Path) -> bool:
    """Let a fork write a new version; whether it was killed. Any other end is a fault of the test."""
    child = os.fork()
    if child == 0:
        try:
            arm(how)
            write(target, NEW)
        except BaseException as error:  # a child must never return into the parent's code
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(3)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ):
        return True
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"The child ended with {status}.")
    return False


def deaths(name: str, folder: Path) -> list[tuple[str, int, Any]]:
    """How it died, when, and which version was found then; at last without a death."""
    file, write, read = WRITERS[name]
    target, found = folder / file, list[tuple[str, int, Any]]()
    write(target, OLD)
    while died(_die_at, k := len(found), write, target):
        found.append(("step", k, read(target)))
        if found[-1][2] == NEW:
            write(target, OLD)
    found.append(("none", k, read(target)))
    write(target, OLD)
    for n_bytes in (0, 1, 100, 1_000, 3_000, 10_000):
        if died(_die_beyond, n_bytes, write, target):
            found.append(("bytes", n_bytes, read(target)))
        else:
            write(target, OLD)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: deaths(name, Path(sys.argv[1])) for name in WRITERS}))
