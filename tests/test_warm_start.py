"""Training that goes on from a trained Joint: what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import fsimformer as fsf
from fsimformer.simulators import two_moons

CONFIG = fsf.TrainConfig(steps=3, batch_size=8, n_micro=2, n_validation=8, warmup=0, seed=1)
NETWORK = fsf.NetworkConfig(width=16, depth=2, n_heads=2)


@pytest.fixture(scope="module")
def first() -> fsf.Joint:
    return fsf.train(two_moons(), simulations=200, config=CONFIG, network=NETWORK)


def test_it_goes_on_from_the_weights_and_keeps_the_whitening(first: fsf.Joint) -> None:
    before = {k: p.clone() for k, p in first.model.denoiser.named_parameters()}
    still = replace(CONFIG, learning_rate=1e-12, matrix_rate=0.0, weight_decay=0.0, seed=2)
    second = fsf.train(two_moons(), simulations=300, config=still, initial=first)
    for name, p in second.model.denoiser.named_parameters():
        torch.testing.assert_close(p, before[name], rtol=0, atol=1e-6)
    assert second.model.whitening.to_dict() == first.model.whitening.to_dict()
    assert second.provenance["initial"]["steps"] == 3 and second.provenance["initial"]["initial"] is None
    moved = fsf.train(two_moons(), simulations=200, config=CONFIG, initial=first).model.denoiser.state_dict()
    assert any(not torch.equal(moved[k], v) for k, v in before.items())
    for name, p in first.model.denoiser.named_parameters():
        assert torch.equal(p, before[name])  # the first is left as it was


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simulator": fsf.simulators.slcp()}, "the same schema"),
        ({"network": fsf.NetworkConfig(width=32, depth=2, n_heads=2)}, "the same network"),
        ({"schedule": "rectified"}, "the same schedule: rectified; got trig"),
        ({"dependency": "undirected"}, "the same dependency"),
        ({"simulations": 300}, "trained with seed 1 on 200 simulations; 300 with the same seed"),
    ],
)
def test_what_does_not_fit_is_refused(first: fsf.Joint, change: dict[str, Any], message: str) -> None:
    call = {"simulator": two_moons(), "simulations": 200, "config": CONFIG, "initial": first, **change}
    with pytest.raises(ValueError, match=message):
        fsf.train(call.pop("simulator"), **call)
