"""A digest tells what differs, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from tiny import joint

import fsimformer.model_file
from fsimformer.digest import digest


def test_it_is_the_hash_of_names_and_bytes() -> None:
    x, y = torch.arange(6.0).reshape(2, 3), torch.tensor(7)
    expected = hashlib.sha256(b"!" + b"x" + x.numpy().tobytes() + b"y" + y.numpy().tobytes()).hexdigest()
    assert digest({"y": y, "x": x}, b"!") == expected
    assert digest({"x": x.T.contiguous().T, "y": y}, b"!") == expected  # laid out in another way
    assert digest({"x": x}) != digest({"z": x}) != digest({"z": x + 1})


def test_of_every_dtype() -> None:
    """numpy has no bfloat16; its bytes are those of the upper half of a float32."""
    x = torch.tensor([1.5, -2.0, 0.25])
    upper = x.view(torch.int16)[1::2]  # little-endian
    assert digest({"x": x.bfloat16()}) == digest({"x": upper})
    for other in (x > 0, x.half(), x.double(), x[:0]):
        assert len(digest({"x": other})) == 64


def test_a_model_s_fingerprint_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tree of draws bears it; a model made of another one has its own."""
    calls = []

    def counted(*args: object) -> str:
        calls.append(1)
        return digest(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(fsimformer.model_file, "digest", counted)
    model = replace(joint().model)
    assert model.fingerprint == model.fingerprint and len(calls) == 1
    assert replace(model).fingerprint == model.fingerprint and len(calls) == 2
