"""10,000 ragged data sets, 1,000 draws each, streamed to Zarr by `sample_to`: seconds, peak memory, size on disk.

Two parameters and 1 to 12 readings at times of their own, an untrained network of 32 features and two layers (what it
draws means nothing here), `quality="fast"`. Each count of data sets runs in a process of its own; its peak resident
memory must not grow with the count, but for what is held of the observations and their places, which is measured
apart: the peak before the first draw.

    python benchmarks/many.py              # --sets 100 1000 for a part of it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import peak_mib, save

import fsimformer as fsf

N_DRAWS, READINGS = 1_000, 12
SCHEMA = fsf.Schema(
    (
        fsf.Variable("level", "parameter", prior=fsf.Normal()),
        fsf.Variable("slope", "parameter", prior=fsf.Normal()),
        fsf.Variable("y", "data", ("time",), noise=fsf.Noise("normal", 0.2)),
    ),
    (fsf.Index("time", 0.0, 1.0),),
)
GRID = torch.linspace(0, 1, 33, dtype=torch.float64)


def lines(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    level, slope = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return {"level": level, "slope": slope, "y": level[:, None] + slope[:, None] * GRID}


def observations(n: int, seed: int) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(size=(n, READINGS)), axis=1)
    y = rng.normal(size=(n, 1)) + rng.normal(size=(n, 1)) * times + 0.2 * rng.normal(size=times.shape)
    y[np.arange(READINGS) >= rng.integers(1, READINGS + 1, size=(n, 1))] = np.nan
    times[np.isnan(y)] = np.nan
    return xr.Dataset({"y": (("set", "reading"), y)}, {"time": (("set", "reading"), times), "set": np.arange(n)})


def measure(n: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    simulator = fsf.simulators.FunctionSimulator(SCHEMA, lines, {"time": GRID})
    config = fsf.TrainConfig(steps=1, batch_size=16, n_micro=2, n_validation=16, seed=seed)
    network = fsf.NetworkConfig(width=32, depth=2, n_heads=2)
    joint = fsf.train(simulator, simulations=200, config=config, network=network, design=fsf.Design((READINGS,)))
    c = joint.condition(observations(n, seed), batch_dim="set")
    before: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path, wall, cpu = Path(folder) / "draws.zarr", time.monotonic(), time.process_time()
        c.sample_to(
            path, N_DRAWS, at={}, seed=seed, quality="fast", callback=lambda done, of: before.append(peak_mib())
        )
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "data_sets": n, "draws": N_DRAWS, "wall_seconds": wall, "cpu_seconds": cpu, "peak_mib": peak_mib(),
        "peak_before_mib": before[0], "disk_mib": size / 2**20,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, nargs="+", default=[100, 1_000, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", type=int, help="measure one count here and print it")
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.seed)))
        return
    rows = []
    for n in args.sets:
        command = [sys.executable, __file__, "--one", str(n), "--seed", str(args.seed)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    whole = max(args.sets) >= 10_000
    print(save("many" if whole else "many_trial", args.seed, {"rows": rows, "n": N_DRAWS, "monte_carlo_floor": None}))


if __name__ == "__main__":
    main()
