"""Benchmark tasks of scalars with a graph (arXiv 2404.09636); N(m, s): s is the standard deviation.

    tree   t1 ~ N(0, 1), t2 ~ N(t1, 1), t3 ~ N(t1, 1);  x1 ~ N(sin(t2)², 0.2), x2 ~ N(0.1 t2², 0.2),
           x3 ~ N(0.1 t3², 0.6), x4 ~ N(cos(t3)², 0.1)
    hmm    t0 ~ N(0, 0.5), ti ~ N(t(i−1), 0.5), i = 1 … 9;  xi ~ N(ti², 0.5), i = 0 … 9

The t are parameters, whitened by their marginals (normal with summed variances); the x are data, noise included.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsimformer.priors import Normal
from fsimformer.schema import Schema, Variable
from fsimformer.simulators.protocol import FunctionSimulator


def tree() -> FunctionSimulator:
    variables = (
        Variable("t1", "parameter", prior=Normal(0.0, 1.0)),
        Variable("t2", "parameter", prior=Normal(0.0, math.sqrt(2.0)), parents=("t1",)),
        Variable("t3", "parameter", prior=Normal(0.0, math.sqrt(2.0)), parents=("t1",)),
        Variable("x1", "data", parents=("t2",)),
        Variable("x2", "data", parents=("t2",)),
        Variable("x3", "data", parents=("t3",)),
        Variable("x4", "data", parents=("t3",)),
    )
    return FunctionSimulator(Schema(variables), draw_tree)


def hmm() -> FunctionSimulator:
    states = [
        Variable(f"t{i}", "parameter", prior=Normal(0.0, 0.5 * math.sqrt(i + 1)), parents=(f"t{i - 1}",) if i else ())
        for i in range(10)
    ]
    return FunctionSimulator(
        Schema((*states, *(Variable(f"x{i}", "data", parents=(f"t{i}",)) for i in range(10)))), draw_hmm
    )


def draw_tree(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    noise = torch.randn(7, n, generator=generator, dtype=torch.float64)
    t1 = noise[0]
    t2, t3 = t1 + noise[1], t1 + noise[2]
    return {
        "t1": t1,
        "t2": t2,
        "t3": t3,
        "x1": t2.sin().square() + 0.2 * noise[3],
        "x2": 0.1 * t2.square() + 0.2 * noise[4],
        "x3": 0.1 * t3.square() + 0.6 * noise[5],
        "x4": t3.cos().square() + 0.1 * noise[6],
    }


def draw_hmm(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    steps, noise = 0.5 * torch.randn(2, 10, n, generator=generator, dtype=torch.float64)
    t = steps.cumsum(0)
    x = t.square() + noise
    return {f"t{i}": t[i] for i in range(10)} | {f"x{i}": x[i] for i in range(10)}
