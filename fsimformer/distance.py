"""Logits that fall with the distance between two tokens along the index.

    b_lh(q, k) = −Σ_d slope_lhd |index_qd − index_kd|,    d over the dims that both tokens' variables have

is added to the logit of query q and key k in layer l and head h (arXiv 2108.12409, where slopes are fixed). It knows
differences alone, and grows beyond all that training saw without a jump: what is far away counts for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Places:
    """`index` (B, n, D) of tokens, and which dims of it their variable has, `uses` (B, n, D) bool."""

    index: Tensor
    uses: Tensor


class DistanceDecay(nn.Module):
    """The slopes: positive, learned as logarithms.

    They start at ¼ to 16 a unit of the index in [-1, 1], geometric over the heads, equal in all layers and dims.

    Args:
        uses_index: (n_ids, D), False = the id's variable lacks this index dim.
    """

    uses_index: Tensor

    def __init__(self, uses_index: Sequence[Sequence[bool]], depth: int, n_heads: int) -> None:
        super().__init__()
        uses = torch.tensor(uses_index, dtype=torch.bool).reshape(len(uses_index), -1)
        self.register_buffer("uses_index", uses, persistent=False)
        start = torch.linspace(math.log(0.25), math.log(16.0), n_heads)
        self.log_slope = nn.Parameter(start[None, :, None].repeat(depth, 1, uses.shape[1]))

    def places(self, variable: Tensor, index: Tensor) -> Places:
        """Of tokens with ids (B, n) at index (B, n, D)."""
        return Places(index, self.uses_index[variable])

    def bias(self, layer: int, query: Places, key: Places) -> Tensor:
        """(B, H, n, m), of n queries and m keys."""
        distance = (query.index[:, :, None] - key.index[:, None]).abs()
        distance = distance * (query.uses[:, :, None] & key.uses[:, None])
        return -torch.einsum("bnmd,hd->bhnm", distance, self.log_slope[layer].exp())
