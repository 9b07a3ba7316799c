"""Pyro models: priors, supports, parents and draws are the model's; what no simulator can be is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from programs import (
    require_chain,
    require_covariance_of_mixture,
    require_data_at_parameters_of_schools,
    require_mixture,
    require_moments_of_schools,
    require_schools,
)
from tiny import seeded

pyro = pytest.importorskip("pyro")

import pyro.distributions as dist  # noqa: E402
from torch.distributions import AffineTransform, ExpTransform, SigmoidTransform, constraints  # noqa: E402

import fsimformer as fsf  # noqa: E402
from fsimformer.pyro import from_pyro  # noqa: E402
from fsimformer.pyro_lengths import given, present  # noqa: E402
from fsimformer.pyro_priors import prior_of  # noqa: E402
from fsimformer.simulators import check  # noqa: E402
from fsimformer.whiten import prior_from_z, prior_log_prob  # noqa: E402


def schools(y: Any = None) -> None:
    mu = pyro.sample("mu", dist.Normal(1.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(3.0))
    with pyro.plate("school", 4):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, 2.0), obs=y)


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        (dist.Normal(1.0, 2.0), fsf.Normal(1, 2)),
        (dist.Normal(torch.zeros(3), 2.0).to_event(1), fsf.Normal(0, 2)),
        (dist.LogNormal(-1.0, 0.5), fsf.LogNormal(-1, 0.5)),
        (dist.Uniform(-1.0, 3.0), fsf.Uniform(-1, 3)),
        (dist.HalfNormal(2.0), fsf.TruncatedNormal(0, 2, 0)),
        (dist.Beta(1.0, 1.0), fsf.Uniform(0, 1)),
        (
            dist.TransformedDistribution(dist.Uniform(0.0, 2.0), [ExpTransform()]),
            fsf.LogUniform(math.exp(0.0), math.exp(2.0)),
        ),
        (dist.TransformedDistribution(dist.Normal(0.5, 1.5), [SigmoidTransform()]), fsf.LogitNormal(0.5, 1.5)),
        (
            dist.TransformedDistribution(dist.Normal(0.5, 1.5), [SigmoidTransform(), AffineTransform(2.0, 3.0)]),
            fsf.LogitNormal(0.5, 1.5, 2.0, 5.0),
        ),
    ],
)
def test_a_known_family_has_pyro_s_density(fn: Any, expected: Any) -> None:
    prior = prior_of(fn)
    assert prior == expected
    x = prior_from_z(prior, torch.linspace(-2.5, 2.5, 9, dtype=torch.float64))
    own = fn.log_prob(x[:, None].float().expand(9, 3)) / 3 if fn.event_shape else fn.log_prob(x.float())
    torch.testing.assert_close(prior_log_prob(prior, x).float(), own, rtol=2e-5, atol=2e-5)


def test_other_families_are_none_of_ours() -> None:
    for fn in (
        dist.Gamma(2.0, 1.0), dist.Beta(2.0, 3.0), dist.StudentT(3.0), dist.Normal(torch.tensor([0.0, 1.0]), 1.0),
        dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), dist.TransformedDistribution(dist.Normal(0, 1), []),
    ):  # fmt: skip
        assert prior_of(fn) is None


def test_sites_plates_and_parents_are_the_schema() -> None:
    simulator = from_pyro(schools, torch.zeros(4))
    require_schools(simulator)
    assert simulator.schema == from_pyro(schools, data=["y"]).schema


@pytest.mark.parametrize("batched", [False, True])
def test_draws_have_the_model_s_moments(batched: bool) -> None:
    n = 8_000 if batched else 800
    drawn = from_pyro(schools, data=["y"], batched=batched).simulate(n, seeded(1))
    require_moments_of_schools(drawn, n)


@pytest.mark.parametrize("batched", [False, True])
def test_data_are_drawn_anew_at_chosen_parameters(batched: bool) -> None:
    require_data_at_parameters_of_schools(from_pyro(schools, data=["y"], batched=batched))


def test_a_chain_of_data_and_supports_that_depend() -> None:
    def model() -> None:
        top = pyro.sample("top", dist.Gamma(2.0, 1.0))
        part = pyro.sample("part", dist.Uniform(0.0, top))
        both = pyro.sample("both", dist.Uniform(top, top + 1.0))
        share = pyro.sample("share", dist.Beta(2.0, 3.0))
        first = pyro.sample("first", dist.Normal(part + share, 1.0))
        second = pyro.sample("second", dist.Poisson(torch.exp(0.1 * first + 0 * both)))
        pyro.sample("third", dist.MultivariateNormal(torch.stack([second, top]), torch.eye(2)))

    require_chain(from_pyro(model, data=["first", "second", "third"]).schema)


class Negative(dist.Normal):  # type: ignore[misc]
    """−|x|, x ~ N(0, 1)."""

    support = constraints.less_than(0.0)

    def rsample(self, sample_shape: Any = ()) -> torch.Tensor:
        return -super().rsample(sample_shape).abs()

    sample = rsample


def below() -> None:
    loss = pyro.sample("loss", Negative(0.0, 1.0))
    pyro.sample("x", dist.Normal(loss, 1.0))


def between_what_moves_and_three() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 0.1))
    loss = pyro.sample("loss", dist.Uniform(a, 3.0))
    pyro.sample("x", dist.Normal(loss, 1.0))


@pytest.mark.parametrize(("model", "end"), [(below, 0), (between_what_moves_and_three, 3)])
def test_a_support_with_an_upper_end_alone_is_refused_and_the_way_out_is_named(model: Any, end: int) -> None:
    """Taken for all numbers, it would have draws that the model never makes."""
    message = (
        rf"'loss' lies below {end} and has no lower end.*instead, {end} - loss,.*support={{'loss': fsimformer.REAL}}"
    )
    with pytest.raises(ValueError, match=message):
        from_pyro(model, data=["x"])
    assert from_pyro(model, data=["x"], support={"loss": fsf.REAL}).schema["loss"].support == fsf.REAL


def test_a_left_out_site_joins_its_children() -> None:
    def mixture(x: Any = None) -> None:
        weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
        kind = pyro.sample("kind", dist.Bernoulli(weight))
        a = pyro.sample("a", dist.Normal(2 * kind, 1.0))
        b = pyro.sample("b", dist.Normal(-kind, 1.0))
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)

    with pytest.raises(ValueError, match=r"'kind' is discrete, .* leave_out=\['kind'\]"):
        from_pyro(mixture, torch.tensor(0.0))
    simulator = from_pyro(mixture, torch.tensor(0.0), leave_out=["kind"])
    require_mixture(simulator)
    batched = from_pyro(mixture, torch.tensor(0.0), leave_out=["kind"], batched=True)
    require_covariance_of_mixture(batched.simulate(20_000, seeded()))


def test_what_a_simulation_cannot_say_is_refused() -> None:
    def sizes() -> None:
        n = int(pyro.sample("n", dist.Poisson(3.0)))
        with pyro.plate("p", n + 1):
            pyro.sample("x", dist.Normal(0.0, 1.0))

    def branches() -> None:
        for i in range(int(pyro.sample("n", dist.Geometric(0.5))) + 1):
            pyro.sample(f"x_{i}", dist.Normal(0.0, 1.0))

    def factor() -> None:
        pyro.factor("more", pyro.sample("a", dist.Normal(0.0, 1.0)))

    def masked() -> None:
        with pyro.poutine.mask(mask=torch.tensor([True, False])):
            pyro.sample("a", dist.Normal(torch.zeros(2), 1.0))

    def subsample() -> None:
        with pyro.plate("p", 8, subsample_size=2):
            pyro.sample("a", dist.Normal(0.0, 1.0))

    def simplex() -> None:
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        pyro.sample("x", dist.Normal(p[0], 1.0))

    for model, message in (
        (sizes, r"the number of 'x' differs from run to run: .* such as max_length=\{'x': 20\}"),
        (branches, r"the number of 'x_1' differs from run to run: .* such as max_length=\{'x': 20\}"),
        (factor, "'more' weighs a run"),
        (masked, "'a' weighs a run"),
        (subsample, "'p' draws a subsample"),
        (simplex, r"'p' has the support Simplex\(\)"),
        (lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), "expected latent and observed sites"),
    ):
        with pytest.raises(ValueError, match=message):
            from_pyro(model, data=["x"] if model is simplex else [])
    with pytest.raises(KeyError, match=r"data: no variable 'z'. There are \['mu', 'tau', 'theta', 'y'\]"):
        from_pyro(schools, data=["z"])

    def stacked() -> None:
        a, b = (pyro.sample(k, dist.Normal(0.0, 1.0)) for k in "ab")
        pyro.sample("y", dist.Normal(torch.stack([a, b]), 1.0))

    check(from_pyro(stacked, data=["y"]))
    with pytest.raises(ValueError, match=r"'y' has the shape \(2, 5, 1\) in a run of 5 simulations, expected \(5, 2\)"):
        from_pyro(stacked, data=["y"], batched=True).simulate(5, seeded())


def test_pyro_s_global_state_is_as_it_was() -> None:
    pyro.clear_param_store()
    pyro.param("kept", torch.tensor(3.0))

    def model() -> None:
        loc = pyro.param("loc", torch.tensor(2.0))
        a = pyro.sample("a", dist.Normal(loc + pyro.param("kept"), 1.0))
        pyro.sample("x", dist.Normal(a, 1.0))

    torch.manual_seed(7)
    state = torch.get_rng_state()
    simulator = from_pyro(model, data=["x"])
    simulator.simulate(3, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store().keys()) == {"kept"} and simulator.schema["a"].prior == fsf.Normal(5, 1)
    pyro.clear_param_store()


def counted(y: Any = None) -> None:
    """As many readings of μ as a geometric number says, at least one."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    n = int(pyro.sample("n", dist.Geometric(0.4))) + 1
    with pyro.plate("i", n):
        pyro.sample("y", dist.Normal(mu, 1.0))


