"""Is a draw a function? A network with a reference set against what holds of every process, and exact posteriors.

The network and the process of resolution.py ("reference", 17 knots), five data sets like those. n = 1,000 draws each.

    consistency     f(A) alone against f(A) asked with further points B, drawn anew: p-values of the energy-distance
                    permutation test, both samples new in every test, and of their being uniform (Kolmogorov–Smirnov);
                    RF C2ST; A: 8 points
    extend          draws evaluated again later against all points asked at once: largest difference
    near            variance of f(t + 1e-3) − f(t) by that of the exact posterior, 50 places
    chain           f(B) drawn, then f(A) given f(B) and the readings, against f(A) drawn at once: RF C2ST
    marginals       f at 4, 8, 16 random points against the exact posterior: RF C2ST, beside exact against exact
    cost            1,000 draws at 1,000 and 10,000 points: CPU seconds, largest memory

    python benchmarks/functions.py
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import peak_mib, save
from resolution import PROBE, STEPS, Given, N, data_sets, trained
from scipy.spatial.distance import cdist
from scipy.stats import kstest

import fsimformer as fsf
from fsimformer.diagnostics import c2st

SIZES = (0, 32, 256)
KINDS = ("uniform", "clustered", "outside")
N_ENERGY, PERMUTATIONS = 500, 199
NEAR = 1e-3


def at_points(joint: fsf.Joint, observed: xr.Dataset, points: np.ndarray, seed: int, n: int = N) -> np.ndarray:
    """(n, points)."""
    tree = joint.condition(observed).sample(n, {"theta": points}, seed=seed)
    return tree["posterior"]["theta"].values.reshape(n, len(points))


def energy_p_value(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Permutation test of the energy distance (Székely & Rizzo 2004) of two equally large samples."""
    both, n = np.concatenate([x, y]), len(x)
    distance, rng = cdist(both, both), np.random.default_rng(seed)

    def statistic(sign: np.ndarray) -> float:
        return float(-sign @ distance @ sign)

    sign = np.repeat([1.0, -1.0], n)
    found = statistic(sign)
    above = sum(statistic(rng.permutation(sign)) >= found for _ in range(PERMUTATIONS))
    return (1 + above) / (1 + PERMUTATIONS)


