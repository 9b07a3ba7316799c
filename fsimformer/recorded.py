"""Simulations as Datasets, and Datasets as simulations: what a simulator draws, and what can be trained on.

`Recorded` stands for a simulator of which only draws are left: an `Archive`, or a netCDF or Zarr file made elsewhere.
It has the schema's variables along `simulation` and the schema's other dims in any order::

    runs = Recorded.read("runs.zarr", schema)
    joint = fsf.train(runs, simulations=runs.simulations)

Series must be clean paths on one evenly spaced grid, as from any simulator (protocol.py): noise that the schema states
is added where they are read. Series that came noisy need a schema without `noise`.

Rows with a number that is not finite or lies outside its support are dropped and counted, like a simulator's. Dropping,
and simulations that failed, condition the prior on success: where failure depends on the parameters it is not the prior
any more.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.archive import Archive, is_archive
from fsimformer.files import read_dataset
from fsimformer.labels import read_labels
from fsimformer.points import earliest, elapsed
from fsimformer.schema import Index, Schema
from fsimformer.simulations import Simulations, finite_rows, measured, simulate
from fsimformer.simulators.protocol import Simulator
from fsimformer.units import read_date

_READINGS = "readings"  # attribute of a Dataset whose series have their noise already
_CHECKED = 10  # rows that a check of the simulator may ask for


@dataclass(frozen=True)
class Recorded:
    """A Simulator whose draws have all been made. Make it with `of`.

    `natural` and `plausible`: as a Simulator's (protocol.py); set them with `dataclasses.replace`.
    """

    schema: Schema
    grid: dict[str, Tensor]
    simulations: Simulations
    natural: tuple[str, ...] = ()
    plausible: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: xr.Dataset, schema: Schema, dim: str = "simulation", seed: int = 0) -> Recorded:
        """Simulations along `dim` of a Dataset, shuffled: `train` holds out the last ones, and a file may be sorted.

        Raises:
            KeyError: a variable or the grid of an index dim is missing. ValueError: other dims than the schema's, a
                grid that differs between simulations, no row that is finite, series that have their noise already.
        """
        if _READINGS in data.attrs and (noisy := [k for k in schema.data if schema[k].noise is not None]):
            raise ValueError(
                f"These simulations were written with noise, as an observer has them; training adds its own where it "
                f"reads {noisy}. Simulate again without noise, or give a schema in which these have none."
            )
        if dim not in data.dims:
            raise ValueError(f"The Dataset has no dim {dim!r} of simulations; its dims: {list(map(str, data.dims))}.")
        grid = {index.name: grid_of(data, index) for index in schema.indexes}
        values = tensors_of(data, schema, dim)
        _warn_outside(schema, values)
        kept, n_dropped = finite_rows(schema, values, data.sizes[dim])
        order = torch.randperm(data.sizes[dim] - n_dropped, generator=torch.Generator().manual_seed(seed))
        found = Simulations({k: x[order] for k, x in kept.items()}, n_dropped, grid)
        if not len(found):
            raise ValueError(f"None of the {n_dropped} simulations is finite and inside the supports of its variables.")
        _warn_not_finite(values)
        return cls(schema, grid, found)

    @classmethod
    def read(cls, path: str | Path, known: Schema | Simulator) -> Recorded:
        """Simulations in an archive (archive.py), or along `simulation` in a netCDF or Zarr file made elsewhere.

        Args:
            path: the file.
            known: the schema, or the Simulator that made them: its schema, `natural` and `plausible` then hold. The
                grid is the file's in any case.

        Raises:
            FileNotFoundError: no such file. ValueError: an unknown ending, a damaged archive; what `of` raises.
        """
        if not isinstance(known, Schema):
            read, natural = cls.read(path, known.schema), getattr(known, "natural", ())
            return replace(read, natural=natural, plausible=getattr(known, "plausible", {}))
        path, schema = Path(path), known
        if is_archive(path):
            archive = Archive.open(path)
            if (failed := archive.failures) and len(failed) == len(archive):
                first = failed[0]
                raise ValueError(
                    f"{path}: all {len(failed)} simulations failed, the first: {first.error}: {first.message}"
                )
            return cls.of(archive.read([k for k in schema.names if k not in schema.paths]), schema)
        return cls.of(read_dataset(path), schema)

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """The first n rows, for checks.

        Raises:
            ValueError: more than a handful: training that asks for new draws would see again what it holds out.
        """
        if n > min(_CHECKED, len(self.simulations)):
            raise ValueError(
                f"Recorded: no new draws can be made, {len(self.simulations)} are recorded; expected "
                "train(recorded, simulations=recorded.simulations)."
            )
        return {k: x[:n] for k, x in self.simulations.values.items() if k not in self.schema.paths}


@dataclass(frozen=True)
class OneDraw:
    """A Simulator as a function of a seed, one draw a call: what an archive is made of.

    The draw is a mapping of name -> (dims, values, attributes) with the grid of every index dim.
    """

    simulator: Simulator

    def __call__(self, seed: int) -> dict[str, tuple[tuple[str, ...], Any, dict[str, str]]]:
        """Raises FloatingPointError where the simulator gives up: a draw that is not finite or off its support."""
        schema = self.simulator.schema
        drawn = self.simulator.simulate(1, torch.Generator().manual_seed(seed))
        if not len(next(iter(finite_rows(schema, drawn, 1)[0].values()))):
            raise FloatingPointError("a value of this draw is not finite, or outside its variable's support.")
        out: dict[str, tuple[tuple[str, ...], Any, dict[str, str]]] = {
            name: ((name,), points.numpy(), {}) for name, points in self.simulator.grid.items()
        }
        return out | {k: (schema[k].dims, x[0].numpy(), about(schema, k)) for k, x in drawn.items()}


def draw(simulator: Simulator, n: int, seed: int, noise: bool = False) -> xr.Dataset:
    """n draws of the joint, functions and series on the simulator's grid.

    Series are clean, as a trainer wants them; with `noise` they are readings, the same draws as an observer has them.
    """
    generator, schema = torch.Generator().manual_seed(seed), simulator.schema
    drawn = simulate(simulator, n, generator)
    noise = noise and any(schema[k].noise is not None for k in schema.data)
    values = measured(schema, drawn.values, generator) if noise else drawn.values
    return xr.Dataset(
        {k: (("simulation", *schema[k].dims), values[k].numpy(), about(schema, k, noise)) for k in schema.names},
        {name: grid.numpy() for name, grid in simulator.grid.items()},
        {"seed": seed, "n_dropped": drawn.n_dropped} | ({_READINGS: "with noise"} if noise else {}),
    )


def about(schema: Schema, name: str, noisy: bool = False) -> dict[str, str]:
    """Attributes of a variable's draws."""
    if (noise := schema[name].noise) is None:
        return {}
    law = f"{noise.kind} noise of sd {noise.sd}"
    return {"comment": f"readings with {law}" if noisy else f"clean path; a reading has {law}"}


