"""Dependency masks where variables are functions: dense, the moral graph, and the moral graph in the order of time.

lotka_volterra: its paths follow from the four rates, so that readings are independent given them ("undirected": a
reading attends to the rates and to itself). sird: a series at t hangs on the contact rate up to t ("causal").
"baseline": dense, and told the best linear estimate (gaussian.py); the others are not. One network a cell, equal steps
and equal seeds. Reported: the loss of the parameters given 20 readings a series on 1,024 held-out rows (1 = nothing
learned; same rows, levels and noise in every cell of a model), for lotka_volterra RF C2ST at n = 1,000 on the ten data
sets of lotka_volterra.py as well, and CPU seconds of training. gaussian_linear, slcp and hmm, dense against the moral
graph, are variants of sbibm.py.

    python benchmarks/dependency.py lotka_volterra 10000 undirected --seed 0
    python benchmarks/dependency.py --all
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from typing import Any

import torch
from held_out import N_ROWS, posterior_loss, posterior_rows
from lotka_volterra import against_exact
from record import measured, save
from sbibm import seed_of
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.simulators import SIRD, FunctionSimulator, LotkaVolterra
from fsimformer.simulators.protocol import natural_functions

N, N_READINGS = 1_000, 20
CELLS = {
    "lotka_volterra": ("dense", "undirected", "baseline"),
    "sird": ("dense", "undirected", "causal", "baseline"),
}
BUDGETS = (1_000, 10_000)
CONFIG = fsf.TrainConfig(
    steps=1_200, batch_size=64, n_micro=4, pool=4, warmup=100, ema=0.995, cooldown=0.3, validate_every=100, patience=4,
    dial=(("few", 1.0),),
)  # fmt: skip


def simulator_named(name: str) -> FunctionSimulator:
    """The simulator with what its schema leaves open: its series follow from their parents, and from their past."""
    simulator = (LotkaVolterra if name == "lotka_volterra" else SIRD)(reference=())  # masks take no reference sets
    variables = []
    for v in simulator.schema.variables:
        if v.role == "data":
            functions = tuple(p for p in v.parents if simulator.schema.is_function(p))
            v = replace(v, determined=True, past_of=functions)
        variables.append(v)
    schema = fsf.Schema(tuple(variables), simulator.schema.dims)
    return FunctionSimulator(schema, simulator.simulate, simulator.grid, natural=natural_functions(simulator))


def cell(name: str, budget: int, dependency: str, seed: int) -> None:
    torch.set_num_threads(1)
    simulator = simulator_named(name)
    config = replace(CONFIG, seed=seed)
    told = dependency == "baseline"
    mask = "dense" if told else dependency
    joint = fsf.train(simulator, simulations=budget, config=config, network=NETWORK, dependency=mask, baseline=told)
    schema = simulator.schema
    n_max = tuple(N_READINGS for v in schema.variables if schema.is_function(v.name) for _ in schema.ids(v.name))
    design = fsf.Design(n_max, skew=0.0, shared=0.0, regular=0.0, window=0.0)
    loss, error = posterior_loss(joint, posterior_rows(joint, simulator, design), "few", 4)
    results: dict[str, Any] = {
        "model": name, "simulations": budget, "dependency": dependency, "posterior_loss": loss,
        "standard_error": error, "n_rows": N_ROWS, "steps": joint.provenance["steps"],
        "train_cpu_seconds": joint.provenance["cpu_seconds"],
    }  # fmt: skip
    if name == "lotka_volterra":
        scored = against_exact(joint, N, [seed_of(seed, i) for i in range(10)])
        results |= {k: scored[k] for k in ("n", "c2st_rf", "c2st_standard_error", "floor")}
    print(save(f"dependency/{name}_{budget}_{dependency}_{seed}", seed, results), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CELLS, nargs="?")
    parser.add_argument("budget", type=int, choices=BUDGETS, nargs="?")
    parser.add_argument("dependency", choices=("dense", "undirected", "causal", "baseline"), nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every missing cell")
    args = parser.parse_args()
    if args.all:
        for name, budget in itertools.product(CELLS, BUDGETS):
            for dependency in CELLS[name]:
                if not measured(f"dependency/{name}_{budget}_{dependency}_{args.seed}"):
                    cell(name, budget, dependency, args.seed)
    elif args.dependency:
        cell(args.model, args.budget, args.dependency, args.seed)
    else:
        parser.error("name a model, a budget and a dependency, or --all")


if __name__ == "__main__":
    main()
