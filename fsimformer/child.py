"""A process of its own for one simulation at a time: what hangs is killed, what crashes takes nobody with it.

A thread cannot be interrupted and a dask task neither; a process can. `Child` starts this very file as a program, sends
it the simulator once and then one seed after another, and gets fields or an error back, all over two pipes::

    parent                                child
    frame(paths as JSON), frame(simulator)  ->  imports it; answers READY or FAILED
    frame({"seed", "limit"} as JSON)        ->  simulator(seed); answers FIELDS or FAILED
    a timer kills the child's process group once `limit` seconds have passed without an answer

The child outlives many simulations, for imports take seconds. A child that dies is replaced; since what broke it may be
an earlier simulation, the one at hand is tried once more in a fresh child, and only if that dies too it has failed. So
a death is a fact about a simulation, not about who ran before it. A black box may draw from the global generators of
Python, numpy or torch: nobody else lives in that process, so they are seeded with the simulation's seed as well.

If the parent is killed the child reads the end of its pipe and leaves; should a simulation hold the interpreter's lock
meanwhile, faulthandler's timer, which needs no lock, ends it a little after the limit.

The simulator crosses the pipe as dask or multiprocessing would send it. Results come back as JSON and raw numbers:
nothing that a simulation returns is ever unpickled, and nothing of this reaches a disk.

This file imports nothing of ours, so that a child need not load torch to run a simulator that does without.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any, BinaryIO, NamedTuple

import numpy as np

READY, FIELDS, FAILED = b"R", b"V", b"F"
_START_SECONDS = 300.0  # a child that has not imported its simulator by then never will
_GRACE_SECONDS = 10.0
_LENGTH = struct.Struct("<Q")


class Field(NamedTuple):
    """One variable or coordinate that a simulation returned."""

    dims: tuple[str, ...]
    values: np.ndarray
    attrs: dict[str, Any]
    is_coordinate: bool


class SimulationError(Exception):
    """A simulation failed: class and message of its error. In a child of its own: TimeoutError, ChildProcessError."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error, self.message = error, message


