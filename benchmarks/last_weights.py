"""Which weights of a run to keep: those of the lowest held-out loss, or those of its end? Both on fresh simulations.

A run looks at its held-out rows dozens of times, and the lowest of so many noisy losses is low by luck as well. Here
both are asked on 65,536 simulations that nobody has seen, with the same noise, in blocks whose differences give the
standard error. `fit` decides on more of its held-out rows with other noise (train.py); `kept` is what it decided.

    python benchmarks/last_weights.py tree 100000 --variant patient --seed 1    # of a cell that is in runs/
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import torch
from record import ROOT, save
from safetensors import safe_open
from safetensors.torch import load_file
from sbibm import BUDGETS, SIMULATORS, VARIANTS, name_of, settings
from torch import Tensor

import fsimformer as fsf
from fsimformer.batches import observed_rows
from fsimformer.convert import is_parameter
from fsimformer.ranges import whitened_limits
from fsimformer.readings import read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators.protocol import plausible_ranges
from fsimformer.tokens import TokenBatch
from fsimformer.train import held_out_loss
from fsimformer.train_plan import TrainPlan

N_BLOCKS, BLOCK, SEED = 64, 1_024, 987_654  # a seed of no training


def fresh_rows(joint: fsf.Joint, task: str, chosen: dict[str, Any], block: int) -> TokenBatch:
    """Rows of new simulations, masked as those of training."""
    simulator, model, config = SIMULATORS[task](), joint.model, chosen["config"]
    schema = simulator.schema
    plan = TrainPlan.of(schema, config, chosen["network"], None, None, model.dependency, "default", None, None)
    values = simulate(simulator, BLOCK, generator_at(SEED, 0, block)).values
    store = build_store(schema, model.whitening, values, (), model.spread)

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        return read(store, torch.arange(n), plan.design, generator)

    keep = plan.scalar if model.dependency != "dense" else None
    limits = whitened_limits(schema, model.whitening, plausible_ranges(simulator))
    rest = is_parameter(schema), chosen["masks"], config.max_latents, generator_at(SEED, 1, block), keep, limits
    return observed_rows(rows, BLOCK, *rest)


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
    folder = ROOT / "runs" / name_of(args.task, args.budget, args.seed, args.variant)
    path = folder.with_name(f"{folder.name}.safetensors")
    if not (folder.exists() and path.exists()):
        parser.error(f"{folder}: expected the network and its checkpoint there; train it by sbibm.py first.")
    joint, chosen, checkpoint = fsf.load(folder), settings(args.budget, args.seed, args.variant), load_file(path)
    with safe_open(path, framework="pt") as file:
        run = json.loads(file.metadata()["fsimformer"])["run"]
    levels, kinds = chosen.get("levels", fsf.NoiseLevels()), ("best", "ema", "model")
    loss = {k: np.zeros(N_BLOCKS) for k in kinds}
    for block in range(N_BLOCKS):
        rows = fresh_rows(joint, args.task, chosen, block)
        for k in kinds:
            weights = part(checkpoint, k)
            loss[k][block] = held_out_loss(joint.model.denoiser, weights, rows, levels, chosen["config"], (1, 4, block))
    difference = {k: loss[k] - loss["best"] for k in kinds[1:]}
    results = {
        "task": args.task, "simulations": args.budget, "variant": args.variant, "n": N_BLOCKS * BLOCK,
        "n_blocks": N_BLOCKS, "lowest_step": run["best_step"], "end_step": run["step"], "lowest": loss["best"].mean(),
        "end_minus_lowest": {k: d.mean() for k, d in difference.items()},
        "standard_error": {k: d.std(ddof=1) / N_BLOCKS**0.5 for k, d in difference.items()},
        "kept": "end" if joint.provenance["best_step"] == run["step"] else "lowest",
    }  # fmt: skip
    print(save(f"last_weights/{args.task}_{args.budget}_{args.variant}_{args.seed}", args.seed, results))


if __name__ == "__main__":
    main()
