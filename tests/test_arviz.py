"""ArviZ and netCDF take the DataTree as it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from fsimformer.convert import query, read, read_many, to_tree, to_tree_many
from fsimformer.priors import POSITIVE, LogNormal, Support, Uniform
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.whiten import Transform, Whitening

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ 0.23 announces its successor
    az = pytest.importorskip("arviz")
import matplotlib.pyplot as plt  # noqa: E402

ONE = int(az.__version__.split(".")[0]) >= 1  # needs Python 3.12; it takes a DataTree as it is
THEIRS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # ArviZ 0.23 on matplotlib 3.11
SCHEMA = Schema(
    (
        Variable("alpha", "parameter", prior=LogNormal()),
        Variable("weights", "parameter", ("part",), prior=Uniform(0, 2)),
        Variable("rate", "parameter", ("time",), support=Support(0, 1)),
        Variable("hare", "data", ("time",), support=POSITIVE),
        Variable("lynx", "data", ("time",), support=POSITIVE),
    ),
    (Index("time", 0, 20, "days"), Components("part", 3)),
)
WHITENING = Whitening({v.name: Transform(v.prior, v.support) for v in SCHEMA.variables})
DAYS = pd.date_range("2020-03-01 06:00", periods=6, freq="36h")
N = 60


@pytest.fixture(params=["numbers", "dates", "duplicates"])
def tree(request: pytest.FixtureRequest) -> xr.DataTree:
    t: Any = {"numbers": np.arange(6) * 1.5, "dates": DAYS, "duplicates": [0.0, 1.0, 1.0, 4.0, 3.0, 2.0]}[request.param]
    ds = xr.Dataset(
        {
            "hare": ("time", [3.0, 5.0, 2.0, np.nan, 1.0, 2.0], {"units": "thousands"}),
            "lynx": ("time", [1.0, 2.0, 3.0, np.nan, np.nan, 1.0]),
        },
        coords={"time": t, "part": ["a", "b", "c"]},
    )
    o = read(SCHEMA, ds)
    q = query(SCHEMA, o, {"hare": slice(None), "lynx": slice(None), "rate": np.unique(t)})
    z = torch.randn(N, len(q), generator=torch.Generator().manual_seed(0))
    return to_tree(SCHEMA, WHITENING, o, q, z, {"seed": 0, "log_density": np.arange(N), "sampler": "ab2"})


def handed(tree: xr.DataTree) -> Any:
    """As the ArviZ that is here takes it."""
    return tree if ONE else az.InferenceData.from_datatree(tree)


def same(a: xr.DataTree, b: xr.DataTree) -> None:
    assert set(a.children) == set(b.children)
    for name in a.children:
        xr.testing.assert_equal(a[name].to_dataset(), b[name].to_dataset())


@THEIRS
def test_arviz_summarises(tree: xr.DataTree) -> None:
    data = handed(tree)
    exact = {"round_to": "none"} if ONE else {}  # else text, as it is printed
    summary = az.summary(data, var_names=["alpha", "weights"], kind="all", **exact)
    assert list(summary.index) == ["alpha", "weights[a]", "weights[b]", "weights[c]"]
    x = tree["posterior/alpha"].values
    np.testing.assert_allclose(summary.loc["alpha", "mean"], x.mean(), atol=1e-3)
    assert np.isfinite(summary["r_hat"]).all()  # two chains
    assert len(az.summary(data)) == 1 + 3 + tree["posterior/rate"].shape[-1]


@THEIRS
@pytest.mark.skipif(not ONE, reason="plots of ArviZ 1")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dist", {"var_names": ["alpha", "weights"]}),
        ("forest", {"var_names": ["alpha", "rate"]}),
        ("ridge", {"var_names": ["alpha", "rate"]}),
        ("pair", {"var_names": ["alpha", "weights"]}),
        ("rank", {"var_names": ["alpha", "weights"]}),
        ("trace_dist", {"var_names": ["alpha", "weights"]}),
        ("prior_posterior", {"var_names": ["alpha"]}),
        ("ppc_dist", {"var_names": ["hare", "lynx"], "num_samples": 20}),
        ("ppc_interval", {"var_names": ["hare"]}),
        ("ppc_pit", {"var_names": ["hare", "lynx"]}),
        ("ppc_tstat", {"var_names": ["hare"]}),
        ("lm", {"x": "t_hare", "y": "hare"}),
    ],
)
def test_every_plot_of_arviz_1_takes_the_tree(tree: xr.DataTree, name: str, options: dict[str, Any]) -> None:
    if name == "lm" and tree["constant_data/t_hare"].dtype.kind != "f":
        pytest.skip("a line over dates is no line of ArviZ's")
    if name == "prior_posterior":
        o = read(SCHEMA, None)
        q = query(SCHEMA, o)
        z = torch.randn(N, len(q), generator=torch.Generator().manual_seed(1))
        prior = to_tree(SCHEMA, WHITENING, o, q, z, {"seed": 0})["prior"].to_dataset()
        tree["prior"] = xr.DataTree(prior.assign_coords(part=tree["posterior"]["part"]))  # nothing named its components
    drawn = getattr(az, f"plot_{name}")(tree, **options)
    figure = drawn.viz["figure"].item() if "figure" in drawn.viz else plt.gcf()
    figure.canvas.draw()
    assert any(axes.has_data() for axes in figure.axes)
    plt.close("all")


@THEIRS
@pytest.mark.skipif(ONE, reason="plots of ArviZ 0.23")
def test_arviz_plots(tree: xr.DataTree) -> None:
    data = handed(tree)
    assert set(data.groups()) == set(tree.children)
    az.plot_posterior(data, var_names=["alpha", "weights"])
    az.plot_forest(data, var_names=["rate"], combined=True)
    az.plot_ppc(data, var_names=["hare"], num_pp_samples=5)
    plt.close("all")


@THEIRS
def test_plot_lm_wants_the_index_as_a_variable(tree: xr.DataTree) -> None:
    """`t_<channel>` runs along the channel's own points: the readings and their replicates line up."""
    for channel in ("hare", "lynx"):
        t = tree[f"constant_data/t_{channel}"]
        seen, again = tree[f"observed_data/{channel}"], tree[f"posterior_predictive/{channel}"]
        assert t.shape == seen.shape == again.shape[2:]
        assert t.dims == seen.dims == again.dims[2:]  # ArviZ 1 reduces and joins by name, shared times or not
        np.testing.assert_array_equal(t.values, again[again.dims[-1]].values)
    if tree["constant_data/t_hare"].dtype.kind == "f" and not ONE:
        az.plot_lm(y="hare", x="t_hare", idata=handed(tree), y_hat="hare")
    plt.close("all")


