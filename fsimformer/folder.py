"""A directory with `weights.safetensors` and `model.json`. Nothing executes on load.

It is written beside its place and moved there whole, once it is on the disk: a reader never sees half a model, and a
machine that loses its power keeps one.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fsimformer.beside import aside, exchange, move, settle, unfinished
from fsimformer.damage import DAMAGE

WEIGHTS, CARD = "weights.safetensors", "model.json"
_NUMBERS = re.compile(
    r"\[\n\s+((?:[-+.\deE]+|null)(?:,\n\s+(?:[-+.\deE]+|null))*)\n\s+\]"
)  # strings have no line break


def require_free(path: Path) -> None:
    """Checks that a model may be written there, best before the work: nothing stands there, or a model and no more.

    Raises:
        FileExistsError: a file, or a directory that holds something else.
    """
    others = sorted({p.name for p in path.iterdir()} - {CARD, WEIGHTS}) if path.is_dir() else []
    if others or path.is_file():
        held = f"holds {', '.join(others[:3])}" if others else "is a file"
        raise FileExistsError(
            f"{path} exists and is no model directory ({CARD}, {WEIGHTS}): it {held}; choose another path."
        )


def write_folder(path: Path, card: Mapping[str, Any], module: nn.Module) -> None:
    """Write `card` and the weights of `module`; what is there is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = unfinished(path)
    part.mkdir()
    try:
        weights = module.state_dict()  # tied ones share memory, which safetensors refuses
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
        save_file(tensors, part / WEIGHTS)
        (part / WEIGHTS).chmod(0o644)  # safetensors leaves 0600: a model that others cannot read
        (part / CARD).write_text(legible(card))
        settle(part)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if path.exists():
        exchange(part, path)
    else:
        move(part, path)


def read_json(path: Path) -> Any:
    """What `model.json` holds.

    Raises:
        FileNotFoundError: there is none. ValueError: no JSON.
    """
    _require_file(path, CARD)
    try:
        return json.loads((path / CARD).read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise ValueError(f"{path / CARD} is not valid JSON: {error}.") from error


def legible(card: Any) -> str:
    """JSON, a line for each entry, and one for a list of numbers."""
    return _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", json.dumps(card, indent=1)) + "\n"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key stand twice, and readers differ in which one counts."""
    out = dict(pairs)
    if len(out) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the keys {sorted({n for n in names if names.count(n) > 1})} stand twice")
    return out


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `weights.safetensors` holds.

    Raises:
        FileNotFoundError: there is none. ValueError: a damaged file.
    """
    _require_file(path, WEIGHTS)
    try:
        return load_file(path / WEIGHTS)
    except (SafetensorError, *DAMAGE) as error:
        raise ValueError(f"{path / WEIGHTS} does not hold the weights of this model: {error}") from error


def fill(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Give `module` the weights that were read from `path`.

    Raises:
        ValueError: they are another module's, of another dtype, or not finite; `module` is then as it was.
    """
    own = module.state_dict()
    for name, x in weights.items():
        if name in own and x.dtype != own[name].dtype:
            raise ValueError(f"{path / WEIGHTS} is damaged: expected {name} as {own[name].dtype}, got {x.dtype}.")
    for name, _ in module.named_parameters():
        if name in weights and not bool(torch.isfinite(weights[name]).all()):
            raise ValueError(f"{path / WEIGHTS} is damaged: expected {name} to be finite.")
    try:
        module.load_state_dict(dict(weights))
    except RuntimeError as error:
        raise ValueError(f"{path / WEIGHTS} does not hold the weights of this model: {error}") from error


def require_keys(path: Path, held: Mapping[str, Any], expected: set[str]) -> None:
    """A card, or a part of it, has these keys and no others.

    Raises:
        ValueError: unknown or missing ones.
    """
    if set(held) != expected:
        unknown, missing = sorted(set(held) - expected), sorted(expected - set(held))
        raise ValueError(f"{path / CARD}: unknown keys {unknown}, missing keys {missing}.")


@contextmanager
def one_model(path: Path) -> Iterator[None]:
    """What is read of a directory is of one model, though somebody may put another in its place meanwhile.

    Raises:
        ValueError: somebody did.
    """
    before = path.stat().st_ino if path.exists() else None
    yield
    if before is not None and (not path.exists() or path.stat().st_ino != before):
        raise ValueError(f"{path} was replaced while it was read; load it again.")


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What goes wrong while a card is read is the card's fault."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path / CARD}: {error}") from error
    except DAMAGE as error:
        raise ValueError(f"{path / CARD} is damaged: {type(error).__name__}: {error}.") from error


def _require_file(path: Path, name: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is no model directory: it does not exist.{left_aside(path)}")
    if not (path / name).is_file():
        raise FileNotFoundError(f"{path} is no model directory: no {name} in it.")


def left_aside(path: Path) -> str:
    """Where the last good model is, if somebody was killed while another took its place; else nothing."""
    old = aside(path)
    return f" It was being replaced; what it was is in {old}." if not path.exists() and old.exists() else ""
