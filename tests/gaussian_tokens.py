"""Rows of tokens with an exact posterior: a linear Gaussian model, and a function read at some places."""

from __future__ import annotations

import torch

from fsimformer.tokens import TokenBatch

USES = ((False,), (False,), (False,), (False,), (True,))
IS_PARAMETER = torch.tensor([True, True, False, False, False])
MIX = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
SD = 0.4


def gaussian_rows(n: int, generator: torch.Generator, sign: float = 1.0) -> TokenBatch:
    """θ ~ N(0, I₂), x = ±MIX θ + SD ε, and 0 to 5 readings of a function: θ₁ t."""
    theta = torch.randn(n, 2, generator=generator)
    x = sign * theta @ MIX.T + SD * torch.randn(n, 2, generator=generator)
    t = 2 * torch.rand(n, 5, generator=generator) - 1
    value = torch.cat([theta, x, theta[:, :1] * t], 1)
    index = torch.cat([torch.zeros(n, 4), t], 1)[..., None]
    valid = torch.arange(9)[None] < 4 + torch.randint(0, 6, (n, 1), generator=generator)
    variable = torch.tensor([0, 1, 2, 3] + [4] * 5).expand(n, 9).contiguous()
    return TokenBatch(variable, index, value, torch.zeros_like(valid), valid)
