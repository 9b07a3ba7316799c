"""Log densities of whitened latents by the probability-flow ODE (arXiv 1810.01367, 2011.13456).

    dx/dt = v(x, t),    log p(x_0) = log p(x_1) + ∫₀¹ ∇·v(x_t, t) dt,    p(x_1) = N(0, K).

The divergence is Hutchinson's estimate zᵀ(∂v/∂x)z with one Rademacher probe a replicate, or exact, one backward pass a
latent. Values are whitened: a density on the original scale subtracts the whitening's `log_det`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsimformer.denoise import Denoiser, Encoded
from fsimformer.noise import TrigSchedule, time_grid, velocity
from fsimformer.tokens import Dial, TokenSet, collate, join, split


def log_prob(
    denoiser: Denoiser,
    encoded: Encoded,
    x: Tensor,
    *,
    probe: Tensor | None = None,
    n_steps: int = 24,
    log_min: float = -4.5,
    log_max: float = 3.9,
    power: float = 4.0,
) -> Tensor:
    """Log density of the latents given the observed tokens, (B, R).

    Args:
        x: (B, R, n_a) values of the active tokens; entries of observed tokens are ignored.
        probe: (B, R, n_a) of ±1 for Hutchinson's estimate; None = the exact divergence.
        n_steps: midpoint steps on a grid dense near the data (two evaluations each).
        log_min, log_max: range of log λ; the density is that of x blurred by λ = exp(log_min).

    Raises:
        ValueError: a network whose products are not in float32.
    """
    if denoiser.lower:
        raise ValueError("log densities need the precision 'float32', this Joint has 'bfloat16': joint.to(device).")
    from torchdiffeq import odeint  # half a second of scipy that most of a session does without

    path = TrigSchedule()
    latent = encoded.active.latent[:, None].to(x.dtype)
    columns = encoded.active.latent.any(0).nonzero()[:, 0].tolist()  # riders are observed: nothing flows there
    grid = time_grid(path, n_steps, log_min, log_max, power).flip(0).to(x)  # from the data to the noise

    def flow(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = path.alpha(t), path.sigma(t)
        x_hat = denoiser.at_ratio(x_t / alpha, (sigma / alpha).expand(len(x_t), 1), encoded)
        return velocity(path, x_t, x_hat, t) * latent

    def field(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x_t = state[0].detach().requires_grad_(True)
            v = flow(x_t, t)
            if probe is not None:
                z = probe * latent
                divergence = (torch.autograd.grad(v, x_t, z)[0] * z).sum(-1)
            else:
                divergence = torch.zeros_like(state[1])
                for k in columns:
                    (g,) = torch.autograd.grad(v[..., k].sum(), x_t, retain_graph=True)
                    divergence = divergence + g[..., k]
        return v.detach(), divergence.detach()

    start = path.alpha(grid[0]) * x * latent
    with torch.no_grad():
        x_1, change = odeint(field, (start, torch.zeros(x.shape[:2]).to(x)), grid, method="midpoint")
    base = -0.5 * (x_1[-1] ** 2 + math.log(2 * math.pi)) * latent
    # the grid starts at α x instead of x: its Jacobian is α a latent
    return base.sum(-1) + change[-1] + latent.sum(-1) * path.alpha(grid[0]).log()


def query_log_prob(
    denoiser: Denoiser,
    observed: TokenSet,
    query: TokenSet,
    z: Tensor,
    n_active_observed: Dial,
    *,
    n_steps: int = 12,
    log_min: float = -6.9,
    max_tokens: int = 4_096,
    edges: Tensor | None = None,
) -> Tensor:
    """Joint log density of draws of one query given one observation, (n,) float64.

    The divergence is exact. What twelve steps leave of the solver's error is nearly the same for all draws: fit for
    ratios of densities (tests/test_refine.py); take more where the number itself counts.

    Args:
        observed, query: tokens of one data set.
        z: (n, len(query)) whitened values.
        log_min: as in the sampler that drew: draws of quality "exact" are blurred by exp(−6.9), and a density that is
            blurred more would make weights too narrow.
        max_tokens: draws × latents in one network call; bounds memory.
        edges: (n_ids, n_ids) bool, the data set's own dependency mask beside the denoiser's; None = no such mask.
    """
    row = collate([join(observed, query)])
    row = row if edges is None else row.replace(edges=edges[None])
    streams = split(row, n_active_observed).to(denoiser.device)
    with torch.no_grad():
        encoded = denoiser.encode(streams)
    latent = streams.active.latent[0]
    out = torch.zeros(len(z), dtype=torch.float64)
    size = max(1, max_tokens // max(1, len(latent)))
    for start in range(0, len(z), size):
        part = z[start : start + size].to(denoiser.device, torch.float32)
        x = torch.zeros(1, len(part), len(latent), device=denoiser.device)
        x[0][:, latent] = part
        out[start : start + size] = log_prob(denoiser, encoded, x, n_steps=n_steps, log_min=log_min)[0].double().cpu()
    return out
