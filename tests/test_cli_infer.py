"""`fsimformer infer` on many data sets and for machines, and `fsimformer plot` on what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import xarray as xr
from matplotlib.figure import Figure
from test_cli import require_one_line_error, written

from fsimformer import plots
from fsimformer.cli import main
from fsimformer.cli_infer import data_sets, numbered, summary, table
from fsimformer.files import read_observations, read_tree
from fsimformer.plots_pairs import pairs, scalars
from fsimformer.schema import Index, Schema, Variable

WIDE = "date,region,y\n2020-01-01,north,1.5\n2020-01-03,north,\n2020-01-02,south,0.5\n2020-01-03,south,2\n"
LONG = "date,region,variable,value\n2020-01-01,north,y,1.5\n2020-01-03,north,y,\n2020-01-02,south,y,0.5\n"
LONG += "2020-01-03,south,y,2\n,south,a,1.0\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny.joint().save(path)
    return path


def infer(model: Path, data: Path, *options: str) -> list[str]:
    common = ["--rename", "date=time", "--batch", "region", "--draws", "10", "--origin", "2020-01-01"]
    return ["infer", str(model), str(data), *common, "--at", "y=2020-01-03,2020-01-05", "--at", "rate=0,4", *options]


def test_regions_of_a_table_are_data_sets_of_one_call(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plot = tmp_path / "draws.nc", tmp_path / "figure.png"
    data = written(tmp_path / "cases.csv", WIDE)
    assert main(infer(model, data, "--out", str(out), "--plot", str(plot))) == 0
    printed, error = capsys.readouterr()
    assert error == "" and [p.splitlines()[0] for p in printed.split("\n\n")] == ["region north", "region south"]
    assert (tmp_path / "figure_north.png").exists() and (tmp_path / "figure_south.png").exists()
    tree = read_tree(out)
    parts = []
    for name, times, values in (("north", ["01", "03"], [1.5, np.nan]), ("south", ["02", "03"], [0.5, 2.0])):
        own = xr.Dataset({"y": ("time", values)}, {"time": pd.DatetimeIndex([f"2020-01-{t}" for t in times])})
        parts.append(own.expand_dims(region=[name]))
    both = tiny.joint().condition(xr.concat(parts, "region", join="outer"), batch_dim="region", origin="2020-01-01")
    dates = pd.DatetimeIndex(["2020-01-03", "2020-01-05"]).to_numpy()
    expected = both.sample(10, {"y": dates, "rate": [0.0, 4.0]})
    for name in ("a", "rate"):
        np.testing.assert_allclose(tree["posterior"][name], expected["posterior"][name], atol=1e-5)


def test_json_holds_what_the_tree_holds(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = tmp_path / "draws.nc", written(tmp_path / "cases.csv", LONG)
    assert main(infer(model, data, "--out", str(out), "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["draws"], found["level"], found["seed"]) == (10, 0.9, 0)
    tree = read_tree(out)
    entries = {(e["region"], e["name"], str(e.get("at", e.get("component")))): e for e in found["variables"]}
    assert len(entries) == len(found["variables"])
    rate = tree["posterior"]["rate"].sel(region="south", time=4.0)
    entry = entries["south", "rate", "{'time': 4.0}"]
    np.testing.assert_allclose(
        [entry[k] for k in ("lower", "median", "upper")], rate.quantile([0.05, 0.5, 0.95]), atol=1e-12
    )
    assert entries["north", "y", "{'time': '2020-01-05'}"]["group"] == "predictions"
    assert {e["component"] for e in found["variables"] if e["name"] == "w"} == {0, 1}
    assert ("north", "a", "None") in entries and entries["south", "w", "0"]["group"] == "posterior"


def test_what_is_padding_is_no_entry() -> None:
    sample = ("chain", "draw")
    x = np.arange(8.0).reshape(1, 2, 2, 2)
    x[..., 1, 1] = np.nan  # of the second data set there is one point only
    at = ("region", "point_y"), np.array([["2020-01-01", "2020-01-02"], ["2020-01-03", "NaT"]], "datetime64[ns]")
    data = xr.Dataset({"y": ((*sample, "region", "point_y"), x)}, {"time": at, "region": ["a", "b"]})
    schema = Schema((Variable("y", "data", ("time",)),), (Index("time", 0, 3, "days"),))
    parts = data_sets(xr.DataTree.from_dict({"predictions": data}), "region")
    entries = [e for label, part in parts for e in summary(part, schema, "region", label)]
    assert [(e["region"], e["at"]["time"]) for e in entries] == [
        ("a", "2020-01-01"), ("a", "2020-01-02"), ("b", "2020-01-03"),
    ]  # fmt: skip


def test_every_data_set_has_a_picture_of_its_own() -> None:
    labels = ["Île/de 1", "a b", "a-b", "A-B", "a/b", "a-b-2", np.datetime64("2020-01-01", "ns")]
    found = [p.name.removeprefix("f_") for p in numbered(Path("x/f.png"), labels)]
    assert found == [
        "Île-de-1.png", "a-b-3.png", "a-b.png", "A-B-2.png", "a-b-4.png", "a-b-2-2.png", "2020-01-01.png",
    ]  # fmt: skip
    assert len({name.casefold() for name in found}) == len(labels)


def test_the_table_counts_the_points_that_a_data_set_has_and_names_no_others() -> None:
    """A data set that lacks nothing has no predictions where its neighbour has 25."""
    x = np.zeros((2, 5, 2, 25))
    x[:, :, 0] = np.nan
    x[:, :, 1, 20:] = np.nan
    again = x.copy()
    again[:, :, 0, :7] = 1.0
    dims = ("chain", "draw", "region", "point_y")
    labels = {"time_y": (("region", "point_y"), np.arange(50.0).reshape(2, 25)), "region": ["all there", "holes"]}
    tree = xr.DataTree.from_dict(
        {"predictions": xr.Dataset({"y": (dims, x)}, labels), "posterior_predictive": xr.Dataset({"y": (dims, again)})}
    )
    schema = Schema((Variable("y", "data", ("time",)),), (Index("time", 0, 3, "days"),))
    said = [table(part, schema) for _, part in data_sets(tree, "region")]
    assert said == [
        "y: 7 points (posterior_predictive)",
        "y: 20 points (posterior_predictive)\ny: 20 points (predictions)",
    ]


def test_what_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Of two points lists, two new names or two old ones, none is dropped in silence."""
    for options, message in (
        (["--at", "y=1,2", "--at", "a", "--at", "y=5:6:3"], "--at y=1,2 and --at y=5:6:3: expected 'y' once."),
        (["--rename", "t=time", "--rename", "t=y"], "--rename t=time and --rename t=y: expected 't' once."),
        (["--rename", "a=y", "--rename", "b=y"], "--rename a=y and --rename b=y: expected 'y' once."),
    ):
        require_one_line_error(["infer", "sird", "no_such.csv", *options], message, capsys)


