"""What a page shows of a conditional, as arrays: bands of functions, densities of scalars.

While a reading is dragged there are 0.2 s from hand to eye. So a preview has quantiles and no draws (marginals.py), at
as many points of the functions as fit into that time; draws follow when the hand rests.

A preview's density follows from quantiles at p_k: x(u) is a monotone cubic through (Φ⁻¹(p_k), x_k), and the density at
x(u) is φ(u)/x'(u). That of draws is smoothed by normal kernels (Silverman's width).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import xarray as xr

from fsimformer.constraints import Between
from fsimformer.explorer.board import Board
from fsimformer.groups import GROUPS
from fsimformer.joint import Conditional, Joint
from fsimformer.marginals import Solver, marginal_quantiles
from fsimformer.query import query

BANDS = (0.05, 0.25, 0.5, 0.75, 0.95)  # 90 %, 50 %, median
LEVELS = (0.005, *BANDS, 0.995)
FEWEST, MOST = 8, 60  # points of a function in a preview
_TARGET = 0.11  # seconds of a preview: the way to the server and back, and the browser's drawing, come on top
_CURVES = 6
_DENSE = 101


@dataclass(frozen=True)
class Settings:
    """What is drawn when nothing moves.

    Args:
        model: the name or directory that `load` is given.
        n: draws, even. points: of each function. seed, quality: as of `Conditional.sample`.
        origin: the date of index 0, of files with dates; None = the model's, or the file's earliest.
    """

    model: str
    n: int = 500
    points: int = 21
    seed: int = 0
    quality: str = "sde"
    origin: str | None = None


@dataclass(frozen=True)
class Picture:
    """Bands and densities.

    Args:
        at: function -> (N,) places in units of its index.
        bands: function -> (5, N) quantiles at `BANDS`.
        densities: scalar -> (2, M) values and their density; of vectors, `name[i]`.
        summaries: scalar -> median and the ends of the 90 % interval.
        curves: function -> (C, N) single draws; none in a preview.
    """

    at: Mapping[str, np.ndarray]
    bands: Mapping[str, np.ndarray]
    densities: Mapping[str, np.ndarray]
    summaries: Mapping[str, tuple[float, float, float]]
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)


def fitting(n: int, seconds: float) -> int:
    """Points of a function for the next preview, after one of n points took so long."""
    return int(np.clip(round(n * _TARGET / max(seconds, 1e-3)), max(FEWEST, n // 2), min(MOST, 2 * n)))


def preview(board: Board, conditional: Conditional, n: int, solver: Solver) -> Picture:
    """Marginals by the probability flow, without draws; constraints do not enter."""
    model, observation = conditional.joint.model, conditional.observations[0]
    at: dict[str, Any] = {name: board.grid(name, n) for name in board.functions}
    asked = query(model.schema, observation, at | dict.fromkeys(board.plain))
    q = marginal_quantiles(model, observation, asked, LEVELS, solver, conditional.n_active_observed)
    functions = {name: q[name] for name in board.functions}
    scalars = {_part(k, i, x.shape[1]): x[:, i] for k, x in q.items() if k not in functions for i in range(x.shape[1])}
    return _picture(at, {k: v[1:-1] for k, v in functions.items()}, scalars)


def of_draws(board: Board, draws: xr.DataTree, n: int, kept: np.ndarray | None = None) -> Picture:
    """Quantiles of draws at `board.at(n)`.

    Args:
        kept: (draws,) bool, which of them count; None = all.
    """
    at = {name: board.grid(name, n) for name in board.functions} if n else {}
    bands: dict[str, np.ndarray] = {}
    curves: dict[str, np.ndarray] = {}
    for name in at:
        x = _values(draws, name)  # (draws, N)
        x = x if kept is None else x[kept]
        bands[name] = np.quantile(x, BANDS, axis=0)
        curves[name] = x[np.arange(min(_CURVES, len(x))) * len(x) // min(_CURVES, len(x))]
    scalars: dict[str, np.ndarray] = {}
    smooth: dict[str, np.ndarray] = {}
    for group in (g for g in GROUPS if g in draws.children):
        for key, v in draws[group].data_vars.items():
            if str(key) not in board.functions:
                x = v.to_numpy().reshape(v.shape[0] * v.shape[1], -1)
                x = x if kept is None else x[kept]
                for i in range(x.shape[1]):
                    part = _part(str(key), i, x.shape[1])
                    scalars[part], smooth[part] = np.quantile(x[:, i], LEVELS), smoothed(x[:, i])
    return replace(_picture(at, bands, scalars, curves), densities=smooth)


def _values(draws: xr.DataTree, name: str) -> np.ndarray:
    """(draws, N) of a function, its points in rising order, whichever groups hold them."""
    parts = [draws[g].to_dataset()[name] for g in GROUPS if g in draws.children and name in draws[g].data_vars]
    x = np.concatenate([v.to_numpy().reshape(-1, v.shape[2]) for v in parts], axis=1)
    index = np.concatenate([next(c for c in v.coords.values() if c.dims == v.dims[2:]).to_numpy() for v in parts])
    return x[:, np.argsort(index, kind="stable")]


def within(draws: xr.DataTree, constraints: list[Between]) -> np.ndarray:
    """(draws,) bool: the draws whose scalars lie in all intervals; what rejection would keep."""
    group = next(g for g in ("posterior", "prior") if g in draws.children)
    scalars = draws[group].data_vars
    n = draws[group].sizes["chain"] * draws[group].sizes["draw"]
    kept = np.ones(n, dtype=bool)
    for c in constraints:
        x = scalars[str(c.variable)].to_numpy().reshape(-1)
        kept &= (x >= c.lower) & (x <= c.upper)
    return kept


def prior_quantiles(joint: Joint, name: str, p: np.ndarray) -> np.ndarray:
    """Of a scalar: exact where its prior is stated, of its whitening's normal elsewhere."""
    u = torch.special.ndtri(torch.from_numpy(np.asarray(p, dtype=np.float64)))[:, None]
    found: np.ndarray = joint.model.whitening.inverse(name, u, np.zeros(1, dtype=np.int64)).numpy()[:, 0]
    return found


