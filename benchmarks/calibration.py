"""Calibration of the shipped models, and the false alarms of the misspecification check.

`check MODEL`: `joint.check` on fresh data sets read as in training: coverage of highest-density regions at .5, .8, .9
and .95, the p-values of every test, Holm-corrected; with `--knots` functions are looked at at the knots of their
reference sets, which spares what lies between them. `surprise MODEL`: observations of the simulator itself, 12
readings a series at random times, each laid beside 99 other simulations: the share of alarms at .01, .05, .1 and .2
should be these numbers; and the share of alarms at .05 once the noise of the first series is fourfold, its units are
hundredths, or its first two series are swapped. `typical MODEL`: the same of the p-value that `condition` gives,
which knows simulations with about as many readings in about the same places. Data sets are ranked among mostly the
same 199; if all were, their own share of alarms would be Beta about the level, which the standard error takes in: it
is an upper bound.

    python benchmarks/calibration.py check sird --n 500
    python benchmarks/calibration.py check lotka_volterra --n 500 --knots
    python benchmarks/calibration.py surprise sird --n 400
    python benchmarks/calibration.py typical sird --n 2000
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import save

import fsimformer as fsf
from fsimformer.cli_check import simulator_of
from fsimformer.convert import ObservationWarning
from fsimformer.typical import NEAREST

LEVELS, READINGS, SIMULATIONS = (0.01, 0.05, 0.1, 0.2), 12, 99
MODELS = ("sird", "lotka_volterra", "hare_lynx")


def knots(joint: fsf.Joint) -> dict[str, np.ndarray]:
    """Where the reference set of each function of one index lies."""
    out = {}
    for v in (v for v in joint.schema.variables if v.role == "parameter" and len(v.reference or ()) == 1):
        index = joint.schema.dim(joint.schema.index_dims(v.name)[0])
        out[v.name] = np.linspace(index.lower, index.upper, v.reference[0])
    return out


def checked(
    joint: fsf.Joint, simulator: Any, n: int, n_draws: int, quality: str, seed: int, at: dict[str, np.ndarray]
) -> dict[str, Any]:
    tree = joint.check(simulator, n, n_draws, at=at, quality=quality, seed=seed)
    tests, coverage = tree["tests"].to_dataset(), tree["coverage"].to_dataset()
    columns = ("effect", "p_value", "p_adjusted", "rejected")
    return {
        "n": n, "draws": n_draws, "quality": quality, "points": {k: len(v) for k, v in at.items()},
        "verdict": tree.attrs["verdict"],
        "coverage": {
            str(p): {"coverage": float(c), "standard_error": float(e)}
            for p, c, e in zip(*(coverage[k].to_numpy() for k in ("nominal", "share", "standard_error")))
        },
        "tests": {
            str(name): {k: tests[k].sel(test=name).item() for k in columns} for name in tests["test"].to_numpy()
        },
    }  # fmt: skip


def observation(simulator: Any, seed: int, noise: float = 1.0) -> xr.Dataset:
    """READINGS of every series at common random times, plausible ones; `noise`: factor on the first's, after that."""
    rng, grid = np.random.default_rng([seed, 11]), simulator.grid["time"].numpy()
    ranges, drawn = getattr(simulator, "plausible", {}), simulator.simulate(100, torch.Generator().manual_seed(seed))
    for row in range(100):
        times, out, sound = np.sort(rng.uniform(grid[0], grid[-1], READINGS)), {}, True
        for i, name in enumerate(simulator.schema.data):
            v = simulator.schema[name]
            sd = float(drawn[v.noise.sd][row]) if isinstance(v.noise.sd, str) else float(v.noise.sd)
            e = sd * rng.standard_normal(READINGS)
            clean = np.interp(times, grid, drawn[name][row].double().numpy())
            right, wrong = (clean + f * e if v.noise.kind == "normal" else clean * np.exp(f * e) for f in (1, noise))
            lower, upper = ranges.get(name, (-np.inf, np.inf))
            sound &= bool(((right > lower) & (right < upper)).all())
            out[name] = ("time", right if i else wrong)
        if sound:
            return xr.Dataset(out, {"time": times})
    raise RuntimeError(f"none of 100 simulations of seed {seed} has plausible readings alone")


def by_simulations(joint: fsf.Joint, simulator: Any, data: xr.Dataset, seed: int) -> float:
    return float(joint.surprise(data, simulator, SIMULATIONS, seed=seed)["p_value"])


def by_table(joint: fsf.Joint, simulator: Any, data: xr.Dataset, seed: int) -> float:
    p = joint.condition(data).p_surprise
    assert p is not None
    return p[0]


def surprised(joint: fsf.Joint, simulator: Any, n: int, seed: int, how: Callable[..., float]) -> dict[str, Any]:
    shared = 1 / (NEAREST + 2) if how is by_table else 0.0  # of Beta(a, NEAREST + 1 - a), the variance over a level's

    def p_of(data: xr.Dataset, i: int) -> float:
        return how(joint, simulator, data, seed + i)

    first, second, *_ = simulator.schema.data
    right = np.array([p_of(observation(simulator, seed + i), i) for i in range(n)])
    wrong: dict[str, list[float]] = {"noise": [], "units": [], "swapped": []}
    for i in range(n // 4):
        data = observation(simulator, seed + i)
        wrong["noise"].append(p_of(observation(simulator, seed + i, 4.0), i))
        wrong["units"].append(p_of(data.assign({first: data[first] * 100}), i))
        wrong["swapped"].append(p_of(data.rename({first: second, second: first}), i))
    return {
        "n": n, "simulations": NEAREST if how is by_table else SIMULATIONS, "readings": READINGS,
        "false_alarms": {str(a): float((right <= a + 1e-9).mean()) for a in LEVELS},
        "standard_error": {str(a): float((a * (1 - a) * (1 / n + shared)) ** 0.5) for a in LEVELS},
        "alarms": {k: float((np.array(p) <= 0.05 + 1e-9).mean()) for k, p in wrong.items()}, "n_wrong": n // 4,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "surprise", "typical"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--knots", action="store_true")
    parser.add_argument("--quality", default="sde")
    parser.add_argument("--seed", type=int, default=20261126)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ObservationWarning)  # wild readings are what this is about
    joint, start = fsf.load(args.model), time.process_time()
    simulator = simulator_of(joint.schema, joint.provenance, args.model)
    if args.what == "check":
        at = knots(joint) if args.knots else {}
        results = checked(joint, simulator, args.n, args.draws, args.quality, args.seed, at)
    else:
        how = by_simulations if args.what == "surprise" else by_table
        results = surprised(joint, simulator, args.n, args.seed, how)
    results |= {"what": args.what, "model": args.model}
    results["cpu_seconds"] = time.process_time() - start
    name = f"calibration_{args.what}_{args.model}" + ("_knots" if args.knots else "")
    print(save(name, args.seed, results))


if __name__ == "__main__":
    main()
