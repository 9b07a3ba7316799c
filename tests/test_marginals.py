"""Quantiles without draws: closed forms, the sampler's own paths, and a law that is not normal."""

from __future__ import annotations

from dataclasses import replace

import linear
import numpy as np
import pytest
import tiny
import torch
import xarray as xr
from scipy.special import ndtri
from scipy.stats import nbinom, norm

import fsimformer as fsf
from fsimformer.convert import observed_tokens, query_tokens, read
from fsimformer.marginals import Fitted, fitted_flow, flow, marginal_quantiles
from fsimformer.model_file import Model
from fsimformer.noise import WhiteNoise
from fsimformer.points import Observation
from fsimformer.query import query
from fsimformer.sample import QUALITY, SamplerConfig
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.stages import Budget, draw
from fsimformer.whiten import Standardise, Transform, Whitening

P = [0.05, 0.25, 0.5, 0.75, 0.95]
AT = {"f": [1.0, 4.0, 9.0], "x": [2.0, 5.0], "y": None}
SEEN = xr.Dataset({"x": ("time", [0.8, -0.3, 1.1])}, {"time": [2.0, 5.0, 5.5]})


def closed_form() -> dict[str, np.ndarray]:
    """Quantiles of `AT` given `SEEN`, of tests/linear.py's Gaussian."""
    phi = linear.loading(torch.tensor(SEEN["time"].to_numpy())).numpy()
    precision = np.eye(linear.RANK) + phi.T @ phi / linear.NOISE**2
    mean = np.linalg.solve(precision, phi.T @ SEEN["x"].to_numpy() / linear.NOISE**2)
    one = np.eye(linear.RANK)[:1]
    rows = {"a": (one, 0.0), "y": (one, linear.Y_NOISE)}
    rows |= {k: (linear.loading(torch.tensor(AT[k])).numpy(), linear.NOISE * (k == "x")) for k in ("f", "x")}
    out = {}
    for name, (row, noise) in rows.items():
        sd = np.sqrt((row * np.linalg.solve(precision, row.T).T).sum(1) + noise**2)
        out[name] = row @ mean + sd * ndtri(P)[:, None]
    return out


def asked(model: Model) -> tuple[Observation, dict[str, object]]:
    found = linear.joint().condition(SEEN).observations[0]
    return found, {"query": query(model.schema, found, AT), "probabilities": P, "dial": 0}


FROM_THE_TOP = SamplerConfig("rk4", 24, power=5.0, log_min=-6.9, log_max=8.0)  # starts at 0, not at m: m·s/λ is lost


@pytest.mark.parametrize("solver", [Fitted(1), Fitted(6), FROM_THE_TOP], ids=["one step", "six steps", "from the top"])
def test_of_an_exact_network_are_the_closed_form(solver: Fitted | SamplerConfig) -> None:
    model = linear.joint().model
    observation, rest = asked(model)
    found = marginal_quantiles(model, observation, solver=solver, **rest)
    for name, expected in closed_form().items():
        np.testing.assert_allclose(found[name], expected, atol=5e-3, err_msg=name)


def test_of_a_network_that_is_too_sure_are_too_close() -> None:
    model = linear.joint(noise=0.5).model
    observation, rest = asked(model)
    found = marginal_quantiles(model, observation, solver=Fitted(6), **rest)["x"]
    expected = closed_form()["x"]
    assert ((found[4] - found[0]) < 0.8 * (expected[4] - expected[0])).all()


def test_readings_of_a_series_with_a_path_have_its_noise() -> None:
    model = linear.joint().model
    variables = tuple(replace(v, path_of="x", reference=(9,)) if v.name == "f" else v for v in model.schema.variables)
    observation, rest = asked(model)
    pathed = replace(model, schema=Schema(variables, model.schema.dims))
    found = marginal_quantiles(pathed, observation, solver=Fitted(6), **rest)["x"]
    np.testing.assert_allclose(found, closed_form()["x"], atol=0.03)  # 32 nodes each cut the outermost tails


