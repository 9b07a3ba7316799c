"""Hudson's Bay hare and lynx, 1900–1920, with seven counts knocked out.

Prints the posterior of the eight parameters, the network's and the same refined to the exact one, and what the network
says about the knocked-out counts; writes its draws to hare_lynx_posterior.nc and a picture to hare_lynx.png.

    python examples/hare_lynx.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import xarray as xr

import fsimformer as fsf
from fsimformer import plots

PROPOSALS = 1000  # about a minute; ten times as many for intervals to rely on
KNOCKED_OUT = {"hare": [1905, 1906, 1912], "lynx": [1904, 1911, 1912, 1917]}


def knock_out(counts: xr.Dataset) -> xr.Dataset:
    """NaN in the years above; the time axis as dates."""
    holes = {name: counts[name].where(~counts["time"].dt.year.isin(years)) for name, years in KNOCKED_OUT.items()}
    return counts.assign(holes)


def main(folder: Path) -> None:
    counts = fsf.simulators.hudson_bay()
    years = [f"{1900 + int(year)}-01-01" for year in counts["time"].values]
    counts = counts.assign_coords(time=np.array(years, dtype="datetime64[ns]"))
    observed = knock_out(counts)

    joint = fsf.load("hare_lynx")
    twice_a_year = np.arange("1900-01", "1925-01", 6, dtype="datetime64[M]").astype("datetime64[ns]")
    posterior = joint.condition(observed)
    draws = posterior.sample(1000, at={"hare": twice_a_year, "lynx": twice_a_year}, seed=0)
    proposals = posterior.sample(PROPOSALS, at={}, quality="exact", seed=1)
    refined = posterior.refine(proposals, fsf.log_likelihood(fsf.simulators.HareLynx(), observed))

    print(f"{'parameter':<14}{'network':>9}   {'90 % interval':<18}{'refined':>9}   90 % interval")
    tables = [
        tree["posterior"].to_dataset().quantile([0.05, 0.5, 0.95], ("chain", "draw")) for tree in (draws, refined)
    ]
    for name in tables[0].data_vars:
        cells = [
            f"{median:>9.3f}   {f'[{low:.3f}, {high:.3f}]':<18}" for low, median, high in (t[name] for t in tables)
        ]
        print(f"{name:<14}{''.join(cells)}".rstrip())
    weights = refined["sample_stats"]
    print(f"refined: weighed by the simulator's likelihood, {weights['ess']:.0f} effective draws of {PROPOSALS}, "
          f"Pareto k {weights['pareto_k']:.2f}. Trust it where k is below 0.7 and the effective draws are hundreds; "
          "where they are tens, believe the means and not the tails, or raise PROPOSALS.")  # fmt: skip

    held_out = counts.where(np.isnan(observed))
    print("\nknocked-out counts, thousand pelts")
    predictions = draws["predictions"]
    for name in KNOCKED_OUT:
        for reading in held_out[name].dropna("time"):
            time = f"time_{name}" if f"time_{name}" in predictions.coords else "time"
            there = predictions[name].sel({time: reading["time"].values}).quantile([0.05, 0.5, 0.95])
            low, median, high = there.values
            year = reading["time"].dt.year.item()
            print(f"{name} {year}: was {reading.item():5.1f}, predicted {median:5.1f}   [{low:.1f}, {high:.1f}]")

    folder.mkdir(parents=True, exist_ok=True)
    draws.to_netcdf(folder / "hare_lynx_posterior.nc", engine="h5netcdf")
    plots.figure(draws, held_out).savefig(folder / "hare_lynx.png")
    print(f"\nwrote {folder / 'hare_lynx_posterior.nc'} and {folder / 'hare_lynx.png'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
