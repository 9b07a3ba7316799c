"""JSON entries against the annotations of the dataclass that they become: a file's text is no number.

Dataclasses check what their fields mean; that a field is what its annotation says they leave to the type checker, which
sees no files. JSON knows lists but no tuples, and true is an int to Python.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_MOST = 2**53  # integers that every reader of JSON takes for the same


def require_types(what: str, cls: type, entry: Mapping[str, Any]) -> None:
    """Every entry that is a field of `cls` has its type; numbers are finite.

    Args:
        what: what the entry is, for messages.

    Raises:
        ValueError: one has another.
    """
    hints = get_type_hints(cls)
    for name, value in entry.items():
        if name in hints and not _fits(value, hints[name]):
            shown = repr(value)
            shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
            raise ValueError(f"{what}: expected {name} as {_told(hints[name])}, got {shown}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        if len(args) == 2 and args[1] is ...:
            return all(_fits(x, args[0]) for x in value)
        return len(args) == len(value) and all(map(_fits, value, args))
    if hint in (None, NoneType):
        return value is None
    if hint is bool or hint is str:
        return isinstance(value, hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _MOST
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    return True  # an entry of its own


def _told(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
