"""How the index enters the network: additive Fourier features, rotary attention, logits that fall with the distance.

Networks of one size, trained for equal steps on equal rows, without the linear baseline, which would do their work
(but for "_baseline": what models of functional parameters do beyond the trained range). On a stationary Gaussian
process (squared exponential, lengthscale .2 on [0, 1], 10 readings with noise √.1), whose posterior is known: between
readings; the same with every index .1 later (change: by how much of an exact sd the answer's mean moved; equal noise);
forecasts after a last reading before .7, of six points and of one; one point beyond the trained range by up to 10 % and
25 %. On Lotka-Volterra, whose clock starts at 0: the parameters' loss on held-out rows (held_out.py).

Error: of a mean, in exact sds. Ratio: of a variance to the exact one, mean and lowest twentieth over points and data
sets. KL: nats a point from the exact marginal to the normal with the draws' moments. Floor: the same of exact draws.
"clamped": the same network whose additive features hold points beyond the range at its ends; "held": whose baseline
does. knots: a reference set of 17; "straight line": what the spline through them would say beyond.

    python benchmarks/index_encodings.py --all --seed 0
    python benchmarks/index_encodings.py process rotary --seed 1
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from held_out import N_ROWS, posterior_loss, posterior_rows
from networks import kept
from record import measured, save
from torch import Tensor

import fsimformer as fsf
from fsimformer.functions import spline
from fsimformer.gaussian import FactorModel
from fsimformer.kernels import Kernel
from fsimformer.nn import Embedding, NetworkConfig
from fsimformer.simulators import GaussianProcess, GaussianProcessPosterior, LotkaVolterra, Simulator
from fsimformer.tokens import TokenBatch
from fsimformer.train import TrainConfig

ALL = NetworkConfig(width=48, depth=3, n_heads=4, distance_decay=True)
VARIANTS: dict[str, NetworkConfig] = {
    "fourier": replace(ALL, rotary_frequency=0.0, distance_decay=False),
    "fourier_smooth": replace(ALL, index_frequency=4.0, rotary_frequency=0.0, distance_decay=False),
    "rotary": replace(ALL, index_features=0, distance_decay=False),
    "distance": replace(ALL, index_features=0, rotary_frequency=0.0),
    "rotary_distance": replace(ALL, index_features=0),
    "fourier_rotary": replace(ALL, distance_decay=False),
    "fourier_rotary_distance": ALL,
    "fourier_rotary_baseline": replace(ALL, distance_decay=False),
}
KNOTS = 17
TASKS: dict[str, tuple[Simulator, fsf.Design | None, int, tuple[str, ...]]] = {
    "process": (GaussianProcess(Kernel(lengthscale=0.2)), fsf.Design((8, 16)), 1_000, tuple(VARIANTS)),
    "knots": (
        GaussianProcess(Kernel(lengthscale=0.2), reference=(KNOTS,)), fsf.Design((8, 16)), 1_000,
        ("fourier_rotary_baseline",),
    ),
    "lotka_volterra": (
        LotkaVolterra(reference=()), None, 500, ("fourier", "rotary", "fourier_rotary", "fourier_rotary_distance"),
    ),
}  # fmt: skip
"""Simulator, design, steps, variants."""
SIMULATIONS = 20_000
LAST, SHIFT = 0.7, 0.1
SITUATIONS: dict[str, tuple[float, list[float], bool]] = {
    "inside": (1 - SHIFT, [0.05, 0.21, 0.37, 0.53, 0.69, 0.85], False),
    "forecast": (LAST, [0.75, 0.8, 0.85, 0.9, 0.95, 1.0], False),
    "forecast, alone": (LAST, [0.85, 1.0], True),
    "outside 10 %": (1.0, [1.05, 1.1], True),
    "outside 25 %": (1.0, [1.175, 1.25], True),
}
"""The latest reading, points asked for, each by itself or all together."""
N, N_SETS, N_READINGS = 128, 16, 10
DESIGN = fsf.Design((21, 21), skew=0.0, shared=1.0, regular=0.0, window=0.0)


def trained(task: str, variant: str, steps: int, seed: int) -> fsf.Joint:
    """From runs/ if it was trained before."""
    simulator, design, _, _ = TASKS[task]
    config = TrainConfig(
        steps=steps, batch_size=64, n_micro=2, pool=4, warmup=100, cooldown=0.3, ema=0.99, validate_every=steps,
        n_validation=256, max_latents=24 if task == "knots" else 12, level_tokens=32, max_levels=4, seed=seed,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "simulations": SIMULATIONS, "config": config, "network": VARIANTS[variant], "design": design,
        "baseline": "baseline" in variant,
    }  # fmt: skip
    return kept(f"index_encodings/{task}_{variant}_{steps}_{seed}", simulator, settings)


class Clamped(Embedding):
    """Additive features that hold points beyond the trained range at its ends."""

    def static(self, variable: Tensor, index: Tensor, observed: Tensor) -> Tensor:
        return super().static(variable, index.clamp(-1, 1), observed)


class Held(FactorModel):
    """A baseline that takes points beyond the trained range for its ends."""

    def at(self, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        return super().at(batch.replace(index=batch.index.clamp(-1, 1)))


def kinds(joint: fsf.Joint) -> dict[str, fsf.Joint]:
    """The network, and what it would be if points beyond the range were held at its ends."""
    out = {"": joint}
    if joint.model.denoiser.network.config.index_features:
        out[", clamped"] = copy.deepcopy(joint)
        out[", clamped"].model.denoiser.network.embedding.__class__ = Clamped
    if joint.model.denoiser.baseline is not None:
        out[", held"] = copy.deepcopy(joint)
        out[", held"].model.denoiser.baseline.__class__ = Held
    return out


@dataclass(frozen=True)
class Problem:
    """Readings, where the function is asked for, its exact posterior; `before`: the readings before their shift."""

    observed: xr.Dataset
    at: np.ndarray
    alone: bool
    exact: GaussianProcessPosterior
    before: xr.Dataset | None = None


def read(times: np.ndarray, values: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"x": ("time", values)}, {"time": times})


def problems(process: GaussianProcess) -> Iterator[tuple[str, Problem]]:
    """`N_SETS` of each situation, equal ones for every network."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(N_SETS):
        u = torch.rand(N_READINGS, generator=generator, dtype=torch.float64).sort().values
        for name, (last, points, alone) in SITUATIONS.items():
            times, at = last * u, np.array(points)
            x = process.posterior().sample(times, 1, generator, readings=True)[0][0].numpy()
            observed = read(times.numpy(), x)
            yield name, Problem(observed, at, alone, process.posterior({"x": observed["x"]}))
            if name == "inside":
                later = read(times.numpy() + SHIFT, x)
                yield "shifted", Problem(later, at + SHIFT, alone, process.posterior({"x": later["x"]}), observed)


