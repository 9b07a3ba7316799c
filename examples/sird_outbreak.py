"""An outbreak whose contact rate changes: infected, recovered and deaths, each read on its own irregular days.

A lockdown lowers the contact rate on day 18 and is lifted on day 34. Asked for: the three scalar parameters, the
contact rate on a daily grid (and, of the same draws, every twelve hours), the recovered in a gap of 16 days, and a
forecast of the infected and of the deaths for the last ten days, which nobody has read. Writes sird_posterior.nc and
sird.png.

    python examples/sird_outbreak.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp

import fsimformer as fsf
from fsimformer import plots

RATES = {"recovery_rate": 0.1, "death_rate": 0.02, "initial_infected": 0.005}
DAYS = np.arange(0.0, 51.0)


def contact_rate(t: np.ndarray) -> np.ndarray:
    """Per day: 0.3, lowered smoothly to 0.08 between days 18 and 34."""
    return 0.3 - 0.22 / (1 + np.exp(-(t - 18) / 1.5)) + 0.22 / (1 + np.exp(-(t - 34) / 1.5))


def outbreak(rng: np.random.Generator) -> tuple[xr.Dataset, xr.Dataset]:
    """The true courses on a daily grid, and 5 % noisy readings of them until day 40, each series on its own days."""
    recovery, death, infected = RATES.values()

    def field(t: float, y: np.ndarray) -> list[float]:
        new = contact_rate(np.array(t)) * y[0] * y[1]
        return [-new, new - (recovery + death) * y[1], recovery * y[1], death * y[1]]

    y = solve_ivp(field, (0, 50), [1.0, infected, 0.0, 0.0], t_eval=DAYS, rtol=1e-8, atol=1e-10).y
    names = ("infected", "recovered", "deaths")
    truth = xr.Dataset({name: ("time", path) for name, path in zip(names, y[1:], strict=True)}, {"time": DAYS})
    days = {
        "infected": np.sort(rng.uniform(0, 40, 24)),
        "recovered": np.r_[np.sort(rng.uniform(2, 12, 5)), np.sort(rng.uniform(28, 40, 6))],  # a gap of 16 days
        "deaths": np.arange(5.0, 41.0, 7.0),
    }
    readings = {}
    for name, at in days.items():
        clean = np.interp(at, DAYS, truth[name])
        noisy = clean * np.exp(0.05 * rng.normal(size=at.size))
        readings[name] = xr.DataArray(noisy, {f"time_{name}": at}, f"time_{name}")
    return truth, xr.Dataset(readings)


def main(folder: Path) -> None:
    truth, observed = outbreak(np.random.default_rng(1))
    joint = fsf.load("sird")
    ahead = np.arange(41.0, 51.0)
    at = {"contact_rate": DAYS, "infected": ahead, "recovered": np.arange(14.0, 28.0, 2.0), "deaths": ahead}
    draws = joint.condition(observed).sample(1000, at=at, seed=0)

    print(f"{'parameter':<18}{'truth':>7}{'median':>9}   90 % interval")
    quantiles = draws["posterior"].to_dataset()[list(RATES)].quantile([0.05, 0.5, 0.95], ("chain", "draw"))
    for name, (low, median, high) in quantiles.items():
        print(f"{name:<18}{RATES[name]:>7.3f}{median:>9.3f}   [{low:.3f}, {high:.3f}]")
    _, (low, high) = plots.quantiles(draws, "contact_rate", [0.05, 0.95])
    inside = (low < contact_rate(DAYS)) & (contact_rate(DAYS) < high)
    print(f"the true contact rate lies in its 90 % band on {inside.sum()} of {len(DAYS)} days")

    draws.to_netcdf(folder / "sird_posterior.nc", engine="h5netcdf")
    # each draw is a function: the file holds what it takes to evaluate it at other times, today or next year
    draws = joint.condition(observed).extend(draws, {"contact_rate": np.linspace(0, 50, 101)})
    rate = draws["posterior"]["contact_rate"]
    lowest = rate["time"][rate.argmin("time")].quantile([0.05, 0.95], ("chain", "draw"))
    print(f"it was lowest between days {lowest[0]:.1f} and {lowest[1]:.1f}, 90 % of the draws say")
    page = plots.figure(
        draws, held_out={name: truth[name].sel(time=at[name]) for name in ("infected", "recovered", "deaths")}
    )
    for ax in page.axes:
        if ax.get_ylabel() == "contact rate":
            ax.plot(DAYS, contact_rate(DAYS), color=plots.INK, linewidth=1, linestyle="--")
        if ax.get_xlabel().replace(" ", "_") in RATES:
            ax.axvline(RATES[ax.get_xlabel().replace(" ", "_")], color=plots.INK, linewidth=1, linestyle="--")
    page.savefig(folder / "sird.png")
    print(f"wrote {folder / 'sird_posterior.nc'} and {folder / 'sird.png'}; dashed: the truth")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
