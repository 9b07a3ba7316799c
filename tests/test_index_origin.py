"""Which date index 0 stands for is said wherever nobody chose it, and kept with the draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import xarray as xr
from test_cli import written

from fsimformer.cli import main
from fsimformer.joint import Joint

DATES = np.array(["2020-01-02", "2020-01-05"], dtype="datetime64[ns]")
NOBODY = "time = 0 is 2020-01-02, the earliest date that came in; origin= names another"


@pytest.fixture(scope="module")
def joint() -> Joint:
    return tiny.joint()


def series(dates: np.ndarray) -> xr.Dataset:
    return xr.Dataset({"y": ("time", [1.5, 0.5])}, {"time": dates})


def test_a_date_that_nobody_stated_is_told_by_the_conditional_and_its_draws(joint: Joint) -> None:
    implied, stated = joint.condition(series(DATES)), joint.condition(series(DATES), origin="2020-01-01")
    plain = joint.condition(series(np.array([0.0, 3.0])))
    assert repr(implied).endswith(f"given {{'y': 2}} readings; {NOBODY})")
    assert repr(stated) == repr(plain) and repr(plain).endswith("given {'y': 2} readings)")
    a, b, c = (x.sample(4, {}, quality="fast") for x in (implied, stated, plain))
    assert (a.attrs["index_origin"], b.attrs["index_origin"]) == (NOBODY, "time = 0 is 2020-01-01")
    assert "index_origin" not in c.attrs
    assert a["posterior"]["a"].equals(c["posterior"]["a"])  # as it says: the first date is 0


def test_data_sets_that_begin_on_different_days_count_from_different_days(joint: Joint) -> None:
    rows = {"time": [*DATES, *(DATES + np.timedelta64(1, "D"))], "region": ["a", "a", "b", "b"]}
    both = pd.DataFrame({**rows, "variable": "y", "value": [1.5, 0.5, 1.5, 0.5]})
    found = joint.condition(both, batch_dim="region").sample(4, {}, quality="fast")
    assert found.attrs["index_origin"] == "time = 0 is the earliest date of each data set; origin= names another"


def test_infer_says_it_in_one_line(joint: Joint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    joint.save(tmp_path / "tiny")
    data = written(tmp_path / "a.csv", "time,y\n2020-01-02,1.5\n2020-01-05,0.5\n")
    infer = ["infer", str(tmp_path / "tiny"), str(data), "--draws", "4", "--quality", "fast", "--at", "a", "--json"]
    assert main(infer) == 0
    out, error = capsys.readouterr()
    assert error == f"fsimformer infer: {data}: {NOBODY.replace('origin=', '--origin')}\n"
    assert json.loads(out)["index_origin"] == NOBODY
    assert main([*infer, "--origin", "2020-01-01"]) == 0
    out, error = capsys.readouterr()
    assert error == "" and json.loads(out)["index_origin"] == "time = 0 is 2020-01-01"
