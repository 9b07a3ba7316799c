"""`hare_lynx` given Hudson's Bay's counts with seven knocked out, and intervals known besides, against long NUTS.

One of the knocked-out counts is known to lie in an interval, or a rate is, or both. The reference is the NUTS draws of
the same posterior without them (references/hare_lynx.py), of which those are kept that satisfy the interval: of each a
count is drawn about its own path. So P, the share that is kept, is known as well. Ours are drawn by rejection and by
SMC. Means and standard deviations in the reference's sds; RF C2ST of all eight parameters against as many reference
draws, beside it what the same network has without intervals at that n: what is beyond, the constraint has added.

    python benchmarks/hare_lynx_interval.py
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from hare_lynx import compare
from record import ROOT, save

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.simulators import HareLynx, hudson_bay

NAMES = ("alpha", "beta", "gamma", "delta", "hare_initial", "lynx_initial", "hare_noise", "lynx_noise")
YEAR, COUNT, RATE = 5.0, (25.0, 60.0), (0.6, 0.75)  # hare of 1905, where 20.6 were counted; gamma
KNOWN: dict[str, tuple[fsf.Between, ...]] = {
    "nothing": (),
    "hare of 1905 in [25, 60]": (fsf.Between("hare", *COUNT, at=[YEAR]),),
    "gamma in [0.6, 0.75]": (fsf.Between("gamma", *RATE),),
    "both": (fsf.Between("hare", *COUNT, at=[YEAR]), fsf.Between("gamma", *RATE)),
}


def kept(reference: dict[str, np.ndarray], what: str, seed: int) -> np.ndarray:
    """Which NUTS draws satisfy it, a count drawn about the path of each."""
    simulator = HareLynx()
    clean = simulator.clean({k: torch.from_numpy(reference[k]).double() for k in NAMES})["hare"]
    place = int(np.argmin(np.abs(simulator.grid["time"].numpy() - YEAR)))
    noise = reference["hare_noise"] * np.random.default_rng(seed).standard_normal(len(clean))
    count, rate = clean[:, place].numpy() * np.exp(noise), reference["gamma"]
    drawn, out = {"hare": count, "gamma": rate}, np.ones(len(rate), bool)
    for b in KNOWN[what]:
        out &= (drawn[str(b.variable)] > b.lower) & (drawn[str(b.variable)] < b.upper)
    return out


def flat(draws: xr.DataTree) -> np.ndarray:
    return np.stack([draws["posterior"][k].to_numpy().ravel() for k in NAMES], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "benchmarks" / "references"
    data, about = hudson_bay(), json.loads((folder / "hare_lynx_holes.json").read_text())
    for species, years in about["holes"].items():
        data[species] = data[species].where(~data.time.isin(np.array(years) - 1900.0))
    loaded = np.load(folder / "hare_lynx_holes.npz")
    posterior, reference = fsf.load("hare_lynx").condition(data), {k: loaded[k] for k in NAMES}
    rows: list[dict[str, Any]] = []
    free, whole = np.zeros((0, 8)), np.stack([reference[k] for k in NAMES], 1)
    for what, constraints in KNOWN.items():
        mine = kept(reference, what, args.seed)
        held = {k: v[mine] for k, v in reference.items()}
        theirs = np.stack([held[k] for k in NAMES], 1)
        for method in ("rejection", "smc") if constraints else (None,):
            start = time.process_time()
            asked = posterior.constrain(*constraints, method=method) if constraints else posterior
            draws = asked.sample(args.n, at={"hare": [YEAR]}, seed=args.seed)
            seconds, stats = time.process_time() - start, draws["sample_stats"]
            n, own = min(args.n, len(theirs) // 2), flat(draws)
            free = free if constraints else own
            got = {
                **{k: own[:, i] for i, k in enumerate(NAMES)},
                "hare": draws["predictions"]["hare"].to_numpy(),
            }
            broken = [
                ~((b.lower <= got[b.variable].ravel()) & (got[b.variable].ravel() <= b.upper)) for b in constraints
            ]
            log_p = float(stats["constraint_log_prob"]) if constraints else 0.0
            rows.append({
                "known": what, "method": method, "probability": float(np.exp(log_p)), "reference": float(mine.mean()),
                "reference_standard_error": float(np.sqrt(mine.mean() * (1 - mine.mean()) / len(mine))),
                "distinct": len(np.unique(own, axis=0)),
                "violations": int(np.sum(broken)),
                "c2st_rf": c2st(theirs[:n], own[:n]), "c2st_rf_free": c2st(whole[:n], free[:n]), "n": n,
                "floor": c2st(theirs[:n], theirs[n : 2 * n]),
                "cpu_seconds": seconds, "parameters": compare(draws, held),
            })  # fmt: skip
            print({k: v for k, v in rows[-1].items() if k != "parameters"}, flush=True)
    print(save("hare_lynx_interval", args.seed, {"n": args.n, "rows": rows, "monte_carlo_floor": "floor"}))


if __name__ == "__main__":
    main()
