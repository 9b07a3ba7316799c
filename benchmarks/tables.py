"""Writes benchmarks/README.md and the table of accuracy in README.md from results/*.json; no number is typed."""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

from markdown import table
from record import RESULTS, no_arguments
from tables_ablation import ablation, ensemble
from tables_constraints import constraints, hare_lynx_interval, hodgkin_huxley
from tables_distill import distill
from tables_index_encodings import index_encodings
from tables_long import long_context, short_contexts
from tables_peers import peers
from tables_resolution import (
    correlated_noise,
    functional_linear,
    functions,
    knots,
    predator_prey,
    resolution,
    space,
)
from tables_sbibm import dependency, last_weights, lotka_volterra_budgets, sbibm, sharpness
from tables_scale import arrivals, gpu, many, online, online_accuracy, padding, solvers
from tables_scoreboard import Question, in_brief, published_protocol, questions, scoreboard
from tables_sequential import sequential
from tables_trust import calibration, coverage, epidemic, log_density
from tables_users import explorer, hostile_inputs, influenza, laptop, sbi_gaps, start_up, surprise
from tables_workflow import infer_regions, influenza_forecast, user_lines

PICTURES = {"distill": "docs/distill.png", "resolution": "docs/resolution.png", "functions": "docs/consistency.png"}
OUT = Path(__file__).resolve().parent / "README.md"
README = OUT.parents[1] / "README.md"
BEGIN, END = "<!-- accuracy: written by benchmarks/tables.py -->\n", "<!-- accuracy: end -->\n"


def source(record: dict[str, Any]) -> str:
    m, v = record["machine"], record["versions"]
    where = f"{m['processor']} ({m['device']}), torch {v['torch']}, commit {record['commit'][:10] or '?'}"
    return f"`results/{record['name']}.json`: seed {record['seed']}, {record['date']}, {where}.\n"


def sampler_error(r: dict[str, Any]) -> list[str]:
    worst = lambda x: max(abs(x["variance_ratio_min"] - 1), abs(x["variance_ratio_max"] - 1))  # noqa: E731
    presets = [(k, x["method"], x["evaluations"], worst(x), x["mean_error_sd"]) for k, x in r["presets"].items()]
    best: dict[tuple[str, int], dict[str, Any]] = {}
    for x in r["rows"]:
        key = (x["method"], x["evaluations"])
        if key not in best or worst(x) < worst(best[key]):
            best[key] = x
    n_grids = len({(x["power"], x.get("log_min")) for x in r["rows"]})
    counts = sorted({k[1] for k in best})
    methods = sorted({k[0] for k in best})
    grid = [[m, *(worst(best[m, n]) if (m, n) in best else "" for n in counts)] for m in methods]
    return [
        "Largest |variance ratio − 1| for posterior variances 1 … 1e-3, exact (no Monte Carlo), best of "
        f"{n_grids} grids.\n",
        *table(["sampler \\ evaluations", *map(str, counts)], grid),
        "The presets of `quality=`:\n",
        *table(["quality", "sampler", "evaluations", "variance error", "mean error (sd)"], presets),
    ]


def lotka_volterra(r: dict[str, Any]) -> list[str]:
    keys = ("c2st_rf", "floor_rf", "network_c2st_rf_half", "refined_c2st_rf_half", "ess", "pareto_k")
    rows: list[tuple[object, ...]] = [(i + 1, *(d[k] for k in keys)) for i, d in enumerate(r["data_sets"])]
    rows.append(("mean", *(r["mean"].get(k, "") for k in keys)))
    budget = f"{r['simulations']} simulations, {r['steps']} steps, {r['train_cpu_seconds']} CPU s of training"
    n, mean = r["n"], r["mean"]
    half = f"n = {n // 2}"
    head = ["data set", f"RF C2ST, n = {n}", "floor", f"network, {half}", f"refined, {half}", "ESS", "Pareto k"]
    return [
        f"{budget}. Goal .52, at most .56. Mean absolute error of a mean {mean['absolute_mean_error_sd']:.3f} sd, mean "
        f"sd ratio {mean['sd_ratio']:.3f}. Refined from {r['proposals']} draws.\n",
        *table(head, rows),
    ]


