"""Posterior of `hare_lynx` given the real Hudson's Bay counts, against long NUTS on the same model.

With all 42 counts, and with the demo's seven knocked out. Reported in reference sds; the Monte-Carlo floor of a mean is
1/√n of ours and 1/√(effective draws) of the reference's.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from record import ROOT, save

import fsimformer as fsf
from fsimformer.simulators.hare_lynx import hudson_bay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
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
        ours = joint.condition(data).sample(args.n)["posterior"]
        results[name] = {
            p: {
                "reference_mean": float(reference[p].mean()),
                "reference_sd": float(reference[p].std()),
                "mean": float(ours[p].mean()),
                "sd": float(ours[p].std()),
                "mean_error_sd": float((ours[p].mean() - reference[p].mean()) / reference[p].std()),
                "sd_ratio": float(ours[p].std() / reference[p].std()),
            }
            for p in map(str, ours.data_vars)
        }
        results[name + "_reference"] = {k: v for k, v in about.items() if isinstance(v, int | float | str)}
    card = joint.provenance
    print(save("hare_lynx", 0, {"n": args.n, "monte_carlo_floor_sd": args.n**-0.5, **results,
                                "steps": card["steps"], "train_cpu_seconds": card["cpu_seconds"]}))  # fmt: skip


if __name__ == "__main__":
    main()
