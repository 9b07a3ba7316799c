"""The sections of benchmarks/README.md on functions: figures against the size of the query; what makes a process."""

from __future__ import annotations

from typing import Any

from markdown import table

_FIGURES = {
    "mean_error_sd": "mean error, sd",
    "variance_ratio": "variance ratio",
    "covariance_error": "covariance error",
}


def resolution(records: list[dict[str, Any]]) -> list[str]:
    """All variants of `resolution.py`; goals: .10, .95-1.05, .15 at every size."""
    out = []
    for r in records:
        out.append(
            f"{_training(r)}; n = {r['n']} draws of {r['n_sets']} data sets, mean ± standard error (Monte-Carlo "
            "floor). Goals: .10, .95-1.05, .15.\n"
        )
        rows = [[row["points"], *(_figure(row, k) for k in _FIGURES), f"{row['cpu_seconds']:.1f}"] for row in r["rows"]]
        out += table(["points", *_FIGURES.values(), "CPU s"], rows)
    return out


def correlated_noise(records: list[dict[str, Any]]) -> list[str]:
    """White and Matérn noise, as `correlated_noise.py` trains them."""
    return resolution(records)


def functions(records: list[dict[str, Any]]) -> list[str]:
    """All variants of `functions.py`."""
    out = []
    for r in records:
        out.append(f"{_training(r)}; n = {r['n']}, {r['n_sets']} data sets.\n")
        p = [value for row in r["consistency"] for value in row["p_values"]]
        small = sum(value < 0.05 for value in p)
        near, chain = r["near"], r["chain"]
        rows: list[tuple[str, str, str]] = [
            (
                "f(A) alone against within A ∪ B: p-values below .05; p-value of their being uniform (KS)",
                f"{small} of {len(p)}; {r['p_uniform']:.2f}",
                "uniform",
            )
            if "p_uniform" in r
            else (  # an older record, whose tests were not drawn anew
                "f(A) alone against within A ∪ B: p-values below .05 (not independent: they share f(A) alone)",
                f"{small} of {len(p)}",
                "",
            ),
            (
                "the same, RF C2ST, largest over kinds and sizes of B",
                f"{max(row['c2st_rf'] for row in r['consistency'] if row['size']):.3f}",
                f"{r['consistency'][0]['c2st_rf']:.3f} (B empty); goal .51",
            ),
            ("asked later against asked at once, largest difference", f"{r['extend']:.1e}", "goal 1e-4"),
            (
                "variance of f(t + 1e-3) − f(t) by the exact: quantiles .05, .5, .95",
                f"{near['q05']:.2f}, {near['median']:.2f}, {near['q95']:.2f}",
                "goal .5–2 at 32 knots",
            ),
            (
                "f(B), then f(A) given f(B), against f(A): RF C2ST",
                f"{chain['c2st_rf']:.3f}",
                f"{chain['floor']:.3f}; goal .53",
            ),
        ]
        for m in r["marginals"]:
            found = f"{m['c2st_rf']:.3f} ± {m['standard_error']:.3f}"
            rows.append(
                (
                    f"{m['points']} random points against the exact posterior: RF C2ST",
                    found,
                    f"{m['floor']:.3f}; goal .53",
                )
            )
        few, many = r["cost"]
        ratio = many["cpu_seconds"] / few["cpu_seconds"]
        rows.append((
            f"{r['n']} draws at 1,000 and at 10,000 points",
            f"{few['cpu_seconds']:.0f}, {many['cpu_seconds']:.0f} CPU s ({ratio:.1f}×), {many['peak_gib']:.1f} GiB",
            "goal 12×, 4 GB",
        ))  # fmt: skip
        out += table(["figure", "measured", "floor; goal"], rows)
    return out


