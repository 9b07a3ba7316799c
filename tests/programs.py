"""Truths of three probabilistic programs, whoever traces them: test_pyro.py and test_numpyro.py write each of them.

schools: mu ~ N(1, 5²), tau ~ HalfNormal(3), theta_j ~ N(mu, tau²), y_j ~ N(theta_j, 2²), four schools in a plate.
chain: supports and parents that depend on other sites; first, second and third are data.
mixture: kind ~ Bernoulli(weight) stands above a ~ N(2 kind, 1) and b ~ N(−kind, 1), and is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from tiny import seeded
from torch import Tensor

import fsimformer as fsf
from fsimformer.graph import moral_graph
from fsimformer.schema import Schema
from fsimformer.simulators import FunctionSimulator, check


def require_schools(simulator: FunctionSimulator) -> None:
    """Sites, plates and parents are the schema."""
    check(simulator)
    schema = simulator.schema
    assert schema.dims == (fsf.Components("school", 4),)
    assert {v.name: (v.role, v.dims, v.prior, v.parents) for v in schema.variables} == {
        "mu": ("parameter", (), fsf.Normal(1, 5), ()),
        "tau": ("parameter", (), fsf.TruncatedNormal(0, 3, 0), ()),
        "theta": ("parameter", ("school",), None, ("mu", "tau")),
        "y": ("data", ("school",), None, ("theta",)),
    }
    assert (schema["theta"].blocks, schema["y"].blocks, schema["y"].blockwise) == (4, 4, ("theta",))
    graph = moral_graph(schema)
    first, second = schema.ids("theta")[0], schema.ids("y")[1]
    assert graph[schema.ids("y")[0], first] and not graph[second, first]


def require_moments_of_schools(drawn: dict[str, Tensor], n: int) -> None:
    """What is standard normal has mean 0 and variance 1, schools are independent, E tau² = 9."""
    assert {k: tuple(x.shape) for k, x in drawn.items()} == {
        "mu": (n,), "tau": (n,), "theta": (n, 4), "y": (n, 4),
    }  # fmt: skip
    z = (drawn["theta"] - drawn["mu"][:, None]) / drawn["tau"][:, None]
    e = (drawn["y"] - drawn["theta"]) / 2.0
    for x in ((drawn["mu"] - 1.0) / 5.0, z, e):
        assert abs(float(x.mean())) < 4 / x.numel() ** 0.5
        assert abs(float(x.var()) - 1.0) < 4 * (2 / x.numel()) ** 0.5
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 4 / n**0.5
    assert abs(float((drawn["tau"] ** 2).mean()) - 9.0) < 4 * 9 * (2 / n) ** 0.5


def require_data_at_parameters_of_schools(simulator: FunctionSimulator) -> None:
    """Data alone are drawn anew, about the parameters that are given."""
    assert simulator.simulate_at is not None
    n = 400
    theta = torch.arange(4.0, dtype=torch.float64).expand(n, 4)
    drawn = simulator.simulate_at({"mu": torch.zeros(n), "tau": torch.ones(n), "theta": theta}, seeded())
    assert list(drawn) == ["y"]
    np.testing.assert_allclose((drawn["y"] - theta).mean(0), 0, atol=4 * 2 / n**0.5)
    np.testing.assert_allclose(drawn["y"].std(0), 2, atol=4 * 2 / (2 * n) ** 0.5)


def require_chain(schema: Schema) -> None:
    """A support whose end moves has none there; a parent of a parent is not one."""
    assert {v.name: v.parents for v in schema.variables} == {
        "top": (), "part": ("top",), "both": ("top",), "share": (), "first": ("part", "share"),
        "second": ("both", "first"), "third": ("top", "second"),
    }  # fmt: skip
    supports = {
        k: (schema[k].support.lower, schema[k].support.upper) for k in ("top", "part", "both", "share", "second")
    }
    inf = float("inf")
    assert supports == {"top": (0, inf), "part": (0, inf), "both": (-inf, inf), "share": (0, 1), "second": (-inf, inf)}
    assert schema["third"].dims == ("third_dim",) and schema["third"].blocks == 1


def require_mixture(simulator: FunctionSimulator) -> None:
    """Children of a site that is integrated out hang together."""
    check(simulator)
    schema = simulator.schema
    assert {v.name: v.parents for v in schema.variables} == {
        "weight": (), "a": ("weight",), "b": ("weight", "a"), "x": ("a", "b"),
    }  # fmt: skip
    assert schema["weight"].prior == fsf.Uniform() and simulator.simulate_at is None  # who knows kind, given a and b


def require_covariance_of_mixture(drawn: dict[str, Tensor]) -> None:
    covariance = float(torch.cov(torch.stack([drawn["a"], drawn["b"]]))[0, 1])
    assert abs(covariance + 2 * 0.25) < 0.05  # cov(2k, −k), k ~ Bernoulli(1/2)
