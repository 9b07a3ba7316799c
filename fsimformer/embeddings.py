"""Embedding nets: an array variable (an image, a long regular trace) through the user's module into tokens.

    content (B, n_tokens, W) = reshape(Linear_k(features)),   features (B, n_tokens, k) or (B, n_tokens·k) = module(z)

with z the whitened array, float32. The content stands where other tokens have the features of their value. An array is
always observed, so its net runs once for all noise levels and draws; rows that lack the array are left out.

A module is code, and code is never read from a file (design.md, D8): who loads a model brings its modules again. Its
answer to one fixed array, kept in the model's file, tells another module with weights of the same shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fsimformer.schema import Schema
from fsimformer.tokens import TokenBatch

_EACH = 8  # numbers of each token that a fingerprint keeps


class ArrayEmbedding(nn.Module):
    """One array variable: (B, *shape) whitened -> (B, n_tokens, W)."""

    def __init__(self, module: nn.Module, ids: range, n_features: int, width: int) -> None:
        super().__init__()
        self.ids = ids
        self.module = module
        self.out = nn.Linear(n_features, width)

    def forward(self, array: Tensor) -> Tensor:
        return self.out(_per_token(self.module(array), len(self.ids)))


class ArrayEmbeddings(nn.Module):
    """The embeddings of all array variables, in the order of their ids."""

    def __init__(self, parts: list[ArrayEmbedding]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, arrays: Mapping[range, Tensor], *streams: TokenBatch) -> tuple[Tensor | None, ...]:
        """What each stream's tokens hold of the arrays, (B, L, W), 0 at other tokens; None where there are none.

        Args:
            arrays: ids -> (B, *shape), or (1, *shape) shared by all rows.
            streams: batches of the same B rows.
        """
        out: list[Tensor | None] = [None] * len(streams)
        for part in self.parts:
            assert isinstance(part, ArrayEmbedding)
            ids = part.ids
            mine = [s.valid & (s.variable >= ids.start) & (s.variable < ids.stop) for s in streams]
            present = torch.stack([m.any(1) for m in mine]).any(0).nonzero()[:, 0]
            if not len(present):
                continue
            shared = len(arrays[ids]) < len(streams[0].valid)
            tokens = part(arrays[ids] if shared else arrays[ids][present])
            if not shared:
                tokens = tokens.new_zeros(len(streams[0].valid), *tokens.shape[1:]).index_copy(0, present, tokens)
            tokens = tokens.expand(len(streams[0].valid), -1, -1)
            for i, (s, m) in enumerate(zip(streams, mine, strict=True)):
                place = (s.variable - ids.start).clamp(0, len(ids) - 1)[..., None].expand(-1, -1, tokens.shape[-1])
                content = torch.where(m[..., None], tokens.gather(1, place), 0.0)
                before = out[i]
                out[i] = content if before is None else before + content
        return tuple(out)


def build_embeddings(schema: Schema, width: int, modules: Mapping[str, nn.Module] | None) -> ArrayEmbeddings | None:
    """Untrained embeddings of the schema's arrays around copies of the modules; None where there are no arrays.

    A module starts from the weights it comes with. It must treat every row by itself and leave nothing to chance: batch
    norm would make a posterior depend on its neighbours, and dropout draws from the global random state.

    Raises:
        ValueError: modules for other variables than the schema's arrays, or that do not fit their shapes; the message
            lists the variables and their shapes.
    """
    arrays = schema.arrays
    if modules is not None and not isinstance(modules, Mapping):
        raise ValueError(f"embeddings: expected a mapping of variable -> torch module, got {type(modules).__name__}.")
    if modules and not arrays:
        raise ValueError(
            f"embeddings: this model has no array variables; leave embeddings out, got modules for {sorted(modules)}."
        )
    if set(modules or {}) != set(arrays):
        raise ValueError(
            f"embeddings: expected a torch module for each array variable (name: shape), {arrays}; got modules for "
            f"{sorted(modules or {})}. A module is code, which no model's file holds: pass embeddings={{name: module}}."
        )
    parts = []
    for name, shape in arrays.items():
        module = (modules or {})[name]
        if not isinstance(module, nn.Module):
            raise ValueError(f"embeddings: expected a torch module for {name!r}, got {type(module).__name__}.")
        n_features = _check_module(name, copy.deepcopy(module), shape, len(schema.ids(name)))
        own = copy.deepcopy(module).to("cpu", torch.float32).train()
        parts.append(ArrayEmbedding(own, schema.ids(name), n_features, width))
    return ArrayEmbeddings(parts) if parts else None


def fingerprints(schema: Schema, embeddings: ArrayEmbeddings) -> dict[str, list[float]]:
    """What each net answers to one fixed array: the first eight numbers of every token in turn, by variable name.

    A float32 copy on the CPU answers: devices and their settings (TF32) differ by more than modules may.
    """
    out = {}
    for (name, shape), part in zip(schema.arrays.items(), embeddings.parts, strict=True):
        own = copy.deepcopy(part).to("cpu", torch.float32).eval()
        with torch.no_grad():
            answer = own(_fixed(1, shape))
        out[name] = [float(x) for x in answer[0, :, :_EACH].flatten()]
    return out


def require_shapes(schema: Schema, embeddings: ArrayEmbeddings, weights: Mapping[str, Tensor]) -> None:
    """The nets have the weights, by name and shape, that a file holds for them.

    Args:
        weights: the file's, under the names that `embeddings.state_dict()` has.

    Raises:
        ValueError: the array's name, and up to three weights that differ, with both shapes.
    """
    for i, (name, part) in enumerate(zip(schema.arrays, embeddings.parts, strict=True)):
        assert isinstance(part, ArrayEmbedding)
        prefix = f"parts.{i}.module."
        mine = {k: tuple(p.shape) for k, p in part.module.state_dict().items() if not is_lazy(p)}
        lazy = part.module.state_dict().keys() - mine.keys()  # they take any shape
        theirs = {k.removeprefix(prefix): tuple(x.shape) for k, x in weights.items() if k.startswith(prefix)}
        unlike = [
            f"{k} {mine.get(k, 'absent')}, the file's is {theirs.get(k, 'absent')}"
            for k in {**mine, **theirs}
            if k not in lazy and mine.get(k) != theirs.get(k)
        ]
        if unlike:
            more = f"; and {len(unlike) - 3} more" if len(unlike) > 3 else ""
            raise ValueError(
                f"embeddings: the module passed for {name!r} has other weights: {'; '.join(unlike[:3])}{more}. Pass a "
                "module built as in training."
            )
        out = weights.get(f"parts.{i}.out.weight")
        if out is not None and out.shape != part.out.weight.shape:
            raise ValueError(
                f"embeddings: the module passed for {name!r} gives {part.out.in_features} features a token, the "
                f"trained one {out.shape[1]}. Pass a module built as in training."
            )


def require_fingerprints(schema: Schema, embeddings: ArrayEmbeddings, expected: Mapping[str, list[float]]) -> None:
    """The nets, with the weights of a file, answer as they did when it was written.

    Raises:
        ValueError: another module with weights of the same shapes.
    """
    for name, found in fingerprints(schema, embeddings).items():
        a, b = torch.tensor(found), torch.tensor(expected[name])
        a = a[:_EACH] if len(b) == _EACH else a  # earlier files hold the first token alone
        if a.shape != b.shape or not torch.allclose(a, b, rtol=1e-3, atol=1e-4):
            raise ValueError(
                f"embeddings: the module for {name!r} has weights of the right shapes but answers otherwise than the "
                "one that was trained; pass a module built in the same way."
            )


def _fixed(n: int, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) float32 of unit size, every row and place different."""
    k = torch.arange(n * int(torch.Size(shape).numel()), dtype=torch.float64)
    return (2**0.5 * torch.sin(k * k * 0.37 + k)).float().view(n, *shape)


