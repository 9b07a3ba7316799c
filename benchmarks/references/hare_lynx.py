"""Reference posteriors of the hare-lynx model on Hudson's Bay's pelts, 1900-1920, by two independent methods.

    u' = (alpha - beta v) u,   v' = (-gamma + delta u) v,   t = 0..20 in years since 1900
    alpha, gamma ~ Normal+(1, 0.5),   beta, delta ~ Normal+(0.05, 0.05)
    u(0), v(0) ~ LogNormal(log 10, 1),   hare_noise, lynx_noise ~ LogNormal(-1, 1)
    hare(t) ~ LogNormal(log u(t), hare_noise),   lynx(t) ~ LogNormal(log v(t), lynx_noise),   the first count included

(Normal+ is the normal cut at zero, standard deviations before the cut; counts in thousands of pelts.)

1. NUTS in NumPyro: float64, z = log of all eight parameters, dense mass matrix, eight chains, each from the likeliest
   of 5,000 draws from the prior; the path by Runge-Kutta of order 4 in (log u, log v), 40 steps a year, in jax.
2. Population Monte Carlo (importance.py) from 400,000 draws of the prior: it sees no NUTS draw. Its density is
   written a second time, in numpy, with Runge-Kutta in (u, v), 50 steps a year. Two runs with different seeds.

Both paths are compared with scipy's DOP853 at a relative tolerance of 1e-12, and both log densities with each other.

Writes hare_lynx.npz and hare_lynx_holes.npz (4,000 thinned NUTS draws of every parameter, float32), each with a JSON of
diagnostics. The second posterior misses the hare of 1905, 1906, 1912 and the lynx of 1904, 1911, 1912, 1917.

    taskset -c 0 python benchmarks/references/hare_lynx.py --seed 0
"""

import argparse
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import scipy
from importance import Population, Target, from_prior, moments, sample
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.infer import MCMC, NUTS, init_to_value
from numpyro.infer.util import log_density
from scipy.integrate import solve_ivp
from scipy.special import log_ndtr

NAMES = ("alpha", "beta", "gamma", "delta", "hare_initial", "lynx_initial", "hare_noise", "lynx_noise")
# counted in hundreds of pelts, used in thousands
HARE = (
    np.array([300, 472, 702, 774, 363, 206, 181, 214, 220, 254, 271, 403, 570, 766, 523, 195, 112, 76, 146, 162, 247])
    / 10
)
LYNX = np.array([40, 61, 98, 352, 594, 417, 190, 130, 83, 91, 74, 80, 123, 195, 457, 511, 297, 158, 97, 101, 86]) / 10
HOLES = {"hare": (1905, 1906, 1912), "lynx": (1904, 1911, 1912, 1917)}
LAST_YEAR = 20


def observed(holes: bool) -> np.ndarray:
    """Which counts are read: (year, species), True where read."""
    seen = np.ones((LAST_YEAR + 1, 2), bool)
    if holes:
        for k, species in enumerate(("hare", "lynx")):
            seen[np.array(HOLES[species]) - 1900, k] = False
    return seen


# ---- 1. NUTS -------------------------------------------------------------------------------------------------------


def log_path(alpha, beta, gamma, delta, log_initial, steps: int):
    """(log u, log v) at t = 0..20, (21, 2), by Runge-Kutta in the logarithms, which keeps both positive."""
    h = 1 / steps

    def slope(x, y):
        return alpha - beta * jnp.exp(y), -gamma + delta * jnp.exp(x)

    def step(state, _):
        x, y = state
        a1, b1 = slope(x, y)
        a2, b2 = slope(x + h / 2 * a1, y + h / 2 * b1)
        a3, b3 = slope(x + h / 2 * a2, y + h / 2 * b2)
        a4, b4 = slope(x + h * a3, y + h * b3)
        return (x + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4), y + h / 6 * (b1 + 2 * b2 + 2 * b3 + b4)), None

    def year(state, _):
        state, _ = jax.lax.scan(step, state, None, length=steps)
        return state, jnp.stack(state)

    start = (log_initial[0], log_initial[1])
    _, later = jax.lax.scan(year, start, None, length=LAST_YEAR)
    return jnp.concatenate([jnp.stack(start)[None], later])


