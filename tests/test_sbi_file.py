"""A trained estimator on disk: what is read back is what was written, and what is damaged is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import randomise, seeded

import fsimformer
from fsimformer.denoise import Denoiser
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi import Estimator, FlowMatchingSimformer, Simformer, load
from fsimformer.sbi.estimator import Columns

EDGES = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)


def estimator() -> Estimator:
    rows = torch.randn(300, 3, 2, generator=seeded())
    rows[:, 2, 1] = rows[:, 2, 1] ** 9  # heavy tails
    rows[::4, 2, 1] = torch.nan
    network = Network(NetworkConfig(((),) * 6, width=16, depth=1, n_heads=2))
    randomise(network, gain=0.7)
    return Estimator(Denoiser(network.eval(), "rectified"), "rectified", Columns.fit(rows), EDGES)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    written, state = estimator(), torch.get_rng_state()
    for edges in (EDGES, None):
        written = replace(written, edge_mask=edges)
        written.save(tmp_path / "e")  # the second replaces the first
        read = load(tmp_path / "e")
        assert read.columns == written.columns and read.schedule == written.schedule
        assert any(s.tail is not None for s in read.columns.standardise) and any(read.columns.gaps)
        assert (read.edge_mask is None) == (edges is None)
        assert edges is None or (read.edge_mask is not None and torch.equal(read.edge_mask, edges))
        draws = [
            Simformer().build_conditional([0, 1, 1], None, e).sample((4,), x=[1.0, 0.0, 0.5, torch.nan], seed=0)
            for e in (written, read)
        ]
        assert torch.equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_was_trained_can_be_kept(tmp_path: Path) -> None:
    tiny = NetworkConfig(width=8, depth=1, n_heads=2)
    inference = FlowMatchingSimformer([0], [1], network=tiny).append_simulations(torch.randn(40, 2, generator=seeded()))
    inference.train(max_num_epochs=1).save(tmp_path / "e")
    again = FlowMatchingSimformer([0], [1]).build_posterior(load(tmp_path / "e"))
    assert torch.equal(again.sample((3,), x=[0.5], seed=0), inference.build_posterior().sample((3,), x=[0.5], seed=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.update(colour="red"), r"unknown keys \['colour'\], missing keys \[\]"),
        (lambda card: card.pop("schedule"), r"missing keys \['schedule'\]"),
        (lambda card: card.update(format=2), "expected format 'sbi 1', got 2; fsimformer.load reads"),
        (lambda card: card["network"].update(colour="red"), r"unknown network keys \['colour'\]"),
        (lambda card: card["network"].update(depth=2), "does not hold the weights of this model"),
        (lambda card: card["columns"].update(colour="red"), r"unknown keys \['colour'\]"),
        (lambda card: card["columns"]["standardise"][0].pop("loc"), r"missing keys \['loc'\]"),
        (lambda card: card["columns"].update(gaps=3), r"columns: expected gaps as tuple\[bool, \.\.\.\], got 3"),
        (lambda card: card["columns"]["standardise"].pop(), "expected 6 entries"),
        (lambda card: card.update(edge_mask=[[1]]), r"edge_mask: expected shape \(3, 3\)"),
        (lambda card: card.update(schedule="ve"), "ve"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    estimator().save(tmp_path / "e")
    card = json.loads((tmp_path / "e" / "model.json").read_text())
    change(card)
    (tmp_path / "e" / "model.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "e")


def test_what_is_no_estimator_is_neither_read_nor_overwritten(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model directory: no model.json in it"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no model directory: it does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no model directory"):
        estimator().save(tmp_path)
    estimator().save(tmp_path / "e")
    with pytest.raises(ValueError, match="'sbi 1'; it was saved by fsimformer.sbi: read it with fsimformer.sbi.load"):
        fsimformer.load(tmp_path / "e")
