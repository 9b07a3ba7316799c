"""The boarding-school outbreak: the SIR model against what is conserved, and its reference by two methods."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.stats import lognorm

import fsimformer as fsf
from fsimformer.simulators import Influenza, boarding_school, check

REFERENCES = Path(__file__).parents[1] / "benchmarks" / "references"


def test_the_outbreak_is_the_table() -> None:
    data = boarding_school()
    assert data["in_bed"].to_numpy().tolist() == [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]
    assert (
        str(data["time"].to_numpy()[0])[:10] == "1978-01-22" and str(data["time"].to_numpy()[-1])[:10] == "1978-02-04"
    )


def test_paths_conserve_what_a_sir_conserves_and_start_where_they_should() -> None:
    """s + i − log(s)/(βτ) never changes, however wild the parameters; i(0) = I₀/N."""
    simulator = Influenza()
    check(simulator)
    draws = simulator.simulate(500, torch.Generator().manual_seed(0))
    p = torch.stack([draws[k] for k in ("contact_rate", "infectious_period", "log_initial_infected")])
    log_s, log_i = simulator.solve_log(p).unbind(1)  # (T, n)
    kept = log_s.exp() + log_i.exp() - log_s / (p[0] * p[1])
    assert float(((kept - kept[0]).abs() * (p[0] * p[1]).clamp(max=1.0)).max()) < 1e-4
    torch.testing.assert_close(draws["in_bed"][:, 0], draws["log_initial_infected"].exp().float())
    assert float(draws["in_bed"].max()) <= 763 and float(draws["in_bed"].min()) > 0


def test_a_path_is_that_of_scipy() -> None:
    simulator = Influenza()
    given = {"contact_rate": 1.9, "infectious_period": 1.75, "log_initial_infected": 0.8}
    at = simulator.grid["time"].numpy()
    start = math.exp(0.8) / 763
    exact = solve_ivp(
        lambda _, y: [-1.9 * y[0] * y[1], 1.9 * y[0] * y[1] - y[1] / 1.75], (0, 20), [1 - start, start], "DOP853", at,
        rtol=1e-12, atol=1e-14,
    ).y[1]  # fmt: skip
    path = simulator.clean({k: torch.tensor([v], dtype=torch.float64) for k, v in given.items()})["in_bed"][0]
    np.testing.assert_allclose(path.numpy(), 763 * exact, rtol=2e-5)


def test_priors_are_those_that_are_stated() -> None:
    draws = Influenza().simulate(20_000, torch.Generator().manual_seed(1))
    assert float(draws["contact_rate"].median()) == pytest.approx(1.7, rel=0.02)
    assert float(draws["infectious_period"].log().std()) == pytest.approx(0.5, rel=0.02)
    start = draws["log_initial_infected"]
    assert float(start.min()) > 0 and float(start.max()) < math.log(10)
    assert float(start.mean()) == pytest.approx(math.log(10) / 2, abs=0.02)


def test_likelihood_of_the_outbreak_by_hand() -> None:
    """Log-normal readings at the days after 22 January, dates read from the data."""
    simulator, data = Influenza(), boarding_school()
    given = {"contact_rate": 1.9, "infectious_period": 1.75, "log_initial_infected": 0.8, "noise": 0.4}
    draws = xr.Dataset({k: (("chain", "draw"), np.full((2, 1), v)) for k, v in given.items()})
    path = simulator.clean({k: torch.tensor([v], dtype=torch.float64) for k, v in given.items()})["in_bed"][0]
    days = path[:140:10].double().numpy()
    exact = lognorm.logpdf(data["in_bed"].to_numpy(), 0.4, scale=days).sum()
    np.testing.assert_allclose(fsf.log_likelihood(simulator, data)(draws), exact, rtol=0, atol=1e-4)


def test_the_reference_is_one_posterior_by_two_methods() -> None:
    """Means within .02 sd and sds within 2 %, errors of both within; draws are those that were compared."""
    about, draws = json.loads((REFERENCES / "influenza.json").read_text()), np.load(REFERENCES / "influenza.npz")
    assert len(about["agreement"]) == 2 and max(about["path_error_of_logs"].values()) < 1e-4
    assert about["log_density_gap"] < 1e-3 and max(about["metropolis"]["rhat"].values()) < 1.01
    for run in about["agreement"]:
        assert set(run["table"]) == set(draws.files)
        for name, row in run["table"].items():
            assert abs(row["mean_gap_in_sd"]) < min(0.02, 4 * row["mean_gap_error"]), name
            assert abs(row["sd_ratio"] - 1) < min(0.02, 4 * row["sd_ratio_error"]), name
    for name, row in about["agreement"][0]["table"].items():
        assert abs(draws[name].mean() - row["mean"]) < 4 * row["sd"] / len(draws[name]) ** 0.5 * 1.5
