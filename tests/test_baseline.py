"""The linear baseline on its way through training, sampling and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributions import MultivariateNormal

import fsimformer as fsf
from fsimformer.denoise import Denoiser
from fsimformer.kernels import Kernel
from fsimformer.priors import Normal
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators import GaussianProcess, gaussian_linear
from fsimformer.tokens import Streams

GP = GaussianProcess(Kernel(lengthscale=0.2), reference=(9,), grid_points=101)
LINE_ONLY = replace(GP, reference=())
FINE = replace(GP, noise=0.01)  # fifty times the noise is less than the range: whitening has a tail
CONFIG = fsf.TrainConfig(
    steps=10, batch_size=32, n_micro=2, n_validation=32, warmup=0, validate_every=5, cooldown=0.5, checkpoint_every=7
)
NETWORK = fsf.NetworkConfig(width=16, depth=1, n_heads=2)


def linear_joint() -> fsf.Joint:
    """gaussian_linear, with a network that says F₀ = 0, G = 1: all is left to the baseline."""
    joint = fsf.train(gaussian_linear(), simulations=4_000, config=CONFIG, network=NETWORK, baseline=True)
    return linear_only(joint)


def linear_only(joint: fsf.Joint) -> fsf.Joint:
    out = joint.model.denoiser.network.out
    with torch.no_grad():
        out.weight.zero_()
        out.bias.copy_(torch.tensor([0.0, 1.0]))
    return joint


def test_densities_of_a_linear_model_are_exact() -> None:
    """θ given x of gaussian_linear is N(x/2, 0.05) a component."""
    joint, x = linear_joint(), np.linspace(-0.3, 0.3, 10)
    given = joint.condition({"x": xr.DataArray(x, dims="x_dim")}, judge=False)  # its table is of the network before
    draws = given.sample(600, quality="exact")
    theta = draws["posterior"]["theta"].values.reshape(600, 10)
    assert np.abs(theta.mean(0) - x / 2).max() < 4 * np.sqrt(0.05 / 600) + 0.01
    assert theta.var(0) / 0.05 == pytest.approx(1, abs=0.25) and np.mean(theta.var(0)) == pytest.approx(0.05, rel=0.06)
    found = given.log_prob(draws).values.reshape(-1)[:50]
    exact = MultivariateNormal(torch.from_numpy(x / 2), 0.05 * torch.eye(10).double())
    expected = exact.log_prob(torch.from_numpy(theta)).numpy()[:50]
    assert np.abs(found - expected).max() < 0.5 and abs(np.mean(found - expected)) < 0.15  # ten components, 4,000 rows


def test_functions_drawn_through_knots_have_the_exact_law() -> None:
    joint = linear_only(fsf.train(GP, simulations=4_000, config=CONFIG, network=NETWORK))
    times = np.array([0.1, 0.15, 0.6, 0.95])
    observed = xr.Dataset({"x": ("time", [1.0, 0.4, -1.2, 0.3])}, {"time": times})
    at = np.linspace(0, 1, 9)  # the knots: what lies between is the network's, which here knows nothing
    given = joint.condition(observed, judge=False)  # as above
    draws = given.sample(800, {"theta": at}, quality="exact")["posterior"]["theta"]
    f, exact = draws.values.reshape(800, 9), GP.posterior({"x": observed["x"]})
    covariance = exact.covariance(at).numpy()
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((f.mean(0) - exact.mean(at).numpy()) / sd).max() < 4 / np.sqrt(800) + 0.1
    assert np.abs((np.cov(f.T) - covariance) / np.outer(sd, sd)).max() < 4 * np.sqrt(2 / 800) + 0.05


def test_it_is_used_from_the_cool_down_on() -> None:
    """Before, neither what tells the network of it nor the weight given to it has moved."""
    seen: list[float] = []
    original = Denoiser.loss

    def spy(
        self: Denoiser,
        streams: Streams,
        log_ratio: Tensor,
        epsilon: Tensor,
        told: bool = True,
        above: int | None = None,
    ) -> Tensor:
        if self.training and torch.is_grad_enabled():
            moved = (self.estimate.weight.abs().sum() + self.network.out.weight[1].abs().sum()).detach()
            seen.append(-1.0 if told else float(moved))
        return original(self, streams, log_ratio, epsilon, told, above)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoiser, "loss", spy)
        joint = fsf.train(GP, simulations=200, config=CONFIG, network=NETWORK)
    assert [s for s in seen if s >= 0] == [0.0] * 10 and seen[10:] == [-1.0] * 10  # two micro-batches a step
    assert float(joint.model.denoiser.estimate.weight.detach().abs().sum()) > 0
    assert replace(CONFIG, cooldown=0.0).late(7, None) and not replace(CONFIG, cooldown=0.0).late(6, None)


def test_patience_does_not_end_a_run_before_it_is_used() -> None:
    """Without a cool-down, and no gain: told when patience ends, and as patient again; without a baseline it ends."""
    told: list[bool] = []
    original = Denoiser.loss

    def spy(
        self: Denoiser, streams: Streams, ratio: Tensor, epsilon: Tensor, now: bool = True, above: int | None = None
    ) -> Tensor:
        if torch.is_grad_enabled():
            told.append(now)
        return original(self, streams, ratio, epsilon, now, above)

    patient = replace(CONFIG, steps=400, n_micro=1, pool=1, cooldown=0.0, patience=3, min_gain=0.99, ema=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Denoiser, "loss", spy)
        joint = fsf.train(GP, simulations=200, config=patient, network=NETWORK)
        began, ended = told.index(True), len(told)
        assert told == sorted(told) and joint.provenance["steps"] == ended
        told.clear()
        plain = fsf.train(GP, simulations=200, config=patient, network=NETWORK, baseline=False)
    assert (began, ended) == (20, 35)  # the first validation, after 5 steps, is a gain; then three are none
    assert plain.provenance["steps"] == 20


def test_patience_begins_anew_when_the_baseline_is_told_of_itself() -> None:
    late = replace(CONFIG, steps=50, n_micro=1, pool=1, cooldown=0.0, patience=7, min_gain=0.99, ema=0.0)
    joint = fsf.train(GP, simulations=200, config=late, network=NETWORK)
    assert joint.provenance["steps"] == 50  # told after 35 of 50: patience, which ended at 40, has until 70


@pytest.mark.parametrize(("simulator", "expected"), [(GP, True), (gaussian_linear(), False)])
def test_models_of_functional_parameters_have_one_unless_asked_otherwise(simulator, expected: bool) -> None:
    joints = [
        fsf.train(simulator, simulations=200, config=CONFIG, network=NETWORK, baseline=b) for b in (None, not expected)
    ]
    found = [j.model.denoiser.baseline is not None for j in joints]
    assert found == [expected, not expected]
    assert [j.provenance["baseline"] for j in joints] == found


class Four:
    """A function of four dims and a reading of it."""

    grid = {k: torch.linspace(0, 1, 3).double() for k in "abcd"}  # noqa: RUF012 (nobody writes to it)
    schema = Schema(
        (
            Variable("f", "parameter", tuple("abcd"), Normal()),
            Variable("x", "data", tuple("abcd"), noise=Noise("normal", 0.5), parents=("f",)),
        ),
        tuple(Index(k, 0.0, 1.0) for k in "abcd"),
    )

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        f = torch.randn(n, 3, 3, 3, 3, generator=generator, dtype=torch.float64)
        return {"f": f, "x": f}


def test_without_tables_for_it_there_is_no_baseline_and_the_card_says_so() -> None:
    wide = replace(NETWORK, width=32)
    joint = fsf.train(Four(), simulations=100, config=CONFIG, network=wide)
    assert joint.model.denoiser.baseline is None and joint.provenance["baseline"] is False
    with pytest.raises(ValueError, match=r"at most 3 index dims, \['f', 'x'\] have more; choices: baseline=False"):
        fsf.train(Four(), simulations=100, config=CONFIG, network=wide, baseline=True)


def test_what_no_baseline_can_be_is_refused() -> None:
    again = {"simulations": 200, "config": CONFIG, "network": NETWORK}
    with pytest.raises(ValueError, match="baseline True, False or None .* got 'linear'"):
        fsf.train(GP, baseline="linear", **again)  # type: ignore[arg-type]
    joint = fsf.train(GP, **again)  # type: ignore[arg-type]
    for asked in (True, False):
        with pytest.raises(ValueError, match="`initial` Joint brings its baseline .* leave `baseline` out"):
            fsf.train(GP, simulations=200, config=replace(CONFIG, seed=5), initial=joint, baseline=asked)


def test_a_dependency_mask_is_kept_unless_a_baseline_is_asked_for() -> None:
    masked = fsf.train(LINE_ONLY, simulations=200, config=CONFIG, network=NETWORK, dependency="undirected")
    assert masked.model.denoiser.baseline is None


@pytest.mark.parametrize(("process", "tail"), [(GP, None), (FINE, 3.0)])
def test_files_and_checkpoints_keep_it(process: GaussianProcess, tail: float | None, tmp_path: Path) -> None:
    whole = fsf.train(process, simulations=200, config=CONFIG, network=NETWORK)

    def stop(progress: fsf.Progress) -> None:
        if progress.step == 8:
            raise KeyboardInterrupt

    again = {"simulations": 200, "config": CONFIG, "network": NETWORK, "checkpoint": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        fsf.train(process, callback=stop, **again)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="baseline"):
        fsf.train(process, baseline=False, **again)  # type: ignore[arg-type]
    resumed = fsf.train(process, **again)  # type: ignore[arg-type]
    resumed.save(tmp_path / "model")
    loaded = fsf.load(tmp_path / "model")
    weights = whole.model.denoiser.state_dict()
    assert "baseline.table" in weights
    for other in (resumed, loaded):
        assert all(torch.equal(weights[k], v) for k, v in other.model.denoiser.state_dict().items())
    assert loaded.model.denoiser.baseline is not None
    assert loaded.model.denoiser.baseline.grids == whole.model.denoiser.baseline.grids  # type: ignore[union-attr]
    assert loaded.model.denoiser.baseline.grids[1].tail == tail
    at = {"theta": [0.3]}
    a, b = (j.condition(None).sample(4, at)["prior"]["theta"].values for j in (whole, loaded))
    np.testing.assert_allclose(a, b, rtol=1e-6)
    further = fsf.train(process, simulations=200, config=replace(CONFIG, seed=5), initial=loaded)
    assert torch.equal(further.model.denoiser.baseline.table, weights["baseline.table"])  # type: ignore[union-attr]
    assert further.provenance["baseline"] is True


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    fsf.train(FINE, simulations=200, config=CONFIG, network=NETWORK).save(path)
    return path


def changed_grid(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda held: held["grids"][1].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda held: held["grids"].reverse(), r"grids to be \(id, dims\) \[\(0, \[0\]\), \(1, \[0\]\)\], got \[\(1"),
        (lambda held: held["grids"].pop(), r"grids to be .*, got \[\(0, \[0\]\)\]"),
        (changed_grid(dims=[1]), r"grids to be .*\(1, \[1\]\)\]"),
        (changed_grid(shape=[1]), r"grid of id 1: at least 2 points along each of 1 dim\(s\), got \[1\]"),
        (changed_grid(shape=[101, 2]), r"grid of id 1: at least 2 points .* got \[101, 2\]"),
        (changed_grid(shape=[10.5]), r"grid of id 1: at least 2 points .* got \[10.5\]"),
        (changed_grid(shape=[10**12]), r"expected baseline.table of shape \(1000000000101, "),
        (lambda held: held.update(rank=3), r"expected baseline.scalars of shape \(3, 5\), as the card says, got"),
        (lambda held: held["tails"].update({"1": 0.0}), "tails as function id -> number > 0, got {'1': 0.0}"),
        (lambda held: held["tails"].update({"7": 3.0}), "tails as function id -> number > 0, got"),
        (lambda held: held.update(level=1), r"unknown keys \['level'\]"),
        (lambda held: held.pop("rank"), r"missing keys \['rank'\]"),
    ],
)
def test_a_card_with_impossible_grids_is_refused(
    saved: Path, change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    path = shutil.copytree(saved, tmp_path / "model")
    card = json.loads((path / "model.json").read_text())
    assert card["baseline"]["tails"] == {"1": 3.0}
    change(card["baseline"])
    (path / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        fsf.load(path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, float("nan"), "baseline.table to be finite"),
        (-2, float("inf"), "baseline.table to be finite"),
        (-1, 0.0, "variances > 0 in its last column"),
        (None, 0.0, r"expected baseline.table of shape \(202, .*, got None"),
    ],
)
def test_damaged_tables_are_refused(
    saved: Path, column: int | None, value: float, message: str, tmp_path: Path
) -> None:
    path = shutil.copytree(saved, tmp_path / "model")
    weights = load_file(path / "weights.safetensors")
    if column is None:
        del weights["baseline.table"]
    else:
        weights["baseline.table"][5, column] = value
    save_file(weights, path / "weights.safetensors")
    with pytest.raises(ValueError, match=message):
        fsf.load(path)
