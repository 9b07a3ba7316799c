"""Many simulations of a black box, in parallel, into an archive.

A simulator is any callable: seed -> a Dataset, or a mapping of numbers, arrays and (dims, values) pairs. All that it
draws at random comes from the seed, an integer from 0 to 2⁶³ − 1::

    def simulate(seed):
        rng = np.random.default_rng(seed)
        rate = rng.lognormal()
        return {"rate": rate, "level": ("time", run_my_model(rate)), "time": ("time", hours)}  # the grid, to train on

    archive = simulate_to("runs.zarr", simulate, 10_000, seed=1, limit=60.0)

Simulation k has the seed `seed_at(seed, 7, k)`, whoever runs it and whenever: workers, their number and the order in
which they finish change nothing. What they share is told apart by k: chunks (archive.py) hold fixed ranges of k and are
written as soon as their last simulation arrives, in whatever order that happens.

dask spreads the work; each of its threads waits for a `Child` (child.py) that runs one simulation at a time and can be
killed. So the local cluster, the default, consists of threads in this process, and scripts need no
`if __name__ == "__main__"`; simulations run in processes of their own there as well. On a client's cluster they run on
its machines, where this package must be installed. At most twice as many simulations as there are threads are under
way, or tasks of a tenth of a second where simulations are quicker, and of few chunks at a time: memory does not grow
with n.

Needs the extra `archive`.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from hashlib import sha256
from numbers import Integral, Real
from os import cpu_count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fsimformer.archive import Archive, Failure
from fsimformer.child import Child, Field, SimulationError, decode
from fsimformer.recorded import OneDraw
from fsimformer.seeds import seed_at
from fsimformer.simulators import Simulator

try:
    from distributed import Client, LocalCluster, WorkerPlugin, as_completed, get_worker
    from distributed.protocol.pickle import dumps
except ImportError as error:
    raise ImportError("Simulating in parallel needs dask: pip install 'fsimformer[archive]'.") from error

_PURPOSE = 7  # seeds.py
_TASK_SECONDS, _MOST_IN_TASK = 0.1, 256  # dask spends some 4 ms on a task: quick simulations share one
_OPEN_CHUNKS = 16  # begun and not yet written: a slow simulation holds up its own chunk only


Result = dict[str, Field] | Failure


class SimulationWarning(UserWarning):
    """Some simulations failed, the others are what was asked for; or whose an archive is cannot be told."""


@dataclass(frozen=True)
class Tally:
    """How far a campaign is: of the simulations 0 to n − 1, how many are done, and how many of these failed."""

    n: int
    n_done: int
    n_failed: int


def simulate_to(
    path: str | Path,
    simulator: Callable[[int], Any] | Simulator,
    n: int,
    *,
    seed: int = 0,
    chunk: int = 100,
    limit: float | None = None,
    workers: int | None = None,
    client: Client | None = None,
    callback: Callable[[Tally], None] | None = None,
) -> Archive:
    """Simulations 0 to n − 1 in an archive: whatever it lacks of them is run.

    The same call resumes what was interrupted, and one with a larger n extends it. That the simulator is still the
    same is known by its module and name (of a dataclass its fields too, of a partial what it binds). Simulations
    that failed are not run again: delete their chunk's directory for that.

    Args:
        path: the archive's directory, made if it is not there.
        simulator: seed -> Dataset or mapping (above); or a `Simulator`, whose draws are then made one by one.
        n: how many the archive shall hold.
        seed: the archive's; each simulation's follows from it.
        chunk: simulations that are written together; what a chunk lacks when the process is killed is run again.
        limit: seconds a simulation may take before it is killed; None = any time. The first one of every process, and
            the first after a kill, pays for what the simulator loads or compiles then: leave room for it. What failed
            is not tried again, under whatever limit.
        workers: how many run at a time on this machine; None = one a CPU.
        client: of a dask cluster to run on instead.
        callback: called with a `Tally` once before any simulation, and after every one.

    Returns:
        The archive; `read()` gives its Dataset, `failures` lists what failed.

    Raises:
        ValueError: a number out of range, or no integer; an archive of another seed, chunk or simulator; simulations
            that differ in their variables, dims or units.
        TypeError: no callable, or one that cannot be sent to another process.
        ImportError: the simulator cannot be loaded in a process of its own.
        BlockingIOError: another process writes to the archive.

    Warns:
        SimulationWarning: how many failed, and of what; an archive continued with what may be another simulator.
    """
    _require_integers(n=n, seed=seed, chunk=chunk, workers=workers)
    n, seed, chunk = int(n), int(seed), int(chunk)  # numpy's too, which JSON does not know
    _require(n, limit, workers, client)
    seed_at(seed, _PURPOSE, n - 1)  # says what is wrong with a seed
    schema = None
    name, known = _name(simulator), _stated(simulator)[1]
    if isinstance(simulator, Simulator):
        schema, simulator = simulator.schema, OneDraw(simulator)
    if not callable(simulator):
        raise TypeError(f"simulator: expected a callable seed -> Dataset or mapping, got a {type(simulator).__name__}.")
    try:
        payload: bytes = dumps(simulator)
    except Exception as error:  # pickle's errors have no common class
        raise TypeError(f"simulator: {name} cannot be sent to another process: {error}") from error
    if not Path(path).exists():
        Archive.create(path, seed, chunk, name, schema)
    archive, asked = Archive.open(path), Archive(Path(path), seed, chunk, name, schema)
    for what in ("seed", "chunk", "simulator", "schema"):
        held, given = getattr(archive, what), getattr(asked, what)
        if held != given:
            raise ValueError(f"{path} was begun with the {what} {held!r}, not {given!r}; choose another path.")
    if len(archive) and archive.missing(n) and schema is None and not known:
        text = f"{path} is continued with {name}, which may not be the simulator that began it: lambdas, closures, "
        text += "methods and objects cannot be told apart. Pass a function, functools.partial of one, or a dataclass."
        warnings.warn(text, SimulationWarning, stacklevel=2)
    with archive.writing() as writer:
        todo, failed = archive.missing(n), sum(f.number < n for f in archive.failures)
        done = n - sum(map(len, todo))
        if callback is not None:
            callback(Tally(n, done, failed))
        arrived: dict[int, dict[int, Result]] = {}
        if todo:
            with _results(payload, seed, todo, limit, workers, client) as results:
                for i, number, result in results:
                    arrived.setdefault(i, {})[number] = result
                    done, failed = done + 1, failed + isinstance(result, Failure)
                    if len(arrived[i]) == len(todo[i]):
                        writer.write(arrived.pop(i))
                    if callback is not None:
                        callback(Tally(n, done, failed))
    if failures := archive.failures:
        kinds = ", ".join(f"{error} {count}" for error, count in Counter(f.error for f in failures).most_common())
        text = f"{len(failures)} of {len(archive)} simulations failed ({kinds}); Archive.failures tells which and why."
        warnings.warn(text, SimulationWarning, stacklevel=2)
    return archive


class Children(WorkerPlugin):
    """What each dask worker keeps while a campaign runs: child processes, as many as it has threads at work."""

    def __init__(self, simulator: bytes, paths: Sequence[str], limit: float | None) -> None:
        self.simulator, self.paths, self.limit = simulator, list(paths), limit

    def setup(self, worker: Any) -> None:
        self._lock, self._closed = threading.Lock(), False
        self._busy: list[Child] = []
        self._idle: list[Child] = []

    def teardown(self, worker: Any) -> None:
        with self._lock:
            self._closed = True
            for child in self._busy:
                child.kill()
            while self._idle:
                self._idle.pop().close()

    def run(self, seed: int) -> bytes:
        """Fields of one simulation; `SimulationError` if there are none."""
        with self._lock:
            if self._closed:
                raise RuntimeError("The campaign is over.")
            paths = [*sys.path, *(p for p in self.paths if p not in sys.path)]
            child = self._idle.pop() if self._idle else Child(self.simulator, paths, self.limit)
            self._busy.append(child)
        try:
            return child.run(seed)
        finally:
            with self._lock:
                self._busy.remove(child)
                if self._closed:
                    child.close()
                else:
                    self._idle.append(child)


def _run(plugin: str, seeds: dict[int, int]) -> tuple[float, list[tuple[int, bytes | None, tuple[str, str] | None]]]:
    """A dask task: some simulations, one after another, by a child of the worker that it runs on; seconds it took."""
    children, started = get_worker().plugins[plugin], time.monotonic()
    assert isinstance(children, Children)
    results: list[tuple[int, bytes | None, tuple[str, str] | None]] = []
    for number, seed in seeds.items():
        try:
            results.append((number, children.run(seed), None))
        except SimulationError as error:
            results.append((number, None, (error.error, error.message)))
    return time.monotonic() - started, results


@contextmanager
def _results(
    payload: bytes,
    seed: int,
    todo: Sequence[range],
    limit: float | None,
    workers: int | None,
    client: Client | None,
) -> Iterator[Iterator[tuple[int, int, Result]]]:
    """What `_arrivals` gives, on a local cluster or the client's; on leaving, what still runs is killed."""
    with ExitStack() as stack:
        if client is None:
            n_threads = min(workers or cpu_count() or 1, sum(map(len, todo)))
            # of its own accord dask serves pages to the whole network, at a port that two campaigns would fight for
            loopback = "127.0.0.1:0"
            quiet = {"processes": False, "dashboard_address": loopback, "worker_dashboard_address": loopback}
            local = {"n_workers": 1, "threads_per_worker": n_threads, **quiet}
            client = stack.enter_context(Client(stack.enter_context(LocalCluster(**local)), set_as_default=False))
        plugin = f"fsimformer-{uuid.uuid4().hex}"
        client.register_plugin(Children(payload, sys.path, limit), name=plugin)
        futures: dict[Any, int] = {}

        def end() -> None:
            client.cancel(list(futures))
            client.unregister_worker_plugin(plugin)

        stack.callback(end)
        yield _arrivals(client, plugin, seed, todo, futures)


