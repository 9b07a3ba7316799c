"""Pictures: what is drawn are the quantiles, the readings and the dates that the tree holds."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.dates import num2date
from matplotlib.figure import Figure

from fsimformer import plots

TIMES = np.array([0.0, 2.0, 3.0, 7.0])


def a_tree(times: np.ndarray = TIMES, coordinate: str = "time") -> xr.DataTree:
    rng = np.random.default_rng(0)
    sample = ("chain", "draw")
    posterior = xr.Dataset(
        {
            "gamma": (sample, rng.normal(size=(2, 200))),
            "weights": ((*sample, "weight"), rng.normal(size=(2, 200, 3))),  # a vector
            "rate": ((*sample, coordinate), rng.normal(size=(2, 200, 4))),
        },
        {coordinate: times},
    )
    posterior["gamma"].attrs["units"] = "1/day"
    new = xr.Dataset({"cases": ((*sample, "time_cases"), rng.normal(size=(2, 200, 2)))}, {"time_cases": times[[1, 3]]})
    seen = xr.Dataset({"cases": ((*sample, "time_cases"), rng.normal(size=(2, 200, 2)))}, {"time_cases": times[[0, 2]]})
    data = xr.Dataset({"cases": ("time_cases", [5.0, np.nan])}, {"time_cases": times[[0, 2]]})
    groups = {"posterior": posterior, "posterior_predictive": seen, "predictions": new, "observed_data": data}
    return xr.DataTree.from_dict(groups)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
def test_band_edges_are_the_quantiles_of_the_draws(level: float) -> None:
    tree = a_tree()
    ax = plots.bands(tree, "rate", levels=[level])
    draws = tree["posterior"]["rate"].to_numpy().reshape(-1, 4)
    low, median, high = np.quantile(draws, [(1 - level) / 2, 0.5, (1 + level) / 2], axis=0)
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    corners = band.get_paths()[0].vertices
    for i, t in enumerate(TIMES):
        at = corners[corners[:, 0] == t, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low[i], high[i]])
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.stack([TIMES, median], 1))


def test_curves_are_draws_evenly_spread_and_functions_have_some() -> None:
    tree = a_tree()
    draws = tree["posterior"]["rate"].to_numpy().reshape(-1, 4)
    ax = plots.bands(tree, "rate", curves=3)
    *curves, _ = ax.lines  # the median is drawn over them
    np.testing.assert_array_equal([line.get_ydata() for line in curves], draws[[0, 133, 266]])
    assert len(plots.bands(tree, "rate", curves=400).lines) == 401
    *most, _ = plots.bands(tree, "rate", curves=300).lines  # of both chains
    np.testing.assert_array_equal([line.get_ydata() for line in most[-2:]], draws[[397, 398]])
    with pytest.raises(ValueError, match="curves: expected 0 to 400 of the draws, got 401"):
        plots.bands(tree, "rate", curves=401)
    tree["functions"] = xr.DataTree(tree["posterior"].to_dataset()[["rate"]])
    rate, cases, *_ = plots.figure(tree).axes
    assert (len(rate.lines), len(cases.lines)) == (1 + plots.CURVES, 1)


def test_one_point_is_a_bar_of_its_quantiles() -> None:
    tree = a_tree()
    tree["predictions"] = xr.DataTree(tree["predictions"].to_dataset().isel(time_cases=[0]))
    del tree["posterior_predictive"]
    ax = plots.bands(tree, "cases", levels=[0.9], observed=False)
    (bar,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    low, high = np.quantile(tree["predictions"]["cases"], [0.05, 0.95])
    np.testing.assert_allclose(bar.get_segments()[0], [[2.0, low], [2.0, high]])


def test_dates_and_numbers_share_no_axis() -> None:
    tree = a_tree()
    data = tree["observed_data"].to_dataset()
    days = np.array(["2020-01-01", "2020-01-03"], dtype="datetime64[ns]")
    tree["observed_data"] = xr.DataTree(data.assign_coords(time_cases=days))
    with pytest.raises(ValueError, match="'cases': dates on one side and numbers on the other; ask for dates in `at`"):
        plots.bands(tree, "cases")


def test_wider_bands_lie_behind_narrower_ones() -> None:
    ax = plots.bands(a_tree(), "rate", levels=(0.5, 0.9))
    wide, narrow = (c.get_paths()[0].vertices for c in ax.collections if isinstance(c, PolyCollection))
    assert np.ptp(wide[:, 1]) > np.ptp(narrow[:, 1])


def test_predictions_and_predictive_are_joined_in_the_order_of_the_index() -> None:
    tree = a_tree()
    index, q = plots.quantiles(tree, "cases", [0.5])
    assert index.name == "time"
    np.testing.assert_array_equal(index, TIMES)
    seen, new = (np.median(tree[g]["cases"], axis=(0, 1)) for g in ("posterior_predictive", "predictions"))
    np.testing.assert_allclose(q[0], [seen[0], new[0], seen[1], new[1]])


def test_observed_and_held_out_readings_stand_where_they_were_read() -> None:
    held_out = xr.DataArray([8.0, np.nan, 9.0], {"year": [1.0, 2.0, 4.0]}, "year")
    ax = plots.bands(a_tree(), "cases", held_out=held_out)
    dots = {c.get_label(): np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)}
    np.testing.assert_array_equal(dots["observed"], [[0.0, 5.0]])  # the NaN is no reading
    np.testing.assert_array_equal(dots["held out"], [[1.0, 8.0], [4.0, 9.0]])
    ax = plots.bands(a_tree(), "cases", observed=False)
    assert not [c for c in ax.collections if isinstance(c, PathCollection)]


def test_dates_stay_dates_and_durations_become_days() -> None:
    dates = np.array(["1900-01-01", "1902-07-02", "1903-01-01", "1907-01-01"], dtype="datetime64[us]")
    ax = plots.bands(a_tree(dates, "time_rate"), "rate")
    first = num2date(ax.lines[0].get_xdata(orig=False)[0])
    assert (first.year, first.month, first.day) == (1900, 1, 1)
    assert ax.get_xlabel() == "time"
    hours = np.array([0, 12, 24, 36], dtype="timedelta64[h]").astype("timedelta64[ns]")
    np.testing.assert_allclose(plots.bands(a_tree(hours), "rate").lines[0].get_xdata(), [0, 0.5, 1, 1.5])


def test_marginal_is_a_density_with_its_interval_written_above() -> None:
    tree = a_tree()
    ax = plots.marginal(tree, "gamma")
    outline = ax.patches[0].get_xy()
    x, y = outline.T
    area = abs(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
    assert area == pytest.approx(0.99, abs=0.003)  # the central 99 %
    low, median, high = np.quantile(tree["posterior"]["gamma"], [0.05, 0.5, 0.95])
    assert ax.get_title() == f"{median:.3g}  [{low:.3g}, {high:.3g}]"
    assert ax.lines[0].get_xdata()[0] == median
    assert ax.get_xlabel() == "gamma [1/day]"


def test_marginal_of_what_does_not_vary() -> None:
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"x": (("chain", "draw"), np.full((2, 10), 3.0))})})
    assert plots.marginal(tree, "x").get_title() == "3  [3, 3]"


def test_vector_has_a_curve_for_each_of_its_own_components() -> None:
    tree = a_tree()
    ax = plots.marginal(tree, "weights")
    medians = [line.get_xdata()[0] for line in ax.lines]
    np.testing.assert_allclose(medians, np.median(tree["posterior"]["weights"], axis=(0, 1)))


def test_figure_has_a_panel_for_everything_and_leaves_no_state_behind() -> None:
    before = "matplotlib.pyplot" in sys.modules
    page = plots.figure(a_tree())
    assert isinstance(page, Figure)
    assert [ax.get_ylabel() for ax in page.axes] == ["rate", "cases", "", ""]
    assert [ax.get_xlabel() for ax in page.axes] == ["time", "time", "gamma [1/day]", "weights"]
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_figure_of_the_prior() -> None:
    tree = xr.DataTree.from_dict({"prior": a_tree()["posterior"].to_dataset()})
    assert [ax.get_xlabel() for ax in plots.figure(tree).axes] == ["time", "gamma [1/day]", "weights"]


def test_axes_that_come_in_go_out() -> None:
    panels = list(Figure().subplots(1, 3))
    assert plots.bands(a_tree(), "rate", panels[0]) is panels[0]
    assert plots.marginal(a_tree(), "gamma", panels[1]) is panels[1]
    assert plots.posterior(a_tree(), panels) == panels[:2]


def test_messages() -> None:
    tree = a_tree()
    with pytest.raises(KeyError, match="No draws of 'beta'.*'gamma', 'weights', 'rate', 'cases'"):
        plots.bands(tree, "beta")
    with pytest.raises(ValueError, match="'gamma' has the dims.*one index dim"):
        plots.bands(tree, "gamma")
    with pytest.raises(ValueError, match="'rate' has the dims.*drawn by `bands`"):
        plots.marginal(tree, "rate")
    with pytest.raises(ValueError, match=r"levels: expected probabilities in \(0, 1\), got \(90,\)"):
        plots.bands(tree, "rate", levels=(90,))
    with pytest.raises(ValueError, match="Expected 2 axes for .*gamma.*got 1"):
        plots.posterior(tree, [Figure().subplots()])
    regions = xr.Dataset({"rate": (("chain", "draw", "region", "time"), np.ones((2, 5, 3, 4)))}, {"time": TIMES})
    several = xr.DataTree.from_dict({"posterior": regions})
    with pytest.raises(ValueError, match="'rate' has the dims.*pick one first"):
        plots.figure(several)
    assert len(plots.figure(several.isel(region=0)).axes) == 1
    with pytest.raises(ValueError, match="no draws"):
        plots.figure(xr.DataTree())


def test_padding_of_ragged_data_sets_is_left_out() -> None:
    """As `to_tree_many` pads: a coordinate time_cases(region, point_cases) with NaN at its end."""
    draws = np.random.default_rng(0).normal(size=(2, 50, 2, 3))
    draws[:, :, 1, 2] = np.nan
    places = np.array([[0.0, 1.0, 2.0], [5.0, 4.0, np.nan]])
    group = xr.Dataset(
        {"cases": (("chain", "draw", "region", "point_cases"), draws)},
        {"time_cases": (("region", "point_cases"), places), "region": ["north", "south"]},
    )
    tree = xr.DataTree.from_dict({"predictions": group}).isel(region=1)
    index, q = plots.quantiles(tree, "cases", [0.5])
    np.testing.assert_array_equal(index, [4.0, 5.0])
    np.testing.assert_allclose(q[0], np.median(draws[:, :, 1, [1, 0]], axis=(0, 1)))
    assert plots.bands(tree, "cases").get_xlabel() == "time"


def test_function_of_two_places_has_no_panel() -> None:
    group = xr.Dataset(
        {"field": (("chain", "draw", "point"), np.ones((2, 5, 4)))}, {"x": ("point", TIMES), "y": ("point", TIMES)}
    )
    with pytest.raises(ValueError, match="'field' has the dims.*no panel"):
        plots.figure(xr.DataTree.from_dict({"posterior": group}))


def test_without_matplotlib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.delitem(sys.modules, "fsimformer.plots")
    with pytest.raises(ImportError, match=r"pip install 'fsimformer\[plots\]'"):
        import fsimformer.plots  # noqa: F401
