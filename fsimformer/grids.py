"""Reading a regular grid over [−1, 1]^d between its points: a value is a weighted sum of some of the grid's.

Both functions give (place, weight) pairs: places count the grid's points in C order, the last dim fastest; a table t of
one row a point is read as Σ weight·t[place]. Points beyond the ends are extrapolated; clamp where that is unwanted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Stencil = list[tuple[Tensor, Tensor]]
"""Pairs (place, weight) of one shape, long and floating."""


def stencil(shape: Sequence[int], at: Tensor) -> Stencil:
    """At points (…, d): cubic on a line, error O(h³) (O(h²) at the ends); multilinear in several dims."""
    return _cubic(shape[0], at[..., 0]) if len(shape) == 1 else multilinear(shape, at)


def multilinear(shape: Sequence[int], at: Tensor) -> Stencil:
    """The 2^d corners of the cell that a point lies in."""
    cells = [_cell(n, at[..., j]) for j, n in enumerate(shape)]
    out: Stencil = []
    for corner in itertools.product((0, 1), repeat=len(shape)):
        place, weight = torch.zeros_like(cells[0][0]), torch.ones_like(cells[0][1])
        for (cell, part), bit, n in zip(cells, corner, shape, strict=True):
            place, weight = place * n + cell + bit, weight * (part if bit else 1 - part)
        out.append((place, weight))
    return out


def _cubic(n: int, x: Tensor) -> Stencil:
    """Hermite with central-difference slopes, one-sided at the ends."""
    c, s = _cell(n, x)
    left, right = (c - 1).clamp(min=0), (c + 2).clamp(max=n - 1)
    s2, s3 = s * s, s * s * s
    m0, m1 = (s3 - 2 * s2 + s) / (c + 1 - left), (s3 - s2) / (right - c)
    return [(left, -m0), (c, 2 * s3 - 3 * s2 + 1 - m1), (c + 1, 3 * s2 - 2 * s3 + m0), (right, m1)]


def _cell(n: int, x: Tensor) -> tuple[Tensor, Tensor]:
    position = (x + 1) / 2 * (n - 1)
    cell = position.floor().long().clamp(0, n - 2)
    return cell, position - cell
