"""Distributions of condition masks, and who may attend to whom.

Every row of a batch gets a mask of its own kind, at its own rate, drawn on its own: a mask shared by a batch would
train on a handful of conditionals a step. True = observed (condition masks), True = may attend (attention masks).
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from fsimformer.tokens import TokenBatch


@dataclass(frozen=True)
class MaskConfig:
    """Relative frequencies of the kinds of condition mask.

    Args:
        posterior: data observed, parameters latent.
        imputation: parameters latent, every data token observed at the row's own random rate.
        forecast: parameters latent; data observed before a random cut along a random index dim, latent after it.
        gap: parameters latent; data latent inside a random window of an index dim, observed outside.
            In rows of both kinds data without an index, such as a population, are observed.
        likelihood: parameters observed, data latent.
        variable: every variable id observed or not by a fair coin.
        token: every token observed at the row's own random rate.
        joint: nothing observed.
        extension: parameters and functions observed, their reference sets among them, data observed at the row's own
            random rate; latent is what lies between the knots, each point by itself (functions.py). In the rows of
            other kinds those points are no tokens. Without reference sets there are no such rows.
    """

    posterior: float = 0.4
    imputation: float = 0.12
    forecast: float = 0.1
    gap: float = 0.06
    likelihood: float = 0.06
    variable: float = 0.08
    token: float = 0.12
    joint: float = 0.06
    extension: float = 0.12

    def __post_init__(self) -> None:
        if min(astuple(self)) < 0 or sum(astuple(self)) <= 0:
            raise ValueError(f"MaskConfig: frequencies must be >= 0 and not all 0, got {self}.")


KINDS = tuple(f.name for f in fields(MaskConfig))


def draw_kinds(n: int, config: MaskConfig, generator: torch.Generator) -> Tensor:
    """(n,) long: the kind of every row, an index into `KINDS`."""
    weights = torch.tensor(astuple(config), dtype=torch.float64)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def draw_condition_masks(
    batch: TokenBatch,
    is_parameter: Tensor,
    kinds: Tensor,
    generator: torch.Generator,
    is_residual: Tensor | None = None,
    has_index: Tensor | None = None,
) -> Tensor:
    """A condition mask for every row, (B, L).

    Args:
        batch: only `variable`, `index`, `valid` and which `arrays` there are is read.
        is_parameter: (n_ids,) bool, True for ids of parameters.
        kinds: (B,) long, from `draw_kinds`.
        generator: its draws are in one fixed order, whatever the kinds are.
        is_residual: (n_ids,) bool, ids of what lies between the knots of reference sets; None = there are none.
        has_index: (n_ids,) bool, ids with an index; None = all data have one.

    A row whose mask would leave nothing latent becomes a posterior row; if it has no parameter, a joint row. The tokens
    of one array share a coin, and count as nothing latent: `drop_latent_arrays` is to follow, and `drop_residuals`.
    """
    (b, length), device = batch.shape, batch.variable.device
    n_ids, d = is_parameter.shape[0], batch.index.shape[-1]
    rand = lambda *shape: torch.rand(*shape, generator=generator, device=device)  # noqa: E731
    parameter = is_parameter[batch.variable]
    residual = torch.zeros_like(parameter) if is_residual is None else is_residual[batch.variable]
    rate, coin, token = rand(b, 1), rand(b, n_ids) < 0.5, rand(b, length)
    ends, which = rand(b, 2).sort(dim=1).values * 2 - 1, rand(b)
    if d:
        dim = (which * d).long().clamp(max=d - 1)
        along = batch.index.gather(2, dim[:, None, None].expand(b, length, 1))[..., 0]
    else:
        along = torch.zeros_like(batch.value)
    for ids in batch.arrays:
        own = (batch.variable >= ids.start) & (batch.variable < ids.stop)
        one = torch.where(batch.variable == ids.start, token, torch.inf).amin(1, keepdim=True)
        token = torch.where(own, one, token)
        coin[:, ids] = coin[:, ids.start, None]
    before = along < ends[:, :1]
    inside = (along >= ends[:, :1]) & (along < ends[:, 1:])
    if has_index is not None:
        before, inside = before | ~has_index[batch.variable], inside & has_index[batch.variable]
    candidates = {
        "posterior": ~parameter,
        "imputation": ~parameter & (token < rate),
        "forecast": ~parameter & before,
        "gap": ~parameter & ~inside,
        "likelihood": parameter,
        "variable": coin.gather(1, batch.variable),
        "token": token < rate,
        "joint": torch.zeros_like(parameter),
        "extension": (parameter | (token < rate)) & ~residual,
    }
    extends = _extends(batch, residual, kinds)
    lost = (kinds == KINDS.index("extension")) & ~extends
    kinds = torch.where(lost, KINDS.index("posterior"), kinds)
    stacked = torch.stack([candidates[k] for k in KINDS])  # (kinds, B, L)
    mask = stacked[kinds, torch.arange(b, device=device)] & ~residual
    sampled = batch.valid & ~batch.of_arrays() if batch.arrays else batch.valid
    sampled = sampled & (residual == extends[:, None])
    for fallback in ("posterior", "joint"):
        full = ~(~mask & sampled).any(dim=1, keepdim=True)
        mask = torch.where(full, candidates[fallback], mask)
    return mask


def drop_residuals(batch: TokenBatch, is_residual: Tensor, kinds: Tensor) -> TokenBatch:
    """What lies between knots stays in extension rows, and is all that is latent there; elsewhere it is no token."""
    residual = is_residual[batch.variable]
    extends = _extends(batch, residual, kinds)
    kept = torch.where(extends[:, None], batch.condition_mask | residual, ~residual)
    return batch.replace(valid=batch.valid & kept)


def _extends(batch: TokenBatch, residual: Tensor, kinds: Tensor) -> Tensor:
    """(B,): extension rows that hold a reference set; the others become posterior rows."""
    return (kinds == KINDS.index("extension")) & (residual & batch.valid).any(1)


def drop_latent_arrays(batch: TokenBatch) -> TokenBatch:
    """Arrays that are not observed become no tokens: they are never sampled, and the law of the others stays."""
    return batch.replace(valid=batch.valid & (batch.condition_mask | ~batch.of_arrays())) if batch.arrays else batch


def thin_latents(batch: TokenBatch, n_max: int, generator: torch.Generator, keep: Tensor | None = None) -> TokenBatch:
    """At most `n_max` latent tokens a row, a random subset; the others become no tokens, which integrates them out.

    Training costs less and the law of what stays does not change. Tokens of the ids in `keep` (n_ids,) bool go last: a
    dependency mask must not lose the parents that part its variables. The others have equal chances.
    """
    u = torch.rand(batch.shape, generator=generator, device=batch.value.device)
    if keep is not None:
        u = u - keep[batch.variable].to(u.dtype)
    rank = torch.where(batch.latent, u, torch.inf).argsort(dim=1).argsort(dim=1)
    return batch.replace(valid=batch.valid & (batch.condition_mask | (rank < n_max)))


@dataclass(frozen=True)
class Attention:
    """Who may attend: `frozen` among frozen, `active` among active, `context` active to frozen.

    (B, m) where only padding counts, (B, n, m) with a dependency mask.
    """

    frozen: Tensor
    active: Tensor
    context: Tensor


def attention(
    frozen: TokenBatch, active: TokenBatch, dependency: Tensor | None = None, past: Tensor | None = None
) -> Attention:
    """Attention masks from padding and, if given, from the dependency mask. Every token attends to itself.

    Args:
        dependency: bool, (n_ids, n_ids) for all rows or (B, n_ids, n_ids) one a row, [query id, key id].
        past: bool (D, n_ids, n_ids), [index dim, query id, key id] as in `graph.past_only`: the query does not attend
            to what is later along that dim.
    """
    if dependency is None:
        return Attention(frozen.valid, active.valid, frozen.valid)

    def pairs(query: TokenBatch, key: TokenBatch) -> Tensor:
        q, k = query.variable[:, :, None], key.variable[:, None, :]
        if dependency.dim() == 2:
            allowed = dependency[q, k]
        else:
            row = torch.arange(query.shape[0], device=q.device)[:, None, None]
            allowed = dependency[row, q, k]
        for dim, ordered in enumerate(() if past is None else past):
            later = key.index[:, None, :, dim] > query.index[:, :, None, dim]
            allowed = allowed & ~(ordered[q, k] & later)
        if query is key:
            allowed = allowed | torch.eye(query.shape[1], dtype=torch.bool, device=q.device)
        return allowed & key.valid[:, None, :]

    return Attention(pairs(frozen, frozen), pairs(active, active), pairs(active, frozen))


def allows_all(dependency: Tensor, *batches: TokenBatch) -> bool:
    """No edge (n_ids, n_ids) between ids of these batches is missing: a mask of pairs would say what padding says."""
    here = torch.zeros(len(dependency), dtype=torch.bool, device=dependency.device)
    for batch in batches:
        here[batch.variable[batch.valid]] = True
    return bool(dependency[here][:, here].all())
