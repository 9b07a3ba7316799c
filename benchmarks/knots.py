"""How many knots does a reference set need? In closed form, for a network without error.

f ~ GP(0, k) on [0, 1], read at ten random times with noise √.1. An exact network draws the knots K jointly and every
other point q by itself, from the smooth noise ε(q) (design.md, D3), so that its draws have the exact mean and the exact
variance everywhere, and the covariance

    C_qK C_KK⁻¹ C_Kp + d(q) ρ(q, p) d(p),   d(q)² = C_qq − C_qK C_KK⁻¹ C_Kq,

C that of the exact posterior, ρ that of ε. What is wrong is the dependence between points within d(q) d(p). Reported,
mean over five sets of readings: ‖C' − C‖/‖C‖ (Frobenius) at 40 random points; the rms error of the correlation of those
within a tenth of the range; the variance of f(t + 1e-3) − f(t) by the exact one, quantiles .05 and .95 over 200 places;
and the rms of what the natural spline through the knots misses, in sds of f. There is no Monte Carlo in it but the
places.

    python benchmarks/knots.py
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from record import no_arguments, save
from torch import Tensor

from fsimformer.extension import noise_function
from fsimformer.functions import FLOOR, ReferenceSet, knots, spline
from fsimformer.kernels import Kernel
from fsimformer.simulators import GaussianProcess, GaussianProcessPosterior

LENGTHSCALES = (0.05, 0.1, 0.2, 0.4, 0.8)
SIZES = (9, 17, 33, 65)
KERNELS = {"squared exponential": math.inf, "Matérn 3/2": 1.5}
N_SETS, N_READINGS, N_POINTS, N_PLACES, NEAR, CLOSE = 5, 10, 40, 200, 1e-3, 0.1


def drawn_covariance(exact: GaussianProcessPosterior, size: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances (n, n) at points (n,) of draws by an exact network with `size` knots, and of the posterior itself."""
    k, n = (knots((size,))[:, 0] + 1) / 2, len(at)
    whole = exact.covariance(torch.cat([at, k]))
    exact_part, across = whole[:n, :n], whole[:n, n:]
    values, vectors = torch.linalg.eigh(whole[n:, n:])
    kept = values > 1e-9 * values[-1]  # long lengthscales make knots redundant to rounding
    half = across @ vectors[:, kept] / values[kept].sqrt()
    known = half @ half.T
    own = (exact_part - known).diagonal().clamp(min=0).sqrt()
    reference = ReferenceSet(0, 1, (0,), (size,), torch.full((size,), FLOOR))
    alike = noise_function(reference).times_covariance(2 * at[:, None] - 1, torch.eye(n, dtype=torch.float64))
    return known + own[:, None] * alike * own, exact_part


def missed(kernel: Kernel, size: int) -> float:
    """Root mean square of f − spline(f at the knots), over the range."""
    at, k = torch.linspace(0, 1, 1_001, dtype=torch.float64)[:, None], (knots((size,)) + 1) / 2
    weights = spline((size,), 2 * at - 1)
    square = 1 - 2 * (weights * kernel(at, k)).sum(1) + ((weights @ kernel(k, k)) * weights).sum(1)
    return float(square.clamp(min=0).mean().sqrt())


def figures(process: GaussianProcess, size: int) -> dict[str, float]:
    generator, rows, ratios = torch.Generator().manual_seed(0), [], []
    for _ in range(N_SETS):
        times, points, starts = (
            torch.rand(n, generator=generator, dtype=torch.float64) for n in (N_READINGS, N_POINTS, N_PLACES)
        )
        exact = GaussianProcessPosterior(
            (process.kernel,), torch.zeros(1, dtype=torch.float64), process.sd, process.noise, times[:, None],
            torch.zeros_like(times), torch.full_like(times, process.noise),
        )  # fmt: skip
        found, wanted = drawn_covariance(exact, size, points)
        scale = wanted.diagonal().sqrt()
        close = ((points[:, None] - points).abs() < CLOSE) & ~torch.eye(N_POINTS, dtype=torch.bool)
        correlation = ((found - wanted) / scale[:, None] / scale)[close]
        rows.append([float((found - wanted).norm() / wanted.norm()), float(correlation.square().mean().sqrt())])
        starts = starts * (1 - NEAR)
        for pair in torch.stack([starts, starts + NEAR], 1):
            ours, true = ((c[0, 0] + c[1, 1] - 2 * c[0, 1]) for c in drawn_covariance(exact, size, pair))
            ratios.append(float(ours / true))
    covariance, correlation = np.mean(rows, axis=0)
    low, high = np.quantile(ratios, [0.05, 0.95])
    return {
        "covariance_error": float(covariance), "correlation_error": float(correlation),
        "increment_q05": float(low), "increment_q95": float(high), "missed": missed(process.kernel, size),
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, smoothness in KERNELS.items():
        for lengthscale in LENGTHSCALES:
            process = GaussianProcess(Kernel(smoothness, lengthscale))
            for size in SIZES:
                rows.append({"kernel": name, "lengthscale": lengthscale, "knots": size} | figures(process, size))
                print(rows[-1], flush=True)
    print(save("knots", 0, {"n_sets": N_SETS, "n_points": N_POINTS, "monte_carlo_floor": 0.0, "rows": rows}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
