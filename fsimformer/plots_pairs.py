"""Every two scalars of a posterior against each other: what marginals cannot show is what hangs together.

Below the diagonal the draws of two parameters, on it their histograms. Needs matplotlib, as plots.py does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from fsimformer.groups import GROUPS
from fsimformer.plots import COLORS, INK, SAMPLE_DIMS, SMALL, SMALLER, index_of

_MOST_DRAWS = 1_000  # dots in a panel: more are a blot
_MOST = 12


def scalars(tree: xr.DataTree) -> dict[str, np.ndarray]:
    """Draws (n,) of every scalar, and of every component of a vector as name[i], in the order of the groups."""
    out: dict[str, np.ndarray] = {}
    for group in (g for g in GROUPS if g in tree.children):
        for name, draws in tree[group].data_vars.items():
            if str(name) in out or draws.ndim > len(SAMPLE_DIMS) + 1 or index_of(draws) is not None:
                continue
            if any(c.ndim and c.name not in draws.dims for c in draws.coords.values()):
                continue  # a function at points that have several coordinates
            parts = draws.transpose(*SAMPLE_DIMS, ...).to_numpy().reshape(-1, draws[0, 0].size).T
            if draws.ndim == len(SAMPLE_DIMS):
                out[str(name)] = parts[0]
            else:
                out |= {f"{name}[{i}]": x for i, x in enumerate(parts)}
    return out


def pairs(
    tree: xr.DataTree,
    variables: Sequence[str] | None = None,
    *,
    truth: Mapping[str, float] | None = None,
    prior: xr.DataTree | None = None,
    color: str = COLORS[0],
) -> Figure:
    """A figure of panels, one for every two scalars.

    Args:
        tree: what `sample` returned.
        variables: scalars, vectors (all components) or single components as name[i]; None: all, at most 12.
        truth: values to mark, by the same names.
        prior: a tree of prior draws, shown in grey behind.
        color: of the draws.

    Raises:
        KeyError: no such scalar. ValueError: none at all, or more than 12.
    """
    held = scalars(tree)
    wanted = list(held) if variables is None else [k for v in variables for k in _components(v, held)]
    if not wanted or len(wanted) > _MOST:
        raise ValueError(f"pairs: expected 1 to {_MOST} scalars, got {len(wanted)} of {list(held)}.")
    if strange := [k for k in truth or {} if k not in held]:
        raise KeyError(f"pairs: no scalar {strange} to mark. Scalars: {list(held)}.")
    before = {} if prior is None else scalars(prior)
    n = len(wanted)
    page = Figure(figsize=(min(1.0 + 1.5 * n, 9.0),) * 2, layout="constrained", dpi=150)
    grid = page.subplots(n, n, squeeze=False)
    for i, below in enumerate(wanted):
        for j, left in enumerate(wanted):
            ax = grid[i, j]
            if j > i:
                ax.remove()
                continue
            low, high = _span(held[left], (truth or {}).get(left))
            if i == j:
                if left in before:
                    ax.hist(before[left], bins=30, range=(low, high), density=True, color="0.75")
                ax.hist(held[left], bins=30, range=(low, high), density=True, color=color, alpha=0.8)
                ax.set_yticks([])
            else:
                rows = np.linspace(0, len(held[left]) - 1, min(len(held[left]), _MOST_DRAWS)).astype(int)
                if left in before and below in before:
                    ax.scatter(before[left], before[below], s=2, color="0.75", linewidth=0)
                ax.scatter(held[left][rows], held[below][rows], s=3, color=color, alpha=0.4, linewidth=0)
                ax.set_ylim(*_span(held[below], (truth or {}).get(below)))
            ax.set_xlim(low, high)
            if left in (truth or {}):
                ax.axvline((truth or {})[left], color=INK, linestyle="--", linewidth=0.9)
            if i != j and below in (truth or {}):
                ax.axhline((truth or {})[below], color=INK, linestyle="--", linewidth=0.9)
            ax.tick_params(labelsize=SMALLER - 1, labelbottom=i == n - 1, labelleft=j == 0 and i > 0)
            ax.spines[["top", "right"]].set_visible(False)
            if i == n - 1:
                ax.set_xlabel(left.replace("_", " "), fontsize=SMALL)
            if j == 0 and i > 0:
                ax.set_ylabel(below.replace("_", " "), fontsize=SMALL)
    return page


def _components(name: str, held: Mapping[str, np.ndarray]) -> list[str]:
    found = [k for k in held if k == name or k.startswith(f"{name}[")]
    if not found:
        raise KeyError(f"pairs: no scalar {name!r}. Scalars: {list(held)}.")
    return found


def _span(x: np.ndarray, mark: float | None) -> tuple[float, float]:
    """The central 99 % of the draws, and what is marked."""
    low, high = (float(q) for q in np.quantile(x, [0.005, 0.995]))
    low, high = (low, high) if mark is None else (min(low, mark), max(high, mark))
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad
