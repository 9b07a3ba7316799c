"""sbi's methods with the package's own defaults, run by peers.py (see peers_fit.py for the files).

    npe     NPE with a neural spline flow            nle   NLE (masked autoregressive flow), slice_np_vectorized
    npse    NPSE (variance exploding, SDE sampler)   nre   NRE-B (resnet, 10 atoms), slice_np_vectorized
    fmpe    FMPE (ODE sampler)                       mcabc, smcabc   rejection and SMC ABC, with the budget's number of
                                                     simulations anew for each observation

MCMC: 20 vectorised chains, 200 warm-up steps, thinning as by default. sbi's ABC has no defaults for its tolerances;
sbibm's are used: the 100 nearest simulations (SMC: 100 particles), and draws from a kernel density estimate on them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from peers_fit import Fit, Problem, Sampler, serve
from sbi import inference
from sbi.utils import BoxUniform

from fsimformer.seeds import generator_at
from fsimformer.simulators.tasks import draw_slcp, draw_two_moons

N_PARTICLES = 100


def prior(problem: Problem) -> BoxUniform:
    bound = torch.full((problem.theta.shape[1],), problem.bound)
    return BoxUniform(-bound, bound)


def neural(name: str) -> Fit:
    """Train on the simulations, then sample each observation, all by sbi's defaults."""

    def fit(problem: Problem) -> Sampler:
        trainers = {
            "npe": lambda p: inference.NPE(prior=p, density_estimator="nsf", show_progress_bars=False),
            "nle": lambda p: inference.NLE(prior=p, show_progress_bars=False),
            "nre": lambda p: inference.NRE_B(prior=p, show_progress_bars=False),
            "npse": lambda p: inference.NPSE(prior=p, show_progress_bars=False),
            "fmpe": lambda p: inference.FMPE(prior=p, show_progress_bars=False),
        }
        trainer = trainers[name](prior(problem))
        trainer.append_simulations(torch.from_numpy(problem.theta).float(), torch.from_numpy(problem.x).float())
        trainer.train()
        posterior = trainer.build_posterior()

        def sample(observation: np.ndarray, n: int) -> np.ndarray:
            x = torch.from_numpy(observation).float()[None]
            return posterior.sample((n,), x=x, show_progress_bars=False).numpy()

        return sample

    return fit


def simulator(problem: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    """theta (n, d_theta) -> x (n, d_x), from draws of its own."""
    draw = {"two_moons": draw_two_moons, "slcp": draw_slcp}[problem.task]
    generator = generator_at(problem.seed, 2, 1)
    return lambda theta: draw(theta.double(), generator).float()


def mcabc(problem: Problem) -> Sampler:
    budget = len(problem.theta)
    abc = inference.MCABC(simulator(problem), prior(problem), simulation_batch_size=1_000, show_progress_bars=False)

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        x = torch.from_numpy(observation).float()[None]
        return abc(x, budget, quantile=N_PARTICLES / budget, kde=True).sample(n).numpy()

    return sample


def smcabc(problem: Problem) -> Sampler:
    budget = len(problem.theta)

    def sample(observation: np.ndarray, n: int) -> np.ndarray:
        # its counter of simulations runs on between calls
        abc = inference.SMCABC(
            simulator(problem), prior(problem), simulation_batch_size=1_000, show_progress_bars=False
        )
        kde = abc(
            torch.from_numpy(observation).float()[None],
            num_particles=N_PARTICLES,
            num_initial_pop=5 * N_PARTICLES,
            num_simulations=budget,
            epsilon_decay=0.2,
            distance_based_decay=True,
            kernel_variance_scale=0.5,
            kde=True,
        )
        return kde.sample(n).numpy()

    return sample


METHODS: dict[str, Fit] = {
    **{name: neural(name) for name in ("npe", "nle", "nre", "npse", "fmpe")},
    "mcabc": mcabc,
    "smcabc": smcabc,
}

if __name__ == "__main__":
    import sys

    torch.set_num_threads(1)
    # sbi draws from torch's and numpy's global random states
    torch.manual_seed(int(sys.argv[-1]))
    np.random.seed(int(sys.argv[-1]))
    serve(METHODS, ("sbi", "torch"))
