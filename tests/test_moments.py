"""The baseline's moments against closed forms of Gaussian processes, and what they are fitted on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import xarray as xr
from test_baseline import CONFIG, FINE, GP, LINE_ONLY, NETWORK
from tiny import seeded
from torch import Tensor

import fsimformer as fsf
from fsimformer import learn, moments
from fsimformer.functions import knots
from fsimformer.gaussian import FactorModel
from fsimformer.kernels import Kernel
from fsimformer.moments import fit_factors
from fsimformer.readings import Design, Series, Store, read
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import GaussianProcess, GaussianProcessPosterior, Simulator
from fsimformer.tokens import Streams, TokenBatch, split
from fsimformer.whiten import Whitening


def observed_rows(times: Tensor, x: Tensor, at: Tensor) -> Streams:
    """f (id 0) latent at `at`, x (id 1) observed at `times`, both in [0, 1]."""
    index = 2 * torch.cat([at, times])[None, :, None] - 1
    n = len(at) + len(times)
    variable = torch.tensor([0] * len(at) + [1] * len(times))[None]
    value = torch.cat([torch.zeros(len(at)), x])[None]
    mask = (variable == 1).expand(1, n)
    return split(TokenBatch(variable, index.float(), value.float(), mask, torch.ones_like(mask)), 0)


def gp_factors(n: int, process: Simulator = GP) -> tuple[FactorModel, Whitening]:
    drawn = simulate(process, n, seeded(0))
    whitening = Whitening.fit(process.schema, drawn.values)
    store = build_store(process.schema, whitening, drawn.values)
    return fit_factors(store, n, process.schema.n_ids, seeded(1)), whitening


TIMES, AT = torch.tensor([0.1, 0.15, 0.6, 0.95]), torch.linspace(0.02, 0.98, 9)
READINGS = torch.tensor([1.0, 0.4, -1.2, 0.3], dtype=torch.float64)
FAR = torch.tensor([[1e3]], dtype=torch.float64)  # λ at which y says nothing


def exactly(process: GaussianProcess) -> GaussianProcessPosterior:
    return process.posterior({"x": xr.DataArray(READINGS.numpy(), {"time": TIMES.double().numpy()}, "time")})


@pytest.mark.parametrize(("process", "tail"), [(GP, None), (FINE, 3.0)])
def test_from_simulations_of_a_gaussian_process_it_is_the_posterior(
    process: GaussianProcess, tail: float | None
) -> None:
    """x̂ and its error are the posterior's mean and variance, also behind readings that whitening bends."""
    model, whitening = gp_factors(4_000, process)
    assert whitening.part("x", 0).standardise.tail == tail == model.grids[1].tail
    streams = observed_rows(TIMES, whitening.part("x", 0).forward(READINGS), AT)
    mean, variance = model.denoise(torch.zeros(1, 1, 9).double(), FAR, model.given(streams))
    exact = exactly(process)
    spread = exact.covariance(AT).diagonal().sqrt()
    error = whitening.part("theta", 0).inverse(mean[0, 0]) - exact.mean(AT)
    assert float((error / spread).abs().max()) < 0.1  # moments of 4,000 simulations
    assert float((variance[0, 0].sqrt() / spread - 1).abs().max()) < 0.05  # theta's prior has sd 1: z = theta


@pytest.mark.parametrize("n_observed", [0, 2])
def test_bent_readings_have_their_mean_and_variance(n_observed: int) -> None:
    """z = T(x) of latent readings, by quadrature over the exact normal of x."""
    process = replace(GP, noise=0.004)  # 1/0.2 = 5 tails' units: T is far from a line
    model, whitening = gp_factors(4_000, process)
    known = slice(0, n_observed)
    streams = observed_rows(TIMES[known], whitening.part("x", 0).forward(READINGS[known]), AT)
    active = streams.active.replace(variable=torch.ones_like(streams.active.variable))
    given = model.given(replace(streams, active=active))
    mean, variance = model.denoise(torch.zeros(1, 1, 9).double(), FAR, given)
    observed = xr.DataArray(READINGS[known].numpy(), {"time": TIMES[known].double().numpy()}, "time")
    exact = process.posterior({"x": observed})
    centre, spread = exact.mean(AT), exact.covariance(AT, readings=True).diagonal().sqrt()
    node = torch.special.ndtri((torch.arange(4_000).double() + 0.5) / 4_000)
    z = whitening.part("x", 0).forward(centre[:, None] + spread[:, None] * node)
    assert float(((mean[0, 0] - z.mean(1)) / z.std(1)).abs().max()) < 0.1
    assert float((variance[0, 0].sqrt() / z.std(1) - 1).abs().max()) < 0.05


class Wild:
    """Readings of a process times a factor with heavy tails: here the tail of whitening tames them."""

    grid, schema = LINE_ONLY.grid, LINE_ONLY.schema

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = LINE_ONLY.simulate(n, generator)
        size = torch.randn(n, 1, generator=generator, dtype=torch.float64)
        return {"theta": drawn["theta"], "x": drawn["theta"] * (1.5 * size).exp()}


def test_of_wild_simulations_whitened_values_are_kept() -> None:
    model, whitening = gp_factors(1_000, Wild())
    assert whitening.part("x", 0).standardise.tail == 3.0 and model.grids[1].tail is None


