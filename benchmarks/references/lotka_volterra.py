"""Reference posteriors of the Lotka-Volterra model of the Simformer paper, for ten simulated data sets.

    alpha, beta, gamma, delta = 1 + 2 sigmoid(z),   z ~ Normal(0, 1) each
    u' = alpha u - beta u v,   v' = -gamma v + delta u v,   u(0) = 1,   v(0) = 0.5,   t in [0, 15]
    prey(t) ~ Normal(u(t), 0.1),   predator(t) ~ Normal(v(t), 0.1)

Each species is read at its own 20 times, uniform on [0, 15] and sorted; the noise is added at the reading time to
scipy's DOP853 path (relative tolerance 1e-12), never interpolated.

1. Importance sampling from the prior, one pass of 40 million paths shared by the ten data sets, float64: finds every
   mode that holds more than about 1/ESS of the posterior, and gives an evidence that depends on no fit.
2. Population Monte Carlo (importance.py), two runs: each starts from its own half of the pass, with its own seed, and
   ends in 200,000 draws from a fixed mixture. The first run's draws, resampled, are the reference; the second checks.

The paths of the likelihood are Runge-Kutta of order 4 that lands on every reading time, in steps of at most 0.025
(the shared pass) or 0.0125 (the refinement); the JSON's `largest_errors` states what that costs against DOP853.

Writes lotka_volterra.npz (draws (10, 5000, 4) as alpha, beta, gamma, delta; theta_true; prey_time, prey, predator_time,
predator; float32, but the data in float64, since the reference belongs to exactly these numbers) and
lotka_volterra.json.

    taskset -c 0 python benchmarks/references/lotka_volterra.py --seed 0
"""

import argparse
import json
import platform
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from importance import Mixture, Population, Target, moments, sample
from scipy.integrate import solve_ivp
from scipy.special import expit
from scipy.stats import norm

NAMES = ("alpha", "beta", "gamma", "delta")
START = (1.0, 0.5)
END = 15.0
NOISE = 0.1
LOG_CONSTANT = -np.log(NOISE) - 0.5 * np.log(2 * np.pi)
MAX_STEP, FINE_STEP = 0.025, 0.0125
CHUNK = 4096


class Readings(NamedTuple):
    """All readings in order of time, of one data set or of several."""

    gap: np.ndarray  # (R,) time since the reading before
    steps: np.ndarray  # (R,) Runge-Kutta steps in the gap
    predator: np.ndarray  # (R,) True for predator, False for prey
    value: np.ndarray  # (R,)
    owner: np.ndarray  # (R,) index of the data set


def readings(data: dict[str, np.ndarray], max_step: float = MAX_STEP) -> Readings:
    """From `prey_time`, `prey`, `predator_time`, `predator`, each (data set, reading)."""
    when = np.stack([data["prey_time"], data["predator_time"]], 1)  # (S, 2, 20)
    value = np.stack([data["prey"], data["predator"]], 1)
    owner, species, _ = np.indices(when.shape)
    order = np.argsort(when, axis=None)
    gap = np.diff(when.ravel()[order], prepend=0.0)
    steps = np.maximum(1, np.ceil(gap / max_step)).astype(int)
    return Readings(gap, steps, species.ravel()[order] == 1, value.ravel()[order], owner.ravel()[order])


def path(theta: jax.Array, read: Readings) -> jax.Array:
    """Noise-free readings of parameters (4, N): (R, N)."""
    alpha, beta, gamma, delta = theta

    def slope(u, v):
        return (alpha - beta * v) * u, (delta * u - gamma) * v

    def advance(state, reading):
        h = reading.gap / reading.steps

        def step(_, state):
            u, v = state
            a1, b1 = slope(u, v)
            a2, b2 = slope(u + h / 2 * a1, v + h / 2 * b1)
            a3, b3 = slope(u + h / 2 * a2, v + h / 2 * b2)
            a4, b4 = slope(u + h * a3, v + h * b3)
            return u + h / 6 * (a1 + 2 * (a2 + a3) + a4), v + h / 6 * (b1 + 2 * (b2 + b3) + b4)

        u, v = jax.lax.fori_loop(0, reading.steps, step, state)
        return (u, v), jnp.where(reading.predator, v, u)

    start = tuple(jnp.full_like(alpha, value) for value in START)
    return jax.lax.scan(advance, start, read)[1]


