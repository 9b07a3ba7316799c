"""Highest-density regions against closed forms: a Gaussian, two bumps, an exponential; and exchangeability."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import chi2, expon, norm

import fsimformer as fsf
from fsimformer.regions import density_threshold, shortest

LEVELS = np.array([0.5, 0.8, 0.95])


def chained(x: np.ndarray) -> xr.DataArray:
    return xr.DataArray(x.reshape(2, -1, *x.shape[1:]), dims=("chain", "draw", *"ab"[: x.ndim - 1]))


@pytest.mark.parametrize("d", [1, 5])
def test_threshold_of_a_gaussian_is_that_of_its_chi_square(d: int) -> None:
    """−2 log p = d log 2π + χ²_d: t_p = −½ (d log 2π + χ²_d's quantile p)."""
    n = 40_000
    x = np.random.default_rng(0).standard_normal((n, d))
    found = fsf.highest_density(chained(norm.logpdf(x).sum(1)), LEVELS)
    exact = -0.5 * (d * np.log(2 * np.pi) + chi2(d).ppf(LEVELS))
    slope = chi2(d).pdf(chi2(d).ppf(LEVELS)) * 2  # of the level over the threshold
    assert (np.abs(found - exact) < 4 * np.sqrt(LEVELS * (1 - LEVELS) / n) / slope).all()
    np.testing.assert_array_equal(found["level"], LEVELS)
    assert found.attrs["coverage_error"] == pytest.approx(0.5 / n**0.5)


def bumps(x: np.ndarray) -> np.ndarray:
    """Density of .7 N(−2, .5²) + .3 N(2, .25²)."""
    return np.asarray(0.7 * norm.pdf(x, -2, 0.5) + 0.3 * norm.pdf(x, 2, 0.25))


def test_a_region_in_two_pieces_has_its_level_and_is_the_smallest() -> None:
    rng, n = np.random.default_rng(1), 20_000
    left = rng.random(n) < 0.7
    x = np.where(left, rng.normal(-2, 0.5, n), rng.normal(2, 0.25, n))
    grid = np.linspace(-6, 6, 24_001)
    found = np.exp(fsf.highest_density(chained(np.log(bumps(x))), LEVELS).to_numpy())
    for level, threshold in zip(LEVELS, found, strict=True):
        inside = bumps(grid) >= threshold
        assert abs(bumps(grid)[inside].sum() * 5e-4 - level) < 4 * (level * (1 - level) / n) ** 0.5
        assert np.count_nonzero(np.diff(inside.astype(int)) == 1) == 2  # two pieces
        one = shortest(x, level)
        assert inside.sum() * 5e-4 < one[1] - one[0] + 1e-3  # no interval is smaller


def test_a_further_draw_lies_in_the_region_at_the_stated_rate_whatever_the_law() -> None:
    """⌈p n⌉/(n + 1), of any ranks: counted over every place that one of 20 values may have."""
    values = np.random.default_rng(2).gumbel(size=20)
    for level in (0.25, 0.5, 0.9):
        inside = [
            values[i] >= density_threshold(np.delete(values, i), np.array([level]))[0] for i in range(len(values))
        ]
        assert sum(inside) == int(np.ceil(level * 19))


def test_shortest_intervals_of_a_normal_and_an_exponential() -> None:
    """A normal's is symmetric; an exponential's begins at 0 and ends at −log(1 − p)."""
    n, p = 20_000, (np.arange(20_000) + 0.5) / 20_000
    for level in LEVELS:
        z = norm.ppf(0.5 + level / 2)
        np.testing.assert_allclose(shortest(norm.ppf(p), level), [-z, z], atol=5e-2)
        np.testing.assert_allclose(np.diff(shortest(norm.ppf(p), level)), 2 * z, atol=2e-3)
        np.testing.assert_allclose(shortest(expon.ppf(p), level), [0.0, -np.log(1 - level)], atol=1e-2)
        held = shortest(norm.ppf(p), level)
        assert ((norm.ppf(p) >= held[0]) & (norm.ppf(p) <= held[1])).sum() == np.ceil(level * n)


def test_intervals_of_a_tree_keep_its_shapes_and_coordinates() -> None:
    x = np.random.default_rng(3).standard_normal((400, 3)) * [1, 2, 3]
    f = xr.DataArray(
        x.reshape(2, 200, 3), dims=("chain", "draw", "time"), coords={"time": [1.0, 2.0, 5.0], "chain": [0, 1]},
        attrs={"units": "m"},
    )  # fmt: skip
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset({"f": f, "a": f[..., 0].drop_vars("time")})})
    found = fsf.shortest_interval(tree, 0.8)
    assert found["f"].dims == ("end", "time") and found["a"].dims == ("end",)
    np.testing.assert_array_equal(found["f"]["time"], [1.0, 2.0, 5.0])
    assert found["f"].attrs == {"units": "m"} and found.attrs == {"level": 0.8}
    for j in range(3):
        np.testing.assert_array_equal(found["f"][:, j], shortest(x[:, j], 0.8))
    np.testing.assert_array_equal(found["a"], found["f"][:, 0])


def test_several_data_sets_have_a_threshold_each() -> None:
    x = np.random.default_rng(4).standard_normal((400, 2)) * [1, 5]
    found = fsf.highest_density(chained(x), 0.9)
    assert found.dims == ("a",) and float(found["level"]) == 0.9
    for j in range(2):
        assert float(found[j]) == density_threshold(x[:, j], np.array([0.9]))[0]


def test_errors_name_what_came() -> None:
    good = chained(np.zeros(40))
    with pytest.raises(ValueError, match=r"with the dims 'chain' and 'draw', got dims \('draw',\)"):
        fsf.highest_density(good[0])
    with pytest.raises(ValueError, match="1 of 40 values are NaN"):
        fsf.highest_density(chained(np.where(np.arange(40) == 3, np.nan, 0.0)))
    with pytest.raises(ValueError, match="expected a level between 0 and 1, or some, got 90"):
        fsf.highest_density(good, 90)
    with pytest.raises(ValueError, match="40 draws cannot tell a region of level 0.99"):
        fsf.highest_density(good, 0.99)
    with pytest.raises(ValueError, match="expected a Dataset or DataTree of draws, got DataArray"):
        fsf.shortest_interval(good)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no group 'posterior' or 'prior'"):
        fsf.shortest_interval(xr.DataTree.from_dict({"/predictions": xr.Dataset({"x": good})}))
