"""`Joint`, `Conditional`, `load`: the face of the package. It wires the rooms and decides nothing itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from fsimformer.check import check as check_joint
from fsimformer.constrained import NONE, Constraints, draw_request
from fsimformer.constraints import Constraint
from fsimformer.convert import Observation, read_many, to_tree, to_tree_many
from fsimformer.convert import read as read_observation
from fsimformer.density import log_density
from fsimformer.devices import require_device
from fsimformer.doubts import warn_of
from fsimformer.evaluate import evaluate
from fsimformer.function_tree import GROUP, functions_group, functions_group_many
from fsimformer.mode import mode as conditional_mode
from fsimformer.model_file import Model, find_model, load_model, save_model
from fsimformer.points import zero_dates
from fsimformer.precision import precision_named
from fsimformer.refine import LogLikelihood, parameters, refine
from fsimformer.request import Request
from fsimformer.sample import DEFAULT_QUALITY, SamplerConfig
from fsimformer.schema import Schema
from fsimformer.stages import Budget
from fsimformer.surprise import surprise as joint_surprise
from fsimformer.tokens import Dial, more_ride, require_dial
from fsimformer.unusual import p_values

DEFAULT_DIAL = "default"


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

    def to(self, device: str, precision: str = "float32") -> Joint:
        """A copy of this Joint whose network runs on another device ("cuda", "cpu"); draws come back to the CPU.

        Args:
            precision: of its products; "bfloat16" is for GPUs that have units for it. Log densities need "float32".

        Raises:
            ValueError: no such device or precision.
        """
        require_device(device)
        lower = precision_named(precision)
        denoiser = copy.deepcopy(self.model.denoiser).to(device)
        for one in (denoiser, denoiser.flow_map):
            if one is not None:
                one.network.precision = lower
        return Joint(replace(self.model, denoiser=denoiser))

    def save(self, path: str | Path) -> None:
        """Write the model's directory (weights.safetensors, model.json)."""
        save_model(self.model, path)

    def log_prob(self, values: xr.Dataset, *, tolerance: float = 0.02) -> xr.DataArray:
        """Joint log density of values of any variables, as `Conditional.log_prob` of nothing observed."""
        return self.condition(None).log_prob(values, tolerance=tolerance)

    def condition(
        self,
        observed: Any = None,
        *,
        batch_dim: str | None = None,
        origin: Any = None,
        n_active_observed: int | str | None = DEFAULT_DIAL,
        judge: bool = True,
    ) -> Conditional:
        """The conditional distribution given what is finite in `observed`.

        Args:
            observed: Dataset, DataArray, dict of these, long DataFrame (index, variable, value), or None for the
                prior. A finite value is observed; NaN is not. Dates are read by the index's units.
            batch_dim: a dim (or a frame's column) along which independent, ragged data sets lie.
            origin: date that index 0 stands for; default: the schema's, else the earliest coordinate, which the result
                then says (`repr`, and the attribute `index_origin` of draws).
            n_active_observed: observed tokens that attend with the noise level (accuracy against cost, design.md D1);
                default: the model's; None = all of them; "few" = all of them in data sets that have at most 8. How well
                a setting does depends on whether training had it (`joint.provenance["train"]["dial"]`).
            judge: compare every data set with those that training held out; some milliseconds each. Its p-value, a
                share of simulations in steps of 1/200, is `Conditional.p_surprise` and in every tree's `sample_stats`.
                `surprise` asks more exactly.

        Raises:
            KeyError: unknown variable; ValueError: values outside a support, infinite, or of no numeric type; readings
                in the active stream that are to be compressed.

        Warns:
            ObservationWarning: more readings than training had, or values and places that it did not observe; more
                data sets with p_surprise <= .01 than chance has; other readings than those for which sequential
                training refined this Joint.
        """
        schema = self.schema
        if batch_dim is None:
            labels, observations = None, [read_observation(schema, observed, origin=origin)]
        else:
            labels, observations = read_many(schema, observed, batch_dim, origin=origin)
        dial = require_dial(self.model.n_active_observed if n_active_observed == DEFAULT_DIAL else n_active_observed)
        self._require_frozen(observations, dial)
        p = p_values(self.model, observations) if judge else None
        warn_of(self.model, observations, None if labels is None else labels.values, p, stacklevel=3)
        return Conditional(
            self, tuple(observations), labels, batch_dim, dial, p_surprise=None if p is None else tuple(p.tolist())
        )

    def _require_frozen(self, observations: list[Observation], dial: Dial) -> None:
        """Long observations are compressed, not attended to reading by reading."""
        network = self.model.denoiser.network.config
        if not network.inducing or not more_ride(dial, network.compress_above):
            return
        most = max(sum(int(np.isfinite(c.value).sum()) for c in o.channels.values()) for o in observations)
        if most > network.compress_above:
            raise ValueError(
                f"n_active_observed: {dial!r} lets {most} readings attend to each other, and this network compresses "
                f"more than {network.compress_above}. Choices: 'few', or a number up to {network.compress_above}."
            )

    check = check_joint  # is it to be believed?
    surprise = joint_surprise  # is an observation unlike all simulated ones?