@partial(jax.jit, static_argnames="sets")
def chunk_log_likelihood(theta: jax.Array, read: Readings, sets: int) -> jax.Array:
    term = -(((path(theta, read) - read.value[:, None]) / NOISE) ** 2) / 2 + LOG_CONSTANT
    return jax.ops.segment_sum(term, read.owner, sets)


def to_theta(z: np.ndarray) -> np.ndarray:
    return 1 + 2 * expit(z)


def log_likelihood(z: np.ndarray, read: Readings, sets: int = 1) -> np.ndarray:
    """(sets, N) for z (N, 4), in chunks that stay in the cache."""
    out = np.empty((sets, len(z)), np.float32 if sets > 1 else np.float64)  # the shared pass is large, and a start only
    for i in range(0, len(z), CHUNK):
        theta = to_theta(z[i : i + CHUNK].astype(np.float64))
        padded = np.ones((CHUNK, 4))
        padded[: len(theta)] = theta
        out[:, i : i + CHUNK] = np.asarray(chunk_log_likelihood(padded.T, read, sets))[:, : len(theta)]
    return out


def sample_prior(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, 4))


def log_prior(z: np.ndarray) -> np.ndarray:
    return -np.sum(np.square(z, dtype=np.float64), -1) / 2 - 2 * np.log(2 * np.pi)


def exact_path(theta: np.ndarray, when: np.ndarray) -> np.ndarray:
    """(u, v) at sorted times by DOP853, (2, T)."""
    alpha, beta, gamma, delta = theta
    flow = lambda _, s: ((alpha - beta * s[1]) * s[0], (delta * s[0] - gamma) * s[1])
    # each reading ends a step: no dense output, whose order is lower
    out, state, now = [], START, 0.0
    for t in when:
        state = solve_ivp(flow, (now, t), state, "DOP853", rtol=1e-12, atol=1e-12).y[:, -1]
        now = t
        out.append(state)
    return np.stack(out, -1)


