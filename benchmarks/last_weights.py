"""Which weights of a run to keep: those of the lowest held-out loss, or those of its end? Both on fresh simulations.

A run looks at its held-out rows dozens of times, and the lowest of so many noisy losses is low by luck as well. Here
both are asked on 65,536 simulations that nobody has seen, with the same noise; the difference has a standard error over
batches. `fit` keeps the end's unless they are clearly worse on its own held-out rows (`train.clear`).

    python benchmarks/last_weights.py tree 100000 --variant patient --seed 1    # of a cell with a checkpoint in runs/
"""

from __future__ import annotations

import argparse
import copy
import json
from typing import Any

import numpy as np
import torch
from record import ROOT, save
from safetensors import safe_open
from safetensors.torch import load_file
from sbibm import BUDGETS, MASKS, SIMULATORS, VARIANTS, name_of, settings, trained
from torch import Tensor

import fsimformer as fsf
from fsimformer.batches import observed_rows
from fsimformer.convert import is_parameter
from fsimformer.denoise import Denoiser
from fsimformer.devices import Group
from fsimformer.ranges import whitened_limits
from fsimformer.readings import read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators.protocol import plausible_ranges
from fsimformer.tokens import TokenBatch
from fsimformer.train import held_out_losses
from fsimformer.train_plan import TrainPlan

N, SEED = 65_536, 987_654  # of no training


def fresh_rows(joint: fsf.Joint, task: str, chosen: dict[str, Any]) -> TokenBatch:
    """Rows of new simulations, masked as those of training."""
    simulator, model, config = SIMULATORS[task](), joint.model, chosen["config"]
    schema = simulator.schema
    plan = TrainPlan.of(schema, config, chosen["network"], None, None, model.dependency, "default", None, None)
    values = simulate(simulator, N, generator_at(SEED, 0)).values
    store = build_store(schema, model.whitening, values, (), model.spread)

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        return read(store, torch.arange(n), plan.design, generator)

    keep = plan.scalar if model.dependency != "dense" else None
    limits = whitened_limits(schema, model.whitening, plausible_ranges(simulator))
    return observed_rows(
        rows, N, is_parameter(schema), MASKS, config.max_latents, generator_at(SEED, 1), keep, limits, None, None
    )


def losses(denoiser: Denoiser, weights: dict[str, Tensor], rows: TokenBatch, chosen: dict[str, Any]) -> np.ndarray:
    """What each batch of rows adds to the loss of these weights."""
    asked = copy.deepcopy(denoiser)
    own, levels = dict(asked.named_parameters()), chosen.get("levels", fsf.NoiseLevels())
    return np.array(held_out_losses(asked, own, rows, levels, chosen["config"], True, Group(), weights))


def part(checkpoint: dict[str, Tensor], which: str) -> dict[str, Tensor]:
    """Weights of one kind: "best", of the lowest held-out loss; "ema", the last averaged ones; "model", the last."""
    return {k.removeprefix(f"{which}/"): v for k, v in checkpoint.items() if k.startswith(f"{which}/")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SIMULATORS)
    parser.add_argument("budget", type=int, choices=BUDGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, default="default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = args.task, args.budget, args.seed, args.variant
    joint, chosen = trained(*cell), settings(args.budget, args.seed, args.variant)
    path = ROOT / "runs" / f"{name_of(*cell)}.safetensors"
    with safe_open(path, framework="pt") as file:
        run = json.loads(file.metadata()["fsimformer"])["run"]
    kept = load_file(path)
    rows = fresh_rows(joint, args.task, chosen)
    each = {which: losses(joint.model.denoiser, part(kept, which), rows, chosen) for which in ("best", "ema", "model")}
    d = {which: each[which] - each["best"] for which in ("ema", "model")}
    results = {
        "task": args.task, "simulations": args.budget, "variant": args.variant, "n": N, "n_batches": len(each["best"]),
        "lowest_step": run["best_step"], "end_step": run["step"],
        "lowest": float(each["best"].sum()),
        "end_minus_lowest": {k: float(x.sum()) for k, x in d.items()},
        "standard_error": {k: float(x.std(ddof=1) * len(x) ** 0.5) for k, x in d.items()},
    }  # fmt: skip
    print(save(f"last_weights/{args.task}_{args.budget}_{args.variant}_{args.seed}", args.seed, results))


if __name__ == "__main__":
    main()