def hare_lynx(r: dict[str, Any]) -> list[str]:
    out = [f"{r['steps']} steps, {r['train_cpu_seconds']} CPU s of training, n = {r['n']}, Monte-Carlo floor of a mean "
           f"{r['monte_carlo_floor_sd']:.3f} sd. Goal: mean within .25 sd, sd ratio .85–1.15.\n"]  # fmt: skip
    for name in ("hare_lynx", "hare_lynx_holes"):
        keys = ("reference_mean", "reference_sd", "mean", "sd", "mean_error_sd", "sd_ratio")
        rows = [(p, *(x[k] for k in keys)) for p, x in r[name].items()]
        out += [
            f"`{name}`\n",
            *table(["parameter", "NUTS mean", "NUTS sd", "mean", "sd", "error (sd)", "sd ratio"], rows),
        ]
        refined = r[name + "_refined"]
        rows = [(p, *(x[k] for k in keys)) for p, x in refined["parameters"].items()]
        out += [
            f"`{name}`, refined: worth {refined['ess']:.0f} of {r['n']} draws, Pareto k {refined['pareto_k']:.2f} "
            "(trust it below 0.7 with an ESS of hundreds)\n",
            *table(["parameter", "NUTS mean", "NUTS sd", "mean", "sd", "error (sd)", "sd ratio"], rows),
        ]
    return out


def speed(r: dict[str, Any]) -> list[str]:
    keys = ("threads", "cpu_seconds", "wall_seconds", "steps_per_cpu_second")
    return table(
        ["what", "threads", "CPU s", "wall s", "steps a CPU s"],
        [(x["what"], *(x.get(k, "") for k in keys)) for x in r["rows"]],
    )


def dial(records: list[dict[str, Any]]) -> list[str]:
    rows = [
        (r["results"]["task"], r["seed"], r["results"]["metric"], x["dial"], x["accuracy"], x["standard_error"],
         x["seconds_1000_draws"], r["results"]["steps"])
        for r in records for x in r["results"]["rows"]
    ]  # fmt: skip
    return table(["task", "seed", "metric", "dial", "accuracy", "standard error", "CPU s, 1,000 draws", "steps"], rows)


def sampler_choice(records: list[dict[str, Any]]) -> list[str]:
    keys = ("sampler", "evaluations", "c2st_rf", "standard_error", "floor", "cpu_seconds")
    head = ["task", "seed", "sampler", "evaluations", "RF C2ST", "se", "floor", "CPU s, 1,000 draws"]
    second, rows = "sde, second order", []  # older records: the only SDE there was
    for record in records:
        found = record["results"]["rows"]
        old = {} if any(x["sampler"] == second for x in found) else {"sde": second}
        renamed = [x | {"sampler": old.get(x["sampler"], x["sampler"])} for x in found]
        rows += [[x["task"], record["seed"], *(x[k] for k in keys)] for x in renamed]
    return table(head, rows)


def learning(r: dict[str, Any]) -> list[str]:
    rows = [(x["variant"], x["posterior_loss"], x["standard_error"], x["cpu_seconds"]) for x in r["rows"]]
    return [
        f"{r['steps']} steps, n = {r['n']} rows.\n",
        *table(["variant", "posterior loss", "standard error", "CPU s"], rows),
    ]


@cache
def records_of(pattern: str) -> list[dict[str, Any]]:
    """Whole records; several sections and README.md ask for the same."""
    return [json.loads(p.read_text()) for p in sorted(RESULTS.glob(pattern))]


def results(pattern: str) -> list[dict[str, Any]]:
    return [r["results"] for r in records_of(pattern)]


def rounds(records: list[dict[str, Any]]) -> list[str]:
    return sequential(records, results("sbibm/*.json"))


def by_protocol(records: list[dict[str, Any]]) -> list[str]:
    return published_protocol(records, records_of("sbibm/*.json"))


def by_sharpness(records: list[dict[str, Any]]) -> list[str]:
    cells = results("sbibm/*.json")
    return [line for r in records for line in sharpness(r, cells)]


SECTIONS = {
    "sampler_error": sampler_error,
    "hare_lynx": hare_lynx,
    "hare_lynx_interval": hare_lynx_interval,
    "lotka_volterra": lotka_volterra,
    "log_density": log_density,
    "speed": speed,
    "laptop": laptop,
    "learning": learning,
    "online": online,
    "many": many,
    "gpu": gpu,
    "padding": padding,
    "solvers": solvers,
    "hostile_inputs": hostile_inputs,
    "surprise": surprise,
    "start_up": start_up,
    "explorer": explorer,
    "influenza": influenza,
    "influenza_forecast": influenza_forecast,
    "infer_regions": infer_regions,
    "user_lines": user_lines,
    "sbi_gaps": sbi_gaps,
}


def asked() -> list[Question]:
    return questions(results("sbibm/*.json"), results("lotka_volterra_budgets/*.json"))


