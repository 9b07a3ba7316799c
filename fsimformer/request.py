"""What is asked of a conditional, whole: data sets, points, number of draws, seed, solver. Equal requests, equal draws.

Draws of a data set hang on the request and on its number among the data sets, not on who else is drawn beside it: any
part of a request gives what the whole gives (up to rounding: sums over a batch are split in another way).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fsimformer.convert import Observation, Query, query, query_tokens
from fsimformer.draws import Settings, draw_conditional
from fsimformer.extension import Drawn
from fsimformer.flow_map import FLOW_MAP
from fsimformer.model_file import NETWORK, Model
from fsimformer.paths import as_paths
from fsimformer.points import zero_dates
from fsimformer.query import nothing_asked
from fsimformer.sample import SamplerConfig, drawing, quality_named
from fsimformer.stages import Budget
from fsimformer.tokens import Dial, TokenSet

INDEX_ORIGIN = "index_origin"  # attribute of a tree of draws


@dataclass(frozen=True)
class Request:
    """n draws of every query given its observation."""

    model: Model
    observations: tuple[Observation, ...]
    queries: tuple[Query, ...]
    n: int
    seed: int
    sampler: SamplerConfig
    n_active_observed: Dial
    budget: Budget

    @classmethod
    def of(
        cls,
        model: Model,
        observations: Sequence[Observation],
        n: int,
        at: Mapping[str, Any] | None,
        seed: int,
        generator: torch.Generator | None,
        quality: str | SamplerConfig,
        n_active_observed: Dial,
        budget: Budget | None,
    ) -> Request:
        """What `Conditional.sample` was asked for.

        Raises:
            ValueError: odd or too small n, nothing left to sample, unknown quality, or one of distilled models where
                this is none, points that make no sense.
        """
        if not isinstance(n, int | np.integer) or n < 2 or n % 2:
            raise ValueError(f"sample: expected an even number of draws >= 2 (two chains), got {n!r}.")
        if not isinstance(budget, Budget | None):
            raise ValueError(f"sample: expected budget=fsimformer.Budget(n_joint, max_tokens) or None, got {budget!r}.")
        sampler, queries = quality_named(quality), []
        drawing(model.denoiser, sampler)  # there is such a network
        for o in observations:  # no comprehension: warnings count the frames up to the caller of `sample`
            queries.append(query(model.schema, o, at, stacklevel=4))
        if not any(len(q) for q in queries):
            raise ValueError(nothing_asked(model.schema, observations, at))
        if generator is not None:
            seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        limits = n_active_observed, budget or Budget(n_joint=model.max_latents)
        return cls(model, tuple(observations), tuple(queries), int(n), seed, sampler, *limits)

    def __len__(self) -> int:
        """How many data sets."""
        return len(self.observations)

    @property
    def stats(self) -> dict[str, Any]:
        """For `sample_stats`."""
        return {"seed": self.seed, **self.sampler.stats()}

    @property
    def drawn_by(self) -> dict[str, str]:
        """Fingerprint of the network and, where it draws, of the flow map."""
        few = self.model.flow_map_fingerprint if self.sampler.method == FLOW_MAP else None
        return {NETWORK: self.model.fingerprint} | ({} if few is None else {FLOW_MAP: few})

    @property
    def attributes(self) -> dict[str, str]:
        """Of a tree of draws: what drew it and, where dates came in or are known, which of them index 0 stands for."""
        dates = [text for some in zero_dates(self.observations) for text in some]
        return self.drawn_by | ({INDEX_ORIGIN: ". ".join(dates)} if dates else {})

    def latents(self, number: int) -> TokenSet:
        """What the network is asked for in one data set: paths in the place of noisy series that have one."""
        return as_paths(self.model.schema, query_tokens(self.model.schema, self.queries[number]))

    @property
    def settings(self) -> Settings:
        return Settings(self.sampler, self.n_active_observed, self.budget)

    def draw(self, numbers: range) -> list[Drawn]:
        """Draws of the data sets of these consecutive numbers, readings with their noise."""
        of = [self.observations[i] for i in numbers], [self.queries[i] for i in numbers]
        return draw_conditional(self.model, *of, self.n, self.settings, self.seed, number=numbers.start)

    def identity(self) -> dict[str, Any]:
        """What makes the draws, as JSON types: two requests with the same have the same draws."""
        points = (p for q in self.queries for p in (*q.points.items(), *q.replicate.items()))
        return {
            **self.drawn_by,
            "observations": _digest(self.observations),
            "at": _digest(points),
            "data_sets": len(self),
            "n": self.n,
            "seed": self.seed,
            "quality": asdict(self.sampler),
            "n_active_observed": self.n_active_observed,
            "budget": asdict(self.budget),
        }


def _digest(held: Any) -> str:
    """Of everything that is held, dataclasses, mappings and arrays, in their order."""
    whole = hashlib.sha256()
    _feed(whole, held)
    return whole.hexdigest()[:16]


def _feed(whole: Any, held: Any) -> None:
    if isinstance(held, np.ndarray):
        whole.update(f"{held.dtype}{held.shape}".encode())
        whole.update(repr(held.tolist()).encode() if held.dtype == object else np.ascontiguousarray(held).tobytes())
    elif hasattr(held, "__dataclass_fields__"):
        _feed(whole, vars(held))
    elif isinstance(held, Mapping):
        for key, value in held.items():
            whole.update(f"{key}=".encode())
            _feed(whole, value)
    elif isinstance(held, frozenset):
        _feed(whole, sorted(held))
    elif isinstance(held, Iterable) and not isinstance(held, str):
        for item in held:
            _feed(whole, item)
        whole.update(b";")
    else:
        whole.update(repr(held).encode())