def test_a_table_of_scalars_has_a_row_each(tmp_path: Path) -> None:
    data = read_observations(written(tmp_path / "a.csv", "id,x1,x2\n7,0.5,\n8,1,2\n"), [], "id")
    expected = xr.Dataset({"x1": ("id", [0.5, 1.0]), "x2": ("id", [np.nan, 2.0])}, {"id": [7, 8]})
    xr.testing.assert_identical(data, expected)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["01", "1"], ["01", "1"]),
        (["1.10", "1.1"], ["1.10", "1.1"]),
        (["007", "010"], ["007", "010"]),
        (["2", "10"], [2, 10]),
        (["1 ", "10"], [1, 10]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["north", "1"], ["north", "1"]),
    ],
)
@pytest.mark.parametrize("column", ["region", "code"])
def test_labels_of_data_sets_keep_every_digit(
    labels: list[str], expected: list[str | int], column: str, tmp_path: Path
) -> None:
    text = f"time,{column},y\n0,{labels[0]},1.5\n1,{labels[1]},2\n"
    renamed = {} if column == "region" else {column: "region"}
    frame = read_observations(written(tmp_path / "a.csv", text), ["time"], "region", renamed)
    assert frame["region"].tolist() == expected


def test_a_scalar_s_column_is_one_value_a_data_set(model: Path, tmp_path: Path) -> None:
    """A column that repeats a region's value says what a row of its own says in the long form."""
    wide = "date,region,y,a\n2020-01-01,north,1.5,\n2020-01-03,north,,1\n2020-01-02,south,0.5,-0.5\n"
    wide += "2020-01-03,south,2,-0.5\n2020-01-03,east,2,\n"
    data = written(tmp_path / "wide.csv", wide)
    frame = read_observations(data, ["time"], "region", {"date": "time"}, ["a", "b"])
    held = frame[frame["variable"] == "a"].set_index("region")
    assert held["time"].isna().all() and len(frame) == 8
    np.testing.assert_array_equal(held["value"][["north", "south", "east"]].astype(float), [1.0, -0.5, np.nan])
    joint = tiny.joint()
    drawn = joint.condition(frame, batch_dim="region", origin="2020-01-01").sample(4, {"rate": [0.0]})
    rows = "2020-01-01,north,y,1.5\n2020-01-02,south,y,0.5\n2020-01-03,south,y,2\n2020-01-03,east,y,2\n"
    long = written(tmp_path / "long.csv", f"time,region,variable,value\n,north,a,1\n,south,a,-0.5\n{rows}")
    read = read_observations(long, ["time"], "region")
    same = joint.condition(read, batch_dim="region", origin="2020-01-01").sample(4, {"rate": [0.0]})
    np.testing.assert_allclose(drawn["posterior"]["rate"], same["posterior"]["rate"], atol=1e-5)

    one = read_observations(written(tmp_path / "one.csv", "time,y,a\n0,1.5,\n1,2,1\n"), ["time"], scalars=["a"])
    xr.testing.assert_identical(one, xr.Dataset({"y": ("time", [1.5, 2.0]), "a": 1.0}, {"time": [0, 1]}))
    for batch, text, message in (
        ("region", wide.replace("3,south,2,-0.5", "3,south,2,0.5"), r"one value for region south.*got \[-0.5, 0.5\]"),
        (None, "time,y,a\n0,1.5,2\n1,2,1\n", r"'a' is a scalar of the model: expected one value, the same on all rows"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong = written(tmp_path / "wrong.csv", text)
            read_observations(wrong, ["time"], batch, {"date": "time"} if batch else {}, ["a"])


def test_a_netcdf_s_names_are_replaced(tmp_path: Path) -> None:
    data = xr.Dataset({"hosp": (("region", "day"), [[1.0, 2.0]])}, {"day": [0.0, 1.0], "region": ["n"]})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    found = read_observations(tmp_path / "a.nc", ["time"], "region", {"day": "time", "hosp": "y"})
    assert found["y"].dims == ("region", "time") and "hosp" not in found
    for batch, renamed, name in (("regoin", {}, "regoin"), (None, {"dya": "time"}, "dya")):
        with pytest.raises(KeyError, match=f"a.nc has no '{name}'; it has "):
            read_observations(tmp_path / "a.nc", ["time"], batch, renamed)


def test_many_data_sets_into_zarr_and_a_picture_of_one(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = written(tmp_path / "cases.csv", WIDE), tmp_path / "draws.zarr"
    assert main(infer(model, data, "--out", str(out))) == 0
    whole = read_tree(out)["posterior"]["a"]
    assert whole.sizes["region"] == 2
    capsys.readouterr()
    for kind, options in (
        ("page", []), ("bands", ["--variables", "rate"]), ("marginals", ["--truth", "a=0.5"]), ("pairs", []),
    ):  # fmt: skip
        picture = tmp_path / f"{kind}.png"
        command = ["plot", str(out), "--sel", "region=south", "--kind", kind, *options, "--out", str(picture)]
        assert main(command) == 0, capsys.readouterr().err
        assert picture.read_bytes().startswith(b"\x89PNG")
    for options, message in (
        ([], "has the dims ('chain', 'draw', 'region', 'time'): no panel shows that. Of several data sets, or of a "),
        (["--sel", "region=west"], "--sel region=west: no such label. Labels: ['north', 'south']"),
        (["--sel", "area=1"], "--sel area=1: expected DIM=LABEL, DIM of ["),
        (["--sel", "region=south", "--variables", "b"], "--variables: no draws of ['b']. Variables: ["),
        (["--sel", "region=south", "--truth", "a=1"], "--truth: expected --kind marginals or pairs, got page"),
        (["--sel", "region=south", "--kind", "pairs", "--truth", "a=x"], "--truth a=x: expected NAME=VALUE, a number."),
    ):
        require_one_line_error(["plot", str(out), *options, "--out", str(tmp_path / "p.png")], message, capsys)
    require_one_line_error(["plot", str(data), "--out", "p.png"], "unknown ending '.csv'. Choices: .nc", capsys)
    broken = written(tmp_path / "broken.nc", "no netCDF")
    require_one_line_error(["plot", str(broken), "--out", "p.png"], "broken.nc cannot be read as netCDF 4: ", capsys)
    card = next(p for p in out.rglob("zarr.json") if '"bytes"' in p.read_text())
    written(card, card.read_text().replace('"bytes"', '"pickle"'))
    require_one_line_error(["plot", str(out), "--out", "p.png"], "its data are pickled", capsys)


def test_pairs_show_the_draws_and_mark_the_truth() -> None:
    rng = np.random.default_rng(0)
    sample = ("chain", "draw")
    a, w = rng.normal(size=(2, 50)), rng.normal(size=(2, 50, 2))
    f = ((*sample, "time"), rng.normal(size=(2, 50, 3)))
    posterior = xr.Dataset({"a": (sample, a), "w": ((*sample, "part"), w), "f": f}, {"time": [0.0, 1.0, 2.0]})
    tree = xr.DataTree.from_dict({"posterior": posterior})
    assert list(scalars(tree)) == ["a", "w[0]", "w[1]"]
    page = pairs(tree, truth={"a": 0.25}, prior=tree)
    assert isinstance(page, Figure) and len(page.axes) == 6
    below = page.axes[1]  # w[0] over a
    dots = np.asarray(below.collections[-1].get_offsets())
    np.testing.assert_allclose(dots, np.stack([a.ravel(), w[..., 0].ravel()], 1))
    assert [line.get_xdata()[0] for line in below.lines] == [0.25] and below.get_xlabel() == ""
    assert [ax.get_xlabel() for ax in page.axes[3:]] == ["a", "w[0]", "w[1]"]
    assert len(pairs(tree, ["w"]).axes) == 3
    with pytest.raises(KeyError, match=r"no scalar 'f'. Scalars: \['a', 'w\[0\]'"):
        pairs(tree, ["f"])
    with pytest.raises(KeyError, match="no scalar .'b'. to mark"):
        pairs(tree, truth={"b": 1.0})
    assert plots.names(tree) == ["a", "w", "f"]


def test_a_file_appears_whole_or_not_at_all(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that breaks off leaves what was there, and no half of a file."""
    data, out = written(tmp_path / "cases.csv", WIDE), written(tmp_path / "draws.nc", "the last good state")

    def breaks(self: xr.DataTree, path: Path, engine: str) -> None:
        Path(path).write_text("half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(xr.DataTree, "to_netcdf", breaks)
    assert main(infer(model, data, "--out", str(out))) == 2
    assert out.read_text() == "the last good state"
    assert {p.name for p in tmp_path.iterdir()} == {"cases.csv", "draws.nc"}


def test_what_is_dropped_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "time,hare,remark\n1,2,wet\n")
    expected = xr.Dataset({"hare": ("time", [2])}, {"time": [1]})
    xr.testing.assert_identical(read_observations(path, ["time"], dropped=["remark"]), expected)
    expected.assign(remark=("time", ["wet"])).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    xr.testing.assert_equal(read_observations(tmp_path / "a.nc", ["time"], dropped=["remark"]), expected)
    with pytest.raises(KeyError, match="has no 'remarks'; it has"):
        read_observations(tmp_path / "a.nc", ["time"], dropped=["remarks"])
