"""`train`: from a simulator to a `Joint`. Simulates, whitens, stores, runs the loop, writes the card."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsimformer.arriving import Arriving
from fsimformer.batches import Rows
from fsimformer.convert import is_parameter, is_residual
from fsimformer.denoise import Denoiser, NoiseLevels
from fsimformer.devices import Group, require_device
from fsimformer.digest import digest
from fsimformer.graph import require_connected
from fsimformer.joint import DEFAULT_DIAL, Joint
from fsimformer.masks import MaskConfig
from fsimformer.model_file import Model, build_denoiser, plain
from fsimformer.moments import fit_factors
from fsimformer.nn import NetworkConfig
from fsimformer.precision import precision_named
from fsimformer.provenance import require_unseen, run_card
from fsimformer.ranges import value_ranges, whitened_limits
from fsimformer.readings import Design, Store, read
from fsimformer.seeds import generator_at
from fsimformer.simulations import Simulations, build_store, require_same_grid, simulate
from fsimformer.simulators.protocol import Simulator, check, natural_functions, plausible_ranges
from fsimformer.stock import Stock
from fsimformer.tokens import TokenBatch
from fsimformer.train import Progress, TrainConfig, fit
from fsimformer.train_plan import TrainPlan
from fsimformer.unusual import typical_of
from fsimformer.whiten import Whitening


@dataclass
class _Source:
    """Rows of training and of what is held out; `n_dropped` counts simulations that were of no use."""

    simulator: Simulator
    store: Store
    whitening: Whitening
    design: Design
    natural: tuple[str, ...]
    n_held_out: int
    n_dropped: int

    @property
    def n_train(self) -> int:
        return len(self.store) - self.n_held_out

    @property
    def spread(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """What the spline through a function's knots misses, by name, one a component."""
        schema = self.simulator.schema
        found = {s.id: s.reference.spread for s in self.store.series if s.reference is not None}
        return {name: tuple(found[id] for id in schema.ids(name)) for name in schema.references}

    def stored(self, n: int, generator: torch.Generator) -> TokenBatch:
        return read(self.store, torch.randint(0, self.n_train, (n,), generator=generator), self.design, generator)

    def held_out(self, n: int, generator: torch.Generator) -> TokenBatch:
        rows = torch.randint(self.n_train, len(self.store), (n,), generator=generator)
        return read(self.store, rows, self.design, generator)

    def fresh(self, n: int, generator: torch.Generator) -> TokenBatch:
        """Of new simulations, not of the store's."""
        drawn = simulate(self.simulator, n, generator)
        self.n_dropped += drawn.n_dropped
        schema = self.simulator.schema
        store = build_store(schema, self.whitening, drawn.values, self.natural, self.spread)
        return read(store, torch.arange(n), self.design, generator)


