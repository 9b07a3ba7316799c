"""Draws of many data sets, some at a time, into a Zarr store: 10,000 data sets with a thousand draws each do not fit
into memory, and take their time.

::

    draws.zarr/                     the DataTree that `sample` would have given; there as soon as it is whole
    .draws.zarr.writing/            beside it until then (beside.py)
        request.json                whose draws these are; a call that asks for others is refused
        draws/                      the store: coordinates and observations first, then the draws, batch after batch
        done-000000, …              batches that are on the disk

How the draws lie in the tree hangs on the points of all data sets together (tree.py). So the tree is made once with
two draws of nothing, a template of known dims and coordinates; its drawn variables are then laid out with n draws and
filled, batch after batch. A batch is a fixed range of data sets, whose draws are those of any other batch (request.py),
and a whole number of Zarr chunks: no two batches share a file. Its mark is made when its files have reached the disk,
and who was killed draws anew what has no mark: nothing is lost or doubled, and the store is the same byte for byte.

In memory are one batch and what is held of the observations. Needs the extra `archive`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
import xarray as xr

from fsimformer.beside import commit, locked, move, place, remove, sweep, sync
from fsimformer.convert import to_tree_many
from fsimformer.extension import noise_function
from fsimformer.function_tree import GROUP, functions_group, functions_group_many
from fsimformer.request import Request
from fsimformer.tree import drawn_rows

try:
    import dask.array
    import zarr
except ImportError as error:
    raise ImportError("Streaming draws needs zarr and dask: pip install 'fsimformer[archive]'.") from error

REQUEST = "request"
_BATCH_VALUES = 2**23  # drawn values of a batch, by default: 64 MiB, and some times that on the way
_CHUNK_VALUES = 2**20  # of a variable in a chunk, at most, unless one data set has more


def stream(
    request: Request,
    labels: xr.DataArray,
    path: Path,
    batch: int | None = None,
    callback: Callable[[int, int], None] | None = None,
    stats: Mapping[str, Any] = MappingProxyType({}),
) -> xr.DataTree:
    """Draw what was asked for into a store, or go on where somebody was interrupted.

    Args:
        request: what is asked for.
        labels: (n_sets,) coordinate along the batch dim.
        path: the store's directory, not there yet; or one that this request has filled: then nothing is done.
        batch: data sets that are drawn and written together; None = by their size, or as the call before.
        callback: called with how many data sets are done, and of how many, at first and after every batch.
        stats: what `sample_stats` says besides the request's own: scalars, or (n_sets,).

    Returns:
        The tree, opened: draws are read when they are asked for.

    Raises:
        ValueError: a batch of none; a store, or a part of one, of another request. FileExistsError: something else is
            there. BlockingIOError: another process writes it.
    """
    if batch is not None and (not isinstance(batch, int) or batch < 1):
        raise ValueError(f"sample_to: expected batch >= 1 data sets or None, got {batch!r}.")
    about = request.identity() | {"labels": [str(x) for x in labels.values], "batch_dim": str(labels.dims[0])}
    if path.exists():
        _require_same(_held(path), about, path)
        if place(path).exists():  # somebody was killed between the rename and the sweeping
            with suppress(BlockingIOError), locked(path, "store of draws") as beside:
                remove(beside)
        return _opened(path)
    with locked(path, "store of draws") as beside:
        if (beside / "request.json").exists():
            held = json.loads((beside / "request.json").read_text())
            size = held.pop("batch")
            _require_same(held, about, place(path))
            if batch is not None and batch != size:
                raise ValueError(f"sample_to: {path} was begun with batch={size}, not {batch}; pass that or None.")
        else:
            sweep(beside)
            for mark in beside.glob("done-*"):
                mark.unlink()
            size = min(batch or _batch_size(request), len(request))
            _lay_out(request, labels, stats, beside / "layout", size, about)
            commit(beside / "layout", beside / "draws")
            (beside / "request").write_text(json.dumps(about | {"batch": size}))
            commit(beside / "request", beside / "request.json")
        n = len(request)
        batches = [range(start, min(n, start + size)) for start in range(0, n, size)]
        marks = [beside / f"done-{k:06d}" for k in range(len(batches))]
        done = sum(len(numbers) for numbers, mark in zip(batches, marks, strict=True) if mark.exists())
        if callback is not None:
            callback(done, n)
        with xr.open_datatree(beside / "draws", engine="zarr", consolidated=False, chunks=None) as tree:
            for numbers, mark in [(b, m) for b, m in zip(batches, marks, strict=True) if not m.exists()]:
                _write(_laid_out(request, labels, tree, numbers), beside / "draws", numbers)
                mark.touch()
                sync(beside)
                done += len(numbers)
                if callback is not None:
                    callback(done, n)
        with warnings.catch_warnings():  # Zarr 3 calls it no part of its standard; without it xarray warns who opens
            warnings.filterwarnings("ignore", "Consolidated metadata")
            zarr.consolidate_metadata(str(beside / "draws"), zarr_format=3)
        sync(beside / "draws" / "zarr.json")
        move(beside / "draws", path)
        remove(beside)
    return _opened(path)


def _opened(path: Path) -> xr.DataTree:
    """The tree, its texts as numpy has them, its draws still on the disk."""
    tree = xr.open_datatree(path, engine="zarr", chunks=None)
    return tree.map_over_datasets(lambda data: data.assign(_texts(data, "T", np.str_)))


def _texts(data: xr.Dataset, kind: str, dtype: Any) -> dict[Hashable, xr.Variable]:
    """The variables of one kind of dtype ("U", or "T" of any length) in another."""
    found = {k: v for k, v in data.variables.items() if v.dtype.kind == kind}
    return {k: v.copy(data=np.array(v.values.tolist(), dtype)) for k, v in found.items()}


def _held(path: Path) -> dict[str, Any]:
    """The request that a store answers.

    Raises:
        FileExistsError: it is no such store.
    """
    try:
        found: dict[str, Any] = json.loads(json.loads((path / "zarr.json").read_text())["attributes"][REQUEST])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(f"{path} exists and holds no draws of sample_to; choose another path.") from error
    return found


def _require_same(held: dict[str, Any], about: dict[str, Any], path: Path) -> None:
    if other := [k for k in about if held.get(k) != json.loads(json.dumps(about[k]))]:
        told = ", ".join(f"{k} {held.get(k)!r}" if k in ("n", "seed", "data_sets", "batch_dim") else k for k in other)
        raise ValueError(
            f"sample_to: {path} holds draws of another request: it differs in {told}. Ask for the same, choose another "
            "path, or remove it."
        )


def _batch_size(request: Request) -> int:
    """A power of two of data sets, of a typical size, with about `_BATCH_VALUES` values."""
    values = max(1, sum(map(len, request.queries)) * request.n // len(request))
    return 2 ** max(0, int(np.log2(max(1, _BATCH_VALUES / values))))


def _template(request: Request, labels: xr.DataArray, stats: Mapping[str, Any]) -> xr.DataTree:
    """The tree of two draws of nothing: dims and coordinates, observations, stats."""
    model, dim = request.model, str(labels.dims[0])
    zs = [torch.zeros(2, len(q)) for q in request.queries]
    many = dim, list(request.observations), list(request.queries), zs
    tree = to_tree_many(model.schema, model.whitening, labels, *many, {**request.stats, **stats})
    references = {r.id: r for r in model.references(model.schema.references)}
    made: dict[tuple[int, ...], xr.Dataset] = {}
    groups = []
    for i in range(len(request)):
        ids = tuple(id for id in request.latents(i).variable.unique().tolist() if id in references)
        if ids not in made:
            mine = {id: references[id] for id in ids}
            knots = {id: torch.zeros(2, r.n_knots) for id, r in mine.items()}
            features = {id: torch.zeros(2, 2 * noise_function(r).n_features) for id, r in mine.items()}
            made[ids] = functions_group(model.schema, model.whitening, knots, features)
        groups.append(made[ids])
    functions = functions_group_many(groups, labels)
    if functions.data_vars:
        tree[GROUP] = xr.DataTree(functions)
    tree.attrs |= request.attributes
    return tree


def _lay_out(
    request: Request, labels: xr.DataArray, stats: Mapping[str, Any], store: Path, batch: int, about: dict[str, Any]
) -> None:
    """The store without its draws."""
    tree, dim, draws = _template(request, labels, stats), str(labels.dims[0]), request.n // 2
    root = xr.Dataset(attrs=tree.attrs | {REQUEST: json.dumps(about)})
    root.to_zarr(store, mode="w", zarr_format=3, consolidated=False)
    for name, node in tree.children.items():
        data, encoding = node.to_dataset(), {}
        drawn = {k: v for k, v in data.variables.items() if k in data.data_vars and "draw" in v.dims}
        rest = data.drop_vars([*drawn, *(["draw"] if "draw" in data.coords else [])])
        new = {}
        for key, v in drawn.items():
            shape = tuple(draws if d == "draw" else size for d, size in v.sizes.items())
            per_set = int(np.prod([size for d, size in zip(v.dims, shape, strict=True) if d != dim]))
            along = next(k for k in range(batch, 0, -1) if batch % k == 0 and (k == 1 or k * per_set <= _CHUNK_VALUES))
            chunks = tuple(along if d == dim else size for d, size in zip(v.dims, shape, strict=True))
            new[key] = (v.dims, dask.array.full(shape, np.nan, dtype=v.dtype, chunks=chunks), v.attrs)
            encoding[key] = {"chunks": chunks}
        rest = rest.assign(new)
        if "draw" in data.coords:
            rest = rest.assign_coords(draw=np.arange(draws))
        rest = rest.assign(_texts(rest, "U", object))  # Zarr 3 knows texts of any length only
        rest[list(data.data_vars)].assign_attrs(data.attrs).to_zarr(
            store, group=str(name), mode="a", compute=False, zarr_format=3, consolidated=False, encoding=encoding
        )


def _laid_out(
    request: Request, labels: xr.DataArray, tree: xr.DataTree, numbers: range
) -> dict[str, dict[str, xr.Variable]]:
    """Draws of some data sets: every drawn variable of the tree, by group; NaN where one has no draws of it."""
    schema, whitening, dim = request.model.schema, request.model.whitening, str(labels.dims[0])
    drawn, queries = request.draw(numbers), [request.queries[i] for i in numbers]
    values = drawn_rows(schema, whitening, queries, [d.z for d in drawn], tree, dim)
    if GROUP in tree.children:
        groups = [functions_group(schema, whitening, d.knots, d.coefficients) for d in drawn]
        found = functions_group_many(groups, labels[numbers.start : numbers.stop])
        values[GROUP] = {
            str(name): found[name].variable if name in found else _nothing(v, dim, len(numbers))
            for name, v in tree[GROUP].to_dataset().data_vars.items()
        }
    return values


def _write(values: dict[str, dict[str, xr.Variable]], store: Path, numbers: range) -> None:
    """Put the values into their place; their files are on the disk afterwards. The batch dim is the third."""
    for group, variables in values.items():
        held = zarr.open_group(str(store / group), mode="r+", zarr_format=3)
        for name, v in variables.items():
            array = held[name]
            assert isinstance(array, zarr.Array)
            array[:, :, numbers.start : numbers.stop] = v.values
            along = array.chunks[2]
            for k in range(numbers.start // along, -(-numbers.stop // along)):
                chunk = store / group / name / "c" / "0" / "0" / str(k)
                for entry in (*chunk.rglob("*"), chunk, chunk.parent) if chunk.exists() else ():
                    sync(entry)


def _nothing(like: xr.DataArray, dim: str, n: int) -> xr.Variable:
    sizes = [n if d == dim else size for d, size in like.sizes.items()]
    return xr.Variable(like.dims, np.full(sizes, np.nan, like.dtype))
