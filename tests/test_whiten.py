"""Whitening: inverse, Jacobian, densities and draws against closed forms."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats as ss
import torch
from torch import Tensor

from fsimformer.convert import drawn_values, observed_tokens, query, read, to_tree
from fsimformer.priors import (
    POSITIVE,
    REAL,
    LogitNormal,
    LogNormal,
    LogUniform,
    Normal,
    Support,
    TruncatedNormal,
    Uniform,
)
from fsimformer.schema import Components, Index, Noise, Schema, Variable
from fsimformer.whiten import (
    Standardise,
    Transform,
    Whitening,
    fit_standardise,
    prior_from_z,
    prior_log_prob,
    prior_to_z,
)


def logit_normal(loc: float, scale: float, lower: float, upper: float) -> Any:
    """scipy has no logit-normal: cdf and log density from its definition."""

    class Law:
        def cdf(self, x: Any) -> Any:
            p = ((x - lower) / (upper - lower)).clip(1e-300, 1 - 1e-16)
            return ss.norm(loc, scale).cdf(np.log(p / (1 - p)))

        def logpdf(self, x: Any) -> Any:
            p = (x - lower) / (upper - lower)
            return ss.norm(loc, scale).logpdf(np.log(p / (1 - p))) - np.log(p * (1 - p) * (upper - lower))

    return Law()


PRIORS = {
    "normal": (Normal(3.0, 0.2), ss.norm(3.0, 0.2)),
    "lognormal": (LogNormal(-1.0, 0.5), ss.lognorm(0.5, scale=math.exp(-1.0))),
    "uniform": (Uniform(-2.0, 5.0), ss.uniform(-2.0, 7.0)),
    "logitnormal": (LogitNormal(0.5, 1.3, -1.0, 2.0), logit_normal(0.5, 1.3, -1.0, 2.0)),
    "loguniform": (LogUniform(1e-7, 1e-3), ss.loguniform(1e-7, 1e-3)),
    "half": (TruncatedNormal(0.0, 2.0, 0.0), ss.halfnorm(0.0, 2.0)),
    "truncated": (TruncatedNormal(1.0, 0.5, 0.0), ss.truncnorm(-2.0, np.inf, 1.0, 0.5)),
    "tail": (TruncatedNormal(-3.0, 0.5, 0.0), ss.truncnorm(6.0, np.inf, -3.0, 0.5)),  # only the far tail is left
    "hardly": (TruncatedNormal(8.0, 1.0, 0.0), ss.truncnorm(-8.0, np.inf, 8.0, 1.0)),
}
TRANSFORMS = {
    **{k: Transform(p, p.support) for k, (p, _) in PRIORS.items()},
    "real": Transform(None, REAL, Standardise(3.0, 0.2)),
    "real with tails": Transform(None, REAL, Standardise(3.0, 0.2, 3.0)),
    "positive": Transform(None, POSITIVE, Standardise(-1.0, 0.7)),
    "positive with tails": Transform(None, Support(2.0), Standardise(-1.0, 0.3, 3.0)),
    "interval": Transform(None, Support(-1.0, 4.0), Standardise(0.5, 1.2)),
    "interval with tails": Transform(None, Support(0.0, 1.0), Standardise(0.5, 0.4, 2.0)),
}
everyone = pytest.mark.parametrize("name", TRANSFORMS)


@everyone
def test_inverse_after_forward_is_the_identity_far_into_the_tails(name: str) -> None:
    t = TRANSFORMS[name]
    z = torch.linspace(-6, 6, 241, dtype=torch.float64)
    x = t.inverse(z)
    assert bool((x.diff() > 0).all())
    assert t.support.contains(x.numpy()).all()
    # dz = dx/(dx/dz), and dx is at best the float64 spacing at x (a few times over)
    spacing = 2e-15 * (1 + x.abs()) / t.log_det(z).exp()
    assert bool(((t.forward(x) - z).abs() <= 1e-9 + spacing).all())
    torch.testing.assert_close(t.inverse(t.forward(x)), x, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", ["normal", "lognormal", "half", "truncated", "tail", "hardly", "real", "positive"])
def test_the_open_upper_tail_keeps_its_precision(name: str) -> None:
    z = torch.linspace(6, 30, 49, dtype=torch.float64)
    t = TRANSFORMS[name]
    torch.testing.assert_close(t.forward(t.inverse(z)), z, rtol=1e-9, atol=0)


@everyone
def test_log_det_is_that_of_autograd(name: str) -> None:
    t = TRANSFORMS[name]
    z = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(t.inverse(z).sum(), z)
    torch.testing.assert_close(t.log_det(z.detach()), slope.log(), rtol=0, atol=1e-6)
    inner = slice(8, -8)  # |z| <= 3: nothing cancels
    torch.testing.assert_close(t.log_det(z.detach())[inner], slope.log()[inner], rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_log_density_is_scipys(name: str) -> None:
    prior, law = PRIORS[name]
    x = prior_from_z(prior, torch.linspace(-3.5, 3.5, 29, dtype=torch.float64))
    np.testing.assert_allclose(prior_log_prob(prior, x), law.logpdf(x.numpy()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", PRIORS)
def test_whitened_value_is_the_normal_quantile_of_scipys_cdf(name: str) -> None:
    prior, law = PRIORS[name]
    x = prior_from_z(prior, torch.linspace(-3.5, 3.5, 29, dtype=torch.float64))
    np.testing.assert_allclose(prior_to_z(prior, x), ss.norm.ppf(law.cdf(x.numpy())), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", PRIORS)
def test_draws_follow_scipys_cdf_and_a_shifted_law_is_rejected(name: str) -> None:
    prior, law = PRIORS[name]
    generator = torch.Generator().manual_seed(0)
    x = prior_from_z(prior, torch.randn(4000, generator=generator, dtype=torch.float64)).numpy()
    assert ss.kstest(x, law.cdf).pvalue > 0.01
    assert ss.kstest(x + 0.2 * x.std(), law.cdf).pvalue < 1e-4


@pytest.mark.parametrize("name", [k for k in TRANSFORMS if not math.isinf(TRANSFORMS[k].support.lower)])
@pytest.mark.parametrize("far", [9.0, 40.0])
def test_no_z_leaves_the_support(name: str, far: float) -> None:
    """A network may say anything; what comes home must be allowed to come in again."""
    t = TRANSFORMS[name]
    x = t.inverse(torch.tensor([-far, far], dtype=torch.float64))
    assert t.support.contains(x.numpy()).all()


def test_standardise_is_linear_inside_and_logarithmic_outside() -> None:
    s = Standardise(10.0, 2.0, tail=3.0)
    near = torch.tensor([10.0, 10.02], dtype=torch.float64)
    torch.testing.assert_close(s.forward(near), (near - 10) / 2, rtol=1e-5, atol=0)
    far = torch.tensor([1e4, 1e5, 1e6], dtype=torch.float64)
    steps = s.forward(far).diff()  # tail · log(10) a decade
    torch.testing.assert_close(steps, torch.full_like(steps, 3 * math.log(10)), rtol=1e-3, atol=0)


def gaussian(n: int = 20_000) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_fit_is_mean_and_sd_where_tails_are_light() -> None:
    s = fit_standardise(5 + 3 * gaussian())
    assert s.tail is None
    assert s.loc == pytest.approx(5, abs=0.1) and s.scale == pytest.approx(3, abs=0.1)


def test_fit_ignores_what_is_not_finite() -> None:
    y = 5 + 3 * gaussian()
    bad = torch.cat([y, torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)])
    assert fit_standardise(bad) == fit_standardise(y)
    assert fit_standardise(torch.full((4,), torch.nan)) == Standardise()
    assert fit_standardise(torch.full((4,), 7.0)) == Standardise(7.0, 1.0)
    assert fit_standardise(torch.tensor([7.0])) == Standardise(7.0, 1.0)


def test_fit_lets_no_wild_simulation_flatten_the_others() -> None:
    y = gaussian()
    y[:40] *= 1e6
    s = fit_standardise(y)
    assert s.tail is not None
    assert float(s.forward(y[40:]).std()) == pytest.approx(0.93, abs=0.1)  # asinh takes a little
    assert float(s.forward(y).abs().max()) < 50


def test_fit_keeps_the_measurement_noise_visible() -> None:
    s = fit_standardise(100 * gaussian(), noise_sd=0.5)
    assert 0.5 / s.scale == pytest.approx(1 / 50)
    assert fit_standardise(10 * gaussian(), noise_sd=0.5).tail is None


def test_whitening_fits_what_has_no_prior_and_makes_the_json_round_trip() -> None:
    schema = Schema(
        (
            Variable("a", "parameter", prior=Uniform(0, 2)),
            Variable("b", "data", support=POSITIVE),
            Variable("c", "data", support=Support(0, 1)),
        )
    )
    z = gaussian()
    w = Whitening.fit(schema, {"a": z, "b": (1 + 0.5 * z).exp(), "c": torch.sigmoid(2 * z)})
    torch.testing.assert_close(w["b"].forward((1 + 0.5 * z).exp()), (z - z.mean()) / z.std())
    torch.testing.assert_close(w["c"].forward(torch.sigmoid(2 * z)), (z - z.mean()) / z.std())
    assert w["a"] == Transform(Uniform(0, 2), Support(0, 2))
    assert Whitening.from_dict(schema, w.to_dict()) == w
    with pytest.raises(ValueError, match=r"Whitening: expected entries for \['b', 'c'\], got \['b'\]"):
        Whitening.from_dict(schema, {"b": w.to_dict()["b"]})


COUNTS = Schema((Variable("x", "data", ("n",), support=POSITIVE), Variable("s", "data")), (Components("n", 3),))


def counts() -> Tensor:
    """A vector whose components differ in place and scale, by whole orders."""
    return (torch.stack([gaussian(), 0.1 * gaussian().flip(0) + 5, 2 * gaussian() - 3], 1)).exp()


def test_components_are_whitened_one_by_one_forth_back_and_in_the_jacobian() -> None:
    x = counts()
    w = Whitening.fit(COUNTS, {"x": x, "s": gaussian()})
    z = w.forward("x", x, np.arange(3))
    torch.testing.assert_close(z.mean(0), torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.std(0), torch.ones(3, dtype=torch.float64))
    some = torch.tensor([2, 0, 2])  # tokens in any order, components more than once
    torch.testing.assert_close(w.forward("x", x[:, some], some), z[:, some], rtol=0, atol=0)
    torch.testing.assert_close(w.inverse("x", z[:, some], some), x[:, some])
    at = z[:5, some].clone().requires_grad_()
    (slope,) = torch.autograd.grad(w.inverse("x", at, some).sum(), at)
    torch.testing.assert_close(w.log_det("x", at.detach(), some), slope.log())
    for c in range(3):
        torch.testing.assert_close(w.part("x", c).forward(x[:, c]), z[:, c], rtol=0, atol=0)
    assert Whitening.from_dict(COUNTS, json.loads(json.dumps(w.to_dict()))) == w
    with pytest.raises(TypeError, match=r"Whitening of 'x': its 3 components have a transform each; use part\(\)"):
        w["x"]


def test_components_keep_their_whitening_from_the_data_to_the_draws() -> None:
    """What is observed and what is drawn pass the same maps: tokens sent home as draws are the observation."""
    x = counts()
    w = Whitening.fit(COUNTS, {"x": x, "s": gaussian()})
    seen = x[0].tolist()
    z = observed_tokens(COUNTS, w, read(COUNTS, {"x": seen})).value.double()
    torch.testing.assert_close(z, w.forward("x", x[0], torch.arange(3)), rtol=0, atol=1e-6)
    nothing = read(COUNTS, None)
    asked = query(COUNTS, nothing, {"x": None})
    tree = to_tree(COUNTS, w, nothing, asked, torch.stack([z, z]), {})
    np.testing.assert_allclose(tree["predictions"]["x"].values.reshape(2, 3), [seen, seen], rtol=1e-6)
    back, log_det = drawn_values(COUNTS, w, asked, tree["predictions"].to_dataset())
    torch.testing.assert_close(back, torch.stack([z, z]), rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, w.log_det("x", back, torch.arange(3)).sum(1))


def test_one_entry_for_all_components_is_read_and_a_wrong_number_refused() -> None:
    one = {"loc": 1.0, "scale": 2.0, "tail": None}
    w = Whitening.from_dict(COUNTS, {"x": one, "s": one})
    assert w["x"] == Transform(None, POSITIVE, Standardise(1.0, 2.0)) == w.part("x", 2)
    for name, entries in (("x", [one] * 2), ("s", [one])):
        with pytest.raises(
            ValueError, match=rf"Whitening of '{name}': expected [13] component\(s\), got {len(entries)}"
        ):
            Whitening.from_dict(COUNTS, {"x": one, "s": one, name: entries})


def test_whitening_takes_the_noise_of_a_series_into_account() -> None:
    schema = Schema((Variable("y", "data", ("t",), noise=Noise("normal", 0.01)),), (Index("t", 0, 1),))
    assert Whitening.fit(schema, {"y": gaussian().view(-1, 4)})["y"].standardise.scale == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"k": torch.full((50,), 3.0)},
            "The parameter 'k' is 3 in all 50 simulations: a constant is not to be inferred",
        ),
        ({"f": torch.zeros(50, 4)}, "The parameter 'f' is 0 in all 50"),
        ({"w": torch.stack([torch.rand(50), torch.ones(50)], 1)}, "The parameter component 1 of 'w' is 1 in all 50"),
        ({"k": torch.full((50,), 3.0).index_fill(0, torch.tensor([4]), torch.nan)}, "The parameter 'k' is 3"),
    ],
)
def test_a_parameter_that_never_changes_is_named(changes: dict[str, Tensor], message: str) -> None:
    schema = Schema(
        (
            Variable("k", "parameter", prior=Uniform(0, 5)),
            Variable("f", "parameter", ("time",)),
            Variable("w", "parameter", ("part",)),
            Variable("x", "data"),
        ),
        (Index("time", 0, 1), Components("part", 2)),
    )
    g = torch.Generator().manual_seed(0)
    started = torch.cat([torch.zeros(50, 1), torch.rand(50, 3, generator=g)], 1)  # every path starts at 0: no constant
    draws = {"k": torch.rand(50, generator=g), "f": started, "w": torch.rand(50, 2, generator=g), "x": torch.zeros(50)}
    Whitening.fit(schema, draws)
    with pytest.raises(ValueError, match=message):
        Whitening.fit(schema, draws | changes)
