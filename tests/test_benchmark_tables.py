"""The generated tables compare like with like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_tokens import USES, gaussian_rows
from tiny import network, seeded

from fsimformer.denoise import Denoiser
from fsimformer.tokens import split

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_choice_is_compared_with_the_default_of_its_own_seed_observation_by_observation(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_ablation import ablation

    def record(variant, seed, each):
        scores = {"mean": sum(each) / len(each), "floor": 0.5, "each": each}
        cell = {"task": "slcp", "simulations": 10_000, "variant": variant, "steps": 1_500, "train_cpu_seconds": 9.6}
        return {"seed": seed, "results": cell | {"c2st_rf": scores}}

    text = "\n".join(ablation([
        record("flow", 0, [0.7, 0.8, 0.6]), record("default", 1, [0.9, 0.9, 0.9]), record("flow", 2, [0.7, 0.8, 0.9]),
        record("default", 0, [0.6, 0.7, 0.8]),
    ]))  # fmt: skip
    assert "| slcp | 10000 | default | 0 | 0.700 |  |  | 0.500 | 10 |" in text
    assert "| slcp | 10000 | flow | 0 | 0.700 | +0.000 | 0.100 | 0.500 | 10 |" in text  # .1, .1 and −.2: se .1
    assert "| slcp | 10000 | flow | 2 | 0.800 |  |  | 0.500 | 10 |" in text  # no default of seed 2


def test_an_ensemble_is_compared_with_its_members_mean_and_costs_what_all_cost(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_ablation import ensemble

    def scored(*each):
        return {"c2st_rf": {"mean": sum(each) / len(each), "floor": 0.5, "each": list(each)}}

    results = {
        "task": "slcp", "simulations": 1_000, "train_cpu_seconds": 20.2,
        "members": [scored(0.6, 0.8), scored(0.8, 0.8)], "mixture": scored(0.6, 0.6), "mean_denoiser": scored(0.6, 0.9),
    }  # fmt: skip
    text = "\n".join(ensemble([{"seed": 3, "results": results}]))
    assert "| slcp | 1000 | 3 | one member, mean of 2 | 0.750 |  |  | 0.500 | 10 |" in text  # each .7 and .8
    assert "| slcp | 1000 | 3 | draws of all | 0.600 | -0.150 | 0.050 | 0.500 | 20 |" in text
    assert "| slcp | 1000 | 3 | mean of their denoisers | 0.750 | +0.000 | 0.100 | 0.500 | 20 |" in text


def test_the_suites_row_is_over_all_seeds_of_the_configuration_of_each_budget(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_sbibm import sbibm

    def cell(budget, variant, mean, **more):
        scored = {"c2st_rf": {"mean": mean, "floor": 0.5}}
        of = {"task": "tree", "simulations": budget, "variant": variant, "train_cpu_seconds": 10.0, "evaluations": 32}
        return of | {"sampler": "sde_3m", "conditionals": scored} | more

    text = "\n".join(sbibm([
        cell(1_000, "default", 0.6), cell(1_000, "default", 0.7, kept="end"), cell(1_000, "patient", 0.9, kept="end"),
        cell(100_000, "default", 0.8, kept="end"), cell(100_000, "patient", 0.52, kept="lowest", sampler="sde"),
    ]))  # fmt: skip
    assert text.count("| ours | RF |") == 1
    assert "| ours | RF | 0.650 ± 0.071 (2) |  | 0.520 (1) | 0.500 | 10 / – / 10 |" in text
    assert "| ours, default | RF | 0.700 (1) |  | 0.800 (1) | 0.500 | 10 / – / 10 |" in text
    assert "| ours, default, lowest loss | RF | 0.600 (1) |  |  |" in text
    assert "| ours, patient, second-order SDE | RF |  |  | 0.520 (1) |" in text


def test_the_scoreboard_has_every_goal_beside_the_suites_mean_and_says_whether_it_is_met(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_scoreboard import in_brief, questions, scoreboard

    def cell(budget, variant, mean, seconds=10.0, floor=0.5, **how):
        scored = {"c2st_rf": {"mean": mean, "floor": floor, "standard_error": 0.02}}
        of = {"task": "two_moons", "simulations": budget, "variant": variant, "train_cpu_seconds": seconds}
        today = {"sampler": "sde_3m", "evaluations": 32, "kept": "end"}
        return of | today | {"posterior": scored, "conditionals": scored} | how

    lotka_volterra = {
        "simulations": 10_000, "c2st_rf": 0.64, "c2st_standard_error": 0.03, "floor": 0.49, "train_cpu_seconds": 2_500.0
    }  # fmt: skip
    asked = questions(
        [cell(1_000, "default", 0.55), cell(1_000, "default", 0.59, 20.0), cell(10_000, "default", 0.5104),
         cell(1_000, "patient", 0.9), cell(100_000, "default", 0.9), cell(100_000, "patient", 0.506, floor=0.503),
         cell(1_000, "default", 0.7, task="slcp", sampler="sde"), cell(1_000, "default", 0.8, task="slcp"),
         cell(100_000, "default", 0.6, task="slcp")],
        [lotka_volterra, lotka_volterra | {"variant": "patient", "c2st_rf": 0.5},
         lotka_volterra | {"simulations": 100_000, "variant": "patient", "c2st_rf": 0.65},
         lotka_volterra | {"simulations": 1_000, "c2st_rf": 0.7}],
    )  # fmt: skip
    text = "\n".join(scoreboard(asked))
    row = "0.611 | 0.570 | 0.570 ± 0.028 (2) | 0.020 | 0.500 | -0.041 | no | 15 |"
    assert f"| posterior | two_moons | 1,000 | 0.560 | {row}" in text
    row = "0.525 | 0.513 | 0.510 (1) | 0.020 | 0.500 | -0.015 | yes | 10 |"
    assert f"| posterior | two_moons | 10,000 | 0.510 | {row}" in text
    row = "0.505 | 0.502 | 0.506 (1) | 0.020 | 0.503 | +0.001 | no, below the floor | 10 |"
    assert f"| posterior | two_moons | 100,000 | 0.500 | {row}" in text
    row = "0.601 |  | 0.570 ± 0.028 (2) | 0.020 | 0.500 | -0.031 |  | 15 |"
    assert f"| conditionals | two_moons | 1,000 |  | {row}" in text  # no goal
    assert "| 0.924 | 0.750 ± 0.071 (2) †; 0.800 (1) | 0.020 |" in text  # .7 by an earlier sampler, .8 by today's
    assert "| 0.554 | 0.630 |  |  |  |" in text  # a shorter run than the suite's is none of it
    assert "| posterior | bernoulli_glm | 1,000 |  |  |  |  |  |  |  |  |  |" in text
    row = "0.645 |  | 0.640 (1) | 0.030 | 0.490 | -0.005 | no | 2500 |"
    assert f"| posterior | lotka_volterra | 10,000 | 0.570 | {row}" in text
    assert text.count("two_moons") == 6
    brief = "\n".join(in_brief(asked))
    assert "| posterior, `two_moons` | 0.570 / 0.510 / 0.506 | 2 / 1 / 1 | 0.611 / 0.525 / 0.505 |" in brief
    assert "| posterior, `slcp` | 0.750 † / – / – | 2 / 0 / 0 | 0.831 / 0.638 / 0.554 |" in brief
    assert "| posterior, `lotka_volterra` | 0.700 / 0.640 / 0.650 | 1 / 1 / 1 | 0.911 / 0.645 / 0.568 |" in brief


def test_networks_asked_as_the_published_ones_were_stand_beside_what_they_have_by_the_suites_protocol(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_scoreboard import published_protocol

    of = {"task": "slcp", "simulations": 10_000, "variant": "default", "floor": 0.49}
    scored = {"mean": 0.61, "standard_error": 0.02}
    both = {"whole": scored, "slices": {"mean": 0.6}}
    records = [
        {"name": "b", "seed": 2, "results": of | {"kind": "posterior", "n": 10_000} | both},
        {"name": "a", "seed": 2, "results": of | {"kind": "conditionals", "n": 1_000} | scored},
    ]
    suite = {"conditionals": {"c2st_rf": {"mean": 0.64}}, "posterior": {"c2st_rf": {"mean": 0.59}}}
    cells = [{"seed": 2, "results": of | suite}, {"seed": 1, "results": of | {"conditionals": {}}}]
    text = "\n".join(published_protocol(records, cells))
    conditionals = "| conditionals | slcp | 10,000 | 2 | 0.640 |  | published masks | 0.610 | 0.020 | 0.490 | 0.598 |"
    assert f"{conditionals}\n| posterior | slcp | 10,000 | 2 | 0.590 | 0.600 | n = 10,000 | 0.610 |" in text


def test_sequential_training_stands_beside_one_network_for_all_on_the_same_observations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_sequential import sequential

    row = {"method": "fsimformer", "observation": 2, "total": 1_000, "c2st_rf": 0.8, "cpu_seconds": 50.0, "share": 1.0}
    record = {"task": "slcp", "n": 1_000, "floor": {"2": 0.49}, "rows": [row]}
    cell = {"task": "slcp", "simulations": 1_000, "variant": "default", "train_cpu_seconds": 300.0}
    cells = [cell | {"posterior": {"c2st_rf": {"each": [0.5, each]}}} for each in (0.7, 0.72)]
    text = "\n".join(sequential([record], cells))
    assert "| ours | 1 | RF C2ST | 0.800 |" in text
    assert "on number 2: 1,000 simulations 0.710 ± 0.014 (2), 300 CPU s." in text


def test_the_tables_in_the_repository_are_those_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import tables

    assert tables.OUT.read_text() == tables.sections()
    assert tables.README.read_text() == tables.readme(tables.README.read_text())


def test_conditionals_are_told_apart_by_how_sharp_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_sbibm import sharpness

    def cell(task, variant, each):
        return {"task": task, "simulations": 1_000, "variant": variant, "conditionals": {"c2st_rf": {"each": each}}}

    today = {"sampler": "sde_3m", "evaluations": 32, "kept": "end"}
    cells = [
        cell("slcp", "long", [0.9, 0.7, 0.6]) | today, cell("slcp", "long", [0.7, 0.7, 0.6]) | today,
        cell("slcp", "long", [0.8] * 3), cell("tree", "default", [0.5] * 3), {"task": "slcp"},
    ]  # fmt: skip
    text = "\n".join(sharpness({"tasks": {"slcp": [0.001, 0.02, 0.03]}}, cells))
    assert "| slcp |  | how many |  | 1 | 1 | 1 |  |  |" in text
    assert "| slcp | 1000 | long | 2 | 0.800 | 0.700 | 0.600 |  |  |" in text
    assert "| slcp | 1000 | long, lowest loss, ODE draws | 1 | 0.800 | 0.800 | 0.800 |  |  |" in text
    assert "tree" not in text


def test_ends_of_runs_are_told_with_their_seed_and_what_was_kept(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_sbibm import last_weights

    results = {
        "task": "tree", "simulations": 1_000, "variant": "default", "n": 64, "n_blocks": 2, "lowest": 0.8,
        "lowest_step": 20, "end_step": 40, "end_minus_lowest": {"ema": -0.002, "model": 0.001},
        "standard_error": {"ema": 0.0005, "model": 0.0003}, "kept": "end",
    }  # fmt: skip
    text = "\n".join(last_weights([{"name": "last_weights/tree", "seed": 3, "results": results}]))
    row = "| tree | 1000 | default | 3 | 20 / 40 | 0.8000 | -0.0020 ± 0.0005 | +0.0010 ± 0.0003 | end |"
    assert row in text and "± standard error over 2 blocks" in text


def test_the_mean_of_equal_denoisers_is_the_denoiser_and_a_mixture_has_as_much_of_each(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    pytest.importorskip("sklearn")
    from ensemble import MeanDenoiser, N, mixed

    rows = gaussian_rows(6, seeded())
    streams = split(rows.replace(condition_mask=rows.variable == 2), None)
    one = Denoiser(network(USES, seed=1, gain=0.5))
    both = MeanDenoiser([one, one])
    y, ratio = torch.randn(6, 5, streams.active.shape[1], generator=seeded()), torch.full((6, 1), 0.3)
    with torch.no_grad():
        torch.testing.assert_close(
            both.at_ratio(y, ratio, both.encode(streams)), one.at_ratio(y, ratio, one.encode(streams))
        )
    reference = np.zeros((N, 1))
    each = [[(reference, reference, np.full((N, 1), k))] for k in (1.0, 2.0)]
    ((_, _, draws),) = mixed(each)
    assert draws.shape == (N, 1) and (draws == 1).sum() == (draws == 2).sum() == N / 2


def test_the_sharpness_of_a_gaussian_conditional_is_its_smallest_principal_sd(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import sharpness as script

    rng = np.random.default_rng(0)
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    draws = (rng.standard_normal((1_000, 2)) * [0.05, 1.0]) @ turn.T * [2.0, 5.0]  # of ids with sds 2 and 5
    monkeypatch.setattr(script, "reference", lambda task, problem, n, seed: draws)
    observed = np.array([False, True, False])
    problem = script.Problem(observed, np.zeros(3))
    assert script.sharpness("slcp", problem, np.array([2.0, 9.0, 5.0]), 0) == pytest.approx(0.05, rel=0.1)


def test_tables_of_functions_put_the_floor_and_what_is_published_beside(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_resolution import functional_linear, predator_prey

    figures = {"sliced_wasserstein": 0.0125, "mean_error_sd": 0.05, "variance_ratio": 1.01}
    row = figures | {f"{k}_floor": v / 2 for k, v in figures.items()}
    row |= {"sliced_wasserstein_prior": 0.9, "cpu_seconds": 400.2}
    record = {"n": 1_000, "n_points": 1_000, "peer": "None.", "steps": 5, "train_cpu_seconds": 9.6, "rows": [row]}
    text = "\n".join(functional_linear([record | {"simulations": n} for n in (10_000, 1_000)]))
    rest = "0.0125 (0.0063) | 0.0500 (0.0250) | 1.0100 (0.5050) | 0.900 | 400 | 5 | 10 |"
    assert text.index(f"| 1000 | 1 | {rest}") < text.index(f"| 10000 | 1 | {rest}")
    assert text.count("None.") == 1

    row = {"task": "forecasting", "log_density": -2.346, "standard_error": 0.06, "published": -2.38}
    row |= {"attention": -2.98, "targets": 190.4, "cpu_seconds": 99.6}
    record = {"simulations": 9, "steps": 5, "train_cpu_seconds": 9.6, "n": 3, "block": 16, "n_ode": 24, "rows": [row]}
    text = "\n".join(predator_prey([record | {"estimator": [{"largest": 0.002}, {"largest": 0.021}]}]))
    assert "| forecasting | -2.35 ± 0.06 | -2.38 | -2.98 | 190 | 100 |" in text
    assert "off by 0.0210 nats a target at most" in text


def test_few_evaluations_stand_beside_their_floors(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from tables_distill import distill

    row = {"sampler": "flow map, 2", "evaluations": 2, "c2st_rf": 0.6, "standard_error": 0.01, "c2st_rf_teacher": 0.51}
    record = {"task": "slcp", "simulations": 9, "n": 4, "n_observations": 3, "floor": 0.5, "floor_teacher": 0.49}
    record |= {"steps": 7, "distill_cpu_seconds": 12.3, "train_cpu_seconds": 45.6, "variance_error_floor": 0.05}
    text = "\n".join(distill([record | {"rows": [row | {"variance_error": 0.02, "cpu_seconds": 0.1}]}]))
    assert "floors 0.500 and 0.490, of the variance error 0.050" in text
    assert "Trained for 46 CPU s, distilled in 7 steps, 12 CPU s." in text
    assert "| flow map, 2 | 2 | 0.600 | 0.010 | 0.510 | 0.020 | 0.100 |" in text
