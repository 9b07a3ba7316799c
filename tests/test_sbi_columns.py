"""What the sbi-shaped face keeps of simulations and of noise: precision, constants, masks of training, fresh draws."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from gaussian import Joint
from tiny import seeded

import fsimformer.sbi
from fsimformer.convert import ObservationWarning
from fsimformer.folder import CARD
from fsimformer.likelihood import query_log_prob
from fsimformer.nn import NetworkConfig
from fsimformer.sbi import Simformer
from fsimformer.sbi.estimator import Columns
from fsimformer.sbi.mask_laws import edges_of_ids

pytestmark = pytest.mark.filterwarnings("ignore:train. after")  # trainings of a step or two learn nothing

TINY = NetworkConfig(width=8, depth=1, n_heads=2)
JOINT = Joint(2, 1)
P = Simformer().build_conditional([False, True], None, JOINT.estimator)


def trained(rows: torch.Tensor, **masks: object) -> Simformer:
    inference = Simformer(network=TINY, posterior_latent_idx=[0], posterior_observed_idx=[1, 2])
    inference.append_simulations(rows)
    inference.set_condition_masks_generator(masks.get("condition"))  # type: ignore[arg-type]
    inference.set_edge_masks_generator(masks.get("edges"))  # type: ignore[arg-type]
    inference.train(max_num_epochs=1, training_batch_size=40)
    return inference


def test_calls_without_a_seed_do_not_share_their_noise() -> None:
    """Draws one by one in a loop have the spread of the posterior; torch's global seed repeats them, as in sbi."""
    torch.manual_seed(1)
    loop = torch.stack([P.sample((1,), x=[1.0])[0] for _ in range(200)])
    whole = P.sample((2_000,), x=[1.0], seed=0)
    assert abs(float(loop.std() / whole.std()) - 1) < 0.2 and abs(float(loop.mean() - whole.mean())) < 0.3 * whole.std()
    torch.manual_seed(1)
    assert torch.equal(P.sample((1,), x=[1.0])[0], loop[0])
    assert not torch.equal(P.sample_batched((4,), [[1.0]]), P.sample_batched((4,), [[1.0]]))


def test_a_batch_of_no_observations_has_no_draws_and_no_densities() -> None:
    none = torch.zeros(0, 1)
    assert P.sample_batched((3,), none).shape == (3, 0, 1)
    assert P.log_prob_batched(torch.zeros(3, 0, 1), none).shape == (3, 0)


def test_simulations_keep_their_double_precision_until_they_are_whitened() -> None:
    """θ = 10⁸ + N(0, 1): single precision knows every eighth there. Draws come back in it, which is said."""
    offset, unit = 1e8, torch.randn(500, 3, generator=seeded(), dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"\(variable, feature\) \(0, 0\) varies by .* about 1000000.*subtract an off"):
        inference = trained(torch.cat([unit[:, :1] + offset, unit[:, 1:]], dim=1))
    with pytest.warns(UserWarning, match=r"\(0, 0\) varies by .*subtract an off") as found:  # also of a file, elsewhere
        inference.build_conditional([False, True, True])
    assert [w.filename for w in found] == [__file__]
    columns = inference._estimator_or_last(None).columns
    assert columns.standardise[0].scale == pytest.approx(1.0, abs=0.1)
    z = columns.whiten(unit[:, :1] + offset, torch.tensor([0]))
    assert (
        len(z.unique()) == 500 and float((z[:, 0] - columns.whiten(unit[:, :1], torch.tensor([0]))[:, 0]).std()) < 1e-6
    )
    plain = unit.numpy()
    kept = Simformer().append_simulations(plain)._inputs[0]
    plain[0] = 7.0  # a copy
    assert kept.dtype == torch.float64 and torch.equal(kept[1:, :, 0], unit[1:]) and float(kept[0, 0, 0]) != 7.0
    for complex_ in (unit * 1j, (unit * 1j).numpy()):
        with pytest.raises(TypeError, match=r"array of real numbers, got .*complex128"):
            Simformer().append_simulations(complex_)


def test_values_that_no_network_can_take_are_refused_and_have_no_density() -> None:
    with pytest.raises(ValueError, match=r"x: 1e\+30 of \(variable, feature\) \(1, 0\), observation 1, lies .* scales"):
        P.sample_batched((2,), [[1.0], [1e30]])
    for far in (1e12, 1e25):
        density = P.log_prob([[far], [0.0]], x=[1.0])
        assert float(density[0]) < -1e9 and torch.isfinite(density[1])
    rows = torch.randn(40, 2, dtype=torch.float64) * 1e39
    with pytest.raises(ValueError, match="40 rows hold infinite values, or what is infinite in single"):
        Simformer().append_simulations(rows)


