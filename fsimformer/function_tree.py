"""The group `functions` of a result: what a draw of a function is made of, so that it can be evaluated later.

For every function f with a reference set: `f` (chain, draw, [component], knots along its own dims) on the original
scale, and `noise_f` (chain, draw, [component], feature), the coefficients of its noise function. The coordinates of the
knots are in units of the index. Draws of many data sets have the batch dim after `draw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from fsimformer.schema import Index, Schema
from fsimformer.whiten import Whitening

GROUP = "functions"


def functions_group(
    schema: Schema, whitening: Whitening, knots: Mapping[int, Tensor], coefficients: Mapping[int, Tensor]
) -> xr.Dataset:
    """The group, of the functions that were drawn.

    Args:
        knots: id -> (n, M) whitened values. coefficients: id -> (n, 2·features). n even, the first half is chain 0.
    """
    data: dict[str, xr.Variable] = {}
    coords: dict[str, tuple[str, np.ndarray]] = {}
    for name in schema.references:
        ids, component = schema.ids(name), schema.component_dim(name)
        if not set(ids) <= set(knots):
            continue
        shape = schema[name].reference
        dims = [f"{d}_{name}" for d in schema.index_dims(name)]
        for d, own, n in zip(schema.index_dims(name), dims, shape, strict=True):
            index = schema.dim(d)
            assert isinstance(index, Index)
            coords[own] = (own, np.linspace(index.lower, index.upper, n))
        parts = [whitening.part(name, c).inverse(knots[id].double()) for c, id in enumerate(ids)]
        lead = ("chain", "draw", *(() if component is None else (component,)))
        for key, tensors, own_dims, sizes in (
            (name, parts, tuple(dims), shape),
            (f"noise_{name}", [coefficients[id] for id in ids], (f"feature_{name}",), (-1,)),
        ):
            x = torch.stack(tensors, 1).numpy()
            x = x.reshape(2, len(x) // 2, *(() if component is None else (len(ids),)), *sizes)
            data[key] = xr.Variable((*lead, *own_dims), x)
    return xr.Dataset(data, coords)


def functions_group_many(groups: Sequence[xr.Dataset], batch: xr.DataArray) -> xr.Dataset:
    """The groups of many data sets along the dim of `batch`, their labels, after `chain` and `draw`; NaN where a data
    set has no draws of a function."""
    dim = str(batch.dims[0])
    names = dict.fromkeys(name for group in groups for name in group.data_vars)
    data = {}
    for name in names:
        like = next(group[name] for group in groups if name in group)
        parts = [group.get(name, xr.full_like(like, np.nan)).variable for group in groups]
        data[name] = xr.Variable.concat(parts, dim).transpose("chain", "draw", dim, ...)
    coords = {k: v for group in groups for k, v in group.coords.items()}
    coords |= {dim: batch.coords[dim].variable} if dim in batch.coords else {}
    return xr.Dataset(data, coords)


def read_group(schema: Schema, whitening: Whitening, group: xr.Dataset) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Inverse of `functions_group`: knots (n, M) whitened, float64, and coefficients (n, 2·features), by id.

    Raises:
        KeyError: a function without its noise.
        ValueError: other knots than the model's, or values that are NaN or off their support.
    """
    knots: dict[int, Tensor] = {}
    coefficients: dict[int, Tensor] = {}
    for name in (n for n in schema.references if n in group):
        if f"noise_{name}" not in group:
            raise KeyError(f"The group {GROUP!r} holds {name!r} but not 'noise_{name}': it cannot be evaluated.")
        component = schema.component_dim(name)
        lead = ["chain", "draw", *([] if component is None else [component])]
        dims = [f"{d}_{name}" for d in schema.index_dims(name)]
        found = {d: group.sizes.get(d, 0) for d in dims}
        if tuple(found.values()) != schema[name].reference:
            raise ValueError(f"{name!r}: expected its values at {schema[name].reference} knots, got {found}.")
        x = torch.from_numpy(group[name].transpose(*lead, *dims).to_numpy().astype(np.float64))
        noise = torch.from_numpy(group[f"noise_{name}"].transpose(*lead, ...).to_numpy())
        n = x.shape[0] * x.shape[1]
        for c, id in enumerate(schema.ids(name)):
            own, its_noise = (a if component is None else a[:, :, c] for a in (x, noise))
            z = whitening.part(name, c).forward(own.reshape(n, -1))
            if not bool(torch.isfinite(z).all()):
                raise ValueError(
                    f"{name!r}: some values at its knots are NaN, or lie at or off an end of their support."
                )
            knots[id], coefficients[id] = z, its_noise.reshape(n, -1)
    return knots, coefficients
