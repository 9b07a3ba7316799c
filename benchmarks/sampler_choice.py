"""Which sampler the suite draws with: ODE or SDE, on networks as they are, not on exact denoisers.

Exact Gaussian denoisers (sampler_error.py) tell the error of the solver; here the network's own error is what counts,
and a reverse SDE forgets on the way what the network got wrong earlier. Networks of sbibm.py (10,000 simulations), the
presets and the SDE of second order, 20 random conditionals a task that sbibm.py does not score (problems of another
seed). RF C2ST at n = 1,000, and CPU seconds of the draws.

    python benchmarks/sampler_choice.py --tasks tree hmm two_moons --seed 2
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from conditionals import draw_problems
from conditionals import reference as conditional_reference
from record import save
from sbibm import N, conditional_draws, seed_of, trained
from tables_sbibm import KINDS

from fsimformer.diagnostics import c2st
from fsimformer.sample import QUALITY, SamplerConfig

N_PROBLEMS, UNSCORED = 20, 1
SAMPLERS = QUALITY | {"sde, second order": SamplerConfig("sde_2m", 32, power=8.0, log_min=-6.2, log_max=3.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", choices=KINDS["conditionals"], nargs="+", default=["tree", "two_moons"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for task in args.tasks:
        joint = trained(task, 10_000, args.seed, "default")
        problems = draw_problems(task, N_PROBLEMS, seed=UNSCORED)
        exact = [conditional_reference(task, p, 2 * N, seed=1_000 + i) for i, p in enumerate(problems)]
        floor = float(np.mean([c2st(x[:N], x[N:]) for x in exact]))
        for name, config in SAMPLERS.items():
            values, seconds = [], 0.0
            for i, (x, p) in enumerate(zip(exact, problems, strict=True)):
                start = time.process_time()
                draws = conditional_draws(joint, p.observed, p.value, N, seed_of(args.seed, i), config)
                seconds += time.process_time() - start
                values.append(c2st(x[:N], draws))
            error = float(np.std(values, ddof=1) / len(values) ** 0.5)
            rows.append({
                "task": task, "sampler": name, "evaluations": config.evaluations, "c2st_rf": float(np.mean(values)),
                "standard_error": error, "floor": floor, "cpu_seconds": seconds / len(values),
            })  # fmt: skip
            print(rows[-1], flush=True)
    print(save(f"sampler_choice_{args.seed}", args.seed, {"n": N, "n_problems": N_PROBLEMS, "rows": rows}))


if __name__ == "__main__":
    main()
