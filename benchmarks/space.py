"""Fields: a Gaussian one with its exact posterior, and the permeability behind readings of groundwater pressure.

"field": f ~ GP on the unit square, squared exponential, lengthscale .3, read at 40 scattered points with noise √.1; the
exact posterior. "darcy": log permeability given 40 pressures at scattered points (simulators/darcy.py), against long
MCMC on the same model (references/darcy.py). Both have 8 × 8 knots; the posterior is asked on a lattice of 17 × 17
points that the knots are no part of. n = 1,000 draws of each data set: mean |error| of the mean in posterior sds, mean
ratio of variances, share of points where the truth lies within the central 90 %; of exact draws, or of half the chains,
beside.

    python benchmarks/references/darcy.py
    python benchmarks/space.py field
    python benchmarks/space.py darcy
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from networks import kept
from record import ROOT, save

import fsimformer as fsf
from fsimformer.kernels import Kernel
from fsimformer.simulators import DarcyFlow, GaussianProcess
from fsimformer.train import TrainConfig

N, N_READINGS, SIDE, KNOTS = 1_000, 40, 17, (8, 8)
STEPS = {"field": 1_500, "darcy": 2_500}
FIELD = GaussianProcess(
    Kernel(lengthscale=0.3), dims={"x1": (0.0, 1.0), "x2": (0.0, 1.0)}, grid_points=33, reference=KNOTS
)
DARCY = DarcyFlow(grid_points=17, reference=KNOTS)
LATTICE = np.stack(np.meshgrid(*[np.linspace(0.03, 0.97, SIDE)] * 2, indexing="ij"), -1).reshape(-1, 2)
NAME = {"field": "theta", "darcy": "log_permeability"}


def trained(task: str) -> fsf.Joint:
    """From runs/ if it was trained before."""
    process = FIELD if task == "field" else DARCY
    config = TrainConfig(
        steps=STEPS[task], batch_size=64, n_micro=4, pool=4, cooldown=0.3, ema=0.995, max_latents=72, validate_every=250
    )
    settings: dict[str, Any] = {
        "simulations": 20_000,
        "config": config,
        "network": fsf.NetworkConfig(width=64, depth=4, n_heads=4),
        "design": fsf.Design((24, 60), beside=4),
    }
    return kept(f"space/{task}_{STEPS[task]}", process, settings)


def points(name: str, at: np.ndarray) -> dict[str, xr.DataArray]:
    """Coordinates of a variable at points (n, 2) that are no grid."""
    return {d: xr.DataArray(at[:, j], dims=f"point_{name}") for j, d in enumerate(("x1", "x2"))}


def readings(name: str, at: np.ndarray, value: np.ndarray) -> xr.Dataset:
    return xr.Dataset({name: (f"point_{name}", value)}, points(name, at))


def field_sets(n_sets: int = 3) -> list[dict[str, Any]]:
    """Readings, truth on the lattice, exact draws."""
    generator, out = torch.Generator().manual_seed(1), []
    for _ in range(n_sets):
        at = torch.rand(N_READINGS, 2, generator=generator, dtype=torch.float64).numpy()
        everything, prior = np.concatenate([at, LATTICE]), FIELD.posterior()
        f = prior.sample(everything, 1, generator)[0][0].numpy()
        x = f[:N_READINGS] + FIELD.noise * torch.randn(N_READINGS, generator=generator).numpy()
        observed = readings("x", at, x)
        exact = FIELD.posterior(observed)
        mean, sd = exact.mean(LATTICE).numpy(), exact.covariance(LATTICE).diagonal().sqrt().numpy()
        other = exact.sample(LATTICE, N, generator)[0].numpy()
        out.append({"observed": observed, "truth": f[N_READINGS:], "mean": mean, "sd": sd, "other": other})
    return out


def darcy_sets() -> list[dict[str, Any]]:
    """Readings, truth and chains of references/darcy.py; half of the chains is the reference, the other its floor."""
    saved = dict(np.load(ROOT / "benchmarks" / "references" / "darcy.npz"))
    out = []
    for i in range(len(saved["at"])):
        observed = readings("pressure", saved["at"][i], saved["pressure"][i])
        given = {k: saved[k][i].astype(float) for k in ("mean", "sd")}
        out.append(
            {"observed": observed, "truth": saved["truth"][i], "other": saved["draws"][i].astype(float), **given}
        )
    return out


def figures(draws: np.ndarray, of: dict[str, Any]) -> dict[str, float]:
    """Of draws (n, points)."""
    lower, upper = np.quantile(draws, [0.05, 0.95], axis=0)
    return {
        "mean_error_sd": float(np.mean(np.abs(draws.mean(0) - of["mean"]) / of["sd"])),
        "variance_ratio": float(np.mean(draws.var(0) / of["sd"] ** 2)),
        "covered": float(np.mean((lower < of["truth"]) & (of["truth"] < upper))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, name, rows = trained(args.task), NAME[args.task], []
    for i, of in enumerate(field_sets() if args.task == "field" else darcy_sets()):
        start = time.process_time()
        tree = joint.condition(of["observed"]).sample(N, {name: points(name, LATTICE)}, seed=i)
        seconds = time.process_time() - start
        draws = tree["posterior"][name].values.reshape(N, len(LATTICE))
        floor = {f"{k}_floor": v for k, v in figures(of["other"], of).items()}
        rows.append(figures(draws, of) | floor | {"cpu_seconds": seconds})
        print(rows[-1], flush=True)
    card = joint.provenance
    results = {
        "task": args.task, "n": N, "n_readings": N_READINGS, "steps": card["steps"],
        "train_cpu_seconds": card["cpu_seconds"], "rows": rows,
    }  # fmt: skip
    print(save(f"space_{args.task}", 0, results))


if __name__ == "__main__":
    main()
