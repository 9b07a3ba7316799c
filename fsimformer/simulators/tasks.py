"""Benchmark tasks of sbibm (arXiv 2101.04653): a vector `theta`, a vector `x`, no index.

    gaussian_linear    θ ∈ R¹⁰, θ ~ N(0, 0.1);  x ~ N(θ, 0.1)                     (0.1 is the variance)
    gaussian_mixture   θ ~ U(−10, 10)²;  x ~ ½ N(θ, 1) + ½ N(θ, 0.1²)
    two_moons          θ ~ U(−1, 1)²;  a ~ U(−π/2, π/2), r ~ N(0.1, 0.01²),
                       x = (r cos a + 0.25 − |θ₁+θ₂|/√2,  r sin a + (θ₂−θ₁)/√2)
    slcp               θ ~ U(−3, 3)⁵;  x = four draws of N₂((θ₁, θ₂), S), flattened,
                       S = [[s₁², ρ s₁ s₂], [ρ s₁ s₂, s₂²]],  s₁ = θ₃², s₂ = θ₄², ρ = tanh θ₅

Here x has its noise already: it is a vector, read as a whole or component by component.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fsimformer.priors import Normal, Prior, Uniform
from fsimformer.schema import Components, Schema, Variable
from fsimformer.simulators.protocol import FunctionSimulator
from fsimformer.whiten import prior_from_z

Likelihood = Callable[[Tensor, torch.Generator], Tensor]
"""theta (n, size), generator -> x (n, size of x)."""


def gaussian_linear() -> FunctionSimulator:
    return _task(Normal(0.0, math.sqrt(0.1)), 10, 10, draw_gaussian_linear)


def gaussian_mixture() -> FunctionSimulator:
    return _task(Uniform(-10.0, 10.0), 2, 2, draw_gaussian_mixture)


def two_moons() -> FunctionSimulator:
    return _task(Uniform(-1.0, 1.0), 2, 2, draw_two_moons)


def slcp() -> FunctionSimulator:
    return _task(Uniform(-3.0, 3.0), 5, 8, draw_slcp)


def draw_gaussian_linear(theta: Tensor, generator: torch.Generator) -> Tensor:
    return theta + math.sqrt(0.1) * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)


def draw_gaussian_mixture(theta: Tensor, generator: torch.Generator) -> Tensor:
    wide = torch.rand(len(theta), 1, generator=generator, dtype=theta.dtype) < 0.5  # one choice a row
    noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    return theta + torch.where(wide, 1.0, 0.1) * noise


def draw_two_moons(theta: Tensor, generator: torch.Generator) -> Tensor:
    angle = math.pi * (torch.rand(len(theta), generator=generator, dtype=theta.dtype) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta), generator=generator, dtype=theta.dtype)
    first, second = theta.unbind(1)
    return torch.stack(
        (
            radius * angle.cos() + 0.25 - (first + second).abs() / math.sqrt(2),
            radius * angle.sin() + (second - first) / math.sqrt(2),
        ),
        1,
    )


def draw_slcp(theta: Tensor, generator: torch.Generator) -> Tensor:
    mean, (s1, s2), rho = theta[:, :2], theta[:, 2:4].square().unbind(1), theta[:, 4].tanh()
    e1, e2 = torch.randn(2, len(theta), 4, generator=generator, dtype=theta.dtype)
    conditional = (1 - rho.square()).clamp(min=0).sqrt()  # tanh may round to ±1
    x = mean[:, None, 0] + s1[:, None] * e1
    y = mean[:, None, 1] + s2[:, None] * (rho[:, None] * e1 + conditional[:, None] * e2)
    return torch.stack((x, y), -1).flatten(1)  # (n, 4, 2) -> x₁ y₁ x₂ y₂ …


def _task(prior: Prior, n_theta: int, n_x: int, likelihood: Likelihood) -> FunctionSimulator:
    schema = Schema(
        (
            Variable("theta", "parameter", ("theta_dim",), prior),
            Variable("x", "data", ("x_dim",), parents=("theta",)),
        ),
        (Components("theta_dim", n_theta), Components("x_dim", n_x)),
    )

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        theta = prior_from_z(prior, torch.randn(n, n_theta, generator=generator, dtype=torch.float64))
        return {"theta": theta, "x": likelihood(theta, generator)}

    return FunctionSimulator(schema, simulate)
