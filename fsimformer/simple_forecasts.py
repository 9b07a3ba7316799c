"""Two forecasts of counts that need no model: what a forecast should beat. Both live on y = log(1 + x).

    last value    y is a random walk without drift, read with noise of its own: E(y(t + k) − y(t))² = kσ² + 2τ², fitted
                  to all pairs of readings up to two weeks apart;  y(T + h) ~ N(y(T), hσ² + 2τ²)
    log-linear    y = a + bt + ε over the last weeks by least squares; a and b normal about their estimates, and draws
                  share them: Student's t with n − 2 degrees of freedom at every single day

Both say how sure they are, so that CRPS and coverage compare like with like. Counts, of which draws are whole.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_LAG = 14.0  # days
_FEWEST = 4  # readings


def last_value(days: Array, counts: Array, ahead: Array, n_draws: int, rng: np.random.Generator) -> Array:
    """The last count stays, more and more loosely: a random walk of log(1 + x).

    Args:
        days, counts: readings (n,), in any order; NaN is no reading.
        ahead: days (H,) after the last reading.

    Returns:
        (n_draws, H) whole numbers from 0 on; a draw is a walk, its readings' noise added.

    Raises:
        ValueError: shapes that do not fit, fewer than four readings, a day that is not after the last reading.
    """
    t, y = _readings("last_value", days, counts, ahead)
    i, j = np.triu_indices(len(t), 1)
    lag, square = t[j] - t[i], (y[j] - y[i]) ** 2
    near = lag <= max(_LAG, lag[lag > 0].min())  # readings of one day alone tell nothing of the walk
    lag, square = lag[near], square[near]
    spread = ((lag - lag.mean()) ** 2).sum()
    drift = max(0.0, ((lag - lag.mean()) * square).sum() / spread) if spread > 0 else square.mean() / lag.mean()
    noise = square.mean() - drift * lag.mean()
    if noise < 0:  # the pairs leave no noise: all is walk
        drift, noise = square.mean() / lag.mean(), 0.0
    order = np.argsort(ahead, kind="stable")
    steps = np.diff(ahead[order], prepend=t[-1])
    walk = np.cumsum(rng.normal(size=(n_draws, len(ahead))) * np.sqrt(drift * steps), axis=1)
    out = np.empty_like(walk)
    out[:, order] = walk
    own = rng.normal(size=out.shape) * np.sqrt(noise / 2) + rng.normal(size=(n_draws, 1)) * np.sqrt(noise / 2)
    return _counts(y[-1] + out + own)  # noise of the reading ahead, and of the last one, which all share


def log_linear(
    days: Array, counts: Array, ahead: Array, n_draws: int, rng: np.random.Generator, window: float = 21.0
) -> Array:
    """The trend of log(1 + x) over the last `window` days goes on.

    Args, Returns and Raises as of `last_value`; readings older than the window do not count, unless fewer than four are
    younger, or all of these are of one day, which has no trend: then those of the day before it count, too.
    """
    t, y = _readings("log_linear", days, counts, ahead)
    n = max(_FEWEST, int((t > t[-1] - window).sum()), int((t >= t[t < t[-1]].max()).sum()))
    t, y = t[-n:], y[-n:]
    centre, spread = t.mean(), ((t - t.mean()) ** 2).sum()
    slope = ((t - centre) * (y - y.mean())).sum() / spread
    freedom = n - 2
    variance = ((y - y.mean() - slope * (t - centre)) ** 2).sum() / freedom
    sd = np.sqrt(variance * freedom / rng.chisquare(freedom, size=(n_draws, 1)))
    level, tilt = (rng.normal(size=(n_draws, 1)) * sd for _ in range(2))
    mean = y.mean() + level / np.sqrt(n) + (slope + tilt / np.sqrt(spread)) * (ahead - centre)
    return _counts(mean + sd * rng.normal(size=(n_draws, len(ahead))))


def _readings(what: str, days: Array, counts: Array, ahead: Array) -> tuple[Array, Array]:
    """Finite readings in the order of their days, as log(1 + x)."""
    days, counts, ahead = (np.asarray(x, dtype=np.float64) for x in (days, counts, ahead))
    if days.ndim != 1 or days.shape != counts.shape or ahead.ndim != 1:
        raise ValueError(f"{what}: expected days (n,), counts (n,), ahead (H,); got {days.shape}, {counts.shape}, "
                         f"{ahead.shape}.")  # fmt: skip
    kept = np.isfinite(counts)
    t, x = days[kept], counts[kept]
    order = np.argsort(t, kind="stable")
    t, x = t[order], x[order]
    if len(t) < _FEWEST or t[0] == t[-1] or (x < 0).any():
        raise ValueError(f"{what}: expected at least {_FEWEST} counts from 0 on, on different days; got {len(t)}.")
    if len(ahead) and ahead.min() <= t[-1]:
        raise ValueError(f"{what}: expected days after the last reading, {t[-1]:g}; got {ahead.min():g}.")
    return t, np.log1p(x)


def _counts(y: Array) -> Array:
    return np.round(np.expm1(np.minimum(y, 30.0))).clip(min=0.0)  # e^30: more than there are people
