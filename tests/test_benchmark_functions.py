"""Benchmarks of functions measure what they say: densities by the chain rule, tasks of the neural-process field."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fsimformer.kernels import Kernel
from fsimformer.schema import Schema
from fsimformer.tokens import TokenSet, collate
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


def test_correlated_noise_has_the_kernel_on_the_latent_function_and_is_white_elsewhere(monkeypatch):
    """Cov ε = K on latent tokens of theta, the identity on all others, exactly: ε is linear in standard normals."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import correlated_noise

    at = torch.tensor([-1.0, 0.2, 0.2001, 1.0, 0.2])[:, None]
    variable, observed = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0, 0, 0, 0, 1]).bool()
    batch = collate([TokenSet(variable, at, torch.zeros(5), observed)])
    kernel = Kernel(1.5, 0.3)
    noise = correlated_noise.correlated(torch.eye(5)[None], batch, 0, kernel)[0].double()  # rows: L of each unit vector
    exact = torch.eye(5, dtype=torch.float64)
    exact[:3, :3] = kernel((at[:3].double() + 1) / 2, (at[:3].double() + 1) / 2)
    torch.testing.assert_close(noise.T @ noise, exact, atol=2e-6, rtol=0)
