"""Arguments of the sbi-shaped face at the door: types, ranges, and the keywords that sbi's callers bring along."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import Joint

from fsimformer import sbi
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.nn import Network, NetworkConfig
from fsimformer.sbi import FlowMatchingSimformer, Simformer
from fsimformer.sbi.estimator import Columns
from fsimformer.sbi.training import config_for, loss_of_nothing
from fsimformer.tokens import split

JOINT = Joint(2, 1)
TINY = NetworkConfig(width=8, depth=1, n_heads=2)
P = Simformer().build_conditional([False, True], None, JOINT.estimator)
X = [1.0]


def trained(**settings: Any) -> Simformer:
    inference = Simformer(network=TINY).append_simulations(JOINT.simulate(40).float())
    inference.train(**{"max_num_epochs": 1, "training_batch_size": 40, **settings})
    return inference


def test_what_has_no_effect_is_accepted_and_changes_nothing() -> None:
    for cls in (Simformer, FlowMatchingSimformer):
        cls(show_progress_bars=True, logging_level="INFO", prior=None, mvf_estimator=None, summary_writer=None)
    quiet = P.sample((3,), x=X, seed=0)
    assert torch.equal(
        P.sample((3,), x=X, show_progress_bars=True, max_sampling_batch_size=10, predictor=None, seed=0), quiet
    )
    assert torch.equal(P.sample((np.int64(3),), x=X, seed=np.int64(0), reject_outside_prior=False), quiet)  # type: ignore[arg-type]
    assert torch.equal(P.sample_batched((3,), [X], max_sampling_batch_size=1, seed=0)[:, 0], quiet)
    assert torch.equal(P.log_prob(quiet, x=X, track_gradients=False), P.log_prob(quiet, x=X))
    plain = trained()
    same = trained(
        show_train_summary=True, retrain_from_scratch=False, force_first_round_loss=False, dataloader_kwargs=None
    )
    assert plain.summary == same.summary
    assert trained(clip_max_norm=None).summary == trained(clip_max_norm=1e9).summary
    assert trained(stop_after_epochs=np.int64(1), max_num_epochs=np.int64(1)).summary == plain.summary


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Simformer(mvf_estimator="transformer"), r"Simformer: sbi's mvf_estimator .* network=NetworkConfig"),
        (lambda: FlowMatchingSimformer(prior=object()), "FlowMatchingSimformer: sbi's prior .* carry the prior"),
        (lambda: Simformer(summary_writer=object()), r"sbi's summary_writer .* train\(callback="),
        (lambda: Simformer(hidden=3), r"Simformer: no argument 'hidden'; expected some of \['sde_type', .*'network'"),
        (lambda: Simformer([0], [1]), r"sde_type: expected one of .*, got \[0\]; indexes are keyword arguments"),  # type: ignore[arg-type]
        (lambda: Simformer(seed=None), "Simformer: expected an integer seed >= 0, got None"),  # type: ignore[arg-type]
        (lambda: Simformer().append_simulations(torch.zeros(9, 2), torch.zeros(9, 3)), r"stack theta and x as \(N, "),  # type: ignore[arg-type]
        (lambda: Simformer().append_simulations(torch.zeros(9, 2), exclude_invalid_x=True), "a NaN is no token"),
        (lambda: trained(max_num_epochs=1.5), "train: expected an integer max_num_epochs >= 1, got 1.5"),
        (lambda: trained(training_batch_size=True), "expected an integer training_batch_size"),
        (lambda: trained(learning_rate="fast"), "expected a number learning_rate > 0, got 'fast'"),
        (lambda: trained(resume_training=True), "train: sbi's resume_training .* larger max_num_epochs"),
        (lambda: trained(epochs=3), r"train: no argument 'epochs'; expected some of .*'max_num_epochs'"),
        (lambda: P.sample(5, x=X), r"sample_shape: expected a tuple such as \(1000,\), got 5"),  # type: ignore[arg-type]
        (lambda: P.sample((2.0,), x=X), "sample_shape: expected an integer entry >= 0, got 2.0"),  # type: ignore[arg-type]
        (lambda: P.sample((2,), x=X, seed=1.0), "sample: expected an integer seed >= 0, got 1.0"),  # type: ignore[arg-type]
        (lambda: FlowMatchingSimformer(sde_type="ve"), "sbi's sde_type has no place here; leave it out: flow"),
        (lambda: P.sample((2,), x=X, steps=50), r"sample: sbi's steps .* build_conditional\(…, sample_with="),
        (lambda: P.sample_batched((2,), [X], reject_outside_prior=True), "sample_batched: reject_outside_prior"),
        (lambda: P.log_prob([[0.0]], x=X, ode_kwargs={}), "log_prob: sbi's ode_kwargs .* n_steps="),
        (lambda: P.log_prob([[0.0]], x=X, n_steps=2.5), "expected an integer n_steps >= 1, got 2.5"),  # type: ignore[arg-type]
        (lambda: Simformer().build_conditional([0, 1], None, "best"), "mvf_estimator: expected an Est.* got str"),  # type: ignore[arg-type]
        (lambda: Simformer().build_conditional([0, 1], None, JOINT.estimator, prior=object()), "sbi's prior"),
    ],
)  # fmt: skip
def test_the_rest_is_refused_with_what_to_do_instead(call: Callable[[], object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_what_sbi_takes_by_default_passes() -> None:
    Simformer(mvf_estimator="simformer", prior=None)
    FlowMatchingSimformer(mvf_estimator="simformer")
    with pytest.raises(TypeError, match="sbi's mvf_estimator has no place here"):
        Simformer(mvf_estimator="maf")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: trained(training_batch_size=0), "train: expected training_batch_size >= 1, got 0"),
        (lambda: trained(learning_rate=float("nan")), "train: expected learning_rate > 0, got nan"),
        (lambda: trained(clip_max_norm=0), "train: expected clip_max_norm > 0, got 0"),
        (lambda: P.sample((-1,), x=X), "sample_shape: expected entry >= 0, got -1"),
        (lambda: P.sample((2,), x=X, seed=2**32), "seed: expected integers from 0"),
        (lambda: Simformer(seed=-1), "Simformer: expected seed >= 0, got -1"),
    ],
)
def test_numbers_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("potential", "log_prob"),
        ("to", "Simformer(device=…)"),
        ("prior", "build_posterior(prior=…)"),
        ("posterior_estimator", "train()"),
    ],
)
def test_what_a_posterior_of_sbi_has_besides_is_refused_with_what_to_do_instead(name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match="has no place here") as error:
        getattr(P, name)
    assert instead in str(error.value) and not hasattr(P, name)


def test_sbis_other_methods_are_not_here_and_what_is_is_said() -> None:
    with pytest.raises(ImportError, match=r"no NPE, it has Simformer and FlowMatchingSimformer: one network for post"):
        from fsimformer.sbi import NPE  # noqa: F401
    assert not hasattr(sbi, "nothing")


def test_simulations_in_two_tensors_or_none_are_refused_with_the_way_to_hand_them_in() -> None:
    rows = JOINT.simulate(5)
    with pytest.raises(TypeError, match="theta has no place here.*torch.cat"):
        Simformer().append_simulations(theta=rows[:, 0], x=rows[:, 1])
    with pytest.raises(TypeError, match="expected a tensor or an array of real numbers, got NoneType"):
        Simformer().append_simulations()


def test_conditionals_and_estimators_say_what_they_are_of() -> None:
    assert repr(P) == "FlatConditional(p(variables [0] | variables [1]), features=1)"
    assert repr(JOINT.estimator).startswith("Estimator(2 variables × 1 features, ")


def test_a_default_observation_may_be_set_as_an_attribute() -> None:
    p = Simformer().build_conditional([False, True], None, JOINT.estimator)
    p.default_x = X
    assert torch.equal(p.sample((3,), seed=0), P.sample((3,), x=X, seed=0))


def test_what_nobody_has_is_an_attribute_error_as_anywhere() -> None:
    with pytest.raises(AttributeError, match="'FlatConditional' object has no attribute 'smaple'") as error:
        P.smaple  # noqa: B018
    assert "sbi" not in str(error.value) and copy.copy(P).sample((2,), x=X).shape == (2, 1)


def test_the_draw_of_highest_density_takes_the_place_of_map() -> None:
    with pytest.raises(NotImplementedError, match=r"map: .* draw of highest density: .*argmax"):
        P.map(x=X)
    draws = P.sample((1000,), x=X, seed=0)
    mode = draws[P.log_prob(draws, x=X).argmax()]
    exact = JOINT.exact([False, True], torch.tensor(X))
    assert float((mode - exact.mean).abs()) < 0.1 * float(exact.stddev)


def test_a_training_that_stops_early_cools_down() -> None:
    """The rate is constant until patience ends, 0 at the end, and the end is 3/7 of what was trained by then later."""
    epochs, epoch = 500, 3
    config = config_for(60, 10, 2, batch_size=20, learning_rate=1e-2, clip=5.0, patience=2, epochs=epochs, seed=0)
    for turn in (None, 150 * epoch):
        start = config.turn if turn is None else turn
        rates = [config.rate_at(step, turn) for step in range(config.end(turn) + 1)]
        assert rates[start] == 1 == min(rates[config.warmup : start + 1]) and rates[-1] == 0
        assert abs((len(rates) - 1 - start) / (len(rates) - 1) - 0.3) < 0.01
    inference = Simformer(network=TINY).append_simulations(
        torch.randn(70, 2, generator=torch.Generator().manual_seed(0))
    )
    steps: list[int] = []
    with pytest.warns(
        UserWarning, match=r"train: after \d+ steps the held-out loss is 1\.\d+, and 1\.000 is what"
    ) as caught:
        inference.train(
            20, 1e-2, 1 / 7, stop_after_epochs=2, max_num_epochs=epochs, callback=lambda p: steps.append(p.step)
        )
    assert caught[0].filename == __file__  # what is independent teaches nothing, and stopped this early nothing would
    losses = inference.summary["validation_loss"]
    turn = next(i for i in range(2, len(losses)) if min(losses[i - 1 : i + 1]) >= min(losses[: i - 1])) + 1
    assert len(steps) == config.end(turn * epoch) < epochs * epoch
    assert turn * epoch >= config.warmup and config.rate_at(len(steps), turn * epoch) == 0


@pytest.mark.parametrize("schedule", ["trig", "vp", "rectified"])
def test_the_loss_of_who_knows_nothing_is_that_of_a_network_that_says_nothing(schedule: str) -> None:
    """Of independent standard normals, whose best estimate is the one that an untrained network leaves as it is."""
    n, levels, g = 20_000, NoiseLevels(), torch.Generator().manual_seed(0)
    rows = torch.randn(n, 2, 1, generator=g)
    batch = Columns.fit(rows).batch(rows, torch.zeros(n, 2, dtype=torch.bool), None)
    silent = Denoiser(Network(replace(TINY, uses_index=((), ()))), schedule)
    epsilon = torch.randn(n, 1, 2, generator=g)
    with torch.no_grad():
        loss = silent.loss(split(batch, None), levels.draw((n, 1), g), epsilon)
    assert abs(float(loss) / loss_of_nothing(schedule, levels) - 1) < 0.03


@pytest.mark.parametrize(
    ("n", "epochs", "patience"), [(45, 5_000, 600), (900, 1_250, 150), (9_000, 200, 40), (90_000, 45, 7)]
)
def test_few_simulations_are_trained_for_as_many_steps_as_they_need(n: int, epochs: int, patience: int) -> None:
    config = config_for(n, n // 9, 2, batch_size=200, learning_rate=1e-2, clip=5.0, patience=None, epochs=None, seed=0)
    epoch = max(1, n // 200)
    assert (config.steps, config.validate_every, config.patience) == (epochs * epoch, epoch, patience)
    assert 5_000 <= config.steps <= 20_000 + epoch and 600 <= patience * epoch <= 3_000 + epoch
