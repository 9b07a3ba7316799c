"""Simulating and training side by side, in one process.

::

    with simulating("tank.zarr", tank, 10_000, schema, workers=1, limit=60.0) as runs:
        joint = fsf.train(runs, simulations=runs)

A campaign (campaign.py) runs in a thread and writes the archive, the caller's thread trains from it (arriving.py).
Simulations run in processes of their own, so that the two share cores and nothing else. What the campaign raises is
raised where training waits for it. On leaving, a campaign that is not through is stopped as soon as its next simulation
ends; the archive keeps what is there, and the same call goes on.

Needs the extra `archive`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fsimformer.arriving import Arriving, require_numbers
from fsimformer.campaign import Tally, simulate_to
from fsimformer.schema import Schema
from fsimformer.simulators import Simulator


class _Enough(Exception):
    """Nobody trains any more."""


@contextmanager
def simulating(
    path: str | Path,
    simulator: Callable[[int], Any] | Simulator,
    n: int,
    schema: Schema | None = None,
    *,
    seed: int = 0,
    chunk: int = 100,
    limit: float | None = None,
    workers: int | None = None,
    first: int | None = None,
    reserve: float = 0.5,
    callback: Callable[[Tally], None] | None = None,
) -> Iterator[Arriving]:
    """Simulations that are being made while the block runs.

    Args:
        path, simulator, n, seed, chunk, limit, workers, callback: as of `campaign.simulate_to`, which resumes an
            archive that is there; the callback is called in another thread.
        schema: of a black box's variables; None = the Simulator's.
        first, reserve: as of `Arriving.open`; reserve=1 trains after all are there, best where each of few simulations
            is seen hundreds of times (stock.py).

    Yields:
        What `fsimformer.train` takes, once the first simulations are there.

    Raises:
        ValueError: a black box without a schema, a Simulator with another than its own, or numbers out of range, before
            anything is written; what `simulate_to` and `Arriving.open` raise.
    """
    patience = float("inf")  # as long as the campaign lives, its simulations come
    require_numbers(n, first, reserve, patience)
    if schema is None and not isinstance(simulator, Simulator):
        raise ValueError(
            f"simulating: {getattr(simulator, '__name__', type(simulator).__name__)} has no schema; pass "
            "schema=fsimformer.Schema(...) of what it returns."
        )
    if schema is not None and isinstance(simulator, Simulator) and schema != simulator.schema:
        raise ValueError(
            f"simulating: {type(simulator).__name__} has a schema of its own, of {simulator.schema.names}, and the one "
            f"that was passed, of {schema.names}, is another; leave it out."
        )
    known: Any = simulator if isinstance(simulator, Simulator) else schema
    campaign = _Campaign(callback)
    call = partial(simulate_to, path, simulator, n, seed=seed, chunk=chunk, limit=limit, workers=workers)
    thread = threading.Thread(target=campaign.run, args=(call,), name="fsimformer-campaign")
    thread.start()
    try:
        yield Arriving.open(path, known, n, first=first, reserve=reserve, patience=patience, writer=campaign.check)
    finally:
        campaign.stop.set()
        thread.join()


class _Campaign:
    """What runs in the thread, and how it went."""

    def __init__(self, callback: Callable[[Tally], None] | None) -> None:
        self.callback, self.stop = callback, threading.Event()
        self.error: BaseException | None = None

    def run(self, call: Callable[..., object]) -> None:
        try:
            call(callback=self._tally)
        except _Enough:
            pass
        except BaseException as error:  # raised again by whoever waits
            self.error = error

    def check(self) -> None:
        """Raises what the campaign raised."""
        if self.error is not None:
            raise self.error

    def _tally(self, tally: Tally) -> None:
        if self.stop.is_set():
            raise _Enough
        if self.callback is not None:
            self.callback(tally)