@dataclass(frozen=True, repr=False)
class Conditional:
    """A Joint with something observed: one data set, or many along `batch_dim`."""

    joint: Joint
    observations: tuple[Observation, ...]
    labels: xr.DataArray | None
    batch_dim: str | None
    n_active_observed: Dial
    constraints: Constraints = NONE
    p_surprise: tuple[float, ...] | None = None

    def __repr__(self) -> str:
        seen = [
            {k: n for k, c in o.channels.items() if (n := int(np.isfinite(c.value).sum()))} for o in self.observations
        ]
        many = "" if self.batch_dim is None else f"; {len(seen)} along {self.batch_dim!r}, the first"
        zero = "".join(f"; {text}" for text in zero_dates(self.observations)[1])
        return f"Conditional({', '.join(self.joint.schema.names)}{many} given {seen[0] if seen else {}} readings{zero})"

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
            seed: equal seeds give equal draws; more draws change none of the first, nor do other data sets. Calls for
                several data sets share their noise if they share their seed: pass another to each, or all at once.
            generator: takes the place of `seed`, which is drawn from it.
            quality: "sde" (32 evaluations; forgets errors that the network makes early), "fast" (an ODE, 20), "exact"
                (an ODE, 48), "few" (4, of a Joint that `distill` has made), or a SamplerConfig.
            budget: limits of one network call.

        Returns:
            A DataTree with the groups `posterior` (`prior` if nothing was observed), `posterior_predictive`,
            `predictions`, `observed_data`, `constant_data`, `sample_stats`; dims chain, draw, the variable's own. Where
            functions with a reference set were drawn, `functions` holds what `extend` needs. The attribute `network`
            says which weights drew, `flow_map` which those of `distill` were, `index_origin` the date of index 0.

        Raises:
            ValueError: odd or too small n, nothing left to sample, unknown quality, points that make no sense.
        """
        asked = n, at, seed, generator, quality, self.n_active_observed, budget
        request = Request.of(self.joint.model, self.observations, *asked)
        model, schema = self.joint.model, self.joint.schema
        drawn, stats = draw_request(request, self.constraints, self.labels is not None)
        stats = {**stats, **self._judged()}
        groups = [functions_group(schema, model.whitening, d.knots, d.coefficients) for d in drawn]
        if self.labels is None or self.batch_dim is None:
            only = self.observations[0], request.queries[0], drawn[0].z
            tree = to_tree(schema, model.whitening, *only, stats)
            functions = groups[0]
        else:
            many = self.batch_dim, list(self.observations), list(request.queries), [d.z for d in drawn]
            tree = to_tree_many(schema, model.whitening, self.labels, *many, stats)
            functions = functions_group_many(groups, self.labels)
        if functions.data_vars:
            tree[GROUP] = xr.DataTree(functions)
        tree.attrs |= request.attributes
        return tree

    def constrain(
        self, *constraints: Constraint, method: str | None = None, max_draws: int | None = None
    ) -> Conditional:
        """This conditional under constraints, all of which every draw satisfies.

        Args:
            constraints: `fsimformer.Between` (of a variable, or of an Integral, Average or Difference) and
                `fsimformer.Potential` (anything that can be said of a Dataset of draws); those before hold on.
            method: "rejection" (exact), "smc" (as exact as its particles are many), "guidance" (approximate), or
                "auto": the first of these that is worth it. `sample_stats` says which it was, its acceptance, effective
                number of draws, how many are distinct, and the log probability of the constraints. By rejection alone
                do more draws change none of the first. None: as before, "auto" at first.
            max_draws: that rejection may try for one data set; None: as before, 200,000 at first.

        Raises, when draws are asked for:
            KeyError, TypeError, ValueError: constraints that make no sense, contradict what was observed, or that no
                draw was found to satisfy.
        """
        return replace(self, constraints=self.constraints.and_of(constraints, method, max_draws))

    def sample_to(
        self,
        path: str | Path,
        n: int = 1_000,
        at: Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        quality: str | SamplerConfig = DEFAULT_QUALITY,
        budget: Budget | None = None,
        batch: int | None = None,
        callback: Callable[[int, int], None] | None = None,
    ) -> xr.DataTree:
        """As `sample`, for more data sets than fit into memory: some at a time, into a Zarr store (streamed.py).

        The same call goes on where one was interrupted, killed or cut off; the store is there as soon as it is whole.

        Args:
            path: the store's directory; what is not finished lies beside it, in `.<name>.writing`.
            n, at, seed, quality, budget: as for `sample`; so are the draws, up to rounding.
            batch: data sets that are drawn and written together, what memory must hold; None = by their size.
            callback: called with how many data sets are done, and of how many.

        Returns:
            The tree that `sample` gives, opened from the store: draws are read when they are asked for. Its attribute
            `request` says what was asked.

        Raises:
            ValueError: one data set without a batch dim; a store of another request (network, observations, points, n,
                seed, quality, batch); as `sample`. FileExistsError: something else is there. BlockingIOError: another
                process writes it. ImportError: without the extra `archive`.
        """
        if self.labels is None:
            raise ValueError("sample_to: expected many data sets, condition(..., batch_dim=...); sample draws of one.")
        if self.constraints.of:
            raise ValueError("sample_to: draws under constraints are had by `sample`.")
        from fsimformer.streamed import stream  # needs an extra

        asked = n, at, seed, None, quality, self.n_active_observed, budget
        request = Request.of(self.joint.model, self.observations, *asked)
        return stream(request, self.labels, Path(path), batch, callback, self._judged())

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

    def log_prob(self, values: xr.DataTree | xr.Dataset, *, tolerance: float = 0.02) -> xr.DataArray:
        """Joint log density of values of what was not observed, on the original scale; all else is integrated out.

        Args:
            values: draws of one data set, their parameters meant (functions at the points drawn), or a Dataset
                of any variables, functions at its coordinates; dims besides the variables' own are samples. A value
                of a series where one was observed is a second reading's.
            tolerance: of the solver, nats a value. The divergence is exact, of blocks of values (density.py).

        Returns:
            (chain, draw), or the Dataset's sample dims; attributes say how many values, blocks and steps it took.

        Raises:
            KeyError, ValueError: values of unknown variables, of observed parameters, off their support, NaN.

        Warns:
            ObservationWarning: the tolerance was not reached.
        """
        group = parameters(values) if isinstance(values, xr.DataTree) else values
        return log_density(self.joint.model, self._only(), self.n_active_observed, group, tolerance)

    def refine(
        self, draws: xr.DataTree, log_likelihood: LogLikelihood, n: int | None = None, *, seed: int = 0
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

    mode = conditional_mode  # the likeliest values

    def _judged(self) -> dict[str, Any]:
        """What `sample_stats` says of the observations themselves."""
        if self.p_surprise is None or np.isnan(self.p_surprise).all():
            return {}
        return {"p_surprise": self.p_surprise[0] if self.labels is None else np.array(self.p_surprise)}

    def _only(self) -> Observation:
        if self.constraints.of:
            raise ValueError("log_prob, mode and refine know nothing of constraints: ask the conditional without them.")
        if self.labels is not None or len(self.observations) != 1:
            raise ValueError("log_prob, mode and refine take one data set: condition on one of them without batch_dim.")
        return self.observations[0]
