"""A prior's support in the sbi-shaped face: draws and densities of a Gaussian cut to a box, with the exact network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gaussian import Joint
from scipy.stats import truncnorm
from torch.distributions import Independent, Normal, Uniform

from fsimformer.sbi import Simformer
from fsimformer.sbi.conditional import FlatConditional
from fsimformer.sbi.support import draw_inside, read_support

JOINT = Joint(2, 1)
X = [20.0]
EXACT = JOINT.exact([False, True], torch.tensor(X, dtype=torch.float64))
MEAN, SD = float(EXACT.mean), float(EXACT.stddev)
LOW, HIGH = MEAN - 0.2 * SD, MEAN + 1.0 * SD
LAW = truncnorm((LOW - MEAN) / SD, (HIGH - MEAN) / SD, MEAN, SD)
BOX = Independent(Uniform(torch.tensor([LOW]), torch.tensor([HIGH])), 1)


def posterior(prior: Any) -> FlatConditional:
    return Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_posterior(JOINT.estimator, prior=prior)


def test_draws_are_those_of_the_posterior_cut_to_the_support() -> None:
    n = 1_500
    draws = posterior(BOX).sample((n,), x=X, seed=0)
    assert draws.shape == (n, 1) and bool(((draws >= LOW) & (draws <= HIGH)).all())
    u = np.sort(LAW.cdf(draws[:, 0].double().numpy()))
    assert np.abs(u - (np.arange(n) + 0.5) / n).max() < 0.02 + 1.95 / n**0.5  # Kolmogorov, 0.1 %


def test_more_draws_change_none_of_the_first_and_where_nothing_leaks_a_prior_changes_nothing() -> None:
    p = posterior(BOX)
    assert torch.equal(p.sample((40,), x=X, seed=3)[:7], p.sample((7,), x=X, seed=3))
    wide = Uniform(torch.tensor([-1e6]), torch.tensor([1e6]))
    assert torch.equal(posterior(wide).sample((20,), x=X, seed=3), posterior(None).sample((20,), x=X, seed=3))
    assert p.sample((0,), x=X).shape == (0, 1)


def test_each_observation_of_a_batch_has_draws_of_its_own_inside() -> None:
    p, x = posterior(BOX), torch.tensor([[20.0], [60.0]])
    draws = p.sample_batched((30,), x, seed=1)
    assert draws.shape == (30, 2, 1) and bool(((draws >= LOW) & (draws <= HIGH)).all())
    for k in range(2):
        first = posterior(None).sample_batched((400,), x, seed=1)[:, k]
        inside = first[((first >= LOW) & (first <= HIGH))[:, 0]][:30]
        assert torch.equal(draws[:, k], inside)


def test_densities_are_normalised_within_the_support_and_nothing_is_possible_outside() -> None:
    p, theta = posterior(BOX), torch.linspace(LOW + 1e-3, HIGH - 1e-3, 15)[:, None]
    exact = torch.from_numpy(LAW.logpdf(theta[:, 0].double().numpy()))
    got = p.log_prob(theta, x=X)
    assert float((got - exact).abs().max()) < 0.12  # the share is of 1,000 draws
    assert float((posterior(None).log_prob(theta, x=X) - exact).abs().min()) > 0.4  # the tolerance tells them apart
    assert torch.isneginf(p.log_prob(torch.tensor([[LOW - 0.1], [HIGH + 0.1]]), x=X)).all()


class OfLogProb:
    """A prior that is no torch distribution."""

    def log_prob(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.where((theta > 0).all(-1), 0.0, -torch.inf)


@pytest.mark.parametrize(
    "prior",
    [
        Independent(Uniform(torch.zeros(2), torch.full((2,), 9.0)), 1), Uniform(torch.zeros(2), torch.full((2,), 9.0)),
        OfLogProb(),
    ],
)  # fmt: skip
def test_supports_of_joint_and_independent_and_other_priors_are_read(prior: Any) -> None:
    values = torch.tensor([[[1.0, 2.0], [1.0, -2.0]], [[-1.0, 2.0], [3.0, 3.0]]])
    assert read_support(prior, 2)(values).tolist() == [[True, False], [False, True]]
    assert read_support(Independent(Normal(torch.zeros(2), 1.0), 1), 2)(values).all()


def test_what_is_no_prior_of_these_values_is_refused() -> None:
    with pytest.raises(TypeError, match="prior: expected a distribution, with log_prob, over 1 values, got list"):
        posterior([0.0, 1.0])
    with pytest.raises(ValueError, match=r"prior: expected a distribution over 1 values, .* of shape \(2,\)"):
        posterior(Uniform(torch.zeros(2), torch.ones(2)))
    with pytest.raises(TypeError, match=r"build_posterior\(prior=…\) keeps draws in its support"):
        Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_likelihood(JOINT.estimator, prior=BOX)


def test_an_observation_that_the_prior_hardly_makes_ends_the_rejection_and_says_so() -> None:
    far = Uniform(torch.tensor([MEAN + 50 * SD]), torch.tensor([MEAN + 51 * SD]))
    with pytest.raises(RuntimeError, match=r"0.00% of \d+ draws lie in the prior's support; expected at least 1%"):
        posterior(far).sample((3,), x=X, seed=0)


def test_rejection_asks_for_as_many_draws_as_the_share_inside_needs() -> None:
    asked: list[int] = []

    def draw(m: int) -> torch.Tensor:
        asked.append(m)
        return (torch.arange(m) % 10).float()[:, None, None]  # a fifth inside

    got = draw_inside(draw, lambda y: y[..., 0] < 2, 100)
    assert got[:, 0, 0].tolist() == [0.0, 1.0] * 50 and asked == [100, 550]
