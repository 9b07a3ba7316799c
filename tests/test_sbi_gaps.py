"""Missing values and edge masks: what is no token parts nothing, for its neighbours are joined, row by row."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from gaussian import Joint
from test_sbi_masks import trained_rows
from tiny import randomise, seeded
from torch import Tensor

from fsimformer import ObservationWarning
from fsimformer.denoise import Denoiser
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi import Estimator, Simformer
from fsimformer.sbi.estimator import Columns
from fsimformer.sbi.mask_laws import edges_of_ids, eliminate
from fsimformer.whiten import Standardise

pytestmark = pytest.mark.filterwarnings("ignore:train. after")  # trainings of a step or two learn nothing

CHAIN = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)  # a – b – c – d


def random_weights(n_ids: int = 4) -> Estimator:
    network = Network(NetworkConfig(((),) * n_ids, width=16, depth=2, n_heads=2))
    randomise(network, gain=0.7)
    return Estimator(Denoiser(network.eval()), "trig", Columns(n_ids, 1, (Standardise(0.0, 1.0),) * n_ids))


def test_elimination_joins_the_neighbours_of_what_is_missing() -> None:
    missing = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.bool)
    whole, without_b, without_bc = eliminate(CHAIN.expand(3, 4, 4), missing)
    assert torch.equal(whole, CHAIN)
    assert without_b[0].tolist() == [True, True, True, False] and torch.equal(without_b, without_b.T)
    assert without_bc.all()
    assert torch.equal(eliminate(CHAIN, missing[1]), without_b)  # one row
    forwards = CHAIN.tril()  # b hears of a, c of b, d of c
    assert eliminate(forwards, missing[2])[:, 0].tolist() == [True] * 4
    assert torch.equal(eliminate(forwards, missing[2]).triu(1), torch.zeros(4, 4, dtype=torch.bool))


def test_two_entries_see_each_other_just_where_a_path_leads_through_missing_ones() -> None:
    d, g = 7, seeded(2)
    edges = (torch.rand(50, d, d, generator=g) < 0.25) | torch.eye(d, dtype=torch.bool)
    missing = torch.rand(50, d, generator=g) < 0.4
    through = edges.clone()  # paths of any length whose inner entries are missing, by walking on
    for _ in range(d):
        step = (through & missing[:, None, :]).float() @ edges.float() > 0
        through = through | step
    got = eliminate(edges, missing)
    there = ~missing[:, :, None] & ~missing[:, None, :]
    assert torch.equal(got & there, through & there)
    assert int(((got != edges) & there).sum()) > 50


def test_it_is_the_graph_of_the_marginal_of_a_gaussian() -> None:
    """The precision of what is left, exactly, has its zeros where elimination leaves a pair apart."""
    d, g = 6, seeded(4)
    for _ in range(20):
        lower = torch.randn(d, d, generator=g, dtype=torch.float64) * (torch.rand(d, d, generator=g) < 0.3)
        precision = (lower + lower.T).fill_diagonal_(6.0)
        left = torch.rand(d, generator=g) < 0.6
        marginal = torch.linalg.inv(torch.linalg.inv(precision)[left][:, left])
        assert torch.equal(marginal.abs() > 1e-9, eliminate(precision != 0, ~left)[left][:, left])


def test_an_observation_with_a_gap_tells_of_what_lies_beyond_it() -> None:
    """Chain a – b – c – d, the posterior of a: d matters only once b and c are missing, c once b is."""
    estimator = random_weights()
    p = Simformer().build_conditional([0, 1, 1, 1], CHAIN, estimator)
    nan = torch.nan

    def joined(*pairs: tuple[int, int]) -> Tensor:
        mask = CHAIN.clone()
        for i, j in pairs:
            mask[i, j] = mask[j, i] = True
        return mask

    for x, mask in [([0.3, 1.0, -1.0], CHAIN), ([nan, 1.0, -1.0], joined((0, 2))), ([nan, nan, 2.0], joined((0, 3)))]:
        by_hand = Simformer().build_conditional([0, 1, 1, 1], mask, estimator)
        draws = p.sample((4,), x=x, seed=0)
        assert torch.allclose(draws, by_hand.sample((4,), x=x, seed=0), atol=1e-6)
        assert torch.allclose(p.log_prob(draws, x=x), by_hand.log_prob(draws, x=x), atol=1e-4)
    assert not torch.allclose(p.sample((4,), x=[nan, 1.0, -1.0], seed=0), p.sample((4,), x=[nan, 3.0, -1.0], seed=0))
    assert not torch.allclose(p.sample((4,), x=[nan, nan, -1.0], seed=0), p.sample((4,), x=[nan, nan, 2.0], seed=0))


def test_every_observation_of_a_batch_has_its_own_gaps() -> None:
    p = Simformer().build_conditional([0, 1, 1, 1], CHAIN, random_weights())
    rows = torch.tensor([[0.3, 1.0, -1.0], [torch.nan, 1.0, -1.0], [0.3, torch.nan, 2.0]])
    together = p.sample_batched((3,), rows, seed=0)
    for b in range(3):
        before = [[0.0, 0.0, 0.0]] * b  # a row's noise depends on its number
        alone = p.sample_batched((3,), torch.tensor([*before, rows[b].tolist()]), seed=0)[:, b]
        assert torch.allclose(alone, together[:, b], atol=1e-5)
    theta = torch.zeros(2, 3, 1)
    each = [p.log_prob(theta[:, b], x=rows[b]) for b in range(3)]
    assert torch.allclose(p.log_prob_batched(theta, rows), torch.stack(each, 1), atol=1e-5)


def test_training_joins_the_neighbours_of_gaps_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(400, 4, 1, generator=seeded())
    inputs[::2, 1] = torch.nan
    for part in trained_rows(monkeypatch, Simformer().set_edge_masks_generator(CHAIN), inputs):
        assert part.edges is not None
        gap = ~part.valid[:, 1]
        assert 0.3 < float(gap.float().mean()) < 0.7
        assert (part.edges[~gap] == CHAIN).all() and (part.edges[gap] == eliminate(CHAIN, ~part.valid[gap][0])).all()
        assert part.edges[gap][:, 0, 2].all()


def test_what_training_knows_little_of_draws_a_warning() -> None:
    """Two variables of two features; the simulations' range is that of all but one in a thousand."""
    rows = torch.randn(4_000, 2, 2, generator=seeded()) * torch.tensor([1.0, 10.0])
    rows[:, 1, 0] = 0.1  # never anything else
    rows[0, 1, 1] = torch.nan  # a gap is nothing new
    columns = Columns.fit(rows)
    assert all(abs(high - 32.9) < 5 and abs(low + 32.9) < 5 for low, high in columns.value_range[1::2])
    p = Simformer().build_conditional([False, True], None, replace(random_weights(), columns=columns))
    fine = [0.1, 80.0]  # outside, by less than the width of 66
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p.sample((2,), x=fine, seed=0)
        p.sample((2,), x=[torch.nan, 1.0], seed=0)
        p.log_prob([[0.0, 0.0]], x=fine)
    for x, message in [
        ([0.1, 120.0], r"1 of 2 values lie .* the first is 120 of \(variable, feature\) \(1, 1\), -3\d.* units"),
        ([0.1, -120.0], "the first is -120"),
        ([0.2, 0.0], r"the first is 0.2 of \(variable, feature\) \(1, 0\), 0.1 to 0.1"),
        (
            [torch.nan, torch.nan],
            "1 of 1 observations have no finite value of a feature that varies; what follows is the prior",
        ),
    ]:
        with pytest.warns(ObservationWarning, match=message) as caught:
            p.sample((2,), x=x, seed=0)
        assert len(caught) == 1 and caught[0].filename == __file__
        with pytest.warns(ObservationWarning, match=message) as caught:
            p.log_prob([[0.0, 0.0]], x=x)
        assert caught[0].filename == __file__
        with pytest.warns(ObservationWarning, match="1 of 4 values|1 of 2 observations"):
            p.sample_batched((2,), torch.tensor([fine, x]), seed=0)
        with pytest.warns(ObservationWarning):
            p.log_prob_batched(torch.zeros(1, 2, 2), torch.tensor([fine, x]))


