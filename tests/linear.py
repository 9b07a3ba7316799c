"""A Joint that is exact, or wrong by a known amount: a linear Gaussian model whose network is its own factor model.

g ~ N(0, I_7),  a = g_0,  f(t) = Σ_k φ_k(t) g_k,  x(t) = f(t) + .4 ε,  y = a + .8 ε,  t in [0, 10]
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsimformer.gaussian import FactorModel, Grid
from fsimformer.joint import Joint
from fsimformer.model_file import Model, build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.priors import REAL, Normal
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulators import FunctionSimulator
from fsimformer.whiten import Standardise, Transform, Whitening

NOISE, Y_NOISE, POINTS, RANK = 0.4, 0.8, 161, 7
SCHEMA = Schema(
    (
        Variable("a", "parameter", prior=Normal()),
        Variable("f", "parameter", ("time",)),
        Variable("x", "data", ("time",), noise=Noise("normal", NOISE)),
        Variable("y", "data"),
    ),
    (Index("time", 0.0, 10.0),),
)
GRID = torch.linspace(0.0, 10.0, POINTS, dtype=torch.float64)


def loading(t: Tensor) -> Tensor:
    """φ(t), (n, 7), t in [0, 10]: a level and six waves of falling size."""
    waves = [torch.cos(math.pi * k * t / 10 + (k % 2)) / (1 + 0.4 * k) for k in range(1, RANK)]
    return torch.stack([0.5 + 0 * t, *waves], dim=-1)


def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    g = torch.randn(n, RANK, generator=generator, dtype=torch.float64)
    f = g @ loading(GRID).T
    y = g[:, 0] + Y_NOISE * torch.randn(n, generator=generator, dtype=torch.float64)
    return {"a": g[:, 0], "f": f, "x": f.clone(), "y": y}


SIMULATOR = FunctionSimulator(SCHEMA, simulate, {"time": GRID})


def joint(noise: float = 1.0, shift: float = 0.0, n_max: tuple[int, int] = (4, 12)) -> Joint:
    """Exact at the defaults.

    Args:
        noise: factor on the noise that the network believes in: below 1 its posteriors are too narrow.
        shift: added to what it believes x and y to be.
    """
    phi = loading(GRID).float()
    columns = lambda mean, d: torch.cat([phi, torch.full((POINTS, 1), mean), torch.full((POINTS, 1), d)], 1)  # noqa: E731
    table = torch.cat([columns(0.0, 0.0), columns(shift, (noise * NOISE) ** 2)])
    scalars = torch.zeros(SCHEMA.n_ids, RANK + 2)
    scalars[:, -1] = 1.0
    for name, mean, d in (("a", 0.0, 0.0), ("y", shift, (noise * Y_NOISE) ** 2)):
        scalars[SCHEMA.ids(name)[0]] = torch.tensor([1.0, *[0.0] * (RANK - 1), mean, d])
    uses = tuple(map(tuple, SCHEMA.uses_index().tolist()))
    config = NetworkConfig(width=8, depth=1, n_heads=1, rotary_frequency=0.0, uses_index=uses)
    denoiser = build_denoiser(SCHEMA, config, "trig", "dense", None, baseline=True)
    f_id, x_id = SCHEMA.ids("f")[0], SCHEMA.ids("x")[0]
    denoiser.baseline = FactorModel(
        scalars, table, [Grid(f_id, (0,), (POINTS,), 0), Grid(x_id, (0,), (POINTS,), POINTS)]
    )
    with torch.no_grad():
        denoiser.network.out.bias.copy_(torch.tensor([0.0, 1.0]))
    plain = Transform(None, REAL, Standardise())
    whitening = Whitening({"a": Transform(Normal(), REAL), "f": plain, "x": plain, "y": plain})
    card = {"design": {"n_max": list(n_max), "skew": 1.0}}
    readings = {"f": n_max[0], "x": n_max[1]}
    return Joint(Model(SCHEMA, whitening, denoiser.eval(), "trig", "dense", 0, readings, 32, {}, (), card))