def density(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(2, M): values and their density, from quantiles x at rising p."""
    u = torch.special.ndtri(torch.from_numpy(np.asarray(p, dtype=np.float64))).numpy()
    steps, rises = np.diff(u), np.maximum(np.diff(x), 1e-12 * (1 + np.abs(x).max()))
    secants = rises / steps
    slopes = np.concatenate([secants[:1], 2 / (1 / secants[:-1] + 1 / secants[1:]), secants[-1:]])  # harmonic: monotone
    at = np.linspace(u[0], u[-1], _DENSE)
    k = np.clip(np.searchsorted(u, at, side="right") - 1, 0, len(steps) - 1)
    t, h = (at - u[k]) / steps[k], steps[k]
    value = x[k] + h * (slopes[k] * t * (1 - t) ** 2 - slopes[k + 1] * t**2 * (1 - t) + secants[k] * t**2 * (3 - 2 * t))
    rise = slopes[k] * (1 - t) * (1 - 3 * t) - slopes[k + 1] * t * (2 - 3 * t) + secants[k] * 6 * t * (1 - t)
    rise = np.maximum(rise, 0.02 * secants[k])
    return np.stack([value, np.exp(-0.5 * at**2) / np.sqrt(2 * np.pi) / rise])


def smoothed(x: np.ndarray) -> np.ndarray:
    """(2, M): values within the range of draws x (n,), and their density."""
    quarters = np.quantile(x, [0.25, 0.75])
    width = 0.9 * min(x.std(), (quarters[1] - quarters[0]) / 1.34) * len(x) ** -0.2
    width = max(width, 1e-9 * (1 + float(np.abs(x).max())))
    at = np.linspace(x.min(), x.max(), _DENSE)
    kernels = np.exp(-0.5 * ((at[:, None] - x) / width) ** 2)
    return np.stack([at, kernels.mean(1) / (width * np.sqrt(2 * np.pi))])


def _picture(
    at: Mapping[str, np.ndarray],
    bands: Mapping[str, np.ndarray],
    scalars: Mapping[str, np.ndarray],
    curves: Mapping[str, np.ndarray] | None = None,
) -> Picture:
    p = np.array(LEVELS)
    low, middle, high = (LEVELS.index(v) for v in (0.05, 0.5, 0.95))
    summaries = {k: (float(x[middle]), float(x[low]), float(x[high])) for k, x in scalars.items()}
    return Picture(at, bands, {k: density(p, x) for k, x in scalars.items()}, summaries, curves or {})


def _part(name: str, i: int, n: int) -> str:
    return name if n == 1 else f"{name}[{i}]"
