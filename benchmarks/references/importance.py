"""Adaptive importance sampling with heavy-tailed mixtures (population Monte Carlo), in numpy.

For a prior p(z) and a likelihood L(z), draws z_i from a proposal q carry the weights

    w_i = p(z_i) L(z_i) / q(z_i),   mean(w) estimates the evidence,   ESS = (sum w)^2 / sum w^2.

The first proposal is the prior itself, so no mode has to be guessed. Each round fits a mixture of multivariate t
distributions by weighted EM (Cappé et al. 2008, arXiv:0710.4242) to the target p(z) L(z)^s, s <= 1 the largest power
at which enough effective draws are left; the mixture plus a share of the prior is the next proposal. The share of the
prior bounds the weights by max(L) / share: a mode that every fit has missed still enters without bias. Only draws
from the last proposal, which no longer adapts to them, are used in the result.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

PRIOR_SHARE = 0.05
DEGREES = 6.0  # of freedom: tails heavier than a normal's, a finite covariance


@dataclass(frozen=True)
class Target:
    """A posterior on R^D: draws and log density of the prior, log likelihood; all for arrays (N, D)."""

    sample_prior: Callable[[int, np.random.Generator], np.ndarray]
    log_prior: Callable[[np.ndarray], np.ndarray]
    log_likelihood: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Population:
    """Weighted draws from one proposal: all of them, or those of `drawn` whose weight is not negligible."""

    z: np.ndarray  # (N, D)
    log_prior: np.ndarray  # (N,)
    log_likelihood: np.ndarray  # (N,)
    log_proposal: np.ndarray  # (N,)
    drawn: int

    def log_weight(self, power: float = 1.0) -> np.ndarray:
        # 0 * -inf is nan, yet a draw of zero likelihood keeps no weight at any power
        log_w = power * self.log_likelihood + self.log_prior - self.log_proposal
        return np.where(np.isfinite(log_w), log_w, -np.inf)

    def weight(self, power: float = 1.0) -> np.ndarray:
        log_w = self.log_weight(power)
        return np.exp(log_w - logsumexp(log_w))

    def ess(self, power: float = 1.0) -> float:
        return float(1 / np.sum(self.weight(power) ** 2))

    def log_evidence(self) -> tuple[float, float]:
        """log mean(w) and its standard error by the delta method."""
        log_w = self.log_weight()
        w = np.exp(log_w - log_w.max())
        mean, square = w.sum() / self.drawn, w @ w / self.drawn
        return float(log_w.max() + np.log(mean)), float(np.sqrt((square / mean**2 - 1) / self.drawn))

    def power(self, ess: float) -> float:
        """The largest power of the likelihood, at most 1, that leaves `ess` effective draws."""
        if self.ess() >= ess:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.ess(middle) >= ess else (low, middle)
        return low

    def resample(self, n: int, rng: np.random.Generator, power: float = 1.0) -> np.ndarray:
        """n indices by systematic resampling, in random order: no index twice while every weight is below 1/n."""
        order = rng.permutation(len(self.z))
        edges = np.cumsum(self.weight(power)[order])
        picks = np.searchsorted(edges / edges[-1], (rng.random() + np.arange(n)) / n)
        return rng.permutation(order[np.minimum(picks, len(order) - 1)])


@dataclass(frozen=True)
class Mixture:
    """sum_k weight_k t(z; DEGREES, mean_k, chol_k chol_k^T)."""

    weight: np.ndarray  # (K,)
    mean: np.ndarray  # (K, D)
    chol: np.ndarray  # (K, D, D)

    def distance(self, z: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances, (N, K)."""
        inverse = np.linalg.inv(self.chol)
        return np.stack([np.sum(((z - m) @ a.T) ** 2, -1) for m, a in zip(self.mean, inverse)], -1)

    def component_log_prob(self, distance: np.ndarray) -> np.ndarray:
        d = self.mean.shape[-1]
        log_det = np.log(np.diagonal(self.chol, axis1=-2, axis2=-1)).sum(-1)
        constant = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - d / 2 * np.log(DEGREES * np.pi)
        kernel = -(DEGREES + d) / 2 * np.log1p(distance / DEGREES)
        return np.log(self.weight) + constant - log_det + kernel  # (N, K)

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        return logsumexp(self.component_log_prob(self.distance(z)), axis=-1)

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        k = rng.choice(len(self.weight), size=n, p=self.weight)
        normal = rng.standard_normal((n, self.mean.shape[-1]))
        radius = np.sqrt(DEGREES / rng.chisquare(DEGREES, size=(n, 1)))
        return self.mean[k] + radius * np.einsum("nij,nj->ni", self.chol[k], normal)