def _per_token(features: Tensor, n_tokens: int) -> Tensor:
    return features if features.dim() == 3 else rearrange(features, "b (n k) -> b n k", n=n_tokens)


def _check_module(name: str, module: nn.Module, shape: tuple[int, ...], n_tokens: int) -> int:
    """Runs a copy of the module on four rows; returns the features a token."""
    module = module.to("cpu", torch.float32).train()
    sizes = torch.tensor([0.5, -1.0, 1.5, -2.0]).view(4, *(1 for _ in shape))  # halves of unlike variance: batch norm
    rows = sizes * _fixed(4, shape)
    place = f"embeddings: the module for {name!r}"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            whole = module(rows)
            parts = [module(rows[2 * i : 2 * i + 2]) for i in range(2)]
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{place} fails on float32 of shape {(4, *shape)}: {error}") from error
    if not isinstance(whole, Tensor):
        raise ValueError(f"{place}: expected it to return a tensor, got {type(whole).__name__}.")
    flat, apart = whole.dim() == 2 and whole.shape[1] % n_tokens == 0, whole.dim() == 3 and whole.shape[1] == n_tokens
    if whole.shape[0] != 4 or not (flat or apart) or whole.numel() == 0:
        raise ValueError(
            f"{place}: expected (B, {n_tokens}, k) or (B, {n_tokens}·k) features for {n_tokens} tokens, got "
            f"{tuple(whole.shape)} for B = 4."
        )
    if whole.dtype != torch.float32 or not bool(torch.isfinite(whole).all()):
        raise ValueError(f"{place}: expected finite float32 features of whitened arrays, got {whole.dtype}, {whole}.")
    if not torch.allclose(whole, torch.cat(parts), rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"{place}: a row's features depend on the other rows or on chance (batch norm, dropout); use GroupNorm or "
            "LayerNorm, and no dropout."
        )
    return whole.shape[-1] if apart else whole.shape[1] // n_tokens
