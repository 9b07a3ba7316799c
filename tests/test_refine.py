"""From an approximate posterior to the exact one: weights, log densities on the original scale, likelihoods."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import arviz as az
import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from tiny import seeded
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import ObservationWarning
from fsimformer.denoise import Encoded
from fsimformer.importance import fit_pareto, pareto_quantile, resample, smoothed_weights
from fsimformer.joint import Joint
from fsimformer.model_file import Model
from fsimformer.nn import Context, NetworkConfig
from fsimformer.tokens import Streams
from fsimformer.whiten import Transform, Whitening

RNG = np.random.default_rng


@pytest.mark.parametrize("sd", [0.5, 0.8, 1.0, 1.5, 3.0])
def test_weights_are_those_of_pareto_smoothed_importance_sampling(sd: float) -> None:
    """Proposal N(0, sd²), target N(0, 1); ArviZ is the oracle."""
    x = sd * RNG(0).standard_normal(2000)
    ratio = stats.norm.logpdf(x) - stats.norm.logpdf(x, scale=sd)
    ours = smoothed_weights(ratio)
    if sd == 1:  # all weights are equal: there is no tail to fit
        np.testing.assert_allclose(ours.weight, 1 / 2000)
        assert ours.ess == pytest.approx(2000) and ours.pareto_k == -np.inf  # nothing to distrust
        return
    log_weight, k = _psislw(ratio)
    assert ours.pareto_k == pytest.approx(float(k), abs=0.02)
    np.testing.assert_allclose(ours.weight, np.exp(log_weight), rtol=0.05, atol=1e-7)
    assert ours.weight.sum() == pytest.approx(1)
    assert (ours.pareto_k < 0.7) == (sd > 0.71)  # weights of a proposal narrower than √½ have no variance


@pytest.mark.parametrize("k", [-0.4, 0.2, 0.9])
def test_the_pareto_fit_finds_the_shape(k: float) -> None:
    excess = np.sort(stats.genpareto.rvs(k, scale=2.0, size=20_000, random_state=1))
    shape, scale = fit_pareto(excess)
    assert (shape, scale) == (pytest.approx(k, abs=0.03), pytest.approx(2.0, rel=0.05))
    p = np.array([0.1, 0.5, 0.99])
    np.testing.assert_allclose(pareto_quantile(p, k, 2.0), stats.genpareto.ppf(p, k, scale=2.0))
    np.testing.assert_allclose(pareto_quantile(p, 0.0, 2.0), stats.expon.ppf(p, scale=2.0))


def _psislw(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """ArviZ's: before 1.0 of log ratios, since then of log likelihoods that are to be divided out."""
    if hasattr(az, "psislw"):
        return cast(tuple[np.ndarray, float], az.psislw(log_ratio))
    from arviz_stats.base import array_stats

    return cast(tuple[np.ndarray, float], array_stats.psislw(-log_ratio))


def test_resampling_takes_each_draw_as_often_as_its_weight_says() -> None:
    weight = RNG(2).dirichlet(np.ones(50) * 0.3)
    count = np.bincount(resample(weight, 1000, RNG(3)), minlength=50)
    assert count.sum() == 1000 and (np.abs(count - 1000 * weight) < 1).all()


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        ([0.0, np.nan], "not NaN"),
        ([0.0, np.inf], "< inf"),
        ([-np.inf, -np.inf], "not one of the draws has a positive likelihood"),
    ],
)
def test_ratios_that_are_no_numbers_are_refused(ratio: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        smoothed_weights(np.array(ratio))


PRIOR, SD = fsf.LogNormal(0.3, 0.5), 0.5
SCHEMA = fsf.Schema(
    (fsf.Variable("theta", "parameter", prior=PRIOR), fsf.Variable("y", "data", parents=("theta",))), ()
)
Y = 1.1
POSTERIOR = ((Y - 0.3) / 0.5 / 2, 0.5**0.5)  # mean and sd of z = (log θ − 0.3)/0.5, y ~ N(log θ, 0.5²)


@dataclass
class Wrong:
    """The denoiser of N(mean, sd²) for the one latent."""

    mean: float
    sd: float
    device: str = "cpu"
    lower: bool = False
    network = SimpleNamespace(config=NetworkConfig())  # which compresses nothing

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": torch.tensor(self.mean), "sd": torch.tensor(self.sd)}

    def encode(self, streams: Streams) -> Encoded:
        return Encoded(streams, Context((), ()), streams.active.valid, streams.frozen.valid)

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Encoded) -> Tensor:
        gain = self.sd**2 / (self.sd**2 + ratio[..., None] ** 2)
        observed = encoded.active.condition_mask[:, None]
        return torch.where(observed, encoded.active.value[:, None], self.mean + gain * (y - self.mean))


