"""A Gaussian process read with noise: every conditional of it is known, at any points.

    f ~ GP(0, sd² k),   x(s) = f(s) + noise·ε,   ε ~ N(0, 1) at every reading;   optionally ℓ ~ a prior of its own

The functional linear Gaussian task (arXiv 2505.22573) has k squared exponential, ℓ = 0.05, sd = 1, noise = √0.1 on
[0, 1]; smoothness ½ is Ornstein–Uhlenbeck regression; two dims are a random field. Given readings y at S, of x with
noise or of f itself without, f at points A is normal with

    mean K_AS (K_SS + N)⁻¹ y,   covariance K_AA − K_AS (K_SS + N)⁻¹ K_SA,   N = diag(noise² or 0)

(Rasmussen & Williams 2006, eq. 2.23–2.24); an unknown lengthscale mixes these normals by quadrature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.kernels import Kernel
from fsimformer.priors import Normal, Prior
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators.protocol import draw_priors
from fsimformer.whiten import prior_from_z, prior_to_z

_JITTER = 1e-10  # of the variance: a smooth process on close points is singular to rounding
_ROWS = 256  # lengthscales factorised together
_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianProcess:
    """`theta(dims)`, `x(dims)`, and `lengthscale` where it is unknown.

    Args:
        kernel: smoothness and lengthscale of f; with a prior on the lengthscale, that of the kernel does not count.
        lengthscale: its prior, the same ℓ in every dim; None = the kernel's, known.
        sd: standard deviation of f. noise: of a reading x.
        dims: name of an index dim -> its trained range.
        reference: knots of theta's reference set along each dim; () = none.
        grid_points: points of the dense grid along each dim; paths between them are interpolated, so at smoothness ½
            they should be much closer than the readings.

    Raises:
        ValueError: sd or noise that is not positive, no dims, fewer than two grid points.
    """

    kernel: Kernel = field(default_factory=lambda: Kernel(lengthscale=0.05))
    lengthscale: Prior | None = None
    sd: float = 1.0
    noise: float = math.sqrt(0.1)
    dims: Mapping[str, tuple[float, float]] = field(default_factory=lambda: {"time": (0.0, 1.0)})
    grid_points: int = 201
    reference: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.sd > 0 and self.noise > 0 and self.dims and self.grid_points >= 2):
            raise ValueError(f"GaussianProcess: expected sd, noise > 0, some dims, grid_points >= 2, got {self}.")
        self.kernel.lengthscales(len(self.dims))

    @property
    def schema(self) -> Schema:
        dims, known = tuple(self.dims), self.lengthscale is None
        scale = () if known else (Variable("lengthscale", "parameter", prior=self.lengthscale),)
        parents = tuple(v.name for v in scale)
        theta = Variable("theta", "parameter", dims, Normal(0.0, self.sd), parents=parents, reference=self.reference)
        x = Variable("x", "data", dims, noise=Noise("normal", self.noise), parents=("theta",))
        return Schema((*scale, theta, x), tuple(Index(k, *ends) for k, ends in self.dims.items()))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {k: torch.linspace(*ends, self.grid_points, dtype=torch.float64) for k, ends in self.dims.items()}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws, float64: lengthscale (n,) where unknown, theta and the clean path of x (n, *grid)."""
        draws = draw_priors(self.schema, n, generator)
        points = torch.stack(torch.meshgrid(*self.grid.values(), indexing="ij"), -1).reshape(-1, len(self.dims))
        white = torch.randn(n, len(points), generator=generator, dtype=torch.float64)
        if self.lengthscale is None:
            path = white @ torch.linalg.cholesky(_steady(self.kernel(points, points))).T
        else:
            path = torch.empty_like(white)
            for rows in torch.arange(n).split(_ROWS):
                scaled = points / draws["lengthscale"][rows, None, None]
                k = Kernel(self.kernel.smoothness)(scaled, scaled)
                path[rows] = (torch.linalg.cholesky(_steady(k)) @ white[rows, :, None])[..., 0]
        path = self.sd * path.view(n, *(len(g) for g in self.grid.values()))
        return {**draws, "theta": path, "x": path}

    def posterior(
        self, observed: xr.Dataset | Mapping[str, xr.DataArray] | None = None, n_nodes: int = 201
    ) -> GaussianProcessPosterior:
        """The exact conditional given readings of `x` and of `theta`; NaN is no reading.

        Args:
            observed: `x` and `theta` with their index as coordinates, a grid or points; a scalar `lengthscale`.
            n_nodes: of the quadrature over an unknown lengthscale, even steps in z = Φ⁻¹(F(ℓ)) from −5 to 5.

        Raises:
            KeyError: another variable, a reading without its coordinates.
        """
        given = {str(k): v for k, v in (observed or {}).items()}
        if unknown := set(given) - set(self.schema.names):
            raise KeyError(f"posterior: no variables {sorted(unknown)}. Variables: {list(self.schema.names)}.")
        parts = [self._readings(name, given[name]) for name in ("theta", "x") if name in given]
        parts = [(torch.zeros(0, len(self.dims), dtype=torch.float64), torch.zeros(0).double(), 0.0), *parts]
        index, value = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        noise = torch.cat([torch.full((len(p[1]),), p[2], dtype=torch.float64) for p in parts])
        if self.lengthscale is None:
            kernels: tuple[Kernel, ...] = (self.kernel,)
            log_prior = torch.zeros(1, dtype=torch.float64)
        else:
            z = torch.linspace(-5, 5, n_nodes, dtype=torch.float64)
            if "lengthscale" in given:
                z = prior_to_z(self.lengthscale, torch.tensor([float(given["lengthscale"])], dtype=torch.float64))
            nodes = prior_from_z(self.lengthscale, z)
            kernels = tuple(replace(self.kernel, lengthscale=float(node)) for node in nodes)
            log_prior = torch.log_softmax(-0.5 * z * z, 0)
        return GaussianProcessPosterior(kernels, log_prior, self.sd, self.noise, index, value, noise)

    def _readings(self, name: str, values: xr.DataArray) -> tuple[Tensor, Tensor, float]:
        """Index (n, D), value (n,) and noise of what is finite."""
        if lacking := [d for d in self.dims if d not in values.coords]:
            raise KeyError(f"posterior: {name!r} has no coordinates {lacking}; got {list(values.coords)}.")
        flat = [np.asarray(a, dtype=np.float64).ravel() for a in xr.broadcast(values, *(values[d] for d in self.dims))]
        finite = np.isfinite(flat[0])
        index = torch.from_numpy(np.stack(flat[1:], 1)[finite])
        return index, torch.from_numpy(flat[0][finite]), self.noise if name == "x" else 0.0


