"""The section of benchmarks/README.md on draws in few evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markdown import table


def distill(records: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracy against evaluations, one table a task."""
    out = []
    for r in records:
        keys = (
            "sampler",
            "evaluations",
            "c2st_rf",
            "standard_error",
            "c2st_rf_teacher",
            "variance_error",
            "cpu_seconds",
        )
        head = ["sampler", "evaluations", "RF C2ST", "se", "RF C2ST, teacher", "variance error", "CPU s, 1,000 draws"]
        out += [
            f"`{r['task']}`, {r['simulations']} simulations, {r['n_observations']} observations, n = {r['n']}; floors "
            f"{r['floor']:.3f} and {r['floor_teacher']:.3f}, of the variance error {r['variance_error_floor']:.3f} (of "
            f"samplers with noise of their own; the others share that of `exact`). Trained for "
            f"{r['train_cpu_seconds']:.0f} CPU s, distilled in {r['steps']} steps, "
            f"{r['distill_cpu_seconds']:.0f} CPU s.\n",
            *table(head, [[row[k] for k in keys] for row in r["rows"]]),
        ]
    return out
