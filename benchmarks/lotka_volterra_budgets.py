"""Posterior of Lotka-Volterra by number of simulations: C2ST against exact draws.

One configuration for all budgets, but for the length of a training, as in sbibm.py: at most 12,000 steps, and 30,000
of the variant `patient`, which is the suite's at 100,000 simulations (the loss still fell at 12,000). Masks, noise
levels and network are those of the model that ships (train_shipped.py): every conditional is trained, posteriors in
every second row, on 20 + 20 readings at uniform times; a simulation is read at new times, with new noise, whenever it
is drawn. RF C2ST at n = 1,000 on the ten data sets of lotka_volterra.py against importance sampling, with its floor;
the loss of the parameters on 1,024 fresh simulations (held_out.py), and CPU seconds of training on one thread. A killed
run resumes from its checkpoint in runs/.

    python benchmarks/lotka_volterra_budgets.py 10000 --seed 0
    python benchmarks/lotka_volterra_budgets.py 100000 --seed 0 --variant patient
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from held_out import posterior_loss, posterior_rows
from lotka_volterra import against_exact
from networks import kept
from record import save
from sbibm import seed_of
from tables_sbibm import BUDGETS
from train_shipped import MORE_POSTERIORS, NETWORK, WIDE

import fsimformer as fsf
from fsimformer.simulators import LotkaVolterra

N, N_READINGS = 1_000, 20
SIMULATOR = LotkaVolterra(reference=())  # no functions beneath the readings: nobody asks for them here
DESIGN = fsf.Design((N_READINGS, N_READINGS), skew=0.0, shared=0.0, regular=0.0, window=0.0)

VARIANTS = {"default": (12_000, 8), "patient": (30_000, 15)}
"""Steps at most, and patience."""


def settings(budget: int, seed: int, variant: str) -> dict[str, Any]:
    """Arguments of `fsimformer.train`."""
    steps, patience = VARIANTS[variant]
    config = fsf.TrainConfig(
        steps=steps, batch_size=64, n_micro=4, pool=4, level_tokens=64, ema=0.995, cooldown=0.3, validate_every=500,
        patience=patience, min_gain=5e-4, dial=(("few", 1.0),), seed=seed,
    )  # fmt: skip
    return {
        "simulations": budget, "config": config, "network": NETWORK, "design": DESIGN, "masks": MORE_POSTERIORS,
        "levels": WIDE,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("budget", type=int, choices=BUDGETS, help="simulations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, default="default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    of_variant = "" if args.variant == "default" else f"{args.variant}_"
    name = f"lotka_volterra_budgets/{args.budget}_{of_variant}{args.seed}"
    joint = kept(name, SIMULATOR, settings(args.budget, args.seed, args.variant))
    loss, error = posterior_loss(joint, posterior_rows(joint, SIMULATOR, DESIGN), "few", 4)
    card = joint.provenance
    results = {
        "simulations": args.budget, "variant": args.variant,
        **against_exact(joint, N, [seed_of(args.seed, i) for i in range(10)]),
        "posterior_loss": loss, "standard_error": error,
        **{k: card[k] for k in ("steps", "best_step", "kept")}, "train_cpu_seconds": card["cpu_seconds"],
    }  # fmt: skip
    print(save(name, args.seed, results))


if __name__ == "__main__":
    main()
