"""Sizes that a model's card states, read and checked before memory is spent on them: a card may say anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsimformer.folder import CARD, WEIGHTS, require_keys
from fsimformer.nn import NetworkConfig
from fsimformer.schema import Schema
from fsimformer.typed import require_types

_MOST_KNOTS = 100_000  # all knots of a function are drawn together
_MOST_SIZE = 100_000  # of anything in a network
# the network's settings that older cards lack, as their networks are built
_ADDED = {"distance_decay": False, "inducing": 0, "compress_above": 2048, "most_readings": 0}


def read_network(settings: Mapping[str, Any], path: Path) -> NetworkConfig:
    """The network's config from a card.

    Raises:
        ValueError: unknown or missing keys.
    """
    settings = _ADDED | dict(settings)
    known, found = {f.name for f in fields(NetworkConfig)}, set(settings)
    if unknown := found - known:
        raise ValueError(f"{path / CARD}: unknown network keys {sorted(unknown)}. Known: {sorted(known)}.")
    if missing := known - found:  # a default that is newer than the weights would make another network of them
        raise ValueError(f"{path / CARD}: missing network keys {sorted(missing)}.")
    require_types(f"{path / CARD}: network", NetworkConfig, settings)
    sizes = ("width", "depth", "n_heads", "mlp_ratio", "value_features", "index_features", "noise_width", "inducing")
    if large := [name for name in sizes if settings[name] > _MOST_SIZE]:
        raise ValueError(
            f"{path / CARD}: network: expected {large} of at most {_MOST_SIZE:,}, got {settings[large[0]]}."
        )
    return NetworkConfig(**settings)


def require_size(network: NetworkConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    """The weights are enough for such a network, before memory is spent on it: a card may say anything.

    Raises:
        ValueError: they are not.
    """
    largest = max((x.numel() for x in weights.values()), default=0)
    square = network.width**2 * max(1, network.mlp_ratio)  # in every layer
    parts = (square, len(network.uses_index), network.value_features, network.index_features, network.noise_width)
    if network.depth > len(weights) or max(*parts, network.inducing) > largest:
        raise ValueError(
            f"{path / WEIGHTS} does not hold the weights of this model: its {len(weights)} tensors of at most "
            f"{largest} numbers are not those of a network of width {network.width} and depth {network.depth}."
        )


def require_factors(schema: Schema, held: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    """The grids of a linear baseline are those of the schema's functions, and its tables lie on them.

    Raises:
        ValueError: other ids or dims, an impossible grid or tail, tables of another shape or with impossible numbers.
    """
    require_keys(path, held, {"rank", "grids"} | ({"tails"} & set(held)))
    columns, rank, grids = [i.name for i in schema.indexes], held["rank"], held["grids"]
    expected = [
        (id, [columns.index(d) for d in schema.index_dims(v.name)])
        for v in schema.variables
        if schema.is_function(v.name)
        for id in schema.ids(v.name)
    ]
    if (found := [(g["id"], g["dims"]) for g in grids]) != expected:
        raise ValueError(f"{path / CARD}: expected the baseline's grids to be (id, dims) {expected}, got {found}.")
    for g, (_, dims) in zip(grids, expected, strict=True):
        if len(g["shape"]) != len(dims) or not all(isinstance(n, int) and n > 1 for n in g["shape"]):
            raise ValueError(
                f"{path / CARD}: expected a baseline's grid of id {g['id']}: at least 2 points along each of "
                f"{len(dims)} dim(s), got {g['shape']}."
            )
    tails = held.get("tails", {})
    if not set(tails) <= {str(id) for id, _ in expected} or not all(0 < t < math.inf for t in tails.values()):
        raise ValueError(f"{path / CARD}: expected the baseline's tails as function id -> number > 0, got {tails}.")
    rows = sum(math.prod(g["shape"]) for g in grids)
    for name, n in (("scalars", schema.n_ids), ("table", rows)):
        x = weights.get(f"baseline.{name}")
        shape = None if x is None else tuple(x.shape)
        if x is None or shape != (n, rank + 2):
            raise ValueError(
                f"{path / WEIGHTS} does not hold the weights of this model: expected baseline.{name} of shape "
                f"{(n, rank + 2)}, as the card says, got {shape}."
            )
        if not bool(torch.isfinite(x).all()) or not bool((x[:, -1] > 0).all()):
            raise ValueError(
                f"{path / WEIGHTS} is damaged: expected baseline.{name} to be finite, with variances > 0 in its last "
                "column."
            )


def read_spread(schema: Schema, found: Mapping[str, Any], path: Path) -> dict[str, tuple[Tensor, ...]]:
    """Function with a reference set -> what the spline through its knots misses, one a component.

    Raises:
        ValueError: grids of another number or dim, negative or not finite; more knots than anybody draws.
    """
    if large := [name for name in found if math.prod(schema[name].reference) > _MOST_KNOTS]:
        raise ValueError(f"{path / CARD}: expected at most {_MOST_KNOTS:,} knots of a function, {large} have more.")
    out = {name: tuple(torch.tensor(s, dtype=torch.float32) for s in parts) for name, parts in found.items()}
    for name, parts in out.items():
        d, n = len(schema[name].reference), schema.n_components(name)
        sound = [s.dim() == d and min(s.shape) > 1 and bool((s.isfinite() & (s >= 0)).all()) for s in parts]
        if len(parts) != n or not all(sound):
            raise ValueError(
                f"{path / CARD}: expected spread of {name!r}: {n} grid(s) of {d} dim(s), none negative, all finite."
            )
    return out
