"""Training that goes on from a trained Joint: what it keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
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
    longer = replace(CONFIG, steps=200, batch_size=32, n_validation=128)
    moved = fsf.train(two_moons(), simulations=200, config=longer, initial=first).model.denoiser.state_dict()
    assert any(not torch.equal(moved[k], v) for k, v in before.items())
    for name, p in first.model.denoiser.named_parameters():
        assert torch.equal(p, before[name])  # the first is left as it was


def test_it_inherits_what_is_not_said_and_draws_rows_of_its_own(first: fsf.Joint) -> None:
    flow = fsf.train(
        two_moons(), simulations=200, config=CONFIG, network=NETWORK, schedule="rectified", n_active_observed=None
    )
    on = fsf.train(two_moons(), simulations=200, config=CONFIG, initial=flow)
    assert (on.model.schedule, on.model.n_active_observed) == ("rectified", None)
    nothing = replace(CONFIG, learning_rate=1e-12, matrix_rate=0.0, weight_decay=0.0)
    second = fsf.train(two_moons(), simulations=200, config=nothing, initial=first)  # the same weights, a generation on
    losses: dict[int, list[float]] = {1: [], 2: []}
    for generation, initial in ((1, first), (2, second)):

        def note(p: fsf.Progress, generation: int = generation) -> None:
            losses[generation].append(p.loss)

        run = fsf.train(two_moons(), simulations=200, config=nothing, initial=initial, callback=note)
        assert run.provenance["generation"] == generation
    assert losses[1] != pytest.approx(losses[2], rel=1e-3)  # rows and noise of its own


def test_it_stops_and_resumes_and_knows_its_initial(first: fsf.Joint, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    longer = replace(CONFIG, steps=4, checkpoint_every=2)

    def stop(progress: fsf.Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    whole = fsf.train(two_moons(), simulations=200, config=longer, initial=first)
    with pytest.raises(KeyboardInterrupt):
        fsf.train(two_moons(), simulations=200, config=longer, initial=first, checkpoint=path, callback=stop)
    resumed = fsf.train(two_moons(), simulations=200, config=longer, initial=first, checkpoint=path)
    for a, b in zip(whole.model.denoiser.parameters(), resumed.model.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)
    other = fsf.train(
        two_moons(), simulations=200, config=replace(CONFIG, steps=200, batch_size=32, n_validation=128), initial=first
    )
    with pytest.raises(ValueError, match=r"written with other settings of \['initial_weights'\]"):
        fsf.train(two_moons(), simulations=200, config=longer, initial=replace_card(other, first), checkpoint=path)


def replace_card(joint: fsf.Joint, other: fsf.Joint) -> fsf.Joint:
    """Weights of one under the card of another."""
    return fsf.Joint(replace(joint.model, provenance=other.provenance))


def test_weights_that_training_makes_worse_are_not_taken(first: fsf.Joint) -> None:
    wild = replace(CONFIG, steps=1, learning_rate=10.0, matrix_rate=0.0, ema=0.0, seed=5)
    with_wild_steps = fsf.train(two_moons(), simulations=200, config=wild, initial=first)
    assert with_wild_steps.provenance["best_step"] == 0
    for a, b in zip(first.model.denoiser.parameters(), with_wild_steps.model.denoiser.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_card_that_does_not_say_where_it_comes_from_is_refused(first: fsf.Joint) -> None:
    bare = fsf.Joint(replace(first.model, provenance={}))
    with pytest.raises(ValueError, match="does not say from which seed"):
        fsf.train(two_moons(), simulations=200, config=CONFIG, initial=bare)
    said = fsf.train(two_moons(), simulations=200, config=CONFIG, network=NETWORK, provenance={"seed": 9, "who": "me"})
    assert (said.provenance["seed"], said.provenance["who"]) == (1, "me")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"simulator": fsf.simulators.slcp()}, "the same schema"),
        ({"network": fsf.NetworkConfig(width=32, depth=2, n_heads=2)}, "the same network"),
        ({"schedule": "rectified"}, "the same schedule, rectified; got trig"),
        ({"dependency": "undirected"}, "the same dependency"),
        ({"simulations": 300}, "trained with seed 1 on 200 simulations; 300 with the same seed"),
    ],
)
def test_what_does_not_fit_is_refused(first: fsf.Joint, change: dict[str, Any], message: str) -> None:
    call = {"simulator": two_moons(), "simulations": 200, "config": CONFIG, "initial": first, **change}
    with pytest.raises(ValueError, match=message):
        fsf.train(call.pop("simulator"), **call)
