"""Benchmarks of functions measure what they say: densities by the chain rule, tasks of the neural-process field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fsimformer.schema import Schema
from fsimformer.whiten import Standardise, Transform, Whitening

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def predator_prey(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import predator_prey

    return predator_prey


def test_the_chain_rule_over_blocks_gives_a_process_its_density(predator_prey):
    found = predator_prey.validate(n=2, n_context=6, n_targets=10, noises=(0.3,), settings=((16, 4), (16, 10)))
    assert found["rows"][0]["block"] != found["rows"][1]["block"]
    for row in found["rows"]:
        assert row["largest"] < 0.01  # nats a target


@pytest.fixture
def whitening(predator_prey) -> Whitening:
    schema: Schema = predator_prey.series_alone().schema
    return Whitening({v.name: Transform(None, v.support, Standardise(3.0, 1.5)) for v in schema.variables})


def test_the_tasks_observe_and_ask_what_the_field_does(predator_prey, whitening):
    schema = predator_prey.series_alone().schema
    grid = predator_prey.SIMULATOR.grid["time"]
    for task in predator_prey.TASKS:
        sets, jacobians = predator_prey.data_sets(task, whitening, schema, 3)
        for one, jacobian in zip(sets, jacobians, strict=True):
            both = torch.cat([one.context.index, one.targets.index])[:, 0].double()
            ids = torch.cat([one.context.variable, one.targets.variable])
            counts = [int((ids == i).sum()) for i in (0, 1)]
            assert all(150 <= n <= 250 for n in counts)
            time = (both + 1) / 2 * float(grid[-1])
            steps = time / predator_prey.SIMULATOR.step
            assert (steps - steps.round()).abs().max() < 1e-3  # Euler points: nothing is interpolated
            assert len(torch.unique(torch.stack([ids.double(), steps.round()], 1), dim=0)) == sum(counts)
            # log |dx/dz| of x = exp(3 + 1.5 z)
            exact = (3.0 + 1.5 * one.targets.value.double() + np.log(1.5)).sum()
            torch.testing.assert_close(jacobian, exact, rtol=1e-6, atol=0)
            when, asked = one.targets.index[:, 0], one.targets.variable
            if task == "interpolation":
                assert [int((asked == i).sum()) for i in (0, 1)] == [100, 100]
                continue
            assert (when.diff() >= 0).all()  # the chain goes forward in time
            cut_species = asked.unique().tolist()
            assert len(cut_species) == (2 if task == "forecasting" else 1)
            for i in cut_species:
                assert one.context.index[one.context.variable == i, 0].max() < when.min()
