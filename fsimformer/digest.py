"""A hash of named tensors: whose weights these are, which simulations those were."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor], before: bytes = b"") -> str:
    """SHA-256, hex, of `before` and of each tensor's name and bytes, in the order of the names.

    On whatever device, laid out in memory in whatever way; of any dtype, also those that numpy lacks (bfloat16).
    """
    out = hashlib.sha256(before)
    for name, x in sorted(tensors.items()):
        flat = x.detach().cpu().contiguous().flatten()
        out.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return out.hexdigest()
