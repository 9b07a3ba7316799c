"""The training loop: rows in batches of similar length, AdamW and Muon, EMA, validation, early stopping, exact resume.

Every step draws from a generator seeded by (seed, step), so that the state of a run is its step, weights and moments:
a run that is stopped and resumed equals the uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsimformer.batches import Rows, deal, micro_batches, observed_rows
from fsimformer.checkpoint import Run, load_checkpoint, save_checkpoint
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.masks import MaskConfig
from fsimformer.muon import Muon
from fsimformer.seeds import generator_at
from fsimformer.tokens import Dial, TokenBatch, more_ride, require_dial, split


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        steps, batch_size: optimiser steps, and rows a step.
        learning_rate, warmup, weight_decay, clip: AdamW with linear warm-up, cosine decay to 0, gradient norm clip; the
            last three hold for Muon, too.
        matrix_rate: learning rate of the layers' weight matrices, which Muon steps (orthogonalised momentum; update
            scaled to AdamW's size, arXiv 2502.16982); 0 = AdamW for them too.
        ema: decay of the averaged weights, which are what is validated and returned.
        n_micro: batches of similar rows that a step is cut into (even), less padding against more overhead; 1 = the
            rows as they come, best where all have the same few tokens.
        pool: steps whose rows are drawn and sorted together, so that batches of similar rows are similar indeed.
        level_tokens, max_levels: noise levels that share one encoded context: as many as keep levels × active tokens
            under `level_tokens`, at most `max_levels`.
        max_latents: latents kept in a row; others are dropped at random, as if nobody had asked for them.
        dial: pairs (which observed tokens ride in the active stream, see `tokens.split`; relative frequency). Of a
            network that compresses, rows with more observed tokens than `compress_above` count as "few".
        compressed: of a network that compresses, share of the batches in which all rows are compressed, short or long:
            a summary is learned from many short rows and few long ones.
        cooldown: share of a run, its last, over which the rates fall linearly to 0 after having been constant (arXiv
            2405.18392); 0 = half a cosine over the whole run.
        validate_every, patience: validation interval in steps; after `patience` validations without a gain a run cools
            down and ends, or, without a cool-down, ends at once; not before it was told its linear baseline, if it has
            one: told early then, it has as many validations again.
        min_gain: share of the validation loss by which it must fall below that of the last gain to count as a gain.
        n_validation: held-out rows.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 2e-3
    matrix_rate: float = 5e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    cooldown: float = 0.0
    n_micro: int = 6
    pool: int = 4
    level_tokens: int = 48
    max_levels: int = 8
    max_latents: int = 32
    compressed: float = 0.25
    dial: tuple[tuple[Dial, float], ...] = (("few", 0.9), (None, 0.1))
    validate_every: int = 500
    patience: int = 1_000_000
    min_gain: float = 0.0
    n_validation: int = 1024
    checkpoint_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_size",
            "pool",
            "max_levels",
            "max_latents",
            "validate_every",
            "patience",
            "checkpoint_every",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: expected {name} >= 1, got {getattr(self, name)}.")
        if self.n_micro != 1 and (self.n_micro < 2 or self.n_micro % 2):
            raise ValueError(f"TrainConfig: expected n_micro 1 or even, got {self.n_micro}.")
        if self.n_micro == 1 and self.pool != 1:
            raise ValueError(f"TrainConfig: expected pool 1 with n_micro 1 (rows are not sorted), got {self.pool}.")
        for name in ("warmup", "weight_decay", "matrix_rate", "level_tokens"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"TrainConfig: expected {name} >= 0, got {getattr(self, name)}.")
        for name, ok in {
            "learning_rate > 0": self.learning_rate > 0,
            "clip > 0": self.clip > 0,
            "0 <= ema < 1": 0 <= self.ema < 1,
            "0 <= cooldown < 1": 0 <= self.cooldown < 1,
            "0 <= min_gain < 1": 0 <= self.min_gain < 1,
            "0 <= compressed <= 1": 0 <= self.compressed <= 1,
            "n_validation >= 2": self.n_validation >= 2,
        }.items():
            if not ok:
                raise ValueError(f"TrainConfig: expected {name}, got {getattr(self, name.split()[-3])}.")
        for riders, _ in self.dial:
            require_dial(riders, "TrainConfig, dial")
        shares = [p for _, p in self.dial]
        if min(shares, default=-1) < 0 or sum(shares) <= 0:
            raise ValueError(f"TrainConfig: expected pairs (dial, frequency >= 0), got {self.dial}.")
        object.__setattr__(self, "dial", tuple((n, float(p)) for n, p in self.dial))

    @property
    def turn(self) -> int:
        """Step at which the cool-down begins if patience lasts."""
        return round(self.steps * (1 - self.cooldown))

    def late(self, step: int, turn: int | None) -> bool:
        """The cool-down has begun, or, of a run without one, the last three tenths."""
        return step >= ((self.turn if self.cooldown else round(0.7 * self.steps)) if turn is None else turn)

    def rate_at(self, step: int, turn: int | None = None) -> float:
        """Share of the learning rates: linear warm-up, then half a cosine to 0 at `steps`, or constant and a cool-down.

        `turn`: step at which patience ran out and the cool-down began; None = it did not.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.cooldown == 0:
            part = (step - self.warmup) / max(1, self.steps - self.warmup)
            return 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        start, end = self.turn if turn is None else turn, self.end(turn)
        return min(1.0, (end - step) / max(1, end - start))

    def end(self, turn: int | None = None) -> int:
        """Steps of a run whose patience ran out at step `turn`; with a cool-down `rate_at` is 0 there."""
        if turn is None or self.cooldown == 0:  # without a cool-down the turn is to the baseline, and no end
            return self.steps
        return min(self.steps, turn + math.ceil(turn * self.cooldown / (1 - self.cooldown)))


