"""Neurons on a diet: seven features of a voltage observed, and energy below the 10 % quantile of what they allow.

Fresh simulations of `HodgkinHuxley` that spike (a seed that training never used), `N_SETS` of them. Given the seven
features the shipped network draws parameters and energy; the 10 % quantile of its energies is the bound of a `Between`.
n = 1,000 draws under it are simulated again: share whose energy satisfies the bound (published: 94.5 %, and 100 % of
those predicted), and, for both, mean |feature − observed| in sds of the feature over draws of the prior that spike.
Binomial standard error of a share: 1 % at most.

    python benchmarks/train_shipped.py hodgkin_huxley
    python benchmarks/hodgkin_huxley.py
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import budget, no_arguments, save

import fsimformer as fsf
from fsimformer.seeds import generator_at
from fsimformer.simulators import HodgkinHuxley

N, N_SETS, SHARE, SEED = 1_000, 5, 0.1, 20_261_126
SIMULATOR = HodgkinHuxley()
FEATURES = ("spikes", "rest_mean", "rest_sd", "mean", "variance", "skewness", "kurtosis")


def simulated(draws: xr.Dataset, seed: int) -> dict[str, np.ndarray]:
    """Features and energy of a fresh simulation at every draw of the parameters."""
    names = [v.name for v in SIMULATOR.schema.variables if v.role == "parameter"]
    given = {k: torch.from_numpy(draws[k].to_numpy().reshape(-1)).double() for k in names}
    found = SIMULATOR.simulate_at(given, generator_at(SEED, 2, seed))
    return {k: v.numpy() for k, v in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    joint = fsf.load("hodgkin_huxley")
    pool = SIMULATOR.simulate(2_000, generator_at(SEED, 1))
    spiking = (pool["spikes"] >= 3).nonzero()[:, 0]
    spread = {k: float(pool[k][spiking].std()) for k in FEATURES}
    rows: list[dict[str, Any]] = []
    for i, number in enumerate(spiking[:N_SETS].tolist()):
        observed = {k: float(pool[k][number]) for k in FEATURES}
        given = joint.condition(observed)
        start = time.process_time()
        free = given.sample(N, at={"energy": None}, seed=i)
        energy = free["predictions"]["energy"].to_numpy().ravel()
        bound = float(np.quantile(energy, SHARE))
        held = given.constrain(fsf.Between("energy", upper=bound)).sample(N, at={"energy": None}, seed=i)
        seconds = time.process_time() - start
        stats = held["sample_stats"].to_dataset()
        row: dict[str, Any] = {
            "observed": observed, "energy": float(pool["energy"][number]), "bound": bound, "cpu_seconds": seconds,
            "method": str(stats["method"].item()), "acceptance": float(stats["acceptance"]),
            "predicted": float((held["predictions"]["energy"] <= bound).mean()),
        }  # fmt: skip
        for name, draws in (("free", free), ("held", held)):
            again = simulated(draws["posterior"].to_dataset(), i)
            apart = [np.abs(again[k] - observed[k]).mean() / spread[k] for k in FEATURES]
            row |= {
                f"{name}_satisfied": float((again["energy"] <= bound).mean()),
                f"{name}_apart": float(np.mean(apart)),
            }
        rows.append(row)
        print({k: v for k, v in row.items() if k != "observed"}, flush=True)
    print(save("hodgkin_huxley", SEED, budget(joint.provenance) | {"n": N, "share": SHARE, "rows": rows}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
