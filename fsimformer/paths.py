"""Series with measurement noise and the paths beneath them: a reading is its path at its own place, and noise there.

Where the schema has the noise-free path of a series, the series is not asked of the network at all: its path is drawn,
and every reading takes its own independent noise, whose law the schema knows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fsimformer.measurement import noisy
from fsimformer.points import Observation, Query
from fsimformer.schema import Schema
from fsimformer.tokens import TokenSet
from fsimformer.whiten import Ints, Whitening


def as_paths(schema: Schema, tokens: TokenSet) -> TokenSet:
    """The same tokens, of paths where series were asked for that have one."""
    variable = tokens.variable.clone()
    for path, series in schema.paths.items():
        for mine, theirs in zip(schema.ids(path), schema.ids(series), strict=True):
            variable[tokens.variable == theirs] = mine
    return TokenSet(variable, tokens.index, tokens.value, tokens.condition_mask, tokens.arrays)


def with_noise(
    schema: Schema,
    whitening: Whitening,
    observation: Observation,
    query: Query,
    z: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Whitened draws z (n, len(query)) in which series that have a path hold that path -> with readings in their place.

    The noise (measurement.py) is independent at every reading of every draw.
    """
    columns, out = _columns(query), z.clone()
    for series in schema.paths.values():
        if series not in query.points:
            continue
        noise, component = schema[series].noise, query.points[series].component
        assert noise is not None
        x = whitening.inverse(series, z[:, columns[series]].double(), component)
        sd = noise_sd(schema, whitening, observation, query, z, series)
        y = noisy(noise, x, sd, generator)
        out[:, columns[series]] = whitening.forward(series, y, component).to(out.dtype)
    return out


def noise_sd(
    schema: Schema, whitening: Whitening, observation: Observation, query: Query, z: Tensor, series: str
) -> Tensor:
    """sd of the noise of a series, of x or of log x, in whitened draws z (n, len(query)): (n, 1) float64."""
    noise, columns = schema[series].noise, _columns(query)
    assert noise is not None
    if not isinstance(noise.sd, str):
        return torch.full((len(z), 1), float(noise.sd), dtype=torch.float64)
    if noise.sd in columns:
        return whitening[noise.sd].inverse(z[:, columns[noise.sd]].double())
    known = observation.channels[noise.sd].value
    return torch.full((len(z), 1), float(known[np.isfinite(known)][0]), dtype=torch.float64)


def noise_variance(schema: Schema, whitening: Whitening, series: str, z: Tensor, component: Ints, sd: Tensor) -> Tensor:
    """Of readings around whitened values z (n, P), to first order and on the whitened scale: (P,), medians over n."""
    noise = schema[series].noise
    assert noise is not None
    x = whitening.inverse(series, z, component)
    if noise.kind == "negbinomial":
        x = x.clamp(min=0.0)
        size = (x + (sd * x) ** 2).sqrt()
    else:
        size = sd if noise.kind == "normal" else sd * x
    return (size * (-whitening.log_det(series, z, component)).exp()).square().median(0).values


def _columns(query: Query) -> dict[str, slice]:
    ends = np.cumsum([0, *(len(p) for p in query.points.values())]).tolist()
    return {name: slice(a, b) for name, a, b in zip(query.points, ends[:-1], ends[1:], strict=True)}
