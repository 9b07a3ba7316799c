"""The field's benchmark: sbibm's tasks, and tasks of which every conditional is asked. One configuration for all.

A cell is a task, a budget of simulations, a seed and a variant of the configuration. It trains one network, draws 1,000
posterior draws for each of sbibm's ten observations, and for tree, hmm, two_moons and slcp 1,000 draws of 100 random
conditionals (conditionals.py). Reported: C2ST by random forest and, for seed 0, by sbibm's network (slower than many a
training) at n = 1,000, each with its floor (reference draws against other reference draws), and CPU seconds of training
on one thread.

Nothing is chosen on these figures: `VARIANTS["default"]` was chosen by validation loss and on simulations of our own,
and serves all tasks; only the length of a training depends on the budget, at 100,000 simulations "patient".
`ablation.py` says what each choice is worth.

    python benchmarks/sbibm.py two_moons 10000 --seed 0                    # one cell
    python benchmarks/sbibm.py --all --seeds 0 1 2                         # what is missing, cheap cells first
    python benchmarks/sbibm.py --all --variants dense flow --budgets 1000 10000 --tasks slcp hmm

At 100,000 the suite's cells are those of --variant patient. A cell takes from two minutes of one core (1,000
simulations) to an hour (slcp at 100,000), is resumed from runs/, and writes benchmarks/results/sbibm; tables.py makes
the tables. sbibm's reference draws are read from its installed files: pip install --no-deps sbibm==1.1.0
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr
from conditionals import Masks, coins, draw_problems
from conditionals import reference as conditional_reference
from networks import kept
from record import ROOT, measured, save
from references import sbibm_observations
from tables_sbibm import BUDGETS, KINDS, SUITE

import fsimformer as fsf
from fsimformer.diagnostics import Classifier, c2st
from fsimformer.sample import SamplerConfig, quality_named
from fsimformer.simulators import (
    Simulator,
    bernoulli_glm,
    gaussian_linear,
    gaussian_mixture,
    hmm,
    slcp,
    tree,
    two_moons,
)
from fsimformer.stages import Budget, draw
from fsimformer.tokens import TokenSet
from fsimformer.train import TrainConfig

SIMULATORS: dict[str, Callable[[], Simulator]] = {
    "gaussian_mixture": gaussian_mixture, "two_moons": two_moons, "tree": tree, "slcp": slcp,
    "gaussian_linear": gaussian_linear, "bernoulli_glm": bernoulli_glm, "hmm": hmm,
}  # fmt: skip
STEPS = {1_000: 2_500, 10_000: 10_000, 100_000: 10_000}  # at most: converged ones stop earlier
N, N_PROBLEMS = 1_000, 100
SAMPLER = "sde"  # by sampler_choice.py, on conditionals that are not scored here
MASKS = fsf.MaskConfig(
    posterior=0.45, imputation=0, forecast=0, gap=0, likelihood=0.05, variable=0.4, token=0, joint=0.1
)

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "cosine": {
        "train": {"cooldown": 0.0, "ema": 0.999, "steps": 5_000, "validate_every": 250, "patience": 6, "min_gain": 0.0}
    },
    "patient": {"train": {"steps": 30_000, "patience": 15}},
    "large": {"network": fsf.NetworkConfig(width=96, depth=4, n_heads=6), "train": {"steps": 30_000, "patience": 15}},
    "long": {"train": {"steps": 30_000, "patience": 8, "n_validation": 4_096}},
    "dense": {"dependency": "dense"},
    "flow": {"schedule": "rectified"},
    "vp": {"schedule": "vp"},
    "adamw": {"train": {"matrix_rate": 0.0}},
    "no_ema": {"train": {"ema": 0.0}},
    "weight_decay": {"train": {"weight_decay": 0.1}},
    "near_levels": {"levels": fsf.NoiseLevels(-3.0, 1.8)},
    "image_levels": {"levels": fsf.NoiseLevels(-1.2, 1.6)},
    "width_32": {"network": fsf.NetworkConfig(width=32, depth=4, n_heads=2)},
    "width_96": {"network": fsf.NetworkConfig(width=96, depth=4, n_heads=6)},
    "baseline": {"baseline": True},
    "posterior_only": {"masks": fsf.MaskConfig(1, 0, 0, 0, 0, 0, 0, 0)},
}
"""What each changes of the default: arguments of `fsimformer.train`, `train`: fields of its TrainConfig."""


def settings(budget: int, seed: int, variant: str) -> dict[str, Any]:
    """The arguments of `fsimformer.train` of a cell; `train` entries of a variant change its TrainConfig."""
    changes = dict(VARIANTS[variant])
    of_training = changes.pop("train", {})
    config: dict[str, Any] = {
        "steps": STEPS[budget], "batch_size": 256, "seed": seed, "n_micro": 2, "pool": 2, "max_levels": 1,
        "warmup": 100, "validate_every": 200, "patience": 5, "min_gain": 5e-4, "dial": (("few", 1.0),),
        "cooldown": 0.3, "ema": 0.995,
    }  # fmt: skip
    return {
        "simulations": budget,
        "network": fsf.NetworkConfig(width=64, depth=4, n_heads=4),
        "masks": MASKS,
        "dependency": "undirected",
        **changes,
        "config": TrainConfig(**(config | of_training)),
    }


def posterior_draws(
    joint: fsf.Joint, x: np.ndarray, n: int, seed: int, sampler: str | SamplerConfig = SAMPLER
) -> np.ndarray:
    """(n, parameters) draws given the whole of x, which lists the data variables in the order of the schema."""
    schema, at, observed = joint.schema, 0, {}
    for v in schema.variables:
        if v.role == "data":
            values = x[at : at + schema.n_components(v.name)]
            observed[v.name] = xr.DataArray(values if v.dims else values[0], dims=v.dims)
            at += len(values)
    draws = joint.condition(observed).sample(n, seed=seed, quality=sampler)["posterior"]
    names = [v.name for v in schema.variables if v.role == "parameter"]
    return np.concatenate([draws[name].values.reshape(n, -1) for name in names], axis=1)


def conditional_draws(
    joint: fsf.Joint, observed: np.ndarray, value: np.ndarray, n: int, seed: int, sampler: str | SamplerConfig = SAMPLER
) -> np.ndarray:
    """(n, latents) draws of all ids that are not observed; `observed` and `value` (ids,) on the original scale."""
    schema, model = joint.schema, joint.model
    transforms = [model.whitening.part(v.name, c) for v in schema.variables for c in range(schema.n_components(v.name))]
    z = torch.stack([t.forward(torch.tensor(float(v), dtype=torch.float64)) for t, v in zip(transforms, value)])

    def tokens(which: np.ndarray, is_observed: bool) -> TokenSet:
        ids = torch.from_numpy(np.flatnonzero(which))
        return TokenSet(ids, torch.zeros(len(ids), 0), z[ids].float(), torch.full((len(ids),), is_observed))

    out = draw(
        model.denoiser, [tokens(observed, True)], [tokens(~observed, False)], torch.zeros(schema.n_ids).bool(), n,
        quality_named(sampler), seed, model.n_active_observed, Budget(n_joint=model.max_latents),
    )[0].double()  # fmt: skip
    ids = np.flatnonzero(~observed)
    return np.stack([transforms[i].inverse(out[:, k]).numpy() for k, i in enumerate(ids)], axis=1)


def seed_of(seed: int, pair: int) -> int:
    """Of the draws of one pair: of one seed for all, errors had a part in common, which no mean removes."""
    return 1_000 * seed + pair


Pairs = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""(reference, other reference, ours) draws, one an observation or a mask."""


