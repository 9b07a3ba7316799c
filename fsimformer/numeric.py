"""What somebody gave as numbers, as numpy has it: masked is missing, and what is no number is named.

numpy drops masks, imaginary parts and the ends of long integers without a word; here nothing is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

_NEARLY = (  # text that nearly is a number -> what to write in its place
    (re.compile(r"[-+]?\d+,\d+"), "Write a decimal comma as a point, and numbers without separators of thousands."),
    (
        re.compile(r"[-+]?[1-9]\d{0,2}([,.'’\s])\d{3}(\1\d{3})*([.,]\d+)?"),
        "Write numbers without separators of thousands.",
    ),
    (re.compile(r"[-–—.?*/]+"), "Leave missing values blank."),
    (
        re.compile(r"[<>≤≥~]=?\s*[-+]?\d.*"),
        "A bound is no value: leave it blank, or write the number that you take it for.",
    ),
)


def plain_array(where: str, given: Any) -> np.ndarray:
    """A new array of what `given` holds, of any dtype; NaN, NaT or None where it is masked.

    Args:
        where: what it belongs to, for messages.
        given: numpy scalar or array, list, tensor, pandas or xarray object.

    Raises:
        ValueError: it cannot be made an array.
    """
    detach = getattr(given, "detach", None)  # a tensor
    try:
        if callable(detach):
            given = detach().cpu()
            given = given.float().numpy() if "bfloat16" in str(given.dtype) else given.numpy()
        if isinstance(given, np.ma.MaskedArray):
            mask, given = np.ma.getmaskarray(given), np.asarray(given.data)
            if mask.any():
                missing = {"M": np.datetime64("NaT"), "m": np.timedelta64("NaT"), "O": None}.get(
                    given.dtype.kind, np.nan
                )
                whole = given.astype(np.float64) if given.dtype.kind in "iub" else given
                given = np.where(mask, missing, whole)
        # a lone Timestamp would lose its zone in to_numpy
        lone = isinstance(given, pd.Timestamp) or not hasattr(given, "to_numpy")
        return np.array(given if lone else given.to_numpy())  # a copy: the caller's array may change later
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{where}: expected numbers in one array, got {type(given).__name__}: {error}.") from error


def read_numbers(where: str, given: Any) -> np.ndarray:
    """Values as a new float64 array; NaN, None and NA are missing. Integers beyond 2^53 are rounded.

    Raises:
        ValueError: text, dates, complex numbers and other objects; integers beyond the largest double.
    """
    out = plain_array(where, given)
    dtype = getattr(given, "dtype", out.dtype)
    if out.dtype.kind == "O":
        out = _from_objects(where, out, dtype)
    elif out.dtype.kind not in "iufb":
        raise ValueError(f"{where}: expected real numbers, got dtype {dtype}.")
    with np.errstate(over="ignore"):  # a long double may become infinite, and infinite values are refused
        return out.astype(np.float64)


def gaps(where: str, objects: np.ndarray) -> np.ndarray:
    """Where objects are None, NaN, NaT or NA.

    Raises:
        ValueError: a signalling NaN of Python's decimals.
    """
    try:
        return np.asarray(pd.isna(objects), dtype=bool)
    except ArithmeticError as error:
        raise ValueError(f"{where}: expected numbers or NaN, got a signalling NaN.") from error


def _from_objects(where: str, objects: np.ndarray, dtype: Any) -> np.ndarray:
    absent = gaps(where, objects)
    held = objects[~absent].ravel()
    if any(not isinstance(x, (Real, Decimal)) for x in held):
        others = [x for x in held if not isinstance(x, (Real, Decimal))]
        # a table's column with one word in it arrives as text, all of it: the word is what to name
        strange = next((x for x in others if not _reads_as_number(x)), others[0])
        raise ValueError(
            f"{where}: expected numbers, got dtype {dtype} with values such as {_short(strange)}.{_remedy(strange)}"
        )
    try:
        return np.where(absent, np.nan, objects).astype(np.float64)
    except ArithmeticError as error:
        raise ValueError(f"{where}: expected numbers that a double can hold: {error}.") from error


def _reads_as_number(x: Any) -> bool:
    try:
        float(x)
    except (TypeError, ValueError):
        return False
    return True


def _remedy(x: Any) -> str:
    text = x.strip() if isinstance(x, str) else ""
    if text and _reads_as_number(text):
        return " These are numbers as text: .astype(float)."
    return next((f" {remedy}" for like, remedy in _NEARLY if like.fullmatch(text)), "")


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 100 else f"{text[:100]}..."


def require_decoded(where: str, values: np.ndarray, attrs: Mapping[Any, Any]) -> None:
    """Values as they are, not as a netCDF file packs them.

    Raises:
        ValueError: the attributes say that they are scaled, or that one of them means "missing".
    """
    neutral = {"scale_factor": 1, "add_offset": 0}
    packed = {k: attrs[k] for k, one in neutral.items() if k in attrs and bool(np.any(np.asarray(attrs[k]) != one))}
    for k in ("_FillValue", "missing_value"):
        fill = np.asarray(attrs.get(k, np.nan))
        if (
            values.dtype.kind in "iuf"
            and fill.dtype.kind in "iuf"
            and bool(np.isin(fill[np.isfinite(fill)], values).any())
        ):
            packed[k] = attrs[k]
    if packed:
        raise ValueError(
            f"{where}: the attributes {packed} say that these are not the values but how a file holds them; decode "
            "them, xarray.decode_cf(dataset), or drop the attributes."
        )