def conditional(mean: float, sd: float) -> fsf.Conditional:
    whitening = Whitening({v.name: Transform(v.prior, v.support) for v in SCHEMA.variables})
    denoiser = cast(Any, Wrong(mean, sd))
    model = Model(SCHEMA, whitening, denoiser, "trig", "dense", "few", {}, 8, {"y": (-9.0, 9.0)}, (), {})
    return Joint(model).condition({"y": Y})


def likelihood(draws: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(stats.norm.logpdf(Y, np.log(draws["theta"]), SD), dims=("chain", "draw"))


def test_log_prob_is_that_of_the_original_scale() -> None:
    """z ~ N(m, s²) and log θ = 0.3 + 0.5 z: θ is log-normal."""
    posterior = conditional(0.4, 0.6)
    draws = posterior.sample(200, quality="exact")
    theta = draws["posterior"]["theta"]
    exact = stats.lognorm.logpdf(theta, 0.5 * 0.6, scale=np.exp(0.3 + 0.5 * 0.4))
    got = posterior.log_prob(draws)
    assert got.dims == ("chain", "draw")
    assert np.abs(got - exact).max() < 0.05 and float((got - exact).std()) < 0.02


def test_refining_a_wide_and_shifted_posterior_gives_the_exact_one() -> None:
    mean, sd = POSTERIOR
    wrong = conditional(mean + 0.4 * sd, 1.5 * sd)
    draws = wrong.sample(8000, quality="exact")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refined = wrong.refine(draws, likelihood, 8000)
    before, z = (np.log(d["posterior"]["theta"].values.ravel()) - 0.3 for d in (draws, refined))
    before, z = before / 0.5, z / 0.5
    assert before.mean() == pytest.approx(mean + 0.4 * sd, abs=0.05) and before.std() == pytest.approx(
        1.5 * sd, rel=0.04
    )
    assert z.mean() == pytest.approx(mean, abs=0.03) and z.std() == pytest.approx(sd, rel=0.03)
    stats_group = refined["sample_stats"]
    assert 0.4 * 8000 < stats_group["ess"] < 0.9 * 8000 and stats_group["pareto_k"] < 0.5
    assert str(stats_group["method"].item()) == "importance"
    assert refined["posterior"].sizes == draws["posterior"].sizes
    short = wrong.refine(draws, likelihood)
    assert dict(short["posterior"].sizes) == {"chain": 2, "draw": int(stats_group["ess"] / 2)}
    assert refined["observed_data"].identical(draws["observed_data"])


def test_a_posterior_that_lies_elsewhere_is_not_trusted() -> None:
    mean, sd = POSTERIOR
    elsewhere = conditional(mean + 5 * sd, sd)
    with pytest.warns(ObservationWarning, match=r"the weights are uneven .Pareto k [1-9].*do not use them"):
        elsewhere.refine(elsewhere.sample(2000, quality="exact"), likelihood)


def test_a_sharp_posterior_is_not_narrowed() -> None:
    """The density must be blurred as little as the draws are: a perfect proposal has equal weights."""
    sharp = conditional(0.5, 0.02)
    draws = sharp.sample(4000, quality="exact")

    def same(d: xr.Dataset) -> xr.DataArray:
        z = (np.log(d["theta"]) - 0.3) / 0.5
        return xr.DataArray(stats.norm.logpdf(z, 0.5, 0.02) + 0.5 * z**2, dims=("chain", "draw"))

    refined = sharp.refine(draws, same, 4000)
    assert refined["sample_stats"]["ess"] > 0.98 * 4000
    before, after = (float(np.log(d["posterior"]["theta"]).std()) for d in (draws, refined))
    assert after == pytest.approx(before, rel=0.02)


def test_what_refine_cannot_weigh_is_refused() -> None:
    posterior = conditional(0.0, 1.0)
    draws = posterior.sample(100, quality="exact")
    refined = posterior.refine(draws, likelihood)
    with pytest.warns(ObservationWarning, match="those of the sampler 'sde_3m', .* Sample with quality='exact'"):
        posterior.refine(posterior.sample(100), likelihood)
    with pytest.raises(ValueError, match="refine: the draws are another network's .attribute 'network'"):
        conditional(0.1, 1.0).refine(draws, likelihood)
    with pytest.raises(ValueError, match="refined before; weights apply once"):
        posterior.refine(refined, likelihood)
    beside = xr.DataTree.from_dict({**{f"/{k}": v.to_dataset() for k, v in draws.children.items()},
                                    "/predictions": xr.Dataset()})  # fmt: skip
    with pytest.raises(ValueError, match=r"the draws hold \['predictions'\].* Sample with at=\{\}"):
        posterior.refine(beside, likelihood)
    with pytest.raises(ValueError, match="not conditioned on these readings of 'y'"):
        posterior.joint.condition({"y": Y + 1}).refine(draws, likelihood)
    with pytest.raises(ValueError, match=r"as a DataArray \(chain, draw\), got ndarray"):
        posterior.refine(draws, lambda d: likelihood(d).to_numpy())  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="100 of 100 log likelihoods are NaN"):
        posterior.refine(draws, lambda d: likelihood(d) * np.nan)
    with pytest.raises(ValueError, match=r"a log likelihood for each \(chain, draw\), .* got \(2, 1\)"):
        posterior.refine(draws, lambda d: likelihood(d).isel(draw=[0]))
    with pytest.raises(ValueError, match="an even number of draws >= 2 .two chains., got 3"):
        posterior.refine(draws, likelihood, 3)
    with pytest.raises(KeyError, match="no group 'posterior' or 'prior'"):
        posterior.refine(xr.DataTree.from_dict({"/observed_data": xr.Dataset()}), likelihood)
    with pytest.raises(ValueError, match="got an empty one"):
        posterior.log_prob(xr.DataTree.from_dict({"/posterior": xr.Dataset()}))
    many = replace(posterior, labels=xr.DataArray([0]), batch_dim="region")
    with pytest.raises(ValueError, match="take one data set"):
        many.log_prob(draws)


