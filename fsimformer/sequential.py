"""Sequential refinement for one observation x_o: rounds of simulating where its posterior lies, and training on.

Round 1 is `train`. Round r draws parameters from the prior truncated to R_r = R_{r−1} ∩ {s_r(θ) ≥ τ_r}, the region that
holds all but ε of the posterior of the network so far (truncate.py; TSNPE, arXiv 2210.04815), simulates there, and goes
on from the weights on all rows of all rounds that lie in R_r. Why they may be pooled, without weights: regions are
nested, so within R_r the parameters of every round have the density p(θ)/p(R_s) ∝ p(θ), and the rows are draws of

    p(x | θ) p(θ) 1[θ ∈ R_r],   whose posterior at x_o is p(θ | x_o) 1[θ ∈ R_r], up to the mass left out that at x_o.

Each round may leave out ε, all rounds together at most (rounds − 1)·ε of what the networks held to be the posterior.
p(x | θ) stays what it was; p(θ) does not, nor does the posterior given another x: the Joint is amortised no longer,
says so when conditioned on anything else, and its file carries the observation.

The whitening stays that of round 1. Parameters that are functions are drawn from their prior and not truncated.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fsimformer.batches import Rows
from fsimformer.convert import Observation, is_parameter, observed_tokens, query, query_tokens, read
from fsimformer.denoise import NoiseLevels
from fsimformer.graph import require_connected, truncated_graph
from fsimformer.joint import DEFAULT_DIAL, Joint
from fsimformer.learn import train
from fsimformer.masks import MaskConfig
from fsimformer.model_file import Model
from fsimformer.nn import NetworkConfig
from fsimformer.points import outside_trained, readings_of
from fsimformer.pool import Pooled, TruncatedPrior, pooled
from fsimformer.provenance import run_card
from fsimformer.ranges import whitened_limits
from fsimformer.readings import Design, Store, read_at
from fsimformer.readings import read as read_rows
from fsimformer.sample import DEFAULT_QUALITY, quality_named
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, default_design, simulate
from fsimformer.simulators.protocol import (
    Simulator,
    check,
    check_conditional,
    conditional_simulator,
    given_parameters,
    natural_functions,
    plausible_ranges,
)
from fsimformer.stages import Budget, draw
from fsimformer.tokens import TokenBatch, TokenSet, concatenate, select
from fsimformer.train import Progress, TrainConfig, fit
from fsimformer.truncate import Region, fit_region, inside

REFINING_MASKS = MaskConfig(
    posterior=0.8, imputation=0.04, forecast=0.04, gap=0.02, likelihood=0.04, variable=0.02, token=0.02, joint=0.02
)
"""Condition masks from the second round on: mostly the posterior."""

AS_OBSERVED = 0.8
"""Share of rows, from the second round on, whose data tokens are exactly those that the observation has."""


@dataclass(frozen=True)
class Round:
    """What a round did.

    Args:
        joint: the Joint after it; its training card is `joint.provenance`.
        simulations, dropped: finite simulations drawn in this round, and those that failed besides.
        pooled: rows of all rounds inside the region, held-out ones included: what was trained on.
        method: how parameters were drawn: "prior" (the first), "rejection" from the prior, "kernels" (truncate.py);
            both, joined by a comma, where the calls that made the round differed.
        share: mass of the region under the prior, estimated: the acceptance rate of rejection from the prior.
        threshold: log τ, a log density of u = Φ(z); None in the first.
    """

    joint: Joint
    simulations: int
    dropped: int
    pooled: int
    method: str
    share: float
    threshold: float | None

    def summary(self) -> dict[str, Any]:
        """All but the Joint, as plain JSON types."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "joint"}


@dataclass(frozen=True)
class Sequential:
    """The rounds of a sequential training, the first first."""

    rounds: tuple[Round, ...]

    @property
    def joint(self) -> Joint:
        """The Joint of the last round: good for the observation it was refined for, and for no other."""
        return self.rounds[-1].joint


