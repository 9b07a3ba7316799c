"""How inference trains by default: epochs, rates, patience, as a `TrainConfig`; and whether it came to anything."""

from __future__ import annotations

import math
import warnings

from fsimformer.denoise import NoiseLevels
from fsimformer.seeds import generator_at
from fsimformer.train import TrainConfig

_AS_THEY_COME = 16  # with as few tokens, sorting rows by length saves less than it costs


def config_for(
    n_train: int,
    n_held_out: int,
    n_ids: int,
    *,
    batch_size: int,
    learning_rate: float,
    clip: float,
    patience: int | None,
    epochs: int | None,
    seed: int,
) -> TrainConfig:
    """The training of `epochs` epochs at most, each as many steps as `n_train` simulations fill batches.

    Rates are constant, and fall to 0 over the last three tenths of `epochs`; or, where `patience` epochs bring no lower
    held-out loss, from there on, while 3/7 as many steps again are trained. What stops early is refined, too.

    None = 200 epochs, but 5,000 steps at least and some 20,000 at most; patience of 40 epochs, but 600 steps at least
    and some 3,000 at most: what few simulations need counts in steps.
    """
    epoch = max(1, n_train // batch_size)
    if epochs is None:
        epochs = max(math.ceil(5_000 / epoch), min(200, math.ceil(20_000 / epoch)))
    if patience is None:
        patience = max(math.ceil(600 / epoch), min(40, math.ceil(3_000 / epoch)))
    steps = epochs * epoch
    return TrainConfig(
        steps=steps,
        batch_size=min(batch_size, n_train),
        learning_rate=learning_rate,
        matrix_rate=2.5 * learning_rate,
        warmup=min(200, steps // 5, patience * epoch),  # over before patience may end, or no rate would fall
        clip=clip,
        ema=0.995,
        cooldown=0.3,
        n_micro=1 if n_ids <= _AS_THEY_COME else 2,
        pool=1,
        max_levels=1,
        max_latents=n_ids,  # scalars are drawn jointly, however many
        validate_every=epoch,
        patience=patience,
        n_validation=min(512, max(100, n_held_out)),
        checkpoint_every=steps,
        seed=seed,
    )


def loss_of_nothing(schedule: str, levels: NoiseLevels) -> float:
    """The loss of whitened Gaussian latents of which nothing is learned: 1 on variance-preserving paths (denoise.py).

    On the straight path it is E[(1 + λ)² / (1 + λ²)] over the noise levels λ of training.
    """
    if schedule != "rectified":
        return 1.0
    ratio = levels.draw((100_000,), generator_at(0, 3)).exp()
    return float(((1 + ratio) ** 2 / (1 + ratio**2)).mean())


def warn_of_nothing_learned(loss: float, steps: int, nothing: float, stacklevel: int) -> None:
    """Of a training that ended before it had learned more than means and variances: what it draws is the prior.

    Args:
        loss: held-out, of the weights that are kept; `nothing`: that of who knows nothing, see `loss_of_nothing`.
        stacklevel: 1 = the caller's line.
    """
    if loss >= nothing:
        warnings.warn(
            f"train: after {steps} steps the held-out loss is {loss:.3f}, and {nothing:.3f} is what means "
            "and standard deviations alone reach: draws will be little else than the prior's. Unless nothing depends "
            "on anything, train longer: a larger max_num_epochs, a larger stop_after_epochs.",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
