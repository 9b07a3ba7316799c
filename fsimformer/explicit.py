"""The likelihood of a simulator whose paths follow from its scalar parameters and whose noise the schema states.

    log p(readings | θ) = Σ_i log N(u(x_i); u(f_θ(t_i)), sd²) + log |u'(x_i)|,   u = log for log-normal noise, else x;
    of counts, Σ_i of their negative binomial's log probability (counts.py).

What `Conditional.refine` weighs draws with. f_θ comes from the simulator's optional method
`clean(parameters) -> paths on its grid`, and is read between the grid's points as training reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.convert import observed_points, read
from fsimformer.counts import counts_log_prob
from fsimformer.readings import interpolate
from fsimformer.schema import Index, Schema
from fsimformer.simulators.protocol import natural_functions

LogLikelihood = Callable[[xr.Dataset], xr.DataArray]


@runtime_checkable
class Explicit(Protocol):
    """A simulator that also gives the paths of chosen parameters."""

    @property
    def schema(self) -> Schema: ...
    @property
    def grid(self) -> dict[str, Tensor]: ...
    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]: ...

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalar parameters, each (n,) float64 -> clean paths (n, T) by name; NaN where one could not be computed."""
        ...


def log_likelihood(simulator: Explicit, observed: Any, *, origin: Any = None) -> LogLikelihood:
    """The log likelihood of an observation, as a function of draws of the parameters.

    Args:
        simulator: has the method `clean`; every parameter but paths (`path_of`) is a scalar, every observed series lies
            on one index dim and has a `Noise`.
        observed, origin: as for `Joint.condition`; observed parameters are held fixed.

    Returns:
        A function of a Dataset of draws (dims chain, draw) to log likelihoods, one a draw; −inf where the path failed.

    Raises:
        TypeError: the simulator has no `clean`.
        ValueError: a parameter that is no scalar; an observed data variable that is no series with noise on one index;
            readings beyond the simulator's grid, or none at all.
    """
    if not isinstance(simulator, Explicit) or getattr(simulator, "paths", simulator) is None:
        raise TypeError(
            f"log_likelihood: expected a simulator with clean(parameters) -> paths, such as LotkaVolterra() or "
            f"FunctionSimulator(..., paths=f); this {type(simulator).__name__} has none."
        )
    schema = simulator.schema
    scalars = [v for v in schema.variables if v.role == "parameter" and v.path_of is None]  # paths follow
    if wide := [v.name for v in scalars if v.dims]:
        raise ValueError(f"log_likelihood: expected scalar parameters only, {wide} have dims.")
    observation = read(schema, observed, origin=origin)
    given = {k: c for k, c in observation.channels.items() if np.isfinite(c.value).any()}
    names = [v.name for v in scalars]
    fixed = {k: float(c.value[0]) for k, c in given.items() if k in names}
    on_one_index = [v.name for v in schema.variables if len(v.dims) == 1 and schema.is_function(v.name) and v.noise]
    series = {k: observed_points(c) for k, c in given.items() if k in on_one_index}
    if unread := [k for k in given if k not in fixed and k not in series]:
        raise ValueError(f"log_likelihood: expected observed series with a Noise on one index dim, {unread} are not.")
    if not series:
        raise ValueError("log_likelihood: the observation holds no readings of a series.")
    for name, (points, _) in series.items():
        _require_covered(schema, name, points)
    natural = natural_functions(simulator)

    def of(draws: xr.Dataset) -> xr.DataArray:
        if lacking := [k for k in names if k not in draws and k not in fixed]:
            raise ValueError(f"log_likelihood: the draws lack {lacking}; expected every parameter.")
        like = draws[next(k for k in names if k in draws)].transpose("chain", "draw")
        n = like.size
        parameters = {
            k: torch.from_numpy(draws[k].transpose("chain", "draw").to_numpy().reshape(-1).astype(np.float64))
            if k in draws
            else torch.full((n,), fixed[k], dtype=torch.float64)
            for k in names
        }
        paths = simulator.clean(parameters)
        failed = torch.zeros(n, dtype=torch.bool)  # as in training: one bad value fails the whole simulation
        for path in paths.values():
            failed |= ~torch.isfinite(path).all(1)
        total = torch.zeros(n, dtype=torch.float64)
        for name, (points, values) in series.items():
            total += _series(schema, name, paths[name].double(), parameters, points, values, name in natural)
        total = torch.where(failed, -torch.inf, total)
        return xr.DataArray(total.numpy().reshape(like.shape), dims=("chain", "draw"), coords=like.coords)

    return of


def _require_covered(schema: Schema, name: str, points: np.ndarray) -> None:
    """The paths reach all readings: beyond their grid nothing is known of them."""
    dim = schema.dim(schema.index_dims(name)[0])
    assert isinstance(dim, Index)
    slack = 1e-9 * (dim.upper - dim.lower)
    if beyond := [float(t) for t in points if not dim.lower - slack <= t <= dim.upper + slack]:
        raise ValueError(
            f"log_likelihood: {len(beyond)} readings of {name!r} lie outside the simulator's {dim.name!r}, "
            f"[{dim.lower:g}, {dim.upper:g}]; the first is at {beyond[0]:g}."
        )


def _series(
    schema: Schema,
    name: str,
    path: Tensor,
    parameters: Mapping[str, Tensor],
    points: np.ndarray,
    values: np.ndarray,
    natural: bool,
) -> Tensor:
    """(n,) log density of one series' readings; points (m,) in index units, values (m,)."""
    noise, dim = schema[name].noise, schema.dim(schema.index_dims(name)[0])
    assert noise is not None and isinstance(dim, Index)
    n, log = len(path), noise.kind == "lognormal"
    at = torch.from_numpy(dim.scaled(points)).expand(n, -1)[..., None]
    rows = torch.arange(n)
    sd = parameters[noise.sd] if isinstance(noise.sd, str) else torch.full((n,), float(noise.sd), dtype=torch.float64)
    if noise.kind == "negbinomial":
        mean = interpolate(path, rows, at, True) if natural else torch.expm1(interpolate(path.log1p(), rows, at))
        return counts_log_prob(torch.from_numpy(values), mean, sd[:, None]).sum(1)
    if log and not natural:
        clean = interpolate(path.log(), rows, at)
    else:
        clean = interpolate(path, rows, at, within=natural)
        clean = clean.log() if log else clean
    x = torch.from_numpy(values)
    u = x.log() if log else x
    z = (u - clean) / sd[:, None]
    density = -0.5 * z**2 - sd.log()[:, None] - 0.5 * math.log(2 * math.pi)
    return (density - (x.log() if log else 0.0)).sum(1)
