"""`distill`: a Joint that also draws in 1, 2 or 4 evaluations, its flow learned by a second network (flow_map.py).

The teacher is solved from noise to data, in 20 evaluations from one encoded context; the student learns the seven jumps
between the five levels that a draw may visit, each by regression on where the teacher went:

    L = E |F − F*|²,    F* that of g* = (y_μ − (μ/λ) y_λ)/(1 − μ/λ),

y_λ and y_μ of one trajectory, F the network's output as in denoise.py. What it regresses on is a function of what it
sees, so that the least loss is 0: no second network judges it and nothing is bootstrapped, as in consistency training.
What it cannot beat is its teacher, nor the teacher's solver (.02 of the variance, sample.py). Rows and masks are those
of training, so that every conditional stays available. A network that compresses long observations (summary.py) brings
its summaries along; they are trained on, and the Gaussian in them by its own likelihood, as in training.
"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsimformer.batches import Rows
from fsimformer.convert import is_parameter, is_residual
from fsimformer.denoise import Denoiser, Encoded, NoiseLevels
from fsimformer.devices import Group, require_device
from fsimformer.digest import digest
from fsimformer.flow_map import JUMPS, LOG_MAX, LOG_MIN, POWER, log_ratios
from fsimformer.joint import Joint
from fsimformer.learn import held_out_of
from fsimformer.masks import MaskConfig
from fsimformer.model_file import plain
from fsimformer.nn import Network
from fsimformer.noise import TrigSchedule
from fsimformer.provenance import run_card
from fsimformer.ranges import whitened_limits
from fsimformer.readings import Design, read
from fsimformer.sample import SamplerConfig, denoise_on_path
from fsimformer.seeds import generator_at
from fsimformer.simulations import Simulations, build_store, require_same_grid, simulate
from fsimformer.simulators.protocol import Simulator, check, natural_functions, plausible_ranges
from fsimformer.summary import Summariser, shortfall
from fsimformer.tokens import Streams, TokenBatch
from fsimformer.train import Progress, TrainConfig, fit

TEACHER = SamplerConfig("ab2", 5 * max(JUMPS), power=POWER, log_min=LOG_MIN, log_max=LOG_MAX)
DISTILLING = TrainConfig(
    steps=5_000, batch_size=64, learning_rate=1e-3, matrix_rate=2e-3, n_micro=2, pool=2, level_tokens=16, max_levels=4,
    n_validation=256,
)  # fmt: skip
"""A step costs 20 evaluations of the teacher and seven of the student for each of `max_levels` draws of a row."""


def jumps() -> list[tuple[int, int]]:
    """Pairs of levels between which is jumped, as places in `flow_map.log_ratios()`."""
    each = [range(0, max(JUMPS) + 1, max(JUMPS) // n) for n in JUMPS]
    return [pair for levels in each for pair in itertools.pairwise(levels)]


@torch.no_grad()
def trajectory(teacher: Denoiser, encoded: Encoded, epsilon: Tensor, solver: SamplerConfig = TEACHER) -> Tensor:
    """y at the levels of `flow_map.log_ratios()`, (levels, B, R, n_a), of the draws that start at ε (B, R, n_a).

    `solver`: with one evaluation a step, and steps that pass through these levels.
    """
    visited: list[Tensor] = []
    denoise = denoise_on_path(teacher, encoded)

    def watched(x: Tensor, t: Tensor) -> Tensor:
        visited.append(x / TrigSchedule().alpha(t).to(x))
        return denoise(x, t)

    visited.append(solver.run(watched, epsilon))  # its last state, after those that it evaluated
    return torch.stack(visited[:: solver.n_steps // max(JUMPS)])


def with_jumps(teacher: Denoiser) -> Denoiser:
    """A flow map as distilling starts from it: the teacher's own weights, and jumps that it ignores."""
    own, out = teacher.network, copy.deepcopy(teacher)
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from the global generator
        network = Network(own.config, own.n_outputs, jumps=True)
    network.load_state_dict(own.state_dict(), strict=False)  # all but the jumps, which are 0
    out.network, out.flow_map = network.to(teacher.device), None
    return out


class Student(nn.Module):
    """What `train.fit` trains (`noised.Learner`): a flow map; the teacher is no part of its weights."""

    def __init__(self, flow_map: Denoiser, teacher: Denoiser) -> None:
        super().__init__()
        self.flow_map, self._teacher = flow_map, (teacher,)
        self.baseline = None  # nothing is told late: the teacher has it already

    @property
    def network(self) -> Network:
        return self.flow_map.network

    @property
    def summariser(self) -> Summariser | None:
        return self.flow_map.summariser

    @property
    def schedule(self) -> object:
        return self.flow_map.schedule

    @property
    def device(self) -> torch.device:
        return self.flow_map.device

    @property
    def n_parameters(self) -> int:
        return self.flow_map.n_parameters

    def loss(
        self, streams: Streams, log_ratio: Tensor, epsilon: Tensor, told: bool = True, above: int | None = None
    ) -> Tensor:
        """L above, a mean over rows, draws and jumps; epsilon (B, R, n_a) starts R draws. No other level is needed."""
        (teacher,) = self._teacher
        with torch.no_grad():
            states = trajectory(teacher, teacher.encode(streams, above=above), epsilon)
        levels = log_ratios().to(epsilon)
        starts, ends = ([pair[k] for pair in jumps()] for k in (0, 1))
        y, y_end = (torch.cat(list(states[places]), 1) for places in (starts, ends))  # (B, jumps·R, n_a)
        b, r = epsilon.shape[:2]
        log_start, log_end = (levels[p].repeat_interleave(r).expand(b, -1) for p in (starts, ends))
        encoded, ratio = self.flow_map.encode(streams, above=above), log_start.exp()[..., None]
        left, norm = (log_end - log_start).exp()[..., None], (1 + ratio**2).rsqrt()
        g = (y_end - left * y) / (1 - left)
        active = encoded.active
        value = torch.where(active.condition_mask[:, None], active.value[:, None], y * norm)
        f = self.flow_map.raw(value, log_start, encoded, log_end)
        error = (f - (g - y * norm**2) / (ratio * norm)) ** 2
        latent = active.latent[:, None].to(error.dtype)
        loss = ((error * latent).sum(-1) / latent.sum(-1).clamp(min=1)).mean()
        if encoded.learned is not None and encoded.summary is not None:
            long = active.latent & (encoded.summary.count > 0)[:, None]
            loss = loss + shortfall(encoded.learned, active.value, long)
        return loss