def model(seen: np.ndarray, steps: int = 40) -> None:
    rate = dist.TruncatedNormal(1.0, 0.5, low=0.0)
    contact = dist.TruncatedNormal(0.05, 0.05, low=0.0)
    alpha, beta = numpyro.sample("alpha", rate), numpyro.sample("beta", contact)
    gamma, delta = numpyro.sample("gamma", rate), numpyro.sample("delta", contact)
    initial = [numpyro.sample(name, dist.LogNormal(np.log(10.0), 1.0)) for name in NAMES[4:6]]
    noise = [numpyro.sample(name, dist.LogNormal(-1.0, 1.0)) for name in NAMES[6:]]
    path = log_path(alpha, beta, gamma, delta, jnp.log(jnp.stack(initial)), steps)
    counts = dist.LogNormal(path, jnp.stack(noise)).mask(seen)
    numpyro.sample("counts", counts, obs=np.stack([HARE, LYNX], -1))


def nuts(seen: np.ndarray, seed: int, chains: int = 8, warmup: int = 1500, draws: int = 10_000):
    """Draws (chain, draw, 8) and their diagnostics."""
    rng = np.random.default_rng(seed)
    target = numpy_target(seen)
    # From the likeliest of only 50 draws a chain may stay in a mode of cycles half as long, whose mass is e^-34
    # of the posterior (Laplace): population Monte Carlo, which is told of no mode, gives it nothing either.
    starts = [target.sample_prior(5000, rng) for _ in range(chains)]
    starts = np.stack([z[np.nanargmax(target.log_likelihood(z))] for z in starts])
    kernel = NUTS(
        model,
        dense_mass=True,
        target_accept_prob=0.95,
        forward_mode_differentiation=True,  # six inputs through 800 steps: cheaper than the reverse pass
        init_strategy=init_to_value(values={}),
    )
    mcmc = MCMC(
        kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, chain_method="vectorized", progress_bar=False
    )
    begin = time.process_time()
    start_of = dict(zip(NAMES, starts.T))
    mcmc.run(jax.random.PRNGKey(seed), seen, init_params=start_of, extra_fields=("diverging", "num_steps"))
    x = np.stack([np.asarray(mcmc.get_samples(group_by_chain=True)[name]) for name in NAMES], -1)
    extra = mcmc.get_extra_fields(group_by_chain=True)
    return x, {
        "chains": chains,
        "warmup": warmup,
        "draws_per_chain": draws,
        "cpu_seconds": round(time.process_time() - begin, 1),
        "divergences": int(np.sum(extra["diverging"])),
        "mean_leapfrog_steps": float(np.mean(extra["num_steps"])),
        "rhat": dict(zip(NAMES, split_gelman_rubin(x).tolist())),
        "ess": dict(zip(NAMES, effective_sample_size(x).tolist())),
        "largest_chain_mean_gap_in_sd": float(np.max(np.abs(x.mean(1) - x.mean((0, 1))) / x.std((0, 1)))),
    }


# ---- 2. population Monte Carlo, the density written again ----------------------------------------------------------


