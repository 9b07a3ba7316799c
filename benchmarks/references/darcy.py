"""Posterior draws of the log permeability for the data sets of space.py, by MCMC: references/darcy.npz.

Chains move by the preconditioned Crank–Nicolson step about the Laplace approximation N(m, C) of the posterior in the
whitened field z (Rudolf & Sprungk 2018; arXiv 1307.5571): z' = m + √(1 − β²) (z − m) + β C^½ ξ, accepted with the ratio
of posterior to N(m, C). Checked by a second method: as many chains by the same step about the prior. Two halves of the
chains are kept apart, of one its moments, of the other its draws: their difference is the Monte-Carlo floor.

    python benchmarks/references/darcy.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fsimformer.grids import multilinear

sys.path.insert(0, str(Path(__file__).parents[1]))  # space.py says which model, lattice and number of readings

from space import DARCY, LATTICE, N_READINGS

N_SETS, CHAINS, KEPT = 3, 32, 1_000
SIDE = DARCY.grid_points


def bilinear(at: Tensor) -> Tensor:
    """(m, G²): weights of the grid's values at points (m, 2) in [0, 1]², as paths are interpolated."""
    out = torch.zeros(len(at), SIDE * SIDE, dtype=torch.float64)
    for place, weight in multilinear((SIDE, SIDE), 2 * at - 1):
        out[torch.arange(len(at)), place] += weight
    return out


class Target:
    """Minus the log posterior of z (…, G²) up to a constant, and its Laplace approximation."""

    def __init__(self, at: Tensor, reading: Tensor) -> None:
        self.weights, self.reading = bilinear(at), reading

    def pressures(self, z: Tensor) -> Tensor:
        p = DARCY.solve(DARCY.field(z.view(-1, SIDE, SIDE)))
        return p.flatten(1) @ self.weights.T

    def misfit(self, z: Tensor) -> Tensor:
        return 0.5 * ((self.pressures(z) - self.reading) / DARCY.noise).square().sum(-1)

    def laplace(self, steps: int = 12) -> tuple[Tensor, Tensor]:
        """m (G²,), and C^½ (G², G²), by damped Gauss–Newton steps."""
        z = torch.zeros(1, SIDE * SIDE, dtype=torch.float64)
        eye = torch.eye(SIDE * SIDE, dtype=torch.float64)
        for _ in range(steps):
            slope, residual = self.linear(z)
            new = torch.linalg.solve(eye + slope.T @ slope, slope.T @ (residual + slope @ z[0]))[None]
            size = 1.0
            while size > 1e-3 and self.cost(z + size * (new - z)) > self.cost(z):
                size /= 2
            z = z + size * (new - z)
        slope, _ = self.linear(z)
        return z[0], torch.linalg.cholesky(torch.linalg.inv(eye + slope.T @ slope))

    def cost(self, z: Tensor) -> float:
        return float(self.misfit(z)[0] + 0.5 * z.square().sum())

    def linear(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Jacobian of the scaled pressures, and scaled readings minus pressures."""
        z = z.detach().requires_grad_(True)
        p = self.pressures(z)[0]
        rows = [torch.autograd.grad(x, z, retain_graph=True)[0][0] for x in p]
        return torch.stack(rows) / DARCY.noise, ((self.reading - p) / DARCY.noise).detach()


def chains(
    target: Target, mean: Tensor, root: Tensor, beta: float, steps: int, generator: torch.Generator
) -> tuple[Tensor, float]:
    """Last half of the steps, thinned to KEPT draws: (KEPT, G²); acceptance. β is halved while hardly any are taken."""
    z = mean + torch.randn(CHAINS, len(mean), generator=generator, dtype=torch.float64) @ root.T
    inverse = torch.linalg.inv(root)

    def potential(z: Tensor) -> Tensor:
        return target.misfit(z) + 0.5 * z.square().sum(-1) - 0.5 * ((z - mean) @ inverse.T).square().sum(-1)

    now, kept, taken, tried = potential(z), list[Tensor](), 0, 0
    every = steps // 2 * CHAINS // KEPT
    with torch.no_grad():
        for step in range(steps):
            xi = torch.randn(CHAINS, len(mean), generator=generator, dtype=torch.float64) @ root.T
            proposed = mean + (1 - beta**2) ** 0.5 * (z - mean) + beta * xi
            then = potential(proposed)
            accept = torch.rand(CHAINS, generator=generator, dtype=torch.float64).log() < now - then
            z, now = torch.where(accept[:, None], proposed, z), torch.where(accept, then, now)
            taken, tried = taken + int(accept.sum()), tried + CHAINS
            if step < steps // 4 and tried == 50 * CHAINS:  # burn-in: find a step that is taken a quarter of the time
                beta = min(1.0, beta * (1.3 if taken / tried > 0.3 else 0.75 if taken / tried < 0.2 else 1.0))
                taken, tried = 0, 0
            if step >= steps // 2 and (step - steps // 2) % every == 0:
                kept.append(z.clone())
    draws = torch.stack(kept, 1)  # (CHAINS, ·, G²): halves of the chains stay apart
    return draws.flatten(0, 1)[:KEPT], taken / tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(2)
    on_lattice = bilinear(torch.from_numpy(LATTICE))
    saved: dict[str, list[np.ndarray]] = {k: [] for k in ("at", "pressure", "truth", "mean", "sd", "draws")}
    checks = []
    for number in range(N_SETS):
        at = torch.rand(N_READINGS, 2, generator=generator, dtype=torch.float64)
        truth = DARCY.field(torch.randn(1, SIDE, SIDE, generator=generator, dtype=torch.float64))
        clean = bilinear(at) @ DARCY.solve(truth).flatten()
        reading = clean + DARCY.noise * torch.randn(N_READINGS, generator=generator, dtype=torch.float64)
        target = Target(at, reading)
        mean, root = target.laplace()
        halves, fields = [], []
        for _ in range(2):
            z, accepted = chains(target, mean, root, 0.5, args.steps, generator)
            fields.append(DARCY.field(z.view(-1, SIDE, SIDE)).flatten(1) @ on_lattice.T)
            halves.append(fields[-1].numpy().astype(np.float32))
        prior = torch.zeros_like(mean), torch.eye(len(mean), dtype=torch.float64)
        z, of_prior = chains(target, *prior, 0.1, 4 * args.steps, generator)
        second = DARCY.field(z.view(-1, SIDE, SIDE)).flatten(1) @ on_lattice.T
        sd = fields[0].std(0)
        checks.append({
            "data_set": number, "accepted": accepted, "accepted_about_prior": of_prior,
            "halves_apart_sd": float(((fields[0].mean(0) - fields[1].mean(0)) / sd).abs().mean()),
            "second_method_apart_sd": float(((fields[0].mean(0) - second.mean(0)) / sd).abs().mean()),
            "second_method_sd_ratio": float((second.std(0) / sd).mean()),
        })  # fmt: skip
        print(json.dumps(checks[-1]), flush=True)
        first, other = halves
        moments = {"mean": first.astype(float).mean(0), "sd": first.astype(float).std(0)}
        for k, v in {"at": at.numpy(), "pressure": reading.numpy(), "draws": other, **moments}.items():
            saved[k].append(v)
        saved["truth"].append((on_lattice @ truth.flatten()).numpy())
    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{k: np.stack(v).astype(np.float32) for k, v in saved.items()})
    path.with_suffix(".json").write_text(json.dumps(checks, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
