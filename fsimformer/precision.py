"""In which precision the products of a network are computed.

bfloat16 keeps the range of float32 and 8 of its 24 bits. Layers' products and their queries, keys and values are in
it; the rest stays float32: the embedding of values and places, the noise level and its modulation, the residual
stream, its norms, the last layer, and all of the preconditioning around the network. So the error of a product, .4 %
of it, is one of F (denoise.py), which λ scales down as a draw comes to its end. What stays is that readings are known
to .4 %: where they fix a value to less than that, its posterior shifts.

Halves the memory of products and, on devices with units for it, more than that of their time.
"""

from __future__ import annotations

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def precision_named(name: str) -> torch.dtype:
    """The dtype.

    Raises:
        ValueError: with the choices.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision: expected one of {sorted(PRECISIONS)}, got {name!r}.")
    return PRECISIONS[name]


def products(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """Within it products of layers are computed in this precision."""
    lower = precision != torch.float32
    return torch.autocast(device.type, torch.bfloat16, enabled=lower)