def fields_of(result: Any) -> dict[str, Field]:
    """What a simulator returned, by name: a Dataset, or a mapping of what xarray takes, numbers, arrays, tensors.

    A bare array of a mapping has the dims <name>_0, <name>_1, ...

    Raises:
        TypeError: neither, or values that are no real numbers. ValueError: nothing, or the name `simulation`, which is
            the archive's own dim; dims, sizes or coordinates that do not fit together.
    """
    found: dict[str, Field] = {}
    if hasattr(result, "data_vars"):
        for name, x in result.variables.items():
            found[str(name)] = _field(str(name), x.dims, x.values, x.attrs, name in result.coords)
    elif isinstance(result, Mapping):
        for name, x in result.items():
            if isinstance(x, tuple):
                dims, values, *attrs = x
                dims = (dims,) if isinstance(dims, str) else dims
                found[str(name)] = _field(str(name), dims, values, attrs[0] if attrs else {}, False)
            elif hasattr(x, "coords"):
                found[str(name)] = _field(str(name), x.dims, x.values, x.attrs, False)
                for c, y in x.coords.items():
                    place = _field(str(c), y.dims, y.values, y.attrs, True)
                    if not np.array_equal(found.setdefault(str(c), place).values, place.values):
                        raise ValueError(f"The coordinate {c!r} of {name!r} differs from what others have.")
            else:
                values = np.asarray(x)
                dims = tuple(f"{name}_{i}" for i in range(values.ndim))
                found[str(name)] = _field(str(name), dims, values, {}, False)
    else:
        raise TypeError(f"A simulation returned a {type(result).__name__}; expected a Dataset or a mapping of values.")
    if not found:
        raise ValueError("A simulation returned no variables.")
    sizes: dict[str, int] = {}
    for name, field in found.items():
        for dim, size in zip(field.dims, field.values.shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise ValueError(f"{name!r} has {size} values along {dim!r}, where others have {sizes[dim]}.")
    return found


def _field(name: str, dims: Sequence[Any], values: Any, attrs: Mapping[Any, Any], is_coordinate: bool) -> Field:
    values, dims = np.asarray(values), tuple(map(str, dims))
    if values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
        raise TypeError(f"{name!r} holds {values.dtype} values; expected numbers of at most 64 bits, or truth values.")
    if len(dims) != values.ndim or len(set(dims)) != len(dims):
        raise ValueError(f"{name!r} has shape {values.shape} and the dims {dims}; expected one name for each.")
    if "simulation" in (name, *dims):
        raise ValueError(f"{name!r}: the name 'simulation' is the archive's own dim; choose another.")
    plain = {str(k): v.item() if isinstance(v, np.generic) else v for k, v in attrs.items()}
    for key, value in plain.items():
        if not isinstance(value, str | int | float):
            raise TypeError(f"Attribute {key!r} of {name!r} is a {type(value).__name__}; expected text or a number.")
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(values.shape)
    return Field(dims, values, plain, is_coordinate or dims == (name,))


def encode(fields: Mapping[str, Field]) -> bytes:
    """Fields as JSON and raw numbers; `decode` is its inverse."""
    head = {k: [f.dims, f.values.dtype.str, f.values.shape, f.attrs, f.is_coordinate] for k, f in fields.items()}
    return _framed(json.dumps(head).encode()) + b"".join(f.values.tobytes() for f in fields.values())


def decode(message: bytes) -> dict[str, Field]:
    """Inverse of `encode`."""
    at = _LENGTH.size + _LENGTH.unpack_from(message)[0]
    out = {}
    for name, (dims, dtype, shape, attrs, is_coordinate) in json.loads(message[_LENGTH.size : at]).items():
        n = int(np.prod(shape, dtype=np.int64))
        values = np.frombuffer(message, np.dtype(dtype), n, at).reshape(shape)
        out[name] = Field(tuple(dims), values, attrs, is_coordinate)
        at += values.nbytes
    return out


class Child:
    """A child process with the simulator in it, started on first use and again when it is gone.

    Args:
        simulator: as `dumps` of distributed.protocol.pickle gives it.
        paths: where the child looks for modules.
        limit: seconds that a simulation may take; None = any time.
    """

    def __init__(self, simulator: bytes, paths: Sequence[str], limit: float | None) -> None:
        self.simulator, self.paths, self.limit = simulator, list(paths), limit
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: threading.Thread
        self._uncollected: threading.Lock
        self._served = 0
        self._closed = self._expired = False
        self._question: object = None
        self._lock = threading.Lock()

    def run(self, seed: int) -> bytes:
        """Fields of one simulation, encoded.

        Raises:
            SimulationError: the simulator raised, took longer than the limit, or its process died.
            ImportError: it cannot be loaded in a process of its own. RuntimeError: this Child was closed.
        """
        while True:
            self._start()
            fresh, request = self._served == 0, json.dumps({"seed": seed, "limit": self.limit}).encode()
            kind, body = self._ask([request], self.limit)
            self._served += 1
            if kind == FIELDS:
                return body
            if kind == FAILED:
                raise SimulationError(*json.loads(body))
            expired, code = self._expired, self._stop()
            if expired:
                raise SimulationError("TimeoutError", f"no result within {self.limit:g} s; killed.")
            if fresh and not self._closed:
                raise SimulationError("ChildProcessError", f"the simulation's process died: {_how(code)}.")

    def kill(self) -> None:
        """From any thread: ends the process, `run` raises from now on. Who uses the Child still has to close it."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                _kill(self._process, self._uncollected)

    def close(self) -> None:
        """Ends the process and gives back its pipes."""
        self.kill()
        self._stop()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        if self._process is not None and self._process.returncode is None and not self._expired:
            return
        self._stop()
        with self._lock:
            if self._closed:
                raise RuntimeError("Child: closed.")
            threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            self._process = subprocess.Popen(  # one thread a child, as dask's own workers have: there are many
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=threads | dict(os.environ),
                start_new_session=True,  # a group of its own, killed as a whole: a simulator may start programs
            )
            self._served, self._expired = 0, False
            self._uncollected = threading.Lock()
            self._reaper = threading.Thread(target=_reap, args=(self._process, self._uncollected), daemon=True)
            self._reaper.start()
        kind, body = self._ask([json.dumps(self.paths).encode(), self.simulator], _START_SECONDS)
        if kind == READY:
            return
        how = ": ".join(json.loads(body)) if kind == FAILED else _how(self._stop())
        raise ImportError(f"The simulator cannot be loaded in a process of its own: {how}")

    def _ask(self, frames: Sequence[bytes], limit: float | None) -> tuple[bytes, bytes]:
        """The child's answer; (b"", b"") where it died or was killed for its lateness."""
        process, self._question = self._process, object()
        assert process is not None and process.stdin is not None and process.stdout is not None
        timer = threading.Timer(limit or 0.0, self._expire, (process, self._question))
        timer.daemon = True
        if limit is not None:
            timer.start()
        try:
            process.stdin.write(b"".join(map(_framed, frames)))
            process.stdin.flush()
            answer = _read_frame(process.stdout)
        except BrokenPipeError:
            answer = None
        finally:
            timer.cancel()
            with self._lock:
                self._question = None
        return (b"", b"") if answer is None else (answer[:1], answer[1:])

    def _expire(self, process: subprocess.Popen[bytes], question: object) -> None:
        with self._lock:  # a timer that was cancelled an instant too late must not hit the next simulation
            if self._question is question:
                self._expired = True
                _kill(process, self._uncollected)

    def _stop(self) -> int | None:
        """Ends the process, if there is one; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        _kill(process, self._uncollected)
        self._reaper.join()  # the only one who collects
        code: int = process.returncode
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return code


def _kill(process: subprocess.Popen[bytes], uncollected: threading.Lock) -> None:
    with uncollected:
        if process.returncode is None:  # nobody but `_reap` asks the system: until then the number is the child's
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _reap(process: subprocess.Popen[bytes], uncollected: threading.Lock) -> None:
    """Once the child is dead, so is whatever it started: it might hold the pipe open for ever.

    The child stays a zombie until its group is dead: a number that has been collected may be another group's by then.
    """
    try:
        if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        else:
            process.wait()
        collected = False
    except ChildProcessError:  # this program ignores SIGCHLD: the system has collected it
        collected = True
    with uncollected:
        if not collected:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    return f"signal {-code} ({signal.strsignal(-code)})"


def _framed(message: bytes) -> bytes:
    return _LENGTH.pack(len(message)) + message


def _read_frame(pipe: BinaryIO | Any) -> bytes | None:
    """The next message; None at the end of the pipe, also in the middle of one."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (n,) = _LENGTH.unpack(head)
    message: bytes = pipe.read(n)
    return message if len(message) == n else None


def _serve() -> None:
    """The child's side. What the simulator prints goes to stderr: stdout is a pipe of ours."""
    answers, requests = os.fdopen(os.dup(1), "wb"), os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while (message := _read_frame(requests)) is not None:
            inbox.put(message)
        os._exit(0)  # the parent is gone

    def answer(kind: bytes, body: bytes) -> None:
        answers.write(_framed(kind + body))
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    try:
        sys.path[:] = json.loads(inbox.get())
        simulator = ForkingPickler.loads(inbox.get())
    except BaseException as error:
        answer(FAILED, _described(error))
        return
    answer(READY, b"")
    while True:
        request = json.loads(inbox.get())
        if request["limit"] is not None:
            with open(null, "wb", closefd=False) as nowhere:
                faulthandler.dump_traceback_later(request["limit"] + _GRACE_SECONDS, exit=True, file=nowhere)
        try:
            _seed_global_generators(request["seed"])
            message = FIELDS, encode(fields_of(simulator(request["seed"])))
        except BaseException as error:  # a simulator may call sys.exit
            message = FAILED, _described(error)
        faulthandler.cancel_dump_traceback_later()
        answer(*message)


def _described(error: BaseException) -> bytes:
    return json.dumps([type(error).__name__, str(error)]).encode()


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


if __name__ == "__main__":
    _serve()
