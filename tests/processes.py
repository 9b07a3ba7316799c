"""What one of several processes does in test_devices.py: `processes.py FOLDER TASK …` in torchrun's environment.

In float64: in float32 Adam turns the rounding errors of gradients that are 0 (those of key biases) into steps.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_train import CONFIG, fresh, gaussian_rows, run_fit, weights
from tiny import cast

from fsimformer.batches import Rows
from fsimformer.checkpoint import Run
from fsimformer.denoise import Denoiser
from fsimformer.devices import Group, joined
from fsimformer.tokens import TokenBatch
from fsimformer.train import Progress

STEPS = replace(CONFIG, pool=1, n_micro=4, batch_size=18, seed=1)  # micro-batches of 4 and 5 rows
"""Its lowest loss is at step 4, and its end, which further held-out rows prefer, is what it keeps."""


def model() -> Denoiser:
    return fresh().double()


def double_rows(n: int, generator: torch.Generator) -> TokenBatch:
    return cast(gaussian_rows(n, generator), torch.float64)


def fitted(
    denoiser: Denoiser,
    group: Group,
    rows: Rows = double_rows,
    held_out: Rows = double_rows,
    checkpoint: Path | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Run:
    return run_fit(denoiser, STEPS, rows, held_out, checkpoint, callback, group)


def whole(group: Group, folder: Path) -> None:
    """An uninterrupted run; of its checkpoint at step 6 a copy is kept."""
    path = folder / f"{group.size}.safetensors"

    def copy(progress: Progress) -> None:
        if progress.step == 8:
            shutil.copy(path, folder / f"{group.size}_at_6.safetensors")

    _fitted(group, folder, "whole", path, copy)


def resumed(group: Group, folder: Path) -> None:
    """Goes on from what one process left."""
    _fitted(group, folder, "resumed", folder / "1_at_3.safetensors", None)


def others(group: Group, folder: Path) -> None:
    """A simulator that draws from something else than its generator."""

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        return double_rows(n, torch.Generator().manual_seed(group.rank))

    fitted(model(), group, held_out=rows)


def fails(group: Group, folder: Path) -> None:
    """The last process fails in its second step."""

    def fail() -> None:
        raise MemoryError("no room")

    fitted(model(), group, _spoiled(group, fail))


def hangs(group: Group, folder: Path) -> None:
    """The last process takes its second step when the first has given it up."""

    def wait() -> None:
        while not (folder / "hangs_0.txt").exists():
            time.sleep(0.1)

    fitted(model(), group, _spoiled(group, wait))


def _spoiled(group: Group, what: Callable[[], None]) -> Rows:
    drawn = 0

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        nonlocal drawn
        drawn += 1
        if drawn == 2 and group.rank == group.size - 1:
            what()
        return double_rows(n, generator)

    return rows


def _fitted(group: Group, folder: Path, name: str, path: Path, callback: Callable[[Progress], None] | None) -> None:
    denoiser = model()
    run = fitted(denoiser, group, checkpoint=path, callback=callback)
    losses = torch.tensor(run.history, dtype=torch.float64)
    save_file(weights(denoiser) | {"history": losses}, folder / f"{name}_{group.rank}_of_{group.size}.safetensors")


def main(folder: Path, tasks: list[str]) -> None:
    failed = False
    for task in tasks:
        try:
            with joined(timeout=10 if task == "hangs" else 60) as group:
                globals()[task](group, folder)
        except (ValueError, ConnectionError, MemoryError) as error:
            failed = failed or isinstance(error, ConnectionError)
            (folder / f"{task}_{group.rank}.txt").write_text(f"{type(error).__name__}: {error}")
    if failed:  # after a time-out of gloo, torch 2.13 aborts one interpreter in ten as it ends
        os._exit(0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
