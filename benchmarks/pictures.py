"""Pictures of results, for benchmarks/README.md: the resolution curve and the consistency of draws of functions.

python benchmarks/pictures.py
"""

from __future__ import annotations

import json

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from record import RESULTS, ROOT, no_arguments

DOCS = ROOT / "docs"
COLOURS = {"reference": "C0", "reference, exact": "C2", "reference_plain": "C9", "white": "C1", "white_plain": "C3"}
PANELS = {"mean_error_sd": ("mean error, posterior sd", 0.10, None), "variance_ratio": ("variance ratio", 1.05, 0.95),
          "covariance_error": ("covariance error", 0.15, None)}  # fmt: skip


def resolution() -> None:
    """Figures on the probe points against the number of points asked; grey: what exact draws score, dotted: goals."""
    page, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for path in sorted(RESULTS.glob("resolution_*.json")):
        r = json.loads(path.read_text())["results"]
        size = [row["points"] for row in r["rows"]]
        for ax, key in zip(axes, PANELS, strict=True):
            value = [row[key] for row in r["rows"]]
            error = [row[f"{key}_standard_error"] for row in r["rows"]]
            name = r["variant"]
            label = name.replace("_plain", ", no baseline")
            ax.errorbar(size, value, error, marker="o", markersize=3, color=COLOURS[name], label=label)
            ax.plot(size, [row[f"{key}_floor"] for row in r["rows"]], color="0.6")
    for ax, (title, upper, lower) in zip(axes, PANELS.values(), strict=True):
        for goal in (upper, lower):
            if goal is not None:
                ax.axhline(goal, color="0.3", linestyle=":")
        ax.set(xscale="log", xlabel="points asked", title=title)
    axes[0].legend(fontsize=8)
    page.savefig(DOCS / "resolution.png", dpi=110)


def consistency() -> None:
    """p-values of f(A) alone against within A ∪ B, sorted, against uniform ones; RF C2ST against the size of B."""
    r = json.loads((RESULTS / "functions_reference.json").read_text())["results"]
    p = np.sort([v for row in r["consistency"] for v in row["p_values"]])
    page, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.plot((np.arange(len(p)) + 0.5) / len(p), p, "o", markersize=3)
    left.plot([0, 1], [0, 1], color="0.6")
    left.set(xlabel="quantile of the uniform law", ylabel="p-value", title="f(A) alone against within A ∪ B")
    for kind in dict.fromkeys(row["kind"] for row in r["consistency"]):
        mine = [row for row in r["consistency"] if row["kind"] == kind]
        right.plot(
            [row["size"] for row in mine], [row["c2st_rf"] for row in mine], marker="o", markersize=3, label=kind
        )
    right.axhline(0.5, color="0.6")
    right.axhline(0.51, color="0.3", linestyle=":")
    right.set(xlabel="size of B", title="RF C2ST", ylim=(0.45, 0.55))
    right.legend(fontsize=8)
    page.savefig(DOCS / "consistency.png", dpi=110)


def distill() -> None:
    """C2ST against the reference, and variance error against exact draws, by evaluations; grey: the floor."""
    paths = sorted(RESULTS.glob("distill_*.json"))
    if not paths:
        return
    page, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for colour, path in enumerate(paths):
        r = json.loads(path.read_text())["results"]
        for name, samplers, line in (
            ("flow map", ("flow map, 1", "flow map, 2", "flow map, 4"), "-"),
            ("its teacher", ("ab2, 2", "ab2, 4", "ab2, 8", "fast"), ":"),
        ):
            mine = [row for row in r["rows"] if row["sampler"] in samplers]
            for ax, key in zip(axes, ("c2st_rf", "variance_error"), strict=True):
                size, value = ([row[k] for row in mine] for k in ("evaluations", key))
                label = f"{r['task']}, {name}"
                ax.plot(size, value, line, marker="o", markersize=3, color=f"C{colour}", label=label)
        axes[0].axhline(r["floor"], color="0.6")
    axes[0].legend(fontsize=8)
    ticks = [1, 2, 4, 8, 20]
    axes[0].set_title("RF C2ST")
    axes[1].set(yscale="log", title="variance error")
    for ax in axes:
        ax.set(xscale="log", xlabel="evaluations")
        ax.set_xticks(ticks, [str(n) for n in ticks])
        ax.minorticks_off()
    page.savefig(DOCS / "distill.png", dpi=110)


if __name__ == "__main__":
    no_arguments(__doc__)
    resolution()
    consistency()
    distill()
