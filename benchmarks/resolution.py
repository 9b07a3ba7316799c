"""The resolution curve: does the posterior of a function depend on how many points are asked?

f ~ GP(0, k), k squared exponential, lengthscale .2 on [0, 1], read at ten random times with noise √.1; the exact
posterior is known (Rasmussen & Williams 2006, eq. 2.23). Asked are 8 fixed probe points alone, and among 16 … 1,024
points. On the probe points: mean |error| of the mean in exact sds, mean ratio of variances, and ‖C − C*‖ / ‖C*‖
(Frobenius), over `N_SETS` data sets, each beside the same figure of as many exact draws (the Monte-Carlo floor).
"reference": a reference set of 17 knots; "white": the same network without one, all points drawn together or in stages.
Both with the linear baseline (gaussian.py) that models of functional parameters have, and without it ("_plain"). All
are trained alike, on equal simulations and for equal steps.

    python benchmarks/resolution.py reference
    python benchmarks/resolution.py reference --quality exact               # by the ODE instead of the SDE
    python benchmarks/resolution.py white_plain
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from networks import kept
from record import save

import fsimformer as fsf
from fsimformer.kernels import Kernel
from fsimformer.sample import DEFAULT_QUALITY, QUALITY
from fsimformer.simulators import GaussianProcess, GaussianProcessPosterior
from fsimformer.train import TrainConfig

PROBE = np.linspace(0.05, 0.95, 8)
VARIANTS = ("reference", "reference_plain", "white", "white_plain")
SIZES = {"reference": (8, 16, 64, 256, 1_024), "white": (8, 16, 64, 256)}
N, N_SETS, N_READINGS, KNOTS, STEPS, SIMULATIONS = 1_000, 5, 10, 17, 4_000, 20_000


def trained(variant: str, steps: int) -> tuple[fsf.Joint, GaussianProcess]:
    """From runs/ if it was trained before."""
    process = GaussianProcess(Kernel(lengthscale=0.2), reference=(KNOTS,) if "reference" in variant else ())
    settings: dict[str, Any] = {
        "simulations": SIMULATIONS,
        "config": TrainConfig(steps=steps, batch_size=64, n_micro=4, pool=4, cooldown=0.3, ema=0.995, seed=0),
        "network": fsf.NetworkConfig(width=64, depth=4, n_heads=4),
        "design": fsf.Design((24, 24)),
        "baseline": "plain" not in variant,
    }
    return kept(f"resolution/{variant}_{steps}", process, settings), process


Given = tuple[xr.Dataset, GaussianProcessPosterior]
"""Readings, and the exact posterior."""


def data_sets(process: GaussianProcess, generator: torch.Generator) -> Iterator[Given]:
    """Of functions that training never saw; the readings are of exact values instead of a grid's."""
    for _ in range(N_SETS):
        times = torch.rand(N_READINGS, generator=generator, dtype=torch.float64).sort().values
        x = process.posterior().sample(times, 1, generator, readings=True)[0][0]
        observed = xr.Dataset({"x": ("time", x.numpy())}, {"time": times.numpy()})
        yield observed, process.posterior({"x": observed["x"]})


def figures(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> dict[str, float]:
    """Of draws (n, 8) of f at the probe points."""
    variance, found = np.diag(covariance), np.cov(draws.T)
    return {
        "mean_error_sd": float(np.mean(np.abs(draws.mean(0) - mean) / np.sqrt(variance))),
        "variance_ratio": float(np.mean(np.diag(found) / variance)),
        "covariance_error": float(np.linalg.norm(found - covariance) / np.linalg.norm(covariance)),
    }


Moments = tuple[np.ndarray, np.ndarray]
"""Exact mean (8,) and covariance (8, 8) at the probe points."""


def problems(process: GaussianProcess) -> tuple[list[tuple[xr.Dataset, Moments]], list[dict[str, float]]]:
    """Readings with the exact moments, and the figures of as many exact draws, of every data set."""
    generator = torch.Generator().manual_seed(1)
    sets, floors = [], []
    for observed, exact in data_sets(process, generator):
        moments = (exact.mean(PROBE).numpy(), exact.covariance(PROBE).numpy())
        sets.append((observed, moments))
        floors.append(figures(exact.sample(PROBE, N, generator)[0].numpy(), *moments))
    return sets, floors


def times_of(size: int) -> np.ndarray:
    """The probe points, and others among which they are asked."""
    return np.concatenate([PROBE, np.random.default_rng(size).uniform(0, 1, size - len(PROBE))])


def row_of(size: int, seconds: float, found: list[dict[str, float]], floors: list[dict[str, float]]) -> dict[str, Any]:
    """Means and standard errors over the data sets, which took `seconds` together, and floors."""
    row: dict[str, Any] = {"points": size, "cpu_seconds": seconds / N_SETS}
    for key in found[0]:
        each = [f[key] for f in found]
        row[key] = float(np.mean(each))
        row[f"{key}_standard_error"] = float(np.std(each, ddof=1) / N_SETS**0.5)
        row[f"{key}_floor"] = float(np.mean([f[key] for f in floors]))
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--quality", choices=QUALITY, default=DEFAULT_QUALITY)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, process = trained(args.variant, args.steps)
    sets, floors = problems(process)
    rows: list[dict[str, Any]] = []
    for size in SIZES[args.variant.removesuffix("_plain")]:
        start, found = time.process_time(), []
        for i, (observed, moments) in enumerate(sets):
            tree = joint.condition(observed).sample(N, {"theta": times_of(size)}, seed=i, quality=args.quality)
            draws = tree["posterior"]["theta"].values.reshape(N, size)[:, : len(PROBE)]
            found.append(figures(draws, *moments))
        rows.append(row_of(size, time.process_time() - start, found, floors))
    card, other = joint.provenance, "" if args.quality == DEFAULT_QUALITY else f", {args.quality}"
    results = {
        "n": N, "n_sets": N_SETS, "variant": args.variant + other, "steps": card["steps"],
        "train_cpu_seconds": card["cpu_seconds"], "train_commit": card.get("commit", ""), "rows": rows,
    }  # fmt: skip
    print(save(f"resolution_{args.variant}{other.replace(', ', '_')}", 0, results))


if __name__ == "__main__":
    main()
