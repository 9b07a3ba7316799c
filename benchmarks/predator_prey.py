"""Predator and prey: normalised log density of held-out readings, against the neural-process field's own figures.

The process of `simulators/predator_prey.py` with its parameters left out, so that the network models two series, read
without noise; 150–250 readings a species at random Euler points of [0, 100]. Three tasks: interpolation (100 random
readings a species are targets), forecasting (all after a time ~ U(25, 75) are), reconstruction (those of one species
after such a time are; the other is observed whole). Simulated data that training never saw, `N_SETS` a task.

What is computed: log p(targets | context) by the chain rule over blocks of at most `BLOCK` targets, the density of each
block jointly given context and all earlier blocks as observed, by the probability-flow ODE with exact divergence
(likelihood.py) and the Jacobian of whitening; per data set it is divided by its number of targets. Unit: nats a
target, of populations on the simulator's scale; mean over data sets ± its standard error. Blocks are random subsets for
interpolation, consecutive times of both species elsewhere. `validate` lays the same estimator, on the exact denoiser of
a Gaussian process instead of a network, against that process's closed form.

    python benchmarks/predator_prey.py validate
    python benchmarks/predator_prey.py run --steps 3000
    python benchmarks/predator_prey.py run --steps 3000 --baseline
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from networks import kept, only
from record import RESULTS, budget, save
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import observed_tokens, read
from fsimformer.denoise import Denoiser
from fsimformer.gaussian import FactorModel, Grid
from fsimformer.kernels import Kernel
from fsimformer.likelihood import log_prob
from fsimformer.model_file import build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.schema import Schema, Variable
from fsimformer.simulators import FunctionSimulator, GaussianProcess, PredatorPrey
from fsimformer.tokens import TokenSet, collate, join, split, take
from fsimformer.train import TrainConfig
from fsimformer.whiten import Standardise, Transform, Whitening

TASKS = ("interpolation", "forecasting", "reconstruction")
PUBLISHED = {"interpolation": -2.23, "forecasting": -2.38, "reconstruction": -2.50}
ATTENTION = {"interpolation": -2.83, "forecasting": -2.98, "reconstruction": -3.25}
SPECIES = ("prey", "predator")
N_SETS, N_TARGETS, BLOCK, ROWS = 32, 100, 16, 16
SIMULATIONS, STEPS = 10_000, 6_000
N_ODE, LOG_MIN = 24, -6.5
SIMULATOR = PredatorPrey()


def series_alone() -> FunctionSimulator:
    """The two series, parameters integrated out."""
    schema = SIMULATOR.schema
    series = tuple(Variable(k, "data", ("time",), None, schema[k].support) for k in SPECIES)

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws = SIMULATOR.simulate(n, generator)
        return {k: draws[k] for k in SPECIES}

    return FunctionSimulator(Schema(series, schema.dims), simulate, SIMULATOR.grid)


def trained(simulations: int, steps: int, baseline: bool = False, callback: Any = None) -> fsf.Joint:
    """From runs/ if it was trained before."""
    config = TrainConfig(
        steps=steps, batch_size=32, n_micro=4,
        pool=4, cooldown=0.3, ema=0.995, max_latents=BLOCK, level_tokens=4 * BLOCK,
        validate_every=250, n_validation=512, checkpoint_every=250,
    )  # fmt: skip
    network = fsf.NetworkConfig(  # readings lie .25 apart: waves of 1.5 units of time, not of 12
        width=64, depth=4, n_heads=4, index_features=20, index_frequency=128.0, rotary_frequency=128.0
    )
    settings: dict[str, Any] = {
        "simulations": simulations, "config": config, "network": network,
        "masks": only(imputation=0.35, forecast=0.35, gap=0.1, variable=0.1, joint=0.1),
        "design": fsf.Design((250, 250), skew=1.0, shared=0.1, regular=0.1, window=0.3), "baseline": baseline,
    }  # fmt: skip
    name = f"predator_prey/{simulations}_{steps}{'_baseline' if baseline else ''}"
    return kept(name, series_alone(), settings, callback=callback)


@dataclass(frozen=True)
class DataSet:
    """Context, and targets in the order in which the chain rule takes them."""

    context: TokenSet
    targets: TokenSet


def data_sets(task: str, whitening: Whitening, schema: Schema, n: int, seed: int = 1) -> tuple[list[DataSet], Tensor]:
    """Fresh paths read at Euler points, and Σ log |dx/dz| over the targets of each, (n,)."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, TASKS.index(task)])
    paths, out, jacobians = series_alone().simulate(n, generator), [], []
    grid = SIMULATOR.grid["time"].numpy()
    inside = int(np.searchsorted(grid, 100.0, side="right"))
    for row in range(n):
        places = {k: np.sort(rng.choice(inside, int(rng.integers(150, 251)), replace=False)) for k in SPECIES}
        cut, whole = rng.uniform(25, 75), SPECIES[int(rng.integers(2))]
        tokens, target = [], []
        for k in SPECIES:
            t = grid[places[k]]
            value = paths[k][row].numpy()[places[k]].astype(np.float64)
            observation = read(schema, xr.Dataset({k: ("time", value)}, {"time": t}))
            tokens.append(observed_tokens(schema, whitening, observation))
            if task == "interpolation":
                mine = np.isin(np.arange(len(t)), rng.choice(len(t), N_TARGETS, replace=False))
            else:
                mine = (t > cut) & (task == "forecasting" or k != whole)
            target.append(mine)
        everything, chosen = join(*tokens), np.concatenate(target)
        context, latent = (np.flatnonzero(x) for x in (~chosen, chosen))
        order = (
            rng.permutation(len(latent)) if task == "interpolation" else everything.index[latent, 0].numpy().argsort()
        )
        targets = take(everything, torch.from_numpy(latent[order]))
        out.append(DataSet(take(everything, torch.from_numpy(context)), targets))
        jacobians.append(log_det(schema, whitening, targets))
    return out, torch.stack(jacobians)


