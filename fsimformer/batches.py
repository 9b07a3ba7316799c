"""From drawn rows to the batches of a step: condition masks, latents thinned, rows of similar length together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace

import torch
from torch import Tensor

from fsimformer.masks import (
    KINDS,
    MaskConfig,
    draw_condition_masks,
    draw_kinds,
    drop_latent_arrays,
    drop_residuals,
    thin_latents,
)
from fsimformer.tokens import FEW, TokenBatch, concatenate, select

_DRAWS = 200  # of a row, until it is given up

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
        ValueError: hardly a row observes values within `limits`, or has a latent; masks of extension rows alone without
            reference sets. The message says which, and what to change.
    """
    if masks is None:
        return thin_latents(rows(n, generator), n_latent, generator, keep)
    if is_residual is None and sum(astuple(masks)) == masks.extension:
        raise ValueError(
            "train: masks give weight to `extension` alone, and no function has a reference set to extend from; give "
            "another kind weight, or a function a `reference`."
        )
    parts: list[TokenBatch] = []
    kinds, empty = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.bool)
    for attempt in range(_DRAWS):
        batch = rows(len(kinds), generator)
        if attempt == 0:
            kinds = draw_kinds(n, masks if is_residual is not None else replace(masks, extension=0), generator)
        condition_mask = draw_condition_masks(batch, is_parameter, kinds, generator, is_residual)
        batch = drop_latent_arrays(batch.replace(condition_mask=condition_mask))
        batch = batch if is_residual is None else drop_residuals(batch, is_residual, kinds)
        has_latent = batch.latent.any(1)
        plausible = torch.ones_like(batch.observed)
        if limits is not None:
            lower, upper = limits[batch.variable].unbind(-1)
            plausible = ((batch.value >= lower) & (batch.value <= upper)) | ~batch.observed
        kept = has_latent & plausible.all(1)
        parts.append(batch.rows(kept.nonzero()[:, 0]))
        kinds, empty = kinds[~kept], ~has_latent[~kept]
        if not len(kinds):
            return thin_latents(concatenate(parts), n_latent, generator, keep)
    why = _why(kinds, empty, batch, plausible)
    raise ValueError(f"train: {len(kinds)} of {n} rows were of no use in {_DRAWS} draws: {why}")


def _why(kinds: Tensor, empty: Tensor, batch: TokenBatch, plausible: Tensor) -> str:
    """What kept the rows of the last draw out, and what to change: `kinds` of mask, and rows without a latent."""
    causes = []
    if bool(empty.any()):
        causes.append(
            f"{int(empty.sum())} hold no token that can be latent, only arrays or nothing: no scalar, and functions "
            "without a point (give the design a larger n_max)"
        )
    if bool((~empty).any()):
        names = [KINDS[k] for k in kinds[~empty].unique().tolist()]
        ids = batch.variable[~plausible].unique().tolist()
        causes.append(
            f"{int((~empty).sum())} with masks of {names} observe values outside the plausible range, of ids {ids} "
            "(widen the range, or take weight from these masks)"
        )
    return "; ".join(causes) + "."


def micro_batches(batch: TokenBatch, n_micro: int) -> list[TokenBatch]:
    """`n_micro` batches of similar rows, padding trimmed: parted by active tokens, each part cut by frozen ones.

    Which observed tokens are active is as the dial "few" has it. The parts are as many as made least padding in
    benchmarks/padding.py: 2 of 16 batches, 4 of 64.
    """
    if n_micro == 1:
        return [batch]
    observed = batch.observed.sum(1)
    riding = observed <= FEW
    n_active, n_frozen, out = batch.latent.sum(1) + observed * riding, observed * ~riding, []
    divisors = [d for d in range(2, n_micro + 1) if n_micro % d == 0]
    n_parts = min(divisors, key=lambda d: abs(d - n_micro**0.5 / 2))
    for alike in n_active.argsort(stable=True).chunk(n_parts):
        order = alike[n_frozen[alike].argsort(stable=True)]
        for which in order.chunk(n_micro // n_parts):
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
