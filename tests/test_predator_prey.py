"""The stochastic predator–prey process steps as its equations say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fsimformer.priors import Uniform
from fsimformer.simulators import PredatorPrey, check
from fsimformer.simulators.lotka_volterra import log_field
from fsimformer.simulators.predator_prey import euler_maruyama
from fsimformer.simulators.protocol import check_conditional
from fsimformer.simulators.solver import solve


def parameters(n: int, **changes: float) -> dict[str, torch.Tensor]:
    values = {"alpha": 0.5, "beta": 0.06, "delta": 1.0, "gamma": 0.05, "sigma": 0.0, "scale": 1.0} | changes
    return {k: torch.full((n,), v, dtype=torch.float64) for k, v in values.items()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


START = torch.tensor([[30.0], [10.0]], dtype=torch.float64)


def test_without_noise_it_tends_to_the_differential_equation_with_order_one() -> None:
    field = log_field(*(torch.tensor([v], dtype=torch.float64) for v in (0.5, 0.06, 1.0, 0.05)))
    exact = solve(field, START.log(), torch.linspace(0, 8, 81, dtype=torch.float64), 20)[-1].exp()
    errors = [
        float((euler_maruyama(parameters(1), START, n, 8 / n, generator())[-1] / exact - 1).abs().max())
        for n in (2_000, 4_000, 8_000)
    ]
    assert errors[-1] < 0.01
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(2, rel=0.05)


def test_one_step_has_the_drift_and_the_independent_diffusion_of_the_equations() -> None:
    n, dt, sigma = 400_000, 0.022, 4.0
    z = euler_maruyama(parameters(n, sigma=sigma), START.expand(2, n), 1, dt, generator())
    change = z[1] - START
    drift = torch.tensor([30 * (0.5 - 0.06 * 10), 10 * (-1.0 + 0.05 * 30)], dtype=torch.float64) * dt
    variance = sigma**2 * START[:, 0] ** (1 / 3) * dt
    assert ((change.mean(1) - drift).abs() < 4 * (variance / n).sqrt()).all()
    assert ((change.var(1) / variance - 1).abs() < 4 * math.sqrt(2 / n)).all()
    assert abs(float(torch.corrcoef(change)[0, 1])) < 4 / math.sqrt(n)


def test_the_mean_of_lone_prey_grows_as_that_of_the_linear_scheme() -> None:
    n, steps, dt = 20_000, 200, 0.022  # the noise is a martingale: E X_k = X_0 (1 + α dt)^k while nothing is reflected
    lone = parameters(n, beta=0.0, gamma=0.0, sigma=1.0)
    z = euler_maruyama(lone, torch.full((2, n), 500.0), steps, dt, generator())
    for x, rate in zip(z[-1], (0.5, -1.0), strict=True):
        assert abs(float(x.mean()) - 500 * (1 + rate * dt) ** steps) < 4 * float(x.std()) / math.sqrt(n)


def test_what_would_be_negative_is_reflected() -> None:
    n, dt, x = 200_000, 0.022, 1e-9
    z = euler_maruyama(parameters(n, sigma=10.0), torch.full((2, n), x), 1, dt, generator())[1]
    sd = 10 * x ** (1 / 6) * math.sqrt(dt)
    assert (z >= 0).all()
    assert z.mean().item() == pytest.approx(sd * math.sqrt(2 / math.pi), rel=0.01)  # a half-normal
    assert z.square().mean().item() == pytest.approx(sd**2, rel=0.01)


def test_the_scale_multiplies_both_series_and_nothing_else() -> None:
    simulator = PredatorPrey(duration=2.0)
    one, five = (simulator.simulate_at(parameters(3, sigma=2.0, scale=s), generator()) for s in (1.0, 5.0))
    for name in ("prey", "predator"):
        torch.testing.assert_close(five[name], 5 * one[name])


def test_it_is_a_simulator_of_its_schema_on_whole_steps() -> None:
    simulator = PredatorPrey()
    time = simulator.grid["time"]
    assert len(time) == 4_547 and time[-1] >= 100 and float(time[1]) == pytest.approx(0.022)
    short = PredatorPrey(duration=5.0)
    check(short)
    check_conditional(short)
    draws = short.simulate(500, generator())
    assert all((draws[k] > 0).all() for k in ("prey", "predator"))


def test_impossible_times_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        PredatorPrey(step=0.0)
    with pytest.raises(ValueError, match="positive initial"):
        PredatorPrey(initial=Uniform(-1.0, 1.0))
    with pytest.raises(ValueError, match="positive initial"):  # 0 is a fixed point: without prey, none for ever
        PredatorPrey(initial=Uniform(0.0, 1.0))
