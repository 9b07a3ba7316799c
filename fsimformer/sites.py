"""Sample sites of a probabilistic program, and the schema that they make; pyro.py and numpyro.py trace them.

A program writes p(z) = Π_i p(z_i | parents(z_i)). Sites that are data keep that role, all others are parameters. A site
without parents whose law is one of ours (priors.py) keeps it as its prior, exactly. What a plate declares independent
is a block of `Variable.blocks`. A site with several dims is a vector of all its elements, in their order.

A left-out site z is integrated out. Its children c_1, c_2, ... hang together afterwards:
p(c_1, c_2, ... | ·) = Π_i p(c_i | parents of c_1..c_i and of z, c_1..c_{i−1}).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fsimformer.priors import Prior, Support
from fsimformer.pyro_lengths import COUNT
from fsimformer.pyro_priors import prior_of, support_of
from fsimformer.schema import Components, Role, Schema, Variable
from fsimformer.spelling import require_known


@dataclass(frozen=True)
class Site:
    """A sample site: its value's shape, of which the first `n_batch` dims are batch dims, and its plates by dim."""

    name: str
    shape: tuple[int, ...]
    n_batch: int
    plates: Mapping[int, str]
    fn: Any
    observed: bool


@dataclass(frozen=True)
class Variables:
    """The sites of a program as variables.

    Args:
        kept: names of the sites that were not left out.
        at_parameters: data can be drawn at given parameters: no left-out site stands above a parameter.
    """

    schema: Schema
    kept: tuple[str, ...]
    at_parameters: bool


def variables(
    where: str,
    sites: Mapping[str, Site],
    runs: Sequence[Mapping[str, Any]],
    parents: Callable[[], dict[str, list[str]]],
    data: Iterable[str],
    leave_out: Iterable[str],
    support: Mapping[str, Support] | None,
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
    counted: Collection[str] = (),
) -> Variables:
    """What a traced program says, and what its caller says of it.

    Args:
        where: who asks, for messages.
        runs: name -> message with the key "fn", of every run.
        parents: gives all sites' direct parents; asked once names are known to be sound.
        data, leave_out, support: as of `from_pyro`.
        groups: site -> names of its elements in a run, where it has several. counted: sites whose number is drawn.

    Raises:
        KeyError: names of no site. ValueError: as `data_sites` and `pyro_priors.support_of`.
    """
    out, stated = tuple(leave_out), dict(support or {})
    for what, names in (("data", data), ("leave_out", out), ("support", stated)):
        require_known(what, names, sites)
    observed = data_sites(where, sites, data, out)
    above, kept = parents(), tuple(k for k in sites if k not in out)
    latent = any(k in ancestors(above, c) for k in out for c in kept if c not in observed)
    joined = integrate_out(above, out)

    def prior(site: Site) -> Prior | None:
        return None if site.name in {*stated, *counted} else prior_of(site.fn)

    def found(site: Site, role: Role) -> Support:
        elements = groups.get(site.name, [site.name])
        return stated.get(site.name) or support_of(where, site.name, elements, runs, role)

    return Variables(schema_of(sites, above, observed, joined, prior, found, counted), kept, not latent)


def data_sites(where: str, sites: Mapping[str, Site], data: Iterable[str], out: Iterable[str]) -> set[str]:
    """Names of the sites that are data: those that the model observes, and `data`.

    Raises:
        ValueError: data that are left out; no latent or no data site is left.
    """
    observed = {k for k, s in sites.items() if s.observed} | set(data)
    if both := observed & set(out):
        raise ValueError(f"{where}: {sorted(both)} are data; what is not to be observed is left out by its caller.")
    if not observed or not set(sites) - set(out) - observed:
        raise ValueError(
            f"{where}: expected latent and observed sites, got the sites {list(sites)}, observed: {sorted(observed)}."
            " Call the model with its data, or name them: data=[...]."
        )
    return observed


def integrate_out(parents: dict[str, list[str]], names: Iterable[str]) -> set[str]:
    """Takes sites out of the graph, in place; their children, which hang together from now on, come back."""
    changed: set[str] = set()
    order = list(parents)
    for name in sorted(names, key=order.index, reverse=True):
        above, before = parents.pop(name), list[str]()
        for child in [c for c in order if name in parents.get(c, ())]:
            own = {*parents[child], *above, *before} - {name}
            parents[child] = [k for k in order if k in own]
            before += [child, *parents[child]]
            changed.add(child)
    return changed & parents.keys()


def ancestors(parents: Mapping[str, Iterable[str]], name: str) -> set[str]:
    """All that stands above a site."""
    direct = set(parents[name])
    return direct.union(*(ancestors(parents, p) for p in direct))


def schema_of(
    sites: Mapping[str, Site],
    parents: Mapping[str, list[str]],
    data: Collection[str],
    joined: Collection[str],
    prior: Callable[[Site], Prior | None],
    support: Callable[[Site, Role], Support],
    counted: Collection[str] = (),
) -> Schema:
    """The schema of the sites that the graph has.

    Args:
        sites: all sites, in the model's order. parents: those that are kept -> their direct parents.
        data: sites that are data. joined: children of sites that were integrated out.
        prior: of a latent site without parents; None where it is none of ours. support: of any other.
        counted: vectors whose number of elements is drawn.
    """
    plates = {p for s in sites.values() for p in s.plates.values()}
    variables, dims = [], dict[str, Components]()
    for name in parents:
        site = sites[name]
        if site.shape:
            dim = _dim_name(site, plates, sites)
            dims[dim] = Components(dim, math.prod(site.shape))
        role: Role = "data" if name in data else "parameter"
        own = None if parents[name] or role == "data" or name in joined else prior(site)
        blocks = 1 if name in joined else _blocks(site)
        blockwise = [p for p in parents[name] if blocks > 1 and p not in joined and _blocks(sites[p]) == blocks]
        blockwise = [p for p in blockwise if _leftmost(sites[p]) == _leftmost(site)]
        variables.append(
            Variable(
                name,
                role,
                (dim,) if site.shape else (),
                own,
                support(site, role) if own is None else own.support,
                parents=tuple(parents[name]),
                blocks=blocks,
                blockwise=tuple(blockwise),
            )
        )
        if name in counted:
            variables.append(Variable(f"{COUNT}{name}", role))
    return Schema(tuple(variables), tuple(dims.values()))


def inside(support: Support, flat: Tensor) -> Tensor:
    """float64; what rounding put on an end of the support goes just inside, what is not finite has failed and stays."""
    ends = flat.new_tensor([support.lower, support.upper])
    low, high = torch.nextafter(ends, ends.flip(0))
    held = (flat >= ends[0]) & (flat <= ends[1]) & torch.isfinite(flat)
    return torch.where(held, flat.clamp(low, high), flat).double()


def _leftmost(site: Site) -> str | None:
    """The plate along the first dim of a value, if there is one."""
    return site.plates.get(-site.n_batch) if site.n_batch else None


def _blocks(site: Site) -> int:
    """Parts of a value, in its order, that are independent given the parents."""
    return site.shape[0] if _leftmost(site) is not None and len(site.plates) == 1 else 1


def _dim_name(site: Site, plates: Iterable[str], sites: Mapping[str, Site]) -> str:
    plate = _leftmost(site)
    return plate if plate is not None and len(site.shape) == 1 and plate not in sites else f"{site.name}_dim"
