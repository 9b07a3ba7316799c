"""Log densities of any finite set of values given an observation, on the original scale.

    log p(x | observed) = Σ_b log p(z_b | observed, z_<b) − Σ log |dx/dz|,

z whitened, the blocks b as large as the network was trained to take jointly: one, where there are few values. Each is
the density of the probability flow with its exact divergence (likelihood.py). The flow is solved by midpoint steps,
twice as many until two solutions agree, and extrapolated: (4 v_2n − v_n)/3. What is not among the values is integrated
out.

For functions with a reference set this is the density of the network's own tokens at these points, not that of draws
through the knots, which has none in closed form. One data set at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from fsimformer.convert import Observation, ObservationWarning, drawn_values, observed_tokens, query_tokens
from fsimformer.likelihood import log_prob
from fsimformer.model_file import Model
from fsimformer.points import Query
from fsimformer.query import query
from fsimformer.schema import Schema
from fsimformer.stages import plan
from fsimformer.tokens import Dial, TokenSet, collate, join, split, take

_FIRST, _LAST = 12, 192  # midpoint steps
_LOG_MIN = -6.9  # as the sampler of quality "exact"
_LARGEST = 64  # values of a block: one backward pass each


@dataclass(frozen=True)
class Density:
    """log p(z | observed) of whitened values of one query, by the probability flow.

    Args:
        model: the network.
        observed, tokens: of one data set, and of the L values that are asked for.
        blocks: positions of each block among the values.
        dial: observed tokens that ride.
        max_tokens: draws × latents in one network call; bounds memory.
    """

    model: Model
    observed: TokenSet
    tokens: TokenSet
    blocks: list[Tensor]
    dial: Dial
    max_tokens: int = 4_096

    @classmethod
    def of(cls, model: Model, observation: Observation, asked: Query, dial: Dial, max_tokens: int = 4_096) -> Density:
        """The density of what is asked for, in blocks as large as the network was trained to take jointly."""
        is_function = torch.from_numpy(model.schema.uses_index().any(axis=1))
        tokens = query_tokens(model.schema, asked)
        blocks = plan(tokens, is_function, min(model.max_latents, _LARGEST))
        observed = observed_tokens(model.schema, model.whitening, observation)
        return cls(model, observed, tokens, blocks, dial, max_tokens)

    def __call__(self, z: Tensor, n_steps: int) -> Tensor:
        """(n,) float64, of z (n, L), as `n_steps` midpoint steps give it; NaN where the flow overflowed."""
        out, known = torch.zeros(len(z), dtype=torch.float64), torch.zeros(0, dtype=torch.long)
        for block in self.blocks:
            own = z.float(), known, block, self.dial, n_steps, self.max_tokens
            out += _block(self.model, self.observed, self.tokens, *own)
            known = torch.cat([known, block])
        return out


def log_density(
    model: Model, observation: Observation, dial: Dial, values: xr.Dataset, tolerance: float, max_tokens: int = 4_096
) -> xr.DataArray:
    """Joint log density of the values in a Dataset, over its sample dims; see `Conditional.log_prob`.

    Raises:
        KeyError, ValueError: no values, unknown variables, observed ones, NaN, values off their support, a function
            without coordinates, a vector without some of its components, a tolerance that is not positive.
    """
    if not tolerance > 0:
        raise ValueError(f"log_prob: expected tolerance > 0, got {tolerance}.")
    asked = _asked(model.schema, observation, values)
    dims, group = _stacked(model.schema, values)
    z, log_det = drawn_values(model.schema, model.whitening, asked, group)
    density = Density.of(model, observation, asked, dial, max_tokens)
    steps, before, error = _FIRST, density(z, _FIRST), float("inf")
    value = before
    while error > tolerance * len(asked) and steps < _LAST:
        steps *= 2
        after = density(z, steps)
        gap = (after - before).abs()[(after - before).isfinite()]  # others are told of below
        value, error = (4 * after - before) / 3, float(gap.max()) / 3 if len(gap) else 0.0
        before = after
    if error > tolerance * len(asked):
        warnings.warn(
            f"log_prob: after {steps} steps two solutions are still {3 * error:.2g} nats apart; {tolerance:g} a value "
            "was asked for. Values far from where the network expects any have densities that are hard to solve for.",
            ObservationWarning,
            stacklevel=4,
        )
    if lost := int((~value.isfinite()).sum()):
        warnings.warn(
            f"log_prob: the solver failed for {lost} of {len(value)} samples, whose density is NaN in the result. "
            "Their values lie far off what training saw, or the weights hold NaN: are the units those of the model?",
            ObservationWarning,
            stacklevel=4,
        )
        value = value.masked_fill(~value.isfinite(), float("nan"))
    out = (value - log_det).numpy().reshape([values.sizes[d] for d in dims])
    coords = {d: values.coords[d].variable for d in dims if d in values.coords}
    found = xr.DataArray(out, dims=dims, coords=coords, name="log_prob")
    return found.assign_attrs(n_values=len(asked), n_blocks=len(density.blocks), steps=steps, solver_error=error)


def _asked(schema: Schema, observation: Observation, values: xr.Dataset) -> Query:
    """The values' variables at their points."""
    if not isinstance(values, xr.Dataset):
        raise ValueError(
            f"log_prob: expected an xarray.Dataset of values, or the DataTree that `sample` returned, got "
            f"{type(values).__name__}{'; xarray.Dataset makes one of a dict' if isinstance(values, dict) else ''}."
        )
    if not len(values.data_vars):
        raise ValueError("log_prob: expected a Dataset with values of some variables, got an empty one.")
    at: dict[str, Any] = {}
    for name in map(str, values.data_vars):
        if name not in schema:
            raise KeyError(f"log_prob: the model has no variable {name!r}. Its variables: {list(schema.names)}.")
        if schema.is_function(name):
            columns = {d: _coordinate(values, name, d) for d in schema.index_dims(name)}
            at[name] = columns if len(columns) > 1 else next(iter(columns.values()))
        elif schema[name].role == "data":
            at[name] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObservationWarning)  # of points beyond the range: `sample` warns of them
        found = query(schema, observation, at)
    if known := [name for name in map(str, values.data_vars) if name not in found.points]:
        raise ValueError(f"log_prob: {known} were observed; values are of what was not.")
    points = {name: p for name, p in found.points.items() if name in values}
    return Query(points, {name: found.replicate[name] for name in points})


