"""The command `fsimformer plot`: pictures of draws that were saved, without drawing again.

As in cli.py heavy imports wait until the command needs them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsimformer.beside import replaced
from fsimformer.cli_command import add_command, check_picture, once
from fsimformer.files import ARRAYS, read_tree

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure


def add_plot(commands: Any) -> None:
    """Its parser."""
    plot = add_command(
        commands,
        "plot",
        _plot,
        "draw a picture of saved draws",
        [
            "fsimformer plot posterior.nc --out figure.png",
            "fsimformer plot posterior.nc --kind bands --variables contact_rate,infected --out bands.pdf",
            "fsimformer plot posterior.nc --kind pairs --variables alpha,beta --truth alpha=0.55 --out pairs.png",
            "fsimformer plot regions.nc --sel region=north --out north.png",
        ],
    )
    plot.add_argument("draws", type=Path, help=f"what `infer --out` wrote: {', '.join(ARRAYS)}")
    plot.add_argument(
        "--kind",
        choices=("page", "bands", "marginals", "pairs"),
        default="page",
        help="page: everything; bands of functions and series; marginals of scalars, or their pairs (default: page)",
    )
    plot.add_argument("--variables", metavar="A,B", help="these alone (default: all that the kind can show)")
    plot.add_argument(
        "--sel", action="append", default=[], metavar="DIM=LABEL", help="of many data sets this one, by its label"
    )
    plot.add_argument(
        "--truth", action="append", default=[], metavar="NAME=VALUE", help="mark this value, in marginals and pairs"
    )
    plot.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="the picture (png, pdf or svg)")


def _plot(args: argparse.Namespace) -> None:
    from fsimformer import plots  # before the work: without matplotlib there is no picture

    check_picture(args.out)
    tree = _picked(read_tree(args.draws), args.sel)
    held = plots.names(tree)
    if not held:
        raise ValueError(f"{args.draws}: no draws in it; expected a file that `fsimformer infer --out` wrote.")
    wanted = None if args.variables is None else args.variables.split(",")
    if strange := [name for name in wanted or () if name not in held]:
        raise KeyError(f"--variables: no draws of {strange}. Variables: {held}.")
    from fsimformer.plots_pairs import scalars

    truth, markable = once("--truth", [(text, *_number(text)) for text in args.truth]), list(scalars(tree))
    if truth and args.kind not in ("marginals", "pairs"):
        raise ValueError(f"--truth: expected --kind marginals or pairs, got {args.kind}.")
    if strange := [name for name in truth if name not in markable]:
        raise KeyError(f"--truth: no scalars {strange}. Scalars: {markable}.")
    with replaced(args.out) as part:
        _page(tree, args.kind, wanted, truth).savefig(part)


def _page(tree: xr.DataTree, kind: str, wanted: Sequence[str] | None, truth: dict[str, float]) -> Figure:
    from matplotlib.figure import Figure

    from fsimformer import plots
    from fsimformer.plots_pairs import pairs, scalars

    if kind == "page":
        if wanted is not None:
            tree = tree.map_over_datasets(lambda d: d[[k for k in d.data_vars if k in wanted]])
        return plots.figure(tree)
    if kind == "pairs":
        return pairs(tree, wanted, truth=truth)
    is_scalar = dict.fromkeys(k.split("[")[0] for k in scalars(tree))  # and vectors as wholes
    if kind == "marginals":
        names = list(wanted or is_scalar)
        page = Figure(figsize=(2.4 * min(len(names), 3), 2.0 * -(-len(names) // 3)), layout="constrained", dpi=150)
        grid = list(page.subplots(-(-len(names) // 3), min(len(names), 3), squeeze=False).flat) if names else []
        for ax in grid[len(names) :]:
            ax.remove()
        for name, ax in zip(names, grid, strict=False):
            plots.marginal(tree, name, ax)
            for mark in (x for k, x in truth.items() if k.split("[")[0] == name):
                ax.axvline(mark, color=plots.INK, linestyle="--", linewidth=1)
    else:
        names = list(wanted or (k for k in plots.names(tree) if k not in is_scalar))
        page = Figure(figsize=(7.2, 2.1 * max(len(names), 1)), layout="constrained", dpi=150)
        for i, name in enumerate(names):
            ax = page.add_subplot(len(names), 1, i + 1)
            plots.bands(tree, name, ax, color=plots.COLORS[i % len(plots.COLORS)])
            ax.legend(fontsize=plots.SMALLER, frameon=False, ncols=4)
    if not names:
        raise ValueError(f"--kind {kind}: nothing of this kind among {plots.names(tree)}.")
    return page


def _picked(tree: xr.DataTree, given: Sequence[str]) -> xr.DataTree:
    """One data set of many: labels as text, as they are printed."""
    for text in given:
        dim, equals, label = text.partition("=")
        groups = [g for g in tree.children.values() if dim in g.coords]
        if not equals or not groups:
            dims = sorted({str(d) for g in tree.children.values() for d in g.dims} - {"chain", "draw"})
            raise KeyError(f"--sel {text}: expected DIM=LABEL, DIM of {dims}.")
        labels = [str(x) for x in groups[0][dim].to_numpy()]
        if label not in labels:
            raise KeyError(f"--sel {text}: no such label. Labels: {labels[:20]}.")
        tree = tree.isel({dim: labels.index(label)})
    return tree


def _number(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise ValueError(f"--truth {text}: expected NAME=VALUE, a number.") from None
