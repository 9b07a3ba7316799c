"""Draws under constraints: truncated Gaussians that are known exactly, and a trained network against itself.

gaussian   three correlated standard normals (correlations .5, −.3, .2), the first above a threshold that leaves a half
           to a millionth of the prior, the second inside [−1, 1] besides; exact denoiser, quality "sde" as users have
           it. n = 2,000 particles, `REPEATS` runs of each method: log P against quadrature, mean error (sds of the
           truncated law) and largest error of the covariance (of the same), effective draws; RF C2ST of n = 1,000 of
           one run against exact draws of the law, the floor between two such samples beside.
network    the shipped `lotka_volterra` given its first reference data set: alpha below its quantile 1/2, 1/10, 1/100;
           SMC and guidance against rejection on the same network, RF C2ST at n = 500, the floor beside.
Violations are counted in all of them.

    python benchmarks/constraints.py
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from lotka_volterra import PARAMETERS, data_set
from record import ROOT, no_arguments, save
from torch import Tensor

import fsimformer as fsf
from fsimformer.diagnostics import c2st
from fsimformer.sample import QUALITY
from fsimformer.tokens import Streams, TokenSet
from fsimformer.twisted import Term, Twist, draw_twisted, systematic

COV = torch.tensor([[1.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 1.0]], dtype=torch.float64)
SHARES = (0.5, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
N, N_C2ST, REPEATS = 2_000, 1_000, 10
NETWORK_SHARES, N_NETWORK = (0.5, 0.1, 0.01), 500
NOTHING = TokenSet(
    torch.zeros(0, dtype=torch.long), torch.zeros(0, 0), torch.zeros(0), torch.zeros(0, dtype=torch.bool)
)
STAGE = TokenSet(torch.arange(3), torch.zeros(3, 0), torch.zeros(3), torch.zeros(3, dtype=torch.bool))


class Exact:
    """E[x | x + λ ε] of x ~ N(0, COV), in the place of a trained network."""

    device = torch.device("cpu")

    def encode(self, streams: Streams) -> Streams:
        return streams

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Streams) -> Tensor:
        gain = COV @ torch.linalg.inv(COV + float(ratio[0, 0]) ** 2 * torch.eye(3, dtype=torch.float64))
        return y @ gain.T.to(y.dtype)


def box(threshold: float) -> Twist:
    eye, one = torch.eye(3, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    first = Term(eye[0, None], 0 * one, one, None, threshold, math.inf, 1.0)
    return Twist((first, Term(eye[1, None], 0 * one, one, None, -1.0, 1.0, 1.0)))


def exact(threshold: float) -> tuple[float, Tensor, Tensor]:
    """P, mean and covariance under the box, by quadrature over the first two."""
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(800))
    top = max(threshold, 0.0) + 9.0
    bottom = max(threshold, -9.0)
    a, wa = bottom + (top - bottom) / 2 * (1 + x), (top - bottom) / 2 * w
    two = torch.stack(torch.meshgrid(a, x, indexing="ij"), -1).reshape(-1, 2)
    law = torch.distributions.MultivariateNormal(torch.zeros(2).double(), COV[:2, :2])
    mass = law.log_prob(two).exp() * torch.outer(wa, w).flatten()
    gain = COV[2:, :2] @ torch.linalg.inv(COV[:2, :2])
    points = torch.cat([two, two @ gain.T], 1)
    p = mass.sum()
    mean = (mass[:, None] * points).sum(0) / p
    covariance = torch.einsum("n,ni,nj->ij", mass / p, points - mean, points - mean)
    covariance[2, 2] += COV[2, 2] - (gain @ COV[:2, 2:])[0, 0]
    return float(p), mean, covariance


def truncated(threshold: float, n: int, rng: np.random.Generator) -> np.ndarray:
    """Exact draws: the first from its truncated normal, the others given it, until the second fits."""
    from scipy.stats import truncnorm

    root, out = np.linalg.cholesky(COV.numpy()), list[np.ndarray]()
    while sum(map(len, out)) < n:
        first = truncnorm(threshold, np.inf).rvs(50_000, random_state=rng)
        z = np.concatenate([first[:, None], rng.standard_normal((50_000, 2))], 1) @ root.T
        out.append(z[np.abs(z[:, 1]) <= 1])
    return np.concatenate(out)[:n]


def inside(z: Tensor, threshold: float) -> Tensor:
    return (z[:, 0] >= threshold) & (z[:, 1].abs() <= 1)


def gaussian(share: float, method: str) -> dict[str, Any]:
    threshold = float(torch.special.ndtri(torch.tensor(1 - share, dtype=torch.float64)))
    p, mean, covariance = exact(threshold)
    sd, log_p, errors, spreads, effective, violations = covariance.diagonal().sqrt(), [], [], [], [], 0
    start, one = time.process_time(), np.zeros((0, 3))
    for seed in range(REPEATS):
        generator = torch.Generator().manual_seed(seed)
        repeats = 2 if method == "guidance" else None
        found = draw_twisted(Exact(), NOTHING, STAGE, box(threshold), N, QUALITY["sde"], 0, 10**6, generator, repeats)  # type: ignore[arg-type]
        good, z = inside(found.z, threshold), found.z.double()
        total = (found.log_weight - found.log_psi if method == "smc" else torch.zeros(N).double()).masked_fill(
            ~good, -torch.inf
        )
        w = total.softmax(0)
        mine = (w[:, None] * z).sum(0)
        spread = torch.einsum("n,ni,nj->ij", w, z - mine, z - mine)
        log_p.append(found.log_mean + float(total.logsumexp(0)) - math.log(N) if method == "smc" else math.nan)
        errors.append(float(((mine - mean) / sd).abs().mean()))
        spreads.append(float(((spread - covariance) / (sd[:, None] * sd)).abs().max()))
        effective.append(float(1 / (w**2).sum()))
        chosen = systematic(total, N_C2ST, generator)
        violations += int((~inside(z[chosen], threshold)).sum())
        one = z[chosen].numpy()
    rng = np.random.default_rng(0)
    a, b = truncated(threshold, N_C2ST, rng), truncated(threshold, N_C2ST, rng)
    same = torch.from_numpy(np.cov(truncated(threshold, int(np.mean(effective)), rng).T))
    ratio = np.exp(np.array(log_p) - math.log(p))
    return {
        "share": share, "method": method, "probability": p, "effective": float(np.mean(effective)),
        "probability_ratio": float(ratio.mean()), "probability_ratio_error": float(ratio.std(ddof=1) / REPEATS**0.5),
        "mean_error_sd": float(np.mean(errors)), "covariance_error": float(np.mean(spreads)),
        "covariance_error_floor": float(((same - covariance) / (sd[:, None] * sd)).abs().max()),
        "mean_error_floor": float((2 / math.pi / np.mean(effective)) ** 0.5),
        "c2st": c2st(a, one), "floor": c2st(a, b), "violations": violations,
        "cpu_seconds": (time.process_time() - start) / REPEATS,
    }  # fmt: skip


def network() -> list[dict[str, Any]]:
    saved = dict(np.load(ROOT / "benchmarks" / "references" / "lotka_volterra.npz"))
    given, rows = fsf.load("lotka_volterra").condition(data_set(saved, 0)), []
    alpha = given.sample(20_000, at={}, seed=1)["posterior"]["alpha"].to_numpy()
    for share in NETWORK_SHARES:
        upper = float(np.quantile(alpha, share))
        draws, seconds, stats = {}, {}, {}
        for name, method, seed in (
            ("rejection", "rejection", 2), ("again", "rejection", 3), ("smc", "smc", 2), ("guidance", "guidance", 2)
        ):  # fmt: skip
            start = time.process_time()
            constrained = given.constrain(fsf.Between("alpha", upper=upper), method=method, max_draws=10**7)
            tree = constrained.sample(N_NETWORK, at={}, seed=seed)
            seconds[name] = time.process_time() - start
            draws[name] = np.stack([tree["posterior"][k].to_numpy().ravel() for k in PARAMETERS], 1)
            stats[name] = {k: float(tree["sample_stats"][k]) for k in ("ess", "distinct", "constraint_log_prob")}
        for name in ("smc", "guidance"):
            rows.append({
                "share": share, "method": name, "c2st": c2st(draws["rejection"], draws[name]),
                "floor": c2st(draws["rejection"], draws["again"]), "effective": stats[name]["ess"],
                "distinct": stats[name]["distinct"], "log_prob": stats[name]["constraint_log_prob"],
                "log_prob_by_rejection": stats["rejection"]["constraint_log_prob"],
                "violations": int((draws[name][:, 0] > upper).sum()), "cpu_seconds": seconds[name],
                "cpu_seconds_by_rejection": seconds["rejection"],
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for share in SHARES:
        for method in ("smc", "guidance"):
            rows.append(gaussian(share, method))
            print(rows[-1], flush=True)
    results = {"n": N, "n_c2st": N_C2ST, "repeats": REPEATS, "n_network": N_NETWORK, "gaussian": rows}
    print(save("constraints", 0, results | {"network": network()}))


if __name__ == "__main__":
    no_arguments(__doc__)
    main()