def readme(text: str) -> str:
    """README.md with the table of accuracy anew, between its two marks."""
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return before + BEGIN + "\n".join(in_brief(asked())).rstrip() + "\n" + END + after


def sections() -> str:
    """benchmarks/README.md."""
    lines = [
        "# Benchmarks",
        "",
        "Generated by `python benchmarks/tables.py` from `results/*.json`; every figure comes from the script of its",
        "name, whose first lines and `--help` say how to run it: `python benchmarks/sbibm.py two_moons 1000 --seed 0`,",
        "then `python benchmarks/tables.py`. The JSON holds date, machine, versions and commit. Sections without a",
        "result have not been run on this version.",
        "",
        "## Scoreboard",
        "",
        *scoreboard(asked()),
    ]
    for name, section in SECTIONS.items():
        lines += [f"## {name}", "", first_paragraph(name), ""]
        path = RESULTS / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text())
            lines += [source(record), *section(record["results"])]
        else:
            lines += ["Not run yet.", ""]
        accuracy = RESULTS / "online_accuracy.json"  # online.py's other half: no clock in it
        if name == online.__name__ and accuracy.exists():
            record = json.loads(accuracy.read_text())
            lines += [source(record), *online_accuracy(record["results"])]
    lines += ["## dial", "", first_paragraph("dial"), ""]
    records = records_of("dial_*.json")
    lines += dial(records) if records else ["Not run yet.", ""]
    for name, section, pattern in (
        (sbibm.__name__, sbibm, "sbibm/*.json"),
        (sharpness.__name__, by_sharpness, "sharpness.json"),
        (dependency.__name__, dependency, "dependency/*.json"),
        (sequential.__name__, rounds, "sequential_*.json"),
        (distill.__name__, distill, "distill_*.json"),
        (resolution.__name__, resolution, "resolution_*.json"),
        (correlated_noise.__name__, correlated_noise, "correlated_noise_*.json"),
        (functions.__name__, functions, "functions_*.json"),
        (knots.__name__, knots, "knots.json"),
        (functional_linear.__name__, functional_linear, "functional_linear_*.json"),
        (predator_prey.__name__, predator_prey, "predator_pre*[!r].json"),  # not the estimator's
        (space.__name__, space, "space_*.json"),
        (constraints.__name__, constraints, "constraints.json"),
        (calibration.__name__, calibration, "calibration_*.json"),
        (coverage.__name__, coverage, "coverage_*.json"),
        (epidemic.__name__, epidemic, "epidemic.json"),
        (hodgkin_huxley.__name__, hodgkin_huxley, "hodgkin_huxley.json"),
        (arrivals.__name__, arrivals, "arrivals_*.json"),
        (long_context.__name__, long_context, "long_*.json"),
        (short_contexts.__name__, short_contexts, "short_contexts.json"),
    ):
        lines += [f"## {name}", "", first_paragraph(name), ""]
        records = results(pattern)
        lines += section(records) if records else ["Not run yet.", ""]
        if records and (OUT.parents[1] / PICTURES.get(name, "none")).exists():
            lines += [f"![{name}](../{PICTURES[name]})", "", "*Drawn by `pictures.py`.*", ""]
    for name, whole, pattern in (  # sections that look at seeds or names as well
        (sampler_choice.__name__, sampler_choice, "sampler_choice_*.json"),
        (index_encodings.__name__, index_encodings, "index_encodings/*.json"),
        (ablation.__name__, ablation, "ablation/*.json"),
        (ensemble.__name__, ensemble, "ensemble/*.json"),
        (last_weights.__name__, last_weights, "last_weights/*.json"),
        (lotka_volterra_budgets.__name__, lotka_volterra_budgets, "lotka_volterra_budgets/*.json"),
        (published_protocol.__name__, by_protocol, "published_protocol/*.json"),
        (peers.__name__, peers, "peers_*.json"),
    ):
        lines += [f"## {name}", "", first_paragraph(name), ""]
        records = records_of(pattern)
        lines += whole(records) if records else ["Not run yet.", ""]
    return "\n".join(lines).rstrip() + "\n"


def first_paragraph(name: str) -> str:
    """The first paragraph of a script's docstring, read without running it."""
    doc = ast.get_docstring(ast.parse((OUT.parent / f"{name}.py").read_text())) or ""
    return doc.split("\n\n")[0]


if __name__ == "__main__":
    no_arguments(__doc__)
    OUT.write_text(sections())
    README.write_text(readme(README.read_text()))
