"""fsimformer as a peer among peers, run by peers.py (see peers_fit.py for the files)."""

from __future__ import annotations

import numpy as np
import torch
from peers_fit import Problem, Sampler, serve

import fsimformer as fsf
from fsimformer.simulations import Simulations


def ours(problem: Problem) -> Sampler:
    """The one fixed configuration of benchmarks/sbibm.py, trained on `problem`'s simulations."""
    from sbibm import SIMULATORS, posterior_draws, settings

    rows = {"theta": torch.from_numpy(problem.theta), "x": torch.from_numpy(problem.x)}
    chosen = settings(len(problem.theta), problem.seed, "default") | {"simulations": Simulations(rows, 0)}
    joint = fsf.train(SIMULATORS[problem.task](), **chosen)

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        return posterior_draws(joint, observation, n, problem.seed)

    return sample


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve({"fsimformer": ours}, ("fsimformer", "torch"))