def test_readings_that_are_counts_have_the_quantiles_of_counts_about_their_path() -> None:
    """Whole numbers, zeros among them; a log-normal reading of the same path would be spread about as wide and never 0.

    Nothing is observed, so that the path's marginal is N(0, Σφ²), and the counts are about e^f − 1.
    """
    model = linear.joint().model
    counted = {"support": fsf.COUNTS, "noise": fsf.Noise("negbinomial", 0.5)}
    change: dict[str, dict[str, object]] = {
        "f": {"support": fsf.COUNTS, "path_of": "x", "reference": (9,)},
        "x": counted,
    }
    variables = tuple(replace(v, **change.get(v.name, {})) for v in model.schema.variables)
    log = Transform(None, fsf.COUNTS, Standardise())
    whitening = Whitening({**model.whitening.transforms, "f": log, "x": log})
    pathed = replace(model, schema=Schema(variables, model.schema.dims), whitening=whitening)
    observation = read(pathed.schema, None)
    asked = query(pathed.schema, observation, {"x": [2.0, 5.0]})
    found = marginal_quantiles(pathed, observation, asked, P, Fitted(6), 0)["x"]
    assert (found == np.round(found)).all() and found.min() == 0
    phi = linear.loading(torch.tensor([2.0, 5.0])).numpy()
    for k, sd in enumerate(np.sqrt((phi**2).sum(1))):
        means = np.expm1(sd * ndtri((np.arange(2_000) + 0.5) / 2_000)).clip(1e-12)
        law = nbinom(4.0, 4.0 / (4.0 + means))
        below, at = (law.cdf(x[:, None]).mean(1) for x in (found[:, k] - 1, found[:, k]))
        assert (below < np.add(P, 0.02)).all() and (at > np.subtract(P, 0.02)).all()


@pytest.mark.parametrize("dial", [0, 2, "few"])
def test_follow_the_paths_of_the_sampler(dial: int | str) -> None:
    """A draw of one latent alone is the flow of its own noise."""
    joint = tiny.joint()
    schema, denoiser = joint.schema, joint.model.denoiser
    seen = xr.Dataset({"y": ("time", [1.0, 2.5, 0.7])}, {"time": [1.0, 8.0, 19.0]})
    observation = joint.condition(seen).observations[0]
    observed = observed_tokens(schema, joint.model.whitening, observation)
    config, is_function = QUALITY["exact"], torch.from_numpy(schema.uses_index().any(axis=1))
    both = query_tokens(schema, query(schema, observation, {"rate": [3.0, 12.0]}))
    each = []
    for i in range(len(both)):
        one = tiny.TokenSet(*(getattr(both, k)[i : i + 1] for k in ("variable", "index", "value", "condition_mask")))
        z = draw(denoiser, [observed], [one], is_function, 6, config, 3, dial, Budget())[0]
        u = WhiteNoise().sample(one.index, 6, generator_at(3, 4, 0, 0))[:, 0]
        each.append(z)
        torch.testing.assert_close(flow(denoiser, observed, one, u, config, dial), z, atol=1e-5, rtol=1e-5)
    u = WhiteNoise().sample(both.index[:1], 6, generator_at(3, 4, 0, 0))[:, 0]
    torch.testing.assert_close(
        flow(denoiser, observed, both, u, config, dial)[:, 0], each[0][:, 0], atol=1e-5, rtol=1e-5
    )


def two_bumps(y: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """x̂ of .7 N(0, .1²) + .3 N(.5, .2²), exact."""
    weight, mean, var = (torch.tensor(v, dtype=y.dtype) for v in ([0.7, 0.3], [0.0, 0.5], [0.01, 0.04]))
    total = var + ratio[:, None, None] ** 2
    share = torch.softmax(weight.log() - 0.5 * total.log() - (y[..., None] - mean) ** 2 / (2 * total), -1)
    return (share * (mean + var / total * (y[..., None] - mean))).sum(-1)


def test_of_a_law_that_is_not_normal_converge() -> None:
    x = np.linspace(-1, 2, 300_001)
    cdf = 0.7 * norm.cdf(x, 0, 0.1) + 0.3 * norm.cdf(x, 0.5, 0.2)
    exact = np.interp(P, cdf, x)
    u = torch.special.ndtri(torch.tensor(P, dtype=torch.float64))
    error = [
        np.abs(fitted_flow(two_bumps, 1, u, Fitted(n, start=1e4, stop=0.003))[0].numpy() - exact).max()
        for n in (50, 100, 800)
    ]
    assert error[2] < 1e-4 < error[0]
    assert 3 < error[0] / error[1] < 5.5  # order 2
    quick = fitted_flow(two_bumps, 1, u, Fitted())[0].numpy()
    assert np.abs(quick - exact).max() < 0.03  # the law's sd is .27
    normal = 0.15 + 0.27 * ndtri(P)
    assert np.abs(quick - exact).max() < np.abs(normal - exact).max() / 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"probabilities": [0.0, 0.5]}, "expected numbers in"),
        ({"solver": QUALITY["sde"]}, "probability-flow ODE"),
        ({"query": query(linear.SCHEMA, linear.joint().condition({"a": 1.0}).observations[0], {})}, "nothing is asked"),
    ],
)
def test_mistakes_are_named(changed: dict[str, object], message: str) -> None:
    model = linear.joint().model
    observation, rest = asked(model)
    with pytest.raises(ValueError, match=message):
        marginal_quantiles(model, observation, **({"solver": Fitted()} | rest | changed))


def test_steps_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < stop < start"):
        Fitted(stop=9.0)
