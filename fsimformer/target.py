"""What is drawn under constraints: what was asked and what the constraints need, their log weight, and their twist.

The twist ψ of a constraint (twisted.py) is a normal law of its number u given the tokens that SMC moves, those of stage
1. A point that is one of them has a row of the unit matrix; a function with a reference set is there by the straight
spline through its knots, and what the spline leaves open is variance to spare, as is the noise of a reading whose path
is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsimformer.constraints import Interval, Weighing
from fsimformer.convert import Observation, query_tokens
from fsimformer.draws import Settings, combine, draw_conditional
from fsimformer.extension import SLACK, Drawn
from fsimformer.functions import ReferenceSet, spline
from fsimformer.model_file import Model
from fsimformer.paths import as_paths, noise_sd, noise_variance
from fsimformer.points import Query
from fsimformer.stages import First
from fsimformer.tokens import TokenSet
from fsimformer.tree import to_dataset
from fsimformer.twisted import Term, Twist, shared_power


@dataclass(frozen=True)
class Target:
    """What is drawn: what was asked, and what the constraints need, each token once.

    Args:
        asked: columns of the query that were asked for.
        parts: each constraint with its columns.
    """

    model: Model
    observation: Observation
    query: Query
    asked: Tensor
    parts: tuple[tuple[Interval | Weighing, Tensor], ...]

    @classmethod
    def of(cls, model: Model, observation: Observation, asked: Query, found: Sequence[Interval | Weighing]) -> Target:
        whole, columns = combine(model.schema, [asked, *(c.query for c in found)])
        return cls(model, observation, whole, columns[0], tuple(zip(found, columns[1:], strict=True)))

    @property
    def intervals(self) -> list[tuple[Interval, Tensor]]:
        return [(c, where) for c, where in self.parts if isinstance(c, Interval)]

    @property
    def bounds(self) -> float:
        """Sum of the bounds of the potentials that have one."""
        return sum(c.potential.bound or 0.0 for c, _ in self.parts if isinstance(c, Weighing))

    def draw(self, n: int, settings: Settings, seed: int, first: First | None = None) -> Drawn:
        return draw_conditional(self.model, [self.observation], [self.query], n, settings, seed, first)[0]

    def log_weight(self, z: Tensor) -> tuple[np.ndarray, bool]:
        """(n,) the constraints' log weight of whitened draws, less the potentials' bounds; and whether all have one."""
        out, bounded = np.zeros(len(z)), True
        for c, where in self.parts:
            if isinstance(c, Interval):
                own = c.query.points[c.variable]
                x = self.model.whitening.inverse(c.variable, z[:, where].double(), own.component).numpy()
                out[~c.satisfied(x)] = -np.inf
            else:
                draws = to_dataset(self.model.schema, self.model.whitening, c.query, z[:, where])
                value, bound = c.log_weight(draws, len(z))
                out += value - (bound or 0.0)
                bounded = bounded and bound is not None
        return out, bounded

    def taken(self, drawn: Drawn, which: Tensor) -> Drawn:
        """Of some draws what was asked for."""
        knots, coefficients = ({k: v[which] for k, v in d.items()} for d in (drawn.knots, drawn.coefficients))
        return Drawn(drawn.z[which][:, self.asked], knots, coefficients)


def twist_of(plan: Target, pilot: Tensor, stage: TokenSet) -> Twist:
    """ψ of the plan's intervals on the tokens of stage 1; spreads and correlations from draws without constraints."""
    model, terms, numbers = plan.model, list[Term](), list[Tensor]()
    references = {r.id: r for r in model.references(model.schema.references)}
    for c, where in plan.intervals:
        name, points = c.variable, c.query.points[c.variable]
        tokens = as_paths(model.schema, query_tokens(model.schema, c.query))
        rows = [_row(stage, int(id), at, references) for id, at in zip(tokens.variable, tokens.index, strict=True)]
        matrix, spare = torch.stack([r for r, _ in rows]), torch.tensor([s for _, s in rows], dtype=torch.float64)
        z = pilot[:, where].double()
        if name in model.schema.paths.values():
            spare = spare + _noise_variance(plan, pilot, c, where)
        if c.weights is not None:
            weights, component = torch.from_numpy(c.weights), points.component
            u = model.whitening.inverse(name, z, component) @ weights
            inverse = (
                lambda z, k=name, c=component: model.whitening.inverse(k, z, c),
                lambda z, k=name, c=component: model.whitening.log_det(k, z, c),
            )
            terms.append(Term(matrix, spare, weights, inverse, float(c.lower[0]), float(c.upper[0]), float(u.std())))
            numbers.append(u)
            continue
        for p in range(len(points)):
            transform = model.whitening.part(name, int(points.component[p]))
            ends = [float(c.lower[p]), float(c.upper[p])]
            open_ = [ends[0] <= transform.support.lower, ends[1] >= transform.support.upper]
            if all(open_):
                continue
            lower, upper = (
                sign * math.inf if free else float(transform.forward(torch.tensor(end, dtype=torch.float64)))
                for sign, free, end in zip((-1, 1), open_, ends, strict=True)
            )
            one = torch.ones(1, dtype=torch.float64)
            terms.append(Term(matrix[p, None], spare[p, None], one, None, lower, upper, float(z[:, p].std())))
            numbers.append(z[:, p])
    power = shared_power(torch.stack(numbers, 1)) if numbers else 1.0
    return Twist(tuple(terms), power)


def _noise_variance(plan: Target, pilot: Tensor, of: Interval, where: Tensor) -> Tensor:
    """Of the readings of a series that has a path, whitened, (P,): there where they satisfy their interval."""
    schema, whitening, component = plan.model.schema, plan.model.whitening, of.query.points[of.variable].component
    sd = noise_sd(schema, whitening, plan.observation, plan.query, pilot, of.variable)
    z = pilot[:, where].double()
    if of.weights is None:
        x = whitening.inverse(of.variable, z, component)
        held = x.clamp(torch.from_numpy(of.lower), torch.from_numpy(of.upper))
        z = torch.where(held == x, z, whitening.forward(of.variable, held, component))
    return noise_variance(schema, whitening, of.variable, z, component, sd)


def _row(stage: TokenSet, id: int, at: Tensor, references: dict[int, ReferenceSet]) -> tuple[Tensor, float]:
    """A point's whitened value as a row over the tokens of stage 1, and the variance that it leaves open."""
    row = torch.zeros(len(stage), dtype=torch.float64)
    mine = stage.variable == id
    if id in references:
        reference = references[id]
        where = at[list(reference.dims)][None]
        if bool((where.abs() > 1 + SLACK).any()):  # solved alone: the knots' straight line says nothing of it
            return row, 1.0
        row[mine] = spline(reference.reference, where)[0]
        return row, float(reference.scale(where)[0]) ** 2
    column = (mine & (stage.index == at).all(1)).nonzero()[0, 0]
    row[column] = 1.0
    return row, 0.0
