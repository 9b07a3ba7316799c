"""Peers side by side: sbi's methods, GenSBI and ours, on the same simulations, observations and single core.

Each peer runs from its own package with that package's defaults; ours is the configuration of sbibm.py, one for all
tasks, which is told the simulator's graph, the same without it (`dense`), and `fsimformer.sbi` with its defaults.
Nothing is tuned on the metric.
Simulations are drawn once a task, budget and seed; ABC draws the budget's number anew for each observation, since its
simulations follow the observation. Reported: C2ST (RF and sbibm's MLP, n = 1,000) over sbibm's ten observations, and
CPU seconds on one thread for training and for 10 × 1,000 draws. A method that fails or passes the limit has a row that
says so.

    python benchmarks/peers.py npe two_moons 1000 --seed 0      # one cell
    python benchmarks/peers.py --all                            # every missing cell; failed ones are kept as they are
    python benchmarks/peers.py npe two_moons 1000 --score       # the metrics anew, from the draws in runs/peers

Packages: benchmarks/requirements.txt; GenSBI in an environment of its own (requirements-jax.txt), given by
`--jax-python PATH` or the variable PEERS_JAX_PYTHON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import ROOT, measured, save
from references import sbibm_observations
from sbibm import SIMULATORS

from fsimformer.diagnostics import Classifier, c2st
from fsimformer.seeds import generator_at
from fsimformer.simulations import simulate

SBI = ("npe", "nle", "nre", "npse", "fmpe", "mcabc", "smcabc")
OURS = ("fsimformer", "fsimformer_dense", "fsimformer_sbi")
SCRIPTS = {
    **dict.fromkeys(SBI, "peers_sbi.py"), "gensbi": "peers_gensbi.py", **dict.fromkeys(OURS, "peers_ours.py")
}  # fmt: skip
TASKS = ("two_moons", "slcp")
BUDGETS = (1_000, 10_000)
N = 1_000
CLASSIFIERS: tuple[Classifier, ...] = ("rf", "mlp")
WALL = 30  # wall seconds a CPU second may take: a core may be shared
CACHE = ROOT / "runs" / "peers"
ONE_THREAD = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")},
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


def simulations(task: str, budget: int, seed: int) -> Path:
    """The file that every method of one task, budget and seed reads."""
    path = CACHE / f"simulations_{task}_{budget}_{seed}.npz"
    if not path.exists():
        drawn = simulate(SIMULATORS[task](), budget, generator_at(seed, 2, 0)).values  # those of sbibm.py's networks
        observations = np.stack([x for x, _ in sbibm_observations(task)])
        CACHE.mkdir(parents=True, exist_ok=True)
        np.savez(path, task=task, theta=drawn["theta"].numpy(), x=drawn["x"].numpy(), observations=observations)
    return path


def scores(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Both C2STs of each (reference, draws), with mean and standard error over the observations."""
    out: dict[str, Any] = {}
    for name in CLASSIFIERS:
        values = np.array([c2st(a, b, classifier=name) for a, b in pairs])
        out[f"c2st_{name}"] = [round(float(v), 4) for v in values]
        out[f"c2st_{name}_mean"] = float(values.mean())
        out[f"c2st_{name}_se"] = float(values.std(ddof=1) / len(values) ** 0.5)
    return out


def floor(task: str) -> dict[str, Any]:
    """Reference draws against other reference draws."""
    path = CACHE / f"floor_{task}.json"
    if not path.exists():
        pairs = [(reference[:N], reference[N : 2 * N]) for _, reference in sbibm_observations(task)]
        path.write_text(json.dumps(scores(pairs)))
    return json.loads(path.read_text())


def run(method: str, task: str, budget: int, seed: int, python: str, limit: float) -> tuple[str | None, Path]:
    """Trains and draws in a process of its own; returns the reason of a failure, or None, and the file of draws."""
    source, stem = simulations(task, budget, seed), CACHE / f"{task}_{budget}_{method}_{seed}"
    target = stem.with_suffix(".npz")
    target.unlink(missing_ok=True)
    command = [python, str(Path(__file__).parent / SCRIPTS[method]), method, str(source), str(target), str(seed)]

    def limit_cpu() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))

    with open(stem.with_suffix(".log"), "w") as log:
        try:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | ONE_THREAD,
                preexec_fn=limit_cpu, timeout=WALL * limit, cwd=CACHE,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"over the limit of {WALL * limit / 60:.0f} wall minutes", target
    if done.returncode == 0:
        return None, target
    lines = stem.with_suffix(".log").read_text().strip().splitlines()
    if done.returncode in (-24, -9):  # SIGXCPU; SIGKILL five seconds later
        far = f"after {len(np.load(target)['draws'])} of 10 observations" if target.exists() else "while training"
        return f"over the limit of {limit / 60:.0f} CPU minutes {far}", target
    return "failed: " + (lines[-1][:300] if lines else f"exit code {done.returncode}"), target


def cell(method: str, task: str, budget: int, seed: int, python: str, limit: float, score: bool = False) -> None:
    target = CACHE / f"{task}_{budget}_{method}_{seed}.npz"
    failure = None
    if not score:
        failure, target = run(method, task, budget, seed, python, limit)
    elif not target.exists():
        raise SystemExit(f"--score: no draws kept in {target}; run this cell without --score first.")
    results: dict[str, Any] = {
        "method": method, "task": task, "simulations": budget, "n": N, "limit_cpu_seconds": limit,
        "simulations_for_each_observation": method.endswith("abc"),
    }  # fmt: skip
    packages: dict[str, str] = {}
    if target.exists():
        found = np.load(target)
        packages = json.loads(str(found["versions"]))
        results["train_cpu_seconds"] = round(float(found["train_cpu_seconds"]), 2)
        results["sample_cpu_seconds"] = [round(float(s), 2) for s in found["sample_cpu_seconds"]]
    if failure:
        results["failure"] = failure
    else:
        references = [reference[:N] for _, reference in sbibm_observations(task)]
        results |= scores(list(zip(references, found["draws"], strict=True)))
    results["floor"] = floor(task)
    print(failure or "", save(f"peers_{task}_{budget}_{method}_{seed}", seed, results, packages), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=SCRIPTS, nargs="?")
    parser.add_argument("task", choices=TASKS, nargs="?")
    parser.add_argument("budget", type=int, nargs="?", help="simulations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every cell of the seed that has no result yet")
    parser.add_argument("--score", action="store_true", help="only compute the metrics anew from the draws kept")
    parser.add_argument("--limit", type=float, default=3600, help="CPU seconds a cell may train and draw")
    parser.add_argument("--jax-python", default=os.environ.get("PEERS_JAX_PYTHON", sys.executable))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.all:
        cells = [(m, t, b) for b in BUDGETS for t in TASKS for m in SCRIPTS]
        cells = [c for c in cells if not measured(f"peers_{c[1]}_{c[2]}_{c[0]}_{args.seed}")]
    elif args.budget:
        cells = [(args.method, args.task, args.budget)]
    else:
        parser.error("name a method, a task and a budget, or --all")
    for method, task, budget in cells:
        python = args.jax_python if method == "gensbi" else sys.executable
        cell(method, task, budget, args.seed, python, args.limit, args.score)


if __name__ == "__main__":
    main()
