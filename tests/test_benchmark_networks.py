"""A kept network is used again for what it was trained for, and for nothing else."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fsimformer as fsf
from fsimformer.kernels import Kernel
from fsimformer.simulators import GaussianProcess

GP = GaussianProcess(Kernel(lengthscale=0.2), reference=(9,), grid_points=51)
SETTINGS: dict[str, Any] = {
    "simulations": 100,
    "config": fsf.TrainConfig(steps=2, batch_size=8, n_micro=2, n_validation=8, warmup=0),
    "network": fsf.NetworkConfig(width=16, depth=1, n_heads=2),
    "design": fsf.Design((4, 4)),
    "baseline": True,
}


def test_every_variant_of_the_benchmark_has_settings_that_train_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    sbibm = importlib.import_module("sbibm")
    for variant, changes in sbibm.VARIANTS.items():
        bound = inspect.signature(fsf.train).bind(None, **sbibm.settings(1_000, 0, variant))
        for name, value in changes.get("train", {}).items():
            assert getattr(bound.arguments["config"], name) == value
    assert "train" in sbibm.VARIANTS["cosine"]  # as it was: a second look must find what the first did


@pytest.fixture(scope="module")
def networks() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        yield importlib.import_module("networks")


def never(*_: Any, **__: Any) -> fsf.Joint:
    raise AssertionError("trained again")


@pytest.fixture(scope="module")
def runs(networks: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs")
    networks.kept("gp/one", GP, SETTINGS, path)
    return path


def test_what_was_trained_alike_is_not_trained_again(
    networks: ModuleType, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fsf, "train", never)
    joint = networks.kept("gp/one", GP, SETTINGS, runs)
    assert joint.provenance["steps"] == 2
    unasked = {k: v for k, v in SETTINGS.items() if k not in ("design", "baseline")}
    assert networks.differences(joint, GP, unasked) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": replace(SETTINGS["config"], steps=3, seed=1)}, r"\['train.steps', 'train.seed'\]"),
        ({"network": replace(SETTINGS["network"], width=32)}, r"\['network.width'\]"),
        ({"network": None}, r"'network.width'"),
        ({"masks": fsf.MaskConfig(posterior=1.0)}, r"\['masks.posterior'\]"),
        ({"levels": fsf.NoiseLevels(mean=-1.0)}, r"\['levels.mean'\]"),
        ({"baseline": False}, r"\['baseline'\]"),
        ({"design": fsf.Design((4, 5))}, r"\['design.n_max'\]"),
        ({"simulations": 200}, r"\['simulations'\]"),
        ({"schedule": "rectified", "dependency": "causal"}, r"\['schedule', 'dependency'\]"),
    ],
)
def test_what_was_trained_otherwise_is_refused(
    networks: ModuleType, runs: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SystemExit, match=f"gp/one: trained with other settings of .*{named}.*; remove it"):
        networks.kept("gp/one", GP, SETTINGS | changes, runs)


def test_what_was_trained_on_another_simulator_is_refused(networks: ModuleType, runs: Path) -> None:
    with pytest.raises(SystemExit, match=r"other settings of \['simulator_config.noise'\]"):
        networks.kept("gp/one", replace(GP, noise=0.5), SETTINGS, runs)
