"""Rock that nobody can look into: the permeability of a square of ground from 40 readings of the water's pressure.

Trains a network on −∇·(exp(g) ∇p) = 10 with g a random field (about 20 CPU minutes; stopped and started again it goes
on from its checkpoint), asks for the field on 32 × 32 points, and checks it without knowing the truth: pressures solved
anew from draws of the field must miss the readings by about the noise. Writes darcy.nc and darcy.png.

    python examples/darcy_field.py [FOLDER] [STEPS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr

import fsimformer as fsf
from fsimformer.simulators import DarcyFlow

ROCK = DarcyFlow(grid_points=17)
SIDE = np.linspace(0.0, 1.0, 32)
GRID = ROCK.grid["x1"].numpy()


def square(side: np.ndarray) -> xr.Dataset:
    """All points of the lattice; dims of their own make a grid."""
    return xr.Dataset(coords={"x1": side, "x2": side})


def model(folder: Path, steps: int) -> fsf.Joint:
    """From `folder` if it was trained before."""
    path = folder / "darcy_model"
    if not path.exists():
        config = fsf.TrainConfig(steps=steps, batch_size=64, n_micro=4, cooldown=0.3, ema=0.995, max_latents=72)
        joint = fsf.train(
            ROCK, simulations=20_000, config=config, network=fsf.NetworkConfig(width=64, depth=4, n_heads=4),
            design=fsf.Design((24, 60), beside=4), checkpoint=folder / "darcy_run.safetensors",
            callback=lambda p: print(f"step {p.step}: {p.loss:.3f}") if p.step % 250 == 0 else None,
        )  # fmt: skip
        joint.save(path)
    return fsf.load(path)


def ground(seed: int) -> tuple[xr.DataArray, xr.Dataset]:
    """The true field on the simulator's grid, and 40 noisy pressures at scattered points."""
    generator = torch.Generator().manual_seed(seed)
    drawn = ROCK.simulate(1, generator)
    at = torch.rand(40, 2, generator=generator).numpy()
    where = {d: xr.DataArray(at[:, j], dims="point_pressure") for j, d in enumerate(("x1", "x2"))}
    maps = {k: xr.DataArray(v[0], {"x1": GRID, "x2": GRID}, ("x1", "x2")) for k, v in drawn.items()}
    clean = maps["pressure"].interp(where)
    noise = ROCK.noise * torch.randn(40, generator=generator).numpy()
    return maps["log_permeability"], xr.Dataset({"pressure": clean + noise})


def main(folder: Path, steps: int) -> None:
    truth, observed = ground(seed=3)
    posterior = model(folder, steps).condition(observed)
    draws = posterior.sample(200, at={"log_permeability": square(SIDE)}, seed=0)
    draws.to_netcdf(folder / "darcy.nc", engine="h5netcdf")

    # the same draws, later, where the solver needs them
    fields = posterior.extend(draws, at={"log_permeability": square(GRID)})["posterior"]["log_permeability"]
    flat = fields.stack(sample=("chain", "draw")).transpose("sample", "x1", "x2")
    pressure = xr.DataArray(ROCK.solve(torch.from_numpy(flat.values)), flat.coords, flat.dims)
    miss = (pressure.interp(x1=observed["x1"], x2=observed["x2"]) - observed["pressure"]) / ROCK.noise
    low, high = flat.quantile([0.05, 0.95], "sample").values
    print(f"root mean square misfit of re-solved pressures: {float((miss**2).mean() ** 0.5):.2f} noise sds")
    inside = np.mean((low < truth.values) & (truth.values < high))
    print(f"the true field lies within the central 90 % at {inside:.0%} of points")

    field = draws["posterior"]["log_permeability"]
    panels = {
        "truth": truth, "posterior mean": field.mean(("chain", "draw")), "one draw": field[0, 0],
        "posterior sd": field.std(("chain", "draw")),
    }  # fmt: skip
    page, axes = plt.subplots(1, 4, figsize=(13, 3.2), layout="constrained")
    for ax, (title, values) in zip(axes, panels.items(), strict=True):
        limit = None if title == "posterior sd" else float(np.abs(truth).max())
        colours = {"cmap": "viridis"} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        mesh = ax.pcolormesh(values["x2"], values["x1"], values.transpose("x1", "x2"), shading="nearest", **colours)
        ax.plot(observed["x2"], observed["x1"], "k.", markersize=3)
        ax.set(title=f"log permeability, {title}", xlabel="x2", ylabel="x1", aspect="equal")
        page.colorbar(mesh, ax=ax, shrink=0.8)
    page.savefig(folder / "darcy.png", dpi=110)
    print(f"wrote {folder / 'darcy.nc'} and {folder / 'darcy.png'}; dots: where pressure was read")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(), int(sys.argv[2]) if len(sys.argv) > 2 else 2_500)
