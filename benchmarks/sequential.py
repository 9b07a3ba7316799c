"""Sequential training for one observation, ours with the simulator's graph, beside sbi's methods, which have none.

RF C2ST after each round of 1,000 simulations.

On sbibm's first observations of two_moons and slcp, five rounds each: `fsimformer.train_sequential`; sbi's TSNPE (NPE
with a neural spline flow, prior truncated by `get_density_thresholder`, first-round loss); sbi's NPE-C (the same flow,
atomic loss, its posterior as proposal). C2ST at n = 1,000 against the reference draws with its floor (reference against
other reference draws), and CPU seconds on one thread since the start, scoring left out.

    python benchmarks/sequential.py two_moons --seed 0 --observations 1 2 3 --methods fsimformer tsnpe npe_c

Figures that a former run wrote for other methods are kept. Nothing is tuned on them: sbi runs with its defaults, ours
with the network and the sampler of sbibm.py, the masks of refining in every round, and 600 steps a round, which is what
the CPU seconds of sbi's rounds pay for on two_moons; on slcp ours takes 1.3 to 1.9 times theirs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import RESULTS, save
from references import sbibm_observations
from sbibm import SAMPLER, SIMULATORS, settings

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.seeds import generator_at
from fsimformer.sequential import REFINING_MASKS
from fsimformer.simulators.tasks import draw_slcp, draw_two_moons

DRAW = {"two_moons": draw_two_moons, "slcp": draw_slcp}
BOX = {"two_moons": (2, 1.0), "slcp": (5, 3.0)}
SIMULATIONS, N, STEPS = 1_000, 1_000, 600

Rounds = Iterator[tuple[dict[str, Any], np.ndarray]]
"""After each round: what there is to say of it, and draws (N, d) of the posterior."""


def fsimformer(task: str, x: np.ndarray, rounds: int, seed: int, dependency: str = "undirected") -> Rounds:
    config = fsf.TrainConfig(
        steps=STEPS, batch_size=128, n_micro=1, pool=1, max_levels=2, level_tokens=32, warmup=50, validate_every=50,
        patience=8, dial=(("few", 1.0),), seed=seed,
    )  # fmt: skip
    observed = {"x": xr.DataArray(x, dims="x_dim")}
    run = fsf.train_sequential(
        SIMULATORS[task](), observed, rounds=rounds, simulations=SIMULATIONS, config=config,
        network=settings(SIMULATIONS, seed, "default")["network"], dependency=dependency, masks=REFINING_MASKS,
    )  # fmt: skip
    total = 0.0
    for made in run.rounds:
        start = time.process_time()
        draws = made.joint.condition(observed).sample(N, seed=seed, quality=SAMPLER)["posterior"]["theta"]
        card = made.joint.provenance
        total += card["cpu_seconds"]
        row = made.summary() | {"steps": card["steps"], "best_step": card["best_step"], "drawn_by": made.method}
        yield row | {"cpu_seconds": total + time.process_time() - start}, draws.values.reshape(N, -1)


def sbi_rounds(task: str, x: np.ndarray, rounds: int, seed: int, truncate: bool) -> Rounds:
    from sbi.inference import NPE
    from sbi.utils import BoxUniform, RestrictedPrior, get_density_thresholder

    torch.manual_seed(seed)  # sbi draws from the global generators
    np.random.seed(seed)
    d, bound = BOX[task]
    prior, observed = BoxUniform(-bound * torch.ones(d), bound * torch.ones(d)), torch.from_numpy(x).float()[None]
    proposal, generator, total = prior, generator_at(seed, 2, 1), 0.0
    trainer = NPE(prior=prior, density_estimator="nsf", show_progress_bars=False)
    for _ in range(rounds):
        start = time.process_time()
        theta = proposal.sample((SIMULATIONS,))
        drawn = DRAW[task](theta.double(), generator).float()
        if truncate:
            trainer.append_simulations(theta, drawn).train(force_first_round_loss=True)
        else:
            trainer.append_simulations(theta, drawn, proposal=proposal).train()
        posterior = trainer.build_posterior().set_default_x(observed)
        total += time.process_time() - start
        start = time.process_time()
        draws = posterior.sample((N,), show_progress_bars=False).numpy()
        yield {"cpu_seconds": total + time.process_time() - start}, draws
        start = time.process_time()
        if truncate:
            proposal = RestrictedPrior(prior, get_density_thresholder(posterior), sample_with="rejection")
        else:
            proposal = posterior
        total += time.process_time() - start


def tsnpe(task: str, x: np.ndarray, rounds: int, seed: int) -> Rounds:
    return sbi_rounds(task, x, rounds, seed, truncate=True)


def npe_c(task: str, x: np.ndarray, rounds: int, seed: int) -> Rounds:
    return sbi_rounds(task, x, rounds, seed, truncate=False)


METHODS: dict[str, Callable[[str, np.ndarray, int, int], Rounds]] = {
    "fsimformer": fsimformer, "fsimformer_dense": partial(fsimformer, dependency="dense"), "tsnpe": tsnpe,
    "npe_c": npe_c,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=BOX)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--observations", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    name = f"sequential_{args.task}_{args.seed}"
    results: dict[str, Any] = {"task": args.task, "n": N, "simulations_a_round": SIMULATIONS, "floor": {}, "rows": []}
    path, packages = RESULTS / f"{name}.json", dict[str, str]()
    if path.exists():
        former = json.loads(path.read_text())
        results, packages = former["results"], {k: v for k, v in former["versions"].items() if k == "sbi"}
    data = {i: pair for i, pair in enumerate(sbibm_observations(args.task), 1) if i in args.observations}
    for method in args.methods:
        packages |= {} if method.startswith("fsimformer") else {"sbi": version("sbi")}
        for i, (x, reference) in data.items():
            results["floor"][str(i)] = c2st(reference[:N], reference[N : 2 * N])
            rows = [r for r in results["rows"] if (r["method"], r["observation"]) != (method, i)]
            for number, (row, draws) in enumerate(METHODS[method](args.task, x, args.rounds, args.seed), 1):
                found = {"method": method, "observation": i, "round": number, "total": number * SIMULATIONS}
                rows.append(row | found | {"c2st_rf": c2st(reference[:N], draws)})
                print(
                    {k: rows[-1][k] for k in ("method", "observation", "total", "cpu_seconds", "c2st_rf")}, flush=True
                )
            results["rows"] = rows
            save(name, args.seed, results, packages)


if __name__ == "__main__":
    main()
