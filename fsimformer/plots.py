"""Pictures of a posterior: bands of functions and series with the data on them, marginals of the rest.

Every function takes the `xarray.DataTree` that `sample` returns and draws into the Axes it is given, or into a Figure
of its own; there is no pyplot and no global state. A band of level p spans the quantiles (1 − p)/2 and (1 + p)/2 of the
draws at each index point (pointwise, not simultaneous).

Needs matplotlib: pip install 'fsimformer[plots]'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

try:
    from matplotlib.axes import Axes
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure, FigureBase
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'fsimformer[plots]'.") from error

from fsimformer.groups import GROUPS

# Okabe and Ito's colours: told apart by colour-blind readers and in grey
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK = "#222222"
SAMPLE_DIMS = ("chain", "draw")
FUNCTIONS = "functions"  # the group that functions with a reference set leave
CURVES = 8  # single draws of a function on a page: more hide the band
SMALL, SMALLER = 9, 8  # points, on a figure as wide as a page of text


def names(tree: xr.DataTree) -> list[str]:
    """Every variable that was sampled, in the order of the groups."""
    found = [str(v) for g in GROUPS if g in tree.children for v in tree[g].data_vars]
    return list(dict.fromkeys(found))


def index_of(array: xr.DataArray) -> xr.DataArray | None:
    """The index points (N,) of a function's draws or readings; None for scalars, vectors and several index dims.

    The one coordinate of the one dim besides chain and draw, if it holds numbers or dates: a vector's components have
    no coordinate, or text.
    """
    own = [d for d in array.dims if d not in SAMPLE_DIMS]
    along = [c for c in array.coords.values() if len(own) == 1 and c.dims == (own[0],)]
    found = [c for c in along if c.dtype.kind in "iufmM" or (c.size and hasattr(c.values[0], "calendar"))]
    return found[0] if len(found) == 1 else None


def quantiles(tree: xr.DataTree, variable: str, probabilities: Sequence[float]) -> tuple[xr.DataArray, np.ndarray]:
    """Pointwise quantiles of a function's or a series' draws.

    Where a series was sampled at observed points (`posterior_predictive`) and at new ones (`predictions`), both are
    joined in the order of the index.

    Args:
        tree: what `sample` returned.
        variable: a function or a series on one index dim.
        probabilities: P numbers in [0, 1].

    Returns:
        the index points (N,) in rising order, and the quantiles (P, N) in the variable's units.

    Raises:
        KeyError: the tree has no draws of the variable.
        ValueError: it is no function of one index dim, or holds several data sets.
    """
    at, draws = _curves(tree, variable)
    return at, np.quantile(draws, probabilities, axis=0)


def _curves(tree: xr.DataTree, variable: str) -> tuple[xr.DataArray, np.ndarray]:
    """The index points (N,) in rising order, and every draw there, (n, N)."""
    index, values = [], []
    for part in _draws(tree, variable):
        points = index_of(part)
        if points is None:
            raise ValueError(
                f"{variable!r} has the dims {tuple(map(str, part.dims))}; expected chain, draw and one index dim. "
                "Of several data sets pick one first (isel, or --sel DIM=LABEL); `marginal` draws scalars and vectors."
            )
        padding = points.isnull().to_numpy()  # what one of several ragged data sets lacks
        index.append(points[~padding])
        draws = part.transpose(*SAMPLE_DIMS, ...).to_numpy()[..., ~padding]
        values.append(draws.reshape(-1, draws.shape[-1]))
    at = np.concatenate([i.to_numpy() for i in index])
    order = np.argsort(at, kind="stable")
    name = str(index[0].name).removesuffix(f"_{variable}")
    return xr.DataArray(at[order], dims="point", name=name, attrs=index[0].attrs), np.concatenate(values, 1)[:, order]


def bands(
    tree: xr.DataTree,
    variable: str,
    ax: Axes | None = None,
    levels: Sequence[float] = (0.5, 0.9),
    curves: int = 0,
    observed: bool = True,
    held_out: xr.DataArray | None = None,
    color: str = COLORS[0],
) -> Axes:
    """Median and bands of a function or a series over its index.

    Args:
        tree: what `sample` returned.
        variable: a function or a series on one index dim.
        ax: where to draw; None: a Figure of its own (`ax.figure`).
        levels: probabilities of the bands.
        curves: so many single draws are drawn as lines, evenly spread over all: what a band cannot show is which
            values belong together.
        observed: mark what was conditioned on, if anything.
        held_out: readings the model has not seen, drawn as open circles; NaN is left out.
        color: of the bands.

    Raises:
        KeyError, ValueError: as `quantiles`; a level outside (0, 1); dates on one side, numbers on the other.
    """
    widest_first = sorted(levels, reverse=True)
    if not all(0 < p < 1 for p in widest_first):
        raise ValueError(f"levels: expected probabilities in (0, 1), got {tuple(levels)}.")
    tails = [q for p in widest_first for q in ((1 - p) / 2, (1 + p) / 2)]
    index, draws = _curves(tree, variable)
    q = np.quantile(draws, [0.5, *tails], axis=0)
    if not 0 <= curves <= len(draws):
        raise ValueError(f"curves: expected 0 to {len(draws)} of the draws, got {curves!r}.")
    ax = Figure(figsize=(5, 2.6), layout="constrained").subplots() if ax is None else ax
    x = _plottable(index.to_numpy())
    seen = _observed(tree, variable) if observed else None
    for readings in (seen, held_out):
        where = None if readings is None else index_of(readings)
        if where is not None and (_plottable(where.to_numpy()).dtype.kind == "M") != (x.dtype.kind == "M"):
            raise ValueError(f"{variable!r}: dates on one side and numbers on the other; ask for dates in `at`.")
    for i, p in enumerate(widest_first):
        shade, label = 0.18 + 0.3 * (i / max(len(widest_first) - 1, 1)), f"{100 * p:g} %"
        if len(x) == 1:  # a band of no width
            ax.vlines(x, q[1 + 2 * i], q[2 + 2 * i], color=color, alpha=shade, linewidth=6, label=label)
        else:
            ax.fill_between(x, q[1 + 2 * i], q[2 + 2 * i], color=color, alpha=shade, linewidth=0, label=label)
    for i, one in enumerate(draws[np.arange(curves) * len(draws) // curves] if curves else ()):
        ax.plot(x, one, color=color, linewidth=0.5, alpha=0.7, label=None if i else "draws")
    ax.plot(x, q[0], color=color, linewidth=1.4, marker="_" if len(x) == 1 else None, markersize=12, label="median")
    if x.dtype.kind == "M":  # whole dates would run into each other
        locator = AutoDateLocator(maxticks=7)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    if seen is not None:
        _dots(ax, seen, label="observed", facecolor=INK)
    if held_out is not None:
        _dots(ax, held_out, label="held out", facecolor="white")
    ax.set_xlabel(_label(str(index.name), index.attrs), fontsize=SMALL)
    ax.set_ylabel(_label(variable, _draws(tree, variable)[0].attrs), fontsize=SMALL)
    return _plain(ax)


def marginal(tree: xr.DataTree, variable: str, ax: Axes | None = None, level: float = 0.9) -> Axes:
    """Histogram of a scalar's draws, or of each component of a vector, with median and equal-tailed interval.

    The panel spans the central 99 % of the draws: a heavy tail must not squeeze all the rest into one bar.

    Args:
        tree: what `sample` returned.
        variable: a scalar or a vector.
        ax: where to draw; None: a Figure of its own (`ax.figure`).
        level: probability of the interval that is written above the panel.

    Raises:
        KeyError, ValueError: no such draws; a function.
    """
    draws = _draws(tree, variable)[0]
    if index_of(draws) is not None or draws.ndim > len(SAMPLE_DIMS) + 1:
        raise ValueError(f"{variable!r} has the dims {tuple(map(str, draws.dims))}; functions are drawn by `bands`.")
    ax = Figure(figsize=(2.6, 2.0), layout="constrained").subplots() if ax is None else ax
    components = draws.transpose(*SAMPLE_DIMS, ...).to_numpy().reshape(-1, draws[0, 0].size).T
    for i, x in enumerate(components):
        low, median, high = np.quantile(x, [(1 - level) / 2, 0.5, (1 + level) / 2])
        color = COLORS[i % len(COLORS)]
        label = None if len(components) == 1 else str(i)
        edges = np.histogram_bin_edges(x, 40, tuple(np.quantile(x, [0.005, 0.995])))
        density = np.full(x.size, 1 / (x.size * (edges[1] - edges[0])))  # of all draws, those beyond the edges included
        ax.hist(x, edges.tolist(), weights=density, histtype="stepfilled", color=color, alpha=0.45, label=label)
        ax.axvline(median, color=color, linewidth=1.4)
        ax.hlines(0, low, high, color=color, linewidth=4)
        if len(components) == 1:
            ax.set_title(f"{median:.3g}  [{low:.3g}, {high:.3g}]", fontsize=SMALLER, color=INK)
    ax.set_yticks([])
    ax.set_ylim(bottom=0)
    ax.set_xlabel(_label(variable, draws.attrs), fontsize=SMALL)
    ax.spines["left"].set_visible(False)
    return _plain(ax)


def posterior(tree: xr.DataTree, axes: Sequence[Axes] | None = None, level: float = 0.9) -> list[Axes]:
    """The marginals of every scalar and vector parameter, one panel each.

    Args:
        tree: what `sample` returned.
        axes: as many as there are such parameters, or more; None: a Figure of their own.
        level: probability of the interval.

    Raises:
        ValueError: too few axes, or no such parameter.
    """
    scalars = _scalars(tree)
    if not scalars:
        raise ValueError(f"Expected a scalar or vector among the draws, got {names(tree)}.")
    if axes is None:
        page = Figure(figsize=(7.2, 1.7 * -(-len(scalars) // 4)), layout="constrained")
        axes = _grid(page, len(scalars), 4)
    if len(axes) < len(scalars):
        raise ValueError(f"Expected {len(scalars)} axes for {scalars}, got {len(axes)}.")
    return [marginal(tree, name, ax, level) for name, ax in zip(scalars, axes)]


def figure(tree: xr.DataTree, held_out: Mapping[Any, xr.DataArray] | None = None) -> Figure:
    """Everything on a page: bands of the functions and series, below them the marginals of the other parameters.

    Of functions with a reference set, whose draws are functions, some draws are drawn as well.

    Args:
        tree: what `sample` returned.
        held_out: readings the model has not seen, by variable.

    Raises:
        ValueError: nothing was sampled; a function of several index dims, or several data sets.
    """
    scalars = _scalars(tree)
    functions = [name for name in names(tree) if index_of(_draws(tree, name)[0]) is not None]
    if not names(tree):
        raise ValueError("There are no draws in this tree.")
    if left := [name for name in names(tree) if name not in (*scalars, *functions)]:
        dims = tuple(map(str, _draws(tree, left[0])[0].dims))
        raise ValueError(
            f"{left[0]!r} has the dims {dims}: no panel shows that. Of several data sets, or of a function of several "
            "index dims, pick one first (isel, or --sel DIM=LABEL)."
        )
    columns = 1 if len(functions) <= 2 else 2
    heights = [2.1 * -(-len(functions) // columns), 1.6 * -(-len(scalars) // 4)]
    page = Figure(figsize=(7.2, sum(heights)), layout="constrained", dpi=150)
    rooms = [h for h in heights if h > 0]
    blocks = list(page.subfigures(len(rooms), 1, height_ratios=rooms, squeeze=False)[:, 0])
    if functions:
        unseen = {} if held_out is None else held_out
        whole = tree[FUNCTIONS].data_vars if FUNCTIONS in tree.children else ()
        for i, (name, ax) in enumerate(zip(functions, _grid(blocks[0], len(functions), columns))):
            few = min(CURVES, tree[FUNCTIONS].sizes["chain"] * tree[FUNCTIONS].sizes["draw"]) if name in whole else 0
            bands(tree, name, ax, curves=few, held_out=unseen.get(name), color=COLORS[i % len(COLORS)])
            _legend_above(ax)
    if scalars:
        posterior(tree, _grid(blocks[-1], len(scalars), 4))
    return page


def _scalars(tree: xr.DataTree) -> list[str]:
    """Scalars and vectors; a vector's components have no coordinate of their own but their dim's."""
    found = {name: _draws(tree, name)[0] for name in names(tree)}
    return [
        name
        for name, draws in found.items()
        if draws.ndim <= len(SAMPLE_DIMS) + 1
        and index_of(draws) is None
        and all(c.name in draws.dims for c in draws.coords.values() if c.ndim)
    ]


def _grid(page: FigureBase, n: int, columns: int) -> list[Axes]:
    """n panels, `columns` a row; what is left of the last row stays empty."""
    columns = min(n, columns)
    grid = list(page.subplots(-(-n // columns), columns, squeeze=False).flat)
    for ax in grid[n:]:
        ax.remove()
    return grid[:n]


def _draws(tree: xr.DataTree, variable: str) -> list[xr.DataArray]:
    """The draws of a variable in each group that has some."""
    found = [tree[g].to_dataset()[variable] for g in GROUPS if g in tree.children and variable in tree[g].data_vars]
    if not found:
        raise KeyError(f"No draws of {variable!r}. Variables: {names(tree)}.")
    return found[:1] if "posterior" in tree.children and variable in tree["posterior"].data_vars else found


def _observed(tree: xr.DataTree, variable: str) -> xr.DataArray | None:
    if "observed_data" not in tree.children or variable not in tree["observed_data"].data_vars:
        return None
    return tree["observed_data"].to_dataset()[variable]


def _dots(ax: Axes, readings: xr.DataArray, label: str, facecolor: str) -> None:
    """Readings (N,) over their index; NaN is left out."""
    index = index_of(readings)
    if index is None:
        raise ValueError(f"{label}: expected readings along one index, got dims {tuple(map(str, readings.dims))}.")
    kept = np.isfinite(readings.to_numpy())
    x, y = _plottable(index.to_numpy()[kept]), readings.to_numpy()[kept]
    ax.scatter(x, y, s=14, facecolor=facecolor, edgecolor=INK, linewidth=0.8, zorder=3, label=label)


def _legend_above(ax: Axes) -> None:
    """Wherever it stood inside the panel, some data set's peak would be there."""
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.97),
        borderaxespad=0.0,
        ncols=5,
        fontsize=SMALLER - 1,
        frameon=False,
        handlelength=1.1,
        columnspacing=0.9,
    )


def _plottable(index: np.ndarray) -> np.ndarray:
    """Matplotlib knows numbers and dates; durations become days, cftime dates their reading on the calendar."""
    if index.dtype.kind == "O":
        return np.array([t.isoformat() for t in index], dtype="datetime64[us]")
    return index / np.timedelta64(1, "D") if index.dtype.kind == "m" else index


def _label(name: str, attrs: Mapping[Any, Any]) -> str:
    text = str(attrs.get("long_name", name.replace("_", " ")))
    return f"{text} [{attrs['units']}]" if "units" in attrs else text


def _plain(ax: Axes) -> Axes:
    ax.tick_params(labelsize=SMALLER)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
