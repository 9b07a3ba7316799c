"""Reference posterior of the boarding-school influenza of 1978 by two independent methods.

    s' = -beta s i,   i' = beta s i - i/tau,   i(0) = I0/763,   s(0) = 1 - i(0),   t = 0..13 days since 22 January
    log in_bed(t) ~ N(log 763 i(t), noise^2)

Priors and data are those of fsimformer.simulators.Influenza; only the numbers are taken from there.

1. Metropolis, many chains at a time: z = (log beta, log tau, Phi^-1(log I0/log 10), log noise), steps from the
   covariance of all chains during warm-up, fixed afterwards. The path by Runge-Kutta of order 4 in (log s, log i),
   10 steps a day.
2. Population Monte Carlo (importance.py) from draws of the prior: it sees no draw of the chains. Its density is written
   a second time, with Runge-Kutta in (s, i), 16 steps a day, and its own form of the likelihood. Two seeds.

Both paths are compared with scipy's DOP853 at a relative tolerance of 1e-12, and both log densities with each other.

Writes influenza.npz (4,000 thinned draws of the chains, float32) and influenza.json.

    python benchmarks/references/influenza.py --seed 0
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np
import scipy
from importance import Target, from_prior, moments, sample
from scipy.integrate import solve_ivp
from scipy.special import ndtr, ndtri
from scipy.stats import lognorm, norm

from fsimformer.simulators import Influenza, boarding_school

NAMES = ("contact_rate", "infectious_period", "log_initial_infected", "noise")
IN_BED = boarding_school()["in_bed"].to_numpy()
MODEL = Influenza()
BOYS, LAST_DAY = MODEL.population, len(IN_BED) - 1
LOC, SCALE = (np.array([getattr(MODEL.priors[k], a) for k in ("contact_rate", "infectious_period", "noise")])
              for a in ("loc", "scale"))  # fmt: skip
LOWER, UPPER = MODEL.priors["log_initial_infected"].lower, MODEL.priors["log_initial_infected"].upper
LOGS = [0, 1, 3]  # coordinates of z that are logarithms


def parameters(z: np.ndarray) -> np.ndarray:
    """theta (N, 4) of z (N, 4)."""
    theta = np.empty_like(z)
    theta[:, LOGS] = np.exp(z[:, LOGS])
    theta[:, 2] = LOWER + (UPPER - LOWER) * ndtr(z[:, 2])
    return theta


def unbounded(theta: np.ndarray) -> np.ndarray:
    """z (N, 4) of theta (N, 4)."""
    z = np.empty_like(theta)
    z[:, LOGS] = np.log(theta[:, LOGS])
    z[:, 2] = ndtri((theta[:, 2] - LOWER) / (UPPER - LOWER))
    return z


# ---- 1. Metropolis -------------------------------------------------------------------------------------------------


def log_path(theta: np.ndarray, steps: int = 10) -> np.ndarray:
    """log i at t = 0..13, (N, 14), by Runge-Kutta in (log s, log i)."""
    beta, gamma = theta[:, 0], 1 / theta[:, 1]
    y = theta[:, 2] - np.log(BOYS)
    x = np.log1p(-np.exp(y))
    out, h = np.empty((len(theta), LAST_DAY + 1)), 1 / steps
    out[:, 0] = y

    def slope(x, y):
        return -beta * np.exp(y), beta * np.exp(x) - gamma

    for day in range(1, LAST_DAY + 1):
        for _ in range(steps):
            a1, b1 = slope(x, y)
            a2, b2 = slope(x + h / 2 * a1, y + h / 2 * b1)
            a3, b3 = slope(x + h / 2 * a2, y + h / 2 * b2)
            a4, b4 = slope(x + h * a3, y + h * b3)
            x = x + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)
            y = y + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
        out[:, day] = y
    return out


def log_posterior(z: np.ndarray) -> np.ndarray:
    """Unnormalised log density of z, (N,): all its priors are normal."""
    theta = parameters(z)
    loc, scale = np.insert(LOC, 2, 0.0), np.insert(SCALE, 2, 1.0)
    with np.errstate(all="ignore"):
        residual = np.log(IN_BED) - np.log(BOYS) - log_path(theta)
        value = -0.5 * (residual**2).sum(1) / theta[:, 3] ** 2 - len(IN_BED) * z[:, 3]
    value = value - 0.5 * (((z - loc) / scale) ** 2).sum(1)
    return np.where(np.isfinite(value), value, -np.inf)


def prior_draws(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.insert(LOC, 2, 0.0) + np.insert(SCALE, 2, 1.0) * rng.standard_normal((n, 4))


def metropolis(seed: int, chains: int, warmup: int, draws: int) -> tuple[np.ndarray, dict]:
    """Draws z (chain, draw, 4) and their diagnostics; each chain starts at the likeliest of 200 draws of the prior."""
    rng, begin = np.random.default_rng(seed), time.process_time()
    starts = prior_draws(200 * chains, rng)
    height = log_posterior(starts).reshape(chains, 200)
    z = starts.reshape(chains, 200, 4)[np.arange(chains), height.argmax(1)]
    value, factor, kept, accepted = height.max(1), 0.3 * np.eye(4), [], 0
    for step in range(warmup + draws):
        if step < warmup and step >= 50 and step % 25 == 0:  # the last time warmup - 25: half of the chains' spread
            factor = np.linalg.cholesky(2.38**2 / 4 * np.cov(z.T) + 1e-8 * np.eye(4))
        new = z + rng.standard_normal((chains, 4)) @ factor.T
        proposed = log_posterior(new)
        take = np.log(rng.random(chains)) < proposed - value
        z, value = np.where(take[:, None], new, z), np.where(take, proposed, value)
        if step >= warmup:
            kept.append(z)
            accepted += take.mean()
    x = np.stack(kept, 1)
    return x, {
        "chains": chains,
        "warmup": warmup,
        "draws_per_chain": draws,
        "acceptance": accepted / draws,
        "rhat": dict(zip(NAMES, rhat(x).tolist())),
        "ess": dict(zip(NAMES, effective(x).tolist())),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def rhat(x: np.ndarray) -> np.ndarray:
    """Split R-hat of draws (chain, draw, D)."""
    half = x.shape[1] // 2
    parts = np.concatenate([x[:, :half], x[:, half : 2 * half]])
    within, between = parts.var(1, ddof=1).mean(0), half * parts.mean(1).var(0, ddof=1)
    return np.sqrt((half - 1) / half + between / half / within)


def effective(x: np.ndarray) -> np.ndarray:
    """Effective draws, by how much the means of independent chains differ."""
    return x.shape[0] * x.reshape(-1, x.shape[-1]).var(0) / x.mean(1).var(0, ddof=1)


# ---- 2. population Monte Carlo, the density written again ----------------------------------------------------------


def path(theta: np.ndarray, steps: int = 16) -> np.ndarray:
    """i at t = 0..13, (N, 14), by Runge-Kutta in (s, i) themselves."""
    beta, tau = theta[:, 0], theta[:, 1]
    i = np.exp(theta[:, 2]) / BOYS
    s = 1 - i
    out, h = [i], 1 / steps
    for _ in range(LAST_DAY):
        for _ in range(steps):
            a1 = beta * s * i
            b1 = a1 - i / tau
            p, q = s - h / 2 * a1, i + h / 2 * b1
            a2 = beta * p * q
            b2 = a2 - q / tau
            p, q = s - h / 2 * a2, i + h / 2 * b2
            a3 = beta * p * q
            b3 = a3 - q / tau
            p, q = s - h * a3, i + h * b3
            a4 = beta * p * q
            b4 = a4 - q / tau
            s, i = s - h / 6 * (a1 + 2 * a2 + 2 * a3 + a4), i + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)
        out.append(i)
    return np.stack(out, 1)


def target() -> Target:
    priors = [lognorm(SCALE[k], scale=np.exp(LOC[k])) for k in range(3)]

    def log_prior(z: np.ndarray) -> np.ndarray:
        theta = parameters(z)
        logs = sum(law.logpdf(theta[:, j]) + z[:, j] for law, j in zip(priors, LOGS))  # + z: the Jacobian of exp
        return logs + norm.logpdf(z[:, 2])

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        out = []
        for part in np.array_split(z, max(1, len(z) // 4096)):
            theta = parameters(part)
            with np.errstate(all="ignore"):
                clean = BOYS * path(theta)
                term = lognorm.logpdf(IN_BED, theta[:, 3:], scale=clean).sum(1)
            out.append(np.where(np.isfinite(term), term, -np.inf))
        return np.concatenate(out)

    return Target(prior_draws_of(priors), log_prior, log_likelihood)


def prior_draws_of(priors: list):
    """The prior's draws, by scipy."""

    def draw(n: int, rng: np.random.Generator) -> np.ndarray:
        start = rng.uniform(LOWER, UPPER, n)
        columns = [priors[0].rvs(n, random_state=rng), priors[1].rvs(n, random_state=rng), start]
        return unbounded(np.stack([*columns, priors[2].rvs(n, random_state=rng)], 1))

    return draw