@dataclass(frozen=True)
class Progress:
    """What a callback gets after a step: step (1-based), training loss, and the validation loss where there was one."""

    step: int
    loss: float
    validation: float | None


def batch_loss(
    denoiser: Denoiser,
    batch: TokenBatch,
    levels: NoiseLevels,
    config: TrainConfig,
    generator: torch.Generator,
    told: bool = True,
) -> Tensor:
    """The loss of one micro-batch: dial, riders, noise levels and noise drawn from the generator."""
    choice = torch.multinomial(torch.tensor([p for _, p in config.dial]), 1, generator=generator)
    device, network, above = denoiser.device, denoiser.network.config, None
    dial = config.dial[int(choice)][0]
    if network.inducing:
        if config.compressed and float(torch.rand((), generator=generator)) < config.compressed:
            above = network.inducing
        if more_ride(dial, network.compress_above) and int(batch.observed.sum(1).max()) > network.compress_above:
            dial = "few"  # full attention among them is what compression is there to avoid
    streams = split(batch, dial, generator).to(device)
    b, n_a = streams.active.shape
    n_levels = max(1, min(config.max_levels, config.level_tokens // max(1, n_a)))
    log_ratio = levels.draw((b, n_levels), generator)
    epsilon = torch.randn(b, n_levels, n_a, generator=generator)
    return denoiser.loss(streams, log_ratio.to(device), epsilon.to(device), told, above)


def fit(
    denoiser: Denoiser,
    rows: Rows,
    validation_rows: Rows,
    is_parameter: Tensor,
    masks: MaskConfig | None,
    levels: NoiseLevels,
    config: TrainConfig,
    *,
    keep: Tensor | None = None,
    limits: Tensor | None = None,
    is_residual: Tensor | None = None,
    generation: int = 0,
    checkpoint: Path | None = None,
    about: Mapping[str, Any] | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Run:
    """Train in place; the denoiser ends with the best averaged weights.

    Args:
        rows, validation_rows: draw n rows of tokens from a generator; the two must not share simulations.
        masks: which conditionals are trained; None = the rows bring their own condition masks.
        keep: (n_ids,) bool, ids that `thin_latents` drops last.
        limits: (n_ids, 2), values that may be observed; see `observed_rows`.
        is_residual: (n_ids,) bool, ids of what lies between the knots of reference sets; None = there are none.
        generation: how many trainings these weights have behind them. Each draws its own rows and noise; from the
            second on the weights that come in compete with those of later validations.
        checkpoint: file to write to and, if it exists, to resume from.
        about: what else makes the run (simulator, design), as JSON types; a checkpoint made under another is refused.
        callback: called after every step.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the checkpoint belongs to another configuration.
    """
    parameters = dict(denoiser.named_parameters())
    optimizers = build_optimizers(denoiser, config)
    network, ours = asdict(denoiser.network.config), asdict(config)
    if not denoiser.network.config.inducing:  # checkpoints from before there was compression go on
        ours.pop("compressed")
        network = {k: v for k, v in network.items() if k not in ("inducing", "compress_above", "most_readings")}
    settings: dict[str, Any] = {
        **(about or {}),
        "schedule": type(denoiser.schedule).__name__,
        "train": ours,
        "masks": None if masks is None else asdict(masks),
        "generation": generation,
        "levels": asdict(levels),
        "network": network,
    }
    settings = json.loads(json.dumps(settings))  # what is no JSON fails here, not at the first checkpoint
    run = Run(ema={k: p.detach().clone() for k, p in parameters.items()})
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, run, parameters, optimizers, settings)
    earlier, started = run.cpu_seconds, time.process_time()

    def draw_rows(source: Rows, n: int, *path: int) -> TokenBatch:
        generator = generator_at(config.seed, *path)
        return observed_rows(source, n, is_parameter, masks, config.max_latents, generator, keep, limits, is_residual)

    held_out = draw_rows(validation_rows, config.n_validation, 1, 0)
    if generation and run.step == 0:
        run.best_loss = validate(denoiser, parameters, run, held_out, levels, config)
        run.best = {k: v.clone() for k, v in run.ema.items()}
        run.gain_loss = run.best_loss
    salt = (generation,) if generation else ()
    steps: list[list[TokenBatch]] = []
    while not _ended(run, config):
        # a baseline that is at hand from the start keeps a network from learning what is not linear
        told = generation > 0 or config.late(run.step, run.turn)
        place = run.step % config.pool
        if place == 0 or not steps:
            batch = draw_rows(rows, config.pool * config.batch_size, 0, run.step // config.pool, *salt)
            steps = deal(micro_batches(batch, config.pool * config.n_micro), config.pool)
        generator = generator_at(config.seed, 3, run.step, *salt)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = optimizer.defaults["lr"] * config.rate_at(run.step, run.turn)
            optimizer.zero_grad(set_to_none=True)
        total, n_rows = 0.0, sum(part.shape[0] for part in steps[place])
        for part in steps[place]:
            loss = batch_loss(denoiser, part, levels, config, generator, told) * (part.shape[0] / n_rows)
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"The training loss is {total} at step {run.step}: lower the learning rate.")
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
        run.step += 1
        decay = min(config.ema, (1 + run.step) / (10 + run.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(run.ema.values()), list(parameters.values()), 1 - decay)
        run.recent.append(total)
        validation = None
        if run.step % config.validate_every == 0 or run.step == config.end(run.turn):
            validation = validate(denoiser, parameters, run, held_out, levels, config, told)
            run.history.append((run.step, sum(run.recent) / len(run.recent), validation))
            run.recent = []
            if validation < run.best_loss:
                run.best_loss, run.best_step = validation, run.step
                run.best = {k: v.clone() for k, v in run.ema.items()}
            if validation < run.gain_loss * (1 - config.min_gain):
                run.gain_loss, run.gain_step = validation, run.step
        if callback is not None:
            callback(Progress(run.step, total, validation))
        run.cpu_seconds = earlier + time.process_time() - started
        to_be_told = generation == 0 and denoiser.baseline is not None
        if not config.late(run.step, run.turn) and (config.cooldown or to_be_told) and _out_of_patience(run, config):
            run.turn = run.step
        if to_be_told and config.late(run.step, run.turn) and not config.late(run.step - 1, run.turn):
            run.gain_step = run.step  # what it is told now may gain: patience begins anew
        if checkpoint is not None and (_ended(run, config) or run.step % config.checkpoint_every == 0):
            save_checkpoint(checkpoint, run, parameters, optimizers, settings)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.best.get(k, run.ema[k]))
    return run


def build_optimizers(denoiser: Denoiser, config: TrainConfig) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW, and Muon for the matrices of the layers where `matrix_rate` asks for it."""
    layers: list[torch.nn.Module] = [denoiser.network.layers]
    if denoiser.summariser is not None:
        layers += [denoiser.summariser.local]
    matrices = [p for x in layers for p in x.parameters() if p.ndim == 2] if config.matrix_rate > 0 else []
    hidden = {id(p) for p in matrices}
    rest = [p for p in denoiser.parameters() if id(p) not in hidden]
    fused = True if denoiser.device.type == "cpu" else None  # one call for all parameters; None = torch's choice
    adamw = torch.optim.AdamW(
        rest, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=fused
    )
    if not matrices:
        return (adamw,)
    return (adamw, Muon(matrices, lr=config.matrix_rate, weight_decay=config.weight_decay))


def _ended(run: Run, config: TrainConfig) -> bool:
    return run.step >= config.end(run.turn) or (config.cooldown == 0 and _out_of_patience(run, config))


def _out_of_patience(run: Run, config: TrainConfig) -> bool:
    return run.step - run.gain_step >= config.patience * config.validate_every


def validate(
    denoiser: Denoiser,
    parameters: dict[str, torch.nn.Parameter],
    run: Run,
    held_out: TokenBatch,
    levels: NoiseLevels,
    config: TrainConfig,
    told: bool = True,
) -> float:
    """Loss of the averaged weights on held-out rows; the same riders, levels and noise every time."""
    generator = generator_at(config.seed, 1, 1)
    trained = {k: p.detach().clone() for k, p in parameters.items()}
    n = held_out.shape[0]
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.ema[k])
        parts = micro_batches(held_out, 2 * -(-n // 64))
        each = [float(batch_loss(denoiser, part, levels, config, generator, told)) for part in parts]
        loss = sum(x * part.shape[0] / n for x, part in zip(each, parts, strict=True))
        for k, p in parameters.items():
            p.copy_(trained[k])
    if not math.isfinite(loss):
        raise FloatingPointError(f"The validation loss is {loss} at step {run.step}.")
    return loss
