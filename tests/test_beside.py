"""Tokens of each replicate's own beside a context that all share: as if the context had been told nothing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from random_network import random_network
from tiny import seeded

import fsimformer as fsf
from fsimformer import extension
from fsimformer.nn import Network

USES, K = ((False,), (True,), (True,)), 5


@pytest.mark.parametrize("n_f", [0, 7, 230])  # none, products, merged
@pytest.mark.parametrize("r", [1, 4])
@pytest.mark.parametrize("alone", [False, True])
def test_each_replicate_is_what_it_is_by_itself(n_f: int, r: int, alone: bool) -> None:
    """Against one long frozen row a replicate, whose first n_f tokens may not attend to the others. To 1e-5.

    `alone`: active tokens do not see each other, as residuals between knots do not.
    """
    net, g, n = random_network(USES, 32, 0.1), seeded(1), 6
    variable = torch.randint(0, 3, (1, n_f + K + n), generator=g)
    index = torch.rand(1, n_f + K + n, 1, generator=g) * 2 - 1
    readings, known = torch.randn(1, n_f, generator=g), torch.randn(1, r, K, generator=g)
    value, level = torch.randn(1, r, n, generator=g), torch.randn(1, r, generator=g)
    among = torch.eye(n, dtype=torch.bool)[None] if alone else torch.ones(1, n, n, dtype=torch.bool)
    context, added, asked = ((variable[:, s], index[:, s]) for s in (
        slice(0, n_f), slice(n_f, n_f + K), slice(n_f + K, None)))  # fmt: skip
    latent, every = torch.zeros(1, n, dtype=torch.bool), torch.ones(1, n_f, dtype=torch.bool)
    with torch.no_grad():
        once = net.encode(*context, readings, every)
        both = net.beside(once, *added, known, torch.ones(1, K, dtype=torch.bool), every)
        own = torch.cat([torch.ones(1, n, K, dtype=torch.bool), among], -1)
        found = net.decode(*asked, latent, value, level, both, own, every)
        may = torch.ones(1, n_f + K, n_f + K, dtype=torch.bool)
        may[:, :n_f, n_f:] = False
        for i in range(r):
            frozen = torch.cat([readings, known[:, i]], 1)
            whole = net.encode(variable[:, : n_f + K], index[:, : n_f + K], frozen, may)
            seen = torch.ones(1, n_f + K, dtype=torch.bool)
            one = net.decode(*asked, latent, value[:, i : i + 1], level[:, i : i + 1], whole, among, seen)
            torch.testing.assert_close(found[:, i : i + 1], one, rtol=0, atol=1e-5)


def outbreak(n: int) -> xr.Dataset:
    """n readings a series of one simulated outbreak, with their noise."""
    simulator, rng = fsf.simulators.SIRD(), np.random.default_rng(0)
    drawn, grid = simulator.simulate(3, seeded(4)), simulator.grid["time"].numpy()
    times = np.sort(rng.uniform(0, 50, n))
    clean = {k: np.exp(np.interp(times, grid, np.log(drawn[k][1].double().numpy()))) for k in simulator.schema.data}
    return xr.Dataset({k: ("time", x * np.exp(0.05 * rng.normal(size=n))) for k, x in clean.items()}, {"time": times})


def test_draws_between_knots_do_not_feel_that_readings_were_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of `sird`, with the same noise: each value moves by less than a hundredth of its posterior's sd."""
    calls: list[Any] = []
    own = Network.beside
    monkeypatch.setattr(Network, "beside", lambda self, *a: calls.append(1) or own(self, *a))
    asked = fsf.load("sird").condition(outbreak(40), judge=False)
    at = {"contact_rate": np.linspace(1.0, 49.0, 40)}
    shared = asked.sample(100, at, quality="fast", seed=1)["posterior"]["contact_rate"].to_numpy().reshape(100, -1)
    assert calls
    calls.clear()
    monkeypatch.setattr(extension, "_SHARED", 10**9)
    exact = asked.sample(100, at, quality="fast", seed=1)["posterior"]["contact_rate"].to_numpy().reshape(100, -1)
    assert not calls
    change = np.sqrt(np.square(shared - exact).mean(0)) / exact.std(0)
    assert 0 < change.max() < 0.01


def test_more_draws_change_none_where_readings_are_shared() -> None:
    asked = fsf.load("sird").condition(outbreak(40), judge=False)
    at = {"contact_rate": np.array([7.7, 31.1])}
    few, many = (
        asked.sample(n, at, quality="fast", seed=1)["posterior"]["contact_rate"].to_numpy().reshape(n, -1)
        for n in (4, 150)
    )
    np.testing.assert_allclose(many[:4], few, rtol=0, atol=1e-4)
