"""The reservoir owes every simulation the same, whenever it arrived; drawing from what is there does not."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from fsimformer.reservoir import Reservoir


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def p_value(counts: Tensor, expected: Tensor) -> float:
    """Of Pearson's chi-square, all of `expected` well above 5."""
    assert float(expected.min()) > 5
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, counts.numel() - 1))


def test_everybody_is_seen_equally_often_in_the_end() -> None:
    """Whatever the pattern of arrivals and draws, the urn ends with v views each."""
    generator, urn = seeded(), Reservoir.of(700, 100)
    while len(urn.left) < 100 or urn.ready:
        urn = urn.arrive(min(int(torch.randint(0, 12, (), generator=generator)), 100 - len(urn.left)))
        rows, after = urn.draw(min(int(torch.randint(0, 60, (), generator=generator)), urn.ready), generator)
        assert torch.equal(after.seen, urn.seen + torch.bincount(rows, minlength=len(urn.left)))
        urn = after
    assert urn.views == 7 and bool((urn.seen == 7).all()) and bool(urn.done.all())


def test_a_draw_is_uniform_over_the_tickets() -> None:
    """P(i) = left_i / Σ left, for one draw of few (the second law) and for one of many (the first)."""
    left = torch.tensor([0, 1, 2, 5, 12])
    for n in (1, 9):
        counts, generator = torch.zeros(5), seeded(n)
        for _ in range(3_000):
            rows, _ = Reservoir(12, left).draw(n, generator)
            counts += torch.bincount(rows[:1], minlength=5)  # the first of n: the others hang on it
        assert counts[0] == 0
        assert p_value(counts[1:], 3_000 * left[1:] / 20) > 0.01


def test_pairs_are_drawn_without_replacement() -> None:
    """Both ways to draw different tickets give every ordered pair the same chance: 1/(T (T − 1))."""
    for total in (6, 20):  # 2 of 6 by a permutation, 2 of 20 by rejection
        counts, generator = torch.zeros(total, total), seeded(total)
        urn = Reservoir.of(total, total).arrive(total)
        for _ in range(15 * total * (total - 1)):
            (a, b), _ = urn.draw(2, generator)
            counts[a, b] += 1
        assert float(counts.diagonal().sum()) == 0
        off = counts[~torch.eye(total, dtype=torch.bool)]
        assert p_value(off, torch.full_like(off, 15.0)) > 0.01


def test_all_at_once_is_an_epoch_in_random_order() -> None:
    """v = 1, everything there: a permutation, its places uniform."""
    urn, places, generator = Reservoir.of(8, 8).arrive(8), torch.zeros(8, 8), seeded(3)
    for _ in range(800):
        first, rest = urn.draw(3, generator)
        second, empty = rest.draw(5, generator)
        order = torch.cat([first, second])
        assert order.sort().values.tolist() == list(range(8)) and empty.ready == 0
        places[order, torch.arange(8)] += 1
    for row in places:
        assert p_value(row, torch.full((8,), 100.0)) > 0.001  # eight tests


def test_drawing_from_what_is_there_prefers_the_early() -> None:
    """What the urn is for: uniform draws see simulation k v Σ_{t≥k} 1/t times, and chi-square tells it from equal."""
    n, views, repeats, generator = 40, 5, 40, seeded(4)
    naive = torch.zeros(n)
    for t in range(1, n + 1):
        naive += torch.bincount(torch.randint(t, (repeats * views,), generator=generator), minlength=n)
    even = torch.full((n,), float(views * repeats))
    harmonic = repeats * views * torch.tensor([sum(1 / t for t in range(k, n + 1)) for k in range(1, n + 1)])
    grouped = [x.reshape(8, 5).sum(1) for x in (naive, harmonic, even)]
    assert p_value(grouped[0], grouped[1]) > 0.01
    assert p_value(grouped[0], grouped[2]) < 1e-12


def test_with_a_stock_of_simulations_the_urn_is_equal_and_mixes() -> None:
    """One arrives, v draws are made, s in stock: all are seen v times, each over many arrivals.

    v draws without replacement out of v s + v tickets take each with chance 1/(s + 1): how many arrivals a ticket waits
    is geometric, with mean s.
    """
    n, views, stock, generator = 1_500, 5, 10, seeded(2)
    urn, waits = Reservoir.of(n * views, n).arrive(stock), list[Tensor]()
    for t in range(stock, n):
        urn = urn.arrive(1)
        rows, urn = urn.draw(views, generator)
        waits.append(t - rows)
        assert urn.ready == views * stock
    seen = urn.draw(urn.ready, generator)[1].seen
    assert torch.equal(seen, torch.full((n,), views))
    wait = torch.cat(waits[200:1_300]).double()  # neither the beginning nor the end
    assert abs(float(wait.mean()) - stock) < 5 * float(wait.std()) / (len(wait) / views) ** 0.5
    counts = torch.bincount((wait / 6).long().clamp(max=6), minlength=7).double()
    survival = torch.tensor([(stock / (stock + 1)) ** (6 * k) for k in range(7)] + [0.0], dtype=torch.double)
    assert float((counts / counts.sum() - (survival[:-1] - survival[1:])).abs().max()) < 0.02


def test_old_and_new_mix() -> None:
    """Of a hundred seen half as often as they will be and a hundred new ones, a third of a batch is old."""
    urn = Reservoir(10, torch.tensor([5] * 100 + [10] * 100))
    rows, _ = urn.draw(600, seeded(5))
    n_old = int((rows < 100).sum())
    sd = (600 * (1 / 3) * (2 / 3) * (1_500 - 600) / 1_499) ** 0.5  # hypergeometric
    assert abs(n_old - 200) < 4 * sd


def test_nothing_is_changed_in_place_and_a_seed_repeats() -> None:
    urn = Reservoir.of(30, 10).arrive(4)
    (a, first), (b, second) = urn.draw(7, seeded(1)), urn.draw(7, seeded(1))
    assert torch.equal(a, b) and torch.equal(first.left, second.left) and urn.left.tolist() == [3, 3, 3, 3]


def test_what_cannot_be_drawn() -> None:
    urn = Reservoir.of(30, 10).arrive(2)
    with pytest.raises(ValueError, match="7 draws wanted, 6 left until more simulations arrive"):
        urn.draw(7, seeded())
    assert urn.draw(0, seeded())[0].tolist() == []
    for bad in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="expected draws and simulations >= 1"):
            Reservoir.of(*bad)
