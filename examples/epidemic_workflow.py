"""From a file of reported cases and deaths to R(t) and a scored forecast of four weeks, for several regions at once.

The file is a table as health departments keep it: date, region, population, cases, deaths; blanks are days that nobody
reported. NetCDF and Zarr files with dims region and time do as well. Without --data, three regions are **simulated**
(`simulated`, with a seed) and written to cases.csv: days are missing, one region lost a week, and one stopped reporting
deaths. The last four weeks are held back, forecast, and scored beside two forecasts that need no model: the last value,
and the trend of the last three weeks. Writes forecast.csv, scores.csv, posterior.nc and a picture a region.

    python examples/epidemic_workflow.py [--data FILE] [--folder FOLDER]

The same as a notebook: epidemic_workflow.ipynb.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer import plots
from fsimformer.counts import draw_counts
from fsimformer.scores import crps, energy_score
from fsimformer.simple_forecasts import last_value, log_linear
from fsimformer.simulators import Epidemic

WEEKS_AHEAD, SERIES = 4, ("cases", "deaths")
FEWEST = 4  # readings on different days that the simple forecasts need
PANELS = {
    "cases": "cases a day (log scale)",
    "deaths": "deaths a day (log scale)",
    "reproduction_number": "reproduction number R(t)",
}


def simulated(seed: int = 3) -> pd.DataFrame:
    """Sixteen weeks of three regions: a wave that measures end, one that comes back, and one that starts late."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    days = torch.arange(0.0, 112.25, 0.25, dtype=torch.float64)
    fall = lambda day, from_, to: from_ + (to - from_) * torch.sigmoid((days - day) / 4)  # noqa: E731
    rates = {
        "Coast": fall(40, 0.42, 0.12),
        "Plain": fall(35, 0.40, 0.13) + fall(80, 0.0, 0.14),
        "Hills": fall(70, 0.33, 0.14),
    }
    people, start = {"Coast": 8.9e6, "Plain": 2.1e6, "Hills": 5.5e5}, {"Coast": 8e-5, "Plain": 3e-4, "Hills": 2e-4}
    weekend = torch.tensor([[0.05, 0.15, -0.08, 0.06, 0.03, 0.0]], dtype=torch.float64)
    tables = []
    for region, rate in rates.items():
        world = Epidemic(
            population=people[region], recovery_rate=1 / 6, fatality=0.008, incubation_period=4.0, death_delay=14.0,
            initial_infected=start[region], reporting_rate=0.3, case_noise=0.12, death_noise=0.15,
        )  # fmt: skip
        clean = world.courses({"weekday_effect": weekend}, rate[:, None])
        table = pd.DataFrame({"date": pd.date_range("2025-09-01", periods=112), "region": region})
        table["population"] = people[region]
        for name, sd in zip(SERIES, (0.12, 0.15), strict=True):
            table[name] = draw_counts(clean[name][::2][:112, 0], sd, generator).numpy()
            table.loc[rng.random(112) < 0.08, name] = np.nan
        tables.append(table)
    tables[1].loc[50:56, "cases"] = np.nan
    tables[2].loc[65:, "deaths"] = np.nan
    return pd.concat(tables)


def read(path: Path) -> xr.Dataset:
    """cases and deaths (region, time), population (region), of a table, a netCDF file or a Zarr store."""
    if path.suffix == ".zarr":
        return xr.open_zarr(path, consolidated=False).load()
    if path.suffix == ".nc":
        return xr.load_dataset(path, engine="h5netcdf")
    table = pd.read_csv(path, parse_dates=["date"]).rename(columns={"date": "time"})
    data = table.set_index(["region", "time"])[list(SERIES)].to_xarray()
    return data.assign(population=table.groupby("region")["population"].first().to_xarray())


def scores(data: xr.Dataset, draws: xr.DataTree, cut: pd.Timestamp, seed: int) -> pd.DataFrame:
    """CRPS and energy score of log(1 + count), and coverage, of what was held back; by region, series and forecast."""
    rng, rows = np.random.default_rng(seed), []
    days = ((data["time"] - data["time"][0]) / np.timedelta64(1, "D")).to_numpy()
    late = (data["time"] >= cut).to_numpy()
    for region in data["region"].to_numpy():
        for name in SERIES:
            values = data[name].sel(region=region).to_numpy()
            known = late & np.isfinite(values)
            if not known.any():
                continue  # it stopped reporting: forecast all the same, but nobody knows
            truth, past, n = values[known], ~late, draws["predictions"].sizes["draw"] * 2
            if (n_past := int((past & np.isfinite(values)).sum())) < FEWEST:
                print(f"{region}: {name} has {n_past} readings before the cut, not scored (the rivals need {FEWEST})")
                continue
            x = draws["predictions"][name].sel(region=region, time=data["time"][known])
            forecasts = {"network": x.transpose("chain", "draw", "time").to_numpy().reshape(n, -1)}
            for simple in (last_value, log_linear):
                forecasts[simple.__name__] = simple(days[past], values[past], days[known], n, rng)
            for who, f in forecasts.items():
                y, z = np.log1p(truth), np.log1p(f)
                low, high = np.quantile(f, [0.05, 0.95], axis=0)
                rows.append({
                    "region": region, "series": name, "forecast": who, "crps": crps(y, z.T).mean(),
                    "energy_score": energy_score(y[None], z[None])[0],
                    "coverage_90": ((low <= truth) & (truth <= high)).mean(),
                })  # fmt: skip
    return pd.DataFrame(rows)