def posterior_pairs(joint: fsf.Joint, task: str, seed: int) -> Pairs:
    """Over sbibm's ten observations."""
    return [
        (r[:N], r[N : 2 * N], posterior_draws(joint, x, N, seed_of(seed, i)))
        for i, (x, r) in enumerate(sbibm_observations(task))
    ]


def conditional_pairs(joint: fsf.Joint, task: str, n_problems: int, seed: int, law: Masks = coins) -> Pairs:
    """Over the first of the random conditionals that are scored."""
    pairs = []
    for i, problem in enumerate(draw_problems(task, n_problems, seed=0, law=law)):
        exact = conditional_reference(task, problem, 2 * N, seed=i)
        ours = conditional_draws(joint, problem.observed, problem.value, N, seed_of(seed, i))
        pairs.append((exact[:N], exact[N:], ours))
    return pairs


def floor(pairs: Pairs, classifier: Classifier) -> float:
    """Mean C2ST of reference against other reference; of a hundred pairs every fifth: it costs as much as the figure.

    It is the same for every network, so it is kept in runs/ under a digest of the draws.
    """
    chosen = [(reference, other) for reference, other, _ in pairs[:: -(-len(pairs) // 20)]]
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for pair in chosen for a in pair)).hexdigest()
    path = ROOT / "runs" / "floors" / f"{classifier}_{digest[:16]}.txt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(repr(float(np.mean([c2st(a, b, classifier=classifier) for a, b in chosen]))))
    return float(path.read_text())


def over_pairs(values: list[float]) -> dict[str, Any]:
    """Mean and standard error over the pairs, and each."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5)
    return {"mean": float(np.mean(values)), "standard_error": error, "each": [round(x, 4) for x in values]}


def scores(pairs: Pairs, classifiers: tuple[Classifier, ...]) -> dict[str, Any]:
    """C2ST and floors; mean and standard error over the pairs."""
    out: dict[str, Any] = {"n": N, "n_pairs": len(pairs)}
    for name in classifiers:
        ours = [c2st(reference, draws, classifier=name) for reference, _, draws in pairs]
        out[f"c2st_{name}"] = {**over_pairs(ours), "floor": floor(pairs, name)}
    return out


def name_of(task: str, budget: int, seed: int, variant: str) -> str:
    return f"sbibm/{task}_{budget}_{variant}_{seed}"


def trained(task: str, budget: int, seed: int, variant: str) -> fsf.Joint:
    """The network of a cell, from runs/ if it was trained before: scoring may be repeated without training."""
    name, wanted = name_of(task, budget, seed, variant), settings(budget, seed, variant)
    torch.set_num_threads(1)
    return kept(name, SIMULATORS[task](), wanted)


def cell(task: str, budget: int, seed: int, variant: str) -> None:
    """Train, score and write one cell."""
    torch.set_num_threads(1)
    joint = trained(task, budget, seed, variant)
    card = joint.provenance
    results: dict[str, Any] = {
        "task": task, "simulations": budget, "variant": variant, "steps": card["steps"], "best_step": card["best_step"],
        "sampler": quality_named(SAMPLER).method, "evaluations": quality_named(SAMPLER).evaluations,
        **({"kept": card["kept"]} if "kept" in card else {}),  # older networks are all of the lowest loss
        "best_validation_loss": card["best_validation_loss"], "train_cpu_seconds": card["cpu_seconds"],
        "n_parameters": card["n_parameters"], "train_commit": card.get("commit", ""),
    }  # fmt: skip
    if task in KINDS["posterior"]:
        results["posterior"] = scores(posterior_pairs(joint, task, seed), ("rf", "mlp") if seed == 0 else ("rf",))
    if task in KINDS["conditionals"]:
        results["conditionals"] = scores(conditional_pairs(joint, task, N_PROBLEMS, seed), ("rf",))
    print(save(name_of(task, budget, seed, variant), seed, results), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SIMULATORS, nargs="?")
    parser.add_argument("budget", type=int, choices=BUDGETS, nargs="?")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, default="default")
    parser.add_argument("--all", action="store_true", help="every missing cell of the lists below")
    parser.add_argument("--train-only", action="store_true", help="networks to runs/, to be scored later")
    parser.add_argument("--tasks", choices=SIMULATORS, nargs="+", default=list(SIMULATORS))
    parser.add_argument("--budgets", type=int, choices=BUDGETS, nargs="+", default=list(BUDGETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", help="of the suite by default")
    args = parser.parse_args()
    if not args.all:
        if args.task is None or args.budget is None:
            parser.error("name a task and a budget, or --all")
        cell(args.task, args.budget, args.seed, args.variant)
        return
    for seed, budget, task in itertools.product(args.seeds, args.budgets, args.tasks):
        for variant in args.variants or [SUITE[budget]]:
            if args.train_only:
                trained(task, budget, seed, variant)
            elif not measured(name_of(task, budget, seed, variant)):
                cell(task, budget, seed, variant)


if __name__ == "__main__":
    main()
