"""Padding: the share of a training step's token slots that hold nothing.

Batches as training draws, sorts and cuts them (a pool of steps, micro-batches of similar rows), of the recipes of the
shipped models and of the tasks in speed.py, with the default pool; `N_POOLS` of them each. A slot is a token of the
frozen stream, or one of the active stream at one noise level; "unsorted" is the same with the rows of a step in one
batch, as they come.

    python benchmarks/padding.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from record import no_arguments, save
from speed import training_steps
from train_shipped import RECIPES

import fsimformer as fsf
from fsimformer.batches import deal, micro_batches, observed_rows
from fsimformer.convert import is_parameter, is_residual
from fsimformer.masks import MaskConfig
from fsimformer.noised import Noised
from fsimformer.readings import Design, read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, default_design, simulate
from fsimformer.simulators import Simulator
from fsimformer.simulators.protocol import natural_functions
from fsimformer.tokens import TokenBatch
from fsimformer.train import TrainConfig
from fsimformer.whiten import Whitening

N_POOLS, N_SIMULATIONS = 5, 1_000


def slots(batches: list[TokenBatch], config: TrainConfig, generator: torch.Generator) -> tuple[int, int]:
    """(slots, filled slots) of the network's input."""
    total = filled = 0
    for batch in batches:
        part = Noised.draw(batch, fsf.NoiseLevels(), config, fsf.NetworkConfig(), generator)
        n_levels = part.epsilon.shape[1]
        total += part.n_rows * part.row_tokens
        filled += int(part.streams.frozen.valid.sum()) + n_levels * int(part.streams.active.valid.sum())
    return total, filled


def waste(simulator: Simulator, config: TrainConfig, masks: MaskConfig, design: Design | None) -> dict[str, float]:
    """Shares of empty slots over some pools, as trained and unsorted."""
    schema = simulator.schema
    values = simulate(simulator, N_SIMULATIONS, generator_at(0, 2, 0)).values
    store = build_store(schema, Whitening.fit(schema, values), values, natural_functions(simulator))
    design = design or default_design(schema)
    residual = is_residual(schema) if schema.references else None
    uses = torch.from_numpy(schema.uses_index())
    has_index = uses.any(1) if uses.any() else None  # as in training: what has no place is in no gap

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        return read(store, torch.randint(0, N_SIMULATIONS, (n,), generator=generator), design, generator)

    found = {"trained": [0, 0], "unsorted": [0, 0]}
    for pool in range(N_POOLS):
        n = config.pool * config.batch_size
        batch = observed_rows(
            rows,
            n,
            is_parameter(schema),
            masks,
            config.max_latents,
            generator_at(0, pool),
            is_residual=residual,
            has_index=has_index,
        )
        steps = deal(micro_batches(batch, config.pool * config.n_micro), config.pool)
        plain = [[batch.rows(slice(k, k + config.batch_size))] for k in range(0, n, config.batch_size)]
        for name, each in (("trained", steps), ("unsorted", plain)):
            for k, step in enumerate(each):
                total, filled = slots(step, config, generator_at(0, 3, pool, k))
                found[name][0] += total
                found[name][1] += filled
    return {name: 1 - filled / total for name, (total, filled) in found.items()}


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, recipes in RECIPES.items():
        recipe = recipes[-1]
        config = replace(recipe.config, pool=TrainConfig.pool)  # the default of today, not of that day
        rows.append({"task": name, **waste(recipe.simulator, config, recipe.masks, recipe.design)})
        print(rows[-1], flush=True)
    for name, arguments in training_steps().items():
        config = replace(TrainConfig(steps=30, **arguments["config"]), pool=TrainConfig.pool)
        rows.append({"task": name, **waste(arguments["simulator"], config, MaskConfig(), arguments.get("design"))})
        print(rows[-1], flush=True)
    print(save("padding", 0, {"n": N_POOLS, "rows": rows}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
