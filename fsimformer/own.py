"""A simulator of one's own: a function and the priors of its arguments, or a function that returns a Dataset.

::

    decay = fsf.simulator(
        lambda rate, time: {"level": 100 * np.exp(-rate * time)},
        priors={"rate": fsf.LogNormal(-1.0, 0.5)},
        grid={"time": np.linspace(0, 10, 101)},
        noise={"level": ("lognormal", 0.1)},
    )
    joint = fsf.train(decay)

The schema is read off an example (outline.py). Series are clean paths: noise that is stated is added where they are
read. Scalars and vectors come with theirs; what a function draws at random it draws from `rng`. Simulations that have
been made are `fsf.recorded` (existing.py), slow ones that shall run in parallel `simulate_to` (campaign.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.outline import Statements, schema_of
from fsimformer.priors import Noise, Prior, Support
from fsimformer.schema import Schema
from fsimformer.simulators.protocol import FunctionSimulator, check_grid
from fsimformer.spelling import require_known
from fsimformer.whiten import prior_from_z

_TRIES = 20  # parameters that may fail before an example is had
_RANDOM = ("rng", "generator")


def simulator(
    f: Callable[..., Any],
    *,
    priors: Mapping[str, Prior | tuple[Prior, int]] | None = None,
    grid: Mapping[str, Any] | None = None,
    noise: Mapping[str, Any] | Noise | tuple[Any, Any] | None = None,
    parents: Mapping[str, Iterable[str]] | None = None,
    parameters: Iterable[str] = (),
    support: Mapping[str, Support] | None = None,
    reference: Mapping[str, Any] | None = None,
    natural: Sequence[str] = (),
    plausible: Mapping[str, tuple[float, float]] | None = None,
    batched: bool = False,
) -> FunctionSimulator:
    """A Simulator from a function: f(parameters, grids) -> variables. It is called once, for an example.

    Args:
        f: is called with what its arguments are named after: a parameter with a prior (a float, or an array (size,)), a
            dim of `grid` (its points), `rng` (a numpy Generator: all that f draws at random must come from it) or
            `generator` (a torch Generator). Returns a Dataset, or a mapping of numbers, arrays, DataArrays and pairs
            (dims, values); in a mapping an array as long as one `grid` is a series on it, any other a vector. A
            simulation that raises an ArithmeticError, or whose values are not finite, has failed and is left out.
        priors: parameter -> prior, or (prior, n): a vector of n independent components. f may draw parameters itself:
            name them in `parameters`.
        grid: index dim -> evenly spaced points: numbers, dates, or a DataArray with `units`. Not needed where f returns
            coordinates.
        noise: series -> `fsimformer.Noise` or (kind, sd), sd a number or a parameter's name; or one for all series.
        parents: variable -> names of what it hangs on directly, for `train(dependency="undirected")`.
        parameters: of what f returns, the parameters: those that it draws itself, and functions such as a rate(time).
        support: variable -> `fsimformer.Support`; the prior's, or that of the noise, else all numbers.
        reference, natural, plausible: as of `Variable` and `FunctionSimulator`.
        batched: f takes n simulations in a call: scalars (n,), vectors (n, size); what it returns leads with n.

    Returns:
        A FunctionSimulator with `simulate_at` where all scalar and vector parameters have priors, and with `paths`
        (for `fsimformer.log_likelihood`) where, besides, f draws nothing and all data are series with stated noise.

    Raises:
        TypeError: no function, or what is no prior, noise or mapping.
        KeyError: a name that there is not, with the nearest that there is.
        ValueError: an argument of f that is nothing's name; a prior that nobody reads; an example that fails, or that
            leaves open what its dims are; a grid that is not evenly spaced.
    """
    if not callable(f):
        raise TypeError(f"simulator: expected a function, got a {type(f).__name__}.")
    if grid is not None and not isinstance(grid, Mapping):
        raise TypeError(f"grid: expected a mapping from dims to points, got {type(grid).__name__}.")
    say = Statements.of(priors, parameters, noise, parents, support, reference)
    coordinates = xr.Dataset(coords={k: _points(k, x) for k, x in (grid or {}).items()})
    takes = _arguments(f, say, coordinates)
    example, inputs = _example(f, say, coordinates, takes, batched)
    lying = {str(d) for x in example.data_vars.values() for d in x.dims}
    guessed = any(d not in coordinates.coords and d.endswith("_dim") for d in lying)  # `_dims` found no grid for a path
    if guessed and (idle := [str(k) for k in coordinates.coords if str(k) not in lying]):
        sizes = {k: coordinates.sizes[k] for k in idle}
        raise ValueError(
            f"grid: nothing that the function returned lies on {sizes}; it returned the shapes "
            f"{ {str(k): x.shape for k, x in example.data_vars.items()} }. Return a number a "
            "point, or, where these are no paths, say so: {name: (dims, values)}."
        )
    same = [k for k in say.priors if k in example]
    for name in same:  # a Dataset may hold what it was made with
        if not np.allclose(example[name].to_numpy(), inputs[name]):
            raise ValueError(f"The function returns {name!r} other than it was given; leave it out.")
    schema, points = schema_of(example.drop_vars(same), say)
    check_grid(schema, points)
    own = OwnFunction(f, schema, coordinates, takes, batched, _shapes(example, schema), _labels(example, points))
    given = [v.name for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name)]
    whole = set(given) == set(say.priors)
    data = [schema[name] for name in schema.data]
    explicit = whole and not own.random and all(v.noise is not None for v in data) and not say.parameters
    return FunctionSimulator(
        schema,
        own.simulate,
        points,
        tuple(natural),
        plausible or {},
        own.clean if explicit else None,
        own.simulate_at if whole else None,
    )


@dataclass(frozen=True)
class OwnFunction:
    """Calls a function row by row, or for all rows at once, and makes tensors of what comes back.

    Args:
        f, takes: the function and the names of its arguments. coordinates: the grids that it may take.
        schema: of what it returns and of the parameters with priors.
        shapes: returned variable -> dims and shape in one simulation. labels: dim -> its coordinate in the example.
    """

    f: Callable[..., Any]
    schema: Schema
    coordinates: xr.Dataset
    takes: tuple[str, ...]
    batched: bool
    shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]]
    labels: Mapping[str, np.ndarray]

    @property
    def random(self) -> bool:
        return any(k in self.takes for k in _RANDOM)

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """n draws of all variables."""
        drawn = draw_parameters(self.schema, n, generator)
        return drawn | self._run(drawn, n, generator)

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator, /) -> dict[str, Tensor]:
        """Everything else at these parameters, (n,) or (n, size)."""
        return self._run(parameters, len(next(iter(parameters.values()))), generator)

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `simulate_at`, of a function that draws nothing."""
        return self._run(parameters, len(next(iter(parameters.values()))), None)

    def _run(self, parameters: Mapping[str, Tensor], n: int, generator: torch.Generator | None) -> dict[str, Tensor]:
        inputs = {k: x.detach().double().numpy() for k, x in parameters.items()}
        seeds = [0] * n
        if self.random and generator is not None:
            seeds = torch.randint(2**62, (n,), generator=generator).tolist()
        if self.batched:
            found = self._values(_call(self.f, self.takes, inputs, self.coordinates, seeds[0] if n else 0), n)
            return {k: torch.from_numpy(x) for k, x in found.items()}
        out = {k: np.full((n, *shape), np.nan) for k, (_, shape) in self.shapes.items()}
        for i, seed in enumerate(seeds):
            row = {k: float(x[i]) if x.ndim == 1 else x[i] for k, x in inputs.items()}
            try:
                result = _call(self.f, self.takes, row, self.coordinates, seed)
            except (ArithmeticError, np.linalg.LinAlgError):
                continue  # it could not be computed: NaN
            for k, x in self._values(result, None).items():
                out[k][i] = x
        return {k: torch.from_numpy(x) for k, x in out.items()}

    def _values(self, result: Any, n: int | None) -> dict[str, np.ndarray]:
        """float64, or float32, in the shapes of the example, `n` in front if there is one."""
        if not hasattr(result, "keys"):
            raise TypeError(f"The function returned a {type(result).__name__}; expected a Dataset or a mapping.")
        variables = dict(result.data_vars) if isinstance(result, xr.Dataset) else dict(result)
        if isinstance(result, xr.Dataset):
            self._require_labels(result.coords)
        else:
            self._require_labels({k: x[1] if isinstance(x, tuple) else x for k, x in variables.items()})
        out = {}
        for name, (dims, shape) in self.shapes.items():
            if name not in variables:
                raise ValueError(f"The function returned {sorted(map(str, variables))}, no {name!r} as in its example.")
            x, lead = variables[name], () if n is None else (n,)
            if isinstance(x, xr.DataArray):
                self._require_labels(x.coords)
                x = x.transpose(..., *dims) if set(dims) <= set(map(str, x.dims)) else x
            elif isinstance(x, tuple):
                x = xr.Variable(*x).transpose(..., *dims)
            values = np.asarray(x)
            values = values.astype(np.float32 if values.dtype == np.float32 else np.float64)
            if values.shape != (*lead, *shape):
                raise ValueError(
                    f"The function returned {name!r} of shape {values.shape}, expected {(*lead, *shape)} for "
                    f"{('simulation', *dims) if lead else dims}, as in its example."
                )
            out[name] = values
        return out

    def _require_labels(self, coords: Mapping[Any, Any]) -> None:
        for name, labels in self.labels.items():
            if name in coords and not np.array_equal(np.asarray(coords[name]), labels):
                raise ValueError(
                    f"The function returned another coordinate {name!r} than in its example; expected one grid for all "
                    "simulations: interpolate inside the function."
                )


