"""Simulations on disk: a Zarr group of chunks, each of which is there as a whole or not at all.

::

    runs.zarr/
        zarr.json                                        the manifest, as the group's attributes; never changes
        chunk-000000000-000000099-5c1f0a…/               simulations 0 to 99: a Zarr group, never changed either
            zarr.json                                    its attributes: failures, variables, their attributes
            simulation/  theta/  y/  time/  …            arrays of those that succeeded, (simulation, …)
    .runs.zarr.writing/                                  beside it, while somebody writes: the lock, the next chunk

A chunk is written beside the archive, synced to the disk and then renamed into it: the rename is the commit, and the
name is its record: which simulations, and a digest of every byte of the chunk. Whoever is killed, at any instant,
leaves the archive with the chunks it had; the next writer sweeps the rest away (`beside.py`). Readers need no lock.

The number of a simulation is its key: its seed follows from it (`seeds.py`), and so does the chunk it belongs to. What
is missing can therefore be listed (`missing`), and an archive that was interrupted, resumed and extended holds what one
holds that was written in one go, byte for byte but for where its chunks end.

How simulations of different sizes share a chunk, and chunks a Dataset, says `blocks.py`. Failed simulations have no
row; `Archive.failures` tells them. Needs a POSIX system, and the extra `archive`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fsimformer.beside import commit, locked, remove, sweep
from fsimformer.blocks import SIMULATION, join, meaning_of, only, row, structure_of
from fsimformer.child import Field
from fsimformer.damage import DAMAGE
from fsimformer.files import require_no_pickle, require_zarr
from fsimformer.schema import Schema

FORMAT = 1
_KEY = "fsimformer_archive"
_NAME = re.compile(r"chunk-(\d{9,})-(\d{9,})-([0-9a-f]{16})")


@dataclass(frozen=True)
class Failure:
    """A simulation that gave no result: calling the simulator with `seed` shows why."""

    number: int
    seed: int
    error: str
    message: str


@dataclass(frozen=True)
class Chunk:
    """A committed chunk: simulations `first` to `last`."""

    path: Path
    first: int
    last: int
    digest: str


@dataclass(frozen=True)
class Archive:
    """An archive on disk; nothing is held in memory, so that every call sees what is there by then.

    Args:
        path: its directory.
        seed: simulation k has the seed `seed_at(seed, 7, k)`.
        chunk: most simulations in a chunk; those of a chunk have the same k // chunk.
        simulator: name of what was simulated.
        schema: its variables, if the simulator had a schema.
    """

    path: Path
    seed: int
    chunk: int
    simulator: str
    schema: Schema | None = None

    @classmethod
    def create(cls, path: str | Path, seed: int, chunk: int, simulator: str, schema: Schema | None = None) -> Archive:
        """An empty archive.

        Raises:
            FileExistsError: something is there. ValueError: a chunk of less than one simulation.
        """
        require_zarr()
        archive = cls(Path(path), seed, chunk, simulator, schema)
        if chunk < 1:
            raise ValueError(f"chunk: expected at least 1 simulation, got {chunk}.")
        if archive.path.exists():
            raise FileExistsError(f"{path} exists.")
        about = {
            "format": FORMAT,
            "seed": seed,
            "chunk": chunk,
            "simulator": simulator,
            "schema": None if schema is None else schema.to_dict(),
        }
        attributes = {_KEY: about, "digest": _digest_of_json(about)}
        card = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        with archive._beside() as beside:
            part = beside / "archive"
            part.mkdir()
            (part / "zarr.json").write_text(json.dumps(card, indent=1) + "\n")
            commit(part, archive.path)
        return archive

    @classmethod
    def open(cls, path: str | Path) -> Archive:
        """The archive at `path`.

        Raises:
            FileNotFoundError: there is none. ValueError: another Zarr group, a damaged manifest, an unknown format.
        """
        card = Path(path) / "zarr.json"
        if not card.is_file():
            raise FileNotFoundError(f"{path} is no archive: no zarr.json in it.")
        try:
            attributes = json.loads(card.read_text())["attributes"]
            about = attributes.get(_KEY)
            intact = about is None or attributes["digest"] == _digest_of_json(about)
            if about is not None and not isinstance(about["format"], int):
                raise TypeError(f"format {about['format']!r}")
        except DAMAGE as error:
            raise ValueError(f"{card} is damaged: {type(error).__name__}: {error}.") from error
        if not intact:
            raise ValueError(f"{card} is damaged: its digest is not that of its content.")
        if about is None:
            raise ValueError(f"{path} is a Zarr group, but no archive of fsimformer; read it with xarray.open_zarr.")
        if about["format"] != FORMAT:
            raise ValueError(f"{path} has the format {about['format']}; this version reads {FORMAT}.")
        try:  # the digest guards against accidents alone
            schema = None if about["schema"] is None else Schema.from_dict(about["schema"])
            seed, chunk, simulator = about["seed"], about["chunk"], about["simulator"]
            if type(seed) is not int or type(chunk) is not int or chunk < 1 or not isinstance(simulator, str):
                raise ValueError("expected integers as seed and chunk, and a simulator's name")
        except DAMAGE as error:
            raise ValueError(f"{card} is damaged: {type(error).__name__}: {error}.") from error
        return cls(Path(path), seed, chunk, simulator, schema)

    def chunks(self) -> tuple[Chunk, ...]:
        """What is committed, in the order of the numbers.

        Raises:
            ValueError: two chunks hold the same simulation, or one is named after others than its place.
        """
        names = [_NAME.fullmatch(entry) for entry in os.listdir(self.path)]
        found = [Chunk(self.path / m[0], int(m[1]), int(m[2]), m[3]) for m in names if m is not None]
        found.sort(key=lambda c: (c.first, c.last))
        for a, b in pairwise(found):
            if b.first <= a.last:
                raise ValueError(f"{self.path}: {a.path.name} and {b.path.name} hold the same simulations.")
        if wrong := [c.path.name for c in found if c.last < c.first or c.first // self.chunk != c.last // self.chunk]:
            raise ValueError(f"{self.path}: {wrong[0]} is no chunk of at most {self.chunk} simulations.")
        return tuple(found)

    def __len__(self) -> int:
        """How many simulations are in it, failed ones included."""
        return sum(c.last - c.first + 1 for c in self.chunks())

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Those that failed, in the order of their numbers."""
        return tuple(_failure(c, entry) for c in self.chunks() for entry in _attributes(c)["failures"])

    def missing(self, n: int) -> list[range]:
        """What the simulations 0 to n − 1 still lack: one range for each chunk that is to be written."""
        here, gaps = np.zeros(n, dtype=bool), []
        for c in self.chunks():
            here[c.first : c.last + 1] = True
        for start in range(0, n, self.chunk):
            gone = np.flatnonzero(~here[start : start + self.chunk]) + start
            for run in np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1):
                if len(run):
                    gaps.append(range(int(run[0]), int(run[-1]) + 1))
        return gaps

    def holds(self, numbers: range) -> bool:
        """Whether all of these consecutive simulations are in it, failed ones included."""
        here = sum(len(_overlap(c, numbers)) for c in self.chunks())  # chunks never hold the same
        return here == len(numbers)

    def read(self, variables: Collection[str] | None = None, numbers: range | None = None) -> xr.Dataset:
        """Every simulation that succeeded so far, in the order of the numbers, its bytes checked.

        Args:
            variables: those wanted; None = all. Their coordinates come with them.
            numbers: consecutive ones wanted; None = all. Other chunks are not opened.

        Returns:
            Dataset with the dim and coordinate `simulation` (the number); attributes `seed`, `n_failed`.

        Raises:
            ValueError: a damaged chunk. KeyError: no such variable.
        """
        parts, n_failed = [], 0
        for c in self.chunks():
            wanted = range(c.first, c.last + 1) if numbers is None else _overlap(c, numbers)
            if not wanted:
                continue
            part, failures = _read(c)
            n_failed += sum(failure["number"] in wanted for failure in failures)
            part = part if len(wanted) == c.last - c.first + 1 else only(part, wanted)
            if len(part[SIMULATION].values):
                parts.append(part)
        attrs = {"seed": self.seed, "n_failed": n_failed}
        if not parts:
            return xr.Dataset(coords={SIMULATION: np.zeros(0, np.int64)}, attrs=attrs)
        held = [name for name, field in parts[0].items() if not field.is_coordinate]
        if variables is not None and not set(variables) <= set(held):
            raise KeyError(f"{self.path}: no variables {sorted(set(variables) - set(held))}; variables: {held}.")
        data = _dataset(join(parts), attrs)
        return data if variables is None else data[list(variables)]

    def datasets(self) -> Iterator[xr.Dataset]:
        """One Dataset for each chunk with a success in it, for what does not fit into memory as a whole."""
        for c in self.chunks():
            part, failures = _read(c)
            if len(part[SIMULATION].values):
                yield _dataset(part, {"seed": self.seed, "n_failed": len(failures)})

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """The right to write: one process at a time has it, whoever is killed loses it.

        Raises:
            BlockingIOError: another process writes.
        """
        require_zarr()
        with self._beside() as beside:
            yield Writer(self, beside)

    @contextmanager
    def _beside(self) -> Iterator[Path]:
        """A locked directory on the same disk; it is swept before and after."""
        with locked(self.path, "archive") as beside:
            try:
                sweep(beside)
                yield beside
            finally:
                remove(beside)


