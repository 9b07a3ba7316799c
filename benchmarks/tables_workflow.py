"""The sections of benchmarks/README.md on what somebody writes, and on how long the one command takes."""

from __future__ import annotations

from typing import Any

from markdown import table


def user_lines(r: dict[str, Any]) -> list[str]:
    """Lines by task and library."""
    libraries = list(next(iter(r["lines"].values())))
    rows = [(task, *(found[who] for who in libraries)) for task, found in r["lines"].items()]
    return [
        "Lines that somebody writes, counted on the page that has them, `docs/compared.md`.\n",
        *table(["task", *libraries], rows),
    ]


def infer_regions(r: dict[str, Any]) -> list[str]:
    """Seconds of each setting of the command."""
    about = (
        f"`{r['model']}`: {r['dates']} dates, {len(r['series'])} series ({', '.join(r['series'])}), {r['regions']} "
        f"regions, {r['readings']} readings; {r['cores']} cores, n = {r['n']} runs, median and range. Goal: below "
        f"{r['goal_wall_seconds']:.0f} s.\n"
    )
    rows = [
        (
            f"`--draws {x['draws']} --quality {x['quality']}`",
            *(f"{x[f'{k}_seconds']:.0f} ({'–'.join(f'{s:.0f}' for s in x[f'{k}_seconds_range'])})" for k in _CLOCKS),
        )
        for x in r["rows"]
    ]
    return [about, *table(["options", "wall, s", "CPU, s"], rows)]


_CLOCKS = ("wall", "cpu")


def influenza_forecast(r: dict[str, Any]) -> list[str]:
    """Scores by days known, and their means over the cuts."""
    rows = [
        (x["days_known"], x["forecast"].replace("_", " "), f"{x['crps']:.3f}", f"{x['energy_score']:.2f}",
         *(f"{c:.2f}" for c in x["coverage"].values()))
        for x in r["rows"]
    ]  # fmt: skip
    return table(["days known", "forecast", "CRPS", "energy score", "coverage .5", ".9"], rows)
