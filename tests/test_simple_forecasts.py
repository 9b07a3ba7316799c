"""The two forecasts without a model: right where their assumption holds, refused where there is nothing to go on."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats as ss

from fsimformer.simple_forecasts import last_value, log_linear


def test_on_random_walks_the_last_value_is_calibrated() -> None:
    """Walks with noisy readings: the truth lies in the middle 50 and 90 % as often as it should, near and far ahead."""
    rng, n = np.random.default_rng(0), 400
    days, ahead = np.arange(80.0), np.array([80.0, 87.0, 107.0])
    inside = np.zeros((2, 3))
    for _ in range(n):
        walk = 9 + np.cumsum(rng.normal(0, 0.08, 108))
        x = np.exp(walk + rng.normal(0, 0.1, 108))
        draws = last_value(days, x[:80], ahead, 300, rng)
        for k, p in enumerate((0.5, 0.9)):
            low, high = np.quantile(draws, [(1 - p) / 2, (1 + p) / 2], axis=0)
            inside[k] += (low <= x[[80, 87, 107]]) & (x[[80, 87, 107]] <= high)
    assert np.abs(inside[0] / n - 0.5).max() < 0.1 and np.abs(inside[1] / n - 0.9).max() < 0.07


def test_the_trend_has_students_law_at_every_day() -> None:
    rng = np.random.default_rng(1)
    days, ahead = np.arange(30.0), np.array([30.0, 57.0])
    y = 12 + 0.05 * days + rng.normal(0, 0.1, 30)
    draws = np.log1p(log_linear(days, np.expm1(y), ahead, 20_000, rng))
    t = days[9:]  # the last 21 days
    fit = ss.linregress(t, y[9:])
    s = np.sqrt(((y[9:] - fit.intercept - fit.slope * t) ** 2).sum() / 19)
    spread = s * np.sqrt(1 + 1 / 21 + (ahead - t.mean()) ** 2 / ((t - t.mean()) ** 2).sum())
    for k in range(2):
        law = ss.t(19, fit.intercept + fit.slope * ahead[k], spread[k])
        assert ss.kstest(draws[:, k], law.cdf).statistic < 0.015


@pytest.mark.parametrize("forecast", [last_value, log_linear])
def test_holes_order_and_zeros(forecast) -> None:  # type: ignore[no-untyped-def]
    days, x = np.arange(20.0), np.array([0.0, 3] * 10)
    holes = np.r_[x, np.nan], np.r_[days, 25.0]
    a = forecast(days, x, np.array([22.0, 21.0]), 50, np.random.default_rng(2))
    b = forecast(holes[1][::-1], holes[0][::-1], np.array([22.0, 21.0]), 50, np.random.default_rng(2))
    assert (a == b).all() and (a >= 0).all() and (a == np.round(a)).all() and (a == 0).any()
    for bad, message in (
        ((days[:3], x[:3], days[10:]), "expected at least 4 counts"),
        ((days, -x, days + 20), "expected at least 4 counts from 0 on"),
        ((days, x, np.array([19.0])), "expected days after the last reading, 19; got 19"),
        ((days, x[:4], days), r"expected days \(n,\), counts \(n,\), ahead \(H,\); got \(20,\), \(4,\), \(20,\)"),
    ):
        with pytest.raises(ValueError, match=f"{forecast.__name__}: {message}"):
            forecast(*bad, 5, np.random.default_rng(0))


def test_the_last_readings_may_all_be_of_one_day() -> None:
    """Older than the window, the day before it still says what the trend is, and how far the walk goes."""
    days = np.array([0.0, 30, 30, 30, 30])
    ahead = np.array([31.0, 60.0])
    line = np.expm1(2 + np.array([0.0, 3, 3, 3, 3]))  # log(1 + x) = 2 + t/10, without noise
    found = log_linear(days, line, ahead, 6, np.random.default_rng(0))
    assert (found == np.round(np.expm1(2 + ahead / 10))).all()
    same_day = np.expm1([2.0, 4.9, 5.1, 4.9, 5.1])
    for forecast in (last_value, log_linear):
        near, far = np.log1p(forecast(days, same_day, ahead, 4_000, np.random.default_rng(1))).T
        assert np.isfinite(near).all() and near.std() < far.std()
        assert np.median(near) == pytest.approx(5.05, abs=0.15)


def test_readings_of_the_last_day_are_not_the_only_ones_within_the_window() -> None:
    """Four readings on the last day and one the day before: that one was in the window all along."""
    days, x = np.array([0.0, 9, 10, 10, 10, 10]), np.expm1(np.array([0.0, 2, 3, 3, 3, 3]))
    found = log_linear(days, x, np.array([11.0]), 8, np.random.default_rng(0), window=5.0)
    assert (found == np.round(np.expm1(4.0))).all()
