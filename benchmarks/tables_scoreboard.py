"""The first section of benchmarks/README.md on accuracy: every goal beside the published figure and ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean
from typing import Any

from markdown import table
from tables_sbibm import BUDGETS, KINDS, LOTKA_VOLTERRA, PUBLISHED, SUITE, label, over_seeds

_LEGEND = """RF C2ST at n = 1,000, 0.5 = indistinguishable; ours: mean ± sd over seeds (their number), of the suite's
configuration, Lotka–Volterra of its own (`lotka_volterra_budgets`); se: the standard error over observations or
conditionals, of one seed, which mostly is the larger part of what is not known. All seeds are compared with the same
1,000 exact draws of an observation, so what these happen to be is in neither: on `slcp` they flatter, by two columns of
`published_protocol`. † some of the seeds were drawn by an earlier sampler or kept the lowest held-out loss, which
mostly is worse (`sbibm` tells which); those of today's rule, if there are, stand after the semicolon. Published
(arXiv 2404.09636), one seed: the Simformer with the moral graph as its mask, the better of its two SDEs, chosen for
each cell after the fact; and the best of what is beside it there, NPE, NSPE and the dense Simformer. **Theirs is
another protocol**: n = 10,000, and conditionals of another law of masks. `published_protocol` scores some of our
networks so: posteriors at that n, conditionals by those masks, but at n = 1,000, which favours ours.
Whether a goal is met is read off the mean as printed; a goal below the floor is one that exact draws miss more often
than not. Seconds are CPU seconds of training, one thread. MLP C2ST of the posteriors, and every variant, are in the
sections below.
"""


@dataclass(frozen=True)
class Question:
    """A task at one number of simulations: the goal, what was printed ("" = nothing), and ours, an entry a seed."""

    kind: str
    task: str
    simulations: int
    goal: float | str
    published: float | str
    beside: float | str
    means: list[float]
    errors: list[float]
    floors: list[float]
    seconds: list[float]
    todays: list[float] | None
    """The means of today's sampler and choice of weights, where others are among them; None: there are no others."""

    @property
    def mark(self) -> str:
        return "" if self.todays is None else " †"


def questions(cells: Sequence[dict[str, Any]], lotka_volterra: Sequence[dict[str, Any]]) -> list[Question]:
    """All of them, with or without a result.

    Args:
        cells: those of `sbibm.py`. lotka_volterra: those of `lotka_volterra_budgets.py`.
    """
    out = []
    for kind, tasks in KINDS.items():
        for task, (k, budget) in product(tasks, enumerate(BUDGETS)):
            mine = [c for c in cells if (c["task"], c["simulations"]) == (task, budget) and kind in c]
            found = _of_suite(mine, budget)
            scores = [c[kind]["c2st_rf"] for c in found]
            todays = [c[kind]["c2st_rf"]["mean"] for c in found if label(c) == c["variant"]]
            out.append(Question(
                kind, task, budget, *_published(kind, task, k), [s["mean"] for s in scores],
                [s["standard_error"] for s in scores], [s["floor"] for s in scores],
                [c["train_cpu_seconds"] for c in found], todays if len(todays) < len(found) else None,
            ))  # fmt: skip
    for k, budget in enumerate(BUDGETS):
        found = _of_suite([r for r in lotka_volterra if r["simulations"] == budget], budget)
        printed, goal = (LOTKA_VOLTERRA[name][k] for name in ("Simformer, published", "goal"))
        out.append(Question(
            "posterior", "lotka_volterra", budget, goal, printed, "", [r["c2st_rf"] for r in found],
            [r["c2st_standard_error"] for r in found], [r["floor"] for r in found],
            [r["train_cpu_seconds"] for r in found], None,
        ))  # fmt: skip
    return out


def _of_suite(cells: Sequence[dict[str, Any]], budget: int) -> list[dict[str, Any]]:
    """Those of the suite's configuration; old cells of Lotka-Volterra know no variant."""
    return [c for c in cells if c.get("variant", "default") == SUITE[budget]]


