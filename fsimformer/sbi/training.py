"""How inference trains by default: epochs, rates, patience, as a `TrainConfig`."""

from __future__ import annotations

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
    patience: int,
    epochs: int,
    seed: int,
) -> TrainConfig:
    """The training of `epochs` epochs at most, each as many steps as `n_train` simulations fill batches.

    Rates are constant, and fall to 0 over the last three tenths of `epochs`; or, where `patience` epochs bring no lower
    held-out loss, from there on, while 3/7 as many steps again are trained. What stops early is refined, too.
    """
    epoch = max(1, n_train // batch_size)
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
