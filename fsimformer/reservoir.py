"""Which simulations a training step sees while others are still arriving: an urn that owes each the same.

A simulation that arrived early is there for more steps than one that arrived late. Draw uniformly from what is there,
one draw for each of N arrivals, and simulation k is seen Σ_{t≥k} 1/t ≈ ln(N/k) times: the first ones often, the last
one hardly. A network fits what it sees often, so the early ones count for more than their share of the joint.

Here every simulation brings v tickets into the urn when it arrives, and a draw takes one out, uniformly over all that
are left:

    P(next draw is i) = left_i / Σ_j left_j,        left_i = v − (how often i was seen).

What was seen less than its due is more likely by just that much, and once the urn is empty each simulation was seen
exactly v times, in whatever order they came and however many draws fell between. Until then old and new mix in
proportion to what they are owed. If all are there from the beginning, v = 1 is an epoch in random order.

v follows from the budget: D draws on N simulations are v = ⌈D / N⌉ tickets each. How well old and new mix depends on
the stock: with s simulations' worth of tickets in it, and v draws an arrival, a ticket waits for s further arrivals on
average (geometrically). So let some arrive before the first draw, and wait where the stock runs low because training is
faster than the simulator: an empty urn can only show the newest, v times in a row. A simulation whose tickets are gone
(`done`) is not needed any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reservoir:
    """An urn at one moment; `arrive` and `draw` give the next one. Simulations are numbered as they arrive.

    Args:
        views: tickets that each simulation brings, v.
        left: (n,) int64, tickets left of each that has arrived.
    """

    views: int
    left: Tensor

    @classmethod
    def of(cls, n_draws: int, n_simulations: int) -> Reservoir:
        """An empty urn for a budget: as many tickets as draws are planned, rounded up.

        Raises:
            ValueError: not at least one of each.
        """
        if n_draws < 1 or n_simulations < 1:
            raise ValueError(f"Reservoir: expected draws and simulations >= 1, got {n_draws} and {n_simulations}.")
        return cls(-(-n_draws // n_simulations), torch.zeros(0, dtype=torch.long))

    @property
    def ready(self) -> int:
        """Draws that can be made before anything else arrives."""
        return int(self.left.sum())

    @property
    def seen(self) -> Tensor:
        """(n,) how often each has been drawn."""
        return self.views - self.left

    @property
    def done(self) -> Tensor:
        """(n,) bool: will not be drawn again."""
        return self.left == 0

    def arrive(self, n: int) -> Reservoir:
        """n more simulations, numbered on from those that are there."""
        return Reservoir(self.views, torch.cat([self.left, self.left.new_full((n,), self.views)]))

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Reservoir]:
        """Numbers of n simulations (n,) int64, in random order, and the urn without their tickets.

        A simulation may be among them more than once, with different tickets.

        Raises:
            ValueError: fewer than n tickets are left.
        """
        ends = self.left.cumsum(0)  # ticket t belongs to the first simulation whose end lies above t
        if n > self.ready:
            raise ValueError(f"Reservoir: {n} draws wanted, {self.ready} left until more simulations arrive.")
        rows = torch.searchsorted(ends, _distinct(self.ready, n, generator), right=True)
        taken = torch.bincount(rows, minlength=len(self.left))
        return rows, Reservoir(self.views, self.left - taken)


def _distinct(total: int, n: int, generator: torch.Generator) -> Tensor:
    """n different integers below `total`, every ordered choice equally likely.

    Where few are wanted of many: the first n different ones of independent draws, which is the same law.
    """
    if 4 * n >= total:
        return torch.randperm(total, generator=generator)[:n]
    drawn = torch.empty(0, dtype=torch.long)
    while len(drawn) < n:
        drawn = torch.cat([drawn, torch.randint(total, (n,), generator=generator)])
        order = torch.argsort(drawn, stable=True)
        first = torch.ones(len(drawn), dtype=torch.bool)
        first[order[1:]] = drawn[order[1:]] != drawn[order[:-1]]
        drawn = drawn[first]
    return drawn[:n]