def _arrivals(
    client: Client, plugin: str, seed: int, todo: Sequence[range], futures: dict[Any, int]
) -> Iterator[tuple[int, int, Result]]:
    """(i, number, result) of each simulation of todo[i], as they arrive; `futures` holds the i of what is under way."""
    left, oldest = list(map(len, todo)), 0  # oldest: the first chunk that is not whole
    i, k, batch = 0, todo[0].start, 1  # the next task: `batch` numbers of todo[i] from k on
    queue, room = as_completed([], loop=client.loop, with_results=True), _room(client)
    while i < len(todo) or futures:
        while i < min(len(todo), oldest + _OPEN_CHUNKS + room) and len(futures) < room:
            numbers = range(k, min(k + batch, todo[i].stop))
            future = client.submit(_run, plugin, {n: seed_at(seed, _PURPOSE, n) for n in numbers}, pure=False)
            futures[future] = i
            queue.add(future)
            k = numbers.stop
            if k == todo[i].stop:
                i += 1
                k = todo[i].start if i < len(todo) else 0
        future, (seconds, results) = next(queue)
        at, n = futures.pop(future), len(results)
        if seconds < _TASK_SECONDS / 2:
            batch = min(max(batch, 2 * n), _MOST_IN_TASK)
        elif seconds > _TASK_SECONDS * 2:
            batch = min(batch, max(1, n // 2))
        left[at] -= n
        while oldest < len(left) and not left[oldest]:
            oldest, room = oldest + 1, _room(client)
        for number, message, error in results:
            if message is not None:
                yield at, number, decode(message)
            elif error is not None:
                yield at, number, Failure(number, seed_at(seed, _PURPOSE, number), *error)


def _room(client: Client) -> int:
    """How many tasks may be under way; a cluster may grow."""
    return 2 * max(1, sum(client.nthreads().values()))


def _name(simulator: Any) -> str:
    """What an archive calls a simulator: the same in every process, of a `partial` with what it binds."""
    if is_dataclass(simulator) and " at 0x" not in (text := repr(simulator)) and "tensor(" not in text:
        return f"{type(simulator).__module__}.{text}"
    return _stated(simulator)[0]


def _stated(value: Any) -> tuple[str, bool]:
    """A name for a simulator or for what a partial binds, and whether it could be that of nothing else."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value), True
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufcSUmM":  # their repr leaves numbers out
        digest = sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
        return f"{value.dtype}{list(value.shape)} {digest}", True
    if isinstance(value, list | tuple | dict):
        parts = [_stated(x) for x in (sorted(value.items(), key=repr) if isinstance(value, dict) else value)]
        return f"[{', '.join(text for text, _ in parts)}]", all(sure for _, sure in parts)
    if isinstance(value, partial):
        given = [("", x) for x in value.args] + [(f"{k}=", x) for k, x in sorted(value.keywords.items())]
        bound = [(prefix, *_stated(x)) for prefix, x in given]
        f, known = _stated(value.func)
        return f"{f}({', '.join(p + text for p, text, _ in bound)})", known and all(sure for _, _, sure in bound)
    own = value if hasattr(value, "__qualname__") else type(value)
    module = getattr(own, "__module__", None)  # a method that is written in C has none
    text = own.__qualname__ if module is None else f"{module}.{own.__qualname__}"
    if own is not value:  # an object: its class does not tell its state
        parts = [_stated(getattr(value, f.name)) for f in fields(value)] if is_dataclass(value) else []
        sure = bool(parts) and all(sure for _, sure in parts)
        return (f"{text}({', '.join(part for part, _ in parts)})" if sure else text), sure
    holder = getattr(value, "__self__", None)
    free = holder is None or isinstance(holder, type | ModuleType)
    return text, free and "<lambda>" not in text and not ("<locals>" in text and getattr(value, "__closure__", None))


def _require_integers(**numbers: object) -> None:
    """1e3 is a float, and would be found out only where the work begins."""
    for what, number in numbers.items():
        if number is not None and (not isinstance(number, Integral) or isinstance(number, bool)):
            raise ValueError(f"{what}: expected an integer, got {number!r}, a {type(number).__name__}.")


def _require(n: int, limit: float | None, workers: int | None, client: Client | None) -> None:
    """Arguments of a campaign that make sense."""
    if n < 1:
        raise ValueError(f"n: expected at least 1 simulation, got {n}.")
    if isinstance(limit, bool) or not isinstance(limit, Real | None):
        raise ValueError(f"limit: expected seconds as a number, or None, got {limit!r}.")
    if limit is not None and not limit > 0:
        raise ValueError(f"limit: expected seconds above 0, or None, got {limit}.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}.")
    if client is not None and workers is not None:
        raise ValueError("workers: a client brings its own workers; give one or the other.")
    if client is not None and not hasattr(client, "asynchronous"):
        raise TypeError(
            f"client: expected a dask.distributed.Client, got {client!r}; a scheduler's address: Client(address)."
        )
    if client is not None and client.asynchronous:
        raise ValueError("client: expected a synchronous dask client.")