def asked(joint: fsf.Joint, observed: xr.Dataset, at: np.ndarray) -> xr.DataTree:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fsf.ObservationWarning)  # beyond the range on purpose
        return joint.condition(observed).sample(N, {"theta": at}, seed=0)


def draws_of(joint: fsf.Joint, observed: xr.Dataset, at: np.ndarray, alone: bool = False) -> np.ndarray:
    """(N, len(at)); `alone`: points do not know of each other."""
    if alone:
        return np.concatenate([draws_of(joint, observed, point) for point in at[:, None]], 1)
    out: np.ndarray = asked(joint, observed, at)["posterior"]["theta"].values.reshape(N, len(at))
    return out


def straight(tree: xr.DataTree, at: np.ndarray) -> np.ndarray:
    """(N, len(at)): what the spline through the knots of these draws says; theta is whitened as it stands."""
    knots = torch.from_numpy(tree["functions"]["theta"].values.reshape(N, -1)).double()
    return (knots @ spline((KNOTS,), torch.from_numpy(2 * at[:, None] - 1)).T).numpy()


def compare(draws: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> dict[str, np.ndarray]:
    """A figure a point."""
    error, ratio = np.abs(draws.mean(0) - mean) / np.sqrt(variance), draws.var(0, ddof=1) / variance
    return {"error": error, "ratio": ratio, "kl": 0.5 * (np.log(ratio) + (1 + error**2) / ratio - 1)}


def row_of(situation: str, found: list[dict[str, np.ndarray]], floor: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Means over data sets, standard errors over data sets, floors."""
    row: dict[str, Any] = {"situation": situation}
    for key in found[0]:
        each = [float(f[key].mean()) for f in found]
        row[key], row[f"{key}_standard_error"] = float(np.mean(each)), float(np.std(each, ddof=1) / len(each) ** 0.5)
        row[f"{key}_floor"] = float(np.mean([f[key] for f in floor])) if key in floor[0] else 0.0
    row["ratio_q05"] = float(np.quantile([f["ratio"] for f in found], 0.05))
    row["ratio_q05_floor"] = float(np.quantile([f["ratio"] for f in floor], 0.05))
    return row


Figures = dict[str, list[dict[str, np.ndarray]]]


def process_figures(joint: fsf.Joint) -> list[dict[str, Any]]:
    process, generator = TASKS["process"][0], torch.Generator().manual_seed(2)
    assert isinstance(process, GaussianProcess)
    found: Figures = {}
    floor: Figures = {}
    for situation, p in problems(process):
        moments = p.exact.mean(p.at).numpy(), p.exact.covariance(p.at).diagonal().numpy()
        exact = compare(p.exact.sample(p.at, N, generator)[0].numpy(), *moments)
        for kind, draws in draws_by_kind(joint, situation, p).items():
            figures = compare(draws, *moments)
            if p.before is not None:
                moved = draws.mean(0) - draws_of(joint, p.before, p.at - SHIFT).mean(0)
                figures["change"] = np.abs(moved) / np.sqrt(moments[1])
            found.setdefault(situation + kind, []).append(figures)
            floor.setdefault(situation + kind, []).append(exact)
    return [row_of(s, found[s], floor[s]) for s in found]


def draws_by_kind(joint: fsf.Joint, situation: str, p: Problem) -> dict[str, np.ndarray]:
    beyond = situation.startswith("outside")
    if joint.schema.references:  # points do not know of each other, and within the range resolution.py has the figures
        if not beyond:
            return {}
        tree = asked(joint, p.observed, p.at)
        own = tree["posterior"]["theta"].values.reshape(N, len(p.at))
        return {"": own, ", straight line": straight(tree, p.at)}
    networks = kinds(joint) if beyond else {"": joint}
    return {kind: draws_of(network, p.observed, p.at, p.alone) for kind, network in networks.items()}


def cell(task: str, variant: str, steps: int | None, seed: int) -> None:
    simulator, _, usual, _ = TASKS[task]
    joint = trained(task, variant, steps or usual, seed)
    card = joint.provenance
    results: dict[str, Any] = {
        "task": task, "variant": variant, "steps": card["steps"], "n_parameters": joint.n_parameters,
        "train_cpu_seconds": card["cpu_seconds"], "train_commit": card.get("commit", ""),
    }  # fmt: skip
    if task != "lotka_volterra":
        results |= {"n": N, "n_sets": N_SETS, "rows": process_figures(joint)}
    else:
        loss, error = posterior_loss(joint, posterior_rows(joint, simulator, DESIGN), "few", 8)
        results |= {"n": N_ROWS, "loss": loss, "standard_error": error}
    name = name_of(task, variant, seed)
    print(save(name if steps is None else f"{name}_{steps}", seed, results), flush=True)


def name_of(task: str, variant: str, seed: int) -> str:
    return f"index_encodings/{task}_{variant}_{seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS, nargs="?")
    parser.add_argument("variant", choices=VARIANTS, nargs="?")
    parser.add_argument("--steps", type=int, help="instead of the task's own; kept apart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="every missing cell")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.all:
        for task, (_, _, _, variants) in TASKS.items():
            for variant in variants:
                if not measured(name_of(task, variant, args.seed)):
                    cell(task, variant, args.steps, args.seed)
    elif args.variant:
        cell(args.task, args.variant, args.steps, args.seed)
    else:
        parser.error("name a task and a variant, or --all")


if __name__ == "__main__":
    main()
