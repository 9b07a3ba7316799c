"""Which rows a step sees: equally often each, whenever they come; a share of all is kept for a mixture at the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.priors import Normal
from fsimformer.readings import Design, Store
from fsimformer.schema import Index, Schema, Variable
from fsimformer.simulations import build_store
from fsimformer.stock import Stock
from fsimformer.whiten import Standardise, Transform, Whitening

SCHEMA = Schema(
    (Variable("number", "parameter", prior=Normal()), Variable("y", "data", ("t",)), Variable("x", "data", ("t",))),
    (Index("t", 0, 1),),
)
WHITENING = Whitening(
    {"number": Transform(Normal(), SCHEMA["number"].support)}
    | {k: Transform(None, SCHEMA[k].support, Standardise()) for k in ("y", "x")}
)


class Numbered:
    """Blocks whose rows know their number, on every path as well; it remembers which block was asked for, and when."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.log, self.n_drawn = sizes, list[tuple[int, int]](), 0
        self.starts = [sum(sizes[:i]) for i in range(len(sizes))]

    @property
    def n_blocks(self) -> int:
        return len(self.sizes)

    def block(self, i: int) -> Mapping[str, Tensor]:
        self.log.append((i, self.n_drawn))
        if not self.sizes[i]:
            return {}
        number = torch.arange(self.starts[i], self.starts[i] + self.sizes[i], dtype=torch.float64)
        path = number[:, None].expand(-1, 5).contiguous()
        return {"number": number, "y": path, "x": -path}


def build(values: Mapping[str, Tensor]) -> Store:
    return build_store(SCHEMA, WHITENING, values)


def stock(blocks: Numbered, n_draws: int, reserve: float, first: int = 0) -> Stock:
    return Stock(blocks, build, Design((3, 3), skew=0.0), n_draws, sum(blocks.sizes), reserve, first)


SIZES = [7, 5, 0, 9, 4, 5, 10]


@pytest.mark.parametrize("reserve", [0.0, 0.3, 0.5, 1.0])
def test_every_row_is_seen_equally_often(reserve: float) -> None:
    """Tokens carry the number of their row, whatever block and place it came from; 40 rows, 12 views each."""
    some, counts, generator = stock(Numbered(SIZES), 480, reserve), torch.zeros(40), seeded(1)
    for _ in range(40):
        batch = some(12, generator)
        numbers = torch.where(batch.variable == 0, batch.value, 0.0).sum(1)
        expected = torch.tensor([1.0, 1.0, -1.0])[batch.variable] * numbers[:, None]
        torch.testing.assert_close(batch.value[batch.valid], expected[batch.valid])
        counts += torch.bincount(numbers.long(), minlength=40)
    assert torch.equal(counts, torch.full((40,), 12.0)) and some.card()["times_seen"] == [12, 12]


@pytest.mark.parametrize("reserve", [0.0, 0.3, 0.7, 1.0])
def test_blocks_are_let_in_as_late_as_the_reserve_allows(reserve: float) -> None:
    """Draws made ≤ (1 − r) v A while not all A are in, and the block before would not have done."""
    blocks, generator = Numbered([10] * 8), seeded(2)
    some, views = stock(blocks, 80 * 6, reserve), 6
    for _ in range(60):
        before = some.n_drawn
        blocks.n_drawn = before
        some.draw(8, generator)
        n = len(some.sizes)
        if n < 8:
            assert before + 8 <= (1 - reserve) * views * 10 * n
        for i, at in blocks.log:
            if at == before and i:
                assert before + 8 > (1 - reserve) * views * 10 * i
    assert [i for i, _ in blocks.log] == list(range(8))
    all_in = blocks.log[-1][1]  # draws that were made when the last was let in
    assert (1 - reserve) * 480 * 7 / 8 - 8 <= all_in <= (1 - reserve) * 480 * 7 / 8
    assert reserve < 1 or all_in == 0


def test_the_end_of_a_run_mixes_all_where_there_is_a_reserve() -> None:
    """The last tenth of the draws: with r = 1/2 the first half of the rows has its share, with 0 nothing."""

    def share_of_early(reserve: float) -> float:
        some, generator = stock(Numbered([20] * 20), 400 * 20, reserve), seeded(3)
        some.draw(7_200, generator) if reserve == 1 else [some.draw(40, generator) for _ in range(180)]
        return float((some.draw(800, generator) < 200).double().mean())

    assert share_of_early(0.0) == 0
    assert 0.2 < share_of_early(0.5) < 0.5
    assert abs(share_of_early(1.0) - 0.5) < 4 * 0.5 / 800**0.5