def scoreboard(asked: Sequence[Question]) -> list[str]:
    """A row a question."""
    rows: list[list[object]] = []
    for q in asked:
        ours: list[object] = [""] * 6
        if q.means:
            apart = f"{mean(q.means) - q.published:+.3f}" if isinstance(q.published, float) else ""
            seconds = f"{mean(q.seconds):.0f}"
            todays = f"; {over_seeds(q.todays)}" if q.todays else ""
            ours = [over_seeds(q.means) + q.mark + todays, mean(q.errors), mean(q.floors), apart, _met(q), seconds]
        rows.append([q.kind, q.task, f"{q.simulations:,}", q.goal, q.published, q.beside, *ours])
    head = ["question", "task", "simulations", "goal", "published Simformer", "published, best beside it"]
    columns = ["ours", "se, observations", "floor", "ours − published", "goal met", "training, CPU s"]
    return [_LEGEND, *table([*head, *columns], rows)]


def _met(q: Question) -> str:
    if isinstance(q.goal, str):
        return ""
    if round(mean(q.means), 3) <= q.goal:
        return "yes"
    return "no, below the floor" if q.goal < round(mean(q.floors), 3) else "no"


def in_brief(asked: Sequence[Question]) -> list[str]:
    """The README's table: a row a task, budgets side by side."""
    by_task: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for q in asked:
        by_task[q.kind, q.task].append(q)
    rows = [
        [
            f"{kind}, `{task}`", " / ".join(f"{mean(q.means):.3f}{q.mark}" if q.means else "–" for q in found),
            " / ".join(str(len(q.means)) for q in found),
            " / ".join(f"{q.published:.3f}" if isinstance(q.published, float) else "–" for q in found),
        ]
        for (kind, task), found in by_task.items()
    ]  # fmt: skip
    return table(["C2ST at 1,000 / 10,000 / 100,000 simulations", "fsimformer", "seeds", "Simformer, published"], rows)


def _published(kind: str, task: str, k: int) -> tuple[float | str, float | str, float | str]:
    """At the k-th budget: the goal, the better masked Simformer, the best of the others; "" = none was printed."""
    values = {name: by_task[task] for name, by_task in PUBLISHED[kind].items() if task in by_task}
    goals = values.pop("goal", ())
    goal: float | str = goals[k] if len(goals) == len(BUDGETS) else goals[0] if goals and BUDGETS[k] == 10_000 else ""
    masked = [v[k] for name, v in values.items() if "undirected" in name]
    beside = [v[k] for name, v in values.items() if "undirected" not in name]
    return goal, min(masked, default=""), min(beside, default="")


def published_protocol(records: Sequence[dict[str, Any]], cells: Sequence[dict[str, Any]]) -> list[str]:
    """All cells of `published_protocol.py`, beside what the same network has by the suite's own protocol.

    Args:
        records, cells: whole records, of that script and of `sbibm.py`.
    """
    known = {
        (c["results"]["task"], c["results"]["simulations"], c["results"]["variant"], c["seed"]): c["results"]
        for c in cells
    }  # fmt: skip
    rows: list[list[object]] = []
    for record in sorted(records, key=lambda record: record["name"]):
        r = record["results"]
        whole = r["kind"] == "posterior"
        theirs, way = (r["whole"], f"n = {r['n']:,}") if whole else (r, "published masks")
        suite = known.get((r["task"], r["simulations"], r["variant"], record["seed"]), {}).get(r["kind"])
        rows.append([
            r["kind"], r["task"], f"{r['simulations']:,}", record["seed"], suite["c2st_rf"]["mean"] if suite else "",
            r["slices"]["mean"] if whole else "", way, theirs["mean"], theirs["standard_error"], r["floor"],
            _published(r["kind"], r["task"], BUDGETS.index(r["simulations"]))[1],
        ])  # fmt: skip
    head = "question, task, simulations, seed, in sbibm, in ten slices, the published protocol, ours by it, se, floor"
    return [
        "The same networks, one seed each. In `sbibm`: against the first 1,000 exact draws. In ten slices: these 1,000 "
        "and nine other, each against 1,000 of the draws of the next column. Floors of posteriors: 5,000 of the "
        "reference against the other 5,000. Conditionals by the published masks at n = 1,000; published: 10,000.\n",
        *table([*head.split(", "), "published Simformer"], rows),
    ]
