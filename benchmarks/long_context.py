"""Long observations: accuracy, seconds and memory from 10² to 10⁵ readings, against exact posteriors.

`line`: y_i = a + b t_i + s ε_i, a, b ~ N(0, 1), log s ~ N(log 2, 0.3²), t on [−1, 1]: given s the posterior of (a, b)
is normal in closed form, s follows by quadrature, and every width shrinks as n^(−1/2). `matern`: readings y_i = m +
f(t_i) + 0.3 ε_i of a Matérn-3/2 process of unit variance on [0, 50], m ~ N(0, 1), log ℓ ~ N(0, 0.5²): a Kalman filter
over t for every ℓ of a quadrature. More readings of one path tell ever less of it: m and ℓ stay as uncertain as a path
of 50 units leaves them, and the exact widths say how much.

Readings lie at uniformly random times. n = 1,000 draws ("exact") of each data set: mean error of the posterior means in
exact posterior sds (root mean square over data sets), mean ratio of sds, and both of exact draws in place of the
network's, the floor. Seconds and memory are those of condition and 1,000 draws, each n in a process of its own, and for
the same network without compression. It is trained on rows of up to `--most` (2,048) readings; beyond, it extrapolates.

    python benchmarks/long_context.py line
    python benchmarks/long_context.py line --baseline
    python benchmarks/long_context.py matern

`--baseline`: the linear baseline of gaussian.py, exact for a and b given s and blind to s, is told as well. `--steps`
trains longer; a run goes on from its checkpoint in runs/long_context.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from networks import kept, only
from record import ROOT, budget, peak_mib, save
from torch import Tensor

import fsimformer as fsf
from fsimformer.convert import ObservationWarning
from fsimformer.priors import LogNormal, Noise, Normal
from fsimformer.schema import Index, Schema, Variable
from fsimformer.simulators.protocol import draw_priors

N, N_MAX, COUNTS = 1_000, 2_048, (100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
SETS = {100: 24, 300: 24, 1_000: 24, 3_000: 24, 10_000: 16, 30_000: 12, 100_000: 8}
STEPS, PLAIN = 6_000, 10_000  # readings up to which the same network is timed without compression
LINE_NOISE, LINE_SPREAD = 2.0, 0.3
MATERN_NOISE, MATERN_SPREAD, HORIZON, GRID = 0.3, 0.5, 50.0, 2_001


@dataclass(frozen=True)
class Line:
    """a + b t, the noise's sd unknown."""

    @property
    def schema(self) -> Schema:
        prior = {"a": Normal(), "b": Normal(), "s": LogNormal(math.log(LINE_NOISE), LINE_SPREAD)}
        parameters = [Variable(k, "parameter", prior=p) for k, p in prior.items()]
        y = Variable("y", "data", ("t",), noise=Noise("normal", "s"), parents=tuple(prior))
        return Schema((*parameters, y), (Index("t", -1.0, 1.0),))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"t": torch.linspace(-1, 1, 9, dtype=torch.float64)}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws = draw_priors(self.schema, n, generator)
        return {**draws, "y": draws["a"][:, None] + draws["b"][:, None] * self.grid["t"]}

    def observe(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        a, b = rng.standard_normal(2)
        s = LINE_NOISE * math.exp(LINE_SPREAD * rng.standard_normal())
        t = rng.uniform(-1, 1, n)
        return t, a + b * t + s * rng.standard_normal(n)

    def exact(self, t: np.ndarray, y: np.ndarray, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """n exact draws: of log s on a grid of its marginal posterior, of (a, b) given s."""
        x = np.stack([np.ones_like(t), t], 1)
        xx, xy, yy = x.T @ x, x.T @ y, y @ y
        least = yy - xy @ np.linalg.solve(xx, xy)
        centre, width = 0.5 * math.log(least / len(t)), 8 / math.sqrt(2 * len(t))
        z = np.linspace(max(-6, (centre - math.log(LINE_NOISE) - width) / LINE_SPREAD),
                        min(6, (centre - math.log(LINE_NOISE) + width) / LINE_SPREAD), 4_001)  # fmt: skip
        s = LINE_NOISE * np.exp(LINE_SPREAD * z)
        precision = np.eye(2) + xx / s[:, None, None] ** 2
        mean = np.linalg.solve(precision, (xy / s[:, None] ** 2)[..., None])[..., 0]
        fit = (mean * (xy / s[:, None] ** 2)).sum(1)
        log_p = -0.5 * (z**2 + 2 * len(t) * np.log(s) + yy / s**2 - fit) - 0.5 * np.log(np.linalg.det(precision))
        which = _drawn(log_p, n, rng)
        root = np.linalg.cholesky(np.linalg.inv(precision[which]))
        ab = mean[which] + (root @ rng.standard_normal((n, 2, 1)))[..., 0]
        between = (rng.random(n) - 0.5) * (z[1] - z[0])
        return {"a": ab[:, 0], "b": ab[:, 1], "s": s[which] * np.exp(LINE_SPREAD * between)}


@dataclass(frozen=True)
class Matern:
    """Mean and lengthscale of a Matérn-3/2 process that is read with noise."""

    @property
    def schema(self) -> Schema:
        prior = {"m": Normal(), "scale": LogNormal(0.0, MATERN_SPREAD)}
        parameters = [Variable(k, "parameter", prior=p) for k, p in prior.items()]
        y = Variable("y", "data", ("t",), noise=Noise("normal", MATERN_NOISE), parents=tuple(prior))
        return Schema((*parameters, y), (Index("t", 0.0, HORIZON),))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {"t": torch.linspace(0, HORIZON, GRID, dtype=torch.float64)}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        draws = draw_priors(self.schema, n, generator)
        move, spread = transition((HORIZON / (GRID - 1)) * math.sqrt(3) / draws["scale"].numpy())
        steps, root = torch.from_numpy(move), torch.linalg.cholesky(torch.from_numpy(spread))
        state = torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
        path = torch.empty(n, GRID, dtype=torch.float64)
        for i in range(GRID):
            path[:, i] = state[:, 0, 0]
            state = steps @ state + root @ torch.randn(n, 2, 1, generator=generator, dtype=torch.float64)
        return {**draws, "y": (draws["m"][:, None] + path).float()}

    def observe(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The process itself at the readings, not a path interpolated on the grid of training."""
        t = np.sort(rng.uniform(0, HORIZON, n))
        m, scale = rng.standard_normal(), math.exp(MATERN_SPREAD * rng.standard_normal())
        move, spread = transition(np.diff(t) * math.sqrt(3) / scale)
        root, z = np.linalg.cholesky(spread + 1e-18 * np.eye(2)), rng.standard_normal((n, 2))
        state, path = z[0], np.empty(n)
        for i in range(n):
            path[i] = state[0]
            if i < n - 1:
                state = move[i] @ state + root[i] @ z[i + 1]
        return t, m + path + MATERN_NOISE * rng.standard_normal(n)

    def exact(self, t: np.ndarray, y: np.ndarray, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """n exact draws: of z = log ℓ / 0.5 on a grid of its marginal posterior, first coarse, then where it lies; of m
        given ℓ."""
        z = np.linspace(-4, 4, 41)
        for size in (41, 81):
            log_p, mean, sd = self._filter(t, y, np.exp(MATERN_SPREAD * z))
            log_p = log_p - 0.5 * z**2
            if size == 41:
                likely = z[log_p > log_p.max() - 25]
                z = np.linspace(likely[0] - 0.2, likely[-1] + 0.2, 81)
        fine = np.linspace(z[0], z[-1], 8_001)
        which = _drawn(np.interp(fine, z, log_p), n, rng)
        drawn = fine[which] + (rng.random(n) - 0.5) * (fine[1] - fine[0])
        m = np.interp(drawn, z, mean) + np.interp(drawn, z, sd) * rng.standard_normal(n)
        return {"m": m, "scale": np.exp(MATERN_SPREAD * drawn)}

    def _filter(self, t: np.ndarray, y: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log marginal likelihood of every ℓ, mean and sd of m given it: a Kalman filter of the state (f, f'/λ, m)."""
        order = np.argsort(t, kind="stable")
        t, y, k = t[order], y[order], len(scale)
        mean, cov, total = np.zeros((k, 3)), np.tile(np.eye(3), (k, 1, 1)), np.zeros(k)
        for i, (step, value) in enumerate(zip(np.diff(t, prepend=t[0]), y, strict=True)):
            if i:
                u = step * math.sqrt(3) / scale
                move, spread = np.tile(np.eye(3), (k, 1, 1)), np.zeros((k, 3, 3))
                move[:, :2, :2], spread[:, :2, :2] = transition(u)
                mean, cov = (move @ mean[..., None])[..., 0], move @ cov @ move.transpose(0, 2, 1) + spread
            column = cov[:, 0] + cov[:, 2]  # of y = f + m
            variance = column[:, 0] + column[:, 2] + MATERN_NOISE**2
            error = value - mean[:, 0] - mean[:, 2]
            total -= 0.5 * (error**2 / variance + np.log(variance))
            mean = mean + column * (error / variance)[:, None]
            cov = cov - column[:, :, None] * column[:, None, :] / variance[:, None, None]
        return total, mean[:, 2], np.sqrt(cov[:, 2, 2])


def transition(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the state (f, f'/λ) over u = λ·Δt, each (…, 2, 2): exp(uF) and what it adds (matern.py)."""
    e = np.exp(-u)
    move = np.stack([np.stack([1 + u, u], -1), np.stack([-u, 1 - u], -1)], -2) * e[..., None, None]
    two = 2 * u
    # 4 ∫₀ᵘ v vᵀ exp(−2s) ds, v = (s, 1 − s): series where the closed form loses its digits
    k = [np.where(two < 0.02, _series(j, two), _closed(j, two)) for j in range(3)]
    a, b, c = 4 * k[2], 4 * (k[1] - k[2]), 4 * (k[0] - 2 * k[1] + k[2])
    return move, np.stack([np.stack([a, b], -1), np.stack([b, c], -1)], -2)


def _closed(k: int, two: np.ndarray) -> np.ndarray:
    """∫₀ᵘ s^k exp(−2s) ds of two = 2u."""
    e = np.exp(-two)
    return [(1 - e) / 2, (1 - e * (1 + two)) / 4, (2 - e * (2 + 2 * two + two**2)) / 8][k]


def _series(k: int, two: np.ndarray) -> np.ndarray:
    return sum((-1.0) ** j * two ** (k + 1 + j) / (math.factorial(j) * (k + 1 + j)) for j in range(7)) / 2 ** (k + 1)


def _drawn(log_p: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    p = np.exp(log_p - log_p.max())
    return rng.choice(len(p), n, p=p / p.sum())


TASKS = {"line": Line(), "matern": Matern()}


def trained(
    task: str, steps: int, most: int, baseline: bool, callback: Callable[[Any], None] | None = None
) -> fsf.Joint:
    """From runs/ if it was trained before."""
    config = fsf.TrainConfig(
        steps=steps, batch_size=64, n_micro=4, pool=4, cooldown=0.4, ema=0.99, warmup=100, validate_every=200,
        n_validation=256, checkpoint_every=100, compressed=0.7, level_tokens=24, dial=(("few", 1.0),),
    )  # fmt: skip
    settings: dict[str, Any] = {
        "simulations": 20_000, "config": config, "masks": only(posterior=1.0), "baseline": baseline,
        "network": fsf.NetworkConfig(width=32, depth=2, n_heads=4, inducing=32, compress_above=256),
        "design": fsf.Design((most,), skew=5.0),
    }  # fmt: skip
    return kept(name_of(task, steps, most, baseline), TASKS[task], settings, callback=callback)


def name_of(task: str, steps: int, most: int, baseline: bool) -> str:
    return f"long_context/{task}_{most}_{steps}{'_baseline' if baseline else ''}"


def draws_of(joint: fsf.Joint, t: np.ndarray, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    observed = xr.Dataset({"y": ("t", y)}, {"t": t})
    with warnings.catch_warnings():  # beyond the readings of training: that is what is measured
        warnings.simplefilter("ignore", ObservationWarning)
        tree = joint.condition(observed).sample(N, {}, seed=seed, quality="exact")["posterior"]
    return {str(k): v.values.reshape(N) for k, v in tree.data_vars.items()}


def figures(found: Mapping[str, np.ndarray], exact: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {
        k: {"mean_error_sd": float((found[k].mean() - x.mean()) / x.std()), "sd_ratio": float(found[k].std() / x.std()),
            "exact_sd": float(x.std())}
        for k, x in exact.items()
    }  # fmt: skip


def accuracy(task: str, joint: fsf.Joint, n: int, n_sets: int) -> dict[str, Any]:
    """Of one n, over data sets: root mean square error of the mean, mean ratio of sds, and both of exact draws."""
    rows, floors = [], []
    for i in range(n_sets):
        rng = np.random.default_rng((7, n, i))
        t, y = TASKS[task].observe(n, rng)
        both = TASKS[task].exact(t, y, 17 * N, rng)
        exact, other = ({k: v[part] for k, v in both.items()} for part in (slice(16 * N), slice(16 * N, None)))
        rows.append(figures(draws_of(joint, t, y, i), exact))
        floors.append(figures(other, exact))
    out: dict[str, Any] = {"readings": n, "sets": n_sets, "parameters": {}}
    for k in rows[0]:
        error = np.array([r[k]["mean_error_sd"] for r in rows])
        ratio = np.array([r[k]["sd_ratio"] for r in rows])
        out["parameters"][k] = {
            "exact_sd": float(np.mean([r[k]["exact_sd"] for r in rows])),
            "mean_error_sd": float(np.sqrt(np.mean(error**2))),
            "mean_error_sd_floor": float(np.sqrt(np.mean([f[k]["mean_error_sd"] ** 2 for f in floors]))),
            "sd_ratio": float(ratio.mean()),
            "sd_ratio_standard_error": float(ratio.std(ddof=1) / math.sqrt(n_sets)),
            "sd_ratio_floor": float(np.mean([f[k]["sd_ratio"] for f in floors])),
        }
    return out


def cost(task: str, folder: Path, n: int, compressed: bool) -> dict[str, float]:
    """CPU seconds of condition and draws, and how much memory they add at most; in this process."""
    joint = fsf.load(folder)
    t, y = TASKS[task].observe(n, np.random.default_rng((8, n)))
    if not compressed:
        network = joint.model.denoiser.network
        network.config = replace(network.config, compress_above=10 * COUNTS[-1])
    draws_of(joint, t[:64], y[:64], 0)  # whatever is loaded at first use
    before, start = peak_mib(), time.process_time()
    draws_of(joint, t, y, 0)
    seconds, after = time.process_time() - start, peak_mib()
    return {"cpu_seconds": seconds, "added_gib": (after - before) / 1024, "peak_gib": after / 1024}


def cost_elsewhere(task: str, folder: Path, n: int, compressed: bool) -> dict[str, float]:
    """`cost` in a process of its own: a peak is one of all that went before."""
    call = [sys.executable, __file__, task, "--cost", str(folder), str(n), str(int(compressed))]
    out = subprocess.run(call, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--most", type=int, default=N_MAX, help="readings of a row in training")
    parser.add_argument("--sets", type=float, default=1.0, help="share of the data sets to measure")
    parser.add_argument("--baseline", action="store_true", help="with the linear baseline (gaussian.py)")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--cost", nargs=3, metavar=("FOLDER", "N", "COMPRESSED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.cost:
        folder, n, compressed = args.cost
        print(json.dumps(cost(args.task, Path(folder), int(n), bool(int(compressed)))))
        return
    start = time.process_time()

    def report(p: Any) -> None:
        if p.validation is not None:
            print(p.step, f"{p.loss:.4f} {p.validation:.4f} {time.process_time() - start:.0f} s", flush=True)

    joint = trained(args.task, args.steps, args.most, args.baseline, report)
    if args.train_only:
        return
    name, card = name_of(args.task, args.steps, args.most, args.baseline), joint.provenance
    network = joint.model.denoiser.network.config
    results: dict[str, Any] = {
        "task": args.task, "baseline": args.baseline, "n": N, "trained_up_to": args.most, **budget(card),
        "train_commit": card.get("commit", ""), "inducing": network.inducing, "compress_above": network.compress_above,
        "rows": [],
    }  # fmt: skip
    for n in COUNTS:
        row = accuracy(args.task, joint, n, max(2, round(args.sets * SETS[n]))) | {
            "cost": cost_elsewhere(args.task, ROOT / "runs" / name, n, True)
        }
        if n <= PLAIN:
            row["cost_plain"] = cost_elsewhere(args.task, ROOT / "runs" / name, n, False)
        results["rows"].append(row)
        print(row, flush=True)
        save(f"long_{args.task}_{args.most}{'_baseline' if args.baseline else ''}", 0, results)


if __name__ == "__main__":
    main()
