"""The section of benchmarks/README.md on functions: figures on the probe points against the size of the query."""

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
            f"`{r['variant']}`: {r['steps']} steps, {r['train_cpu_seconds']:.0f} CPU s of training; n = {r['n']} draws "
            f"of {r['n_sets']} data sets, mean ± standard error (Monte-Carlo floor). Goals: .10, .95-1.05, .15.\n"
        )
        rows = [[row["points"], *(_figure(row, k) for k in _FIGURES), f"{row['cpu_seconds']:.1f}"] for row in r["rows"]]
        out += table(["points", *_FIGURES.values(), "CPU s"], rows)
    return out


def _figure(row: dict[str, Any], key: str) -> str:
    return f"{row[key]:.3f} ± {row[f'{key}_standard_error']:.3f} ({row[f'{key}_floor']:.3f})"