def train(
    simulator: Simulator,
    *,
    simulations: int | Simulations | Arriving | None = 100_000,
    config: TrainConfig | None = None,
    network: NetworkConfig | None = None,
    design: Design | None = None,
    masks: MaskConfig | None = None,
    levels: NoiseLevels | None = None,
    schedule: str | None = None,
    dependency: str | None = None,
    n_active_observed: int | str | None = DEFAULT_DIAL,
    embeddings: Mapping[str, nn.Module] | None = None,
    baseline: bool | None = None,
    initial: Joint | None = None,
    checkpoint: str | Path | None = None,
    callback: Callable[[Progress], None] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    provenance: Mapping[str, Any] | None = None,
    group: Group | None = None,
) -> Joint:
    """Train on a simulator's joint distribution.

    Args:
        simulator: draws parameters, functions and clean observations; see `fsimformer.simulators.Simulator`.
        simulations: fixed budget, held-out ones included; reading places and noise are drawn anew at every use. None:
            fresh simulations at every step. `fsimformer.simulations.Simulations`: these, the last tenth held out.
            `fsimformer.arriving.Arriving`: those of an archive that is still being written.
        config: optimiser, batches, seed; `TrainConfig()` by default.
        network: sizes of the network; its `uses_index` comes from the schema, its `most_readings` from the design.
        design: how many readings a function has in a row, and where; by default 0 to 60 a data channel, 0 to 40 a
            functional parameter.
        masks: which conditionals are trained, and how often.
        levels: noise levels of training.
        schedule: "trig" (default) or "vp" (score matching), "rectified" (flow matching).
        dependency: "dense" (default), "undirected": attention only along `graph.moral_graph`, or "causal": of that, of
            a variable's `past_of` only what is not later.
        n_active_observed: the default dial of the returned Joint, by default "few"; see `tokens.split`.
        embeddings: array variable -> module, (B, *shape) whitened float32 -> (B, n_tokens, k) or (B, n_tokens·k)
            features; a copy is trained with the network, from the weights it comes with. `load` needs it again.
        baseline: tell the network the best linear estimate as well, from the simulations' means and covariances, in the
            last part of the training (gaussian.py); it sees past a dependency mask. None = where a parameter is a
            function, the mask is dense and no function has more than three index dims. The card says which.
        initial: a trained Joint of the same schema to go on from: its weights, network, schedule, dependency, dial,
            baseline and whitening are kept, the optimiser and the learning rate start anew, rows are drawn anew.
        checkpoint: file to write the run's state to, and to resume from if it exists.
        callback: called after every step with a `Progress`.
        precision: of the products of the network's layers while it trains, "float32" or, for GPUs that have units for
            it, "bfloat16" (precision.py); weights, and what the Joint computes in, are float32.
        device: where the network trains; rows are read and masked on the CPU, so that equal seeds give equal rows.
        provenance: extra entries for the model's card; they replace none of its own.
        group: the processes that share the work, `fsimformer.devices.joined()`; all get the Joint, the first alone
            writes the checkpoint and calls back. By default this process is alone.

    Returns:
        A `Joint` with the averaged weights of the run's end, or of its lowest validation loss where that is better or
        the run ended before its learning rate fell to 0; the card says which, `kept`.

    Raises:
        TypeError, ValueError: a simulator that does not fit its schema; too few simulations, or too many that failed;
            given ones on another grid; unknown schedule, dependency, device or precision; a dependency mask that parts
            data from all parameters; embeddings that do not fit the array variables; a design for another number of
            series; a checkpoint of other settings; a baseline of functions of more than three index dims, or asked for
            or ruled out beside an `initial`; an `initial` of another schema, network or schedule, or refined for one
            observation, or whose training may have seen what would be held out here, which of given simulations nobody
            knows.
        FloatingPointError: the loss is not finite. TimeoutError: simulations stopped arriving.
        ConnectionError: another process of the group ended.
    """
    if not isinstance(config, TrainConfig | None):
        raise TypeError(f"train: expected config=fsimformer.TrainConfig(...) or None, got a {type(config).__name__}.")
    config, started, group = config or TrainConfig(), time.process_time(), group or Group()
    arriving = simulations if isinstance(simulations, Arriving) else None
    n_given = _require_source(simulations, simulator, initial, device)
    schema = simulator.schema
    plan = TrainPlan.of(schema, config, network, design, schedule, dependency, n_active_observed, baseline, initial)
    denoiser, generation = _network(plan, config, embeddings, initial, n_given, device)
    denoiser.network.precision = precision_named(precision)
    require_connected(schema, plan.dependency)
    source, whose = _source(simulator, simulations, plan, config, initial)
    whitening, plausible = source.whitening, plausible_ranges(simulator)
    if plan.baseline and initial is None:
        told = fit_factors(source.store, source.n_train, schema.n_ids, generator_at(config.seed, 6))
        denoiser.baseline = told.to(device)
    about = {
        "simulator": type(simulator).__name__,
        "simulator_config": {} if simulator is arriving else plain(simulator),  # see "arriving" below
        "simulations": n_given,
        "design": asdict(plan.design),
        "natural": list(source.natural),
        "plausible": {k: list(ends) for k, ends in plausible.items()},
        "dependency": plan.dependency,
    }
    if whose is not None:  # a checkpoint must not go on with others: those held out would have been seen
        about["simulations_digest"] = whose
    stock = None
    if arriving is not None:
        about["arriving"] = arriving.about
        stock = _stock(arriving, source, config)
    if denoiser.baseline is not None:
        about["baseline"] = True
    if precision != "float32":
        about["precision"] = precision
    if embeddings:
        about["embeddings"] = plain({k: str(m) for k, m in embeddings.items()})
    start_from = None if initial is None else dict(initial.model.denoiser.named_parameters())
    initial_weights = {} if start_from is None else {"initial_weights": digest(start_from)}
    seen: Rows = source.fresh if n_given is None else source.stored
    masks, levels = masks or MaskConfig(), levels or NoiseLevels()
    ranges = value_ranges(schema, whitening, plausible, seen(2_000, generator_at(config.seed, 0, 0, 0)))
    before = group.sum(time.process_time() - started)
    run = fit(
        denoiser,
        stock or seen,
        source.held_out,
        is_parameter(schema),
        masks,
        levels,
        config,
        keep=plan.scalar if plan.dependency != "dense" else None,
        limits=whitened_limits(schema, whitening, plausible),
        is_residual=is_residual(schema) if schema.references else None,
        generation=generation,
        state=stock,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        about=about | initial_weights,
        callback=callback,
        group=group,
    )
    n_dropped = source.n_dropped
    if stock is not None and arriving is not None:
        n_dropped = arriving.n_dropped(len(stock.sizes), len(stock.urn.left), source.n_held_out)
        about["arriving"] = {**arriving.about, **stock.card()}
    card = {
        **(provenance or {}),
        **about,
        "initial": None if initial is None else initial.provenance,
        "generation": generation,
        "simulations_dropped": n_dropped,
        "simulations_held_out": source.n_held_out,
        **({"processes": group.size} if group.size > 1 else {}),
        **run_card(run, denoiser, masks, levels, config, device, before),
    }
    denoiser.network.precision = precision_named("float32")
    model = Model(
        schema,
        whitening,
        denoiser.cpu().eval(),
        plan.schedule,
        plan.dependency,
        plan.dial,
        plan.max_readings,
        config.max_latents,
        ranges,
        tuple(plausible),
        card,
        spread=source.spread,
    )
    unseen = torch.arange(source.n_train, len(source.store))
    table = typical_of(model, source.store, unseen, plan.design, generator_at(config.seed, 14))
    return Joint(replace(model, typical=table))


