"""The section of benchmarks/README.md on long observations."""

from __future__ import annotations

from typing import Any

from markdown import table


def short_contexts(records: list[dict[str, Any]]) -> list[str]:
    """Every seed of `short_contexts.py`."""
    rows = [
        [x["seed"], f"{x['plain']:.4f}", f"{x['compressing']:.4f}",
         f"{x['difference']:+.4f} ± {x['standard_error']:.4f}", r["steps"]]
        for r in records for x in r["rows"]
    ]  # fmt: skip
    return table(["seed", "loss, plain", "loss, compressing", "difference", "steps"], rows)


def long_context(records: list[dict[str, Any]]) -> list[str]:
    """Every run of `long_context.py`: accuracy against readings, then what they cost."""
    out = []
    for r in records:
        told = ", told the linear baseline" if r["baseline"] else ""
        out.append(
            f"`{r['task']}`{told}: {r['steps']} steps, {r['train_cpu_seconds']:.0f} CPU s of training on up to "
            f"{r['trained_up_to']:,} readings; {r['inducing']} tokens stand for more than {r['compress_above']}. n = "
            f"{r['n']} draws; floor in brackets.\n"
        )
        names = list(r["rows"][0]["parameters"])
        head = ["readings", "data sets"]
        for k in names:
            head += [f"sd of {k}, exact", "mean error, sd", "sd ratio"]
        rows = []
        for x in r["rows"]:
            cells: list[object] = [f"{x['readings']:,}", x["sets"]]
            for k in names:
                p = x["parameters"][k]
                cells += [
                    f"{p['exact_sd']:.4f}",
                    f"{p['mean_error_sd']:.2f} ({p['mean_error_sd_floor']:.2f})",
                    f"{p['sd_ratio']:.2f} ± {p['sd_ratio_standard_error']:.2f} ({p['sd_ratio_floor']:.2f})",
                ]
            rows.append(cells)
        out += table(head, rows)
        costs = []
        for x in r["rows"]:
            plain = x.get("cost_plain")
            without = ("", "") if plain is None else (f"{plain['cpu_seconds']:.1f}", f"{plain['added_gib']:.2f}")
            own = x["cost"]
            costs.append(
                (f"{x['readings']:,}", f"{own['cpu_seconds']:.1f}", f"{own['added_gib']:.2f}",
                 f"{own['peak_gib']:.2f}", *without)
            )  # fmt: skip
        head = [
            "readings",
            "CPU s, 1,000 draws",
            "GiB added",
            "GiB of the process",
            "CPU s, not compressed",
            "GiB added",
        ]
        out += table(head, costs)
    return out
