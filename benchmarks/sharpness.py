"""Where the suite's conditionals are lost: C2ST by sharpness, the smallest principal sd in marginal sds.

The smallest principal standard deviation of a conditional's reference draws, every id in units of its standard
deviation under the joint. Given its parameters a reading of slcp may have a ten-thousandth of its marginal spread, and
three of its hundred conditionals are sharper than .0009, where the noise levels of training end.

    python benchmarks/sharpness.py
"""

from __future__ import annotations

import numpy as np
import torch
from conditionals import SIMULATORS, Problem, draw_problems, reference
from record import no_arguments, save
from sbibm import N_PROBLEMS, N

N_JOINT = 20_000


def marginal_sd(task: str) -> np.ndarray:
    """(ids,) standard deviations under the joint."""
    simulator = SIMULATORS[task]()
    drawn = simulator.simulate(N_JOINT, torch.Generator().manual_seed(1))
    joint = np.concatenate([drawn[name].numpy().reshape(N_JOINT, -1) for name in simulator.schema.names], axis=1)
    return joint.std(0)


def sharpness(task: str, problem: Problem, sd: np.ndarray, seed: int) -> float:
    """The smallest principal sd of a conditional, in marginal sds."""
    draws = reference(task, problem, N, seed=seed) / sd[~problem.observed]
    return float(np.linalg.svd(draws - draws.mean(0), compute_uv=False)[-1] / (N - 1) ** 0.5)


def main() -> None:
    torch.set_num_threads(1)
    tasks = dict[str, list[float]]()
    for task in SIMULATORS:
        sd = marginal_sd(task)
        tasks[task] = [sharpness(task, p, sd, i) for i, p in enumerate(draw_problems(task, N_PROBLEMS, seed=0))]
    print(save("sharpness", 0, {"n": N, "n_joint": N_JOINT, "tasks": tasks}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
