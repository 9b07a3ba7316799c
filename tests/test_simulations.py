"""Simulations become a store: what failed is dropped and counted, what is kept is exactly the whitened draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import SCHEMA, seeded
from torch import Tensor

from fsimformer.priors import COUNTS, POSITIVE, LogNormal, Normal, Support
from fsimformer.ranges import value_ranges, whitened_limits
from fsimformer.readings import Design, read
from fsimformer.schema import Index, Noise, Schema, Variable
from fsimformer.simulations import build_store, default_design, measured, simulate
from fsimformer.simulators import FunctionSimulator, check
from fsimformer.simulators.protocol import plausible_ranges
from fsimformer.whiten import Standardise, Transform, Whitening

PAIR = Schema((Variable("a", "parameter"), Variable("y", "data", ("t",), support=POSITIVE)), (Index("t", 0, 1),))


def simulator(spoil: Callable[[dict[str, Tensor]], None], log: list[int] | None = None) -> FunctionSimulator:
    """Normal `a` and positive `y`; every draw has its own value of `a`."""

    def run(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        a = torch.randn(n, generator=generator, dtype=torch.float64)
        out = {"a": a, "y": a.exp()[:, None].repeat(1, 5)}
        spoil(out)
        if log is not None:
            log.append(n)
        return out

    return FunctionSimulator(PAIR, run)


def below(limit: float, value: float) -> Callable[[dict[str, Tensor]], None]:
    """Write `value` into one reading of y where a < limit."""

    def spoil(draws: dict[str, Tensor]) -> None:
        draws["y"][draws["a"] < limit, 2] = value

    return spoil


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 0.0, -1.0])
def test_failed_rows_are_dropped_counted_and_replaced(value: float) -> None:
    log: list[int] = []
    out = simulate(simulator(below(-0.5, value), log), 500, seeded(1), chunk=200)
    assert len(out) == 500 and all(len(x) == 500 for x in out.values.values())
    assert bool((out.values["a"] >= -0.5).all()) and bool((out.values["y"] > 0).all())
    torch.testing.assert_close(out.values["y"][:, 0], out.values["a"].exp())  # rows stay together
    assert len(out.values["a"].unique()) == 500
    assert out.n_dropped / sum(log) == pytest.approx(0.31, abs=0.05)  # Φ(−0.5)


def test_nothing_fails_nothing_is_dropped_and_exactly_n_are_simulated() -> None:
    log: list[int] = []
    out = simulate(simulator(lambda draws: None, log), 500, seeded(1), chunk=200)
    assert out.n_dropped == 0 and log == [200, 200, 100]


def test_too_many_failures_raise() -> None:
    with pytest.raises(ValueError, match=r"simulate: \d+ of 1000 draws were not finite or outside their support"):
        simulate(simulator(below(1.0, torch.nan)), 5000, seeded(), chunk=1000)
    with pytest.raises(ValueError, match="100 of 100 draws were not finite"):
        simulate(simulator(below(torch.inf, torch.nan)), 100, seeded())
    assert len(simulate(simulator(below(1.0, torch.nan)), 100, seeded(), max_dropped=0.95)) == 100


def test_missing_variables_and_short_draws_raise() -> None:
    def without(draws: dict[str, Tensor]) -> None:
        del draws["y"]

    with pytest.raises(ValueError, match=r"expected the variables \['a', 'y'\], got \['a'\]"):
        simulate(simulator(without), 10, seeded())

    def short(draws: dict[str, Tensor]) -> None:
        draws["y"] = draws["y"][1:]

    with pytest.raises(ValueError, match="'y' has 9 rows, expected 10"):
        simulate(simulator(short), 10, seeded())


def test_the_store_holds_whitened_draws_under_their_ids() -> None:
    g, n = seeded(2), 30
    rand = lambda *shape: torch.rand(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    draws = {"a": 4 * rand(n) - 2, "w": rand(n, 2), "rate": rand(n, 9), "y": rand(n, 9), "x": rand(n, 9, 2)}
    whitening = Whitening.fit(SCHEMA, draws)
    store = build_store(SCHEMA, whitening, draws)
    assert store.scalar_ids.tolist() == [*SCHEMA.ids("a"), *SCHEMA.ids("w")] and store.n_index == 1 and len(store) == n
    expected = torch.stack([whitening["a"].forward(draws["a"]), *whitening["w"].forward(draws["w"]).unbind(1)], 1)
    torch.testing.assert_close(store.scalars, expected.float())
    assert [s.id for s in store.series] == [*SCHEMA.ids("rate"), *SCHEMA.ids("y"), *SCHEMA.ids("x")]
    x = whitening.forward("x", draws["x"], torch.arange(2)).float()
    torch.testing.assert_close(x.mean((0, 1)), torch.zeros(2), rtol=0, atol=1e-5)  # channel by channel
    for series, z in zip(
        store.series, (draws["rate"], whitening["y"].forward(draws["y"]), x[..., 0], x[..., 1]), strict=True
    ):
        assert series.dims == (0,) and series.tail is None
        torch.testing.assert_close(series.path, z.float())
    (y,) = (s for s in store.series if s.id in SCHEMA.ids("y"))
    assert y.sd == pytest.approx(0.1 / whitening["y"].standardise.scale)  # in units of z


def test_heavy_tails_stay_out_of_the_working_units() -> None:
    """The store keeps u, in which noise adds; tail·asinh(u/tail) is the whitened value."""
    t = Transform(None, Support(), Standardise(1.0, 0.5, 3.0))
    schema = Schema((Variable("y", "data", ("t",), noise=Noise("normal", 0.2)),), (Index("t", 0, 1),))
    path = torch.randn(4, 9, generator=seeded(3), dtype=torch.float64)
    (series,) = build_store(schema, Whitening({"y": t}), {"y": path}).series
    assert series.tail == 3.0 and series.sd == pytest.approx(0.4)
    torch.testing.assert_close(series.tail * torch.asinh(series.path / series.tail), t.forward(path).float())


def test_noise_named_after_a_parameter_takes_each_draws_own() -> None:
    schema = Schema(
        (
            Variable("sd", "parameter", prior=LogNormal()),
            Variable("y", "data", ("t",), support=POSITIVE, noise=Noise("lognormal", "sd")),
        ),
        (Index("t", 0, 1),),
    )
    sd = torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)
    y = torch.rand(3, 9, generator=seeded(4), dtype=torch.float64) + 0.5
    whitening = Whitening({"sd": Transform(LogNormal(), POSITIVE), "y": Transform(None, POSITIVE, Standardise(0, 0.5))})
    store = build_store(schema, whitening, {"sd": sd, "y": y})
    (series,) = store.series
    assert isinstance(series.sd, Tensor)
    torch.testing.assert_close(series.sd, (sd / 0.5).float())
    torch.testing.assert_close(store.scalars[:, 0], sd.log().float())  # the parameter itself is whitened


def test_natural_paths_are_interpolated_before_they_become_working_units() -> None:
    """A path that rises in a line from its floor: right between the points, where its logarithm would not be."""
    schema = Schema((Variable("y", "data", ("t",), support=POSITIVE),), (Index("t", 0, 1),))
    line = torch.linspace(0, 1, 11, dtype=torch.float64).clamp(min=1e-8).expand(64, -1)
    whitening = Whitening({"y": Transform(None, POSITIVE, Standardise(-1.0, 2.0, 3.0))})

    def worst(natural: tuple[str, ...]) -> float:
        store = build_store(schema, whitening, {"y": line}, natural)
        batch = read(store, torch.arange(64), Design((9,), skew=0.0), seeded(7))
        expected = whitening["y"].forward((batch.index[..., 0].double() + 1) / 2)
        return float((batch.value - expected)[expected > whitening["y"].forward(torch.tensor(0.01))].abs().max())

    assert worst(("y",)) < 1e-4 < 1 < worst(())
    for wrong in (("z",), "y"):
        unfit = FunctionSimulator(schema, lambda n, g: {"y": line[:n]}, {"t": torch.linspace(0, 1, 11).double()}, wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"natural: expected a tuple of functions of the schema, \['y'\]; got"):
            check(unfit)


def test_natural_paths_never_leave_their_support() -> None:
    """A pulse and a jump, where a cubic would dip below zero, and values next to an upper end in float64."""
    schema = Schema((Variable("y", "data", ("t",), support=Support(0, 1)),), (Index("t", 0, 1),))
    rows = [[1e-8, 1e-8, 1e-8, 0.9, 1e-8, 1e-8], [0.01, 0.01, 0.01, 0.9, 0.9, 0.9], [0.5, *[1 - 1e-9] * 5]]
    path = torch.tensor(rows, dtype=torch.float64).repeat(50, 1)
    store = build_store(schema, Whitening({"y": Transform(None, Support(0, 1), Standardise())}), {"y": path}, ("y",))
    batch = read(store, torch.arange(150), Design((40,), skew=0.0), seeded(8))
    assert torch.isfinite(batch.value).all()
    assert float(batch.value.max()) == pytest.approx(math.log(1e9), rel=1e-3)


def test_dims_may_stand_in_any_order_with_the_components_anywhere() -> None:
    schema = Schema(
        (Variable("f", "data", ("x", "part", "time")), Variable("k", "parameter", prior=Normal())),
        (Index("time", 0, 1), *SCHEMA.dims[1:], Index("x", 0, 1)),
    )
    f = torch.randn(3, 4, 2, 5, generator=seeded(5), dtype=torch.float64)
    whitening = Whitening({"f": Transform(None, Support()), "k": Transform(Normal(), Support())})
    store = build_store(schema, whitening, {"f": f, "k": torch.zeros(3)})
    for component, series in enumerate(store.series):
        assert series.id == component and series.dims == (1, 0)  # x is the second index dim, time the first
        torch.testing.assert_close(series.path, f[:, :, component].float())


def test_default_design_counts_one_entry_a_series() -> None:
    assert default_design(SCHEMA, 60, 40).n_max == (40, 60, 60, 60)  # rate; y; x of two components


def test_plausible_ranges_become_limits_and_stand_in_the_card() -> None:
    """The stated range where there is one, else all but one reading in a thousand; parameters are never limited."""
    whitening = Whitening.fit(
        schema := Schema(
            (
                Variable("k", "parameter", prior=Normal()),
                Variable("y", "data", ("t",), support=POSITIVE),
                Variable("z", "data", ("t",)),
            ),
            (Index("t", 0, 1),),
        ),
        draws := {
            "k": torch.randn(4000, generator=seeded(1), dtype=torch.float64),
            "y": torch.randn(4000, 3, generator=seeded(2), dtype=torch.float64).exp(),
            "z": torch.randn(4000, 1, generator=seeded(3), dtype=torch.float64).expand(-1, 3),
        },
    )
    grid = {"t": torch.linspace(0, 1, 3, dtype=torch.float64)}
    simulator = FunctionSimulator(schema, lambda n, g: {k: x[:n] for k, x in draws.items()}, grid)
    assert whitened_limits(schema, whitening, plausible_ranges(simulator)) is None
    stated = plausible_ranges(replace(simulator, plausible={"y": (0.5, 2)}))
    limits = whitened_limits(schema, whitening, stated)
    assert limits is not None and limits[[0, 2]].isinf().all()
    back = whitening["y"].inverse(limits[1].double())
    torch.testing.assert_close(back, torch.tensor([0.5, 2.0], dtype=torch.float64), rtol=1e-5, atol=0)
    rows = read(build_store(schema, whitening, draws), torch.arange(4000), Design((9, 9), skew=0.0), seeded(4))
    ranges = value_ranges(schema, whitening, stated, rows)
    assert set(ranges) == {"y", "z"} and ranges["y"] == (0.5, 2.0)
    outside = (draws["z"] < ranges["z"][0]) | (draws["z"] > ranges["z"][1])
    assert 0 < float(outside.double().mean()) < 0.004


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": (0.0, 1.0)}, r"a mapping from data variables, \['y'\], to ranges; got"),
        (("y",), "a mapping from data variables"),
        ({"y": (2.0, 1.0)}, "lower < upper within .* for 'y', got 2.0, 1.0"),
        ({"y": (-1.0, 1.0)}, "lower < upper within .* for 'y', got -1.0, 1.0"),
        ({"y": (0.5, math.inf)}, "lower < upper within .* for 'y', got 0.5, inf"),
        ({"y": 3.0}, "expected two ends for 'y', got 3.0"),
    ],
)
def test_plausible_ranges_that_make_no_sense_are_refused(wrong: Any, message: str) -> None:
    schema = Schema(
        (Variable("k", "parameter", prior=Normal()), Variable("y", "data", ("t",), support=POSITIVE)),
        (Index("t", 0, 1),),
    )
    with pytest.raises(ValueError, match=message):
        check(FunctionSimulator(schema, lambda n, g: {}, {"t": torch.linspace(0, 1, 3).double()}, (), wrong))


def test_measured_series_have_the_noise_that_the_schema_states_and_nothing_else_has_any() -> None:
    """By the exact law standardised errors are N(0, 1) and white; counts have their two moments."""
    n, length = 400, 50
    schema = Schema(
        (
            Variable("spread", "parameter", support=POSITIVE),
            Variable("plain", "data", ("t",), noise=Noise("normal", 0.3)),
            Variable("factor", "data", ("t",), support=POSITIVE, noise=Noise("lognormal", "spread")),
            Variable("cases", "data", ("t",), noise=Noise("negbinomial", 0.5), support=COUNTS),
            Variable("exact", "data", ("t",)),
        ),
        (Index("t", 0, 1),),
    )
    clean = {name: 1 + 9 * torch.rand(n, length, generator=seeded(2), dtype=torch.float64) for name in schema.data}
    clean["spread"] = 0.1 + torch.rand(n, generator=seeded(3), dtype=torch.float64)
    found = measured(schema, clean, seeded(4))
    assert torch.equal(found["exact"], clean["exact"]) and torch.equal(found["spread"], clean["spread"])
    errors = [
        (found["plain"] - clean["plain"]) / 0.3,
        (found["factor"] / clean["factor"]).log() / clean["spread"][:, None],
    ]
    for e in errors:
        assert abs(float(e.mean())) < 4 / (n * length) ** 0.5
        assert abs(float(e.square().mean()) - 1) < 4 * (2 / (n * length)) ** 0.5
        assert abs(float((e[:, 1:] * e[:, :-1]).mean())) < 4 / (n * length) ** 0.5
    cases, mean = found["cases"], clean["cases"]
    assert torch.equal(cases, cases.round())
    pearson = (cases - mean).square() / (mean + (0.5 * mean) ** 2)
    assert abs(float(pearson.mean()) - 1) < 4 * float(pearson.std()) / (n * length) ** 0.5
    again = measured(schema, clean, seeded(4))
    assert all(torch.equal(again[name], x) for name, x in found.items())