def further(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """B: all over the range, within .05 of a point of A, or where no point of A is."""
    if kind == "clustered":
        return (PROBE[3] + rng.uniform(-0.05, 0.05, size)).clip(0, 1)
    return rng.uniform(0, 1, size) if kind == "uniform" else rng.uniform(0.95, 1.0, size)


def consistency(joint: fsf.Joint, sets: list[Given]) -> Iterator[dict[str, Any]]:
    seeds = itertools.count(1_000)  # with one seed f(A) would be the same numbers, whatever B is
    for kind in KINDS:
        for size in SIZES if kind == "uniform" else SIZES[1:]:
            p, accuracy = [], []
            for i, (observed, _) in enumerate(sets):
                points = np.concatenate([PROBE, further(kind, size, np.random.default_rng(i))])
                alone = at_points(joint, observed, PROBE, next(seeds))
                among = at_points(joint, observed, points, next(seeds))[:, : len(PROBE)]
                p.append(energy_p_value(alone[:N_ENERGY], among[:N_ENERGY], i))
                accuracy.append(c2st(alone, among))
            yield {"kind": kind, "size": size, "p_values": p, "c2st_rf": float(np.mean(accuracy))}


def later(joint: fsf.Joint, observed: xr.Dataset) -> float:
    """Largest difference between points asked at once and points asked of the draws afterwards, in prior sds."""
    points, conditional = np.linspace(0, 1, 300), joint.condition(observed)
    at_once = conditional.sample(100, {"theta": np.concatenate([PROBE, points])}, seed=0)
    draws = conditional.sample(100, {"theta": PROBE}, seed=0)
    extended = conditional.extend(draws, {"theta": points})["posterior"]["theta"].values
    return float(np.abs(at_once["posterior"]["theta"].values[..., len(PROBE) :] - extended).max())


def near(joint: fsf.Joint, sets: list[Given]) -> dict[str, float]:
    start = np.random.default_rng(0).uniform(0, 1 - NEAR, 50)
    ratios = []
    for i, (observed, exact) in enumerate(sets):
        draws = at_points(joint, observed, np.stack([start, start + NEAR], 1).ravel(), 20 + i)
        for k, t in enumerate(start):
            pair = exact.covariance(np.array([t, t + NEAR]))
            variance = float(pair[0, 0] + pair[1, 1] - 2 * pair[0, 1])
            ratios.append(np.var(draws[:, 2 * k + 1] - draws[:, 2 * k], ddof=1) / variance)
    lowest, middle, highest = np.quantile(ratios, [0.05, 0.5, 0.95])
    return {"q05": float(lowest), "median": float(middle), "q95": float(highest)}


def chain(joint: fsf.Joint, sets: list[Given]) -> dict[str, float]:
    """B: five points between those of A."""
    b, found, null = np.array([0.1, 0.3, 0.5, 0.7, 0.9]), [], []
    for i, (observed, _) in enumerate(sets):
        f = at_points(joint, observed, b, 30 + i)
        times = np.concatenate([b, observed["time"].values])
        theta = np.concatenate([f, np.full((N, observed.sizes["time"]), np.nan)], 1)
        x = np.tile(np.concatenate([np.full(len(b), np.nan), observed["x"].values]), (N, 1))
        rows = xr.Dataset({"theta": (("row", "time"), theta), "x": (("row", "time"), x)}, {"time": times})
        tree = joint.condition(rows, batch_dim="row").sample(2, {"theta": PROBE}, seed=i)
        given = tree["posterior"]["theta"].transpose("row", "chain", "draw", ...).values[:, 0, 0]
        direct = at_points(joint, observed, PROBE, 40 + i)
        found.append(c2st(direct, given))
        null.append(c2st(direct, at_points(joint, observed, PROBE, 50 + i)))
    return {"c2st_rf": float(np.mean(found)), "floor": float(np.mean(null))}


def marginals(joint: fsf.Joint, sets: list[Given], generator: torch.Generator) -> Iterator[dict[str, Any]]:
    for size in (4, 8, 16):
        found, null = [], []
        for i, (observed, exact) in enumerate(sets):
            points = np.random.default_rng(100 * size + i).uniform(0, 1, size)
            truth, other = (exact.sample(points, N, generator)[0].numpy() for _ in range(2))
            found.append(c2st(truth, at_points(joint, observed, points, 60 + i)))
            null.append(c2st(truth, other))
        error = float(np.std(found, ddof=1) / len(found) ** 0.5)
        yield {"points": size, "c2st_rf": float(np.mean(found)), "standard_error": error, "floor": float(np.mean(null))}


def cost(joint: fsf.Joint, observed: xr.Dataset) -> Iterator[dict[str, float]]:
    for size in (1_000, 10_000):
        start = time.process_time()
        at_points(joint, observed, np.linspace(0, 1, size), 0)
        seconds = time.process_time() - start
        yield {"points": size, "cpu_seconds": seconds, "peak_gib": peak_mib() / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="reference")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, process = trained(args.variant, args.steps)
    generator = torch.Generator().manual_seed(1)
    sets = list(data_sets(process, generator))
    costs = list(cost(joint, sets[0][0]))  # first: memory is the process's largest so far
    rows = list(consistency(joint, sets))
    uniform = kstest([p for row in rows for p in row["p_values"]], "uniform")
    results = {
        "n": N, "n_sets": len(sets), "variant": args.variant, "steps": joint.provenance["steps"],
        "train_cpu_seconds": joint.provenance["cpu_seconds"], "n_energy": N_ENERGY, "permutations": PERMUTATIONS,
        "cost": costs, "consistency": rows, "p_uniform": float(uniform.pvalue),
        "extend": later(joint, sets[0][0]), "near": near(joint, sets), "chain": chain(joint, sets),
        "marginals": list(marginals(joint, sets, generator)),
    }  # fmt: skip
    print(save(f"functions_{args.variant}", 0, results))


if __name__ == "__main__":
    main()
