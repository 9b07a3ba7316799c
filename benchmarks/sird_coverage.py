"""Standard coverage of `sird`: is the truth inside the 0.9 highest-density region nine times in ten?

Fresh simulations (a seed that training never used), 20 readings a channel at random times, the contact rate at eight
random points. Posterior: all data observed. Random conditionals: every token observed with the row's own probability,
latents thinned to as many as `sample` draws jointly.
The density rank uses log densities by the probability-flow ODE with one Hutchinson probe a data set, for truth and
draws alike: whatever noise it adds is the same for both, so that a calibrated model still has uniform ranks.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from record import save

import fsimformer as fsf
from fsimformer.convert import is_parameter
from fsimformer.diagnostics import coverage, density_levels
from fsimformer.likelihood import log_prob
from fsimformer.masks import KINDS, draw_condition_masks, thin_latents
from fsimformer.readings import Design, read
from fsimformer.sample import DEFAULT_QUALITY, quality_named, sample_active
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import SIRD
from fsimformer.tokens import TokenBatch, split

N_READINGS, N_BETA = 20, 8
N_STEPS = 16  # midpoint steps of the flow ODE, the same for truth and draws


def rows(joint: fsf.Joint, n: int, seed: int) -> TokenBatch:
    """n new data sets with exactly N_READINGS readings a channel and N_BETA points of the contact rate."""
    simulator = SIRD()
    drawn = simulate(simulator, n, generator_at(seed, 7))
    store = build_store(simulator.schema, joint.model.whitening, drawn.values, simulator.natural)
    order = [v.name for v in simulator.schema.variables if simulator.schema.is_function(v.name)]
    n_max = tuple(N_BETA if name == "contact_rate" else N_READINGS for name in order)
    design = Design(n_max, skew=0.0, shared=0.0, regular=0.0, window=0.0, reference=0.0)  # u^0 = 1: always n_max
    return read(store, torch.arange(n), design, generator_at(seed, 8))


def levels(joint: fsf.Joint, batch: TokenBatch, n_draws: int, quality: str, seed: int) -> np.ndarray:
    """Credible level of the truth, a data set."""
    truth, draws = [], []
    denoiser = joint.model.denoiser
    for i in range(batch.shape[0]):
        generator = generator_at(seed, 9, i)
        encoded = denoiser.encode(split(batch.rows(slice(i, i + 1)), joint.model.n_active_observed))
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-sets", type=int, default=300)
    parser.add_argument("--draws", type=int, default=39)
    parser.add_argument("--quality", default=DEFAULT_QUALITY)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--model", default="sird")
    args = parser.parse_args()
    torch.set_num_threads(1)
    joint = fsf.load(args.model)
    batch = rows(joint, args.data_sets, args.seed)
    results: dict[str, object] = {"n": args.data_sets, "draws": args.draws, "quality": args.quality}
    for name, kind in (("posterior", "posterior"), ("random_conditionals", "token")):
        kinds = torch.full((args.data_sets,), KINDS.index(kind))
        mask = draw_condition_masks(batch, is_parameter(joint.schema), kinds, generator_at(args.seed, 10))
        thin = thin_latents(batch.replace(condition_mask=mask), joint.model.max_latents, generator_at(args.seed, 11))
        u = levels(joint, thin, args.draws, args.quality, args.seed)
        table = {str(p): coverage(u, p) for p in (0.5, 0.8, 0.9, 0.95)}
        results[name] = {p: {"coverage": c, "standard_error": se} for p, (c, se) in table.items()}
    print(save("sird_coverage", args.seed, results))


if __name__ == "__main__":
    main()
