"""Functions by a reference set: the values at its knots, a spline through them, and a residual everywhere else.

On the whitened scale a function is

    z(q) = Σ_k W_k(q) z(knot_k) + s(q) r(q),

with W the natural cubic spline on evenly spaced knots (a product of such splines in several dims) and s(q) the root
mean square, over simulations, of what the spline misses at q. The knots' values are tokens like any other value of the
function. The residual r, of unit size, is a token of an id of its own: given the knots and the observation, every point
is solved by itself, so that the law of f(A) cannot depend on what else is asked; between close knots s vanishes, and
with it whatever a network gets wrong about r (design.md, D3).

Index points are scaled to [−1, 1]; knots lie in C order, the last dim fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from fsimformer.grids import multilinear

FLOOR = 1e-4  # of s: at the knots the spline misses nothing, and r would be 0/0
_FINE = {1: 8, 2: 4}  # cells of the grid of s between two knots; more dims: 2


def knots(reference: tuple[int, ...]) -> Tensor:
    """(M, d) float64: the product of evenly spaced points in [−1, 1], ends included."""
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in reference]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(reference))


def spline(reference: tuple[int, ...], at: Tensor) -> Tensor:
    """Weights (…, M) float64 of the knots' values in the spline's value at points (…, d); linear beyond the ends."""
    parts = [_spline(n, at[..., j].double()) for j, n in enumerate(reference)]
    return reduce(lambda a, b: (a[..., :, None] * b[..., None, :]).flatten(-2), parts)


def _spline(n: int, x: Tensor) -> Tensor:
    """One dim: x (…,) -> (…, n)."""
    h, inside = 2 / (n - 1), x.clamp(-1, 1)
    cell = ((inside + 1) / h).floor().long().clamp(0, n - 2)
    t = ((inside + 1) / h - cell)[..., None]
    one = torch.nn.functional.one_hot
    left, right = one(cell, n).double(), one(cell + 1, n).double()
    bend = _second_derivatives(n, h).to(x.device)
    bend_left, bend_right = bend[cell], bend[cell + 1]
    s, sixth = 1 - t, h * h / 6
    value = s * left + t * right + sixth * ((s**3 - s) * bend_left + (t**3 - t) * bend_right)
    slope = (right - left + sixth * ((1 - 3 * s * s) * bend_left + (3 * t * t - 1) * bend_right)) / h
    return value + (x - inside)[..., None] * slope


def _second_derivatives(n: int, h: float) -> Tensor:
    """(n, n): values at the knots -> second derivatives of the natural spline there, 0 at both ends."""
    out = torch.zeros(n, n, dtype=torch.float64)
    if n > 2:
        inner = torch.arange(n - 2)
        system = torch.zeros(n - 2, n - 2, dtype=torch.float64)
        system[inner, inner] = 4.0
        system[inner[1:], inner[:-1]] = system[inner[:-1], inner[1:]] = 1.0
        difference = torch.zeros(n - 2, n, dtype=torch.float64)
        difference[inner, inner], difference[inner, inner + 1], difference[inner, inner + 2] = 1.0, -2.0, 1.0
        out[1:-1] = torch.linalg.solve(system, 6 / h**2 * difference)
    return out


@dataclass(frozen=True, eq=False)
class ReferenceSet:
    """The reference set of one function (of one component of it).

    Args:
        id, residual_id: token ids of the function and of its residual.
        dims: positions of the function's dims among all index dims.
        reference: number of knots along each of them.
        spread: s on a regular grid over [−1, 1]^d, float32, of any resolution.
    """

    id: int
    residual_id: int
    dims: tuple[int, ...]
    reference: tuple[int, ...]
    spread: Tensor

    @property
    def n_knots(self) -> int:
        return int(torch.tensor(self.reference).prod())

    def tokens(self, n_index: int) -> Tensor:
        """Index (M, n_index) of the knots' tokens, float32; 0 on dims that the function lacks."""
        out = torch.zeros(self.n_knots, n_index)
        out[:, list(self.dims)] = knots(self.reference).float()
        return out

    def scale(self, at: Tensor) -> Tensor:
        """s at points (…, d), float64, multilinear between the grid's points and constant beyond its ends."""
        spread = self.spread.to(at.device).double().flatten()
        out = torch.zeros(at.shape[:-1], dtype=torch.float64, device=at.device)
        for place, weight in multilinear(self.spread.shape, at.double().clamp(-1, 1)):
            out = out + weight * spread[place]
        return out.clamp(min=FLOOR)

    def residual(self, z: Tensor, z_knots: Tensor, at: Tensor) -> Tensor:
        """r (…, n) of values z (…, n) at points (…, n, d), given those at the knots (…, M); float32."""
        return ((z.double() - self._through(z_knots, at)) / self.scale(at)).float()

    def value(self, r: Tensor, z_knots: Tensor, at: Tensor) -> Tensor:
        """z (…, n), float64: the inverse of `residual`."""
        return self._through(z_knots, at) + self.scale(at) * r.double()

    def _through(self, z_knots: Tensor, at: Tensor) -> Tensor:
        return torch.einsum("...nm,...m->...n", spline(self.reference, at), z_knots.double())


def fit_spread(reference: tuple[int, ...], read: Callable[[Tensor], Tensor]) -> Tensor:
    """s on a grid that is finer than the knots.

    Args:
        reference: knots along each dim.
        read: points (n, d) in [−1, 1] -> whitened values of some simulations there, (simulations, n).

    Returns:
        Root mean square of what the spline misses, float32.
    """
    fine = _FINE.get(len(reference), 2)
    shape = tuple(fine * (n - 1) + 1 for n in reference)
    grid = knots(shape)
    z, z_knots = read(grid).double(), read(knots(reference)).double()
    missed = z - z_knots @ spline(reference, grid).T
    return missed.square().mean(0).sqrt().float().view(shape)
