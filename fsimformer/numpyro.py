"""NumPyro models as simulators: sample sites become variables, their priors and supports ours, provenance the parents.

::

    def schools(y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("school", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, 2.0))
            numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)

    joint = fsf.train(from_numpyro(schools, data=["y"]), dependency="undirected")

As with Pyro (pyro.py), running a model with its observations released draws from its joint distribution, and its sample
sites are the variables (sites.py). n simulations are one run under `vmap`, compiled: values are traced, so that a model
which takes numbers out of them (`if x > 0`, `int(n)`, numpy) cannot be run, and every site has one shape. Draws are
JAX's, float32, and come back as tensors.

Needs NumPyro: pip install 'fsimformer[numpyro]'. It is imported when a model is traced, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsimformer.priors import Support
from fsimformer.schema import Schema
from fsimformer.simulators.protocol import FunctionSimulator
from fsimformer.sites import Site, inside, variables

_TRACES = 4  # runs that tell whether supports are the same in all; shapes are, for values are traced
_SEEDS = 2**31  # of JAX's keys without 64-bit integers


def from_numpyro(
    model: Callable[..., Any],
    *args: Any,
    data: Iterable[str] = (),
    leave_out: Iterable[str] = (),
    support: Mapping[str, Support] | None = None,
) -> FunctionSimulator:
    """A Simulator that draws what a NumPyro model says.

    Args:
        model: the model, called with `args`. It must use its data only as `obs=`.
        data: sites that are data, besides those that have `obs` in this call.
        leave_out: latent sites that are integrated out, such as discrete ones.
        support: site -> support, where its distribution's is not to be taken. An end that moves from run to run is
            none.

    Returns:
        A FunctionSimulator; with `simulate_at` unless a left-out site stands above a parameter.

    Raises:
        ImportError: NumPyro is not installed.
        KeyError: names of no site.
        ValueError: no latent or no data site; a discrete latent site; a support that is no interval (a simplex, a
            matrix) or has an upper end alone; a prior that cannot be drawn from; a model that takes numbers out of its
            values; `numpyro.factor`, masks, scales and subsampling, which weigh runs: simulations cannot.
    """
    _require()
    runs = [_sample_sites(model, args, seed) for seed in range(_TRACES)]
    sites = {name: _site(message) for name, message in runs[0].items()}
    found = variables("from_numpyro", sites, runs, lambda: _parents(model, args, sites), data, leave_out, support)
    own = NumPyroDraws(model, args, tuple(sites[k] for k in found.kept), found.schema)
    return FunctionSimulator(found.schema, own.simulate, simulate_at=own.simulate_at if found.at_parameters else None)


@dataclass(frozen=True)
class NumPyroDraws:
    """Runs a model and makes rows of its sites."""

    model: Callable[..., Any]
    args: tuple[Any, ...]
    sites: tuple[Site, ...]
    schema: Schema

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """n draws of all sites, (n,) or (n, size) float64."""
        return self._run(n, generator, {})

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator, /) -> dict[str, Tensor]:
        """Draws of the data at these parameters."""
        drawn = self._run(len(next(iter(parameters.values()))), generator, parameters)
        return {k: x for k, x in drawn.items() if k not in parameters}

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        """(keys (n, ·), site -> values (n, *shape)) -> site -> values (n, *shape)."""
        import jax
        from numpyro import handlers

        def one(key: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
            model = handlers.condition(handlers.uncondition(self.model), data=dict(fixed))
            trace = handlers.trace(handlers.seed(model, key)).get_trace(*self.args)
            return {s.name: trace[s.name]["value"] for s in self.sites}

        compiled: Callable[..., Any] = jax.jit(jax.vmap(one))
        return compiled

    def _run(self, n: int, generator: torch.Generator, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        import jax

        seed = int(torch.randint(_SEEDS, (1,), generator=generator))
        shapes = {s.name: s.shape for s in self.sites}
        fixed = {k: x.numpy().astype(np.float32).reshape((n, *shapes[k])) for k, x in given.items()}
        with _traced():
            drawn = self._compiled(jax.random.split(jax.random.PRNGKey(seed), n), fixed)
        return {s.name: self._rows(s, np.array(drawn[s.name]), n) for s in self.sites}

    def _rows(self, site: Site, value: np.ndarray, n: int) -> Tensor:
        """(n,) or (n, size); integers as float64."""
        flat = torch.from_numpy(value if value.dtype.kind == "f" else value.astype(np.float64))
        return inside(self.schema[site.name].support, flat.reshape((n, -1) if site.shape else (n,)))


def _require() -> None:
    try:
        import jax  # noqa: F401
        import numpyro  # noqa: F401
    except ImportError as error:
        raise ImportError("Models of NumPyro need it: pip install 'fsimformer[numpyro]'.") from error


@contextmanager
def _traced() -> Iterator[None]:
    """Says in our words what JAX says of numbers that are taken out of traced values."""
    from jax import errors

    try:
        yield
    except (
        errors.ConcretizationTypeError,
        errors.TracerArrayConversionError,
        errors.TracerIntegerConversionError,
    ) as error:
        raise ValueError(
            "from_numpyro: the model takes numbers out of values that are drawn (if x > 0, int(n), numpy): JAX traces "
            "values. Write it with jnp.where, jax.lax.cond or numpyro.contrib.control_flow; sites whose number is "
            "drawn need Pyro (from_pyro, max_length)."
        ) from error


def _sample_sites(model: Callable[..., Any], args: tuple[Any, ...], seed: int) -> dict[str, Any]:
    """Messages of the sites that draw something, in one run.

    Raises:
        ValueError: sites that weigh a run, or that cannot be drawn.
    """
    from numpyro import handlers

    try:
        trace = handlers.trace(handlers.seed(handlers.uncondition(model), seed)).get_trace(*args)
    except NotImplementedError as error:
        raise ValueError(f"from_numpyro: a site cannot be drawn from its distribution: {error}") from error
    out = {}
    for name, message in trace.items():
        if message["type"] == "plate" and message["args"][1] not in (None, message["args"][0]):
            raise ValueError(f"from_numpyro: the plate {name!r} draws a subsample; expected all of its elements.")
        if message["type"] != "sample":
            continue
        kinds, scale = _kinds(message["fn"]), message["scale"]
        weighed = scale is not None and not bool((np.asarray(scale) == 1).all())
        if weighed or {"Unit", "MaskedDistribution"} & set(kinds):
            raise ValueError(
                f"from_numpyro: the site {name!r} weighs a run (factor, mask or scale); simulations have one weight."
            )
        if kinds[-1] != "Delta":
            out[name] = message
    return out


def _kinds(fn: Any) -> list[str]:
    """Names of a distribution's class and of those that it wraps."""
    out = [type(fn).__name__]
    while out[-1] in ("Independent", "ExpandedDistribution", "MaskedDistribution"):
        fn = fn.base_dist
        out.append(type(fn).__name__)
    return out


def _site(message: Any) -> Site:
    shape, fn = tuple(np.shape(message["value"])), message["fn"]
    plates = {frame.dim: frame.name for frame in message["cond_indep_stack"]}
    observed = bool(message["infer"].get("was_observed"))
    return Site(message["name"], shape, len(shape) - len(fn.event_shape), plates, fn, observed)


def _parents(model: Callable[..., Any], args: tuple[Any, ...], sites: Mapping[str, Site]) -> dict[str, list[str]]:
    """Direct parents by provenance (arXiv 1206.3238; `numpyro.infer.inspect`), in the model's order."""
    from numpyro import handlers
    from numpyro.infer.inspect import get_dependencies

    with _traced():
        found: Any = get_dependencies(handlers.uncondition(model), args)["prior_dependencies"]
    return {k: [u for u in sites if u != k and u in found[k]] for k in sites}
