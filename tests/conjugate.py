"""Estimators that are right or wrong by a known amount, of a conjugate normal model in d dimensions."""

from __future__ import annotations

import numpy as np

WRONG = {"too narrow": (0.6, 0.0), "too wide": (1.6, 0.0), "shifted": (1.0, 0.6)}  # spread, shift in posterior sd
Sets = tuple[np.ndarray, np.ndarray, np.ndarray]


def conjugate(n: int, m: int, d: int = 2, spread: float = 1.0, shift: float = 0.0, seed: int = 0) -> Sets:
    """θ ~ N(0, I), x = θ + N(0, I): truth, x (n, d), draws (n, m, d) of N(x/2 + shift·s, (spread·s)²), s² = ½."""
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((n, d))
    x = truth + rng.standard_normal((n, d))
    s = np.sqrt(0.5)
    draws = (x / 2 + shift * s)[:, None] + spread * s * rng.standard_normal((n, m, d))
    return truth, x, draws


def paths(n: int, m: int, spread: float = 1.0, shift: float = 0.0, seed: int = 0) -> Sets:
    """Bumps of their own place, height and level on a grid of [0, 1], their three numbers as in `conjugate`: truth
    (n, T), draws (n, m, T), grid (T,)."""
    truth, _, draws = conjugate(n, m, 3, spread, shift, seed)
    grid = np.linspace(0, 1, 41)

    def path(abc: np.ndarray) -> np.ndarray:
        a, b, c = (abc[..., i, None] for i in range(3))
        return (3 + 0.7 * b) * np.exp(-0.5 * ((grid - 0.5 + 0.08 * a) / 0.15) ** 2) + 0.5 * c

    return path(truth), path(draws), grid
