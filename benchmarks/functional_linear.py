"""Functional linear Gaussian: a thousand points of a function given a thousand noisy readings, against the exact law.

θ ~ GP, squared exponential, lengthscale .05, unit variance on [0, 1]; x(s) = θ(s) + Normal(0, √.1), the task of FNOPE
(arXiv 2505.22573): x is read at 1,000 evenly spaced points and the posterior of θ asked there, after training on 1,000
or 10,000 simulations (held-out ones included), one configuration for both. n = 1,000 draws of each of `N_SETS` data
sets: sliced Wasserstein distance to as many exact draws (order 2, unit projections, as FNOPE's), mean |error| of the
mean in posterior sds, mean ratio of variances; of exact draws against exact draws beside (the floor), and of the prior.

64 knots lie .32 lengthscales apart: the spline through them misses little, so nearly all of the task is their joint
law. Training asks for nothing but this posterior, from any number of readings up to 1,000.

    python benchmarks/functional_linear.py 1000
    python benchmarks/functional_linear.py 10000
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from networks import kept, only
from record import save

import fsimformer as fsf
from fsimformer.diagnostics import sliced_wasserstein
from fsimformer.kernels import Kernel
from fsimformer.simulators import GaussianProcess
from fsimformer.train import TrainConfig

N, N_SETS, N_POINTS, N_PROJECTIONS, KNOTS, STEPS = 1_000, 3, 1_000, 500, 64, 1_200
POINTS = np.linspace(0, 1, N_POINTS)
PROCESS = GaussianProcess(Kernel(lengthscale=0.05), grid_points=401, reference=(KNOTS,))
NO_PEER = (
    "FNOPE did not run: PyPI has no package of that name (pip index versions fnope, November 2026), and its sources "
    "need a fork of sbi that no registry has."
)


def trained(simulations: int, steps: int, callback: Any = None) -> fsf.Joint:
    """From runs/ if it was trained before."""
    config = TrainConfig(
        steps=steps, batch_size=16, n_micro=4, pool=4, cooldown=0.5, ema=0.99, warmup=100, max_latents=KNOTS,
        level_tokens=4 * KNOTS, validate_every=100, n_validation=128, checkpoint_every=100,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "simulations": simulations, "config": config, "network": fsf.NetworkConfig(width=64, depth=4, n_heads=4),
        "masks": only(posterior=0.85, extension=0.15),
        "design": fsf.Design((0, N_POINTS), skew=4.0, reference=1.0, beside=0, regular=0.5, window=0.1),
    }  # fmt: skip
    return kept(f"functional_linear/{simulations}_{steps}", PROCESS, settings, callback=callback)


def figures(draws: np.ndarray, exact: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> dict[str, float]:
    """Of draws (n, points) against exact ones, and the exact mean and sd."""
    return {
        "sliced_wasserstein": sliced_wasserstein(draws, exact, n_projections=N_PROJECTIONS),
        "mean_error_sd": float(np.mean(np.abs(draws.mean(0) - mean) / sd)),
        "variance_ratio": float(np.mean(draws.var(0, ddof=1) / sd**2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("simulations", type=int, choices=(1_000, 10_000))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = trained(args.simulations, args.steps)
    if args.train_only:
        return
    generator, rows = torch.Generator().manual_seed(1), []
    for i in range(N_SETS):
        x = PROCESS.posterior().sample(POINTS, 1, generator, readings=True)[0][0].numpy()
        observed = xr.Dataset({"x": ("time", x)}, {"time": POINTS})
        posterior = PROCESS.posterior(observed)
        mean, covariance = (m.numpy() for m in posterior.normal(POINTS))
        exact, other = (posterior.sample(POINTS, N, generator)[0].numpy() for _ in range(2))
        prior = PROCESS.posterior().sample(POINTS, N, generator)[0].numpy()
        start = time.process_time()
        draws = joint.condition(observed).sample(N, {"theta": POINTS}, seed=i)["posterior"]["theta"]
        seconds = time.process_time() - start
        sd = np.sqrt(np.diag(covariance))
        row: dict[str, Any] = figures(draws.values.reshape(N, N_POINTS), exact, mean, sd)
        row |= {f"{k}_floor": v for k, v in figures(other, exact, mean, sd).items()}
        row["sliced_wasserstein_prior"] = sliced_wasserstein(prior, exact, n_projections=N_PROJECTIONS)
        rows.append(row | {"posterior_sd": float(sd.mean()), "cpu_seconds": seconds})
        print(rows[-1], flush=True)
    card = joint.provenance
    results = {
        "n": N, "n_points": N_POINTS, "n_projections": N_PROJECTIONS, "knots": KNOTS, "simulations": args.simulations,
        "steps": card["steps"], "train_cpu_seconds": card["cpu_seconds"], "train_commit": card.get("commit", ""),
        "peer": NO_PEER, "rows": rows,
    }  # fmt: skip
    print(save(f"functional_linear_{args.simulations}", 0, results))


if __name__ == "__main__":
    main()
