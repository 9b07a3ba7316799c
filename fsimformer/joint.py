"""`Joint`, `Conditional`, `train`, `load`: the face of the package. It wires the rooms and decides nothing itself."""

from __future__ import annotations

import copy
import datetime
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from fsimformer.convert import (
    Observation,
    ObservationWarning,
    observed_tokens,
    query,
    query_tokens,
    read_many,
    to_tree,
    to_tree_many,
)
from fsimformer.convert import (
    read as read_observation,
)
from fsimformer.denoise import NoiseLevels
from fsimformer.masks import MaskConfig
from fsimformer.model_file import Model, build_denoiser, load_model, plain, save_model
from fsimformer.nn import NetworkConfig
from fsimformer.readings import Design
from fsimformer.readings import read as read_rows
from fsimformer.sample import SamplerConfig, quality_named
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, default_design, simulate
from fsimformer.simulators.protocol import Simulator, check, natural_functions
from fsimformer.stages import Budget, draw
from fsimformer.tokens import TokenBatch
from fsimformer.train import Progress, Rows, TrainConfig, fit
from fsimformer.whiten import Whitening

DEFAULT_DIAL = "default"
MODELS = Path(__file__).parent / "models"


def is_parameter(schema: Schema) -> torch.Tensor:
    """(n_ids,) bool: ids of variables whose role is "parameter"."""
    out = torch.zeros(schema.n_ids, dtype=torch.bool)
    for v in schema.variables:
        out[list(schema.ids(v.name))] = v.role == "parameter"
    return out


