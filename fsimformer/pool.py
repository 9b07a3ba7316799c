"""Simulations of a truncated prior, and which rows of several rounds may be trained on together.

The rows of a round that truncated to R_s have parameters of density p(θ)/p(R_s) there, those that also lie in a region
R within R_s have p(θ)/p(R): rows of all rounds that lie in R are draws of the same law. Held-out rows stay held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsimformer.learn import held_out_of
from fsimformer.schema import Schema
from fsimformer.simulations import Simulations
from fsimformer.simulators.protocol import SimulateAt, Simulator, given_parameters
from fsimformer.truncate import Inside, Region, draw_inside, inside
from fsimformer.whiten import Whitening


@dataclass(frozen=True)
class Pooled:
    """Rows of several rounds, those to train on before the held-out ones; every row keeps the side it was drawn for."""

    values: dict[str, Tensor]
    n_train: int

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


def pooled(schema: Schema, whitening: Whitening, rounds: Sequence[Simulations], regions: Sequence[Region]) -> Pooled:
    """The rows of all rounds that lie in all regions; the others are dropped.

    Raises:
        ValueError: hardly any is left on one of the sides.
    """
    sides: tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]] = ([], [])
    for made in rounds:
        ok = inside(regions, uniform_of(schema, whitening, made.values))
        n_train = len(made) - held_out_of(len(made))
        held = torch.arange(len(made)) >= n_train
        for side, which in zip(sides, (ok & ~held, ok & held), strict=True):
            side.append({k: x[which] for k, x in made.values.items()})
    counts = [sum(len(x[schema.names[0]]) for x in side) for side in sides]
    if min(counts) < 2:
        raise ValueError(
            f"train_sequential: only {counts[0]} rows to train on and {counts[1]} held out lie in the region."
        )
    parts = [*sides[0], *sides[1]]
    return Pooled({k: torch.cat([x[k] for x in parts]) for k in schema.names}, counts[0])


def uniform_of(schema: Schema, whitening: Whitening, values: Mapping[str, Tensor]) -> Tensor:
    """Scalar and vector parameters as u = Φ(z), (n, d) float64, uniform under the prior."""
    columns = [whitening[k].forward(values[k].double()).reshape(len(values[k]), -1) for k in given_parameters(schema)]
    return torch.special.ndtr(torch.cat(columns, 1))


def parameters_of(schema: Schema, whitening: Whitening, u: Tensor) -> dict[str, Tensor]:
    """Inverse of `uniform_of`: (n,) a scalar, (n, size) a vector."""
    names, out = given_parameters(schema), {}
    columns = torch.special.ndtri(u).split([schema.n_components(k) for k in names], 1)
    for name, z in zip(names, columns, strict=True):
        x = whitening[name].inverse(z)
        out[name] = x if schema[name].dims else x[:, 0]
    return out


@dataclass(frozen=True)
class TruncatedPrior:
    """A Simulator whose parameters come from the prior inside regions; `drawn` notes how."""

    simulator: Simulator
    at: SimulateAt
    whitening: Whitening
    regions: tuple[Region, ...]
    candidates: int
    drawn: list[Inside] = field(default_factory=list)

    @property
    def schema(self) -> Schema:
        return self.simulator.schema

    @property
    def grid(self) -> dict[str, Tensor]:
        return self.simulator.grid

    @property
    def method(self) -> str:
        """How parameters were drawn; "rejection, kernels" where calls of `simulate` differed."""
        return ", ".join(dict.fromkeys(x.method for x in self.drawn))

    @property
    def share(self) -> float:
        """Mass of the regions under the prior: mean of the estimates of all calls, each as often as it drew rows."""
        return sum(x.share * len(x.u) for x in self.drawn) / sum(len(x.u) for x in self.drawn)

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        d = sum(self.schema.n_components(k) for k in given_parameters(self.schema))
        found = draw_inside(self.regions, n, d, generator, self.candidates)
        self.drawn.append(found)
        parameters = parameters_of(self.schema, self.whitening, found.u)
        return {**parameters, **self.at(parameters, generator)}