def train_sequential(
    simulator: Simulator,
    observed: Any,
    *,
    rounds: int = 5,
    simulations: int = 1_000,
    epsilon: float = 1e-3,
    draws: int = 4_000,
    candidates: int = 100_000,
    config: TrainConfig | None = None,
    network: NetworkConfig | None = None,
    design: Design | None = None,
    masks: MaskConfig | None = None,
    levels: NoiseLevels | None = None,
    schedule: str | None = None,
    dependency: str | None = None,
    n_active_observed: int | str | None = DEFAULT_DIAL,
    embeddings: Mapping[str, nn.Module] | None = None,
    origin: Any = None,
    callback: Callable[[Progress], None] | None = None,
    on_round: Callable[[Round], None] | None = None,
    device: str = "cpu",
    provenance: Mapping[str, Any] | None = None,
) -> Sequential:
    """Train for one observation, each round simulating where the posterior of the last one lies (arXiv 2210.04815).

    p(θ | x_o) ∝ p(x_o | θ) p(θ) 1[θ ∈ R], R the highest-density region of the network's posterior: see the module.

    Args:
        simulator: as for `train`; from the second round on it simulates at chosen parameters, by `simulate_at` or
            `clean` (simulators/protocol.py).
        observed, origin: the observation, as for `Joint.condition`: data, no parameter.
        rounds, simulations: how many rounds, and simulations in each; every tenth is held out.
        epsilon: posterior mass that a round leaves out; 0 = the prior is never truncated.
        draws: of the posterior, from which the region is made.
        candidates: draws of the prior that rejection may be expected to take in a round; beyond, kernels propose.
        config: of every round; by default 2,000 steps, stopped after eight validations without a new best.
        network, design, levels, schedule, dependency, n_active_observed, embeddings: as for `train`.
        masks: of every round; by default `train`'s in the first, then `REFINING_MASKS`.
        callback: called after every step with a `Progress`; on_round: after every round.
        device: where the network trains.
        provenance: extra entries for the models' cards.

    Returns:
        A `Sequential`: `.joint`, and `.rounds` with what each did.

    Raises:
        TypeError: a simulator that cannot simulate at chosen parameters; ValueError: one that returns something else.
        ValueError: an observation without data or with parameters; parameters without a prior or with parents (the
            truncated prior takes them to be independent) or none that is a scalar or vector; readings outside the
            trained range of an index, where no path is simulated; rounds < 1, simulations < 100, epsilon outside [0, 1)
            or below 1/draws; what `train` refuses.

    Warns:
        ObservationWarning: afterwards, when the Joint is conditioned on another observation.
    """
    config = config or TrainConfig(steps=2_000, validate_every=100, patience=8)
    _require_counts(rounds, simulations, epsilon, draws, candidates)
    check(simulator)
    schema, at = simulator.schema, conditional_simulator(simulator)
    _require_independent(schema)
    check_conditional(simulator)
    require_connected(schema, dependency)
    observation = read(schema, observed, origin=origin)
    _require_data(schema, observation)
    design = design or default_design(schema)
    prior = simulate(simulator, simulations, generator_at(config.seed, 2, 0))
    joint = train(
        simulator,
        simulations=prior,
        config=config,
        network=network,
        design=design,
        masks=masks,
        levels=levels,
        schedule=schedule,
        dependency=dependency,
        n_active_observed=n_active_observed,
        embeddings=embeddings,
        callback=callback,
        device=device,
        provenance=provenance,
    )
    done = [Round(joint, simulations, prior.n_dropped, simulations, "prior", 1.0, None)]
    if on_round is not None:
        on_round(done[-1])
    pool, regions = [prior], list[Region]()
    refining = _Refining(
        simulator, observation, design, masks or REFINING_MASKS, levels or NoiseLevels(), config, device, callback
    )
    for number in range(1, rounds):
        started, joint = time.process_time(), done[-1].joint
        posterior = _posterior(joint.model, observation, draws, config.seed, number)
        region = fit_region(posterior[inside(regions, posterior)], epsilon)
        regions.append(region)
        truncated = TruncatedPrior(simulator, at, joint.model.whitening, tuple(regions), candidates)
        drawn = simulate(truncated, simulations, generator_at(config.seed, 2, number))
        pool.append(drawn)
        kept = pooled(schema, joint.model.whitening, pool, regions)
        threshold = None if region.threshold == -math.inf else region.threshold
        made = Round(  # its Joint follows
            joint, simulations, drawn.n_dropped, len(kept), truncated.method, truncated.share, threshold
        )
        card = {
            **(provenance or {}),
            "truncated": {
                "observed": readings_of(observation, schema.data),
                "epsilon": epsilon,
                "draws": draws,
                "rounds": [x.summary() for x in (*done, made)],
            },
        }
        made = replace(made, joint=refining(joint, kept, number, time.process_time() - started, card))
        done.append(made)
        if on_round is not None:
            on_round(made)
    return Sequential(tuple(done))


