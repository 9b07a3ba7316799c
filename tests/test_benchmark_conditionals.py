"""Reference draws of random conditionals against simulation: the truth behind an observation is one more draw.

Over many problems the rank of the truth among the reference draws is uniform, for every latent and for the log density
of the joint, which has no say in how references are drawn and also sees dependence and lost observations.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.stats import norm

Array = NDArray[np.float64]
Reference = Callable[[str, Any, int, int], Array]
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
M = 99


@pytest.fixture(scope="module")
def conditionals() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("conditionals")
    sys.path.remove(str(BENCHMARKS))


def log_tree(r: Array) -> Array:
    t1, t2, t3, x1, x2, x3, x4 = r.T
    out = norm.logpdf(t1) + norm.logpdf(t2, t1) + norm.logpdf(t3, t1) + norm.logpdf(x1, np.sin(t2) ** 2, 0.2)
    out += norm.logpdf(x2, 0.1 * t2**2, 0.2) + norm.logpdf(x3, 0.1 * t3**2, 0.6) + norm.logpdf(x4, np.cos(t3) ** 2, 0.1)
    return np.asarray(out)


def log_hmm(r: Array) -> Array:
    t, x = r[:, :10], r[:, 10:]
    steps = np.diff(t, axis=1, prepend=0.0)
    return np.asarray(norm.logpdf(steps, 0, 0.5).sum(1) + norm.logpdf(x, t**2, 0.5).sum(1))


def log_two_moons(r: Array) -> Array:
    a, b, x1, x2 = r.T
    radius = np.hypot(x1 - 0.25 + abs(a + b) / np.sqrt(2), x2 - (b - a) / np.sqrt(2))
    return np.asarray(norm.logpdf(radius, 0.1, 0.01) - np.log(radius))


def log_slcp(r: Array) -> Array:
    s1, s2, rho = r[:, 2] ** 2, r[:, 3] ** 2, np.tanh(r[:, 4])
    root = torch.zeros(len(r), 2, 2, dtype=torch.float64)
    for i, j, entry in ((0, 0, s1), (1, 0, rho * s2), (1, 1, s2 * np.sqrt(1 - rho**2))):
        root[:, i, j] = torch.from_numpy(entry)
    law = torch.distributions.MultivariateNormal(torch.from_numpy(r[:, :2].copy()), scale_tril=root)
    return sum(law.log_prob(torch.from_numpy(r[:, 5 + 2 * k : 7 + 2 * k].copy())).numpy() for k in range(4))


LOG_JOINT = {"tree": log_tree, "hmm": log_hmm, "two_moons": log_two_moons, "slcp": log_slcp}


def rows_of(problem: Any, draws: Array) -> Array:
    """Draws with the observed values in their columns."""
    rows = np.repeat(problem.value[None], len(draws), 0)
    rows[:, ~problem.observed] = draws
    return rows


def levels(module: ModuleType, task: str, n: int, seed: int, reference: Reference | None = None) -> dict[str, Array]:
    """Ranks of the truth in (0, 1): of every id over the problems where it is latent, and of the log joint."""
    out: dict[str, list[float]] = {}
    rng, joint = np.random.default_rng(seed), LOG_JOINT[task]
    for i, problem in enumerate(module.draw_problems(task, n, seed)):
        rows = rows_of(problem, (reference or module.reference)(task, problem, M, i))
        truth = problem.value[None]
        below = {f"id {k}": (rows[:, k] < truth[:, k]).sum() for k in np.flatnonzero(~problem.observed)}
        below["log joint"] = (joint(rows) < joint(truth)).sum()
        for name, count in below.items():
            out.setdefault(name, []).append((count + rng.random()) / (M + 1))
    return {k: np.array(v) for k, v in out.items()}


def worst_p(found: dict[str, Array]) -> float:
    """Smallest Kolmogorov–Smirnov p of uniform ranks, times the number of tests."""
    return len(found) * min(scipy.stats.kstest(v, "uniform").pvalue for v in found.values())


@pytest.mark.parametrize(("task", "n"), [("tree", 80), ("hmm", 120), ("two_moons", 300), ("slcp", 50)])
def test_the_truth_is_one_more_draw_of_the_reference(conditionals: ModuleType, task: str, n: int) -> None:
    assert worst_p(levels(conditionals, task, n, 3)) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("task", ["tree", "hmm", "two_moons", "slcp"])
def test_the_truth_is_one_more_draw_over_many_problems(conditionals: ModuleType, task: str) -> None:
    assert worst_p(levels(conditionals, task, 500, 4)) > 0.01


@pytest.mark.parametrize("wrong", ["narrow", "shifted", "forgetful", "independent"])
@pytest.mark.parametrize(("task", "n"), [("hmm", 150), ("two_moons", 300)])
def test_wrong_references_are_rejected(conditionals: ModuleType, task: str, n: int, wrong: str) -> None:
    """Too narrow, shifted by an sd, blind to x, or without the draws' dependence."""

    def reference(task: str, problem: Any, n: int, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        if wrong == "forgetful":
            kept = problem.observed.copy()
            kept[len(kept) // 2 :] = False
            fewer = conditionals.Problem(kept, problem.value)
            return rows_of(fewer, conditionals.reference(task, fewer, n, seed))[:, ~problem.observed]
        draws = conditionals.reference(task, problem, n, seed)
        if wrong == "independent":
            return rng.permuted(draws, axis=0)
        mean, sd = draws.mean(0), draws.std(0)
        return mean + 0.7 * (draws - mean) if wrong == "narrow" else draws + sd

    assert worst_p(levels(conditionals, task, n, 5, reference)) < 1e-4


def test_problems_are_fair_coins_and_follow_from_the_seed(conditionals: ModuleType) -> None:
    problems, again = conditionals.draw_problems("tree", 2_000, 1), conditionals.draw_problems("tree", 2_000, 1)
    observed = np.stack([p.observed for p in problems])
    share = (2**6 - 1) / (2**7 - 1)  # all observed is left out
    assert not observed.all(1).any() and (~observed).all(1).any()
    np.testing.assert_allclose(observed.mean(0), share, atol=5 * 0.5 / 2_000**0.5)
    np.testing.assert_array_equal(np.stack([p.value for p in problems]), np.stack([p.value for p in again]))
    np.testing.assert_array_equal(observed, np.stack([p.observed for p in again]))
    first = conditionals.reference("tree", problems[0], 10, 7)
    np.testing.assert_array_equal(first, conditionals.reference("tree", problems[0], 10, 7))
    assert not np.array_equal(first, conditionals.reference("tree", problems[0], 10, 8))


def test_the_published_law_has_five_kinds_of_masks_and_observes_draws_of_slcp_whole(conditionals: ModuleType) -> None:
    n, se = 4_000, 0.5 / 4_000**0.5
    observed = conditionals.as_published("tree", n, 7, np.random.default_rng(0))
    parameter = np.arange(7) < 3
    coin = lambda p, k: p**k * (1 - p) ** (7 - k)  # noqa: E731  # one given mask of k tokens
    shares = {"joint": (np.zeros(7, bool), 0), "posterior": (~parameter, 4), "likelihood": (parameter, 3)}
    for mask, k in shares.values():
        by_chance = 0.2 * (coin(0.3, k) + coin(0.7, k)) + (0.2 * (coin(0.3, 7) + coin(0.7, 7)) if k == 0 else 0)
        assert abs((observed == mask).all(1).mean() - 0.2 - by_chance) < 5 * se
    assert abs(observed.mean() - 0.2 * (4 / 7 + 3 / 7 + 0.3 + 0.7 * (1 - 0.7**6))) < 5 * se  # full ones observe nothing
    problems = conditionals.draw_problems("slcp", 500, 1, law=conditionals.as_published)
    pairs = np.stack([p.observed for p in problems])[:, 5:].reshape(500, 4, 2)
    assert (pairs[..., 0] == pairs[..., 1]).all() and not any(p.observed.all() for p in problems)
    assert 0.1 < pairs.any((1, 2)).mean() < 0.9


def test_draws_of_a_linear_density_are_those_of_its_cdf(conditionals: ModuleType) -> None:
    """p(x) = 2x on (0, 1): x = √u, with two grid points as with many, a row as a batch."""
    draw_on_grid = importlib.import_module("exact_grid").draw_on_grid
    u = np.linspace(0.01, 0.99, 50)
    for n in (2, 11):
        log_p = np.log(np.maximum(np.linspace(0, 1, n), 1e-200))[None]
        np.testing.assert_allclose(draw_on_grid(0.0, 1 / (n - 1), log_p, u[None])[0], np.sqrt(u), rtol=1e-9)
        rows = draw_on_grid(np.full(50, 3.0), 1 / (n - 1), np.repeat(log_p, 50, 0), u[:, None])[:, 0]
        np.testing.assert_allclose(rows, 3 + np.sqrt(u), rtol=1e-9)


def test_unknown_tasks_list_the_known_ones(conditionals: ModuleType) -> None:
    for call in (lambda: conditionals.draw_problems("sird"), lambda: conditionals.reference("sird", None, 2, 0)):
        with pytest.raises(KeyError, match="No task named 'sird'. Tasks: .'tree', 'hmm', 'two_moons', 'slcp'"):
            call()
