"""The groundwater model against a dense solve, a manufactured solution and what holds of its prior."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from tiny import seeded

from fsimformer.simulators import DarcyFlow, check


def test_it_is_a_simulator_of_its_schema() -> None:
    check(DarcyFlow(grid_points=17))
    check(DarcyFlow(grid_points=9, reference=()))


def test_block_elimination_solves_the_difference_equations() -> None:
    """Every interior point: what flows out through its four faces is the source."""
    model = DarcyFlow(grid_points=9)
    drawn = model.simulate(3, seeded(0))
    g, p = drawn["log_permeability"], drawn["pressure"]
    flow = torch.zeros(3, 7, 7, dtype=torch.float64)
    centre = (slice(None), slice(1, -1), slice(1, -1))
    for i, j in ((0, 1), (2, 1), (1, 0), (1, 2)):
        there = (slice(None), slice(i, i + 7), slice(j, j + 7))
        flow += torch.exp((g[centre] + g[there]) / 2) * (p[centre] - p[there]) * 64
    torch.testing.assert_close(flow, torch.full_like(flow, model.source), rtol=1e-9, atol=1e-9)
    assert float(p[:, 0].abs().max()) == float(p[:, :, -1].abs().max()) == 0.0 and float(p[centre].min()) > 0


def series(x: float, y: float, source: float) -> float:
    """The torsion function of the square at (x, y), by its Fourier series."""
    total = 0.0
    for m in range(1, 60, 2):
        for n in range(1, 60, 2):
            both = math.sin(m * math.pi * x) * math.sin(n * math.pi * y)
            total += both * 16 / (m * n * math.pi**4 * (m * m + n * n))
    return source * total


def test_even_rock_has_the_known_pressure_to_second_order() -> None:
    exact = series(0.5, 0.5, 10.0)
    errors = []
    for n in (9, 17, 33):
        model = DarcyFlow(grid_points=n)
        p = model.solve(torch.zeros(1, n, n, dtype=torch.float64))[0, n // 2, n // 2]
        errors.append(abs(float(p) - exact))
    assert errors[2] < 1e-3 * exact
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.2)
    assert math.log2(errors[1] / errors[2]) == pytest.approx(2, abs=0.2)


def test_permeable_rock_drains() -> None:
    """exp(g) twice as large everywhere halves the pressure; the source doubles it."""
    model, twice = DarcyFlow(grid_points=17), DarcyFlow(grid_points=17, source=20.0)
    g = model.simulate(2, seeded(1))["log_permeability"]
    torch.testing.assert_close(model.solve(g + math.log(2)), model.solve(g) / 2, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(twice.solve(g), model.solve(g) * 2, rtol=1e-10, atol=1e-12)


def test_uneven_rock_converges_to_second_order() -> None:
    """g = sin 2πx · cos πy on grids that halve: differences of successive solutions fall by four."""
    found = []
    for n in (9, 17, 33, 65):
        x = torch.linspace(0, 1, n, dtype=torch.float64)
        g = torch.sin(2 * math.pi * x)[:, None] * torch.cos(math.pi * x)
        found.append(DarcyFlow(grid_points=n).solve(g[None])[0, :: (n - 1) // 8, :: (n - 1) // 8])
    steps = [float((a - b).abs().max()) for a, b in itertools.pairwise(found)]
    assert math.log2(steps[0] / steps[1]) == pytest.approx(2, abs=0.25)
    assert math.log2(steps[1] / steps[2]) == pytest.approx(2, abs=0.25)


def test_the_field_has_the_kernel() -> None:
    model = DarcyFlow(grid_points=9, sd=1.5, lengthscale=0.4)
    g = model.field(torch.randn(20_000, 9, 9, generator=seeded(2), dtype=torch.float64))
    for i, j in ((0, 0), (2, 0), (1, 3)):
        found = float((g[:, 2, 2] * g[:, 2 + i, 2 + j]).mean())
        expected = 1.5**2 * math.exp(-0.5 * ((i / 8) ** 2 + (j / 8) ** 2) / 0.4**2)
        assert found == pytest.approx(expected, abs=0.08)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["sd", "lengthscale", "source", "noise"])
@pytest.mark.parametrize("wrong", [0.0, -1.0, NAN, INF, -INF])
def test_numbers_that_cannot_be_are_refused(name: str, wrong: float) -> None:
    with pytest.raises(ValueError, match="DarcyFlow: expected finite sd, lengthscale, source, noise > 0"):
        DarcyFlow(**{name: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [4, 17.0, NAN, INF])
def test_grids_that_cannot_be_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="an integer grid_points >= 5"):
        DarcyFlow(grid_points=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 9, 8), (2, 8, 9), (9, 9), (2, 1, 9, 9), (2, 10, 10), (2, 17, 17)])
def test_fields_on_another_grid_are_refused(shape: tuple[int, ...]) -> None:
    """A larger square would be solved with the distances of the smaller one."""
    expected = rf"expected log permeability of shape \(n, 9, 9\), got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=expected):
        DarcyFlow(grid_points=9).solve(torch.zeros(shape))


def test_fields_that_are_not_finite_are_refused() -> None:
    for wrong in (NAN, INF):
        field = torch.zeros(1, 9, 9)
        field[0, 3, 3] = wrong
        with pytest.raises(ValueError, match="expected finite log permeability"):
            DarcyFlow(grid_points=9).solve(field)
