"""Rebuilds a model that ships: `python benchmarks/train_shipped.py lotka_volterra`. The seed and the budget stand here.

Several trainings a model, each from the weights of the one before (`runs/NAME_1_model`, ..., kept between calls and
checked against the recipe). One process, one thread a model; a killed run resumes from its checkpoint. CPU seconds are
in the model's card.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import fsimformer as fsf
from fsimformer.denoise import NoiseLevels
from fsimformer.masks import MaskConfig
from fsimformer.nn import NetworkConfig
from fsimformer.priors import LogNormal, LogUniform
from fsimformer.readings import Design
from fsimformer.seeds import generator_at
from fsimformer.simulations import default_design
from fsimformer.simulators import SIRD, Epidemic, HareLynx, HodgkinHuxley, Influenza, LotkaVolterra, Simulator
from fsimformer.train import Progress, TrainConfig
from fsimformer.trials import design_of, fresh
from fsimformer.unusual import typical_of

ROOT = Path(__file__).resolve().parents[1]
N_TYPICAL, SEED_TYPICAL = 1_024, 20_261_126

# A fifth of a million weights: on two shared cores more steps of a smaller network beat fewer of a larger one.
NETWORK = NetworkConfig(width=64, depth=5, n_heads=4)


@dataclass(frozen=True)
class Recipe:
    """One training; later ones go on from it, as a rule at lower rates and on noise levels near the posteriors."""

    simulator: Simulator
    simulations: int
    config: TrainConfig
    masks: MaskConfig
    levels: NoiseLevels
    design: Design | None = None


def first(simulator: Simulator, simulations: int, steps: int) -> Recipe:
    dial = ((0, 0.4), (8, 0.4), (32, 0.1), (None, 0.1))
    config = TrainConfig(steps=steps, batch_size=64, n_micro=4, pool=4, seed=1, dial=dial)
    return Recipe(simulator, simulations, config, MaskConfig(), NoiseLevels())


def later(
    simulator: Simulator, simulations: int, steps: int, masks: MaskConfig, levels: NoiseLevels, rate: float = 0.5
) -> Recipe:
    """`rate`: share of the first training's learning rates at the peak."""
    config = TrainConfig(
        steps=steps, batch_size=64, n_micro=4, pool=4, seed=1, dial=(("few", 1.0),), learning_rate=2e-3 * rate,
        matrix_rate=5e-3 * rate, validate_every=1000,
    )  # fmt: skip
    return Recipe(simulator, simulations, config, masks, levels)


def whole(
    simulator: Simulator,
    simulations: int,
    steps: int,
    levels: NoiseLevels,
    masks: MaskConfig | None = None,
    design: Design | None = None,
    pool: int = 4,
) -> Recipe:
    """All in one: constant rates, and a cool-down in which the network is told its linear baseline."""
    config = TrainConfig(steps=steps, batch_size=64, n_micro=4, pool=pool, level_tokens=64, cooldown=0.4, seed=1)
    return Recipe(simulator, simulations, config, masks or MaskConfig(), levels, design)


# Posteriors are what these models are asked for most; the readings of an epidemic need finer noise levels.
MORE_POSTERIORS = MaskConfig(0.5, 0.16, 0.1, 0.06, 0.05, 0.05, 0.06, 0.02)
FORECASTS = MaskConfig(0.32, 0.2, 0.2, 0.06, 0.03, 0.04, 0.05, 0.02, 0.1)
NEAR, WIDE = NoiseLevels(-1.5, 1.4), NoiseLevels(-1.9, 1.7)

# Counties and nations alike; sixteen weeks, of which the last four may be forecast from daily counts of the others.
EPIDEMIC = Epidemic(
    population=LogUniform(3e4, 3e8),
    incubation_period=LogNormal(math.log(4), 0.4),
    death_delay=LogNormal(math.log(12), 0.4),
)

