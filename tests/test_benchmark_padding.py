"""The padding that benchmarks/padding.py counts is that of training's own rows."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

import fsimformer as fsf
from fsimformer.masks import KINDS
from fsimformer.simulators import FunctionSimulator
from fsimformer.tokens import TokenBatch

SCHEMA = fsf.Schema(
    (
        fsf.Variable("a", "parameter", prior=fsf.Normal()),
        fsf.Variable("total", "data"),
        fsf.Variable("y", "data", ("time",)),
    ),
    (fsf.Index("time", 0.0, 1.0),),
)
GRID = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)


def simulate(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    a = torch.randn(n, generator=generator, dtype=torch.float64)
    y = a[:, None] + torch.randn(n, 11, generator=generator, dtype=torch.float64)
    return {"a": a, "total": y.sum(1), "y": y}


def test_a_variable_without_an_index_is_observed_in_every_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in training: it lies at no place, so it is not beyond the place that a forecast starts from."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    padding = importlib.import_module("padding")
    rows, drawn = list[TokenBatch](), padding.observed_rows

    def spy(*args: Any, **options: Any) -> TokenBatch:
        rows.append(drawn(*args, **options))
        return rows[-1]

    monkeypatch.setattr(padding, "observed_rows", spy)
    monkeypatch.setattr(padding, "N_POOLS", 1)
    monkeypatch.setattr(padding, "N_SIMULATIONS", 100)
    masks = fsf.MaskConfig(**dict.fromkeys(KINDS, 0.0) | {"forecast": 1.0})
    config = fsf.TrainConfig(steps=4, batch_size=32, n_micro=2, pool=2)
    found = padding.waste(FunctionSimulator(SCHEMA, simulate, {"time": GRID}), config, masks, None)
    assert 0 <= found["trained"] < found["unsorted"] < 1
    (batch,) = rows
    totals = batch.valid & (batch.variable == SCHEMA.ids("total")[0])
    assert totals.any(1).all() and bool(batch.condition_mask[totals].all())
