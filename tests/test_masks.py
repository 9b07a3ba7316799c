"""Condition masks: the kinds, their frequencies, and what is never observed or never latent; attention masks."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare
from tiny import batch, seeded, streams_of
from torch import Tensor

from fsimformer.masks import KINDS, MaskConfig, allows_all, attention, draw_condition_masks, draw_kinds, thin_latents
from fsimformer.tokens import TokenBatch

IS_PARAMETER = torch.tensor([True, True, False, False, True])  # id 4: a functional parameter
PARAMETERS_LATENT = ("posterior", "imputation", "forecast", "gap")


def rows(n: int, length: int = 24, seed: int = 0) -> TokenBatch:
    """Rows of two scalar parameters, a functional one and two data series on one index dim; lengths differ."""
    g = seeded(seed)
    lengths = torch.randint(length // 2, length + 1, (n,), generator=g)
    lengths[0] = length
    out = batch(lengths.tolist(), n_index=1, seed=seed)
    variable = out.variable.clone()
    variable[:, 2:] = torch.randint(2, 5, (n, length - 2), generator=g)
    variable[:, :2] = torch.tensor([0, 1])
    index = torch.where((variable < 2)[..., None], 0.0, out.index)
    return out.replace(variable=variable, index=index)


def masks_of(kind: str, whole: TokenBatch, seed: int = 0) -> Tensor:
    kinds = torch.full((whole.shape[0],), KINDS.index(kind))
    return draw_condition_masks(whole, IS_PARAMETER, kinds, seeded(seed))


def test_kinds_come_with_the_configured_frequencies() -> None:
    config = MaskConfig(0.3, 0.1, 0.15, 0.1, 0.1, 0.05, 0.2, 0.0, 0.0)
    counts = torch.bincount(draw_kinds(20_000, config, seeded(1)), minlength=8).numpy()
    weights = torch.tensor([0.3, 0.1, 0.15, 0.1, 0.1, 0.05, 0.2]).double().numpy()
    assert counts[7] == 0
    assert chisquare(counts[:7], 20_000 * weights / weights.sum()).pvalue > 0.01
    assert chisquare(counts[:7], [20_000 / 7] * 7).pvalue < 1e-6


def test_wrong_frequencies_are_refused() -> None:
    with pytest.raises(ValueError, match="frequencies must be >= 0 and not all 0"):
        MaskConfig(posterior=-0.1)
    with pytest.raises(ValueError, match="not all 0"):
        MaskConfig(0, 0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["imputation", "token", "forecast", "gap"])
def test_every_row_has_its_own_mask(kind: str) -> None:
    one = rows(1)
    whole = one.rows(torch.zeros(200, dtype=torch.long))  # the same row, 200 times
    distinct = len({tuple(m.tolist()) for m in masks_of(kind, whole)})
    assert distinct > {"imputation": 150, "token": 150, "forecast": 8, "gap": 40}[kind]


@pytest.mark.parametrize("kind", PARAMETERS_LATENT)
def test_parameters_stay_latent_functions_too(kind: str) -> None:
    whole = rows(300)
    mask = masks_of(kind, whole)
    assert not mask[IS_PARAMETER[whole.variable] & whole.valid].any()
    assert mask[whole.valid].any()


def test_posterior_observes_all_data_and_likelihood_all_parameters() -> None:
    whole = rows(100)
    parameter = IS_PARAMETER[whole.variable]
    assert torch.equal(masks_of("posterior", whole)[whole.valid], ~parameter[whole.valid])
    assert torch.equal(masks_of("likelihood", whole)[whole.valid], parameter[whole.valid])
    assert not masks_of("joint", whole)[whole.valid].any()


def test_forecast_cuts_every_row_in_two_along_the_index() -> None:
    whole = rows(300)
    mask = masks_of("forecast", whole)
    data, t = ~IS_PARAMETER[whole.variable] & whole.valid, whole.index[..., 0]
    last_seen = torch.where(mask & data, t, -torch.inf).amax(1)
    first_unseen = torch.where(~mask & data, t, torch.inf).amin(1)
    assert bool((last_seen < first_unseen).all())
    both = (last_seen > -torch.inf) & (first_unseen < torch.inf)
    assert both.float().mean() > 0.8
    assert last_seen[both].std() > 0.3  # cuts lie everywhere


def test_gap_is_one_window_without_data() -> None:
    whole = rows(300, seed=2)
    mask = masks_of("gap", whole)
    data, t = ~IS_PARAMETER[whole.variable] & whole.valid, whole.index[..., 0]
    hidden = ~mask & data
    lower = torch.where(hidden, t, torch.inf).amin(1, keepdim=True)
    upper = torch.where(hidden, t, -torch.inf).amax(1, keepdim=True)
    assert not (mask & data & (t >= lower) & (t <= upper)).any()
    assert (mask & data & (t > upper)).any() and (mask & data & (t < lower)).any()


@pytest.mark.parametrize("kind", ["forecast", "gap"])
def test_data_without_an_index_are_observed_where_a_place_decides(kind: str) -> None:
    """A population lies nowhere in time: it is known before any cut. Untold, a mask takes index 0 for a place."""
    whole = rows(400)
    is_parameter = torch.tensor([True, False, True, False, False])  # 1: a scalar of the data
    kinds, has_index = torch.full((400,), KINDS.index(kind)), torch.tensor([False, False, True, True, True])
    told = draw_condition_masks(whole, is_parameter, kinds, seeded(), has_index=has_index)
    untold = draw_condition_masks(whole, is_parameter, kinds, seeded())
    scalar = (whole.variable == 1) & whole.valid
    assert bool(told[scalar].all()) and not bool(untold[scalar].all())
    assert torch.equal(told[~scalar], untold[~scalar]) and not told[whole.variable == 0].any()


def test_forecast_and_gap_choose_among_the_index_dims() -> None:
    """With two dims each row is cut along one of them, and both are chosen."""
    whole = batch([30] * 200, n_ids=1, n_index=2)
    mask = draw_condition_masks(whole, torch.tensor([False]), torch.full((200,), KINDS.index("forecast")), seeded())
    clean = []
    for d in range(2):
        t = whole.index[..., d]
        clean.append(torch.where(mask, t, -2.0).amax(1) < torch.where(~mask, t, 2.0).amin(1))
    assert bool((clean[0] | clean[1]).all())
    assert int((clean[0] & ~clean[1]).sum()) > 60 and int((clean[1] & ~clean[0]).sum()) > 60


def test_a_variable_is_observed_as_a_whole_or_not() -> None:
    whole = rows(300)
    mask = masks_of("variable", whole)
    for id in range(5):
        where = (whole.variable == id) & whole.valid
        n, seen = where.sum(1), (mask & where).sum(1)
        assert bool(((seen == 0) | (seen == n)).all())
        assert 0.4 < float((seen[n > 0] > 0).float().mean()) < 0.6


def test_token_rates_are_spread_over_zero_to_one() -> None:
    whole = batch([200] * 300, n_ids=2)
    mask = draw_condition_masks(
        whole, torch.zeros(2, dtype=torch.bool), torch.full((300,), KINDS.index("token")), seeded()
    )
    rate = mask.double().mean(1).sort().values
    torch.testing.assert_close(rate, (torch.arange(300) + 0.5) / 300, rtol=0, atol=0.1, check_dtype=False)


@pytest.mark.parametrize("seed", range(3))
def test_no_row_is_without_a_latent(seed: int) -> None:
    """Rows of one or two tokens, data or parameters only, under every kind."""
    for kind in KINDS:
        for ids in ([0], [2], [0, 2], [2, 3], [0, 1]):
            whole = batch([len(ids)] * 50, n_index=1, seed=seed)
            whole = whole.replace(variable=torch.tensor(ids).expand(50, -1))
            mask = masks_of(kind, whole, seed)
            assert bool((~mask & whole.valid).any(1).all()), (kind, ids)


def test_kinds_do_not_change_the_draws_of_other_rows() -> None:
    whole = rows(50)
    kinds = draw_kinds(50, MaskConfig(), seeded(3))
    other = kinds.clone()
    other[0] = (other[0] + 1) % len(KINDS)
    a, b = (draw_condition_masks(whole, IS_PARAMETER, k, seeded(4)) for k in (kinds, other))
    assert torch.equal(a[1:], b[1:])


def test_thin_latents_keeps_n_at_random_and_every_observed_token() -> None:
    whole = rows(300)
    mask = masks_of("posterior", whole)
    whole = whole.replace(condition_mask=mask)
    thin = thin_latents(whole, 4, seeded(5))
    assert torch.equal(thin.observed, whole.observed)
    assert not (thin.valid & ~whole.valid).any()
    assert torch.equal(thin.latent.sum(1), whole.latent.sum(1).clamp(max=4))
    assert torch.equal(thin_latents(whole, 24, seeded(5)).valid, whole.valid)


def test_thin_latents_drops_the_kept_ids_last() -> None:
    whole = rows(50).replace(condition_mask=torch.zeros(50, rows(1).shape[1], dtype=torch.bool))
    keep = torch.zeros(int(whole.variable.max()) + 1, dtype=torch.bool)
    keep[0] = True
    thin = thin_latents(whole, 4, seeded(5), keep)
    kept = keep[whole.variable] & whole.valid
    assert torch.equal(kept & thin.valid, kept) and int(kept.sum()) > 0
    assert torch.equal(thin.latent.sum(1), whole.latent.sum(1).clamp(max=4))


def test_thin_latents_gives_every_latent_the_same_chance() -> None:
    whole = rows(1).rows(torch.zeros(4000, dtype=torch.long))
    whole = whole.replace(condition_mask=(torch.arange(24) % 3 == 0).expand(4000, -1))
    kept = thin_latents(whole, 4, seeded(6)).latent.sum(0)
    counts = kept[whole.latent[0]]
    assert int(kept.sum()) == 4 * 4000
    assert float(((counts - 1000) ** 2).sum() / 1000) < 40  # 16 cells, negatively correlated: chi-square mean < 15


def test_attention_is_padding_alone_or_with_the_dependency_mask() -> None:
    s = streams_of([5, 2], [3, 4])
    plain = attention(s.frozen, s.active)
    assert torch.equal(plain.frozen, s.frozen.valid) and torch.equal(plain.active, s.active.valid)
    assert torch.equal(plain.context, s.frozen.valid)
    graph = torch.rand(5, 5, generator=seeded()) < 0.5
    graph |= graph.T | torch.eye(5, dtype=torch.bool)
    masked = attention(s.frozen, s.active, graph)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                expected = graph[s.active.variable[b, i], s.frozen.variable[b, j]] & s.frozen.valid[b, j]
                assert masked.context[b, i, j] == expected
    everything = attention(s.frozen, s.active, torch.ones(5, 5, dtype=torch.bool))
    assert torch.equal(everything.active, s.active.valid[:, None].expand(-1, 4, -1))
    assert torch.equal(everything.frozen, s.frozen.valid[:, None].expand(-1, 5, -1))


def test_a_path_determined_by_its_parents_parts_its_readings_and_time_orders_a_function_and_its_parent() -> None:
    """Ids: a function 0, its child 1 (joined to it by the past alone), and 2, whose readings do not see each other."""
    graph = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    past = torch.zeros(2, 3, 3, dtype=torch.bool)
    past[1, 1, 0] = True  # time is the second of two index dims
    variable, time = torch.tensor([[0, 0, 1, 1, 2, 2]]), torch.tensor([[-0.5, 0.5, 0.0, 0.5, 0.0, 1.0]])
    ones = torch.ones(1, 6, dtype=torch.bool)
    tokens = TokenBatch(variable, torch.stack([-time, time], -1), time, ones, ones)
    masks = attention(tokens, tokens.replace(condition_mask=~ones), graph, past)
    own = torch.tensor([  #  f(-.5) f(.5) y(0) y(.5) z(0) z(1)
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],  # the parent sees all of its child
        [1, 0, 1, 1, 0, 0],  # y(0) does not see f(.5)
        [1, 1, 1, 1, 0, 0],  # not later: the same time counts
        [0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ], dtype=torch.bool)  # fmt: skip
    assert torch.equal(masks.frozen[0], own) and torch.equal(masks.active[0], own)
    across = own.clone()
    across[4:, 4:] = False  # the same place in another stream is another reading
    assert torch.equal(masks.context[0], across)
    plain = attention(tokens, tokens.replace(condition_mask=~ones), graph)
    assert plain.frozen[0, 2, 1]


def test_a_dependency_mask_is_needed_only_where_an_edge_between_the_ids_of_a_batch_is_missing() -> None:
    dependency = torch.ones(5, 5, dtype=torch.bool)
    dependency[:, 4] = False
    parts = [batch([6, 3], n_ids=4, seed=s) for s in (0, 1)]
    assert allows_all(dependency, *parts)
    masks = [attention(*parts, d) for d in (dependency, None)]
    for name in ("frozen", "active", "context"):
        pairs, padding = (getattr(m, name) for m in masks)
        real = parts[0 if name == "frozen" else 1].valid  # what padding attends to means nothing
        assert bool((pairs == padding[:, None])[real].all())
    junk = parts[0].replace(variable=torch.where(parts[0].valid, parts[0].variable, 4))
    assert allows_all(dependency, junk, parts[1])  # padding is no token
    assert not allows_all(dependency, parts[0], parts[1].replace(variable=parts[1].variable + 1))
