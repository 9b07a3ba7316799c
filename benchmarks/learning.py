"""What makes a step of training worth more: rotary attention, Muon, noise levels that share a context.

hare_lynx, 40,000 simulations, 800 steps of 64 rows, one thread. Reported: the loss of the parameters given 21 readings
a series on 1,024 held-out rows (1 = nothing learned; same rows, levels and noise for every variant), and CPU seconds.
The standard error is that over rows; the variants' differences are paired and vary less. One seed of training.

    python benchmarks/learning.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from held_out import N_ROWS, posterior_loss, posterior_rows
from record import no_arguments, save
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.simulators import HareLynx

DESIGN = fsf.Design((21, 21), skew=0.0, shared=1.0, regular=0.0, window=0.0)
FEW = fsf.TrainConfig(
    steps=800, batch_size=64, n_micro=4, pool=4, warmup=100, ema=0.99, validate_every=200, n_validation=256,
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


def main() -> None:
    torch.set_num_threads(1)
    table = []
    for name, (network, config) in VARIANTS.items():
        joint = fsf.train(HareLynx(), simulations=40_000, config=config, network=network)
        loss, error = posterior_loss(joint, posterior_rows(joint, HareLynx(), DESIGN), 8, 8)
        seconds = joint.provenance["cpu_seconds"]
        table.append({"variant": name, "posterior_loss": loss, "standard_error": error, "cpu_seconds": seconds})
        print(table[-1], flush=True)
    print(save("learning", FEW.seed, {"n": N_ROWS, "steps": FEW.steps, "rows": table}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
