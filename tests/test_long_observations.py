"""Thousands of readings through the face: draws, densities, functions, many data sets, files; and training with them.

Weights are random: draws mean nothing, and their invariances everything.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors import safe_open
from tiny import randomise
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import ObservationWarning
from fsimformer.folder import CARD
from fsimformer.joint import Joint
from fsimformer.model_file import Model, build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.priors import Noise, Normal
from fsimformer.sample import SamplerConfig
from fsimformer.schema import Index, Schema, Variable
from fsimformer.simulators.protocol import FunctionSimulator, draw_priors
from fsimformer.train import TrainConfig
from fsimformer.whiten import Standardise, Transform, Whitening

QUICK = SamplerConfig("ab2", 4)
ABOVE = 80
SCHEMA = Schema(
    (
        Variable("a", "parameter", prior=Normal()),
        Variable("f", "parameter", ("time",), prior=Normal(), reference=6),
        Variable("y", "data", ("time",), noise=Noise("normal", 0.5), parents=("a", "f")),
    ),
    (Index("time", 0, 10),),
)


def model(inducing: int = 8, max_readings: int = 5_000) -> Joint:
    uses = tuple(map(tuple, SCHEMA.uses_index().tolist()))
    network = NetworkConfig(uses, width=16, depth=2, n_heads=2, inducing=inducing, compress_above=ABOVE)
    denoiser = build_denoiser(SCHEMA, network, "trig", "dense")
    randomise(denoiser, 0, gain=0.6)
    transforms = {v.name: Transform(v.prior, v.support) for v in SCHEMA.variables if v.prior}
    transforms["y"] = Transform(None, SCHEMA["y"].support, Standardise(0.0, 1.0))
    spread = {"f": (torch.full((41,), 0.3),)}
    readings = {"f": 40, "y": max_readings}
    made = Model(
        SCHEMA, Whitening(transforms), denoiser.eval(), "trig", "dense", "few", readings, 12, {}, (), {}, spread=spread
    )
    return Joint(made)


def observed(n: int, seed: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(seed)
    return xr.Dataset({"y": ("time", rng.normal(size=n))}, {"time": rng.uniform(0, 10, n)})


def values(tree: xr.DataTree, name: str) -> np.ndarray:
    return tree["posterior"][name].values.reshape(-1, *tree["posterior"][name].shape[2:])


def test_draws_do_not_depend_on_the_order_of_readings_on_more_draws_or_on_other_data_sets() -> None:
    joint, data = model(), observed(700)
    few = joint.condition(data).sample(6, {"f": [2.0, 7.7]}, quality=QUICK)
    order = np.random.default_rng(1).permutation(700)
    shuffled = joint.condition(data.isel(time=order)).sample(8, {"f": [2.0, 7.7]}, quality=QUICK)
    sets = xr.Dataset({"y": (("site", "time"), np.stack([data.y.values, np.where(np.arange(700) < 40, 0.3, np.nan)]))},
                      {"time": data.time.values})  # fmt: skip
    many = joint.condition(sets, batch_dim="site").sample(6, {"f": [2.0, 7.7]}, quality=QUICK)
    for name in ("a", "f"):
        np.testing.assert_allclose(values(shuffled, name)[:6], values(few, name), rtol=0, atol=2e-4)
        first = many["posterior"][name].isel(site=0).values.reshape(values(few, name).shape)
        np.testing.assert_allclose(first, values(few, name), rtol=0, atol=2e-4)
    other = joint.condition(observed(700, 3)).sample(6, {"f": [2.0, 7.7]}, quality=QUICK)
    assert np.abs(values(other, "a") - values(few, "a")).max() > 1e-2


def test_a_function_is_extended_from_a_long_observation_as_if_asked_at_once() -> None:
    conditional = model().condition(observed(600))
    a, b = np.array([0.7, 5.1]), np.linspace(0, 10, 20)
    alone = conditional.sample(4, {"f": a}, quality=QUICK)
    both = conditional.sample(4, {"f": np.concatenate([b, a])}, quality=QUICK)
    np.testing.assert_allclose(values(both, "f")[:, -2:], values(alone, "f"), rtol=0, atol=1e-4)
    later = conditional.extend(alone, {"f": b})
    np.testing.assert_allclose(values(later, "f"), values(both, "f")[:, :20], rtol=0, atol=1e-4)


def test_readings_are_drawn_in_stages_beside_a_long_observation() -> None:
    """More latents than a stage holds."""
    conditional = model().condition(observed(500))
    draws = conditional.sample(4, {"y": np.linspace(0, 10, 30)}, quality=QUICK)
    y = draws["predictions"]["y"].values
    assert y.shape == (2, 2, 30) and np.isfinite(y).all() and y.std() > 0.1


def test_log_density_of_long_observations_does_not_depend_on_their_order() -> None:
    joint, data = model(), observed(400)
    draws = joint.condition(data).sample(4, {}, quality=QUICK)
    found = joint.condition(data).log_prob(draws)
    order = np.random.default_rng(1).permutation(400)
    moved = data.isel(time=order)
    again = joint.condition(moved).sample(4, {}, quality=QUICK)
    np.testing.assert_allclose(joint.condition(moved).log_prob(again), found, rtol=0, atol=1e-2)
    assert np.isfinite(found.values).all()


def test_a_file_holds_the_summary_and_older_files_load(tmp_path: Path) -> None:
    joint, data = model(), observed(300)
    joint.save(tmp_path / "new")
    a, b = (j.condition(data).sample(4, {}, quality=QUICK) for j in (joint, fsf.load(tmp_path / "new")))
    assert np.array_equal(values(a, "a"), values(b, "a"))
    model(inducing=0).save(tmp_path / "old")
    path = tmp_path / "old" / CARD
    card = json.loads(path.read_text())
    assert [card["network"].pop(k) for k in ("inducing", "compress_above", "most_readings")] == [0, ABOVE, 0]
    path.write_text(json.dumps(card))
    network = fsf.load(tmp_path / "old").model.denoiser.network.config
    assert (network.inducing, network.compress_above) == (0, 2048)


def test_what_may_ride_in_the_active_stream_is_told_at_the_door() -> None:
    joint, data = model(), observed(200)
    for dial in (None, ABOVE + 1):
        with pytest.raises(ValueError, match=f"n_active_observed: {dial} lets 200 readings .* more than {ABOVE}. Choi"):
            joint.condition(data, n_active_observed=dial)
    all_of_few, some_of_many = observed(ABOVE), joint.condition(data, n_active_observed=20)
    for short in (joint.condition(all_of_few, n_active_observed=None), some_of_many):
        assert np.isfinite(values(short.sample(4, {}, quality=QUICK), "a")).all()


def test_more_readings_than_training_had_are_warned_about_compressed_or_not() -> None:
    joint = model(max_readings=300)
    with pytest.warns(ObservationWarning, match="'y' has 400 readings; training had 0 to 300 a channel"):
        joint.condition(observed(400))
    joint.condition(observed(300))


LINE = Schema(
    (
        Variable("a", "parameter", prior=Normal()),
        Variable("y", "data", ("t",), noise=Noise("normal", 2.0), parents=("a",)),
    ),
    (Index("t", -1, 1),),
)
GRID = torch.linspace(-1, 1, 5, dtype=torch.float64)


def level(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    draws = draw_priors(LINE, n, generator)
    return {**draws, "y": draws["a"][:, None].expand(-1, 5).clone()}


SETTINGS: dict[str, Any] = {
    "simulations": 400,
    "network": NetworkConfig(width=16, depth=1, n_heads=2, inducing=4, compress_above=40),
    "design": fsf.Design((200,), skew=2.0),
}


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=4, batch_size=8, n_micro=2, pool=2, warmup=1, validate_every=2, n_validation=16, checkpoint_every=2,
        compressed=0.5, dial=(("few", 0.5), (None, 0.5)),
    )  # fmt: skip
    simulator = FunctionSimulator(LINE, level, {"t": GRID})

    class Stop(Exception):
        pass

    def stop(progress: Any) -> None:
        if progress.step == 3:
            raise Stop

    whole = fsf.train(simulator, config=config, **SETTINGS)
    with pytest.raises(Stop):
        fsf.train(simulator, config=config, checkpoint=tmp_path / "run", callback=stop, **SETTINGS)
    resumed = fsf.train(simulator, config=config, checkpoint=tmp_path / "run", **SETTINGS)
    a, b = (j.model.denoiser.state_dict() for j in (whole, resumed))
    assert any(k.startswith("summariser.") for k in a) and all(torch.equal(a[k], b[k]) for k in a)
    assert whole.model.max_readings == {"y": 200} and whole.model.denoiser.network.config.most_readings == 200


def test_training_on_short_rows_is_training_without_compression_bit_for_bit() -> None:
    """With compressed=0; a summary that no row needs has no say in the others' weights."""
    config = TrainConfig(
        steps=3, batch_size=8, n_micro=2, pool=1, warmup=1, validate_every=3, n_validation=16, compressed=0.0
    )
    simulator, settings = FunctionSimulator(LINE, level, {"t": GRID}), SETTINGS | {"design": fsf.Design((30,))}
    networks = SETTINGS["network"], replace(SETTINGS["network"], inducing=0)
    a, b = (
        fsf.train(simulator, config=config, **settings | {"network": n}).model.denoiser.state_dict() for n in networks
    )
    assert a.keys() - b.keys() and all(torch.equal(a[k], b[k]) for k in b)


def test_settings_of_a_network_without_compression_are_what_they_were(tmp_path: Path) -> None:
    """A checkpoint from before there was any goes on."""
    config = TrainConfig(steps=1, batch_size=8, n_micro=2, pool=1, n_validation=16, checkpoint_every=1)
    network = replace(SETTINGS["network"], inducing=0)
    fsf.train(
        FunctionSimulator(LINE, level, {"t": GRID}), config=config, checkpoint=tmp_path / "run",
        **SETTINGS | {"network": network, "design": fsf.Design((10,))},
    )  # fmt: skip
    with safe_open(tmp_path / "run", framework="pt") as file:
        settings = json.loads(file.metadata()["fsimformer"])["settings"]
    assert "compressed" not in settings["train"] and not {"inducing", "compress_above"} & settings["network"].keys()
    assert "dial" in settings["train"] and "width" in settings["network"]
