"""What a simulator may return at each of its doors; the mistakes that `check` names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer.priors import Uniform
from fsimformer.schema import Schema, Variable
from fsimformer.simulations import simulate
from fsimformer.simulators import FunctionSimulator, check
from fsimformer.simulators.protocol import draw_priors

SCHEMA = Schema((Variable("a", "parameter", prior=Uniform(0.0, 1.0)), Variable("x", "data")))


def double(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    draws = draw_priors(SCHEMA, n, generator)
    return {**draws, "x": 2 * draws["a"]}


def pair(*_: Any) -> Any:
    """As (theta, x), a usual way to write a simulator."""
    return torch.rand(3), torch.rand(3)


@pytest.mark.parametrize(
    ("returns", "name"), [("simulate", r"simulate\(\)"), ("simulate_at", r"simulate_at\(\)"), ("paths", "paths")]
)
def test_draws_that_come_in_no_mapping_are_refused(returns: str, name: str) -> None:
    simulator = FunctionSimulator(SCHEMA, double)
    check(simulator)
    with pytest.raises(TypeError, match=rf"^{name}: expected a dict of variable -> tensor, got tuple\.$"):
        check(replace(simulator, **{returns: pair}))


def test_simulating_asks_for_a_mapping_where_nobody_checked_before() -> None:
    with pytest.raises(TypeError, match="simulate: expected a dict of variable -> tensor, got tuple"):
        simulate(FunctionSimulator(SCHEMA, pair), 200, seeded())


def test_parameters_that_come_back_are_to_be_left_out() -> None:
    def everything(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {**parameters, "x": 2 * parameters["a"]}

    message = r"simulate_at\(\): expected the variables \['x'\], got \['a', 'x'\]; leave the parameters out\."
    with pytest.raises(ValueError, match=message):
        check(FunctionSimulator(SCHEMA, double, simulate_at=everything))
