"""The sbi-shaped face on a joint whose every conditional is known: draws, densities, gaps, shapes, messages."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from gaussian import Joint
from tiny import randomise, seeded
from torch import Tensor

from fsimformer import ObservationWarning
from fsimformer.denoise import Denoiser
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi import Estimator, FlatConditional, FlowMatchingSimformer, Simformer
from fsimformer.stages import Budget, draw
from fsimformer.tokens import TokenBatch, split

JOINT = Joint(3, 2)
MASKS = [[False, True, True], [True, False, False], [False, True, False]]
OBSERVED = JOINT.simulate(1, seed=9)[0]


def built(mask: Any, edge_mask: Any = None, sample_with: str = "ode", joint: Joint = JOINT) -> FlatConditional:
    return Simformer().build_conditional(mask, edge_mask, joint.estimator, sample_with=sample_with)


def given(mask: list[bool]) -> Tensor:
    return OBSERVED[torch.tensor(mask)].flatten().float()


def random_weights(n_variables: int = 3, n_features: int = 2) -> Estimator:
    n_ids = n_variables * n_features
    network = Network(NetworkConfig(((),) * n_ids, width=16, depth=2, n_heads=2))
    randomise(network, gain=0.7)
    return Estimator(Denoiser(network.eval()), "trig", JOINT.estimator.columns)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("sample_with", ["ode", "sde"])
def test_draws_have_the_law_of_the_exact_conditional(mask: list[bool], sample_with: str) -> None:
    n, x = 2_000, given(mask)
    draws = built(mask, sample_with=sample_with).sample((n,), x=x, seed=0).double()
    exact = JOINT.exact(mask, x)
    z = torch.linalg.solve_triangular(exact.scale_tril, (draws - exact.mean).T, upper=False)
    assert float(z.mean(1).abs().max()) < 4.5 / n**0.5
    assert float((z @ z.T / n - torch.eye(len(z))).abs().max()) < 0.02 + 4.5 * (2 / n) ** 0.5


@pytest.mark.parametrize("mask", MASKS)
def test_log_prob_is_the_closed_form_on_the_original_scale(mask: list[bool]) -> None:
    x = given(mask)
    exact = JOINT.exact(mask, x)
    z = torch.randn(20, len(exact.mean), generator=seeded(), dtype=torch.float64)
    theta = exact.mean + z @ exact.scale_tril.T
    got = built(mask).log_prob(theta, x=x)
    assert got.shape == (20,)
    error = got - exact.log_prob(theta)
    assert float(error.abs().max()) < 0.15 and abs(float(error.mean())) < 0.03


def test_columns_with_asinh_tails_have_densities_and_draws_on_their_own_scale() -> None:
    """z Gaussian, y = loc + scale·tail·sinh(z/tail): p(y | x) = N(z(y); m, s²) dz/dy, x behind such tails as well."""
    gaussian = Joint(2, 1)
    tails = tuple(replace(s, tail=0.7) for s in gaussian.estimator.columns.standardise)
    estimator = replace(gaussian.estimator, columns=replace(gaussian.estimator.columns, standardise=tails))
    p, x = Simformer().build_conditional([False, True], None, estimator), torch.tensor([40.0])
    r = float(gaussian.root[0] @ gaussian.root[1])
    m, s = r * float(tails[1].forward(x.double())), (1 - r**2) ** 0.5
    z = m + s * torch.linspace(-6, 6, 241, dtype=torch.float64)
    y = tails[0].inverse(z)
    normal = torch.distributions.Normal(m, s)
    got = p.log_prob(y[:, None], x=x).double()
    dz_dy = 1 / (tails[0].scale * (1 + ((y - tails[0].loc) / (0.7 * tails[0].scale)) ** 2).sqrt())
    assert float((got - normal.log_prob(z) - dz_dy.log())[80:161].abs().max()) < 0.1  # within two s
    assert abs(float(torch.trapezoid(got.exp(), y)) - 1) < 0.03
    draws = p.sample((2_000,), x=x, seed=0).double()[:, 0].sort().values
    u = normal.cdf(tails[0].forward(draws))
    assert float((u - (torch.arange(2_000) + 0.5) / 2_000).abs().max()) < 0.02 + 1.95 / 2_000**0.5  # Kolmogorov, 0.1 %


def test_a_missing_value_is_integrated_out() -> None:
    mask, x = [False, True, True], given([False, True, True])
    x[1], x[2] = torch.nan, torch.nan
    exact = JOINT.exact(mask, x)
    theta = exact.mean + torch.linspace(-1, 1, 9)[:, None] * exact.stddev
    p = built(mask)
    assert float((p.log_prob(theta, x=x) - exact.log_prob(theta)).abs().max()) < 0.1
    nothing = torch.full_like(x, torch.nan)
    prior = JOINT.exact(mask, nothing)
    with pytest.warns(ObservationWarning, match="no finite value; what follows is the prior"):
        assert float((p.log_prob(theta, x=nothing) - prior.log_prob(theta)).abs().max()) < 0.1
    assert float((exact.log_prob(theta) - prior.log_prob(theta)).abs().max()) > 0.5  # the tolerance tells them apart


def test_missing_is_deleted_for_the_network_in_sampling_and_in_the_loss() -> None:
    estimator = random_weights()
    columns, mask = estimator.columns, torch.tensor([False, True, True])
    x = given([False, True, True])
    x[2:] = torch.nan  # the last variable
    p = Simformer().build_conditional(mask, None, estimator)
    z = draw(
        estimator.denoiser,
        [columns.tokens(torch.tensor([2, 3]), x[:2])],
        [columns.tokens(torch.tensor([0, 1]), None)],
        torch.zeros(6, dtype=torch.bool),
        5,
        p._config,
        0,
        "few",
        Budget(),
    )[0]
    assert torch.allclose(
        p.sample((5,), x=x, seed=0), columns.unwhiten(z.double(), torch.tensor([0, 1])).float(), atol=1e-6
    )

    rows = JOINT.simulate(8).float()
    with_gap = rows.clone()
    with_gap[:, 2] = torch.nan
    masks = torch.tensor([[False, True, True], [True, False, False]]).repeat(4, 1)
    whole = columns.batch(with_gap, masks, None)
    short = columns.batch(rows, masks, None)
    short = TokenBatch(short.variable[:, :4], short.index[:, :4], short.value[:, :4], short.condition_mask[:, :4],
                       short.valid[:, :4])  # fmt: skip
    log_ratio, epsilon = torch.linspace(-3, 2, 8)[:, None], torch.randn(8, 1, 6, generator=torch.Generator())
    losses = []
    for batch in (whole, short):
        streams = split(batch, None)
        losses.append(estimator.denoiser.loss(streams, log_ratio, epsilon[..., : streams.active.shape[1]]))
    assert torch.allclose(losses[0], losses[1], atol=1e-6)


def test_shapes_are_those_of_sbi() -> None:
    p, x = built([False, True, True]), given([False, True, True])
    flat = p.sample((5,), x=x, seed=0)
    assert (
        flat.shape == (5, 2)
        and p.sample((), x=x, seed=0).shape == (2,)
        and p.sample((2, 3), x=x, seed=0).shape == (2, 3, 2)
    )
    assert torch.equal(p.sample((2, 3), x=x, seed=0).view(6, 2)[:5], flat)  # more draws change none of the first
    for same in (x[None], x.view(2, 2), x.view(1, 2, 2), x.tolist(), x.double().numpy()):
        assert torch.equal(p.sample((5,), x=same, seed=0), flat)
    assert torch.equal(p.set_default_x(x).sample((5,), seed=0), flat)
    assert p.default_x is not None and p.default_x.shape == (1, 4)
    assert not torch.equal(p.sample((5,), x=x, seed=1), flat)

    xs = torch.stack([x, x + 1, x - 1])
    batched = p.sample_batched((5,), xs, seed=0)
    assert batched.shape == (5, 3, 2) and torch.allclose(batched[:, 0], flat, atol=1e-5)
    assert torch.equal(p.sample_batched((5,), xs.view(3, 2, 2), seed=0), batched)
    assert torch.allclose(
        p.sample_batched((5,), xs[:2], seed=0), batched[:, :2], atol=1e-4
    )  # no row minds its neighbours

    one = p.log_prob(flat[0], x=x)
    assert one.shape == (1,) and torch.allclose(p.log_prob(flat.view(5, 1, 2), x=x)[:1], one)
    by_row = torch.stack([p.log_prob(batched[:, b], x=xs[b]) for b in range(3)], 1)
    assert torch.allclose(p.log_prob_batched(batched, xs), by_row)


def test_without_an_observed_variable_the_joint_is_sampled() -> None:
    joint = built([False, False, False])
    draws = joint.sample((2_000,), seed=0).double()
    exact = JOINT.exact([False] * 3, torch.zeros(0))
    assert draws.shape == (2_000, 6)
    assert float(((draws.std(0) / exact.stddev) - 1).abs().max()) < 0.08


def test_indexes_are_masks() -> None:
    inference = Simformer(posterior_latent_idx=[0, 2], posterior_observed_idx=[1])
    posterior, likelihood = inference.build_posterior(JOINT.estimator), inference.build_likelihood(JOINT.estimator)
    assert posterior.condition_mask.tolist() == [False, True, False]
    assert likelihood.condition_mask.tolist() == [True, False, True]
    inference.set_condition_indexes(new_posterior_latent_idx=torch.tensor([2]), new_posterior_observed_idx=[0, 1])
    posterior, x = inference.build_posterior(JOINT.estimator, sample_with="ode"), given([True, True, False])
    assert torch.equal(posterior.sample((4,), x=x, seed=0), built([1, 1, 0]).sample((4,), x=x, seed=0))


def test_indexes_are_checked_where_they_are_given() -> None:
    for latent, observed, error, message in [
        ([0, 1], [1, 2], ValueError, r"from 0 on in one of the two, got \[0, 1\] and \[1, 2\]; in both: \[1\]"),
        ([0, 0], [1], ValueError, r"twice in one: \[0\]"),
        ([-1], [0], ValueError, r"out of range: \[-1\]"),
        ([0], [3], ValueError, r"in neither: \[1, 2\]"),
        ([0], [2, 1], ValueError, r"not in increasing order, in which values and draws come: \[2\]"),
        (
            [True, False],
            [False, True],
            TypeError,
            r"posterior_latent_idx: .* got the boolean mask \[True, False\]; .*mask=",
        ),
        ([0], torch.tensor([False, True]), TypeError, "posterior_observed_idx: .* boolean mask"),
        ([0.0], [1], TypeError, r"posterior_latent_idx: expected integers such as \[0, 2\], got \[0.0\]"),
        ("theta", [1], TypeError, "posterior_latent_idx: expected numbers of variables .* 'theta'"),
    ]:
        with pytest.raises(error, match=message):
            Simformer(posterior_latent_idx=latent, posterior_observed_idx=observed)
        with pytest.raises(error, match=message):
            Simformer().set_condition_indexes(latent, observed)
    rows = JOINT.simulate(30).float()
    with pytest.raises(
        ValueError, match=r"every variable from 0 to 2 in one .* got \[0\] and \[1\]; in neither: \[2\]"
    ):
        Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).append_simulations(rows)
    with pytest.raises(ValueError, match=r"got \[3\] and None; out of range: \[3\]"):
        Simformer(posterior_latent_idx=[3]).append_simulations(rows)
    inference = Simformer(posterior_latent_idx=[0, 2], posterior_observed_idx=[1]).append_simulations(rows)
    with pytest.raises(ValueError, match=r"from 0 to 2 .* out of range: \[3\]"):
        inference.set_condition_indexes([0, 1], [2, 3])
    assert inference.build_posterior(JOINT.estimator).condition_mask.tolist() == [False, True, False]  # as before
    with pytest.raises(ValueError, match=r"from 0 to 2 .* in neither: \[2\]"):
        Simformer(posterior_latent_idx=[0], posterior_observed_idx=[1]).build_posterior(JOINT.estimator)


def test_a_cut_variable_changes_nothing() -> None:
    """What may not be attended to, directly or through others, leaves draws as they are; what may changes them."""
    estimator, x = random_weights(), given([False, True, True])
    cut = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    other = x.clone()
    other[2:] += 3
    p = Simformer().build_conditional([False, True, True], cut, estimator)
    assert torch.equal(p.sample((4,), x=x, seed=0), p.sample((4,), x=other, seed=0))
    q = Simformer().build_conditional([False, True, True], None, estimator)
    assert not torch.allclose(q.sample((4,), x=x, seed=0), q.sample((4,), x=other, seed=0))
    directed = cut.clone()
    directed[1, 2] = 1  # variable 0 hears of variable 2 through variable 1
    r = Simformer().build_conditional([False, True, True], directed, estimator)
    assert not torch.allclose(r.sample((4,), x=x, seed=0), r.sample((4,), x=other, seed=0))


def test_training_finds_the_posterior_and_repeats_itself() -> None:
    """Two variables of one feature, θ ~ N(2, 3²), x = θ/3 + N(0, 0.5²), by both losses."""
    g = torch.Generator().manual_seed(0)
    theta = 2 + 3 * torch.randn(2_000, 1, generator=g)
    inputs = torch.cat([theta, theta / 3 + 0.5 * torch.randn(2_000, 1, generator=g)], 1)
    small = NetworkConfig(width=16, depth=2, n_heads=2)
    variance = 1 / (1 / 9 + 1 / 9 / 0.25)
    epochs = 20
    for cls in (Simformer, FlowMatchingSimformer):
        inference = cls(posterior_latent_idx=[0], posterior_observed_idx=[1], network=small)
        inference.append_simulations(inputs[:1_000]).append_simulations(inputs[1_000:])
        inference.train(max_num_epochs=epochs, training_batch_size=300, learning_rate=5e-3)
        assert len(inference.summary["validation_loss"]) == epochs == inference.summary["epochs_trained"][0]
        posterior = inference.build_posterior()
        for x in (0.0, 1.5):
            mean = variance * (2 / 9 + x / 3 / 0.25)
            draws = posterior.sample((1_000,), x=[x], seed=0)
            assert abs(float(draws.mean()) - mean) < 0.25 * variance**0.5
            assert abs(float(draws.std()) / variance**0.5 - 1) < 0.15
    again = Simformer(network=small).append_simulations(inputs)
    with pytest.warns(UserWarning, match="after 2 steps the held-out loss"):
        runs = [again.train(max_num_epochs=1, training_batch_size=900).denoiser.state_dict() for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(runs[0].values(), runs[1].values(), strict=True))


def test_messages() -> None:
    p, x = built([False, True, True]), given([False, True, True])
    for call, message in [
        (lambda: p.sample((2,)), "no observation; pass x="),
        (lambda: p.sample((2,), x=x[:3]), r"x: expected \(4,\) or \(2, 2\) or \(1, 4\) .*s, got shape \(3,\)"),
        (lambda: p.sample((2,), x=torch.stack([x, x])), r"several go to sample_batched .*, got shape \(2, 4\)"),
        (lambda: p.sample_batched((2,), x), r"x: expected \(B, 4\) or \(B, 2, 2\)"),
        (lambda: p.sample((2,), x=x / 0), "infinite"),
        (lambda: p.log_prob(torch.full((1, 2), torch.nan), x=x), "a density needs a value of everything"),
        (lambda: p.log_prob(torch.zeros(3, 3), x=x), r"theta: expected .*got shape \(3, 3\)"),
        (lambda: p.log_prob_batched(torch.zeros(3, 2), x[None]), r"theta: expected \(n, 1, 2\)"),
        (lambda: built([True] * 3), "all 3 variables are observed"),
        (lambda: built([True, False]), r"condition_mask: expected shape \(3,\), got \(2,\)"),
        (lambda: built([0, 1, 2]), "expected True/False or 1/0"),
        (lambda: built([0, 1, 1], torch.ones(2, 2)), r"edge_mask: expected shape \(3, 3\)"),
        (lambda: built([0, 1, 1], sample_with="mcmc"), r"sample_with: expected one of \['ode', 'sde'\]"),
        (
            lambda: Simformer(sde_type="vpsde"),
            r"sde_type: expected one of \['subvp', 'trig', 've', 'vp'\], got 'vpsde'",
        ),
        (lambda: Simformer(device="abacus"), "device"),
        (lambda: Simformer("vp", [0], [0]), "every variable from 0 on in one of the two"),
        (lambda: Simformer("vp", [0], [2]), r"got \[0\] and \[2\]"),
        (lambda: Simformer().build_posterior(JOINT.estimator), "set_condition_indexes"),
        (lambda: Simformer().build_conditional([True, False]), "nothing is trained"),
        (lambda: Simformer().train(), "no simulations"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_simulations_are_checked_at_the_door() -> None:
    s, rows = Simformer(), torch.randn(30, 2, 3, generator=torch.Generator())
    gap, overflow, absent = rows.clone(), rows.clone(), rows.clone()
    gap[4:6], overflow[1, 0, 0], absent[:, 1, 2] = torch.nan, torch.inf, torch.nan
    for inputs, message in [
        (rows[0, 0], r"expected \(N, variables, features\) or \(N, variables\), got \(3,\)"),
        (gap, "in 2 of 30 rows everything is missing"),
        (overflow, "1 rows hold infinite values"),
    ]:
        with pytest.raises(ValueError, match=message):
            s.append_simulations(inputs)
    with pytest.raises(TypeError, match="expected a tensor or an array of real numbers, got list"):
        s.append_simulations(rows.tolist())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected \(N, 2, 3\) as before, got \(30, 3, 1\)"):
        s.append_simulations(rows).append_simulations(rows[:, 0])
    for settings, message in [
        ({"validation_fraction": 1.0}, "0 < validation_fraction < 1"),
        ({"validation_fraction": 0.9}, "30 simulations leave 3 to train on"),
        ({"max_num_epochs": 0}, "max_num_epochs >= 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            s.train(**settings)
    with pytest.raises(ValueError, match=r"no row has a value of .*\[\[1, 2\]\]"):
        Simformer().append_simulations(absent).train()
    with pytest.raises(ValueError, match="rounds are not implemented"):
        s.append_simulations(rows, proposal=1)  # type: ignore[arg-type]


def test_every_mask_of_three_variables_can_be_asked_for() -> None:
    for mask in itertools.product([False, True], repeat=3):
        if not all(mask):
            x = given(list(mask))
            assert built(list(mask)).sample((2,), x=x if len(x) else None, seed=0).shape == (2, 2 * mask.count(False))
