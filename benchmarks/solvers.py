"""Simulations a second of the two simulators that solve equations, beside SciPy and diffrax on the same core.

Rows of `lotka_volterra` and `sird` at draws of their priors, all grid points saved. Ours: all rows in a batch, drawing
parameters and contact rates included. SciPy: `solve_ivp` (RK45, rtol 1e-6, atol 1e-9) row by row, as a script does.
diffrax: Tsit5 with the same tolerances, compiled and vmapped over all rows; compilation is not counted. Both peers get
the parameters, and a contact rate that is interpolated between the nodes of our solver. "error": largest difference to
SciPy's DOP853 (rtol 1e-12, atol 1e-14) over grid and `N_CHECK` rows, relative to the largest value of its path.

    pip install -r benchmarks/requirements-jax.txt        # in an environment of its own
    PEERS_JAX_PYTHON=.venv-jax/bin/python python benchmarks/solvers.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peers import ONE_THREAD
from record import ROOT, save
from scipy.integrate import solve_ivp

from fsimformer.simulators import SIRD, LotkaVolterra
from fsimformer.simulators.protocol import draw_priors

Array = NDArray[np.float64]
N, N_SCIPY, N_CHECK, REPEATS = 8_192, 200, 20, 3
RTOL, ATOL = 1e-6, 1e-9


def problem(task: str, n: int) -> dict[str, Array]:
    """Parameters (n, ...), the grid, and what our simulator makes of them (n, series, grid)."""
    generator = torch.Generator().manual_seed(0)
    if task == "lotka_volterra":
        lv = LotkaVolterra(reference=())
        draws = draw_priors(lv.schema, n, generator)
        found = lv.clean(draws)
        series, extra = ("prey", "predator"), {"start": np.array([lv.prey_initial, lv.predator_initial])}
        grid = lv.grid["time"].numpy()
    else:
        sird = SIRD(reference=())
        draws = draw_priors(sird.schema, n, generator)
        weights_from = generator.get_state()
        found = sird.simulate_at(draws, generator)
        generator.set_state(weights_from)
        weights = torch.randn(n, sird.gp_factor.shape[1], generator=generator, dtype=torch.float64)
        nodes = torch.linspace(0, sird.horizon, len(sird.gp_factor), dtype=torch.float64)
        extra = {"contact": torch.sigmoid(weights @ sird.gp_factor.T).numpy(), "nodes": nodes.numpy()}
        series, grid = ("infected", "recovered", "deaths"), sird.grid["time"].numpy()
    ours = np.stack([found[k].double().numpy() for k in series], 1)
    return {**{k: x.numpy() for k, x in draws.items() if x.ndim == 1}, **extra, "grid": grid, "ours": ours}


def scipy_rows(task: str, p: dict[str, Array], rows: range, **how: Any) -> Array:
    """(rows, series, grid) by `solve_ivp`, in natural units."""
    out = []
    for i in rows:
        if task == "lotka_volterra":
            a, b, c, d = (p[k][i] for k in ("alpha", "beta", "gamma", "delta"))
            field: Callable[..., Any] = lambda t, y: (a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1])  # noqa: B023, E731
            start = p["start"]
        else:
            c, d, contact = p["recovery_rate"][i], p["death_rate"][i], p["contact"][i]

            def field(t: float, y: Array) -> Any:
                new = np.interp(t, p["nodes"], contact) * y[0] * y[1]  # noqa: B023
                return (-new, new - (c + d) * y[1], c * y[1], d * y[1])  # noqa: B023

            start = np.array([1.0, p["initial_infected"][i], 0.0, 0.0])
        found = solve_ivp(field, (p["grid"][0], p["grid"][-1]), start, t_eval=p["grid"], **how)
        out.append(found.y if task == "lotka_volterra" else found.y[1:])
    return np.stack(out)


def ours(task: str) -> dict[str, float]:
    """The best of some runs of N simulations."""
    simulator, seconds = (LotkaVolterra if task == "lotka_volterra" else SIRD)(reference=()), []
    for seed in range(REPEATS):
        start = time.process_time()
        simulator.simulate(N, torch.Generator().manual_seed(seed))
        seconds.append(time.process_time() - start)
    return {"n": N, "per_second": N / min(seconds)}


def diffrax(task: str, p: dict[str, Array], python: str) -> tuple[dict[str, Any], Array]:
    """What solvers_diffrax.py finds in its own environment."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "given.npz", Path(folder) / "found.npz"
        np.savez(given, **{k: x for k, x in p.items() if k != "ours"})
        script = ROOT / "benchmarks" / "solvers_diffrax.py"
        command = [python, script, task, given, found, str(RTOL), str(ATOL), str(REPEATS), str(N_CHECK)]
        done = subprocess.run(
            list(map(str, command)), env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout), np.load(found)["y"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jax-python", default=os.environ.get("PEERS_JAX_PYTHON"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task in ("lotka_volterra", "sird"):
        p = problem(task, N)
        exact = scipy_rows(task, p, range(N_CHECK), method="DOP853", rtol=1e-12, atol=1e-14)
        scale = np.abs(exact).max(-1, keepdims=True)
        start = time.process_time()
        found = scipy_rows(task, p, range(N_SCIPY), method="RK45", rtol=RTOL, atol=ATOL)
        each = [
            ("fsimformer", ours(task), p["ours"][:N_CHECK]),
            ("SciPy", {"n": N_SCIPY, "per_second": N_SCIPY / (time.process_time() - start)}, found[:N_CHECK]),
        ]
        if args.jax_python:
            each.append(("diffrax", *diffrax(task, p, args.jax_python)))
        for solver, figures, paths in each:
            error = float((np.abs(paths - exact) / scale).max())
            rows.append({"task": task, "solver": solver, **figures, "error": error})
            print(rows[-1], flush=True)
    note = "" if args.jax_python else "diffrax was not asked: no --jax-python"
    print(save("solvers", 0, {"n": N, "rtol": RTOL, "atol": ATOL, "rows": rows, "note": note}))


if __name__ == "__main__":
    main()
