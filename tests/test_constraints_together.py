"""Constraints that follow one another: they add up, contradict each other, and say when they leave too little."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm
from test_constrained import conditional, linear

from fsimformer import Average, Between, ObservationWarning, Potential


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            Between("f", lower=2.0, at=[4.0]),
            Between("f", upper=1.0, at=[5.0, 4.0]),
            r"'f' at time 4.0 .* \[2, inf\] and in",
        ),
        (Between("f", 0.0, 1.0, at=[4.0]), Between("f", 1.0, 2.0, at=[4.0]), r"\[0, 1\] and in \[1, 2\], which contra"),
        (
            Between(Average("f", 3.0, 8.0), upper=-1.0),
            Between(Average("f", 3.0, 8.0), lower=1.0),
            r"Average\(variable='f'.* is to lie in \[-inf, -1\] and in \[1, inf\]",
        ),
    ],
    ids=["disjoint", "touching", "functional"],
)
def test_constraints_that_contradict_each_other_are_refused_before_a_draw(
    first: Between, second: Between, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fsimformer.target.draw_conditional", lambda *_: pytest.fail("drawn"))
    with pytest.raises(ValueError, match=message):
        conditional().constrain(first).constrain(second).sample(10, {"f": [4.0]})


def test_intervals_that_overlap_add_up_and_the_method_stays() -> None:
    """Two half lines make an interval; a method that was chosen holds for constraints to come, until another is."""
    mean, sd = linear(np.array([4.0]), np.ones(1))
    low, high = mean + 2.2 * sd, mean + 3.5 * sd
    one = conditional().constrain(Between("f", lower=low, at=[4.0]), method="smc", max_draws=7_000)
    both = one.constrain(Between("f", upper=high, at=[4.0]))
    assert both.constraints.method == "smc" and both.constraints.max_draws == 7_000
    assert both.constrain(method="rejection").constraints.method == "rejection"
    assert conditional().constrain(Between("f", lower=low, at=[4.0])).constraints.method == "auto"
    draws = both.sample(100, {"f": [4.0]}, seed=1)
    assert str(draws["sample_stats"]["method"].item()) == "smc"
    f = (draws["posterior"]["f"].to_numpy().ravel() - mean) / sd
    assert f.min() >= 2.2 - 1e-6 and f.max() <= 3.5 + 1e-6
    assert (
        abs(float(draws["sample_stats"]["constraint_log_prob"]) - math.log(np.diff(norm.cdf([2.2, 3.5])).item())) < 0.6
    )


def test_particles_that_are_worth_little_say_so() -> None:
    """A potential that SMC learns of at the end only: one particle in a hundred is left, about."""
    mean, sd = linear(np.array([4.0]), np.ones(1))
    sharp = Potential(lambda d: -0.5 * ((d["f"].isel(time=0) - mean) / (0.01 * sd)) ** 2, at={"f": [4.0]})
    with pytest.warns(
        ObservationWarning, match=r"particles of .* are worth \d+ independent draws, fewer than 50.*more dra"
    ):
        draws = conditional().constrain(sharp, method="smc").sample(100, {"f": [4.0]}, seed=0)
    assert float(draws["sample_stats"]["ess"]) < 50