def numpy_path(theta: np.ndarray, steps: int) -> np.ndarray:
    """(u, v) at t = 0..20 for parameters (N, >= 6) by Runge-Kutta in (u, v) themselves, (N, 21, 2)."""
    alpha, beta, gamma, delta = theta[:, :4].T
    path = np.empty((len(theta), LAST_YEAR + 1, 2))
    path[:, 0] = theta[:, 4:6]
    u, v = theta[:, 4].copy(), theta[:, 5].copy()
    h = 1 / steps
    for year in range(1, LAST_YEAR + 1):
        for _ in range(steps):
            a1, b1 = (alpha - beta * v) * u, (delta * u - gamma) * v
            p, q = u + h / 2 * a1, v + h / 2 * b1
            a2, b2 = (alpha - beta * q) * p, (delta * p - gamma) * q
            p, q = u + h / 2 * a2, v + h / 2 * b2
            a3, b3 = (alpha - beta * q) * p, (delta * p - gamma) * q
            p, q = u + h * a3, v + h * b3
            a4, b4 = (alpha - beta * q) * p, (delta * p - gamma) * q
            u = u + h / 6 * (a1 + 2 * (a2 + a3) + a4)
            v = v + h / 6 * (b1 + 2 * (b2 + b3) + b4)
        path[:, year, 0], path[:, year, 1] = u, v
    return path


def numpy_target(seen: np.ndarray, steps: int = 50, chunk: int = 2048) -> Target:
    """The posterior of z = log theta."""
    centre, width = np.array([1, 0.05, 1, 0.05]), np.array([0.5, 0.05, 0.5, 0.05])
    log_centre, log_width = np.log([10, 10, np.exp(-1), np.exp(-1)]), 1.0
    log_half = 0.5 * np.log(2 * np.pi)

    def sample_prior(n: int, rng: np.random.Generator) -> np.ndarray:
        rates = rng.normal(centre, width, (n, 4))
        while (wrong := rates <= 0).any():
            rates = np.where(wrong, rng.normal(centre, width, (n, 4)), rates)
        return np.concatenate([np.log(rates), rng.normal(log_centre, log_width, (n, 4))], -1)

    def log_prior(z: np.ndarray) -> np.ndarray:
        rates = np.exp(z[:, :4])
        # + z: the Jacobian of theta = exp(z); log_ndtr: the mass that the cut at zero leaves
        cut = -(((rates - centre) / width) ** 2) / 2 - np.log(width) - log_half - log_ndtr(centre / width) + z[:, :4]
        rest = -((z[:, 4:] - log_centre) ** 2) / 2 - log_half
        return cut.sum(-1) + rest.sum(-1)

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        out = np.empty(len(z))
        counts = np.log(np.stack([HARE, LYNX], -1))
        for i in range(0, len(z), chunk):
            theta = np.exp(z[i : i + chunk])
            with np.errstate(all="ignore"):  # paths of hopeless parameters overflow or turn negative: density zero
                residual = (counts - np.log(numpy_path(theta, steps))) / theta[:, None, 6:]
                term = -(residual**2) / 2 - z[i : i + chunk, None, 6:] - log_half - counts
                value = np.where(seen, term, 0).sum((1, 2))
            out[i : i + chunk] = np.where(np.isfinite(value), value, -np.inf)
        return out

    return Target(sample_prior, log_prior, log_likelihood)


