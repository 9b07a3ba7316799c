"""Log densities by the flow ODE against a closed form: a correlated Gaussian has an exact denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from fsimformer.likelihood import log_prob


@dataclass
class GaussianDenoiser:
    """x̂ = m + S (S + λ² I)⁻¹ (y − m) for x ~ N(m, S) at the latents; observed tokens keep their value."""

    mean: Tensor
    covariance: Tensor
    latent: Tensor
    lower: bool = False

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Any) -> Tensor:
        out = y.clone()
        eye = torch.eye(len(self.mean), dtype=y.dtype)
        inverse = torch.linalg.inv(self.covariance + ratio[..., None, None] ** 2 * eye)  # (B, R, d, d)
        gain = self.covariance @ inverse
        out[..., self.latent] = self.mean + (gain @ (y[..., self.latent] - self.mean)[..., None])[..., 0]
        return out


@pytest.fixture
def problem() -> tuple[GaussianDenoiser, Any, Tensor, Tensor]:
    latent = torch.tensor([True, False, True, True])  # one observed token rides along
    mean = torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64)
    root = torch.tensor([[0.6, 0, 0], [0.4, 0.3, 0], [-0.2, 0.1, 0.5]], dtype=torch.float64)
    covariance = root @ root.T
    x = torch.zeros(1, 7, 4, dtype=torch.float64)
    z = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[0][:, latent] = mean + z @ root.T
    x[..., 1] = 17.0  # must be ignored
    encoded = SimpleNamespace(active=SimpleNamespace(latent=latent[None]))
    exact = MultivariateNormal(mean, covariance).log_prob(x[0][:, latent])
    return GaussianDenoiser(mean, covariance, latent), encoded, x, exact


def test_exact_divergence_gives_the_closed_form(problem: Any) -> None:
    denoiser, encoded, x, exact = problem
    got = log_prob(cast(Any, denoiser), encoded, x, n_steps=160, log_min=-6.0, log_max=7.0)
    assert (got[0] - exact).abs().max() < 0.01


def test_midpoint_steps_converge_at_order_two(problem: Any) -> None:
    denoiser, encoded, x, _ = problem
    value = {n: log_prob(cast(Any, denoiser), encoded, x, n_steps=n)[0] for n in (16, 32, 64, 256)}
    errors = [float((value[n] - value[256]).abs().max()) for n in (16, 32, 64)]
    assert 3.0 < errors[0] / errors[1] < 5.5 and 3.0 < errors[1] / errors[2] < 5.5


def test_hutchinson_is_unbiased_over_all_probes(problem: Any) -> None:
    denoiser, encoded, x, _ = problem
    exact = log_prob(cast(Any, denoiser), encoded, x, n_steps=16)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 4)  # every ±1 probe once
    estimates = torch.stack(
        [log_prob(cast(Any, denoiser), encoded, x, probe=s.expand_as(x), n_steps=16) for s in signs]
    )
    assert torch.allclose(estimates.mean(0), exact, atol=1e-8)
    assert float(estimates.std(0).max()) > 1e-3  # a single probe does differ