def rows_as_observed(
    store: Store, rows: Tensor, design: Design, observed: TokenSet, is_parameter: Tensor, generator: torch.Generator
) -> TokenBatch:
    """Parameters of the given simulations, functions at drawn points; data at the observation's tokens only."""
    n_max = tuple(n if is_parameter[s.id] else 0 for s, n in zip(store.series, design.n_max, strict=True))
    own = read_rows(store, rows, replace(design, n_max=n_max), generator)
    own = own.replace(valid=own.valid & is_parameter[own.variable])
    data = read_at(store, rows, observed, generator)
    each = ("variable", "index", "value", "condition_mask", "valid")
    both = data.replace(**{k: torch.cat([getattr(own, k), getattr(data, k)], 1) for k in each})
    position, taken = select(both.valid)
    packed = both.gather(position)
    return packed.replace(valid=packed.valid & taken)


@dataclass(frozen=True)
class _Refining:
    """Training on from a Joint, on pooled rows; what all rounds after the first share."""

    simulator: Simulator
    observation: Observation
    design: Design
    masks: MaskConfig
    levels: NoiseLevels
    config: TrainConfig
    device: str
    callback: Callable[[Progress], None] | None

    def __call__(self, joint: Joint, kept: Pooled, number: int, before: float, card: Mapping[str, Any]) -> Joint:
        started, model = time.process_time(), joint.model
        schema, parameter = model.schema, is_parameter(model.schema)
        store = build_store(schema, model.whitening, kept.values, natural_functions(self.simulator))
        observed = observed_tokens(schema, model.whitening, self.observation)

        def between(first: int, last: int) -> Rows:
            def rows(n: int, generator: torch.Generator) -> TokenBatch:
                chosen = torch.randint(first, last, (n,), generator=generator)
                alike = torch.rand(n, generator=generator) < AS_OBSERVED
                return concatenate([
                    rows_as_observed(store, chosen[alike], self.design, observed, parameter, generator),
                    read_rows(store, chosen[~alike], self.design, generator),
                ])  # fmt: skip

            return rows

        scalar = torch.from_numpy(~schema.uses_index().any(axis=1))
        denoiser = copy.deepcopy(model.denoiser).train()
        denoiser.flow_map = None  # that of other weights
        if model.dependency != "dense":
            denoiser.dependency = torch.from_numpy(truncated_graph(schema))
        denoiser = denoiser.to(self.device)
        before += time.process_time() - started
        run = fit(
            denoiser,
            between(0, kept.n_train),
            between(kept.n_train, len(kept)),
            parameter,
            self.masks,
            self.levels,
            self.config,
            keep=scalar if model.dependency != "dense" else None,
            limits=whitened_limits(schema, model.whitening, plausible_ranges(self.simulator)),
            generation=number,
            callback=self.callback,
        )
        refined_for, most = readings_of(self.observation, schema.data), dict(model.max_readings)
        for name in most.keys() & refined_for.keys():
            most[name] = max(most[name], len(refined_for[name]["value"]))
        same = ("simulator", "simulator_config", "design", "natural", "plausible", "dependency", "embeddings")
        return Joint(
            replace(
                model,
                denoiser=denoiser.cpu().eval(),
                max_readings=most,
                refined_for=refined_for,
                provenance={
                    **card,
                    **{k: joint.provenance[k] for k in same if k in joint.provenance},
                    "simulations": len(kept),
                    "simulations_held_out": len(kept) - kept.n_train,
                    "initial": joint.provenance,
                    "generation": number,
                    **run_card(run, denoiser, self.masks, self.levels, self.config, self.device, before),
                },
            )
        )


