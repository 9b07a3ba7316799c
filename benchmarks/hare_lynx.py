"""Posterior of `hare_lynx` given the real Hudson's Bay counts, against long NUTS on the same model.

With all 42 counts, and with the demo's seven knocked out. Reported in reference sds; the Monte-Carlo floor of a mean is
1/√n of ours and 1/√(effective draws) of the reference's. Then as many draws after `refine` (importance weights with
the simulator's own likelihood), worth `ess` draws.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from record import ROOT, budget, save

import fsimformer as fsf
from fsimformer.simulators import HareLynx, hudson_bay


def compare(draws: xr.DataTree, reference: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean and sd of every parameter beside the reference's."""
    out = {}
    for p, x in draws["posterior"].data_vars.items():
        mean, sd = float(reference[p].mean()), float(reference[p].std())
        out[str(p)] = {
            "reference_mean": mean,
            "reference_sd": sd,
            "mean": float(x.mean()),
            "sd": float(x.std()),
            "mean_error_sd": (float(x.mean()) - mean) / sd,
            "sd_ratio": float(x.std()) / sd,
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--model", default="hare_lynx")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = fsf.load(args.model)
    folder, results = ROOT / "benchmarks" / "references", {}
    for name in ("hare_lynx", "hare_lynx_holes"):
        data, about = hudson_bay(), json.loads((folder / f"{name}.json").read_text())
        for species, years in about["holes"].items():
            data[species] = data[species].where(~data.time.isin(np.array(years) - 1900.0))
        reference = np.load(folder / f"{name}.npz")
        posterior = joint.condition(data)
        ours = posterior.sample(args.n)
        proposals = posterior.sample(args.n, at={}, quality="exact", seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fsf.ObservationWarning)  # Pareto k is in the table
            refined = posterior.refine(proposals, fsf.log_likelihood(HareLynx(), data), args.n)
        results[name] = compare(ours, reference)
        stats = refined["sample_stats"]
        weights = {"ess": float(stats["ess"]), "pareto_k": float(stats["pareto_k"])}
        results[name + "_refined"] = {"parameters": compare(refined, reference), **weights}
        results[name + "_reference"] = {k: v for k, v in about.items() if isinstance(v, int | float | str)}
    about = {"n": args.n, "monte_carlo_floor_sd": args.n**-0.5, **budget(joint.provenance)}
    print(save("hare_lynx", 0, about | results))


if __name__ == "__main__":
    main()