def looped() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    for i in range(int(pyro.sample("n", dist.Geometric(0.4))) + 1):
        pyro.sample(f"y_{i}", dist.Normal(mu, 1.0))


@pytest.mark.parametrize("model", [counted, looped])
def test_traces_of_varying_length_are_a_vector_and_a_number(model: Any) -> None:
    data = ["y"]
    simulator = from_pyro(model, data=data, leave_out=["n"], max_length={"y": 5})
    check(simulator)
    schema = simulator.schema
    assert schema.names == ("mu", "y", "n_y") and schema.n_components("y") == 5 and schema.data == ("y", "n_y")
    assert simulator.simulate_at is None
    n = 1_500
    drawn = simulator.simulate(n, seeded(1))
    whole = torch.isfinite(drawn["n_y"])
    assert torch.equal(whole, torch.isfinite(drawn["y"]).all(1))  # more than five readings: no simulation of ours
    share = 0.6**5
    assert abs(float((~whole).double().mean()) - share) < 4 * (share / n) ** 0.5
    mu, y = drawn["mu"][whole], drawn["y"][whole]
    count = drawn["n_y"][whole].round().long()
    for k in range(1, 6):
        p = 0.4 * 0.6 ** (k - 1) / (1 - share)
        assert abs(float((count == k).double().mean()) - p) < 4 * (p / n) ** 0.5
    there = torch.arange(5)[None] < count[:, None]
    error = (y - mu[:, None])[there]
    assert abs(float(error.mean())) < 4 / len(error) ** 0.5 and abs(float(error.std()) - 1) < 4 / len(error) ** 0.5
    filling, of = y[~there], mu[:, None].expand(-1, 5)[~there]
    assert abs(float(torch.corrcoef(torch.stack([filling, of]))[0, 1])) < 4 / n**0.5  # independent of all else
    assert abs(float(filling.std()) - 5**0.5) < 0.5  # of the size of a reading


