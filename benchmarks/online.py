"""Training while simulations arrive, beside training afterwards: accuracy against wall time, for a slow simulator.

Two parameters, four readings of a linear model with noise: the posterior is Gaussian and known.

- `wall`: a simulation takes 10 ms of sleep in a process of its own, 4,000 of them 40 s; a training has 1,500 steps.
  Every variant makes the same simulations anew, starts training as soon as `stock.py` lets it, and holds out the same
  ones: `reserve` 1 is training after simulating, with 0.5 half of the draws are made while simulations arrive, with 0.2
  four fifths. Wall seconds count from the first simulation; they are what this is about, so nothing else should run on
  the machine, and the load averages before and after are stated.
- `accuracy`: the same trainings of several seeds and counts of simulations, without the sleep. An archive that was full
  from the beginning gives what one that grows does, bit for bit, so that nothing else is lost. Weights, simulations and
  observations are those of the seed, whatever the reserve: variants are compared seed by seed.

Validation losses are of equal rows, levels and noise. Of 2,000 draws for each of 20 observations: KL from the exact
posterior to a Gaussian with their mean and covariance, its floor that of exact draws; and their width, the mean log
ratio of their standard deviation to the exact one over both axes of the exact posterior, below 0 too narrow.

    python benchmarks/online.py            # --steps 20 --simulations 200 --counts 200 --seeds 0 to see it run
    python benchmarks/online.py --accuracy # that part alone: no clock in it, the machine may be busy
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
from fsimformer.archive import Archive
from fsimformer.arriving import Arriving
from fsimformer.child import fields_of
from fsimformer.online import simulating
from fsimformer.seeds import seed_at

DESIGN = np.array([[1.0, 0.0], [1.0, 0.5], [1.0, 1.0], [1.0, 2.0]])
SD, SLEEP, CHUNK = 0.5, 0.01, 50
SCHEMA = fsf.Schema(
    (fsf.Variable("theta", "parameter", ("part",), prior=fsf.Normal()), fsf.Variable("x", "data", ("reading",))),
    (fsf.Components("part", 2), fsf.Components("reading", 4)),
)
RESERVES, N_DRAWS, N_OBSERVATIONS = (1.0, 0.5, 0.2), 2_000, 20


def line(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=2)
    return {"theta": ("part", theta), "x": ("reading", DESIGN @ theta + SD * rng.normal(size=4))}


def slow_line(seed: int) -> dict[str, Any]:
    time.sleep(SLEEP)
    return line(seed)


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


def width(x: np.ndarray, draws: np.ndarray) -> float:
    """Mean log ratio of the sd of draws (n, 2) to the exact one, along the axes of the exact posterior."""
    variances, axes = np.linalg.eigh(posterior(x)[1])
    return float(np.mean(np.log((draws @ axes).std(0, ddof=1)) - 0.5 * np.log(variances)))


def settings(steps: int, seed: int) -> dict[str, Any]:
    config = fsf.TrainConfig(
        steps=steps, batch_size=128, n_micro=1, pool=1, max_levels=4, level_tokens=16, warmup=min(50, steps // 3),
        validate_every=max(1, steps // 15), n_validation=512, ema=0.99, dial=((None, 1.0),), seed=seed,
    )  # fmt: skip
    masks = fsf.MaskConfig(1, 0, 0, 0, 0, 0, 0, 0, 0)
    return {"config": config, "masks": masks, "network": fsf.NetworkConfig(width=32, depth=2, n_heads=2)}


def first_of(simulations: int) -> int:
    """As many must be there before the first step."""
    return max(100, simulations // 8)


def judged(joint: fsf.Joint, seed: int) -> dict[str, Any]:
    """The accuracy of what a training ended with."""
    rng, each = np.random.default_rng(seed + 1), list[tuple[float, float, float]]()
    for _ in range(N_OBSERVATIONS):
        x = DESIGN @ rng.normal(size=2) + SD * rng.normal(size=4)
        draws = joint.condition(xr.Dataset({"x": ("reading", x)})).sample(N_DRAWS, at={}, seed=seed, quality="exact")
        theta = draws["posterior/theta"].values.reshape(N_DRAWS, 2)
        each.append((kl(x, theta), kl(x, rng.multivariate_normal(*posterior(x), size=N_DRAWS)), width(x, theta)))
    found = np.array(each)
    return {
        "best_validation_loss": joint.provenance["best_validation_loss"],
        "best_step": joint.provenance["best_step"],
        "times_seen": joint.provenance["arriving"]["times_seen"],
        "kl": float(found[:, 0].mean()),
        "standard_error": float(found[:, 0].std(ddof=1) / len(each) ** 0.5),
        "floor": float(found[:, 1].mean()),
        "width": float(found[:, 2].mean()),
    }


def wall(reserve: float, simulations: int, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """One variant while simulations are made: the curve of its training, and its accuracy."""
    load, start, cpu = os.getloadavg(), time.monotonic(), time.process_time()
    curve, made, stamps = list[tuple[float, float]](), list[float](), list[float]()

    def note(progress: fsf.Progress) -> None:
        stamps.append(time.monotonic() - start)
        if progress.validation is not None:
            curve.append((time.monotonic() - start, progress.validation))

    path, first = folder / f"{reserve}.zarr", first_of(simulations)
    with simulating(path, slow_line, simulations, SCHEMA, seed=seed, workers=1, chunk=CHUNK, first=first,
                    reserve=reserve, callback=lambda tally: made.append(time.monotonic() - start)) as runs:  # fmt: skip
        joint = fsf.train(runs, simulations=runs, callback=note, **settings(steps, seed))
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    return {
        "reserve": reserve,
        "wall_seconds": seconds,
        "simulated_at": made[-1],
        "first_step_at": stamps[0],
        "cpu_seconds": cpu,
        **judged(joint, seed),
        "curve": curve,
        "load_average": [load[0], os.getloadavg()[0]],
    }


def filled(path: Path, simulations: int, seed: int) -> Archive:
    """What `simulating` would have made."""
    archive = Archive.create(path, seed, CHUNK, "line", SCHEMA)
    with archive.writing() as writer:
        for numbers in archive.missing(simulations):
            writer.write({k: fields_of(line(seed_at(seed, 7, k))) for k in numbers})
    return archive


def accuracy(archive: Archive, reserve: float, simulations: int, steps: int) -> dict[str, Any]:
    """One variant on an archive that is full."""
    first = first_of(simulations)
    runs = Arriving.open(archive.path, SCHEMA, simulations, first=first, reserve=reserve)
    joint = fsf.train(runs, simulations=runs, **settings(steps, archive.seed))
    return {"reserve": reserve, "seed": archive.seed, "simulations": simulations, **judged(joint, archive.seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the accuracy")
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 4_000], help="simulations, of the accuracy")
    parser.add_argument("--accuracy", action="store_true", help="that part alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = args.steps == 1_500
    about = {"steps": args.steps, "n": N_DRAWS, "observations": N_OBSERVATIONS}
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for seed in args.seeds:
            for count in args.counts:
                archive = filled(Path(folder) / f"{seed}_{count}.zarr", count, seed)
                rows += [accuracy(archive, r, count, args.steps) for r in RESERVES]
        print(save("online_accuracy" if whole else "online_accuracy_trial", args.seeds[0], about | {"rows": rows}))
        if args.accuracy:
            return
        rows = [wall(r, args.simulations, args.steps, args.seed, Path(folder)) for r in RESERVES]
    about |= {"simulations": args.simulations, "seconds_a_simulation": SLEEP, "rows": rows}
    print(save("online" if whole else "online_trial", args.seed, about))


if __name__ == "__main__":
    main()
