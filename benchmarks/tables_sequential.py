"""The section of benchmarks/README.md on sequential training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markdown import table
from tables_sbibm import SUITE, over_seeds

NAMES = {
    "fsimformer": "ours", "fsimformer_dense": "ours, dense", "tsnpe": "sbi, TSNPE (NSF)", "npe_c": "sbi, NPE-C (NSF)",
}  # fmt: skip


def sequential(records: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> list[str]:
    """C2ST against simulations, and CPU seconds, mean over the observations.

    Args:
        cells: those of `sbibm.py`: what one network for all observations has on the same ones.
    """
    out = []
    for task in sorted({r["task"] for r in records}, reverse=True):
        mine = [r for r in records if r["task"] == task]
        every = [x for r in mine for x in r["rows"]]
        totals = sorted({x["total"] for x in every})
        rows: list[list[object]] = []
        for method in (m for m in NAMES if any(x["method"] == m for x in every)):
            by_total = [[x for x in every if (x["method"], x["total"]) == (method, t)] for t in totals]
            c2st = [f"{np.mean([x['c2st_rf'] for x in xs]):.3f}" if xs else "" for xs in by_total]
            seconds = [f"{np.mean([x['cpu_seconds'] for x in xs]):.0f}" if xs else "" for xs in by_total]
            n = max(len(xs) for xs in by_total)
            rows += [[NAMES[method], n, "RF C2ST", *c2st], ["", "", "CPU s", *seconds]]
            if method.startswith("fsimformer"):
                share = [f"{np.mean([x['share'] for x in xs]):.3f}" if xs else "" for xs in by_total]
                rows.append(["", "", "prior inside", *share])
        floor = np.mean([f for r in mine for f in r["floor"].values()])
        head = ["method", "runs", "", *(f"{t:,} simulations" for t in totals)]
        about = (
            f"RF C2ST at n = {mine[0]['n']:,}, floor {floor:.3f}; CPU seconds since the start; a run is an observation"
        )
        seen = sorted({x["observation"] for x in every if x["method"].startswith("fsimformer")})
        out += [f"`{task}`: {about}\n", *table(head, rows), *amortised(task, seen, cells)]
    return out


def amortised(task: str, observations: Sequence[int], cells: Sequence[dict[str, Any]]) -> list[str]:
    """What networks of `sbibm.py`, trained once for every observation, have on these."""
    told = []
    for budget, variant in SUITE.items():
        found = [c for c in cells if (c["task"], c["simulations"], c["variant"]) == (task, budget, variant)]
        if found:
            scores = [np.mean([c["posterior"]["c2st_rf"]["each"][i - 1] for i in observations]) for c in found]
            seconds = np.mean([c["train_cpu_seconds"] for c in found])
            told.append(f"{budget:,} simulations {over_seeds(scores)}, {seconds:.0f} CPU s")
    which = ", ".join(map(str, observations))
    return [f"One network for all observations (`sbibm.py`), on number {which}: {'; '.join(told)}.\n"] if told else []
