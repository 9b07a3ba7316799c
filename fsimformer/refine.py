"""The density of draws on the original scale, and importance weights from the network's posterior to the exact one.

    log q(θ | x) = log q(z | x) − Σ log |dθ/dz|,   z whitened,
    w ∝ p(x | θ) p(θ) / q(θ | x) = p(x | θ) N(z; 0, I) / q(z | x),

the second line because a parameter is whitened by its prior's CDF: its z is N(0, 1) under the prior, and the Jacobians
cancel. One data set at a time; what the methods of `Conditional` call.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import xarray as xr
from torch import Tensor

from fsimformer.convert import (
    Observation,
    ObservationWarning,
    drawn_query,
    drawn_values,
    observed_tokens,
    query_tokens,
    resampled,
)
from fsimformer.flow_map import FLOW_MAP
from fsimformer.importance import TRUSTED_K, resample, smoothed_weights
from fsimformer.likelihood import query_log_prob
from fsimformer.model_file import NETWORK, Model
from fsimformer.points import Query
from fsimformer.sample import STOCHASTIC
from fsimformer.tokens import Dial
from fsimformer.tree import without_padding

IMPORTANCE = "importance"  # the `method` of draws that were refined

LogLikelihood = Callable[[xr.Dataset], xr.DataArray]


def refine(
    model: Model,
    observation: Observation,
    dial: Dial,
    draws: xr.DataTree,
    log_likelihood: LogLikelihood,
    n: int | None,
    seed: int,
) -> xr.DataTree:
    """Draws resampled by their weights; see `Conditional.refine`."""
    if n is not None and (n < 2 or n % 2):
        raise ValueError(f"refine: expected an even number of draws >= 2 (two chains), got {n}.")
    group = parameters(draws)
    _require_proposals(model, observation, draws)
    sampler = draws["sample_stats"].to_dataset().get("sampler") if "sample_stats" in draws.children else None
    if sampler is not None and str(sampler.item()) in STOCHASTIC | {FLOW_MAP}:
        warnings.warn(
            f"refine: the draws are those of the sampler {sampler.item()!r}, and they are weighed by the density of "
            "the ODE: where the network errs the two differ, and so do the weights. Sample with quality='exact'.",
            ObservationWarning,
            stacklevel=3,
        )
    query, z, _ = _asked(model, observation, group)
    variables = [model.schema[name] for name in query.points]
    if bare := [v.name for v in variables if v.prior is None or v.parents or model.schema.is_function(v.name)]:
        raise ValueError(f"refine: expected scalars and vectors with a prior and no parents, got {bare}.")
    likelihood = _likelihoods(log_likelihood(group), _shape(group))
    prior = -0.5 * (z**2).sum(1).numpy()  # constants cancel
    weights = smoothed_weights(likelihood + prior - _density(model, observation, dial, query, z))
    if not weights.pareto_k <= TRUSTED_K:
        warnings.warn(
            f"refine: the weights are uneven (Pareto k {weights.pareto_k:.2f}, effective draws {weights.ess:.0f} "
            f"of {len(likelihood)}): do not use them. More draws are needed, or the network is too far from the "
            "posterior, or the data are unlike anything that the prior produces.",
            ObservationWarning,
            stacklevel=3,
        )
    worth = min(len(likelihood), max(2, 2 * int(weights.ess / 2)))
    chosen = resample(weights.weight, worth if n is None else n, np.random.default_rng(seed))
    return resampled(draws, chosen, {"method": IMPORTANCE, "ess": weights.ess, "pareto_k": weights.pareto_k})


def parameters(draws: xr.DataTree) -> xr.Dataset:
    """The group of parameters of a tree of draws of one data set, be it cut out of a batch.

    Raises:
        KeyError: there is none.
        ValueError: not a tree.
    """
    if not isinstance(draws, xr.DataTree):
        raise ValueError(f"draws: expected the DataTree that `sample` returned, got {type(draws).__name__}.")
    for name in ("posterior", "prior"):
        if name in draws.children:
            return without_padding(draws[name].to_dataset())
    raise KeyError(f"The draws hold no group 'posterior' or 'prior'; they hold {list(draws.children)}.")


def _asked(model: Model, observation: Observation, group: xr.Dataset) -> tuple[Query, Tensor, Tensor]:
    """The query that the draws answer, their whitened values (n, L) and log determinants (n,)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ObservationWarning)  # `sample` has warned of these points already
        query = drawn_query(model.schema, observation, group)
    if by_knots := [name for name in model.schema.references if name in query.points]:
        raise ValueError(
            f"refine: {by_knots} are drawn through their reference sets, which has no joint density at other points; "
            "sample with at={} for the scalars alone."
        )
    if len(query) > model.max_latents:
        raise ValueError(
            f"refine: {len(query)} values a draw; beyond {model.max_latents} the network draws in stages, and their "
            "joint density is not to be had from one solve."
        )
    return query, *drawn_values(model.schema, model.whitening, query, group)


