"""Whitened draws of conditionals: what was asked of an observation, answered by the network.

A query may be put together from several, each point drawn once: what a caller asks for and what a constraint needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsimformer.convert import Observation, is_parameter, observed_tokens, query_tokens
from fsimformer.extension import Drawn, draw_functions
from fsimformer.model_file import Model
from fsimformer.paths import as_paths, with_noise
from fsimformer.points import Points, Query
from fsimformer.sample import SamplerConfig
from fsimformer.schema import Index, Schema
from fsimformer.seeds import generator_at
from fsimformer.stages import Budget, First
from fsimformer.tokens import Dial, TokenSet


@dataclass(frozen=True)
class Settings:
    """How the network is asked: arguments of `Conditional.sample`."""

    config: SamplerConfig
    dial: Dial
    budget: Budget


def solved(
    model: Model,
    observed: Sequence[TokenSet],
    queries: Sequence[Query],
    n: int,
    settings: Settings,
    seed: int,
    first: First | None = None,
    number: int = 0,
) -> list[Drawn]:
    """Whitened draws of every query given its observed tokens, where series that have a path hold that path.

    `number`: of the first data set among all that are asked for.
    """
    schema = model.schema
    is_function = torch.from_numpy(schema.uses_index().any(axis=1))
    return draw_functions(
        model.denoiser,
        observed,
        [as_paths(schema, query_tokens(schema, q)) for q in queries],
        model.references(schema.references),
        is_function,
        is_parameter(schema) & ~is_function,
        n,
        settings.config,
        seed,
        settings.dial,
        settings.budget,
        first,
        number,
    )


def draw_conditional(
    model: Model,
    observations: Sequence[Observation],
    queries: Sequence[Query],
    n: int,
    settings: Settings,
    seed: int,
    first: First | None = None,
    number: int = 0,
) -> list[Drawn]:
    """As `solved`, given observations, measurement noise where it belongs."""
    schema, whitening = model.schema, model.whitening
    observed = [observed_tokens(schema, whitening, o) for o in observations]
    drawn = solved(model, observed, queries, n, settings, seed, first, number)
    return [
        Drawn(with_noise(schema, whitening, o, q, d.z, generator_at(seed, 4, i, 3)), d.knots, d.coefficients)
        for i, (o, q, d) in enumerate(zip(observations, queries, drawn, strict=True), start=number)
    ]


def joined(parts: Sequence[Drawn]) -> Drawn:
    """Draws of some batches, one after the other."""
    knots = {k: torch.cat([d.knots[k] for d in parts]) for k in parts[0].knots}
    coefficients = {k: torch.cat([d.coefficients[k] for d in parts]) for k in parts[0].coefficients}
    return Drawn(torch.cat([d.z for d in parts]), knots, coefficients)


def combine(schema: Schema, queries: Sequence[Query]) -> tuple[Query, list[Tensor]]:
    """One query of all points, those of the first as they are, of the others what is not yet there; and the columns of
    each query in it.

    Raises:
        ValueError: the first asks several times for a point that another query means.
    """
    points: dict[str, Points] = {}
    local: list[dict[str, np.ndarray]] = []
    for q in queries:
        where = {}
        for name, own in q.points.items():
            held = points.get(name)
            if held is None:
                points[name], where[name] = own, np.arange(len(own))
                continue
            dims = [d for d in map(schema.dim, schema.index_dims(name)) if isinstance(d, Index)]
            spans = np.array([d.upper - d.lower for d in dims])
            near = np.abs(held.index[None] - own.index[:, None]) <= 1e-9 * spans
            same = near.all(-1) & (held.component[None] == own.component[:, None])
            if (same.sum(1) > 1).any():
                raise ValueError(f"constrain: {name!r} is asked for twice at a point of a constraint; ask for it once.")
            new = ~same.any(1)
            where[name] = np.where(new, len(held) + np.cumsum(new) - 1, same.argmax(1))
            component, index = (np.concatenate([a, b[new]]) for a, b in (
                (held.component, own.component), (held.index, own.index)))  # fmt: skip
            points[name] = Points(component, index, {}, None)
        local.append(where)
    names = [name for name in schema.names if name in points]
    offset = dict(zip(names, np.cumsum([0, *(len(points[name]) for name in names)]).tolist(), strict=False))
    columns = [
        torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *(offset[k] + w[k] for k in w)])) for w in local
    ]
    whole = {name: points[name] for name in names}
    return Query(whole, {name: np.zeros(len(p), dtype=bool) for name, p in whole.items()}), columns
