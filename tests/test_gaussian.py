"""The factor model against dense normal formulas, and what a denoiser makes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import seeded
from torch import Tensor

from fsimformer import gaussian
from fsimformer.denoise import Denoiser
from fsimformer.gaussian import FLOOR, FactorModel, Grid, exact_device
from fsimformer.nn import Network, NetworkConfig
from fsimformer.readings import interpolate
from fsimformer.tokens import Streams, TokenBatch, split

K, LINE, SURFACE = 3, 2, 3  # factors; ids of the functions, 0 and 1 are scalars, 4 is left alone


def factors() -> FactorModel:
    """Scalars, a function on 7 points of dim 0, one on 4 × 5 points of both dims."""
    g = seeded(3)
    scalars = torch.zeros(5, K + 2)
    scalars[:, -1] = 1.0
    scalars[:2, :-1] = torch.randn(2, K + 1, generator=g)
    scalars[:2, -1] = torch.tensor([1e-6, 0.3])
    table = torch.cat([torch.randn(27, K + 1, generator=g), 0.1 + torch.rand(27, 1, generator=g)], 1)
    return FactorModel(scalars, table, (Grid(LINE, (0,), (7,), 0), Grid(SURFACE, (0, 1), (4, 5), 7)))


def rows(n: int = 6, length: int = 9) -> TokenBatch:
    g = seeded(4)
    return TokenBatch(
        torch.randint(5, (n, length), generator=g),
        torch.rand(n, length, 2, generator=g) * 2 - 1,
        torch.randn(n, length, generator=g),
        torch.rand(n, length, generator=g) < 0.5,
        torch.rand(n, length, generator=g) < 0.8,
    )


def test_it_is_the_normal_conditional() -> None:
    """Mean and variance of every latent given the observed tokens and y, by the dense covariance of the tokens."""
    model, batch = factors(), rows()
    streams = split(batch, 2, seeded(5))
    ratio = torch.tensor([0.3, 2.0, 0.01])
    y = torch.randn(6, 3, streams.active.shape[1], generator=seeded(6), dtype=torch.float64)
    x_hat, error = model.denoise(y, ratio.double().expand(6, 3), model.given(streams))
    checked = 0
    for i in range(6):
        parts = [(b, *(t[i] for t in model.at(b))) for b in (streams.frozen, streams.active)]
        known = [(phi[o], mu[o], d[o], b.value[i][o]) for b, phi, mu, d in parts for o in [b.observed[i]]]
        phi_o, mu_o, d_o, x_o = (torch.cat(p) for p in zip(*known, strict=True))
        where = streams.active.latent[i]
        phi, mu, d = (t[where] for t in parts[1][1:])
        for level in range(3):
            n = len(mu)
            loading, own = torch.cat([phi, phi_o, phi]), torch.cat([d, d_o, d])
            covariance = loading @ loading.T + torch.diag(own)
            covariance[:n, n + len(x_o) :] += torch.diag(d)  # x and y of one token share its own part
            covariance[n + len(x_o) :, :n] += torch.diag(d)
            covariance[n + len(x_o) :, n + len(x_o) :] += ratio[level].double() ** 2 * torch.eye(n)
            gain = torch.linalg.solve(covariance[n:, n:], covariance[n:, :n]).T
            left = torch.cat([x_o - mu_o, y[i, level][where] - mu])
            torch.testing.assert_close(x_hat[i, level][where], mu + gain @ left, rtol=1e-6, atol=1e-6)
            variance = (covariance[:n, :n] - gain @ covariance[n:, :n]).diagonal()
            torch.testing.assert_close(error[i, level][where], variance, rtol=1e-4, atol=1e-9)
            checked += n
    assert checked > 30


def test_draws_at_one_level_share_a_system_and_what_is_left_alone_keeps_the_unit_prior() -> None:
    model, batch = factors(), rows()
    streams, g = split(batch, 0), seeded(7)
    given = model.given(streams)
    y = torch.randn(6, 4, streams.active.shape[1], generator=g, dtype=torch.float64)
    level = torch.full((6, 4), 0.5, dtype=torch.float64)
    together, apart = (
        model.denoise(y, level, given),
        [model.denoise(y[:, j : j + 1], level[:, :1], given) for j in range(4)],
    )
    for k in range(2):
        torch.testing.assert_close(together[k], torch.cat([a[k] for a in apart], 1), rtol=1e-9, atol=1e-9)
    assert model.knows.tolist() == [True, True, True, True, False]
    alone = (streams.active.variable == 4)[:, None].expand_as(y)
    torch.testing.assert_close(together[0][alone], y[alone] / 1.25, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(together[1][alone], torch.full_like(y[alone], 0.2), rtol=1e-6, atol=1e-6)


def test_tables_are_read_as_paths_are() -> None:
    model, batch = factors(), rows(1, 200)
    loading, mean, own = model.at(batch)
    for id, dims, shape, start in ((LINE, [0], (7,), 0), (SURFACE, [0, 1], (4, 5), 7)):
        mine = batch.variable[0] == id
        path = model.table[start : start + int(np.prod(shape))].T.reshape(K + 2, *shape)
        at = batch.index[0, mine][:, dims].expand(K + 2, -1, -1)
        expected = interpolate(path, torch.arange(K + 2), at).T.double()
        expected[:, -1].clamp_(min=FLOOR)
        found = torch.cat([loading, mean[..., None], own[..., None]], -1)[0, mine]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    scalar = batch.variable[0] == 1
    assert torch.equal(loading[0, scalar], model.scalars[1, :K].double().expand(int(scalar.sum()), -1))


def linear_denoiser(dependency: Tensor | None = None) -> Denoiser:
    """Of `factors`, on which index it has two dims, with a network that leaves all to the baseline: F₀ = 0, G = 1."""
    uses = ((False, False), (False, False), (True, False), (True, True), (False, False))
    out = Denoiser(Network(NetworkConfig(uses, width=16, depth=1, n_heads=2), 2), dependency=dependency).eval()
    out.baseline = factors()
    with torch.no_grad():
        out.network.out.weight.zero_()
        out.network.out.bias.copy_(torch.tensor([0.0, 1.0]))
    return out


def y_of(streams: Streams, n: int = 3) -> Tensor:
    return torch.randn(6, n, streams.active.shape[1], generator=seeded(6))


def test_what_is_solved_once_serves_other_draws_levels_and_tokens() -> None:
    """x̂ with G = 1: draws together or one by one; latents beside others, or given to a context that others made."""
    denoiser, batch, other = linear_denoiser(), rows(), rows(length=12)
    with torch.no_grad():
        streams = split(batch, 0)
        encoded, y = denoiser.encode(streams), y_of(streams)
        for ratio in (torch.full((6, 3), 0.4), torch.tensor([0.1, 0.4, 2.0]).expand(6, 3)):
            together = denoiser.at_ratio(y, ratio, encoded)
            for r in range(3):
                alone = denoiser.at_ratio(y[:, r : r + 1], ratio[:, r : r + 1], encoded)
                torch.testing.assert_close(together[:, r : r + 1], alone, rtol=1e-5, atol=1e-5)
        active = other.replace(condition_mask=torch.zeros_like(other.valid))
        fresh = denoiser.encode(Streams(streams.frozen, active, torch.zeros_like(active.variable)))
        again = denoiser.reuse(denoiser.reuse(encoded, streams.active), active)
        y, ratio = torch.randn(6, 1, 12, generator=seeded(8)), torch.full((6, 1), 0.4)
        expected = denoiser.at_ratio(y, ratio, fresh)
        torch.testing.assert_close(denoiser.at_ratio(y, ratio, again), expected, rtol=1e-6, atol=1e-6)
        x_hat, _ = factors().denoise(y, ratio, factors().given(fresh.streams))
        real = active.valid[:, None]
        torch.testing.assert_close(expected[real], x_hat[real], rtol=1e-4, atol=1e-4)


def test_rows_with_edges_give_the_marginal_model_whatever_is_observed() -> None:
    """N(0, 1) a token: x̂ = y/(1 + λ²); what may not be attended to must not come in through the baseline."""
    denoiser, batch = linear_denoiser(), rows()
    for edges in (torch.zeros(6, 5, 5, dtype=torch.bool), torch.eye(5, dtype=torch.bool).expand(6, 5, 5)):
        for value in (batch.value, -3 * batch.value):
            streams = split(batch.replace(edges=edges, value=value), 0)
            y, ratio = y_of(streams), torch.tensor([0.1, 0.5, 3.0]).expand(6, 3)
            with torch.no_grad():
                x_hat = denoiser.at_ratio(y, ratio, denoiser.encode(streams))
            latent = streams.active.latent[:, None].expand_as(y)
            expected = y / (1 + ratio**2)[..., None]
            torch.testing.assert_close(x_hat[latent], expected[latent], rtol=1e-5, atol=1e-6)


def test_a_dependency_mask_does_not_change_what_the_baseline_says() -> None:
    """It is asked for beside a mask knowingly: it sees past it."""
    batch = rows()
    streams = split(batch, 0)
    y, ratio, found = y_of(streams), torch.full((6, 3), 0.5), []
    for dependency in (None, torch.eye(5, dtype=torch.bool)):
        denoiser = linear_denoiser(dependency)
        with torch.no_grad():
            found.append(denoiser.at_ratio(y, ratio, denoiser.encode(streams)))
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    assert float((found[0] - y / 1.25).abs().max()) > 0.1


def test_float64_is_worked_out_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have none: tokens and tables go to the CPU, and come back as they were."""
    assert exact_device(torch.device("mps", 0)) == torch.device("cpu")
    assert exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    denoiser, streams = linear_denoiser(), split(rows(), 0)
    y, ratio = y_of(streams), torch.full((6, 3), 0.5)
    with torch.no_grad():
        expected = denoiser.at_ratio(y, ratio, denoiser.encode(streams))
        monkeypatch.setattr(gaussian, "exact_device", lambda device: torch.device("cpu", 0))  # as if it were another
        found = denoiser.at_ratio(y, ratio, denoiser.encode(streams))
    assert torch.equal(found, expected) and found.device == y.device and found.dtype == y.dtype


def test_rows_with_edges_of_their_own_do_without() -> None:
    """What may not be attended to must not come in through the baseline."""
    denoiser = Denoiser(Network(NetworkConfig(((False,),) * 5, width=16, depth=1, n_heads=2), 2)).eval()
    model = factors()
    model.grids = ()
    denoiser.baseline = model
    batch = replace(rows(), index=torch.zeros(6, 9, 1))
    everything = torch.ones(6, 5, 5, dtype=torch.bool)
    assert denoiser.encode(split(batch, 0)).given is not None
    assert denoiser.encode(split(batch.replace(edges=everything), 0)).given is None
