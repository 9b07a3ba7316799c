"""Draws every latent of a query, in stages of sizes that training has seen.

One joint solve over hundreds of points is a problem the network never met (design.md, D3). So a query is drawn as

    p(stage 1 | observed) · Π_c p(chunk_c | stage 1, observed):

stage 1 holds all scalars and vectors and an evenly spread share of every function's points, at most `n_joint` tokens;
the remaining points come in interleaved chunks, each given stage 1. For data that are independent given parameters and
functions this is exact up to what stage 1 leaves open about the function between its points.

The noise of a data set depends on (seed, data set, place in the query) alone: adding draws changes no draw, and neither
do batch-mates or the size of memory chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fsimformer.allocator import keep_freed
from fsimformer.denoise import Denoiser, Shared
from fsimformer.noise import WhiteNoise
from fsimformer.sample import SamplerConfig, drawing, sample_active
from fsimformer.seeds import generator_at
from fsimformer.tokens import Dial, TokenSet, collate, join, split, take

_SAMPLING = 4  # first number of the path, seeds.py


@dataclass(frozen=True)
class Budget:
    """Limits of one solve.

    Args:
        n_joint: latents of stage 1 and of every chunk.
        max_tokens: replicates × tokens in one network call; bounds memory, and keeps activations in cache.
    """

    n_joint: int = 32
    max_tokens: int = 4_096

    def __post_init__(self) -> None:
        if self.n_joint < 1 or self.max_tokens < 1:
            raise ValueError(f"Budget: expected n_joint and max_tokens >= 1, got {self}.")


@dataclass(frozen=True)
class First:
    """Stage 1 of one data set by another sampler than the plain one.

    Args:
        draw: (observed, tokens of stage 1) -> (n_draws, ·) their whitened values.
        kept: (len(query),) bool, the tokens that have to be in stage 1.
    """

    draw: Callable[[TokenSet, TokenSet], Tensor]
    kept: Tensor


def plan(query: TokenSet, is_function: Tensor, n_joint: int, kept: Tensor | None = None) -> list[Tensor]:
    """Positions of the query's tokens, stage by stage.

    Args:
        query: the latents. is_function: (n_ids,) bool.
        n_joint: tokens of a stage; stage 1 is larger only if there are more scalars, and more `kept`, than that.
        kept: (len(query),) bool, points of functions that have to be in stage 1; None = it may choose.
    """
    function = is_function[query.variable]
    if kept is not None:
        function = function & ~kept
    if len(query) <= n_joint:
        return [torch.arange(len(query))] if len(query) else []
    scalars = (~function).nonzero()[:, 0]
    room = max(0, n_joint - len(scalars))
    first, rest = [scalars], []
    ids = query.variable[function].unique().tolist()
    share = room // len(ids) if ids else 0
    for id in ids:
        where = ((query.variable == id) & function).nonzero()[:, 0]  # those kept stand among `scalars`
        along = _longest(query.index[where])
        where = where[query.index[where, along].argsort(stable=True)]  # chunks interleave over the index, too
        chosen = torch.zeros(len(where), dtype=torch.bool)
        chosen[_spread(query.index[where], min(share, len(where)))] = True
        first.append(where[chosen])
        rest.append(where[~chosen])
    left = torch.cat(rest) if rest else scalars[:0]
    n_chunks = -(-len(left) // n_joint)
    stages = [torch.cat(first)] if sum(map(len, first)) else []
    return stages + [left[c::n_chunks] for c in range(n_chunks)]


def _longest(index: Tensor) -> int:
    return int((index.amax(0) - index.amin(0)).argmax())


def _spread(index: Tensor, m: int) -> Tensor:
    """m places among points (n, D), sorted along their longest dim: one is in the middle, more hold the ends.

    Over several dims each next point is the one farthest from those chosen before.
    """
    n = len(index)
    if m == 1:
        return (index - index.mean(0)).norm(dim=1).argmin()[None]
    if int((index.amax(0) > index.amin(0)).sum()) <= 1:
        return torch.linspace(0, n - 1, m).round().long()
    chosen = [int((index - index.mean(0)).norm(dim=1).argmax())]
    distance = (index - index[chosen[0]]).norm(dim=1)
    while len(chosen) < m:
        distance[chosen[-1]] = -1.0  # points may coincide; none is chosen twice
        chosen.append(int(distance.argmax()))
        distance = distance.minimum((index - index[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen[:m], dtype=torch.long)


def draw(
    denoiser: Denoiser,
    observed: Sequence[TokenSet],
    queries: Sequence[TokenSet],
    is_function: Tensor,
    n_draws: int,
    config: SamplerConfig,
    seed: int,
    n_active_observed: Dial,
    budget: Budget,
    edges: Sequence[Tensor] | None = None,
    first: First | None = None,
    number: int = 0,
) -> list[Tensor]:
    """Draws of every query given its observation: a list of (n_draws, len(query)) whitened values.

    Args:
        observed, queries: one TokenSet a data set.
        is_function: (n_ids,) bool, True for ids that live on an index.
        seed: data set i uses the streams (seed, 4, number + i, ·); see seeds.py.
        n_active_observed: the dial of design.md, D1.
        edges: (n_ids, n_ids) bool one a data set, its own dependency mask beside the denoiser's; None = no such masks.
        first: what draws stage 1 of a single data set; None = the sampler of `config`, as everywhere else.
        number: of the first data set among all that are asked for.
    """
    keep_freed()
    denoiser = drawing(denoiser, config)
    own = [None] * len(queries) if edges is None else edges
    kept = None if first is None else first.kept
    tasks = [
        _Task(
            o,
            q,
            plan(q, is_function, budget.n_joint, kept),
            _Noise(q, n_draws, seed, number + i),
            torch.zeros(n_draws, len(q)),
            e,
        )
        for i, (o, q, e) in enumerate(zip(observed, queries, own, strict=True))
    ]
    if first is not None:
        (task,) = tasks
        task.out[:, task.stages[0]] = first.draw(task.observed, take(task.query, task.stages[0]))
    else:
        for group in _groups([t for t in tasks if t.stages], n_draws, budget):
            _draw_first(denoiser, group, config, n_active_observed, budget)
    for task in (t for t in tasks if len(t.stages) > 1):
        with torch.no_grad():  # once for all stages and draws
            stays, shared = denoiser.shorten(task.observed) if task.edges is None else (task.observed, None)
        task = replace(task, observed=stays)
        for number in range(1, len(task.stages)):
            _draw_given(denoiser, task, number, config, n_active_observed, budget, shared)
    return [t.out for t in tasks]


class _Noise:
    """All normals of one data set: the start of its draws, and of every step of an SDE solver in every stage."""

    def __init__(self, query: TokenSet, n_draws: int, seed: int, data_set: int) -> None:
        self.index, self.n_draws, self.path = query.index, n_draws, (seed, _SAMPLING, data_set)
        self.start = self._sample(0)

    def _sample(self, *purpose: int) -> Tensor:
        return WhiteNoise().sample(self.index, self.n_draws, generator_at(*self.path, *purpose))

    def step(self, stage: int, k: int) -> Tensor:
        return self._sample(1, stage, k)


@dataclass(frozen=True)
class _Task:
    """One data set: what is observed, what is asked, its stages, its noise, where its draws go (n_draws, L), and its
    own dependency mask, if any."""

    observed: TokenSet
    query: TokenSet
    stages: list[Tensor]
    noise: _Noise
    out: Tensor
    edges: Tensor | None


def _groups(tasks: list[_Task], n_draws: int, budget: Budget) -> list[list[_Task]]:
    """Data sets of similar size, together within the memory of one call."""
    tasks = sorted(tasks, key=lambda t: (len(t.stages[0]), len(t.observed)))
    groups: list[list[_Task]] = []
    for t in tasks:
        size = n_draws * len(t.stages[0]) + len(t.observed)
        if groups and (len(groups[-1]) + 1) * size <= budget.max_tokens:
            groups[-1].append(t)
        else:
            groups.append([t])
    return groups


def _draw_first(
    denoiser: Denoiser, group: list[_Task], config: SamplerConfig, n_active_observed: Dial, budget: Budget
) -> None:
    """Stage 1 of several data sets; all draws of one share its context."""
    batch = collate([join(t.observed, take(t.query, t.stages[0])) for t in group])
    edges = [t.edges for t in group if t.edges is not None]  # all or none
    batch = batch.replace(edges=torch.stack(edges)) if edges else batch
    streams, device = split(batch, n_active_observed), denoiser.device
    with torch.no_grad():
        encoded = denoiser.encode(streams.to(device))
    latent = streams.active.latent
    b, n_a = latent.shape

    def place(parts: list[Tensor], draws: slice) -> Tensor:
        """Each data set's (n_draws, L) values of stage 1 at its latents, (B, R, n_a)."""
        z = torch.zeros(b, draws.stop - draws.start, n_a)
        for row, (part, t) in enumerate(zip(parts, group, strict=True)):
            z[row][:, latent[row]] = part[draws][:, t.stages[0]]
        return z

    for draws in _chunks(len(group[0].out), budget.max_tokens // max(1, n_a * b)):

        def step(k: int, draws: slice = draws) -> Tensor:
            return place([t.noise.step(0, k) for t in group], draws).to(device)

        epsilon = place([t.noise.start for t in group], draws).to(device)
        z = sample_active(denoiser, encoded, epsilon, config, step if config.stochastic else None).cpu()
        for row, t in enumerate(group):
            t.out[draws, t.stages[0]] = z[row][:, latent[row]]


def _draw_given(
    denoiser: Denoiser,
    task: _Task,
    number: int,
    config: SamplerConfig,
    n_active_observed: Dial,
    budget: Budget,
    shared: Shared | None,
) -> None:
    """A later stage of one data set: every draw has its own context, the observation and its own stage 1.

    `shared`: what a long observation came to; the dial counts the tokens that stay.
    """
    first, stage = task.stages[0], task.stages[number]
    known = take(task.query, first)
    known = replace(known, condition_mask=torch.ones_like(known.condition_mask))
    row = collate([join(task.observed, known, take(task.query, stage))])
    row = row if task.edges is None else row.replace(edges=task.edges[None])
    n_observed, length = len(task.observed), row.shape[1]
    given = slice(n_observed, n_observed + len(first))
    for draws in _chunks(len(task.out), budget.max_tokens // length):
        n = draws.stop - draws.start
        batch = row.repeat(n)
        batch.value[:, given] = task.out[draws][:, first]
        streams = split(batch, n_active_observed)
        with torch.no_grad():
            encoded = denoiser.encode(streams.to(denoiser.device), shared=shared)
        latent = streams.active.latent[0]  # the same in every row

        def place(values: Tensor, draws: slice = draws, n: int = n, latent: Tensor = latent) -> Tensor:
            z = torch.zeros(n, 1, len(latent))
            z[:, 0, latent] = values[draws][:, stage]
            return z.to(denoiser.device)

        def step(k: int, place: Callable[[Tensor], Tensor] = place) -> Tensor:
            return place(task.noise.step(number, k))

        z = sample_active(denoiser, encoded, place(task.noise.start), config, step if config.stochastic else None)
        task.out[draws, stage] = z[:, 0].cpu()[:, latent]


def _chunks(n: int, size: int) -> list[slice]:
    size = max(1, size)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