@dataclass(frozen=True)
class Writer:
    """Writes chunks into an archive that it has locked."""

    archive: Archive
    beside: Path

    def write(self, results: Mapping[int, Mapping[str, Field] | Failure]) -> None:
        """Commits consecutive simulations as one chunk.

        Raises:
            ValueError: results of one chunk, or those of another, have other variables or dims.
        """
        numbers = sorted(results)
        first, last = numbers[0], numbers[-1]
        assert numbers == list(range(first, last + 1)) and first // self.archive.chunk == last // self.archive.chunk
        failures, parts = [], []
        for number in numbers:
            result = results[number]
            if isinstance(result, Failure):
                failures.append(vars(result))
            else:
                parts.append(row(number, result))
        joined = join(parts) if parts else {SIMULATION: Field((SIMULATION,), np.zeros(0, np.int64), {}, True)}
        structure = structure_of(joined)
        attrs = {name: f.attrs for name, f in joined.items() if f.attrs}
        for other in self.archive.chunks():
            if known := (held := _attributes(other))["variables"]:
                if parts and known != structure:
                    raise ValueError(
                        f"Simulations {first} to {last} have the variables and dims {structure}; those of "
                        f"{other.path.name} have {known}."
                    )
                if parts and (found := meaning_of(attrs)) != (known := meaning_of(held["attrs"])):
                    raise ValueError(
                        f"Simulations {first} to {last} have the units {found}; those of {other.path.name} have "
                        f"{known}."
                    )
                break
        part = self.beside / "chunk"
        bare = {name: f._replace(attrs={}) for name, f in joined.items()}  # xarray would take "scale_factor" for CF's
        about = {"failures": failures, "variables": structure if parts else {}, "attrs": attrs}
        data = _dataset(bare, {_KEY: about})
        whole = {str(name): {"chunks": x.shape} for name, x in data.variables.items() if x.size}
        data.to_zarr(part, mode="w-", zarr_format=3, consolidated=False, encoding=whole)
        commit(part, self.archive.path / f"chunk-{first:09d}-{last:09d}-{_digest(part)}")


