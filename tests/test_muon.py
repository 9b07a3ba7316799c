"""Muon in batches is Muon."""

from __future__ import annotations

import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.muon import Muon, orthogonalised

SHAPES = ((24, 8), (8, 24), (8, 8), (24, 8), (16, 8))


def matrices(seed: int = 0) -> list[Tensor]:
    g = seeded(seed)
    return [torch.randn(s, generator=g) for s in SHAPES]


def test_a_batch_of_matrices_is_one_by_one() -> None:
    """Whatever their shapes, and whoever lies down beside them."""
    mine = matrices()
    for m, u in zip(mine, orthogonalised(mine), strict=True):
        torch.testing.assert_close(u, orthogonalised([m])[0], rtol=0, atol=1e-5)
        assert u.shape == m.shape


def test_singular_vectors_stay_and_values_become_about_one() -> None:
    for m, u in zip(matrices(), orthogonalised(matrices()), strict=True):
        left, _, right = torch.linalg.svd(m, full_matrices=False)
        core = left.mT @ u @ right.mT
        assert (core - core.diag().diag()).abs().max() < 1e-3
        assert 0.6 < float(core.diag().min()) <= float(core.diag().max()) < 1.25


def test_steps_are_those_of_torch() -> None:
    """Which rounds to bfloat16 on the way: three digits."""
    start = matrices()
    weights = {}
    for kind in ("ours", "torch"):
        ps = [torch.nn.Parameter(m.clone()) for m in start]
        ours = Muon(ps, lr=0.02, weight_decay=0.1)
        optimizer = ours if kind == "ours" else torch.optim.Muon(
            ps, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
        )  # fmt: skip
        for k in range(4):
            for p, g in zip(ps, matrices(k + 1), strict=True):
                p.grad = g
            optimizer.step()
        weights[kind] = [p.detach() for p in ps]
        assert {*optimizer.state[ps[0]]} == {"momentum_buffer"}  # what a checkpoint keeps
    for a, b, m in zip(weights["ours"], weights["torch"], start, strict=True):
        assert (a - b).norm() < 0.02 * (b - m).norm()


def test_a_checkpoint_of_torch_s_goes_on_and_nothing_is_ignored() -> None:
    """Checkpoints were written when the groups still held torch's own defaults."""
    ps = [torch.nn.Parameter(m) for m in matrices()]
    for p, g in zip(ps, matrices(1), strict=True):
        p.grad = g
    old, new = torch.optim.Muon(ps, lr=0.02, momentum=0.9), Muon(ps)
    old.step()
    new.load_state_dict(old.state_dict())
    assert new.param_groups[0]["lr"] == 0.02 and new.param_groups[0]["momentum"] == 0.9
    assert new.param_groups[0].keys() == old.param_groups[0].keys() and len(new.state) == len(ps)
    for p in ps:
        assert torch.equal(new.state[p]["momentum_buffer"], old.state[p]["momentum_buffer"])
    new.step()
    for option in ("nesterov", "ns_steps", "ns_coefficients", "eps", "adjust_lr_fn"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            Muon(ps, **{option: None})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"a group sets \['nesterov'\], which are fixed here"):
        Muon([{"params": ps, "nesterov": False}])
    with pytest.raises(ValueError, match="2D"):
        Muon([torch.nn.Parameter(torch.zeros(3))])
