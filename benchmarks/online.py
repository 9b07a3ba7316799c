"""Training while simulations arrive, beside training afterwards: accuracy against wall time, for a slow simulator.

Two parameters, four readings of a linear model with noise: the posterior is Gaussian and known. A simulation takes
10 ms of sleep in a process of its own, 4,000 of them 40 s; a training has 1,500 steps. Every variant makes the same
simulations anew, starts training as soon as `stock.py` lets it, and holds out the same ones: `reserve` 1 is training
after simulating, with 0.5 half of the draws are made while simulations arrive, with 0.2 four fifths.

Wall seconds count from the first simulation; they are what this is about, so nothing else should run on the machine,
and the load averages before and after are stated. Validation losses are of equal rows, levels and noise. KL is from the
exact posterior to a Gaussian with mean and covariance of 2,000 draws, mean over 20 observations; its floor is that of
exact draws.

    python benchmarks/online.py            # --steps 20 --simulations 200 to see it run
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import save

import fsimformer as fsf
from fsimformer.online import simulating

DESIGN = np.array([[1.0, 0.0], [1.0, 0.5], [1.0, 1.0], [1.0, 2.0]])
SD, SLEEP = 0.5, 0.01
SCHEMA = fsf.Schema(
    (fsf.Variable("theta", "parameter", ("part",), prior=fsf.Normal()), fsf.Variable("x", "data", ("reading",))),
    (fsf.Components("part", 2), fsf.Components("reading", 4)),
)
RESERVES, N_DRAWS, N_OBSERVATIONS = (1.0, 0.5, 0.2), 2_000, 20


def line(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=2)
    time.sleep(SLEEP)
    return {"theta": ("part", theta), "x": ("reading", DESIGN @ theta + SD * rng.normal(size=4))}


def posterior(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of θ given x."""
    covariance = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / SD**2)
    return covariance @ DESIGN.T @ x / SD**2, covariance


def kl(x: np.ndarray, draws: np.ndarray) -> float:
    """From the exact posterior to the Gaussian that has the moments of draws (n, 2)."""
    mean, covariance = posterior(x)
    inverse = np.linalg.inv(np.cov(draws.T))
    d = draws.mean(0) - mean
    log_det = np.linalg.slogdet(inverse @ covariance)[1]
    return float(0.5 * (np.trace(inverse @ covariance) - 2 + d @ inverse @ d - log_det))


def run(reserve: float, simulations: int, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """One variant: the curve of its training, and the accuracy of what it ends with."""
    config = fsf.TrainConfig(
        steps=steps, batch_size=128, n_micro=1, pool=1, max_levels=4, level_tokens=16, warmup=min(50, steps // 3),
        validate_every=max(1, steps // 15), n_validation=512, ema=0.99, dial=((None, 1.0),), seed=seed,
    )  # fmt: skip
    masks = fsf.MaskConfig(1, 0, 0, 0, 0, 0, 0, 0, 0)
    network = fsf.NetworkConfig(width=32, depth=2, n_heads=2)
    load, start, cpu = os.getloadavg(), time.monotonic(), time.process_time()
    curve, made, stamps = list[tuple[float, float]](), list[float](), list[float]()

    def note(progress: fsf.Progress) -> None:
        stamps.append(time.monotonic() - start)
        if progress.validation is not None:
            curve.append((time.monotonic() - start, progress.validation))

    path, first = folder / f"{reserve}.zarr", max(100, simulations // 8)
    with simulating(path, line, simulations, SCHEMA, seed=seed, workers=1, chunk=50, first=first, reserve=reserve,
                    callback=lambda tally: made.append(time.monotonic() - start)) as runs:  # fmt: skip
        joint = fsf.train(runs, simulations=runs, config=config, network=network, masks=masks, callback=note)
    wall, rng = time.monotonic() - start, np.random.default_rng(seed + 1)
    each, floor = [], []
    for _ in range(N_OBSERVATIONS):
        x = DESIGN @ rng.normal(size=2) + SD * rng.normal(size=4)
        draws = joint.condition(xr.Dataset({"x": ("reading", x)})).sample(N_DRAWS, at={}, seed=seed, quality="exact")
        each.append(kl(x, draws["posterior/theta"].values.reshape(N_DRAWS, 2)))
        floor.append(kl(x, rng.multivariate_normal(*posterior(x), size=N_DRAWS)))
    return {
        "reserve": reserve,
        "wall_seconds": wall,
        "simulated_at": made[-1],
        "first_step_at": stamps[0],
        "cpu_seconds": time.process_time() - cpu,
        "best_validation_loss": joint.provenance["best_validation_loss"],
        "best_step": joint.provenance["best_step"],
        "times_seen": joint.provenance["arriving"]["times_seen"],
        "kl": float(np.mean(each)),
        "standard_error": float(np.std(each, ddof=1) / len(each) ** 0.5),
        "floor": float(np.mean(floor)),
        "curve": curve,
        "load_average": [load[0], os.getloadavg()[0]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [run(r, args.simulations, args.steps, args.seed, Path(folder)) for r in RESERVES]
    results = {
        "simulations": args.simulations, "steps": args.steps, "seconds_a_simulation": SLEEP, "n": N_DRAWS,
        "observations": N_OBSERVATIONS, "rows": rows,
    }  # fmt: skip
    print(save("online" if args.steps == 1_500 else "online_trial", args.seed, results))


if __name__ == "__main__":
    main()
