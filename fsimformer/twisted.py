"""Draws of a conditional under constraints: twisted sequential Monte Carlo, and guidance (arXiv 2306.17775).

With y = x_t/α_t = x + λ ε and an approximation ψ(y) of P(constraints | y), particles move by the reverse SDE with the
denoised mean bent towards the constraints,

    x̂ + λ² ∇ log ψ(y),

and the weights make up for it: with p the sampler's own transition, q the bent one, both Gaussian of one variance,

    w_i = ψ_i(y_i)/ψ_{i−1}(y_{i−1}) · p(y_i | y_{i−1})/q(y_i | y_{i−1}).

Whatever ψ is, the weighted particles have the law that the sampler has under the constraints (as their number grows),
and the product of the mean weights is an unbiased estimate of P(constraints): ψ decides about efficiency alone.
Particles are resampled, systematically, where their effective number falls below half of them.

A constraint is an interval for a number u, linear in the values of some points: u = Σ_p a_p x_p, or z of one point.
Given y it is taken to be normal about u(x̂), its variance s² τ²/(s² + τ²) + v, with s² that of λ ε in u, v what x leaves
open of u (measurement noise, a function between its knots), and τ² + v the variance of u over draws without
constraints: exact for a Gaussian. A v too small would send all particles to where u(x) itself lies in the interval:
they look well, and miss the others. ψ is the product over constraints to the power ρ, n_eff/n of
correlated constraints: fifty points of one smooth function are no fifty constraints.

Guidance is the same without weights: approximate. Its steps may be repeated, with noise added back between
(arXiv 2201.09865), which forgets some of its errors.

All values are whitened; tokens, no names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fsimformer.denoise import Denoiser, Encoded
from fsimformer.noise import TrigSchedule, time_grid
from fsimformer.sample import History, SamplerConfig, advance, step_sd
from fsimformer.tokens import Dial, TokenSet, collate, join, split

_FAR = 1e4  # sds: nothing is expected there
_LEAST = -50.0  # log ψ where it is no number
_ORDER = {"sde_2m": 2, "sde_3m": 3}


@dataclass(frozen=True)
class Term:
    """One interval.

    Args:
        rows: (P, L) float64: the whitened values of the points are rows @ z, z (L,) those of the tokens drawn.
        spare: (P,) float64, variance of what `rows` leaves open of each, v.
        weights: (P,) float64, a.
        inverse: whitened values (…, P) -> values, and log |dx/dz| of whitened values; None: u is on the whitened scale.
        lower, upper: of u; ±inf = open.
        sd: of u without constraints, √(τ² + v).
    """

    rows: Tensor
    spare: Tensor
    weights: Tensor
    inverse: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]] | None
    lower: float
    upper: float
    sd: float

    def log_prob(self, z: Tensor, ratio: float) -> Tensor:
        """log P(lower <= u <= upper | y), (n,), from z = x̂ (n, L) float64 at λ = `ratio`."""
        points = z @ self.rows.T
        if self.inverse is None:
            u, slope = points @ self.weights, self.weights
        else:
            value, log_det = self.inverse
            u = value(points) @ self.weights
            slope = self.weights * log_det(points.detach()).exp()  # (n, P)
        noise, spare = ((slope @ self.rows) ** 2).sum(-1) * ratio**2, (slope**2 * self.spare).sum(-1)
        own = (self.sd**2 - spare).clamp(min=1e-3 * self.sd**2)
        sd = (noise * own / (noise + own) + spare).clamp(min=1e-12).sqrt()
        return log_interval((self.lower - u) / sd, (self.upper - u) / sd)


def log_interval(lower: Tensor, upper: Tensor) -> Tensor:
    """log(Φ(upper) − Φ(lower)), lower < upper, precise in both tails; ends may be infinite."""
    lower, upper = lower.clamp(-_FAR, _FAR), upper.clamp(-_FAR, _FAR)  # slopes at infinity are NaN
    flip = lower > 0  # work on the side where both are small
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_b = torch.special.log_ndtr(b)
    gap = (torch.special.log_ndtr(a) - log_b).clamp(max=-1e-12)
    return log_b + torch.log(-torch.expm1(gap))


@dataclass(frozen=True)
class Twist:
    """ψ: the product of some intervals' probabilities to the power `power`."""

    terms: tuple[Term, ...]
    power: float = 1.0

    def log_psi(self, z: Tensor, ratio: float) -> Tensor:
        """(n,) float64, from x̂ (n, L) of the tokens drawn."""
        out = torch.zeros(len(z), dtype=torch.float64, device=z.device)
        for term in self.terms:
            out = out + term.log_prob(z, ratio)
        return self.power * out


@dataclass(frozen=True)
class Particles:
    """Weighted draws.

    Args:
        z: (n, L) whitened.
        log_weight: (n,) float64, of what has been counted so far, ψ at the last step included: Σ w over n is an
            estimate of ∫ p ψ.
        log_psi: (n,) that ψ: weights of the constraints themselves are log_weight − log_psi + log 1[satisfied].
        log_mean: log of the product of the mean weights at all resamplings before.
    """

    z: Tensor
    log_weight: Tensor
    log_psi: Tensor
    log_mean: float


