"""Which variables a model has, where they live, and how they are distributed and read.

A `Schema` lists `Variable`s. A variable is a scalar (no dims), a vector (a `Components` dim: one token a component), a
function of one or several continuous `Index` dims (one token a reading), or an array (`Axis` dims: observed as a whole
or absent, `n_tokens` tokens made by the user's embedding net). Tokens carry integers, so the schema numbers the
variables: a scalar or a function has one id, a vector one id a component, an array one id a token.

The schema is data: frozen, comparable, written to JSON and read back without running anything.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from fsimformer.dims import Axis, Components, Index, default_reference
from fsimformer.priors import COUNTS, POSITIVE, PRIORS, REAL, Noise, Prior, Support
from fsimformer.typed import require_types

__all__ = ["Axis", "Components", "Index", "Noise", "Schema", "Variable"]

Role = Literal["parameter", "data"]


@dataclass(frozen=True)
class Variable:
    """One variable of the joint distribution.

    Args:
        name: name in the user's Dataset.
        role: "parameter" (goes to the group `posterior`) or "data" (`posterior_predictive`, `predictions`).
        dims: names of its `Index` and `Components` dims, or of its `Axis` dims; empty for a scalar.
        prior: marginal prior, where it is known in closed form; the variable is then whitened exactly.
            For a function: the marginal at every single index point.
        support: where values may lie; taken from the prior where there is one.
        noise: measurement noise of a data variable whose simulator returns the clean path.
        parents: names of the variables it depends on directly, for dependency masks.
        blocks: a vector's components fall into this many equal, consecutive blocks that are independent given its
            parents; 1: they all hang together. Four draws of two numbers each: size 8, blocks 4.
        blockwise: those of the parents of which block i hangs on block i alone, both cut into `blocks` parts; on any
            other parent every block hangs as a whole. x_i ~ N(θ_i, s²): `parents=("theta", "s"), blocks=size,
            blockwise=("theta",)`.
        n_tokens: tokens that an array's embedding net makes of it.
        determined: a series whose path follows from its parents: its readings are independent given them.
        past_of: those of the parents, functions of the same first index dim, of which only the past counts: y(t) hangs
            on f(s ≤ t).
        reference: number of points along each index dim of a function's reference set, spread evenly over the trained
            range, its ends included. A draw is then a function: its values there are drawn together with all other
            latents, everywhere else it follows from them point by point (functions.py). True: 33 points on a line,
            9 × 9 on a plane, 5 along each of three dims (`default_reference`). (): no reference set.
        path_of: name of the series of which this is the noise-free path, on the same dims. The simulator returns that
            series alone; the path can be asked for, and the series is its path read with noise.
    """

    name: str
    role: Role
    dims: tuple[str, ...] = ()
    prior: Prior | None = None
    support: Support = REAL
    noise: Noise | None = None
    parents: tuple[str, ...] = ()
    blocks: int = 1
    blockwise: tuple[str, ...] = ()
    n_tokens: int = 1
    determined: bool = False
    past_of: tuple[str, ...] = ()
    reference: tuple[int, ...] = ()
    path_of: str | None = None

    def __post_init__(self) -> None:
        given: Any = self.reference
        points = default_reference(len(self.dims)) if given is True else given
        points = points if isinstance(points, tuple | list) else (points,)
        if any(isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 2 for n in points):
            raise ValueError(
                f"Variable {self.name!r}: expected reference as a number of points >= 2, one for each index dim, such "
                f"as 9 or (6, 6), or True for as many as were found enough, got {self.reference!r}."
            )
        object.__setattr__(self, "reference", tuple(map(int, points)))
        for name in ("dims", "parents", "blockwise", "past_of"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.blocks < 1:
            raise ValueError(f"Variable {self.name!r}: expected blocks >= 1, got {self.blocks}.")
        if self.blockwise and self.blocks == 1:
            raise ValueError(f"Variable {self.name!r}: blockwise parents {self.blockwise} need blocks > 1.")
        for field_name in ("blockwise", "past_of"):
            if strangers := [p for p in getattr(self, field_name) if p not in self.parents]:
                raise ValueError(
                    f"Variable {self.name!r}: {field_name} names {strangers}, not among parents {self.parents}."
                )
        if self.role not in ("parameter", "data"):
            raise ValueError(f"Variable {self.name!r}: unknown role {self.role!r}. Choices: 'parameter', 'data'.")
        if isinstance(self.n_tokens, bool) or not isinstance(self.n_tokens, int) or self.n_tokens < 1:
            raise ValueError(f"Variable {self.name!r}: expected an integer n_tokens >= 1, got {self.n_tokens!r}.")
        if self.prior is not None:
            if not getattr(self.prior, "scale", 1.0) > 0:
                raise ValueError(f"Variable {self.name!r}: expected a prior with scale > 0, got {self.prior}.")
            if self.support not in (REAL, self.prior.support):
                raise ValueError(
                    f"Variable {self.name!r}: support {self.support} contradicts its prior's {self.prior.support}."
                )
            object.__setattr__(self, "support", self.prior.support)
        if self.noise is None:
            return
        if self.prior is not None:
            raise ValueError(f"Variable {self.name!r}: a series with noise has no prior of its own, got {self.prior}.")
        if self.noise.kind == "lognormal" and self.support != POSITIVE:
            raise ValueError(
                f"Variable {self.name!r}: log-normal noise needs the positive support {POSITIVE}, got {self.support}."
            )
        if self.noise.kind == "negbinomial" and self.support != COUNTS:
            raise ValueError(f"Variable {self.name!r}: counts need the support COUNTS, {COUNTS}, got {self.support}.")
        if self.noise.kind == "normal" and self.support != REAL:
            raise ValueError(f"Variable {self.name!r}: normal noise can leave its support {self.support}.")


@dataclass(frozen=True)
class Schema:
    """The variables of a joint distribution and the dims they live on.

    Args:
        variables: in the order in which results list them.
        dims: the `Index`, `Components` and `Axis` that the variables name.

    Raises:
        ValueError: doubled names, unknown dims or parents, two `Components` dims in one variable, noise on a variable
            that is no series, blocks of a variable that is no vector or that do not divide it or a blockwise parent, an
            array variable that could be latent or has other dims besides, a reference set on what is no noise-free
            function or with another number of dims, a path that is not one of a series with noise.
    """

    variables: tuple[Variable, ...]
    dims: tuple[Index | Components | Axis, ...] = ()
    _first: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _residual: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        object.__setattr__(self, "dims", tuple(self.dims))
        names = [v.name for v in self.variables] + [d.name for d in self.dims]
        if len(set(names)) != len(names):
            raise ValueError(f"Schema: every variable and dim needs a name of its own, got {names}.")
        known = {d.name for d in self.dims}
        for v in self.variables:
            for d in v.dims:
                if d not in known:
                    raise ValueError(f"Variable {v.name!r}: unknown dim {d!r}. Dims of the schema: {sorted(known)}.")
            if sum(isinstance(self.dim(d), Components) for d in v.dims) > 1:
                raise ValueError(f"Variable {v.name!r}: at most one Components dim, got dims {v.dims}.")
            if len(set(v.dims)) != len(v.dims):
                raise ValueError(f"Variable {v.name!r}: a dim is named twice in {v.dims}.")
            self._check_array(v)
            if v.noise is not None and not any(isinstance(self.dim(d), Index) for d in v.dims):
                raise ValueError(
                    f"Variable {v.name!r}: noise is added where a series is read; the variable has no Index dim, so "
                    "its simulator must return it with its noise."
                )
            sd = v.noise.sd if v.noise is not None else None
            if isinstance(sd, str) and (sd not in self.names or self[sd].dims):
                raise ValueError(f"Variable {v.name!r}: its noise names {sd!r}, which is no scalar variable.")
            for p in v.parents:
                if p not in self.names:
                    raise ValueError(f"Variable {v.name!r}: unknown parent {p!r}. Variables: {list(self.names)}.")
            self._check_blocks(v)
            self._check_series(v)
            self._check_function(v)
        first = 0
        for v in self.variables:
            self._first[v.name] = first
            first += self.n_components(v.name) * v.n_tokens
        for v in self.variables:
            if v.reference:
                self._residual[v.name] = first
                first += self.n_components(v.name)

    def _check_array(self, v: Variable) -> None:
        axes = [d for d in v.dims if isinstance(self.dim(d), Axis)]
        if not axes and v.n_tokens != 1:
            raise ValueError(f"Variable {v.name!r}: n_tokens is for arrays; expected 1 without Axis, got {v.n_tokens}.")
        if axes and len(axes) < len(v.dims):
            raise ValueError(f"Variable {v.name!r}: an array has Axis dims alone, got {v.dims}, of which {axes} are.")
        if axes and (v.role != "data" or v.prior is not None):
            raise ValueError(
                f"Variable {v.name!r}: an array is observed or absent, never sampled: expected role 'data' and no "
                f"prior, got role {v.role!r} and prior {v.prior}. Components make a vector that is sampled."
            )

    def _check_blocks(self, v: Variable) -> None:
        if v.blocks > 1 and (self.component_dim(v.name) is None or self.is_function(v.name)):
            raise ValueError(f"Variable {v.name!r}: only a vector has blocks, got {v.blocks} with dims {v.dims}.")
        for name in (v.name, *v.blockwise):
            if (size := self.n_components(name)) % v.blocks:
                part = "its" if name == v.name else f"its blockwise parent {name!r} of"
                raise ValueError(f"Variable {v.name!r}: {v.blocks} blocks do not divide {part} {size} component(s).")

    def _check_series(self, v: Variable) -> None:
        if feedback := [p for p in v.past_of if v.name in self[p].parents]:
            raise ValueError(
                f"Variable {v.name!r}: past_of {feedback} hang on {v.name!r} in turn; leave them out there."
            )
        if v.determined and not self.is_function(v.name):
            raise ValueError(f"Variable {v.name!r}: only a series is determined by its parents, got dims {v.dims}.")
        for p in v.past_of:
            mine, theirs = (self.index_dims(name)[:1] for name in (v.name, p))
            if not mine or mine != theirs:
                raise ValueError(
                    f"Variable {v.name!r}: past_of {p!r} needs one first index dim for both, got {mine} and {theirs}."
                )

    def _check_function(self, v: Variable) -> None:
        """Reference sets and paths."""
        if v.reference and (v.noise is not None or len(v.reference) != len(self.index_dims(v.name))):
            raise ValueError(
                f"Variable {v.name!r}: a reference set is of a function without noise, with a number of points for "
                f"each of its index dims {self.index_dims(v.name)}; got reference {v.reference} and noise {v.noise}. "
                "For a series with noise, give it to a variable with path_of."
            )
        if v.path_of is None:
            return
        if v.path_of not in self.names or self[v.path_of].noise is None:
            series = [w.name for w in self.variables if w.noise is not None]
            raise ValueError(f"Variable {v.name!r}: path_of {v.path_of!r} is no series with noise. Choices: {series}.")
        series_dims, support = self[v.path_of].dims, self[v.path_of].support
        if (v.role, v.dims, v.prior, v.noise, v.support) != ("parameter", series_dims, None, None, support):
            raise ValueError(
                f"Variable {v.name!r}: the path of {v.path_of!r} has role 'parameter', its dims {series_dims} and "
                f"support {support}, no prior and no noise; got {v}."
            )

    @property
    def paths(self) -> dict[str, str]:
        """Noise-free path -> its series: what the simulator does not return by itself."""
        return {v.name: v.path_of for v in self.variables if v.path_of is not None}

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the variables without dims."""
        return tuple(v.name for v in self.variables if not v.dims)

    @property
    def references(self) -> tuple[str, ...]:
        """Names of the functions with a reference set."""
        return tuple(v.name for v in self.variables if v.reference)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(v.name for v in self.variables)

    def __getitem__(self, name: str) -> Variable:
        for v in self.variables:
            if v.name == name:
                return v
        raise KeyError(f"No variable named {name!r}. Variables: {list(self.names)}.")

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def dim(self, name: str) -> Index | Components | Axis:
        """The dim of this name."""
        for d in self.dims:
            if d.name == name:
                return d
        raise KeyError(f"No dim named {name!r}. Dims: {[d.name for d in self.dims]}.")

    @property
    def indexes(self) -> tuple[Index, ...]:
        """The continuous dims; their order is that of a token's `index`."""
        return tuple(d for d in self.dims if isinstance(d, Index))

    def index_dims(self, name: str) -> tuple[str, ...]:
        """Continuous dims of a variable, in the variable's own order."""
        return tuple(d for d in self[name].dims if isinstance(self.dim(d), Index))

    def component_dim(self, name: str) -> str | None:
        """The variable's `Components` dim, if it has one."""
        return next((d for d in self[name].dims if isinstance(self.dim(d), Components)), None)

    def n_components(self, name: str) -> int:
        dim = self.component_dim(name)
        if dim is None:
            return 1
        found = self.dim(dim)
        assert isinstance(found, Components)
        return found.size

    def is_function(self, name: str) -> bool:
        return bool(self.index_dims(name))

    @property
    def arrays(self) -> dict[str, tuple[int, ...]]:
        """Shape of every array variable, by name."""
        out = {}
        for v in self.variables:
            sizes = [d.size for d in map(self.dim, v.dims) if isinstance(d, Axis)]
            if sizes:
                out[v.name] = tuple(sizes)
        return out

    @property
    def data(self) -> tuple[str, ...]:
        """Names of the variables whose role is "data"."""
        return tuple(v.name for v in self.variables if v.role == "data")

    @property
    def n_ids(self) -> int:
        """How many variable ids tokens use."""
        return sum(len(self.ids(v.name)) + len(self.residual_ids(v.name)) for v in self.variables)

    def ids(self, name: str) -> range:
        """Token ids of a variable: one, or one a component, or one a token of an array."""
        first = self._first[self[name].name]
        return range(first, first + self.n_components(name) * self[name].n_tokens)

    def residual_ids(self, name: str) -> range:
        """Token ids of what a function is besides the spline through its reference set, one a component; else none."""
        if not self[name].reference:
            return range(0)
        return range(self._residual[name], self._residual[name] + self.n_components(name))

    def variable_of(self, id: int) -> Variable:
        """The variable that owns a token id."""
        for v in self.variables:
            if id in self.ids(v.name) or id in self.residual_ids(v.name):
                return v
        raise KeyError(f"No variable id {id}. There are {self.n_ids}.")

    def uses_index(self) -> np.ndarray:
        """Bool (n_ids, n_indexes): does the id's variable live on this index dim?"""
        out = np.zeros((self.n_ids, len(self.indexes)), dtype=bool)
        for v in self.variables:
            for j, index in enumerate(self.indexes):
                out[[*self.ids(v.name), *self.residual_ids(v.name)], j] = index.name in v.dims
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; `Schema.from_dict` reads it back."""

        def plain(obj: Any) -> Any:
            out = {k: (list(v) if isinstance(v, tuple) else v) for k, v in asdict(obj).items()}
            return {k: (None if isinstance(v, float) and math.isinf(v) else v) for k, v in out.items()}

        variables = []
        for v in self.variables:
            entry = plain(v)
            entry["support"] = plain(v.support)
            entry["prior"] = None if v.prior is None else {"kind": type(v.prior).__name__, **plain(v.prior)}
            variables.append(entry)
        dims = [{"kind": type(d).__name__, **plain(d)} for d in self.dims]
        return {"variables": variables, "dims": dims}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Schema:
        """Inverse of `to_dict`; old files lack keys with defaults. An unknown key raises ValueError."""
        _check_keys("Schema", data, {"variables", "dims"})
        variables = []
        for entry in data["variables"]:
            _check_keys("Variable", entry, {f.name for f in fields(Variable)})
            require_types("Variable", Variable, entry)
            entry = dict(entry)
            support = entry["support"]
            _check_keys("Support", support, {f.name for f in fields(Support)})
            require_types("Support", Support, {k: v for k, v in support.items() if v is not None})
            entry["support"] = Support(
                -math.inf if support["lower"] is None else support["lower"],
                math.inf if support["upper"] is None else support["upper"],
            )
            if entry["prior"] is not None:
                entry["prior"] = _build(PRIORS, "prior", entry["prior"])
            if entry["noise"] is not None:
                _check_keys("Noise", entry["noise"], {f.name for f in fields(Noise)})
                require_types("Noise", Noise, entry["noise"])
                entry["noise"] = Noise(**entry["noise"])
            variables.append(Variable(**entry))
        kinds: dict[str, type[Any]] = {"Index": Index, "Components": Components, "Axis": Axis}
        return cls(tuple(variables), tuple(_build(kinds, "dim", d) for d in data["dims"]))


def _check_keys(what: str, data: dict[str, Any], expected: set[str]) -> None:
    if unknown := set(data) - expected:
        raise ValueError(f"{what}: unknown keys {sorted(unknown)}. Known keys: {sorted(expected)}.")


def _build(kinds: dict[str, type[Any]], what: str, data: dict[str, Any]) -> Any:
    data = dict(data)
    kind = data.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"Unknown {what} {kind!r}. Choices: {sorted(kinds)}.")
    _check_keys(kind, data, {f.name for f in fields(kinds[kind])})
    require_types(kind, kinds[kind], data)
    return kinds[kind](**data)
