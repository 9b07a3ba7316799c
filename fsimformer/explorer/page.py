"""The page of one browser tab: figures whose points are dragged, sliders, files in and out.

Bokeh's tool moves a point in the browser. While it moves, the browser sends that series' points at every move of the
mouse (`live`); when it is let go, or a point is added or removed, Bokeh sends them by itself. The first kind asks for a
preview, the second for draws as well.
"""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from bokeh.document import Document
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    CheckboxGroup,
    ColumnDataSource,
    CustomJS,
    Div,
    FileInput,
    Range1d,
    RangeSlider,
    TextInput,
)

from fsimformer.constrained import NONE
from fsimformer.explorer.board import Board
from fsimformer.explorer.newest import Newest, stoppable
from fsimformer.explorer.panels import BAND, COLORS, density_panel, empty, series_panel, ticks
from fsimformer.explorer.picture import (
    MOST,
    Picture,
    Settings,
    fitting,
    of_draws,
    preview,
    prior_quantiles,
    within,
)
from fsimformer.files import NETCDF, TABLE, read_observations, require_netcdf
from fsimformer.joint import Conditional, Joint
from fsimformer.marginals import Fitted
from fsimformer.schema import Index

_FEWEST = 20  # draws that make a picture
_HOW = (
    "Click: add a reading. Drag: move it. Click on it and press Backspace: remove it. While you drag, bands and "
    "densities are quantiles of the probability flow, each marginal by itself (a quick solver, no "
    "draws, no intervals); when you let go, joint draws take their place."
)
_SAVE = """
const bytes = Uint8Array.from(atob(parcel.data.content[0]), c => c.charCodeAt(0))
const link = document.createElement('a')
link.href = URL.createObjectURL(new Blob([bytes]))
link.download = parcel.data.name[0]
link.click()
setTimeout(() => URL.revokeObjectURL(link.href), 1000)
"""


