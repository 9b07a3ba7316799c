"""Sites of a Pyro model whose number is drawn: a vector of the most that are kept, and how many of them there are.

A plate of random size, or sites x_0, x_1, ... of a loop, become a vector x of K components and a number n. What is
beyond n is drawn from a fixed law q, independently of all else (a pseudo-prior, Carlin and Chib 1995):

    p(n, x_1..x_K, ·) = p(n, x_1..x_n, ·) Π_{i > n} q(x_i),    q: the elements of some runs, any of them as likely.

So the joint has one dimension whatever n is, and its marginal over x_{n+1}..x_K is the model's own. Who observes n
elements gives n and these (`given`): the others are NaN, no tokens, and integrated out; sets of readings have as many
tokens as there are readings. Of draws, the components beyond the draw's own n mean nothing (`present` makes them NaN).
n is kept as n + u, u ~ U(−½, ½), a number with a density; round it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.schema import Schema

COUNT = "n_"  # the number of the elements of x is n_x


def members(names: Iterable[str], stem: str) -> list[str]:
    """The sites that are elements of a group, in order: the site `stem`, or stem_0, stem_1, ... (or stem0, ...)."""
    names = list(names)
    if stem in names:
        return [stem]
    found = {int(m[1]): k for k in names if (m := re.fullmatch(rf"{re.escape(stem)}_?(\d+)", k))}
    return [found[i] for i in sorted(found)]


def gather(sites: Mapping[str, Any], stem: str) -> Tensor:
    """The elements of a group in one run, (n,).

    Raises:
        ValueError: elements that are no numbers along one dim, or numbered sites with a gap.
    """
    found = members(sites, stem)
    values = [sites[k]["value"].detach() for k in found]
    if any(x.ndim > (1 if found == [stem] else 0) for x in values):
        shapes = {k: tuple(x.shape) for k, x in zip(found, values, strict=True)}
        raise ValueError(f"from_pyro: expected elements of {stem!r} that are numbers, got the shapes {shapes}.")
    numbers = [int(re.findall(r"\d+$", k)[0]) for k in found if k != stem]
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise ValueError(f"from_pyro: expected the elements of {stem!r} without a gap, got {found} in a run.")
    return torch.cat([x.reshape(-1) for x in values]) if values else torch.zeros(0)


def padded(elements: Tensor, most: int, pool: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(K,) float64 with draws of `pool` beyond the elements, and n + u; NaN where there are more than K."""
    n = len(elements)
    if n > most:
        return torch.full((most,), torch.nan, dtype=torch.float64), torch.tensor(torch.nan, dtype=torch.float64)
    rest = pool[torch.randint(len(pool), (most - n,), generator=generator)]
    u = torch.rand((), generator=generator, dtype=torch.float64) - 0.5
    return torch.cat([elements.double(), rest.double()]), n + u


def given(schema: Schema, values: Mapping[str, Sequence[float] | float]) -> xr.Dataset:
    """What was observed as a Dataset: groups as the elements that there are, other variables as they are.

    Raises:
        KeyError: no such variable. ValueError: more elements than the vector holds.
    """
    data = {}
    for name, x in values.items():
        flat = np.asarray(x, dtype=np.float64)
        if f"{COUNT}{name}" not in schema:
            data[name] = xr.DataArray(flat, dims=schema[name].dims)
            continue
        most = schema.n_components(name)
        if flat.ndim != 1 or len(flat) > most:
            raise ValueError(f"{name!r}: expected at most {most} elements along one dim, got shape {flat.shape}.")
        data[name] = xr.DataArray(np.append(flat, np.full(most - len(flat), np.nan)), dims=schema[name].dims)
        data[f"{COUNT}{name}"] = xr.DataArray(float(len(flat)))
    return xr.Dataset(data)


def present(draws: xr.Dataset, schema: Schema) -> xr.Dataset:
    """Draws with integers for the numbers of elements, and NaN for the elements beyond them.

    Args:
        draws: a group of what `sample` returned, the numbers of elements among its variables.
    """
    out = draws.copy()
    for name in (k for k in map(str, draws.data_vars) if f"{COUNT}{k}" in draws):
        (dim,) = schema[name].dims
        count = draws[f"{COUNT}{name}"].round()
        out[f"{COUNT}{name}"] = count
        out[name] = draws[name].where(xr.DataArray(np.arange(draws.sizes[dim]), dims=dim) < count)
    return out
