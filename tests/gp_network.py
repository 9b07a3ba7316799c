"""A network that knows a Gaussian process: the exact denoiser of its values, its readings and its residuals."""

from __future__ import annotations

import math

import torch
from gaussian import output_of_normal
from torch import Tensor, nn

from fsimformer.denoise import Denoiser
from fsimformer.functions import ReferenceSet, fit_spread, knots, spline
from fsimformer.joint import Joint
from fsimformer.kernels import Kernel
from fsimformer.model_file import Model
from fsimformer.nn import Context, NetworkConfig
from fsimformer.noise import SmoothNoise
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.whiten import Standardise, Transform, Whitening

F, X, BETWEEN = 0, 1, 2
SD, NOISE, LENGTHSCALE, KNOTS = 2.0, 0.6, 0.35, 9  # lengthscale on [−1, 1]
KERNEL = Kernel(math.inf, LENGTHSCALE)
SCHEMA = Schema(
    (
        Variable("f", "parameter", ("time",), reference=KNOTS, path_of="x"),
        Variable("x", "data", ("time",), noise=Noise("normal", NOISE)),
    ),
    (Index("time", 0.0, 10.0),),
)


class ProcessNetwork(nn.Module):
    """F of `denoise.py` for f ~ GP(0, sd² k), x = f + noise, both whitened by sd, and r between the knots."""

    n_outputs, precision = 1, torch.float32

    def __init__(self, reference: ReferenceSet) -> None:
        super().__init__()
        self.reference, self.calls = reference, 0
        self.config = NetworkConfig(tuple(map(tuple, SCHEMA.uses_index().tolist())))
        self.out = nn.Linear(1, 1)  # says which device the network is on
        nn.init.zeros_(self.out.weight)  # every exact network has the same fingerprint
        nn.init.zeros_(self.out.bias)

    def encode(
        self, variable: Tensor, index: Tensor, value: Tensor, attend: Tensor, content: Tensor | None = None
    ) -> Context:
        return Context((variable, index, value), ())

    def decode(
        self,
        variable: Tensor,
        index: Tensor,
        observed: Tensor,
        value: Tensor,
        c_noise: Tensor,
        context: Context,
        attend: Tensor,
        attend_context: Tensor,
        content: Tensor | None = None,
        estimate: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        assert all(bool((a == a[:1]).all()) for a in (variable, index, *context.keys[:2])), "rows of one structure"
        own = attend[0] if attend.dim() == 3 else attend[0].expand(attend.shape[1], -1)
        assert not bool(observed.any()), "observed tokens are expected in the context"
        ids, at = (torch.cat([a[0], b[0]]) for a, b in zip((variable, index), context.keys[:2], strict=True))
        covariance, n = self.covariance(ids, at[:, 0].double()), variable.shape[1]
        given, known = torch.arange(n, len(ids)), context.keys[2].double()
        out = torch.zeros_like(value)
        for group in {tuple(own[i].nonzero()[:, 0].tolist()) for i in range(n)}:
            i = torch.tensor(group)
            mean, left = given_readings(covariance, i, given, known)
            out[..., i] = output_of_normal(mean, left, value[..., i], c_noise).to(out.dtype)
        return out

    def covariance(self, ids: Tensor, at: Tensor) -> Tensor:
        """Of whitened tokens: each is a sum of values of f, and noise."""
        grid = knots(self.reference.reference)[:, 0]
        weights = torch.cat([torch.eye(len(at)).double(), torch.zeros(len(at), len(grid)).double()], 1)
        between = ids == BETWEEN
        weights[between, len(at) :] = -spline(self.reference.reference, at[between, None])
        weights[between] /= self.reference.scale(at[between, None])[:, None]
        points = torch.cat([at, grid])[:, None]
        return weights @ KERNEL(points, points) @ weights.T + torch.diag((ids == X) * (NOISE / SD) ** 2)


def given_readings(covariance: Tensor, i: Tensor, given: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, 1, i) and covariance (i, i) of the entries i, given the entries `given` with values known (B, ·)."""
    noisy = covariance[given][:, given] + 1e-10 * torch.eye(len(given)).double()
    gain = torch.linalg.solve(noisy, covariance[given][:, i]).T
    return (known @ gain.T)[:, None], covariance[i][:, i] - gain @ covariance[given][:, i]


def exact_joint() -> Joint:
    """A Joint whose network is exact, with f, its readings x, and 9 knots that are 0.7 lengthscales apart."""
    noise = SmoothNoise(KERNEL, 256)
    functions = noise.coefficients(2_000, torch.Generator().manual_seed(0))
    spread = fit_spread((KNOTS,), lambda points: noise.evaluate(functions, points))
    reference = ReferenceSet(F, BETWEEN, (0,), (KNOTS,), spread)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[:, BETWEEN] = False
    network = ProcessNetwork(reference)
    transform = Transform(None, SCHEMA["x"].support, Standardise(0.0, SD))
    model = Model(
        SCHEMA,
        Whitening({"f": transform, "x": transform}),
        Denoiser(network, dependency=mask),  # type: ignore[arg-type]
        "trig", "dense", 0, {"x": 60, "f": 60}, 64, {}, (), {}, spread={"f": (spread,)},
    )  # fmt: skip
    return Joint(model)