def padded(n: int = 200) -> torch.Tensor:
    """Three variables of two features, of which one is constant in the first and in the last."""
    rows = torch.randn(n, 3, 2, generator=seeded())
    rows[:, 0, 1], rows[:, 2, 0] = 7.1, -2.0
    return rows


def test_a_constant_feature_is_drawn_as_what_it_always_was_and_tells_nothing(tmp_path: Path) -> None:
    inference = trained(padded())
    estimator = inference._estimator_or_last(None)
    estimator.save(tmp_path / "model")
    columns, x = estimator.columns, padded()[0, 1:].flatten()
    assert columns.constants == (False, True, False, False, True, False)
    for p in (inference.build_posterior(), inference.build_posterior(fsimformer.sbi.load(tmp_path / "model"))):
        draws = p.sample((50,), x=x, seed=0)
        assert (draws[:, 1] == torch.tensor(7.1)).all() and draws[:, 0].std() > 0
        density = p.log_prob(draws, x=x)
        ids, seen = torch.tensor([0]), torch.tensor([2, 3, 5])  # what is left when the constants are taken away
        z, query = columns.whiten(draws[:, :1].double(), ids), columns.tokens(ids, None)
        alone = query_log_prob(
            estimator.denoiser, columns.tokens(seen, x[[0, 1, 3]].double()), query, z, "few", n_steps=24
        )
        assert torch.allclose(density.double(), alone - columns.log_det(z, ids), atol=1e-5)
        other = draws.clone()
        other[:, 1] = 8.0
        assert (p.log_prob(other, x=x) == -math.inf).all()
        told, gap = x.clone(), x.clone()
        told[2], gap[2] = 5.0, torch.nan  # another constant is no token, but said; none is nothing
        with pytest.warns(ObservationWarning, match=r"1 of 4 values lie outside .* \(variable, feature\) \(2, 0\)"):
            assert torch.equal(p.sample((50,), x=told, seed=0), draws)
        assert torch.equal(p.sample((50,), x=gap, seed=0), draws)
    rows = padded()
    rows[:, 0] = 7.0
    with pytest.raises(ValueError, match="every latent feature was constant"):
        trained(rows).build_posterior()
    with pytest.raises(ValueError, match="train: every feature is the same in all simulations"):
        trained(torch.ones(200, 3, 1))


def test_variables_filled_up_with_constants_keep_their_edges() -> None:
    """A chain of padded variables is a chain: what is known parts its neighbours, what is missing joins them."""
    rows = torch.zeros(60, 4, 2)
    rows[:, :, 0] = torch.randn(60, 4, generator=seeded())
    chain = torch.eye(4) + torch.diag(torch.ones(3), 1) + torch.diag(torch.ones(3), -1)
    columns = Columns.fit(rows)
    edges = edges_of_ids(chain.bool(), 2).expand(60, 8, 8)
    batch = columns.batch(rows, torch.zeros(60, 4, dtype=torch.bool), edges)
    own = torch.arange(0, 8, 2)
    assert batch.edges is not None and torch.equal(batch.edges[:, own][:, :, own], chain.bool().expand(60, 4, 4))
    assert torch.equal(batch.valid, torch.tensor([True, False] * 4).expand(60, 8))
    inference = Simformer(network=TINY).append_simulations(rows).set_edge_masks_generator(chain)
    inference.train(max_num_epochs=1)
    p = inference.build_conditional([0, 1, 1, 1])
    assert p._edges is not None
    for x, joined in (([0.1, 0, 0.2, 0, 0.3, 0], False), ([math.nan, 0, 0.2, 0, 0.3, 0], True)):
        assert bool(p._edges_given(p._edges, torch.tensor(x))[0, 4]) is joined  # does 0 see 2, through 1?


def test_laws_of_masks_are_shown_the_simulations_as_they_came() -> None:
    """Constants and all, in single precision: a law may look at what is there, and have weights of its own."""
    seen = list[torch.Tensor]()

    def whole(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows)
        return ~torch.isnan(rows).any(-1) & torch.tensor([False, True, True])

    trained(padded(), condition=whole)
    assert {rows.dtype for rows in seen} == {torch.float32}
    assert all(torch.equal(rows[:, 0, 1], torch.full_like(rows[:, 0, 1], 7.1)) for rows in seen)


