"""The first section of benchmarks/README.md on accuracy: every goal beside the published figure and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markdown import table
from tables_sbibm import BUDGETS, KINDS, LOTKA_VOLTERRA, PUBLISHED, SUITE, over_seeds

_LEGEND = """RF C2ST at n = 1,000, 0.5 = indistinguishable; ours: mean ± sd over seeds (their number), of the suite's
configuration, Lotka–Volterra of its own. Published, one seed (arXiv 2404.09636): the Simformer with the moral graph
as its mask, the better of its two SDEs, chosen for each cell after the fact; and the best of what is beside it there,
NPE, NSPE and the dense Simformer. Whether a goal is met is read off the mean as printed. Seconds are CPU seconds of
training, one thread. The sections below have every variant, MLP C2ST, and where these come from.
"""


def scoreboard(cells: Sequence[dict[str, Any]], lotka_volterra: Sequence[dict[str, Any]]) -> list[str]:
    """A row for each task and budget, with or without a result.

    Args:
        cells: those of `sbibm.py`. lotka_volterra: those of `lotka_volterra_budgets.py`.
    """
    rows: list[list[object]] = []
    for kind, tasks in KINDS.items():
        for task in tasks:
            for k, budget in enumerate(BUDGETS):
                found = [
                    c for c in cells
                    if (c["task"], c["simulations"], c["variant"]) == (task, budget, SUITE[budget]) and kind in c
                ]  # fmt: skip
                scores = [c[kind]["c2st_rf"] for c in found]
                masked, beside, goal = _published(kind, task, k)
                rows.append([
                    kind, task, f"{budget:,}", goal, masked, beside,
                    *_ours([s["mean"] for s in scores], [s["floor"] for s in scores], goal),
                    _seconds([c["train_cpu_seconds"] for c in found]),
                ])  # fmt: skip
    for k, budget in enumerate(BUDGETS):
        found = [r for r in lotka_volterra if r["simulations"] == budget]
        masked, goal = (LOTKA_VOLTERRA[name][k] for name in ("Simformer, published", "goal"))
        rows.append([
            "posterior", "lotka_volterra", f"{budget:,}", goal, masked, "",
            *_ours([r["c2st_rf"] for r in found], [r["floor"] for r in found], goal),
            _seconds([r["train_cpu_seconds"] for r in found]),
        ])  # fmt: skip
    head = ["question", "task", "simulations", "goal", "published Simformer", "published, best beside it"]
    return [_LEGEND, *table([*head, "ours", "floor", "goal met", "training, CPU s"], rows)]


def _published(kind: str, task: str, k: int) -> tuple[float | str, float | str, float | str]:
    """At the k-th budget: the better masked Simformer, the best of the others, the goal; "" = none was printed."""
    values = {name: by_task[task] for name, by_task in PUBLISHED[kind].items() if task in by_task}
    goals = values.pop("goal", ())
    goal: float | str = goals[k] if len(goals) == len(BUDGETS) else goals[0] if goals and BUDGETS[k] == 10_000 else ""
    masked = [v[k] for name, v in values.items() if "undirected" in name]
    beside = [v[k] for name, v in values.items() if "undirected" not in name]
    return min(masked, default=""), min(beside, default=""), goal


def _ours(means: Sequence[float], floors: Sequence[float], goal: float | str) -> list[object]:
    if not means:
        return ["", "", ""]
    met = "" if isinstance(goal, str) else "yes" if round(float(np.mean(means)), 3) <= goal else "no"
    return [over_seeds(means), float(np.mean(floors)), met]


def _seconds(seconds: Sequence[float]) -> str:
    return f"{np.mean(seconds):.0f}" if seconds else ""