def distill(
    joint: Joint,
    simulator: Simulator,
    *,
    simulations: int | Simulations = 20_000,
    config: TrainConfig = DISTILLING,
    masks: MaskConfig | None = None,
    design: Design | None = None,
    checkpoint: str | Path | None = None,
    callback: Callable[[Progress], None] | None = None,
    device: str = "cpu",
    group: Group | None = None,
) -> Joint:
    """A Joint with a flow map: quality="few" draws in 4 evaluations, SamplerConfig("flow_map", n) in 1, 2 or 4.

    All other qualities, densities and the values of functions between their knots are what they were.

    Args:
        joint: the teacher. simulator: what it was trained on; simulations give the rows to condition on.
        simulations: how many, or given ones; the last tenth is held out.
        config: as in training; `DISTILLING` by default. Its noise levels have no meaning here, and `level_tokens`,
            `max_levels` say how many draws of a row are followed.
        masks, design: which conditionals, and how many readings; by default those of training.
        checkpoint, callback, device, group: as in `train`.

    Raises:
        ValueError: a simulator of another schema; a Joint refined for one observation, or whose card does not say its
            masks or design; too few simulations; an unknown device.
        FloatingPointError: the loss is not finite.
    """
    started, group, model = time.process_time(), group or Group(), joint.model
    schema, card = model.schema, model.provenance
    require_device(device)
    check(simulator)
    if simulator.schema != schema:
        raise ValueError(
            f"distill: the simulator's schema, {simulator.schema.names}, is not the Joint's, {schema.names}."
        )
    if model.refined_for is not None:
        raise ValueError(f"distill: this Joint was refined for one observation of {sorted(model.refined_for)}.")
    if absent := [k for k, own in (("masks", masks), ("design", design)) if own is None and k not in card]:
        raise ValueError(f"distill: the Joint's card says nothing of {absent}; pass them.")
    masks = masks or replace(MaskConfig(**card["masks"]), extension=0)  # between knots the teacher is solved
    design = design or Design(**card["design"])
    if not isinstance(simulations, int):
        require_same_grid(simulations, simulator)
    n = simulations if isinstance(simulations, int) else len(simulations)
    if n < 100:
        raise ValueError(f"distill: expected simulations >= 100, got {n}.")
    drawn = simulate(simulator, n, generator_at(config.seed, 2, 0)) if isinstance(simulations, int) else simulations
    store = build_store(schema, model.whitening, drawn.values, natural_functions(simulator), model.spread)
    n_train = len(store) - held_out_of(n)

    def between(first: int, last: int) -> Rows:
        def rows(n: int, generator: torch.Generator) -> TokenBatch:
            return read(store, torch.randint(first, last, (n,), generator=generator), design, generator)

        return rows

    teacher = copy.deepcopy(model.denoiser).to(device)
    teacher.flow_map = None
    flow_map = with_jumps(teacher).train()
    student = Student(flow_map, teacher)
    scalar = torch.from_numpy(~schema.uses_index().any(axis=1))
    about: dict[str, Any] = {
        "distilled": model.fingerprint, "simulator": type(simulator).__name__, "simulator_config": plain(simulator),
        "simulations": n, "design": asdict(design), "log_ratios": log_ratios().tolist(),
    }  # fmt: skip
    if drawn is simulations:  # a checkpoint must not go on with others: those held out would have been seen
        about["simulations_digest"] = digest(drawn.values)
    before = group.sum(time.process_time() - started)
    run = fit(
        student,
        between(0, n_train),
        between(n_train, len(store)),
        is_parameter(schema),
        masks,
        NoiseLevels(),
        config,
        keep=scalar if model.dependency != "dense" else None,
        limits=whitened_limits(schema, model.whitening, plausible_ranges(simulator)),
        is_residual=is_residual(schema) if schema.references else None,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        about=about,
        callback=callback,
        group=group,
    )
    own: Mapping[str, Any] = run_card(run, student, masks, NoiseLevels(), config, device, before)
    kept = {k: v for k, v in own.items() if k not in ("levels", "baseline", "history")}
    both = copy.deepcopy(model.denoiser)
    both.flow_map = flow_map.to(both.device).eval()
    both.flow_map.baseline = both.baseline
    return Joint(replace(model, denoiser=both, provenance={**card, "flow_map": about | kept}))