@dataclass(frozen=True, eq=False)
class GaussianProcessPosterior:
    """A mixture, over lengthscales, of normals at any points.

    Args:
        kernels: one a node. log_prior: (q,) log weights of the nodes before the readings.
        sd, noise: of f, and of new readings.
        index, value, reading_noise: (n, D), (n,) readings, (n,) their noise sd, 0 where f itself was read.
    """

    kernels: tuple[Kernel, ...]
    log_prior: Tensor
    sd: float
    noise: float
    index: Tensor
    value: Tensor
    reading_noise: Tensor

    def _root(self, kernel: Kernel) -> Tensor:
        k = self.sd**2 * _steady(kernel(self.index, self.index)) + torch.diag(self.reading_noise**2)
        return torch.linalg.cholesky(k)

    @property
    def log_evidence(self) -> Tensor:
        """(q,) log p(readings | node)."""
        out = []
        for kernel in self.kernels:
            root = self._root(kernel)
            white = torch.linalg.solve_triangular(root, self.value[:, None], upper=False)[:, 0]
            out.append(-0.5 * (white @ white + len(white) * _LOG_2PI) - root.diagonal().log().sum())
        return torch.stack(out)

    @property
    def weights(self) -> Tensor:
        """(q,) posterior probability of each node."""
        return torch.softmax(self.log_prior + self.log_evidence, 0)

    @property
    def nodes(self) -> Tensor:
        """(q,) lengthscales, of the first dim where each has its own."""
        return torch.tensor([k.lengthscales(1)[0] for k in self.kernels], dtype=torch.float64)

    def normal(self, at: Tensor | np.ndarray, node: int = 0, *, readings: bool = False) -> tuple[Tensor, Tensor]:
        """Mean (m,) and covariance (m, m) of f at points (m,) or (m, D), given a node; `readings`: of new x there."""
        at = torch.as_tensor(at, dtype=torch.float64)
        at = at[:, None] if at.dim() == 1 else at
        kernel = self.kernels[node]
        known = torch.cat([self.sd**2 * kernel(self.index, at), self.value[:, None]], 1)
        solved = torch.linalg.solve_triangular(self._root(kernel), known, upper=False)
        across, white = solved[:, :-1], solved[:, -1]
        covariance = self.sd**2 * kernel(at, at) - across.T @ across
        if readings:
            covariance = covariance + self.noise**2 * torch.eye(len(at), dtype=torch.float64)
        return across.T @ white, covariance

    def mean(self, at: Tensor | np.ndarray) -> Tensor:
        """(m,) mean of f."""
        weights = self.weights
        return torch.stack([weights[i] * self.normal(at, i)[0] for i in self._likely(weights)]).sum(0)

    def covariance(self, at: Tensor | np.ndarray, *, readings: bool = False) -> Tensor:
        """(m, m) covariance of f, or of new readings, over all lengthscales."""
        weights, mean = self.weights, self.mean(at)
        out = torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for i in self._likely(weights):
            m, c = self.normal(at, i, readings=readings)
            out += weights[i] * (c + torch.outer(m - mean, m - mean))
        return out

    def sample(
        self, at: Tensor | np.ndarray, n: int, generator: torch.Generator, *, readings: bool = False
    ) -> tuple[Tensor, Tensor]:
        """n draws (n, m) of f, or of new readings, and the lengthscale (n,) behind each."""
        weights = self.weights
        node = torch.multinomial(weights, n, replacement=True, generator=generator)
        white = torch.randn(n, len(at), generator=generator, dtype=torch.float64)
        out = torch.empty_like(white)
        for i in node.unique().tolist():
            mean, covariance = self.normal(at, i, readings=readings)
            values, vectors = torch.linalg.eigh(covariance)  # close points: semi-definite to rounding
            mine = node == i
            out[mine] = mean + (white[mine] * values.clamp(min=0).sqrt()) @ vectors.T
        return out, self.nodes[node]

    def log_prob(self, at: Tensor | np.ndarray, value: Tensor, *, readings: bool = False) -> Tensor:
        """Log density of values (…, m) of f, or of new readings, at points (m,) or (m, D): (…)."""
        weights, parts = self.weights, []
        likely = self._likely(weights)
        for i in likely:
            mean, covariance = self.normal(at, i, readings=readings)
            jitter = _JITTER * self.sd**2 * torch.eye(len(mean), dtype=torch.float64)
            normal = torch.distributions.MultivariateNormal(mean, covariance + jitter, validate_args=False)
            parts.append(normal.log_prob(value.double()))
        return torch.logsumexp(torch.stack(parts, -1) + weights[likely].log(), -1)

    def _likely(self, weights: Tensor) -> list[int]:
        """Nodes that count: others hold less than 1e-12 of the probability."""
        return (weights > 1e-12).nonzero()[:, 0].tolist()


def _steady(k: Tensor) -> Tensor:
    return k + _JITTER * torch.eye(k.shape[-1], dtype=k.dtype)