def _coordinate(values: xr.Dataset, name: str, dim: str) -> xr.DataArray:
    found = next((values[name].coords[c] for c in (dim, f"{dim}_{name}") if c in values[name].coords), None)
    if found is None:
        raise ValueError(f"log_prob: {name!r} lacks a coordinate {dim!r}, which says where its values are.")
    return found


def _stacked(schema: Schema, values: xr.Dataset) -> tuple[tuple[Hashable, ...], xr.Dataset]:
    """The sample dims, and the values with these as one `draw`, `chain` 1."""
    own = {name: {*schema[str(name)].dims, "point"} for name in values.data_vars}
    own = {name: dims | {f"{d}_{name}" for d in dims} for name, dims in own.items()}
    found = dict.fromkeys(d for name, v in values.data_vars.items() for d in v.dims if d not in own[name])
    for name, v in values.data_vars.items():  # a scattered function's points lie along a dim of any name
        if len(points := {c.dims for c in v.coords.values() if c.name in own[name] and c.ndim == 1}) == 1:
            (along,) = next(iter(points))
            found.pop(along, None)
    dims = tuple(d for d in ("chain", "draw") if d in found) + tuple(d for d in found if d not in ("chain", "draw"))
    out = {}
    for name, v in values.data_vars.items():
        whole = v.expand_dims({d: values.sizes[d] for d in dims if d not in v.dims})
        rest = [d for d in v.dims if d not in dims]
        x = whole.transpose(*dims, *rest)
        flat = x.to_numpy().reshape(1, -1, *(v.sizes[d] for d in rest))
        coords = {k: c.variable for k, c in v.coords.items() if not set(c.dims) & set(dims)}
        out[name] = xr.DataArray(flat, dims=("chain", "draw", *rest), coords=coords)
    return dims, xr.Dataset(out)


def _block(
    model: Model,
    observed: TokenSet,
    tokens: TokenSet,
    z: Tensor,
    known: Tensor,
    block: Tensor,
    dial: Dial,
    n_steps: int,
    max_tokens: int,
) -> Tensor:
    """log p(z_block | observed, z_known), (n,) float64, of values z (n, len(tokens))."""
    earlier, now = take(tokens, known), take(tokens, block)
    earlier = TokenSet(earlier.variable, earlier.index, earlier.value, torch.ones(len(known), dtype=torch.bool))
    row = collate([join(observed, earlier, now)])
    n_observed, denoiser = len(observed), model.denoiser
    given = slice(n_observed, n_observed + len(known))
    out = torch.zeros(len(z), dtype=torch.float64)
    shared = len(known) == 0  # all draws share the context
    size = max(1, max_tokens // (len(block) if shared else row.shape[1]))
    for start in range(0, len(z), size):
        part = z[start : start + size]
        batch = row if shared else row.repeat(len(part))
        if not shared:
            batch.value[:, given] = part[:, known]
        streams = split(batch, dial).to(denoiser.device)
        with torch.no_grad():
            encoded = denoiser.encode(streams)
        latent = streams.active.latent[0]
        x = torch.zeros(*((1, len(part)) if shared else (len(part), 1)), len(latent), device=denoiser.device)
        x[..., latent] = part[:, block].view(*x.shape[:2], -1).to(denoiser.device)
        found = log_prob(denoiser, encoded, x, n_steps=n_steps, log_min=_LOG_MIN)
        out[start : start + size] = found.reshape(-1).double().cpu()
    return out
