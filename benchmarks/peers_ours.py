"""fsimformer as a peer among peers, run by peers.py (see peers_fit.py for the files)."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import torch
from peers_fit import Fit, Problem, Sampler, Trained, serve
from sbibm import SIMULATORS, posterior_draws, seed_of, trained

from fsimformer.sbi import Simformer
from fsimformer.seeds import generator_at
from fsimformer.simulations import simulate


def ours(problem: Problem, variant: str = "default") -> Trained:
    """The network of benchmarks/sbibm.py for this task, budget and seed, from runs/ or trained now; its card's seconds.

    `variant`: of sbibm.py; "dense" is told nothing of the simulator's graph, as its peers are not.

    Raises:
        ValueError: sbibm.py trains on other simulations than `problem` holds.
    """
    n = len(problem.theta)
    mine = simulate(SIMULATORS[problem.task](), n, generator_at(problem.seed, 2, 0)).values
    for name, theirs in (("theta", problem.theta), ("x", problem.x)):
        if not np.array_equal(mine[name].numpy(), theirs):
            raise ValueError(f"fsimformer: {name} of the {n} simulations are not those of sbibm.py; remove runs/peers.")
    joint = trained(problem.task, n, problem.seed, variant)
    pair = itertools.count()  # observations come in their order, each with noise of its own

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        return posterior_draws(joint, observation, n, seed_of(problem.seed, next(pair)))

    sampler: Sampler = sample
    return Trained(sampler, joint.provenance["cpu_seconds"])


def face(problem: Problem) -> Sampler:
    """`fsimformer.sbi.Simformer` with its defaults, every scalar a variable, as a caller of sbi would write it."""
    d, n_variables = problem.theta.shape[1], problem.theta.shape[1] + problem.x.shape[1]
    inference = Simformer(
        posterior_latent_idx=range(d), posterior_observed_idx=range(d, n_variables), seed=problem.seed
    )
    inference.append_simulations(np.concatenate([problem.theta, problem.x], axis=1)).train()
    posterior = inference.build_posterior()
    pair = itertools.count()

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        return posterior.sample((n,), x=observation, seed=seed_of(problem.seed, next(pair))).numpy()

    return sample


if __name__ == "__main__":
    torch.set_num_threads(1)
    fits: dict[str, Fit] = {
        "fsimformer": ours,
        "fsimformer_dense": partial(ours, variant="dense"),
        "fsimformer_sbi": face,
    }
    serve(fits, ("fsimformer", "torch"))
