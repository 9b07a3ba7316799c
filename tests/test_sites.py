"""Sites of traced programs as a schema, without any library that traces them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

import fsimformer as fsf
from fsimformer.numpyro import from_numpyro
from fsimformer.priors import POSITIVE, REAL, Support
from fsimformer.pyro_priors import prior_of, support_of
from fsimformer.sites import Site, ancestors, data_sites, inside, integrate_out, schema_of


def site(name: str, shape: tuple[int, ...] = (), plate: str | None = None, observed: bool = False) -> Site:
    return Site(name, shape, len(shape) if plate else 0, {-1: plate} if plate else {}, None, observed)


def law(kind: str, **numbers: Any) -> Any:
    """A distribution as both libraries name it: a class and its numbers."""
    return type(kind, (), numbers)()


def test_a_graph_without_a_site_is_the_marginal_one() -> None:
    """z -> a, b; u -> a: without z, b hangs on a and on all that a hangs on."""
    parents = {"u": [], "z": [], "a": ["u", "z"], "b": ["z"], "x": ["b"]}
    assert ancestors(parents, "x") == {"b", "z"}
    assert integrate_out(parents, ["z"]) == {"a", "b"}
    assert parents == {"u": [], "a": ["u"], "b": ["u", "a"], "x": ["b"]}


def test_plates_are_dims_and_blocks() -> None:
    sites = {
        "mu": site("mu"), "theta": site("theta", (4,), "school"), "y": site("y", (4,), "school", True),
        "w": site("w", (2, 3)),
    }  # fmt: skip
    parents = {"mu": [], "theta": ["mu"], "y": ["theta"], "w": ["mu"]}
    laws = {"mu": fsf.Normal(0.0, 5.0)}
    data = data_sites("here", sites, (), ())
    assert data == {"y"}
    schema = schema_of(sites, parents, data, set(), lambda s: laws.get(s.name), lambda s, role: REAL)
    assert schema.dims == (fsf.Components("school", 4), fsf.Components("w_dim", 6))
    assert (schema["y"].role, schema["y"].blocks, schema["y"].blockwise) == ("data", 4, ("theta",))
    assert schema["mu"].prior == laws["mu"] and schema["w"].blocks == 1 and schema["theta"].blockwise == ()
    joined = schema_of(sites, parents, data, {"y"}, lambda s: laws.get(s.name), lambda s, role: REAL)
    assert joined["y"].blocks == 1 and joined["y"].blockwise == ()  # whose parts hang together


def test_data_and_latents_are_told_apart_or_refused() -> None:
    sites = {"a": site("a"), "x": site("x")}
    assert data_sites("here", sites, ["x"], []) == {"x"}
    for data, out, message in ((["x"], ["x"], r"here: \['x'\] are data"), ([], [], "expected latent and observed")):
        with pytest.raises(ValueError, match=message):
            data_sites("here", sites, data, out)


def test_what_rounding_put_on_an_end_goes_inside() -> None:
    x = inside(Support(0.0, 1.0), torch.tensor([0.0, 0.5, 1.0, torch.nan, torch.inf]))
    assert x.dtype == torch.float64 and 0 < x[0] < 1e-30 and x[1] == 0.5 and 1 - 1e-6 < x[2] < 1
    assert bool(x[3].isnan()) and bool(x[4].isinf())


def test_families_are_known_by_name_and_by_equal_numbers() -> None:
    for fn, expected in (
        (law("Normal", loc=1.0, scale=np.float32(2.0)), fsf.Normal(1, 2)),
        (law("Normal", loc=np.zeros(3), scale=2.0), fsf.Normal(0, 2)),
        (law("Normal", loc=np.arange(3.0), scale=2.0), None),
        (law("LogUniform", low=0.5, high=8.0), fsf.LogUniform(0.5, 8)),
        (law("ExpandedDistribution", base_dist=law("Uniform", low=0.0, high=2.0)), fsf.Uniform(0, 2)),
        (
            law("LeftTruncatedDistribution", base_dist=law("Normal", loc=1.0, scale=2.0), low=-1.0),
            fsf.TruncatedNormal(1, 2, -1),
        ),
        (law("LeftTruncatedDistribution", base_dist=law("Cauchy", loc=1.0, scale=2.0), low=-1.0), None),
        (law("Gamma", concentration=2.0, rate=1.0), None),
    ):
        assert prior_of(fn) == expected


@dataclass
class Ends:
    """A constraint."""

    is_discrete: bool = False
    lower_bound: Any = None
    upper_bound: Any = None


@dataclass
class Drawn:
    support: Any = field(default_factory=Ends)


def test_a_support_holds_in_every_run() -> None:
    def found(*ends: Ends, role: str = "parameter") -> Support:
        return support_of("here", "x", ["x"], [{"x": {"fn": Drawn(e)}} for e in ends], role)

    assert found(Ends(lower_bound=0.0), Ends(lower_bound=np.zeros(3))) == POSITIVE
    assert found(Ends(lower_bound=0, upper_bound=1.0), Ends(lower_bound=0, upper_bound=2.0)) == POSITIVE
    assert found(Ends(lower_bound=1.0), Ends(lower_bound=2.0)) == REAL
    assert found(Ends(is_discrete=True), role="data") == REAL
    for ends, message in (
        (Ends(is_discrete=True), "here: the latent site 'x' is discrete"),
        (Ends(), "expected numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            found(ends)


def test_without_numpyro_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpyro", None)
    with pytest.raises(ImportError, match=r"pip install 'fsimformer\[numpyro\]'"):
        from_numpyro(lambda: None)
