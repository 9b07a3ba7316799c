"""What a simulator is: draws from the joint distribution of a schema's variables, functions on a dense grid.

A user's own simulator is a schema, a function and a grid::

    FunctionSimulator(schema, simulate, {"time": torch.linspace(0, 10, 201, dtype=torch.float64)})

Simulators return *clean* paths; measurement noise is added where a path is read (design.md, D5). Between the grid's
points a path is interpolated after its support's bijection (the logarithm, for positive functions): right for paths
that grow and fall exponentially. An attribute `natural` may name functions that are smooth as they are.
An attribute `plausible` may say within which values readings of a data variable are ever taken: training then spends
nothing on wilder observations, and a warning meets those who bring one.
A method `simulate_at(parameters, generator)` may give draws of everything else at chosen parameters, which sequential
training asks for; where paths follow from scalar parameters, `clean(parameters)` does as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fsimformer.priors import Prior
from fsimformer.schema import Axis, Components, Schema, Variable
from fsimformer.whiten import prior_from_z

SimulateAt = Callable[[Mapping[str, Tensor], torch.Generator], dict[str, Tensor]]
"""Scalar and vector parameters, each (n,) or (n, size) float64 -> a draw of every other variable, as `simulate`'s."""


@runtime_checkable
class Simulator(Protocol):
    """Draws from p(parameters, functions, observations). `natural`, `plausible`, `simulate_at` (above) are optional."""

    @property
    def schema(self) -> Schema:
        """The variables that `simulate` returns."""
        ...

    @property
    def grid(self) -> dict[str, Tensor]:
        """Evenly spaced float64 grid of every `Index` dim, over its trained range; {} if there is none."""
        ...

    def simulate(self, n: int, generator: torch.Generator, /) -> dict[str, Tensor]:
        """n independent draws of every variable.

        Returns:
            name -> scalar (n,), vector (n, size), array (n, *sizes), function (n, *grid sizes in the order of the
            variable's dims).
            A data variable with a `Noise` is its clean path. A row that could not be computed is NaN.
        """
        ...


