"""Reference posteriors of the Lotka-Volterra model of the Simformer paper, for ten simulated data sets.

    alpha, beta, gamma, delta = 1 + 2 sigmoid(z),   z ~ Normal(0, 1) each
    u' = alpha u - beta u v,   v' = -gamma v + delta u v,   u(0) = 1,   v(0) = 0.5,   t in [0, 15]
    prey(t) ~ Normal(u(t), 0.1),   predator(t) ~ Normal(v(t), 0.1)

Each species is read at its own 20 times, uniform on [0, 15] and sorted; the noise is added at the reading time to
scipy's DOP853 path (relative tolerance 1e-12), never interpolated.

1. Importance sampling from the prior, one pass of 16 million paths shared by the ten data sets, float64: shows modes
   that hold more than about 1/ESS of the posterior (ESS 7 to 4,800), and gives an evidence that depends on no fit.
2. Population Monte Carlo (importance.py), two runs: each starts from its own half of the pass, with its own seed, and
   ends in 100,000 draws from a fixed mixture. The first run's draws, resampled, are the reference; the second checks.

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
    out = np.empty((sets, len(z)))
    for i in range(0, len(z), CHUNK):
        theta = to_theta(z[i : i + CHUNK])
        padded = np.ones((CHUNK, 4))
        padded[: len(theta)] = theta
        out[:, i : i + CHUNK] = np.asarray(chunk_log_likelihood(padded.T, read, sets))[:, : len(theta)]
    return out


def sample_prior(n: int, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((n, 4))


def log_prior(z: np.ndarray) -> np.ndarray:
    return -np.sum(z**2, -1) / 2 - 2 * np.log(2 * np.pi)


def exact_path(theta: np.ndarray, when: np.ndarray) -> np.ndarray:
    """(u, v) at sorted times by DOP853, (2, T)."""
    alpha, beta, gamma, delta = theta

    def flow(_, s):
        return (alpha - beta * s[1]) * s[0], (delta * s[0] - gamma) * s[1]

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


def prior_pass(data: dict, draws: int, rng: np.random.Generator, keep: int = 50_000) -> list[Population]:
    """One population of the prior per data set: of all draws the `keep` likeliest, since the rest weigh nothing."""
    read, sets = readings(data), len(data["prey"])
    best = [(np.empty((0, 4)), np.empty(0))] * sets
    for size in [min(500_000, draws - i) for i in range(0, draws, 500_000)]:
        z = sample_prior(size, rng)
        for k, value in enumerate(log_likelihood(z, read, sets)):
            all_z, all_value = np.concatenate([best[k][0], z]), np.concatenate([best[k][1], value])
            top = np.argpartition(-all_value, keep)[:keep]
            best[k] = all_z[top], all_value[top]
    return [Population(z, log_prior(z), value, log_prior(z), draws) for z, value in best]


def join(a: Population, b: Population) -> Population:
    arrays = ("z", "log_prior", "log_likelihood", "log_proposal")
    return Population(*(np.concatenate([getattr(a, n), getattr(b, n)]) for n in arrays), a.drawn + b.drawn)


def uncovered(start: Population, mixture: Mixture, rng: np.random.Generator) -> float:
    """Posterior mass, by importance sampling from the prior, where the mixture is thinner than at its rarest 1e-4."""
    floor = np.quantile(mixture.log_prob(mixture.sample(100_000, rng)), 1e-4)
    return float(start.weight()[mixture.log_prob(start.z) < floor].sum())


def refine(data: dict, k: int, start: Population, rng: np.random.Generator) -> tuple[Population, Mixture, dict]:
    one = readings({name: value[k : k + 1] for name, value in data.items()}, FINE_STEP)
    target = Target(sample_prior, log_prior, lambda z: log_likelihood(z, one)[0])
    result, mixture, history = sample(
        target, start, rng, components=8, round_draws=20_000, final_draws=100_000, fit_draws=5000
    )
    evidence, error = result.log_evidence()
    return (
        result,
        mixture,
        {
            "ess": result.ess(),
            "largest_weight": float(result.weight().max()),
            "log_evidence": evidence,
            "log_evidence_error": error,
            "rounds": history,
        },
    )


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
    parser.add_argument("--prior-draws", type=int, default=16_000_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    begin = time.perf_counter()
    sets, kept = 10, 5000
    seeds = np.random.SeedSequence(args.seed).spawn(3 + 2 * sets)
    data = simulate(sets, 20, np.random.default_rng(seeds[0]))
    halves = [prior_pass(data, args.prior_draws // 2, np.random.default_rng(s)) for s in seeds[1:3]]
    pass_seconds = time.perf_counter() - begin
    draws, report = [], []
    for k in range(sets):
        runs = []
        for part, starts in enumerate(halves):
            rng = np.random.default_rng(seeds[3 + 2 * k + part])
            runs.append(refine(data, k, starts[k], rng))
        whole = join(halves[0][k], halves[1][k])
        first, second = runs[0][0], runs[1][0]
        theta = to_theta(first.z)
        mean, sd, correlation = moments(theta, first.weight())
        other_mean, other_sd, other_correlation = moments(to_theta(second.z), second.weight())
        prior_mean, prior_sd, _ = moments(to_theta(whole.z), whole.weight())
        evidence, error = whole.log_evidence()
        rng = np.random.default_rng(seeds[3 + 2 * k].spawn(1)[0])
        picks = first.resample(kept, rng)
        draws.append(theta[picks])
        ranks = [float(first.weight() @ (theta[:, d] < data["theta_true"][k, d])) for d in range(4)]
        report.append(
            {
                "runs": [run[2] for run in runs],
                "prior_sampling": {"ess": whole.ess(), "log_evidence": evidence, "log_evidence_error": error},
                "heaviest_weight_left_out": float(np.exp(whole.log_likelihood.min() - evidence) / whole.drawn),
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
    print(f"lotka_volterra: least ESS {least:.0f} of 100,000 in {summary['seconds']:.0f} s")


if __name__ == "__main__":
    main()
