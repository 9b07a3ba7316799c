"""Simulating and training side by side: what the campaign makes is trained on, what it raises is raised."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_arriving import NETWORK, SCHEMA, assert_same, gaussian

import fsimformer as fsf
from fsimformer.archive import Archive
from fsimformer.arriving import Arriving
from fsimformer.campaign import simulate_to
from fsimformer.online import simulating
from fsimformer.seeds import seed_at
from fsimformer.simulators import FunctionSimulator

CONFIG = fsf.TrainConfig(steps=8, batch_size=64, pool=2, n_micro=2, n_validation=32, validate_every=8, warmup=2)
WIDER = fsf.Schema((*SCHEMA.variables, fsf.Variable("y", "data")))


def broken(seed: int) -> dict[str, Any]:
    """Of two shapes, which an archive cannot hold."""
    return {"theta": 0.0, "x": np.zeros(seed % 3 + 1) if seed % 2 else 0.0}


def draw(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    theta, noise = torch.randn(2, n, generator=generator, dtype=torch.float64)
    return {"theta": theta, "x": theta + 0.5 * noise}


def test_a_black_box_beside_its_training(tmp_path: Path) -> None:
    """The joint is that of an archive which was written before."""
    path = tmp_path / "a.zarr"
    with simulating(path, gaussian, 200, SCHEMA, seed=4, chunk=20, workers=1, limit=60.0, first=100) as runs:
        joint = fsf.train(runs, simulations=runs, config=CONFIG, network=NETWORK)
    assert not [t for t in threading.enumerate() if t.name == "fsimformer-campaign"]
    data = Archive.open(path).read()
    np.testing.assert_array_equal(data["theta"], [gaussian(seed_at(4, 7, k))["theta"] for k in range(200)])
    runs = Arriving.open(path, SCHEMA, 200, first=100)
    assert_same(joint, fsf.train(runs, simulations=runs, config=CONFIG, network=NETWORK))


def test_a_simulator_beside_its_training(tmp_path: Path) -> None:
    """It brings its schema, and what it knows of its paths."""
    own = FunctionSimulator(SCHEMA, draw, plausible={"x": (-3.0, 3.0)})
    with simulating(tmp_path / "a.zarr", own, 120, workers=1, chunk=60, first=120) as runs:
        assert runs.schema == SCHEMA and runs.plausible == {"x": (-3.0, 3.0)}
        joint = fsf.train(own, simulations=runs, config=CONFIG, network=NETWORK)
    assert joint.model.plausible == ("x",) and joint.provenance["simulations"] == 120


def test_what_the_campaign_raises_is_raised_in_training(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="differ in their variables or dims"),
        simulating(tmp_path / "a.zarr", broken, 200, SCHEMA, workers=1, chunk=20, first=100) as runs,
    ):
        fsf.train(runs, simulations=runs, config=CONFIG)


def test_who_leaves_early_stops_the_campaign(tmp_path: Path) -> None:
    """The archive keeps what is there, and the same call goes on."""
    path = tmp_path / "a.zarr"
    with pytest.raises(KeyboardInterrupt), simulating(path, gaussian, 40_000, SCHEMA, chunk=20, workers=1, first=100):
        raise KeyboardInterrupt
    n = len(Archive.open(path))
    assert 20 <= n < 40_000
    assert simulate_to(path, gaussian, n + 20, chunk=20, workers=1).holds(range(n + 20))


@pytest.mark.parametrize(
    ("simulator", "n", "settings", "message"),
    [
        (gaussian, 100, {}, "gaussian has no schema; pass schema="),
        (gaussian, 99, {"schema": SCHEMA}, "expected n, an integer >= 100, simulations, got 99"),
        (gaussian, 1e3, {"schema": SCHEMA}, "expected n, an integer >= 100, simulations, got 1000.0"),
        (gaussian, True, {"schema": SCHEMA}, "expected n, an integer >= 100, simulations, got True"),
        (gaussian, 200, {"schema": SCHEMA, "first": 201}, "expected first from 100 to n = 200 simulations, got 201"),
        (gaussian, 200, {"schema": SCHEMA, "reserve": 1.5}, "expected reserve from 0 to 1"),
        (gaussian, 200, {"schema": SCHEMA, "chunk": 0}, "chunk: expected at least 1 simulation, got 0"),
        (gaussian, 200, {"schema": SCHEMA, "limit": 0.0}, "limit: expected seconds above 0"),
        (gaussian, 200, {"schema": SCHEMA, "workers": 0}, "workers: expected at least 1, got 0"),
        (gaussian, 200, {"schema": SCHEMA, "seed": -1}, "seed: expected integers from 0"),
        (
            FunctionSimulator(SCHEMA, draw),
            200,
            {"schema": WIDER},
            "FunctionSimulator has a schema of its own, of .*theta",
        ),
    ],
)
def test_what_is_refused_leaves_nothing_behind(
    tmp_path: Path, simulator: Any, n: Any, settings: dict[str, Any], message: str
) -> None:
    """Neither an archive, nor a part of one, nor a thread that goes on making it."""
    with pytest.raises(ValueError, match=message), simulating(tmp_path / "a.zarr", simulator, n, **settings):
        pass
    assert not list(tmp_path.iterdir())
    assert not [t for t in threading.enumerate() if t.name == "fsimformer-campaign"]


def test_numpy_s_integers_are_integers(tmp_path: Path) -> None:
    sizes = np.arange(100, 121, 20)
    with simulating(tmp_path / "a.zarr", gaussian, sizes[1], SCHEMA, workers=1, chunk=60, first=sizes[0]) as runs:
        joint = fsf.train(runs, simulations=runs, config=CONFIG, network=NETWORK)
    assert joint.provenance["simulations"] == 120 and joint.provenance["arriving"]["first"] == 120
