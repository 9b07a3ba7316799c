"""A dependency mask from the schema to draws: trained, saved, loaded, and what it makes a query blind to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import xarray as xr

import fsimformer as fsf

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
