"""Series with measurement noise and the paths beneath them: a reading is its path at its own place, and noise there.

Where the schema has the noise-free path of a series, the series is not asked of the network at all: its path is drawn,
and every reading takes its own independent noise, whose law the schema knows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fsimformer.points import Observation, Query
from fsimformer.schema import Schema
from fsimformer.seeds import normals
from fsimformer.tokens import TokenSet
from fsimformer.whiten import Whitening


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

    normal: y = f + sd·ε;  lognormal: y = f·exp(sd·ε);  ε independent at every reading of every draw.
    """
    columns, first = {}, 0
    for name, points in query.points.items():
        columns[name] = slice(first, first + len(points))
        first += len(points)
    out = z.clone()
    for series in schema.paths.values():
        if series not in query.points:
            continue
        noise, component = schema[series].noise, query.points[series].component
        assert noise is not None
        if not isinstance(noise.sd, str):
            sd = torch.full((len(z), 1), float(noise.sd), dtype=torch.float64)
        elif noise.sd in columns:
            sd = whitening[noise.sd].inverse(z[:, columns[noise.sd]].double())
        else:
            known = observation.channels[noise.sd].value
            sd = torch.full((len(z), 1), float(known[np.isfinite(known)][0]), dtype=torch.float64)
        x = whitening.inverse(series, z[:, columns[series]].double(), component)
        shift = sd * normals(len(z), x.shape[1], generator).double()
        y = x + shift if noise.kind == "normal" else x * shift.exp()
        out[:, columns[series]] = whitening.forward(series, y, component).to(out.dtype)
    return out
