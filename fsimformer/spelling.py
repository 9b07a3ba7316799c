"""Names that somebody wrote, against those that there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], alike: float = 0.6) -> str:
    """The question after the nearest name, and a space; nothing where none is near.

    Args:
        alike: 0 to 1, how near it must be (`difflib`'s ratio).
    """
    near = get_close_matches(name, list(known), 1, alike)
    return f"Did you mean {near[0]!r}? " if near else ""


def require_known(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Every name is one of these.

    Raises:
        KeyError: it is not; the message names the nearest.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise KeyError(f"{what}: no variable {name!r}. {did_you_mean(str(name), known)}There are {known}.")
