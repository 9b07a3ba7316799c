"""Independent random generators from one seed and a path of numbers; nothing is global.

The first number of a path is its purpose: 0 training rows, 1 validation, 2 simulations, 3 dial, riders and noise of a
training step, 4 sampling, 5 draws that truncate a prior, 6 noise of the readings whose variance a baseline takes, 7 one
simulation of an archive, 8 data sets and draws by which a model is checked, 12 draws under constraints, 13 draws at
which the search of a mode begins, 14 simulations that say what is typical, 15 which
simulations are held out where rows are all that is known.
"""

from __future__ import annotations

import numpy as np
import torch


def generator_at(seed: int, *path: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one purpose: equal (seed, path) gives equal draws, different ones independent draws.

    Paths of one purpose have one length or differ before their last number: numpy pads short ones with zeros, so that
    (1,) and (1, 0) are the same. It cuts numbers of more than 32 bits in two, hence the limit.

    Args:
        seed: the user's seed, 0 to 2³² − 1.
        path: what it is for, each number from 0 to 2³² − 1, e.g. (0, training step).

    Raises:
        ValueError: a number outside this range.
    """
    return torch.Generator(device=device).manual_seed(seed_at(seed, *path))


def seed_at(seed: int, *path: int) -> int:
    """What `generator_at` seeds its generator with, from 0 to 2⁶³ − 1, for code that makes its own.

    Raises:
        ValueError: a number outside 0 to 2³² − 1.
    """
    if not all(0 <= number < 2**32 for number in (seed, *path)):
        raise ValueError(f"seed: expected integers from 0 to 2**32 - 1, got {seed}{f' and {path}' if path else ''}.")
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0]) & (2**63 - 1)


def normals(n: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """(n, length) standard normals, float32; the first m of n rows do not depend on n.

    torch fills normals in blocks of 16 and redoes the tail of a fill that is not a multiple of 16: a whole number of
    blocks keeps the prefix, so that asking for more draws changes none.
    """
    blocks = max(1, -(-n * length // 16))
    flat = torch.randn(16 * blocks, generator=generator, device=generator.device)
    return flat[: n * length].view(n, length)
