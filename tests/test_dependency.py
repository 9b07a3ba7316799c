"""A dependency mask from the schema to draws: trained, saved, loaded, and what it makes a query blind to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import seeded
from torch import Tensor

import fsimformer as fsf
from fsimformer.graph import require_connected

CONFIG = fsf.TrainConfig(steps=20, batch_size=32, n_micro=2, n_validation=32, warmup=2, seed=1, learning_rate=1e-2)
NETWORK = fsf.NetworkConfig(width=16, depth=2, n_heads=2)
GRID = torch.linspace(0, 1, 21, dtype=torch.float64)


def walk() -> fsf.simulators.FunctionSimulator:
    """f(t) a random line, y(t) its running integral, read with noise; s a scalar nobody hangs on."""
    schema = fsf.Schema(
        (
            fsf.Variable("s", "parameter", prior=fsf.Normal(0, 1)),
            fsf.Variable("f", "parameter", ("t",)),
            fsf.Variable(
                "y", "data", ("t",), noise=fsf.Noise("normal", 0.1), parents=("f",), determined=True, past_of=("f",)
            ),
        ),
        (fsf.Index("t", 0.0, 1.0),),
    )

    def simulate(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        a, b, s = torch.randn(3, n, 1, generator=generator, dtype=torch.float64)
        return {"s": s[:, 0], "f": a + b * GRID, "y": a * GRID + b * GRID**2 / 2}

    return fsf.simulators.FunctionSimulator(schema, simulate, {"t": GRID})


@pytest.mark.parametrize("dependency", ["dense", "undirected", "causal"])
def test_a_query_is_blind_to_what_its_mask_cuts_and_stays_so_in_the_file(dependency: str, tmp_path: Path) -> None:
    """s hangs on nothing: only "dense" lets it see y. y(0.2) hangs on f(≤ 0.2): f(0.9) reaches it unless "causal"."""
    joint = fsf.train(walk(), simulations=300, config=CONFIG, network=NETWORK, dependency=dependency)
    joint.save(tmp_path / "model")
    joint = fsf.load(tmp_path / "model")

    def draw(value: float, at: dict[str, list[float]], name: str) -> torch.Tensor:
        f = xr.DataArray([value], {"t": [0.9]}, "t", name="f")
        draws = joint.condition(f).sample(4, at=at)
        found = [draws[g][name] for g in ("posterior", "predictions") if g in draws and name in draws[g]]
        return torch.from_numpy(found[0].values)

    same_s = torch.equal(draw(-1.0, {}, "s"), draw(1.0, {}, "s"))
    assert same_s == (dependency != "dense")
    early = {"y": [0.2]}
    assert torch.equal(draw(-1.0, early, "y"), draw(1.0, early, "y")) == (dependency == "causal")
    late = {"y": [0.95]}
    assert not torch.equal(draw(-1.0, late, "y"), draw(1.0, late, "y"))


def test_a_region_joins_parameters_that_were_independent(tmp_path: Path) -> None:
    """x_i hangs on θ_i alone; inside a region that is no box θ₁ tells of θ₂, so the mask of later rounds joins them."""
    pairs = fsf.Schema(
        (
            fsf.Variable("theta", "parameter", ("i",), prior=fsf.Normal(0.0, 1.0), blocks=3),
            fsf.Variable("x", "data", ("j",), parents=("theta",), blocks=3, blockwise=("theta",)),
        ),
        (fsf.Components("i", 3), fsf.Components("j", 3)),
    )

    def read_theta(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        theta = parameters["theta"]
        return {"x": theta + 0.1 * torch.randn(theta.shape, generator=generator, dtype=torch.float64)}

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        theta = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        return {"theta": theta, **read_theta({"theta": theta}, generator)}

    run = fsf.train_sequential(
        fsf.simulators.FunctionSimulator(pairs, simulate, simulate_at=read_theta),
        {"x": xr.DataArray([0.1, np.nan, 0.5], dims="j")},
        rounds=2, simulations=300, draws=200, epsilon=0.01, config=CONFIG, network=NETWORK, dependency="undirected",
    )  # fmt: skip
    run.joint.save(tmp_path / "model")
    first, second, again = (
        j.model.denoiser.dependency for j in (run.rounds[0].joint, run.joint, fsf.load(tmp_path / "model"))
    )
    assert torch.equal(first, torch.eye(3).repeat(2, 2).bool())
    joined = first.clone()
    joined[:3, :3] = True
    assert torch.equal(second, joined) and torch.equal(again, joined)
    ball = torch.randn(20_000, 2, generator=seeded(0))
    ball = ball[ball.norm(dim=1) < 1]
    wide, narrow = (ball[(ball[:, 0].abs() > 0.8) == w, 1].std() for w in (False, True))
    assert wide > 1.5 * narrow  # what is left of θ₂ where θ₁ is far out


def decay(*parents: str, **changes: Any) -> fsf.Schema:
    """The README's: a level that falls at an unknown rate; and a count that hangs on the level."""
    level = fsf.Variable("level", "data", ("t",), support=fsf.POSITIVE, parents=parents, **changes)
    count = fsf.Variable("count", "data", parents=("level",))
    return fsf.Schema(
        (fsf.Variable("rate", "parameter", prior=fsf.LogNormal()), level, count), (fsf.Index("t", 0.0, 1.0),)
    )


@pytest.mark.parametrize("dependency", ["undirected", "causal"])
def test_data_that_no_edge_joins_to_a_parameter_are_refused(dependency: str) -> None:
    message = (
        rf"dependency='{dependency}'.*\['level', 'count'\] to a parameter.*State the `parents`.*dependency=\"dense\""
    )
    with pytest.raises(ValueError, match=message):
        require_connected(decay(), dependency)
    require_connected(decay("rate"), dependency)  # the count is two steps away
    require_connected(decay(noise=fsf.Noise("lognormal", "rate")), dependency)
    require_connected(fsf.Schema((fsf.Variable("x", "data"), fsf.Variable("y", "data"))), dependency)
    require_connected(decay(), "dense")


def test_neither_training_simulates_for_a_mask_that_makes_the_posterior_the_prior() -> None:
    asked: list[int] = []

    def simulate(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        asked.append(n)
        a, x = torch.randn(2, n, generator=generator, dtype=torch.float64)
        return {"a": a, "x": a + x}

    def simulate_at(parameters: Mapping[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"x": parameters["a"] + torch.randn(parameters["a"].shape, generator=generator, dtype=torch.float64)}

    schema = fsf.Schema((fsf.Variable("a", "parameter", prior=fsf.Normal()), fsf.Variable("x", "data")))
    simulator = fsf.simulators.FunctionSimulator(schema, simulate, simulate_at=simulate_at)
    with pytest.raises(ValueError, match=r"none lead from \['x'\] to a parameter"):
        fsf.train(simulator, simulations=300, config=CONFIG, network=NETWORK, dependency="undirected")
    with pytest.raises(ValueError, match=r"none lead from \['x'\] to a parameter"):
        fsf.train_sequential(simulator, {"x": 1.0}, simulations=300, config=CONFIG, dependency="undirected")
    assert max(asked) < 10  # only to check the simulator


@pytest.mark.parametrize("name", ["HareLynx", "LotkaVolterra", "SIRD", "slcp", "tree", "hmm", "two_moons"])
def test_simulators_that_ship_state_their_edges(name: str) -> None:
    require_connected(getattr(fsf.simulators, name)().schema, "causal")
