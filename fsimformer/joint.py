"""`Joint`, `Conditional`, `load`: the face of the package. It wires the rooms and decides nothing itself."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from fsimformer.convert import (
    Observation,
    ObservationWarning,
    is_parameter,
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
from fsimformer.evaluate import evaluate
from fsimformer.extension import draw_functions
from fsimformer.function_tree import GROUP, functions_group, functions_group_many
from fsimformer.model_file import Model, load_model, save_model
from fsimformer.paths import as_paths, with_noise
from fsimformer.points import readings_of, same_readings
from fsimformer.query import nothing_asked
from fsimformer.refine import NETWORK, LogLikelihood, log_prob, refine
from fsimformer.sample import DEFAULT_QUALITY, SamplerConfig, quality_named
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.stages import Budget
from fsimformer.tokens import Dial, require_dial

DEFAULT_DIAL = "default"
MODELS = Path(__file__).parent / "models"


def require_device(device: str) -> None:
    """Refuses a device that torch does not find.

    Raises:
        ValueError: what was asked for.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected a torch device such as 'cpu' or 'cuda', got {device!r}.") from error
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device!r} asked for, but torch finds no GPU here.")


def find_model(name: str | Path) -> Path:
    """The directory of a model that ships, by name, or of one that was saved; see `load`.

    Raises:
        FileNotFoundError: neither; the message lists the models that ship.
    """
    bare = isinstance(name, str) and Path(name).name == name
    if bare and (MODELS / name / "model.json").is_file():
        return MODELS / name
    if not Path(name).exists():
        names = sorted(p.name for p in MODELS.iterdir() if (p / "model.json").is_file()) if MODELS.is_dir() else []
        raise FileNotFoundError(f"No model named {str(name)!r}, and no such directory. Models that ship: {names}.")
    return Path(name)


def load(name: str | Path, *, embeddings: Mapping[str, nn.Module] | None = None) -> Joint:
    """A model that ships with the package, by name, or one that was saved, by its directory.

    A bare name that ships is the one that ships: write "./sird" for a directory of your own called so.

    Args:
        embeddings: array variable -> the module it was trained with, built in the same way, weights of any value: a
            model's file holds weights and no code.

    Raises:
        FileNotFoundError: neither; the message lists the models that ship.
        ValueError: the files are damaged or of another format; embeddings that are absent or not those of training.
    """
    return Joint(load_model(find_model(name), embeddings))


@dataclass(frozen=True, repr=False)
class Joint:
    """A trained joint distribution of parameters, functions and observations."""

    model: Model

    def __repr__(self) -> str:
        narrow = "" if self.model.refined_for is None else "; refined for one observation"
        return f"Joint({', '.join(self.schema.names)}; {self.n_parameters} weights{narrow})"

    @property
    def schema(self) -> Schema:
        return self.model.schema

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the weights come from: simulator, budget, seed, versions, device, training history."""
        return self.model.provenance

    @property
    def n_parameters(self) -> int:
        """Weights of the network and its embedding nets."""
        return self.model.denoiser.n_parameters

    def to(self, device: str) -> Joint:
        """A copy of this Joint whose network runs on another device ("cuda", "cpu"); draws come back to the CPU.

        Raises:
            ValueError: no such device.
        """
        require_device(device)
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
                default: the model's; None = all of them; "few" = all of them in data sets that have at most 8. How well
                a setting does depends on whether training had it (`joint.provenance["train"]["dial"]`).

        Raises:
            KeyError: unknown variable; ValueError: values outside a support, infinite, or of no numeric type.

        Warns:
            ObservationWarning: more readings than training had, or values and places that it did not observe; other
                readings than those for which sequential training refined this Joint.
        """
        schema = self.schema
        if batch_dim is None:
            labels, observations = None, [read_observation(schema, observed, origin=origin)]
        else:
            labels, observations = read_many(schema, observed, batch_dim, origin=origin)
        self._warn_many(observations, labels)
        dial = self.model.n_active_observed if n_active_observed == DEFAULT_DIAL else n_active_observed
        return Conditional(self, tuple(observations), labels, batch_dim, require_dial(dial))

    def _warn_many(self, observations: list[Observation], labels: xr.DataArray | None) -> None:
        refined_for = self.model.refined_for
        if refined_for is not None and (
            others := sum(not same_readings(readings_of(o, self.schema.data), refined_for) for o in observations)
        ):
            warnings.warn(
                f"{others} of {len(observations)} data sets: this Joint was refined for one observation of "
                f"{list(refined_for)}, and this is another. It knows only parameters that are likely given the "
                "first; for others take a Joint of fsimformer.train.",
                ObservationWarning,
                stacklevel=3,
            )
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
        for name, ends in self.model.value_range.items():
            for i, o in enumerate(observations):
                values = o.channels[name].value if name in o.channels else np.zeros(0)
                self._warn_values(name, values[np.isfinite(values)], ends, None if labels is None else labels.values[i])

    def _warn_values(self, name: str, values: np.ndarray, ends: tuple[float, float], label: Any) -> None:
        """Of readings that training never observed: any off a plausible range, else more than chance would have."""
        outside = values[(values < ends[0]) | (values > ends[1])]
        if len(outside) > (0 if name in self.model.plausible else max(1, 0.01 * len(values))):
            where = "" if label is None else f" of {label}"
            warnings.warn(
                f"{len(outside)} of {len(values)} readings of {name!r}{where} lie outside what training observed, "
                f"{ends[0]:.3g} to {ends[1]:.3g}; the first is {outside[0]:.6g}. Are the units those of the model?",
                ObservationWarning,
                stacklevel=4,
            )


