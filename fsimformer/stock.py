"""Rows to train on while simulations arrive: an urn (reservoir.py) that is filled block by block, and read from.

D draws are planned on N simulations: v = ⌈D/N⌉ tickets each. Were they spent as fast as training goes, a simulation's
v tickets would be gone soon after it arrived, and the last steps, which count most, would see the last arrivals and
nothing else: a network fits what it sees often, and forgets. So a share r of all tickets is kept in the urn until the
last simulation is there. The first blocks, which must be there before training starts, are let in before the first
draw. Then, with A simulations in the urn and d draws made,

    a draw may be made where   d + 1 ≤ (1 − r) v A   or   A = N,

and where it may not, the next block is let in; training waits for it where it is not there yet. r = 1 trains after all
simulations are there; r = 0 lives from hand to mouth. A run takes about max(simulating, (1 − r) training) + r training.

What it costs: when the last block comes, simulation k has kept, on average,

    left_k = v (k/N)^((1 − r)/r),

those of the first blocks what the last of these has, so that the last r D draws are worth draws from

    (Σ left)² / Σ left² = r (2 − r) N

simulations: all N for r = 1, three quarters for r = 1/2, a third for r = 1/5. In the end each was seen v times.
Measured (benchmarks/arrivals.py, four seeds): with 8,000 simulations of 24 views no r costs anything; with 1,000 of 192
views the KL of a posterior is 0.005 nats with r = 1, 0.006 with 1/2 and 0.010 with 1/5, by errors of its mean, while
its width is the same within an error of about 1 %. Where each of few simulations is seen hundreds of times, r = 1 is
best.

Which rows a step sees follows from the numbers of draws and of rows alone: blocks come in their order, and one that is
early waits until it is due. So a run does not depend on when simulations arrive, and equals, bit for bit, one on an
archive that was full from the beginning. What is kept of its state are the tickets that are left.

Where rows fail, or a mask makes a row useless and it is drawn again, tickets run out before the steps do: then all get
one more. Memory holds the blocks that have tickets left; a block that is wanted again is read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from fsimformer.readings import Design, Series, Store, read
from fsimformer.reservoir import Reservoir
from fsimformer.tokens import TokenBatch


class Blocks(Protocol):
    """Simulations in blocks, numbered as they are let in."""

    @property
    def n_blocks(self) -> int: ...

    def block(self, i: int) -> Mapping[str, Tensor]:
        """The rows of block i that may be trained on, by variable, (m, ...); waits for them; the same every time."""
        ...


class Stock:
    """Blocks that were let in, and an urn with the tickets that are left: `Rows` of a training loop, and its state.

    Args:
        blocks: where rows come from.
        build: rows by variable -> a Store.
        design: how many readings, and where.
        n_draws: rows that training will draw. n: simulations that it may draw them from, as planned.
        reserve: share of the tickets that is kept until all blocks are in, 0 to 1.
        first: blocks that are let in before the first draw.
    """

    def __init__(
        self,
        blocks: Blocks,
        build: Callable[[Mapping[str, Tensor]], Store],
        design: Design,
        n_draws: int,
        n: int,
        reserve: float,
        first: int = 0,
    ) -> None:
        if not 0 <= reserve <= 1:
            raise ValueError(f"reserve: expected a share from 0 to 1, got {reserve}.")
        self.blocks, self.build, self.design, self.reserve, self.first = blocks, build, design, reserve, first
        self.urn = Reservoir.of(n_draws, n)
        self.sizes = torch.zeros(0, dtype=torch.long)  # rows of every block that was let in
        self.seconds_waited = 0.0
        self._held: dict[int, Store] = {}

    def __call__(self, n: int, generator: torch.Generator) -> TokenBatch:
        """Tokens of n rows, drawn without replacement from the tickets.

        Raises:
            ValueError: there is nothing to draw from, as everything failed.
        """
        return read(self._gather(self.draw(n, generator)), torch.arange(n), self.design, generator)

    @property
    def n_held(self) -> int:
        """Blocks in memory."""
        return len(self._held)

    @property
    def n_drawn(self) -> int:
        """Draws that were made."""
        return int(self.urn.seen.sum())

    def card(self) -> dict[str, Any]:
        """What there is to say of it, as JSON types."""
        seen = self.urn.seen
        ends = [int(seen.min()), int(seen.max())] if len(seen) else [0, 0]
        return {"blocks": len(self.sizes), "trained_on": len(seen), "times_seen": ends}

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Numbers of n rows, counted over the blocks, (n,) int64."""
        self._admit(n)
        parts, wanted = [torch.zeros(0, dtype=torch.long)], n
        while wanted:
            if not len(self.urn.left):
                raise ValueError(f"train: none of the simulations in {self.blocks.n_blocks} blocks is of use.")
            if not self.urn.ready:  # one more ticket for everyone
                self.urn = Reservoir(self.urn.views + 1, self.urn.left + 1)
            rows, self.urn = self.urn.draw(min(wanted, self.urn.ready), generator)
            parts.append(rows)
            wanted -= len(rows)
        return torch.cat(parts)

    def tensors(self) -> dict[str, Tensor]:
        """Its state, for a checkpoint."""
        return {"left": self.urn.left, "sizes": self.sizes, "views": torch.tensor(self.urn.views)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from there."""
        self.urn, self.sizes = Reservoir(int(tensors["views"]), tensors["left"]), tensors["sizes"]

    def _admit(self, n: int) -> None:
        """Let in the blocks that are due before n draws."""
        while len(self.sizes) < self.blocks.n_blocks:
            may = int((1 - self.reserve) * self.urn.views * len(self.urn.left))
            if len(self.sizes) >= self.first and self.n_drawn + n <= may:
                return
            size = self._read(len(self.sizes))
            self.urn, self.sizes = self.urn.arrive(size), torch.cat([self.sizes, torch.tensor([size])])

    def _read(self, i: int) -> int:
        """Bring block i into memory; how many rows it has."""
        started = time.monotonic()
        values = self.blocks.block(i)
        self.seconds_waited += time.monotonic() - started
        size = len(next(iter(values.values()))) if values else 0
        if size:
            self._held[i] = self.build(values)
        return size

    def _gather(self, rows: Tensor) -> Store:
        """A store of these rows, in their order; blocks without a ticket left are let go."""
        ends = self.sizes.cumsum(0)
        owner = torch.searchsorted(ends, rows, right=True)
        parts, places = [], []
        for i in owner.unique().tolist():
            if i not in self._held:
                self._read(i)
            here = (owner == i).nonzero()[:, 0]
            parts.append(_take(self._held[i], rows[here] - (ends[i] - self.sizes[i])))
            places.append(here)
        left = self.urn.left.split(self.sizes.tolist())
        for i in [i for i in self._held if not bool(left[i].any())]:
            del self._held[i]
        return _take(_join(parts), torch.cat(places).argsort())


def _take(store: Store, rows: Tensor) -> Store:
    """The store's rows (m,), in this order."""

    def series(s: Series) -> Series:
        return replace(s, path=s.path[rows], sd=s.sd[rows] if isinstance(s.sd, Tensor) else s.sd)

    arrays = {ids: x[rows] for ids, x in store.arrays.items()}
    return replace(store, scalars=store.scalars[rows], series=tuple(map(series, store.series)), arrays=arrays)


def _join(stores: list[Store]) -> Store:
    """Stores of one schema, one after another."""
    first = stores[0]

    def series(same: tuple[Series, ...]) -> Series:
        sd = [s.sd for s in same if isinstance(s.sd, Tensor)]
        return replace(same[0], path=torch.cat([s.path for s in same]), sd=torch.cat(sd) if sd else same[0].sd)

    return replace(
        first,
        scalars=torch.cat([s.scalars for s in stores]),
        series=tuple(series(same) for same in zip(*(s.series for s in stores), strict=True)),
        arrays={ids: torch.cat([s.arrays[ids] for s in stores]) for ids in first.arrays},
    )
