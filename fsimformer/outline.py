"""A schema from an example: what one simulation looks like, and what its author says of the variables beside.

Of a result the dims are read off: a dim whose coordinate holds numbers, dates or durations is an `Index`, so that what
lies along it is a function; a dim without a coordinate, or with names, holds the components of a vector. What no result
shows has to be said: which variables are parameters, their priors, the noise of readings, who hangs on whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from fsimformer.priors import COUNTS, POSITIVE, PRIORS, REAL, Noise, Prior, Support
from fsimformer.recorded import grid_of
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.spelling import require_known

_SUPPORTS = {"lognormal": POSITIVE, "negbinomial": COUNTS}  # what readings with such noise need


@dataclass(frozen=True)
class Statements:
    """What is said of the variables. Make it with `of`, which checks the types; `schema_of` checks the names.

    Args:
        priors: parameter -> its prior. sizes: parameter -> length, of those that are vectors of independent components.
        parameters: further parameters: they are among what a simulation returns.
        noise: series -> its measurement noise. parents: variable -> what it hangs on directly.
        support: variable -> where it may lie. reference: function -> points of its reference set.
    """

    priors: Mapping[str, Prior] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    parameters: tuple[str, ...] = ()
    noise: Mapping[str, Noise] | Noise = field(default_factory=dict)
    parents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    support: Mapping[str, Support] = field(default_factory=dict)
    reference: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        priors: Mapping[str, Prior | tuple[Prior, int]] | None,
        parameters: Iterable[str],
        noise: Mapping[str, Any] | Noise | tuple[Any, Any] | None,
        parents: Mapping[str, Iterable[str]] | None,
        support: Mapping[str, Support] | None,
        reference: Mapping[str, Any] | None,
    ) -> Statements:
        """Raises TypeError: what is no prior, noise or support, or one text where names are meant."""
        kinds: Any = tuple(PRIORS.values())
        found: dict[str, Prior] = {}
        sizes: dict[str, int] = {}
        for name, given in _mapping("priors", priors).items():
            pair: tuple[Any, Any] = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
            prior, size = pair
            if not isinstance(prior, kinds) or (size is not None and not isinstance(size, int)):
                raise TypeError(
                    f"priors: expected one of {sorted(PRIORS)} for {name!r}, or a pair (prior, number of components), "
                    f"got {given!r}."
                )
            found[name] = prior
            if size is not None:
                sizes[name] = size
        for what, some in {
            "parameters": parameters,
            **{f"parents of {k!r}": v for k, v in (parents or {}).items()},
        }.items():
            if isinstance(some, str):
                raise TypeError(f"{what}: expected several names, such as ({some!r},), got the text {some!r}.")
        for name, given in _mapping("support", support).items():
            if not isinstance(given, Support):
                raise TypeError(f"support: expected a fsimformer.Support for {name!r}, got {given!r}.")
        one = isinstance(noise, Noise | tuple)
        noises = {k: _noise(k, v) for k, v in ({"": noise} if one else _mapping("noise", noise)).items()}
        if own := [k for k in parameters if k in found]:
            raise ValueError(f"parameters: {own} have priors already; name what the function returns.")
        return cls(
            found,
            sizes,
            tuple(parameters),
            noises[""] if one else noises,
            {k: tuple(v) for k, v in _mapping("parents", parents).items()},
            dict(support or {}),
            dict(_mapping("reference", reference)),
        )


def _mapping(what: str, given: Any) -> Mapping[str, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(f"{what}: expected a mapping from names, got {type(given).__name__}.")
    return given or {}


def _noise(name: str, given: Any) -> Noise:
    if isinstance(given, Noise):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return Noise(*given)
    raise TypeError(f"noise: expected fsimformer.Noise or (kind, sd){f' for {name!r}' if name else ''}, got {given!r}.")


def schema_of(example: xr.Dataset, say: Statements) -> tuple[Schema, dict[str, Tensor]]:
    """The schema of simulations like this one, and the grid of every index dim.

    Args:
        example: one simulation, without what has a prior and is no part of a result.
        say: what else is known of its variables and of the parameters.

    Raises:
        KeyError: names of nothing, with the nearest that there are.
        ValueError: no parameters, or nothing besides; what `Schema` and `grid_of` raise.
    """
    returned = [str(k) for k in example.data_vars]
    names = [*(k for k in say.priors if k not in returned), *returned]
    functions = [
        k for k in returned if any(str(d) in example.coords and _continuous(example[d]) for d in example[k].dims)
    ]
    require_known("parameters", say.parameters, returned)
    for what, some in (("parents", say.parents), ("support", say.support), ("reference", say.reference)):
        require_known(what, some, names)
    if not isinstance(say.noise, Noise):
        require_known("noise", say.noise, returned)
    parameters = {*say.priors, *say.parameters}
    if not parameters:
        raise ValueError(
            f"Which of the variables {returned} are parameters? Give them `priors`, or name them in `parameters`."
        )
    if not set(returned) - parameters:
        raise ValueError(f"All of {returned} are parameters: there are no data that could tell of them.")
    dims: dict[str, Index | Components] = {}
    grid: dict[str, Tensor] = {}
    for name in map(str, example.dims):
        dims[name] = Components(name, example.sizes[name])
        if name in example.coords and _continuous(example[name]):
            dims[name], grid[name] = _index(example, name)
    variables = []
    for name in names:
        prior, size = say.priors.get(name), say.sizes.get(name)
        if name in returned:
            along = tuple(map(str, example[name].dims))
        else:
            along = () if size is None else (f"{name}_dim",)
            dims |= {d: Components(d, size or 1) for d in along}
        noise = None
        if name not in parameters:
            noise = (say.noise if name in functions else None) if isinstance(say.noise, Noise) else say.noise.get(name)
        of_noise = REAL if noise is None else _SUPPORTS.get(noise.kind, REAL)
        support = say.support.get(name, prior.support if prior else of_noise)
        variables.append(
            Variable(
                name,
                "parameter" if name in parameters else "data",
                along,
                prior,
                support,
                noise,
                say.parents.get(name, ()),
                reference=say.reference.get(name, ()),
            )
        )
    return Schema(tuple(variables), tuple(dims.values())), grid


def _continuous(points: xr.DataArray) -> bool:
    """Numbers, dates or durations, as against names."""
    labels = points.to_numpy()
    return labels.dtype.kind in "iufmM" or (labels.size > 0 and hasattr(labels.flat[0], "calendar"))


def _index(example: xr.Dataset, name: str) -> tuple[Index, Tensor]:
    """Dates count in days from the first of them; numbers in the units that the coordinate states."""
    points = example[name]
    if points.size < 2:
        raise ValueError(f"{name!r}: expected at least two points of a grid, got {points.size}.")
    kind, first = points.dtype.kind, points.to_numpy()[0]
    dates = kind == "M" or hasattr(first, "calendar")
    origin = None if not dates else str(np.datetime_as_string(first, "s")) if kind == "M" else first.isoformat()
    units = "days" if dates or kind == "m" else points.attrs.get("units")
    index = Index(name, 0.0, 1.0, units, origin)
    grid = grid_of(example, index)
    return replace(index, lower=float(grid.min()), upper=float(grid.max())), grid