class Page:
    """Fills a document, and keeps it up to date."""

    def __init__(self, doc: Document, joint: Joint, board: Board, settings: Settings) -> None:
        self._doc, self._joint, self._board, self._settings = doc, joint, board, settings
        self._newest = Newest(lambda error: self._post(lambda: self._failed(error)))
        self._slow = stoppable(joint, self._newest.stale)
        self._n = MOST // 2
        self._held: tuple[Board, xr.DataTree] | None = None  # draws, and the board they are of
        self._quiet = False  # the page is written by us, not by its user
        names = board.functions
        self._readings = {k: ColumnDataSource(empty(), name=f"readings:{k}") for k in names}
        self._live = {k: ColumnDataSource(empty(), name=f"live:{k}") for k in names}
        self._bands = {k: ColumnDataSource({c: [] for c in ("x", *BAND)}, name=f"bands:{k}") for k in names}
        self._curves = {k: ColumnDataSource({"x": [], "y": []}, name=f"curves:{k}") for k in names}
        self._densities: dict[str, ColumnDataSource] = {}
        self._sliders: dict[str, RangeSlider] = {}
        self._figures = {k: self._series(k, COLORS[i % len(COLORS)]) for i, k in enumerate(names)}
        self._status = Div(name="status", render_as_text=True, text="")
        self._message = Div(name="message", render_as_text=True, text="", styles={"color": "#B00020"})
        self._parcel = ColumnDataSource({"name": [], "content": []}, name="parcel")
        self._parcel.js_on_change("data", CustomJS(args={"parcel": self._parcel}, code=_SAVE))
        self._used = CheckboxGroup(labels=list(names), active=list(range(len(names))), inline=True, name="used")
        self._used.on_change("active", self._on_used)
        self._file = FileInput(accept=",".join((*TABLE, *NETCDF)), name="file")
        self._file.on_change("filename", lambda attr, old, new: doc.add_next_tick_callback(self._on_file))
        self._download = Button(label="Download draws (netCDF)", disabled=True, name="download")
        self._download.on_click(self._on_download)
        holds = CustomJS(
            args={"parcel": self._parcel}, code=""
        )  # what nothing on the page refers to is not in a document
        self._download.js_on_click(holds)
        script = Button(label="Download script (Python)", name="script")
        script.on_click(lambda: self._send("explore.py", self.script().encode()))
        controls = row(self._file, self._download, script)
        observed = row(Div(text="Observed:"), self._used)
        left = column(*(self._figures[k] for k in names))
        right = column(*(self._scalar(k) for k in self._shown_scalars()))
        doc.add_root(
            column(Div(text=_HOW, width=980), controls, observed, self._message, self._status, row(left, right))
        )
        doc.title = f"fsimformer explore {settings.model}"
        doc.on_session_destroyed(lambda _: self._newest.close())
        self._show_board()
        self._renew(board, released=True)

    def script(self) -> str:
        """Python that draws what the page draws."""
        s = self._settings
        return self._board.script(s.model, s.n, s.points, s.seed, s.quality)

    def _series(self, name: str, color: str) -> Any:
        """A function's figure."""
        index = self._joint.schema.dim(self._joint.schema[name].dims[0])
        assert isinstance(index, Index)
        readings, live = self._readings[name], self._live[name]
        readings.on_change("data", lambda attr, old, new: self._on_points(name, readings, released=True))
        live.on_change("data", lambda attr, old, new: self._on_points(name, live, released=False))
        label = f"{index.name}, {index.units}" if index.units else index.name
        return series_panel(name, label, color, readings, live, self._bands[name], self._curves[name])

    def _shown_scalars(self) -> list[str]:
        """Scalars, and the components of vectors."""
        out = list[str]()
        for v in self._joint.schema.variables:
            if not self._joint.schema.is_function(v.name):
                n = self._joint.schema.n_components(v.name)
                out += [v.name] if n == 1 else [f"{v.name}[{i}]" for i in range(n)]
        return out

    def _scalar(self, name: str) -> Any:
        """A density; for a scalar by itself also its value, if that is known, and an interval."""
        self._densities[name] = ColumnDataSource(empty(), name=f"density:{name}")
        p = density_panel(name, self._densities[name])
        if name not in self._board.scalars:
            return p
        ends = prior_quantiles(self._joint, name, np.array([1e-3, 1 - 1e-3]))
        low, high = float(ends[0]), float(ends[1])
        p.x_range = Range1d(low, high)
        slider = RangeSlider(
            start=low, end=high, value=(low, high), step=(high - low) / 200, format="0.0000", title="between", width=230
        )
        slider.name = f"between:{name}"
        slider.on_change("value", lambda attr, old, new: self._on_interval(name, released=False))
        slider.on_change("value_throttled", lambda attr, old, new: self._on_interval(name, released=True))
        self._sliders[name] = slider
        held = self._board.known.get(name)
        known = TextInput(value="" if held is None else f"{held!r}", placeholder="unknown", title=name, width=90)
        known.name = f"known:{name}"
        known.on_change("value", lambda attr, old, new: self._on_known(name, known, new))
        return row(p, column(known, slider))

    def _on_points(self, name: str, source: ColumnDataSource, released: bool) -> None:
        x, y = source.data["x"], source.data["y"]
        if self._quiet or len(x) != len(y):
            return
        self._change(lambda b: b.put(name, zip(x, y, strict=True)), released)

    def _on_used(self, attr: str, old: Any, new: list[int]) -> None:
        if not self._quiet:
            self._change(lambda b: b.use(b.functions[i] for i in new), released=True)

    def _on_known(self, name: str, field: TextInput, text: str) -> None:
        if self._quiet:
            return
        try:
            value = float(text) if text.strip() else None
        except ValueError:
            self._say(f"{name}: expected a number, or nothing, got {text!r}.")
            return
        self._change(lambda b: b.know(name, value), released=True)

    def _on_interval(self, name: str, released: bool) -> None:
        slider = self._sliders[name]
        if self._quiet:
            return
        low, high = slider.value
        ends = (-np.inf if low <= slider.start else low), (np.inf if high >= slider.end else high)
        if released:
            self._change(lambda b: b.between(name, *ends), released=True)
            return
        try:
            board = self._board.between(name, *ends)
        except (KeyError, ValueError) as error:
            self._say(_text(error))
            return
        if self._held is None or not board.narrows(self._held[0]):
            self._wait("Let go, and it is drawn anew.")
            return
        kept = within(self._held[1], board.constraints())
        if kept.sum() < _FEWEST:
            self._wait(f"{kept.sum()} of the draws lie there: let go, and it is drawn anew.")
            return
        self._show(of_draws(board, self._held[1], self._settings.points, kept), f"{kept.sum()} of the draws lie there")

    def _on_file(self) -> None:
        name = str(self._file.filename)
        if not name:  # cleared below
            return
        schema, ending = self._joint.schema, Path(name).suffix.lower()
        try:
            if ending not in (*TABLE, *NETCDF):
                raise ValueError(f"unknown ending {ending!r}. Choices: {', '.join((*TABLE, *NETCDF))}.")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"upload{ending}"
                path.write_bytes(base64.b64decode(str(self._file.value)))
                found = read_observations(path, [d.name for d in schema.indexes], scalars=schema.scalars)
                board = Board.of(schema, found, self._settings.origin)
            board.condition(self._joint)
        except Exception as error:  # whatever a library makes of a bad file is said, and the page stays as it was
            said = re.sub(r"\S*/(?=upload\.)", "", _text(error))
            self._say(f"{name} was refused: {said}")
        else:
            self._board = board
            self._show_board()
            self._renew(board, released=True)
        self._file.clear()  # the same file may come again, mended

    def _on_download(self) -> None:
        if self._held is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "explore.nc"
            require_netcdf(path)
            self._held[1].to_netcdf(path, engine="h5netcdf")
            self._send(path.name, path.read_bytes())

    def _send(self, name: str, content: bytes) -> None:
        self._parcel.data = {"name": [name], "content": [base64.b64encode(content).decode()]}

    def _change(self, change: Callable[[Board], Board], released: bool) -> None:
        try:
            board = change(self._board)
        except (KeyError, ValueError) as error:
            self._say(_text(error))
            return
        if board != self._board or released:
            self._board = board
            self._renew(board, released)

    def _renew(self, board: Board, released: bool) -> None:
        """Ask for a new picture; what it was before stays until that is there."""
        try:
            conditional, notes = board.condition(self._joint, judge=released)  # too slow while a reading is dragged
        except (KeyError, ValueError) as error:
            self._say(f"Not updated: {_text(error)}")
            return
        self._say(" ".join(notes))
        self._download.disabled = True
        n = self._n

        def job(stale: Callable[[], bool]) -> None:
            if not (released and board.intervals):  # a preview knows nothing of them
                start = perf_counter()
                picture = preview(board, replace(conditional, constraints=NONE), n, Fitted(5))
                seconds = perf_counter() - start
                self._n = fitting(n, seconds)
                said = f"preview: quantiles of marginals, {n} points, {1e3 * seconds:.0f} ms"
                self._post(lambda: self._show(picture, said, fit=released))
            if released and not stale():
                self._draw(board, replace(conditional, joint=self._slow))

        self._newest.submit(job)

    def _draw(self, board: Board, conditional: Conditional) -> None:
        """In the thread: joint draws, of the scalars first, for they are cheap."""
        s = self._settings
        self._post(lambda: self._wait(f"drawing {s.n} …"), board)
        if set(board.scalars) - set(board.known):
            few = conditional.sample(s.n, board.at(0), seed=s.seed, quality=s.quality)
            first, text = of_draws(board, few, 0), f"{s.n} draws of the scalars ({s.quality}); of the functions …"
            self._post(lambda: self._show(first, text), board)
        draws = conditional.sample(s.n, board.at(s.points), seed=s.seed, quality=s.quality)
        picture = of_draws(board, draws, s.points)

        def show() -> None:
            self._held, self._download.disabled = (board, draws), False
            self._show(picture, f"{s.n} joint draws ({s.quality}), {s.points} points of each function", fit=True)

        self._post(show, board)

    def _post(self, callback: Callable[[], None], board: Board | None = None) -> None:
        """From the thread to the page; what is said of a board is dropped if there is another by then."""

        def current() -> None:
            if board is None or board is self._board:
                callback()

        self._doc.add_next_tick_callback(current)

    def _failed(self, error: Exception) -> None:
        self._say(_text(error))
        self._wait("nothing was drawn")

    def _show(self, picture: Picture, status: str, fit: bool = False) -> None:
        for name, x in picture.at.items():
            columns: dict[str, Any] = {"x": x, **dict(zip(BAND, picture.bands[name], strict=True))}
            self._bands[name].data = columns
            curves = picture.curves.get(name, np.zeros((0, 0)))
            self._curves[name].data = {"x": [x.tolist()] * len(curves), "y": curves.tolist()}
            if fit:
                self._fit(name, picture)
        for name, (x, y) in picture.densities.items():
            self._densities[name].data = {"x": x, "y": y}
            figure_of: Any = self._doc.get_model_by_name(f"figure:{name}")
            figure_of.y_range.end = float(1.05 * y.max())
            if fit and name in self._sliders:
                slider, room = self._sliders[name], float(x[-1] - x[0])
                figure_of.x_range.start = max(float(slider.start), float(x[0]) - room)
                figure_of.x_range.end = min(float(slider.end), float(x[-1]) + room)
            median, low, high = picture.summaries[name]
            figure_of.xaxis[0].axis_label = f"{name}  {median:.3g} [{low:.3g}, {high:.3g}]"
        for name in set(self._densities) - set(picture.densities):  # known now
            self._densities[name].data = empty()
        self._wait(status)

    def _fit(self, name: str, picture: Picture) -> None:
        """The axes of a function; never while a point is dragged, or it would run away from the mouse."""
        p, x, band = self._figures[name], picture.at[name], picture.bands[name]
        mine = [v for _, v in self._board.readings.get(name, ())]
        low, high = min([*mine, float(band.min())]), max([*mine, float(band.max())])
        room = 0.08 * (high - low or 1.0)
        floor = self._joint.schema[name].support.lower
        p.x_range.start, p.x_range.end = float(x[0]), float(x[-1])
        p.y_range.start, p.y_range.end = max(low - room, floor), high + room

    def _show_board(self) -> None:
        """Write what the board holds onto the page."""
        self._quiet = True
        for name, source in self._readings.items():
            held = self._board.readings.get(name, ())
            source.data = {"x": [x for x, _ in held], "y": [y for _, y in held]}
            self._figures[name].xaxis[0].formatter = ticks(self._board, name) or self._figures[name].xaxis[0].formatter
        for name, slider in self._sliders.items():
            slider.value = (slider.start, slider.end)
            field: Any = self._doc.get_model_by_name(f"known:{name}")
            field.value = repr(self._board.known[name]) if name in self._board.known else ""
        self._used.active = list(range(len(self._board.functions)))
        self._quiet = False

    def _say(self, text: str) -> None:
        self._message.text = text

    def _wait(self, text: str) -> None:
        self._status.text = text


def _text(error: Exception) -> str:
    """A KeyError's str() is the repr of its message."""
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


def open_page(joint: Joint, board: Board, settings: Settings) -> Callable[[Document], None]:
    """What fills the document of each tab."""

    def fill(doc: Document) -> None:
        Page(doc, joint, board, settings)

    return fill
