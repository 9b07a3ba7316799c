"""Draws of functions: their reference sets jointly with all else, every other point by itself (design.md, D3).

    1. scalars, vectors, the knots of every function asked for, and functions without a reference set: stages.py.
    2. at any point q: z(q) = spline(q; knots) + s(q) r(q), r(q) solved alone by the probability-flow ODE, given the
       observation, the scalar parameters and all knots, from ε(q), where ε is one smooth random function a draw.

So the law of f(A) does not depend on what else is asked, a draw is a continuous function, and who keeps the knots'
values and the coefficients of ε can evaluate it later: `extend`. Cost is linear in the points. Where s(q) is below what
a sampler resolves at all, r is not worth an evaluation; where it is small, and readings are many, r is solved from one
encoding of them for all draws, the drawn tokens beside it (`_solved_beside`).

Beyond the trained range there is no spline: its straight line would be the draw, far too wide where a process forgets
and too narrow where it bends. There z(q) itself is solved alone, given the same, from ε(q): its marginals are those of
the network, and what ties two such points together is ε, no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fsimformer.denoise import Denoiser, Encoded
from fsimformer.functions import ReferenceSet
from fsimformer.kernels import Kernel
from fsimformer.noise import SmoothNoise
from fsimformer.sample import SamplerConfig, sample_active
from fsimformer.seeds import generator_at
from fsimformer.stages import Budget, First, draw
from fsimformer.tokens import Dial, TokenBatch, TokenSet, collate, join, split, take

_SAMPLING, _FUNCTION = 4, 2  # first numbers of the path, seeds.py: (seed, 4, data set, 2, id)
_TOKENS = 64  # points solved in one call: residuals do not see each other, only memory counts
SLACK = 1e-6  # of an index in [−1, 1], which tokens carry in float32
RESOLVED = 2e-3  # s(q) below it: the end of a sampler's own noise
_FEW = 0.03  # s(q) below it: an error of a tenth in r is one of 3e-3 in z
_SHARED = 32  # readings from which on such an r is solved from one encoding of them all
_SOLVER, _SHORT = SamplerConfig("ab2", 20, power=5.0, log_min=-5.2), SamplerConfig("ab2", 8, power=5.0, log_min=-4.0)


@dataclass(frozen=True)
class Drawn:
    """Draws of one data set.

    Args:
        z: (n, L) whitened, in the order of its query; float64.
        knots: id of a function -> (n, M) its whitened values at the knots.
        coefficients: id of a function -> (n, 2·features) of its ε.
    """

    z: Tensor
    knots: dict[int, Tensor]
    coefficients: dict[int, Tensor]


def noise_function(reference: ReferenceSet) -> SmoothNoise:
    """ε of a function: squared exponential, half as long as its knots are apart."""
    spacing = tuple(1 / (n - 1) for n in reference.reference)
    return SmoothNoise(Kernel(lengthscale=spacing if len(spacing) > 1 else spacing[0]))


def draw_functions(
    denoiser: Denoiser,
    observed: Sequence[TokenSet],
    queries: Sequence[TokenSet],
    references: Sequence[ReferenceSet],
    is_function: Tensor,
    is_scalar_parameter: Tensor,
    n_draws: int,
    config: SamplerConfig,
    seed: int,
    n_active_observed: Dial,
    budget: Budget,
    first: First | None = None,
    number: int = 0,
) -> list[Drawn]:
    """Draws of every query given its observation.

    Args:
        observed, queries: one TokenSet a data set.
        references: of the functions that may be asked for; those that a query does not ask for are integrated out.
        is_function, is_scalar_parameter: (n_ids,) bool.
        seed: data set i uses the streams (seed, 4, number + i, ·); see seeds.py.
        first: what draws stage 1 of a single data set, which all knots are in; its `kept` is of the query. None = the
            sampler of `config`.
        number: of the first data set among all that are asked for.
    """
    by_id = {r.id: r for r in references}
    asked = [[by_id[i] for i in q.variable.unique().tolist() if i in by_id] for q in queries]
    others = [~torch.isin(q.variable, torch.tensor([r.id for r in a])) for q, a in zip(queries, asked, strict=True)]
    stages = [
        join(take(q, which.nonzero()[:, 0]), *(knot_tokens(r, q.index.shape[1]) for r in mine))
        for q, mine, which in zip(queries, asked, others, strict=True)
    ]
    together = is_function.clone()
    together[list(by_id)] = False  # all knots belong into the first stage
    if first is not None:
        n_knots = len(stages[0]) - int(others[0].sum())
        first = replace(first, kept=torch.cat([first.kept[others[0]], torch.zeros(n_knots, dtype=torch.bool)]))
    limits = n_active_observed, budget, None, first, number
    drawn = draw(denoiser, observed, stages, together, n_draws, config, seed, *limits)
    out = []
    for i, (q, stage, z, mine) in enumerate(zip(queries, stages, drawn, asked, strict=True)):
        n_others = int(others[i].sum())
        knots = dict(zip([r.id for r in mine], z[:, n_others:].split([r.n_knots for r in mine], 1), strict=True))
        coefficients = {
            r.id: noise_function(r).coefficients(n_draws, generator_at(seed, _SAMPLING, number + i, _FUNCTION, r.id))
            for r in mine
        }
        is_known = is_scalar_parameter[stage.variable]
        is_known[n_others:] = True
        known = is_known.nonzero()[:, 0]
        given = Given(observed[i], take(stage, known), z[:, known])
        values = torch.zeros(n_draws, len(q), dtype=torch.float64)
        values[:, others[i]] = z[:, :n_others].double()
        for r in mine:
            here = q.variable == r.id
            at = q.index[here][:, list(r.dims)]
            own = knots[r.id], coefficients[r.id]
            values[:, here] = extend(denoiser, given, r, *own, at, q.index.shape[1], budget)
        out.append(Drawn(values, knots, coefficients))
    return out


def knot_tokens(reference: ReferenceSet, n_index: int) -> TokenSet:
    """The knots as latent tokens, value 0."""
    m = reference.n_knots
    return TokenSet(
        torch.full((m,), reference.id), reference.tokens(n_index), torch.zeros(m), torch.zeros(m, dtype=torch.bool)
    )


@dataclass(frozen=True)
class Given:
    """What every point between knots is solved given: the observation, and drawn tokens with values (n, K)."""

    observed: TokenSet
    known: TokenSet
    values: Tensor


def extend(
    denoiser: Denoiser,
    given: Given,
    reference: ReferenceSet,
    z_knots: Tensor,
    coefficients: Tensor,
    at: Tensor,
    n_index: int,
    budget: Budget,
) -> Tensor:
    """Whitened values (n, L), float64, of n draws of one function at points (L, d) scaled to [−1, 1].

    A point's value depends on nothing but itself: not on the other points, nor on their number.

    Args:
        given: the observation, the scalar parameters and the knots of all functions that were drawn.
        z_knots: (n, M). coefficients: (n, 2·features).
    """
    n, size = len(z_knots), len(at)
    r = torch.zeros(n, size)
    beyond = (at.abs() > 1 + SLACK).any(-1)
    scale = reference.scale(at).masked_fill(beyond, 0.0)

    def solve(where: Tensor, id: int, config: SamplerConfig, together: int) -> Tensor:
        epsilon = noise_function(reference).evaluate(coefficients, at[where])
        index = torch.zeros(len(where), n_index)
        index[:, list(reference.dims)] = at[where].float()
        return _solved(denoiser, given, id, index, epsilon, config, budget, together)

    for config, mine in ((_SHORT, (scale >= RESOLVED) & (scale < _FEW)), (_SOLVER, scale >= _FEW)):
        where = mine.nonzero()[:, 0]
        if len(where):
            r[:, where] = solve(where, reference.residual_id, config, _TOKENS)
    out = reference.value(r, z_knots, at)
    where = beyond.nonzero()[:, 0]
    if len(where):  # one by one: values of a function, unlike residuals, see each other
        out[:, where] = solve(where, reference.id, _SOLVER, 1).double()
    return out


def _solved(
    denoiser: Denoiser,
    given: Given,
    id: int,
    index: Tensor,
    epsilon: Tensor,
    config: SamplerConfig,
    budget: Budget,
    together: int,
) -> Tensor:
    """Values (n, L) of tokens of an id at index (L, n_index) from ε (n, L), `together` in a call."""
    known = replace(given.known, condition_mask=torch.ones_like(given.known.condition_mask))
    with torch.no_grad():
        observed, shared = denoiser.shorten(given.observed)
    if config is _SHORT and shared is None and denoiser.shares and len(observed) >= _SHARED:
        return _solved_beside(denoiser, observed, known, given.values, id, index, epsilon, budget, together)
    row = collate([join(observed, known)])
    n_observed, out, device = len(observed), torch.zeros_like(epsilon), denoiser.device
    step = max(1, budget.max_tokens // (row.shape[1] + min(together, len(index))))
    for start in range(0, len(epsilon), step):
        draws = slice(start, min(start + step, len(epsilon)))
        batch = row.repeat(draws.stop - draws.start)
        batch.value[:, n_observed:] = given.values[draws]
        with torch.no_grad():
            context = denoiser.encode(split(batch, 0).to(device), shared=shared)
        for first in range(0, len(index), together):
            points = slice(first, first + together)
            encoded = _points(denoiser, context, id, index[points])
            z = sample_active(denoiser, encoded, epsilon[draws, None, points].to(device), config)
            out[draws, points] = z[:, 0].cpu()
    return out


def _solved_beside(
    denoiser: Denoiser,
    observed: TokenSet,
    known: TokenSet,
    values: Tensor,
    id: int,
    index: Tensor,
    epsilon: Tensor,
    budget: Budget,
    together: int,
) -> Tensor:
    """As `_solved`, all draws from one encoding of the readings, which then does not see what was drawn.

    The network was trained on readings that do. Where s(q) is so small, that changes draws of the models that ship by
    less than a hundredth of their sd (tests/test_beside.py), and many readings cost once what they cost every draw.
    """
    out, step = torch.zeros_like(epsilon), max(1, budget.max_tokens // (len(known) + min(together, len(index))))
    rows, device = collate([known]).to(denoiser.device), denoiser.device
    with torch.no_grad():
        once = denoiser.encode(split(collate([observed]), 0).to(device))
    for start in range(0, len(epsilon), step):
        draws = slice(start, min(start + step, len(epsilon)))
        with torch.no_grad():
            context = denoiser.beside(once, rows, values[None, draws].to(rows.value))
        for first in range(0, len(index), together):
            points = slice(first, first + together)
            encoded = _points(denoiser, context, id, index[points])
            z = sample_active(denoiser, encoded, epsilon[None, draws, points].to(device), _SHORT)
            out[draws, points] = z[0].cpu()
    return out


def _points(denoiser: Denoiser, context: Encoded, id: int, index: Tensor) -> Encoded:
    """The points as active tokens of every row."""
    b, length = context.streams.frozen.shape[0], len(index)
    latent = torch.zeros(b, length, dtype=torch.bool)
    active = TokenBatch(
        torch.full((b, length), id),
        index.expand(b, -1, -1),
        torch.zeros(b, length),
        latent,
        torch.ones_like(latent),
    )
    return denoiser.reuse(context, active.to(denoiser.device))
