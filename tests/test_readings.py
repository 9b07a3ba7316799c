"""Reading clean paths: interpolation's order, noise that is added at the reading, designs."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import seeded
from torch import Tensor

import fsimformer.learn as learn_module
from fsimformer.checkpoint import Run
from fsimformer.noise import WhiteNoise
from fsimformer.priors import Normal
from fsimformer.readings import (
    Design,
    Series,
    Store,
    draw_index,
    interpolate,
    read,
    read_clean,
    read_moments,
    read_noisy,
)
from fsimformer.schema import Index, Schema, Variable
from fsimformer.simulators import FunctionSimulator
from fsimformer.tokens import TokenBatch, uncollate
from fsimformer.train import TrainConfig


def grid(n: int) -> Tensor:
    return torch.linspace(-1, 1, n, dtype=torch.float64)


def places(n: int, d: int = 1, bound: float = 1.0, seed: int = 0) -> Tensor:
    return bound * (2 * torch.rand(1, n, d, generator=seeded(seed), dtype=torch.float64) - 1)


def at(path: Tensor, index: Tensor) -> Tensor:
    return interpolate(path[None], torch.zeros(1, dtype=torch.long), index)[0]


def test_one_dim_is_exact_at_grid_points_for_lines_and_inside_for_parabolas() -> None:
    t = grid(11)
    wild = torch.randn(11, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(at(wild, t[None, :, None]), wild)
    everywhere, inside = places(200), places(200, bound=0.8)  # 0.8: the first and the last cell are left out
    torch.testing.assert_close(at(2 * t - 1, everywhere), 2 * everywhere[0, :, 0] - 1)
    parabola = 3 * t**2 - t
    torch.testing.assert_close(at(parabola, inside), 3 * inside[0, :, 0] ** 2 - inside[0, :, 0])
    assert (at(parabola, everywhere) - (3 * everywhere**2 - everywhere)[0, :, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(("bound", "order"), [(0.5, 3), (1.0, 2)])
def test_one_dim_has_order_three_inside_and_two_at_the_ends(bound: float, order: int) -> None:
    q = places(4000, bound=bound)
    errors = [(at((3 * grid(n)).exp(), q) - (3 * q[0, :, 0]).exp()).abs().max() for n in (81, 161)]
    assert float((errors[0] / errors[1]).log2()) == pytest.approx(order, abs=0.25)


def test_two_dims_are_multilinear() -> None:
    x, y = torch.meshgrid(grid(5), grid(7), indexing="ij")
    q = places(10_000, 2)
    a, b = q[0].unbind(-1)
    torch.testing.assert_close(at(2 * x - y + 3 * x * y, q), 2 * a - b + 3 * a * b)
    errors = []
    for n in (33, 65):
        x, y = torch.meshgrid(grid(n), grid(n), indexing="ij")
        errors.append((at((2 * x).sin() * y.exp(), q) - (2 * a).sin() * b.exp()).abs().max())
    assert float((errors[0] / errors[1]).log2()) == pytest.approx(2, abs=0.3)


def test_rows_are_read_each_by_itself() -> None:
    path = torch.arange(4.0)[:, None].expand(4, 9)
    out = interpolate(path, torch.tensor([2, 0, 2]), torch.zeros(3, 5, 1))
    assert out.tolist() == [[2.0] * 5, [0.0] * 5, [2.0] * 5]


def store(n: int = 50, sd: Tensor | float = 0.0, tail: float | None = None, scale: float = 1.0) -> Store:
    """Scalars (k, −k) of row k; two series: (scale·k) + t on the first index dim, and one on both dims."""
    k = torch.arange(float(n))
    one = scale * k[:, None] + grid(21).float()[None]
    two = k[:, None, None] + torch.zeros(1, 5, 7)
    return Store(
        torch.tensor([0, 1]),
        torch.stack([k, -k], 1),
        (Series(2, (0,), one, sd, tail), Series(3, (0,), one + 100, 0.0), Series(4, (1, 0), two)),
        2,
    )


DESIGN = Design((20, 20, 6))


def test_rows_hold_what_their_simulation_says_at_their_own_places() -> None:
    rows = torch.randint(50, (300,), generator=seeded(1))
    tokens = uncollate(read(store(), rows, DESIGN, seeded(2)))
    for k, row in zip(rows.tolist(), tokens, strict=True):
        assert row.variable[:2].tolist() == [0, 1] and row.value[:2].tolist() == [k, -k]
        first, second, third = (row.variable == i for i in (2, 3, 4))
        torch.testing.assert_close(row.value[first], k + row.index[first, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(row.value[second], k + 100 + row.index[second, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(row.value[third], torch.full_like(row.value[third], k))
        assert not row.index[:2].any() and not row.index[first | second, 1].any()  # 0 on dims that they lack
        assert bool((row.index.abs() <= 1).all())
        assert not row.condition_mask.any()


def test_heavy_tails_are_drawn_in_after_the_noise() -> None:
    plain, tailed = (read(store(tail=t, sd=0.5), torch.arange(50), DESIGN, seeded(3)) for t in (None, 3.0))
    where, others = (plain.valid & w for w in (plain.variable == 2, plain.variable != 2))
    torch.testing.assert_close(tailed.value[where], 3 * torch.asinh(plain.value[where] / 3))
    assert torch.equal(tailed.value[others], plain.value[others])


def test_moments_of_a_reading_are_those_of_many() -> None:
    """A number, or one a simulation; bent by an asinh tail by up to a tenth of the noise, or not at all."""
    rows, where = torch.arange(4), places(3).float().expand(4, -1, -1)
    path, many = torch.randn(4, 9, generator=seeded(1)), 100_000
    for sd, tail in ((0.6, None), (0.6, 1.5), (torch.tensor([0.1, 0.3, 0.5, 0.7]), 1.5)):
        one = Series(0, (0,), path, sd, tail)
        mean, variance = read_moments(one, rows, where)
        drawn = read_noisy(one, rows.repeat(many), where.repeat(many, 1, 1), seeded(2)).view(many, 4, 3).double()
        spread = drawn.std(0)
        assert bool(((drawn.mean(0) - mean).abs() < (5 / many**0.5 + 2e-3) * spread).all())
        assert bool(((drawn.var(0) / variance - 1).abs() < 0.03).all())
        bent = (mean - read_clean(one, rows, where)).abs().max()
        assert float(bent) < 1e-6 if tail is None else float(bent) > 0.01
    none = read_moments(Series(0, (0,), path), rows, where)
    torch.testing.assert_close(none[0].float(), read_clean(Series(0, (0,), path), rows, where))
    assert float(none[1].abs().max()) == 0.0


def spread(residual: Tensor) -> tuple[float, float]:
    """Variance of the noise in readings of one series, and correlation of neighbouring readings."""
    x = residual / residual.std()
    return float(residual.var()), float((x[:, 1:] * x[:, :-1]).mean())


def test_noise_has_its_full_variance_at_the_reading_and_neighbours_are_independent() -> None:
    """40 readings in 20 cells; the classic error, a noisy path interpolated, is rejected by the same numbers."""
    n, b = 40, 2000
    flat = Store(torch.zeros(0, dtype=torch.long), torch.zeros(b, 0), (Series(0, (0,), torch.zeros(b, 21), 0.5),), 1)
    design = Design((n,), skew=1e-9, shared=0.0, regular=1.0, window=0.0)
    batch = read(flat, torch.arange(b), design, seeded(4))
    variance, neighbours = spread(batch.value)
    assert batch.valid.all()
    assert variance == pytest.approx(0.25, rel=0.02) and abs(neighbours) < 0.02
    noisy = 0.5 * WhiteNoise().sample(torch.zeros(21, 1), b, seeded(5))
    for path in (noisy[:, :, None].expand(-1, -1, 2), noisy):  # multilinear, then cubic
        index = batch.index if path.dim() == 2 else torch.cat([batch.index, torch.zeros_like(batch.index)], -1)
        variance, neighbours = spread(interpolate(path, torch.arange(b), index))
        assert variance < 0.22 and neighbours > 0.1
        if path.dim() == 3:
            assert variance / 0.25 == pytest.approx(2 / 3, abs=0.05)


def test_noise_may_have_its_own_size_in_every_simulation() -> None:
    sd = torch.linspace(0.1, 2.0, 50)
    rows = torch.arange(50).repeat(40)
    out = read(store(sd=sd, scale=0.0), rows, DESIGN, seeded(6))
    where = out.valid & (out.variable == 2)
    residual = (out.value - out.index[..., 0]) / sd[rows][:, None]
    assert float(residual[where].std()) == pytest.approx(1, abs=0.02)
    quiet = residual.masked_select(where & (rows < 10)[:, None])
    assert float(quiet.std()) == pytest.approx(1, abs=0.05)


def counts(batch: TokenBatch, id: int) -> Tensor:
    return ((batch.variable == id) & batch.valid).sum(1)


def test_counts_run_from_none_to_the_largest() -> None:
    out = read(store(), torch.zeros(6000, dtype=torch.long), Design((20, 20, 6), skew=2.0), seeded(7))
    for id, n_max in ((2, 20), (4, 6)):
        n = counts(out, id)
        assert int(n.min()) == 0 and int(n.max()) == n_max
        share = torch.bincount(n, minlength=n_max + 1) / 6000
        expected = (torch.arange(n_max + 2) / (n_max + 1)).sqrt().diff()  # n = floor((n_max + 1) u²)
        torch.testing.assert_close(share, expected, rtol=0, atol=0.02)


def test_shared_designs_have_one_axis_and_others_their_own() -> None:
    for shared in (0.0, 0.5, 1.0):
        out = read(store(), torch.zeros(2000, dtype=torch.long), Design((20, 20, 6), shared=shared), seeded(8))
        same = 0
        for row in uncollate(out):
            a, b = row.index[row.variable == 2, 0], row.index[row.variable == 3, 0]
            same += len(a) > 0 and a.shape == b.shape and torch.equal(a, b)
        some = float((counts(out, 2) > 0).float().mean())
        assert same / 2000 == pytest.approx(shared * some, abs=0.04)


def test_regular_designs_are_grids_windows_crowd_and_the_rest_is_uniform() -> None:
    n = torch.full((4000,), 12)

    def draw(**kind: float) -> Tensor:
        design = Design((12,), **{"regular": 0.0, "window": 0.0, **kind})
        return draw_index(4000, n, 12, 1, design, seeded(9))[..., 0]

    regular = draw(regular=1.0)
    steps = regular.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand(-1, 11), rtol=0, atol=1e-5)
    full = (regular[:, 0] == -1) & (regular[:, -1] == 1)
    assert 0.45 < float(full.float().mean()) < 0.55
    uniform = draw()
    assert float(uniform.mean()) == pytest.approx(0, abs=0.02) and float(uniform.var()) == pytest.approx(
        1 / 3, abs=0.01
    )
    window = draw(window=1.0)
    assert float(window.std(dim=1).mean()) < 0.6 * float(uniform.std(dim=1).mean())
    for u in (regular, uniform, window):
        assert bool((u.abs() <= 1).all())


def test_a_series_that_is_never_read_is_no_token() -> None:
    out = read(store(), torch.arange(50), Design((0, 5, 0)), seeded(10))
    assert not counts(out, 2).any() and not counts(out, 4).any() and counts(out, 3).any()


def test_equal_generators_give_equal_rows_and_fresh_ones_fresh_places() -> None:
    a, b, c = (read(store(sd=1.0), torch.arange(50), DESIGN, seeded(s)) for s in (11, 11, 12))
    assert torch.equal(a.value, b.value) and torch.equal(a.index, b.index)
    assert a.value.shape != c.value.shape or not torch.equal(a.value, c.value)


def test_held_out_simulations_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every simulation carries its own number; the rows that `train` hands to `fit` are told apart by it."""
    schema = Schema((Variable("k", "parameter", prior=Normal()), Variable("y", "data", ("t",))), (Index("t", 0, 1),))

    def simulate(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        k = torch.randn(n, generator=generator)
        return {"k": k, "y": k[:, None].expand(n, 9)}

    seen: list[set[float]] = []

    def fit(denoiser: object, rows: object, held_out: object, *args: object, **kwargs: object) -> Run:
        for source in (rows, held_out):
            batch = source(3000, seeded(len(seen)))  # type: ignore[operator]
            seen.append(set(batch.value[batch.variable == 0].tolist()))
        return Run()

    monkeypatch.setattr(learn_module, "fit", fit)
    simulator = FunctionSimulator(schema, simulate, {"t": torch.linspace(0, 1, 9, dtype=torch.float64)})
    learn_module.train(simulator, simulations=300, config=TrainConfig(seed=1))
    train, held_out = seen
    assert not train & held_out
    assert len(held_out) == 30 and math.isclose(len(train), 270, abs_tol=2)


def test_a_count_that_is_no_tuple_is_named() -> None:
    with pytest.raises(TypeError, match=r"expected n_max as a tuple, a count for each series, got 256: \(256,\)\?"):
        Design(n_max=256)  # type: ignore[arg-type]
