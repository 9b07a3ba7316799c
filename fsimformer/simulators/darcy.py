"""Darcy flow: the pressure of groundwater in rock whose permeability is an unknown field.

    −∇·(exp(g) ∇p) = source on (0, 1)²,   p = 0 on the edge,   g ~ GP(0, sd² k),   readings p + noise·ε

with k the squared exponential of the distance over `lengthscale`: the elliptic inverse problem (Stuart 2010, Acta
Numerica 19; arXiv 2010.08895). Finite volumes on the grid's points with geometric means of exp(g) on their faces, of
second order, solved exactly by block elimination, many fields at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fsimformer.kernels import Kernel
from fsimformer.priors import Normal
from fsimformer.schema import Index, Noise, Schema, Variable

_ROWS = 256  # fields solved together
_JITTER = 1e-9  # of the variance: a smooth process on close points is singular to rounding


@dataclass(frozen=True)
class DarcyFlow:
    """`log_permeability(x1, x2)` and `pressure(x1, x2)`.

    Args:
        sd, lengthscale: of the log permeability; the square's side is 1.
        source: water that enters, everywhere alike; pressures are proportional to it.
        noise: standard deviation of a reading.
        grid_points: points along a side, at least 5.
        reference: knots of the log permeability's reference set along each dim; () = none.

    Raises:
        ValueError: sd, lengthscale, source or noise that is not positive and finite; fewer than 5 grid points.
    """

    sd: float = 1.0
    lengthscale: float = 0.3
    source: float = 10.0
    noise: float = 0.02
    grid_points: int = 33
    reference: tuple[int, ...] = (8, 8)

    def __post_init__(self) -> None:
        numbers, n = (self.sd, self.lengthscale, self.source, self.noise), self.grid_points
        if not all(0 < x < math.inf for x in numbers) or not isinstance(n, int) or n < 5:
            raise ValueError(
                f"DarcyFlow: expected finite sd, lengthscale, source, noise > 0 and an integer grid_points >= 5, got "
                f"{self}."
            )

    @property
    def schema(self) -> Schema:
        space, field = ("x1", "x2"), Normal(0.0, self.sd)
        permeability = Variable("log_permeability", "parameter", space, field, reference=self.reference)
        noise = Noise("normal", self.noise)
        pressure = Variable("pressure", "data", space, noise=noise, parents=("log_permeability",))
        return Schema((permeability, pressure), tuple(Index(k, 0.0, 1.0) for k in space))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {k: torch.linspace(0.0, 1.0, self.grid_points, dtype=torch.float64) for k in ("x1", "x2")}

    @cached_property
    def root(self) -> Tensor:
        """(G, G): the kernel of a side is root @ root.T; that of the square is the product of two sides'."""
        points = self.grid["x1"][:, None]
        kernel = Kernel(lengthscale=self.lengthscale)(points, points)
        root: Tensor = torch.linalg.cholesky(kernel + _JITTER * torch.eye(len(points), dtype=torch.float64))
        return root

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws, float64: the field and the clean pressure, (n, G, G)."""
        z = torch.randn(n, self.grid_points, self.grid_points, generator=generator, dtype=torch.float64)
        field = self.field(z)
        return {"log_permeability": field, "pressure": self.solve(field)}

    def field(self, z: Tensor) -> Tensor:
        """Standard normals (n, G, G) -> log permeability (n, G, G)."""
        return self.sd * self.root @ z @ self.root.T

    def solve(self, log_permeability: Tensor) -> Tensor:
        """Pressure (n, G, G) of log permeability (n, G, G) on the grid.

        Raises:
            ValueError: fields on another grid, or that are not finite.
        """
        g, shape = self.grid_points, tuple(log_permeability.shape)
        if len(shape) != 3 or shape[1:] != (g, g):
            raise ValueError(f"DarcyFlow.solve: expected log permeability of shape (n, {g}, {g}), got {shape}.")
        if not bool(log_permeability.isfinite().all()):
            raise ValueError("DarcyFlow.solve: expected finite log permeability, got NaN or infinity.")
        return torch.cat([self._solve(g) for g in log_permeability.double().split(_ROWS)])

    def _solve(self, g: Tensor) -> Tensor:
        """Rows of the grid are blocks: S_i = T_i − D_i S_{i−1}⁻¹ D_i forwards, then substitution backwards."""
        scale, inside = (self.grid_points - 1) ** 2, slice(1, -1)
        across = scale * torch.exp((g[:, :-1, inside] + g[:, 1:, inside]) / 2)  # faces between rows, (n, G−1, G−2)
        along = scale * torch.exp((g[:, inside, :-1] + g[:, inside, 1:]) / 2)  # within a row, (n, G−2, G−1)
        diagonal = across[:, :-1] + across[:, 1:] + along[..., :-1] + along[..., 1:]
        side = along[..., 1:-1]
        blocks = torch.diag_embed(diagonal) - torch.diag_embed(side, 1) - torch.diag_embed(side, -1)
        m = self.grid_points - 2
        right, inverses, sums = g.new_full((len(g), m, 1), self.source), list[Tensor](), list[Tensor]()
        for i in range(m):
            if i == 0:
                s, y = blocks[:, 0], right
            else:
                link = across[:, i, :, None]
                s = blocks[:, i] - link * inverses[-1] * link.mT
                y = right + link * (inverses[-1] @ sums[-1])
            inverses.append(torch.cholesky_inverse(torch.linalg.cholesky(s)))
            sums.append(y)
        rows, behind = list[Tensor](), torch.zeros_like(right)
        for i in reversed(range(m)):  # behind the last row lies the edge, where p = 0
            behind = inverses[i] @ (sums[i] + across[:, i + 1, :, None] * behind)
            rows.append(behind[..., 0])
        return torch.nn.functional.pad(torch.stack(rows[::-1], 1), (1, 1, 1, 1))
