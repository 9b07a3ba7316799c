"""Which weights a run returns: those of its end, or of its lowest held-out loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from gaussian_tokens import IS_PARAMETER, USES, gaussian_rows
from safetensors.torch import load_file
from test_train import contradictory, equal, fresh, run_fit, weights
from tiny import seeded
from torch import Tensor

from fsimformer.batches import observed_rows
from fsimformer.checkpoint import Run
from fsimformer.denoise import NoiseLevels
from fsimformer.masks import MaskConfig
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch
from fsimformer.train import TrainConfig, held_out_loss

CONFIG = TrainConfig(
    steps=40, batch_size=16, learning_rate=1e-2, matrix_rate=1e-2, warmup=3, ema=0.5, n_micro=2, validate_every=2,
    patience=99, n_validation=16, cooldown=0.5,
)  # fmt: skip


def drawn(n: int, generator: torch.Generator) -> TokenBatch:
    has_index = torch.as_tensor(USES, dtype=torch.bool).any(1)  # as `fit` takes it from the network
    return observed_rows(gaussian_rows, n, IS_PARAMETER, MaskConfig(), 32, generator, has_index=has_index)


def kept_by_hand(run: Run, config: TrainConfig, lowest: dict[str, Tensor]) -> str:
    """Which weights eight times as many held-out rows prefer, with noise that no validation had."""
    rows = drawn(8 * config.n_validation, generator_at(config.seed, 1, 2))
    loss = [held_out_loss(fresh(), w, rows, NoiseLevels(), config, (1, 3)) for w in (lowest, run.ema)]
    return "end" if loss[1] <= loss[0] else "lowest"


def test_the_end_of_a_run_is_kept_where_an_earlier_low_is_luck(tmp_path: Path) -> None:
    """Sixteen held-out rows make some earlier loss the lowest; the others say whether it was better indeed."""
    kept, gains = [], []
    for seed in range(8):
        config = replace(CONFIG, seed=seed)
        model, path = fresh(), tmp_path / f"{seed}.safetensors"
        run = run_fit(model, config, checkpoint=path)
        losses = {step: loss for step, _, loss in run.history}
        file = {k.removeprefix("best/"): v for k, v in load_file(path).items() if k.startswith("best/")}
        if min(losses, key=losses.__getitem__) == 40:
            continue
        kept.append(kept_by_hand(run, config, file))
        assert equal(weights(model), run.ema if kept[-1] == "end" else file)
        assert run.best_step == (40 if kept[-1] == "end" else min(losses, key=losses.__getitem__))
        assert run.best_loss == losses[run.best_step]
        again = fresh()
        same = run_fit(again, config, checkpoint=path)  # a finished run chooses again, and the same
        assert same.best_step == run.best_step and equal(weights(again), weights(model))
        rows = drawn(2_000, seeded())
        gains.append(
            held_out_loss(fresh(), file, rows, NoiseLevels(), config, (9,))
            - held_out_loss(fresh(), weights(model), rows, NoiseLevels(), config, (9,))
        )
    assert len(kept) >= 2 and "end" in kept and sum(gains) > 0


def test_the_end_of_a_run_is_not_kept_where_it_is_worse_or_has_not_cooled_down() -> None:
    config, model = replace(CONFIG, n_validation=64, learning_rate=2e-2), fresh()
    run = run_fit(model, config, held_out=contradictory)
    losses = {step: loss for step, _, loss in run.history}
    assert run.step == 40 > run.best_step and run.best_loss == min(losses.values())
    assert equal(weights(model), run.best) and not equal(run.best, run.ema)
    for seed in range(4):  # still warming up at its end
        hot = replace(config, warmup=100, n_validation=4, seed=seed)
        run = run_fit(fresh(), hot)
        assert run.best_loss == min(loss for _, _, loss in run.history)
