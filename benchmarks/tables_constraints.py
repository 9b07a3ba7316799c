"""The sections of benchmarks/README.md on draws under constraints."""

from __future__ import annotations

from typing import Any

from markdown import table


def constraints(records: list[dict[str, Any]]) -> list[str]:
    """The figures of `constraints.py`."""
    (r,) = records
    out = [
        f"Truncated Gaussian, exact denoiser: n = {r['n']} particles, {r['repeats']} runs; C2ST at n = {r['n_c2st']}. "
        "P/exact is the mean over runs of the estimated over the exact probability ± its standard error (the sampler's "
        "own variance error of .7 % moves the tail at 4.75 sd by 8 %).\n"
    ]
    head = [
        *("prior share", "method", "P/exact", "mean error (sd)", "floor", "covariance error", "floor", "effective"),
        *("RF C2ST", "floor", "violations", "CPU s"),
    ]
    thirds = ("mean_error_sd", "mean_error_floor", "covariance_error", "covariance_error_floor")
    rows = [
        [
            *(f"{x['share']:g}", x["method"], _ratio(x), *(f"{x[k]:.3f}" for k in thirds), f"{x['effective']:.0f}"),
            *(f"{x['c2st']:.3f}", f"{x['floor']:.3f}", x["violations"], f"{x['cpu_seconds']:.1f}"),
        ]
        for x in r["gaussian"]
    ]
    out += table(head, rows)
    out.append(
        f"The shipped `lotka_volterra` given its first reference data set, alpha below a quantile of its posterior: "
        f"against rejection from the same network, n = {r['n_network']}.\n"
    )
    head = ["share", "method", "RF C2ST", "floor", "log P", "by rejection", "effective", "distinct", "violations",
            "CPU s", "rejection, CPU s"]  # fmt: skip
    rows = [
        [
            f"{x['share']:g}", x["method"], f"{x['c2st']:.3f}", f"{x['floor']:.3f}", f"{x['log_prob']:.2f}",
            f"{x['log_prob_by_rejection']:.2f}", f"{x['effective']:.0f}", f"{x['distinct']:.0f}", x["violations"],
            f"{x['cpu_seconds']:.0f}", f"{x['cpu_seconds_by_rejection']:.0f}",
        ]
        for x in r["network"]
    ]  # fmt: skip
    return [*out, *table(head, rows)]


def _ratio(x: dict[str, Any]) -> str:
    if x["method"] == "guidance":
        return "–"
    return f"{x['probability_ratio']:.3f} ± {x['probability_ratio_error']:.3f}"


def hodgkin_huxley(records: list[dict[str, Any]]) -> list[str]:
    """The figures of `hodgkin_huxley.py`."""
    (r,) = records
    head = [
        *("neuron", "spikes", "energy, nC/cm²", "bound", "method", "predicted", "simulated again"),
        *("without the bound", "features apart (sd), with", "without", "CPU s"),
    ]
    rows = [
        [
            *(i + 1, f"{x['observed']['spikes']:.0f}", f"{x['energy']:.0f}", f"{x['bound']:.0f}", x["method"]),
            *(f"{100 * x[k]:.1f} %" for k in ("predicted", "held_satisfied", "free_satisfied")),
            *(f"{x['held_apart']:.3f}", f"{x['free_apart']:.3f}", f"{x['cpu_seconds']:.0f}"),
        ]
        for i, x in enumerate(r["rows"])
    ]
    share = sum(x["held_satisfied"] for x in r["rows"]) / len(r["rows"])
    return [
        f"{r['simulations']} simulations, {r['steps']} steps, {r['train_cpu_seconds']} CPU s of training; "
        f"n = {r['n']}. Simulated again, {100 * share:.1f} % of all draws satisfy the bound. Goal 97 %.\n",
        *table(head, rows),
    ]


def hare_lynx_interval(r: dict[str, Any]) -> list[str]:
    """The figures of `hare_lynx_interval.py`."""
    head = [
        *("known besides", "method", "P", "P of NUTS", "distinct", "RF C2ST", "without intervals", "n", "floor"),
        *("mean apart (sd), largest", "sd ratio", "violations", "CPU s"),
    ]
    rows = []
    for x in r["rows"]:
        apart = [abs(p["mean_error_sd"]) for p in x["parameters"].values()]
        ratios = [p["sd_ratio"] for p in x["parameters"].values()]
        rows.append([
            *(x["known"], x["method"] or "–", f"{x['probability']:.3f}"),
            *(f"{x['reference']:.3f} ± {x['reference_standard_error']:.3f}", x["distinct"]),
            *(f"{x['c2st_rf']:.3f}", f"{x['c2st_rf_free']:.3f}", x["n"], f"{x['floor']:.3f}", f"{max(apart):.2f}"),
            *(f"{min(ratios):.2f}–{max(ratios):.2f}", x["violations"], f"{x['cpu_seconds']:.0f}"),
        ])  # fmt: skip
    return [f"n = {r['n']} draws.\n", *table(head, rows)]
