"""The section of benchmarks/README.md on the field's tasks: ours beside the published table, and the variants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from markdown import table

BUDGETS = (1_000, 10_000, 100_000)
SUITE = {1_000: "default", 10_000: "default", 100_000: "patient"}
"""Which variant of `sbibm.py` is the suite's configuration: what is alike but for the length of training."""
KINDS = {
    "posterior": ("gaussian_linear", "gaussian_mixture", "two_moons", "slcp", "bernoulli_glm"),
    "conditionals": ("tree", "hmm", "two_moons", "slcp"),
}
SHARPNESS = (0.0, 0.01, 0.03, 0.1, 0.3, float("inf"))
"""Bounds of the classes of `sharpness`."""
# RF C2ST as printed, one seed, at 1k / 10k / 100k simulations (arXiv 2404.09636 and its repository)
PUBLISHED: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "posterior": {
        "NPE (NSF)": {
            "gaussian_linear": (0.770, 0.600, 0.533), "gaussian_mixture": (0.691, 0.557, 0.519),
            "two_moons": (0.761, 0.576, 0.530), "slcp": (0.972, 0.872, 0.745),
        },
        "NSPE": {
            "gaussian_linear": (0.705, 0.572, 0.507), "gaussian_mixture": (0.613, 0.528, 0.502),
            "two_moons": (0.570, 0.513, 0.502), "slcp": (0.988, 0.831, 0.630),
        },
        "Simformer, dense": {
            "gaussian_linear": (0.732, 0.635, 0.505), "gaussian_mixture": (0.574, 0.515, 0.506),
            "two_moons": (0.611, 0.525, 0.506), "slcp": (0.924, 0.784, 0.703),
        },
        "Simformer, undirected, VESDE": {
            "gaussian_linear": (0.540, 0.507, 0.503), "gaussian_mixture": (0.572, 0.515, 0.504),
            "two_moons": (0.611, 0.525, 0.505), "slcp": (0.831, 0.646, 0.569),
        },
        "Simformer, undirected, VPSDE": {
            "gaussian_linear": (0.538, 0.505, 0.501), "gaussian_mixture": (0.547, 0.529, 0.503),
            "two_moons": (0.804, 0.648, 0.565), "slcp": (0.886, 0.638, 0.554),
        },
        "goal": {
            "gaussian_linear": (0.53, 0.503, 0.50), "gaussian_mixture": (0.54, 0.51, 0.50),
            "two_moons": (0.56, 0.51, 0.50), "slcp": (0.80, 0.60, 0.53),
        },
    },
    "conditionals": {
        "Simformer, undirected, better SDE": {
            "tree": (0.582, 0.536, 0.527), "hmm": (0.581, 0.534, 0.524), "two_moons": (0.601, 0.526, 0.510),
            "slcp": (0.729, 0.598, 0.555),
        },
        "goal": {"tree": (0.52,), "hmm": (0.52,), "two_moons": (0.515,), "slcp": (0.57,)},
    },
}  # fmt: skip

LOTKA_VOLTERRA = {"Simformer, published": (0.911, 0.645, 0.568), "goal": (0.80, 0.57, 0.52)}

LEGEND = """Rows without a time are as published, one seed (arXiv 2404.09636 and its repository): NPE with a neural
spline flow, NSPE (score matching of the posterior alone), and the Simformer, dense or with the moral graph as its mask,
with either of its SDEs, for conditionals the better one of the two; `goal` is what this suite set itself, below the
floor in places. Ours, with the moral graph as its mask but for `dense`: mean ± sd over seeds, and how many of them; MLP
was scored on few seeds, so its rows are not those of RF averaged anew. Seconds are means over the seeds in the row.
`ours` is the suite's configuration, all its seeds: `default`, and `patient` at 100,000, which is the same with at most
30,000 steps and a patience of 15 validations instead of 5. The rows below it are its parts and what else was tried:
`large` is `patient` with width 96 instead of 64, `long` has as many steps, a patience of 8 and four times the held-out
rows, `cosine` is an earlier one of 5,000 steps with a falling rate. `lowest loss`: networks of the lowest held-out
loss, as all were before `last_weights.py` showed that the end of a run may be better. What a row was drawn with, if not
with the third-order SDE of today, is said; so rows may differ in seeds, in sampler and in the commit that trained them
(the JSON has it). Rows scored before commit fab7208 drew all pairs with one noise: the part that all had in common
moves a mean by some .005 from seed to seed.
"""

