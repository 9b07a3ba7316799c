"""The sections of benchmarks/README.md on training while simulations arrive, and on many data sets."""

from __future__ import annotations

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
    return [f"{r['n']} pools a task. Goal: .10.\n", *table(["task", "empty slots, as trained", "unsorted"], rows)]


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


def many(r: dict[str, Any]) -> list[str]:
    """Seconds and memory against the number of data sets."""
    rows = [
        (f"{x['data_sets']:,}", x["cpu_seconds"], x["wall_seconds"], round(x["peak_before_mib"]), round(x["peak_mib"]),
         round(x["disk_mib"]))
        for x in r["rows"]
    ]  # fmt: skip
    head = ["data sets", "CPU s", "wall s", "peak before the first draw, MiB", "peak, MiB", "on disk, MiB"]
    return [f"{r['n']:,} draws each.\n", *table(head, rows)]