def train(
    simulator: Simulator,
    *,
    simulations: int | None = 100_000,
    config: TrainConfig | None = None,
    network: NetworkConfig | None = None,
    design: Design | None = None,
    masks: MaskConfig | None = None,
    levels: NoiseLevels | None = None,
    schedule: str = "trig",
    dependency: str = "dense",
    n_active_observed: int | None = 8,
    initial: Joint | None = None,
    checkpoint: str | Path | None = None,
    callback: Callable[[Progress], None] | None = None,
    device: str = "cpu",
    provenance: Mapping[str, Any] | None = None,
) -> Joint:
    """Train on a simulator's joint distribution.

    Args:
        simulator: draws parameters, functions and clean observations; see `fsimformer.simulators.Simulator`.
        simulations: fixed budget, held-out ones included; reading places and noise are drawn anew at every use. None:
            fresh simulations at every step.
        config: optimiser, batches, seed; `TrainConfig()` by default.
        network: sizes of the network; its `uses_index` comes from the schema.
        design: how many readings a function has in a row, and where; by default 0 to 60 a data channel, 0 to 40 a
            functional parameter.
        masks: which conditionals are trained, and how often.
        levels: noise levels of training.
        schedule: "trig" or "vp" (score matching), "rectified" (flow matching).
        dependency: "dense", or "undirected": attention only along the moral graph of the variables' parents.
        n_active_observed: the default dial of the returned Joint.
        initial: a trained Joint of the same schema to go on from: its weights, network, schedule, dependency and
            whitening are kept, the optimiser and the learning rate start anew.
        checkpoint: file to write the run's state to, and to resume from if it exists.
        callback: called after every step with a `Progress`.
        device: where the network trains; rows are read and masked on the CPU, so that equal seeds give equal rows.
        provenance: extra entries for the model's card.

    Returns:
        A `Joint` with the averaged weights of the lowest validation loss.

    Raises:
        TypeError, ValueError: a simulator that does not fit its schema; too few simulations, or too many that failed;
            unknown schedule, dependency or device; a design for another number of series; an `initial` of another
            schema, network or schedule, or one whose training may have seen what would be held out here.
        FloatingPointError: the loss is not finite.
    """
    config, started = config or TrainConfig(), time.process_time()
    if simulations is not None and simulations < 100:
        raise ValueError(f"train: expected simulations >= 100 or None, got {simulations}.")
    _require_device(device)
    check(simulator)
    schema = simulator.schema
    design = design or default_design(schema)
    functions = [v.name for v in schema.variables if schema.is_function(v.name) for _ in schema.ids(v.name)]
    if len(design.n_max) != len(functions):
        raise ValueError(f"Design: expected n_max for each of the series {functions}, got {design.n_max}.")
    uses_index = tuple(tuple(bool(x) for x in row) for row in schema.uses_index())
    start = NetworkConfig() if initial is None else initial.model.denoiser.network.config
    network = replace(network or start, uses_index=uses_index)
    if initial is not None:
        _require_same(initial, schema, network, schedule, dependency, simulations, config.seed)
        denoiser = copy.deepcopy(initial.model.denoiser).to(device).train()
    else:
        with torch.random.fork_rng(devices=[]):  # torch's initialisers know only the global generator
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would reseed the GPU's as well
            denoiser = build_denoiser(schema, network, schedule, dependency).to(device)
    n_simulations = 20_000 if simulations is None else simulations
    n_held_out = min(2_000, n_simulations // 10)
    pilot = simulate(simulator, n_simulations, generator_at(config.seed, 2, 0))
    whitening = Whitening.fit(schema, pilot.values) if initial is None else initial.model.whitening
    natural = natural_functions(simulator)
    store = build_store(schema, whitening, pilot.values, natural)
    n_train, n_dropped = len(store) - n_held_out, pilot.n_dropped
    del pilot

    def stored(n: int, generator: torch.Generator) -> TokenBatch:
        rows = torch.randint(0, n_train, (n,), generator=generator)
        return read_rows(store, rows, design, generator)

    def fresh(n: int, generator: torch.Generator) -> TokenBatch:
        nonlocal n_dropped
        drawn = simulate(simulator, n, generator)
        n_dropped += drawn.n_dropped
        return read_rows(build_store(schema, whitening, drawn.values, natural), torch.arange(n), design, generator)

    def held_out(n: int, generator: torch.Generator) -> TokenBatch:
        rows = torch.randint(n_train, len(store), (n,), generator=generator)
        return read_rows(store, rows, design, generator)

    about = {
        "simulator": type(simulator).__name__,
        "simulator_config": plain(simulator),
        "simulations": simulations,
        "design": asdict(design),
        "dependency": dependency,
        "initial": None if initial is None else initial.provenance,
    }
    rows: Rows = fresh if simulations is None else stored
    masks, levels = masks or MaskConfig(), levels or NoiseLevels()
    before = time.process_time() - started
    run = fit(
        denoiser,
        rows,
        held_out,
        is_parameter(schema),
        masks,
        levels,
        config,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        about=about,
        callback=callback,
    )
    card = {
        **about,
        "simulations_dropped": n_dropped,
        "simulations_held_out": n_held_out,
        "train": asdict(config),
        "masks": asdict(masks),
        "levels": asdict(levels),
        "steps": run.step,
        "best_step": run.best_step,
        "best_validation_loss": run.best_loss,
        "history": run.history,
        "n_parameters": denoiser.network.n_parameters,
        "seed": config.seed,
        "device": device,
        "cpu_seconds": round(before + run.cpu_seconds, 1),
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        **(provenance or {}),
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
        n_active_observed,
        max_readings,
        config.max_latents,
        card,
    )
    return Joint(model)


def _require_same(
    initial: Joint, schema: Schema, network: NetworkConfig, schedule: str, dependency: str, n: int | None, seed: int
) -> None:
    """`initial` can be trained on as asked, and its training rows are not among those that would be held out."""
    model = initial.model
    card: dict[str, Any] | None = initial.provenance
    have = (model.schema.to_dict(), model.denoiser.network.config, model.schedule, model.dependency)
    wanted = (schema.to_dict(), network, schedule, dependency)
    for what, a, b in zip(("schema", "network", "schedule", "dependency"), have, wanted, strict=True):
        if a != b:
            raise ValueError(f"initial: expected a Joint with the same {what}: {b}; got {a}.")
    while card is not None:
        if card.get("seed") == seed and card.get("simulations") != n:
            raise ValueError(
                f"initial: trained with seed {seed} on {card.get('simulations')} simulations; {n} with the same seed "
                "would hold out some that it has seen. Choose another seed, or as many simulations."
            )
        card = card.get("initial")


def _require_device(device: str) -> None:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected a torch device such as 'cpu' or 'cuda', got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch finds no GPU here.")


def load(name: str | Path) -> Joint:
    """A model that ships with the package, by name, or one that was saved, by its directory.

    A bare name that ships is the one that ships: write "./sird" for a directory of your own called so.

    Raises:
        FileNotFoundError: neither; the message lists the models that ship.
        ValueError: the files are damaged or of another format.
    """
    bare = isinstance(name, str) and Path(name).name == name
    if bare and (MODELS / name / "model.json").is_file():
        return Joint(load_model(MODELS / name))
    if not Path(name).exists():
        names = sorted(p.name for p in MODELS.iterdir() if (p / "model.json").is_file()) if MODELS.is_dir() else []
        raise FileNotFoundError(f"No model named {str(name)!r}, and no such directory. Models that ship: {names}.")
    return Joint(load_model(name))


@dataclass(frozen=True)
class Joint:
    """A trained joint distribution of parameters, functions and observations."""

    model: Model

    @property
    def schema(self) -> Schema:
        return self.model.schema

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the weights come from: simulator, budget, seed, versions, device, training history."""
        return self.model.provenance

    @property
    def n_parameters(self) -> int:
        """Weights of the network."""
        return self.model.denoiser.network.n_parameters

    def to(self, device: str) -> Joint:
        """A copy of this Joint whose network runs on another device ("cuda", "cpu"); draws come back to the CPU.

        Raises:
            ValueError: no such device.
        """
        _require_device(device)
        return Joint(replace(self.model, denoiser=copy.deepcopy(self.model.denoiser).to(device)))

    def save(self, path: str | Path) -> None:
        """Write the model's directory (weights.safetensors, model.json)."""
        save_model(self.model, path)

    def condition(
        self,
        observed: Any = None,
        *,
        batch_dim: str | None = None,
        origin: Any = None,
        n_active_observed: int | str | None = DEFAULT_DIAL,
    ) -> Conditional:
        """The conditional distribution given what is finite in `observed`.

        Args:
            observed: Dataset, DataArray, dict of these, long DataFrame (index, variable, value), or None for the
                prior. A finite value is observed; NaN is not. Dates are read by the index's units.
            batch_dim: a dim (or a frame's column) along which independent, ragged data sets lie.
            origin: date that index 0 stands for; default: the schema's, else the earliest coordinate.
            n_active_observed: observed tokens that attend with the noise level (accuracy against cost, design.md D1);
                default: the model's; None = all of them.

        Raises:
            KeyError: unknown variable; ValueError: values outside a support, infinite, or of no numeric type.
        """
        schema = self.schema
        if batch_dim is None:
            labels, observations = None, [read_observation(schema, observed, origin=origin)]
        else:
            labels, observations = read_many(schema, observed, batch_dim, origin=origin)
        self._warn_many(observations)
        dial = self.model.n_active_observed if n_active_observed == DEFAULT_DIAL else n_active_observed
        if isinstance(dial, str) or (dial is not None and dial < 0):
            raise ValueError(f"n_active_observed: expected an integer >= 0 or None (all), got {n_active_observed!r}.")
        return Conditional(self, tuple(observations), labels, batch_dim, dial)

    def _warn_many(self, observations: list[Observation]) -> None:
        for name, most in self.model.max_readings.items():
            n = max(
                (int(np.isfinite(o.channels[name].value).sum()) for o in observations if name in o.channels), default=0
            )
            if n > most:
                warnings.warn(
                    f"{name!r} has {n} readings; training had 0 to {most} a channel. Results may be off.",
                    ObservationWarning,
                    stacklevel=3,
                )


@dataclass(frozen=True)
class Conditional:
    """A Joint with something observed: one data set, or many along `batch_dim`."""

    joint: Joint
    observations: tuple[Observation, ...]
    labels: xr.DataArray | None
    batch_dim: str | None
    n_active_observed: int | None

    def sample(
        self,
        n: int = 1_000,
        at: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        quality: str | SamplerConfig = "fast",
        budget: Budget | None = None,
    ) -> xr.DataTree:
        """n independent draws of what was not observed.

        Args:
            n: number of draws, even: results have two chains of n/2.
            at: variable -> index points (numbers, dates, a slice of those held); scalars that were not observed come
                along. None: everything that was not observed, at the index points that the data hold.
            seed: equal seeds give equal draws; more draws change none of the first, nor do other data sets.
            generator: takes the place of `seed`, which is drawn from it.
            quality: "fast" (20 evaluations), "exact" (48), "sde" (80, second-order SDE), or a SamplerConfig.
            budget: limits of one network call.

        Returns:
            A DataTree with the groups `posterior` (`prior` if nothing was observed), `posterior_predictive`,
            `predictions`, `observed_data`, `constant_data`, `sample_stats`; dims chain, draw, the variable's own.

        Raises:
            ValueError: odd or too small n, nothing left to sample, unknown quality, points that make no sense.
        """
        if n < 2 or n % 2:
            raise ValueError(f"sample: expected an even number of draws >= 2 (two chains), got {n}.")
        config, model, schema = quality_named(quality), self.joint.model, self.joint.schema
        queries = [query(schema, o, at) for o in self.observations]
        if not any(len(q) for q in queries):
            raise ValueError("sample: nothing is left to sample: every variable is observed and `at` asks for no more.")
        if generator is not None:
            seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        is_function = torch.from_numpy(schema.uses_index().any(axis=1))
        z = draw(
            model.denoiser,
            [observed_tokens(schema, model.whitening, o) for o in self.observations],
            [query_tokens(schema, q) for q in queries],
            is_function,
            n,
            config,
            seed,
            self.n_active_observed,
            budget or Budget(n_joint=model.max_latents),
        )
        stats = {"seed": seed, "evaluations": config.evaluations, "sampler": config.method}
        if self.labels is None or self.batch_dim is None:
            return to_tree(schema, model.whitening, self.observations[0], queries[0], z[0], stats)
        return to_tree_many(
            schema, model.whitening, self.labels, self.batch_dim, list(self.observations), queries, z, stats
        )
