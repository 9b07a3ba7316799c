"""NumPyro models: priors, supports, parents and draws are the model's; what no simulator can be is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from programs import (
    require_chain,
    require_covariance_of_mixture,
    require_data_at_parameters_of_schools,
    require_mixture,
    require_moments_of_schools,
    require_schools,
)
from tiny import seeded

pytest.importorskip("numpyro")

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import AffineTransform, ExpTransform, SigmoidTransform

import fsimformer as fsf
from fsimformer.numpyro import from_numpyro
from fsimformer.pyro_priors import prior_of
from fsimformer.whiten import prior_from_z, prior_log_prob


def schools(y: Any = None) -> None:
    mu = numpyro.sample("mu", dist.Normal(1.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(3.0))
    with numpyro.plate("school", 4):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, 2.0), obs=y)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (dist.Normal(1.0, 2.0), fsf.Normal(1, 2)),
        (dist.Normal(0.0, 2.0).expand((3,)), fsf.Normal(0, 2)),
        (dist.LogNormal(-1.0, 0.5), fsf.LogNormal(-1, 0.5)),
        (dist.Uniform(-1.0, 3.0), fsf.Uniform(-1, 3)),
        (dist.LogUniform(0.5, 8.0), fsf.LogUniform(0.5, 8)),
        (dist.HalfNormal(2.0), fsf.TruncatedNormal(0, 2, 0)),
        (dist.TruncatedNormal(1.0, 2.0, low=-0.5), fsf.TruncatedNormal(1, 2, -0.5)),
        (dist.Beta(1.0, 1.0), fsf.Uniform(0, 1)),
        (dist.TransformedDistribution(dist.Normal(0.5, 1.5), [SigmoidTransform()]), fsf.LogitNormal(0.5, 1.5)),
        (
            dist.TransformedDistribution(dist.Uniform(0.0, 2.0), [ExpTransform()]),
            fsf.LogUniform(math.exp(0.0), math.exp(2.0)),
        ),
        (
            dist.TransformedDistribution(dist.Normal(0.5, 1.5), [SigmoidTransform(), AffineTransform(2.0, 3.0)]),
            fsf.LogitNormal(0.5, 1.5, 2.0, 5.0),
        ),
    ],
)
def test_a_known_family_has_numpyro_s_density(fn: Any, expected: Any) -> None:
    prior = prior_of(fn)
    assert prior == expected
    x = prior_from_z(prior, torch.linspace(-2.5, 2.5, 9, dtype=torch.float64))
    own = np.asarray(fn.log_prob(jnp.asarray(x.numpy()[:, None] if fn.batch_shape else x.numpy())))
    own = own[:, 0] if fn.batch_shape else own
    np.testing.assert_allclose(prior_log_prob(prior, x), own, rtol=5e-5, atol=5e-5)


def test_other_families_are_none_of_ours() -> None:
    for fn in (
        dist.Gamma(2.0, 1.0), dist.Beta(2.0, 3.0), dist.StudentT(3.0), dist.Normal(jnp.array([0.0, 1.0]), 1.0),
        dist.TruncatedNormal(0.0, 1.0, low=-1.0, high=1.0), dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
    ):  # fmt: skip
        assert prior_of(fn) is None


def test_sites_plates_and_parents_are_the_schema() -> None:
    simulator = from_numpyro(schools, jnp.zeros(4))
    require_schools(simulator)
    assert simulator.schema == from_numpyro(schools, data=["y"]).schema


def test_draws_have_the_model_s_moments_and_follow_the_generator() -> None:
    n, simulator = 8_000, from_numpyro(schools, data=["y"])
    drawn = simulator.simulate(n, seeded(1))
    require_moments_of_schools(drawn, n)
    assert {x.dtype for x in drawn.values()} == {torch.float64}
    again, other = simulator.simulate(n, seeded(1)), simulator.simulate(n, seeded(2))
    assert all(torch.equal(drawn[k], again[k]) and not torch.equal(drawn[k], other[k]) for k in drawn)


def test_data_are_drawn_anew_at_chosen_parameters() -> None:
    require_data_at_parameters_of_schools(from_numpyro(schools, data=["y"]))


def test_a_chain_of_data_and_supports_that_depend() -> None:
    def model() -> None:
        top = numpyro.sample("top", dist.Gamma(2.0, 1.0))
        part = numpyro.sample("part", dist.Uniform(0.0, top))
        both = numpyro.sample("both", dist.Uniform(top, top + 1.0))
        share = numpyro.sample("share", dist.Beta(2.0, 3.0))
        numpyro.deterministic("sum", part + share)
        first = numpyro.sample("first", dist.Normal(part + share, 1.0))
        second = numpyro.sample("second", dist.Poisson(jnp.exp(0.1 * first + 0 * both)))
        numpyro.sample("third", dist.MultivariateNormal(jnp.stack([1.0 * second, top]), jnp.eye(2)))

    simulator = from_numpyro(model, data=["first", "second", "third"])
    require_chain(simulator.schema)
    drawn = simulator.simulate(50, seeded())
    assert torch.equal(drawn["second"], drawn["second"].round()) and drawn["third"].shape == (50, 2)


def test_a_left_out_site_joins_its_children() -> None:
    def mixture(x: Any = None) -> None:
        weight = numpyro.sample("weight", dist.Beta(1.0, 1.0))
        kind = numpyro.sample("kind", dist.Bernoulli(weight))
        a = numpyro.sample("a", dist.Normal(2.0 * kind, 1.0))
        b = numpyro.sample("b", dist.Normal(-1.0 * kind, 1.0))
        numpyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'kind' is discrete, .* leave_out=\['kind'\]"):
        from_numpyro(mixture, jnp.array(0.0))
    simulator = from_numpyro(mixture, jnp.array(0.0), leave_out=["kind"])
    require_mixture(simulator)
    require_covariance_of_mixture(simulator.simulate(20_000, seeded()))


def test_what_a_simulation_cannot_say_is_refused() -> None:
    def sizes() -> None:
        n = int(numpyro.sample("n", dist.Poisson(3.0)))
        with numpyro.plate("p", n + 1):
            numpyro.sample("x", dist.Normal(0.0, 1.0))

    def branches() -> None:
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(1.0 if a > 0 else -1.0, 1.0))

    def factor() -> None:
        numpyro.factor("more", numpyro.sample("a", dist.Normal(0.0, 1.0)))

    def masked() -> None:
        with numpyro.handlers.mask(mask=jnp.array([True, False])):
            numpyro.sample("a", dist.Normal(jnp.zeros(2), 1.0))

    def scaled() -> None:
        with numpyro.handlers.scale(scale=2.0):
            numpyro.sample("a", dist.Normal(0.0, 1.0))

    def subsample() -> None:
        with numpyro.plate("p", 8, subsample_size=2):
            numpyro.sample("a", dist.Normal(0.0, 1.0))

    def simplex() -> None:
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("x", dist.Normal(p[0], 1.0))

    def improper() -> None:
        a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("x", dist.Normal(a, 1.0))

    for model, message in (
        (sizes, "takes numbers out of values"),
        (branches, "takes numbers out of values"),
        (factor, "'more' weighs a run"),
        (masked, "'a' weighs a run"),
        (scaled, "'a' weighs a run"),
        (subsample, "'p' draws a subsample"),
        (simplex, r"'p' has the support"),
        (improper, "a site cannot be drawn from its distribution"),
        (lambda: numpyro.sample("x", dist.Normal(0.0, 1.0)), "expected latent and observed sites"),
    ):
        with pytest.raises(ValueError, match=message):
            from_numpyro(model, data=["x"] if model in (sizes, branches, simplex) else [])
    with pytest.raises(KeyError, match=r"data: no variable 'z'. There are \['mu', 'tau', 'theta', 'y'\]"):
        from_numpyro(schools, data=["z"])


@pytest.mark.slow
def test_a_trained_model_has_the_conjugate_posterior() -> None:
    """μ ~ N(0, 2²), y_i ~ N(μ, 1), i = 1..4: μ | y ~ N(Σy / (4 + 1/4), 1/(4 + 1/4))."""

    def model(y: Any = None) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("i", 4):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    config = fsf.TrainConfig(steps=1_000, batch_size=128, warmup=50, n_validation=256, n_micro=1, pool=1)
    network = fsf.NetworkConfig(width=32, depth=2, n_heads=4)
    joint = fsf.train(from_numpyro(model, data=["y"]), simulations=20_000, config=config, network=network)
    y = np.array([1.5, 0.5, 2.0, 1.0])
    mu = joint.condition({"y": y}).sample(2_000)["posterior"]["mu"].to_numpy()
    mean, sd = y.sum() / 4.25, 4.25**-0.5
    assert abs(mu.mean() - mean) < 0.2 * sd and abs(mu.std() / sd - 1) < 0.15
