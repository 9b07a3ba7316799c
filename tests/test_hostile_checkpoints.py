"""A checkpoint that is damaged is refused before anything is filled from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import randomise

from fsimformer.checkpoint import Run, load_checkpoint, save_checkpoint


def trained() -> tuple[Run, torch.nn.Module, torch.optim.Optimizer]:
    module = torch.nn.Linear(3, 2)
    randomise(module)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(3)).sum().backward()
    optimizer.step()
    ema = {k: p.detach().clone() for k, p in module.named_parameters()}
    return Run(step=4, history=[(2, 1.0, 0.5)], ema=ema), module, optimizer


def test_a_damaged_checkpoint_fills_nothing(tmp_path: Path) -> None:
    run, module, optimizer = trained()
    path = tmp_path / "run.safetensors"
    save_checkpoint(path, run, dict(module.named_parameters()), [optimizer], {"steps": 9})
    data = path.read_bytes()
    tensors = load_file(path)
    meta = {"fsimformer": json.dumps({"run": vars(run) | {"ema": 0, "best": 0}, "settings": {"steps": 9}})}

    def written(changed: dict[str, torch.Tensor], **state: Any) -> bytes:
        entry = {"run": json.loads(meta["fsimformer"])["run"] | state, "settings": {"steps": 9}}
        save_file(changed, tmp_path / "other", {"fsimformer": json.dumps(entry)})
        return (tmp_path / "other").read_bytes()

    damages = [b"", data[:20], data[: len(data) // 2], data[:-1], b"\x80\x04K\x01.", bytes(99)]
    damages += [written({k: x for k, x in tensors.items() if k != "ema/bias"})]
    damages += [written({**tensors, "model/bias": torch.ones(1)})]  # copy_ would have broadcast it
    damages += [written({**tensors, "best/weight": torch.ones(2, 3, dtype=torch.int32)})]
    damages += [written(tensors, step="4"), written(tensors, history=[[1, 2]]), written(tensors, recent=None)]
    assert load_all(path, data).step == 4
    for damage in damages:
        with pytest.raises(ValueError, match="Checkpoint .* is damaged: .*remove it to start anew"):
            load_all(path, damage)


def load_all(path: Path, data: bytes) -> Run:
    """Load, and see that a failure left everything as it was."""
    path.write_bytes(data)
    run, module, optimizer = trained()
    run.step = 0
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
    optimizer.state.clear()
    try:
        load_checkpoint(path, run, dict(module.named_parameters()), [optimizer], {"steps": 9})
    except ValueError:
        assert run.step == 0 and not optimizer.state and all(not p.any() for p in module.parameters())
        raise
    return run
