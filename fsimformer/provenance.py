"""What a model's card says of its training, and what the card of one that is trained on must say."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from fsimformer.checkpoint import Run
from fsimformer.denoise import NoiseLevels
from fsimformer.masks import MaskConfig
from fsimformer.noised import Learner
from fsimformer.train import TrainConfig


def run_card(
    run: Run,
    denoiser: Learner,
    masks: MaskConfig,
    levels: NoiseLevels,
    config: TrainConfig,
    device: str,
    before: float,
) -> dict[str, Any]:
    """What the card of a model says of its training; `before`: CPU seconds of the work that led up to it."""
    return {
        "train": asdict(config),
        "masks": asdict(masks),
        "levels": asdict(levels),
        "steps": run.step,
        "kept": "end" if run.best_step == run.step else "lowest",  # which weights: train.fit
        "best_step": run.best_step,
        "best_validation_loss": run.best_loss,
        "history": run.history,
        "n_parameters": denoiser.n_parameters,
        "baseline": denoiser.baseline is not None,
        "seed": config.seed,
        "device": device,
        "cpu_seconds": round(before + run.cpu_seconds, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def require_unseen(card: Mapping[str, Any] | None, simulations: int | None, seed: int) -> int:
    """How many trainings went before; none of them may have seen rows that would be held out now.

    Equal seeds simulate equal rows: as many of them part the same way into training and held-out rows, others do not.

    Raises:
        ValueError: the card of one of them says too little, or its training may have seen such rows.
    """
    n = 0
    while card is not None:
        if "seed" not in card or "simulations" not in card:
            raise ValueError("initial: its card does not say from which seed and how many simulations it was trained.")
        if card["seed"] == seed and card["simulations"] != simulations:
            raise ValueError(
                f"initial: trained with seed {seed} on {card['simulations']} simulations; {simulations} with the same "
                "seed would hold out some that it has seen. Choose another seed, or as many simulations."
            )
        n, card = n + 1, card.get("initial")
    return n
