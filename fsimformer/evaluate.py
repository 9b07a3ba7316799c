"""Draws of functions at other points, from what a result keeps of them: see `Conditional.extend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr

from fsimformer.convert import Observation, drawn_query, drawn_values, observed_tokens, query, query_tokens, to_tree
from fsimformer.extension import Given, extend, knot_tokens
from fsimformer.function_tree import GROUP, read_group
from fsimformer.model_file import Model
from fsimformer.points import Query
from fsimformer.refine import parameters, require_same_observation
from fsimformer.stages import Budget
from fsimformer.tokens import TokenSet, join


def evaluate(
    model: Model, observation: Observation, draws: xr.DataTree, at: Mapping[str, Any], budget: Budget | None
) -> xr.DataTree:
    """The functions of `draws` at the points of `at`."""
    schema, n_index = model.schema, len(model.schema.indexes)
    require_same_observation(observation, draws, "extend")
    group = draws[GROUP].to_dataset() if GROUP in draws.children else xr.Dataset()
    held = [name for name in schema.references if name in group]
    if strangers := [name for name in at if name not in held]:
        raise ValueError(f"extend: {strangers} are no functions that these draws hold. Functions: {held}.")
    knots, coefficients = read_group(schema, model.whitening, group)
    references = {r.id: r for r in model.references(held)}
    scalars, z = _scalars(model, observation, draws)
    known = join(scalars, *(knot_tokens(r, n_index) for r in references.values()))
    values = torch.cat([z, *(knots[id] for id in references)], 1).float()
    given = Given(observed_tokens(schema, model.whitening, observation), known, values)
    everything = query(schema, observation, at)
    asked = Query({k: everything.points[k] for k in at}, {k: everything.replicate[k] for k in at})
    wanted = query_tokens(schema, asked)
    out = torch.zeros(len(values), len(wanted), dtype=torch.float64)
    for id in wanted.variable.unique().tolist():
        here, r = wanted.variable == id, references[id]
        where = wanted.index[here][:, list(r.dims)]
        limits = budget or Budget(n_joint=model.max_latents)
        out[:, here] = extend(model.denoiser, given, r, knots[id], coefficients[id], where, n_index, limits)
    return to_tree(schema, model.whitening, observation, asked, out, {})


def _scalars(model: Model, observation: Observation, draws: xr.DataTree) -> tuple[TokenSet, torch.Tensor]:
    """The scalar and vector parameters that were drawn, as tokens, and their whitened values (n, ·)."""
    schema, drawn = model.schema, parameters(draws)
    names = [v.name for v in schema.variables if v.role == "parameter" and not schema.is_function(v.name)]
    known = drawn_query(schema, observation, drawn[[name for name in names if name in drawn]])
    n = drawn.sizes["chain"] * drawn.sizes["draw"]
    z = drawn_values(schema, model.whitening, known, drawn)[0] if len(known) else torch.zeros(n, 0).double()
    return query_tokens(schema, known), z