@dataclass(frozen=True, repr=False)
class Conditional:
    """A Joint with something observed: one data set, or many along `batch_dim`."""

    joint: Joint
    observations: tuple[Observation, ...]
    labels: xr.DataArray | None
    batch_dim: str | None
    n_active_observed: Dial

    def __repr__(self) -> str:
        seen = [
            {k: n for k, c in o.channels.items() if (n := int(np.isfinite(c.value).sum()))} for o in self.observations
        ]
        many = "" if self.batch_dim is None else f"; {len(seen)} along {self.batch_dim!r}, the first"
        return f"Conditional({', '.join(self.joint.schema.names)}{many} given {seen[0] if seen else {}} readings)"

    def sample(
        self,
        n: int = 1_000,
        at: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        generator: torch.Generator | None = None,
        quality: str | SamplerConfig = DEFAULT_QUALITY,
        budget: Budget | None = None,
    ) -> xr.DataTree:
        """n independent draws of what was not observed.

        Args:
            n: number of draws, even: results have two chains of n/2.
            at: variable -> index points (numbers, dates, a slice of those held); scalars that were not observed come
                along. None: everything that was not observed, at the index points that the data hold.
            seed: equal seeds give equal draws; more draws change none of the first, nor do other data sets.
            generator: takes the place of `seed`, which is drawn from it.
            quality: "sde" (32 evaluations; forgets errors that the network makes early), "fast" (an ODE, 20), "exact"
                (an ODE, 48), "few" (4, of a Joint that `distill` has made), or a SamplerConfig.
            budget: limits of one network call.

        Returns:
            A DataTree with the groups `posterior` (`prior` if nothing was observed), `posterior_predictive`,
            `predictions`, `observed_data`, `constant_data`, `sample_stats`; dims chain, draw, the variable's own. Where
            functions with a reference set were drawn, `functions` holds what `extend` needs. The attribute `network`
            says which weights drew.

        Raises:
            ValueError: odd or too small n, nothing left to sample, unknown quality, points that make no sense.
        """
        if not isinstance(n, int | np.integer) or n < 2 or n % 2:
            raise ValueError(f"sample: expected an even number of draws >= 2 (two chains), got {n!r}.")
        if not isinstance(budget, Budget | None):
            raise ValueError(f"sample: expected budget=fsimformer.Budget(n_joint, max_tokens) or None, got {budget!r}.")
        config, model, schema = quality_named(quality), self.joint.model, self.joint.schema
        queries = []
        for o in self.observations:  # no comprehension: warnings count the frames up to the caller
            queries.append(query(schema, o, at))
        if not any(len(q) for q in queries):
            raise ValueError(nothing_asked(schema, self.observations, at))
        if generator is not None:
            seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device))
        is_function = torch.from_numpy(schema.uses_index().any(axis=1))
        drawn = draw_functions(
            model.denoiser,
            [observed_tokens(schema, model.whitening, o) for o in self.observations],
            [as_paths(schema, query_tokens(schema, q)) for q in queries],
            model.references(schema.references),
            is_function,
            is_parameter(schema) & ~is_function,
            n,
            config,
            seed,
            self.n_active_observed,
            budget or Budget(n_joint=model.max_latents),
        )
        z = [
            with_noise(schema, model.whitening, o, q, d.z, generator_at(seed, 4, i, 3))
            for i, (o, q, d) in enumerate(zip(self.observations, queries, drawn, strict=True))
        ]
        stats = {"seed": seed, "evaluations": config.evaluations, "sampler": config.method}
        groups = [functions_group(schema, model.whitening, d.knots, d.coefficients) for d in drawn]
        if self.labels is None or self.batch_dim is None:
            tree = to_tree(schema, model.whitening, self.observations[0], queries[0], z[0], stats)
            functions = groups[0]
        else:
            many = self.batch_dim, list(self.observations), queries, z
            tree = to_tree_many(schema, model.whitening, self.labels, *many, stats)
            functions = functions_group_many(groups, self.labels)
        if functions.data_vars:
            tree[GROUP] = xr.DataTree(functions)
        tree.attrs[NETWORK] = model.fingerprint
        return tree

    def extend(self, draws: xr.DataTree, at: Mapping[str, Any], *, budget: Budget | None = None) -> xr.DataTree:
        """The same draws of functions at other points: what `sample` would have given, had it been asked for them.

        Args:
            draws: a DataTree that `sample` or `extend` returned for this conditional, at any quality, today or from a
                file.
            at: function with a reference set -> index points, as for `sample`.
            budget: limits of one network call.

        Returns:
            The DataTree `draws` with these functions at the new points, in the group `posterior` (or `prior`), in the
            place of the old; all else is what it was, so that it can be extended again.

        Raises:
            KeyError, ValueError: a variable that is no function of the draws' group `functions`; draws of another
                observation or network, or of other data sets; points that make no sense.
        """
        return evaluate(self.joint.model, self.observations, self.labels, draws, at, budget)

    def log_prob(self, draws: xr.DataTree) -> xr.DataArray:
        """Log density of the parameters of draws given the observation, on the original scale.

        The joint density of everything in the group `posterior` (or `prior`), functions at the points drawn there. Data
        variables that were drawn beside are integrated out. The flow's divergence is exact, its solver good to about a
        tenth of a nat, nearly the same for all draws.

        Args:
            draws: a DataTree that `sample` returned for one data set.

        Returns:
            (chain, draw).

        Raises:
            KeyError, ValueError: draws of other parameters, of several data sets, or of so many values that `sample`
                draws them in stages.
        """
        return log_prob(self.joint.model, self._only(), self.n_active_observed, draws)

    def refine(
        self,
        draws: xr.DataTree,
        log_likelihood: LogLikelihood,
        n: int | None = None,
        *,
        seed: int = 0,
    ) -> xr.DataTree:
        """Draws resampled by the weights p(x | θ) p(θ) / q(θ | x): from the network's posterior to the exact one.

        Wherever the likelihood can be computed, the network is the proposal of an importance sampler (arXiv
        1507.02646 for the smoothing of its weights). Sample with at={} and quality="exact", several times as many draws
        as are to be kept: they repeat where there are more of them than the weights are worth. Trust the result where
        `pareto_k` is below 0.7 and `ess` is some hundreds; where it is tens, draw more.

        Args:
            draws: a DataTree that `sample` returned for this conditional, parameters only.
            log_likelihood: a Dataset of parameters (dims chain, draw) to log p(x | θ), one a draw; for a simulator with
                known noise `fsimformer.log_likelihood(simulator, observed)`.
            n: draws to keep, an even number; by default as many as the weights are worth (ess), at most all.
            seed: of the resampling.

        Returns:
            The tree with n draws; `sample_stats` says method, ess and pareto_k.

        Raises:
            KeyError, ValueError: draws of other parameters, of another observation, of several data sets, of data
                beside, or refined before; a parameter that is a function, has parents or has no prior in the schema
                (the others are taken to be independent a priori); log likelihoods of another shape, NaN, or all −inf.

        Warns:
            ObservationWarning: the weights cannot be trusted (Pareto k above 0.7); draws of another law than the
                density they are weighed by (quality="sde").
        """
        return refine(self.joint.model, self._only(), self.n_active_observed, draws, log_likelihood, n, seed)

    def _only(self) -> Observation:
        if self.labels is not None or len(self.observations) != 1:
            raise ValueError("log_prob and refine take one data set: condition on one of them without batch_dim.")
        return self.observations[0]