RECIPES: dict[str, tuple[Recipe, ...]] = {
    "lotka_volterra": (whole(LotkaVolterra(), 100_000, 16_000, WIDE, MORE_POSTERIORS),),
    "hare_lynx": (
        first(HareLynx(fewest=1e-300, most=1e300), 150_000, 13_000),
        later(HareLynx(), 150_000, 15_000, MORE_POSTERIORS, NEAR),
        later(HareLynx(), 150_000, 9_000, MORE_POSTERIORS, NEAR, rate=0.3),
    ),
    "influenza": (whole(Influenza(), 100_000, 8_000, WIDE, MORE_POSTERIORS),),
    "hodgkin_huxley": (
        whole(HodgkinHuxley(), 100_000, 9_000, NoiseLevels()),
        # at full rates: the loss fell as fast as ever when the first cooled down
        whole(HodgkinHuxley(), 100_000, 14_000, NoiseLevels(), MORE_POSTERIORS),
    ),
    "sird": (whole(SIRD(), 150_000, 16_000, WIDE),),
    "epidemic": (whole(EPIDEMIC, 150_000, 7_500, WIDE, FORECASTS, default_design(EPIDEMIC.schema, 112, 24), 16),),
}


def require_recipe(card: dict[str, Any], recipe: Recipe, path: Path) -> None:
    """The model that stands there was trained as the recipe says."""
    settings = {"train": recipe.config, "masks": recipe.masks, "levels": recipe.levels}
    wanted = {k: json.loads(json.dumps(asdict(v))) for k, v in settings.items()}
    wanted["simulations"] = recipe.simulations
    if wrong := [k for k, v in wanted.items() if card[k] != v]:
        raise SystemExit(f"{path} was trained with another {wrong} than the recipe says; move it away.")


def with_typical(joint: fsf.Joint, simulator: Simulator) -> fsf.Joint:
    """The same network with a new table of what simulations look like to it, from simulations no training saw."""
    data = fresh(joint.model, simulator, N_TYPICAL, SEED_TYPICAL, purpose=3)
    every, design = torch.arange(N_TYPICAL), design_of(joint.model)
    table = typical_of(joint.model, data.store, every, design, generator_at(SEED_TYPICAL, 14))
    return fsf.Joint(replace(joint.model, typical=table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, default=ROOT / "fsimformer" / "models")
    parser.add_argument("--device", default="cpu", help="where the network trains, e.g. cuda")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="checkpoints and logs")
    parser.add_argument("--typical", action="store_true", help="no training: give the model that is there a new table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.typical:
        whole = with_typical(fsf.load(args.out / args.model), RECIPES[args.model][-1].simulator)
        whole.save(args.out / args.model)
        return
    recent: list[float] = []
    started = time.time()

    def report(p: Progress) -> None:
        recent.append(p.loss)
        if p.step % 100 == 0 or p.validation is not None:
            line = f"{p.step} {sum(recent) / len(recent):.4f} {p.validation} {time.time() - started:.0f}s"
            print(line, file=sys.stderr, flush=True)
            recent.clear()

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    joint = None
    last = len(RECIPES[args.model])
    for number, recipe in enumerate(RECIPES[args.model], start=1):
        name = f"{args.model}_{number}"
        saved = args.runs / f"{name}_model"
        if number < last and saved.exists():
            joint = fsf.load(saved)
            require_recipe(joint.provenance, recipe, saved)
            continue
        joint = fsf.train(
            recipe.simulator,
            simulations=recipe.simulations,
            config=recipe.config,
            masks=recipe.masks,
            levels=recipe.levels,
            design=recipe.design,
            network=NETWORK,
            n_active_observed="few",
            initial=joint,
            device=args.device,
            checkpoint=args.runs / f"{name}.safetensors",
            callback=report,
            provenance={"script": "benchmarks/train_shipped.py", "commit": commit},
        )
        if number < last:
            joint.save(saved)
    assert joint is not None
    joint.save(args.out / args.model)


if __name__ == "__main__":
    main()