def _density(model: Model, observation: Observation, dial: Dial, query: Query, z: Tensor) -> np.ndarray:
    observed, latents = observed_tokens(model.schema, model.whitening, observation), query_tokens(model.schema, query)
    density: np.ndarray = query_log_prob(model.denoiser, observed, latents, z, dial).numpy()
    if lost := int(np.isnan(density).sum()):
        raise ValueError(
            f"refine: the solver of the network's density failed for {lost} of {len(density)} draws. Are they this "
            "network's own, and its weights finite?"
        )
    return density


def _require_proposals(model: Model, observation: Observation, draws: xr.DataTree) -> None:
    """The draws are the network's own, of the parameters alone, given this observation."""
    if beside := [name for name in ("posterior_predictive", "predictions") if name in draws.children]:
        raise ValueError(
            f"refine: the draws hold {beside}; parameters drawn beside data have another law than those weighed here. "
            "Sample with at={}."
        )
    if "sample_stats" in draws.children and "method" in draws["sample_stats"]:
        method = str(draws["sample_stats"]["method"].to_numpy())
        raise ValueError(
            "refine: these draws were refined before; weights apply once."
            if method == IMPORTANCE
            else f"refine: these draws are under constraints ({method}), of which the weights know nothing."
        )
    require_own_draws(model, observation, draws, "refine")


def require_own_draws(model: Model, observation: Observation, draws: xr.DataTree, what: str) -> None:
    """The draws are this network's, given this observation. Of draws that do not say whose they are nothing is asked.

    Raises:
        ValueError: another's, or given another observation, or several; `what` is who asks.
    """
    _require_one(model, parameters(draws), what)
    _require_same_observation(model, observation, draws, what)
    found, expected = draws.attrs.get(NETWORK), model.fingerprint
    if found is not None and found != expected:
        raise ValueError(
            f"{what}: the draws are another network's (attribute {NETWORK!r}: {found}, this one is {expected}). Load "
            "the model that drew them, or draw anew."
        )


def _require_one(model: Model, group: xr.Dataset, what: str) -> None:
    for name, draws in group.data_vars.items():
        own = ("point", *model.schema[str(name)].dims)
        known = {"chain", "draw", *own, *(f"{d}_{name}" for d in own)}
        if strange := [str(d) for d in draws.dims if d not in known]:
            raise ValueError(
                f"{what}: {name!r} holds draws of several data sets, dims {draws.dims}; take those of one, "
                f"draws.sel({strange[0]}=...)."
            )


def _require_same_observation(model: Model, observation: Observation, draws: xr.DataTree, what: str) -> None:
    held = draws["observed_data"].to_dataset() if "observed_data" in draws.children else xr.Dataset()
    held = without_padding(held)
    for name, channel in observation.channels.items():
        values = channel.value[np.isfinite(channel.value)]
        if not len(values):
            continue
        if not (name in held and np.array_equal(held[name].to_numpy().reshape(-1), values)):
            raise ValueError(f"{what}: the draws were not conditioned on these readings of {name!r}.")
        labels = channel.points.take(np.isfinite(channel.value)).labels
        for d in model.schema.index_dims(name):
            coord = next((held.coords[k] for k in (f"{d}_{name}", d) if k in held.coords), None)
            if coord is not None and not _same_places(coord.broadcast_like(held[name]).to_numpy(), labels[d]):
                raise ValueError(f"{what}: the draws were conditioned on {name!r} at other places along {d!r}.")
    observed = {name for name, channel in observation.channels.items() if np.isfinite(channel.value).any()}
    if more := [str(k) for k, x in held.data_vars.items() if k not in observed and np.isfinite(x.to_numpy()).any()]:
        raise ValueError(f"{what}: the draws were conditioned on {more} as well; condition on the same observation.")


def _same_places(a: np.ndarray, b: np.ndarray) -> bool:
    """Labels of the same points; of another kind (dates on one side, numbers on the other) they cannot be compared."""
    a = a.reshape(-1)
    if a.dtype.kind in "iuf" and b.dtype.kind in "iuf":
        return len(a) == len(b) and np.allclose(a, b, rtol=1e-9, atol=0)
    return a.dtype.kind != b.dtype.kind or np.array_equal(a, b)


def _likelihoods(value: xr.DataArray, shape: tuple[int, int]) -> np.ndarray:
    if not isinstance(value, xr.DataArray) or set(value.dims) != {"chain", "draw"}:
        raise ValueError(f"refine: expected log likelihoods as a DataArray (chain, draw), got {type(value).__name__}.")
    array = value.transpose("chain", "draw").to_numpy().astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"refine: expected a log likelihood for each (chain, draw), {shape}, got {array.shape}.")
    if wrong := int((np.isnan(array) | np.isposinf(array)).sum()):
        raise ValueError(f"refine: {wrong} of {array.size} log likelihoods are NaN or +inf; −inf means impossible.")
    return array.reshape(-1)


def _shape(group: xr.Dataset) -> tuple[int, int]:
    return group.sizes["chain"], group.sizes["draw"]


def _labels(group: xr.Dataset) -> dict[str, np.ndarray]:
    return {d: group[d].to_numpy() for d in ("chain", "draw") if d in group.coords}
