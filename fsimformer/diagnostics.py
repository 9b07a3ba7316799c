"""Checks of draws against truths, on plain arrays; never calls a sampler."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def c2st(x: Array, y: Array, *, seed: int = 0, n_trees: int = 100, n_folds: int = 5) -> float:
    """Classifier two-sample test: cross-validated accuracy of telling x from y; 0.5 = cannot be told apart.

    A random forest on data z-scored by x, as the Simformer paper used it (arXiv 1610.06545, 2404.09636). It grows
    with n: compare at equal n.

    Args:
        x, y: (n, d) draws, equally many.

    Raises:
        ImportError: scikit-learn is missing. ValueError: shapes differ.
    """
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import KFold, cross_val_score
    except ImportError as error:
        raise ImportError("c2st needs scikit-learn: pip install 'fsimformer[diagnostics]'.") from error
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"c2st: expected two arrays of one shape (n, d), got {x.shape} and {y.shape}.")
    mean, sd = x.mean(0), x.std(0)
    data = (np.concatenate([x, y]) - mean) / np.where(sd > 0, sd, 1.0)
    label = np.repeat([0, 1], len(x))
    forest = RandomForestClassifier(n_estimators=n_trees, random_state=seed)
    folds = KFold(n_splits=n_folds, shuffle=True, random_state=seed)
    return float(cross_val_score(forest, data, label, cv=folds, scoring="accuracy").mean())


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