TIMES = torch.linspace(0, 10, 101, dtype=torch.float64)


@dataclass(frozen=True)
class Decay:
    """level = 100 exp(−rate t), log-normal noise of unknown sd; drift = −rate t, normal noise."""

    schema = fsf.Schema(
        (
            fsf.Variable("rate", "parameter", prior=fsf.LogNormal(-1.0, 0.5)),
            fsf.Variable("sd", "parameter", prior=fsf.LogNormal(-2.0, 0.5)),
            fsf.Variable("level", "data", ("time",), support=fsf.POSITIVE, noise=fsf.Noise("lognormal", "sd")),
            fsf.Variable("drift", "data", ("time",), noise=fsf.Noise("normal", 0.2)),
        ),
        (fsf.Index("time", 0.0, 10.0),),
    )

    grid = {"time": TIMES}  # noqa: RUF012

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        raise NotImplementedError

    def clean(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        drift = -parameters["rate"][:, None] * TIMES
        return {"level": 100 * drift.exp(), "drift": torch.where(drift < -30, torch.nan, drift)}


@pytest.mark.parametrize("known_sd", [None, 0.3])
def test_the_explicit_likelihood_is_the_product_over_the_readings(known_sd: float | None) -> None:
    t_level, t_drift = np.array([0.33, 4.0, 9.71]), np.array([7.77, 1.0])
    level, drift = np.array([80.0, 30.0, 3.0]), np.array([-2.0, -0.5])
    observed = xr.Dataset(
        {"level": ("time_level", np.r_[level, np.nan]), "drift": ("time_drift", drift)},
        {"time_level": np.r_[t_level, 5.0], "time_drift": t_drift},
    )
    g = seeded(1)
    rate, sd = (torch.rand(2, 4, generator=g, dtype=torch.float64).numpy() + 0.1 for _ in "ab")
    rate[1, 3] = 5.0  # its path fails
    draws = xr.Dataset({"rate": (("draw", "chain"), rate.T), "sd": (("chain", "draw"), sd)})
    if known_sd is not None:
        observed["sd"], draws, sd = known_sd, draws.drop_vars("sd"), np.full((2, 4), known_sd)
    got = fsf.log_likelihood(cast(Any, Decay()), observed)(draws)
    clean = 100 * np.exp(-rate[..., None] * t_level)
    expected = stats.lognorm.logpdf(level, sd[..., None], scale=clean).sum(-1)
    expected += stats.norm.logpdf(drift, -rate[..., None] * t_drift, 0.2).sum(-1)
    expected[1, 3] = -np.inf
    np.testing.assert_allclose(got.to_numpy(), expected, rtol=1e-6)


def at(time: float, value: float = 3.0) -> xr.DataArray:
    return xr.DataArray([value], {"time": [time]}, "time")


def test_an_explicit_likelihood_that_cannot_be_is_refused() -> None:
    with pytest.raises(TypeError, match="paths=f.; this FunctionSimulator has none"):
        fsf.log_likelihood(cast(Any, fsf.simulators.two_moons()), None)
    with pytest.raises(TypeError, match="made without `paths`"):
        fsf.simulators.two_moons().clean({})
    with pytest.raises(ValueError, match="the observation holds no readings of a series"):
        fsf.log_likelihood(cast(Any, Decay()), {"sd": 0.3})
    with (
        pytest.warns(ObservationWarning),
        pytest.raises(ValueError, match=r"1 readings of 'level' lie outside .*0, 10"),
    ):
        fsf.log_likelihood(cast(Any, Decay()), {"level": at(10.5)})
    of = fsf.log_likelihood(cast(Any, Decay()), {"level": at(1.0), "sd": np.nan})
    with pytest.raises(ValueError, match=r"the draws lack \['sd'\]"):
        of(xr.Dataset({"rate": (("chain", "draw"), np.ones((2, 2)))}))


def test_observed_data_outside_the_likelihood_are_refused() -> None:
    """What the network was conditioned on and the likelihood would leave out."""
    schema = fsf.Schema(
        (*Decay.schema.variables, fsf.Variable("total", "data"), fsf.Variable("v", "data", ("part",))),
        (*Decay.schema.dims, fsf.Components("part", 2)),
    )
    simulator = fsf.simulators.FunctionSimulator(schema, lambda n, g: {}, {"time": TIMES}, paths=Decay().clean)
    for more in ({"total": 9.0}, {"v": xr.DataArray([1.0, 2.0], dims="part")}):
        with pytest.raises(ValueError, match="expected observed series with a Noise on one index dim, .* are not"):
            fsf.log_likelihood(simulator, {"level": at(1.0)} | more)
    draws = xr.Dataset({"rate": (("chain", "draw"), [[0.2], [0.3]]), "sd": (("chain", "draw"), [[0.2], [0.3]])})
    own = fsf.log_likelihood(cast(Any, Decay()), {"level": at(1.0)})(draws)
    assert fsf.log_likelihood(simulator, {"level": at(1.0)})(draws).identical(own)


def test_shipped_simulators_give_the_paths_of_their_own_draws() -> None:
    for simulator in (fsf.simulators.LotkaVolterra(), fsf.simulators.HareLynx()):
        draws = simulator.simulate(3, seeded(5))
        for name, path in simulator.clean(draws).items():
            assert torch.equal(path, draws[name])
