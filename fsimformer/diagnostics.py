"""Checks of draws against truths, on plain arrays; never calls a sampler."""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Classifier = Literal["rf", "mlp"]


def c2st(
    x: Array,
    y: Array,
    *,
    classifier: Classifier = "rf",
    seed: int = 0,
    n_trees: int = 100,
    max_iter: int = 10_000,
    n_folds: int = 5,
) -> float:
    """Classifier two-sample test: cross-validated accuracy of telling x from y; 0.5 = cannot be told apart.

    On data z-scored by x (arXiv 1610.06545). It grows with n: compare at equal n and with one classifier.

    Args:
        x, y: (n, d) draws, equally many.
        classifier: "rf", a random forest of `n_trees`, the Simformer paper's (arXiv 2404.09636); "mlp", sbibm's network
            (arXiv 2101.04653): two hidden layers of 10·d rectified units, Adam for at most `max_iter` epochs.

    Raises:
        ImportError: scikit-learn is missing. ValueError: shapes differ, or the classifier is unknown.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install 'fsimformer[diagnostics]'.") from error
    if classifier not in get_args(Classifier):
        raise ValueError(
            f"c2st: unknown classifier {classifier!r}. Choices: {', '.join(map(repr, get_args(Classifier)))}."
        )
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"c2st: expected two arrays of one shape (n, d), got {x.shape} and {y.shape}.")
    mean, sd = x.mean(0), x.std(0)
    data = (np.concatenate([x, y]) - mean) / np.where(sd > 0, sd, 1.0)
    label = np.repeat([0, 1], len(x))
    if classifier == "rf":
        model = RandomForestClassifier(n_estimators=n_trees, random_state=seed)
    else:
        width = 10 * x.shape[1]
        model = MLPClassifier((width, width), activation="relu", solver="adam", max_iter=max_iter, random_state=seed)
    folds = KFold(n_splits=n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fold that stops at max_iter still has an accuracy
        return float(cross_val_score(model, data, label, cv=folds, scoring="accuracy").mean())


def sliced_wasserstein(x: Array, y: Array, *, order: float = 2.0, n_projections: int = 500, seed: int = 0) -> float:
    """Sliced Wasserstein distance of two samples (arXiv 1902.00434), in the units of the draws.

    SW_p = (E_u W_p^p(u·x, u·y))^(1/p), u uniform on the unit sphere of R^d: the mean is over `n_projections`, and W_p
    of two samples on a line is the L_p distance of the sorted samples. Of laws that differ by a shift δ it is |δ|/√d
    for p = 2. Samples of one law are n^(−½) or so apart: lay draws of the exact law against each other beside it.

    Args:
        x, y: (n, d) draws, equally many.
        order: p >= 1.
        seed: of the projections; equal seeds lay equal ones.

    Raises:
        ValueError: shapes differ, or order or n_projections is below 1.
    """
    if x.shape != y.shape or x.ndim != 2 or not x.size:
        raise ValueError(
            f"sliced_wasserstein: expected two arrays of one shape (n, d), not empty, got {x.shape} and {y.shape}."
        )
    if not (1 <= order < np.inf and n_projections >= 1):
        raise ValueError(
            f"sliced_wasserstein: expected order >= 1, finite, and n_projections >= 1, got {order} and {n_projections}."
        )
    u = np.random.default_rng(seed).standard_normal((x.shape[1], n_projections))
    u /= np.linalg.norm(u, axis=0)
    apart = np.abs(np.sort(x @ u, axis=0) - np.sort(y @ u, axis=0))
    return float(np.mean(apart**order) ** (1 / order))


def density_levels(log_prob_truth: Array, log_prob_draws: Array, seed: int = 0) -> Array:
    """Per data set, the credible level at which its highest-density region begins to hold the truth.

    level = (#{draws denser than the truth} + u·(1 + #{ties}))/(m + 1), u ~ U(0, 1): uniform if draws and truth have one
    law, whatever the statistic in place of the density (arXiv 2302.03026).

    Args:
        log_prob_truth: (n,). log_prob_draws: (n, m).

    Returns:
        (n,) in (0, 1).
    """
    truth = log_prob_truth[:, None]
    above, ties = (log_prob_draws > truth).sum(1), (log_prob_draws == truth).sum(1)
    u = np.random.default_rng(seed).random(len(log_prob_truth))
    return (above + u * (1 + ties)) / (log_prob_draws.shape[1] + 1)


def coverage(levels: Array, nominal: float) -> tuple[float, float]:
    """Share of data sets whose truth lies in the highest-density region of this nominal level, and its standard error.

    Below `nominal`: overconfident.
    """
    hit = float((levels <= nominal).mean())
    return hit, float(np.sqrt(nominal * (1 - nominal) / len(levels)))