def report(data: xr.Dataset, draws: xr.DataTree, day: pd.Timestamp) -> pd.DataFrame:
    """By region: R on that day (median and 90 % interval), how likely R > 1 is, and the share of infections seen."""
    number = draws["posterior"]["reproduction_number"].sel(time=day, method="nearest")
    rows = {}
    for region in data["region"].to_numpy():
        r = number.sel(region=region)
        low, mid, high = r.quantile([0.05, 0.5, 0.95]).values
        share = draws["posterior"]["reporting_rate"].sel(region=region).quantile([0.05, 0.95]).values
        rows[region] = {
            f"R on {number['time'].dt.date.item()}": f"{mid:.2f} [{low:.2f}, {high:.2f}]",
            "P(R > 1)": f"{float((r > 1).mean()):.2f}",
            "share reported": f"{share[0]:.2f} to {share[1]:.2f}",
        }
    return pd.DataFrame(rows).T


def picture(data: xr.Dataset, draws: xr.DataTree, region: str, cut: pd.Timestamp, note: str = "") -> plots.Figure:
    """Reported and forecast cases and deaths, and R(t), of one region; readings after `cut` are open circles.

    Counts are on the scale log(1 + count): a forecast of growth spans orders of magnitude, and 0 is a count.
    """
    one, later = draws.sel(region=region), data.sel(region=region).where(data["time"] >= cut)
    page = plots.Figure(figsize=(7.2, 7.0), layout="constrained", dpi=150)
    panels = page.subplots(3, 1, sharex=True)
    for ax, (name, label) in zip(panels, PANELS.items(), strict=True):
        plots.bands(one, name, ax, held_out=later.get(name))
        ax.set_xlabel("")
        ax.set_ylabel(label, fontsize=9)
        ax.axvline(cut, color=plots.INK, linewidth=0.8, linestyle=":")
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        if name == "reproduction_number":
            ax.axhline(1.0, color=plots.INK, linewidth=0.8)
            ax.set_ylim(0.0, min(ax.get_ylim()[1], 4.0))
        else:
            ax.set_yscale("symlog", linthresh=1)
            ax.set_ylim(-0.2, 1.5 * max(ax.dataLim.ymax, 5.0))  # zeros lie on the axis, and stay whole
            ax.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    panels[0].annotate(
        f"forecast from {cut.date()}", (cut, 1.0), (0, 3), xycoords=("data", "axes fraction"),
        textcoords="offset points", fontsize=9, color=plots.INK,
    )  # fmt: skip
    names = {"median": "median", "50 %": "50 %", "90 %": "90 %", "observed": "reported", "held out": "held back"}
    found = {text: mark for ax in panels for mark, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    page.legend(
        [found[k] for k in names if k in found], [text for k, text in names.items() if k in found],
        loc="outside upper center", ncols=5, fontsize=9, frameon=False, handlelength=1.4, columnspacing=1.4,
    )  # fmt: skip
    people = float(data["population"].sel(region=region))
    panels[0].set_title(f"{region}, {people:,.0f} inhabitants{note}", fontsize=10, loc="left")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="date, region, population, cases, deaths; at most sixteen weeks")
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--model", default="epidemic")
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--quality", choices=("sde", "fast"), default="sde", help="fast: a third of the time")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    file, note = args.data, ""
    if file is None:
        file, note = args.folder / "cases.csv", " (simulated)"
        simulated().to_csv(file, index=False)

    data = read(file)
    cut = pd.Timestamp(data["time"].values[-1]) - pd.Timedelta(days=7 * WEEKS_AHEAD - 1)
    observed = data.where(data["time"] < cut).assign(population=data["population"])  # NaN is not observed
    ahead = data["time"][data["time"] >= cut]
    at = {"cases": ahead, "deaths": ahead, "reproduction_number": data["time"][::2]}
    posterior = fsf.load(args.model).condition(observed, batch_dim="region")
    draws = posterior.sample(args.draws, at=at, seed=0, quality=args.quality)

    print(report(data, draws, cut).to_string())
    table = scores(data, draws, cut, seed=0)
    print(f"\nfour weeks from {cut.date()} on, on log(1 + count); lower is better, coverage should be 0.9")
    print(table.to_string(index=False, float_format="{:.3f}".format) if len(table) else "nothing to score")

    ends = draws["predictions"].to_dataset()[list(SERIES)].quantile([0.05, 0.5, 0.95], ("chain", "draw"))
    ends.to_dataframe().to_csv(args.folder / "forecast.csv")
    table.to_csv(args.folder / "scores.csv", index=False)
    draws.to_netcdf(args.folder / "posterior.nc", engine="h5netcdf")
    for region in data["region"].to_numpy():
        picture(data, draws, region, cut, note).savefig(args.folder / f"{region}.png")
    print(f"\n{file} -> forecast.csv, scores.csv, posterior.nc and a picture a region in {args.folder.resolve()}")


if __name__ == "__main__":
    main()