@pytest.mark.parametrize("reserve", [0.2, 0.5, 0.8])
def test_the_last_share_is_drawn_of_fewer_simulations_in_effect(reserve: float) -> None:
    """When the last block comes, left_k = v (k/N)^((1 − r)/r), and (Σ left)²/Σ left² = r (2 − r) N.

    N = 1,000, v = 200, in 200 blocks: what is left is r D, but for the draws of one block.
    """
    n, views = 1_000, 200
    some, generator = stock(Numbered([5] * 200), n * views, reserve), seeded(6)
    while len(some.sizes) < 200:
        some.draw(20, generator)
    left = some.urn.left.double()
    assert float(left.sum()) == pytest.approx(reserve * n * views, rel=0.025)
    tenths = left.reshape(10, 100).mean(1) / views
    power = (1 - reserve) / reserve
    k = torch.arange(11, dtype=torch.float64) / 10
    expected = (k[1:] ** (power + 1) - k[:-1] ** (power + 1)) * 10 / (power + 1)
    torch.testing.assert_close(tenths, expected, rtol=0, atol=0.02)
    assert float(left.sum() ** 2 / (left**2).sum()) == pytest.approx(reserve * (2 - reserve) * n, rel=0.03)


def test_the_first_blocks_are_there_for_the_first_draw() -> None:
    """They mix from the beginning; where they are all, nothing is left of the reserve, whatever it is."""
    blocks, counts = Numbered([10] * 8), torch.zeros(80)
    some = stock(blocks, 80 * 300, 0.5, first=4)
    counts += torch.bincount(some.draw(1_200, seeded(7)), minlength=80)
    assert [i for i, _ in blocks.log] == [0, 1, 2, 3] and not counts[40:].any()
    share = counts[:40].reshape(4, 10).sum(1) / 1_200  # 40 simulations of 300 tickets, a tenth of which are drawn
    assert float((share - 0.25).abs().max()) < 4 * (0.25 * 0.75 * 0.9 / 1_200) ** 0.5
    some.draw(4_800, seeded(8))
    assert len(some.sizes) == 4  # 6,000 draws = (1 − r) v A are allowed
    some.draw(1, seeded(9))
    assert len(some.sizes) == 5
    for reserve in (0.0, 0.5):
        all_at_once, after = stock(Numbered(SIZES), 480, reserve, first=7), stock(Numbered(SIZES), 480, 1.0)
        for k in range(40):
            assert torch.equal(all_at_once.draw(12, seeded(k)), after.draw(12, seeded(k)))


def test_when_tickets_are_short_everyone_gets_one_more() -> None:
    """Rows that are drawn again, or that failed, eat up the plan: still nobody is seen twice more than another."""
    some, generator = stock(Numbered([10, 0, 10]), 40, 0.5), seeded(4)
    for _ in range(13):
        some.draw(7, generator)
    assert some.n_drawn == 91 and some.card()["times_seen"] == [4, 5] and int((some.urn.seen == 5).sum()) == 11


def test_memory_holds_the_blocks_that_are_owed_something() -> None:
    """From hand to mouth: few at a time of many; what is wanted again later is read again, and is the same."""
    blocks, generator, most = Numbered([10] * 50), seeded(5), 0
    some = stock(blocks, 500 * 4, 0.0)
    for _ in range(250):
        some(8, generator)
        most = max(most, some.n_held)
        alive = [i for i, left in enumerate(some.urn.left.split(some.sizes.tolist())) if bool(left.any())]
        assert some.n_held <= len(alive)
    assert most <= 12 and some.n_held == 0 and [i for i, _ in blocks.log] == list(range(50))
    numbers = some(30, generator)
    assert len(blocks.log) > 50 and some.card()["times_seen"] == [4, 5]
    seen = torch.where(numbers.variable == 0, numbers.value, 0.0).sum(1)
    assert len(seen.unique()) == 30


def test_a_stock_goes_on_from_its_tensors() -> None:
    """Draws after a resume are those without one, and so are their tokens."""
    through, stopped = stock(Numbered(SIZES), 480, 0.4), stock(Numbered(SIZES), 480, 0.4)
    for k in range(20):
        through(12, seeded(k))
        stopped(12, seeded(k))
    resumed = stock(Numbered(SIZES), 480, 0.4)
    resumed.load({k: x.clone() for k, x in stopped.tensors().items()})
    assert resumed.n_held == 0
    for k in range(20, 40):
        a, b = through(12, seeded(k)), resumed(12, seeded(k))
        assert torch.equal(a.value, b.value) and torch.equal(a.index, b.index) and torch.equal(a.valid, b.valid)


def test_nothing_to_draw_from_and_a_share_that_is_none() -> None:
    with pytest.raises(ValueError, match="none of the simulations in 3 blocks is of use"):
        Stock(Numbered([0, 0, 0]), build, Design((3, 3)), 40, 10, 0.5).draw(3, seeded())
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="reserve: expected a share from 0 to 1"):
            stock(Numbered([5]), 10, wrong)
