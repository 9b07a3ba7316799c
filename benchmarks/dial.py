"""D1's dial: observed tokens in the active stream 0, 8, 32, all — accuracy and seconds, at equal parameters and steps.

One network a task and seed is trained over all four settings, equally often, and sampled at each of them, so that
parameters, steps and simulations are equal by construction. Reported: mean RF C2ST over the task's data sets at
n = 1,000 (two_moons, slcp: sbibm's observations and reference posteriors; lotka_volterra: ours; sird: no reference
posterior, so the energy score of the scalars over 40 fresh data sets, 250 draws each; lower is better) and CPU seconds
for 1,000 draws of the scalars of one data set on one thread, the fastest of three calls.

    python benchmarks/dial.py two_moons --seed 0        # one cell; `--all` runs every task and two seeds
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
import xarray as xr
from lotka_volterra import PARAMETERS as LV_PARAMETERS
from lotka_volterra import data_set as lv_data_set
from record import ROOT, measured, save
from references import sbibm_observations
from sbibm import SIMULATORS
from train_shipped import NETWORK

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.seeds import generator_at
from fsimformer.simulators import SIRD, LotkaVolterra, Simulator
from fsimformer.train import TrainConfig

TASKS = ("two_moons", "slcp", "lotka_volterra", "sird")
DIAL: tuple[int | None, ...] = (0, 8, 32, None)
SIMULATIONS, N, N_SCORE = 10_000, 1_000, 250


def simulator_named(task: str) -> Simulator:
    if task in ("sird", "lotka_volterra"):  # scalars are scored: without knots among the latents, as with them
        return (SIRD if task == "sird" else LotkaVolterra)(reference=())
    return SIMULATORS[task]()


def accuracy(joint: fsf.Joint, task: str, dial: int | None, seed: int) -> list[float]:
    """One number a data set: C2ST, or for sird the energy score."""
    if task in ("two_moons", "slcp"):
        out = []
        for x, reference in sbibm_observations(task):
            draws = joint.condition({"x": xr.DataArray(x, dims="x_dim")}, n_active_observed=dial).sample(N, seed=seed)
            theta = draws["posterior"]["theta"].values.reshape(N, -1)
            out.append(c2st(reference[:N], theta))
        return out
    if task == "lotka_volterra":
        saved = dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz"))
        out = []
        for i, reference in enumerate(saved["draws"].astype(float)):
            ours = joint.condition(lv_data_set(saved, i), n_active_observed=dial).sample(N, seed=seed)["posterior"]
            out.append(c2st(reference[:N], np.stack([ours[p].values.ravel() for p in LV_PARAMETERS], 1)))
        return out
    return [energy_score(joint, observed, truth, dial, seed) for observed, truth in sird_data_sets(40, 20_000 + seed)]


def sird_data_sets(n: int, seed: int, readings: int = 20) -> Iterator[tuple[dict[str, xr.DataArray], np.ndarray]]:
    """Fresh data sets with so many readings a channel, and their true scalars."""
    simulator, rng = SIRD(), np.random.default_rng(seed)
    drawn = simulator.simulate(n, generator_at(seed, 7))
    grid = simulator.grid["time"].numpy()
    for i in range(n):
        observed = {}
        for name in ("infected", "recovered", "deaths"):
            time_points = np.sort(rng.uniform(0, 50, readings))
            path = drawn[name][i].double().numpy()
            if name in simulator.natural:
                path = np.interp(time_points, grid, path)
            else:
                path = np.exp(np.interp(time_points, grid, np.log(path)))
            values = path * np.exp(0.05 * rng.standard_normal(readings))
            observed[name] = xr.DataArray(values, dims=f"time_{name}", coords={f"time_{name}": time_points})
        yield observed, np.array([float(drawn[p][i]) for p in ("recovery_rate", "death_rate", "initial_infected")])


def energy_score(
    joint: fsf.Joint, observed: dict[str, xr.DataArray], truth: np.ndarray, dial: int | None, seed: int
) -> float:
    """E|X − θ| − ½E|X − X'| of the scalars in prior sds (Gneiting and Raftery, JASA 2007)."""
    n = N_SCORE
    ours = joint.condition(observed, n_active_observed=dial).sample(n, at={}, seed=seed)["posterior"]
    scale = np.array([0.5, 0.5, 0.2]) / np.sqrt(12)
    x = np.stack([ours[p].values.ravel() for p in ("recovery_rate", "death_rate", "initial_infected")], 1) / scale
    half = n // 2
    return float(
        np.linalg.norm(x - truth / scale, axis=1).mean() - 0.5 * np.linalg.norm(x[:half] - x[half:], axis=1).mean()
    )


def seconds(joint: fsf.Joint, task: str, dial: int | None) -> float:
    """CPU seconds of 1,000 draws of the scalars given one data set; the best of three repeats, after a warm-up."""
    if task in ("two_moons", "slcp"):
        observed: dict[str, xr.DataArray] = {"x": xr.DataArray(next(sbibm_observations(task))[0], dims="x_dim")}
    elif task == "lotka_volterra":
        observed = lv_data_set(dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz")), 0)
    else:
        observed = next(sird_data_sets(1, 0))[0]
    times = []
    for _ in range(4):
        start = time.process_time()
        joint.condition(observed, n_active_observed=dial).sample(1000, at={})
        times.append(time.process_time() - start)
    return min(times[1:])


def cell(task: str, seed: int, steps: int) -> None:
    config = TrainConfig(steps=steps, batch_size=64, n_micro=4, pool=4, seed=seed, dial=tuple((d, 1.0) for d in DIAL))
    joint = fsf.train(simulator_named(task), simulations=SIMULATIONS, config=config, network=NETWORK)
    rows = []
    for dial in DIAL:
        values = accuracy(joint, task, dial, seed)
        rows.append({
            "dial": "all" if dial is None else dial,
            "accuracy": float(np.mean(values)),
            "standard_error": float(np.std(values) / len(values) ** 0.5),
            "seconds_1000_draws": seconds(joint, task, dial),
        })  # fmt: skip
    card = joint.provenance
    print(save(f"dial_{task}_{seed}", seed, {
        "task": task, "metric": "energy score" if task == "sird" else "c2st_rf", "n": N_SCORE if task == "sird" else N,
        "simulations": SIMULATIONS,
        "steps": card["steps"], "best_step": card["best_step"], "train_cpu_seconds": card["cpu_seconds"], "rows": rows,
    }))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--all", action="store_true", help="every task, seeds 0 and 1; cells that exist are kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.all:
        for seed in (0, 1):
            for task in TASKS:
                if not measured(f"dial_{task}_{seed}"):
                    cell(task, seed, args.steps)
    elif args.task:
        cell(args.task, args.seed, args.steps)
    else:
        parser.error("name a task, or --all")


if __name__ == "__main__":
    main()