def log_det(schema: Schema, whitening: Whitening, tokens: TokenSet) -> Tensor:
    """Σ log |dx/dz| over tokens of functions of one component, float64."""
    total = torch.zeros((), dtype=torch.float64)
    for name in schema.names:
        z = tokens.value[tokens.variable == schema.ids(name)[0]].double()
        total = total + whitening.log_det(name, z, torch.zeros(len(z), dtype=torch.long)).sum()
    return total


def log_density(
    denoiser: Denoiser, sets: Sequence[DataSet], block: int, *, n_steps: int = N_ODE, log_min: float = LOG_MIN
) -> Tensor:
    """log p(targets | context) of whitened values, (n,) float64: a sum over blocks, each given those before it."""
    out = torch.zeros(len(sets), dtype=torch.float64)
    order = sorted(range(len(sets)), key=lambda i: len(sets[i].targets))
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        for start in range(0, max(len(sets[i].targets) for i in rows), block):
            left = [i for i in rows if len(sets[i].targets) > start]
            batch = collate([_row(sets[i], start, block) for i in left])
            streams = split(batch, 0)
            with torch.no_grad():
                encoded = denoiser.encode(streams)
            x = streams.active.value[:, None]
            found = log_prob(denoiser, encoded, x, n_steps=n_steps, log_min=log_min)
            out[left] += found[:, 0].double()
    return out


def _row(of: DataSet, start: int, block: int) -> TokenSet:
    """Context and the targets before `start` observed, the next `block` latent."""
    earlier = take(of.targets, torch.arange(start))
    now = take(of.targets, torch.arange(start, min(start + block, len(of.targets))))
    mask = torch.cat([torch.ones(len(of.context) + start), torch.zeros(len(now))]).bool()
    joined = join(of.context, earlier, now)
    return TokenSet(joined.variable, joined.index, joined.value, mask)


def exact_denoiser(process: GaussianProcess, whitening: Whitening, points: int = 257, rank: int = 40) -> Denoiser:
    """A network of zeros told the process's own factor model: x̂ is the Gaussian conditional mean."""
    at = torch.linspace(0, 1, points, dtype=torch.float64)[:, None]
    values, vectors = torch.linalg.eigh(process.sd**2 * process.kernel(at, at))
    loading = (vectors.flip(1)[:, :rank] * values.flip(0)[:rank].clamp(min=0).sqrt()).float()
    schema, parts, grids = process.schema, [], []
    for i, name in enumerate(("theta", "x")):
        scale, noise = whitening[name].standardise.scale if name == "x" else process.sd, (0.0, process.noise)[i]
        mean = torch.full((points, 1), 0.0 if name == "theta" else -whitening[name].standardise.loc / scale)
        parts.append(torch.cat([loading / scale, mean, torch.full((points, 1), (noise / scale) ** 2)], 1))
        grids.append(Grid(schema.ids(name)[0], (0,), (points,), i * points))
    uses = tuple(map(tuple, schema.uses_index().tolist()))
    config = NetworkConfig(width=8, depth=1, n_heads=1, rotary_frequency=0.0, uses_index=uses)
    denoiser = build_denoiser(schema, config, "trig", "dense", None, baseline=True)
    denoiser.baseline = FactorModel(torch.zeros(schema.n_ids, rank + 2), torch.cat(parts), grids)
    with torch.no_grad():
        denoiser.network.out.bias.copy_(torch.tensor([0.0, 1.0]))
    return denoiser.eval()


