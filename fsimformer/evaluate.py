"""Draws of functions at other points, from what a result keeps of them: see `Conditional.extend`.

What is solved between the knots hangs on the knots, the scalar parameters, the coefficients of ε and the network alone,
not on the sampler's quality, nor on how many draws or points there are: draws of any preset can be extended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr

from fsimformer.convert import (
    Observation,
    drawn_query,
    drawn_values,
    observed_tokens,
    query,
    query_tokens,
    to_tree,
    to_tree_many,
)
from fsimformer.extension import Given, extend, knot_tokens
from fsimformer.function_tree import GROUP, read_group
from fsimformer.model_file import Model
from fsimformer.points import Query
from fsimformer.refine import parameters, require_own_draws
from fsimformer.schema import Schema
from fsimformer.stages import Budget
from fsimformer.tokens import TokenSet, join
from fsimformer.tree import without_padding


def evaluate(
    model: Model,
    observations: Sequence[Observation],
    labels: xr.DataArray | None,
    draws: xr.DataTree,
    at: Mapping[str, Any],
    budget: Budget | None,
) -> xr.DataTree:
    """The draws with their functions at the points of `at`; all else is what it was.

    Args:
        observations, labels: one data set and None, or many and their labels along the batch dim.
    """
    parameters(draws)  # it is a tree of draws
    if not at:
        raise ValueError("extend: expected a function with a reference set and its new points, got an empty `at`.")
    if labels is None:
        parts = [draws]
    else:
        parts = [_one(draws, str(labels.dims[0]), i, len(labels)) for i in range(len(labels))]
    queries = []
    for observation, part in zip(observations, parts, strict=True):  # no comprehension: warnings count the frames
        queries.append(_asked(model, observation, part, at))
    zs = [_values(model, o, part, q, budget) for o, part, q in zip(observations, parts, queries, strict=True)]
    if labels is None:
        new = to_tree(model.schema, model.whitening, observations[0], queries[0], zs[0], {})
    else:
        many = str(labels.dims[0]), observations, queries, zs
        new = to_tree_many(model.schema, model.whitening, labels, *many, {})
    out = draws.copy()
    # a data set without readings, cut out of a batch with some, is a prior alone and was called a posterior there
    old, own = ("posterior" if "posterior" in tree.children else "prior" for tree in (draws, new))
    out[old] = xr.DataTree(_replaced(model.schema, draws[old].to_dataset(), new[own].to_dataset()))
    return out


def _replaced(schema: Schema, old: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """The old group with the new functions in the place of its own; what it keeps stays where it is, so a function at
    other points than those called `time` lies along `time_<function>`."""
    out = old.drop_vars([name for name in new.data_vars if name in old])
    used = {d for v in out.data_vars.values() for d in (*v.dims, *v.coords)}
    out = out.drop_vars([c for c in out.coords if c not in used])
    for name in new.data_vars:
        one = new[[name]]
        plain = [d for d in (*schema.index_dims(str(name)), "point") if d in one.coords or d in one.dims]
        there = [d for d in plain if d in out.coords or d in out.dims]
        same = all(d in out.coords and out[d].variable.equals(one[d].variable) for d in plain if d in one.coords)
        if there and not same:
            one = one.rename({d: f"{d}_{name}" for d in plain})
        out = out.merge(one, join="exact", compat="equals")
    return out[[name for name in schema.names if name in out]]


def _one(draws: xr.DataTree, dim: str, i: int, n: int) -> xr.DataTree:
    """Data set i of draws of a batch."""
    sizes = {node.sizes[dim] for node in draws.children.values() if dim in node.sizes}
    if sizes != {n}:
        raise ValueError(
            f"extend: expected draws of {n} data sets along {dim!r}, got {sorted(sizes) or 'no such dim'}."
        )
    cut = {f"/{k}": node.to_dataset().isel({dim: i}, missing_dims="ignore") for k, node in draws.children.items()}
    out = xr.DataTree.from_dict(cut)
    out.attrs = dict(draws.attrs)
    return out


def _asked(model: Model, observation: Observation, draws: xr.DataTree, at: Mapping[str, Any]) -> Query:
    """The functions at new points."""
    require_own_draws(model, observation, draws, "extend")
    held = [name for name in model.schema.references if name in _functions(draws)]
    if strangers := [name for name in at if name not in held]:
        hint = (
            "" if held else " Only functions with a reference set, Variable(..., reference=9), have one; sample anew."
        )
        raise ValueError(f"extend: {strangers} are no functions that these draws hold. Functions: {held}.{hint}")
    everything = query(model.schema, observation, at, stacklevel=5)
    return Query({k: everything.points[k] for k in at}, {k: everything.replicate[k] for k in at})


def _functions(draws: xr.DataTree) -> xr.Dataset:
    return without_padding(draws[GROUP].to_dataset()) if GROUP in draws.children else xr.Dataset()


def _values(
    model: Model, observation: Observation, draws: xr.DataTree, asked: Query, budget: Budget | None
) -> torch.Tensor:
    """Whitened values (n, len(asked))."""
    schema, n_index = model.schema, len(model.schema.indexes)
    group = _functions(draws)
    knots, coefficients = read_group(schema, model.whitening, group)
    references = {r.id: r for r in model.references([name for name in schema.references if name in group])}
    scalars, z = _scalars(model, observation, draws)
    known = join(scalars, *(knot_tokens(r, n_index) for r in references.values()))
    values = torch.cat([z, *(knots[id] for id in references)], 1).float()
    given = Given(observed_tokens(schema, model.whitening, observation), known, values)
    wanted = query_tokens(schema, asked)
    out = torch.zeros(len(values), len(wanted), dtype=torch.float64)
    limits = budget or Budget(n_joint=model.max_latents)
    for id in wanted.variable.unique().tolist():
        here, r = wanted.variable == id, references[id]
        where = wanted.index[here][:, list(r.dims)]
        out[:, here] = extend(model.denoiser, given, r, knots[id], coefficients[id], where, n_index, limits)
    return out


def _scalars(model: Model, observation: Observation, draws: xr.DataTree) -> tuple[TokenSet, torch.Tensor]:
    """The scalar and vector parameters that were drawn, as tokens, and their whitened values (n, ·)."""
    schema, drawn = model.schema, parameters(draws)
    names = [v.name for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name)]
    known = drawn_query(schema, observation, drawn[[name for name in names if name in drawn]])
    n = drawn.sizes["chain"] * drawn.sizes["draw"]
    z = drawn_values(schema, model.whitening, known, drawn)[0] if len(known) else torch.zeros(n, 0).double()
    return query_tokens(schema, known), z
