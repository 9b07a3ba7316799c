"""Seconds for 1,000 draws (lotka_volterra, sird) and training steps a second, one thread and two.

Wall seconds and CPU seconds of the same call; machines are shared, so CPU seconds are the ones to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from dial import sird_data_sets
from lotka_volterra import data_set
from record import ROOT, save
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.simulators import SIRD, LotkaVolterra
from fsimformer.train import TrainConfig


def clock(call: Callable[[], object], repeats: int = 3) -> dict[str, float]:
    """The fastest of some repeats, after one that does not count."""
    walls, cpus = [], []
    for _ in range(repeats + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {"wall_seconds": min(walls[1:]), "cpu_seconds": min(cpus[1:])}


def main() -> None:
    lv = dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz"))
    outbreak = next(sird_data_sets(1, 0))[0]
    beta = {"contact_rate": np.linspace(0, 50, 20)}
    rows = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        prey = fsf.load("lotka_volterra")
        rows.append({"what": "lotka_volterra: 1,000 draws of 4 parameters, 20+20 readings", "threads": threads,
                     **clock(lambda: prey.condition(data_set(lv, 0)).sample(1000, at={}))})  # fmt: skip  # noqa: B023
        sird = fsf.load("sird")
        rows.append({"what": "sird: 1,000 draws of 3 parameters and the contact rate at 20 points, 60 readings",
                     "threads": threads, **clock(lambda: sird.condition(outbreak).sample(1000, at=beta))})  # fmt: skip  # noqa: B023
        for name, simulator in (("lotka_volterra", LotkaVolterra()), ("sird", SIRD())):
            rows.append({"what": f"{name}: training steps a second, batch 64", "threads": threads,
                         "steps_per_cpu_second": training_rate(simulator)})  # fmt: skip
    print(save("speed", 0, {"rows": rows, "n": 3, "monte_carlo_floor": None}))


def training_rate(simulator: fsf.simulators.Simulator, steps: int = 30) -> float:
    """Steps a CPU second, between the first and the last step of a short run."""
    stamps: list[float] = []
    config = TrainConfig(steps=steps, batch_size=64, n_micro=4, validate_every=10 * steps, n_validation=64)
    fsf.train(simulator, simulations=2_000, config=config, network=NETWORK,
              callback=lambda p: stamps.append(time.process_time()))  # fmt: skip
    return (steps - 2) / (stamps[-2] - stamps[0])


if __name__ == "__main__":
    main()
