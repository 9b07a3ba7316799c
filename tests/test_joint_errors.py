"""What a newcomer hands to the face by mistake, and what it says was expected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from tiny import joint

import fsimformer as fsf
from fsimformer.sample import SamplerConfig

QUICK = SamplerConfig("ab2", 4)


def observed(**scalars: float) -> xr.Dataset:
    """Readings of y, one of them missing, and maybe scalars."""
    return xr.Dataset({"y": ("time", [1.0, np.nan, 2.0]), **scalars}, {"time": [0.5, 3.0, 17.0]})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda j: j.condition(observed()).sample(3), ValueError, "an even number of draws >= 2 .two chains., got 3"),
        (lambda j: j.condition(observed()).sample(0), ValueError, "even number of draws >= 2 .two chains., got 0"),
        (
            lambda j: j.condition(observed()).sample(1e3),
            ValueError,
            "even number of draws >= 2 .two chains., got 1000.0",
        ),
        (
            lambda j: j.condition(observed()).sample(4, budget=8),
            ValueError,
            "expected budget=fsimformer.Budget.*, got 8",
        ),
        (lambda j: j.condition(xr.DataTree()), ValueError, "expected one Dataset, got a DataTree"),
        (lambda j: j.condition(observed()).log_prob(3.0), ValueError, "expected an xarray.Dataset .*, got float"),
        (
            lambda j: j.condition(observed()).extend(xr.Dataset(), {}),
            ValueError,
            "expected the DataTree .*, got Dataset",
        ),
        (
            lambda j: j.condition(observed().to_dataframe()),
            ValueError,
            r"A wide frame, .* becomes a Dataset by .to_xarray\(\)",
        ),
        (
            lambda j: j.condition(observed().to_dataframe().reset_index()),
            ValueError,
            r"A wide frame, .* becomes a Dataset by .set_index\(\['time'\]\).to_xarray\(\)",
        ),
        (
            lambda j: (c := j.condition(observed())).extend(c.sample(4, {}, quality=QUICK), {"rate": [1.0]}),
            ValueError,
            r"\['rate'\] are no functions .* Functions: \[\]. Only functions with a reference set, .* sample anew",
        ),
        (lambda j: j.condition(observed()).sample(4, quality="best"), ValueError, "Unknown quality 'best'. Choices"),
        (lambda j: j.condition(observed()).sample(4, {"z": [1]}), KeyError, r"no variables \['z'\]. Its variables"),
        (lambda j: j.condition(observed()).sample(4, {"rate": None}), ValueError, "'rate' is a function of"),
        (lambda j: j.condition(observed(a=0.5)).sample(4, {"a": None}), ValueError, "'a' was observed"),
        (lambda j: j.condition({"z": 1.0}), KeyError, "z"),
        (lambda j: j.condition({"a": 5.0}), ValueError, r"'a'.*outside its support \(-2, 2\)"),
        (lambda j: j.condition(observed(), batch_dim="time"), ValueError, "batch_dim='time' is a name of the model"),
        (
            lambda j: j.condition(observed(), n_active_observed=-1),
            ValueError,
            "integer >= 0, .few. or None .all., got -1",
        ),
        (lambda j: j.condition(observed(), n_active_observed="all"), ValueError, "None .all., got 'all'"),
        (lambda j: fsf.load("no such model"), FileNotFoundError, "No model named 'no such model'.*Models that ship"),
    ],
)
def test_each_mistake_says_what_was_expected(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(joint())
