"""The training loop: exact resume, early stopping, what it refuses, and that it reaches an exact posterior."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussian_tokens import IS_PARAMETER, MIX, SD, USES, gaussian_rows
from tiny import network, seeded
from torch import Tensor

from fsimformer.batches import Rows, observed_rows
from fsimformer.checkpoint import Run
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.devices import Group
from fsimformer.masks import MaskConfig
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sample import quality_named, sample_active
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch, split
from fsimformer.train import Progress, TrainConfig, build_optimizers, fit, validate

CONFIG = TrainConfig(
    steps=12, batch_size=16, learning_rate=1e-2, matrix_rate=1e-2, warmup=3, ema=0.9, n_micro=2, validate_every=4,
    n_validation=16, checkpoint_every=3,
)  # fmt: skip


def fresh() -> Denoiser:
    return Denoiser(network(USES, seed=1, gain=0.5))


def run_fit(
    denoiser: Denoiser,
    config: TrainConfig = CONFIG,
    rows: Rows = gaussian_rows,
    held_out: Rows = gaussian_rows,
    checkpoint: Path | None = None,
    callback: Callable[[Progress], None] | None = None,
    group: Group = Group(),  # noqa: B008
) -> Run:
    masks, levels = MaskConfig(), NoiseLevels()
    return fit(
        denoiser, rows, held_out, IS_PARAMETER, masks, levels, config,
        checkpoint=checkpoint, callback=callback, group=group,
    )  # fmt: skip


def weights(denoiser: Denoiser) -> dict[str, Tensor]:
    return {k: p.detach().clone() for k, p in denoiser.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Killed(Exception):
    """Somebody pulls the plug."""


def kill_at(step: int) -> Callable[[Progress], None]:
    def callback(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return callback


@pytest.mark.parametrize("kills", [(3,), (5,), (4, 8), (2,), (11, 12)], ids=str)
def test_stopped_and_resumed_is_uninterrupted_bit_for_bit(kills: tuple[int, ...], tmp_path: Path) -> None:
    """Checkpoints lie at 3, 6, 9, 12; kills at them, between them, before the first, and before the last is written."""
    whole = fresh()
    expected = run_fit(whole)
    path = tmp_path / "run.safetensors"
    for step in kills:
        with pytest.raises(Killed):
            run_fit(fresh(), checkpoint=path, callback=kill_at(step))
    resumed = fresh()
    got = run_fit(resumed, checkpoint=path)
    assert equal(weights(resumed), weights(whole))
    assert equal(got.ema, expected.ema) and equal(got.best, expected.best)
    assert (got.step, got.best_step, got.best_loss) == (expected.step, expected.best_step, expected.best_loss)
    assert got.history == expected.history
    assert not list(tmp_path.glob("*.part"))
    again = fresh()
    assert run_fit(again, checkpoint=path, callback=kill_at(1)).step == 12  # finished: nothing is left to do
    assert equal(weights(again), weights(whole))


def test_weights_really_change_and_seeds_differ() -> None:
    a, b = fresh(), fresh()
    run_fit(a)
    run_fit(b, replace(CONFIG, seed=1))
    assert not equal(weights(a), weights(fresh())) and not equal(weights(a), weights(b))


def test_every_weight_has_one_optimizer_and_muon_takes_the_layers_matrices() -> None:
    denoiser = fresh()
    parameters = dict(denoiser.named_parameters())
    name_of = {p: k for k, p in parameters.items()}
    both = build_optimizers(denoiser, CONFIG)
    adamw, muon = ([name_of[p] for g in o.param_groups for p in g["params"]] for o in both)
    assert sorted(adamw + muon) == sorted(parameters)
    assert {k.split(".")[-2] for k in muon} == {"qkv", "attention_out", "mlp_in", "mlp_out"}
    (alone,) = build_optimizers(denoiser, replace(CONFIG, matrix_rate=0.0))
    assert isinstance(alone, torch.optim.AdamW) and len(alone.param_groups[0]["params"]) == len(parameters)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run_fit(fresh(), checkpoint=path)
    with pytest.raises(ValueError, match=r"written with other settings of \['train.learning_rate', 'train.seed'\]"):
        run_fit(fresh(), replace(CONFIG, learning_rate=1e-3, seed=3), checkpoint=path)


def spoiled(n: int, generator: torch.Generator) -> TokenBatch:
    rows = gaussian_rows(n, generator)
    return rows.replace(value=rows.value * torch.nan)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="The training loss is nan at step 0: lower the learning rate"):
        run_fit(fresh(), rows=spoiled)
    with pytest.raises(FloatingPointError, match="The validation loss is nan at step 4"):
        run_fit(fresh(), held_out=spoiled)


def contradictory(n: int, generator: torch.Generator) -> TokenBatch:
    """Held-out rows in which x means the opposite: the more is learned, the worse."""
    return gaussian_rows(n, generator, sign=-1.0)


def test_early_stopping_returns_the_best_averaged_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=200, learning_rate=2e-2, validate_every=2, patience=3, n_validation=128)
    model, path = fresh(), tmp_path / "run.safetensors"
    run = run_fit(model, config, held_out=contradictory, checkpoint=path)
    losses = {step: loss for step, _, loss in run.history}
    assert run.step < 200 and run.step == run.best_step + 3 * 2
    assert run.best_loss == min(losses.values()) == losses[run.best_step]
    assert equal(weights(model), run.best) and not equal(run.best, run.ema)
    has_index = torch.as_tensor(USES, dtype=torch.bool).any(1)  # as `fit` takes it from the network
    generator = generator_at(0, 1, 0)
    held_out = observed_rows(contradictory, 128, IS_PARAMETER, MaskConfig(), 32, generator, has_index=has_index)
    loss = validate(model, Run(ema=weights(model)), held_out, NoiseLevels(), config)
    assert loss == run.best_loss
    again = fresh()
    assert run_fit(again, config, held_out=contradictory, checkpoint=path).step == run.step  # a stopped run stays so
    assert equal(weights(again), weights(model))


def test_a_run_whose_patience_ends_cools_down_before_it_stops(tmp_path: Path) -> None:
    """It turns at t = best + patience, rates reach 0 at t/(1 − cooldown); killed on the way, it resumes."""
    config = replace(
        CONFIG, steps=200, learning_rate=2e-2, validate_every=2, patience=3, n_validation=128, cooldown=0.5, ema=0.5
    )
    whole, path = fresh(), tmp_path / "run.safetensors"
    run = run_fit(whole, config, held_out=contradictory)
    assert run.turn is not None
    losses = {step: loss for step, _, loss in run.history if step <= run.turn}
    assert run.turn == min(losses, key=losses.__getitem__) + 3 * 2 and run.step == 2 * run.turn < 200
    with pytest.raises(Killed):
        run_fit(fresh(), config, held_out=contradictory, checkpoint=path, callback=kill_at(run.turn + 4))
    resumed = fresh()
    again = run_fit(resumed, config, held_out=contradictory, checkpoint=path)
    assert (again.turn, again.step) == (run.turn, run.step) and equal(again.ema, run.ema)


def test_small_gains_do_not_buy_patience_but_are_returned() -> None:
    """Gains below `min_gain` move the best weights on, not the step from which patience is counted."""
    rates = {"learning_rate": 1e-4, "matrix_rate": 1e-3}  # small: the loss falls slowly and steadily
    config = replace(CONFIG, steps=60, validate_every=2, patience=5, n_validation=128, ema=0.5, **rates)
    assert run_fit(fresh(), config).step == 60  # some gain at least every tenth step
    run = run_fit(fresh(), replace(config, min_gain=0.5))
    assert run.step == run.gain_step + 10 < 60 and run.best_loss < run.gain_loss and run.best_step > run.gain_step
    losses = dict((step, loss) for step, _, loss in run.history)
    assert run.best_loss == min(losses.values()) > 0.5 * run.gain_loss == 0.5 * losses[run.gain_step]
    with pytest.raises(ValueError, match="expected 0 <= min_gain < 1, got 1"):
        TrainConfig(min_gain=1.0)


def test_a_cool_down_falls_in_a_line_from_its_turn_or_from_its_share_of_the_steps() -> None:
    config = TrainConfig(steps=100, warmup=10, cooldown=0.2)
    rates = [config.rate_at(s) for s in range(101)]
    assert rates[10:81] == [1.0] * 71 and rates[90] == pytest.approx(0.5) and rates[100] == 0.0
    assert config.end() == 100 and config.end(40) == 50 and config.end(79) == 99
    early = [config.rate_at(s, turn=40) for s in range(51)]
    assert early[40] == 1.0 and early[45] == pytest.approx(0.5) and early[50] == 0.0
    late = replace(CONFIG, steps=40, validate_every=2, patience=16, n_validation=128, learning_rate=2e-2, cooldown=0.5)
    run = run_fit(fresh(), late, held_out=contradictory)  # patience ends at about 34, when the rates fall already
    assert run.turn is None and run.step == 40
    with pytest.raises(ValueError, match="expected 0 <= cooldown < 1, got 1"):
        TrainConfig(cooldown=1.0)


def test_validation_leaves_the_trained_weights_alone() -> None:
    model = fresh()
    before = weights(model)
    other = {k: v + 1 for k, v in before.items()}
    held_out = observed_rows(gaussian_rows, 16, IS_PARAMETER, MaskConfig(), 32, seeded())
    validate(model, Run(ema=other), held_out, NoiseLevels(), CONFIG)
    assert equal(weights(model), before)


def test_the_average_follows_with_a_decay_that_warms_up() -> None:
    """After step k: ema ← d·ema + (1 − d)·weights, d = min(ema, (1 + k)/(10 + k))."""
    model = fresh()
    path = weights(model)
    trained: list[dict[str, Tensor]] = []
    run = run_fit(model, replace(CONFIG, validate_every=12), callback=lambda p: trained.append(weights(model)))
    for k, w in enumerate(trained[:11], start=1):
        d = min(0.9, (1 + k) / (10 + k))
        path = {name: d * path[name] + (1 - d) * w[name] for name in path}
    d = 13 / 22  # before the callback of step 12 nothing else happened
    for name, value in run.ema.items():
        torch.testing.assert_close(value, d * path[name] + (1 - d) * trained[11][name], rtol=1e-4, atol=1e-6)


def test_learning_rate_warms_up_and_falls_along_half_a_cosine() -> None:
    config = TrainConfig(steps=110, warmup=10, learning_rate=2.0)
    rates = [config.learning_rate * config.rate_at(s) for s in range(111)]
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.6]) and rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1.0) and rates[35] == pytest.approx(1 + math.sqrt(0.5))
    assert rates[110] == pytest.approx(0.0) and all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert TrainConfig(steps=10, warmup=0).rate_at(0) == 1.0


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="TrainConfig: expected steps >= 1, got 0"):
        TrainConfig(steps=0)
    with pytest.raises(ValueError, match="expected n_micro 1 or even, got 3"):
        TrainConfig(n_micro=3)
    with pytest.raises(ValueError, match="expected pool 1 with n_micro 1"):
        TrainConfig(n_micro=1, pool=2)
    with pytest.raises(ValueError, match="TrainConfig, dial: expected an integer >= 0, 'few' or None .all., got -1"):
        TrainConfig(dial=((-1, 1),))
    with pytest.raises(ValueError, match=r"expected pairs \(dial, frequency >= 0\), got \(\(8, -1\),\)"):
        TrainConfig(dial=((8, -1),))
    for wrong in ({"ema": 1.0}, {"learning_rate": 0.0}, {"n_validation": 1}, {"matrix_rate": -1.0}, {"dial": ()}):
        with pytest.raises(ValueError, match="TrainConfig: expected"):
            TrainConfig(**wrong)  # type: ignore[arg-type]


def test_rows_with_implausible_observations_are_drawn_again_and_posteriors_stay() -> None:
    """θ₁ given x₁ is N(x₁/(1 + SD²), SD²/(1 + SD²)), whatever x₁ may be; dropping rows by θ would bend it."""
    limits = torch.tensor([-torch.inf, torch.inf]).repeat(5, 1)
    limits[2] = torch.tensor([0.5, 1.5])
    posterior = MaskConfig(1, 0, 0, 0, 0, 0, 0, 0)
    kept = observed_rows(gaussian_rows, 40_000, IS_PARAMETER, posterior, 32, seeded(4), limits=limits)
    assert kept.shape[0] == 40_000
    theta, x = kept.value[:, 0], kept.value[:, 2]
    assert float(x.min()) >= 0.5 and float(x.max()) <= 1.5
    z = (theta - x / (1 + SD**2)) / (SD**2 / (1 + SD**2)) ** 0.5
    assert abs(float(z.mean())) < 0.02 and abs(float(z.std()) - 1) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([z, x]))[0, 1])) < 0.02
    nothing = MaskConfig(0, 0, 0, 0, 0, 0, 0, 1)
    latent = observed_rows(gaussian_rows, 2_000, IS_PARAMETER, nothing, 32, seeded(4), limits=limits)
    assert float(latent.value[:, 2].min()) < -0.5 and float(latent.value[:, 2].max()) > 2  # latents may be anything
    half = MaskConfig(1, 0, 0, 0, 1, 0, 0, 0)  # posterior and likelihood rows, equally often
    both = observed_rows(gaussian_rows, 8_000, IS_PARAMETER, half, 32, seeded(5), limits=limits)
    assert both.condition_mask[:, 2].double().mean() == pytest.approx(0.5, abs=0.02)  # and so they stay
    limits[2] = torch.tensor([50.0, 51.0])
    with pytest.raises(
        ValueError,
        match=(
            r"8 of 8 rows were of no use in 200 draws: 8 with masks of \['posterior'\] observe values outside the "
            r"plausible range, of ids \[2\] \(widen the range, or take weight from these masks\)\.$"
        ),
    ):
        observed_rows(gaussian_rows, 8, IS_PARAMETER, posterior, 32, seeded(4), limits=limits)


def test_rows_without_a_latent_are_named_with_the_design_that_makes_them() -> None:
    def nothing(n: int, generator: torch.Generator) -> TokenBatch:
        return gaussian_rows(n, generator).replace(valid=torch.zeros(n, 9, dtype=torch.bool))

    with pytest.raises(ValueError, match=r"8 of 8 rows .*: 8 hold no token .* \(give the design a larger n_max\)\.$"):
        observed_rows(nothing, 8, IS_PARAMETER, MaskConfig(), 32, seeded(4))


def test_masks_of_extension_rows_alone_need_a_reference_set() -> None:
    alone = MaskConfig(0, 0, 0, 0, 0, 0, 0, 0, extension=1)
    with pytest.raises(ValueError, match="weight to `extension` alone, and no function has a reference set"):
        observed_rows(gaussian_rows, 8, IS_PARAMETER, alone, 32, seeded(4))


def test_noise_levels_are_stratified_quantiles_of_the_stated_law() -> None:
    levels, n = NoiseLevels(mean=-2.0, sd=1.5, log_min=-6.0, log_max=2.0), 4000
    drawn = levels.draw((40, 100), seeded(1)).double()
    ends = torch.special.ndtr((torch.tensor([-6.0, 2.0], dtype=torch.float64) + 2) / 1.5)
    u = (torch.special.ndtr((drawn.flatten() + 2) / 1.5) - ends[0]) / (ends[1] - ends[0])
    stratum = u.sort().values * n - torch.arange(n)
    assert float(stratum.min()) > -0.01 and float(stratum.max()) < 1.01  # one in each stratum
    assert float(drawn.min()) >= -6 and float(drawn.max()) <= 2
    assert abs(float(torch.corrcoef(torch.stack([u, torch.arange(n).double()]))[0, 1])) < 0.06  # in random order


def test_the_loss_is_one_before_anything_is_learned_and_counts_latents_only() -> None:
    """F = 0 is the best constant for whitened data: loss 1 on a variance-preserving path."""
    model = Denoiser(Network(NetworkConfig(USES, width=16, depth=1, n_heads=2)))
    rows = gaussian_rows(400, seeded(3))
    rows = rows.replace(value=torch.randn(rows.shape, generator=seeded(4)))
    streams = split(rows.replace(condition_mask=rows.variable > 1), 1)
    n_a = streams.active.shape[1]
    log_ratio = NoiseLevels().draw((400, 4), seeded(5))
    eps = torch.randn(400, 4, n_a, generator=seeded(6))
    loss = model.loss(streams, log_ratio, eps)
    assert float(loss.detach()) == pytest.approx(1, abs=0.06)
    junk = torch.where(streams.active.latent[:, None], eps, 1e6)  # noise at observed tokens and padding
    assert torch.equal(model.loss(streams, log_ratio, junk), loss)


@pytest.mark.parametrize("schedule", ["trig", "vp", "rectified"])
def test_the_loss_is_the_weighted_error_of_the_posterior_mean(schedule: str) -> None:
    """w |x̂ − x|², w = (1 + λ²)/λ² (score matching) or (1 + λ)²/λ² (flow matching), averaged as the module says."""
    model = Denoiser(network(USES, seed=1).double(), schedule)
    rows = gaussian_rows(6, seeded(7))
    rows = rows.replace(value=rows.value.double(), index=rows.index.double(), condition_mask=rows.variable > 1)
    streams = split(rows, 1)
    latent, x = streams.active.latent[:, None], streams.active.value[:, None]
    log_ratio = torch.linspace(-4, 3, 18, dtype=torch.float64).view(6, 3)
    eps = torch.randn(6, 3, streams.active.shape[1], generator=seeded(8), dtype=torch.float64)
    ratio = log_ratio.exp()
    x_hat = model.at_ratio(x + ratio[..., None] * eps, ratio, model.encode(streams))
    weight = (1 + ratio) ** 2 / ratio**2 if schedule == "rectified" else (1 + ratio**2) / ratio**2
    error = (torch.where(latent, x_hat - x, 0.0) ** 2).sum(-1) / latent.sum(-1)
    torch.testing.assert_close(model.loss(streams, log_ratio, eps), (weight * error).mean())


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["trig", "rectified"])
def test_a_short_run_reaches_an_exact_posterior(schedule: str) -> None:
    """p(θ | x) = N(C Aᵀx/s², C), C = (I + AᵀA/s²)⁻¹, for five x; 2,000 draws each.

    Tolerances: means within 0.35 posterior sd (Monte Carlo 0.02, the rest is the run's 150 steps), variances within
    25 %, mean correlation within 0.2. The prior misses all three: variance ratios above 4, correlation 0.
    """

    def scalars(n: int, generator: torch.Generator) -> TokenBatch:
        return gaussian_rows(n, generator).gather(torch.arange(4).expand(n, 4))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Denoiser(Network(NetworkConfig(USES, width=24, depth=2, n_heads=2)), schedule)
    config = TrainConfig(
        steps=150, batch_size=128, learning_rate=1e-2, warmup=20, ema=0.97, n_micro=2, validate_every=150,
        n_validation=16, dial=((0, 1.0),), level_tokens=64, max_levels=8,
    )  # fmt: skip
    fit(model, scalars, scalars, IS_PARAMETER, MaskConfig(1, 0, 0, 0, 0, 0, 0, 0), NoiseLevels(), config)
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-1.0, -1.5], [0.5, -0.5], [-0.5, 1.0]])
    rows = scalars(5, seeded())
    rows = rows.replace(value=torch.cat([torch.zeros(5, 2), x], 1), condition_mask=rows.variable > 1)
    cov = torch.linalg.inv(torch.eye(2) + MIX.T @ MIX / SD**2)
    mean, sd = x @ MIX @ cov / SD**2, cov.diagonal().sqrt()
    encoded = model.encode(split(rows, 0))
    draws = sample_active(model, encoded, torch.randn(5, 2000, 2, generator=seeded(1)), quality_named("fast"))
    assert float(((draws.mean(1) - mean) / sd).abs().max()) < 0.35
    got = torch.stack([torch.cov(d.T) for d in draws])
    ratios = got.diagonal(dim1=1, dim2=2) / cov.diagonal()
    assert float(ratios.min()) > 0.75 and float(ratios.max()) < 1.25, ratios
    correlation = got[:, 0, 1] / got.diagonal(dim1=1, dim2=2).prod(1).sqrt()
    assert float(correlation.mean()) == pytest.approx(float(cov[0, 1] / sd.prod()), abs=0.2)  # −0.63
    assert float((1 / cov.diagonal()).min()) > 4