def draw_parameters(schema: Schema, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """n draws of every scalar and vector parameter with a prior, (n,) or (n, size) float64, in the schema's order."""
    out = {}
    for v in schema.variables:
        if v.role == "parameter" and v.prior is not None and not schema.is_function(v.name):
            shape = (n,) if not v.dims else (n, schema.n_components(v.name))
            out[v.name] = prior_from_z(v.prior, torch.randn(shape, generator=generator, dtype=torch.float64))
    return out


def _call(
    f: Callable[..., Any], takes: Iterable[str], inputs: Mapping[str, Any], coordinates: xr.Dataset, seed: int
) -> Any:
    # copies: f may work in place, and what it was given is kept beside what it returns
    given: dict[str, Any] = {k: copy(inputs[k]) for k in takes if k in inputs}
    given |= {k: coordinates[k].to_numpy().copy() for k in takes if k in coordinates.coords}
    if "rng" in takes:
        given["rng"] = np.random.default_rng(seed)
    if "generator" in takes:
        given["generator"] = torch.Generator().manual_seed(seed)
    return f(**given)


def _points(name: str, given: Any) -> xr.DataArray:
    points = given if isinstance(given, xr.DataArray) else xr.DataArray(np.array(given), dims=(name,))
    if points.ndim != 1:
        raise ValueError(f"grid: expected points of {name!r} along one dim, got shape {points.shape}.")
    return xr.DataArray(points.to_numpy().copy(), dims=(name,), attrs=points.attrs)


def _arguments(f: Callable[..., Any], say: Statements, coordinates: xr.Dataset) -> tuple[str, ...]:
    """Names of what f is called with."""
    grids = list(map(str, coordinates.coords))
    known = [*say.priors, *grids, *_RANDOM]
    try:
        signature = inspect.signature(f).parameters.values()
    except (TypeError, ValueError) as error:
        raise ValueError(f"simulator: the arguments of {f!r} cannot be read; wrap it: lambda rate: f(rate).") from error
    named = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if strange := [str(p) for p in signature if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]:
        raise ValueError(f"simulator: the function is called by name, and {strange} have none; wrap it in a lambda.")
    rest = any(p.kind == p.VAR_KEYWORD for p in signature)
    takes = [p.name for p in named if p.name in known]
    require_known("argument", (p.name for p in named if p.default is p.empty and p.name not in known), known)
    takes += [k for k in (*say.priors, *grids) if rest and k not in takes]
    noises = [say.noise] if isinstance(say.noise, Noise) else say.noise.values()
    read = {*takes, *(noise.sd for noise in noises)}
    if unread := [k for k in say.priors if k not in read]:
        raise ValueError(
            f"simulator: {unread} have priors, but the function takes {takes} and no noise names them as its sd: "
            "data could tell nothing of them."
        )
    return tuple(takes)


def _example(
    f: Callable[..., Any], say: Statements, coordinates: xr.Dataset, takes: tuple[str, ...], batched: bool
) -> tuple[xr.Dataset, dict[str, Any]]:
    """One simulation that can be computed, as a Dataset, and the parameters that it was made with."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 if batched else 1
    for attempt in range(_TRIES):
        drawn = {
            k: prior_from_z(
                prior,
                torch.randn((rows, *([say.sizes[k]] if k in say.sizes else [])), generator=generator).double(),
            ).numpy()
            for k, prior in say.priors.items()
        }
        inputs = drawn if batched else {k: float(x[0]) if x.ndim == 1 else x[0] for k, x in drawn.items()}
        try:
            result = _call(f, takes, inputs, coordinates, attempt)
        except (ArithmeticError, np.linalg.LinAlgError):
            continue
        except Exception as error:
            shapes = {k: np.shape(x) for k, x in inputs.items()} | {
                str(k): c.shape for k, c in coordinates.coords.items()
            }
            raise ValueError(
                f"simulator: the function failed on an example, called with shapes "
                f"{ {k: shapes[k] for k in takes if k in shapes} }: {type(error).__name__}: {error}"
            ) from error
        data = _dataset(result, coordinates, rows if batched else None)
        return data, {k: x[0] for k, x in drawn.items()}
    raise ValueError(f"simulator: none of {_TRIES} simulations from the priors could be computed.")


def _dataset(result: Any, coordinates: xr.Dataset, n: int | None) -> xr.Dataset:
    """What a function returned, its first row if it returned n, with the dims of bare arrays guessed from the grids."""
    if not isinstance(result, xr.Dataset | Mapping):
        raise TypeError(f"The function returned a {type(result).__name__}; expected a Dataset or a mapping of values.")
    if isinstance(result, xr.Dataset):
        data = result
    else:
        named = {}
        for name, x in result.items():
            if isinstance(x, tuple | xr.DataArray):
                named[str(name)] = x if isinstance(x, xr.DataArray) else xr.Variable(*x)
            else:
                named[str(name)] = xr.Variable(_dims(str(name), np.shape(x), coordinates, n), np.asarray(x))
        data = xr.Dataset(named)
    data = data.assign_coords({k: c for k, c in coordinates.coords.items() if k in data.dims and k not in data.coords})
    for name, x in data.data_vars.items():
        if x.dtype.kind not in "biuf":
            raise TypeError(f"The function returned {name!r} of dtype {x.dtype}; expected real numbers.")
        if n is not None and (not x.ndim or x.sizes[x.dims[0]] != n or x.dims[0] in data.coords):
            raise ValueError(
                f"batched: {name!r} has shape {x.shape} for {n} simulations; expected {n} in front, along a dim of "
                "its own without a coordinate."
            )
    return data if n is None else data.isel({x.dims[0]: 0 for x in data.data_vars.values()})


def _dims(name: str, shape: tuple[int, ...], coordinates: xr.Dataset, n: int | None) -> tuple[str, ...]:
    lead, own = ((), shape) if n is None else (("simulation",), shape[1:])
    if n is not None and not shape:
        return ()  # `_dataset` says what is wrong
    fits = [[str(k) for k in coordinates.coords if coordinates.sizes[k] == size] for size in own]
    if all(len(f) == 1 for f in fits) and len({f[0] for f in fits}) == len(fits):
        return (*lead, *(f[0] for f in fits))
    if len(own) == 1 and not fits[0]:
        return (*lead, f"{name}_dim")
    sizes = {str(k): c.size for k, c in coordinates.coords.items()}
    raise ValueError(
        f"{name!r} has shape {own}, and the grids {sizes} leave open "
        f"what its dims are; return {{{name!r}: (dims, values)}}."
    )


def _shapes(example: xr.Dataset, schema: Schema) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    mine = [k for k in map(str, example.data_vars) if schema[k].prior is None]
    return {k: (schema[k].dims, tuple(example.sizes[d] for d in schema[k].dims)) for k in mine}


def _labels(example: xr.Dataset, points: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {k: example[k].to_numpy() for k in points}
