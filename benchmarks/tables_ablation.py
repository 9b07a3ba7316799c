"""The sections of benchmarks/README.md on single choices: each beside the default, paired over observations."""

from __future__ import annotations

from typing import Any

import numpy as np
from markdown import table


def ablation(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `ablation.py`; the difference to the default is over the same observations and the same seed."""
    found = [(r["results"], r["seed"]) for r in records]
    default = {(r["task"], r["simulations"], seed): r for r, seed in found if r["variant"] == "default"}
    head = ["task", "simulations", "variant", "seed", "RF C2ST", "minus default", "se", "floor", "training, CPU s"]
    rows: list[list[object]] = []
    order = sorted(
        found,
        key=lambda x: (x[0]["task"], x[0]["simulations"], x[0]["variant"] != "default", x[0]["variant"], x[1]),
    )
    for r, seed in order:
        base = default.get((r["task"], r["simulations"], seed))
        difference: tuple[object, object] = ("", "")
        if base is not None and base is not r:
            d = np.subtract(r["c2st_rf"]["each"], base["c2st_rf"]["each"])
            difference = (f"{d.mean():+.3f}", f"{d.std(ddof=1) / len(d) ** 0.5:.3f}")
        rows.append([
            r["task"], r["simulations"], r["variant"], seed, r["c2st_rf"]["mean"], *difference, r["c2st_rf"]["floor"],
            f"{r['train_cpu_seconds']:.0f}",
        ])  # fmt: skip
    return [f"{max(r['steps'] for r, _ in found)} steps at most.\n", *table(head, rows)]


def ensemble(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `ensemble.py`; what an ensemble gains on its members' mean is over the same observations."""
    rows: list[list[object]] = []
    for record in records:
        r = record["results"]
        each = np.mean([m["c2st_rf"]["each"] for m in r["members"]], axis=0)
        cost, n = f"{r['train_cpu_seconds']:.0f}", len(r["members"])
        about = [r["task"], r["simulations"], record["seed"]]
        one = f"{r['train_cpu_seconds'] / n:.0f}"
        rows.append(
            [*about, f"one member, mean of {n}", float(each.mean()), "", "", r["mixture"]["c2st_rf"]["floor"], one]
        )
        for name, label in (("mixture", "draws of all"), ("mean_denoiser", "mean of their denoisers")):
            d = np.subtract(r[name]["c2st_rf"]["each"], each)
            gain = f"{d.mean():+.3f}", f"{d.std(ddof=1) / len(d) ** 0.5:.3f}"
            rows.append([*about, label, r[name]["c2st_rf"]["mean"], *gain, r[name]["c2st_rf"]["floor"], cost])
    head = ["task", "simulations", "seed", "drawn by", "RF C2ST", "minus members", "se", "floor", "training, CPU s"]
    return table(head, rows)
