"""Draws under constraints: exact first (design.md, D7), and each result says how it was made.

    rejection   draws without constraints, kept where all hold: exact; log P from the number of trials, unbiased
                ((n − 1)/(N − 1) where trial N gave draw n; Haldane, Biometrika 1945).
    smc         twisted.py: as exact as its particles are many; log P, whose exponential is unbiased (but for runs that
                leave too few and are made anew), and the effective number of draws. Draws repeat where `distinct` is
                below their number; they hang on it, for so do the particles.
    guidance    approximate: particles bent towards the constraints, never weighed; those that violate one are dropped.

"auto" draws a batch and takes rejection where one draw in a thousand is kept and `max_draws` will do, else smc; where
smc is left with a handful of effective draws, guidance, with a warning. No draw violates an interval, whatever the
method: each is checked as it is returned. SMC and guidance need an SDE sampler: beside an ODE, and beside the flow map
of a distilled Joint, they take "sde" and the network itself, and `sample_stats` says so.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fsimformer.constraints import Constraint, Interval, Weighing, require_common, resolve
from fsimformer.convert import Observation, ObservationWarning
from fsimformer.draws import Settings, joined
from fsimformer.extension import Drawn
from fsimformer.model_file import Model
from fsimformer.points import Query
from fsimformer.request import Request
from fsimformer.sample import QUALITY
from fsimformer.seeds import generator_at, seed_at
from fsimformer.stages import First
from fsimformer.target import Target, twist_of
from fsimformer.tokens import TokenSet
from fsimformer.twisted import Particles, draw_twisted, effective, systematic

METHODS = ("auto", "rejection", "smc", "guidance")
_CONSTRAINED = 12  # first number of the path, seeds.py: (seed, 12, data set, purpose, batch)
_DRAWS, _CHANCE, _PARTICLES, _GUIDED = range(4)
_BATCH = 1_000  # draws at a time: the same for any number asked for, so that more of them change none of the first
_WORTH = 1e-3  # acceptance from which on rejection is worth it
_FEWEST = 20  # effective draws below which "auto" does not use smc
_TRUSTED = 50  # below which it warns
_REPEATS = 2  # of a step of guidance


@dataclass(frozen=True)
class Constraints:
    """What has to hold, and how draws are to be had; see `Conditional.constrain`."""

    of: tuple[Constraint, ...] = ()
    method: str = "auto"
    max_draws: int = 200_000

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"constrain: unknown method {self.method!r}. Choices: {METHODS}.")
        if self.max_draws < 1:
            raise ValueError(f"constrain: expected max_draws >= 1, got {self.max_draws}.")

    def and_of(self, more: tuple[Constraint, ...], method: str | None, max_draws: int | None) -> Constraints:
        """These and more; what is None stays as it is."""
        how = self.method if method is None else method, self.max_draws if max_draws is None else max_draws
        return Constraints((*self.of, *more), *how)


NONE = Constraints()


@dataclass(frozen=True)
class Outcome:
    """Draws of one data set: z (n, ·) in the order of what was asked, knots, coefficients, and what is said of them."""

    drawn: Drawn
    stats: dict[str, float | str]


def draw_request(request: Request, constraints: Constraints, many: bool) -> tuple[list[Drawn], dict[str, Any]]:
    """All draws of a request, under constraints if there are any, and what is said of them.

    `many`: what is said is an array with an entry for each data set.
    """
    if not constraints.of:
        return request.draw(range(len(request))), request.stats
    found = list[Outcome]()
    for i, (o, q) in enumerate(zip(request.observations, request.queries, strict=True)):
        own = request.model, o, q, constraints, request.n, request.settings, request.seed, i
        try:
            found.append(draw_constrained(*own))
        except ValueError as error:
            if many:
                error.add_note(f"In data set number {i}, counted from 0.")
            raise
    of_all = {k: np.array([f.stats[k] for f in found]) for k in found[0].stats}
    said = of_all if many else {k: v[0] for k, v in of_all.items()}
    return [f.drawn for f in found], request.stats | said


def draw_constrained(
    model: Model,
    observation: Observation,
    asked: Query,
    constraints: Constraints,
    n: int,
    settings: Settings,
    seed: int,
    data_set: int = 0,
) -> Outcome:
    """n draws of one data set under constraints.

    Raises:
        KeyError, TypeError, ValueError: constraints that make no sense, contradict what was observed, or that no draw
            was found to satisfy.
    """
    found = list[Interval | Weighing]()
    for c in constraints.of:  # no comprehension: warnings count frames
        if (one := resolve(model.schema, observation, c)) is not None:
            found.append(one)
    require_common([c for c in found if isinstance(c, Interval)])
    plan = Target.of(model, observation, asked, found)
    plan.log_weight(torch.zeros(2, len(plan.query)))  # a potential that asks for what is not there fails before a draw
    seeds = _Seeds(seed, data_set)
    pilot = plan.draw(_BATCH, settings, seeds.at(_DRAWS, 0))
    method = constraints.method
    if method in ("auto", "rejection") and (out := _reject(plan, constraints, n, settings, seeds, pilot)) is not None:
        return out
    stochastic = settings if settings.config.stochastic else Settings(QUALITY["sde"], settings.dial, settings.budget)
    if method in ("auto", "smc"):
        out = _weigh(plan, n, stochastic, seeds, pilot.z, require=method == "smc")
        if out is not None:
            return out
    return _guide(plan, constraints, n, stochastic, seeds, pilot.z, warn=method == "auto")


@dataclass(frozen=True)
class _Seeds:
    """Of one data set."""

    seed: int
    data_set: int

    def at(self, purpose: int, batch: int) -> int:
        return seed_at(self.seed, _CONSTRAINED, self.data_set, purpose, batch) % 2**32  # as long as a seed may be

    def generator(self, purpose: int, batch: int) -> torch.Generator:
        return generator_at(self.seed, _CONSTRAINED, self.data_set, purpose, batch)


def _reject(
    plan: Target, constraints: Constraints, n: int, settings: Settings, seeds: _Seeds, pilot: Drawn
) -> Outcome | None:
    """Draws by rejection; None where "auto" should try something else."""
    auto, kept, trials, accepted = constraints.method == "auto", list[Drawn](), 0, 0
    last = 0
    while accepted < n:
        if trials >= constraints.max_draws:
            if auto:
                return None
            raise ValueError(_nothing(accepted, trials, n, "draws", "raise max_draws or take method='smc'"))
        batch = trials // _BATCH
        drawn = plan.draw(_BATCH, settings, seeds.at(_DRAWS, batch)) if batch else pilot
        weight, bounded = plan.log_weight(drawn.z)
        if not bounded:
            if auto:
                return None
            raise ValueError("constrain: rejection needs an upper bound of every potential, Potential(..., bound=...).")
        u = torch.rand(_BATCH, generator=seeds.generator(_CHANCE, batch), dtype=torch.float64).log().numpy()
        good = np.flatnonzero(u < weight)
        if len(good) + accepted >= n:
            last = trials + int(good[n - accepted - 1]) + 1
            good = good[: n - accepted]
        which = torch.from_numpy(good)
        kept.append(plan.taken(drawn, which))
        trials, accepted = trials + _BATCH, accepted + len(good)
        worth = accepted >= max(1.0, _WORTH * trials) and n * trials / accepted <= constraints.max_draws
        if auto and accepted < n and trials == _BATCH and not worth:
            return None
    p = (n - 1) / (last - 1) if n > 1 else 1 / last
    stats: dict[str, float | str] = {
        "method": "rejection", "acceptance": n / last, "ess": float(n), "distinct": float(n),
        "constraint_log_prob": math.log(p) + plan.bounds, **settings.config.stats(),
    }  # fmt: skip
    return Outcome(joined(kept), stats)


def _nothing(accepted: int, trials: int, n: int, what: str, way: str) -> str:
    # of particles and guided draws the rule of three says nothing
    rare = f" Their probability is below {3 / trials:.1g}, 95 times in 100." if not accepted and what == "draws" else ""
    return (
        f"constrain: {accepted} of {trials:,} {what} satisfied the constraints, {n} were asked for.{rare} They may "
        f"contradict each other, the observation or the prior; else ask for fewer draws, {way}."
    )


def _weigh(plan: Target, n: int, settings: Settings, seeds: _Seeds, pilot: Tensor, require: bool) -> Outcome | None:
    """Draws by twisted SMC; None where too few are left and that is not `require`d."""
    fewest = max(2 * n, 500)
    for attempt, size in enumerate((fewest, 4 * fewest)):
        generator = seeds.generator(_PARTICLES, attempt)
        drawn, particles = _particles(plan, size, settings, pilot, seeds.at(_PARTICLES, attempt), generator, None)
        if particles is None:
            continue
        weight, _ = plan.log_weight(drawn.z)
        total = particles.log_weight - particles.log_psi + torch.from_numpy(weight)
        if not bool(torch.isfinite(total).any()):
            continue
        ess = effective(total)
        if not (require or ess >= max(_FEWEST, 0.02 * n)):
            continue
        if ess < min(_TRUSTED, n):
            warnings.warn(
                f"constrain: the {size:,} particles of sequential Monte Carlo are worth {ess:.0f} independent draws, "
                f"fewer than {min(_TRUSTED, n)}: means err by {ess**-0.5:.2g} sd. Ask for more draws (particles are "
                "twice as many), wider intervals, or method='rejection' with a larger max_draws.",
                ObservationWarning,
                stacklevel=5,
            )
        chosen = systematic(total, n, generator)
        chosen = chosen[torch.randperm(n, generator=generator)]  # neighbours descend from one particle
        mean = float(total.logsumexp(0)) - math.log(size)
        stats: dict[str, float | str] = {
            "method": "smc", "acceptance": float(np.isfinite(weight).mean()), "ess": min(ess, n),
            "distinct": float(len(chosen.unique())),
            "constraint_log_prob": particles.log_mean + mean + plan.bounds, **settings.config.stats(),
        }  # fmt: skip
        return Outcome(plan.taken(drawn, chosen), stats)
    if require:
        raise ValueError(_nothing(0, size, n, "particles", "or take method='guidance'"))
    return None


def _guide(
    plan: Target, constraints: Constraints, n: int, settings: Settings, seeds: _Seeds, pilot: Tensor, warn: bool
) -> Outcome:
    """Draws by guidance, those that violate a constraint dropped."""
    kept, trials, accepted = list[Drawn](), 0, 0
    tries = max(1, min(constraints.max_draws // _BATCH, 10))
    for batch in range(tries):
        generator = seeds.generator(_GUIDED, batch)
        drawn, _ = _particles(plan, _BATCH, settings, pilot, seeds.at(_GUIDED, batch), generator, _REPEATS)
        weight, bounded = plan.log_weight(drawn.z)
        if not bounded:
            why = "too few particles are left, and " if warn else ""
            raise ValueError(f"constrain: {why}guidance needs a bound of every potential, Potential(..., bound=...).")
        u = torch.rand(_BATCH, generator=generator, dtype=torch.float64).log().numpy()
        good = torch.from_numpy(np.flatnonzero(u < weight)[: n - accepted])
        kept.append(plan.taken(drawn, good))
        trials, accepted = trials + _BATCH, accepted + len(good)
        if accepted == n or (accepted == 0 and batch == 1):
            break
    if accepted < n:
        raise ValueError(_nothing(accepted, trials, n, "guided draws", "or widen the intervals"))
    if warn:
        warnings.warn(
            "constrain: neither rejection nor sequential Monte Carlo reaches these constraints; the draws are guided "
            "towards them, which is approximate (sample_stats: method). Ask for wider intervals, or check whether the "
            "observation allows them at all.",
            ObservationWarning,
            stacklevel=5,
        )
    stats: dict[str, float | str] = {
        "method": "guidance", "acceptance": accepted / trials, "ess": math.nan, "distinct": float(n),
        "constraint_log_prob": math.nan, **settings.config.stats(1 + _REPEATS),
    }  # fmt: skip
    return Outcome(joined(kept), stats)


def _particles(
    plan: Target,
    n: int,
    settings: Settings,
    pilot: Tensor,
    seed: int,
    generator: torch.Generator,
    repeats: int | None,
) -> tuple[Drawn, Particles | None]:
    """Complete draws whose stage 1 are particles, and these; None where their weights vanished."""
    caught = list[Particles]()

    def draw(observed: TokenSet, stage: TokenSet) -> Tensor:
        twist = twist_of(plan, pilot, stage)
        denoiser, dial, limit = plan.model.denoiser, settings.dial, settings.budget.max_tokens
        caught.append(
            draw_twisted(denoiser, observed, stage, twist, n, settings.config, dial, limit, generator, repeats)
        )
        return caught[0].z

    kept = torch.zeros(len(plan.query), dtype=torch.bool)
    for _, where in plan.intervals:
        kept[where] = True
    try:
        return plan.draw(n, settings, seed, First(draw, kept)), caught[0]
    except FloatingPointError:
        return Drawn(torch.zeros(0, len(plan.query)), {}, {}), None
