"""Posterior of `influenza` given the boarding-school outbreak of 1978, against the reference by two other methods.

Boys in bed on fourteen days; who has recovered was never observed. Means and sds in reference sds, whose Monte-Carlo
floor is 1/√n of ours and of the reference's 4,000 draws; C2ST by random forests on the whitened parameters, and its
floor: halves of the reference told apart, the mean of ten splits. Then as many draws after `refine`, chosen from five
times as many: of 4,000 from 4,000 (--proposals 4000) many are repeats, by which a forest knows them.
"""

from __future__ import annotations

import argparse
import json
import warnings

import numpy as np
import torch
import xarray as xr
from hare_lynx import compare
from record import ROOT, budget, save

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.simulators import Influenza, boarding_school


def whitened(joint: fsf.Joint, draws: dict[str, np.ndarray]) -> np.ndarray:
    """(n, 4) parameters in the order of the schema, N(0, 1) under the prior."""
    names = [v.name for v in joint.schema.variables if v.role == "parameter"]
    columns = [joint.model.whitening[k].forward(torch.from_numpy(draws[k].astype(np.float64).ravel())) for k in names]
    return torch.stack(columns, 1).numpy()


def flat(draws: xr.DataTree) -> dict[str, np.ndarray]:
    return {str(k): x.to_numpy().ravel() for k, x in draws["posterior"].data_vars.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--proposals", type=int, default=20_000, help="draws that refine weighs; it keeps n of them")
    parser.add_argument("--model", default="influenza")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, data, folder = fsf.load(args.model), boarding_school(), ROOT / "benchmarks" / "references"
    reference, about = np.load(folder / "influenza.npz"), json.loads((folder / "influenza.json").read_text())
    posterior = joint.condition(data)
    ours = posterior.sample(args.n, at={})
    proposals = posterior.sample(args.proposals, at={}, quality="exact", seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fsf.ObservationWarning)  # Pareto k is in the result
        refined = posterior.refine(proposals, fsf.log_likelihood(Influenza(), data), args.n)
        mode = posterior.mode()
    held = whitened(joint, dict(reference))
    half, z_refined = len(held) // 2, whitened(joint, flat(refined))
    splits = [np.random.default_rng(seed).permutation(held) for seed in range(10)]
    stats = refined["sample_stats"]
    results = {
        "n": args.n, "proposals": args.proposals, "n_distinct": len(np.unique(z_refined, axis=0)),
        "monte_carlo_floor_sd": (1 / args.n + 1 / len(held)) ** 0.5,
        "c2st_rf": c2st(held, whitened(joint, flat(ours)), seed=0),
        "c2st_rf_refined": c2st(held, z_refined, seed=0),
        "c2st_rf_floor": float(np.mean([c2st(x[:half], x[half:], seed=0) for x in splits])), "n_floor": half,
        "parameters": compare(ours, reference),
        "refined": {"parameters": compare(refined, reference), "ess": float(stats["ess"]),
                    "pareto_k": float(stats["pareto_k"])},
        "mode": {str(k): float(v) for k, v in mode.data_vars.items()},
        "reference": {"ess": about["metropolis"]["ess"], "agreement": about["agreement"][0]["table"]},
        **budget(joint.provenance),
    }  # fmt: skip
    print(save("influenza", 0, results))


if __name__ == "__main__":
    main()
