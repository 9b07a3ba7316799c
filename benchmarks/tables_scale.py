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


def many(r: dict[str, Any]) -> list[str]:
    """Seconds and memory against the number of data sets."""
    rows = [
        (f"{x['data_sets']:,}", x["cpu_seconds"], x["wall_seconds"], round(x["peak_before_mib"]), round(x["peak_mib"]),
         round(x["disk_mib"]))
        for x in r["rows"]
    ]  # fmt: skip
    head = ["data sets", "CPU s", "wall s", "peak before the first draw, MiB", "peak, MiB", "on disk, MiB"]
    return [f"{r['n']:,} draws each.\n", *table(head, rows)]