@dataclass(frozen=True)
class FunctionSimulator:
    """A simulator made of its parts.

    Args:
        schema: the variables.
        simulate: (n, generator) -> name -> tensor, as `Simulator.simulate`.
        grid: name of an `Index` dim -> its evenly spaced grid, float64.
        natural: functions that are interpolated as they are, not after their support's bijection.
        plausible: name of a data variable -> lowest and highest reading that is ever taken.
        paths: (parameters, each (n,) float64) -> clean paths (n, *grid) by name, where they follow from the parameters;
            what `log_likelihood` reads.
        simulate_at: (parameters, generator) -> a draw of every other variable for each row of the scalar and vector
            parameters, (n,) or (n, size) float64; what `train_sequential` asks for, unless there are `paths`.
    """

    schema: Schema
    simulate: Callable[[int, torch.Generator], dict[str, Tensor]]
    grid: dict[str, Tensor] = field(default_factory=dict)
    natural: tuple[str, ...] = ()
    plausible: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    paths: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    simulate_at: SimulateAt | None = None

    def clean(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Clean paths for given parameters.

        Raises:
            TypeError: the simulator was made without `paths`.
        """
        if self.paths is None:
            raise TypeError("FunctionSimulator: made without `paths`; expected a function parameters -> clean paths.")
        return self.paths(parameters)


def natural_functions(simulator: Simulator) -> tuple[str, ...]:
    """Functions that the simulator wants interpolated in natural units.

    Raises:
        ValueError: `natural` names no function of its schema, or is one string.
    """
    natural, schema = getattr(simulator, "natural", ()), simulator.schema
    functions = [v.name for v in schema.variables if schema.is_function(v.name)]
    if isinstance(natural, str) or not set(natural) <= set(functions):
        raise ValueError(f"natural: expected a tuple of functions of the schema, {functions}; got {natural!r}.")
    return tuple(natural)


def plausible_ranges(simulator: Simulator) -> dict[str, tuple[float, float]]:
    """Data variable -> lowest and highest plausible reading, in its own units.

    Raises:
        ValueError: `plausible` names no data variable, or lower >= upper, or a bound off the variable's support.
    """
    plausible, schema = getattr(simulator, "plausible", {}), simulator.schema
    names = [name for name in schema.data if name not in schema.arrays]
    if not isinstance(plausible, Mapping) or not set(plausible) <= set(names):
        raise ValueError(f"plausible: expected a mapping from data variables, {names}, to ranges; got {plausible!r}.")
    out = {}
    for name, ends in plausible.items():
        support = schema[name].support
        try:
            lower, upper = (float(x) for x in ends)
        except (TypeError, ValueError) as error:
            raise ValueError(f"plausible: expected two ends for {name!r}, got {ends!r}.") from error
        if not support.lower <= lower < upper <= support.upper or math.isinf(lower) or math.isinf(upper):
            raise ValueError(f"plausible: expected lower < upper within {support} for {name!r}, got {lower}, {upper}.")
        out[name] = (lower, upper)
    return out


def conditional_simulator(simulator: Simulator) -> SimulateAt:
    """A simulator's way to draw everything else at chosen scalar and vector parameters.

    Raises:
        TypeError: it has neither `simulate_at` nor `clean`.
    """
    at: SimulateAt | None = getattr(simulator, "simulate_at", None)
    if at is not None:
        return at
    clean = getattr(simulator, "clean", None)
    if clean is None or getattr(simulator, "paths", clean) is None:
        raise TypeError(
            f"{type(simulator).__name__} draws from its prior only; expected a method simulate_at(parameters, "
            "generator) -> draws of every other variable, or FunctionSimulator(..., simulate_at=f)."
        )
    return lambda parameters, generator: clean(parameters)


def require_priors(priors: Mapping[str, Prior], names: tuple[str, ...]) -> None:
    """Raises ValueError unless there is exactly one prior for each name."""
    if set(priors) != set(names):
        raise ValueError(f"priors: expected one for each of {list(names)}, got {list(priors)}.")


def draw_priors(schema: Schema, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """n draws of every scalar parameter with a prior, float64 (n,), in the schema's order."""
    out = {}
    for v in schema.variables:
        if v.role == "parameter" and not v.dims and v.prior is not None:
            out[v.name] = prior_from_z(v.prior, torch.randn(n, generator=generator, dtype=torch.float64))
    return out


def check(simulator: Simulator, n: int = 3, seed: int = 0) -> None:
    """Simulates n rows and compares them with the schema.

    Raises:
        TypeError: an attribute of the protocol is missing, draws come in no mapping, or a value is not a floating-point
            tensor.
        ValueError: the grid or a draw has another name or shape than the schema says, or values off their support;
            draws that differ for one seed; `paths` that are not those of the draws; a `simulate_at` that returns
            other variables or shapes, or draws that differ for one seed.
    """
    missing = [a for a in ("schema", "grid", "simulate") if not hasattr(simulator, a)]
    if missing:
        raise TypeError(f"{type(simulator).__name__} is no Simulator: it lacks {missing}.")
    schema = simulator.schema
    natural_functions(simulator)
    plausible_ranges(simulator)
    check_grid(schema, simulator.grid)
    draws, again = (simulator.simulate(n, torch.Generator().manual_seed(seed)) for _ in range(2))
    _require_mapping("simulate()", draws)
    returned = set(schema.names) - set(schema.paths)
    if set(draws) != returned:
        absent, unknown = sorted(returned - set(draws)), sorted(set(draws) - returned)
        raise ValueError(f"simulate(): expected every variable of the schema. Missing: {absent}, unknown: {unknown}.")
    for v in (schema[name] for name in schema.names if name in returned):
        _check_draw(schema, v, simulator.grid, draws[v.name], n)
        if not torch.equal(torch.nan_to_num(draws[v.name]), torch.nan_to_num(again[v.name])):
            raise ValueError(f"simulate(): {v.name!r} differs for one seed; draw all randomness from the generator.")
    if getattr(simulator, "paths", None) is not None:
        _check_paths(schema, simulator, draws)
    if getattr(simulator, "simulate_at", None) is not None:
        _check_simulate_at(schema, simulator, draws, n, seed)


def check_conditional(simulator: Simulator, n: int = 3, seed: int = 0) -> None:
    """Simulates n rows, and everything else anew at their parameters, by `simulate_at` or `clean`.

    Raises:
        TypeError: the simulator has neither, or its draws come in no mapping.
        ValueError: it wants more than the scalar and vector parameters, or returns other variables or shapes than the
            schema says, or draws that differ for one seed.
    """
    draws = simulator.simulate(n, torch.Generator().manual_seed(seed))
    _check_simulate_at(simulator.schema, simulator, draws, n, seed)


def given_parameters(schema: Schema) -> tuple[str, ...]:
    """Names of the parameters that are scalars or vectors: what `simulate_at` takes."""
    return tuple(v.name for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name))


