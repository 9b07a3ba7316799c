"""Pyro models as simulators: sample sites become variables, their priors and supports ours, provenance the parents.

::

    def schools(y=None):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("school", 8):
            theta = pyro.sample("theta", dist.Normal(mu, 2.0))
            pyro.sample("y", dist.Normal(theta, 10.0), obs=y)

    joint = fsf.train(from_pyro(schools, data=["y"]), dependency="undirected")

A model is a program; running it with its observations released draws from its joint distribution, and its sample sites
are the variables (sites.py). Observed sites become data, all others parameters. A site without parents whose family is
one of ours keeps its prior (pyro_priors.py); every other has the support of its distribution and is whitened by
simulations. Sites in a plate of fixed size are vectors along a dim of the plate's name.

Who hangs on whom is found by tracking tensors through one run (arXiv 1206.3238; `pyro.infer.inspect`): a model that
takes numbers out of tensors (`.item()`, numpy, `if x > 0`) hides its dependencies, and only a dense mask is safe then.

Sites whose number is drawn, in a plate of random size or a loop, are vectors with a number (pyro_lengths.py).

Needs Pyro: pip install 'fsimformer[pyro]'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fsimformer.priors import Support
from fsimformer.pyro_lengths import COUNT, gather, members, padded
from fsimformer.schema import Schema
from fsimformer.simulators.protocol import FunctionSimulator
from fsimformer.sites import Site, inside, variables

try:
    import pyro
    from pyro import poutine
    from pyro.infer.inspect import get_dependencies, is_sample_site
except ImportError as error:
    raise ImportError("Models of Pyro need it: pip install 'fsimformer[pyro]'.") from error

_TRACES = 16  # runs that tell whether sites, shapes and supports are the same in all
_ROWS = "_simulations"
_POOL, _MOST_RUNS = 200, 2_000  # elements to fill up with, and runs that may be asked for them


def from_pyro(
    model: Callable[..., Any],
    *args: Any,
    data: Iterable[str] = (),
    leave_out: Iterable[str] = (),
    max_length: Mapping[str, int] | None = None,
    support: Mapping[str, Support] | None = None,
    batched: bool = False,
) -> FunctionSimulator:
    """A Simulator that draws what a Pyro model says.

    Args:
        model: the model, called with `args`. It must use its data only as `obs=`.
        data: sites that are data, besides those that have `obs` in this call.
        leave_out: latent sites that are integrated out, such as discrete ones.
        max_length: x -> K, for a site x in a plate of random size, or sites x_0, x_1, ... of a loop: they become a
            vector of K components, and n_x says how many there are (`pyro_lengths.given`, `present`). Runs with more
            are left out. Nothing is said of parents then: a mask must be dense.
        support: site -> support, where its distribution's is not to be taken. An end that moves from run to run is
            none.
        batched: all simulations in one run, in a plate of their own on the left of all others: much faster, for models
            without control flow on values whose every batch dim is declared. Otherwise one run a simulation.

    Returns:
        A FunctionSimulator; with `simulate_at` unless a left-out site stands above a parameter, or numbers are drawn.

    Raises:
        KeyError: names of no site.
        ValueError: no latent or no data site; sites or shapes that differ from run to run; a discrete latent site; a
            support that is no interval (a simplex, a matrix) or has an upper end alone; `pyro.factor`, masks, scales
            and subsampling, which weigh runs: simulations cannot.
    """
    runs = [_sample_sites(_trace(model, args, seed)) for seed in range(_TRACES)]
    longest = dict(max_length or {})
    if longest and batched:
        raise ValueError("from_pyro: one run makes no simulations of several lengths; leave batched or max_length out.")
    sites, groups = _grouped(runs, longest)

    def parents() -> dict[str, list[str]]:
        return {k: list[str]() for k in sites} if longest else _parents(model, args, sites)

    found = variables("from_pyro", sites, runs, parents, data, leave_out, support, groups, longest)
    depth = max(s.n_batch for s in sites.values())
    pools = {k: _pool(model, args, k) for k in longest if k in found.kept}
    own = PyroDraws(model, args, tuple(sites[k] for k in found.kept), found.schema, batched, depth, pools)
    at = own.simulate_at if found.at_parameters and not longest else None
    return FunctionSimulator(found.schema, own.simulate, simulate_at=at)


@dataclass(frozen=True)
class PyroDraws:
    """Runs a model and makes rows of its sites.

    Args:
        depth: batch dims that its sites have at most.
        pools: group -> what fills its vector up.
    """

    model: Callable[..., Any]
    args: tuple[Any, ...]
    sites: tuple[Site, ...]
    schema: Schema
    batched: bool
    depth: int
    pools: Mapping[str, Tensor]

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """n draws of all sites, (n,) or (n, size) float64."""
        return self._run(n, generator, {})

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator, /) -> dict[str, Tensor]:
        """Draws of the data at these parameters."""
        drawn = self._run(len(next(iter(parameters.values()))), generator, parameters)
        return {k: x for k, x in drawn.items() if k not in parameters}

    def _run(self, n: int, generator: torch.Generator, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seed = int(torch.randint(2**62, (1,), generator=generator))
        model = poutine.uncondition(self.model)
        rows: dict[str, list[Tensor]] = {name: [] for name in self.schema.names}
        with _own_state(seed):
            for part in [slice(None)] if self.batched else [slice(i, i + 1) for i in range(n)]:
                fixed = {s.name: self._value(s, given[s.name][part]) for s in self.sites if s.name in given}
                run = poutine.trace(poutine.condition(model, data=fixed))
                if self.batched:
                    with pyro.plate(_ROWS, n, dim=-1 - self.depth):
                        trace = run.get_trace(*self.args)
                else:
                    trace = run.get_trace(*self.args)
                for s in self.sites:
                    if s.name not in self.pools:
                        rows[s.name].append(self._row(s, trace.nodes[s.name]["value"], n if self.batched else 1))
                        continue
                    x, count = padded(gather(trace.nodes, s.name), s.shape[0], self.pools[s.name], generator)
                    rows[s.name].append(inside(self.schema[s.name].support, x)[None])
                    rows[f"{COUNT}{s.name}"].append(count[None])
        return {k: torch.cat(parts) for k, parts in rows.items()}

    def _value(self, site: Site, x: Tensor) -> Tensor:
        """Rows of a parameter in the shape that its site has in a run."""
        lead = [len(x), *[1] * (self.depth - site.n_batch)] if self.batched else []
        return x.to(torch.get_default_dtype()).reshape((*lead, *site.shape))

    def _row(self, site: Site, value: Tensor, n: int) -> Tensor:
        """(n,) or (n, size); what rounding put on an end of the support goes just inside."""
        lead = (n, *[1] * (self.depth - site.n_batch)) if self.batched else ()
        if tuple(value.shape) != (*lead, *site.shape):
            raise ValueError(
                f"from_pyro: {site.name!r} has the shape {tuple(value.shape)} in a run of {n} simulations, expected "
                f"{(*lead, *site.shape)}: the model was not written for a plate on the left of its own: no batched."
            )
        flat = value.detach().reshape((n, -1) if site.shape else (n,))
        return inside(self.schema[site.name].support, flat)


@contextmanager
def _own_state(seed: int) -> Iterator[None]:
    """Pyro draws from torch's global generator and keeps parameters in a global store: both are given back."""
    store = pyro.get_param_store()
    held = store.get_state()
    copy = {key: dict(value) for key, value in held.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        with store.scope(copy):
            yield


def _trace(model: Callable[..., Any], args: tuple[Any, ...], seed: int) -> Any:
    with _own_state(seed):
        return poutine.trace(poutine.uncondition(model)).get_trace(*args)


def _sample_sites(trace: Any) -> dict[str, Any]:
    """Sites that draw something.

    Raises:
        ValueError: sites that weigh a run.
    """
    out = {}
    for name, msg in trace.nodes.items():
        if msg["type"] != "sample":
            continue
        fn = msg["fn"]
        if getattr(fn, "subsample_size", None) not in (None, getattr(fn, "size", None)):
            raise ValueError(f"from_pyro: the plate {name!r} draws a subsample; expected all of its elements.")
        masked = msg["mask"] is not None and not (msg["mask"] is True or bool(torch.as_tensor(msg["mask"]).all()))
        weighed = not bool((torch.as_tensor(msg["scale"]) == 1).all())
        if type(fn).__name__ == "Unit" or masked or weighed:
            raise ValueError(
                f"from_pyro: the site {name!r} weighs a run (factor, mask or scale), and simulations have one weight."
            )
        if is_sample_site(msg):
            out[name] = msg
    return out


def _site(msg: Any) -> Site:
    shape, fn = tuple(msg["value"].shape), msg["fn"]
    plates = {f.dim: f.name for f in msg["cond_indep_stack"] if f.vectorized}
    return Site(
        msg["name"], shape, len(shape) - len(fn.event_shape), plates, fn, bool(msg["infer"].get("was_observed"))
    )


def _grouped(
    runs: Sequence[Mapping[str, Any]], longest: Mapping[str, int]
) -> tuple[dict[str, Site], dict[str, list[str]]]:
    """The sites, those of a group as one vector, and the names of each group's elements.

    Raises:
        KeyError: a group without elements. ValueError: sites that differ between runs and are in no group.
    """
    everywhere = list(dict.fromkeys(k for run in runs for k in run))
    groups = {stem: members(everywhere, stem) for stem in longest}
    for stem, found in groups.items():
        if not found or longest[stem] < 1:
            raise KeyError(
                f"max_length: expected a length >= 1 of a site, or of sites {stem}_0, ...; there are {everywhere}."
            )
    element = {k: stem for stem, found in groups.items() for k in found}
    sites: dict[str, Site] = {}
    for name in everywhere:
        first = next(run[name] for run in runs if name in run)
        if name in element:
            own = _site(first)
            sites.setdefault(element[name], Site(element[name], (longest[element[name]],), 1, {}, own.fn, own.observed))
            continue
        sites[name] = site = _site(first)
        shapes = {tuple(run[name]["value"].shape) if name in run else None for run in runs}
        if shapes != {site.shape}:
            stem = name.rstrip("_0123456789") or name
            raise ValueError(
                f"from_pyro: the number of {name!r} differs from run to run: shapes {sorted(map(str, shapes))}. Say "
                f"how many are kept, such as max_length={{{stem!r}: 20}}: its elements become a vector of fixed size, "
                "and a variable says how many there are."
            )
    return sites, groups


def _pool(model: Callable[..., Any], args: tuple[Any, ...], stem: str) -> Tensor:
    """Elements of some runs, other than those that were looked at before."""
    held, n = [torch.zeros(0)], 0
    for seed in range(_TRACES, _TRACES + _MOST_RUNS):
        held.append(gather(_sample_sites(_trace(model, args, seed)), stem))
        n += len(held[-1])
        if n >= _POOL:
            return torch.cat(held)
    raise ValueError(f"from_pyro: {_MOST_RUNS} runs have {n} elements of {stem!r}, too few to learn from.")


def _parents(model: Callable[..., Any], args: tuple[Any, ...], sites: Mapping[str, Site]) -> dict[str, list[str]]:
    """Direct parents by provenance, in the model's order."""
    with _own_state(0):
        found = get_dependencies(poutine.uncondition(model), args)["prior_dependencies"]
    return {k: [u for u in sites if u != k and u in found[k]] for k in sites}