def _posterior(model: Model, observation: Observation, n: int, seed: int, number: int) -> Tensor:
    """n draws of the scalar and vector parameters as u, (n, d)."""
    schema = model.schema
    asked = query_tokens(schema, query(schema, observation, {}))
    z = draw(
        model.denoiser,
        [observed_tokens(schema, model.whitening, observation)],
        [asked],
        torch.zeros(schema.n_ids, dtype=torch.bool),
        n,
        quality_named(DEFAULT_QUALITY),
        int(torch.randint(2**31, (1,), generator=generator_at(seed, 5, number))),
        model.n_active_observed,
        Budget(n_joint=model.max_latents),
    )[0]
    return torch.special.ndtr(z.double())


def _require_counts(rounds: int, simulations: int, epsilon: float, draws: int, candidates: int) -> None:
    for name, value, least in (("rounds", rounds, 1), ("simulations", simulations, 100), ("candidates", candidates, 1)):
        if value < least:
            raise ValueError(f"train_sequential: expected {name} >= {least}, got {value}.")
    if not 0 <= epsilon < 1:
        raise ValueError(f"train_sequential: expected 0 <= epsilon < 1, the mass left out in a round; got {epsilon}.")
    if draws < 50 or 0 < epsilon * draws < 1:
        raise ValueError(f"train_sequential: expected draws >= 50 and >= 1/epsilon, got {draws} for epsilon {epsilon}.")


def _require_independent(schema: Schema) -> None:
    """The prior of u is uniform: as for `refine`, parameters have priors and no parents."""
    if schema.references:
        raise ValueError(f"train_sequential: reference sets ({list(schema.references)}) are not offered; use train.")
    names = given_parameters(schema)
    if not names:
        raise ValueError("train_sequential: expected a scalar or vector parameter; the schema has none.")
    if bare := [k for k in names if schema[k].prior is None or schema[k].parents]:
        raise ValueError(f"train_sequential: expected parameters with a prior and no parents, got {bare}.")


def _require_data(schema: Schema, observation: Observation) -> None:
    held = readings_of(observation, schema.names)
    if parameters := [k for k in held if schema[k].role == "parameter"]:
        raise ValueError(
            f"train_sequential: the observation holds parameters {parameters}; expected data only. What is known of a "
            "parameter belongs into its prior."
        )
    if not held:
        raise ValueError("train_sequential: the observation holds no finite reading.")
    for name, readings in held.items():
        places = np.asarray(readings["index"], dtype=np.float64).reshape(len(readings["value"]), -1)
        for trained, x, outside in outside_trained(schema, name, places):
            if outside.any():
                units = f" {trained.units}" if trained.units else ""
                raise ValueError(
                    f"train_sequential: {name!r} is observed at {trained.name} = {x[outside][0]:g}, outside the "
                    f"trained range [{trained.lower:g}, {trained.upper:g}]{units}: no path is simulated there. Widen "
                    "the Index and its grid, or leave these readings out."
                )
