"""Inputs of every kind that people hand to `condition`, with what each of them means, drawn from a seed.

A case says the readings first, as plain tuples, and dresses them afterwards: which container, which dtype, which kind
of date, in which order, with which gaps. What `read` makes of it must be those tuples, to the last bit. An injured case
has one thing in it that means nothing, and must be refused.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cftime
import dask.array
import numpy as np
import pandas as pd
import torch
import xarray as xr

from fsimformer import Components, Index, Schema, Uniform, Variable
from fsimformer.dims import Axis
from fsimformer.priors import POSITIVE
from fsimformer.whiten import Transform, Whitening

SCHEMA = Schema(
    (
        Variable("alpha", "parameter", prior=Uniform(0, 1)),
        Variable("weights", "parameter", ("part",)),
        Variable("hare", "data", ("time",), support=POSITIVE),
        Variable("lynx", "data", ("time",)),
        Variable("height", "data", ("x", "time")),
        Variable("counts", "data", ("time", "part")),
        Variable("total", "data"),
        Variable("image", "data", ("row", "column"), n_tokens=2),
    ),
    (Index("x", 0, 1, "km"), Index("time", 0, 20, "days"), Components("part", 3), Axis("row", 2), Axis("column", 3)),
)
WHITENING = Whitening({v.name: Transform(v.prior, v.support) for v in SCHEMA.variables})
Readings = dict[str, list[tuple[Any, ...]]]  # variable -> (component, index..., value) of what is not missing
Rng = np.random.Generator
_CALENDARS = ("noleap", "360_day", "all_leap", "julian", "standard", "proleptic_gregorian")
_BASES = (
    "2020-02-20",
    "2000-02-25",
    "1900-02-20",
    "1999-12-20",
    "1970-01-01",
    "2262-03-01",
    "1678-01-01",
    "0001-01-01",
)


@dataclass(frozen=True)
class Case:
    """One input. `readings` None: it must be refused."""

    category: str
    observed: Any
    readings: Readings | None
    origin: Any = None
    at: Any = None
    points: list[float] | None = field(default=None)  # what `at` must ask for of `hare`


def value_forms(rng: Rng, values: np.ndarray) -> tuple[str, Any]:
    """Multiples of 1/8 below 100, some NaN, as somebody may hold them."""
    gaps, whole = np.isnan(values), bool(np.all(np.isnan(values) | (values % 1 == 0)))
    forms: dict[str, Callable[[], Any]] = {
        "float64": lambda: values,
        "float32": lambda: values.astype(np.float32),
        "float16": lambda: values.astype(np.float16),
        "long double": lambda: values.astype(np.longdouble),
        "big-endian": lambda: values.astype(">f8"),
        "objects": lambda: values.astype(object),
        "Decimal and None": lambda: np.array([None if np.isnan(v) else Decimal(float(v)) for v in values.flat], object),
        "Fraction": lambda: np.array([np.nan if np.isnan(v) else Fraction(float(v)) for v in values.flat], object),
        "pandas NA": lambda: np.array([pd.NA if np.isnan(v) else float(v) for v in values.flat], object),
        "masked array": lambda: np.ma.MaskedArray(np.where(gaps, 9999.0, values), gaps),
        "dask": lambda: dask.array.from_array(values, chunks=2),
        "not contiguous": lambda: np.repeat(values, 2, axis=-1)[..., ::2],
        "read-only": lambda: _frozen(values),
    }
    if whole and not gaps.any():
        forms |= {d: (lambda d=d: values.astype(d)) for d in ("int8", "uint8", "int64", "uint64")}
        forms["huge integers' dtype"] = lambda: np.array([int(v) for v in values.flat], object)
    if whole:
        forms["masked integers"] = lambda: np.ma.MaskedArray(np.where(gaps, 99, values).astype(np.int32), gaps)
    name = str(rng.choice(list(forms)))
    return name, np.ma.reshape(forms[name](), values.shape) if "masked" in name else forms[name]().reshape(values.shape)


def _frozen(values: np.ndarray) -> np.ndarray:
    out = values.copy()
    out.setflags(write=False)
    return out


def time_forms(rng: Rng, days: np.ndarray) -> tuple[str, Any, dict[str, Any], Any, np.ndarray]:
    """Whole days as a coordinate: its kind, labels, attributes, an origin to pass, and what index they have."""
    base, since = np.datetime64(str(rng.choice(_BASES)), "D"), days - days.min()
    stated = bool(rng.random() < 0.5)
    dates = base + days.astype("timedelta64[D]")
    index = days.astype(float) if stated else since.astype(float)
    origin: Any = str(base) if stated else None
    kind = str(rng.choice(["number", "duration", "date", "date object", "cftime", "CF units", "unit"]))
    if kind == "number":
        dtype = str(rng.choice(["f8", "f4", "f2", "i1", "u2", "i8", ">f8", "O"]))
        return f"{kind} {dtype}", days.astype(dtype), {}, None, days.astype(float)
    if kind == "duration":
        unit = str(rng.choice(["D", "h", "s", "ms", "us", "ns", "O"]))
        some = np.array([dt.timedelta(int(d)) for d in days], object) if unit == "O" else None
        return (
            f"{kind} {unit}",
            days.astype("m8[D]").astype(f"m8[{unit}]") if some is None else some,
            {},
            None,
            days * 1.0,
        )
    if kind == "date":
        near = base > np.datetime64("1677-10-01")
        unit = str(rng.choice(["D", "h", "m", "s", "ms", "us", *(["ns"] if near else [])]))
        return f"{kind} {unit}", dates.astype(f"M8[{unit}]"), {}, origin, index
    if kind == "date object":
        how = str(rng.choice(["date", "datetime", "Timestamp", "mixed"]))
        each = [d.astype("M8[s]").item() for d in dates]
        makers = {"date": lambda d: d.date(), "datetime": lambda d: d, "Timestamp": pd.Timestamp}
        makers["mixed"] = lambda d: d.date() if rng.random() < 0.5 else d
        return f"{kind} {how}", np.array([makers[how](d) for d in each] + [None], object)[:-1], {}, origin, index
    if kind == "cftime":
        calendar = str(rng.choice(_CALENDARS))
        first = cftime.datetime(2001, 2, 20, calendar=calendar)
        labels = np.array([first + dt.timedelta(int(d)) for d in days] + [None], object)[:-1]
        return f"{kind} {calendar}", labels, {}, first if stated else None, index
    word, length = (("days", 1), ("hours", 24), ("Minutes", 1440), ("s", 86400))[int(rng.integers(4))]
    if kind == "unit":
        return f"{kind} {word}", days * length, {"units": word}, None, days * 1.0
    calendar = (
        str(rng.choice(["", "standard", "proleptic_gregorian", "Gregorian"])) if base.astype(int) > -141427 else ""
    )
    since_word = str(rng.choice([" since ", " SINCE ", "  since "]))
    attrs = {"units": f"{word}{since_word}{base}"} | ({"calendar": calendar} if calendar else {})
    early = base.astype(int) < -141427  # before the reform a stated origin is Gregorian, and the units are not
    return f"{kind} {word}", days * length, attrs, None if early else origin, since * 1.0 if early else index


def sound(rng: Rng) -> Case:
    """Readings in some dress."""
    n = int(rng.integers(1, 9))
    days = rng.integers(0, 21, n)  # in any order, with replicates
    kind, labels, attrs, origin, index = time_forms(rng, days)
    values = rng.integers(1, 100, n) / float(rng.choice([1, 8]))
    values[rng.random(n) < rng.choice([0.0, 0.3, 1.0], p=[0.4, 0.5, 0.1])] = np.nan
    name = str(rng.choice(["hare", "lynx", "counts", "height"]))
    form, held = value_forms(rng, values)
    there = ~np.isnan(values)
    door = str(rng.choice(["Dataset", "DataArray", "mapping", "frame", "own coordinate", "other dim", "in a batch"]))
    coordinate = ("time", labels, attrs)
    if name == "counts":
        order = rng.permutation(3)
        array = xr.DataArray(
            np.stack([held, held, held]) if "masked" not in form else np.ma.stack([held, held, held]),
            {"part": order, "time": coordinate}, ("part", "time"), name,
        )  # fmt: skip
        readings: list[tuple[Any, ...]] = [(c, t, v) for c in range(3) for t, v in zip(index[there], values[there])]
        return Case(f"sound: {kind}", array.to_dataset(), {name: readings}, origin)
    if name == "height":
        x = rng.integers(0, 9, n) / 8
        data = xr.Dataset({name: ("site", held)}, {"x": ("site", x), "time": ("site", labels, attrs)})
        return Case(f"sound: {kind}", data, {name: list(zip([0] * n, x[there], index[there], values[there]))}, origin)
    readings = list(zip([0] * int(there.sum()), index[there], values[there]))
    array = xr.DataArray(held, {"time": coordinate}, ("time",), name)
    if door == "DataArray":
        return Case(f"sound: {kind}", array, {name: readings}, origin)
    if door == "mapping":
        return Case(f"sound: {kind}", {name: array, "weights": [1.0, np.nan, 2.0]}, {
            name: readings, "weights": [(0, 1.0), (2, 2.0)]}, origin)  # fmt: skip
    if door == "frame" and not attrs:
        plain = held.astype(object).filled(np.nan) if "masked" in form else np.asarray(held)
        column = pd.Series(plain.astype(object) if plain.dtype == ">f8" else plain)  # pandas takes no foreign bytes
        places = pd.Series(labels.astype(float) if labels.dtype == ">f8" else labels)
        frame = pd.DataFrame({"time": places, "variable": name, "value": column})
        shuffled = frame.sample(frac=1, random_state=int(rng.integers(1000)))
        return Case(
            f"sound: {kind}",
            shuffled if labels.dtype == np.float16 or rng.random() < 0.5 else frame.set_index("time"),
            {name: readings},
            origin,
        )
    if door == "own coordinate":
        data = xr.Dataset({name: (f"time_{name}", held)}, {f"time_{name}": (f"time_{name}", labels, attrs)})
        return Case(f"sound: {kind}", data, {name: readings}, origin)
    if door == "other dim":
        data = xr.Dataset({name: ("visit", held), "total": ((), np.float32(3))}, {"time": ("visit", labels, attrs)})
        return Case(f"sound: {kind}", data, {name: readings, "total": [(0, 3.0)]}, origin)
    return Case(f"sound: {kind}", array.to_dataset(), {name: readings}, origin)


def vectors(rng: Rng) -> Case:
    """Scalars, vectors and arrays as bare values of a mapping."""
    v, image = rng.integers(1, 100, 3) / 8, rng.integers(0, 9, (2, 3)) / 8
    masked = np.ma.MaskedArray(v, [False, True, False])
    order = rng.permutation(3)
    full = [(c, float(x)) for c, x in enumerate(v)]
    forms: dict[str, tuple[Any, list[tuple[Any, ...]]]] = {
        "list": (v.tolist(), full),
        "tuple": (tuple(v.tolist()), full),
        "array": (v, full),
        "masked array": (masked, [full[0], full[2]]),
        "tensor": (torch.tensor(v), full),
        "tensor with gradient": (torch.tensor(v, requires_grad=True), full),
        "bfloat16 tensor": (torch.tensor(np.floor(v)).bfloat16(), [(c, math.floor(x)) for c, x in full]),
        "Series": (pd.Series(v), full),
        "nullable": (pd.array([*v[:2].tolist(), None], dtype="Float64"), full[:2]),
        "numbers as labels": (xr.DataArray(v[order], {"part": order}, ("part",)), full),
        "names as labels": (xr.DataArray(v, {"part": ["c", "a", "b"]}, ("part",)), full),
        "decimals": ([Decimal(float(x)) for x in v], full),
    }
    name = str(rng.choice(list(forms)))
    given, expected = forms[name]
    scalars = [3, 3.0, np.float32(3), np.array(3), np.array([3]), Decimal(3), Fraction(3), True + 2, torch.tensor(3.0)]
    scalars += [np.ma.MaskedArray(3.0, False), pd.Series([3]), xr.DataArray(3), xr.DataArray([3], dims="i")]
    total, missing = scalars[int(rng.integers(len(scalars)))], [np.ma.masked, np.nan, pd.NA, Decimal("nan")]
    observed = {"weights": given, "total": total, "alpha": missing[int(rng.integers(4))], "image": image}
    flipped = xr.DataArray(image[::-1], {"row": [1, 0]}, ("row", "column"))
    observed["image"] = flipped if rng.random() < 0.5 else image
    return Case(
        f"sound: vector as {name}",
        observed,
        {"weights": expected, "total": [(0, 3.0)], "image": [(0, float(x)) for x in image.flat]},
    )


def questions(rng: Rng) -> Case:
    """Points that are asked for, in some dress."""
    days = rng.integers(0, 21, int(rng.integers(1, 6)))
    kind, labels, attrs, origin, index = time_forms(rng, days)
    data = xr.Dataset({"hare": ("time", np.ones(len(days)))}, {"time": ("time", labels, attrs)})
    again = xr.DataArray(labels, dims="i", attrs=attrs)
    lists: list[Any] = [again, {"time": again}, xr.Dataset(coords={"time": again})]
    if not attrs:
        lists += [labels, labels.tolist() if labels.dtype.kind in "iufO" else labels, pd.Series(labels)]
    if labels.dtype.kind == "f":
        lists += [torch.tensor(labels.astype(np.float32)), np.ma.MaskedArray(labels, False)]
    at = lists[int(rng.integers(len(lists)))]
    readings = {"hare": [(0, t, 1.0) for t in index]}
    return Case(f"sound: asked by {kind.split()[0]}", data, readings, origin, {"hare": at}, index.tolist())
