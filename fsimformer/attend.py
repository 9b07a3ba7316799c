"""Attention of replicates to a context that they share and to their own tokens: one softmax over both.

    a_r = softmax([Q_r K_cᵀ + M_c, Q_r K_rᵀ + M_r] / √d as one row) [V_c; V_r],   r = 1 … R.

One replicate a row is ordinary attention, through `scaled_dot_product_attention`. Several fold their queries into one
matrix product against the context, whose keys are never copied; bias and scale ride along in the products.

Shapes: B rows, H heads, R replicates, n_f context and n own tokens, d channels a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_BLOCKED = -1e9  # finite: a padded query whose keys are all blocked must not become NaN
_MANY = 16  # own tokens from which on copying the context costs less than writing logits down (docs/speed.md)
_LONG = 200  # context tokens from which on a second softmax and a merge cost less than copies (docs/speed.md)
_DIVISORS = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")  # no promise of torch's
_COPIED = 1_000_000  # numbers of the context's keys that are copied at a time


@dataclass(frozen=True)
class Bias:
    """What is added to the logits, in the form that `attend` takes; None = nothing is blocked.

    Args:
        context, own: one replicate: None and (B, 1 or H, n, n_f + m); several: (B·H, 1 or R·n, n_f),
            (B·H·R, 1 or n, m).
    """

    context: Tensor | None
    own: Tensor | None


def additive(attend: Tensor, like: Tensor) -> Tensor:
    """Bool (B, m) or (B, n, m), True = may attend -> additive (B, 1 or n, m)."""
    bias = torch.zeros_like(attend, dtype=like.dtype).masked_fill_(~attend, _BLOCKED)
    return bias[:, None] if attend.dim() == 2 else bias


def biases(
    attend: Tensor, attend_context: Tensor, h: Tensor, n_heads: int, far: tuple[Tensor, Tensor] | None = None
) -> Bias:
    """Once for all layers, unless logits fall with the distance by a slope of each layer's own.

    Args:
        attend, attend_context: (B, m) or (B, n, m), and (B, n_f) or (B, n, n_f) bool; m own keys, as a rule n.
        h: (B, R, n, W).
        far: what is added to the logits besides, to the context (B, H, n, n_f) and to own tokens (B, H, n, m).
    """
    (b, r, n, _), n_f, m = h.shape, attend_context.shape[-1], attend.shape[-1]
    on_cpu = h.device.type == "cpu"  # elsewhere asking what masks hold costs a wait
    if far is None and on_cpu and bool(attend.all()) and bool(attend_context.all()):
        return Bias(None, None)
    own, context = additive(attend, h)[:, None], additive(attend_context, h)[:, None]  # (B, 1 or H, 1 or n, ·)
    if far is not None:
        context, own = context + far[0], own + far[1]
    if r == 1:
        return Bias(None, torch.cat([context.expand(-1, -1, n, n_f), own.expand(-1, -1, n, m)], -1))
    own = own[:, :, None].expand(-1, n_heads, r, -1, -1).reshape(b * n_heads * r, own.shape[2], m)
    if far is None and on_cpu and bool(attend_context.all()):
        return Bias(None, own)
    rows = 1 if context.shape[2] == 1 else r * n
    return Bias(
        context[:, :, None].expand(-1, n_heads, rows // context.shape[2], -1, -1).reshape(b * n_heads, rows, n_f),
        own,
    )


def attend(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, bias: Bias) -> Tensor:
    """q (B, H, R, n, d); k, v (B, H, R, m, d); keys, values (B, H, n_f, d) -> (B, R, n, H·d)."""
    b, heads, r, n, d = q.shape
    n_f, m = keys.shape[2], k.shape[3]
    if r == 1:
        q, k, v = q[:, :, 0], k[:, :, 0], v[:, :, 0]
        if n_f:
            k, v = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        mask = None if bias.own is None else bias.own.to(q.dtype)
        a = scaled_dot_product_attention(q, k, v, attn_mask=mask)  # (B, H, n, d)
        return a.transpose(1, 2).reshape(b, 1, n, heads * d)
    if bias.context is None and not torch.is_grad_enabled():
        if n_f >= _LONG and q.device.type == "cpu" and _DIVISORS:
            return _merged(q, k, v, keys, values, bias.own)
        if bias.own is None and (n_f == 0 or n >= _MANY or n_f >= _LONG):
            return _in_blocks(q, k, v, keys, values)
    scale, each = d**-0.5, b * heads * r
    q = q.reshape(b * heads, r * n, d)
    k, v = k.reshape(each, m, d), v.reshape(each, m, d)
    logits = _product(bias.own, q.reshape(each, n, d), k.mT, scale)
    if n_f == 0:
        a = logits.softmax(-1) @ v
    else:
        shared = _product(bias.context, q, keys.reshape(b * heads, n_f, d).mT, scale)
        weights = torch.cat([shared.view(each, n, n_f), logits], -1).softmax(-1)
        on_context, on_own = weights.split([n_f, m], -1)
        a = on_context.view(b * heads, r * n, n_f) @ values.reshape(b * heads, n_f, d)
        a = torch.baddbmm(a.view(each, n, d), on_own, v)
    return a.view(b, heads, r, n, d).permute(0, 2, 3, 1, 4).reshape(b, r, n, heads * d)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """As `attend`, where nothing is blocked and no gradient asked for, logits never written down.

    The context is copied for some replicates at a time.
    """
    b, heads, r, n, d = q.shape
    n_f = keys.shape[2]
    step = max(1, _COPIED // (b * heads * d * n_f)) if n_f else r
    out = q.new_empty(b, r, n, heads, d)
    for start in range(0, r, step):
        block = slice(start, start + step)
        mine, k_, v_ = (x[:, :, block].transpose(1, 2) for x in (q, k, v))  # (B, block, H, n, d)
        if n_f:
            own = (b, mine.shape[1], heads, n_f, d)
            k_ = torch.cat([keys[:, None].expand(own), k_], 3)
            v_ = torch.cat([values[:, None].expand(own), v_], 3)
        a = scaled_dot_product_attention(mine.flatten(0, 1), k_.flatten(0, 1), v_.flatten(0, 1))
        out[:, block] = a.view(b, -1, heads, n, d).transpose(2, 3)
    return out.flatten(-2)


def _merged(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `_in_blocks`, from one softmax over the context and one over own tokens, nothing copied.

    a = w a_own + (1 − w) a_context,   w = σ(ℓ_own − ℓ_context),   ℓ the logarithms of the two divisors.

    `bias`: (B·H·R, 1 or n, m), of own tokens that are blocked from each other.
    """
    b, heads, r, n, d = q.shape
    with_divisor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the public call does not return ℓ
    far, far_log = with_divisor(q.reshape(b, heads, r * n, d), keys, values)
    if bias is not None:
        bias = bias.expand(-1, n, -1).view(b, heads, r, n, -1).transpose(1, 2).reshape(b * r, heads, n, -1).to(q.dtype)
    mine = (x.transpose(1, 2).reshape(b * r, heads, -1, d) for x in (q, k, v))
    own, own_log = with_divisor(*mine, attn_mask=bias)
    far, far_log = far.view(b, heads, r, n, d).transpose(1, 2), far_log.view(b, heads, r, n).transpose(1, 2)
    weight = (own_log.view(b, r, heads, n) - far_log).sigmoid()[..., None]
    a = torch.lerp(far.to(weight), own.view(b, r, heads, n, d).to(weight), weight)
    return a.transpose(2, 3).reshape(b, r, n, heads * d)


def _product(bias: Tensor | None, x: Tensor, y: Tensor, scale: float) -> Tensor:
    """bias + scale · x y."""
    return (x * scale) @ y if bias is None else torch.baddbmm(bias, x, y, alpha=scale)
