"""`fsimformer.sbi` as it comes, where every conditional is known: what gaps in simulations cost, and where.

θ ~ N(0, I) of two values, x = Aθ + N(0, 0.3²) of three, each a variable; 3,000 simulations of which a share of the x
is NaN at random, `Simformer` and `train()` with their defaults. Asked: p(θ | x), p(θ | x₁), p(θ) from an x that is all
NaN, p(θ, x), and densities of θ given x. Exact: the Gaussian's conditionals. Reported, over 20 observations: sd of
1,000 draws in exact sds (1 = right, Monte-Carlo floor of one .022), error of their means in exact sds (floor .025), and
mean ± sd of log p − exact at exact draws, nats.

    python benchmarks/sbi_gaps.py
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import torch
from record import no_arguments, save
from torch import Tensor
from torch.distributions import MultivariateNormal

import fsimformer as fsf
from fsimformer.sbi import FlatConditional, Simformer

SIMULATIONS, N, N_OBSERVATIONS = 3_000, 1_000, 20
A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
NOISE = 0.3
JOINT = torch.eye(5, dtype=torch.float64)
JOINT[:2, 2:], JOINT[2:, :2], JOINT[2:, 2:] = A.T, A, A @ A.T + NOISE**2 * JOINT[2:, 2:]
"""(5, 5) covariance of (θ, x)."""
GIVEN = {"all x": [2, 3, 4], "one x": [2], "no x": []}


def exact(observed: list[int], values: Tensor) -> MultivariateNormal:
    """p(θ | these of the five), values (B, k)."""
    if not observed:
        return MultivariateNormal(torch.zeros(len(values), 2, dtype=torch.float64), JOINT[:2, :2])
    gain = JOINT[:2][:, observed] @ torch.linalg.inv(JOINT[observed][:, observed])
    covariance = JOINT[:2, :2] - gain @ JOINT[observed][:, :2]
    return MultivariateNormal(values @ gain.T, (covariance + covariance.T) / 2)


def measured_at(draws: Tensor, law: MultivariateNormal) -> dict[str, float]:
    """Draws (n, B, d) against their law."""
    sd = law.stddev
    ratio, error = draws.double().std(0) / sd, (draws.double().mean(0) - law.mean) / sd
    return {"sd_ratio": float(ratio.mean()), "mean_error_sd": float(error.abs().mean())}


def densities(posterior: FlatConditional, x: Tensor, generator: torch.Generator) -> dict[str, float]:
    law = exact(GIVEN["all x"], x)
    noise = torch.randn(20, *law.mean.shape, generator=generator, dtype=torch.float64)
    theta = law.mean + (law.scale_tril @ noise[..., None])[..., 0]
    ours = torch.stack([posterior.log_prob(theta[:, i], x=x[i]) for i in range(len(x))], 1)
    error = ours.double() - law.log_prob(theta)
    return {"log_prob_error_mean": float(error.mean()), "log_prob_error_sd": float(error.std())}


def case(share: float) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(JOINT)
    rows = torch.randn(SIMULATIONS, 5, generator=generator, dtype=torch.float64) @ root.T
    rows[:, 2:][torch.rand(SIMULATIONS, 3, generator=generator) < share] = torch.nan
    observed = torch.randn(N_OBSERVATIONS, 5, generator=generator, dtype=torch.float64) @ root.T
    inference, start = Simformer(posterior_latent_idx=[0, 1], posterior_observed_idx=[2, 3, 4]), time.process_time()
    inference.append_simulations(rows).train()
    seconds, posterior, out = time.process_time() - start, inference.build_posterior(), []
    for name, ids in GIVEN.items():
        x = torch.full((N_OBSERVATIONS, 3), torch.nan, dtype=torch.float64)
        x[:, [i - 2 for i in ids]] = observed[:, ids]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fsf.ObservationWarning)  # that what follows is the prior is the question
            draws = posterior.sample_batched((N,), x, seed=1)
        out.append({"asked": f"theta given {name}", **measured_at(draws, exact(ids, observed[:, ids]))})
    whole = inference.build_conditional([False] * 5).sample((N, N_OBSERVATIONS), seed=2)
    law = MultivariateNormal(torch.zeros(N_OBSERVATIONS, 5, dtype=torch.float64), JOINT)
    out.append({"asked": "theta and x", **measured_at(whole, law)})
    epochs = inference.summary["epochs_trained"][0]
    return {
        "share_missing": share, "train_cpu_seconds": seconds, "epochs": epochs, "asked": out,
        **densities(posterior, observed[:, 2:], generator),
    }  # fmt: skip


def main() -> None:
    no_arguments(__doc__)
    torch.set_num_threads(1)
    cases = [case(share) for share in (0.0, 0.2)]
    about = {"simulations": SIMULATIONS, "n": N, "n_observations": N_OBSERVATIONS}
    print(save("sbi_gaps", 0, {**about, "cases": cases}))


if __name__ == "__main__":
    main()
