"""`train`: from a simulator to a `Joint`. Simulates, whitens, stores, runs the loop, writes the card."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fsimformer.arriving import Arriving
from fsimformer.batches import Rows
from fsimformer.convert import is_parameter, is_residual
from fsimformer.denoise import NoiseLevels
from fsimformer.devices import Group, require_device
from fsimformer.digest import digest
from fsimformer.graph import require_connected
from fsimformer.joint import DEFAULT_DIAL, Joint
from fsimformer.masks import MaskConfig
from fsimformer.model_file import Model, build_denoiser, plain
from fsimformer.moments import MAX_DIMS, fit_factors
from fsimformer.nn import NetworkConfig
from fsimformer.provenance import require_unseen, run_card
from fsimformer.ranges import value_ranges, whitened_limits
from fsimformer.readings import Design, Store, read
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.simulations import Simulations, build_store, default_design, require_same_grid, simulate
from fsimformer.simulators.protocol import Simulator, check, natural_functions, plausible_ranges
from fsimformer.stock import Stock
from fsimformer.tokens import Dial, TokenBatch, require_dial
from fsimformer.train import Progress, TrainConfig, fit
from fsimformer.unusual import typical_of
from fsimformer.whiten import Whitening


def spread_of(schema: Schema, store: Store) -> dict[str, tuple[torch.Tensor, ...]]:
    """What the spline through a function's knots misses, by name, one a component."""
    found = {s.id: s.reference.spread for s in store.series if s.reference is not None}
    return {name: tuple(found[id] for id in schema.ids(name)) for name in schema.references}


