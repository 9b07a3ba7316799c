"""Seconds for 1,000 draws (lotka_volterra, sird) and training steps a second, one thread and two.

Wall seconds and CPU seconds of the same call; machines are shared, so CPU seconds are the ones to compare.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from dial import sird_data_sets
from lotka_volterra import data_set
from record import ROOT, no_arguments, save
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.kernels import Kernel
from fsimformer.simulators import SIRD, GaussianProcess, LotkaVolterra, two_moons
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
    torch.set_num_threads(1)
    for name, arguments in training_steps().items():
        config = fsf.TrainConfig(n_validation=64, **arguments.pop("config"))
        rows.append({"what": f"{name}: training steps a second", "threads": 1,
                     "steps_per_cpu_second": steps_per_second(config, **arguments)})  # fmt: skip
    moons = fsf.train(config=fsf.TrainConfig(steps=2, n_validation=64), **{k: v for k, v in training_steps()[
        "two_moons, batch 256, 0.6 M parameters"].items() if k != "config"})  # fmt: skip
    point = {"x": xr.DataArray([0.0, 0.0], dims="x_dim")}
    rows.append({"what": "two_moons: 10,000 draws, 0.6 M parameters", "threads": 1,
                 **clock(lambda: moons.condition(point).sample(10_000, at={}))})  # fmt: skip
    print(save("speed", 0, {"rows": rows, "n": 3, "monte_carlo_floor": None}))


def training_rate(simulator: fsf.simulators.Simulator) -> float:
    """Steps a CPU second of the recipe that trained what ships."""
    config = TrainConfig(batch_size=64, n_micro=4, n_validation=64)
    return steps_per_second(config, simulator=simulator, simulations=2_000, network=NETWORK)


def training_steps() -> dict[str, dict[str, Any]]:
    """The arguments of `fsimformer.train` of the steps that are timed; `config`: fields of its TrainConfig."""
    return {
        "two_moons, batch 256, 0.6 M parameters": {
            "simulator": two_moons(), "simulations": 10_000,
            "network": fsf.NetworkConfig(width=96, depth=7, n_heads=6),
            "config": {"batch_size": 256, "n_micro": 2, "pool": 2, "max_levels": 1, "dial": (("few", 1.0),)},
        },
        "sird, batch 100, 82 tokens, 0.3 M parameters": {
            "simulator": SIRD(reference=()), "simulations": 2_000, "network": fsf.NetworkConfig(),
            "design": fsf.Design((19, 20, 20, 20), skew=0.0),
            "config": {"batch_size": 100, "n_micro": 4, "pool": 1, "max_levels": 1},
        },
        "gaussian process, 17 knots, batch 64": {
            "simulator": GaussianProcess(Kernel(lengthscale=0.2), reference=(17,)), "simulations": 2_000,
            "network": fsf.NetworkConfig(width=64, depth=4, n_heads=4), "design": fsf.Design((24, 24)),
            "config": {"batch_size": 64, "n_micro": 4},
        },
    }  # fmt: skip


def steps_per_second(config: TrainConfig, **arguments: Any) -> float:
    """Mean over whole pools of rows, which are drawn and sorted together, after the first: two dozen steps or more."""
    stamps: list[float] = []
    rounds = -(-24 // config.pool)
    config = replace(config, steps=(1 + rounds) * config.pool + 1, validate_every=10_000)  # validated after the last
    fsf.train(config=config, callback=lambda p: stamps.append(time.process_time()), **arguments)
    return rounds * config.pool / (stamps[-2] - stamps[config.pool - 1])


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
