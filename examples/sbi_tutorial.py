"""The Simformer tutorial of sbi's repository with one import changed, and the closed form beside what it finds.

θ ~ U(−1, 1)³, x = θ + 1 + N(0, 0.1²): one variable θ and one variable x of three features each. Away from the prior's
edges the posterior is N(x − 1, 0.1²), the likelihood N(θ + 1, 0.1²). One network, trained once, gives both. Fewer
simulations and epochs than the tutorial's 10,000 and 100, so that it runs within a minute. It needs no sbi; sbi's
`pairplot` takes the samples as they are.

    python examples/sbi_tutorial.py
"""

from __future__ import annotations

import torch

from fsimformer.sbi import Simformer  # was: from sbi.inference import Simformer


def simulator(theta: torch.Tensor) -> torch.Tensor:
    """Linear Gaussian."""
    return theta + 1.0 + torch.randn_like(theta) * 0.1


def report(name: str, samples: torch.Tensor, mean: torch.Tensor) -> None:
    error = (samples.mean(0) - mean).abs().max() / 0.1
    ratio = samples.std(0) / 0.1
    print(f"{name}: mean off by at most {error:.2f} sd, sd {ratio.min():.2f} to {ratio.max():.2f} of the exact one")


def main() -> None:
    torch.manual_seed(0)
    num_dims, num_sims = 3, 2_000
    theta = 2 * torch.rand(num_sims, 1, num_dims) - 1
    x = simulator(theta)
    inputs = torch.cat([theta, x], dim=1)  # (simulations, variables, features)
    theta_o = torch.zeros(num_dims)
    x_o = simulator(theta_o)

    inference = Simformer()
    inference.append_simulations(inputs)
    inference.train(max_num_epochs=80)

    conditional = inference.build_conditional(condition_mask=[False, True])
    report("p(theta | x)", conditional.sample((2_000,), x=x_o), x_o - 1)
    another = inference.build_conditional(condition_mask=[True, False])
    report("p(x | theta)", another.sample((2_000,), x=theta_o), theta_o + 1)

    inference.set_condition_indexes(new_posterior_latent_idx=[0], new_posterior_observed_idx=[1])
    posterior, likelihood = inference.build_posterior(), inference.build_likelihood()
    report("posterior", posterior.sample((2_000,), x=x_o), x_o - 1)
    report("likelihood", likelihood.sample((2_000,), x=theta_o), theta_o + 1)

    samples = posterior.sample((200,), x=x_o, seed=1)
    exact = torch.distributions.Normal(x_o - 1, 0.1).log_prob(samples).sum(1)
    error = posterior.log_prob(samples, x=x_o) - exact
    print(f"log p(theta | x_o) of 200 draws: off by {error.mean():.2f} ± {error.std():.2f}")
    gap = x_o.clone()
    gap[2] = torch.nan  # nobody measured it: its parameter has its prior, U(-1, 1), the others their posterior
    # warns that no simulation lacked it: let some, inputs[::10, 1, 2] = torch.nan, where observations will have gaps
    samples = posterior.sample((2_000,), x=gap)
    print(f"sd with x[2] missing: {[round(s, 2) for s in samples.std(0).tolist()]}, exact [0.1, 0.1, 0.58]")


if __name__ == "__main__":
    main()
