"""Draws in stages: every token once, the same draws whatever comes along, and later stages that know the first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import denoiser, seeded, token_set
from torch import Tensor

from fsimformer.denoise import Denoiser
from fsimformer.sample import SamplerConfig, quality_named
from fsimformer.stages import Budget, _Noise, _spread, draw, plan
from fsimformer.tokens import Streams, TokenBatch, TokenSet

IS_FUNCTION = torch.tensor([False, False, False, True, True, True, True])  # of tiny.SCHEMA
FAST, SDE = SamplerConfig("ab2", 4), SamplerConfig("sde_2m", 4)


def asked(n_scalars: int, n_functions: list[int], seed: int = 0) -> TokenSet:
    """A query of scalars and of functions (ids 3, 4, …), in random order."""
    ids = [i % 3 for i in range(n_scalars)] + [3 + k for k, n in enumerate(n_functions) for _ in range(n)]
    g = seeded(seed)
    order = torch.randperm(len(ids), generator=g).tolist()
    times = torch.where(torch.tensor([*ids, 0])[:-1] > 2, torch.rand(len(ids), generator=g) * 2 - 1, 0.0)
    return token_set([ids[i] for i in order], times.tolist(), [0.0] * len(ids), observed=False)


def readings(n: int, seed: int = 1) -> TokenSet:
    g = seeded(seed)
    times, values = torch.rand(n, generator=g) * 2 - 1, torch.randn(n, generator=g)
    return token_set(torch.randint(4, 7, (n,), generator=g).tolist(), times.tolist(), values.tolist(), observed=True)


@given(st.integers(0, 12), st.lists(st.integers(0, 40), max_size=4), st.integers(1, 20), st.integers(0, 5))
def test_a_plan_covers_every_token_exactly_once(
    n_scalars: int, n_functions: list[int], n_joint: int, n_kept: int
) -> None:
    query = asked(n_scalars, n_functions)
    kept = torch.zeros(len(query), dtype=torch.bool)
    kept[torch.randperm(len(query), generator=seeded(n_kept))[:n_kept]] = True
    stages = plan(query, IS_FUNCTION, n_joint, kept if n_kept else None)
    covered = torch.cat(stages).tolist() if stages else []
    assert sorted(covered) == list(range(len(query)))
    assert all(len(s) for s in stages)
    assert all(len(s) <= n_joint for s in stages[1:])
    if stages:
        assert len(stages[0]) <= max(n_joint, n_scalars + n_kept)
        first = set(stages[0].tolist())
        assert first >= set(kept.nonzero()[:, 0].tolist())
        scalars = (~IS_FUNCTION[query.variable]).nonzero()[:, 0].tolist()
        assert first >= set(scalars)  # scalars come first


def test_stage_one_is_spread_evenly_over_the_index_whatever_the_order() -> None:
    query = asked(2, [40, 40], seed=3)
    first, *later = plan(query, IS_FUNCTION, 12)
    for id in (3, 4):
        every = query.index[query.variable == id, 0].sort().values
        chosen = query.index[first[query.variable[first] == id], 0].sort().values
        ranks = torch.searchsorted(every, chosen)
        assert ranks.tolist() == [0, 10, 20, 29, 39]  # both ends, and even in between
        for chunk in later:  # chunks are interleaved: neighbours are not drawn together
            some = torch.searchsorted(every, query.index[chunk[query.variable[chunk] == id], 0].sort().values)
            assert some.diff().min() > 2


def test_one_point_is_in_the_middle_and_points_of_a_plane_keep_their_distance() -> None:
    line = torch.rand(41, 1, generator=seeded(1)).sort(0).values
    assert (line[_spread(line, 1)] - line.mean()).abs() == (line - line.mean()).abs().min()
    plane = torch.cartesian_prod(torch.linspace(-1, 1, 9), torch.linspace(-1, 1, 9))
    chosen = _spread(plane, 9)
    assert len(chosen.unique()) == 9
    gaps = torch.cdist(plane[chosen], plane[chosen]).fill_diagonal_(9.0)
    assert gaps.min() >= 0.7  # of a lattice of 3 x 3, 1
    assert torch.cdist(plane, plane[chosen]).amin(1).max() <= 0.8  # nothing is far from all of them
    same = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(4, 1)
    assert _spread(same, 8).sort().values.tolist() == list(range(8))
    assert _spread(plane, 0).tolist() == []


def test_points_along_the_second_dim_are_spread_along_it() -> None:
    query = asked(0, [40], seed=3)
    moved = replace(query, index=torch.stack([torch.full((40,), 0.3), query.index[:, 0]], 1))
    (first, *_), (expected, *_) = plan(moved, IS_FUNCTION, 8), plan(query, IS_FUNCTION, 8)
    assert torch.equal(first, expected)


def draws(
    queries: list[TokenSet],
    observed: list[TokenSet],
    n: int = 6,
    config: SamplerConfig = FAST,
    seed: int = 0,
    dial: int | None = 2,
    budget: Budget = Budget(n_joint=8),  # noqa: B008 (frozen)
) -> list[Tensor]:
    return draw(denoiser(), observed, queries, IS_FUNCTION, n, config, seed, dial, budget)


everywhere = pytest.mark.parametrize("config", [FAST, SDE], ids=["ode", "sde"])


@everywhere
def test_adding_draws_changes_no_draw(config: SamplerConfig) -> None:
    """The noise is the same bit for bit; so are the draws where a call holds as many of them, else to rounding."""
    query, seen = asked(3, [9, 8]), readings(5)
    few, many = (draws([query], [seen], n, config)[0] for n in (6, 22))
    assert few.std() > 0.1 and len(plan(query, IS_FUNCTION, 8)) > 2
    torch.testing.assert_close(many[:6], few, rtol=0, atol=1e-5)
    one_by_one = Budget(n_joint=8, max_tokens=1)
    few, many = (draws([query], [seen], n, config, budget=one_by_one)[0] for n in (2, 3))
    assert torch.equal(many[:2], few)


def test_more_draws_leave_the_noise_as_it_is() -> None:
    query = asked(3, [4])
    few, many = _Noise(query, 6, 3, 1), _Noise(query, 50, 3, 1)
    assert torch.equal(few.start, many.start[:6]) and torch.equal(few.step(2, 4), many.step(2, 4)[:6])
    others = (_Noise(query, 6, 4, 1).start, _Noise(query, 6, 3, 0).start, few.step(0, 0), few.step(1, 0))
    for k, a in enumerate((few.start, *others)):
        for b in others[k:]:
            assert not torch.equal(a, b)


@everywhere
def test_draws_do_not_depend_on_batch_mates(config: SamplerConfig) -> None:
    query, seen = asked(3, [9, 2]), readings(5)
    (alone,) = draws([query], [seen], config=config)
    for mates in (
        [(asked(1, [1], 5), readings(0))],
        [(asked(3, [20], 6), readings(9, 2)), (asked(3, [2]), readings(2))],
    ):
        together = draws([query, *(q for q, _ in mates)], [seen, *(o for _, o in mates)], config=config)
        torch.testing.assert_close(together[0], alone, rtol=0, atol=1e-5)
        assert all(bool(torch.isfinite(z).all()) and z.std() > 0 for z in together)


def test_two_data_sets_have_noise_of_their_own() -> None:
    query, seen = asked(3, []), readings(4)
    a, b = draws([query, query], [seen, seen])
    assert (a - b).abs().min() > 0


@everywhere
def test_draws_do_not_depend_on_memory_chunks(config: SamplerConfig) -> None:
    queries, seen = [asked(3, [9, 8]), asked(2, [3])], [readings(5), readings(3, 4)]
    whole = draws(queries, seen, 4, config)
    for max_tokens in (1, 60):
        parts = draws(queries, seen, 4, config, budget=Budget(8, max_tokens))
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


@everywhere
def test_equal_seeds_give_equal_draws_and_others_others(config: SamplerConfig) -> None:
    query, seen = asked(3, [9]), readings(5)
    a, b, c = (draws([query], [seen], config=config, seed=s)[0] for s in (7, 7, 8))
    assert torch.equal(a, b) and (a - c).abs().min() > 0


@pytest.mark.parametrize("dial", [0, 2, None])
def test_empty_queries_and_empty_observations_are_fine(dial: int | None) -> None:
    nothing = token_set([], [], [], observed=True)
    out = draws([asked(0, []), asked(2, [10])], [readings(3), nothing], dial=dial)
    assert out[0].shape == (6, 0) and out[1].shape == (6, 12) and bool(torch.isfinite(out[1]).all())


@dataclass(frozen=True)
class _Known:
    streams: Streams

    @property
    def active(self) -> TokenBatch:
        return self.streams.active


class ExactGaussian(Denoiser):
    """E[x | x_t] of θ ~ N(0, 1) (id 0), f = θ + Ornstein–Uhlenbeck (id 3), readings y = f + N(0, 0.5²) (id 4), exact.

    All tokens of a row are measured, x_t/α_t = x + λ ε: observed ones with no noise, padding with no information.
    """

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    device, summariser = torch.device("cpu"), None

    def encode(self, streams: Streams, shared: None = None) -> _Known:  # type: ignore[override]
        return _Known(streams)

    @staticmethod
    def covariance(variable: Tensor, index: Tensor) -> Tensor:
        t, function = index[..., 0].double(), variable >= 3
        both = function[..., :, None] & function[..., None, :]
        rough = (-(t[..., :, None] - t[..., None, :]).abs() / 0.5).exp()
        return 1 + torch.where(both, rough, 0.0) + 0.25 * torch.diag_embed((variable == 4).double())

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: _Known) -> Tensor:  # type: ignore[override]
        f, a = encoded.streams.frozen, encoded.streams.active
        k = self.covariance(torch.cat([f.variable, a.variable], 1), torch.cat([f.index, a.index], 1))
        noise = torch.where(torch.cat([f.condition_mask, a.condition_mask], 1), 1e-9, float(ratio[0, 0]) ** 2)
        noise = torch.where(torch.cat([f.valid, a.valid], 1), noise, 1e9)
        given = torch.where(a.condition_mask[:, None], a.value[:, None], y)
        value = torch.cat([f.value[:, None].expand(-1, y.shape[1], -1), given], 2).double().mT
        return (k @ torch.linalg.solve(k + torch.diag_embed(noise), value))[:, f.shape[1] :].mT.to(y.dtype)


TIMES = [0.9, -0.5, 0.1, -0.9, 0.5, -0.1, 0.7, -0.7, 0.3]
QUERY = token_set([3] * 9 + [0], [*TIMES, 0.0], [0.0] * 10, observed=False)
OBSERVED = token_set([4, 4], [-0.2, 0.6], [1.0, -0.5], observed=True)


def posterior() -> tuple[Tensor, Tensor]:
    """Exact mean and covariance of QUERY given OBSERVED."""
    variable, index = torch.cat([OBSERVED.variable, QUERY.variable]), torch.cat([OBSERVED.index, QUERY.index])
    k = ExactGaussian.covariance(variable, index)
    gain = torch.linalg.solve(k[:2, :2], k[:2, 2:]).T
    return gain @ OBSERVED.value.double(), k[2:, 2:] - gain @ k[:2, 2:]


@pytest.mark.parametrize("dial", [0, 3])
@pytest.mark.parametrize("n_joint", [16, 4])
def test_draws_in_stages_have_the_exact_law_up_to_what_stage_one_leaves_open(n_joint: int, dial: int) -> None:
    """At once: the exact covariance C. In stages (θ and 3 points, then 3 + 3): exact within a stage and between the
    first and any other; between later chunks a, b what stage 1 explains, C_a1 C_11⁻¹ C_1b."""
    n = 3000
    (z,) = draw(ExactGaussian(), [OBSERVED], [QUERY], IS_FUNCTION, n, quality_named("fast"), 0, dial, Budget(n_joint))
    mean, cov = posterior()
    stages = plan(QUERY, IS_FUNCTION, n_joint)
    assert [len(s) for s in stages] == ([10] if n_joint == 16 else [4, 3, 3])
    expected = cov.clone()
    if n_joint == 4:
        first, a, b = stages
        explained = cov[:, first] @ torch.linalg.solve(cov[first][:, first], cov[first])
        for rows, columns in ((a, b), (b, a)):
            expected[rows[:, None], columns] = explained[rows[:, None], columns]
        correlation = cov / cov.diagonal().sqrt().outer(cov.diagonal().sqrt())
        assert correlation[first][:, torch.cat([a, b])].abs().amax(0).min() > 0.3  # stage 1 does bear on the others
        assert (expected - cov).abs().max() > 0.02
    sd = cov.diagonal().sqrt()
    torch.testing.assert_close((z.double().mean(0) - mean) / sd, torch.zeros(10).double(), rtol=0, atol=0.08)
    got = torch.cov(z.double().T)
    torch.testing.assert_close(got / sd.outer(sd), expected / sd.outer(sd), rtol=0, atol=0.09)
