"""Random conditionals of tree, hmm, two_moons and slcp, with independent draws of what is not observed.

A problem is a draw of the simulator's joint with every token observed or not by a fair coin; nothing observed is a
problem too, everything observed is none. `reference` draws the latents from p(latents | observed): exactly up to the
step of a one-dimensional grid for tree, hmm and two_moons (exact_grid.py), by importance sampling with more than twenty
times as many effective draws as are returned for slcp (exact_slcp.py). All of it follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from exact_grid import hmm_rows, tree_rows, two_moons_rows
from exact_slcp import slcp_rows

from fsimformer import simulators

Rows = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""observed (ids,), value (ids,), n, rng -> (n, ids) draws of everything, the observed columns constant."""

ROWS: dict[str, Rows] = {"tree": tree_rows, "hmm": hmm_rows, "two_moons": two_moons_rows, "slcp": slcp_rows}
SIMULATORS = {
    "tree": simulators.tree,
    "hmm": simulators.hmm,
    "two_moons": simulators.two_moons,
    "slcp": simulators.slcp,
}


@dataclass(frozen=True, eq=False)
class Problem:
    """`observed` (ids,) bool and `value` (ids,) of one joint draw, in the order of the schema's token ids.

    The values that are not observed are the truth behind the observation.
    """

    observed: np.ndarray
    value: np.ndarray


def draw_problems(task: str, n: int = 100, seed: int = 0) -> list[Problem]:
    """n random conditionals of a task.

    Raises:
        KeyError: an unknown task.
    """
    if task not in SIMULATORS:
        raise KeyError(f"No task named {task!r}. Tasks: {list(SIMULATORS)}.")
    simulator = SIMULATORS[task]()
    drawn = simulator.simulate(n, torch.Generator().manual_seed(seed))
    value = np.concatenate([drawn[name].numpy().reshape(n, -1) for name in simulator.schema.names], axis=1)
    rng = np.random.default_rng([seed, 1])
    observed = rng.random(value.shape) < 0.5
    while (full := observed.all(1)).any():
        observed[full] = rng.random((full.sum(), value.shape[1])) < 0.5
    return [Problem(o, v) for o, v in zip(observed, value)]


def reference(task: str, problem: Problem, n: int, seed: int) -> np.ndarray:
    """(n, latents) independent draws of the ids that are not observed, in the order of the ids.

    Raises:
        KeyError: an unknown task.
    """
    if task not in ROWS:
        raise KeyError(f"No task named {task!r}. Tasks: {list(ROWS)}.")
    rows = ROWS[task](problem.observed, problem.value, n, np.random.default_rng([seed, 2]))
    return rows[:, ~problem.observed]
