"""The explorer in a real browser: a mouse drags, adds and removes readings. Needs Chromium; skips itself without."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import linear
import numpy as np
import pytest
import xarray as xr
from served import served

from fsimformer.explorer.board import Board
from fsimformer.explorer.picture import Settings

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH"),
]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
SEEN = xr.Dataset({"x": ("time", [0.8, 1.1])}, {"time": [2.0, 5.5]})
PATIENCE = 300_000  # ms
# Bokeh takes a button held for 300 ms before it moves for a press, not a drag; here the machine may be that slow
STEADY = "const after = setTimeout; window.setTimeout = (f, ms, ...rest) => ms == 300 ? 0 : after(f, ms, ...rest)"
MODEL = "const model = name => Bokeh.documents[0].get_model_by_name(name);"


class Tab:
    """A page, and what its console said."""

    def __init__(self, page: Any) -> None:
        self.page, self.said = page, list[str]()
        page.set_default_timeout(PATIENCE)
        page.add_init_script(STEADY)
        page.on("console", lambda m: self.said.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.said.append(str(e)))

    def ask(self, what: str) -> Any:
        return self.page.evaluate(f"() => {{ {MODEL} return {what} }}")

    def until(self, what: str) -> None:
        self.page.wait_for_function(f"() => {{ {MODEL} return {what} }}", timeout=PATIENCE)

    def drawn(self) -> None:
        self.until("model('status').text.includes('joint draws')")

    def middle(self, name: str) -> np.ndarray:
        return np.array(self.columns(f"bands:{name}", "x", "middle"))

    def readings(self, name: str) -> list[list[float]]:
        return [list(pair) for pair in zip(*self.columns(f"readings:{name}", "x", "y"), strict=True)]

    def columns(self, source: str, *names: str) -> list[list[float]]:
        return self.ask(f"{list(names)}.map(c => Array.from(model('{source}').data[c]))")

    def place(self, name: str, x: float, y: float) -> tuple[float, float]:
        """Where a point of a figure lies on the screen."""
        return tuple(
            self.ask(
                f"(() => {{ const view = Bokeh.index.find_one(model('figure:{name}')); "
                "const box = view.canvas_view.el.getBoundingClientRect(); const f = view.frame; "
                f"return [box.left + f.x_scale.compute({x}), box.top + f.y_scale.compute({y})] }})()"
            )
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="it drives the browser")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    settings = Settings("linear", n=100, points=6, quality="fast")
    with served(linear.joint(), Board.of(linear.SCHEMA, SEEN), settings) as explorer:
        page = chromium.new_page(viewport={"width": 1200, "height": 1000})
        found = Tab(page)
        page.goto(explorer.url, timeout=PATIENCE)
        page.wait_for_function("() => window.Bokeh && Bokeh.documents.length > 0", timeout=PATIENCE)
        found.drawn()
        yield found
        assert found.said == []
        page.close()


def test_a_mouse_drags_adds_and_removes(tab: Tab) -> None:
    at, before = tab.middle("x")
    mouse, (x, y) = tab.page.mouse, tab.place("x", 5.5, 1.1)
    mouse.move(x, y)
    mouse.down()
    for i in range(1, 9):
        mouse.move(x, y + 5 * i)
    tab.until("model('status').text.includes('preview')")
    tab.until("model('live:x').data.y[1] < 1.0")
    during_at, during = tab.middle("x")
    mouse.up()
    tab.drawn()
    moved = tab.readings("x")[1]
    assert moved[1] < 0.9 and abs(moved[0] - 5.5) < 0.1
    after_at, after = tab.middle("x")
    assert np.interp(5.5, after_at, after) < np.interp(5.5, at, before) - 0.1
    assert len(during_at) > len(after_at)  # the preview has more points than draws
    assert len(during) == len(during_at)

    mouse.click(*tab.place("x", 8.0, 0.5))
    tab.until("model('readings:x').data.x.length == 3")
    tab.drawn()
    added = tab.readings("x")[2]
    assert abs(added[0] - 8.0) < 0.1 and abs(added[1] - 0.5) < 0.1

    where = tab.place("x", *added)
    mouse.click(*where)
    assert tab.ask("Array.from(model('readings:x').selected.indices)") == [2]
    tab.page.keyboard.press("Backspace")
    tab.until("model('readings:x').data.x.length == 2")
    tab.drawn()
    assert tab.readings("x")[1] == moved


def test_sliders_files_and_downloads(tab: Tab, tmp_path: Path) -> None:
    handle = tab.page.locator(".noUi-handle-upper").first
    handle.focus()
    for _ in range(12):
        tab.page.keyboard.press("ArrowLeft")
    tab.until("model('between:a').value[1] < model('between:a').end")
    tab.drawn()
    end = tab.ask("model('between:a').value[1]")
    assert max(tab.columns("density:a", "x")[0]) <= end + 1e-9

    bad = tmp_path / "bad.csv"
    bad.write_text("day,x\n1,2\n")
    tab.page.locator("input[type=file]").set_input_files(bad)
    tab.until("model('message').text.includes('was refused')")
    tab.page.get_by_text("bad.csv was refused: upload.csv: expected an index column").wait_for()
    assert tab.readings("x") == [[2.0, 0.8], [5.5, 1.1]]

    good = tmp_path / "good.csv"
    good.write_text("time,x\n1.0,0.5\n9.0,-0.25\n")
    tab.page.locator("input[type=file]").set_input_files(good)
    tab.until("model('readings:x').data.x[0] == 1.0")
    tab.until("!model('download').disabled")
    for label, name in (("Download draws (netCDF)", "explore.nc"), ("Download script (Python)", "explore.py")):
        got = download(tab, lambda label=label: tab.page.get_by_role("button", name=label).click())
        assert got.suggested_filename == name
        got.save_as(tmp_path / name)
    tree = xr.open_datatree(tmp_path / "explore.nc", engine="h5netcdf")
    assert tree["observed_data"]["x"].to_numpy().tolist() == [0.5, -0.25]
    tree.close()
    assert "[0.5, -0.25]" in (tmp_path / "explore.py").read_text()


def download(tab: Tab, press: Callable[[], None]) -> Any:
    with tab.page.expect_download(timeout=PATIENCE) as waiting:
        press()
    return waiting.value
