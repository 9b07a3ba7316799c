"""Benchmark tasks of sbibm (arXiv 2101.04653): a vector `theta`, a vector `x`, no index.

    gaussian_linear    θ ∈ R¹⁰, θ ~ N(0, 0.1);  x ~ N(θ, 0.1)                     (0.1 is the variance)
    gaussian_mixture   θ ~ U(−10, 10)²;  x ~ ½ N(θ, 1) + ½ N(θ, 0.1²)
    two_moons          θ ~ U(−1, 1)²;  a ~ U(−π/2, π/2), r ~ N(0.1, 0.01²),
                       x = (r cos a + 0.25 − |θ₁+θ₂|/√2,  r sin a + (θ₂−θ₁)/√2)
    slcp               θ ~ U(−3, 3)⁵;  x = four draws of N₂((θ₁, θ₂), S), flattened,
                       S = [[s₁², ρ s₁ s₂], [ρ s₁ s₂, s₂²]],  s₁ = θ₃², s₂ = θ₄², ρ = tanh θ₅
    bernoulli_glm      θ ∈ R¹⁰: offset θ₁ ~ N(0, 2), filter (θ₂, …, θ₁₀) ~ N(0, (FᵀF)⁻¹), F = D D + diag(√(i/9)),
                       i = 0 … 8, D = I − (ones below the diagonal);  y_t ~ Bernoulli(sigmoid((Vθ)_t)), t = 1 … 100;
                       x = Vᵀy: number of spikes, and the sum of the stimulus 0 … 8 steps before them

Here x has its noise already: it is a vector, read as a whole or component by component.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fsimformer.priors import Normal, Prior, Uniform
from fsimformer.schema import Components, Schema, Variable
from fsimformer.simulators.protocol import FunctionSimulator
from fsimformer.whiten import prior_from_z

Likelihood = Callable[[Tensor, torch.Generator], Tensor]
"""theta (n, size), generator -> x (n, size of x)."""


def gaussian_linear() -> FunctionSimulator:
    return _task(Normal(0.0, math.sqrt(0.1)), 10, 10, draw_gaussian_linear, blocks=10, blockwise=("theta",))


def gaussian_mixture() -> FunctionSimulator:
    return _task(Uniform(-10.0, 10.0), 2, 2, draw_gaussian_mixture)


def two_moons() -> FunctionSimulator:
    return _task(Uniform(-1.0, 1.0), 2, 2, draw_two_moons)


def slcp() -> FunctionSimulator:
    return _task(Uniform(-3.0, 3.0), 5, 8, draw_slcp, blocks=4)


def bernoulli_glm() -> FunctionSimulator:
    root = torch.linalg.cholesky(glm_precision())  # P = L Lᵀ, θ = L⁻ᵀ ε

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(10, n, generator=generator, dtype=torch.float64)
        theta = torch.linalg.solve_triangular(root.T, noise, upper=True).T.contiguous()
        return {"theta": theta, "x": draw_bernoulli_glm(theta, generator)}

    theta = Variable("theta", "parameter", ("theta_dim",))  # one prior for all ten: no marginal to whiten by
    return FunctionSimulator(_schema(theta, 10, 10), simulate)


def glm_precision() -> Tensor:
    """Precision (10, 10) of bernoulli_glm's prior: ½ for the offset, FᵀF for the filter."""
    difference = torch.eye(9, dtype=torch.float64) - torch.diag(torch.ones(8, dtype=torch.float64), -1)
    smooth = difference @ difference + torch.diag(torch.arange(9, dtype=torch.float64) / 9).sqrt()
    return torch.block_diag(torch.tensor([[0.5]], dtype=torch.float64), smooth.T @ smooth)


def glm_design() -> Tensor:
    """Design matrix V (100, 10): a one for the offset, then the stimulus of the last nine steps, nought before it."""
    stimulus = torch.from_numpy(np.random.RandomState(42).randn(100).astype(np.float32)).double()  # sbibm's own
    lagged = [torch.cat((torch.zeros(lag, dtype=torch.float64), stimulus[: 100 - lag])) for lag in range(9)]
    return torch.stack([torch.ones(100, dtype=torch.float64), *lagged], 1)


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


def draw_bernoulli_glm(theta: Tensor, generator: torch.Generator) -> Tensor:
    design = glm_design().to(theta.dtype)
    spikes = torch.rand(len(theta), 100, generator=generator, dtype=theta.dtype) < torch.sigmoid(theta @ design.T)
    return spikes.to(theta.dtype) @ design


def _task(
    prior: Prior, n_theta: int, n_x: int, likelihood: Likelihood, blocks: int = 1, blockwise: tuple[str, ...] = ()
) -> FunctionSimulator:
    """A task whose parameters are independent draws of one prior."""

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        theta = prior_from_z(prior, torch.randn(n, n_theta, generator=generator, dtype=torch.float64))
        return {"theta": theta, "x": likelihood(theta, generator)}

    def simulate_at(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return {"x": likelihood(parameters["theta"], generator)}

    theta = Variable("theta", "parameter", ("theta_dim",), prior, blocks=n_theta)
    return FunctionSimulator(_schema(theta, n_theta, n_x, blocks, blockwise), simulate, simulate_at=simulate_at)


def _schema(theta: Variable, n_theta: int, n_x: int, blocks: int = 1, blockwise: tuple[str, ...] = ()) -> Schema:
    x = Variable("x", "data", ("x_dim",), parents=("theta",), blocks=blocks, blockwise=blockwise)
    return Schema((theta, x), (Components("theta_dim", n_theta), Components("x_dim", n_x)))
