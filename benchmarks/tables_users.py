"""The sections of benchmarks/README.md on hostile input, odd observations, start-up, the explorer and outbreaks."""

from __future__ import annotations

from typing import Any

from markdown import table


def hostile_inputs(r: dict[str, Any]) -> list[str]:
    """How inputs ended, whatever was done to them."""
    defects = {k: v for k, v in r["categories"].items() if any(how.startswith("defect") for how in v)}
    return [
        f"{r['n']:,} inputs of {len(r['categories'])} categories, {r['cpu_seconds']:.0f} CPU s. Categories with a "
        f"defect: {', '.join(defects) or 'none'}.\n",
        *table(["outcome", "inputs"], [(how, f"{n:,}") for how, n in r["outcomes"].items()]),
    ]


def surprise(r: dict[str, Any]) -> list[str]:
    """Share of data sets with a small p-value: false alarms of simulated ones, power against all others."""
    rows = []
    for model in (m for m in ("sird", "lotka_volterra", "hare_lynx") if m in r):
        for case, found in r[model].items():
            if isinstance(found, dict) and "data_sets" in found:
                rows.append((model, case, *(f"{found[f'{how} {p}']:.2f}" for p in (0.05, 0.01) for how in _HOW)))
    head = ["model", "data sets", *(f"p ≤ {p}, {how}" for p in (".05", ".01") for how in _HOW)]
    about = f"{r['m']} data sets a row, n = {r['n']} simulations, standard error at most {0.5 / r['m'] ** 0.5:.2f}."
    return [f'{about} "before": residuals over the spread of simulations.\n', *table(head, rows)]


_HOW = ("now", "before")


def laptop(r: dict[str, Any]) -> list[str]:
    """CPU seconds from an observation to its draws."""
    rows = []
    for x in r["rows"]:
        goal = "" if x["goal"] is None else f"{x['goal']:g}"
        seconds = (f"{x[k]:.2f}" for k in ("cpu_seconds", "wall_seconds", "two_draws_cpu_seconds"))
        rows.append((x["what"], {"sde": "32 evaluations", "few": "4, distilled"}[x["quality"]], *seconds, goal))
    return table(["what", "by", "CPU s", "wall s", "CPU s, two draws", "goal, CPU s"], rows)


def start_up(r: dict[str, Any]) -> list[str]:
    """CPU seconds of commands in processes of their own."""
    rows = [(x["what"], f"{x['cpu_seconds']:.2f}") for x in r["rows"]]
    rows.append(("the last without its two draws (goal: 3)", f"{r['infer_start_up_cpu_seconds']:.2f}"))
    return table(["command", "CPU s"], rows)


def explorer(r: dict[str, Any]) -> list[str]:
    """From a moved reading to bands on the page; goal: 200 ms at the 95th percentile."""
    rows = [
        (model, x["readings"], x["moves"], f"{1e3 * x['seconds_p50']:.0f}", f"{1e3 * x['seconds_p95']:.0f}",
         x["points_of_a_function"]["median"])
        for model, x in r.items()
        if isinstance(x, dict) and "seconds_p50" in x
    ]  # fmt: skip
    return table(["model", "readings", "moves", "median, ms", "95th percentile, ms", "points of a function"], rows)


def influenza(r: dict[str, Any]) -> list[str]:
    """The network's posterior, and the refined one, against the reference."""
    rows = [
        ("network", f"{r['c2st_rf']:.3f}", ""),
        ("refined", f"{r['c2st_rf_refined']:.3f}", f"{r['refined']['ess']:.0f}, {r['refined']['pareto_k']:.2f}"),
        ("floor: halves of the reference", f"{r['c2st_rf_floor']:.3f}", ""),
    ]
    about = (
        f"n = {r['n']}, floor: {r['n_floor']}; refined draws are chosen from {r['proposals']}, {r['n_distinct']} of "
        "them are distinct.\n"
    )
    return [about, *table(["draws", "RF C2ST", "ESS, Pareto k"], rows)]


def sbi_gaps(r: dict[str, Any]) -> list[str]:
    """What is asked by what simulations lacked."""
    rows = [
        [f"{c['share_missing']:.0%}", x["asked"], f"{x['sd_ratio']:.3f}", f"{x['mean_error_sd']:.3f}"]
        for c in r["cases"]
        for x in c["asked"]
    ]
    told = [
        f"{c['share_missing']:.0%} missing {c['log_prob_error_mean']:+.2f} ± {c['log_prob_error_sd']:.2f} nats, "
        f"trained for {c['train_cpu_seconds']:.0f} CPU s"
        for c in r["cases"]
    ]
    about = f"{r['simulations']:,} simulations, n = {r['n']:,}, {r['n_observations']} observations"
    head = ["missing", "asked", "sd / exact", "error of a mean, sd"]
    return [f"{about}. Errors of densities given all x: {'; '.join(told)}.\n", *table(head, rows)]
