"""Coverage of a shipped model: is the truth inside the 0.9 highest-density region nine times in ten?

Fresh simulations (a seed that training never used), read as training reads them, functions at the knots of their
reference sets; with `--scalars` without functions, where these follow from the scalars. Posterior: all data observed.
Random conditionals: every token observed with the row's own probability, latents thinned to as many as `sample` draws
jointly. The density rank uses log densities by the probability-flow ODE with one Hutchinson probe a data set, for
truth and draws alike: whatever noise it adds is the same for both, so that a calibrated model still has uniform
ranks.

    python benchmarks/coverage.py sird --data-sets 500
    python benchmarks/coverage.py lotka_volterra --data-sets 500 --scalars
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch
from record import save

import fsimformer as fsf
from fsimformer.cli_check import simulator_of
from fsimformer.convert import is_parameter
from fsimformer.diagnostics import coverage, density_levels
from fsimformer.likelihood import log_prob
from fsimformer.masks import KINDS, draw_condition_masks, thin_latents
from fsimformer.readings import read
from fsimformer.sample import DEFAULT_QUALITY, quality_named, sample_active
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators.protocol import natural_functions
from fsimformer.tokens import TokenBatch, collate, split, uncollate
from fsimformer.trials import design_of

N_STEPS = 8  # midpoint steps of the flow ODE, the same for truth and draws


def rows(joint: fsf.Joint, model: str, n: int, seed: int, scalars: bool) -> TokenBatch:
    """n new data sets, each with the knots of every function that has some, and nothing else of it, or without any."""
    simulator = simulator_of(joint.schema, joint.provenance, model)
    drawn = simulate(simulator, n, generator_at(seed, 7))
    spread = joint.model.spread or None
    store = build_store(joint.schema, joint.model.whitening, drawn.values, natural_functions(simulator), spread)
    design = replace(design_of(joint.model), reference=1.0, beside=0, residuals=0)
    batch, schema = read(store, torch.arange(n), design, generator_at(seed, 8)), joint.schema
    functions = [v.name for v in schema.variables if v.role == "parameter" and schema.is_function(v.name)]
    left_out = torch.tensor([i for name in functions if scalars for i in schema.ids(name)], dtype=torch.long)
    return batch.replace(valid=batch.valid & ~torch.isin(batch.variable, left_out))


def levels(joint: fsf.Joint, batch: TokenBatch, n_draws: int, quality: str, seed: int) -> np.ndarray:
    """Credible level of the truth, a data set."""
    truth, draws = [], []
    denoiser = joint.model.denoiser
    for i, row in enumerate(uncollate(batch)):
        generator = generator_at(seed, 9, i)
        encoded = denoiser.encode(split(collate([row]), joint.model.n_active_observed))
        active = encoded.active
        epsilon = torch.randn(1, n_draws, active.shape[1], generator=generator)
        steps = lambda _, like=epsilon, g=generator: torch.randn(like.shape, generator=g)  # noqa: E731
        x = sample_active(denoiser, encoded, epsilon, quality_named(quality), steps)
        both = torch.cat([active.value[:, None], x], 1)
        probe = (torch.randint(2, (1, 1, active.shape[1]), generator=generator) * 2.0 - 1).expand_as(both)
        with torch.no_grad():
            density = log_prob(denoiser, encoded, both, probe=probe, n_steps=N_STEPS)[0].double().numpy()
        truth.append(density[0])
        draws.append(density[1:])
    return density_levels(np.array(truth), np.stack(draws), seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("sird", "lotka_volterra", "hare_lynx", "epidemic"))
    parser.add_argument("--data-sets", type=int, default=500)
    parser.add_argument("--draws", type=int, default=39)
    parser.add_argument("--scalars", action="store_true")
    parser.add_argument("--quality", default=DEFAULT_QUALITY)
    parser.add_argument("--seed", type=int, default=20261126)
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint, start = fsf.load(args.model), time.process_time()
    batch = rows(joint, args.model, args.data_sets, args.seed, args.scalars)
    results: dict[str, object] = {
        "model": args.model, "n": args.data_sets, "draws": args.draws, "quality": args.quality,
        "scalars": args.scalars,
        "monte_carlo_floor": "the standard errors",
    }  # fmt: skip
    for name, kind in (("posterior", "posterior"), ("random_conditionals", "token")):
        kinds = torch.full((args.data_sets,), KINDS.index(kind))
        mask = draw_condition_masks(batch, is_parameter(joint.schema), kinds, generator_at(args.seed, 10))
        thin = thin_latents(batch.replace(condition_mask=mask), joint.model.max_latents, generator_at(args.seed, 11))
        u = levels(joint, thin, args.draws, args.quality, args.seed)
        table = {str(p): coverage(u, p) for p in (0.5, 0.8, 0.9, 0.95)}
        results[name] = {p: {"coverage": c, "standard_error": se} for p, (c, se) in table.items()}
        print(name, results[name], flush=True)
    results["cpu_seconds"] = time.process_time() - start
    print(save(f"coverage_{args.model}" + ("_scalars" if args.scalars else ""), args.seed, results))


if __name__ == "__main__":
    main()