def validate(
    n: int = 8,
    n_context: int = 20,
    n_targets: int = 80,
    noises: Sequence[float] = (0.1**0.5, 0.05),
    settings: Sequence[tuple[int, int]] = ((N_ODE, BLOCK), (N_ODE, 64), (2 * N_ODE, BLOCK)),
) -> dict[str, Any]:
    """The estimator against the closed form: noisy readings of a process, given others of them.

    `noises`: of a reading; densities are as sharp. `settings`: pairs (steps of the solver, targets a block).
    """
    rows = []
    for noise in noises:
        process = GaussianProcess(Kernel(lengthscale=0.1), noise=noise)
        schema, generator = process.schema, torch.Generator().manual_seed(0)
        real = schema["x"].support
        # a whitening that stretches: without its Jacobian the figure would be off by log 3 a target
        whitening = Whitening({
            "theta": Transform(schema["theta"].prior, real), "x": Transform(None, real, Standardise(0.5, 3.0))
        })  # fmt: skip
        sets, exact, jacobians = [], [], []
        for _ in range(n):
            at = torch.rand(n_context + n_targets, generator=generator, dtype=torch.float64)
            value = process.posterior().sample(at, 1, generator, readings=True)[0][0]
            data = xr.Dataset({"x": ("time", value.numpy())}, {"time": at.numpy()})
            tokens = observed_tokens(schema, whitening, read(schema, data))
            context, targets = (take(tokens, i) for i in torch.arange(len(at)).split([n_context, n_targets]))
            sets.append(DataSet(context, targets))
            jacobians.append(log_det(schema, whitening, targets))
            given = process.posterior({"x": data["x"][:n_context]})
            exact.append(given.log_prob(at[n_context:], value[n_context:], readings=True))
        denoiser, truth = exact_denoiser(process, whitening), torch.stack(exact) / n_targets
        for n_steps, block in settings:
            found = log_density(denoiser, sets, block, n_steps=n_steps) - torch.stack(jacobians)
            error = found / n_targets - truth
            rows.append({
                "noise": noise, "steps": n_steps, "block": block, "log_density": float(truth.mean()),
                "error": float(error.mean()), "largest": float(error.abs().max()),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return {"n": n, "n_context": n_context, "n_targets": n_targets, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("validate", "run"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--sets", type=int, default=N_SETS)
    parser.add_argument("--baseline", action="store_true", help="tell the network its linear baseline as well")
    parser.add_argument("--train-only", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "validate":
        print(save("predator_prey_estimator", 0, validate()))
        return
    joint = trained(SIMULATIONS, args.steps, args.baseline)
    if args.train_only:
        return
    model, rows = joint.model, []
    for task in TASKS:
        start = time.process_time()
        sets, jacobians = data_sets(task, model.whitening, joint.schema, args.sets)
        counts = torch.tensor([len(s.targets) for s in sets])
        each = (log_density(model.denoiser, sets, BLOCK) - jacobians) / counts
        rows.append({
            "task": task, "log_density": float(each.mean()), "standard_error": float(each.std() / len(each) ** 0.5),
            "targets": float(counts.double().mean()), "published": PUBLISHED[task], "attention": ATTENTION[task],
            "each": each.tolist(), "cpu_seconds": time.process_time() - start,
        })  # fmt: skip
        print({k: v for k, v in rows[-1].items() if k != "each"}, flush=True)
    estimator = json.loads((RESULTS / "predator_prey_estimator.json").read_text())["results"]
    results = budget(joint.provenance) | {
        "n": args.sets, "block": BLOCK, "n_ode": N_ODE, "estimator": estimator["rows"], "rows": rows,
        "train_commit": joint.provenance.get("commit", ""), "baseline": args.baseline,
    }  # fmt: skip
    print(save("predator_prey_baseline" if args.baseline else "predator_prey", 0, results))


if __name__ == "__main__":
    main()
