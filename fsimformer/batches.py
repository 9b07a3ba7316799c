"""From drawn rows to the batches of a step: condition masks, latents thinned, rows of similar length together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fsimformer.masks import (
    MaskConfig,
    draw_condition_masks,
    draw_kinds,
    drop_latent_arrays,
    drop_residuals,
    thin_latents,
)
from fsimformer.tokens import TokenBatch, concatenate, select

Rows = Callable[[int, torch.Generator], TokenBatch]


def observed_rows(
    rows: Rows,
    n: int,
    is_parameter: Tensor,
    masks: MaskConfig | None,
    n_latent: int,
    generator: torch.Generator,
    keep: Tensor | None = None,
    limits: Tensor | None = None,
    is_residual: Tensor | None = None,
) -> TokenBatch:
    """Rows with condition masks drawn, and at most `n_latent` latents a row, those of the ids in `keep` among them.

    Args:
        masks: which conditionals; None = the rows bring their own condition masks, and `limits` do not apply.
        limits: (n_ids, 2) lowest and highest value that may be observed. A row that observes another is drawn again:
            whether a row is kept depends on its observed tokens alone, so that p(latent | observed) stays what it was.
            The kinds of mask keep their frequencies; within a kind, rows that observe much are lost more often.

    Rows without a latent (no point of any function was drawn) teach nothing, and are drawn again, too.

    Raises:
        ValueError: hardly a row observes values within `limits`, or has a latent.
    """
    if masks is None:
        return thin_latents(rows(n, generator), n_latent, generator, keep)
    parts: list[TokenBatch] = []
    kinds = torch.zeros(n, dtype=torch.long)
    for attempt in range(200):
        batch = rows(len(kinds), generator)
        if attempt == 0:
            kinds = draw_kinds(n, masks if is_residual is not None else replace(masks, extension=0), generator)
        condition_mask = draw_condition_masks(batch, is_parameter, kinds, generator, is_residual)
        batch = drop_latent_arrays(batch.replace(condition_mask=condition_mask))
        batch = batch if is_residual is None else drop_residuals(batch, is_residual, kinds)
        kept = batch.latent.any(1)
        if limits is not None:
            lower, upper = limits[batch.variable].unbind(-1)
            kept = kept & (((batch.value >= lower) & (batch.value <= upper)) | ~batch.observed).all(1)
        parts.append(batch.rows(kept.nonzero()[:, 0]))
        kinds = kinds[~kept]
        if not len(kinds):
            return thin_latents(concatenate(parts), n_latent, generator, keep)
    raise ValueError(
        f"train: {len(kinds)} of {n} rows found no plausible observation and no latent in 200 draws; widen the range."
    )


def micro_batches(batch: TokenBatch, n_micro: int) -> list[TokenBatch]:
    """`n_micro` batches of similar rows, padding trimmed: halved by latents, each half cut by observed tokens."""
    if n_micro == 1:
        return [batch]
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
