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
from fsimformer.nn import NetworkConfig
from fsimformer.sbi import Simformer
from fsimformer.sbi.estimator import Columns

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


def test_values_that_no_network_can_take_are_refused() -> None:
    for call in (lambda: P.sample((2,), x=[1e30]), lambda: P.log_prob([[1e30]], x=[1.0])):
        with pytest.raises(
            ValueError, match=r": 1e\+30 of \(variable, feature\) .* of its scales from the simulations"
        ):
            call()


def test_a_constant_feature_is_drawn_as_what_it_always_was_and_tells_nothing() -> None:
    rows = torch.randn(200, 3, 2, generator=seeded())
    rows[:, 0, 1], rows[:, 2, 0] = 7.1, -2.0
    inference = trained(rows)
    columns = inference._estimator_or_last(None).columns
    assert columns.constants == (False, True, False, False, True, False)
    assert torch.isnan(columns.varying(rows)).flatten(1).any(0).tolist() == list(columns.constants)
    p = inference.build_posterior()
    x = rows[0, 1:].flatten()
    draws = p.sample((50,), x=x, seed=0)
    assert (draws[:, 1] == torch.tensor(7.1)).all() and draws[:, 0].std() > 0
    density = p.log_prob(draws, x=x)
    lone = Simformer().build_conditional([0, 1, 1], None, inference._estimator_or_last(None))
    assert torch.isfinite(density).all() and torch.equal(density, lone.log_prob(draws, x=x))
    other = draws.clone()
    other[:, 1] = 8.0
    assert (p.log_prob(other, x=x) == -math.inf).all()
    told = x.clone()
    told[2] = 5.0  # the constant of the observation is another: no token, but a warning
    with pytest.warns(ObservationWarning, match=r"1 of 4 values lie outside .* \(variable, feature\) \(2, 0\)"):
        assert torch.equal(p.sample((50,), x=told, seed=0), draws)
    rows[:, 0] = 7.0
    with pytest.raises(ValueError, match="every latent feature was constant"):
        trained(rows).build_posterior()


def test_columns_know_a_constant_from_one_that_hardly_varies() -> None:
    rows = torch.full((10_000, 2, 1), 3.0, dtype=torch.float64)
    rows[5, 1] = 3.5  # one in ten thousand: both quantiles of its range are 3
    assert Columns.fit(rows).value_range == ((3.0, 3.0), (3.0, 3.0)) and Columns.fit(rows).constants == (True, False)


def test_edges_that_training_did_not_have_are_told(tmp_path: Path) -> None:
    rows, eye = torch.randn(40, 3, 1, generator=seeded()), torch.eye(3, dtype=torch.bool)
    chain = eye | eye.roll(1, 0)
    for source in ([chain, eye | eye.roll(1, 1)], lambda masks: chain):
        inference = trained(rows, edges=source)
        with pytest.warns(UserWarning, match="edge_mask: training drew from masks that are not full attention"):
            inference.build_posterior()
        inference.build_posterior(edge_mask=chain)
    trained(rows, edges=[chain, torch.ones(3, 3)]).build_posterior()
    assert trained(rows, edges=chain).build_posterior().edge_mask is not None
    kept = trained(rows, edges=[chain, eye], condition=[0, 1, 1])
    kept._estimator_or_last(None).save(tmp_path / "model")
    again = fsimformer.sbi.load(tmp_path / "model")
    with pytest.warns(UserWarning, match="edge_mask: training drew from"):
        kept.build_posterior(again)
    with pytest.warns(UserWarning, match=r"condition_mask \[1, 0, 0\] is none of the 1 that training drew from"):
        kept.build_conditional([1, 0, 0], chain, again)


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
