"""What makes a step of training worth more: rotary attention, Muon, noise levels that share a context.

hare_lynx, 40,000 simulations, 800 steps of 64 rows, one thread. Reported: the loss of the parameters given 21 readings
a series on 1,024 held-out rows (1 = nothing learned; same rows, levels and noise for every variant), and CPU seconds.
The standard error is that over rows; the variants' differences are paired and vary less. One seed of training.

    python benchmarks/learning.py
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from record import save
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.learn import is_parameter
from fsimformer.readings import read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import HareLynx
from fsimformer.simulators.protocol import natural_functions
from fsimformer.tokens import TokenBatch, split

N_ROWS, N_READINGS = 1024, 21
FEW = fsf.TrainConfig(
    steps=800, batch_size=64, n_micro=4, warmup=100, ema=0.99, validate_every=200, n_validation=256,
    level_tokens=16, max_levels=4, seed=0,
)  # fmt: skip
MORE = replace(FEW, level_tokens=48, max_levels=8)
STILL = replace(NETWORK, rotary_frequency=0.0)
VARIANTS: dict[str, tuple[fsf.NetworkConfig, fsf.TrainConfig]] = {
    "AdamW": (STILL, replace(FEW, matrix_rate=0.0)),
    "AdamW, rotary": (NETWORK, replace(FEW, matrix_rate=0.0)),
    "Muon": (STILL, FEW),
    "Muon, rotary": (NETWORK, FEW),
    "Muon, rotary, more levels": (NETWORK, MORE),
}


def held_out(joint: fsf.Joint) -> TokenBatch:
    """Rows of a seed that training does not use: parameters latent, all readings observed."""
    simulator = HareLynx()
    drawn = simulate(simulator, N_ROWS, generator_at(99, 2, 0))
    store = build_store(simulator.schema, joint.model.whitening, drawn.values, natural_functions(simulator))
    design = fsf.Design((N_READINGS, N_READINGS), skew=0.0, shared=1.0, regular=0.0, window=0.0)
    rows = read(store, torch.arange(N_ROWS), design, generator_at(99, 0))
    return rows.replace(condition_mask=~is_parameter(simulator.schema)[rows.variable])


def posterior_loss(joint: fsf.Joint, rows: TokenBatch) -> tuple[float, float]:
    """The training loss of the parameters at eight noise levels a row, eight readings riding; its standard error."""
    generator, losses = generator_at(99, 1), []
    for start in range(0, N_ROWS, 64):
        streams = split(rows.rows(slice(start, start + 64)), 8, generator)
        log_ratio = fsf.NoiseLevels().draw((64, 8), generator)
        epsilon = torch.randn(64, 8, streams.active.shape[1], generator=generator)
        with torch.no_grad():
            losses.append(float(joint.model.denoiser.loss(streams, log_ratio, epsilon)))
    return float(np.mean(losses)), float(np.std(losses, ddof=1) / len(losses) ** 0.5)


def main() -> None:
    torch.set_num_threads(1)
    table = []
    for name, (network, config) in VARIANTS.items():
        joint = fsf.train(HareLynx(), simulations=40_000, config=config, network=network)
        loss, error = posterior_loss(joint, held_out(joint))
        seconds = joint.provenance["cpu_seconds"]
        table.append({"variant": name, "posterior_loss": loss, "standard_error": error, "cpu_seconds": seconds})
        print(table[-1], flush=True)
    print(save("learning", FEW.seed, {"n": N_ROWS, "steps": FEW.steps, "rows": table}))


if __name__ == "__main__":
    main()
