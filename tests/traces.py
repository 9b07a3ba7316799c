"""A schema with a trace and an image, nets for both, random weights: shared by the tests of arrays."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from tiny import randomise
from torch import Tensor, nn

import fsimformer as fsf
from fsimformer.denoise import Denoiser
from fsimformer.joint import Joint
from fsimformer.model_file import Model, build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.schema import Schema
from fsimformer.whiten import Standardise, Transform, Whitening

SCHEMA = fsf.Schema(
    (
        fsf.Variable("a", "parameter", prior=fsf.Normal()),
        fsf.Variable("trace", "data", ("sample",), n_tokens=2),
        fsf.Variable("y", "data", ("time",), noise=fsf.Noise("normal", 0.1)),
        fsf.Variable("b", "parameter", prior=fsf.Normal()),
        fsf.Variable("image", "data", ("row", "column"), support=fsf.POSITIVE),
    ),
    (fsf.Index("time", 0, 10), fsf.Axis("sample", 20), fsf.Axis("row", 3), fsf.Axis("column", 4)),
)
TRACE, IMAGE = SCHEMA.ids("trace"), SCHEMA.ids("image")


def modules(seed: int = 0) -> dict[str, nn.Module]:
    out: dict[str, nn.Module] = {
        "trace": nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 6)),
        "image": nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv2d(1, 3, 2), nn.Flatten()),
    }
    for module in out.values():
        randomise(module, seed)
    return out


def denoiser(seed: int = 0, schema: Schema = SCHEMA, nets: dict[str, nn.Module] | None = None) -> Denoiser:
    uses = tuple(map(tuple, schema.uses_index().tolist()))
    nets = modules() if nets is None else nets
    out = build_denoiser(schema, NetworkConfig(uses, width=16, depth=2, n_heads=2), "trig", "dense", nets)
    randomise(out, seed, gain=0.7)
    return out.eval()


def joint() -> Joint:
    """Random weights: draws mean nothing, and their invariances everything."""
    plain = Standardise(0.3, 0.8)
    whitening = Whitening({v.name: Transform(v.prior, v.support, plain) for v in SCHEMA.variables})
    ranges = {"trace": (-9.0, 9.0), "y": (-9.0, 9.0)}
    return Joint(Model(SCHEMA, whitening, denoiser(), "trig", "dense", 1, {"y": 9}, 12, ranges, (), {}))


def trace(seed: int = 0) -> xr.DataArray:
    return xr.DataArray(np.random.default_rng(seed).normal(size=20), dims="sample", name="trace")


def image(seed: int = 0) -> xr.DataArray:
    return xr.DataArray(np.random.default_rng(seed).lognormal(size=(3, 4)), dims=("row", "column"), name="image")


def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    a, b = torch.randn(2, n, generator=generator)
    y = a[:, None] + torch.zeros(11)
    noise = torch.randn(n, 32, generator=generator)
    return {"a": a, "b": b, "y": y, "trace": a[:, None] + noise[:, :20], "image": noise[:, 20:].exp().view(n, 3, 4)}


SIMULATOR = fsf.simulators.FunctionSimulator(SCHEMA, simulate, {"time": torch.linspace(0, 10, 11, dtype=torch.float64)})
FEW = fsf.TrainConfig(steps=3, batch_size=16, n_micro=2, n_validation=16, warmup=1)
