"""Draws in few evaluations through the face, with an exact flow map: under constraints, extended, stored, named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from gp_network import exact_joint
from scipy.stats import truncnorm
from test_constrained import linear
from tiny import joint as tiny_joint
from tiny import randomise
from torch import Tensor

import fsimformer as fsf
from fsimformer.denoise import Denoiser, Encoded
from fsimformer.distill import with_jumps
from fsimformer.joint import Joint
from fsimformer.request import Request
from fsimformer.sample import History, SamplerConfig, advance

SEEN = xr.Dataset({"x": ("time", [1.0, -0.5])}, {"time": [2.0, 6.0]})
AT = np.array([4.0])


class Solved(Denoiser):
    """A flow map that is none: every jump is solved in 8 steps of third order with the denoiser it is made of."""

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Encoded, target: Tensor | None = None) -> Tensor:
        if target is None:
            return super().at_ratio(y, ratio, encoded)
        ends = ratio[0, 0].log().double(), target[0, 0].log().double()
        log_ratio, z, history = ends[0] + torch.linspace(0, 1, 9).double() * (ends[1] - ends[0]), y, History()
        for i in range(8):
            x_hat = super().at_ratio(z, log_ratio[i].exp().float().expand(ratio.shape), encoded)
            z, history = advance(z, x_hat, history, log_ratio, i, 1.0, 3)
            z = z.float()
        left = (target / ratio)[..., None]
        return (z - left * y) / (1 - left)


def exact() -> Joint:
    joint = exact_joint()
    teacher = joint.model.denoiser
    teacher.flow_map = Solved(teacher.network, dependency=teacher.dependency)
    return joint


def distilled(seed: int = 1) -> Joint:
    """Random weights, in the flow map others."""
    joint = tiny_joint()
    flow_map = with_jumps(joint.model.denoiser)
    randomise(flow_map, seed, gain=0.7)
    joint.model.denoiser.flow_map = flow_map.eval()
    return joint


@pytest.mark.parametrize("method", ["rejection", "smc", "guidance"])
def test_constraints_hold_and_smc_and_guidance_take_the_sde(method: str) -> None:
    """The law is the truncated normal; what solved is said."""
    mean, sd = linear(AT, np.ones(1))
    low, high = (0.5, 2.0) if method == "rejection" else (2.2, 3.5)
    between = fsf.Between("f", mean + low * sd, mean + high * sd, at=AT)
    c, n = exact().condition(SEEN).constrain(between, method=method), 200
    draws = c.sample(n, {"f": AT}, seed=1, quality="few")
    stats, u = draws["sample_stats"].to_dataset(), (draws["posterior"]["f"].to_numpy().ravel() - mean) / sd
    solver = {"rejection": ("flow_map", 4), "smc": ("sde_3m", 32), "guidance": ("sde_3m", 96)}
    assert (str(stats["sampler"].item()), int(stats["evaluations"])) == solver[method]
    assert u.min() > low - 1e-6 and u.max() < high + 1e-6
    law, n_effective = truncnorm(low, high), n if method == "guidance" else float(stats["ess"])
    assert abs(u.mean() - law.mean()) < (0.15 if method == "guidance" else 4 * law.std() / n_effective**0.5)
    if method != "guidance":
        exactly = math.log(truncnorm(-np.inf, np.inf).cdf(high) - truncnorm(-np.inf, np.inf).cdf(low))
        error = (1 / n - float(stats["acceptance"]) / n) ** 0.5 if method == "rejection" else 0.15
        assert abs(float(stats["constraint_log_prob"]) - exactly) < 4 * error


def test_a_rare_event_falls_to_smc_from_a_flow_map_too() -> None:
    mean, sd = linear(AT, np.ones(1))
    c = exact().condition(SEEN).constrain(fsf.Between("f", lower=mean + 3.72 * sd, at=AT))
    stats = c.sample(200, {"f": AT}, quality="few")["sample_stats"].to_dataset()
    assert (str(stats["method"].item()), str(stats["sampler"].item())) == ("smc", "sde_3m")
    assert abs(float(stats["constraint_log_prob"]) - math.log(1e-4)) < 0.5


def test_what_solved_is_said_of_every_data_set_alone() -> None:
    batch = xr.Dataset({"x": (("region", "time"), [[1.0, -0.5], [3.0, 2.0]])}, {"time": [2.0, 6.0]})
    c = exact().condition(batch, batch_dim="region").constrain(fsf.Between("f", lower=5.5, at=AT))
    stats = c.sample(10, {"f": AT}, quality="few")["sample_stats"]
    said = {k: stats[k].values.tolist() for k in ("method", "sampler", "evaluations")}
    assert said == {"method": ["smc", "rejection"], "sampler": ["sde_3m", "flow_map"], "evaluations": [32, 4]}


def test_a_distilled_joint_goes_on_with_draws_from_before_and_names_who_drew() -> None:
    """Functions between knots, densities and weights are the network's own, whoever drew the knots."""
    before, joint, at = exact_joint(), exact(), {"f": np.linspace(0, 10, 5)}
    old = before.condition(SEEN).sample(10, {"f": AT})
    few = joint.condition(SEEN).sample(10, {"f": AT}, quality="few")
    assert old.attrs == joint.condition(SEEN).sample(10, {"f": AT}).attrs == {"network": before.model.fingerprint}
    assert few.attrs == old.attrs | {"flow_map": joint.model.flow_map_fingerprint}
    for draws in (old, few):
        a, b = (j.condition(SEEN).extend(draws, at)["posterior"]["f"] for j in (before, joint))
        xr.testing.assert_identical(a, b)


def test_requests_and_stores_tell_flow_maps_apart(tmp_path: Path) -> None:
    a, b = distilled(1), distilled(2)
    batch = xr.Dataset({"y": (("site", "time"), [[1.0, 2.0], [0.5, 1.0]])}, {"time": [3.0, 9.0]})
    many = [j.condition(batch, batch_dim="site") for j in (a, b)]

    def asked(quality: str | SamplerConfig) -> list[dict[str, object]]:
        return [Request.of(c.joint.model, c.observations, 4, None, 0, None, quality, 2, None).identity() for c in many]

    one, other = asked("few")
    assert one != other and replace(a.model).fingerprint == b.model.fingerprint
    assert asked("fast")[0] == asked("fast")[1] and "flow_map" not in asked("fast")[0]
    stored = many[0].sample_to(tmp_path / "d.zarr", 4, quality="few")
    assert stored.attrs["flow_map"] == a.model.flow_map_fingerprint
    np.testing.assert_allclose(stored["posterior/a"], many[0].sample(4, quality="few")["posterior/a"], rtol=2e-4)
    with pytest.raises(ValueError, match="another request|other"):
        many[1].sample_to(tmp_path / "d.zarr", 4, quality="few")


def test_what_was_not_distilled_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    batch = xr.Dataset({"y": (("site", "time"), [[1.0], [0.5]])}, {"time": [3.0]})
    c = tiny_joint().condition(batch, batch_dim="site")
    with pytest.raises(ValueError, match="this Joint was not distilled"):
        c.sample_to(tmp_path / "d.zarr", 4, quality="few")
    assert not list(tmp_path.iterdir())
