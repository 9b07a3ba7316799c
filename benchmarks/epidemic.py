"""Four-week forecasts of simulated outbreaks by `epidemic`, beside the last value and a log-linear trend.

New outbreaks of the recipe's simulator (a seed that training never used): twelve weeks of daily cases and deaths, one
day in ten missing, of a known population; forecast are the cases and the deaths of the next 28 days. Outbreaks without
data are left out: at least 100 cases in the twelve weeks, ten of them in the last two. Who is left out depends on the
readings that are conditioned on alone, so that a calibrated forecast stays calibrated.

CRPS and energy score (fair, of all 28 days together) are those of log(1 + count); ratios below 1 favour the network,
with standard errors from resampled outbreaks. Coverage counts the ends of an interval in, which makes that of small
counts too large, the baselines' as well. Of R(t) the truth is known, too.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from record import budget, save
from train_shipped import EPIDEMIC

import fsimformer as fsf
from fsimformer.counts import draw_counts
from fsimformer.scores import crps, energy_score
from fsimformer.seeds import generator_at
from fsimformer.simple_forecasts import last_value, log_linear

Array = NDArray[np.float64]

PAST, AHEAD = np.arange(84.0), np.arange(84.0, 112.0)
SERIES = ("cases", "deaths")
R_DAYS = np.arange(6.0, 84.0, 7.0)
LEVELS = (0.5, 0.9)
_CHUNK = 20  # outbreaks sampled together


def outbreaks(n: int, seed: int) -> xr.Dataset:
    """n outbreaks: counts on whole days 0 to 111, `reproduction_number` there, `population`."""
    parts, found, round_ = [], 0, 0
    whole = slice(None, int(112 / EPIDEMIC.step), int(1 / EPIDEMIC.step))
    while found < n:
        drawn = EPIDEMIC.simulate(2 * n, generator_at(seed, 2, round_))
        counts = {
            name: draw_counts(
                drawn[name][:, whole], drawn[EPIDEMIC.schema[name].noise.sd][:, None], generator_at(seed, 3, round_, i)
            ).numpy()
            for i, name in enumerate(SERIES)
        }
        missing = np.random.default_rng([seed, round_]).random((2, 2 * n, 112)) < 0.1
        observed = np.where(missing[0, :, : len(PAST)], 0.0, counts["cases"][:, : len(PAST)])
        kept = (observed.sum(1) >= 100) & (observed[:, -14:].sum(1) >= 10)
        part = xr.Dataset(
            {name: (("outbreak", "time"), x) for name, x in counts.items()}
            | {f"{name}_missing": (("outbreak", "time"), x) for name, x in zip(SERIES, missing, strict=True)}
            | {"reproduction_number": (("outbreak", "time"), drawn["reproduction_number"][:, whole].double().numpy())}
            | {"population": ("outbreak", drawn["population"].numpy())},
            {"time": np.arange(112.0)},
        )
        parts.append(part.isel(outbreak=kept))
        found, round_ = found + int(kept.sum()), round_ + 1
    data = xr.concat(parts, "outbreak").isel(outbreak=slice(0, n))
    return data.assign_coords(outbreak=np.arange(n))


def observed(data: xr.Dataset) -> xr.Dataset:
    """What the twelve weeks show."""
    past = data.sel(time=PAST)
    shown = {name: past[name].where(~past[f"{name}_missing"]) for name in SERIES}
    return xr.Dataset({**shown, "population": data["population"]})


def by_network(joint: fsf.Joint, data: xr.Dataset, n_draws: int, seed: int) -> dict[str, Array]:
    """Draws (outbreaks, n_draws, days) of cases and deaths ahead and of the reproduction number."""
    at = {**dict.fromkeys(SERIES, AHEAD), "reproduction_number": R_DAYS}
    parts: dict[str, list[Array]] = {name: [] for name in at}
    for first in range(0, data.sizes["outbreak"], _CHUNK):
        some = observed(data).isel(outbreak=slice(first, first + _CHUNK))
        tree = joint.condition(some, batch_dim="outbreak").sample(n_draws, at=at, seed=seed)
        for name in at:
            group = "posterior" if name == "reproduction_number" else "predictions"
            x = tree[group][name].transpose("outbreak", "chain", "draw", ...).to_numpy()
            parts[name].append(x.reshape(len(x), n_draws, -1))
    return {name: np.concatenate(x) for name, x in parts.items()}


def by_baselines(data: xr.Dataset, n_draws: int, seed: int) -> dict[str, dict[str, Array]]:
    """Draws (outbreaks, n_draws, 28) of each baseline and series."""
    shown, rng = observed(data), np.random.default_rng(seed)
    return {
        forecast.__name__: {
            name: np.stack([forecast(PAST, x, AHEAD, n_draws, rng) for x in shown[name].to_numpy()]) for name in SERIES
        }
        for forecast in (last_value, log_linear)
    }


def scored(truth: Array, draws: Array) -> dict[str, Array]:
    """By outbreak: CRPS and energy score of log(1 + count), and the share of days inside each interval."""
    n, m, days = draws.shape
    y, x = np.log1p(truth), np.log1p(draws)
    out = {"crps": crps(y.ravel(), x.transpose(0, 2, 1).reshape(-1, m)).reshape(n, days).mean(1)}
    out["energy_score"] = energy_score(y, x)
    for p in LEVELS:
        out[f"coverage_{p}"] = inside(truth, draws, p).mean(1)
    return out


def inside(truth: Array, draws: Array, p: float) -> NDArray[np.bool_]:
    low, high = np.quantile(draws, [(1 - p) / 2, (1 + p) / 2], axis=1, method="inverted_cdf")
    return (low <= truth) & (truth <= high)


def summary(each: dict[str, dict[str, Array]], rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Means over outbreaks, and ratios of the network's scores to the baselines', with standard errors."""
    n = len(each["network"]["crps"])
    again = rng.integers(n, size=(2_000, n))
    out: dict[str, dict[str, float]] = {}
    for who, scores in each.items():
        out[who] = {}
        for name, x in scores.items():
            out[who][name], out[who][f"{name}_se"] = float(x.mean()), float(x[again].mean(1).std())
        if who == "network":
            continue
        for name in ("crps", "energy_score"):
            mine, theirs = each["network"][name], scores[name]
            ratios = mine[again].mean(1) / theirs[again].mean(1)
            out[who][f"network_{name}_ratio"] = float(mine.mean() / theirs.mean())
            out[who][f"network_{name}_ratio_se"] = float(ratios.std())
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outbreaks", type=int, default=200)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--model", default="epidemic")
    parser.add_argument("--name", default="epidemic", help="of the file in results/")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = fsf.load(args.model)
    data = outbreaks(args.outbreaks, args.seed)
    started = time.process_time()
    with warnings.catch_warnings():  # of outbreaks at the prior's edge
        warnings.simplefilter("ignore", fsf.ObservationWarning)
        network = by_network(joint, data, args.draws, args.seed)
    seconds = time.process_time() - started
    forecasts = {"network": network, **by_baselines(data, args.draws, args.seed)}
    rng = np.random.default_rng(args.seed)
    results: dict[str, object] = {"n": args.outbreaks, "draws": args.draws, "model": budget(joint.provenance)}
    for name in SERIES:
        truth = data[name].sel(time=AHEAD).to_numpy()
        results[name] = summary({who: scored(truth, draws[name]) for who, draws in forecasts.items()}, rng)
    truth, draws = data["reproduction_number"].sel(time=R_DAYS).to_numpy(), network["reproduction_number"]
    error = np.abs(np.log(np.median(draws, axis=1) / truth))
    hits = {str(p): inside(truth, draws, p).mean(1) for p in LEVELS}
    results["reproduction_number"] = {
        "coverage": {p: float(x.mean()) for p, x in hits.items()},
        "coverage_se": {p: float(x.std() / len(x) ** 0.5) for p, x in hits.items()},
        "median_abs_log_error": float(np.median(error)),
    }
    results["sample_cpu_seconds_per_outbreak"] = round(seconds / args.outbreaks, 2)
    print(save(args.name, args.seed, results))


if __name__ == "__main__":
    main()
