"""The training loop: rows in batches of similar length, AdamW and Muon, EMA, validation, early stopping, exact resume.

Every step draws from a generator seeded by (seed, step), so that the state of a run is its step, weights and moments:
a run that is stopped and resumed equals the uninterrupted one bit for bit on a CPU. Several processes share the rows of
a step; see devices.py.
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

from fsimformer.allocator import keep_freed
from fsimformer.batches import Rows, deal, micro_batches, observed_rows
from fsimformer.checkpoint import Run, Stateful, load_checkpoint, save_checkpoint
from fsimformer.denoise import NoiseLevels
from fsimformer.devices import Group
from fsimformer.digest import digest
from fsimformer.masks import MaskConfig
from fsimformer.muon import Muon
from fsimformer.noised import Learner, mean_loss
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch
from fsimformer.train_config import TrainConfig as TrainConfig  # where it is looked for

AGAIN = 8  # times as many rows of the held-out simulations decide between the end of a run and its lowest loss


@dataclass(frozen=True)
class Progress:
    """What a callback gets after a step: step (1-based), training loss, and the validation loss where there was one."""

    step: int
    loss: float
    validation: float | None


def fit(
    denoiser: Learner,
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
    """Train in place; the denoiser ends with the averaged weights that are kept, on every process of the group.

    Those of the lowest held-out loss; but if the learning rate fell to 0, those of the end, unless the lowest are lower
    under other masks and noise, too, of the same held-out simulations: of dozens of noisy losses the lowest is low by
    luck as well (benchmarks/last_weights.py).

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
    keep_freed()
    run = Run(ema={k: p.detach().clone() for k, p in parameters.items()})
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, run, parameters, optimizers, settings, state)
    earlier, started = run.cpu_seconds, time.process_time()

    uses = torch.tensor(denoiser.network.config.uses_index, dtype=torch.bool)
    has_index = uses.any(1) if uses.any() else None  # where nothing has a place, none decides

    def draw_rows(source: Rows, n: int, *path: int) -> TokenBatch:
        generator = generator_at(config.seed, *path)
        return observed_rows(
            source, n, is_parameter, masks, config.max_latents, generator, keep, limits, is_residual, has_index
        )

    held_out = draw_rows(validation_rows, config.n_validation, 1, 0)
    if group.size > 1:
        setting_out = json.dumps([settings, run.step]).encode()
        group.require_equal({
            "settings and step": digest({}, setting_out),
            "weights": digest(run.ema),
            "held-out simulations": digest({"value": held_out.value}),
        })  # fmt: skip
    if generation and run.step == 0:
        run.best_loss = validate(denoiser, run, held_out, levels, config, group=group)
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
            validation = validate(denoiser, run, held_out, levels, config, told, group)
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
    if run.best_step < run.step == config.end(run.turn) and config.rate_at(run.step, run.turn) == 0:
        others = draw_rows(validation_rows, AGAIN * config.n_validation, 1, 2)
        lowest, end = (
            held_out_loss(denoiser, w, others, levels, config, (1, 3), group=group) for w in (run.best, run.ema)
        )
        if end <= lowest:
            run.best = {k: v.clone() for k, v in run.ema.items()}
            run.best_loss, run.best_step = run.history[-1][2], run.step
        run.cpu_seconds = earlier + group.sum(time.process_time() - started)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(run.best.get(k, run.ema[k]))
    return run


def build_optimizers(denoiser: Learner, config: TrainConfig) -> tuple[torch.optim.Optimizer, ...]:
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
    denoiser: Learner,
    run: Run,
    held_out: TokenBatch,
    levels: NoiseLevels,
    config: TrainConfig,
    told: bool = True,
    group: Group = Group(),  # noqa: B008 (frozen)
) -> float:
    """Loss of the averaged weights on held-out rows; the same riders, levels and noise every time."""
    loss = held_out_loss(denoiser, run.ema, held_out, levels, config, (1, 1), told, group)
    if not math.isfinite(loss):
        raise FloatingPointError(f"The validation loss is {loss} at step {run.step}.")
    return loss


def held_out_loss(
    denoiser: Learner,
    weights: Mapping[str, Tensor],
    rows: TokenBatch,
    levels: NoiseLevels,
    config: TrainConfig,
    path: tuple[int, ...],
    told: bool = True,
    group: Group = Group(),  # noqa: B008 (frozen)
) -> float:
    """Loss of these weights on rows; noise by the path (seeds.py). The denoiser's own weights stay what they are."""
    parameters = dict(denoiser.named_parameters())
    trained = {k: p.detach().clone() for k, p in parameters.items()}
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(weights[k])
        parts = micro_batches(rows, 2 * -(-rows.shape[0] // 64))
        loss = mean_loss(denoiser, parts, levels, config, generator_at(config.seed, *path), told, group)
        for k, p in parameters.items():
            p.copy_(trained[k])
    return loss
