"""Draws from every conditional of slcp, by importance sampling in at most three dimensions.

Given the covariance S (θ₃, θ₄, θ₅) the log likelihood of the observed entries of x is quadratic in μ = (θ₁, θ₂):

    log L = k + h·μ − ½ μᵀΛμ,   Λ, h, k summed over the four draws, each seen whole, in one coordinate, or not at all,

so what is latent of μ is a Gaussian cut to the prior's box and is drawn one coordinate after the other; a draw's
weight is the evidence of the Gaussian times the two masses inside the box. Only the scales are proposed, as
z = Φ⁻¹(|θ₃|/3), Φ⁻¹(|θ₄|/3), Φ⁻¹((θ₅+3)/6), N(0, 1) a priori; signs of θ₃ and θ₄ are coins, for S has their squares.
A scale of which the observed entries say nothing is a draw of its prior: θ₃ or θ₄ where no entry of that coordinate
is seen, θ₅ where no draw is seen whole. The proposal is a kernel density of the posterior tempered until its power is
one, with a share of the prior. Latent entries of x are Gaussian given θ and their draw's seen entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, ndtr, ndtri

BOX = 3.0
PRIOR_SHARE, N_KERNELS, N_NEAR, ROUND, EFFECTIVE = 0.1, 128, 120, 6_000, 20
MAX_ROUNDS = 40
ORDER = 8  # a kernel's degrees of freedom + its dimension: heavy tails, and a density of whole powers


@dataclass(frozen=True)
class Seen:
    """What is observed: x (4, 2), NaN elsewhere, less `centre` (2,); `known` (2,): μ_c is observed, and the centre."""

    x: np.ndarray
    known: np.ndarray
    centre: np.ndarray

    @property
    def informed(self) -> np.ndarray:
        """Coordinates of which some entry is seen."""
        out: np.ndarray = np.isfinite(self.x).any(0)
        return out


def _covariance(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """s₁, s₂, ρ and 1 − ρ² of rows (n, 5)."""
    s = theta[:, 2:4] ** 2
    return s[:, 0], s[:, 1], np.tanh(theta[:, 4]), 1 / np.cosh(theta[:, 4]) ** 2


def _quadratic(seen: Seen, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k (n,), h (n, 2), Λ (n, 2, 2)."""
    s1, s2, rho, rest = _covariance(theta)
    n = len(theta)
    k, h, matrix = np.zeros(n), np.zeros((n, 2)), np.zeros((n, 2, 2))
    whole = np.empty((n, 2, 2))
    whole[:, 0, 0], whole[:, 1, 1] = 1 / (rest * s1**2), 1 / (rest * s2**2)
    whole[:, 0, 1] = whole[:, 1, 0] = -rho / (rest * s1 * s2)
    for draw in seen.x:
        here = np.isfinite(draw)
        if here.all():
            precision, log_det = whole, 2 * np.log(s1) + 2 * np.log(s2) + np.log(rest)
        elif here.any():
            (c,) = np.flatnonzero(here)
            s = s1 if c == 0 else s2
            precision, log_det = np.zeros((n, 2, 2)), 2 * np.log(s)
            precision[:, c, c] = 1 / s**2
        else:
            continue
        x = np.where(here, draw, 0.0)
        push = precision @ x
        k += -0.5 * (push @ x) - 0.5 * log_det
        h += push
        matrix += precision
    return k, h, matrix


