"""A prior's support in the sbi-shaped face: draws and densities of a Gaussian cut to a box, with the exact network."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import Joint
from scipy.stats import truncnorm
from torch.distributions import Independent, Normal, Uniform

from fsimformer.sbi import Simformer
from fsimformer.sbi.conditional import FlatConditional
from fsimformer.sbi.support import Support, draw_inside
from fsimformer.whiten import Standardise

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


class OfOneNumber:
    """A prior that answers as if it were asked for one value, whatever comes."""

    def log_prob(self, theta: torch.Tensor) -> torch.Tensor:
        return torch.tensor(0.0)


@pytest.mark.parametrize(
    "prior",
    [
        Independent(Uniform(torch.zeros(2), torch.full((2,), 9.0)), 1), Uniform(torch.zeros(2), torch.full((2,), 9.0)),
        OfLogProb(),
    ],
)  # fmt: skip
def test_supports_of_joint_and_independent_and_other_priors_are_read(prior: Any) -> None:
    values = torch.tensor([[[1.0, 2.0], [1.0, -2.0]], [[-1.0, 2.0], [3.0, 3.0]]])
    assert Support.read(prior, 2)(values).tolist() == [[True, False], [False, True]]
    assert Support.read(Independent(Normal(torch.zeros(2), 1.0), 1), 2)(values).all()


def test_what_is_no_prior_of_these_values_is_refused() -> None:
    with pytest.raises(TypeError, match="prior: expected a distribution, with log_prob, over 1 values, got list"):
        posterior([0.0, 1.0])
    with pytest.raises(ValueError, match=r"prior: expected a distribution over 1 values, .* of shape \(2,\)"):
        posterior(Uniform(torch.zeros(2), torch.ones(2)))
    with pytest.raises(ValueError, match="asked for 1 values a row, on the CPU; OfOneNumber answered: .*shape"):
        posterior(OfOneNumber())
    with pytest.raises(TypeError, match=r"build_posterior\(prior=…\) keeps draws in its support"):
        Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_likelihood(JOINT.estimator, prior=BOX)


FAR = Uniform(torch.tensor([MEAN + 50 * SD]), torch.tensor([MEAN + 51 * SD]))


def test_an_observation_that_the_prior_hardly_makes_ends_the_rejection_and_says_which() -> None:
    message = r"prior: 0.00% of \d+ draws given observation 0 lie in its support; expected 1% at least"
    with pytest.raises(RuntimeError, match=message):
        posterior(FAR).sample((3,), x=X, seed=0)
    with pytest.raises(RuntimeError, match=message):
        posterior(FAR).log_prob(torch.tensor([[MEAN + 50.5 * SD]]), x=X)
    far_x = 20.0 + 30 * float(JOINT.scale[1])
    with pytest.raises(RuntimeError, match="draws given observation 1 lie"):
        posterior(BOX).sample_batched((3,), [X, [far_x]], seed=0)


def test_a_small_share_inside_is_drawn_from_all_the_same() -> None:
    tail = Uniform(torch.tensor([MEAN + 2 * SD]), torch.tensor([MEAN + 9 * SD]))  # .023 of the mass
    draws = posterior(tail).sample((40,), x=X, seed=0)
    assert draws.shape == (40, 1) and float(draws.min()) >= MEAN + 2 * SD


def test_rejection_may_be_left_out_of_a_call_and_is_not_had_without_a_prior() -> None:
    free = posterior(None)
    assert torch.equal(
        posterior(BOX).sample((30,), x=X, seed=0, reject_outside_prior=False), free.sample((30,), x=X, seed=0)
    )
    assert torch.equal(
        posterior(BOX).sample((30,), x=X, seed=0, reject_outside_prior=True), posterior(BOX).sample((30,), x=X, seed=0)
    )
    with pytest.raises(TypeError, match=r"sample_batched: reject_outside_prior=True asks for a prior; pass it"):
        free.sample_batched((2,), [X], reject_outside_prior=True)


def test_densities_of_a_batch_are_those_of_each_observation() -> None:
    p, x = posterior(BOX), torch.tensor([[20.0], [25.0]])
    theta = torch.linspace(LOW + 1e-3, HIGH - 1e-3, 3)[:, None, None].expand(3, 2, 1)
    got = p.log_prob_batched(theta, x)
    each = [p.log_prob(theta[:, b], x=x[b]) for b in range(2)]
    torch.testing.assert_close(got, torch.stack(each, dim=1))
    assert not torch.equal(got[:, 0], got[:, 1])


def test_features_that_only_fill_up_lie_on_an_edge_of_a_prior_in_double_precision() -> None:
    """In single precision .1 is larger than in double, and would be outside."""
    joint, filled = Joint(2, 2), Standardise(0.1, 1.0)
    first, _, *others = joint.estimator.columns.standardise
    columns = replace(
        joint.estimator.columns, standardise=(first, filled, *others), constants=(False, True, False, False)
    )
    edges = torch.tensor([[-1e6, 0.0], [1e6, 0.1]], dtype=torch.float64)
    p = Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_posterior(
        replace(joint.estimator, columns=columns), prior=Independent(Uniform(*edges), 1)
    )
    x = joint.loc[2:].tolist()
    draws = p.sample((5,), x=x, seed=0)
    assert draws.shape == (5, 2) and bool((draws[:, 1] == torch.tensor(0.1)).all())
    theta = torch.tensor([[float(draws[0, 0]), 0.1], [float(draws[0, 0]), 0.2]], dtype=torch.float64)
    assert torch.isfinite(p.log_prob(theta, x=x)).tolist() == [True, False]
    assert torch.isfinite(p.log_prob(draws, x=x)).all()


def test_a_posterior_with_a_prior_is_pickled_as_one_without() -> None:
    again = pickle.loads(pickle.dumps(posterior(BOX)))
    assert torch.equal(again.sample((5,), x=X, seed=0), posterior(BOX).sample((5,), x=X, seed=0))


def test_only_observations_that_lack_draws_are_drawn_again_as_many_as_their_share_needs() -> None:
    asked: list[tuple[int | None, int]] = []

    def draw(b: int | None, m: int) -> torch.Tensor:
        asked.append((b, m))
        tenths = (torch.arange(m) % 10).float()[:, None, None]
        return tenths if b == 1 else torch.zeros(m, 1, 1) if b == 0 else torch.cat([0 * tenths, tenths], dim=1)

    got = draw_inside(draw, Support(Uniform(torch.tensor([0.0]), torch.tensor([1.5])), 1), 100)  # a fifth of the second
    assert got[:, 1, 0].tolist() == [0.0, 1.0] * 50 and not got[:, 0].any()
    assert asked == [(None, 112), (1, round(110 / (24 / 112)))]
