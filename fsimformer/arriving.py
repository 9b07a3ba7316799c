"""Simulations that are still being made: an archive that is trained from while somebody writes it.

::

    fsimformer simulate box.py:tank --n 10000 --out tank.zarr &       # or simulate_to, in any process
    runs = Arriving.open("tank.zarr", schema, 10_000)
    joint = fsf.train(runs, simulations=runs)

How steps and arrivals are told apart, and why the result does not depend on when simulations arrive, says `stock.py`.
Here is what belongs to an archive:

- A block is a range of numbers, as long as the archive's chunks: it is there when its last simulation is, and comes
  after all lower numbers. Who comes first to arrive is quick, and what is quick may be of another law; the order of
  the numbers knows nothing of that.
- The first blocks, `first` simulations, must be there before the first step. Whitening, the spread about reference
  sets, the linear baseline and the ranges of warnings are fitted on them, once.
- Of these some are held out, evenly among them: as many as training afterwards would hold out of all, a tenth of n, but
  no more than half of the first. They are never trained on, and the same rows validate from the first step to the last.
  They choose the weights that training ends with, so they must be many: of m rows, the spread is 1/√(2m) off, and
  weights are preferred whose posteriors are as wide as these rows happen to be spread; a hundred are 7 % off.

Failed simulations and rows that are not finite are left out and counted, as in `recorded.py`, with the same warning.
Needs the extra `archive`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor

from fsimformer.archive import Archive, is_archive
from fsimformer.recorded import grid_of, tensors_of
from fsimformer.schema import Schema
from fsimformer.simulations import Simulations, finite, require_same_grid
from fsimformer.simulators.protocol import Simulator

_MOST_HELD_OUT = 2_000
_SOON = 60.0  # seconds in which an archive must appear: who mistypes its name should not wait for an hour
_CHECKED = 10  # rows that a check of the simulator may ask for


@dataclass(frozen=True)
class Arriving:
    """A Simulator whose draws come from an archive as it grows. Make it with `open`.

    Args:
        archive: where they are.
        schema, grid, natural, plausible: as a Simulator's (protocol.py).
        n: simulations 0 to n − 1 are trained on, failed ones aside.
        first: as many must be there before the first step, whole blocks.
        reserve: share of the draws that is kept until the last simulation is there (stock.py).
        patience: seconds without a new simulation after which nobody is believed to write any more.
        writer: called while waiting; raises where the writer has failed.
    """

    archive: Archive
    schema: Schema
    grid: dict[str, Tensor]
    n: int
    first: int
    reserve: float
    patience: float
    natural: tuple[str, ...] = ()
    plausible: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    writer: Callable[[], None] | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        known: Schema | Simulator,
        n: int,
        *,
        first: int | None = None,
        reserve: float = 0.5,
        patience: float = 3_600.0,
        writer: Callable[[], None] | None = None,
    ) -> Arriving:
        """Wait for the archive and the first of its simulations.

        Args:
            path: the archive; it must be there within a minute.
            known: the schema, or the Simulator that makes them: its schema, `natural` and `plausible` then hold. The
                grid is the archive's in any case.
            n: how many there will be, failed ones included.
            first: how many must be there before training starts; None = a tenth, at least 1,000.
            reserve, patience, writer: above.

        Raises:
            ValueError: numbers out of range; an archive of something else, or a damaged one; none of the first
                simulations is of use. FileNotFoundError: no archive. TimeoutError: nothing arrives. KeyError: a
                variable or a grid is missing.
        """
        path = Path(path)
        n, first = require_numbers(n, first, reserve, patience)
        _wait_for_file(path, min(patience, _SOON), writer)
        archive = Archive.open(path)
        schema = known if isinstance(known, Schema) else known.schema
        if archive.schema is not None and archive.schema != schema:
            raise ValueError(f"{path} was made with another schema: {archive.simulator}.")
        whole = min(n, -(-first // archive.chunk) * archive.chunk)
        natural, plausible = getattr(known, "natural", ()), getattr(known, "plausible", {})
        out = cls(archive, schema, {}, n, whole, reserve, patience, tuple(natural), dict(plausible), writer)
        for i in range(out.n_blocks):  # all of the first may have failed
            out.wait(i)
            data = archive.read(_names(schema), out.numbers(i))
            if data.sizes["simulation"]:
                break
        return replace(out, grid={index.name: grid_of(data, index) for index in schema.indexes})

    @property
    def n_blocks(self) -> int:
        return -(-self.n // self.archive.chunk)

    @property
    def n_to_hold_out(self) -> int:
        """Of the first simulations, failed ones included."""
        return min(_MOST_HELD_OUT, self.n // 10, self.first // 2)

    @property
    def first_blocks(self) -> int:
        """Blocks that hold the first simulations."""
        return -(-self.first // self.archive.chunk)

    def n_to_train(self, n_blocks: int) -> int:
        """How many simulations of the first blocks are not held out, failed ones included."""
        numbers = torch.arange(min(self.n, n_blocks * self.archive.chunk))
        return int((~self.is_held_out(numbers)).sum())

    def n_dropped(self, n_blocks: int, n_rows: int, n_held_out: int) -> int:
        """How many of the first blocks and of those to hold out failed, where `n_rows` and `n_held_out` did not."""
        return self.n_to_train(n_blocks) - n_rows + self.n_to_hold_out - n_held_out

    @property
    def about(self) -> dict[str, object]:
        """Whose simulations these are, as JSON types: a checkpoint goes on with no others."""
        archive = self.archive
        made = {"simulator": archive.simulator, "seed": archive.seed, "chunk": archive.chunk}
        return made | {"first": self.first, "reserve": self.reserve, "held_out": self.n_to_hold_out}

    def numbers(self, i: int) -> range:
        """Those of block i."""
        size = self.archive.chunk
        return range(i * size, min(self.n, (i + 1) * size))

    def is_held_out(self, numbers: Tensor) -> Tensor:
        """(m,) bool: a simulation's number decides, and nothing else."""
        held = self.n_to_hold_out
        return (numbers < self.first) & ((numbers + 1) * held // self.first > numbers * held // self.first)

    def block(self, i: int) -> Mapping[str, Tensor]:
        """Rows of block i to train on, by variable; waits until the last of them is there.

        Raises:
            TimeoutError: it does not come. ValueError: a damaged chunk, or another grid than that of the first.
        """
        self.wait(i)
        numbers, made = self._read(self.numbers(i))
        here = ~self.is_held_out(numbers)
        return {k: x[here] for k, x in made.values.items()}

    def pilot(self) -> tuple[Simulations, int]:
        """The first simulations, those to train on before those held out, and how many these are.

        Raises:
            TimeoutError: they do not come. ValueError: hardly any is finite and inside its support.
        """
        for i in range(self.first_blocks):
            self.wait(i)
        numbers, made = self._read(range(self.first))
        held = self.is_held_out(numbers)
        n_held = int(held.sum())
        if n_held < 2 or len(numbers) - n_held < 20:
            raise ValueError(
                f"{self.archive.path}: of the first {self.first} simulations {len(numbers)} are of use; expected at "
                "least 20 to train on and 2 to hold out. Why they failed: Archive.failures."
            )
        order = torch.cat([(~held).nonzero()[:, 0], held.nonzero()[:, 0]])
        values = {k: x[order] for k, x in made.values.items()}
        return Simulations(values, made.n_dropped, made.grid), n_held

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """The first n rows, for checks.

        Raises:
            ValueError: more than a handful: no new draws can be made.
        """
        if n > _CHECKED:
            raise ValueError("Arriving: no new draws can be made; expected train(arriving, simulations=arriving).")
        made = self._read(self.numbers(0))[1]
        if not len(made.values) or len(made) < n:
            made = self.pilot()[0]
        return {k: x[:n] for k, x in made.values.items() if k not in self.schema.paths}

    def wait(self, i: int) -> None:
        """Until block i is there.

        Raises:
            TimeoutError: nothing new for `patience` seconds; what the writer raises.
        """
        numbers, have, since, pause = self.numbers(i), -1, time.monotonic(), 0.01
        while not self.archive.holds(numbers):
            if self.writer is not None:
                self.writer()
            if (found := len(self.archive)) != have:
                have, since, pause = found, time.monotonic(), 0.01
            elif time.monotonic() - since > self.patience:
                raise TimeoutError(
                    f"{self.archive.path}: {have} of {self.n} simulations are there, and for {self.patience:g} s none "
                    f"came; simulations {numbers.start} to {numbers.stop - 1} are due. Let them be made, and make the "
                    "same call: with a checkpoint it goes on from there."
                )
            time.sleep(pause)
            pause = min(1.0, 1.3 * pause)

    def _read(self, numbers: range) -> tuple[Tensor, Simulations]:
        """The numbers of those of use, rising, and their rows."""
        data = self.archive.read(_names(self.schema), numbers)
        if not data.sizes["simulation"]:
            return torch.zeros(0, dtype=torch.long), Simulations({}, len(numbers), self.grid)
        found = torch.from_numpy(data["simulation"].to_numpy().astype("int64"))
        values, ok = finite(self.schema, tensors_of(data, self.schema, "simulation"), len(found))
        grid = {index.name: grid_of(data, index) for index in self.schema.indexes}
        made = Simulations({k: x[ok] for k, x in values.items()}, len(numbers) - int(ok.sum()), grid)
        require_same_grid(made, self)
        return found[ok], made


def require_numbers(n: int, first: int | None, reserve: float, patience: float) -> tuple[int, int]:
    """`n` and `first` of `Arriving.open`, the latter by its default where it is None.

    Raises:
        ValueError: numbers out of range, or no integers.
    """
    if not _is_integer(n) or n < 100:
        raise ValueError(f"Arriving: expected n, an integer >= 100, simulations, got {n!r}.")
    first = min(n, max(1_000, n // 10)) if first is None else first
    if not _is_integer(first) or not 100 <= first <= n:
        raise ValueError(f"Arriving: expected first from 100 to n = {n} simulations, got {first!r}.")
    if not 0 <= reserve <= 1 or not patience > 0:
        raise ValueError(f"Arriving: expected reserve from 0 to 1 and patience > 0, got {reserve} and {patience}.")
    return int(n), int(first)  # numpy's too, which JSON does not know


def _is_integer(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def _names(schema: Schema) -> list[str]:
    return [name for name in schema.names if name not in schema.paths]


def _wait_for_file(path: Path, seconds: float, writer: Callable[[], None] | None) -> None:
    """Who starts a campaign and a training together need not care which comes first.

    Raises:
        FileNotFoundError: it does not come. ValueError: something else is there.
    """
    started = time.monotonic()
    while not path.exists():
        if writer is not None:
            writer()
        if time.monotonic() - started > seconds:
            raise FileNotFoundError(
                f"No such archive: {path}, for {seconds:g} s. Begin the simulations first: simulate_to, or "
                "fsimformer simulate."
            )
        time.sleep(0.05)
    if not is_archive(path):
        raise ValueError(f"{path} is no archive of simulations; only an archive can be trained from as it grows.")
