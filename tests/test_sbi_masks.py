"""Masks of training: each row its own, from a callable, a collection or one tensor; who may attend, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gaussian import Joint
from tiny import batch, randomise, seeded
from torch import Tensor

from fsimformer.batches import observed_rows
from fsimformer.checkpoint import Run
from fsimformer.denoise import Denoiser
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi import Simformer, inference
from fsimformer.sbi.mask_laws import bernoulli, condition_law, edge_law, edges_of_ids, rows_with_latents
from fsimformer.seeds import generator_at
from fsimformer.tokens import TokenBatch, concatenate, split

pytestmark = pytest.mark.filterwarnings("ignore:train. after")  # trainings of a step or two learn nothing

ROWS = torch.randn(2_000, 3, 2, generator=seeded())


def counts(masks: Tensor) -> dict[tuple[bool, ...], int]:
    kinds, n = masks.unique(dim=0, return_counts=True)
    return {tuple(k): c for k, c in zip(kinds.tolist(), n.tolist(), strict=True)}


def test_the_default_is_a_fair_coin_a_variable_and_never_all_observed() -> None:
    seen = counts(bernoulli(ROWS, seeded(1)))
    assert (True, True, True) not in seen and len(seen) == 7
    for mask, n in seen.items():  # ⅛ each, and a third of "all observed" to each mask of two
        p = 1 / 8 + (1 / 24 if sum(mask) == 2 else 0)
        assert abs(n / 2_000 - p) < 4.5 * (p * (1 - p) / 2_000) ** 0.5


def test_the_default_leaves_something_that_is_there_latent() -> None:
    rows = ROWS.clone()
    rows[:, 1] = torch.nan
    rows[::2, 0] = torch.nan
    rows[:, 2, 0] = torch.nan  # one feature is left: the variable is there
    masks, there = bernoulli(rows, seeded()), torch.isfinite(rows).any(2)
    assert (~masks & there).any(1).all()


def test_a_collection_is_drawn_uniformly_row_by_row_whatever_holds_it() -> None:
    masks = torch.tensor([[False, True, True], [True, False, False]])
    for source in (masks, masks.tolist(), list(masks), tuple(masks.int()), set(masks), masks.numpy()):
        drawn = counts(condition_law(source, 3)(ROWS, seeded()))
        assert set(drawn) == {(False, True, True), (True, False, False)}
        assert abs(drawn[True, False, False] - 1_000) < 4.5 * 500**0.5
    one = condition_law([False, True, True], 3)(ROWS[:5], seeded())
    assert one.tolist() == [[False, True, True]] * 5


def test_a_callable_sees_the_rows_and_answers_for_each() -> None:
    law = condition_law(lambda rows: rows[:, :, 0] > 0.5, 3)
    assert torch.equal(law(ROWS, seeded()), ROWS[:, :, 0] > 0.5)
    assert condition_law(lambda rows: torch.tensor([1, 0, 0]), 3)(ROWS[:2], seeded()).tolist() == [[1, 0, 0]] * 2
    conditions = torch.tensor([[True, False, False], [False, False, True]])
    edges = edge_law(lambda masks: masks[:, :, None] == masks[:, None, :], 3)(conditions, seeded())
    assert edges is not None and edges[1].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    assert edge_law(lambda masks: None, 3)(conditions, seeded()) is None
    assert edge_law(None, 3)(conditions, seeded()) is None


@pytest.mark.parametrize(
    ("law", "source", "error", "message"),
    [
        (condition_law, torch.ones(3, dtype=torch.bool), ValueError, "observes all 3 variables"),
        (condition_law, [[0, 0, 1], [1, 1, 1]], ValueError, "observes all 3 variables"),
        (condition_law, [False, True], ValueError, r"condition mask: expected shape \(3,\) for one mask .* got \(2,\)"),
        (
            condition_law,
            torch.ones(3, 1),
            ValueError,
            r"\(3,\) for one mask or \(K, 3\) for a collection, got \(3, 1\)",
        ),
        (condition_law, ["a", "b"], ValueError, r"condition mask: expected masks of shape \(3,\) .* got str 'a'"),
        (condition_law, "posterior", TypeError, r"condition mask: expected a mask \(variables,\), .* got str"),
        (edge_law, {0: [1]}, TypeError, r"edge mask: expected a mask \(variables, variables\), .* got dict"),
        (condition_law, lambda: [0, 1, 1], TypeError, r"condition mask: .* cannot be called with one argument .* rows"),
        (edge_law, lambda: None, TypeError, r"edge mask: .* cannot be called with one argument .* condition masks"),
        (
            condition_law,
            lambda rows: None,
            ValueError,
            r"condition mask from .* \(5, 3\), .* \(3,\) for all .* NoneType",
        ),
        (condition_law, lambda rows: "no", ValueError, r"callable: expected shape \(5, 3\).* got str 'no'"),
        (condition_law, iter([[0, 1, 1]]), TypeError, r"condition mask: a list_iterator can be read only once"),
        (condition_law, [[0, 0, 1], [1, 1]], ValueError, "masks of one shape"),
        (condition_law, [], ValueError, "at least one mask"),
        (condition_law, torch.tensor([0.5, 0, 0]), ValueError, "expected True/False or 1/0"),
        (condition_law, 3, TypeError, "condition mask: expected a mask .* or a callable .* or None, got int"),
        (
            condition_law,
            lambda rows: torch.ones(7, 3),
            ValueError,
            r"callable: expected shape \(5, 3\), .* got \(7, 3\)",
        ),
        (edge_law, torch.ones(3, 2), ValueError, r"edge mask: expected shape \(3, 3\) .* got \(3, 2\)"),
        (edge_law, lambda masks: torch.ones(5, 2, 2), ValueError, r"callable: expected shape \(5, 3, 3\)"),
    ],
)
def test_what_is_no_mask_is_refused(law: Any, source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        law(source, 3)(ROWS[:5], seeded())


def test_an_iterator_is_refused_before_it_is_read_and_a_callable_may_wrap_it() -> None:
    def forever() -> Iterator[list[int]]:
        while True:
            yield [0, 1, 1]

    masks, simformer = forever(), Simformer()
    with pytest.raises(
        TypeError, match=r"condition mask: a generator .* expected a mask .* lambda rows: next\(masks\)"
    ):
        simformer.set_condition_masks_generator(masks)
    with pytest.raises(TypeError, match="edge mask: a list_iterator can be read only once"):
        simformer.set_edge_masks_generator(iter([torch.eye(3)]))
    simformer.set_condition_masks_generator(lambda rows: next(masks)).append_simulations(ROWS)
    with pytest.raises(ValueError, match=r"edge mask: expected shape \(3, 3\) .* got \(2, 2\)"):
        simformer.set_edge_masks_generator(torch.eye(2))  # the simulations have three variables
    with pytest.raises(ValueError, match=r"condition mask: expected shape \(3,\) .* got \(2,\)"):
        simformer.set_condition_masks_generator([0, 1])


def trained_rows(monkeypatch: pytest.MonkeyPatch, simformer: Simformer, inputs: Tensor) -> list[TokenBatch]:
    """The batches that training and validation would draw."""
    got: list[TokenBatch] = []

    def fit(denoiser: Any, rows: Any, held_out: Any, is_parameter: Any, masks: Any, *args: Any, **kwargs: Any) -> Run:
        for number, source in enumerate((rows, held_out)):
            got.append(observed_rows(source, 300, is_parameter, masks, 6, generator_at(0, number)))
        return Run(history=[(1, 1.0, 1.0)])

    monkeypatch.setattr(inference, "fit", fit)
    simformer.append_simulations(inputs).train()
    return got


def test_a_fixed_mask_is_the_only_one_that_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    simformer = Simformer().set_condition_masks_generator(torch.tensor([False, True, False]))
    edges = torch.tensor([[1, 1, 0], [0, 0, 1], [0, 0, 1]])
    for part in trained_rows(monkeypatch, simformer.set_edge_masks_generator(edges), ROWS):
        assert counts(part.condition_mask) == {(False, False, True, True, False, False): 300}
        expected = edges.bool() | torch.eye(3, dtype=torch.bool)
        assert part.edges is not None and torch.equal(part.edges[7, ::2, 1::2], expected)


def test_a_conditional_that_no_listed_mask_asked_for_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [[0, 1, 0], [1, 0, 1]]
    simformer = Simformer().set_condition_masks_generator(listed)
    trained_rows(monkeypatch, simformer, ROWS)
    simformer.build_conditional([False, True, False])
    simformer.set_condition_masks_generator(None)  # what counts is what the network was trained with
    with pytest.warns(UserWarning, match=r"\[1, 0, 0\] is none of the 2 that training drew from"):
        simformer.build_conditional([True, False, False])
    trained_rows(monkeypatch, simformer, ROWS)
    simformer.build_conditional([True, False, False])


def test_rows_get_their_own_masks_and_gaps_are_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ROWS.clone()
    inputs[inputs[:, 2, 0] < 0.5, 2, 1] = torch.nan
    seen: list[torch.Size] = []

    def called(rows: Tensor) -> Tensor:
        seen.append(rows.shape)
        return rows[:, :, 0] > 0

    train, held_out = trained_rows(monkeypatch, Simformer().set_condition_masks_generator(called), inputs)
    assert set(seen) == {(300, 3, 2)} and train.edges is None
    for part in (train, held_out):
        assert part.valid[:, :5].all() and 0.1 < float(part.valid[:, 5].float().mean()) < 0.6
        assert torch.equal(part.valid[:, 5], part.value[:, 4] > part.value[part.valid[:, 5], 4].min() - 1e-6)
        assert len(counts(part.condition_mask[:, ::2])) == 7  # all but the one that observes everything
    assert not set(train.value[:, 0].tolist()) & set(held_out.value[:, 0].tolist())  # held out is held out
    whole = torch.cat([train.value, held_out.value])[:, 1::2][:, :2]  # masks, and so the choice of rows, ignore these
    assert float(whole.mean(0).abs().max()) < 0.2 and float((whole.std(0) - 1).abs().max()) < 0.15


def test_rows_that_leave_nothing_latent_give_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = ROWS.clone()
    inputs[torch.arange(2_000) % 10 != 0, 0] = torch.nan
    simformer = Simformer().set_condition_masks_generator([False, True, True])
    for part in trained_rows(monkeypatch, simformer, inputs):
        assert part.shape[0] == 300 and bool(part.latent[:, :2].all()) and not part.latent[:, 2:].any()


def test_what_becomes_of_the_callers_tensor_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, simformer = ROWS.clone(), Simformer()
    expected = trained_rows(monkeypatch, Simformer(), ROWS)[0].value
    simformer.append_simulations(inputs)
    inputs.zero_()
    monkeypatch.setattr(simformer, "append_simulations", lambda inputs: simformer)
    assert torch.equal(trained_rows(monkeypatch, simformer, inputs)[0].value, expected)


def test_the_rows_that_stay_keep_their_law() -> None:
    rows = torch.arange(4.0).view(4, 1, 1).expand(4, 2, 1).clone()
    rows[0, 0] = torch.nan
    drawn, masks = rows_with_latents(rows, condition_law([[0, 1], [1, 0]], 2), 3_000, seeded())
    kinds = counts(torch.cat([drawn[:, 1, 0, None], masks[:, :1]], 1))
    assert len(kinds) == 7 and (0.0, 0.0) not in kinds  # row 0 has variable 1 alone
    assert all(abs(n - 3_000 / 7) < 4.5 * (3_000 * 6 / 49) ** 0.5 for n in kinds.values())


@pytest.mark.parametrize("law", [lambda rows: torch.ones(3), lambda rows: torch.isfinite(rows[:, :, 0])])
def test_a_law_that_never_leaves_anything_latent_is_refused(law: Any) -> None:
    simformer = Simformer().set_condition_masks_generator(law).append_simulations(ROWS)
    with pytest.raises(ValueError, match=r"condition mask: (\d+) of \1 rows drawn .* leave nothing latent"):
        simformer.train()


def random_denoiser(dependency: Tensor | None = None) -> Denoiser:
    network = Network(NetworkConfig(((False, False),) * 5, width=16, depth=2, n_heads=2))
    randomise(network, gain=0.7)
    return Denoiser(network.eval().double(), dependency=dependency)


def test_edge_masks_of_their_own_are_row_by_row_the_dependency_of_all() -> None:
    rows = batch([6, 5, 4])
    edges = (torch.rand(3, 5, 5, generator=seeded(3)) < 0.4) | torch.eye(5, dtype=torch.bool)
    own = rows.replace(edges=edges)
    log_ratio, epsilon = torch.zeros(3, 1, dtype=torch.float64), torch.ones(3, 1, 6, dtype=torch.float64)

    def loss(denoiser: Denoiser, part: TokenBatch, which: slice) -> Tensor:
        streams = split(part.rows(which), 1)
        return denoiser.loss(streams, log_ratio[which], epsilon[which][..., : streams.active.shape[1]])

    together = loss(random_denoiser(), own, slice(0, 3))
    each = torch.stack([loss(random_denoiser(edges[i]), rows, slice(i, i + 1)) for i in range(3)])
    both = loss(random_denoiser(edges[1]), own, slice(1, 2))
    assert torch.allclose(together, each.mean()) and torch.allclose(both, each[1])
    assert not torch.allclose(loss(random_denoiser(), rows, slice(0, 3)), together, rtol=1e-3)
    order = torch.tensor([2, 0, 1])
    joined = concatenate([own.rows(order[:1]), own.rows(order[1:])])
    assert joined.edges is not None and torch.equal(joined.edges, edges[order])
    with pytest.raises(ValueError, match="1 of 2 batches have edges"):
        concatenate([own, rows])


def test_a_cut_edge_has_no_gradient_in_its_row_alone() -> None:
    rows = batch([4, 4]).replace(
        variable=torch.tensor([[0, 1, 2, 3]] * 2), condition_mask=torch.tensor([[False, False, True, True]] * 2)
    )
    edges = torch.ones(2, 5, 5, dtype=torch.bool)
    edges[0, :2, 2] = edges[0, 3, 2] = False  # in row 0 nobody hears of id 2
    value = rows.value.clone().requires_grad_(True)
    for riders in (0, None):
        streams = split(rows.replace(value=value, edges=edges), riders)
        y = torch.zeros(2, 1, streams.active.shape[1], dtype=torch.float64)
        denoiser = random_denoiser()
        out = denoiser.at_ratio(y, torch.ones(2, 1, dtype=torch.float64), denoiser.encode(streams))
        (gradient,) = torch.autograd.grad(out[streams.active.latent[:, None]].sum(), value)
        assert float(gradient[0, 2]) == 0.0 and float(gradient[0, 3].abs()) > 1e-6
        assert float(gradient[1, 2].abs()) > 1e-6


def test_features_of_a_variable_share_its_edges_and_see_each_other() -> None:
    edges = torch.tensor([[False, True], [False, False]])
    assert edges_of_ids(edges, 2).int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


def test_the_edge_mask_of_training_is_that_of_sampling_unless_another_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joint, edges = Joint(3, 2), torch.eye(3, dtype=torch.bool)
    simformer = Simformer().set_edge_masks_generator(edges)
    trained_rows(monkeypatch, simformer, joint.simulate(100).float())
    assert torch.equal(simformer.build_conditional([0, 1, 1]).edge_mask, edges)
    every = torch.ones(3, 3)
    assert torch.equal(simformer.build_conditional([0, 1, 1], every).edge_mask, every.bool())
