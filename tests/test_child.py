"""A child process runs one simulation at a time: what it returns comes back exactly, and nothing it does spreads."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import black_boxes
import numpy as np
import pytest
import torch
import xarray as xr
from distributed.protocol.pickle import dumps

from fsimformer.child import Child, Field, SimulationError, decode, encode, fields_of


def child(simulator: Callable[[int], Any], limit: float | None = None) -> Child:
    return Child(dumps(simulator), sys.path, limit)


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether a process ends soon; a zombie that nobody has collected has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def same(a: dict[str, Field], b: dict[str, Field]) -> bool:
    def key(f: Field) -> tuple[Any, ...]:
        return f.dims, f.values.dtype, f.values.shape, f.values.tobytes(), f.attrs, f.is_coordinate

    return {k: key(f) for k, f in a.items()} == {k: key(f) for k, f in b.items()}


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", ">f8", "i1", "u8", "i8", "?"], ids=lambda d: d.replace("?", "bool").replace(">", "big")
)
def test_decode_inverts_encode(dtype: str) -> None:
    x = np.array([[0, 1, 1], [1, 0, 7]]).astype(dtype)
    fields = fields_of({"scalar": x[0, 1], "x": (("a", "b"), x.T[::2], {"units": "m"}), "none": ("c", x[0, :0])})
    back = decode(encode(fields))
    assert same(back, fields)
    np.testing.assert_array_equal(back["x"].values, x.T[::2])
    assert back["x"].values.dtype == np.dtype(dtype).newbyteorder("=")


def test_a_dataset_a_mapping_and_tensors_say_the_same() -> None:
    times, level = np.array([0.5, 2.0]), np.array([1.0, np.nan])
    data = xr.Dataset({"rate": 0.25, "level": ("time", level, {"units": "m"})}, {"time": times})
    mapping = {"rate": torch.tensor(0.25, dtype=torch.float64), "level": data["level"]}
    pairs = {"rate": 0.25, "level": ("time", level, {"units": "m"}), "time": ("time", torch.from_numpy(times))}
    assert same(fields_of(data), fields_of(mapping)) and same(fields_of(data), fields_of(pairs))
    assert fields_of({"v": np.zeros((2, 3))})["v"].dims == ("v_0", "v_1")


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (3.0, TypeError, "returned a float; expected a Dataset or a mapping"),
        ({}, ValueError, "returned no variables"),
        ({"a": "text"}, TypeError, "'a' holds <U4 values; expected numbers"),
        ({"a": 1j}, TypeError, "'a' holds complex128"),
        ({"a": [object()]}, TypeError, "'a' holds object"),
        ({"a": (("t",), 1.0)}, ValueError, r"'a' has shape \(\) and the dims \('t',\)"),
        ({"simulation": 1.0}, ValueError, "'simulation' is the archive's own dim"),
        ({"a": ("t", [1.0], {"when": [1]})}, TypeError, "Attribute 'when' of 'a' is a list"),
        ({"a": ("t", [1.0]), "b": ("t", [1.0, 2.0])}, ValueError, "'b' has 2 values along 't', where others have 1"),
        (
            {k: xr.DataArray([1.0], {"t": [i]}, "t") for i, k in enumerate("ab")},
            ValueError,
            "coordinate 't' of 'b' differs",
        ),
    ],
)
def test_what_is_no_result_is_named(result: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fields_of(result)


def test_whatever_becomes_of_one_simulation_the_next_is_as_ever() -> None:
    said = {
        "raises": ("ArithmeticError", "no 0"),
        "hangs": ("TimeoutError", "no result within 2 s; killed."),
        "dies": ("ChildProcessError", "the simulation's process died: signal 9 (Killed)."),
        "exits": ("ChildProcessError", "the simulation's process died: exit code 3."),
        "is text": ("TypeError", "'level' holds <U4 values; expected numbers of at most 64 bits, or truth values."),
    }
    with child(black_boxes.troubled, limit=2.0) as c:
        good = c.run(9)
        assert same(decode(good), fields_of(black_boxes.ragged(9)))
        for seed, bad in enumerate(black_boxes.FATES):
            with pytest.raises(SimulationError) as caught:
                c.run(seed)
            assert (caught.value.error, caught.value.message) == said[bad]
            assert c.run(9) == good


def test_a_death_is_not_blamed_on_who_came_after() -> None:
    """Every simulation but the first dies in the process of the one before, none in a fresh one."""
    with child(black_boxes.poisoned) as c:
        assert [float(decode(c.run(seed))["a"].values) for seed in (4, 5, 6)] == [4, 5, 6]


def test_global_generators_are_seeded_and_prints_do_no_harm() -> None:
    def chatty(seed: int) -> dict[str, object]:
        print("not an answer", flush=True)
        return black_boxes.careless(seed)

    with child(chatty) as c:
        first = [c.run(seed) for seed in (1, 2)]
        assert [c.run(seed) for seed in (2, 1)] == first[::-1] and first[0] != first[1]


def test_what_a_simulation_started_dies_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLACK_BOX_PIDS", str(tmp_path))
    with child(black_boxes.with_offspring, limit=2.0) as c, pytest.raises(SimulationError, match="no result within"):
        c.run(0)
    (pid,) = (int(p.name) for p in tmp_path.iterdir())
    assert gone(pid)


def test_a_group_is_killed_before_its_number_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every killpg the child is there, as a zombie at least: its number cannot be another group's."""
    killpg, states = os.killpg, list[bool]()

    def watched(group: int, how: int) -> None:
        states.append(Path(f"/proc/{group}").exists())
        killpg(group, how)

    monkeypatch.setattr(os, "killpg", watched)
    with child(black_boxes.troubled, limit=30.0) as c:
        for seed in (2, 3, 2, 3):  # dies, exits: nobody of ours has ended it
            with pytest.raises(SimulationError, match="process died"):
                c.run(seed)
    assert len(states) >= 4 and all(states)  # its reaper kills each group; `_stop` too, unless it comes after that


def test_a_program_that_ignores_its_children_s_ends_can_simulate() -> None:
    """With SIGCHLD ignored the system collects them, and nobody learns how they ended."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with child(black_boxes.troubled, limit=30.0) as c:
            with pytest.raises(SimulationError, match="process died"):
                c.run(2)
            assert same(decode(c.run(9)), fields_of(black_boxes.ragged(9)))
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_simulator_that_cannot_be_loaded_there() -> None:
    with (
        Child(dumps(black_boxes.careless), [p for p in sys.path if not p.endswith("tests")], None) as c,
        pytest.raises(
            ImportError, match="cannot be loaded in a process of its own: ModuleNotFoundError: .*black_boxes"
        ),
    ):
        c.run(0)
    with pytest.raises(RuntimeError, match="closed"):
        c.run(0)