def fit_mixture(z: np.ndarray, components: int, rng: np.random.Generator, steps: int = 40) -> Mixture:
    """EM for a mixture of t distributions; components that lose their draws are dropped."""
    n, d = z.shape
    covariance = np.atleast_2d(np.cov(z.T))
    ridge = 1e-6 * np.diag(np.diagonal(covariance))
    spread = np.sqrt(np.diagonal(covariance))
    centres = [rng.integers(n)]
    while len(centres) < components:  # k-means++: far draws are likely centres, so that a small mode gets one
        gap = np.min([np.sum(((z - z[c]) / spread) ** 2, -1) for c in centres], axis=0)
        centres.append(rng.choice(n, p=gap / gap.sum()))
    start = np.linalg.cholesky(covariance / components ** (2 / d) + ridge)
    mixture = Mixture(np.full(components, 1 / components), z[centres], np.repeat(start[None], components, 0))
    for _ in range(steps):
        distance = mixture.distance(z)
        log_p = mixture.component_log_prob(distance)
        share = np.exp(log_p - logsumexp(log_p, axis=-1, keepdims=True))
        alive = share.sum(0) > 5 * d
        share, distance = share[:, alive], distance[:, alive]
        pull = share * (DEGREES + d) / (DEGREES + distance)  # far draws pull less: the t's robust weights
        mean = (pull.T @ z) / pull.sum(0)[:, None]
        chol = []
        for k in range(mean.shape[0]):
            gap = z - mean[k]
            chol.append(np.linalg.cholesky((pull[:, k, None] * gap).T @ gap / share[:, k].sum() + ridge))
        mixture = Mixture(share.sum(0) / share.sum(), mean, np.stack(chol))
    return mixture


def propose(target: Target, mixture: Mixture, n: int, rng: np.random.Generator) -> Population:
    """n draws from (1 - PRIOR_SHARE) mixture + PRIOR_SHARE prior."""
    from_prior = rng.binomial(n, PRIOR_SHARE)
    z = np.concatenate([target.sample_prior(from_prior, rng), mixture.sample(n - from_prior, rng)])
    log_prior = target.log_prior(z)
    log_q = np.logaddexp(np.log(PRIOR_SHARE) + log_prior, np.log1p(-PRIOR_SHARE) + mixture.log_prob(z))
    return Population(z, log_prior, target.log_likelihood(z), log_q, n)


def from_prior(target: Target, n: int, rng: np.random.Generator) -> Population:
    z = target.sample_prior(n, rng)
    log_prior = target.log_prior(z)
    return Population(z, log_prior, target.log_likelihood(z), log_prior, n)


def sample(
    target: Target,
    population: Population,
    rng: np.random.Generator,
    *,
    components: int,
    round_draws: int,
    final_draws: int,
    fit_draws: int = 10_000,
    max_rounds: int = 40,
) -> tuple[Population, Mixture, list[dict]]:
    """Adapts from `population` (usually the prior's) until the power is 1 for three rounds, then draws the result.

    Returns:
        The final population, its mixture, and power and ESS of every round.
    """
    history, at_full_power = [], 0
    for _ in range(max_rounds):
        power = population.power(ess=50 * population.z.shape[-1])
        history.append({"power": power, "ess": population.ess(power), "draws": len(population.z)})
        at_full_power += power == 1.0
        mixture = fit_mixture(population.z[population.resample(fit_draws, rng, power)], components, rng)
        if at_full_power == 3:
            return propose(target, mixture, final_draws, rng), mixture, history
        population = propose(target, mixture, round_draws, rng)
    raise RuntimeError(f"the power of the likelihood only reached {power:.3g} in {max_rounds} rounds")


def moments(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean (D,), standard deviation (D,) and correlation (D, D)."""
    mean = weight @ x
    covariance = (weight[:, None] * (x - mean)).T @ (x - mean)
    sd = np.sqrt(np.diagonal(covariance))
    return mean, sd, covariance / np.outer(sd, sd)
