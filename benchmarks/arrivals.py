"""What the order in which simulations are seen does to a posterior: many small networks at once.

θ ~ N(0, 1), x = θ + ε/2: θ given x is N(0.8 x, 0.2). A network of three layers of 32 learns E[θ | θ + λ ε, x] as
denoise.py has it (its preconditioning, weights and noise levels), for 1,500 steps of 128 rows at two levels. The rows
are those that the `Stock` of a training gives, for each `reserve`: 1 is training after simulating. No transformer and
no Muon, so that all variants and seeds fit into batched matrix products, at a second a network: a difference of a per
cent needs several seeds, and here it has them. Simulations, first weights and noise are those of the seed; variants are
compared seed by seed. `fresh` sees new simulations at every step: what this network does at best.

Posteriors are solved, not drawn: the probability-flow ODE is increasing in its start, 256 quantiles of which give mean
and sd at 16 quantiles of x, without Monte-Carlo error. Width is the mean log ratio of sd to exact sd, KL that from the
exact posterior to a Gaussian with the mean and sd found.

    python benchmarks/arrivals.py --simulations 1000        # --steps 20 to see it run
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from record import save
from torch import Tensor, nn

from fsimformer.readings import Design, Store
from fsimformer.stock import Stock

RESERVES, BATCH, LEVELS, WIDTH, CHUNK = (1.0, 0.5, 0.2), 128, 2, 32, 50
RATE, WARMUP, EMA = 2e-3, 50, 0.99
NOISE, SD = 0.5, 0.2**0.5
MEAN, SPREAD, ENDS = -2.2, 2.0, (-7.0, 4.0)  # of log λ, denoise.NoiseLevels


class Blocks:
    """Simulations without content: a stock counts them."""

    def __init__(self, n: int) -> None:
        self.sizes = [min(CHUNK, n - start) for start in range(0, n, CHUNK)]

    @property
    def n_blocks(self) -> int:
        return len(self.sizes)

    def block(self, i: int) -> Mapping[str, Tensor]:
        return {"number": torch.empty(self.sizes[i])}


def order(simulations: int, steps: int, reserve: float | None, seed: int) -> Tensor:
    """Numbers of the simulations that each step sees, (steps, BATCH); None = fresh ones at every step."""
    if reserve is None:
        return torch.arange(steps * BATCH).view(steps, BATCH)
    first = -(-max(100, simulations // 8) // CHUNK)
    stock = Stock(Blocks(simulations), _nothing, Design(()), steps * BATCH, simulations, reserve, first)
    generator = torch.Generator().manual_seed(1_000 + seed)
    return torch.stack([stock.draw(BATCH, generator) for _ in range(steps)])


def _nothing(values: Mapping[str, Tensor]) -> Store:
    return Store(torch.zeros(0, dtype=torch.long), torch.zeros(len(values["number"]), 0), (), 0)


def simulations_of(seed: int, n: int) -> Tensor:
    """(n, 2): θ and x, both of unit variance."""
    theta, noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed)).unbind(-1)
    return torch.stack([theta, (theta + NOISE * noise) / (1 + NOISE**2) ** 0.5], -1)


def weights_of(seeds: list[int], n_variants: int) -> list[Tensor]:
    """Of all networks, (variant · seed, in, out) and biases; the same for every variant."""
    out: list[Tensor] = []
    for layer, (n_in, n_out) in enumerate([(8, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)]):
        each = [
            torch.randn(n_in, n_out, generator=torch.Generator().manual_seed(10 * s + layer)) / n_in**0.5 for s in seeds
        ]
        weight = torch.stack(each).repeat(n_variants, 1, 1) * (n_out > 1)
        out += [weight.requires_grad_(), torch.zeros(len(weight), 1, n_out).requires_grad_()]
    return out


def network(weights: list[Tensor], y: Tensor, log_ratio: Tensor, x: Tensor) -> Tensor:
    """F of y/√(1 + λ²), log λ and x, (networks, rows) each."""
    c = 0.25 * log_ratio
    h = torch.stack([y, x, c, (2 * c).sin(), (2 * c).cos(), (4 * c).sin(), (4 * c).cos(), torch.ones_like(y)], -1)
    for i in range(0, 6, 2):
        h = nn.functional.silu(torch.baddbmm(weights[i + 1], h, weights[i]))
    return torch.baddbmm(weights[7], h, weights[6])[..., 0]


def trained(orders: Tensor, data: Tensor, weights: list[Tensor], n_seeds: int) -> list[Tensor]:
    """Averaged weights after all steps; orders (steps, networks, BATCH) of data (networks, n, 2)."""
    steps, n_networks, _ = orders.shape
    average = [p.detach().clone() for p in weights]
    optimizer = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    generator, which = torch.Generator().manual_seed(5), torch.arange(n_networks)[:, None]
    lower, upper = (float(torch.special.ndtr(torch.tensor((e - MEAN) / SPREAD))) for e in ENDS)
    m, repeats = BATCH * LEVELS, n_networks // n_seeds
    for step in range(steps):
        theta, x = data[which, orders[step]].repeat(1, LEVELS, 1).unbind(-1)
        u = torch.rand(n_seeds, m, generator=generator).argsort(1) + torch.rand(n_seeds, m, generator=generator)
        log_ratio = MEAN + SPREAD * torch.special.ndtri(lower + u.repeat(repeats, 1) / m * (upper - lower))
        ratio, epsilon = log_ratio.exp(), torch.randn(n_seeds, m, generator=generator).repeat(repeats, 1)
        y, scale = theta + ratio * epsilon, (1 + ratio**2).sqrt()
        target = (theta - y / scale**2) * scale / ratio
        loss = ((network(weights, y / scale, log_ratio, x) - target) ** 2).mean(1).sum()
        part = (step - WARMUP) / max(1, steps - WARMUP)
        rate = (step + 1) / WARMUP if step < WARMUP else 0.5 * (1 + math.cos(math.pi * part))
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in weights if p.grad is not None]
        norm = torch.stack([(g**2).sum((1, 2)) for g in gradients]).sum(0).sqrt()[:, None, None]
        for g in gradients:  # every network's own norm
            g.mul_((1 / norm).clamp(max=1))
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - min(EMA, (2 + step) / (11 + step)))
    return average


@torch.no_grad()
def posteriors(weights: list[Tensor], n_x: int = 16, n_z: int = 256) -> tuple[Tensor, Tensor]:
    """log(sd / exact sd) and (mean − exact mean) / exact sd, (networks, n_x).

    By Heun's method in φ = arctan λ, where y = y_t/√(1 + λ²) has dy/dφ = −F: sds are exact to 0.001. It begins
    at λ = e⁴ about 0: means lack e⁻⁴ of themselves.
    """
    n_networks = len(weights[0])
    z = torch.special.ndtri((torch.arange(n_z) + 0.5) / n_z)
    x = torch.special.ndtri((torch.arange(n_x) + 0.5) / n_x)
    given = x.repeat_interleave(n_z).expand(n_networks, -1)
    knots = torch.linspace(math.atan(math.exp(4.0)), math.atan(math.exp(-6.0)), 41).tolist()
    y = (z / z.std(correction=0)).repeat(n_x).expand(n_networks, -1)

    def f(y: Tensor, angle: float) -> Tensor:
        return network(weights, y, torch.full_like(y, math.log(math.tan(angle))), given)

    for a, b in pairwise(knots):
        slope = f(y, a)
        y = y - (b - a) * (slope + f(y - (b - a) * slope, b)) / 2
    theta = math.cos(knots[-1]) * y + math.sin(knots[-1]) * f(y, knots[-1])
    theta, exact = theta.view(n_networks, n_x, n_z), 0.8 * x * (1 + NOISE**2) ** 0.5
    return (theta.std(-1, correction=0) / SD).log(), (theta.mean(-1) - exact) / SD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--steps", type=int, default=1_500)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(4)))
    args = parser.parse_args()
    torch.set_num_threads(1)
    started, seeds, variants = time.process_time(), args.seeds, (*RESERVES, None)
    orders = torch.stack([order(args.simulations, args.steps, r, s) for r in variants for s in seeds], 1)
    data = torch.stack([simulations_of(s, args.steps * BATCH) for s in seeds]).repeat(len(variants), 1, 1)
    weights = trained(orders, data, weights_of(seeds, len(variants)), len(seeds))
    log_sd, off = posteriors(weights)
    r2 = (-2 * log_sd).exp()
    divergence = (0.5 * (r2 - 1 + 2 * log_sd) + 0.5 * r2 * off**2).mean(1)
    figures = zip(log_sd.mean(1).tolist(), (off**2).mean(1).sqrt().tolist(), divergence.tolist(), strict=True)
    names = [(r, s) for r in variants for s in seeds]
    rows = [
        {"reserve": "fresh" if r is None else r, "seed": s, "width": width, "mean_error_sd": mean, "kl": kl}
        for (r, s), (width, mean, kl) in zip(names, figures, strict=True)
    ]
    about: dict[str, Any] = {
        "simulations": args.simulations, "steps": args.steps, "n": len(seeds), "monte_carlo_floor": None,
        "cpu_seconds": time.process_time() - started, "rows": rows,
    }  # fmt: skip
    name = f"arrivals_{args.simulations}" if args.steps == 1_500 else "arrivals_trial"
    print(save(name, seeds[0], about))


if __name__ == "__main__":
    main()
