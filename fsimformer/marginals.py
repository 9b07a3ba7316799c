"""Quantiles of every marginal of a conditional, without draws.

The probability-flow ODE of one latent by itself, all others integrated out (they are no tokens), carries N(0, 1) to the
latent's marginal law. Solutions on a line cannot cross: the flow is the one rising map that does this, and quantiles
travel along it. With u = Φ⁻¹(p), T the whitening, and y = x_t/α_t = x + λ ε,

    Q(p) = T⁻¹(x₀),   dy/dλ = (y − x̂(y, λ))/λ,   x₀ = y(0), from u at the top.

P quantiles of L latents are P·L paths of single tokens, where n draws of all latents are n·L tokens that attend to each
other: no Monte-Carlo error, for a small part of the work. Which values belong together, marginals do not say.

From the top (a `SamplerConfig`) most steps are spent on noise far above the law's own width. `Fitted` starts nearer:
it reads mean m and width s off the denoiser at falling noise (x̂ of N(m, s²) is a line of slope s²/(s² + λ²) through m),
and solves for what differs from this normal,

    y = m + √(s² + λ²) u,   du/dlog λ = (m + (y − m) s²/(s² + λ²) − x̂)/√(s² + λ²),

from λ = 8 s down to s/10. Where the law is normal, any number of steps is exact; elsewhere u drifts only while λ is
near s. As an SDE does, it forgets what the network got wrong at high noise, so that on trained networks the two differ
a little whatever the number of steps (docs/howto/explore.md).

A reading of a series that has a path (`path_of`) is the path's value f with noise on top. Its law is the mixture over
the quantiles of f of the noise around each; where the noise's sd is latent itself, its marginal is taken to be
independent of f's. Readings that are counts have whole numbers as their quantiles (counts.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fsimformer.convert import observed_tokens, query_tokens
from fsimformer.counts import count_quantiles
from fsimformer.denoise import Denoiser, Encoded
from fsimformer.model_file import Model
from fsimformer.nn import Context
from fsimformer.paths import as_paths
from fsimformer.points import Observation, Points, Query
from fsimformer.sample import SamplerConfig, sample_active
from fsimformer.tokens import Dial, TokenSet, collate, join, split, take

_TOKENS = 4_096  # in one network call, as in stages.py
_NODES, _SD_NODES = 32, 8  # of a path's law and of the noise around it, of the noise's sd, where readings are mixtures
_TOP = math.exp(4.0)  # λ from which on nothing but the mean is left
_WIDTHS = 0.01, 1.5  # s of whitened values: what networks resolve, and more than the prior's


@dataclass(frozen=True)
class Fitted:
    """The flow as a correction of a fitted normal.

    Args:
        n_steps: of Adams–Bashforth, an evaluation each, in log λ.
        n_fits: readings of m and s, each at twice the width found before, from two evaluations.
        start, stop: λ/s at which the flow starts and ends.
    """

    n_steps: int = 6
    n_fits: int = 3
    start: float = 8.0
    stop: float = 0.1

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.n_fits < 1 or not 0 < self.stop < self.start:
            raise ValueError(f"Fitted: expected n_steps, n_fits >= 1 and 0 < stop < start, got {self}.")


Solver = SamplerConfig | Fitted
Line = Callable[[Tensor, Tensor], Tensor]  # x̂ (B, S) of B latents by themselves, from y (B, S) and λ (B,)


def marginal_quantiles(
    model: Model,
    observation: Observation,
    query: Query,
    probabilities: Sequence[float] | np.ndarray,
    solver: Solver,
    dial: Dial,
) -> dict[str, np.ndarray]:
    """Quantiles of each value that a query asks for, given an observation.

    Args:
        query: the latents; a reading asked for where one was observed is a second reading.
        probabilities: (P,) in (0, 1).
        solver: an ODE sampler from the top, or `Fitted`.
        dial: observed tokens that see the noise level, as in `stages.draw`.

    Returns:
        variable -> (P, points) on the original scale, in the order of the probabilities.

    Raises:
        ValueError: probabilities outside (0, 1), a sampler that is no ODE, or nothing asked for.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 1 or not p.size or not ((p > 0) & (p < 1)).all():
        raise ValueError(f"probabilities: expected numbers in (0, 1), got {probabilities!r}.")
    if isinstance(solver, SamplerConfig) and (solver.stochastic or solver.method == "flow_map"):
        raise ValueError(f"Marginal quantiles follow the probability-flow ODE; {solver.method!r} does not.")
    if not len(query):
        raise ValueError("Marginal quantiles: nothing is asked for.")
    schema, whitening = model.schema, model.whitening
    observed = observed_tokens(schema, whitening, observation)
    read = {s: schema[s].noise for s in schema.paths.values() if s in query.points}
    levels = np.concatenate([p, _midpoints(_NODES)]) if read else p
    u = torch.special.ndtri(torch.from_numpy(levels))
    z = flow(model.denoiser, observed, as_paths(schema, query_tokens(schema, query)), u, solver, dial).double()
    out, first, rank = {}, 0, np.argsort(np.argsort(p, kind="stable"))
    for name, points in query.points.items():
        own = slice(first, first + len(points))
        first = own.stop
        noise = read.get(name)
        if noise is None:
            x = whitening.readings(schema[name], z[:, own], points.component).numpy()
        else:
            x = whitening.inverse(name, z[:, own], points.component).numpy()
            sd = _noise_sd(model, observation, observed, noise.sd, solver, dial)
            x = _readings(x[len(p) :], sd, noise.kind, p)
        out[name] = np.sort(x, axis=0)[rank]  # few steps may cross where the ODE cannot
    return out


