"""Networks of the benchmarks, kept in runs/: what was trained before, with equal settings, is not trained again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from record import ROOT, commit

import fsimformer as fsf
from fsimformer.masks import KINDS, MaskConfig
from fsimformer.model_file import plain
from fsimformer.simulators import Simulator
from fsimformer.train import Progress


def kept(
    name: str,
    simulator: Simulator,
    settings: Mapping[str, Any],
    runs: Path = ROOT / "runs",
    callback: Callable[[Progress], None] | None = None,
) -> fsf.Joint:
    """The network in `runs/<name>`, trained now, with a checkpoint beside it, if it is not there.

    Args:
        settings: arguments of `fsimformer.train`.

    Raises:
        SystemExit: the network that is there was trained on another simulator or with other settings.
    """
    folder = runs / name
    if not folder.exists():
        checkpoint = folder.with_name(f"{folder.name}.safetensors")
        made = {"commit": commit()}
        fsf.train(simulator, checkpoint=checkpoint, callback=callback, provenance=made, **settings).save(folder)
    joint = fsf.load(folder)
    if changed := differences(joint, simulator, settings):
        raise SystemExit(f"{folder}: trained with other settings of {changed}; remove it to train it anew.")
    return joint


def differences(joint: fsf.Joint, simulator: Simulator, settings: Mapping[str, Any]) -> list[str]:
    """Names of the settings in which a network is not what `fsimformer.train(simulator, **settings)` would train."""
    model, card = joint.model, joint.provenance
    network = asdict(model.denoiser.network.config)
    found: dict[str, Any] = {
        **{k: card.get(k) for k in ("simulator", "simulator_config", "simulations", "train", "masks", "levels")},
        "network": {k: v for k, v in network.items() if k not in ("uses_index", "most_readings")},  # schema's, design's
        "schedule": model.schedule, "dependency": model.dependency,
    }  # fmt: skip
    asked: dict[str, Any] = {
        "simulator": type(simulator).__name__,
        "simulator_config": plain(simulator),
        "simulations": settings.get("simulations", 100_000),
        "train": asdict(settings.get("config") or fsf.TrainConfig()),
        "masks": asdict(settings.get("masks") or fsf.MaskConfig()),
        "levels": asdict(settings.get("levels") or fsf.NoiseLevels()),
        "network": asdict(settings.get("network") or fsf.NetworkConfig()),
        "schedule": settings.get("schedule") or "trig",
        "dependency": settings.get("dependency") or "dense",
    }
    if settings.get("design") is not None:  # else the schema's default
        found["design"], asked["design"] = card.get("design"), asdict(settings["design"])
    if settings.get("baseline") is not None:
        found["baseline"], asked["baseline"] = model.denoiser.baseline is not None, settings["baseline"]
    return _changed(json.loads(json.dumps(found)), json.loads(json.dumps(asked)))


def _changed(found: Mapping[str, Any], asked: Mapping[str, Any], within: str = "") -> list[str]:
    out = list[str]()
    for k in found:
        if isinstance(found[k], dict) and isinstance(asked.get(k), dict):
            out += _changed(found[k], asked[k], f"{within}{k}.")
        elif k not in asked or found[k] != asked[k]:  # a card may lack settings that are younger
            out.append(within + k)
    return out


def only(**shares: float) -> MaskConfig:
    """A law of condition masks of these kinds alone."""
    return MaskConfig(**(dict.fromkeys(KINDS, 0.0) | shares))
