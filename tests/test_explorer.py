"""What a page holds and shows, without a page: boards, pictures, the script, and the thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import linear
import numpy as np
import pytest
import tiny
import xarray as xr
from scipy.stats import norm

import fsimformer
from fsimformer.convert import ObservationWarning
from fsimformer.explorer.board import Board
from fsimformer.explorer.newest import Newest, Stopped, stoppable
from fsimformer.explorer.picture import (
    BANDS,
    LEVELS,
    Picture,
    density,
    fitting,
    of_draws,
    preview,
    prior_quantiles,
    smoothed,
    within,
)
from fsimformer.marginals import Fitted
from fsimformer.priors import POSITIVE, Normal
from fsimformer.schema import Components, Index, Schema, Variable

SEEN = xr.Dataset({"x": ("time", [0.8, np.nan, 1.1])}, {"time": [2.0, 5.0, 5.5]})
DATED = Schema(
    (Variable("rate", "parameter", prior=Normal()), Variable("cases", "data", ("time",), support=POSITIVE)),
    (Index("time", 0, 60, "days"),),
)


def board() -> Board:
    return Board.of(linear.SCHEMA, SEEN)


def test_a_board_holds_what_was_finite() -> None:
    assert board().readings == {"x": ((2.0, 0.8), (5.5, 1.1))}
    assert Board.of(linear.SCHEMA, {"a": 0.3}).known == {"a": 0.3}
    assert Board.of(linear.SCHEMA).dataset().equals(xr.Dataset())


def test_readings_are_added_moved_and_removed() -> None:
    b = board().add("x", 7.1234567, -0.5)
    assert b.readings["x"] == ((2.0, 0.8), (5.5, 1.1), (7.12346, -0.5))
    assert b.move("x", 0, 3.0, 0.9).remove("x", 1).readings["x"] == ((3.0, 0.9), (7.12346, -0.5))
    assert board().readings == {"x": ((2.0, 0.8), (5.5, 1.1))}  # it is not changed itself
    assert b.add("f", 1.0, 2.0).dataset()["f"].item() == 2.0  # a function that is a parameter can be observed, too


def test_what_came_from_a_file_keeps_its_digits() -> None:
    exact = 1 / 3
    b = Board.of(linear.SCHEMA, SEEN + exact)
    assert b.add("x", 1.0, 1.0).readings["x"][0] == (2.0, 0.8 + exact)


def test_the_dataset_is_read_back_as_the_same_board() -> None:
    b = board().add("f", 4.0, 0.1).know("a", 0.4)
    assert Board.of(linear.SCHEMA, b.dataset()) == b


def test_unused_readings_are_kept_aside() -> None:
    b = board().add("f", 4.0, 0.1)
    assert set(b.use(["f"]).dataset().data_vars) == {"f"}
    assert b.use(["f"]).use(["f", "x"]).dataset().equals(b.dataset())


def test_dates_come_back_as_dates() -> None:
    dates = np.array(["2024-03-01", "2024-03-11T12:00"], dtype="datetime64[ns]")
    observed = xr.Dataset({"cases": ("time", [3.0, 8.0])}, {"time": dates})
    b = Board.of(DATED, observed, origin="2024-02-28")
    assert b.readings["cases"] == ((2.0, 3.0), (12.5, 8.0))
    assert (b.dataset()["time_cases"].to_numpy() == dates).all()
    moved = b.move("cases", 0, 3.25, 4.0).dataset()["time_cases"].to_numpy()
    assert moved[0] == np.datetime64("2024-03-02T06:00")
    assert b.at(2)["cases"][0] == np.datetime64("2024-02-28")
    assert "dtype='datetime64[us]'" in b.script("m", 100, 5, 0, "fast")


def test_the_conditional_is_that_of_the_dataset_under_the_intervals() -> None:
    joint = linear.joint()
    conditional, notes = board().between("a", -0.5, np.inf).condition(joint)
    assert not notes
    draws = conditional.sample(40, {}, quality="fast")["posterior"]["a"]
    assert (draws >= -0.5).all()
    assert board().add("x", 12.0, 0.0).condition(joint)[1][0].startswith("'x': 1 of 3 readings lie outside")


class Listened:
    """A Joint that does something else while it is conditioned."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.then, self.joint = then, linear.joint()

    def condition(self, observed: Any, **options: Any) -> Any:
        self.then()
        return self.joint.condition(observed, **options)


def test_what_other_threads_warn_of_is_no_note_of_this_board() -> None:
    """The thread that draws may ask for points outside the trained range while a mouse moves."""

    def elsewhere() -> None:
        thread = threading.Thread(target=warnings.warn, args=("not of this board", ObservationWarning))
        thread.start()
        thread.join()

    with pytest.warns(ObservationWarning, match="not of this board"):
        notes = board().add("x", 12.0, 0.0).condition(Listened(elsewhere))[1]  # type: ignore[arg-type]
    assert len(notes) == 1 and notes[0].startswith("'x': 1 of 3 readings lie outside")


