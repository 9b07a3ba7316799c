"""Wall and CPU seconds of `fsimformer infer` from a table of three regions to files on disk, start-up included.

The table has 100 dates, three regions and every series of a model: one reading in ten is missing, and in the last
region the last series stops half-way. It is simulated from the model's own prior. The model is that of those that ship
which has most series: `sird` with three, as long as `epidemic` has two. Without `--at` the command samples all that
the table lacks: the parameters, the functions at all dates, every hole.

    fsimformer infer sird cases.csv --batch region --rename date=time --out posterior.nc --plot figure.png

Goal: below 60 s on two cores. A run is a process of its own; of some repeats the median, lowest and highest.

    python benchmarks/infer_regions.py [--model NAME] [--runs 1000:sde 200:sde 1000:fast] [--repeats 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from record import ROOT, save
from train_shipped import RECIPES

from fsimformer.counts import draw_counts
from fsimformer.model_file import MODELS, read_card
from fsimformer.schema import Schema

DATES, REGIONS = 100, ("Coast", "Plain", "Hills")
GOAL = 60.0  # seconds


def series(schema: Schema) -> list[str]:
    """Data on the model's one index."""
    return [name for name in schema.data if schema.is_function(name)]


def chosen() -> str:
    """The model that ships with most series."""
    shipped = sorted(p.name for p in MODELS.iterdir() if (p / "model.json").is_file() and p.name in RECIPES)
    return max(shipped, key=lambda name: len(series(read_card(MODELS / name)[0])))


def table(model: str, seed: int) -> pd.DataFrame:
    """date, region, the model's series and the scalars that it wants to be told; blanks are missing readings."""
    simulator = RECIPES[model][-1].simulator
    schema, (index,) = simulator.schema, simulator.schema.indexes
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    drawn = simulator.simulate(len(REGIONS), generator)
    at = index.lower + min(1.0, (index.upper - index.lower) / DATES) * np.arange(DATES)  # daily where that fits
    grid, names = simulator.grid[index.name].numpy(), series(schema)
    parts = []
    for i, region in enumerate(REGIONS):
        part = pd.DataFrame({"date": pd.Timestamp("2025-09-01") + pd.to_timedelta(at, "D"), "region": region})
        for name in schema.data:
            noise = schema[name].noise
            if name not in names:
                part[name] = float(drawn[name][i])
                continue
            clean = np.exp(np.interp(at, grid, np.log(drawn[name][i].double().numpy())))
            sd = 0.0 if noise is None else float(noise.sd if not isinstance(noise.sd, str) else drawn[noise.sd][i])
            if noise is not None and noise.kind == "negbinomial":
                part[name] = draw_counts(torch.from_numpy(clean), sd, generator).numpy()
            else:
                part[name] = clean * np.exp(sd * rng.normal(size=DATES))
            part.loc[rng.random(DATES) < 0.1, name] = np.nan
        parts.append(part)
    parts[-1].loc[DATES // 2 :, names[-1]] = np.nan
    return pd.concat(parts)


def seconds(model: str, draws: int, quality: str, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of one command on folder/cases.csv.

    Raises:
        CalledProcessError: the command failed. FileNotFoundError: it left out a file.
    """
    options = ["--batch", "region", "--rename", "date=time", "--draws", str(draws), "--quality", quality]
    files = ["--out", "posterior.nc", "--plot", "figure.png"]
    command = [sys.executable, "-m", "fsimformer", "infer", model, "cases.csv", *options, *files]
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, os.times()
    for name in ("posterior.nc", *(f"figure_{region}.png" for region in REGIONS)):
        (folder / name).unlink()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def measured(model: str, runs: list[str], repeats: int, folder: Path) -> list[dict[str, Any]]:
    rows = []
    for run in runs:
        draws, quality = run.split(":")
        found = np.array([seconds(model, int(draws), quality, folder) for _ in range(repeats)])
        row: dict[str, Any] = {"draws": int(draws), "quality": quality}
        for what, x in zip(("wall", "cpu"), found.T, strict=True):
            row |= {f"{what}_seconds": round(float(np.median(x)), 1)}
            row |= {f"{what}_seconds_range": [round(float(x.min()), 1), round(float(x.max()), 1)]}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=chosen(), choices=sorted(RECIPES))
    parser.add_argument("--runs", nargs="+", default=["1000:sde", "200:sde", "1000:fast"], metavar="DRAWS:QUALITY")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--name", default="infer_regions", help="of the file in results/")
    args = parser.parse_args()
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = table(args.model, args.seed)
        data.to_csv(folder / "cases.csv", index=False)
        rows = measured(args.model, args.runs, args.repeats, folder)
    schema = read_card(MODELS / args.model)[0]
    results = {
        "model": args.model,
        "dates": DATES,
        "series": series(schema),
        "regions": len(REGIONS),
        "readings": int(data[series(schema)].notna().sum().sum()),
        "cores": len(os.sched_getaffinity(0)),
        "goal_wall_seconds": GOAL,
        "n": args.repeats,
        "monte_carlo_floor": None,
        "rows": rows,
    }
    print(save(args.name, args.seed, results))


if __name__ == "__main__":
    main()