def test_a_gap_that_no_simulation_had_is_drawn_along_as_latent() -> None:
    """What the network was never without stays a token; what simulations lacked, too, is left out as there."""
    rows = torch.randn(500, 4, 1, generator=seeded())
    rows[::3, 2] = torch.nan
    estimator, nan = replace(random_weights(), columns=Columns.fit(rows)), torch.nan
    p = Simformer().build_conditional([0, 1, 1, 1], CHAIN, estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_hand = Simformer().build_conditional([0, 0, 1, 1], CHAIN, estimator)
        for rest in ([0.2, 0.5], [nan, 0.5]):
            assert torch.equal(p.sample((9,), x=[nan, *rest], seed=3), by_hand.sample((9,), x=rest, seed=3)[:, :1])
        batch = torch.tensor([[nan, 0.2, 0.5], [0.1, nan, 0.5], [nan, 0.2, nan]])
        together = p.sample_batched((9,), batch, seed=3)
        assert torch.allclose(together[:, 0], p.sample((9,), x=batch[0], seed=3), atol=1e-5)
        p.log_prob([[0.0]], x=[0.5, nan, 0.5])
    with pytest.warns(
        ObservationWarning, match=r"lacked \(variable, feature\) \[\(1, 0\)\], .* a density .* not trained"
    ):
        p.log_prob([[0.0]], x=[nan, nan, 0.5])
    with pytest.warns(ObservationWarning, match="a density without it was not trained"):
        p.log_prob_batched(torch.zeros(1, 3, 1), batch)


def test_a_gap_that_no_condition_mask_of_training_has_latent_draws_a_warning() -> None:
    one = torch.tensor([[False, True, True, True]])
    estimator = replace(random_weights(), columns=Columns.fit(torch.randn(500, 4, 1, generator=seeded())))
    only = replace(estimator, condition_masks=one)
    both = replace(estimator, condition_masks=torch.cat([one, torch.tensor([[False, False, True, True]])]))
    x = [torch.nan, 0.5, 0.5]
    with pytest.warns(
        ObservationWarning, match=r"\[\(1, 0\)\], as an observation does, and no condition mask"
    ) as caught:
        Simformer().build_conditional([0, 1, 1, 1], None, only).sample((2,), x=x, seed=0)
    assert len(caught) == 1 and caught[0].filename == __file__
    pairs = replace(estimator, columns=Columns.fit(torch.randn(500, 2, 2, generator=seeded())))
    with pytest.warns(ObservationWarning, match=r"\[\(1, 0\)\], as an observation does"):  # half a variable
        Simformer().build_conditional([0, 1], None, pairs).sample((2,), x=[torch.nan, 0.5], seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Simformer().build_conditional([0, 1, 1, 1], None, both).sample((2,), x=x, seed=0)
        rows = torch.randn(500, 3, 2, generator=seeded())
        rows[:, 1, 1] = 0.0  # fills up: no token, so the other feature is the whole variable
        filled = replace(random_weights(6), columns=Columns.fit(rows))
        Simformer().build_conditional([0, 1, 1], None, filled).sample((2,), x=[torch.nan, 0.0, 0.5, 0.5], seed=0)


def test_a_missing_feature_parts_nothing_either() -> None:
    columns = Joint(3, 2).estimator.columns
    rows = Joint(3, 2).simulate(2).float()
    rows[1, 1, 0] = torch.nan  # of b one feature is left
    edges = edges_of_ids(CHAIN[:3, :3], 2).expand(2, 6, 6)
    batch = columns.batch(rows, torch.zeros(2, 3, dtype=torch.bool), edges)
    assert batch.edges is not None and torch.equal(batch.edges[0], edges[0])
    assert not edges[1, :2, 4:].any() and batch.edges[1, :2, 4:].all()