def held_out_of(n: int) -> int:
    """How many of n simulations are held out."""
    return min(2_000, n // 10)


def _require_source(
    simulations: int | Simulations | Arriving | None, simulator: Simulator, initial: Joint | None, device: str
) -> int | None:
    """Where simulations come from makes sense; how many there will be, None = no end of them."""
    given = simulations if isinstance(simulations, Simulations) else None
    arriving = simulations if isinstance(simulations, Arriving) else None
    whole = simulations.n if isinstance(simulations, Arriving) else simulations
    n_given = len(whole) if isinstance(whole, Simulations) else whole
    if n_given is not None and (isinstance(n_given, bool) or not isinstance(n_given, int)):
        raise TypeError(
            f"train: expected simulations as an int, None, Simulations or Arriving, got {type(n_given).__name__}"
            + ("; of a Recorded pass recorded.simulations." if hasattr(n_given, "simulations") else ".")
        )
    if n_given is not None and n_given < 100:
        raise ValueError(f"train: expected simulations >= 100 or None, got {n_given}.")
    if (given is not None or arriving is not None) and initial is not None:
        raise ValueError("train: given simulations with an initial Joint: it may have seen those to be held out.")
    if initial is not None and initial.model.refined_for is not None:
        raise ValueError(
            f"initial: this Joint was refined for one observation of {sorted(initial.model.refined_for)}: its pool of "
            "simulations is not drawn from the prior. Train anew, or call train_sequential with more rounds."
        )
    require_device(device)
    check(simulator)
    if given is not None:
        require_same_grid(given, simulator)
    if arriving is not None and arriving.schema != simulator.schema:
        raise ValueError("train: the arriving simulations have another schema than the simulator; pass them as both.")
    return n_given


def _network(
    plan: TrainPlan,
    config: TrainConfig,
    embeddings: Mapping[str, nn.Module] | None,
    initial: Joint | None,
    n_given: int | None,
    device: str,
) -> tuple[Denoiser, int]:
    """What is trained, the initial Joint's or new, and how many trainings it has behind it."""
    if initial is None:
        with torch.random.fork_rng(devices=[]):  # torch's initialisers know only the global generator
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed the GPU's as well
            options = plan.network, plan.schedule, plan.dependency, embeddings
            return build_denoiser(plan.schema, *options, baseline=plan.baseline).to(device), 0
    if embeddings is not None:
        raise ValueError("train: an `initial` Joint brings its embeddings with it; leave `embeddings` out.")
    generation = require_unseen(initial.provenance, n_given, config.seed)
    denoiser = copy.deepcopy(initial.model.denoiser).to(device).train()
    denoiser.flow_map = None  # that of other weights
    return denoiser, generation


def _source(
    simulator: Simulator,
    simulations: int | Simulations | Arriving | None,
    plan: TrainPlan,
    config: TrainConfig,
    initial: Joint | None,
) -> tuple[_Source, str | None]:
    """The store, and of simulations that came from elsewhere their digest."""
    if isinstance(simulations, Arriving):
        pilot, n_held_out = simulations.pilot()
        require_same_grid(pilot, simulator)
    elif isinstance(simulations, Simulations):
        pilot, n_held_out = simulations, held_out_of(len(simulations))
    else:
        n = 20_000 if simulations is None else simulations
        pilot, n_held_out = simulate(simulator, n, generator_at(config.seed, 2, 0)), held_out_of(n)
    whitening = Whitening.fit(plan.schema, pilot.values) if initial is None else initial.model.whitening
    natural, spread = natural_functions(simulator), None if initial is None else initial.model.spread
    store = build_store(plan.schema, whitening, pilot.values, natural, spread)
    whose = digest(pilot.values) if isinstance(simulations, Simulations | Arriving) else None
    return _Source(simulator, store, whitening, plan.design, tuple(natural), n_held_out, pilot.n_dropped), whose


def _stock(arriving: Arriving, source: _Source, config: TrainConfig) -> Stock:
    build = partial(
        build_store, source.simulator.schema, source.whitening, natural=source.natural, spread=source.spread
    )
    n_draws, n_planned = config.steps * config.batch_size, arriving.n_to_train(arriving.n_blocks)
    return Stock(arriving, build, source.design, n_draws, n_planned, arriving.reserve, arriving.first_blocks)
