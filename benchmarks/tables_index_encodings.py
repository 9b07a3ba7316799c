"""The section of benchmarks/README.md on index encodings: every network beside the others, figure by figure."""

from __future__ import annotations

from typing import Any

from markdown import table

_FIGURES = {
    "kl": "KL of the exact marginal to what is drawn, nats a point",
    "error": "Error of the mean, sds",
    "ratio": "Ratio of variances, mean",
    "ratio_q05": "Ratio of variances, lowest twentieth",
}


def index_encodings(records: list[dict[str, Any]]) -> list[str]:
    """All cells of `index_encodings.py`; in brackets the floor."""
    found = sorted((r["results"] | {"seed": r["seed"]} for r in records), key=lambda r: (r["variant"], r["seed"]))
    clock = [r for r in found if r["task"] == "lotka_volterra"]
    out: list[str] = []
    for task, what in {"process": "Gaussian process", "knots": "The same with a reference set"}.items():
        process = [r for r in found if r["task"] == task]
        if not process:
            continue
        names = list(dict.fromkeys(row["situation"] for r in process for row in r["rows"]))
        out.append(
            f"{what}: {_steps(process)} steps, n = {process[0]['n']} draws of {process[0]['n_sets']} data "
            "sets, ± standard error over data sets (floor).\n"
        )
        for key, title in _FIGURES.items():
            floors = {row["situation"]: row[f"{key}_floor"] for r in process for row in r["rows"]}
            rows = [[r["variant"], r["seed"], *(_cell(_rows(r).get(name), key) for name in names)] for r in process]
            rows.append(["floor", "", *(f"{floors[name]:.3f}" for name in names)])
            out += [f"{title}:\n", *table(["network", "seed", *names], rows)]
        rows = [
            [r["variant"], r["seed"], _cell(_rows(r).get("shifted"), "change"), r["n_parameters"], _seconds(r)]
            for r in process
        ]
        head = ["network", "seed", "change of the mean when all is shifted, sds", "weights", "training, CPU s"]
        out += table(head, rows)
    if clock:
        out.append(f"Lotka-Volterra: {_steps(clock)} steps, loss of the parameters, n = {clock[0]['n']} rows.\n")
        rows = [
            [r["variant"], r["seed"], f"{r['loss']:.4f} ± {r['standard_error']:.4f}", r["n_parameters"], _seconds(r)]
            for r in clock
        ]
        out += table(["network", "seed", "loss (1 = nothing learned)", "weights", "training, CPU s"], rows)
    return out


def _rows(r: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["situation"]: row for row in r["rows"]}


def _cell(row: dict[str, Any] | None, key: str) -> str:
    if row is None:
        return ""
    error = row.get(f"{key}_standard_error")
    return f"{row[key]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _steps(records: list[dict[str, Any]]) -> str:
    return ", ".join(map(str, sorted({r["steps"] for r in records})))


def _seconds(r: dict[str, Any]) -> str:
    return f"{r['train_cpu_seconds']:.0f}"
