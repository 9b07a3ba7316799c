"""A distilled Joint on sbibm's ten observations: what 1, 2 or 4 evaluations lose against its teacher's samplers.

The teacher is the network of `sbibm.py` of that task and budget. C2ST (random forest, n = 1,000) against the reference
draws, and against exact draws of the teacher, which is what distilling lost; the variance error is the mean over
parameters and observations of |variance/variance of the teacher's exact draws − 1|, all from the same noise but the
SDE's, which draws more of its own; its floor, from other noise, is what the SDE's can be read against. Beside
them: solvers of the teacher with as few evaluations. Floors: reference against other reference draws, and the teacher's
draws against others of its own.

    python benchmarks/distill.py two_moons 10000                 # trains the teacher first, if it is not in runs/
    python benchmarks/distill.py slcp 1000 --steps 5000
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from record import ROOT, save
from references import sbibm_observations
from sbibm import SIMULATORS, N, posterior_draws, trained

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.distill import DISTILLING
from fsimformer.sample import QUALITY, SamplerConfig

SAMPLERS: dict[str, SamplerConfig] = {
    **{f"flow map, {n}": SamplerConfig("flow_map", n) for n in (1, 2, 4)},
    **{f"ab2, {n}": replace(QUALITY["fast"], n_steps=n) for n in (2, 4, 8)},
    **QUALITY,
}


def distilled(task: str, budget: int, seed: int, steps: int) -> fsf.Joint:
    """From runs/ if it was distilled before, a checkpoint beside it."""
    folder = ROOT / "runs" / "distill" / f"{task}_{budget}_{seed}_{steps}"
    if not folder.exists():
        teacher = trained(task, budget, seed, "default")
        config = replace(DISTILLING, steps=steps, seed=seed)
        checkpoint = folder.with_name(f"{folder.name}.safetensors")
        fsf.distill(teacher, SIMULATORS[task](), simulations=budget, config=config, checkpoint=checkpoint).save(folder)
    return fsf.load(folder)


def variance_error(draws: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(draws.var(0) / others.var(0) - 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=SIMULATORS)
    parser.add_argument("budget", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=DISTILLING.steps)
    parser.add_argument("--observations", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = distilled(args.task, args.budget, args.seed, args.steps)
    problems = list(sbibm_observations(args.task))[: args.observations]
    exact = [posterior_draws(joint, x, N, args.seed, QUALITY["exact"]) for x, _ in problems]
    others = [posterior_draws(joint, x, N, args.seed + 1, QUALITY["exact"]) for x, _ in problems]
    rows = []
    for name, config in SAMPLERS.items():
        started = time.process_time()
        drawn = [posterior_draws(joint, x, N, args.seed, config) for x, _ in problems]
        seconds = (time.process_time() - started) / len(problems)
        c2sts = [c2st(r[:N], draws) for (_, r), draws in zip(problems, drawn, strict=True)]
        lost = [c2st(other, draws) for other, draws in zip(others, drawn, strict=True)]
        errors = [variance_error(draws, e) for draws, e in zip(drawn, exact, strict=True)]
        rows.append({
            "sampler": name, "evaluations": config.evaluations, "c2st_rf": float(np.mean(c2sts)),
            "standard_error": float(np.std(c2sts, ddof=1) / len(c2sts) ** 0.5), "c2st_rf_teacher": float(np.mean(lost)),
            "variance_error": float(np.mean(errors)), "cpu_seconds": seconds,
        })  # fmt: skip
        print(rows[-1], flush=True)
    null = [variance_error(other, e) for other, e in zip(others, exact, strict=True)]
    card = joint.provenance
    results = {
        "task": args.task, "simulations": args.budget, "n": N, "n_observations": len(problems), "rows": rows,
        "floor": float(np.mean([c2st(r[:N], r[N : 2 * N]) for _, r in problems])),
        "floor_teacher": float(np.mean([c2st(o, e) for o, e in zip(others, exact, strict=True)])),
        "steps": card["flow_map"]["steps"], "distill_cpu_seconds": card["flow_map"]["cpu_seconds"],
        "train_cpu_seconds": card["cpu_seconds"],
        "variance_error_floor": float(np.mean(null)),
    }  # fmt: skip
    print(save(f"distill_{args.task}_{args.budget}_{args.seed}", args.seed, results))


if __name__ == "__main__":
    main()
