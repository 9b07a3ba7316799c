"""The panels of a page: a function's bands with its readings, a scalar's density."""

from __future__ import annotations

from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, CustomJS, CustomJSTickFormatter, PointDrawTool, Range1d
from bokeh.plotting import figure

from fsimformer.explorer.board import Board

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # as in plots.py
BAND = ("low", "inner_low", "middle", "inner_high", "high")  # columns of `bands`, in the order of picture.BANDS
_INK = "#222222"
_SEND = "live.data = {x: Array.from(source.data.x), y: Array.from(source.data.y)}"


def empty() -> dict[str, Any]:
    """No points: lists, to which the browser's tool can append."""
    return {"x": [], "y": []}


def series_panel(
    name: str,
    label: str,
    color: str,
    readings: ColumnDataSource,
    live: ColumnDataSource,
    bands: ColumnDataSource,
    curves: ColumnDataSource,
) -> Any:
    """A function's figure, whose readings can be moved, added and removed.

    Args:
        label: of the index.
        readings: the tool's; it comes back from the browser when a hand lets go. live: a copy at every move.
        bands: x and the columns `BAND`. curves: lists of lists.
    """
    p: Any = figure(width=660, height=220, tools="", x_range=Range1d(), y_range=Range1d(), name=f"figure:{name}")
    p.varea("x", "low", "high", source=bands, color=color, alpha=0.18)
    p.varea("x", "inner_low", "inner_high", source=bands, color=color, alpha=0.3)
    p.multi_line("x", "y", source=curves, color=color, alpha=0.5, line_width=0.7)
    p.line("x", "middle", source=bands, color=color, line_width=2)
    dots = p.scatter("x", "y", source=readings, size=9, color=_INK, alpha=0.9)
    tool = PointDrawTool(renderers=[dots], add=True, drag=True)
    p.add_tools(tool)
    p.toolbar.active_tap = p.toolbar.active_drag = tool
    p.toolbar.logo = None
    p.js_on_event("pan", CustomJS(args={"source": readings, "live": live}, code=_SEND))
    p.xaxis.axis_label, p.yaxis.axis_label = label, name
    return p


def density_panel(name: str, density: ColumnDataSource) -> Any:
    """A scalar's figure."""
    p: Any = figure(width=300, height=110, tools="", y_range=Range1d(), name=f"figure:{name}")
    p.varea("x", 0, "y", source=density, color=COLORS[0], alpha=0.4)
    p.line("x", "y", source=density, color=COLORS[0])
    p.yaxis.visible, p.toolbar.logo, p.xaxis.axis_label = False, None, name
    return p


def ticks(board: Board, name: str) -> CustomJSTickFormatter | None:
    """Index numbers written as dates, where dates came in."""
    if board.origin is None:
        return None
    zero = board.origin.astype("datetime64[ms]").astype(np.int64).item()
    code = "return new Date(zero + tick * unit).toISOString().slice(0, 10)"
    return CustomJSTickFormatter(args={"zero": zero, "unit": 1e3 * board.unit(name)}, code=code)
