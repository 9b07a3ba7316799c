"""Pictures and the page of a check: what leaves its band is told apart, nothing is fetched, no markup gets in."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from test_check import FUNCTIONALS, trials

from fsimformer import plots_check
from fsimformer.check import diagnose
from fsimformer.cli import main
from fsimformer.cli_check import simulator_of
from fsimformer.model_file import find_model, read_card
from fsimformer.report import report
from fsimformer.simulators import SIRD, HareLynx


@pytest.fixture(scope="module")
def right() -> xr.DataTree:
    return diagnose(trials(80, 20), FUNCTIONALS, about={"n_data_sets": 80, "n_draws": 20, "seed": 0})


@pytest.fixture(scope="module")
def wrong() -> xr.DataTree:
    return diagnose(trials(80, 20, 0.5), FUNCTIONALS, about={"n_data_sets": 80, "n_draws": 20, "seed": 0})


def test_band_and_curve_are_those_of_the_check(right: xr.DataTree) -> None:
    group = right["sbc"].to_dataset()
    ax = plots_check.ecdf_difference(group, quantities=["a"])
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    heights = band.get_paths()[0].vertices[:, 1]
    one, z = group.sel(quantity="a"), group["z"].to_numpy()
    np.testing.assert_allclose(heights.max(), (one["upper"] - z).max(), atol=1e-12)
    np.testing.assert_allclose(heights.min(), (one["lower"] - z).min(), atol=1e-12)
    np.testing.assert_allclose(ax.lines[0].get_ydata(), one["ecdf"] - z)


def test_what_leaves_its_band_is_named_and_nothing_else(right: xr.DataTree, wrong: xr.DataTree) -> None:
    for tree in (right, wrong):
        group = tree["sbc"].to_dataset()
        outside = ((group["ecdf"] < group["lower"] - 1e-9) | (group["ecdf"] > group["upper"] + 1e-9)).any("z")
        names = {t.get_text() for t in plots_check.ecdf_difference(group).texts}
        assert names == set(group["quantity"].to_numpy()[outside])
    assert len(plots_check.ecdf_difference(wrong["sbc"].to_dataset()).texts) >= 3


def test_scores_outside_the_band_are_vermilion(wrong: xr.DataTree) -> None:
    ax = plots_check.scores(wrong["scores"].to_dataset())
    colors = [to_hex(c) for c in ax.collections[-1].get_facecolors()]
    beyond = np.abs(wrong["scores"]["standardised"].to_numpy()) > 3
    assert beyond.any() and all(c == "#d55e00" for c, out in zip(colors, beyond) if out)


def test_coverage_has_the_diagonal_and_two_standard_errors(right: xr.DataTree) -> None:
    group = right["coverage"].to_dataset()
    ax = plots_check.expected_coverage(group)
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [1, 1]])
    (bars,) = ax.containers[0][2]
    lengths = [s[1, 1] - s[0, 1] for s in bars.get_segments()]
    np.testing.assert_allclose(lengths, 4 * group["standard_error"])


def test_local_bars_end_at_the_simultaneous_quantile(right: xr.DataTree) -> None:
    group = right["local"].to_dataset()
    ax = plots_check.local(group)
    ends = [s[1, 0] for s in ax.collections[0].get_segments()]
    np.testing.assert_allclose(ends, group["null"].isel(quantile=-1))


def test_pictures_need_a_check(right: xr.DataTree) -> None:
    assert list(plots_check.figures(right)) == ["sbc", "coverage", "tarp", "scores", "local", "predictive"]
    with pytest.raises(KeyError, match="expected the DataTree of a check, got the groups"):
        plots_check.figures(xr.DataTree.from_dict({"/posterior": xr.Dataset()}))
    with pytest.raises(KeyError, match=r"no quantities \['b'\]; the check holds \['a', "):
        plots_check.ecdf_difference(right["sbc"].to_dataset(), quantities=["b"])


def test_importing_pictures_leaves_pyplot_alone() -> None:
    code = "import sys, fsimformer.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


class Tags(HTMLParser):
    """Every tag with its attributes; fails on a tag that is closed but was not open."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained_and_well_formed(wrong: xr.DataTree) -> None:
    page = report(wrong, "sird", {"simulator": "SIRD", "steps": 7_500})
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and not {"script", "link", "iframe"} & {tag for tag, _ in tags.found}
    images = [attrs["src"] for tag, attrs in tags.found if tag == "img"]
    assert len(images) == 6
    for source in images:
        assert source is not None and source.startswith("data:image/png;base64,")
        assert base64.b64decode(source.split(",")[1])[:8] == b"\x89PNG\r\n\x1a\n"
    assert not re.search(r"https?://|url\(|@import", page)
    assert "7500" in page and wrong.attrs["verdict"] in page


