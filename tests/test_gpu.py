"""On a GPU: what a CPU draws and learns, to rounding. Skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fsimformer as fsf
from fsimformer.simulators import SIRD, LotkaVolterra, hudson_bay, two_moons

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]


def posterior(joint: fsf.Joint) -> dict[str, np.ndarray]:
    tree = joint.condition(hudson_bay(), judge=False).sample(200, {"hare": [24.0, 25.0]}, seed=2)
    return {k: v.to_numpy().ravel() for g in ("posterior", "predictions") for k, v in tree[g].data_vars.items()}


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_draws_are_those_of_a_cpu(precision: str, tolerance: float) -> None:
    """The noise is drawn on the CPU: draw by draw the same numbers, in sd of each."""
    joint = fsf.load("hare_lynx")
    here, there = posterior(joint), posterior(joint.to("cuda", precision))
    for name, x in here.items():
        assert np.sqrt(np.square(there[name] - x).mean()) < tolerance * x.std()


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 2e-2)])
def test_training_goes_the_same_way(precision: str, tolerance: float) -> None:
    """Rows, masks and noise are the CPU's: losses agree after twenty steps."""
    config = fsf.TrainConfig(steps=20, batch_size=64, n_validation=200, validate_every=20, warmup=5)
    here = fsf.train(two_moons(), simulations=2_000, config=config)
    there = fsf.train(two_moons(), simulations=2_000, config=config, device="cuda", precision=precision)
    a, b = (j.provenance["best_validation_loss"] for j in (here, there))
    assert b == pytest.approx(a, abs=tolerance)
    assert all(p.device.type == "cpu" for p in there.model.denoiser.parameters())


def test_long_rows_and_padding_are_those_of_a_cpu() -> None:
    """Ragged data sets of one call, and more readings than any block of queries."""
    rng, joint = np.random.default_rng(0), fsf.load("lotka_volterra")
    import xarray as xr

    data = [
        xr.Dataset({"prey": ("time", 1 + rng.random(n)), "predator": ("time", 1 + rng.random(n))},
                   {"time": np.sort(rng.uniform(0, 15, n))}) for n in (3, 400)
    ]  # fmt: skip
    for one in data:
        here, there = (
            j.condition(one, judge=False).sample(50, {}, seed=1)["posterior"].to_dataset()
            for j in (joint, joint.to("cuda"))
        )
        for name, x in here.data_vars.items():
            assert float(np.sqrt(np.square(there[name] - x).mean())) < 5e-3 * float(x.std())


@pytest.mark.parametrize("simulator", [LotkaVolterra(), SIRD()])
def test_simulators_run_on_the_device(simulator: fsf.simulators.Simulator) -> None:
    """Other generators draw other numbers: the law is the same, means of the parameters within their errors."""
    n = 4_000
    here = simulator.simulate(n, torch.Generator().manual_seed(0))
    there = simulator.simulate(n, torch.Generator("cuda").manual_seed(0))
    for name, x in here.items():
        y = there[name].cpu().double()
        assert y.shape == x.shape and bool(torch.isfinite(y).all())
        error = (x.double().var(0) / n + y.var(0) / n).sqrt().clamp(min=1e-9)
        assert float(((x.double().mean(0) - y.mean(0)).abs() / error).max()) < 5.5
