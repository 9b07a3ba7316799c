"""CPU seconds of whole requests on one thread, observation to draws: the sizes that published methods were timed at.

- `two_moons`, 10,000 draws, by the network of sbibm.py and one of 0.6 M weights.
- The shipped `sird` given 60, 600 and 6,000 readings: 1,000 draws (100 given 6,000) of three parameters and the contact
  rate at 20 places. Two draws alone tell what judging and encoding the readings cost, the difference what the
  solver's steps do.
- Two parameters given 25 readings, 100 data sets in one call, 1,000 draws each.

Each by the default (32 evaluations) and in 4 evaluations of a distilled network. Weights do not change the seconds:
those of two_moons, of the 100 data sets and of every distilled network have had two steps of training; what their draws
are worth distill.py and sbibm.py say. The fastest of three, after one that does not count.

    python benchmarks/laptop.py
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from dial import sird_data_sets
from many import GRID, SCHEMA, lines
from record import save
from sbibm import settings
from speed import clock, training_steps

import fsimformer as fsf
from fsimformer.distill import DISTILLING
from fsimformer.simulators import SIRD, FunctionSimulator, Simulator, two_moons

QUALITIES = ("sde", "few")
READINGS, SETS = 25, 100


def distilled(joint: fsf.Joint, simulator: Simulator) -> fsf.Joint:
    config = replace(DISTILLING, steps=2, n_validation=16, batch_size=8)
    return fsf.distill(joint, simulator, simulations=300, config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", fsf.ObservationWarning)  # more readings than training had, weights without training
    rows: list[dict[str, object]] = []

    def timed(what: str, goal: dict[str, float], call: Callable[[str, int], object], n: int) -> None:
        for quality in QUALITIES:
            whole = clock(lambda: call(quality, n), args.repeats)  # noqa: B023
            two = clock(lambda: call(quality, 2), args.repeats)  # noqa: B023
            rows.append({"what": what, "quality": quality, "goal": goal.get(quality), **whole,
                         "two_draws_cpu_seconds": two["cpu_seconds"]})  # fmt: skip
            print(rows[-1], flush=True)

    point = {"x": xr.DataArray([0.0, 0.0], dims="x_dim")}
    large = training_steps()["two_moons, batch 256, 0.6 M parameters"]["network"]
    for weights, network in (("0.18 M", settings(10_000, 0, "default")["network"]), ("0.6 M", large)):
        config = fsf.TrainConfig(steps=2, n_validation=64, batch_size=16, n_micro=2)
        moons = fsf.train(two_moons(), simulations=300, config=config, network=network)
        moons = distilled(moons, two_moons())
        timed(f"two_moons: 10,000 draws, {weights} weights", {"sde": 5.0, "few": 1.0},
              lambda quality, n: moons.condition(point).sample(n, at={}, quality=quality), 10_000)  # noqa: B023  # fmt: skip

    simulator = SIRD(reference=fsf.load("sird").schema["contact_rate"].reference)
    sird = distilled(fsf.load("sird"), simulator)
    beta = {"contact_rate": np.linspace(0, 50, 20)}
    for n_readings in (60, 600, 6_000):
        data = next(sird_data_sets(1, 0, n_readings // 3))[0]
        goal = {"sde": 7.0, "few": 1.5} if n_readings == 60 else {}
        n_draws = 1_000 if n_readings < 6_000 else 100
        timed(f"sird: {n_readings:,} readings, {n_draws:,} draws of 23 values", goal,
              lambda quality, n: sird.condition(data).sample(n, at=beta, quality=quality), n_draws)  # noqa: B023  # fmt: skip

    line = FunctionSimulator(SCHEMA, lines, {"time": GRID})
    config = fsf.TrainConfig(steps=2, batch_size=16, n_micro=2, n_validation=16)
    network = fsf.NetworkConfig(width=64, depth=5, n_heads=4)
    design = fsf.Design((READINGS,))
    two = distilled(fsf.train(line, simulations=3_000, config=config, network=network, design=design), line)
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(size=(SETS, READINGS)), axis=1)
    many = xr.Dataset({"y": (("set", "reading"), rng.normal(size=times.shape))},
                      {"time": (("set", "reading"), times), "set": np.arange(SETS)})  # fmt: skip
    timed("100 data sets of 25 readings, 1,000 draws of 2 parameters each", {"sde": 60.0, "few": 10.0},
          lambda quality, n: two.condition(many, batch_dim="set").sample(n, at={}, quality=quality), 1_000)  # fmt: skip
    results = {"rows": rows, "n": args.repeats, "monte_carlo_floor": None}
    print(save("laptop", 0, results))


if __name__ == "__main__":
    main()