def flow(denoiser: Denoiser, observed: TokenSet, latents: TokenSet, u: Tensor, solver: Solver, dial: Dial) -> Tensor:
    """Where the probability flow of each latent by itself carries each start: (S, L), from u (S,) and L latents.

    A row a latent, the starts its replicates; what is observed is encoded once for all rows.
    """
    if not len(latents):
        return torch.zeros(len(u), 0)
    alone = [take(latents, torch.tensor([i])) for i in range(len(latents))]
    with torch.no_grad():
        stays, shared = denoiser.shorten(observed)
        one = split(collate([join(stays, alone[0])]), dial)
        common: Encoded | None = None
        if (
            shared is None
            and denoiser.summariser is None
            and denoiser.network.decay is None
            and one.active.shape[1] == 1
        ):
            common = denoiser.encode(one.to(denoiser.device))
        tokens = len(u) * one.active.shape[1] + (0 if common is not None else len(stays))
        step, out = max(1, _TOKENS // tokens), []
        for first in range(0, len(alone), step):
            part = alone[first : first + step]
            if common is not None:
                encoded = _beside(denoiser, common, part)
            else:
                streams = split(collate([join(stays, token) for token in part]), dial)
                encoded = denoiser.encode(streams.to(denoiser.device), shared=shared)
            out.append(_solved(denoiser, encoded, u.float().to(denoiser.device), solver).cpu())
    return torch.cat(out).T


def _beside(denoiser: Denoiser, common: Encoded, part: Sequence[TokenSet]) -> Encoded:
    """The one context that was encoded, as that of rows of one latent each."""
    n, context = len(part), common.context
    keys, values = (tuple(x.expand(n, -1, -1, -1) for x in side) for side in (context.keys, context.values))
    streams = replace(common.streams, frozen=common.streams.frozen.repeat(n))
    return denoiser.reuse(
        replace(common, streams=streams, context=Context(keys, values)), collate(part).to(denoiser.device)
    )


def _solved(denoiser: Denoiser, encoded: Encoded, u: Tensor, solver: Solver) -> Tensor:
    """(B, S): x₀ of the one latent of each of B rows; observed tokens may ride beside it."""
    latent = encoded.active.latent
    if isinstance(solver, SamplerConfig):
        epsilon = u[None, :, None].expand(len(latent), -1, latent.shape[1])
        return _latents(sample_active(denoiser, encoded, epsilon, solver), latent)

    def denoise(y: Tensor, ratio: Tensor) -> Tensor:
        x_hat = denoiser.at_ratio(y[..., None].expand(*y.shape, latent.shape[1]), ratio[:, None].expand_as(y), encoded)
        return _latents(x_hat, latent)

    return fitted_flow(denoise, len(latent), u, solver)


def _latents(x: Tensor, latent: Tensor) -> Tensor:
    """(B, S) of (B, S, n_a): each row's one latent."""
    return x.movedim(1, 2)[latent]


def fitted_flow(denoise: Line, n: int, u: Tensor, config: Fitted) -> Tensor:
    """x₀ (n, S) of n latents by themselves from starts u (S,); see above."""
    zero = torch.zeros(n, 1, dtype=u.dtype, device=u.device)
    m, s = denoise(zero, zero[:, 0] + _TOP), zero + 1
    for _ in range(config.n_fits):
        ratio = (2 * s).clamp(max=1.0)
        half = 0.5 * (s**2 + ratio**2).sqrt()
        x_hat = denoise(torch.cat([m - half, m + half], 1), ratio[:, 0])
        slope = ((x_hat[:, 1:] - x_hat[:, :1]) / (2 * half)).clamp(1e-5, 0.9)
        m, s = x_hat.mean(1, keepdim=True), (ratio * (slope / (1 - slope)).sqrt()).clamp(*_WIDTHS)
    grid = torch.linspace(math.log(config.start), math.log(config.stop), config.n_steps + 1).tolist()
    before: Tensor | None = None
    u = u.expand(n, -1)
    for here, there in itertools.pairwise(grid):
        ratio = s * math.exp(here)
        scale = (s**2 + ratio**2).sqrt()
        x_hat = denoise(m + scale * u, ratio[:, 0])
        rate = (m + s**2 / scale * u - x_hat) / scale
        u = u + (there - here) * (rate if before is None else 1.5 * rate - 0.5 * before)
        before = rate
    return m + s * u


def _midpoints(n: int) -> np.ndarray:
    """Probabilities of n equally likely values."""
    return (np.arange(n) + 0.5) / n


def _noise_sd(
    model: Model, observation: Observation, observed: TokenSet, sd: float | str, solver: Solver, dial: Dial
) -> np.ndarray:
    """The sd of a series' noise, as it is fixed or observed; else equally likely values of it."""
    if not isinstance(sd, str):
        return np.array([float(sd)])
    held = observation.channels.get(sd)
    if held is not None and np.isfinite(held.value).any():
        return held.value[np.isfinite(held.value)][:1]
    place = Points(np.zeros(1, dtype=np.int64), np.zeros((1, 0)), {}, ())
    tokens = query_tokens(model.schema, Query({sd: place}, {sd: np.zeros(1, dtype=bool)}))
    u = torch.special.ndtri(torch.from_numpy(_midpoints(_SD_NODES)))
    z = flow(model.denoiser, observed, tokens, u, solver, dial).double()
    found: np.ndarray = model.whitening.inverse(sd, z, place.component).numpy()[:, 0]
    return found


def _readings(paths: np.ndarray, sd: np.ndarray, kind: str, p: np.ndarray) -> np.ndarray:
    """Quantiles (P, n) of readings around a path; its values (nodes, n) are equally likely, as are those of sd."""
    if kind == "negbinomial":
        return count_quantiles(*map(torch.from_numpy, (paths, sd, p))).numpy()
    epsilon = torch.special.ndtri(torch.from_numpy(_midpoints(_NODES))).numpy()
    shift = (sd[:, None] * epsilon).reshape(-1, 1)
    x = paths[:, None] + shift if kind == "normal" else paths[:, None] * np.exp(shift)
    return np.quantile(x.reshape(-1, paths.shape[1]), p, axis=0)