def test_what_was_given_and_what_is_there() -> None:
    schema = from_pyro(counted, data=["y"], leave_out=["n"], max_length={"y": 5}).schema
    seen = given(schema, {"y": [1.0, 2.0]})
    np.testing.assert_array_equal(seen["y"], [1.0, 2.0, np.nan, np.nan, np.nan])
    assert seen["y"].dims == ("y_dim",) and seen["n_y"].item() == 2.0
    with pytest.raises(ValueError, match=r"'y': expected at most 5 elements along one dim, got shape \(6,\)"):
        given(schema, {"y": [0.0] * 6})
    with pytest.raises(KeyError, match="No variable named 'z'"):
        given(schema, {"z": 1.0})
    sample = ("chain", "draw")
    draws = xr.Dataset({"y": ((*sample, "y_dim"), np.ones((1, 2, 5))), "n_y": (sample, [[2.3, 4.6]])})
    found = present(draws, schema)
    np.testing.assert_array_equal(found["n_y"], [[2, 5]])
    np.testing.assert_array_equal(found["y"].count("y_dim"), [[2, 5]])
    assert float(draws["y"].sum()) == 10.0  # the caller's own are what they were


def test_lengths_that_cannot_be() -> None:
    def gap() -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in (0, 2):
            pyro.sample(f"x_{i}", dist.Normal(0.0, 1.0))

    def wide() -> None:
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("p", int(pyro.sample("n", dist.Bernoulli(0.5))) + 1):
            pyro.sample("x", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    for model, message in ((gap, r"elements of 'x' without a gap"), (wide, r"elements of 'x' that are numbers")):
        with pytest.raises(ValueError, match=message):
            from_pyro(model, data=["x"], max_length={"x": 3}, leave_out=["n"] if model is wide else []).simulate(
                1, seeded()
            )
    with pytest.raises(KeyError, match="expected a length >= 1 of a site, or of sites z_0"):
        from_pyro(counted, data=["y"], max_length={"z": 3})
    with pytest.raises(ValueError, match="one run makes no simulations of several lengths"):
        from_pyro(counted, data=["y"], max_length={"y": 3}, batched=True)


@pytest.mark.slow
def test_a_trained_model_has_the_conjugate_posterior() -> None:
    """μ ~ N(0, 2²), y_i ~ N(μ, 1), i = 1..4: μ | y ~ N(Σy / (4 + 1/4), 1/(4 + 1/4))."""

    def model(y: Any = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("i", 4):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    simulator = from_pyro(model, data=["y"], batched=True)
    config = fsf.TrainConfig(steps=1_000, batch_size=128, warmup=50, n_validation=256, n_micro=1, pool=1)
    joint = fsf.train(
        simulator, simulations=20_000, config=config, network=fsf.NetworkConfig(width=32, depth=2, n_heads=4)
    )
    precision = 4 + 1 / 4
    for y in ([1.0, 2.0, 0.5, 1.5], [-3.0, -1.0, -2.5, -2.0]):
        data = xr.DataArray(y, dims="i", name="y")
        mu = joint.condition(data).sample(2_000, at={}, quality="exact")["posterior"]["mu"]
        assert abs(float(mu.mean()) - sum(y) / precision) < 0.15 / precision**0.5
        assert abs(float(mu.std()) * precision**0.5 - 1.0) < 0.12


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_any_number_of_readings_has_its_conjugate_posterior() -> None:
    """μ | y_1..y_n ~ N(Σy / (n + 1/4), 1/(n + 1/4)), n as many as were given."""
    simulator = from_pyro(counted, data=["y"], leave_out=["n"], max_length={"y": 5})
    config = fsf.TrainConfig(steps=2_000, batch_size=128, warmup=100, n_validation=256)
    joint = fsf.train(
        simulator, simulations=15_000, config=config, network=fsf.NetworkConfig(width=32, depth=3, n_heads=4)
    )
    for y in ([1.5], [1.0, 2.0], [-2.0, -1.0, -2.5, -2.0]):
        seen = given(joint.schema, {"y": y})
        mu = joint.condition(seen).sample(2_000, at={}, quality="exact")["posterior"]["mu"]
        precision = len(y) + 1 / 4
        assert abs(float(mu.mean()) - sum(y) / precision) < 0.25 / precision**0.5
        assert abs(float(mu.std()) * precision**0.5 - 1.0) < 0.2
