"""benchmarks/epidemic.py: its outbreaks show no future, and its scores tell a right forecast from a wrong one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import epidemic as bench


def test_outbreaks_are_chosen_by_what_is_shown_and_the_future_is_not() -> None:
    data = bench.outbreaks(20, 5)
    shown = bench.observed(data)
    assert dict(shown.sizes) == {"outbreak": 20, "time": 84} and set(shown) == {"cases", "deaths", "population"}
    assert bool((shown["cases"].sum("time") >= 100).all()) and bool((shown["cases"][:, -14:].sum("time") >= 10).all())
    assert 0.05 < float(shown["cases"].isnull().mean()) < 0.15
    known = shown["cases"].notnull()
    assert bool((shown["cases"] == data["cases"].sel(time=bench.PAST)).where(known, True).all())
    again = bench.outbreaks(20, 5)
    assert again.identical(data) and not bench.outbreaks(20, 6).identical(data)
    forecasts = bench.by_baselines(data.isel(outbreak=slice(0, 3)), 50, 1)
    assert all(x.shape == (3, 50, 28) and np.isfinite(x).all() for f in forecasts.values() for x in f.values())


def test_the_right_forecast_is_calibrated_and_beats_the_wrong_one() -> None:
    """Draws of the truths' own law cover as they say, draws of a wider one do not, and the ratio says by how much."""
    rng = np.random.default_rng(0)
    truth = rng.poisson(400, (200, 28)).astype(float)
    right, wide = rng.poisson(400, (200, 100, 28)), rng.poisson(rng.gamma(4, 100, (200, 100, 28)))
    each = {"network": bench.scored(truth, right.astype(float)), "wide": bench.scored(truth, wide.astype(float))}
    found = bench.summary(each, rng)
    for p in bench.LEVELS:
        assert abs(found["network"][f"coverage_{p}"] - p) < 0.04  # ends count in
        assert found["wide"][f"coverage_{p}"] > p + 0.08
    for name in ("crps", "energy_score"):
        ratio, error = found["wide"][f"network_{name}_ratio"], found["wide"][f"network_{name}_ratio_se"]
        assert ratio < 0.7 and 0 < error < 0.05
