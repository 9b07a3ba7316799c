"""Muon: momentum, orthogonalised, for the weight matrices of the layers (arXiv 2502.16982).

    M ← β M + (1 − β) G,   U = NS((1 − β) G + β M),   W ← (1 − ηω) W − η · 0.2 √max(m, n) · U,

NS five Newton–Schulz steps X ← a X + (b XXᵀ + c (XXᵀ)²) X from X = G/‖G‖: the singular values of U lie about 1.
`torch.optim.Muon` steps matrix by matrix; here all matrices of one shape, lying down, are one batch of products. A
network of width 64 has many that small: 16 of them cost 240 calls there and 45 here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315  # slope at 0 as steep as five steps allow
_CHOSEN = ("params", "lr", "weight_decay", "momentum")


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The matrices (m, n), singular values brought to about 1, in their order.

    Equal shapes, transposed or not, go together. On a CPU in float32, where bfloat16 gains nothing; else in bfloat16.
    """
    alike: dict[tuple[int, int], list[int]] = {}
    for i, m in enumerate(matrices):
        alike.setdefault((min(m.shape), max(m.shape)), []).append(i)
    out = list(matrices)
    for which in alike.values():
        tall = [matrices[i].shape[0] > matrices[i].shape[1] for i in which]
        x = torch.stack([matrices[i].T if t else matrices[i] for i, t in zip(which, tall)])
        x = x if x.device.type == "cpu" else x.bfloat16()
        x = x / x.flatten(1).norm(dim=1).clamp(min=1e-7)[:, None, None]
        for _ in range(5):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
        for i, t, u in zip(which, tall, x.unbind()):
            out[i] = u.T if t else u
    return out


class Muon(torch.optim.Muon):
    """Torch's Muon, its matrices stepped in batches; the step is scaled to AdamW's size.

    What torch lets one choose besides (Nesterov's momentum or not, the Newton–Schulz steps, the scale) is fixed above.
    State and groups are named as torch's, so that a checkpoint of either is read by the other.

    Args:
        params: matrices, or groups of them.
        lr: η. weight_decay: ω. momentum: β.

    Raises:
        ValueError: a parameter that is no matrix; a negative number; a group with another option.
        TypeError: any other option.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw")
        for group in self.param_groups:
            if fixed := [k for k, v in self.defaults.items() if k not in _CHOSEN and group[k] != v]:
                raise ValueError(f"Muon: a group sets {fixed}, which are fixed here; choices: {list(_CHOSEN)}.")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step from the gradients; a closure is evaluated first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            mine = [p for p in group["params"] if p.grad is not None]
            if not mine:
                continue
            grads = [p.grad for p in mine]
            for p in mine:
                self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            momenta = [self.state[p]["momentum_buffer"] for p in mine]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            updates = orthogonalised(torch._foreach_lerp(grads, momenta, group["momentum"]))
            torch._foreach_mul_(mine, 1 - group["lr"] * group["weight_decay"])
            sizes = [-0.2 * group["lr"] * max(p.shape) ** 0.5 for p in mine]
            for p, update, size in zip(mine, updates, sizes):
                p.add_(update.to(p.dtype), alpha=size)
        return loss
