"""GenSBI's Simformer (JAX) with its EDM diffusion, run by peers.py (see peers_fit.py for the files). Needs no torch.

The package's default network and training configuration, posterior masks, EDM sampler with its 18 steps, EMA weights;
theta and x standardised, as the package expects. Only the number of steps is ours: its default of 50,000 takes hours on
a core, so training gets `STEPS` of a batch of 64 (the package names no batch size), decaying where its schedule does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx
from gensbi.recipes import SimformerDiffusionPipeline
from peers_fit import Problem, Sampler, serve

STEPS, BATCH = 4_000, 64
VALIDATION = 0.1  # share of the simulations


def batches(data: np.ndarray, rng: np.random.Generator) -> Iterator[jax.Array]:
    while True:
        yield jax.numpy.asarray(data[rng.integers(len(data), size=BATCH)])


def simformer_edm(problem: Problem) -> Sampler:
    joint = np.concatenate([problem.theta, problem.x], 1)
    mean, sd = joint.mean(0), joint.std(0)
    data = ((joint - mean) / sd).astype(np.float32)[..., None]  # (n, tokens, 1)
    n_theta, n_validation = problem.theta.shape[1], int(VALIDATION * len(data))
    rng = np.random.default_rng(problem.seed)
    config = SimformerDiffusionPipeline.get_default_training_config()
    config |= {"nsteps": STEPS, "checkpoint_dir": tempfile.mkdtemp()}
    pipeline = SimformerDiffusionPipeline(
        batches(data[n_validation:], rng), batches(data[:n_validation], rng), n_theta, problem.x.shape[1],
        training_config=config, condition_mask_kind="posterior",
    )  # fmt: skip
    rngs = nnx.Rngs(problem.seed)
    pipeline.train(rngs, save_model=False)

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        x = ((observation - mean[n_theta:]) / sd[n_theta:]).astype(np.float32)[None, :, None]
        drawn = np.asarray(pipeline.sample(rngs.sample(), jax.numpy.asarray(x), nsamples=n))[..., 0]
        return drawn * sd[:n_theta] + mean[:n_theta]

    return sample


if __name__ == "__main__":
    serve({"gensbi": simformer_edm}, ("gensbi", "jax", "jaxlib", "flax", "optax", "numpy"))
