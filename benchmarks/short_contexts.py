"""What short observations lose by a network that can compress long ones: held-out loss against plain training.

The task `line` of long_context.py, rows of up to 256 readings, none of which needs compression; two trainings of equal
steps, rows and initial weights: plain, and with a quarter of the batches compressed to train the summary. Loss on the
same 2,000 held-out rows with the same noise, through the path that short rows take, which is the plain one; the
difference with its standard error over rows. Whether the difference is one of two seeds is seen from other seeds.

    python benchmarks/short_contexts.py --steps 1000 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from long_context import Line
from networks import kept, only
from record import save

import fsimformer as fsf
from fsimformer.readings import read
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.tokens import split

N_ROWS, N_MAX, LEVELS = 2_000, 256, 8


def trained(inducing: int, steps: int, seed: int) -> fsf.Joint:
    config = fsf.TrainConfig(
        steps=steps, batch_size=64, n_micro=2, pool=4, cooldown=0.4, ema=0.99, warmup=100, validate_every=200,
        n_validation=256, checkpoint_every=100, compressed=0.25, level_tokens=24, dial=(("few", 1.0),), seed=seed,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "simulations": 20_000, "config": config, "masks": only(posterior=1.0), "baseline": False,
        "network": fsf.NetworkConfig(width=32, depth=2, n_heads=4, inducing=inducing, compress_above=N_MAX),
        "design": fsf.Design((N_MAX,), skew=2.0),
    }  # fmt: skip
    return kept(f"short_contexts/{inducing}_{steps}_{seed}", Line(), settings)


def losses(joint: fsf.Joint) -> np.ndarray:
    """Of every row, (N_ROWS,): the same rows and noise for every network."""
    simulator, generator = Line(), generator_at(20261126, 7)
    drawn = simulate(simulator, N_ROWS, generator)
    store = build_store(simulator.schema, joint.model.whitening, drawn.values)
    batch = read(store, torch.arange(N_ROWS), fsf.Design((N_MAX,), skew=2.0), generator)
    batch = batch.replace(condition_mask=batch.valid & (batch.variable == 3))
    levels, out = fsf.NoiseLevels(), []
    with torch.no_grad():
        for i in range(N_ROWS):
            streams = split(batch.rows(slice(i, i + 1)), "few")
            log_ratio = levels.draw((1, LEVELS), generator)
            epsilon = torch.randn(1, LEVELS, 3, generator=generator)  # of the latents; few observed may ride beside
            wide = torch.zeros(1, LEVELS, streams.active.shape[1])
            wide[:, :, streams.active.latent[0]] = epsilon
            out.append(float(joint.model.denoiser.loss(streams, log_ratio, wide)))
    return np.array(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in args.seeds:
        joints = {name: trained(inducing, args.steps, seed) for name, inducing in (("plain", 0), ("compressing", 32))}
        found = {name: losses(joint) for name, joint in joints.items()}
        difference = found["compressing"] - found["plain"]
        rows.append({
            "seed": seed, **{name: float(x.mean()) for name, x in found.items()},
            "difference": float(difference.mean()), "standard_error": float(difference.std(ddof=1) / N_ROWS**0.5),
            "train_cpu_seconds": {name: joint.provenance["cpu_seconds"] for name, joint in joints.items()},
        })  # fmt: skip
        print(rows[-1], flush=True)
        save("short_contexts", args.seeds[0], {"steps": args.steps, "n": N_ROWS, "rows": rows})


if __name__ == "__main__":
    main()