def _check_simulate_at(schema: Schema, simulator: Simulator, draws: dict[str, Tensor], n: int, seed: int) -> None:
    given = {k: draws[k].double() for k in given_parameters(schema)}
    at, expected = conditional_simulator(simulator), sorted(set(schema.names) - set(schema.paths) - set(given))
    what = "clean()" if getattr(simulator, "simulate_at", None) is None else "simulate_at()"
    try:
        drawn, again = (at(given, torch.Generator().manual_seed(seed)) for _ in range(2))
    except KeyError as error:
        raise ValueError(
            f"{what}: asks for {error} besides the scalar and vector parameters {sorted(given)}; expected a method "
            f"simulate_at(parameters, generator) that draws {expected}."
        ) from error
    _require_mapping(what, drawn)
    if set(drawn) != set(expected):
        too_many = "; leave the parameters out" if set(drawn) & set(given) else ""
        raise ValueError(f"{what}: expected the variables {expected}, got {sorted(drawn)}{too_many}.")
    for name, draw in drawn.items():
        _check_draw(schema, schema[name], simulator.grid, draw, n)
        if not torch.equal(torch.nan_to_num(draw), torch.nan_to_num(again[name])):
            raise ValueError(f"{what}: {name!r} differs for one seed; draw all randomness from the generator.")


def _check_paths(schema: Schema, simulator: Any, draws: dict[str, Tensor]) -> None:
    """`clean` gives the paths of the simulator's own draws."""
    parameters = {
        v.name: draws[v.name].double() for v in schema.variables if v.role == "parameter" and v.path_of is None
    }
    paths = simulator.clean(parameters)
    _require_mapping("paths", paths)
    for name, path in paths.items():
        if name not in draws or path.shape != draws[name].shape:
            shapes = {k: tuple(x.shape) for k, x in draws.items() if k not in parameters}
            raise ValueError(f"paths: expected {shapes} as simulate() returns them, got {name!r} {tuple(path.shape)}.")
        if not torch.allclose(path.double(), draws[name].double(), rtol=1e-4, atol=1e-6, equal_nan=True):
            raise ValueError(f"paths: {name!r} differs from what simulate() returns for the same parameters.")


def _require_mapping(what: str, drawn: object) -> None:
    if not isinstance(drawn, Mapping):
        raise TypeError(f"{what}: expected a dict of variable -> tensor, got {type(drawn).__name__}.")


def check_grid(schema: Schema, grid: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless every index dim has an increasing, evenly spaced grid over its trained range."""
    expected = {d.name for d in schema.indexes}
    if set(grid) != expected:
        raise ValueError(f"Grid: expected one entry for each Index dim {sorted(expected)}, got {sorted(grid)}.")
    for index in schema.indexes:
        points = grid[index.name]
        if points.dtype != torch.float64 or points.ndim != 1 or len(points) < 2 or not bool((points.diff() > 0).all()):
            raise ValueError(
                f"Grid of {index.name!r}: expected at least two increasing float64 points, "
                f"got {points.dtype} of shape {tuple(points.shape)}."
            )
        steps = points.diff()
        if float(steps.max() - steps.min()) > 1e-4 * float(steps.mean()):  # training interpolates by position
            raise ValueError(
                f"Grid of {index.name!r}: expected evenly spaced points, got steps from {float(steps.min()):g} to "
                f"{float(steps.max()):g}; interpolate inside simulate()."
            )
        slack = 1e-9 * (index.upper - index.lower)
        if abs(float(points[0]) - index.lower) > slack or abs(float(points[-1]) - index.upper) > slack:
            raise ValueError(
                f"Grid of {index.name!r}: expected the trained range [{index.lower:g}, {index.upper:g}], "
                f"got [{float(points[0]):g}, {float(points[-1]):g}]."
            )


def _check_draw(schema: Schema, v: Variable, grid: dict[str, Tensor], draw: object, n: int) -> None:
    if not isinstance(draw, Tensor) or draw.dtype not in (torch.float32, torch.float64):
        got = draw.dtype if isinstance(draw, Tensor) else type(draw).__name__
        raise TypeError(f"Variable {v.name!r}: expected a float32 or float64 tensor, got {got}.")
    sizes = []
    for name in v.dims:
        dim = schema.dim(name)
        sizes.append(dim.size if isinstance(dim, (Axis, Components)) else len(grid[name]))
    shape = (n, *sizes)
    if tuple(draw.shape) != shape:
        dims = ("draws", *v.dims)
        raise ValueError(f"Variable {v.name!r}: expected shape {shape} for dims {dims}, got {tuple(draw.shape)}.")
    finite = draw[torch.isfinite(draw)].numpy()
    if not v.support.contains(finite).all():
        raise ValueError(
            f"Variable {v.name!r}: values outside its support {v.support}, from {finite.min():g} to {finite.max():g}."
        )
