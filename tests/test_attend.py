"""Every way through `attend` is one softmax over context and own tokens."""

from __future__ import annotations

import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.attend import attend, biases

B, HEADS, D = 2, 3, 4


def tensors(r: int, n: int, n_f: int) -> list[Tensor]:
    g = seeded(1)
    own = [torch.randn(B, HEADS, r, n, D, generator=g) for _ in range(3)]
    return [*own, *(torch.randn(B, HEADS, n_f, D, generator=g) for _ in range(2))]


def one_by_one(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, may: Tensor) -> Tensor:
    """The definition, in float64: `may` (B, n, n_f + n)."""
    out = []
    for r in range(q.shape[2]):
        all_k, all_v = torch.cat([keys, k[:, :, r]], 2).double(), torch.cat([values, v[:, :, r]], 2).double()
        logits = q[:, :, r].double() @ all_k.mT / D**0.5
        out.append(logits.masked_fill(~may[:, None], -1e9).softmax(-1) @ all_v)
    return torch.stack(out, 1).transpose(2, 3).flatten(-2).float()


@pytest.mark.parametrize("divisors", [True, False])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("blocked", ["nothing", "padding", "pairs"])
@pytest.mark.parametrize(("r", "n", "n_f"), [(1, 5, 7), (1, 5, 0), (4, 5, 7), (4, 5, 0), (3, 17, 9), (3, 5, 210)])
def test_attention_is_its_definition(
    r: int, n: int, n_f: int, blocked: str, gradient: bool, divisors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5 in float32, whether or not rows are padded, pairs blocked, or a gradient asked for; in small blocks."""
    monkeypatch.setattr("fsimformer.attend._DIVISORS", divisors)  # whether torch has what merges two softmaxes
    monkeypatch.setattr("fsimformer.attend._COPIED", 2 * B * HEADS * D * max(1, n_f))  # two replicates at a time
    g = seeded(2)
    own, context = torch.ones(B, n, dtype=torch.bool), torch.ones(B, n_f, dtype=torch.bool)
    if blocked == "padding":
        own[1, 3:], context[1, 2:] = False, False
    elif blocked == "pairs":
        own = (torch.rand(B, n, n, generator=g) < 0.5) | torch.eye(n, dtype=torch.bool)
        context = torch.rand(B, n, n_f, generator=g) < 0.5
    parts = tensors(r, n, n_f)
    with torch.set_grad_enabled(gradient):
        bias = biases(own, context, torch.zeros(B, r, n, HEADS * D), HEADS)
        found = attend(*parts, bias)
    assert (bias.own is None) == (blocked == "nothing")
    whole = [(x if x.dim() == 3 else x[:, None].expand(-1, n, -1)) for x in (context, own)]
    torch.testing.assert_close(found, one_by_one(*parts, torch.cat(whole, -1)), rtol=0, atol=1e-5)
