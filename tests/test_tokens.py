"""Collate and split: nothing is lost, nothing is taken twice, and no row knows its batch-mates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import batch, seeded

from fsimformer.tokens import (
    FEW,
    Dial,
    TokenBatch,
    TokenSet,
    collate,
    concatenate,
    require_dial,
    select,
    split,
    uncollate,
)

lengths = st.lists(st.integers(0, 9), min_size=1, max_size=5)


def sets(ns: list[int], d: int = 2, seed: int = 0) -> list[TokenSet]:
    g = seeded(seed)
    return [
        TokenSet(
            torch.randint(7, (n,), generator=g),
            torch.rand(n, d, generator=g),
            torch.randn(n, generator=g),
            torch.rand(n, generator=g) < 0.5,
        )
        for n in ns
    ]


def fields(tokens: TokenSet) -> tuple[torch.Tensor, ...]:
    return tokens.variable, tokens.index, tokens.value, tokens.condition_mask


def same(a: TokenSet, b: TokenSet) -> bool:
    return all(torch.equal(x, y) for x, y in zip(fields(a), fields(b), strict=True))


@given(lengths, st.integers(0, 3), st.integers(0, 4))
def test_uncollate_undoes_collate(ns: list[int], d: int, extra: int) -> None:
    rows = sets(ns, d)
    out = uncollate(collate(rows, max(ns) + extra))
    assert len(out) == len(rows) and all(same(a, b) for a, b in zip(rows, out, strict=True))


@given(st.lists(lengths, min_size=1, max_size=3))
def test_concatenate_keeps_every_row(parts: list[list[int]]) -> None:
    batches = [collate(sets(ns, seed=i)) for i, ns in enumerate(parts)]
    out = uncollate(concatenate(batches))
    expected = [row for b in batches for row in uncollate(b)]
    assert len(out) == len(expected) and all(same(a, b) for a, b in zip(expected, out, strict=True))


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="collate: expected at least one TokenSet, got none"):
        collate([])
    with pytest.raises(ValueError, match=r"different numbers of index dims: \[1, 2\]"):
        collate([*sets([2], 1), *sets([2], 2)])
    with pytest.raises(ValueError, match="a row of 5 tokens does not fit into length 4"):
        collate(sets([5]), 4)
    with pytest.raises(ValueError, match=r"TokenSet: expected variable \(L,\).*'value': \(4,\)"):
        TokenSet(torch.zeros(3, dtype=torch.long), torch.zeros(3, 1), torch.zeros(4), torch.zeros(3, dtype=torch.bool))


def test_select_packs_in_order_or_by_priority() -> None:
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    position, taken = select(mask)
    assert position.shape == (3, 2)
    assert taken.tolist() == [[True, True], [True, False], [False, False]]
    assert position[0].tolist() == [1, 2] and position[1, 0] == 0
    position, _ = select(mask, torch.tensor([[0.0, 2.0, 1.0, 0.0]]).expand(3, -1))
    assert position[0].tolist() == [2, 1]
    assert select(mask[:, :0])[0].shape == (3, 0)


def named(rows: TokenBatch) -> TokenBatch:
    """Every token carries its own number as its value, so that it can be found again."""
    return rows.replace(value=torch.arange(rows.value.numel()).reshape(rows.shape).double())


def numbers(part: TokenBatch, row: int, where: torch.Tensor) -> list[float]:
    return part.value[row][where[row]].tolist()


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.one_of(st.none(), st.integers(0, 25)),
    st.booleans(),
    st.integers(0, 100),
)
def test_split_parts_every_row_without_loss(ns: list[int], k: int | None, random: bool, seed: int) -> None:
    whole = named(batch(ns, seed=seed))
    s = split(whole, k, seeded(seed) if random else None)
    for i in range(len(ns)):
        frozen, active = numbers(s.frozen, i, s.frozen.valid), numbers(s.active, i, s.active.valid)
        assert sorted(frozen + active) == numbers(whole, i, whole.valid)  # once each, padding never
        assert sorted(numbers(s.active, i, s.active.latent)) == numbers(whole, i, whole.latent)
        n_observed = int(whole.observed[i].sum())
        riders = numbers(s.active, i, s.active.observed)
        assert len(riders) == (n_observed if k is None else min(k, n_observed))
        assert s.frozen.condition_mask[i][s.frozen.valid[i]].all()
        back = whole.value[i][s.position[i][s.active.valid[i]]]
        assert back.tolist() == active


@given(st.integers(1, 60), st.integers(1, 60))
def test_riders_without_a_generator_are_spread_evenly(n: int, k: int) -> None:
    whole = named(batch([n], observed=2.0))
    ranks = torch.tensor(numbers(s := split(whole, k).active, 0, s.valid))
    assert len(ranks) == min(k, n)
    if 1 < k < n:
        gaps = torch.cat([ranks.diff(), ranks[:1] + n - ranks[-1:]])  # round the circle
        assert gaps.min() >= n // k and gaps.max() <= -(-n // k)


def test_random_riders_are_uniform() -> None:
    whole = named(batch([6] * 4000, observed=2.0))
    s = split(whole, 2, seeded(3)).active
    share = torch.bincount((s.value % 6).long().flatten(), minlength=6) / 4000
    torch.testing.assert_close(share, torch.full((6,), 1 / 3), rtol=0, atol=0.03)


def test_few_lets_all_ride_where_few_are_observed_and_none_elsewhere() -> None:
    whole = batch([FEW, FEW + 1, 3], observed=2.0)
    s = split(whole, "few")
    assert s.active.observed.sum(1).tolist() == [FEW, 0, 3] and s.frozen.observed.sum(1).tolist() == [0, FEW + 1, 0]
    for wrong in (-1, "all", True, 1.0):
        with pytest.raises(ValueError, match="expected an integer >= 0, 'few' or None"):
            require_dial(wrong)


@given(st.one_of(st.none(), st.just("few"), st.integers(0, 12)), st.lists(st.integers(1, 25), min_size=0, max_size=3))
def test_the_split_of_a_row_does_not_depend_on_its_batch_mates(k: Dial, mates: list[int]) -> None:
    row = sets([11])
    alone, among = split(collate(row), k), split(collate([*row, *sets(mates, seed=1)]), k)
    for a, b in ((alone.frozen, among.frozen), (alone.active, among.active)):
        assert same(uncollate(a)[0], uncollate(b)[0])