def _warn_outside(schema: Schema, values: Mapping[str, Tensor]) -> None:
    """Says which simulations will be left out though they are finite: a zero is no value of a positive series."""
    for name, x in values.items():
        lower, upper = schema[name].support.lower, schema[name].support.upper
        rows = x.reshape(len(x), -1)
        off = torch.isfinite(rows) & ((rows <= lower) | (rows >= upper))
        if n := int(off.any(1).sum()):
            warnings.warn(
                f"{n} of {len(x)} simulations are left out: {name!r} leaves its support {schema[name].support} in "
                f"them, the first value {float(rows[off][0]):g}. What is learnt is the joint of the others. Give it "
                "another support, or floor the series just inside.",
                UserWarning,
                stacklevel=3,
            )


def _warn_not_finite(values: Mapping[str, Tensor]) -> None:
    """Says how many simulations will be left out for a number that is not finite, and of what."""
    bad = {k: ~torch.isfinite(x.reshape(len(x), -1)).all(1) for k, x in values.items()}
    rows = torch.stack(list(bad.values())).any(0)
    if n := int(rows.sum()):
        counts = {k: int(b.sum()) for k, b in bad.items() if b.any()}
        warnings.warn(
            f"{n} of {len(rows)} simulations are left out, the first of them row {int(rows.int().argmax())}: they have "
            f"numbers that are not finite, {counts}. What is learnt is the joint of the others: where failing hangs on "
            "the parameters, the prior is not theirs any more.",
            UserWarning,
            stacklevel=3,
        )


def tensors_of(data: xr.Dataset, schema: Schema, dim: str) -> dict[str, Tensor]:
    """The schema's variables, `dim` first; float32 stays float32, all else becomes float64.

    Raises:
        KeyError: a variable is missing. ValueError: other dims than the schema's, no real numbers.
    """
    returned = [name for name in schema.names if name not in schema.paths]
    if absent := [name for name in returned if name not in data]:
        raise KeyError(f"The Dataset lacks the variables {absent}; it has {list(map(str, data.data_vars))}.")
    values = {}
    for name in returned:
        x, dims = data[name], (dim, *schema[name].dims)
        if set(x.dims) != set(dims):
            raise ValueError(f"{name!r}: expected the dims {dims}, got {tuple(map(str, x.dims))}.")
        array = x.transpose(*dims).to_numpy()
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"{name!r}: expected real numbers, got dtype {array.dtype}. Durations and dates come as numbers, in "
                "the unit of the schema's prior or support."
            )
        array = np.array(array, np.float32 if array.dtype == np.float32 else np.float64)  # torch wants its own
        values[name] = torch.from_numpy(array)
    return values


def grid_of(data: xr.Dataset, index: Index) -> Tensor:
    """In the index's units; dates and durations as an observation's are read (points.py)."""
    if index.name not in data.coords:
        raise KeyError(
            f"The simulations have no coordinate {index.name!r}, so nobody knows where their points lie. "
            f"Return it too: {{{index.name!r}: ({index.name!r}, points), ...}}; where they have been made, "
            f"Recorded.of(Archive.open(path).read().assign_coords({index.name}=points), schema)."
        )
    points = data[index.name]
    if points.dims != (index.name,):
        raise ValueError(
            f"{index.name!r}: expected one grid for all simulations, along {index.name!r} alone; got the dims "
            f"{tuple(map(str, points.dims))}. Interpolate the series first."
        )
    labels = read_labels(index.name, points)
    first = earliest(index.name, labels, points.attrs)
    origin = first if index.origin is None or first is None else read_date(index.name, index.origin)
    return torch.from_numpy(elapsed(index.name, index, labels, points.attrs, origin))