_DRAWN_BY = {
    ("sde_3m", 32): "", ("sde", 32): ", second-order SDE", ("sde", None): ", 80 steps of the second-order SDE",
}  # fmt: skip
"""Sampler and evaluations of a cell -> what its label says; older cells name the preset, not what it was then."""


_ALL = "all of the suite's configuration"


def label(r: dict[str, Any]) -> str:
    """The variant of a cell, and what is not as today: that it kept the lowest loss unasked, what it was drawn with."""
    drawn = _DRAWN_BY.get((r.get("sampler"), r.get("evaluations")), ", ODE draws")
    return f"{r['variant']}{'' if 'kept' in r else ', lowest loss'}{drawn}"


def over_seeds(values: Sequence[float]) -> str:
    """Mean ± spread (sd) over seeds, and their number; one seed has no spread."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def published(kind: str, task: str) -> list[list[object]]:
    """Rows of the published table; the goal of the conditionals is stated for 10k alone."""
    rows: list[list[object]] = []
    for method, values in PUBLISHED[kind].items():
        if task in values:
            v = values[task]
            cells = ["", f"{v[0]:.3f}", ""] if len(v) == 1 else [f"{x:.3f}" for x in v]
            rows.append([method, "RF", *cells, "", ""])
    return rows


def sbibm(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `sbibm.py`."""
    cells: dict[tuple[str, str], dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        cells[r["task"], label(r)][r["simulations"]].append(r)
        if r["variant"] == SUITE[r["simulations"]]:
            cells[r["task"], _ALL][r["simulations"]].append(r)
    variants = [_ALL, *sorted({v for _, v in cells} - {_ALL}, key=lambda v: (not v.startswith("default"), v))]
    out = [LEGEND]
    for kind, tasks in KINDS.items():
        what = "ten observations of sbibm" if kind == "posterior" else "100 random conditionals"
        out.append(f"### {kind.capitalize()}: C2ST at n = 1,000, mean over {what}, ± sd over seeds (their number)\n")
        for task in tasks:
            rows: list[list[object]] = published(kind, task)
            for variant in variants:
                by_budget = cells.get((task, variant), {})
                for classifier in ("rf", "mlp"):
                    key = f"c2st_{classifier}"
                    found = {b: [r[kind][key] for r in by_budget.get(b, []) if key in r.get(kind, {})] for b in BUDGETS}
                    if not any(found.values()):
                        continue
                    floor = [x["floor"] for xs in found.values() for x in xs]
                    seconds = [
                        [r["train_cpu_seconds"] for r in by_budget.get(b, []) if key in r.get(kind, {})]
                        for b in BUDGETS
                    ]
                    cost = " / ".join(f"{np.mean(s):.0f}" if s else "–" for s in seconds)
                    values = [over_seeds([x["mean"] for x in found[b]]) for b in BUDGETS]
                    named = "ours" if variant == _ALL else f"ours, {variant}"
                    rows.append([named, classifier.upper(), *values, f"{np.mean(floor):.3f}", cost])
            if len(rows) > len(published(kind, task)):
                head = ["method", "C2ST", "1k", "10k", "100k", "floor", "training, CPU s"]
                out += [f"`{task}`\n", *table(head, rows)]
    return out


def dependency(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `dependency.py`."""
    keys = ("model", "simulations", "dependency", "posterior_loss", "standard_error", "c2st_rf", "c2st_standard_error",
            "floor", "steps", "train_cpu_seconds")  # fmt: skip
    head = [
        "model",
        "simulations",
        "mask",
        "posterior loss (1 = nothing learned)",
        "se",
        "RF C2ST",
        "se",
        "floor",
        "steps",
        "training, CPU s",
    ]
    rows = sorted(records, key=lambda r: (r["model"], r["simulations"], r["dependency"]))
    return table(head, [[r.get(k, "") for k in keys] for r in rows])


def lotka_volterra_budgets(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `lotka_volterra_budgets.py`, beside the published ones and the goal."""
    rows: list[list[object]] = [
        [f"{name}, {budget}", "", f"{value:.3f}", *[""] * 6]
        for name, values in LOTKA_VOLTERRA.items()
        for budget, value in zip(BUDGETS, values, strict=True)
    ]
    for record in sorted(records, key=lambda record: (record["results"]["simulations"], record["name"])):
        r = record["results"]
        error = float(np.abs([x["mean_error_sd"] for x in r["data_sets"]]).mean())
        ratio = float(np.mean([x["sd_ratio"] for x in r["data_sets"]]))
        found = f"{r['c2st_rf']:.3f} ± {r['c2st_standard_error']:.3f}"
        seen = [f"{r['posterior_loss']:.3f}", f"{error:.2f}", f"{ratio:.2f}", r["best_step"], r["train_cpu_seconds"]]
        longer = "" if r.get("variant", "default") == "default" else f", {r['variant']}"
        rows.append([f"ours, {r['simulations']}{longer}", record["seed"], found, f"{r['floor']:.3f}", *seen])
    head = ["method, simulations", "seed", "RF C2ST", "floor", "posterior loss", "error of a mean, sd", "sd ratio"]
    return [
        "± standard error over ten data sets; errors and ratios are means over data sets and parameters; 1 = nothing "
        "learned (loss). Published: noise interpolated, so that its own training data allow no less than .57.\n",
        *table([*head, "steps kept", "training, CPU s"], rows),
    ]


def sharpness(r: dict[str, Any], cells: list[dict[str, Any]]) -> list[str]:
    """Mean C2ST of conditionals by how sharp they are (`sharpness.py`), over the seeds of a configuration.

    Args:
        r: {"tasks": {task: sharpness, one a conditional}}. cells: those of `sbibm.py`, of all tasks.
    """
    spans = list(pairwise(SHARPNESS))
    rows: list[list[object]] = []
    for task, sharp in r["tasks"].items():
        among = [(np.array(sharp) >= lower) & (np.array(sharp) < upper) for lower, upper in spans]
        rows.append([task, "", "how many", "", *(int(which.sum()) or "" for which in among)])
        found: dict[tuple[int, str], list[list[float]]] = defaultdict(list)
        for c in cells:
            if c["task"] == task and "conditionals" in c:
                found[c["simulations"], label(c)].append(c["conditionals"]["c2st_rf"]["each"])
        for (simulations, named), seeds in sorted(found.items()):
            each = np.mean(seeds, axis=0)
            means = [f"{each[which].mean():.3f}" if which.any() else "" for which in among]
            rows.append([task, simulations, named, len(seeds), *means])
    heads = [f"{lower:g}–{upper:g}" if upper < float("inf") else f"from {lower:g}" for lower, upper in spans]
    return table(["task", "simulations", "variant", "seeds", *heads], rows)


def last_weights(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `last_weights.py`; below 0 the end is better."""
    rows: list[list[object]] = []
    for record in sorted(records, key=lambda record: record["name"]):
        r = record["results"]
        d, se = r["end_minus_lowest"], r["standard_error"]
        differences = [f"{d[k]:+.4f} ± {se[k]:.4f}" for k in ("ema", "model")]
        steps = f"{r['lowest_step']} / {r['end_step']}"
        about = [r["task"], r["simulations"], r["variant"], record["seed"], steps]
        rows.append([*about, f"{r['lowest']:.4f}", *differences, r["kept"]])
    columns = (
        "task, simulations, variant, seed, steps: lowest / end, loss of the lowest, end minus lowest, "
        "end without averaging minus lowest, kept"
    )
    return [
        f"Fresh simulations: {records[0]['results']['n']:,}; ± standard error over {records[0]['results']['n_blocks']} "
        "blocks of them.\n",
        *table(columns.split(", "), rows),
    ]
