"""Log densities against exact ones: Gaussian, readings of a Gaussian process at 1 to 64 points, two_moons.

gaussian   `likelihood.log_prob` of an exact denoiser of d correlated normals, steps doubled until two solutions agree
           as `Conditional.log_prob` has it (tolerance .02 a value).
process    `Conditional.log_prob` of readings at K places given four others, by the exact network of the tests.
two_moons  `Conditional.log_prob` at exact posterior draws, by the network of sbibm.py trained on 1,000 simulations
           (seed 2): the error is the network's. Its mean over the draws, exact less found, is KL(exact, network).
Errors are absolute, in nats a value; n = 200 values of each law.

    python benchmarks/log_density.py
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from record import ROOT, no_arguments, save
from scipy.stats import multivariate_normal
from torch import Tensor

import fsimformer as fsf
from fsimformer.likelihood import log_prob
from fsimformer.tokens import Streams, TokenSet, collate, split

sys.path.insert(0, str(ROOT / "tests"))
from gp_network import KERNEL, NOISE, SD, exact_joint

N, TOLERANCE = 200, 0.02
DIMS, POINTS = (1, 4, 16, 64), (1, 4, 16, 64)
SEEN = xr.Dataset({"x": ("time", [1.5, -1.0, -0.2, 3.0])}, {"time": [1.0, 4.0, 4.3, 8.0]})


class Exact:
    """E[x | x + λ ε] of x ~ N(0, covariance), in the place of a trained network."""

    device, lower = torch.device("cpu"), False

    def __init__(self, covariance: Tensor) -> None:
        self.covariance, self.eye = covariance, torch.eye(len(covariance), dtype=torch.float64)

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Streams) -> Tensor:
        gain = self.covariance @ torch.linalg.inv(self.covariance + float(ratio[0, 0]) ** 2 * self.eye)
        return y @ gain.T.to(y.dtype)


def row(kind: str, size: int, error: np.ndarray, start: float, **more: Any) -> dict[str, Any]:
    out = {
        "law": kind, "values": size, "mean_absolute_error": float(np.abs(error).mean()) / size,
        "largest_error": float(np.abs(error).max()) / size, "cpu_seconds": time.process_time() - start, **more,
    }  # fmt: skip
    print(out, flush=True)
    return out


def gaussian(d: int) -> dict[str, Any]:
    start, rng = time.process_time(), np.random.default_rng(d)
    root = rng.normal(size=(d, d)) / math.sqrt(d) + 0.3 * np.eye(d)
    law = multivariate_normal(np.zeros(d), root @ root.T, allow_singular=False)
    x = law.rvs(N, random_state=1).reshape(N, d)
    ids = torch.zeros(d, dtype=torch.long)
    tokens = TokenSet(ids, torch.zeros(d, 0), torch.zeros(d), torch.zeros(d, dtype=torch.bool))
    streams, z = split(collate([tokens])), torch.from_numpy(x)[None].float()
    exact = cast(Any, Exact(torch.from_numpy(root @ root.T)))
    steps, before, apart = 12, np.zeros(N), np.inf
    while apart > TOLERANCE * d and steps <= 768:
        found = log_prob(exact, streams, z, n_steps=steps, log_min=-6.9)[0]
        apart, before, steps = float(np.abs(found.numpy() - before).max()) / 3, found.double().numpy(), 2 * steps
    return row("gaussian", d, before - law.logpdf(x), start, steps=steps // 2)


def process(k: int) -> dict[str, Any]:
    start, at = time.process_time(), np.linspace(0.3, 9.8, k)
    points = torch.from_numpy(2 * np.concatenate([SEEN["time"], at]) / 10 - 1)[:, None]
    c = SD**2 * KERNEL(points, points).numpy() + NOISE**2 * np.eye(len(points))
    gain = np.linalg.solve(c[:4, :4], c[:4, 4:]).T
    law = multivariate_normal(gain @ SEEN["x"].to_numpy(), c[4:, 4:] - gain @ c[:4, 4:], allow_singular=False)
    x = law.rvs(N, random_state=1).reshape(N, k)
    found = exact_joint().condition(SEEN).log_prob(xr.Dataset({"x": (("draw", "time"), x)}, {"time": at}))
    return row("process", k, found.to_numpy() - law.logpdf(x), start)


def two_moons() -> dict[str, Any]:
    """x₁ = ¼ + r cos a − |s|, x₂ = d + r sin a: both signs of s are as likely where the prior's square holds both."""
    start, rng = time.process_time(), np.random.default_rng(0)
    joint, found, exact = fsf.load(ROOT / "runs" / "sbibm" / "two_moons_1000_default_2"), [], []
    for x in ([0.0, 0.0], [-0.2, 0.3], [-0.5, -0.4]):
        r, a = rng.normal(0.1, 0.01, N), rng.uniform(-math.pi / 2, math.pi / 2, N)
        s = rng.choice([-1.0, 1.0], N) * (0.25 + r * np.cos(a) - x[0])
        d = x[1] - r * np.sin(a)
        theta = np.stack([s - d, s + d], 1) / math.sqrt(2)
        assert (np.abs(theta) < 1).all()
        exact.append(-0.5 * ((r - 0.1) / 0.01) ** 2 - math.log(0.01 * math.sqrt(2 * math.pi)) - np.log(2 * math.pi * r))
        (name,) = (v.name for v in joint.schema.variables if v.role == "parameter")
        (dim,) = joint.schema[name].dims
        given = joint.condition({"x": xr.DataArray(x, dims=joint.schema["x"].dims)}, judge=False)
        found.append(given.log_prob(xr.Dataset({name: (("draw", dim), theta)})).to_numpy())
    error = np.concatenate(found) - np.concatenate(exact)
    return row("two_moons", 2, error, start, kl=float(-error.mean()), kl_error=float(error.std() / len(error) ** 0.5))


def main() -> None:
    torch.set_num_threads(1)
    rows = [*(gaussian(d) for d in DIMS), *(process(k) for k in POINTS), two_moons()]
    print(save("log_density", 0, {"n": N, "tolerance": TOLERANCE, "monte_carlo_floor": 0.0, "rows": rows}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
