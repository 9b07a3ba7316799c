"""What is held while one explores: readings, known parameters, intervals. Changing it gives a new board.

A board knows of no page. It says what is to be conditioned on, and writes the script that does the same.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from fsimformer.constraints import Between
from fsimformer.convert import ObservationWarning, read
from fsimformer.joint import Conditional, Joint
from fsimformer.schema import Index, Schema
from fsimformer.units import seconds

Reading = tuple[float, float]  # index, value
Interval = tuple[float, float]

_DIGITS = 6  # of what a mouse puts somewhere
_LISTENING = threading.Lock()  # to warnings, whose filters a process has once


@dataclass(frozen=True)
class Board:
    """Readings of functions of one index, numbers for scalars, and intervals for those that are not known.

    Args:
        schema: the model's variables.
        readings: function -> (index, value) pairs, in units of the index and of the variable.
        unused: functions whose readings are kept aside.
        known: scalar -> its value.
        intervals: scalar -> lower and upper end; ±inf where there is none.
        origin: the date of index 0, where observations came with dates; dates then go out as well.
    """

    schema: Schema
    readings: Mapping[str, tuple[Reading, ...]] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    known: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    origin: np.datetime64 | None = None

    def __post_init__(self) -> None:
        if arrays := list(self.schema.arrays):
            raise ValueError(f"explore: the model has array variables {arrays}, which nobody can drag.")
        if wide := [v.name for v in self.schema.variables if len(v.dims) > 1]:
            raise ValueError(f"explore: {wide} have several dims; readings are shown over one index.")

    @classmethod
    def of(cls, schema: Schema, observed: Any = None, origin: Any = None) -> Board:
        """What `Joint.condition` would observe, on a board.

        Raises:
            KeyError, ValueError: as `Joint.condition`; a vector, or dates that are not on the standard calendar.
        """
        empty = cls(schema)
        if observed is None:
            return empty
        with _heard():  # said when the board is conditioned on
            found = read(schema, observed, origin=origin)
        readings: dict[str, tuple[Reading, ...]] = {}
        known: dict[str, float] = {}
        zero: Any = None
        for name, channel in found.channels.items():
            there = np.isfinite(channel.value)
            if name in empty.functions:
                at, value = channel.points.index[there, 0].tolist(), channel.value[there].tolist()
                readings[name] = tuple(zip(at, value, strict=True))
                kind = next(iter(channel.points.labels.values())).dtype.kind
                if kind == "O":
                    raise ValueError(f"explore: {name!r} has dates of another calendar; expected numbers or dates.")
                zero = found.origins[schema[name].dims[0]] if kind == "M" else zero
            elif schema[name].dims:
                raise ValueError(f"explore: the vector {name!r} is observed; only scalars and functions can be.")
            elif there.any():
                known[name] = float(channel.value[there][0])
        return cls(schema, readings, frozenset(), known, {}, zero)

    @property
    def functions(self) -> tuple[str, ...]:
        """Functions of one index."""
        return tuple(name for name in self.schema.names if self.schema.is_function(name))

    @property
    def scalars(self) -> tuple[str, ...]:
        """Variables without a dim."""
        return self.schema.scalars

    @property
    def plain(self) -> tuple[str, ...]:
        """Data without an index: they are drawn where they are named."""
        return tuple(name for name in self.schema.data if not self.schema.is_function(name))

    def add(self, name: str, at: float, value: float) -> Board:
        """One more reading of a function."""
        return self.put(name, (*self.readings.get(name, ()), (at, value)))

    def move(self, name: str, number: int, at: float, value: float) -> Board:
        """The reading of this number at another place.

        Raises:
            IndexError: there is none.
        """
        held = list(self.readings.get(name, ()))
        held[number] = (at, value)
        return self.put(name, held)

    def remove(self, name: str, number: int) -> Board:
        """Without the reading of this number.

        Raises:
            IndexError: there is none.
        """
        held = list(self.readings.get(name, ()))
        del held[number]
        return self.put(name, held)

    def put(self, name: str, readings: Iterable[Reading]) -> Board:
        """All readings of a function anew; what is not held yet is rounded to six digits.

        Raises:
            KeyError: no function of that name. ValueError: a place or value that is not finite.
        """
        if name not in self.functions:
            raise KeyError(f"No function {name!r}. Functions: {list(self.functions)}.")
        held, out = set(self.readings.get(name, ())), list[Reading]()
        for at, value in readings:
            if not (np.isfinite(at) and np.isfinite(value)):
                raise ValueError(f"{name!r}: expected finite numbers, got {value!r} at {at!r}.")
            pair = float(at), float(value)
            out.append(pair if pair in held else (_short(pair[0]), _short(pair[1])))
        return replace(self, readings={**self.readings, name: tuple(out)})

    def use(self, names: Iterable[str]) -> Board:
        """Of these functions alone are readings observed; those of the others are kept aside."""
        return replace(self, unused=frozenset(self.functions) - frozenset(names))

    def know(self, name: str, value: float | None) -> Board:
        """A scalar's value; None = it is not known. An interval for it is dropped.

        Raises:
            KeyError: no scalar of that name. ValueError: a value outside its support.
        """
        if name not in self.scalars:
            raise KeyError(f"No scalar {name!r}. Scalars: {list(self.scalars)}.")
        known = {k: v for k, v in self.known.items() if k != name}
        if value is not None:
            support = self.schema[name].support
            if not support.contains(np.asarray(value, dtype=np.float64)):
                raise ValueError(f"{name!r}: expected a value in {support}, got {value:g}.")
            known[name] = float(value)
        return replace(self, known=known, intervals={k: v for k, v in self.intervals.items() if k != name})

    def between(self, name: str, lower: float, upper: float) -> Board:
        """An interval for a scalar that is not known; without any end there is none.

        Raises:
            KeyError: no scalar of that name, or one that is known. ValueError: lower >= upper.
        """
        if name not in self.scalars or name in self.known:
            free = [k for k in self.scalars if k not in self.known]
            raise KeyError(f"An interval for {name!r}: expected a scalar that is not known, one of {free}.")
        if not lower < upper:
            raise ValueError(f"{name!r}: expected lower < upper, got {lower:g} and {upper:g}.")
        rest = {k: v for k, v in self.intervals.items() if k != name}
        ends = {} if np.isinf(lower) and np.isinf(upper) else {name: (_short(lower), _short(upper))}
        return replace(self, intervals={**rest, **ends})

    def narrows(self, other: Board) -> bool:
        """Everything on the other board holds here, and nothing is added but narrower intervals."""
        if replace(self, intervals={}) != replace(other, intervals={}):
            return False
        mine = {k: self.intervals.get(k, (-np.inf, np.inf)) for k in other.intervals}
        return all(low <= mine[k][0] and mine[k][1] <= high for k, (low, high) in other.intervals.items())

    def dataset(self) -> xr.Dataset:
        """What is observed, each function along an index of its own, `time_<name>`."""
        data: dict[str, Any] = dict(self.known)
        coords = {}
        for name, pairs in self._used().items():
            dim = self.schema[name].dims[0]
            coords[f"{dim}_{name}"] = self.labels(name, [at for at, _ in pairs])
            data[name] = (f"{dim}_{name}", [value for _, value in pairs])
        return xr.Dataset(data, coords)

    def _used(self) -> dict[str, tuple[Reading, ...]]:
        return {k: v for k, v in self.readings.items() if v and k not in self.unused}

    def labels(self, name: str, at: Iterable[float]) -> np.ndarray:
        """Places in units of a function's index, as numbers or, where dates came in, as dates to the microsecond."""
        x = np.array(list(at), dtype=np.float64)
        return x if self.origin is None else _dates(self.origin, x, self.unit(name))

    def unit(self, name: str) -> float:
        """Seconds in the unit of a function's index."""
        index = self.schema.dim(self.schema[name].dims[0])
        assert isinstance(index, Index)
        return seconds("days" if index.units is None else index.units) or 1.0

    def grid(self, name: str, n: int) -> np.ndarray:
        """n places over the trained range of a function's index, and beyond it to the readings there."""
        index = self.schema.dim(self.schema[name].dims[0])
        assert isinstance(index, Index)
        at = [x for x, _ in self._used().get(name, ())]
        return np.linspace(min([index.lower, *at]), max([index.upper, *at]), n)

    def at(self, n: int) -> dict[str, Any]:
        """`at` of `Conditional.sample`: every function at n places, none if n = 0, and data without an index."""
        functions = {name: self.labels(name, self.grid(name, n)) for name in self.functions} if n else {}
        return functions | dict.fromkeys(self.plain)

    def condition(self, joint: Joint, judge: bool = True) -> tuple[Conditional, list[str]]:
        """The conditional given what is on the board, and what is to be said of it.

        Raises:
            KeyError, ValueError: as `Joint.condition`, such as a reading outside the support.
        """
        held = self.dataset()
        with _heard() as notes:
            found = joint.condition(held if held.data_vars else None, origin=self.origin, judge=judge)
        return found.constrain(*self.constraints()), notes

    def constraints(self) -> list[Between]:
        return [Between(name, lower, upper) for name, (lower, upper) in self.intervals.items()]

    def script(self, model: str, n: int, points: int, seed: int, quality: str) -> str:
        """Python that draws what the page has drawn, and writes netCDF and a picture."""
        held = self.dataset()
        coords = {str(k): _literal(v.to_numpy()) for k, v in held.coords.items()}
        data = {str(k): _of(v) for k, v in held.data_vars.items()}
        lines = ["import numpy as np", "import xarray as xr", "", "import fsimformer as fsf"]
        lines += ["from fsimformer import plots", ""]
        if data:
            origin = "" if self.origin is None else f", origin={str(self.origin)!r}"
            lines += ["observed = xr.Dataset(", "    {"]
            lines += [f"        {k!r}: {v}," for k, v in data.items()]
            lines += ["    },", *(["    {"] if coords else [])]
            lines += [f"        {k!r}: {v}," for k, v in coords.items()]
            lines += [*(["    },"] if coords else []), ")"]
            lines += [f"posterior = fsf.load({model!r}).condition(observed{origin})"]
        else:
            lines += [f"posterior = fsf.load({model!r}).condition()"]
        if self.intervals:
            ends = [f"fsf.Between({k!r}, {_number(a)}, {_number(b)})" for k, (a, b) in self.intervals.items()]
            lines += [f"posterior = posterior.constrain({', '.join(ends)})"]
        lines += ["at = {"]
        for name in self.functions:
            x = self.grid(name, points)
            grid = f"np.linspace({float(x[0])!r}, {float(x[-1])!r}, {points})"
            if self.origin is not None:
                zero = str(self.origin.astype("datetime64[us]"))
                grid = f"np.datetime64({zero!r}) + ({grid} * {self.unit(name) * 1e6!r}).round().astype('m8[us]')"
            lines += [f"    {name!r}: {grid},"]
        lines += [f"    {name!r}: None," for name in self.plain]
        lines += ["}", f"draws = posterior.sample({n}, at, seed={seed}, quality={quality!r})"]
        lines += ["draws.to_netcdf('explore.nc', engine='h5netcdf')", "plots.figure(draws).savefig('explore.png')"]
        return "\n".join(lines) + "\n"


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Texts of the `ObservationWarning`s of this thread, which nobody else is shown; those of others go their way.

    Who is shown warnings is said once for the whole process: who listens locks the others out, for whoever came second
    and left last would put back what the first had set.
    """
    mine, heard = threading.get_ident(), list[str]()
    with _LISTENING, warnings.catch_warnings():
        warnings.simplefilter("always", ObservationWarning)
        show = warnings.showwarning

        def listen(message: Warning | str, category: type[Warning], *rest: Any) -> None:
            if threading.get_ident() == mine and issubclass(category, ObservationWarning):
                heard.append(str(message))
            else:
                show(message, category, *rest)

        warnings.showwarning = listen  # type: ignore[assignment]  # catch_warnings puts the old one back
        yield heard


def _short(x: float) -> float:
    return float(f"{x:.{_DIGITS}g}")


def _dates(origin: np.datetime64, x: np.ndarray, unit: float) -> np.ndarray:
    out: np.ndarray = origin.astype("datetime64[us]") + (x * (unit * 1e6)).round().astype("m8[us]")
    return out


def _of(v: xr.DataArray) -> str:
    return repr(float(v)) if not v.dims else f"({str(v.dims[0])!r}, {_literal(v.to_numpy())})"


def _literal(x: np.ndarray) -> str:
    if x.dtype.kind == "M":
        return f"np.array({np.datetime_as_string(x.astype('datetime64[us]')).tolist()!r}, dtype='datetime64[us]')"
    return repr([float(v) for v in x])


def _number(x: float) -> str:
    return repr(float(x)) if np.isfinite(x) else f"{'-' if x < 0 else ''}np.inf"
