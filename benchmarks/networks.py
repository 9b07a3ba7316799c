"""Networks of the benchmarks, kept in runs/: what was trained before is not trained again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from record import ROOT

import fsimformer as fsf
from fsimformer.masks import KINDS, MaskConfig


def kept(name: str, train: Callable[[Path], fsf.Joint]) -> fsf.Joint:
    """The network in `runs/<name>`, trained now if it is not there; `train` gets the path of its checkpoint."""
    folder = ROOT / "runs" / name
    if not folder.exists():
        train(folder.with_name(f"{folder.name}.safetensors")).save(folder)
    return fsf.load(folder)


def only(**shares: float) -> MaskConfig:
    """A law of condition masks of these kinds alone."""
    return MaskConfig(**(dict.fromkeys(KINDS, 0.0) | shares))