def test_boards_of_two_threads_leave_the_filters_of_warnings_as_they_were() -> None:
    """The second waits until the first is done; else it would put back, last of all, what the first had set."""
    first_left, second_in = threading.Event(), threading.Event()
    found = list[list[str]]()

    def wait() -> None:
        second_in.set()
        first_left.wait(5)

    def second() -> None:
        found.append(board().add("x", 11.0, 0.0).condition(Listened(wait))[1])  # type: ignore[arg-type]

    thread = threading.Thread(target=second)

    def begin() -> None:
        thread.start()
        second_in.wait(0.2)

    before, shown = list(warnings.filters), warnings.showwarning
    notes = board().add("x", 12.0, 0.0).condition(Listened(begin))[1]  # type: ignore[arg-type]
    first_left.set()
    thread.join()
    assert list(warnings.filters) == before and warnings.showwarning is shown
    assert ["to 12" in n for n in notes] == [True] and ["to 11" in n for n in found[0]] == [True]


def test_narrower_intervals_alone_let_draws_be_kept() -> None:
    b = board().between("a", -1.0, 1.0)
    assert b.between("a", -0.5, 1.0).narrows(b) and b.narrows(board())
    assert not b.between("a", -2.0, 1.0).narrows(b)
    assert not board().narrows(b)
    assert not b.add("x", 1.0, 1.0).narrows(b)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda b: b.add("z", 1.0, 1.0), KeyError, "No function 'z'"),
        (lambda b: b.add("x", 1.0, np.nan), ValueError, "finite"),
        (lambda b: b.remove("x", 2), IndexError, "range"),
        (lambda b: b.know("x", 1.0), KeyError, "No scalar 'x'"),
        (lambda b: b.between("a", 1.0, 1.0), ValueError, "lower < upper"),
        (lambda b: b.know("a", 0.3).between("a", 0.0, 1.0), KeyError, "not known"),
        (lambda b: Board(DATED).know("cases", 1.0), KeyError, "No scalar"),
        (lambda b: Board.of(linear.SCHEMA, {"q": 1.0}), KeyError, "q"),
        (lambda b: Board(tiny.SCHEMA), ValueError, r"\['x'\] have several dims"),
    ],
)
def test_mistakes_are_named(change: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        change(board())


def test_a_value_outside_the_support_is_refused() -> None:
    schema = Schema(
        (Variable("k", "parameter", support=POSITIVE), Variable("v", "parameter", ("i",))), (Components("i", 2),)
    )
    with pytest.raises(ValueError, match="expected a value in"):
        Board(schema).know("k", -1.0)


def exact(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of f(at) given the two readings of `SEEN`."""
    import torch

    phi = linear.loading(torch.tensor([2.0, 5.5], dtype=torch.float64)).numpy()
    row = linear.loading(torch.from_numpy(at)).numpy()
    precision = np.eye(linear.RANK) + phi.T @ phi / linear.NOISE**2
    mean = row @ np.linalg.solve(precision, phi.T @ np.array([0.8, 1.1]) / linear.NOISE**2)
    return mean, np.sqrt((row * np.linalg.solve(precision, row.T).T).sum(1))


def shown(n: int = 12) -> Picture:
    return preview(board(), board().condition(linear.joint())[0], n, Fitted(5))


def test_a_preview_shows_the_exact_bands() -> None:
    found = shown()
    mean, sd = exact(found.at["f"])
    np.testing.assert_allclose(found.bands["f"], mean + sd * norm.ppf(BANDS)[:, None], atol=0.01)
    x, p = found.densities["a"]
    median, low, high = found.summaries["a"]
    np.testing.assert_allclose(p, norm.pdf(x, median, (high - low) / (2 * norm.ppf(0.95))), rtol=0.02)


def test_a_preview_follows_a_reading() -> None:
    """Pulling a reading by δ moves the posterior mean linearly, by its weight times δ."""
    joint, b = linear.joint(), board()
    middle = [
        preview(c, c.condition(joint)[0], 12, Fitted(5)).bands["f"][2]
        for c in (b, b.move("x", 0, 2.0, 1.3), b.move("x", 0, 2.0, 1.8))
    ]
    np.testing.assert_allclose(middle[2] - middle[0], 2 * (middle[1] - middle[0]), atol=0.01)
    assert np.abs(middle[1] - middle[0]).max() > 0.2


def test_draws_show_what_the_preview_shows() -> None:
    n, p, b = 600, np.array(BANDS), board()
    draws = b.condition(linear.joint())[0].sample(n, b.at(12), quality="fast")
    drawn, found = of_draws(b, draws, 12), shown()
    floor = 4.5 * np.sqrt(p * (1 - p) / n) / norm.pdf(norm.ppf(p)) + 0.03  # in sd; the solver's part last
    for name, noise in (("f", 0.0), ("x", linear.NOISE)):
        sd = np.hypot(exact(found.at[name])[1], noise)
        assert (np.abs(drawn.bands[name] - found.bands[name]) < floor[:, None] * sd).all(), name
    assert set(drawn.densities) == set(found.densities) == {"a", "y"}
    assert drawn.curves["f"].shape == (6, 12)


def test_points_that_were_observed_are_shown_in_their_place() -> None:
    b = board()
    at = b.grid("x", 21)
    assert 2.0 in at and 5.5 in at
    draws = b.condition(linear.joint())[0].sample(200, b.at(21), quality="fast")
    assert {"predictions", "posterior_predictive"} <= set(draws.children)
    found = of_draws(b, draws, 21).bands["x"]
    mean = exact(at)[0]
    assert np.abs(found[2] - mean).max() < 0.3


def test_draws_within_intervals_are_those_that_rejection_keeps() -> None:
    b = board().between("a", 0.0, 0.8)
    draws = board().condition(linear.joint())[0].sample(400, b.at(0), quality="fast")
    kept = within(draws, b.constraints())
    a = draws["posterior"]["a"].to_numpy().reshape(-1)
    assert (kept == ((a >= 0) & (a <= 0.8))).all() and 0 < kept.sum() < 400
    median, low, high = of_draws(b, draws, 0, kept).summaries["a"]
    assert 0.0 <= low < median < high <= 0.8


def test_a_density_follows_from_quantiles() -> None:
    p = np.array(LEVELS)
    x, found = density(p, np.exp(norm.ppf(p)))  # log-normal
    exact = norm.pdf(np.log(x)) / x
    assert np.abs(found - exact).max() < 0.12 * exact.max()
    assert (np.diff(x) > 0).all() and abs(np.trapezoid(found, x) - 0.99) < 0.02
    x, found = density(p, np.full(7, 2.0))  # a point: no width, no NaN
    assert np.isfinite(found).all()


def test_draws_are_smoothed_into_a_density() -> None:
    x, found = smoothed(norm.ppf((np.arange(2000) + 0.5) / 2000))
    assert np.abs(found - norm.pdf(x)).max() < 0.03 * norm.pdf(0)
    assert np.isfinite(smoothed(np.full(20, 3.0))).all()  # a point


def test_prior_quantiles_are_the_prior_s() -> None:
    np.testing.assert_allclose(prior_quantiles(linear.joint(), "a", np.array([0.1, 0.9])), norm.ppf([0.1, 0.9]))


def test_a_slow_machine_gets_fewer_points() -> None:
    assert fitting(30, 0.22) == 15 and fitting(30, 0.055) == 60 and fitting(8, 9.0) == 8 and fitting(60, 0.01) == 60


def test_the_script_draws_what_the_page_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joint = linear.joint()
    b = board().know("y", 0.2).between("a", -1.0, 1.5).add("f", 4.0, 0.1)
    monkeypatch.setattr(fsimformer, "load", {"linear": joint}.__getitem__)
    monkeypatch.chdir(tmp_path)
    exec(b.script("linear", 100, 5, 3, "fast"), {})
    drawn = b.condition(joint)[0].sample(100, b.at(5), seed=3, quality="fast")
    written = xr.open_datatree(tmp_path / "explore.nc", engine="h5netcdf")
    np.testing.assert_allclose(written["posterior"]["f"], drawn["posterior"]["f"], atol=1e-5)
    np.testing.assert_allclose(written["posterior"]["a"], drawn["posterior"]["a"], atol=1e-5)
    written.close()
    assert (tmp_path / "explore.png").stat().st_size > 5_000


def test_only_the_newest_job_counts() -> None:
    failed, ran, go = list[Exception](), list[int](), threading.Event()
    newest = Newest(failed.append)

    def first(stale: object) -> None:
        go.wait(10)
        ran.append(0)
        assert stale()
        raise Stopped

    newest.submit(first)
    for i in range(1, 4):
        newest.submit(lambda stale, i=i: ran.append(i))
    go.set()
    assert newest.join(10)
    assert ran[0] in (0, 3) and ran[-1] == 3 and len(ran) <= 2 and not failed  # the first may not have begun in time

    def wrong(stale: object) -> None:
        raise ValueError("no")

    newest.submit(wrong)
    assert newest.join(10) and str(failed[0]) == "no"
    newest.close()


def test_draws_that_are_out_of_date_leave_off() -> None:
    looks = iter([False, False, True])
    slow = stoppable(linear.joint(), lambda: next(looks))
    with pytest.raises(Stopped):
        slow.condition(SEEN).sample(10, {}, quality="exact")
    assert next(looks, None) is None  # not one evaluation more
    linear.joint().condition(SEEN).sample(10, {}, quality="fast")  # the Joint itself goes on


def test_pages_are_of_models_whose_readings_lie_on_a_line() -> None:
    schema = Schema((Variable("x", "data", ("time", "part")),), (Index("time", 0, 1), Components("part", 2)))
    with pytest.raises(ValueError, match="several dims"):
        Board(schema)