def draw_twisted(
    denoiser: Denoiser,
    observed: TokenSet,
    stage: TokenSet,
    twist: Twist,
    n: int,
    config: SamplerConfig,
    n_active_observed: Dial,
    max_tokens: int,
    generator: torch.Generator,
    repeats: int | None = None,
) -> Particles:
    """n particles of the tokens of one data set.

    Args:
        observed, stage: what is given, and the latents that are drawn jointly.
        config: an SDE sampler.
        max_tokens: particles × tokens in one network call.
        generator: of all noise, and of the resampling.
        repeats: None = weighted particles; k: guidance, every step taken 1 + k times, all weights one.

    Raises:
        ValueError: a sampler that is no SDE.
        FloatingPointError: all weights vanish.
    """
    if config.method not in _ORDER:
        raise ValueError(f"draw_twisted: expected a sampler of {sorted(_ORDER)}, got {config.method!r}.")
    path, order = TrigSchedule(), _ORDER[config.method]
    grid = time_grid(path, config.n_steps, config.log_min, config.log_max, config.power)
    log_ratio = (path.sigma(grid) / path.alpha(grid)).log()
    solve = _Solver(denoiser, observed, stage, twist, n_active_observed, max_tokens)

    def normals() -> Tensor:
        return torch.randn(n, len(stage), generator=generator, device=generator.device)

    y, history = normals() / path.alpha(grid[0]).float(), History()
    weight, before, log_mean = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64), 0.0
    for i in range(config.n_steps):
        ratio = log_ratio[i].exp()
        for again in range(1 + (repeats or 0)):
            x_hat, log_psi, bend = solve(y, float(ratio))
            if repeats is None:
                weight = weight + log_psi - before
                if effective(weight) < 0.5 * n:
                    log_mean += _log_mean(weight)
                    chosen = systematic(weight, n, generator)
                    y, x_hat, log_psi, bend = y[chosen], x_hat[chosen], log_psi[chosen], bend[chosen]
                    history, weight = history.take(chosen), torch.zeros_like(weight)
            mean, after = advance(y, x_hat, history, log_ratio, i, 2.0, order)
            shift = (-torch.expm1(-2 * (log_ratio[i] - log_ratio[i + 1])) * ratio**2).float() * bend
            sd, z = step_sd(log_ratio, i).float(), normals()
            new = (mean + shift + sd * z).float()
            if again < (repeats or 0):  # back to where it came from
                y = new + (ratio**2 - log_ratio[i + 1].exp() ** 2).sqrt().float() * normals()
        y, history, before = new, after, log_psi
        if repeats is None:
            pull = (shift / sd).double()
            weight = weight - (0.5 * pull**2 + pull * z).sum(-1)
    return Particles(y, weight, before, log_mean)


class _Solver:
    """x̂ (n, L), log ψ (n,) and ∇ log ψ (n, L) of particles y (n, L) of one data set."""

    def __init__(
        self, denoiser: Denoiser, observed: TokenSet, stage: TokenSet, twist: Twist, dial: Dial, max_tokens: int
    ) -> None:
        streams = split(collate([join(observed, stage)]), dial)
        with torch.no_grad():
            self.encoded: Encoded = denoiser.encode(streams.to(denoiser.device))
        self.denoiser, self.twist = denoiser, twist
        self.latent = streams.active.latent[0]
        self.rows = max(1, max_tokens // len(self.latent))

    def __call__(self, y: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        parts = [self._some(part, ratio) for part in y.split(self.rows)]
        x_hat, log_psi, bend = (torch.cat(p) for p in zip(*parts, strict=True))
        return x_hat, log_psi, bend

    def _some(self, y: Tensor, ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        device = self.denoiser.device
        y = y.to(device)
        with torch.enable_grad():
            y = y.detach().requires_grad_(bool(self.twist.terms))
            active = torch.zeros(1, len(y), len(self.latent), device=device)
            active[0, :, self.latent] = y
            level = torch.full((1, 1), ratio, device=device)
            x_hat = self.denoiser.at_ratio(active, level, self.encoded)[0][:, self.latent]
            log_psi = self.twist.log_psi(x_hat.cpu().double(), ratio)
            bend = torch.autograd.grad(log_psi.sum(), y)[0] if self.twist.terms else torch.zeros_like(y)
        x_hat, log_psi, bend = x_hat.detach().cpu(), log_psi.detach(), bend.cpu()
        bad = ~(log_psi.isfinite() & bend.isfinite().all(-1))  # overflow: any other ψ will do, and one NaN spoils all
        return x_hat, log_psi.masked_fill(bad, _LEAST), bend.masked_fill(bad[:, None], 0.0)


def effective(log_weight: Tensor) -> float:
    """Number of equally weighted draws that these are worth, (Σw)²/Σw²; −inf = weight 0."""
    w = (log_weight - log_weight.max()).exp()
    return float(w.sum() ** 2 / (w**2).sum())


def _log_mean(log_weight: Tensor) -> float:
    found = float(log_weight.logsumexp(0)) - math.log(len(log_weight))
    if not math.isfinite(found):
        raise FloatingPointError("The weights of all particles vanish: the constraints are out of reach.")
    return found


def systematic(log_weight: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n positions, each taken ⌊n w⌋ or ⌈n w⌉ times (Kitagawa, J. Comput. Graph. Stat. 1996), in rising order."""
    w = (log_weight - log_weight.max()).exp()
    edges = (w / w.sum()).cumsum(0)
    at = (torch.arange(n) + torch.rand(1, generator=generator, device=generator.device).cpu()) / n
    return torch.searchsorted(edges, at.double()).clamp(max=len(w) - 1)


def shared_power(values: Tensor) -> float:
    """ρ = (tr C)²/(n ‖C‖²) of the correlations C of n numbers over draws, values (draws, n).

    1: they are independent, 1/n: they are one.
    """
    n = values.shape[1]
    spread = values - values.mean(0)
    sd = spread.square().mean(0).sqrt()
    if n < 2 or not bool((sd > 0).all()):
        return 1.0
    c = (spread / sd).T @ (spread / sd) / len(values)
    return float(n / (c**2).sum().clamp(min=1.0))
