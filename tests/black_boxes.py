"""Simulators as users have them: a function of a seed that takes its time, raises, hangs or dies. numpy alone.

As a program: black_boxes.py NAME ARCHIVE N [LIMIT] writes an archive of one of them, for tests that kill it.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

FATES = ("raises", "hangs", "dies", "exits", "is text")
_calls: list[int] = []


def fate(seed: int) -> str:
    """What becomes of `troubled`: for half the seeds, something bad."""
    return [*FATES, *["lives"] * len(FATES)][seed % (2 * len(FATES))]


def listeners(pid: int) -> int:
    """How many ports a process holds open for others than this machine."""
    import psutil

    held = psutil.Process(pid).net_connections()
    return sum(c.status == "LISTEN" and c.laddr.ip not in ("127.0.0.1", "::1") for c in held)


def wiretap(seed: int) -> dict[str, object]:
    """What the campaign that runs this one opens."""
    return {"rate": 1.0, "open": float(listeners(os.getppid()))}


def troubled(seed: int) -> dict[str, object]:
    match fate(seed):
        case "raises":
            raise ArithmeticError(f"no {seed}")
        case "hangs":
            time.sleep(1_000)
        case "dies":
            os.kill(os.getpid(), 9)
        case "exits":
            os._exit(3)
        case "is text":
            return {"level": "high"}
    return ragged(seed)


def ragged(seed: int) -> dict[str, object]:
    """A number, a count, and a series of some length at times of its own; done sooner or later."""
    rng = np.random.default_rng(seed)
    time.sleep(0.05 * rng.random())
    n = int(rng.integers(2, 6))
    return {
        "rate": rng.lognormal(),
        "count": n,
        "time": ("time", np.sort(rng.random(n))),
        "level": ("time", rng.normal(size=n).astype(np.float32), {"units": "m"}),
    }


def gated(seed: int) -> dict[str, object]:
    """As `ragged`; tells who runs it, and hangs unless its seed is among those allowed, if any are named."""
    if folder := os.environ.get("BLACK_BOX_PIDS"):
        (Path(folder) / str(os.getpid())).touch()
    if str(seed) not in os.environ.get("BLACK_BOX_SEEDS", str(seed)).split():
        time.sleep(1_000)
    return ragged(seed)


def careless(seed: int) -> dict[str, object]:
    """Draws from the global generators."""
    return {"a": np.random.normal(), "b": random.random(), "c": float(seed)}


def poisoned(seed: int) -> dict[str, object]:
    """Dies of an earlier simulation in the same process."""
    _calls.append(seed)
    if len(_calls) > 1:
        os._exit(5)
    return {"a": float(seed)}


def with_offspring(seed: int) -> dict[str, object]:
    """Starts a program that would outlive it, and hangs."""
    import subprocess

    other = subprocess.Popen(["sleep", "1000"])
    Path(os.environ["BLACK_BOX_PIDS"], str(other.pid)).touch()
    time.sleep(1_000)
    return {}


def deaf(seed: int) -> dict[str, object]:
    """Hangs in C with the interpreter's lock held: no Python thread of its process runs any more."""
    import ctypes

    Path(os.environ["BLACK_BOX_PIDS"], str(os.getpid())).touch()
    ctypes.PyDLL(None).sleep(1_000)
    return {}


def scaled(seed: int, factor: float, steps: np.ndarray) -> dict[str, Any]:
    """One number, the same for every seed."""
    return {"y": factor * steps.sum()}


if __name__ == "__main__":
    import black_boxes  # under its own name: what is pickled from __main__ is pickled by value

    from fsimformer.campaign import simulate_to

    _, name, path, n, *limit = sys.argv
    seconds = float(limit[0]) if limit else None
    simulate_to(path, getattr(black_boxes, name), int(n), seed=2, chunk=4, workers=2, limit=seconds)