def test_every_test_is_in_the_table_and_rejected_ones_come_first(wrong: xr.DataTree) -> None:
    page = report(wrong, "sird")
    rows = re.findall(r'<tr class="(rejected|)"><td>([^<]*)</td>', page)
    assert sorted(name for _, name in rows) == sorted(wrong["tests"]["test"].to_numpy())
    verdicts = [verdict for verdict, _ in rows]
    assert verdicts == sorted(verdicts, reverse=True)
    assert verdicts.count("rejected") == int(wrong["tests"]["rejected"].sum()) > 0


def test_names_from_elsewhere_bring_no_markup(right: xr.DataTree) -> None:
    evil = "<script>alert(1)</script>"
    tests = right["tests"].to_dataset()
    renamed = tests.assign_coords(test=[evil, *tests["test"].to_numpy()[1:]])
    tree = right.copy()
    tree["tests"] = xr.DataTree(renamed)
    tree.attrs["not_checked"] = [evil]
    page = report(tree, evil, {"simulator": evil})
    assert "<script" not in page and page.count("&lt;script&gt;") == 5


@pytest.mark.slow
def test_the_command_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, held = tmp_path / "report.html", tmp_path / "check.nc"
    few = ["--n", "20", "--draws", "20", "--quality", "fast"]
    assert main(["check", "lotka_volterra", "--out", str(out), "--netcdf", str(held), *few]) == 0
    assert re.search(r"report.html: .*of 20 data sets|report.html: \d+ of \d+ tests reject", capsys.readouterr().out)
    assert out.read_text().startswith("<!doctype html>") and "LotkaVolterra" in out.read_text()
    assert "sbc" in xr.open_datatree(held, engine="h5netcdf").children


def test_the_command_needs_a_simulator_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "report.html")
    assert main(["check", "lotka_volterra", "--simulator", "hare_lynx", "--out", out]) == 2
    assert "expected one with the model's schema; variables ['alpha', " in capsys.readouterr().err
    assert main(["check", "lotka_volterra", "--out", str(tmp_path / "no" / "report.html")]) == 2
    assert "No such directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sird", "lotka_volterra", "hare_lynx", "influenza", "hodgkin_huxley"])
def test_shipped_models_name_their_simulators(name: str) -> None:
    schema, card = read_card(find_model(name))
    assert simulator_of(schema, card["provenance"], name).schema == schema


def test_a_card_that_holds_nested_settings_says_what_to_pass() -> None:
    schema, card = read_card(find_model("epidemic"))
    with pytest.raises(
        ValueError, match="Epidemic with the settings of its card has other variables; pass --simulator"
    ):
        simulator_of(schema, card["provenance"], "epidemic")


def test_cards_without_a_simulator_that_ships_are_refused() -> None:
    schema, card = read_card(find_model("sird"))
    with pytest.raises(ValueError, match=r"its card names the simulator 'Mine', which does not ship; pass --simulator"):
        simulator_of(schema, {"simulator": "Mine"}, "m")
    with pytest.raises(ValueError, match="HareLynx with the settings of its card has other variables"):
        simulator_of(SIRD().schema, {"simulator": "HareLynx"}, "m")
    changed = {**card["provenance"], "simulator_config": {**card["provenance"]["simulator_config"], "noise": 0.5}}
    with pytest.raises(ValueError, match="has other variables; pass --simulator"):
        simulator_of(schema, changed, "m")
    assert HareLynx().schema != schema
