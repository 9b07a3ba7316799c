"""Pictures of a check: what should lie in a band, and the band, which holds all of it at once with probability .95.

Every function takes a group of the DataTree that `Joint.check` returns and draws into the Axes it is given, or into a
Figure of its own; no pyplot, no global state. Curves that leave their band are drawn thick in vermilion and named, the
others thin and grey: what is fine needs no legend.

Needs matplotlib: pip install 'fsimformer[plots]'.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fsimformer.plots import COLORS, INK, SMALL, SMALLER

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'fsimformer[plots]'.") from error

GREY = "#8a8a8a"
TITLES = {
    "sbc": "Ranks of the truth among the draws",
    "coverage": "Coverage of highest-density regions",
    "tarp": "TARP: balls about random points",
    "scores": "Scores of the truth against those of draws",
    "local": "L-C2ST at single data sets",
    "predictive": "Readings that were held out",
}
_EDGE = 1e-9


def ecdf_difference(group: xr.Dataset, ax: Axes | None = None, quantities: Sequence[str] | None = None) -> Axes:
    """ECDF minus diagonal of ranks, levels or p-values, one curve a quantity, and the simultaneous band.

    A hump above the axis and then below: too narrow; below and then above: too wide; all on one side: shifted.

    Args:
        group: `sbc`, `coverage` or `predictive` of a check.
        quantities: of them; None = all.

    Raises:
        KeyError: no such group, or quantities that it does not hold.
    """
    held = [str(q) for q in group["quantity"].to_numpy()] if "quantity" in group.dims else [""]
    if unknown := [q for q in quantities or () if q not in held]:
        raise KeyError(f"ecdf_difference: no quantities {unknown}; the check holds {held}.")
    ax = _axes(ax, (5, 2.8))
    z, named = group["z"].to_numpy(), 0
    bands: dict[bytes, None] = {}  # one for all, unless quantities are of different numbers of data sets
    for name in quantities or held:
        one = group.sel(quantity=name) if name else group
        ecdf, lower, upper = (one[k].to_numpy() for k in ("ecdf", "lower", "upper"))
        left = bool(((ecdf < lower - _EDGE) | (ecdf > upper + _EDGE)).any())
        if lower.tobytes() not in bands:
            alpha = 0.2 if not bands else 0.04
            ax.fill_between(z, lower - z, upper - z, step="mid", color=COLORS[0], alpha=alpha, linewidth=0)
            bands[lower.tobytes()] = None
        color = COLORS[1:][named % (len(COLORS) - 1)] if left else GREY
        ax.step(z, ecdf - z, where="mid", color=color, linewidth=1.6 if left else 0.7, zorder=3 if left else 2)
        if left:
            worst = int(np.argmax(np.maximum(lower - ecdf, ecdf - upper)))
            ax.annotate(name or "outside", (z[worst], ecdf[worst] - z[worst]), fontsize=SMALLER - 1, color=color)
            named += 1
    ax.axhline(0, color=INK, linewidth=0.6)
    ax.set_xlabel("rank / draws" if "rank" in group else "level", fontsize=SMALL)
    ax.set_ylabel("ECDF − diagonal", fontsize=SMALL)
    return _plain(ax)


def expected_coverage(group: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Share of data sets whose truth lies in the region of each level, with its simultaneous band.

    Of `coverage` the band is that of uniform levels, about the diagonal; of `tarp` a bootstrap band about the curve.
    Below the diagonal: overconfident.

    Raises:
        KeyError: a group that holds no curve.
    """
    ax = _axes(ax, (2.8, 2.8))
    z, ecdf = group["z"].to_numpy(), group["ecdf"].to_numpy()
    ax.fill_between(z, group["lower"].to_numpy(), group["upper"].to_numpy(), color=COLORS[0], alpha=0.2, linewidth=0)
    ax.plot([0, 1], [0, 1], color=INK, linewidth=0.6)
    ax.plot(z, ecdf, color=COLORS[1], linewidth=1.6)
    if "share" in group:
        share, error = group["share"].to_numpy(), group["standard_error"].to_numpy()
        ax.errorbar(group["nominal"].to_numpy(), share, 2 * error, fmt="o", markersize=3, color=INK, linewidth=0.8)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_xlabel("credibility level", fontsize=SMALL)
    ax.set_ylabel("share that holds the truth", fontsize=SMALL)
    return _plain(ax)


def scores(group: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Mean score of the truth less its expectation, in standard deviations; a band for all quantities together.

    Right: draws too narrow or elsewhere; left: too wide.
    """
    held = [str(q) for q in group["quantity"].to_numpy()]
    ax = _axes(ax, (4, 0.6 + 0.25 * len(held)))
    x, y = group["standardised"].to_numpy(), np.arange(len(held))[::-1]
    width = _two_sided(0.05 / len(held))
    ax.axvspan(-width, width, color=COLORS[0], alpha=0.2, linewidth=0)
    ax.axvline(0, color=INK, linewidth=0.6)
    ax.scatter(x, y, s=18, color=[COLORS[1] if abs(v) > width else GREY for v in x], zorder=3)
    ax.set_yticks(y, held)
    ax.set_xlabel("score of the truth − expected [sd]", fontsize=SMALL)
    return _plain(ax)


def local(group: xr.Dataset, ax: Axes | None = None) -> Axes:
    """t of L-C2ST at each data set, and the range of its null distribution, simultaneous over the data sets."""
    t, null = group["statistic"].to_numpy(), group["null"].to_numpy()
    ax = _axes(ax, (4, 0.8 + 0.25 * len(t)))
    y = np.arange(len(t))[::-1]
    ax.hlines(y, 0, null[-1], color=COLORS[0], alpha=0.25, linewidth=9)
    ax.scatter(null[0], y, marker="|", s=60, color=COLORS[0])
    ax.scatter(t, y, s=18, color=[COLORS[1] if a > b else GREY for a, b in zip(t, null[-1])], zorder=3)
    ax.set_yticks(y, [f"data set {i}" for i in group["data_set"].to_numpy()])
    ax.set_xlim(left=0)
    ax.set_xlabel("t = mean (d − ½)²", fontsize=SMALL)
    return _plain(ax)


def figures(tree: xr.DataTree) -> dict[str, Figure]:
    """A figure for each group of a check, by the group's name.

    Raises:
        KeyError: a tree without the groups of a check.
    """
    if "tests" not in tree.children:
        raise KeyError(f"figures: expected the DataTree of a check, got the groups {list(tree.children)}.")
    out = {}
    for name, draw in (
        ("sbc", ecdf_difference),
        ("coverage", expected_coverage),
        ("tarp", expected_coverage),
        ("scores", scores),
        ("local", local),
        ("predictive", ecdf_difference),
    ):
        if name in tree.children:
            ax = draw(tree[name].to_dataset())
            ax.set_title(TITLES[name], fontsize=SMALL, color=INK, loc="left")
            assert isinstance(ax.figure, Figure)
            out[name] = ax.figure
    return out


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return Figure(figsize=size, layout="constrained").subplots() if ax is None else ax


def _two_sided(p: float) -> float:
    """z with P(|Z| > z) = p, by bisection."""
    from math import erfc, sqrt

    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if erfc(middle / sqrt(2)) > p else (low, middle)
    return low


def _plain(ax: Axes) -> Axes:
    ax.tick_params(labelsize=SMALLER)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
