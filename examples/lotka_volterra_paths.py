"""Prey counted twelve times, with noise; predators never. What were the populations themselves?

`prey` is a reading with its measurement noise, `prey_path` the population beneath it: a function, of which every draw
can be evaluated anywhere, today or from the file. Asked for: the four rates, both populations, and what a thirteenth
count would be. Writes lotka_volterra_posterior.nc and lotka_volterra.png.

    python examples/lotka_volterra_paths.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer import plots

RATES = {"alpha": 1.6, "beta": 1.3, "gamma": 1.8, "delta": 1.4}
MODEL = fsf.simulators.LotkaVolterra()


def counts(rng: np.random.Generator) -> tuple[xr.Dataset, xr.Dataset]:
    """The true populations on the simulator's grid, and noisy counts of the prey at twelve times until 9."""
    rates = {k: torch.tensor([v], dtype=torch.float64) for k, v in RATES.items()}
    paths = {k: path[0].numpy() for k, path in MODEL.clean(rates).items()}
    truth = xr.Dataset({k: ("time", v) for k, v in paths.items()}, {"time": MODEL.grid["time"].numpy()})
    times = np.sort(rng.uniform(0, 9, 12))
    readings = np.interp(times, truth["time"], truth["prey"]) + MODEL.noise * rng.normal(size=12)
    return truth, xr.Dataset({"prey": ("time_prey", readings)}, {"time_prey": times})


def main(folder: Path) -> None:
    truth, observed = counts(np.random.default_rng(4))
    times = np.linspace(0, 12, 13)
    posterior = fsf.load("lotka_volterra").condition(observed)
    draws = posterior.sample(400, {"prey_path": times, "predator_path": times, "prey": [9.5]}, seed=0)

    print(f"{'rate':<8}{'truth':>6}{'median':>8}   90 % interval")
    quantiles = draws["posterior"].to_dataset()[list(RATES)].quantile([0.05, 0.5, 0.95], ("chain", "draw"))
    for name, (low, median, high) in quantiles.items():
        print(f"{name:<8}{RATES[name]:>6.2f}{median:>8.2f}   [{low:.2f}, {high:.2f}]")

    draws.to_netcdf(folder / "lotka_volterra_posterior.nc", engine="h5netcdf")
    # the same draws elsewhere: where a thirteenth count would be, and close enough together for a smooth curve
    fine = np.sort(np.append(np.linspace(0, 12, 61), 9.5))
    draws = posterior.extend(draws, {"prey_path": fine, "predator_path": fine})
    count, path = draws["predictions"]["prey"], draws["posterior"]["prey_path"].sel(time=9.5, method="nearest")
    print(f"at time 9.5 the prey have sd {float(path.std()):.2f}; a count of them {float(count.std()):.2f}")

    page, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for ax, name in zip(axes, ("prey", "predator"), strict=True):
        plots.bands(draws, f"{name}_path", ax=ax, curves=4)
        ax.plot(truth["time"], truth[name], color=plots.INK, linewidth=1, linestyle="--")
        ax.set_xlim(0, 12)
    axes[0].plot(observed["time_prey"], observed["prey"], "o", color=plots.INK, markersize=3)
    page.savefig(folder / "lotka_volterra.png", dpi=150)
    print(f"wrote {folder / 'lotka_volterra_posterior.nc'} and {folder / 'lotka_volterra.png'}; dashed: the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
