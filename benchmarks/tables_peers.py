"""The section of benchmarks/README.md on peers: one table a task, from the records of `peers.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markdown import table

# name of a cell -> what the table calls it, and the package whose version it states
METHODS = {
    "npe": ("NPE (NSF)", "sbi"),
    "nle": ("NLE (MAF), slice MCMC", "sbi"),
    "nre": ("NRE-B, slice MCMC", "sbi"),
    "npse": ("NPSE (VE, SDE)", "sbi"),
    "fmpe": ("FMPE", "sbi"),
    "mcabc": ("rejection ABC, KDE *", "sbi"),
    "smcabc": ("SMC ABC, KDE *", "sbi"),
    "gensbi": ("Simformer, EDM †", "gensbi"),
    "fsimformer": ("ours", "fsimformer"),
    "fsimformer_dense": ("ours, dense", "fsimformer"),
    "fsimformer_sbi": ("ours, `fsimformer.sbi`", "fsimformer"),
}
BUDGETS = (1_000, 10_000)
NOTE = (
    "± is the standard error over the ten observations. Seconds are CPU seconds on one thread, 1k / 10k simulations. "
    "\\* the budget's number of simulations for each observation. † its number of training steps is cut to what a core "
    "does in minutes (peers_gensbi.py); its default is 50,000. Peers have their packages' defaults; ours is the "
    "configuration of sbibm.py, which is told the simulator's graph as an attention mask; `dense` is told nothing; "
    "`fsimformer.sbi` is that interface's own default: a smaller network, told nothing either. The row `ours` is "
    "older than those below it: second-order SDE, one noise for all ten observations, weights of the lowest held-out "
    "loss.\n"
)


def peers(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Accuracy and cost of every method; a cell that failed says why below its table."""
    out = [NOTE]
    for task in sorted({r["results"]["task"] for r in records}):
        cells: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
        reasons: dict[str, int] = {}
        for r in records:
            if r["results"]["task"] == task:
                cells.setdefault((r["results"]["method"], r["seed"]), {})[r["results"]["simulations"]] = r
        rows = []
        for (method, seed), by_budget in sorted(cells.items(), key=lambda c: (list(METHODS).index(c[0][0]), c[0][1])):
            label, package = METHODS[method]
            versions = {r["versions"][package] for r in by_budget.values() if package in r["versions"]}
            found = [by_budget[b]["results"] if b in by_budget else None for b in BUDGETS]
            rows.append([
                label, f"{package} {', '.join(sorted(versions))}".strip(), seed,
                *(accuracy(x, classifier, reasons) for classifier in ("rf", "mlp") for x in found),
                " / ".join(seconds(x, "train_cpu_seconds") for x in found),
                " / ".join(seconds(x, "sample_cpu_seconds") for x in found),
            ])  # fmt: skip
        floor = next(r["results"]["floor"] for r in records if r["results"]["task"] == task)
        head = ["method", "package", "seed", "RF, 1k", "RF, 10k", "MLP, 1k", "MLP, 10k", "training", "10 × 1,000 draws"]
        out += [
            f"`{task}`: C2ST, n = 1,000; floor RF {floor['c2st_rf_mean']:.3f}, MLP {floor['c2st_mlp_mean']:.3f}\n",
            *table(head, rows),
            *(f"({number}) {reason}\n" for reason, number in reasons.items()),
        ]
    return out


def accuracy(results: Mapping[str, Any] | None, classifier: str, reasons: dict[str, int]) -> str:
    """Mean ± standard error, a dash for a cell that was not run, or the number of the reason in `reasons`."""
    if results is None:
        return "–"
    if "failure" in results:
        return f"({reasons.setdefault(results['failure'], len(reasons) + 1)})"
    return f"{results[f'c2st_{classifier}_mean']:.3f} ± {results[f'c2st_{classifier}_se']:.3f}"


def seconds(results: Mapping[str, Any] | None, key: str) -> str:
    """CPU seconds; those of the draws are added over the ten observations."""
    if results is None or key not in results or ("failure" in results and key == "sample_cpu_seconds"):
        return "–"
    value = sum(results[key]) if isinstance(results[key], list) else results[key]
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"