def test_columns_know_a_constant_from_one_that_hardly_varies() -> None:
    rows = torch.full((10_000, 2, 1), 3.0, dtype=torch.float64)
    rows[5, 1] = 3.5  # one in ten thousand: both quantiles of its range are 3
    assert Columns.fit(rows).value_range == ((3.0, 3.0), (3.0, 3.0)) and Columns.fit(rows).constants == (True, False)
    assert Columns.fit(rows[10:], rows[:10]).constants == (True, False)  # a constant of what is held out as well
    shares = torch.rand(50, 7, generator=seeded(), dtype=torch.float64)
    sums = (0.1 * shares / shares.sum(1, keepdim=True)).sum(1)  # .1 up to rounding
    assert len(sums.unique()) > 1 and Columns.fit(sums[:, None, None]).constants == (True,)
    both = Columns.fit(torch.stack([sums, shares[:, 0]], 1)[:, None])
    seen, ids = torch.stack([sums, shares[:, 0]], 1).float().double(), torch.tensor([0, 1])
    assert both.constants == (True, False) and both.doubts(ids, seen) == []
    assert "1 of 1 observations have no finite value of a feature that varies" in both.doubts(ids[:1], seen[:1, :1])[0]


def test_edges_that_training_did_not_have_are_told(tmp_path: Path) -> None:
    rows, eye = torch.randn(40, 3, 1, generator=seeded()), torch.eye(3, dtype=torch.bool)
    chain = eye | eye.roll(1, 0)
    inference = trained(rows, edges=[chain, eye | eye.roll(1, 1)], condition=[[0, 1, 1], [1, 0, 0]])
    for build in (
        inference.build_posterior,
        inference.build_likelihood,
        lambda: inference.build_conditional([0, 1, 1]),
    ):
        with pytest.warns(UserWarning, match="edge_mask: training drew from masks that are not full attention") as told:
            build()
        assert [w.filename for w in told] == [__file__]
    inference.build_posterior(edge_mask=chain)
    for full in ([chain, torch.ones(3, 3)], [~eye, eye], lambda masks: None):
        trained(rows, edges=full).build_posterior()
    assert trained(rows, edges=chain).build_posterior().edge_mask is not None
    kept = trained(rows, edges=[chain, eye, eye], condition=[0, 1, 1])
    kept._estimator_or_last(None).save(tmp_path / "model")
    again = fsimformer.sbi.load(tmp_path / "model")
    assert again.edge_masks is not None and len(again.edge_masks) == 2
    with pytest.warns(UserWarning, match="edge_mask: training drew from"):
        kept.build_posterior(again)
    with pytest.warns(
        UserWarning, match=r"condition_mask \[1, 0, 0\] is none of the 1 that training drew from"
    ) as told:
        kept.build_conditional([1, 0, 0], chain, again)
    assert [w.filename for w in told] == [__file__]


@pytest.mark.parametrize("name", ["condition_masks", "edge_masks"])
@pytest.mark.parametrize("held", [0, False, "", {}, 5, [0, 1, 1], [[0, 1]], [[2, 1, 1]]])
def test_damaged_masks_of_training_are_named(tmp_path: Path, name: str, held: object) -> None:
    trained(torch.randn(40, 3, 1, generator=seeded()))._estimator_or_last(None).save(tmp_path / "model")
    card = json.loads((tmp_path / "model" / CARD).read_text())
    (tmp_path / "model" / CARD).write_text(json.dumps(card | {name: held}))
    with pytest.raises(ValueError, match=name):
        fsimformer.sbi.load(tmp_path / "model")


def test_a_file_from_before_masks_and_constants_were_kept_is_read(tmp_path: Path) -> None:
    estimator = trained(torch.randn(40, 3, 1, generator=seeded()))._estimator_or_last(None)
    estimator.save(tmp_path / "model")
    card = json.loads((tmp_path / "model" / CARD).read_text())
    del card["condition_masks"], card["edge_masks"], card["columns"]["constants"]
    (tmp_path / "model" / CARD).write_text(json.dumps(card))
    again = fsimformer.sbi.load(tmp_path / "model")
    assert again.condition_masks is again.edge_masks is None and again.columns.constants == ()
    x = [0.1, 0.2]
    draws = [Simformer().build_conditional([0, 1, 1], None, e).sample((3,), x=x, seed=0) for e in (estimator, again)]
    assert torch.equal(*draws)
