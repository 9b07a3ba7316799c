"""Blocks of simulations as named arrays: made of single simulations, joined and padded.

A block maps names to fields. Each has `simulation` as its first dim; only the coordinate of a dim may stand alone where
all simulations share it. Sizes along a dim may differ between simulations: values are padded to the longest, with NaN
(integers and truth values become float64 then). A coordinate that differs between simulations gets a row for each,
`time(simulation, time)`. Of the attributes those are kept that all simulations have and agree on; units and calendar
must agree, for the numbers mean something else without. What a block looks like follows from its simulations alone, not
from how they were grouped: join(join(a, b), c) = join(a, b, c).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fsimformer.child import Field

SIMULATION = "simulation"
_MEANING = ("units", "calendar")


def row(number: int, fields: Mapping[str, Field]) -> dict[str, Field]:
    """A block of one simulation."""
    out = {SIMULATION: Field((SIMULATION,), np.array([number]), {}, True)}
    for name, f in fields.items():
        out[name] = f if f.dims == (name,) else f._replace(dims=(SIMULATION, *f.dims), values=f.values[None])
    return out


def join(blocks: Sequence[Mapping[str, Field]]) -> dict[str, Field]:
    """Blocks one after another.

    Raises:
        ValueError: they have other variables or other dims, or other units or calendars.
    """
    expected = structure_of(blocks[0])
    for block in blocks[1:]:
        if (found := structure_of(block)) != expected:
            a, b = (int(x[SIMULATION].values[0]) for x in (blocks[0], block))
            raise ValueError(f"Simulations {a} and {b} differ in their variables or dims: {expected} and {found}.")
    out = {}
    for name, first in blocks[0].items():
        fields = [block[name] for block in blocks]
        if name != SIMULATION and all(_same_coordinate(name, f, first) for f in fields):
            out[name] = first._replace(attrs=_agreed(name, fields))
            continue
        dims = first.dims if first.dims[0] == SIMULATION else (SIMULATION, *first.dims)
        rows = [_rows(f, len(block[SIMULATION].values)) for f, block in zip(fields, blocks, strict=True)]
        out[name] = Field(dims, _padded(rows), _agreed(name, fields), first.is_coordinate)
    return out


def only(block: Mapping[str, Field], numbers: range) -> dict[str, Field]:
    """Those of its simulations whose numbers are among these; padding stays."""
    here = np.isin(block[SIMULATION].values, np.asarray(numbers))
    return {k: f._replace(values=f.values[here]) if f.dims[0] == SIMULATION else f for k, f in block.items()}


def structure_of(block: Mapping[str, Field]) -> dict[str, list[str]]:
    """Variable -> its dims within a simulation; a coordinate that is shared looks like one that is not."""
    return {name: [d for d in block[name].dims if d != SIMULATION] for name in block if name != SIMULATION}


def meaning_of(attrs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Units and calendars among the attributes by variable, of the variables that have some."""
    found = {name: {k: v for k, v in own.items() if k in _MEANING} for name, own in attrs.items()}
    return {name: own for name, own in found.items() if own}


def _agreed(name: str, fields: Sequence[Field]) -> dict[str, Any]:
    """The attributes that are the same in all."""
    first = fields[0].attrs
    for key in _MEANING:
        if len(found := list(dict.fromkeys(f.attrs.get(key) for f in fields))) > 1:
            raise ValueError(f"Simulations differ in the {key} of {name!r}: {found}; expected the same in all.")
    return {k: v for k, v in first.items() if all(k in f.attrs and f.attrs[k] == v for f in fields[1:])}


def _same_coordinate(name: str, a: Field, b: Field) -> bool:
    return a.dims == b.dims == (name,) and np.array_equal(a.values, b.values, equal_nan=True)


def _rows(field: Field, n: int) -> np.ndarray:
    """(n, ...): what all share is repeated."""
    return field.values if field.dims[0] == SIMULATION else np.broadcast_to(field.values, (n, *field.values.shape))


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
    """One array of all rows, as large as the largest along every dim."""
    longest = tuple(map(max, zip(*(x.shape[1:] for x in rows), strict=True)))
    dtype = np.result_type(*{x.dtype for x in rows})
    if any(x.shape[1:] != longest for x in rows):
        dtype = dtype if dtype.kind == "f" else np.dtype(np.float64)
    n = sum(len(x) for x in rows)
    out = np.full((n, *longest), np.nan if dtype.kind == "f" else 0, dtype)
    start = 0
    for x in rows:
        out[(slice(start, start + len(x)), *map(slice, x.shape[1:]))] = x
        start += len(x)
    return out