def simulate(sets: int, points: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    theta = to_theta(sample_prior(sets, rng))
    data = {"theta_true": theta}
    for k, species in enumerate(("prey", "predator")):
        when = np.sort(rng.uniform(0, END, (sets, points)), -1)
        clean = np.stack([exact_path(p, t)[k] for p, t in zip(theta, when)])
        data |= {f"{species}_time": when, species: clean + NOISE * rng.standard_normal(clean.shape)}
    return data


def prior_pass(data: dict, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """z (N, 4) and log likelihoods (sets, N), float32 for the memory."""
    z = rng.standard_normal((draws, 4), dtype=np.float32)
    return z, log_likelihood(z, readings(data), len(data["prey"]))


def from_pass(z: np.ndarray, log_l: np.ndarray) -> Population:
    prior = log_prior(z)
    return Population(z, prior, log_l.astype(np.float64), prior)


def uncovered(start: Population, mixture: Mixture, rng: np.random.Generator) -> float:
    """Posterior mass, by importance sampling from the prior, where the mixture is thinner than at its rarest 1e-4."""
    floor = np.quantile(mixture.log_prob(mixture.sample(100_000, rng)), 1e-4)
    weight = start.weight()
    heavy = weight > 1e-9
    return float(weight[heavy][mixture.log_prob(start.z[heavy].astype(np.float64)) < floor].sum())


def refine(data: dict, k: int, start: Population, rng: np.random.Generator) -> tuple[Population, Mixture, dict]:
    one = readings({name: value[k : k + 1] for name, value in data.items()}, FINE_STEP)
    target = Target(sample_prior, log_prior, lambda z: log_likelihood(z, one)[0])
    result, mixture, history = sample(target, start, rng, components=10, round_draws=20_000, final_draws=200_000)
    evidence, error = result.log_evidence()
    return result, mixture, {
        "ess": result.ess(),
        "largest_weight": float(result.weight().max()),
        "log_evidence": evidence,
        "log_evidence_error": error,
        "rounds": history,
    }


def errors(data: dict, draws: np.ndarray, z: np.ndarray) -> dict:
    """What the step costs, over draws (sets, N, 4) of the posteriors and z (M, 4) of the prior."""
    gaps = []
    for k, some in enumerate(draws):
        one = {name: value[k : k + 1] for name, value in data.items()}
        ours = chunk_log_likelihood(some.T, readings(one, FINE_STEP), 1)[0]
        for theta, value in zip(some, ours):
            exact = 0.0
            for j, species in enumerate(("prey", "predator")):
                clean = exact_path(theta, one[f"{species}_time"][0])[j]
                exact += norm.logpdf(one[species][0], clean, NOISE).sum()
            gaps.append(abs(float(value) - exact))
    theta = to_theta(z)
    one = {name: value[:1] for name, value in data.items()}  # one data set: fewer times to land on, longer steps
    coarse, fine, finer = (np.asarray(path(theta.T, readings(one, h))) for h in (MAX_STEP, FINE_STEP, FINE_STEP / 4))
    return {
        "log_likelihood_against_dop853_on_posterior_draws": max(gaps),
        "path_of_the_pass_on_prior_draws": float(np.abs(coarse - finer).max()),
        "path_of_the_refinement_on_prior_draws": float(np.abs(fine - finer).max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prior-draws", type=int, default=40_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.perf_counter()
    sets, kept = 10, 5000
    seeds = np.random.SeedSequence(args.seed).spawn(2 + 2 * sets)
    data = simulate(sets, 20, np.random.default_rng(seeds[0]))
    z, log_l = prior_pass(data, args.prior_draws, np.random.default_rng(seeds[1]))
    pass_seconds = time.perf_counter() - begin
    half = len(z) // 2
    draws, report = [], []
    for k in range(sets):
        runs = []
        for part, where in enumerate((slice(None, half), slice(half, None))):
            rng = np.random.default_rng(seeds[2 + 2 * k + part])
            runs.append(refine(data, k, from_pass(z[where], log_l[k, where]), rng))
        whole = from_pass(z, log_l[k])
        first, second = runs[0][0], runs[1][0]
        theta = to_theta(first.z)
        mean, sd, correlation = moments(theta, first.weight())
        other_mean, other_sd, other_correlation = moments(to_theta(second.z), second.weight())
        heavy = whole.weight() > 1e-12
        prior_mean, prior_sd, _ = moments(to_theta(whole.z[heavy]), whole.weight()[heavy])
        evidence, error = whole.log_evidence()
        rng = np.random.default_rng([args.seed, k])
        picks = first.resample(kept, rng)
        draws.append(theta[picks])
        ranks = [float(first.weight() @ (theta[:, d] < data["theta_true"][k, d])) for d in range(4)]
        report.append(
            {
                "runs": [run[2] for run in runs],
                "prior_sampling": {"ess": whole.ess(), "log_evidence": evidence, "log_evidence_error": error},
                "prior_mass_uncovered": uncovered(whole, runs[0][1], rng),
                "mean": mean.tolist(),
                "sd": sd.tolist(),
                "second_run_mean_gap_in_sd": ((other_mean - mean) / sd).tolist(),
                "second_run_sd_ratio": (other_sd / sd).tolist(),
                "second_run_largest_correlation_gap": float(np.max(np.abs(other_correlation - correlation))),
                "prior_sampling_mean_gap_in_sd": ((prior_mean - mean) / sd).tolist(),
                "prior_sampling_sd_ratio": (prior_sd / sd).tolist(),
                "posterior_rank_of_truth": ranks,
                "draws_repeated": kept - len(np.unique(picks)),
            }
        )
    arrays = {"draws": np.stack(draws).astype(np.float32)} | data
    np.savez_compressed(args.out / "lotka_volterra.npz", **arrays)
    summary = {
        "seed": args.seed,
        "prior_draws": args.prior_draws,
        "largest_errors": errors(data, arrays["draws"][:, :20].astype(float), sample_prior(2000, rng)),
        "prior_pass_seconds": round(pass_seconds, 1),
        "seconds": round(time.perf_counter() - begin, 1),
        "versions": {m.__name__: m.__version__ for m in (jax, np, scipy)} | {"python": platform.python_version()},
        "data_sets": report,
    }
    (args.out / "lotka_volterra.json").write_text(json.dumps(summary, indent=1) + "\n")
    least = min(run["ess"] for row in report for run in row["runs"])
    print(f"lotka_volterra: least ESS {least:.0f} of 200,000 in {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main()
