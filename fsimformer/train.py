"""The training loop: rows in batches of similar length, AdamW and Muon, EMA, validation, early stopping, exact resume.

Every step draws from a generator seeded by (seed, step), so that the state of a run is its step, weights and moments:
a run that is stopped and resumed equals the uninterrupted one bit for bit on a CPU. Several processes share the rows of
a step; see devices.py.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsimformer.batches import Rows, deal, micro_batches, observed_rows
from fsimformer.checkpoint import Run, Stateful, load_checkpoint, save_checkpoint
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.devices import Group
from fsimformer.digest import digest
from fsimformer.masks import MaskConfig
from fsimformer.muon import Muon
from fsimformer.seeds import generator_at
from fsimformer.tokens import Dial, Streams, TokenBatch, require_dial, split


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
        dial: pairs (which observed tokens ride in the active stream, see `tokens.split`; relative frequency).
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


@dataclass(frozen=True)
class Noised:
    """A micro-batch as the loss takes it: streams, log λ (B, R) and standard normals (B, R, n_a)."""

    streams: Streams
    log_ratio: Tensor
    epsilon: Tensor

    @classmethod
    def draw(cls, batch: TokenBatch, levels: NoiseLevels, config: TrainConfig, generator: torch.Generator) -> Noised:
        """Dial, riders, noise levels and noise drawn from the generator."""
        choice = torch.multinomial(torch.tensor([p for _, p in config.dial]), 1, generator=generator)
        streams = split(batch, config.dial[int(choice)][0], generator)
        b, n_a = streams.active.shape
        n_levels = max(1, min(config.max_levels, config.level_tokens // max(1, n_a)))
        log_ratio = levels.draw((b, n_levels), generator)
        return cls(streams, log_ratio, torch.randn(b, n_levels, n_a, generator=generator))

    @property
    def n_rows(self) -> int:
        return len(self.log_ratio)

    @property
    def row_tokens(self) -> int:
        """Tokens that the network sees of one row."""
        return self.streams.frozen.shape[1] + self.epsilon[0].numel()

    def rows(self, which: slice) -> Noised:
        """Some of its rows."""
        s = self.streams
        return Noised(
            replace(s, frozen=s.frozen.rows(which), active=s.active.rows(which), position=s.position[which]),
            self.log_ratio[which],
            self.epsilon[which],
        )

    def loss(self, denoiser: Denoiser, told: bool) -> Tensor:
        """Mean over its rows."""
        weight = denoiser.network.out.weight  # noise comes in its precision, on its device
        return denoiser.loss(self.streams.to(weight.device), self.log_ratio.to(weight), self.epsilon.to(weight), told)


def mean_loss(
    denoiser: Denoiser,
    batches: Sequence[TokenBatch],
    levels: NoiseLevels,
    config: TrainConfig,
    generator: torch.Generator,
    told: bool = True,
    group: Group = Group(),  # noqa: B008 (frozen)
    backward: bool = False,
) -> float:
    """The mean loss over the rows of all batches; `backward`: this process's share of its gradient is left behind."""
    parts = [Noised.draw(batch, levels, config, generator) for batch in batches]
    n, total = sum(part.n_rows for part in parts), 0.0
    shares = group.shares([part.n_rows for part in parts], [part.row_tokens for part in parts])
    for part, share in zip(parts, shares):
        if share.start == share.stop:
            continue
        mine = part if share.stop - share.start == part.n_rows else part.rows(share)
        loss = mine.loss(denoiser, told) * (mine.n_rows / n)
        if backward:
            loss.backward()
        total += float(loss.detach())
    return group.sum(total)


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
    state: Stateful | None = None,
    checkpoint: Path | None = None,
    about: Mapping[str, Any] | None = None,
    callback: Callable[[Progress], None] | None = None,
    group: Group = Group(),  # noqa: B008 (frozen)
) -> Run:
    """Train in place; the denoiser ends with the best averaged weights, on every process of the group.

    Args:
        rows, validation_rows: draw n rows of tokens from a generator; the two must not share simulations.
        masks: which conditionals are trained; None = the rows bring their own condition masks.
        keep: (n_ids,) bool, ids that `thin_latents` drops last.
        limits: (n_ids, 2), values that may be observed; see `observed_rows`.
        is_residual: (n_ids,) bool, ids of what lies between the knots of reference sets; None = there are none.
        generation: how many trainings these weights have behind them. Each draws its own rows and noise; from the
            second on the weights that come in compete with those of later validations.
        state: of `rows` that remember which they have given; a checkpoint holds it.
        checkpoint: file that the first process writes to; all resume from it if it exists.
        about: what else makes the run (simulator, design), as JSON types; a checkpoint made under another is refused.
        callback: called after every step, by the first process.
        group: the processes that share the work.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the checkpoint belongs to another configuration; processes that set out from different rows.
        ConnectionError: another process of the group ended.
    """
    parameters = dict(denoiser.named_parameters())
    optimizers = build_optimizers(denoiser, config)
    settings: dict[str, Any] = {
        **(about or {}),
        "schedule": type(denoiser.schedule).__name__,
        "train": asdict(config),
        "masks": None if masks is None else asdict(masks),
        "generation": generation,
        "levels": asdict(levels),
        "network": asdict(denoiser.network.config),
    }
    settings = json.loads(json.dumps(settings))  # what is no JSON fails here, not at the first checkpoint
    run = Run(ema={k: p.detach().clone() for k, p in parameters.items()})
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, run, parameters, optimizers, settings, state)
    earlier, started = run.cpu_seconds, time.process_time()

    def draw_rows(source: Rows, n: int, *path: int) -> TokenBatch:
        generator = generator_at(config.seed, *path)
        return observed_rows(source, n, is_parameter, masks, config.max_latents, generator, keep, limits, is_residual)

    held_out = draw_rows(validation_rows, config.n_validation, 1, 0)
    if group.size > 1:
        setting_out = json.dumps([settings, run.step]).encode()
        group.require_equal({
            "settings and step": digest({}, setting_out),
            "weights": digest(run.ema),
            "held-out simulations": digest({"value": held_out.value}),
        })  # fmt: skip
    if generation and run.step == 0:
        run.best_loss = validate(denoiser, parameters, run, held_out, levels, config, group=group)
        run.best = {k: v.clone() for k, v in run.ema.items()}
        run.gain_loss = run.best_loss
    salt = (generation,) if generation else ()
    steps: list[list[TokenBatch]] = []
    given: dict[str, Tensor] | None = None
    while not _ended(run, config):
        # a baseline that is at hand from the start keeps a network from learning what is not linear
        told = generation > 0 or config.late(run.step, run.turn)
        place = run.step % config.pool
        if place == 0 or not steps:
            given = None if state is None else state.tensors()  # who resumes within the pool draws it again
            batch = draw_rows(rows, config.pool * config.batch_size, 0, run.step // config.pool, *salt)
            steps = deal(micro_batches(batch, config.pool * config.n_micro), config.pool)
        generator = generator_at(config.seed, 3, run.step, *salt)
        for optimizer in optimizers:
            for own in optimizer.param_groups:
                own["lr"] = optimizer.defaults["lr"] * config.rate_at(run.step, run.turn)
            optimizer.zero_grad(set_to_none=True)
        total = mean_loss(denoiser, steps[place], levels, config, generator, told, group, backward=True)
        if not math.isfinite(total):
            raise FloatingPointError(f"The training loss is {total} at step {run.step}: lower the learning rate.")
        group.sum_gradients(parameters.values())
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
            validation = validate(denoiser, parameters, run, held_out, levels, config, told, group)
            run.history.append((run.step, sum(run.recent) / len(run.recent), validation))
            run.recent = []
            if validation < run.best_loss:
                run.best_loss, run.best_step = validation, run.step
                run.best = {k: v.clone() for k, v in run.ema.items()}
            if validation < run.gain_loss * (1 - config.min_gain):
                run.gain_loss, run.gain_step = validation, run.step
        if callback is not None and group.first:
            callback(Progress(run.step, total, validation))
        to_be_told = generation == 0 and denoiser.baseline is not None
        if not config.late(run.step, run.turn) and (config.cooldown or to_be_told) and _out_of_patience(run, config):
            run.turn = run.step
        if to_be_told and config.late(run.step, run.turn) and not config.late(run.step - 1, run.turn):
            run.gain_step = run.step  # what it is told now may gain: patience begins anew
        if _ended(run, config) or run.step % config.checkpoint_every == 0:
            run.cpu_seconds = earlier + group.sum(time.process_time() - started)
            if checkpoint is not None and group.first:
                if state is not None and run.step % config.pool == 0:
                    given = state.tensors()
                save_checkpoint(checkpoint, run, parameters, optimizers, settings, given)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.best.get(k, run.ema[k]))
    return run


def build_optimizers(denoiser: Denoiser, config: TrainConfig) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW, and Muon for the matrices of the layers where `matrix_rate` asks for it."""
    matrices = [p for p in denoiser.network.layers.parameters() if p.ndim == 2] if config.matrix_rate > 0 else []
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
    group: Group = Group(),  # noqa: B008 (frozen)
) -> float:
    """Loss of the averaged weights on held-out rows; the same riders, levels and noise every time."""
    generator = generator_at(config.seed, 1, 1)
    trained = {k: p.detach().clone() for k, p in parameters.items()}
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.ema[k])
        parts = micro_batches(held_out, 2 * -(-held_out.shape[0] // 64))
        loss = mean_loss(denoiser, parts, levels, config, generator, told, group)
        for k, p in parameters.items():
            p.copy_(trained[k])
    if not math.isfinite(loss):
        raise FloatingPointError(f"The validation loss is {loss} at step {run.step}.")
    return loss
