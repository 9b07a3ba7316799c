"""Values ↔ whitened values: every variable becomes roughly N(0, 1) before the network sees it.

With a known prior, z = Φ⁻¹(F(θ)) exactly (design.md, D4): the prior of z is N(0, 1) and no draw can leave the support.
Otherwise y = b(x) with the support's bijection b (identity, log, logit), then z = s(y) with

    s(y) = (y − loc)/scale,   or   tail · asinh((y − loc)/(scale · tail))   where the simulations have heavy tails.

All maps are strictly increasing; `log_det` is log |dx/dz|, what a log density in x subtracts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsimformer.priors import LogitNormal, LogNormal, Normal, Prior, Support, TruncatedNormal, Uniform
from fsimformer.schema import Schema
from fsimformer.typed import require_types

Ints = Tensor | np.ndarray

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def _log_phi(z: Tensor) -> Tensor:
    return -0.5 * z * z - _LOG_SQRT_2PI


def _survival_inverse(log_sf: Tensor) -> Tensor:
    """z with log(1 − Φ(z)) = log_sf, precise in both tails."""
    sf = log_sf.exp()
    return torch.where(sf < 0.5, -torch.special.ndtri(sf), torch.special.ndtri(-torch.expm1(log_sf)))


def prior_to_z(prior: Prior, x: Tensor) -> Tensor:
    """z = Φ⁻¹(F(x)); x of any shape, float64 recommended."""
    match prior:
        case Normal(loc, scale):
            return (x - loc) / scale
        case LogNormal(loc, scale):
            return (x.log() - loc) / scale
        case Uniform(lower, upper):
            return torch.special.ndtri((x - lower) / (upper - lower))
        case LogitNormal(loc, scale, lower, upper):
            return (((x - lower) / (upper - x)).log() - loc) / scale
        case TruncatedNormal(loc, scale, lower):
            # 1 − F(x) = (1 − Φ(x'))/(1 − Φ(l')), worked in logs: the upper tail stays exact
            log_sf = torch.special.log_ndtr((loc - x) / scale) - _log_mass_above(prior)
            return _survival_inverse(log_sf)
    raise TypeError(f"No whitening for a prior of type {type(prior).__name__}.")


def prior_from_z(prior: Prior, z: Tensor) -> Tensor:
    """Inverse of `prior_to_z`: a standard normal z becomes a draw of the prior."""
    match prior:
        case Normal(loc, scale):
            return loc + scale * z
        case LogNormal(loc, scale):
            return (loc + scale * z).exp()
        case Uniform(lower, upper):
            return lower + (upper - lower) * torch.special.ndtr(z)
        case LogitNormal(loc, scale, lower, upper):
            return lower + (upper - lower) * torch.sigmoid(loc + scale * z)
        case TruncatedNormal(loc, scale, lower):
            log_sf = torch.special.log_ndtr(-z) + _log_mass_above(prior)
            return loc + scale * _survival_inverse(log_sf)
    raise TypeError(f"No whitening for a prior of type {type(prior).__name__}.")


def prior_log_prob(prior: Prior, x: Tensor) -> Tensor:
    """log p(x) on the original scale: log φ(z) − log |dx/dz|."""
    z = prior_to_z(prior, x)
    return _log_phi(z) - _prior_log_det(prior, z)


def _log_mass_above(prior: TruncatedNormal) -> float:
    return float(torch.special.log_ndtr(torch.tensor((prior.loc - prior.lower) / prior.scale, dtype=torch.float64)))


def _prior_log_det(prior: Prior, z: Tensor) -> Tensor:
    match prior:
        case Normal(_, scale):
            return torch.full_like(z, math.log(scale))
        case LogNormal(loc, scale):
            return loc + scale * z + math.log(scale)
        case Uniform(lower, upper):
            return _log_phi(z) + math.log(upper - lower)
        case LogitNormal(loc, scale, lower, upper):
            g = loc + scale * z
            logsig = torch.nn.functional.logsigmoid
            return logsig(g) + logsig(-g) + math.log(scale * (upper - lower))
        case TruncatedNormal(loc, scale, _):
            x = (prior_from_z(prior, z) - loc) / scale
            return _log_phi(z) - _log_phi(x) + _log_mass_above(prior) + math.log(scale)
    raise TypeError(f"No whitening for a prior of type {type(prior).__name__}.")


@dataclass(frozen=True)
class Standardise:
    """s(y) above; `tail` None = linear. loc and scale in units of b(x)."""

    loc: float = 0.0
    scale: float = 1.0
    tail: float | None = None

    def forward(self, y: Tensor) -> Tensor:
        z = (y - self.loc) / self.scale
        return z if self.tail is None else self.tail * torch.asinh(z / self.tail)

    def inverse(self, z: Tensor) -> Tensor:
        y = z if self.tail is None else self.tail * torch.sinh(z / self.tail)
        return self.loc + self.scale * y

    def log_det(self, z: Tensor) -> Tensor:
        """log |dy/dz|."""
        out = torch.full_like(z, math.log(self.scale))
        return out if self.tail is None else out + torch.cosh(z / self.tail).log()


def fit_standardise(
    y: Tensor, noise_sd: float | None = None, heavy: float = 12.0, tail: float = 3.0, span: float = 50.0
) -> Standardise:
    """Centre and scale from draws y (any shape, a function's grid last; non-finite ones ignored).

    Light tails: mean and standard deviation. Where one draw in a thousand lies beyond `heavy` robust standard
    deviations, median and quartile range with asinh tails: a few wild simulations must not flatten all others.
    Likewise where the scale would exceed `span` times the measurement noise, which the network must still resolve.
    """
    period = y.shape[-1] if y.dim() > 1 else 1
    y = y.flatten().to(torch.float64)
    y = y[torch.isfinite(y)]
    if y.numel() < 2 or float(y.std()) == 0:
        return Standardise(float(y.mean()) if y.numel() else 0.0, 1.0)
    if y.numel() > 1_000_000:  # torch.quantile is limited to 16 M entries; a fixed stride keeps the fit deterministic
        stride = y.numel() // 1_000_000
        while period // math.gcd(stride, period) < min(period, 50):  # out of step with the grid: fifty places of it
            stride += 1
        y = y[::stride]
    q = torch.quantile(y, y.new_tensor([0.0005, 0.25, 0.5, 0.75, 0.9995]))
    robust = float(q[3] - q[1]) / 1.349
    if noise_sd is not None and robust > span * noise_sd:
        return Standardise(float(q[2]), span * noise_sd, tail)
    if robust > 0 and max(float(q[4] - q[2]), float(q[2] - q[0])) > heavy * robust:
        return Standardise(float(q[2]), robust, tail)
    return Standardise(float(y.mean()), float(y.std()))


def _require_varied(name: str, draws: Tensor, component: str | None, dims: tuple[str, ...]) -> None:
    parts = [draws] if component is None else draws.movedim(1 + dims.index(component), 0)
    for c, x in enumerate(parts):
        held = x[torch.isfinite(x)]
        if len(x) > 1 and len(held) and bool((held == held[0]).all()):
            what = repr(name) if component is None else f"component {c} of {name!r}"
            raise ValueError(
                f"The parameter {what} is {float(held[0]):g} in all {len(x)} simulations: a constant is not to be "
                "inferred. Leave it out of the schema, or let the simulator draw it."
            )


@dataclass(frozen=True)
class Transform:
    """The map of one variable: exact by its prior, else bijection of its support and `standardise`."""

    prior: Prior | None
    support: Support
    standardise: Standardise = Standardise()

    def forward(self, x: Tensor) -> Tensor:
        """x -> z."""
        if self.prior is not None:
            return prior_to_z(self.prior, x)
        return self.standardise.forward(self.unbound(x))

    def inverse(self, z: Tensor) -> Tensor:
        """z -> x; where rounding would reach an end of the support, the last number inside it."""
        lower, upper = self.support.lower, self.support.upper
        if self.prior is not None:
            x = prior_from_z(self.prior, z)
        else:
            x = self.standardise.inverse(z)
            if math.isfinite(lower):
                x = lower + x.exp() if math.isinf(upper) else lower + (upper - lower) * torch.sigmoid(x)
        ends = x.new_tensor([lower, upper])
        return x.clamp(*torch.nextafter(ends, ends.flip(0)))

    def log_det(self, z: Tensor) -> Tensor:
        """log |dx/dz| at z."""
        if self.prior is not None:
            return _prior_log_det(self.prior, z)
        y, lower, upper = self.standardise.inverse(z), self.support.lower, self.support.upper
        out = self.standardise.log_det(z)
        if math.isinf(lower):
            return out
        logsig = torch.nn.functional.logsigmoid
        return out + (y if math.isinf(upper) else logsig(y) + logsig(-y) + math.log(upper - lower))

    def unbound(self, x: Tensor) -> Tensor:
        """The support's bijection onto the real line: x, log(x − l), or logit."""
        lower, upper = self.support.lower, self.support.upper
        if math.isinf(lower):
            return x
        return (x - lower).log() if math.isinf(upper) else ((x - lower) / (upper - x)).log()


@dataclass(frozen=True)
class Whitening:
    """The transforms of all variables, by name: one for all components, or a tuple with one for each."""

    transforms: dict[str, Transform | tuple[Transform, ...]]

    def __getitem__(self, name: str) -> Transform:
        """The one transform of a variable.

        Raises:
            TypeError: every component has its own; `part` gives them.
        """
        found = self.transforms[name]
        if not isinstance(found, Transform):
            raise TypeError(f"Whitening of {name!r}: its {len(found)} components have a transform each; use part().")
        return found

    def part(self, name: str, component: int) -> Transform:
        """The transform of one component."""
        found = self.transforms[name]
        return found if isinstance(found, Transform) else found[component]

    def forward(self, name: str, x: Tensor, component: Ints) -> Tensor:
        """x -> z, (..., n); `component` (n,) says which component each entry is of."""
        return self._each(name, lambda t, v: t.forward(v), x, component)

    def inverse(self, name: str, z: Tensor, component: Ints) -> Tensor:
        """z -> x, (..., n)."""
        return self._each(name, lambda t, v: t.inverse(v), z, component)

    def log_det(self, name: str, z: Tensor, component: Ints) -> Tensor:
        """log |dx/dz| at z, (..., n)."""
        return self._each(name, lambda t, v: t.log_det(v), z, component)

    def _each(self, name: str, what: Callable[[Transform, Tensor], Tensor], v: Tensor, component: Ints) -> Tensor:
        found = self.transforms[name]
        if isinstance(found, Transform):
            return what(found, v)
        out, component = torch.empty_like(v), torch.as_tensor(component)
        for c, t in enumerate(found):
            out[..., component == c] = what(t, v[..., component == c])
        return out

    @classmethod
    def fit(cls, schema: Schema, simulations: Mapping[str, Tensor]) -> Whitening:
        """Fit the variables without a prior to simulations of them (any shape, clean or noisy; a vector's components
        where `Simulator.simulate` has them); the others may be absent. Components are fitted one by one: they may
        differ in place and scale.

        Raises:
            ValueError: a parameter, or a component of one, that never changes.
        """
        out: dict[str, Transform | tuple[Transform, ...]] = {}
        for v in sorted(schema.variables, key=lambda v: v.path_of is not None):
            if v.path_of is not None:  # as the series is read: noise has one size on both
                out[v.name] = out[v.path_of]
                continue
            if v.role == "parameter" and v.name in simulations:
                _require_varied(v.name, simulations[v.name], schema.component_dim(v.name), v.dims)
            whole = Transform(v.prior, v.support)
            if v.prior is not None:
                out[v.name] = whole
                continue
            sd = v.noise.sd if v.noise is not None and not isinstance(v.noise.sd, str) else None
            dim, draws = schema.component_dim(v.name), simulations[v.name]
            if v.name in schema.arrays:  # some millions of values tell one centre and scale, and fit in memory
                draws = draws[:: draws.numel() // 4_000_000 + 1]
            parts = [draws] if dim is None else draws.movedim(1 + v.dims.index(dim), 0)
            fitted = tuple(Transform(None, v.support, fit_standardise(whole.unbound(x), sd)) for x in parts)
            out[v.name] = fitted[0] if dim is None else fitted
        return cls(out)

    def to_dict(self) -> dict[str, Any]:
        """What was fitted, as plain JSON types: an entry a variable, a list of them for a vector; priors and supports
        are the schema's."""
        return {
            name: asdict(t.standardise) if isinstance(t, Transform) else [asdict(part.standardise) for part in t]
            for name, t in self.transforms.items()
            if not isinstance(t, Transform) or t.prior is None
        }

    @classmethod
    def from_dict(cls, schema: Schema, data: dict[str, Any]) -> Whitening:
        """Inverse of `to_dict`; one entry for all components, as in older files, is read as well.

        Raises:
            ValueError: entries for other variables or components than the schema's.
        """
        fitted = {v.name for v in schema.variables if v.prior is None}
        if set(data) != fitted:
            raise ValueError(f"Whitening: expected entries for {sorted(fitted)}, got {sorted(data)}.")
        out: dict[str, Transform | tuple[Transform, ...]] = {}
        for v in schema.variables:
            entry, size = data.get(v.name), schema.n_components(v.name)
            if isinstance(entry, list):
                if schema.component_dim(v.name) is None or len(entry) != size:
                    raise ValueError(
                        f"Whitening of {v.name!r}: expected {size} component(s), got {len(entry)} in a list."
                    )
                out[v.name] = tuple(Transform(None, v.support, read_standardise(v.name, e)) for e in entry)
            else:
                out[v.name] = Transform(v.prior, v.support, read_standardise(v.name, entry or {}))
        return cls(out)


def read_standardise(name: str, entry: Mapping[str, Any]) -> Standardise:
    """What `asdict` made of it.

    Raises:
        ValueError: what is no number, or a scale or tail that is not positive. TypeError: unknown keys.
    """
    require_types(f"Whitening of {name!r}", Standardise, entry)
    out = Standardise(**entry)
    if not out.scale > 0 or not (out.tail is None or out.tail > 0):
        raise ValueError(f"Whitening of {name!r}: expected scale > 0 and tail > 0 or None, got {out}.")
    return out
