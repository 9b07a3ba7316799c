"""Trials read and draw as training and sampling do; their truths are those of the simulator."""

from __future__ import annotations

import linear
import numpy as np
import pytest
import torch
from gp_network import KERNEL, SCHEMA, SD, exact_joint

import fsimformer as fsf
from fsimformer.kernels import Kernel
from fsimformer.noise import SmoothNoise
from fsimformer.sample import quality_named
from fsimformer.sbc import ranks
from fsimformer.schema import Index
from fsimformer.simulators import SIRD, FunctionSimulator
from fsimformer.stages import Budget
from fsimformer.trials import Plan, Trials, design_of, fresh, run_trials
from fsimformer.uniformity import rank_test

TIMES = np.linspace(0.0, 10.0, 9)


def trials(n: int, seed: int = 0, n_draws: int = 20) -> Trials:
    joint = linear.joint()
    plan = Plan({"f": TIMES}, n_draws, 10, quality_named("fast"), seed)
    return run_trials(joint.model, fresh(joint.model, linear.SIMULATOR, n, seed), plan)


def test_truths_are_those_of_the_simulator() -> None:
    """a is g_0 and f its path, also where the grid of trials and that of the simulator differ."""
    joint = linear.joint()
    data = fresh(joint.model, linear.SIMULATOR, 4, 3)
    plan = Plan({"f": np.array([0.51, 3.33, 9.41])}, 2, 2, quality_named("fast"), 3)
    found = run_trials(joint.model, data, plan)
    np.testing.assert_allclose(found.truth["a"], data.values["a"].numpy(), rtol=1e-6)
    g = torch.linalg.lstsq(linear.loading(linear.GRID), data.values["f"].T).solution
    expected = linear.loading(torch.tensor([0.51, 3.33, 9.41]).double()) @ g
    np.testing.assert_allclose(found.truth["f"], expected.T, atol=2e-4)


def test_shapes_and_what_is_held_out() -> None:
    found = trials(6)
    assert found.draws["a"].shape == (6, 20) and found.draws["f"].shape == (6, 20, 9)
    assert found.log_density.shape == (6, 11) and np.isfinite(found.log_density).all()
    assert found.skipped == () and len(found.n_readings) == 6
    for y, predicted in found.held_out["x"]:
        assert predicted.shape == (20, len(y)) and 1 <= len(y) <= 6
    with_some = (found.n_readings - 1 >= 2).sum()  # one of them is y
    assert len(found.held_out["x"]) == with_some


def test_data_sets_are_those_of_the_seed_and_of_no_training() -> None:
    joint = linear.joint()
    a, b, c = (fresh(joint.model, linear.SIMULATOR, 3, seed).values["a"] for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    other = fresh(joint.model, linear.SIMULATOR, 3, 0, purpose=1).values["a"]
    assert not torch.equal(a, other)


def test_design_is_that_of_the_card() -> None:
    design = design_of(linear.joint(n_max=(4, 12)).model)
    assert design.n_max == (4, 12) and design.skew == 1.0 and design.reference == 0.0
    n = fresh(linear.joint().model, linear.SIMULATOR, 200, 0).data
    counts = np.array([len(row) - 1 for row in n])
    assert counts.min() == 0 and counts.max() == 12


def test_a_simulator_of_other_variables_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected one with the model's schema; variables \['a', "):
        fresh(linear.joint().model, SIRD(), 3, 0)


@pytest.mark.parametrize("wrong", ["sird", SIRD, None, lambda n, generator: {}])
def test_what_is_no_simulator_is_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"simulator: expected the one that the model was trained on, such as .*; got"):
        fresh(linear.joint().model, wrong, 3, 0)  # type: ignore[arg-type]


def test_functions_by_reference_set_and_series_by_their_paths() -> None:
    """The exact Gaussian process: draws through knots, density at the knots, readings predicted with fresh noise."""
    noise = SmoothNoise(Kernel(KERNEL.smoothness, KERNEL.lengthscale), 256)
    grid = torch.linspace(0, 10, 201, dtype=torch.float64)

    def simulate(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"x": SD * noise.evaluate(noise.coefficients(n, generator), (grid / 5 - 1)[:, None]).double()}

    joint, simulator = exact_joint(), FunctionSimulator(SCHEMA, simulate, {"time": grid})
    assert isinstance(SCHEMA.dim("time"), Index)
    data, one = fresh(joint.model, simulator, 24, 0), []
    for i in range(24):  # its network wants rows of one structure
        row = type(data)(data.store, data.values, [data.data[i]])
        plan = Plan({"f": TIMES[1:-1]}, 20, 4, quality_named("fast"), i, Budget(max_tokens=1_000))
        one.append(run_trials(joint.model, row, plan))
    truth = np.concatenate([t.truth["f"][:1] for t in one])
    assert truth.shape == (24, 7) and (truth == truth[0]).all()  # each is row 0 of its own trial
    predicted = [(y, x) for t in one for y, x in t.held_out.get("x", ())]
    u = np.concatenate([ranks(y, x.T, 7) for y, x in predicted])
    assert len(u) > 40 and np.ptp(u) > 10
    residual = np.concatenate([(y - x.mean(0)) / x.std(0) for y, x in predicted])
    assert 0.7 < residual.std() < 1.4


@pytest.mark.slow
def test_ranks_of_the_exact_model_are_uniform() -> None:
    found = trials(60, n_draws=20)
    for truth, draws in ((found.truth["a"], found.draws["a"]), (found.log_density[:, 0], found.log_density[:, 1:])):
        assert rank_test(ranks(truth, draws), draws.shape[1]).p_value > 0.01


def test_data_sets_have_plausible_readings_alone_and_keep_their_truths() -> None:
    """As training, which never saw others; a collection of a model without plausible ranges is what it was."""
    joint = fsf.load("hare_lynx")
    data = fresh(joint.model, fsf.simulators.HareLynx(), 40, 1)
    assert len(data.data) == len(data.store) == 40 and all(len(x) == 40 for x in data.values.values())
    for row in data.data:
        for name in ("hare", "lynx"):
            (id,) = joint.schema.ids(name)
            z = row.value[row.variable == id].double()
            x = joint.model.whitening.inverse(name, z, torch.zeros(len(z), dtype=torch.long))
            lower, upper = joint.model.value_range[name]
            assert bool((x > 0.999 * lower).all()) and bool((x < 1.001 * upper).all())
    sd = torch.stack([data.values["hare_noise"], data.values["lynx_noise"]]).log().double()
    assert float(sd.mean()) < -1  # the prior's mean: loud simulations leave the range more often
