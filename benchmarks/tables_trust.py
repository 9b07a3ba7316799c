"""Tables of calibration.py and epidemic.py."""

from __future__ import annotations

import math
from typing import Any

from markdown import table


def calibration(records: list[dict[str, Any]]) -> list[str]:
    """Coverage and tests of a model on fresh data sets; alarms of the misspecification checks."""
    checked = [r for r in records if r["what"] == "check"]
    rows = [
        (r["model"], r["n"], nominal, f"{x['coverage']:.3f}", f"{x['standard_error']:.3f}")
        for r in checked for nominal, x in r["coverage"].items()
    ]  # fmt: skip
    out = ["Coverage of highest-density regions by density rank. Goal: nominal ± .02.\n"] * bool(rows)
    out += table(["model", "data sets", "nominal", "coverage", "standard error"], rows) if rows else []
    for r in checked:
        rejected = [name for name, t in r["tests"].items() if t["rejected"]]
        out += [
            f"`{r['model']}`: {len(rejected)} of {len(r['tests'])} tests rejected after Holm's correction"
            f"{': ' + ', '.join(rejected) if rejected else ''}; {r['draws']} draws, functions at "
            f"{max(r.get('points', {}).values(), default=25)} points; {r['cpu_seconds']:.0f} CPU s.",
            "",
        ]
    alarms = [r for r in records if r["what"] != "check"]
    rows = [
        (r["model"], r["what"], r["n"],
         *(f"{r['false_alarms'][a]:.3f} ± {r['standard_error'][a]:.3f}" for a in _LEVELS),
         *(f"{r['alarms'][k]:.2f}" for k in _WRONG))
        for r in alarms
    ]  # fmt: skip
    if rows:
        out += [
            "Alarms: false ones at .01, .05, .1 and .2 among simulated data sets, 12 readings a series; at .05 after "
            "the first series had fourfold noise or units a hundredth, or the first two were swapped. `surprise` "
            "simulates at the same places, `typical` is what `condition` says by the model's table.\n",
            *table(["model", "by", "data sets", *_LEVELS, *_WRONG], rows),
        ]
    return out


def coverage(records: list[dict[str, Any]]) -> list[str]:
    """Coverage at knots, posterior and random conditionals."""
    rows = []
    for r in records:
        model = r["model"] + (", without functions" if r.get("scalars") else "")
        for kind in ("posterior", "random_conditionals"):
            shares = (f"{x['coverage']:.3f} ± {x['standard_error']:.3f}" for x in r[kind].values())
            rows.append((model, r["n"], kind.replace("_", " "), *shares))
    return ["Goal: nominal ± .02.\n", *table(["model", "data sets", "conditional", ".5", ".8", ".9", ".95"], rows)]


_LEVELS, _WRONG = ("0.01", "0.05", "0.1", "0.2"), ("noise", "units", "swapped")


def epidemic(records: list[dict[str, Any]]) -> list[str]:
    """Four-week forecasts: scores of the network over those of the baselines, coverage; R(t)."""
    out = []
    for r in records:
        rows = []
        for series in ("cases", "deaths"):
            for who, x in r[series].items():
                scores = (f"{x[k]:.3f} ± {x[f'{k}_se']:.3f}" for k in ("crps", "energy_score", *_COVERED))
                rows.append((series, who.replace("_", " "), *scores, *(_ratio(x, k) for k in ("crps", "energy_score"))))
        about = r["reproduction_number"]
        cover = ", ".join(f"{c:.3f} ± {about['coverage_se'][p]:.3f} at {p}" for p, c in about["coverage"].items())
        out += [
            f"{r['n']} outbreaks, {r['draws']} draws each, {r['sample_cpu_seconds_per_outbreak']} CPU s an outbreak. "
            f"R(t) of the twelve weeks: coverage {cover}; half of its medians are within a factor of "
            f"{math.exp(about['median_abs_log_error']):.2f}.\n",
            *table(["series", "forecast", "CRPS", "energy score", "coverage .5", "coverage .9", *_RATIOS], rows),
        ]
    return out


_COVERED = ("coverage_0.5", "coverage_0.9")
_RATIOS = ("CRPS, the network's over it", "energy score, the network's over it")


def _ratio(x: dict[str, float], score: str) -> str:
    key = f"network_{score}_ratio"
    return f"{x[key]:.2f} ± {x[key + '_se']:.2f}" if key in x else ""


def log_density(r: dict[str, Any]) -> list[str]:
    """Errors in nats a value."""
    rows = [
        (x["law"].replace("_", " "), x["values"], f"{x['mean_absolute_error']:.4f}", f"{x['largest_error']:.4f}",
         f"{x['kl']:.3f} ± {x['kl_error']:.3f}" if "kl" in x else "", f"{x['cpu_seconds']:.1f}")
        for x in r["rows"]
    ]  # fmt: skip
    head = ["law", "values", "mean error, nats a value", "largest", "KL, nats", "CPU s"]
    return [f"n = {r['n']} values of each law, tolerance {r['tolerance']}. Goal: .02.\n", *table(head, rows)]
