"""L-C2ST: is the posterior right at one observation? (arXiv 2306.03580)

A classifier learns to tell (θ, x) of the joint from (θ̃, x), θ̃ a draw of the estimator given x. At an observation x_o
only the estimator's draws are classified,

    t(x_o) = 1/m Σ_j (d(θ̃_j, x_o) − ½)²,    θ̃_j ~ q(θ | x_o),

which is 0 where no one can tell them apart. The null distribution: in every data set a fair coin decides which of truth
and draw is called which, and the classifier is trained anew; truth and draw being exchangeable under a calibrated
estimator, the p-value is then exact up to the discreteness of `n_null` trainings (if the estimator is wrong elsewhere
and right at x_o, approximately so).

The classifier is the least-squares discriminant on all monomials φ of degree at most two of (θ, x), ridge-penalised:

    d = ½ + φᵀ (ΦᵀΦ + λ)⁻¹ Φᵀ (label − ½),

which sees shifts, scales and correlations that vary linearly with x, what posteriors get wrong first. Its labels enter
linearly, so that thousands of trainings under the null are one product of matrices. "mlp" is the paper's kind, a
network of two hidden layers, and takes minutes. `x` is whatever summarises the data in p numbers; a poor summary loses
power, never the level. Plain arrays.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
LocalClassifier = Literal["quadratic", "mlp"]

_RIDGE = 1.0


@dataclass(frozen=True)
class LocalTest:
    """t (k,) at k observations, their null distributions (n_null, k), and p-values (k,)."""

    statistic: Array
    null: Array
    p_value: Array


def lc2st(
    truth: Array,
    x: Array,
    draws: Array,
    x_observed: Array,
    draws_observed: Array,
    *,
    classifier: LocalClassifier = "quadratic",
    n_null: int = 4_999,
    seed: int = 0,
) -> LocalTest:
    """The test at each of k observations.

    Args:
        truth: (n, d). x: (n, p), a summary of each data set. draws: (n, d), one draw a data set; where the summary was
            made of draws, another one.
        x_observed: (k, p). draws_observed: (k, m, d), draws given each. Not among the n data sets.
        n_null: trainings under the null; the smallest p-value is 1/(n_null + 1). Take some dozens for "mlp".

    Raises:
        ImportError: scikit-learn is missing ("mlp"). ValueError: shapes that do not fit, an unknown classifier.
    """
    n, d, p, k = len(truth), truth.shape[-1], x.shape[-1], len(x_observed)
    shapes = [a.shape for a in (truth, x, draws, x_observed, draws_observed)]
    m = draws_observed.shape[1] if draws_observed.ndim == 3 else 0
    if shapes != [(n, d), (n, p), (n, d), (k, p), (k, m, d)] or min(n, m) < 2:
        raise ValueError(
            f"lc2st: expected truth (n, d), x (n, p), draws (n, d), x_observed (k, p), draws_observed (k, m, d), got "
            f"{shapes}."
        )
    if classifier not in get_args(LocalClassifier):
        choices = ", ".join(map(repr, get_args(LocalClassifier)))
        raise ValueError(f"lc2st: unknown classifier {classifier!r}. Choices: {choices}.")
    rows = np.concatenate([np.hstack([truth, x]), np.hstack([draws, x])])
    asked = np.concatenate([draws_observed, np.broadcast_to(x_observed[:, None], (k, m, p))], axis=2).reshape(-1, d + p)
    mean, sd = rows.mean(0), rows.std(0)
    rows, asked = ((a - mean) / np.where(sd > 0, sd, 1.0) for a in (rows, asked))
    rng = np.random.default_rng(seed)
    swapped = np.concatenate([np.zeros((1, n), dtype=bool), rng.random((n_null, n)) < 0.5])
    labels = np.concatenate([swapped, ~swapped], axis=1).astype(np.float64)  # of truths 0, unless swapped
    if classifier == "quadratic":
        t = _least_squares(_monomials(rows), labels, _monomials(asked).reshape(k, m, -1))
    else:
        t = np.stack([((_network(rows, label, seed)(asked) - 0.5) ** 2).reshape(k, m).mean(1) for label in labels])
    slack = 1e-12 * np.abs(t).max()  # all labels swapped is the same training
    return LocalTest(t[0], t[1:], (1 + (t[1:] >= t[0] - slack).sum(0)) / (1 + n_null))


def _monomials(x: Array) -> Array:
    """1, x_i, x_i x_j (i ≤ j), clipped at six standard deviations: no one row may rule the fit."""
    x = np.clip(x, -6, 6)
    i, j = np.triu_indices(x.shape[1])
    return np.hstack([np.ones((len(x), 1)), x, x[:, i] * x[:, j]])


def _least_squares(rows: Array, labels: Array, asked: Array) -> Array:
    """t (B, k) for labels (B, 2n), rows (2n, q) and asked (k, m, q): a quadratic form of the weights."""
    gram = rows.T @ rows + _RIDGE * np.eye(rows.shape[1])
    weights = np.linalg.solve(gram, rows.T @ (labels - 0.5).T).T  # (B, q)
    return np.stack([((weights @ (a.T @ a / len(a))) * weights).sum(1) for a in asked], axis=1)


def _network(rows: Array, label: Array, seed: int) -> Callable[[Array], Array]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError("lc2st's 'mlp' needs scikit-learn: pip install 'fsimformer[diagnostics]'.") from error
    width = 10 * rows.shape[1]
    model = MLPClassifier(
        (width, width), alpha=1e-3, max_iter=1_000, early_stopping=True, n_iter_no_change=30, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, label)
    return lambda asked: np.asarray(model.predict_proba(asked)[:, 1], dtype=np.float64)
