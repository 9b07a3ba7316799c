"""Rows with reference sets: what training reads, which tokens are latent, and who sees them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import seeded

import fsimformer as fsf
from fsimformer.batches import observed_rows
from fsimformer.convert import is_parameter, is_residual
from fsimformer.functions import knots
from fsimformer.kernels import Kernel
from fsimformer.masks import KINDS, MaskConfig
from fsimformer.readings import Design, Store, read, read_clean
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import GaussianProcess
from fsimformer.tokens import TokenBatch, split
from fsimformer.whiten import Whitening

GP = GaussianProcess(Kernel(lengthscale=0.2), reference=(9,), grid_points=101)
FIELD = GaussianProcess(
    Kernel(lengthscale=0.5), dims={"x1": (0.0, 1.0), "x2": (0.0, 1.0)}, reference=(4, 5), grid_points=21
)
THETA, X, BETWEEN = 0, 1, 2  # ids
CONFIG = fsf.TrainConfig(steps=4, batch_size=32, n_micro=2, n_validation=32, warmup=0, validate_every=2)
NETWORK = fsf.NetworkConfig(width=16, depth=2, n_heads=2)


def store_of(simulator: GaussianProcess, n: int = 200) -> Store:
    drawn = simulate(simulator, n, seeded(0))
    return build_store(simulator.schema, Whitening.fit(simulator.schema, drawn.values), drawn.values)


@pytest.mark.parametrize("simulator", [GP, FIELD])
def test_a_row_holds_the_whole_reference_set_and_residuals_that_give_the_path_back(simulator: GaussianProcess) -> None:
    store, rows = store_of(simulator), torch.arange(200)
    design = Design((30, 30), reference=0.5, beside=3, residuals=6)
    batch = read(store, rows, design, seeded(1))
    reference = store.series[0].reference
    assert reference is not None and reference.n_knots == len(knots(simulator.reference))
    theta, between = batch.valid & (batch.variable == THETA), batch.valid & (batch.variable == BETWEEN)
    held = between.any(1)
    assert 60 < int(held.sum()) < 140 and (between.sum(1)[held] == 6).all()
    most = reference.n_knots + 3
    assert (theta.sum(1)[held] <= most).all() and int(theta.sum(1)[~held].max()) > most
    places = knots(simulator.reference).float()
    for row in held.nonzero()[:20, 0].tolist():
        index, z = batch.index[row, theta[row]], batch.value[row, theta[row]]
        first = [int((index == p).all(1).nonzero()[0, 0]) for p in places]
        at = batch.index[row, between[row]]
        value = reference.value(batch.value[row, between[row]], z[first], at)
        path = read_clean(store.series[0], rows[row : row + 1], at[None])[0]
        torch.testing.assert_close(value.float(), path, rtol=0, atol=1e-5)


def test_residuals_of_simulations_have_unit_size_between_the_knots() -> None:
    batch = read(store_of(GP, 2_000), torch.arange(2_000), Design((0, 0), reference=1.0, residuals=20), seeded(2))
    r = batch.value[batch.valid & (batch.variable == BETWEEN)]
    assert float(r.square().mean()) == pytest.approx(1.0, abs=0.1)


def masked(kind: str, n: int = 300, reference: float = 0.7) -> TokenBatch:
    schema, store = GP.schema, store_of(GP)
    config = MaskConfig(**{k: float(k == kind) for k in KINDS})
    design = Design((20, 20), reference=reference)

    def rows(n: int, generator: torch.Generator) -> TokenBatch:
        return read(store, torch.randint(len(store), (n,), generator=generator), design, generator)

    residual = is_residual(schema)
    return observed_rows(rows, n, is_parameter(schema), config, 64, seeded(3), is_residual=residual)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "extension"])
def test_what_lies_between_knots_is_no_token_but_in_extension_rows(kind: str) -> None:
    batch = masked(kind)
    assert not (batch.valid & (batch.variable == BETWEEN)).any()
    assert batch.shape[0] == 300 and bool(batch.latent.any(1).all())  # rows that drew no point at all came again


def test_extension_rows_observe_the_function_and_ask_for_what_lies_between() -> None:
    batch = masked("extension")
    between = batch.valid & (batch.variable == BETWEEN)
    extends = between.any(1)
    assert 0.6 < float(extends.float().mean()) < 0.8
    assert torch.equal(batch.latent[extends], between[extends])
    x = (batch.variable == X) & batch.valid
    share = (batch.observed & x).sum(1)[extends] / 20
    assert float(share.std()) > 0.1  # data at the row's own rate
    others = batch.rows(~extends)  # no reference set: nothing lies between, the row asks for its parameters
    theta = others.valid & (others.variable == THETA)
    assert torch.equal(others.latent, torch.where(theta.any(1, keepdim=True), theta, others.valid))


def test_without_reference_sets_the_kind_does_not_exist() -> None:
    plain = replace(GP, reference=())
    store, schema = store_of(plain), plain.schema
    rows = lambda n, g: read(store, torch.arange(n), Design((20, 20)), g)  # noqa: E731
    every = MaskConfig(0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    batch = observed_rows(rows, 200, is_parameter(schema), every, 64, seeded(4))
    some = (batch.valid & (batch.variable == X)).any(1)
    assert (batch.observed & (batch.variable == X)).sum() == 0 and some.any()  # "likelihood" rows alone


def test_a_point_between_knots_is_blind_to_others_and_nobody_sees_it() -> None:
    joint = fsf.train(GP, simulations=200, config=replace(CONFIG, learning_rate=0.05), network=NETWORK)
    denoiser, batch = joint.model.denoiser, masked("extension", 8, reference=1.0)
    streams = split(batch, None)
    active = streams.active
    encoded = denoiser.encode(streams)
    y = torch.randn(8, 1, active.shape[1], generator=seeded(5))
    level = torch.zeros(8, 1)
    with torch.no_grad():
        before = denoiser.raw(y, level, encoded)
        moved = y.clone()
        last = active.latent.long().cumsum(1) == active.latent.sum(1, keepdim=True)
        last &= active.latent
        moved[:, 0][last] += 3.0
        after = denoiser.raw(moved, level, encoded)
    change = (after - before).abs()[:, 0]
    assert float(change[last].min()) > 1e-4 and float(change[active.valid & ~last].max()) == 0.0
    knot = y.clone()
    with torch.no_grad():
        knot[:, 0][active.valid & (active.variable == THETA)] += 1.0
        seen = denoiser.raw(knot, level, encoded)
    assert float((seen - before).abs()[:, 0][active.latent].min()) > 1e-6


def test_the_file_keeps_what_the_spline_misses(tmp_path: Path) -> None:
    joint = fsf.train(GP, simulations=200, config=CONFIG, network=NETWORK)
    joint.save(tmp_path / "model")
    again = fsf.load(tmp_path / "model")
    (mine,), (theirs,) = joint.model.references(["theta"]), again.model.references(["theta"])
    assert torch.equal(mine.spread, theirs.spread) and mine.reference == (9,) and mine.residual_id == BETWEEN
    assert float(mine.spread.max()) > 0.01 and torch.equal(
        again.model.denoiser.dependency, joint.model.denoiser.dependency
    )
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    for wrong in (-1.0, float("inf"), float("nan")):
        card["spread"]["theta"] = [[wrong, 2.0]]
        (tmp_path / "model" / "model.json").write_text(json.dumps(card))
        with pytest.raises(ValueError, match=r"spread of .theta.: 1 grid.*, none negative, all finite"):
            fsf.load(tmp_path / "model")
    del card["spread"]
    (tmp_path / "model" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"missing keys \['spread'\]"):
        fsf.load(tmp_path / "model")


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"max_latents 8 is less than the 9 latents of all .* Pass config=TrainConfig\(max_latents=9\), or",
    ):
        fsf.train(GP, simulations=200, config=replace(CONFIG, max_latents=8), network=NETWORK)
    with pytest.raises(ValueError, match=r"dependency 'undirected': with reference sets \(\['theta'\]\) only 'dense'"):
        fsf.train(GP, simulations=200, config=CONFIG, network=NETWORK, dependency="undirected")
    two = replace(CONFIG, max_latents=1)
    with pytest.raises(
        ValueError, match=r"would lose some of the 4 scalars .* Pass config=TrainConfig\(max_latents=4\)"
    ):
        fsf.train(fsf.simulators.two_moons(), simulations=200, config=two, network=NETWORK, dependency="undirected")
