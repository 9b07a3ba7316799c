"""How a peer is run: in its own environment, from files to files, so that packages that exclude each other compare.

    python peers_sbi.py METHOD IN.npz OUT.npz SEED

IN holds `task`, `theta` (n, d_theta), `x` (n, d_x) and `observations` (m, d_x). OUT gets `draws` (k, 1000, d_theta),
`train_cpu_seconds`, `sample_cpu_seconds` (k,) and `versions`, written after training and after each of the m
observations: what stands there when a limit ends the process says how far it came. Seconds are of the process and its
children, imports excluded, just-in-time compilation included. Needs numpy alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

N_DRAWS = 1_000


@dataclass(frozen=True)
class Problem:
    """One task's simulations: theta (n, d_theta) in [low, high]^d_theta, x (n, d_x)."""

    task: str
    theta: np.ndarray
    x: np.ndarray
    seed: int

    @property
    def bound(self) -> float:
        """Both tasks have a uniform prior on a cube around 0 (sbibm)."""
        return {"two_moons": 1.0, "slcp": 3.0}[self.task]


Sampler = Callable[[np.ndarray, int], np.ndarray]
"""observation (d_x,), n -> draws (n, d_theta)."""


@dataclass(frozen=True)
class Trained:
    """A sampler whose training, of `cpu_seconds`, may have been done before."""

    sample: Sampler
    cpu_seconds: float


Fit = Callable[[Problem], Sampler | Trained]


def cpu_seconds() -> float:
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def serve(methods: Mapping[str, Fit], packages: Sequence[str]) -> None:
    """Reads the command line, trains, draws, writes OUT."""
    _, method, source, target, seed = sys.argv
    given = np.load(source)
    problem = Problem(str(given["task"]), given["theta"], given["x"], int(seed))
    start = cpu_seconds()
    sample = methods[method](problem)
    train = cpu_seconds() - start
    if isinstance(sample, Trained):
        sample, train = sample.sample, sample.cpu_seconds
    print(f"{time.strftime('%X')} trained in {train:.1f} CPU s", flush=True)
    draws, seconds = np.zeros((0, N_DRAWS, problem.theta.shape[1])), np.zeros(0)
    versions = json.dumps({p: version(p) for p in packages})

    def write() -> None:
        np.savez(target, draws=draws, train_cpu_seconds=train, sample_cpu_seconds=seconds, versions=versions)

    write()
    for observation in given["observations"]:
        start = cpu_seconds()
        drawn = np.asarray(sample(observation, N_DRAWS), dtype=np.float64)
        seconds = np.append(seconds, cpu_seconds() - start)
        if drawn.shape != draws.shape[1:]:
            raise ValueError(f"{method}: expected draws {draws.shape[1:]}, got {drawn.shape}.")
        draws = np.concatenate([draws, drawn[None]])
        write()
        print(f"{time.strftime('%X')} observation {len(draws)}: {seconds[-1]:.1f} CPU s", flush=True)
