"""The benchmark of training while simulations arrive measures width and accuracy as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
X = np.array([0.3, -0.2, 1.0, 2.1])


@pytest.fixture
def online(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import online

    return online


def exact_draws(online, n: int) -> np.ndarray:
    """Draws whose mean and covariance are the exact posterior's, not only in expectation."""
    mean, covariance = online.posterior(X)
    z = np.random.default_rng(0).normal(size=(n, 2))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    return mean + z @ np.linalg.cholesky(covariance).T


def test_the_posterior_is_that_of_the_model(online) -> None:
    """Importance sampling from the prior: means and covariance of θ given x, x as `line` makes it."""
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(400_000, 2))
    weight = np.exp(-0.5 * (((X - theta @ online.DESIGN.T) / online.SD) ** 2).sum(1))
    mean, covariance = online.posterior(X)
    np.testing.assert_allclose(np.average(theta, axis=0, weights=weight), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(theta.T, aweights=weight), covariance, atol=0.005)
    made = [online.line(seed) for seed in range(2_000)]
    noise = np.array([m["x"][1] - online.DESIGN @ m["theta"][1] for m in made])
    np.testing.assert_allclose(noise.std(0), online.SD, rtol=5 / (2 * 2_000) ** 0.5)


def test_exact_draws_score_nothing_and_wrong_ones_what_they_are_off(online) -> None:
    draws, (mean, covariance) = exact_draws(online, 500), online.posterior(X)
    assert online.kl(X, draws) == pytest.approx(0, abs=1e-12) == online.width(X, draws)
    narrow = mean + 0.9 * (draws - mean)
    assert online.width(X, narrow) == pytest.approx(np.log(0.9))
    assert online.kl(X, narrow) == pytest.approx(1 / 0.81 - 1 + 2 * np.log(0.9))  # k (r² − 1 − 2 log r)/2, r = 1/.9
    shift = np.linalg.cholesky(covariance)[:, 0]  # one sd off, as the posterior measures it
    assert online.kl(X, draws + shift) == pytest.approx(0.5) and online.width(X, draws + shift) == pytest.approx(0)


def test_variants_are_compared_seed_by_seed(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_scale import online_accuracy

    def row(seed: int, reserve: float, kl: float, width: float, simulations: int = 500) -> dict[str, float]:
        found = {"kl": kl, "width": width, "floor": 0.001}
        return {"seed": seed, "reserve": reserve, "simulations": simulations} | found

    rows = [row(0, 0.5, 0.03, -0.06), row(0, 1.0, 0.01, -0.02), row(1, 1.0, 0.05, 0.04), row(1, 0.5, 0.07, 0.02)]
    rows += [row(0, 0.5, 0.02, 0.01, 4_000)]
    text = "\n".join(online_accuracy({"steps": 5, "n": 9, "observations": 3, "rows": rows}))
    whole = "| 500 | 1 | 2 | 0.0300 ± 0.0200 |  | 0.010 ± 0.030 |  | 0.0010 |"
    half = "| 500 | 0.5 | 2 | 0.0500 ± 0.0200 | +0.0200 ± 0.0000 | -0.020 ± 0.040 | -0.030 ± 0.010 | 0.0010 |"
    assert text.index(whole) < text.index(half)
    assert "| 4,000 | 0.5 | 1 | 0.0200 |  | 0.010 |  | 0.0010 |" in text

    from tables_scale import arrivals

    rows = [{**x, "mean_error_sd": 2 * x["kl"]} for x in rows[:4]]
    text = "\n".join(arrivals([{"simulations": 8_000, "steps": 5, "rows": rows}]))
    kl, width = "0.0500 ± 0.0200 | +0.0200 ± 0.0000", "-0.020 ± 0.040 | -0.030 ± 0.010"
    assert f"| 8,000 | 0.5 | 2 | {kl} | {width} | 0.100 ± 0.040 | +0.040 ± 0.000 |" in text


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_the_ode_finds_the_posterior_that_a_network_believes_in(monkeypatch, factor: float) -> None:
    """The exact F of a Gaussian of mean 0.8 x and sd √0.2, or of one narrower."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import arrivals

    def exact(weights: list[Tensor], y: Tensor, log_ratio: Tensor, x: Tensor) -> Tensor:
        ratio = log_ratio.exp()
        scale, precision = (1 + ratio**2).sqrt(), 1 / (factor * arrivals.SD) ** 2
        y = y * scale
        estimate = (0.8 * 1.25**0.5 * x * precision + y / ratio**2) / (precision + 1 / ratio**2)
        return (estimate - y / scale**2) * scale / ratio

    monkeypatch.setattr(arrivals, "network", exact)
    log_sd, off = arrivals.posteriors([torch.zeros(2, 8, 4)])
    torch.testing.assert_close(log_sd, torch.full((2, 16), float(np.log(factor))), rtol=0, atol=0.002)
    mean = 0.8 * 1.25**0.5 * torch.special.ndtri((torch.arange(16) + 0.5) / 16)
    begun_at_0 = -mean * float(np.exp(-4)) * factor  # the start's share of the mean
    torch.testing.assert_close(off, begun_at_0.expand(2, -1), rtol=0, atol=0.003)


def test_variants_see_the_same_simulations_as_often(monkeypatch) -> None:
    """In another order: with reserve 1 the first steps see late ones, with less they do not."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import arrivals

    orders = {r: arrivals.order(1_600, 100, r, seed=0) for r in arrivals.RESERVES}  # 12,800 draws: 8 views
    for seen in orders.values():
        assert torch.equal(torch.bincount(seen.flatten(), minlength=1_600), torch.full((1_600,), 8))
    assert int(orders[1.0][:10].max()) >= 1_500 and int(orders[0.5][:10].max()) < 400
    theta, x = arrivals.simulations_of(3, 20_000).T
    slope = float((theta * x).mean() / (x * x).mean())
    assert slope == pytest.approx(0.8 * 1.25**0.5, abs=0.02)
    assert float((theta - slope * x).std()) == pytest.approx(arrivals.SD, rel=0.02)