def population(seed: int, round_draws: int, final_draws: int):
    rng, begin, of = np.random.default_rng(seed), time.process_time(), target()
    start = from_prior(of, 4 * round_draws, rng)
    out, _, history = sample(of, start, rng, components=3, round_draws=round_draws, final_draws=final_draws)
    evidence, error = out.log_evidence()
    return out, {
        "seed": seed, "draws": len(out.z), "ess": out.ess(), "log_evidence": evidence, "log_evidence_error": error,
        "rounds": history, "cpu_seconds": round(time.process_time() - begin, 1),
    }  # fmt: skip


# ---- agreement -----------------------------------------------------------------------------------------------------


def compare(chains: np.ndarray, other) -> dict:
    """Chains theta (chain, draw, 4) against a weighted population; gaps in sds of the chains, errors of both."""
    x, y, w = chains.reshape(-1, 4), parameters(other.z), other.weight()
    mean, sd, correlation = moments(x, np.full(len(x), 1 / len(x)))
    other_mean, other_sd, other_correlation = moments(y, w)
    square, other_square = ((chains - mean) / sd) ** 2, ((y - mean) / sd) ** 2
    mean_error = np.sqrt(1 / effective(chains) + w**2 @ other_square)
    ours = square.reshape(x.shape).var(0) / effective(square)
    columns = {
        "mean": mean, "population_mean": other_mean, "mean_gap_in_sd": (other_mean - mean) / sd,
        "mean_gap_error": mean_error, "sd": sd, "sd_ratio": other_sd / sd,
        "sd_ratio_error": np.sqrt(ours + w**2 @ (other_square - 1) ** 2) / 2,
    }  # fmt: skip
    table = {name: {c: float(v[k]) for c, v in columns.items()} for k, name in enumerate(NAMES)}
    return {"table": table, "largest_correlation_gap": float(np.abs(correlation - other_correlation).max())}


