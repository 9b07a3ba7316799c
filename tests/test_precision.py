"""bfloat16 in the products, float32 elsewhere: near float32, never NaN, refused where digits are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from random_network import random_network
from tiny import seeded

import fsimformer as fsf
from fsimformer.precision import precision_named
from fsimformer.simulators import hudson_bay, two_moons

USES = ((False,), (True,), (True,))


@pytest.mark.parametrize("n_f", [0, 7, 260])  # none, copied, merged
@pytest.mark.parametrize("r", [1, 3])
@pytest.mark.parametrize("n", [3, 18])
@pytest.mark.parametrize("padded", [False, True])
def test_every_way_through_the_network_is_near_float32(n_f: int, r: int, n: int, padded: bool) -> None:
    """The root mean square of the difference is a hundredth of the output's, as products of 8 bits have it."""
    net, g = random_network(USES, 64, 0.05), seeded(1)
    variable = torch.randint(0, 3, (2, n_f + n), generator=g)
    index = torch.rand(2, n_f + n, 1, generator=g) * 2 - 1
    known = torch.randn(2, n_f, generator=g)
    value, level = torch.randn(2, r, n, generator=g), torch.randn(2, r, generator=g)
    frozen, active = torch.ones(2, n_f, dtype=torch.bool), torch.ones(2, n, dtype=torch.bool)
    if padded:
        active[1, 2:] = False
        frozen[1, 5:] = False
    found = []
    for precision in ("float32", "bfloat16"):
        net.precision = precision_named(precision)
        with torch.no_grad():
            context = net.encode(variable[:, :n_f], index[:, :n_f], known, frozen)
            observed = torch.zeros(2, n, dtype=torch.bool)
            out = net.decode(variable[:, n_f:], index[:, n_f:], observed, value, level, context, active, frozen)
        assert out.dtype == torch.float32
        found.append(out.movedim(1, 2)[active])
    exact, lower = found
    error = float((exact - lower).square().mean().sqrt() / exact.square().mean().sqrt())
    assert 1e-5 < error < 0.02  # it is lower indeed


def test_draws_of_a_shipped_model_agree_to_hundredths_of_their_sd() -> None:
    """The same noise in both: whatever differs is precision."""
    joint, draws = fsf.load("hare_lynx"), []
    for precision in ("float32", "bfloat16"):
        tree = joint.to("cpu", precision).condition(hudson_bay(), judge=False).sample(200, {}, seed=2, quality="fast")
        draws.append({k: v.to_numpy().ravel() for k, v in tree["posterior"].data_vars.items()})
    exact, lower = draws
    for name, x in exact.items():
        assert abs((lower[name] - x).mean()) < 0.05 * x.std()
        assert abs(lower[name].std() / x.std() - 1) < 0.03
        assert np.abs(lower[name] - x).max() > 0


def test_a_joint_is_copied_and_the_flow_map_with_it() -> None:
    joint = fsf.load("lotka_volterra")
    assert joint.to("cpu", "bfloat16").model.denoiser.lower and not joint.model.denoiser.lower
    assert not joint.to("cpu", "bfloat16").to("cpu").model.denoiser.lower


def test_training_in_bfloat16_learns_the_same_and_gives_a_float32_joint() -> None:
    """Equal rows, masks and noise: after 60 steps validation losses agree to a hundredth, weights not to a bit."""
    config = fsf.TrainConfig(steps=60, batch_size=64, n_validation=200, validate_every=60, warmup=10)
    options = {"simulations": 2_000, "config": config, "network": fsf.NetworkConfig(width=32, depth=2, n_heads=2)}
    exact, lower = (fsf.train(two_moons(), precision=p, **options) for p in ("float32", "bfloat16"))  # type: ignore[arg-type]
    a, b = (j.provenance["best_validation_loss"] for j in (exact, lower))
    assert a < 0.95 and b == pytest.approx(a, abs=0.01) and a != b
    assert (exact.provenance.get("precision"), lower.provenance["precision"]) == (None, "bfloat16")
    assert not lower.model.denoiser.lower
    assert all(p.dtype == torch.float32 for p in lower.model.denoiser.parameters())


def test_densities_need_float32_and_other_names_are_refused() -> None:
    joint = fsf.load("lotka_volterra").to("cpu", "bfloat16")
    observed = xr.Dataset({"prey": ("time", [1.0, 1.2])}, {"time": [0.0, 1.0]})
    at = {name: 2.0 for name in ("alpha", "beta", "gamma", "delta")}
    with pytest.raises(ValueError, match="log densities need the precision 'float32', this Joint has 'bfloat16'"):
        joint.condition(observed, judge=False).log_prob(xr.Dataset(at))
    message = r"precision: expected one of \['bfloat16', 'float32'\], got 'float16'"
    with pytest.raises(ValueError, match=message):
        joint.to("cpu", "float16")
    with pytest.raises(ValueError, match=message):
        fsf.train(two_moons(), simulations=200, precision="float16")