def _require_room(schema: Schema, scalar: torch.Tensor, max_latents: int) -> None:
    """A row can hold all scalars and the largest reference set as latents."""
    most = int(scalar.sum()) + max((math.prod(schema[name].reference) for name in schema.references), default=0)
    for name in schema.references:
        n = int(scalar.sum()) + math.prod(schema[name].reference)
        if n > max_latents:
            raise ValueError(
                f"TrainConfig: max_latents {max_latents} is less than the {n} latents of all scalars and the reference "
                f"set of {name!r}; a draw of it solves them together. Pass config=TrainConfig(max_latents={most}), or "
                "give it fewer points, reference=."
            )


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
        device: where the network trains; rows are read and masked on the CPU, so that equal seeds give equal rows.
        provenance: extra entries for the model's card; they replace none of its own.
        group: the processes that share the work, `fsimformer.devices.joined()`; all get the Joint, the first alone
            writes the checkpoint and calls back. By default this process is alone.

    Returns:
        A `Joint` with the averaged weights of the lowest validation loss.

    Raises:
        TypeError, ValueError: a simulator that does not fit its schema; too few simulations, or too many that failed;
            given ones on another grid; unknown schedule, dependency or device; a dependency mask that parts data from
            all parameters; embeddings that do not fit the array variables; a design for another number of series; a
            checkpoint of other settings; a baseline of functions of more than three index dims, or asked for or ruled
            out beside an `initial`; an `initial` of another schema, network or schedule, or refined for one
            observation, or whose training may have seen what would be held out here, which of given simulations
            nobody knows.
        FloatingPointError: the loss is not finite. TimeoutError: simulations stopped arriving.
        ConnectionError: another process of the group ended.
    """
    config, started, group = config or TrainConfig(), time.process_time(), group or Group()
    given = simulations if isinstance(simulations, Simulations) else None
    arriving = simulations if isinstance(simulations, Arriving) else None
    whole = simulations.n if isinstance(simulations, Arriving) else simulations
    n_given = len(whole) if isinstance(whole, Simulations) else whole
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
    schema = simulator.schema
    design = design or default_design(schema)
    functions = [v.name for v in schema.variables if schema.is_function(v.name) for _ in schema.ids(v.name)]
    if len(design.n_max) != len(functions):
        raise ValueError(f"Design: expected n_max for each of the series {functions}, got {design.n_max}.")
    uses_index = schema.uses_index()
    start = (NetworkConfig(), "trig", "dense", "few") if initial is None else _settings(initial)
    network = replace(network or start[0], uses_index=tuple(map(tuple, uses_index.tolist())))
    if network.inducing:
        most = sum(design.n_max) if initial is None else start[0].most_readings
        network = replace(network, most_readings=most)
    schedule, dependency = schedule or start[1], dependency or start[2]
    dial = start[3] if n_active_observed == DEFAULT_DIAL else n_active_observed
    dial = require_dial(dial)
    scalar = torch.from_numpy(~uses_index.any(axis=1))
    scalar[[id for name in schema.arrays for id in schema.ids(name)]] = False
    _require_room(schema, scalar, config.max_latents)
    if dependency != "dense" and int(scalar.sum()) > config.max_latents:
        raise ValueError(
            f"TrainConfig: max_latents {config.max_latents} would lose some of the {int(scalar.sum())} scalars that a "
            f"{dependency!r} mask relies on. Pass config=TrainConfig(max_latents={int(scalar.sum())}) or more."
        )
    baseline = _has_baseline(baseline, initial, schema, dependency)
    generation = 0
    if initial is not None:
        _require_same(initial, schema, network, schedule, dependency)
        if embeddings is not None:
            raise ValueError("train: an `initial` Joint brings its embeddings with it; leave `embeddings` out.")
        generation = require_unseen(initial.provenance, n_given, config.seed)
        denoiser = copy.deepcopy(initial.model.denoiser).to(device).train()
        denoiser.flow_map = None  # that of other weights
    else:
        with torch.random.fork_rng(devices=[]):  # torch's initialisers know only the global generator
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed the GPU's as well
            denoiser = build_denoiser(schema, network, schedule, dependency, embeddings, baseline=baseline).to(device)
    require_connected(schema, dependency)
    if arriving is not None:
        pilot, n_held_out = arriving.pilot()
        require_same_grid(pilot, simulator)
    else:
        n_simulations = 20_000 if n_given is None else n_given
        n_held_out = held_out_of(n_simulations)
        pilot = given or simulate(simulator, n_simulations, generator_at(config.seed, 2, 0))
    whitening = Whitening.fit(schema, pilot.values) if initial is None else initial.model.whitening
    natural, plausible = natural_functions(simulator), plausible_ranges(simulator)
    store = build_store(schema, whitening, pilot.values, natural, None if initial is None else initial.model.spread)
    spread = spread_of(schema, store)
    if baseline and initial is None:
        shown = len(store) - n_held_out
        denoiser.baseline = fit_factors(store, shown, schema.n_ids, generator_at(config.seed, 6)).to(device)
    n_train, n_dropped = len(store) - n_held_out, pilot.n_dropped
    whose = None if n_given is None or isinstance(simulations, int) else digest(pilot.values)
    del pilot

    def stored(n: int, generator: torch.Generator) -> TokenBatch:
        rows = torch.randint(0, n_train, (n,), generator=generator)
        return read(store, rows, design, generator)

    def fresh(n: int, generator: torch.Generator) -> TokenBatch:
        nonlocal n_dropped
        drawn = simulate(simulator, n, generator)
        n_dropped += drawn.n_dropped
        fresh_store = build_store(schema, whitening, drawn.values, natural, spread)
        return read(fresh_store, torch.arange(n), design, generator)

    def held_out(n: int, generator: torch.Generator) -> TokenBatch:
        rows = torch.randint(n_train, len(store), (n,), generator=generator)
        return read(store, rows, design, generator)

    about = {
        "simulator": type(simulator).__name__,
        "simulator_config": {} if simulator is arriving else plain(simulator),  # see "arriving" below
        "simulations": n_given,
        "design": asdict(design),
        "natural": list(natural),
        "plausible": {k: list(ends) for k, ends in plausible.items()},
        "dependency": dependency,
    }
    if whose is not None:  # a checkpoint must not go on with others: those held out would have been seen
        about["simulations_digest"] = whose
    stock = None
    if arriving is not None:
        about["arriving"] = arriving.about
        n_draws, n_planned = config.steps * config.batch_size, arriving.n_to_train(arriving.n_blocks)
        build = partial(build_store, schema, whitening, natural=natural, spread=spread)
        stock = Stock(arriving, build, design, n_draws, n_planned, arriving.reserve, arriving.first_blocks)
    if denoiser.baseline is not None:
        about["baseline"] = True
    if embeddings:
        about["embeddings"] = plain({k: str(m) for k, m in embeddings.items()})
    start_from = None if initial is None else dict(initial.model.denoiser.named_parameters())
    initial_weights = {} if start_from is None else {"initial_weights": digest(start_from)}
    seen: Rows = fresh if n_given is None else stored
    masks, levels = masks or MaskConfig(), levels or NoiseLevels()
    ranges = value_ranges(schema, whitening, plausible, seen(2_000, generator_at(config.seed, 0, 0, 0)))
    before = group.sum(time.process_time() - started)
    run = fit(
        denoiser,
        stock or seen,
        held_out,
        is_parameter(schema),
        masks,
        levels,
        config,
        keep=scalar if dependency != "dense" else None,
        limits=whitened_limits(schema, whitening, plausible),
        is_residual=is_residual(schema) if schema.references else None,
        generation=generation,
        state=stock,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        about=about | initial_weights,
        callback=callback,
        group=group,
    )
    if stock is not None and arriving is not None:
        n_dropped = arriving.n_dropped(len(stock.sizes), len(stock.urn.left), n_held_out)
        about["arriving"] = {**arriving.about, **stock.card()}
    card = {
        **(provenance or {}),
        **about,
        "initial": None if initial is None else initial.provenance,
        "generation": generation,
        "simulations_dropped": n_dropped,
        "simulations_held_out": n_held_out,
        **({"processes": group.size} if group.size > 1 else {}),
        **run_card(run, denoiser, masks, levels, config, device, before),
    }
    max_readings = dict.fromkeys(functions, 0)
    for name, n_max in zip(functions, design.n_max, strict=True):
        max_readings[name] += n_max  # of all components
    model = Model(
        schema,
        whitening,
        denoiser.cpu().eval(),
        schedule,
        dependency,
        dial,
        max_readings,
        config.max_latents,
        ranges,
        tuple(plausible),
        card,
        spread=spread,
    )
    unseen = torch.arange(n_train, len(store))
    return Joint(replace(model, typical=typical_of(model, store, unseen, design, generator_at(config.seed, 14))))


def held_out_of(n: int) -> int:
    """How many of n simulations are held out."""
    return min(2_000, n // 10)


def _has_baseline(asked: bool | None, initial: Joint | None, schema: Schema, dependency: str) -> bool:
    """Whether the network is told a linear baseline: as asked, else where a parameter is a function, nothing is masked,
    and tables can hold every function."""
    if asked is not None and not isinstance(asked, bool):
        raise ValueError(f"train: expected baseline True, False or None (where it pays), got {asked!r}.")
    functions = [v for v in schema.variables if schema.is_function(v.name)]
    large = [v.name for v in functions if len(schema.index_dims(v.name)) > MAX_DIMS]
    if initial is not None:
        if asked is not None:
            raise ValueError(
                "train: an `initial` Joint brings its baseline with it, or has none; choices: leave `baseline` out "
                "(None), or train anew with it."
            )
        return initial.model.denoiser.baseline is not None
    if asked and large:
        raise ValueError(
            f"train: a baseline holds functions of at most {MAX_DIMS} index dims, {large} have more; choices: "
            "baseline=False or None."
        )
    functional = any(v.role == "parameter" for v in functions)
    return functional and dependency == "dense" and not large if asked is None else asked


def _settings(initial: Joint) -> tuple[NetworkConfig, str, str, Dial]:
    model = initial.model
    return model.denoiser.network.config, model.schedule, model.dependency, model.n_active_observed


def _require_same(initial: Joint, schema: Schema, network: NetworkConfig, schedule: str, dependency: str) -> None:
    """`initial` can be trained on as asked."""
    have = initial.model.schema
    if have != schema:
        names = sorted({v.name for v in {*have.variables} ^ {*schema.variables}} | {*have.names} ^ {*schema.names})
        raise ValueError(f"initial: expected a Joint with the same schema; variables {names} or index dims differ.")
    for what, a, b in zip(("network", "schedule", "dependency"), _settings(initial), (network, schedule, dependency)):
        if a != b:
            raise ValueError(f"initial: expected a Joint with the same {what}, {b}; got {a}.")
