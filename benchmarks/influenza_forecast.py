"""Forecasts of the boarding-school outbreak of 1978 by `influenza`, beside the last value and a log-linear trend.

Given the boys in bed on the first 5 to 10 of the fourteen days, all the days that follow are forecast. CRPS and energy
score (fair) are those of log(1 + boys); coverage is that of the central intervals at .5 and .9. It is one outbreak of
fourteen days, whose cuts overlap: the scores say what a reader of 1978 would have had, and no more.

    python benchmarks/influenza_forecast.py
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import save

import fsimformer as fsf
from fsimformer.scores import crps, energy_score
from fsimformer.simple_forecasts import last_value, log_linear
from fsimformer.simulators import boarding_school

CUTS, LEVELS = (5, 6, 7, 8, 9, 10), (0.5, 0.9)
Array = NDArray[np.float64]


def scored(truth: Array, draws: Array) -> dict[str, Any]:
    """Of forecasts (n, H) of boys."""
    y, z = np.log1p(truth), np.log1p(draws)
    out: dict[str, Any] = {
        "crps": float(crps(y, z.T).mean()), "energy_score": float(energy_score(y[None], z[None])[0]), "coverage": {},
    }  # fmt: skip
    for level in LEVELS:
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        out["coverage"][str(level)] = float(((low <= truth) & (truth <= high)).mean())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, data, start = fsf.load("influenza"), boarding_school(), time.process_time()
    boys, days, rows = data["in_bed"].to_numpy(), np.arange(data.sizes["time"], dtype=np.float64), []
    for cut in CUTS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fsf.ObservationWarning)  # few readings may look odd; scores say it better
            given = joint.condition(data.isel(time=slice(0, cut)))
        tree = given.sample(args.draws, at={"in_bed": data["time"].to_numpy()[cut:]}, seed=0)
        drawn = tree["predictions"]["in_bed"].to_numpy().reshape(args.draws, -1)
        forecasts = {"network": drawn}
        for simple in (last_value, log_linear):
            rng = np.random.default_rng(cut)
            forecasts[simple.__name__] = simple(days[:cut], boys[:cut], days[cut:], args.draws, rng)
        for who, f in forecasts.items():
            rows.append({"days_known": cut, "days_ahead": len(days) - cut, "forecast": who, **scored(boys[cut:], f)})
            print(rows[-1], flush=True)
    results = {
        "n": args.draws, "rows": rows, "monte_carlo_floor": "one outbreak", "cpu_seconds": time.process_time() - start,
    }  # fmt: skip
    print(save("influenza_forecast", 0, results))


if __name__ == "__main__":
    main()
