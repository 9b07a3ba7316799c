"""The sections of benchmarks/README.md on training while simulations arrive, and on many data sets."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import Any

from markdown import table


def online(r: dict[str, Any]) -> list[str]:
    """Wall seconds and accuracy of every variant, and its validation loss as time goes by."""
    rows = [
        (x["reserve"], x["first_step_at"], x["simulated_at"], x["wall_seconds"], x["cpu_seconds"],
         x["best_validation_loss"], x["kl"], x["standard_error"], x["floor"], f"{x['load_average'][0]:.1f}")
        for x in r["rows"]
    ]  # fmt: skip
    head = ["reserve", "first step at, s", "simulated at, s", "trained at, s", "CPU s", "validation loss",
            "KL, nats", "se", "floor", "load"]  # fmt: skip
    last = max(x["wall_seconds"] for x in r["rows"])
    times = [last * k / 8 for k in range(1, 9)]
    curves = []
    for x in r["rows"]:
        best = [min((loss for at, loss in x["curve"] if at <= t), default=None) for t in times]
        curves.append([x["reserve"], *("" if loss is None else f"{loss:.4f}" for loss in best)])
    return [
        f"{r['simulations']} simulations of {r['seconds_a_simulation']} s, {r['steps']} steps; KL of {r['n']} draws, "
        f"{r['observations']} observations. Reserve 1 = training after simulating.\n",
        *table(head, rows),
        "Lowest validation loss so far, against wall seconds:\n",
        *table(["reserve", *(f"{t:.0f} s" for t in times)], curves),
    ]


def padding(r: dict[str, Any]) -> list[str]:
    """Empty slots of training batches, task by task."""
    rows = [(x["task"], f"{x['trained']:.3f}", f"{x['unsorted']:.3f}") for x in r["rows"]]
    return [
        f"{r['n']} pools a task. Goal: .10.\n",
        *table(["task", "empty slots, rows of 16 steps sorted by length (the default)", "unsorted"], rows),
    ]


def solvers(r: dict[str, Any]) -> list[str]:
    """Simulations a second of every solver, and how many times as many we make."""
    ours = {x["task"]: x["per_second"] for x in r["rows"] if x["solver"] == "fsimformer"}
    rows = [
        (x["task"], x["solver"], f"{x['per_second']:,.0f}", f"{ours[x['task']] / x['per_second']:.1f}",
         f"{x['error']:.1e}", x["n"])
        for x in r["rows"]
    ]  # fmt: skip
    head = ["task", "solver", "simulations a CPU second", "ours by it", "error", "n"]
    return [*([f"{r['note']}\n"] if r["note"] else []), *table(head, rows)]


def online_accuracy(r: dict[str, Any]) -> list[str]:
    """Accuracy of every variant over seeds, and how it differs from training afterwards, seed by seed."""
    cells: dict[tuple[int, float], dict[int, dict[str, Any]]] = {}
    for x in r["rows"]:
        cells.setdefault((x["simulations"], x["reserve"]), {})[x["seed"]] = x
    rows = []
    for (simulations, reserve), mine in sorted(cells.items(), key=lambda cell: (cell[0][0], -cell[0][1])):
        after, row = cells.get((simulations, 1.0), {}), [f"{simulations:,}", f"{reserve:g}", len(mine)]
        for what, digits in (("kl", 4), ("width", 3)):
            row.append(_mean([x[what] for x in mine.values()], digits))
            both = [x[what] - after[seed][what] for seed, x in mine.items() if reserve != 1 and seed in after]
            row.append(_mean(both, digits, signed=True))
        rows.append((*row, f"{fmean(x['floor'] for x in mine.values()):.4f}"))
    head = [
        "simulations",
        "reserve",
        "seeds",
        "KL, nats",
        "against reserve 1",
        "width",
        "against reserve 1",
        "KL floor",
    ]
    return [
        f"{r['steps']} steps; {r['n']} draws of each of {r['observations']} observations. Width: mean log ratio of sd "
        "to exact sd. ± standard error over seeds.\n",
        *table(head, rows),
    ]


def arrivals(records: list[dict[str, Any]]) -> list[str]:
    """Small networks of many seeds: accuracy by reserve, and against reserve 1, seed by seed."""
    rows = []
    for r in sorted(records, key=lambda r: r["simulations"]):
        cells: dict[float | str, dict[int, dict[str, Any]]] = {}
        for x in r["rows"]:
            cells.setdefault(x["reserve"], {})[x["seed"]] = x
        for reserve, mine in cells.items():
            row = [f"{r['simulations']:,}", reserve if isinstance(reserve, str) else f"{reserve:g}", len(mine)]
            for what, digits in (("kl", 4), ("width", 3), ("mean_error_sd", 3)):
                row.append(_mean([x[what] for x in mine.values()], digits))
                both = [x[what] - cells[1.0][seed][what] for seed, x in mine.items() if reserve != 1]
                row.append(_mean(both, digits, signed=True))
            rows.append(row)
    against = "against reserve 1"
    head = ["simulations", "reserve", "seeds", "KL, nats", against, "width", against, "error of means, sd", against]
    return [
        f"{records[0]['steps']} steps. Width: mean log ratio of sd to exact sd. ± standard error over seeds; no "
        "Monte-Carlo error.\n",
        *table(head, rows),
    ]


def _mean(values: list[float], digits: int, signed: bool = False) -> str:
    if not values:
        return ""
    mean = f"{fmean(values):{'+' if signed else ''}.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values) / len(values) ** 0.5:.{digits}f}"


def many(r: dict[str, Any]) -> list[str]:
    """Seconds and memory against the number of data sets."""
    rows = [
        (f"{x['data_sets']:,}", x["cpu_seconds"], x["wall_seconds"], round(x["peak_before_mib"]), round(x["peak_mib"]),
         round(x["disk_mib"]))
        for x in r["rows"]
    ]  # fmt: skip
    head = ["data sets", "CPU s", "wall s", "peak before the first draw, MiB", "peak, MiB", "on disk, MiB"]
    return [f"{r['n']:,} draws each.\n", *table(head, rows)]


def gpu(r: dict[str, Any]) -> list[str]:
    """Attention by length, training, draws and simulators on one device."""
    rows = [
        (x["length"], x["rows"], x["way"],
         *(("failed", x["failed"][:60]) if "failed" in x else (f"{x['milliseconds']:.2f}", f"{x['tflops']:.1f}")))
        for x in r["attention"]
    ]  # fmt: skip
    out = [
        f"Peak reached by a large product: {r['peak']['tflops']:.0f} TFLOP/s in bfloat16; "
        f"{r['peak']['gigabytes_a_second']:.0f} GB/s. Goals: 40 % of it in training, 10⁵ draws a second.\n",
        *table(["length", "rows", "attention", "ms", "TFLOP/s"], rows),
    ]
    rows = [
        (x["width"], x["precision"], x["tokens"],
         *(f"{x[k]:.{n}f}" for k, n in (("milliseconds", 1), ("tflops", 1), ("share_of_peak", 2))))
        for x in r["training"]
    ]  # fmt: skip
    out += table(["width", "precision", "tokens", "ms, forward and backward", "TFLOP/s", "share of the peak"], rows)
    out += table(["precision", "draws", "a second"], [(x["precision"], x["draws"], f"{x['draws_a_second']:,.0f}")
                                                      for x in r["draws"]])  # fmt: skip
    return out + table(["simulator", "at a time", "a second"], [
        (x["simulator"], x["n"], x.get("failed") or f"{x['a_second']:,.0f}") for x in r["simulators"]])  # fmt: skip
