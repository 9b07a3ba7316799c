"""Random conditionals of tree, hmm, two_moons and slcp, with independent draws of what is not observed.

A problem is a draw of the simulator's joint with every token observed or not by a law of masks, a fair coin where
nothing else is said; nothing observed is a problem too, everything observed is none. `reference` draws the latents from
p(latents | observed): exactly up to the step of a one-dimensional grid for tree, hmm and two_moons (exact_grid.py), by
importance sampling with more than twenty times as many effective draws as are returned for slcp (exact_slcp.py). All of
it follows from the seed.
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


Masks = Callable[[str, int, int, np.random.Generator], np.ndarray]
"""task, n, ids, rng -> (n, ids) bool, observed or not."""


def coins(task: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Every token by a fair coin, of any task."""
    return rng.random((n, d)) < 0.5


def as_published(task: str, n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """The law of arXiv 2404.09636's released code (`structured_random`), as its tasks read it.

    A fifth each: nothing observed, the data, the parameters, every token with probability .3, and with .7. Each of
    slcp's four draws is one node there: it is observed whole where one of its two entries would be. A mask that
    observes everything observes nothing (of slcp it is drawn again where only that reading makes it full).
    """
    schema = SIMULATORS[task]().schema
    n_parameters = sum(schema.n_components(v.name) for v in schema.variables if v.role == "parameter")
    parameter = np.arange(d) < n_parameters
    kind = rng.integers(5, size=n)
    drawn = rng.random((n, d)) < np.where(kind == 3, 0.3, 0.7)[:, None]
    fixed = np.stack([np.zeros(d, bool), ~parameter, parameter])
    out = np.where((kind < 3)[:, None], fixed[np.minimum(kind, 2)], drawn)
    out[out.all(1)] = False
    if task == "slcp":
        pairs = out[:, n_parameters:].reshape(n, -1, 2).any(2)
        out[:, n_parameters:] = pairs.repeat(2, axis=1)
    return out


def draw_problems(task: str, n: int = 100, seed: int = 0, law: Masks = coins) -> list[Problem]:
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
    observed = law(task, *value.shape, rng)
    while (full := observed.all(1)).any():
        observed[full] = law(task, int(full.sum()), value.shape[1], rng)
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
