"""The generated tables compare like with like."""

from __future__ import annotations

from pathlib import Path

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
