"""Posterior draws of the log permeability for the data sets of space.py, by MCMC: references/darcy.npz.

Chains move by the preconditioned Crank–Nicolson step about the Laplace approximation N(m, C) of the posterior in the
whitened field z (Rudolf & Sprungk 2018; arXiv 1307.5571): z' = m + √(1 − β²) (z − m) + β C^½ ξ, accepted with the ratio
of posterior to N(m, C). Checked by a second method: longer chains by the same step about the prior. Every method runs
twice: of the first method's runs one gives the moments, the other draws. Recorded are R̂ over the chains of each method
(Gelman et al. 2013, eq. 11.4; largest over the lattice), how far the two runs of a method are apart, and how far the
methods. The script ends with an error where R̂ of the first method is beyond `R_HAT`, or the methods are further apart
than twice what their runs' distances explain. Chains about the prior move slowly (R̂ of 1.3 at 48,000 steps): what they
confirm, they confirm within the distance of their two runs.

    python benchmarks/references/darcy.py
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fsimformer.grids import multilinear

sys.path.insert(0, str(Path(__file__).parents[1]))  # space.py says which model, lattice and number of readings

from space import DARCY, LATTICE, N_READINGS

N_SETS, CHAINS, KEPT, R_HAT = 3, 32, 1_000, 1.05
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
    """Last half of the steps, thinned to about KEPT draws in all: (CHAINS, ·, G²); acceptance. β adapts in burn-in."""
    z = mean + torch.randn(CHAINS, len(mean), generator=generator, dtype=torch.float64) @ root.T
    inverse = torch.linalg.inv(root)

    def potential(z: Tensor) -> Tensor:
        return target.misfit(z) + 0.5 * z.square().sum(-1) - 0.5 * ((z - mean) @ inverse.T).square().sum(-1)

    now, kept, taken, tried = potential(z), list[Tensor](), 0, 0
    every = max(1, steps // 2 * CHAINS // KEPT)
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
    return torch.stack(kept, 1), taken / tried


@dataclass(frozen=True)
class Run:
    """Two runs of one method: `fields` 2 × (CHAINS, ·, points) on the lattice, their acceptance."""

    fields: list[Tensor]
    accepted: float

    def means(self) -> list[Tensor]:
        return [f.flatten(0, 1).mean(0) for f in self.fields]

    def sd(self) -> Tensor:
        return torch.cat([f.flatten(0, 1) for f in self.fields]).std(0)

    def apart(self) -> float:
        """Mean distance of the two runs' means, in sds."""
        a, b = self.means()
        return float(((a - b) / self.sd()).abs().mean())

    def r_hat(self) -> float:
        chains = torch.cat(self.fields)
        n = chains.shape[1]
        within, between = chains.var(1).mean(0), n * chains.mean(1).var(0)
        return float((((n - 1) / n * within + between / n) / within).sqrt().max())


def run(target: Target, about: tuple[Tensor, Tensor], beta: float, steps: int, generator: torch.Generator) -> Run:
    """Two runs about N(m, C), `about` = m, C^½, on the lattice of space.py."""
    on_lattice, fields, accepted = bilinear(torch.from_numpy(LATTICE)), [], 0.0
    for _ in range(2):
        z, accepted = chains(target, *about, beta, steps, generator)
        field = DARCY.field(z.flatten(0, 1).view(-1, SIDE, SIDE)).flatten(1) @ on_lattice.T
        fields.append(field.view(*z.shape[:2], -1))
    return Run(fields, accepted)


def check(number: int, first: Run, second: Run) -> dict[str, float]:
    """What is recorded of a data set.

    Raises:
        RuntimeError: chains that have not mixed, or methods further apart than their own runs explain.
    """
    middle = [sum(r.means(), torch.zeros(())) / 2 for r in (first, second)]
    found = {
        "data_set": number, "accepted": first.accepted, "accepted_about_prior": second.accepted,
        "r_hat": first.r_hat(), "r_hat_about_prior": second.r_hat(),
        "runs_apart_sd": first.apart(), "runs_apart_about_prior_sd": second.apart(),
        "methods_apart_sd": float(((middle[0] - middle[1]) / first.sd()).abs().mean()),
        "methods_sd_ratio": float((second.sd() / first.sd()).mean()),
    }  # fmt: skip
    explained = (first.apart() ** 2 + second.apart() ** 2) ** 0.5 / 2  # two means of two runs each
    if first.r_hat() > R_HAT or found["methods_apart_sd"] > 2 * explained:
        raise RuntimeError(f"Data set {number}: the methods do not confirm each other, {found}. Take more --steps.")
    return found


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
        laplace = target.laplace()
        first = run(target, laplace, 0.5, args.steps, generator)
        prior = torch.zeros(SIDE * SIDE, dtype=torch.float64), torch.eye(SIDE * SIDE, dtype=torch.float64)
        second = run(target, prior, 0.1, 8 * args.steps, generator)
        checks.append(check(number, first, second))
        print(json.dumps(checks[-1]), flush=True)
        moments_of, other = (f.flatten(0, 1)[:KEPT].numpy().astype(np.float32) for f in first.fields)
        moments = {"mean": moments_of.astype(float).mean(0), "sd": moments_of.astype(float).std(0)}
        for k, v in {"at": at.numpy(), "pressure": reading.numpy(), "draws": other, **moments}.items():
            saved[k].append(v)
        saved["truth"].append((on_lattice @ truth.flatten()).numpy())
    path = Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **{k: np.stack(v).astype(np.float32) for k, v in saved.items()})
    path.with_suffix(".json").write_text(json.dumps(checks, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
