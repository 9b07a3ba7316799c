"""Ranks are uniform under the exact posterior, for every statistic, and under no other."""

from __future__ import annotations

import numpy as np
import pytest
from conjugate import WRONG, conjugate, paths

from fsimformer import functionals
from fsimformer.sbc import ranks, stride
from fsimformer.uniformity import rank_test

N, M = 400, 60  # 61 ranks: prime, no number of bins divides them
FUNCTIONALS = {
    "integral": functionals.integral,
    "maximum": functionals.maximum,
    "argmax": functionals.argmax,
    "first crossing": functionals.first_crossing(1.2),
    "total variation": functionals.total_variation,
    "value": functionals.value_at(0.33),
}


def p_of(truth: np.ndarray, draws: np.ndarray) -> float:
    return rank_test(ranks(truth, draws), draws.shape[1]).p_value


def log_density(truth: np.ndarray, x: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the exact posterior, up to a constant; a statistic of parameters and data as any."""
    return -((truth - x / 2) ** 2).sum(-1), -((draws - x[:, None] / 2) ** 2).sum(-1)


def test_rank_counts_the_draws_below() -> None:
    assert ranks(np.array([0.5, -1.0, 9.0]), np.array([[0.0, 1.0, 2.0]] * 3)).tolist() == [1, 0, 3]
    assert ranks(np.array([np.inf]), np.array([[0.0, 1.0]])).tolist() == [2]


def test_ties_take_every_place_as_often() -> None:
    found = ranks(np.zeros(9_000), np.array([[-1.0, 0.0, 0.0, 5.0]] * 9_000))
    assert np.bincount(found, minlength=5)[[0, 4]].tolist() == [0, 0]
    np.testing.assert_allclose(np.bincount(found)[1:4], 3_000, atol=160)  # 3.5 standard deviations


def test_the_exact_posterior_is_accepted() -> None:
    truth, x, draws = conjugate(N, M)
    assert p_of(truth[:, 0], draws[..., 0]) > 0.01
    assert p_of(truth @ [1, 2], draws @ [1, 2]) > 0.01
    assert p_of(*log_density(truth, x, draws)) > 0.01
    truth, draws, grid = paths(N, M)
    for name, f in FUNCTIONALS.items():
        assert p_of(f(truth, grid), f(draws, grid)) > 0.01, name


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_posteriors_are_rejected(wrong: str) -> None:
    truth, x, draws = conjugate(N, M, 2, *WRONG[wrong])
    assert p_of(truth[:, 0], draws[..., 0]) < 1e-4
    assert p_of(*log_density(truth, x, draws)) < 1e-4
    truth, draws, grid = paths(N, M, *WRONG[wrong])
    for name, f in FUNCTIONALS.items():
        assert p_of(f(truth, grid), f(draws, grid)) < 1e-2, name


def test_the_prior_passes_by_parameters_and_fails_by_the_log_density() -> None:
    """Ranks of θ alone cannot tell the posterior from the prior; a statistic of θ and x can (arXiv 2211.02383)."""
    truth, x, _ = conjugate(N, M)
    prior = np.random.default_rng(9).standard_normal((N, M, 2))
    assert p_of(truth[:, 0], prior[..., 0]) > 0.01
    assert p_of(*log_density(truth, x, prior)) < 1e-6


def chains(n: int, m: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the exact posterior, one dimension, in a chain of autocorrelation rho."""
    truth, x, fresh = conjugate(n, m, 1)
    s, z = np.sqrt(0.5), (fresh[..., 0] - x / 2) / np.sqrt(0.5)
    for j in range(1, m):
        z[:, j] = rho * z[:, j - 1] + np.sqrt(1 - rho**2) * z[:, j]
    return truth[:, 0], x / 2 + s * z


def test_ranks_of_a_chain_need_thinning() -> None:
    truth, draws = chains(N, 800, 0.98)
    assert p_of(truth, draws) < 1e-4  # correct draws, and yet
    k = stride(draws)
    assert 0.98**k < 0.1 and k < 200
    assert p_of(truth, draws[:, ::k]) > 0.01


def test_independent_draws_are_kept_all() -> None:
    _, _, draws = conjugate(N, M)
    assert stride(draws) == stride(draws[..., 0]) == 1


def test_errors_name_what_came() -> None:
    with pytest.raises(ValueError, match=r"truth \(n,\) and draws \(n, m\), got \(3,\) and \(2, 4\)"):
        ranks(np.zeros(3), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="ranks: 1 values are NaN"):
        ranks(np.zeros(2), np.array([[0.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(ValueError, match=r"m >= 4, got \(2, 3\)"):
        stride(np.zeros((2, 3)))


GRID = np.linspace(0, 2, 401)


def test_functionals_of_a_sine_are_its_closed_forms() -> None:
    f = np.sin(np.pi * GRID)[None]
    assert functionals.integral(f[:, :201], GRID[:201])[0] == pytest.approx(2 / np.pi, rel=1e-4)
    assert functionals.maximum(f, GRID)[0] == pytest.approx(1, abs=1e-9)
    assert functionals.argmax(np.sin(np.pi * GRID - 0.301)[None], GRID)[0] == pytest.approx(
        0.5 + 0.301 / np.pi, abs=1e-6
    )
    assert functionals.total_variation(f, GRID)[0] == pytest.approx(4, abs=1e-9)
    assert functionals.first_crossing(0.5)(f, GRID)[0] == pytest.approx(1 / 6, abs=1e-5)
    assert functionals.first_crossing(-0.5)(f, GRID)[0] == pytest.approx(7 / 6, abs=1e-5)
    assert functionals.first_crossing(1.5)(f, GRID)[0] == np.inf
    assert functionals.value_at(0.251)(f, GRID)[0] == pytest.approx(np.sin(0.251 * np.pi), abs=1e-4)


def test_the_maximum_at_an_end_or_on_an_uneven_grid_is_a_point_of_it() -> None:
    assert functionals.argmax(np.array([[3.0, 2.0, 0.0]]), np.array([0.0, 1.0, 2.0]))[0] == 0.0
    assert functionals.argmax(np.array([[1.0, 2.0, 1.9]]), np.array([0.0, 1.0, 5.0]))[0] == 1.0
    with pytest.raises(ValueError, match=r"value_at: expected a place in \[0, 2\], got 3"):
        functionals.value_at(3.0)(np.zeros((1, 401)), GRID)
