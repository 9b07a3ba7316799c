"""The training loop: rows in batches of similar length, AdamW, EMA, validation, early stopping, exact resume.

Every step draws from a generator seeded by (seed, step), so that the state of a run is its step, weights and moments:
a run that is stopped and resumed equals the uninterrupted one bit for bit on a CPU. Checkpoints are safetensors with
JSON metadata, written beside and moved into place.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.masks import MaskConfig, draw_condition_masks, draw_kinds, thin_latents
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch, select, split

Rows = Callable[[int, torch.Generator], TokenBatch]


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        steps, batch_size: optimiser steps, and rows a step.
        learning_rate, warmup, weight_decay, clip: AdamW with linear warm-up, cosine decay to 0, gradient norm clip.
        ema: decay of the averaged weights, which are what is validated and returned.
        n_micro: batches of similar rows that a step is cut into (even); less padding against more overhead.
        pool: steps whose rows are drawn and sorted together, so that batches of similar rows are similar indeed.
        level_tokens, max_levels: noise levels that share one encoded context: as many as keep levels × active tokens
            under `level_tokens`, at most `max_levels`.
        max_latents: latents kept in a row; others are dropped at random, as if nobody had asked for them.
        dial: pairs (observed tokens that ride in the active stream, None = all; relative frequency).
        validate_every, patience: validation interval in steps; stop after `patience` validations without a new best.
        n_validation: held-out rows.
        checkpoint_every: steps between checkpoints.
    """

    steps: int = 10_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 1e-4
    clip: float = 1.0
    ema: float = 0.999
    n_micro: int = 6
    pool: int = 4
    level_tokens: int = 16
    max_levels: int = 4
    max_latents: int = 32
    dial: tuple[tuple[int | None, float], ...] = ((0, 0.4), (8, 0.4), (32, 0.1), (None, 0.1))
    validate_every: int = 500
    patience: int = 1_000_000
    n_validation: int = 1024
    checkpoint_every: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "pool", "max_levels", "max_latents", "validate_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"TrainConfig: expected {name} >= 1, got {getattr(self, name)}.")
        if self.n_micro < 2 or self.n_micro % 2:
            raise ValueError(f"TrainConfig: expected an even n_micro >= 2, got {self.n_micro}.")
        object.__setattr__(self, "dial", tuple((n, float(p)) for n, p in self.dial))

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine to 0 at `steps`."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        part = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


@dataclass(frozen=True)
class Progress:
    """What a callback gets after a step: step (1-based), training loss, and the validation loss where there was one."""

    step: int
    loss: float
    validation: float | None