def is_archive(path: Path) -> bool:
    """Whether an archive stands there, a damaged one included."""
    card = path / "zarr.json"
    return card.is_file() and _KEY.encode() in card.read_bytes()


def _overlap(chunk: Chunk, numbers: range) -> range:
    """Those of the numbers that are in the chunk."""
    return range(max(chunk.first, numbers.start), min(chunk.last + 1, numbers.stop))


def _dataset(fields: Mapping[str, Field], attrs: Mapping[str, Any]) -> xr.Dataset:
    variables = {name: (f.dims, f.values, f.attrs) for name, f in fields.items()}
    coordinates = {name for name, f in fields.items() if f.is_coordinate}
    held = {k: v for k, v in variables.items() if k not in coordinates}
    return xr.Dataset(held, {k: v for k, v in variables.items() if k in coordinates}, dict(attrs))


def _read(chunk: Chunk) -> tuple[dict[str, Field], list[Any]]:
    """A chunk's fields and failures.

    Raises:
        ValueError: not every byte is as it was written.
    """
    if (found := _digest(chunk.path)) != chunk.digest:
        raise ValueError(
            f"{chunk.path} is damaged: its files have the digest {found}, not {chunk.digest}. Restore it, or delete "
            "the directory and run the same simulations again: they come out the same."
        )
    require_no_pickle(chunk.path)
    about = _attributes(chunk)
    try:
        with xr.open_zarr(chunk.path, consolidated=False, chunks=None) as data:
            data.load()
            coordinates, fields = set(data.coords), {}
            for name in (SIMULATION, *about["variables"]):  # a directory has no order of its own
                x = data.variables[name]
                attrs = about["attrs"].get(name, {})
                fields[name] = Field(tuple(map(str, x.dims)), x.values, attrs, name in coordinates)
        numbers = fields[SIMULATION].values
        if numbers.ndim != 1 or not np.isin(numbers, np.arange(chunk.first, chunk.last + 1)).all():
            raise ValueError(f"its simulations are not among {chunk.first} to {chunk.last}")
    except (OSError, *DAMAGE) as error:
        raise ValueError(f"{chunk.path} is damaged: {type(error).__name__}: {error}.") from error
    for failure in about["failures"]:
        _failure(chunk, failure)
    return fields, about["failures"]


def _failure(chunk: Chunk, entry: Any) -> Failure:
    try:
        out = Failure(**entry)
        if type(out.number) is not int or not chunk.first <= out.number <= chunk.last:
            raise ValueError(f"a failure of simulation {out.number}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{chunk.path} is damaged: {type(error).__name__}: {error}.") from error
    return out


def _attributes(chunk: Chunk) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((chunk.path / "zarr.json").read_text())["attributes"][_KEY]
        kinds = (list, dict, dict)
        if not all(map(isinstance, (found["failures"], found["variables"], found["attrs"]), kinds)):
            raise TypeError("expected failures, variables and attrs")
    except (OSError, *DAMAGE) as error:
        raise ValueError(f"{chunk.path} is damaged: {type(error).__name__}: {error}.") from error
    return found


def _digest(folder: Path) -> str:
    """Of the names and the content of all files in it."""
    whole = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = file.read_bytes()
        whole.update(f"{file.relative_to(folder).as_posix()}\0{len(content)}\0".encode())
        whole.update(content)
    return whole.hexdigest()[:16]


def _digest_of_json(entry: Any) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]
