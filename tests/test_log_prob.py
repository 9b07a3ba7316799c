"""`log_prob` of several latents: vectors, functions on dates, riders among them, whatever the size of the calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from tiny import joint, token_set
from torch import Tensor
from torch.distributions import MultivariateNormal

from fsimformer.denoise import Encoded
from fsimformer.likelihood import query_log_prob
from fsimformer.nn import Context
from fsimformer.tokens import Dial, Streams

DAYS = pd.date_range("2021-03-01", periods=4, freq="D")


@dataclass
class ByPlace:
    """x̂ of independent latents x_i ~ N(i-th index, sd²): tells whether values and tokens stay together."""

    sd: float = 0.5
    device: str = "cpu"
    lower: bool = False

    def encode(self, streams: Streams) -> Encoded:
        return Encoded(streams, Context((), ()), streams.active.valid, streams.frozen.valid)

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Encoded) -> Tensor:
        mean = encoded.active.index[:, None, :, 0]
        gain = self.sd**2 / (self.sd**2 + ratio[..., None] ** 2)
        observed = encoded.active.condition_mask[:, None]
        return torch.where(observed, encoded.active.value[:, None], mean + gain * (y - mean))


@pytest.mark.parametrize("dial", [0, 2, None, "few"])
@pytest.mark.parametrize("max_tokens", [1, 4096])
def test_values_and_tokens_stay_together(dial: Dial, max_tokens: int) -> None:
    """Riders stand among the latents; draws come in chunks; the exact density knows neither."""
    observed = token_set([3, 3, 3], [0.5, -0.5, 0.9], [9.0, 9.0, 9.0], observed=True)
    query = token_set([0, 3, 3], [0.0, -0.7, 0.8], [0.0] * 3, observed=False)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)) * 0.5 + query.index[:, 0]
    got = query_log_prob(cast(Any, ByPlace()), observed, query, z, dial, n_steps=64, max_tokens=max_tokens)
    exact = MultivariateNormal(query.index[:, 0], 0.25 * torch.eye(3)).log_prob(z)
    torch.testing.assert_close(got.float(), exact, rtol=0, atol=0.05)  # a swap of two values costs 5 nats


def observation() -> xr.Dataset:
    return xr.Dataset({"y": ("time", [1.0, np.nan, 2.0, 0.7])}, {"time": DAYS})


def test_scalars_vectors_and_functions_on_dates_have_one_joint_density() -> None:
    """Σ log |dx/dz| over unlike transforms; the density of z is the flow's own."""
    posterior = joint().condition(observation())
    at = {"rate": DAYS[1:] + pd.Timedelta(hours=6)}
    draws = posterior.sample(6, at)
    got = posterior.log_prob(draws)
    group = draws["posterior"].to_dataset()
    whitening = joint().model.whitening
    log_det = torch.zeros(6, dtype=torch.float64)
    for name in ("a", "w", "rate"):
        x = torch.from_numpy(group[name].transpose("chain", "draw", ...).to_numpy().reshape(6, -1))
        step = 1e-6 * x.abs().clamp(min=1e-3)
        slope = (whitening[name].forward(x + step) - whitening[name].forward(x - step)) / (2 * step)
        log_det -= slope.log().sum(1)
    z = np.concatenate([whitening[k].forward(torch.from_numpy(group[k].transpose("chain", "draw", ...).to_numpy()
                        .reshape(6, -1))).numpy() for k in ("a", "w", "rate")], 1)  # fmt: skip
    tokens = token_set([0, 1, 2, 3, 3, 3], [0, 0, 0, -0.875, -0.775, -0.675], [0.0] * 6, observed=False)
    seen = token_set([4, 4, 4], [-1.0, -0.8, -0.7], [0.0] * 3, observed=True)
    y = torch.tensor([1.0, 2.0, 0.7], dtype=torch.float64)
    seen.value[:] = whitening["y"].forward(y).float()
    density = query_log_prob(joint().model.denoiser, seen, tokens, torch.from_numpy(z), 2, n_steps=96)
    np.testing.assert_allclose(got.to_numpy().reshape(-1), (density - log_det).numpy(), atol=0.02 * 6)


def test_the_order_of_dims_in_the_tree_changes_nothing() -> None:
    posterior = joint().condition(observation())
    draws = posterior.sample(6, {"rate": DAYS})
    turned = xr.DataTree.from_dict({"/posterior": draws["posterior"].to_dataset().transpose(..., "draw", "chain")})
    xr.testing.assert_allclose(posterior.log_prob(turned), posterior.log_prob(draws))


def test_what_is_drawn_in_stages_has_a_density_in_blocks_and_the_prior_has_one_too() -> None:
    posterior = joint(max_latents=5).condition(observation())
    found = posterior.log_prob(posterior.sample(4, {"rate": DAYS}))
    assert found.attrs["n_values"] == 7 and found.attrs["n_blocks"] == 2
    few = joint().condition(None).sample(4, at={})
    xr.testing.assert_allclose(joint().log_prob(few["prior"].to_dataset()), joint().condition(None).log_prob(few))