def _cut_normal(
    mean: np.ndarray, sd: np.ndarray, low: np.ndarray, high: np.ndarray, u: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Draws of N(mean, sd²) within (low, high), and the log mass there; by the lower tail, where Φ is precise."""
    a, b = (low - mean) / sd, (high - mean) / sd
    flip = a > 0
    a, b = np.where(flip, -b, a), np.where(flip, -a, b)
    mass = ndtr(b) - ndtr(a)
    z = ndtri(np.clip(ndtr(a) + u * mass, 1e-300, 1 - 1e-16))
    with np.errstate(divide="ignore"):
        return np.clip(mean + sd * np.where(flip, -z, z), low, high), np.log(mass)


def _cut_pair(
    h: np.ndarray, matrix: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws (n, 2) of ∝ exp(h·m − ½ mᵀΛm) in the box, m_a by its marginal over the line, then m_b given m_a.

    Also their log weights: evidence over the plane, times the masses in the box of m_a and of m_b given m_a. Row by row
    m_a is the coordinate with less of its marginal inside: where both hang together, the other is then inside as well.
    """
    covariance = np.linalg.inv(matrix)
    mean, sd = (covariance @ h[:, :, None])[:, :, 0], np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    masses = np.stack([_cut_normal(mean[:, c], sd[:, c], low[c], high[c], np.zeros(len(h)))[1] for c in range(2)], 1)
    a = masses.argmin(1)
    b, row = 1 - a, np.arange(len(h))
    out = np.empty((len(h), 2))
    out[row, a], mass_a = _cut_normal(mean[row, a], sd[row, a], low[a], high[a], rng.random(len(h)))
    precision = matrix[row, b, b]
    given = (h[row, b] - matrix[row, 0, 1] * out[row, a]) / precision
    out[row, b], mass_b = _cut_normal(given, 1 / np.sqrt(precision), low[b], high[b], rng.random(len(h)))
    evidence = 0.5 * (h * mean).sum(1) - 0.5 * np.log(np.linalg.det(matrix))
    return out, evidence + mass_a + mass_b


def _mean_given_scales(seen: Seen, theta: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """μ (n, 2), less the centre, and log weights (n,) of the scales in `theta`, up to a constant.

    An observed μ_c is its coordinate's centre, 0 here, and leaves the quadratic form. With one latent coordinate,
    ∫ exp(h m − ½ Λ m²) dm over the box = exp(h²/2Λ) √(2π/Λ) · mass.
    """
    n = len(theta)
    k, h, matrix = _quadratic(seen, theta)
    low, high = -BOX - seen.centre, BOX - seen.centre
    mu = low + (high - low) * rng.random((n, 2))  # of a coordinate without an entry nothing is known
    mu[:, seen.known] = 0.0
    told = np.flatnonzero(seen.informed & ~seen.known)
    if len(told) == 2:
        mu, evidence = _cut_pair(h, matrix, low, high, rng)
        k = k + evidence
    elif len(told) == 1:
        (c,) = told
        precision = matrix[:, c, c]
        mean, sd = h[:, c] / precision, 1 / np.sqrt(precision)
        mu[:, c], log_mass = _cut_normal(mean, sd, low[c], high[c], rng.random(n))
        k = k + 0.5 * h[:, c] * mean + np.log(sd) + log_mass
    return mu, k


def _scales(z: np.ndarray, which: list[int], theta: np.ndarray) -> np.ndarray:
    """Rows of θ with the proposed scales (|θ₃|, |θ₄|, θ₅ of `which`) in their places."""
    out = theta.copy()
    for j, c in enumerate(which):
        share = ndtr(np.maximum(z[:, j], -6.0))  # a prior mass of 1e-9: 1/s⁴ must stay finite
        out[:, c] = BOX * share if c < 4 else BOX * (2 * share - 1)
    return out


@dataclass(frozen=True)
class Kernels:
    """The proposal: PRIOR_SHARE of N(0, I), else multivariate t around `centre` (K, d), each of its own shape."""

    centre: np.ndarray
    chol: np.ndarray

    @classmethod
    def around(cls, z: np.ndarray) -> Kernels:
        """From draws (n, d): the first are the centres, the draws nearest to each give its shape, for curved ridges."""
        d, centre = z.shape[1], z[:N_KERNELS]
        wide = np.atleast_2d(np.cov(z.T)) + 1e-10 * np.eye(d)
        scaled = np.linalg.solve(np.linalg.cholesky(wide), z.T).T
        distance = ((scaled[None] - scaled[:N_KERNELS, None]) ** 2).sum(-1)
        near = z[np.argpartition(distance, N_NEAR, axis=1)[:, :N_NEAR]]  # (K, near, d)
        gap = near - centre[:, None]
        shape = gap.transpose(0, 2, 1) @ gap / N_NEAR + 1e-4 * wide
        return cls(centre, np.linalg.cholesky(shape))

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        d = self.centre.shape[1]
        normal, which = rng.standard_normal((n, d)), rng.integers(len(self.centre), size=n)
        degrees = ORDER - d
        radius = np.sqrt(degrees / rng.chisquare(degrees, (n, 1)))
        near = self.centre[which] + radius * (self.chol[which] @ normal[:, :, None])[:, :, 0]
        return np.where(rng.random((n, 1)) < PRIOR_SHARE, normal, near)

    def log_prob(self, z: np.ndarray) -> np.ndarray:
        d, inverse = z.shape[1], np.linalg.inv(self.chol)
        degrees = ORDER - d
        height = 1 / np.diagonal(self.chol, axis1=1, axis2=2).prod(1) / len(self.centre)
        origin = (inverse @ self.centre[:, :, None])[:, :, 0].T
        kernel = np.empty(len(z))
        for first in range(0, len(z), 4096):
            part = slice(first, first + 4096)
            distance = sum((z[part] @ inverse[:, j].T - origin[j]) ** 2 for j in range(d))
            square = (1 + distance / degrees) ** 2  # the power −ORDER/2 = −4
            kernel[part] = (1 / (square * square)) @ height
        constant = math.lgamma(ORDER / 2) - math.lgamma(degrees / 2) - d / 2 * math.log(degrees * math.pi)
        near = np.log(np.maximum(kernel, 1e-300)) + constant
        out: np.ndarray = np.logaddexp(math.log(1 - PRIOR_SHARE) + near, math.log(PRIOR_SHARE) + _log_prior(z))
        return out


def _log_prior(z: np.ndarray) -> np.ndarray:
    out: np.ndarray = -0.5 * (z**2).sum(1) - z.shape[1] / 2 * math.log(2 * math.pi)
    return out


def _effective(log_weight: np.ndarray) -> float:
    return float(np.exp(2 * logsumexp(log_weight) - logsumexp(2 * log_weight)))


def _power(log_likelihood: np.ndarray, log_ratio: np.ndarray, ess: float) -> float:
    """The largest power of the likelihood, at most 1, that leaves `ess` effective draws."""
    if _effective(log_likelihood + log_ratio) >= ess:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(25):
        middle = (low + high) / 2
        ok = _effective(middle * log_likelihood + log_ratio) >= ess
        low, high = (middle, high) if ok else (low, middle)
    return low


def _resample(log_weight: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n indices by systematic resampling in random order."""
    order = rng.permutation(len(log_weight))
    edges = np.cumsum(np.exp(log_weight[order] - log_weight.max()))
    picks = np.searchsorted(edges / edges[-1], (rng.random() + np.arange(n)) / n)
    return rng.permutation(order[np.minimum(picks, len(order) - 1)])


def weighted_theta(
    seen: Seen, theta: np.ndarray, which: list[int], n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (θ, less the centre in θ₁ and θ₂) and their log weights, at least EFFECTIVE·n effective ones.

    Args:
        theta: (1, 5) observed values, anything elsewhere. which: latent scales that the observation tells of.
    """
    d = len(which)

    def weigh(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = _scales(z, which, np.repeat(theta, len(z), 0))
        mu, log_likelihood = _mean_given_scales(seen, rows, rng)
        rows[:, :2] = mu
        return rows, np.where(np.isfinite(log_likelihood), log_likelihood, -1e300)

    z = rng.standard_normal((4 * ROUND, d))
    log_ratio, proposal, at_full = np.zeros(len(z)), None, 0
    log_likelihood = weigh(z)[1]
    for _ in range(MAX_ROUNDS if d else 0):
        power = _power(log_likelihood, log_ratio, 100.0 * d)
        at_full += power == 1.0
        log_weight = power * log_likelihood + log_ratio
        proposal = Kernels.around(z[_resample(log_weight, 2_000, rng)])
        z = proposal.draw(ROUND, rng)
        log_likelihood, log_ratio = weigh(z)[1], _log_prior(z) - proposal.log_prob(z)
        if at_full == 3:
            break
    else:
        if d:
            raise RuntimeError(f"slcp: the power of the likelihood only reached {power:.3g} in {MAX_ROUNDS} rounds.")
    found, weights = [], []
    while not weights or _effective(np.concatenate(weights)) < EFFECTIVE * n:
        z = rng.standard_normal((25 * n, d)) if proposal is None else proposal.draw(25 * n, rng)
        rows, log_likelihood = weigh(z)
        found.append(rows)
        weights.append(log_likelihood + (0.0 if proposal is None else _log_prior(z) - proposal.log_prob(z)))
    return np.concatenate(found), np.concatenate(weights)


def slcp_rows(observed: np.ndarray, value: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    out = np.repeat(value[None], n, 0)
    theta = np.where(observed[:5], value[:5], BOX * (2 * rng.random((n, 5)) - 1))
    x = np.where(observed[5:], value[5:], np.nan).reshape(4, 2)
    if observed[5:].any() and not observed[:5].all():
        informed = np.isfinite(x).any(0)
        tells = (*informed, np.isfinite(x).all(1).any())
        which = [2 + j for j in range(3) if tells[j] and not observed[2 + j]]
        middle = np.where(informed, np.nansum(x, 0) / np.maximum(np.isfinite(x).sum(0), 1), 0.0)
        centre = np.where(observed[:2], value[:2], middle)  # of the data: squares of small residuals must not cancel
        seen = Seen(x - centre, observed[:2], centre)
        rows, log_weight = weighted_theta(seen, value[None, :5], which, n, rng)
        rows = rows[_resample(log_weight, n, rng)]
        rows[:, :2] += centre
        rows[:, 2:4] *= np.where(rng.random((n, 2)) < 0.5, 1.0, -1.0)
        drawn = ~observed[:5]
        drawn[2:] &= np.isin(np.arange(2, 5), which)
        theta[:, drawn] = rows[:, drawn]
    out[:, :5] = theta
    out[:, 5:] = _fill_x(theta, x, rng).reshape(n, 8)
    return out


def _fill_x(theta: np.ndarray, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n, 4, 2): the seen entries, the others given θ and the seen entry of their draw."""
    n = len(theta)
    s1, s2, rho, rest = (v[:, None] for v in _covariance(theta))
    m1, m2 = theta[:, :1], theta[:, 1:2]
    e1, e2 = rng.standard_normal((2, n, 4))
    first, second = np.isfinite(x).T
    given1 = np.where(first, np.nan_to_num(x[:, 0]), 0.0)
    given2 = np.where(second, np.nan_to_num(x[:, 1]), 0.0)
    one = np.where(
        first, given1, np.where(second, m1 + rho * s1 / s2 * (given2 - m2) + s1 * np.sqrt(rest) * e1, m1 + s1 * e1)
    )
    two = np.where(second, given2, m2 + rho * s2 / s1 * (one - m1) + s2 * np.sqrt(rest) * e2)
    return np.stack([one, two], -1)
