"""Rows in micro-batches: every row once, rows alike together, as many batches as asked."""

from __future__ import annotations

import itertools

import torch
from gaussian_tokens import IS_PARAMETER, gaussian_rows
from tiny import seeded

from fsimformer.batches import micro_batches, observed_rows
from fsimformer.masks import MaskConfig
from fsimformer.tokens import TokenBatch, split, uncollate


def test_micro_batches_hold_every_row_once_sorted_and_trimmed() -> None:
    rows = observed_rows(gaussian_rows, 30, IS_PARAMETER, MaskConfig(), 3, seeded(2))
    assert micro_batches(rows, 1) == [rows]
    parts = micro_batches(rows, 6)
    assert len(parts) == 6 and sum(p.shape[0] for p in parts) == 30

    def key(part: TokenBatch) -> list[tuple[float, ...]]:
        return sorted(tuple(sorted(s.value.tolist())) for s in uncollate(part))

    assert sorted(k for p in parts for k in key(p)) == key(rows)
    assert int(rows.latent.sum(1).max()) <= 3
    active = [split(p, "few").active.valid.sum(1) for p in parts]
    halves = [torch.cat(active[i : i + 3]) for i in (0, 3)]
    assert halves[0].max() <= halves[1].min()
    for n, n_parts in ((16, 2), (64, 4), (96, 4)):  # a step's share of them all has equal sizes: as many as asked
        many = micro_batches(observed_rows(gaussian_rows, 5 * n, IS_PARAMETER, MaskConfig(), 3, seeded(2)), n)
        assert [p.shape[0] for p in many] == [5] * n
        own = [split(p, "few").active.valid.sum(1) for p in many]
        ends = [torch.cat(own[k : k + n // n_parts]) for k in range(0, n, n // n_parts)]
        assert all(a.max() <= b.min() for a, b in itertools.pairwise(ends))
    for p in parts:
        assert p.shape[1] == int(p.valid.sum(1).max())  # no column is padding only
