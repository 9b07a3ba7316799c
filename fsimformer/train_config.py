"""How a network is trained: steps, rates, batches, noise levels that share a context, validation, patience."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fsimformer.tokens import Dial, require_dial


@dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Args:
        steps, batch_size: optimiser steps, and rows a step.
        learning_rate, warmup, weight_decay, clip: AdamW with linear warm-up, cosine decay to 0, gradient norm clip; the
            last three hold for Muon, too.
        matrix_rate: learning rate of the layers' weight matrices, which Muon steps (orthogonalised momentum; update
            scaled to AdamW's size, arXiv 2502.16982); 0 = AdamW for them too.
        ema: decay of the averaged weights, which are what is validated and returned: those of the end, where the rates
            fell to 0, or of the lowest held-out loss (`train.fit`).
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
    pool: int = 16
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
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"TrainConfig: expected a finite {name} >= 0, got {getattr(self, name)}.")
        for name, ok in {
            "a finite learning_rate > 0": 0 < self.learning_rate < math.inf,
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
