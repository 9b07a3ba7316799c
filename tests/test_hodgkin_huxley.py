"""The neuron against SciPy's solver, and its features against its own voltage."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import kurtosis, skew

from fsimformer.simulators import HodgkinHuxley, check
from fsimformer.simulators.hodgkin_huxley import rates

PARAMETERS = {
    "capacitance": 1.4,
    "g_na": 90.0,
    "g_k": 20.0,
    "g_leak": 0.25,
    "e_na": 55.0,
    "e_k": -85.0,
    "e_leak": -70.0,
}


def rows(**changes: list[float]) -> dict[str, torch.Tensor]:
    n = max((len(v) for v in changes.values()), default=1)
    out = {k: torch.full((n,), v, dtype=torch.float64) for k, v in PARAMETERS.items()}
    return out | {k: torch.tensor(v, dtype=torch.float64) for k, v in changes.items()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_without_noise_it_is_the_ode() -> None:
    """Voltage before the first spikes, and their number, against LSODA at tight tolerances."""
    p = PARAMETERS

    def field(t: float, y: np.ndarray) -> list[float]:
        v, m, h, n = y
        both = [(float(a), float(b)) for a, b in rates(torch.tensor(v, dtype=torch.float64))]
        out = (
            p["g_na"] * m**3 * h * (v - p["e_na"]) + p["g_k"] * n**4 * (v - p["e_k"]) + p["g_leak"] * (v - p["e_leak"])
        )
        current = 4.0 if 50 <= t < 150 else 0.0
        return [(current - out) / p["capacitance"], *(a * (1 - x) - b * x for x, (a, b) in zip((m, h, n), both))]

    start = [-65.0, *(float(a / (a + b)) for a, b in rates(torch.tensor(-65.0, dtype=torch.float64)))]
    at = np.arange(5_000) * 0.04
    exact = solve_ivp(field, (0, 200), start, "LSODA", at, rtol=1e-8, atol=1e-8, max_step=0.5).y[0]
    t, v = HodgkinHuxley(noise=0.0).voltage(rows(), generator())
    assert t.shape == (5_000,) and v.shape == (1, 5_000)
    quiet = np.flatnonzero(exact > -50)[0]  # spikes are steep: a shift of a step's length is tens of millivolts
    assert quiet > 1_250
    np.testing.assert_allclose(v[0, : quiet - 25], exact[: quiet - 25], atol=0.3)
    ours = v[0].numpy()
    assert ((ours[:-1] < -10) & (ours[1:] >= -10)).sum() == ((exact[:-1] < -10) & (exact[1:] >= -10)).sum() > 3


def test_features_are_those_of_the_voltage() -> None:
    simulator, given = HodgkinHuxley(), rows(g_leak=[0.15, 0.4], e_leak=[-65.0, -80.0])
    found = simulator.simulate_at(given, generator())
    t, v = simulator.voltage(given, generator())  # equal seeds: the same noise
    v, rest, on = v.numpy(), (t < 50).numpy(), ((t >= 50) & (t < 150)).numpy()
    expected = {
        "spikes": ((v[:, :-1] < -10) & (v[:, 1:] >= -10)).sum(1),
        "rest_mean": v[:, rest].mean(1),
        "rest_sd": v[:, rest].std(1),
        "mean": v[:, on].mean(1),
        "variance": v[:, on].var(1),
        "skewness": skew(v[:, on], axis=1),
        "kurtosis": kurtosis(v[:, on], axis=1, fisher=False),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6)
    assert float(found["spikes"][0]) > 3 and float(found["energy"][0]) > 100 * float(found["energy"][1])


def test_it_is_a_simulator_and_rows_are_independent_draws() -> None:
    check(HodgkinHuxley())
    draws = HodgkinHuxley().simulate(100, generator())
    assert all(bool(x.isfinite().all()) and x.shape == (100,) for x in draws.values())
    assert 0.2 < float((draws["spikes"] == 0).double().mean()) < 0.7
    assert bool((draws["kurtosis"] >= 1 + draws["skewness"] ** 2 - 1e-6).all())  # Pearson's inequality


def test_priors_must_be_all_seven() -> None:
    with pytest.raises(ValueError, match="priors: expected one for each of"):
        HodgkinHuxley(priors={})
