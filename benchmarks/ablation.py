"""What a choice is worth: each changed alone in the suite's configuration, at most 1,500 steps, equal seeds.

Score matching against flow matching, dependency masks against none, a linear baseline, Muon, EMA, weight decay, noise
levels, width, and the price of answering every conditional. Short trainings: what is told is which choice learns
faster, on equal simulations and equal batches; of converged networks it need not hold. RF C2ST at n = 1,000 over
sbibm's ten observations, for hmm over the first 20 conditionals of sbibm.py.

    python benchmarks/ablation.py --all --seed 0
    python benchmarks/ablation.py slcp 10000 flow --seed 0
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import torch
from record import measured, save
from sbibm import BUDGETS, SAMPLER, SIMULATORS, VARIANTS, conditional_pairs, posterior_pairs, scores, settings

import fsimformer as fsf
from fsimformer.sample import quality_named

STEPS, N_PROBLEMS = 1_500, 20
CELLS: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...] = (
    ("default", (10_000,), ("two_moons", "slcp", "gaussian_linear", "hmm")),
    ("flow", (10_000,), ("two_moons", "slcp", "gaussian_linear", "hmm")),
    ("dense", (10_000,), ("slcp", "gaussian_linear", "hmm")),
    ("default", (1_000,), ("two_moons", "slcp", "gaussian_linear", "hmm")),
    ("dense", (1_000,), ("slcp", "gaussian_linear", "hmm")),
    ("baseline", (1_000, 10_000), ("slcp", "gaussian_linear")),
    ("adamw", (10_000,), ("two_moons", "slcp")),
    ("no_ema", (10_000,), ("two_moons", "slcp")),
    ("near_levels", (10_000,), ("two_moons", "slcp")),
    ("width_96", (10_000,), ("two_moons",)),
    ("width_32", (1_000,), ("two_moons", "slcp")),
    ("posterior_only", (1_000, 10_000), ("two_moons", "slcp")),
    ("weight_decay", (1_000,), ("two_moons", "slcp")),
)
"""Variants of sbibm.py, at which budgets, on which tasks; what decides most comes first."""


def name_of(task: str, budget: int, variant: str, seed: int) -> str:
    return f"ablation/{task}_{budget}_{variant}_{seed}"


def cell(task: str, budget: int, variant: str, seed: int) -> None:
    torch.set_num_threads(1)
    chosen = settings(budget, seed, variant)
    chosen["config"] = replace(chosen["config"], steps=STEPS)
    joint = fsf.train(SIMULATORS[task](), **chosen)
    pairs = conditional_pairs(joint, task, N_PROBLEMS, seed) if task == "hmm" else posterior_pairs(joint, task, seed)
    card = joint.provenance
    results: dict[str, Any] = {
        "task": task, "simulations": budget, "variant": variant, "steps": card["steps"],
        "best_validation_loss": card["best_validation_loss"], "train_cpu_seconds": card["cpu_seconds"],
        "sampler": quality_named(SAMPLER).method, **scores(pairs, ("rf",)),
    }  # fmt: skip
    print(save(name_of(task, budget, variant, seed), seed, results), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SIMULATORS, nargs="?")
    parser.add_argument("budget", type=int, choices=BUDGETS, nargs="?")
    parser.add_argument("variant", choices=VARIANTS, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every missing cell")
    args = parser.parse_args()
    if args.all:
        for variant, budgets, tasks in CELLS:
            for budget in budgets:
                for task in tasks:
                    if not measured(name_of(task, budget, variant, args.seed)):
                        cell(task, budget, variant, args.seed)
    elif args.variant:
        cell(args.task, args.budget, args.variant, args.seed)
    else:
        parser.error("name a task, a budget and a variant, or --all")


if __name__ == "__main__":
    main()
