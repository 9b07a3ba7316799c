"""Posterior of `lotka_volterra` on ten simulated data sets, 20 + 20 points: C2ST against importance sampling.

The references (references/lotka_volterra.py) share no code with the package. Floor: reference draws against other
reference draws at the same n. The C2ST is also given at other settings of D1's dial (observed tokens in the
active stream), with the same weights and seeds.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import xarray as xr
from record import ROOT, save

import fsimformer as fsf
from fsimformer.diagnostics import c2st

PARAMETERS = ("alpha", "beta", "gamma", "delta")


def data_set(reference: dict[str, np.ndarray], i: int) -> dict[str, xr.DataArray]:
    return {
        name: xr.DataArray(
            reference[name][i], dims=f"time_{name}", coords={f"time_{name}": reference[f"{name}_time"][i]}
        )
        for name in ("prey", "predator")
    }


def sample(joint: fsf.Joint, observed: dict[str, xr.DataArray], n: int, seed: int, dial: int | None) -> np.ndarray:
    """Draws (n, 4) at one setting of the dial; each data set has noise of its own."""
    ours = joint.condition(observed, n_active_observed=dial).sample(n, seed=seed)["posterior"]
    return np.stack([ours[p].values.ravel() for p in PARAMETERS], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="draws of each side of the C2ST")
    parser.add_argument("--model", default="lotka_volterra")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = fsf.load(args.model)
    reference = dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz"))
    rows = []
    by_dial: dict[str, list[float]] = {}
    for i, draws in enumerate(reference["draws"].astype(float)):
        x = sample(joint, data_set(reference, i), args.n, i, joint.model.n_active_observed)
        mean, sd = draws.mean(0), draws.std(0)
        rows.append({
            "c2st_rf": c2st(draws[: args.n], x),
            "floor_rf": c2st(draws[: args.n], draws[args.n : 2 * args.n]),
            "mean_error_sd": ((x.mean(0) - mean) / sd).tolist(),
            "sd_ratio": (x.std(0) / sd).tolist(),
        })  # fmt: skip
        for dial in (0, 8, 32, None):
            name = "all" if dial is None else str(dial)
            other = sample(joint, data_set(reference, i), args.n, i, dial)
            by_dial.setdefault(name, []).append(c2st(draws[: args.n], other))
    summary = {k: float(np.mean([r[k] for r in rows])) for k in ("c2st_rf", "floor_rf")}
    card = joint.provenance
    budget = {"simulations": card["simulations"], "steps": card["steps"], "train_cpu_seconds": card["cpu_seconds"]}
    print(
        save("lotka_volterra", 0, {"n": args.n, "data_sets": rows, "mean": summary, "c2st_by_dial": by_dial, **budget})
    )


if __name__ == "__main__":
    main()
