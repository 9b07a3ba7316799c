"""The check accepts an exact model and rejects one that believes in too little or too much noise, or in a shift."""

from __future__ import annotations

from pathlib import Path

import linear
import numpy as np
import pytest
import xarray as xr
from conjugate import WRONG, conjugate, paths

from fsimformer import functionals
from fsimformer.check import diagnose
from fsimformer.functionals import maximum
from fsimformer.trials import Trials

FUNCTIONALS = {"integral": functionals.integral, "maximum": functionals.maximum}


def trials(n: int = 300, m: int = 40, spread: float = 1.0, shift: float = 0.0) -> Trials:
    """Of the conjugate estimators, as a network would have left them."""
    truth, x, draws = conjugate(n, m, 2, spread, shift, 1)
    f, f_draws, grid = paths(n, m, spread, shift, 2)
    density = -((np.concatenate([truth[:, None], draws], 1) - x[:, None] / 2 - shift * 0.5**0.5) ** 2).sum(-1)
    y, _, predicted = conjugate(n, m, 6, spread, shift, 3)
    return Trials(
        {"a": truth[:, 0], "v": truth, "f": f},
        {"a": draws[..., 0], "v": draws, "f": f_draws},
        {"f": grid},
        density,
        {"x": list(zip(y, predicted, strict=True))},
        np.full(n, 6),
    )


def test_exact_draws_pass_every_test() -> None:
    tree = diagnose(trials(), FUNCTIONALS)
    tests = tree["tests"].to_dataset()
    assert not tests["rejected"].any(), tests["test"][tests["rejected"]].to_numpy()
    assert "nothing rejected" in tree.attrs["verdict"]
    assert set(np.unique(tests["kind"])) == {"sbc", "coverage", "tarp", "scores", "local", "predictive"}
    assert {"a", "v[0]", "v[1]", "integral of f", "maximum of f"} == set(tree["sbc"]["quantity"].to_numpy())
    share, error = tree["coverage"]["share"], tree["coverage"]["standard_error"]
    assert (abs(share - share["nominal"]) < 3 * error).all()


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_draws_fail_by_every_kind_of_test(wrong: str) -> None:
    tests = diagnose(trials(300, 40, *WRONG[wrong]), FUNCTIONALS)["tests"].to_dataset()
    failed = set(np.unique(tests["kind"][tests["rejected"]]))
    kinds = {"sbc", "coverage", "scores", "predictive", "tarp"}
    assert failed >= (kinds if wrong != "shifted" else kinds - {"tarp"})
    one = tests.sel(test="sbc: a")
    if wrong == "shifted":
        assert one["shift"] < -4
    else:
        assert np.sign(one["dispersion"]) == (1 if wrong == "too narrow" else -1)


def test_ecdfs_leave_their_band_where_p_is_small() -> None:
    tree = diagnose(trials(150, 20, 0.6), FUNCTIONALS)
    sbc, tests = tree["sbc"].to_dataset(), tree["tests"].to_dataset()
    outside = ((sbc["ecdf"] < sbc["lower"] - 1e-9) | (sbc["ecdf"] > sbc["upper"] + 1e-9)).any("z")
    for name in sbc["quantity"].to_numpy():
        assert bool(outside.sel(quantity=name)) == bool(tests["p_value"].sel(test=f"sbc: {name}") <= 0.05)


def test_trees_go_to_files_and_back(tmp_path: Path) -> None:
    tree = diagnose(trials(60, 20), FUNCTIONALS, about={"n_data_sets": 60, "not_checked": []})
    tree.to_netcdf(tmp_path / "check.nc", engine="h5netcdf")
    again = xr.open_datatree(tmp_path / "check.nc", engine="h5netcdf")
    np.testing.assert_array_equal(again["sbc"]["rank"], tree["sbc"]["rank"])
    assert again.attrs["verdict"] == tree.attrs["verdict"]


def test_a_model_without_parameters_has_its_predictions_checked() -> None:
    some = trials(60, 20)
    bare = Trials({}, {}, {}, np.zeros((60, 0)), some.held_out, some.n_readings)
    tree = diagnose(bare, {})
    assert set(tree.children) == {"tests", "predictive"}
    assert set(tree["tests"]["kind"].to_numpy()) == {"predictive"}


def test_a_joint_checks_itself() -> None:
    seen: list[tuple[int, int]] = []
    joint = linear.joint()
    tree = joint.check(
        linear.SIMULATOR,
        24,
        20,
        at={"f": np.linspace(1, 9, 7)},
        functionals={"highest": maximum},
        quality="fast",
        callback=lambda done, n: seen.append((done, n)),
    )
    assert seen[-1] == (24, 24)
    assert list(tree["sbc"]["quantity"].to_numpy()) == ["a", "highest of f"]
    assert not tree["tests"]["rejected"].any()
    assert tree.attrs["network"] == joint.model.fingerprint and tree.attrs["n_data_sets"] == 24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("noise", "shift", "rejected"), [(1.0, 0.0, False), (0.4, 0.0, True), (2.5, 0.0, True), (1.0, 0.5, True)]
)
def test_networks_that_are_right_pass_and_others_fail(noise: float, shift: float, rejected: bool) -> None:
    tree = linear.joint(noise, shift).check(linear.SIMULATOR, 80, 40, quality="exact")
    assert bool(tree["tests"]["rejected"].any()) == rejected
    share = tree["coverage"]["share"].sel(nominal=0.8).item()
    error = tree["coverage"]["standard_error"].sel(nominal=0.8).item()
    if noise == 1.0 and not rejected:
        assert abs(share - 0.8) < 3 * error
    elif noise != 1.0:
        assert (share - 0.8) * (noise - 1) > 0.1 * abs(noise - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n": 5}, "at least 20 data sets, got n=5"),
        ({"n_draws": 21}, "an even number of draws >= 20, got n_draws=21"),
        ({"at": {"f": [3.0, 11.0]}}, r"at\['f'\]: expected at least two rising numbers in \[0, 10\]"),
        ({"at": {"f": [3.0]}}, r"at least two rising numbers"),
        ({"at": {"g": [3.0, 4.0]}}, r"at names \['g'\]; expected parameters .* \['f'\]"),
    ],
)
def test_errors_name_what_came(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, KeyError), match=message):
        linear.joint().check(linear.SIMULATOR, **settings)  # type: ignore[arg-type]
