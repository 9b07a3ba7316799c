"""Posterior of `lotka_volterra` on ten simulated data sets, 20 + 20 points: C2ST against importance sampling.

The references (references/lotka_volterra.py) share no code with the package. Floor: reference draws against other
reference draws at the same n. The C2ST is also given after `refine` (importance weights with the simulator's own
likelihood), at half as many draws, beside the network's at that number.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import ROOT, budget, save

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.simulators import LotkaVolterra

PARAMETERS = ("alpha", "beta", "gamma", "delta")


def data_set(reference: dict[str, np.ndarray], i: int) -> dict[str, xr.DataArray]:
    return {
        name: xr.DataArray(
            reference[name][i], dims=f"time_{name}", coords={f"time_{name}": reference[f"{name}_time"][i]}
        )
        for name in ("prey", "predator")
    }


def references() -> dict[str, np.ndarray]:
    """The ten data sets and exact draws of each, `references/lotka_volterra.py`."""
    return dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz"))


def values(draws: xr.DataTree) -> np.ndarray:
    """(n, 4)."""
    return np.stack([draws["posterior"][p].values.ravel() for p in PARAMETERS], 1)


def against_exact(joint: fsf.Joint, n: int, seeds: Sequence[int]) -> dict[str, Any]:
    """RF C2ST of n draws of every data set, of its own seed each, with floor and standard error over the data sets."""
    saved = references()
    rows = []
    for i, (exact, seed) in enumerate(zip(saved["draws"].astype(float), seeds, strict=True)):
        draws = values(joint.condition(data_set(saved, i)).sample(n, at={}, seed=seed))
        rows.append({
            "c2st_rf": c2st(exact[:n], draws), "floor": c2st(exact[:n], exact[n : 2 * n]),
            "mean_error_sd": ((draws.mean(0) - exact.mean(0)) / exact.std(0)).tolist(),
            "sd_ratio": (draws.std(0) / exact.std(0)).tolist(),
        })  # fmt: skip
    found = [r["c2st_rf"] for r in rows]
    return {
        "n": n, "data_sets": rows, "c2st_rf": float(np.mean(found)),
        "c2st_standard_error": float(np.std(found, ddof=1) / len(found) ** 0.5),
        "floor": float(np.mean([r["floor"] for r in rows])),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="draws of each side of the C2ST")
    parser.add_argument("--proposals", type=int, default=4000, help="draws that refine weighs; it keeps n/2 of them")
    parser.add_argument("--model", default="lotka_volterra")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, n, half = fsf.load(args.model), args.n, args.n // 2
    reference, rows = references(), []
    for i, draws in enumerate(reference["draws"].astype(float)):
        observed = data_set(reference, i)
        posterior = joint.condition(observed)
        x, mean, sd = values(posterior.sample(n, seed=i)), draws.mean(0), draws.std(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fsf.ObservationWarning)  # Pareto k is in the table
            proposals = posterior.sample(args.proposals, at={}, quality="exact", seed=1000 + i)
            refined = posterior.refine(proposals, fsf.log_likelihood(LotkaVolterra(), observed), half)
        stats = refined["sample_stats"]
        rows.append({
            "c2st_rf": c2st(draws[:n], x),
            "floor_rf": c2st(draws[:n], draws[n : 2 * n]),
            "mean_error_sd": ((x.mean(0) - mean) / sd).tolist(),
            "sd_ratio": (x.std(0) / sd).tolist(),
            "network_c2st_rf_half": c2st(draws[:half], x[:half]),
            "refined_c2st_rf_half": c2st(draws[:half], values(refined)),
            "ess": float(stats["ess"]),
            "pareto_k": float(stats["pareto_k"]),
        })  # fmt: skip
        print(i + 1, rows[-1], flush=True)
    keys = ("c2st_rf", "floor_rf", "network_c2st_rf_half", "refined_c2st_rf_half")
    summary = {k: float(np.mean([r[k] for r in rows])) for k in keys}
    summary["sd_ratio"] = float(np.mean([r["sd_ratio"] for r in rows]))
    summary["absolute_mean_error_sd"] = float(np.abs([r["mean_error_sd"] for r in rows]).mean())
    about = {"n": n, "proposals": args.proposals, **budget(joint.provenance)}
    print(save("lotka_volterra", 0, {"data_sets": rows, "mean": summary, **about}))


if __name__ == "__main__":
    main()
