"""A neuron that fires on a diet: which conductances give the same voltage features for less energy?

Seven features of a simulated voltage trace are observed. Given them the shipped model draws parameters and the energy
that the neuron spends; `Between` keeps the cheapest tenth. The draws are simulated again: whether their energy is below
the bound is the simulator's word, not the network's. Writes hodgkin_huxley_posterior.nc and hodgkin_huxley.png.

    python examples/hodgkin_huxley.py [FOLDER]
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
from fsimformer.seeds import generator_at

NEURON = fsf.simulators.HodgkinHuxley()
FEATURES = ("spikes", "rest_mean", "rest_sd", "mean", "variance", "skewness", "kurtosis")
SEED, N = 3, 400


def a_neuron() -> dict[str, float]:
    """Features and energy of the first simulation that spikes at least three times."""
    pool = NEURON.simulate(200, generator_at(SEED, 1))
    number = int((pool["spikes"] >= 3).nonzero()[0, 0])
    return {k: float(v[number]) for k, v in pool.items()}


def again(draws: xr.DataTree) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Parameters of the draws, float64 (n,), and the energy of a new simulation at each."""
    names = [v.name for v in NEURON.schema.variables if v.role == "parameter"]
    given = {k: torch.from_numpy(draws["posterior"][k].to_numpy().ravel()).double() for k in names}
    return given, NEURON.simulate_at(given, generator_at(SEED, 2))["energy"]


def main(folder: Path) -> None:
    truth = a_neuron()
    given = fsf.load("hodgkin_huxley").condition({k: truth[k] for k in FEATURES})
    free = given.sample(N, at={"energy": None}, seed=0)
    bound = float(free["predictions"]["energy"].quantile(0.1))
    held = given.constrain(fsf.Between("energy", upper=bound)).sample(N, at={"energy": None}, seed=0)
    held.to_netcdf(folder / "hodgkin_huxley_posterior.nc", engine="h5netcdf")

    stats = held["sample_stats"].to_dataset()
    print(f"true energy {truth['energy']:.0f} nC/cm², bound {bound:.0f}; by {stats['method'].item()}")
    page, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
    for name, draws, color in (("given the features", free, plots.COLORS[0]), ("and the bound", held, plots.COLORS[1])):
        parameters, energy = again(draws)
        print(f"{name}: {100 * float((energy <= bound).double().mean()):.0f} % of new simulations are below the bound")
        axes[0].hist(energy.numpy(), bins=30, alpha=0.6, color=color, label=name, density=True)
        axes[1].plot(parameters["g_na"], parameters["g_k"], ".", color=color, markersize=2)
        one = {k: v[:1] for k, v in parameters.items()}
        time, voltage = NEURON.voltage(one, generator_at(SEED, 3))
        axes[2].plot(np.asarray(time), np.asarray(voltage)[0], color=color, linewidth=0.7)
    axes[0].axvline(bound, color=plots.INK, linewidth=1, linestyle="--")
    axes[0].set(xlabel="energy, simulated again (nC/cm²)", yticks=[])
    axes[0].legend(frameon=False, fontsize=7)
    axes[1].set(xlabel="sodium conductance (mS/cm²)", ylabel="potassium conductance (mS/cm²)")
    axes[2].set(xlabel="time (ms)", ylabel="voltage (mV)")
    page.savefig(folder / "hodgkin_huxley.png", dpi=150)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
