"""L-C2ST: uniform p-values under the exact posterior, small ones under the others, at the place where it is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from conjugate import WRONG, conjugate

from fsimformer.lc2st import LocalClassifier, LocalTest, lc2st


def local(
    n: int, spread: float, shift: float, classifier: LocalClassifier = "quadratic", n_null: int = 99, seed: int = 0
) -> LocalTest:
    truth, x, draws = conjugate(n + 3, 200, 2, spread, shift, seed)
    return lc2st(truth[3:], x[3:], draws[3:, 0], x[:3], draws[:3], classifier=classifier, n_null=n_null, seed=seed)


def test_the_exact_posterior_is_accepted() -> None:
    assert local(400, 1.0, 0.0).p_value.min() > 0.02


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_posteriors_are_rejected(wrong: str) -> None:
    assert local(400, *WRONG[wrong]).p_value.max() <= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [None, *WRONG])
def test_a_network_tells_as_well(wrong: str | None) -> None:
    spread, shift = (1.0, 0.0) if wrong is None else WRONG[wrong]
    found = local(600, spread, shift, "mlp", n_null=19)
    assert found.null.shape == (19, 3)
    assert found.p_value.min() > 0.05 if wrong is None else np.median(found.p_value) == 0.05


def test_level_is_the_stated_one() -> None:
    p = np.concatenate([local(60, 1.0, 0.0, n_null=19, seed=s).p_value[:1] for s in range(300)])
    for level in (0.1, 0.4):
        assert abs((p <= level).mean() - level) < 3.5 * np.sqrt(level * (1 - level) / 300)


def test_it_says_where_the_estimator_is_wrong() -> None:
    """Draws are right where x₁ < 0 and shifted where x₁ > 0: small p there only."""
    truth, x, draws = conjugate(1_500, 1)
    draws = draws[:, 0] + np.where(x[:, :1] > 0, 1.2 * x[:, :1], 0.0)
    rng = np.random.default_rng(1)
    places = np.array([[-1.5, 0.0], [1.5, 0.0]])
    there = np.stack(
        [p / 2 + (1.2 * p[:1] if p[0] > 0 else 0) + 0.5**0.5 * rng.standard_normal((300, 2)) for p in places]
    )
    found = lc2st(truth, x, draws, places, there, n_null=99)
    assert found.p_value[1] == 0.01
    assert found.statistic[1] > 4 * found.statistic[0]


def test_errors_name_the_shapes() -> None:
    a = np.zeros((9, 2))
    with pytest.raises(ValueError, match=r"lc2st: expected truth \(n, d\).* got \[\(9, 2\), \(9, 2\), \(8, 2\)"):
        lc2st(a, a, a[:8], a[:1], a[None])
    with pytest.raises(ValueError, match="unknown classifier 'rf'. Choices: 'quadratic', 'mlp'"):
        lc2st(a, a, a, a[:1], a[None], classifier="rf")  # type: ignore[arg-type]