def test_channels_read_together_keep_dims_of_their_own_where_arviz_compares() -> None:
    ds = xr.Dataset({"hare": ("time", [1.0, 2.0]), "lynx": ("time", [1.0, 2.0])}, {"time": [0.0, 1.0]})
    o = read(SCHEMA, ds)
    q = query(SCHEMA, o, {"hare": [0.0, 1.0, 5.0], "lynx": [0.0, 1.0, 5.0]})
    tree = to_tree(SCHEMA, WHITENING, o, q, torch.zeros(4, len(q)), {})
    for channel in ("hare", "lynx"):
        seen, again = tree[f"observed_data/{channel}"], tree[f"posterior_predictive/{channel}"]
        assert seen.dims == again.dims[2:] == (f"time_{channel}",)
    assert tree["predictions"].sizes["time"] == 1


def test_netcdf_round_trip(tree: xr.DataTree, tmp_path: Path) -> None:
    path = tmp_path / "tree.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        same(back.load(), tree)
        assert back["posterior_predictive/hare"].attrs["units"] == "thousands"


def test_a_ragged_batch_goes_to_arviz_and_to_a_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "region": ["north", "north", "south", "south", "south"],
            "time": DAYS[[0, 1, 2, 3, 5]],
            "variable": ["hare", "lynx", "hare", "hare", "lynx"],
            "value": [1.0, 2.0, 3.0, np.nan, 4.0],
        }
    )
    labels, many = read_many(SCHEMA, frame, "region")
    queries = [query(SCHEMA, o) for o in many]
    generator = torch.Generator().manual_seed(0)
    zs = [torch.randn(N, len(q), generator=generator) for q in queries]
    tree = to_tree_many(SCHEMA, WHITENING, labels, "region", many, queries, zs, {"seed": 0})
    summary = az.summary(handed(tree), var_names=["alpha", "weights"])
    assert "alpha[south]" in summary.index and "weights[north, 2]" in summary.index
    path = tmp_path / "tree.nc"
    tree.to_netcdf(path, engine="h5netcdf")
    with xr.open_datatree(path, engine="h5netcdf") as back:
        same(back.load(), tree)


def test_the_prior_goes_to_arviz() -> None:
    o = read(SCHEMA, None)
    q = query(SCHEMA, o, {"hare": [1.0, 2.0]})
    tree = to_tree(SCHEMA, WHITENING, o, q, torch.zeros(4, len(q)), {"seed": 0})
    groups = handed(tree).groups if ONE else handed(tree).groups()
    assert {str(g).strip("/") for g in groups} - {""} == {"prior", "predictions", "sample_stats"}