@dataclass
class Run:
    """State of a run; `best` holds the averaged weights of the lowest validation loss."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    history: list[tuple[int, float, float]] = field(default_factory=list)  # step, mean training loss, validation loss
    recent: list[float] = field(default_factory=list)  # training losses since the last validation
    ema: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


def observed_rows(
    rows: Rows, n: int, is_parameter: Tensor, masks: MaskConfig, n_latent: int, generator: torch.Generator
) -> TokenBatch:
    """Rows with condition masks drawn, and at most `n_latent` latents a row."""
    batch = rows(n, generator)
    kinds = draw_kinds(n, masks, generator)
    batch = batch.replace(condition_mask=draw_condition_masks(batch, is_parameter, kinds, generator))
    return thin_latents(batch, n_latent, generator)


def micro_batches(batch: TokenBatch, n_micro: int) -> list[TokenBatch]:
    """`n_micro` batches of similar rows, padding trimmed: halved by latents, each half cut by observed tokens."""
    out = []
    for half in batch.latent.sum(1).argsort(stable=True).chunk(2):
        order = half[batch.observed.sum(1)[half].argsort(stable=True)]
        for which in order.chunk(n_micro // 2):
            part = batch.rows(which)
            position, taken = select(part.valid)
            packed = part.gather(position)
            out.append(packed.replace(valid=packed.valid & taken))
    return out


def deal(batches: list[TokenBatch], n_steps: int) -> list[list[TokenBatch]]:
    """Sorted batches dealt to steps there and back again, so that every step gets short and long ones."""
    there = list(range(n_steps))
    order = (there + there[::-1]) * (len(batches) // (2 * n_steps) + 1)
    return [[part for part, to in zip(batches, order, strict=False) if to == k] for k in range(n_steps)]


def batch_loss(
    denoiser: Denoiser, batch: TokenBatch, levels: NoiseLevels, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """The loss of one micro-batch: dial, riders, noise levels and noise drawn from the generator."""
    choice = torch.multinomial(torch.tensor([p for _, p in config.dial]), 1, generator=generator)
    device = denoiser.device
    streams = split(batch, config.dial[int(choice)][0], generator).to(device)
    b, n_a = streams.active.shape
    n_levels = max(1, min(config.max_levels, config.level_tokens // max(1, n_a)))
    log_ratio = levels.draw((b, n_levels), generator)
    epsilon = torch.randn(b, n_levels, n_a, generator=generator)
    return denoiser.loss(streams, log_ratio.to(device), epsilon.to(device))


def fit(
    denoiser: Denoiser,
    rows: Rows,
    validation_rows: Rows,
    is_parameter: Tensor,
    masks: MaskConfig,
    levels: NoiseLevels,
    config: TrainConfig,
    *,
    checkpoint: Path | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Run:
    """Train in place; the denoiser ends with the best averaged weights.

    Args:
        rows, validation_rows: draw n rows of tokens from a generator; the two must not share simulations.
        checkpoint: file to write to and, if it exists, to resume from.
        callback: called after every step.

    Raises:
        FloatingPointError: the loss is not finite.
        ValueError: the checkpoint belongs to another configuration.
    """
    parameters = dict(denoiser.named_parameters())
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    run = Run(ema={k: p.detach().clone() for k, p in parameters.items()})
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, run, parameters, optimizer, config)
    held_out = observed_rows(
        validation_rows, config.n_validation, is_parameter, masks, config.max_latents, generator_at(config.seed, 1, 0)
    )
    steps: list[list[TokenBatch]] = []
    while run.step < config.steps and not _out_of_patience(run, config):
        place = run.step % config.pool
        if place == 0 or not steps:
            generator = generator_at(config.seed, 0, run.step // config.pool)
            n_rows = config.pool * config.batch_size
            batch = observed_rows(rows, n_rows, is_parameter, masks, config.max_latents, generator)
            steps = deal(micro_batches(batch, config.pool * config.n_micro), config.pool)
        generator = generator_at(config.seed, 3, run.step)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(run.step)
        optimizer.zero_grad(set_to_none=True)
        total, n_rows = 0.0, sum(part.shape[0] for part in steps[place])
        for part in steps[place]:
            loss = batch_loss(denoiser, part, levels, config, generator) * (part.shape[0] / n_rows)
            loss.backward()
            total += float(loss.detach())
        if not math.isfinite(total):
            raise FloatingPointError(f"The training loss is {total} at step {run.step}: lower the learning rate.")
        torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        optimizer.step()
        run.step += 1
        decay = min(config.ema, (1 + run.step) / (10 + run.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(run.ema.values()), list(parameters.values()), 1 - decay)
        run.recent.append(total)
        validation = None
        if run.step % config.validate_every == 0 or run.step == config.steps:
            validation = validate(denoiser, parameters, run, held_out, levels, config)
            run.history.append((run.step, sum(run.recent) / len(run.recent), validation))
            run.recent = []
            if validation < run.best_loss:
                run.best_loss, run.best_step = validation, run.step
                run.best = {k: v.clone() for k, v in run.ema.items()}
        if callback is not None:
            callback(Progress(run.step, total, validation))
        last = run.step == config.steps or _out_of_patience(run, config)
        if checkpoint is not None and (last or run.step % config.checkpoint_every == 0):
            save_checkpoint(checkpoint, run, parameters, optimizer, config)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.best.get(k, run.ema[k]))
    return run


def _out_of_patience(run: Run, config: TrainConfig) -> bool:
    return run.step - run.best_step >= config.patience * config.validate_every


def validate(
    denoiser: Denoiser,
    parameters: dict[str, torch.nn.Parameter],
    run: Run,
    held_out: TokenBatch,
    levels: NoiseLevels,
    config: TrainConfig,
) -> float:
    """Loss of the averaged weights on held-out rows; the same riders, levels and noise every time."""
    generator = generator_at(config.seed, 1, 1)
    trained = {k: p.detach().clone() for k, p in parameters.items()}
    n = held_out.shape[0]
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.ema[k])
        parts = micro_batches(held_out, 2 * -(-n // 64))
        loss = sum(float(batch_loss(denoiser, part, levels, config, generator)) * part.shape[0] / n for part in parts)
        for k, p in parameters.items():
            p.copy_(trained[k])
    if not math.isfinite(loss):
        raise FloatingPointError(f"The validation loss is {loss} at step {run.step}.")
    return loss


def save_checkpoint(
    path: Path,
    run: Run,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> None:
    """Weights, averages, best weights and Adam's moments; atomic."""
    tensors: dict[str, Tensor] = {}
    for k, p in parameters.items():
        tensors[f"model/{k}"], tensors[f"ema/{k}"] = p.detach(), run.ema[k]
        if run.best:
            tensors[f"best/{k}"] = run.best[k]
        for name, value in optimizer.state[p].items():
            tensors[f"adam/{name}/{k}"] = value
    meta = {k: getattr(run, k) for k in ("step", "best_loss", "best_step", "history", "recent")}
    text = json.dumps({"run": meta, "config": asdict(config)})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, beside, metadata={"fsimformer": text})
    os.replace(beside, path)


def load_checkpoint(
    path: Path,
    run: Run,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
) -> None:
    """Fill run, parameters and optimizer from a checkpoint.

    Raises:
        ValueError: it was written with another TrainConfig.
    """
    with safe_open(path, framework="pt") as file:
        meta: dict[str, Any] = json.loads(file.metadata()["fsimformer"])
        wanted = json.loads(json.dumps(asdict(config)))
        if changed := [k for k in wanted if meta["config"].get(k) != wanted[k]]:
            raise ValueError(f"Checkpoint {path}: written with other settings of {changed}; resume needs the same.")
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(tensors[f"model/{k}"])
            run.ema[k].copy_(tensors[f"ema/{k}"])
            if f"best/{k}" in tensors:
                run.best[k] = tensors[f"best/{k}"].clone().to(p.device)
            prefix, suffix = "adam/", f"/{k}"
            state = {n[len(prefix) : -len(suffix)]: v for n, v in tensors.items() if n in
                     {f"adam/{s}/{k}" for s in ("step", "exp_avg", "exp_avg_sq")}}  # fmt: skip
            if state:
                optimizer.state[p] = {n: (v if n == "step" else v.to(p.device)) for n, v in state.items()}
    run.step, run.best_step = meta["run"]["step"], meta["run"]["best_step"]
    run.best_loss = float(meta["run"]["best_loss"])
    run.history = [tuple(h) for h in meta["run"]["history"]]
    run.recent = list(meta["run"].get("recent", []))
