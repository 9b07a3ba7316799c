"""Reference sets and noise-free paths in the schema."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fsimformer.priors import POSITIVE, REAL
from fsimformer.schema import Index, Noise, Schema, Variable


def epidemic(**changes: object) -> Schema:
    """A functional parameter and a series, each with a reference set, and a scalar."""
    path = {"name": "prevalence", "role": "parameter", "dims": ("time",), "support": POSITIVE, "path_of": "infected"}
    return Schema(
        (
            Variable("rate", "parameter"),
            Variable("contact", "parameter", ("time",), reference=8),
            Variable("infected", "data", ("time",), support=POSITIVE, noise=Noise("lognormal", 0.1)),
            Variable(**(path | {"reference": (6,)} | changes)),  # type: ignore[arg-type]
        ),
        (Index("time", 0.0, 10.0), Index("place", 0.0, 1.0)),
    )


def test_a_reference_set_brings_an_id_for_what_lies_between() -> None:
    schema = epidemic()
    assert schema.references == ("contact", "prevalence") and schema.paths == {"prevalence": "infected"}
    assert [schema.ids(name) for name in schema.names] == [range(i, i + 1) for i in range(4)]
    assert schema.residual_ids("contact") == range(4, 5) and schema.residual_ids("prevalence") == range(5, 6)
    assert not schema.residual_ids("rate") and schema.n_ids == 6
    assert schema.uses_index()[:, 0].tolist() == [False, True, True, True, True, True]
    assert schema.variable_of(5).name == "prevalence" and schema["contact"].reference == (8,)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_a_number_of_points_may_be_numpys() -> None:
    schema = epidemic(reference=np.int64(7))
    assert schema["prevalence"].reference == (7,) and json.dumps(schema.to_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": (6, 6)}, r"a number of points for each of its index dims \('time',\); got reference \(6, 6\)"),
        ({"reference": (1,)}, r"expected reference as a number of points >= 2, .* such as 9 or \(6, 6\), got \(1,\)"),
        ({"reference": 2.5}, "'prevalence': expected reference as a number of points >= 2, .*, got 2.5"),
        ({"reference": (6.0,)}, r"expected reference as .*, got \(6.0,\)"),
        ({"reference": True}, "expected reference as .*, got True"),
        ({"reference": "9"}, "expected reference as .*, got '9'"),
        ({"path_of": "contact"}, r"path_of 'contact' is no series with noise. Choices: \['infected'\]"),
        ({"support": REAL}, r"has role 'parameter', its dims \('time',\) and support \(0, inf\)"),
        ({"dims": ("place",)}, "the path of 'infected' has role 'parameter'"),
        ({"noise": Noise("lognormal", 0.1)}, "For a series with noise, give it to a variable with path_of"),
    ],
)
def test_what_is_no_reference_set_or_path_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        epidemic(**changes)
