"""Independent random generators from one seed and a path of numbers; nothing is global."""

from __future__ import annotations

import numpy as np
import torch


def generator_at(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose: equal (seed, path) gives equal draws, different ones independent draws.

    Args:
        seed: the user's seed, >= 0.
        path: what it is for, e.g. (training step) or (data set, stage, solver step).
    """
    if seed < 0:
        raise ValueError(f"seed: expected an integer >= 0, got {seed}.")
    state = int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(state & (2**63 - 1))
