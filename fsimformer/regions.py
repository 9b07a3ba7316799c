"""Highest-density regions, by draws: the smallest sets that hold a given probability.

    R_p = {x: log p(x) ≥ t_p},   P(log p(X) ≥ t_p) = p:   t_p is the (1 − p) quantile of log p over draws

(Hyndman, Am. Stat. 1996), in any number of dimensions, of any shape, be it in several pieces. A value lies in R_p where
its own log density reaches t_p; the smallest p for which it does is the share of draws that are denser. Of a region by
n draws the coverage errs by √(p(1 − p)/n).

Of a single number: the shortest interval that holds a share p of the draws (Chen and Shao, J. Comput. Graph. Stat.
1999). Where a marginal has several modes it is one interval nevertheless, as wide as it must be. A density, and with it
both, depends on the scale: they are those of the numbers as they are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SAMPLE_DIMS = ("chain", "draw")


def highest_density(log_prob: xr.DataArray, level: float | Sequence[float] = 0.9) -> xr.DataArray:
    """The log density t_p above which a share p of the draws lies, and hence that of the law: what bounds R_p.

        inside = posterior.log_prob(values) >= highest_density(posterior.log_prob(draws), 0.9)

    Args:
        log_prob: of draws, with the dims `chain` and `draw`: what `Conditional.log_prob` says of `sample`'s.
        level: p, or some.

    Returns:
        t_p over `level` and the dims of `log_prob` besides; attribute `coverage_error`, √(p(1 − p)/n) at most.

    Raises:
        ValueError: other dims, densities that are NaN, a level outside of (0, 1), or one that so few draws cannot tell.
    """
    flat, rest = _flat("highest_density", log_prob)
    levels = _levels("highest_density", level, len(flat))
    out = density_threshold(flat, levels)
    found = xr.DataArray(out, dims=("level", *rest), coords={"level": levels}, name="log_prob_threshold")
    found = found.assign_coords({d: log_prob.coords[d].variable for d in rest if d in log_prob.coords})
    error = float(np.sqrt(levels * (1 - levels) / len(flat)).max())
    return (found if np.ndim(level) else found.isel(level=0)).assign_attrs(coverage_error=error)


def shortest_interval(draws: xr.DataTree | xr.Dataset, level: float = 0.9) -> xr.Dataset:
    """The shortest interval of every number that holds a share `level` of its draws; of functions, point by point.

    Args:
        draws: what `sample` returned, its parameters meant, or a Dataset with the dims `chain` and `draw`.
        level: in (0, 1).

    Returns:
        A Dataset of the variables, with `end` ("lower", "upper") in the place of `chain` and `draw`.

    Raises:
        KeyError, ValueError: no draws; NaN among them; a level outside of (0, 1), or one that so few draws cannot tell.
    """
    if isinstance(draws, xr.DataTree):
        group = next((g for g in ("posterior", "prior") if g in draws.children), None)
        if group is None:
            raise KeyError(f"shortest_interval: no group 'posterior' or 'prior' among {list(draws.children)}.")
        draws = draws[group].to_dataset()
    if not isinstance(draws, xr.Dataset) or not len(draws.data_vars):
        raise ValueError(f"shortest_interval: expected a Dataset or DataTree of draws, got {type(draws).__name__}.")
    out = {}
    for name, x in draws.data_vars.items():
        flat, rest = _flat(f"shortest_interval: {name!r}", x)
        (p,) = _levels("shortest_interval", level, len(flat))
        coords = {k: c.variable for k, c in x.coords.items() if not set(c.dims) & set(_SAMPLE_DIMS)}
        ends = shortest(flat, float(p))
        out[name] = xr.DataArray(ends, dims=("end", *rest), coords={**coords, "end": ["lower", "upper"]}, attrs=x.attrs)
    return xr.Dataset(out, attrs={"level": float(level)})


def density_threshold(log_prob: Array, levels: Array) -> Array:
    """t_p, (levels, ...), of log densities (n, ...): of draws sorted by density the one of number ⌈p n⌉ from the top.

    A further draw of the law lies in that region with probability ⌈p n⌉/(n + 1), whatever the law.
    """
    down = -np.sort(-log_prob, axis=0)
    held = np.ceil(levels * len(down) - 1e-9).astype(int)
    return np.asarray(down[held - 1], dtype=np.float64)


def shortest(x: Array, level: float) -> Array:
    """(2, ...): lower and upper ends of the shortest interval that holds ⌈level · n⌉ of the draws (n, ...)."""
    rising, n = np.sort(x, axis=0), len(x)
    held = int(np.ceil(level * n - 1e-9))
    width = rising[held - 1 :] - rising[: n - held + 1]
    first = width.argmin(0)[None]
    ends = [np.take_along_axis(rising, first + k, axis=0)[0] for k in (0, held - 1)]
    return np.asarray(np.stack(ends), dtype=np.float64)


def _flat(what: str, x: xr.DataArray) -> tuple[Array, list[str]]:
    """Draws first, (n, ...), and the names of the other dims."""
    if not isinstance(x, xr.DataArray) or not set(_SAMPLE_DIMS) <= set(x.dims):
        got = f"dims {x.dims}" if isinstance(x, xr.DataArray) else type(x).__name__
        raise ValueError(f"{what}: expected a DataArray with the dims 'chain' and 'draw', got {got}.")
    rest = [str(d) for d in x.dims if d not in _SAMPLE_DIMS]
    flat = x.transpose(*_SAMPLE_DIMS, *rest).to_numpy().astype(np.float64)
    flat = flat.reshape(-1, *flat.shape[2:])
    if wrong := int(np.isnan(flat).sum()):
        raise ValueError(f"{what}: {wrong} of {flat.size} values are NaN.")
    return flat, rest


def _levels(what: str, level: float | Sequence[float], n: int) -> Array:
    levels = np.atleast_1d(np.asarray(level, dtype=np.float64))
    if levels.ndim > 1 or not ((levels > 0) & (levels < 1)).all():
        raise ValueError(f"{what}: expected a level between 0 and 1, or some, got {level!r}.")
    if n * float(np.minimum(levels, 1 - levels).min()) < 1 - 1e-9:
        raise ValueError(f"{what}: {n} draws cannot tell a region of level {level!r}; draw more.")
    return levels