def population(target: Target, seed: int) -> tuple[Population, dict]:
    rng = np.random.default_rng(seed)
    begin = time.process_time()
    start = from_prior(target, 400_000, rng)
    result, _, history = sample(target, start, rng, components=6, round_draws=40_000, final_draws=200_000)
    evidence, error = result.log_evidence()
    return result, {
        "seed": seed,
        "draws": len(result.z),
        "ess": result.ess(),
        "log_evidence": evidence,
        "log_evidence_error": error,
        "rounds": history,
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


# ---- agreement -----------------------------------------------------------------------------------------------------


def path_errors(theta: np.ndarray) -> dict:
    """Largest error of log u, log v of either integrator against DOP853, over draws (N, 8)."""
    exact = []

    def flow(_, s, alpha, beta, gamma, delta):
        return (alpha - beta * s[1]) * s[0], (-gamma + delta * s[0]) * s[1]

    for row in theta:
        way = solve_ivp(flow, (0, LAST_YEAR), row[4:6], "DOP853", range(21), args=row[:4], rtol=1e-12, atol=1e-12)
        exact.append(np.log(way.y.T))
    jax_path = jax.vmap(lambda p: log_path(p[0], p[1], p[2], p[3], jnp.log(p[4:6]), 40))(jnp.asarray(theta))
    return {
        "nuts": float(np.max(np.abs(np.asarray(jax_path) - exact))),
        "population": float(np.max(np.abs(np.log(numpy_path(theta, 50)) - exact))),
    }


def density_gap(theta: np.ndarray, seen: np.ndarray, target: Target) -> float:
    """Largest difference of the two log joint densities (both normalised) over draws (N, 8)."""
    z = np.log(theta)
    ours = target.log_prior(z) - z.sum(-1) + target.log_likelihood(z)  # - z: NumPyro's density is that of theta
    theirs = [float(log_density(model, (seen,), {}, dict(zip(NAMES, row)))[0]) for row in jnp.asarray(theta)]
    return float(np.max(np.abs(ours - theirs)))


def compare(chains: np.ndarray, other: Population) -> dict:
    """NUTS (chain, draw, 8) against a weighted population, in units of the NUTS standard deviation.

    The errors are the standard errors of the gap and the ratio, both methods' together.
    """
    x, y, w = chains.reshape(-1, len(NAMES)), np.exp(other.z), other.weight()
    mean, sd, correlation = moments(x, np.full(len(x), 1 / len(x)))
    other_mean, other_sd, other_correlation = moments(y, w)
    square, other_square = ((chains - mean) / sd) ** 2, ((y - mean) / sd) ** 2
    mean_error = np.sqrt(1 / effective_sample_size(chains) + w**2 @ other_square)
    ours = square.reshape(x.shape).var(0) / effective_sample_size(square)
    sd_error = np.sqrt(ours + w**2 @ (other_square - 1) ** 2) / 2  # d sd / sd = d variance / (2 variance)
    columns = {
        "nuts_mean": mean,
        "population_mean": other_mean,
        "mean_gap_in_sd": (other_mean - mean) / sd,
        "mean_gap_error": mean_error,
        "nuts_sd": sd,
        "sd_ratio": other_sd / sd,
        "sd_ratio_error": sd_error,
    }
    return {
        "table": {name: {c: float(v[k]) for c, v in columns.items()} for k, name in enumerate(NAMES)},
        "largest_correlation_gap": float(np.max(np.abs(correlation - other_correlation))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    for name, holes in (("hare_lynx", False), ("hare_lynx_holes", True)):
        seen, begin = observed(holes), time.perf_counter()
        target = numpy_target(seen)
        chains, diagnostics = nuts(seen, args.seed)
        runs = [population(target, args.seed + k) for k in (1, 2)]
        thinned = chains[:, :: chains[..., 0].size // 4000].reshape(-1, len(NAMES))
        kept = np.random.default_rng(args.seed).permutation(thinned)
        report = {
            "seed": args.seed,
            "holes": HOLES if holes else {},
            "nuts": diagnostics,
            "population": [run[1] for run in runs],
            "agreement": [compare(chains, run[0]) for run in runs],
            "path_error_of_logs": path_errors(kept[:500]),
            "log_density_gap": density_gap(kept[:100], seen, target),
            "seconds": round(time.perf_counter() - begin, 1),
            "versions": {m.__name__: m.__version__ for m in (jax, numpyro, np, scipy)}
            | {"python": platform.python_version()},
        }
        np.savez_compressed(args.out / f"{name}.npz", **dict(zip(NAMES, kept.T.astype(np.float32))))
        (args.out / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n")
        gaps = [abs(row["mean_gap_in_sd"]) for a in report["agreement"] for row in a["table"].values()]
        print(f"{name}: largest mean gap {max(gaps):.3f} sd, least NUTS ESS {min(diagnostics['ess'].values()):.0f}")


if __name__ == "__main__":
    main()