def knots(records: list[dict[str, Any]]) -> list[str]:
    """All rows of `knots.py`; goal of increments: .5-2 at 32 knots, .8-1.25 at 64."""
    out = []
    for r in records:
        rows = [
            [row["kernel"], row["lengthscale"], row["knots"], f"{row['missed']:.4f}", f"{row['covariance_error']:.4f}",
             f"{row['correlation_error']:.4f}", f"{row['increment_q05']:.2f}–{row['increment_q95']:.2f}"]
            for row in r["rows"]
        ]  # fmt: skip
        head = ["kernel", "lengthscale", "knots", "spline misses, sd", "covariance error", "correlation error, close"]
        out += table([*head, "increments over 1e-3, variance by exact (.05–.95)"], rows)
    return out


def space(records: list[dict[str, Any]]) -> list[str]:
    """Both tasks of `space.py`."""
    keys = ("mean_error_sd", "variance_ratio", "covered")
    rows = []
    for r in records:
        for i, row in enumerate(r["rows"], 1):
            found = [f"{row[k]:.3f} ({row[k + '_floor']:.3f})" for k in keys]
            rows.append(
                [r["task"], i, *found, f"{row['cpu_seconds']:.0f}", r["steps"], f"{r['train_cpu_seconds']:.0f}"]
            )
    head = ["task", "data set", "mean error, sd", "variance ratio", "truth inside the central 90 %", "CPU s, draws"]
    return ["In brackets the floor.\n", *table([*head, "steps", "training, CPU s"], rows)]


def functional_linear(records: list[dict[str, Any]]) -> list[str]:
    """Both budgets of `functional_linear.py`."""
    keys = ("sliced_wasserstein", "mean_error_sd", "variance_ratio")
    rows, notes = [], {r["peer"] for r in records}
    for r in sorted(records, key=lambda r: r["simulations"]):
        for i, row in enumerate(r["rows"], 1):
            found = [f"{row[k]:.4f} ({row[k + '_floor']:.4f})" for k in keys]
            rest = (f"{row['sliced_wasserstein_prior']:.3f}", f"{row['cpu_seconds']:.0f}")
            rows.append([r["simulations"], i, *found, *rest, r["steps"], f"{r['train_cpu_seconds']:.0f}"])
    head = ["simulations", "data set", "sliced Wasserstein", "mean error, sd", "variance ratio", "the prior's", "CPU s"]
    return [
        f"n = {records[0]['n']} draws at {records[0]['n_points']} points; in brackets the floor, exact draws in place "
        f"of the network's; \"the prior's\": sliced Wasserstein of draws of the prior. {' '.join(sorted(notes))}\n",
        *table([*head, "steps", "training, CPU s"], rows),
    ]


def predator_prey(records: list[dict[str, Any]]) -> list[str]:
    """The tasks of `predator_prey.py`."""
    out = []
    for r in records:
        error = max(row["largest"] for row in r["estimator"])
        out.append(
            f"{'Told the linear baseline: ' if r.get('baseline') else ''}{r['simulations']} simulations, {r['steps']} "
            f"steps, {r['train_cpu_seconds']:.0f} CPU s of training; n = {r['n']} data sets a task, blocks of "
            f"{r['block']}, {r['n_ode']} steps of the solver. The estimator on a Gaussian process of known density: "
            f"off by {error:.4f} nats a target at most.\n"
        )
        rows = []
        for row in r["rows"]:
            found = f"{row['log_density']:.2f} ± {row['standard_error']:.2f}"
            rest = (f"{row['targets']:.0f}", f"{row['cpu_seconds']:.0f}")
            rows.append([row["task"], found, f"{row['published']:.2f}", f"{row['attention']:.2f}", *rest])
        head = ["task", "log density a target", "best published", "best attention model", "targets", "CPU s"]
        out += table(head, rows)
    return out


def _training(r: dict[str, Any]) -> str:
    return f"`{r['variant']}`: {r['steps']} steps, {r['train_cpu_seconds']:.0f} CPU s of training"


def _figure(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f} ± {row[f'{key}_standard_error']:.3f} ({row[f'{key}_floor']:.3f})"