def test_ways_are_compared_on_simulations_apart_from_those_fitted_and_none_is_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted, judged = list[tuple[Tensor, Tensor]](), list[Tensor]()
    fit, compare = moments._fit, moments._judged

    def spy_fit(store: Store, rows: Tensor, other: Tensor, *rest: Any) -> FactorModel:
        fitted.append((rows, other))
        return fit(store, rows, other, *rest)

    def spy_compare(store: Store, rows: Tensor, *rest: Any) -> TokenBatch:
        judged.append(rows)
        return compare(store, rows, *rest)

    monkeypatch.setattr(moments, "_fit", spy_fit)
    monkeypatch.setattr(moments, "_judged", spy_compare)
    drawn = simulate(FINE, 300, seeded(0))
    store = build_store(FINE.schema, Whitening.fit(FINE.schema, drawn.values), drawn.values)
    fit_factors(store, 200, FINE.schema.n_ids, seeded(1))
    for rows, other in fitted:
        assert not set(rows.tolist()) & set(other.tolist()) and max(*rows.tolist(), *other.tolist()) < 200
    (rows,) = judged
    assert all(not set(rows.tolist()) & {*a.tolist(), *b.tolist()} for a, b in fitted[:-1]) and int(rows.max()) < 200
    assert len(fitted) == 3 and len(fitted[-1][0]) == 160  # both ways, then the better on all rows but those of d


def test_held_out_simulations_are_not_looked_at() -> None:
    drawn = simulate(GP, 200, seeded(0))
    whitening = Whitening.fit(GP.schema, drawn.values)
    other = {k: torch.cat([v[:150], 9 + v[150:]]) for k, v in drawn.values.items()}
    a, b = (fit_factors(build_store(GP.schema, whitening, v), 150, 3, seeded(1)) for v in (drawn.values, other))
    assert torch.equal(a.table, b.table) and float(a.table.abs().max()) > 0.1


def test_train_leaves_its_held_out_simulations_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tenth of 200: were one of them looked at, the tables would be NaN."""
    poisoned = list[FactorModel]()

    def spy(store: Store, n_train: int, n_ids: int, generator: torch.Generator) -> FactorModel:
        state = generator.get_state()
        held_out = torch.arange(len(store)) >= 180
        series = [replace(s, path=s.path.masked_fill(held_out[:, None], float("nan"))) for s in store.series]
        poisoned.append(fit_factors(replace(store, series=tuple(series)), n_train, n_ids, generator))
        return fit_factors(store, n_train, n_ids, generator.set_state(state))

    monkeypatch.setattr(learn, "fit_factors", spy)
    for process in (GP, FINE):
        joint = fsf.train(process, simulations=200, config=CONFIG, network=NETWORK)
        baseline = joint.model.denoiser.baseline
        assert baseline is not None and torch.equal(baseline.table, poisoned.pop().table)


def calibration(process: GaussianProcess, n: int, n_max: tuple[int, int]) -> float:
    """Mean square of (x − x̂)/error over fresh simulations, half of whose tokens at random places are observed."""
    drawn = simulate(process, n + 300, seeded(0))
    store = build_store(process.schema, Whitening.fit(process.schema, drawn.values), drawn.values)
    model = fit_factors(store, n, 2, seeded(1))
    batch = read(store, torch.arange(n, n + 300), Design(n_max, skew=0), seeded(3))
    streams = split(batch.replace(condition_mask=torch.rand(batch.shape, generator=seeded(4)) < 0.5), 0)
    active = streams.active
    far = torch.full((300, 1), 1e3, dtype=torch.float64)
    x_hat, error = model.denoise(torch.zeros(300, 1, active.shape[1]).double(), far, model.given(streams))
    return float(((active.value - x_hat[:, 0]) ** 2 / error[:, 0])[active.latent].mean())


def test_what_factors_miss_is_told_by_simulations_that_they_were_not_fitted_on() -> None:
    """Sixty rough paths of 101 points: of those that they were fitted on, 47 factors would miss nothing at all."""
    rough = GaussianProcess(Kernel(0.5, 0.1), grid_points=101)
    assert calibration(rough, 60, (30, 0)) == pytest.approx(1, abs=0.1)


def field(n_functions: int, n_dims: int, side: int) -> Store:
    series = [
        Series(i, tuple(range(n_dims)), torch.randn(40, *(side,) * n_dims, generator=seeded(i)))
        for i in range(n_functions)
    ]
    return Store(torch.zeros(0, dtype=torch.long), torch.zeros(40, 0), tuple(series), n_dims)


@pytest.mark.parametrize(
    ("n_functions", "n_dims", "side", "expected"),
    [(1, 1, 300, 257), (40, 1, 300, 57), (2, 2, 40, 33), (9, 2, 40, 15), (2, 3, 12, 9), (2, 1, 5, 5)],
)
def test_tables_keep_the_paths_points_as_long_as_they_are_few(
    n_functions: int, n_dims: int, side: int, expected: int
) -> None:
    model = fit_factors(field(n_functions, n_dims, side), 40, n_functions, seeded(1))
    assert {n for grid in model.grids for n in grid.shape} == {expected} and len(model.grids) == n_functions
    assert len(model.table) == n_functions * expected**n_dims <= 2_300


def test_functions_of_four_dims_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 3 index dims, ids \[0\] have more"):
        fit_factors(field(1, 4, 3), 40, 1, seeded(1))
    with pytest.raises(ValueError, match="at least 10 simulations, got 9"):
        fit_factors(field(1, 1, 3), 9, 1, seeded(1))


def test_knots_are_where_tables_have_rows() -> None:
    """Tables of 101 points hold the path's own grid."""
    model, _ = gp_factors(300)
    assert [g.shape for g in model.grids] == [(101,), (101,)] and len(model.table) == 202
    assert float(knots((101,))[1, 0]) == pytest.approx(-0.98)
