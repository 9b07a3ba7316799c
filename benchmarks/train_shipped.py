"""Rebuilds a model that ships: `python benchmarks/train_shipped.py lotka_volterra`. The seed and the budget stand here.

One process, one thread a model; a killed run resumes from its checkpoint. CPU seconds are in the model's card.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

import fsimformer as fsf
from fsimformer.nn import NetworkConfig
from fsimformer.simulators import SIRD, HareLynx, LotkaVolterra, Simulator
from fsimformer.train import Progress, TrainConfig

ROOT = Path(__file__).resolve().parents[1]

# A fifth of a million weights: on two shared cores more steps of a smaller network beat fewer of a larger one.
NETWORK = NetworkConfig(width=64, depth=5, n_heads=4)


def recipe(steps: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch_size=64, n_micro=4, seed=1)


RECIPES: dict[str, tuple[Simulator, int, TrainConfig]] = {
    "lotka_volterra": (LotkaVolterra(), 100_000, recipe(13_000)),
    "hare_lynx": (HareLynx(), 150_000, recipe(13_000)),
    "sird": (SIRD(), 150_000, recipe(9_000)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=ROOT / "fsimformer" / "models")
    parser.add_argument("--device", default="cpu", help="where the network trains, e.g. cuda")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="checkpoints and logs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    simulator, simulations, config = RECIPES[args.model]
    recent: list[float] = []
    started = time.time()

    def report(p: Progress) -> None:
        recent.append(p.loss)
        if p.step % 100 == 0 or p.validation is not None:
            line = f"{p.step} {sum(recent) / len(recent):.4f} {p.validation} {time.time() - started:.0f}s"
            print(line, file=sys.stderr, flush=True)
            recent.clear()

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    joint = fsf.train(
        simulator,
        simulations=simulations,
        config=config,
        network=NETWORK,
        device=args.device,
        checkpoint=args.runs / f"{args.model}.safetensors",
        callback=report,
        provenance={"script": "benchmarks/train_shipped.py", "commit": commit},
    )
    joint.save(args.out / args.model)


if __name__ == "__main__":
    main()