def path_errors(theta: np.ndarray) -> dict:
    """Largest error of log i of either integrator against DOP853, over draws (N, 4)."""
    exact = []
    for beta, tau, log_start, _ in theta:
        start = np.exp(log_start) / BOYS
        way = solve_ivp(lambda _, y, b=beta, k=tau: [-b * y[0] * y[1], b * y[0] * y[1] - y[1] / k], (0, LAST_DAY),
                        [1 - start, start], "DOP853", range(LAST_DAY + 1), rtol=1e-12, atol=1e-14)  # fmt: skip
        exact.append(np.log(way.y[1]))
    errors = log_path(theta) - exact, np.log(path(theta)) - exact
    return dict(zip(("metropolis", "population"), (float(np.abs(e).max()) for e in errors)))


def density_gap(z: np.ndarray) -> float:
    """Largest difference of the two log densities of z, each less its mean: one is not normalised."""
    of = target()
    gap = log_posterior(z) - of.log_prior(z) - of.log_likelihood(z)
    return float(np.abs(gap - gap.mean()).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chains", type=int, default=256)
    parser.add_argument("--draws", type=int, default=4_000)
    parser.add_argument("--population", type=int, default=20_000, help="draws a round; the result has four times these")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    z, diagnostics = metropolis(args.seed, args.chains, 400, args.draws)
    chains = parameters(z.reshape(-1, 4)).reshape(z.shape)
    runs = [population(args.seed + k, args.population, 4 * args.population) for k in (1, 2)]
    thinned = chains[:, :: max(1, chains[..., 0].size // 4000)].reshape(-1, 4)
    kept = np.random.default_rng(args.seed).permutation(thinned)[:4000]
    report = {
        "seed": args.seed,
        "metropolis": diagnostics,
        "population": [run[1] for run in runs],
        "agreement": [compare(chains, run[0]) for run in runs],
        "path_error_of_logs": path_errors(kept[:50].astype(np.float64)),
        "log_density_gap": density_gap(unbounded(kept[:1000])),
        "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "python": platform.python_version()},
    }
    np.savez_compressed(args.out / "influenza.npz", **dict(zip(NAMES, kept.T.astype(np.float32))))
    (args.out / "influenza.json").write_text(json.dumps(report, indent=1) + "\n")
    gaps = [abs(row["mean_gap_in_sd"]) for a in report["agreement"] for row in a["table"].values()]
    print(f"largest mean gap {max(gaps):.3f} sd, least ESS of the chains {min(diagnostics['ess'].values()):.0f}")


if __name__ == "__main__":
    main()
