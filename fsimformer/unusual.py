"""Is an observation unlike those that training held out? Asked of every observation, without the simulator.

`surprise` reads fresh simulations at the very places of an observation; it needs the simulator, and somebody who asks.
A model keeps (typical.py), of some hundred simulations that training held out, read as training reads, three numbers
each: the mean predictive log density of readings given all others; the mean square of their residuals given the other
variables (given nothing, where there is one variable); and E[θ | x] of the parameters, whose distance from where
simulations have it counts (surprise.py says why these). The residuals are over the scale that
evidence.py finds for those asked for together, which is far below their sd where a series is smooth: their squares are
large in simulations, too, and only their rank says anything. Of long data sets the network answers to some readings,
evenly spread, all others being known.

The numbers depend on how many readings there are, and where. The observation is ranked among the 199 simulations whose
readings are laid out most nearly as its own, by the distance of log(1 + n) of every variable and, w times, of the mean
and √3 times the sd of its places along each index, 0 and 1 where they fill the range [−1, 1] evenly:

    p = #{i = 0 … 199: T_i ≥ T_0}/200,   T the largest of the three, each over its robust sd among these 200.

Exact would be the rank among simulations read at the same places; how far this is from it `benchmarks/calibration.py
typical` says. Groups of simulations share their places, of which there are enough of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsimformer.convert import Observation, is_parameter, observed_tokens
from fsimformer.evidence import expected, fold_of, held_out, implied_parameters, in_order, plausible, variables_of
from fsimformer.model_file import Model
from fsimformer.readings import Design, Store, read, read_at
from fsimformer.schema import Schema
from fsimformer.surprise import largest, pooled, rank_p
from fsimformer.tokens import TokenBatch, TokenSet, collate, take, uncollate
from fsimformer.typical import NEAREST, Typical

Array = NDArray[np.float64]

_DESIGNS, _A_DESIGN = 256, 4  # at most: groups of simulations read at the same places, and simulations in each
_FOLDS, _FOLD = 4, 16  # groups of readings held out together, and readings in each at most
_SMALLEST_SD = 1e-3  # whitened; less is rounding
_WEIGHT = 1.5  # w above: 1 and a half of the range count as much as a factor of 4.5 in numbers; not tuned


def p_values(model: Model, observations: Sequence[Observation]) -> Array | None:
    """p of every observation: the share of simulations that are at least as odd. None: the model has no table.

    NaN where nothing is observed of data, arrays apart.
    """
    if model.typical is None:
        return None
    parameter, out = is_parameter(model.schema), list[float]()
    for observation in observations:
        tokens = observed_tokens(model.schema, model.whitening, observation)
        tokens = take(tokens, (~parameter[tokens.variable]).nonzero()[:, 0])
        out.append(p_value(model, model.typical, tokens) if len(tokens) else math.nan)
    return np.array(out)


def p_value(model: Model, typical: Typical, tokens: TokenSet) -> float:
    """p of one observation's tokens of data, with the smallest p for an implausible reading.

    NaN where there are only arrays.
    """
    batch = collate([tokens])
    if bool(batch.of_arrays().all()):
        return math.nan
    batch = batch.replace(valid=plausible(model, batch))
    if not bool(batch.valid.all()):
        return 1 / (NEAREST + 1)
    own = numbers(model, batch)
    if not all(np.isfinite(x).all() for x in own):  # so far off that the network has no answer
        return 1 / (NEAREST + 1)
    layout = layout_of(model.schema, tokens)
    near = np.argsort(((typical.layout - layout) ** 2).sum(1), kind="stable")[:NEAREST]
    theirs = (x[near] for x in (typical.log_density, typical.apart, typical.implied))
    log_density, apart, implied = (np.concatenate(x) for x in zip(own, theirs, strict=True))
    return rank_p(largest(pooled(log_density, apart, implied, "other variables")))


def typical_of(model: Model, store: Store, rows: Tensor, design: Design, generator: torch.Generator) -> Typical | None:
    """The table of a model; None where there are too few simulations to rank among.

    Args:
        rows: simulations of the store that training did not see.
        design: how training reads them; no reference sets and nothing between knots, which nobody observes.
    """
    design = replace(design, reference=0.0)
    rows = rows[torch.randperm(len(rows), generator=generator)[: _DESIGNS * _A_DESIGN]]
    if len(rows) <= NEAREST:
        return None
    parameter, layout, found = is_parameter(model.schema), list[Array](), list[tuple[Array, Array, Array]]()
    designs = uncollate(read(store, rows[:: math.ceil(len(rows) / _DESIGNS)], design, generator))
    for places, mine in zip(designs, torch.tensor_split(rows, len(designs)), strict=True):
        places = take(places, (~parameter[places.variable]).nonzero()[:, 0])
        batch = read_at(store, mine, places, generator)
        batch = batch.rows(plausible(model, batch).all(1).nonzero()[:, 0])
        if len(batch.variable) and not bool(batch.of_arrays().all()):
            of_these = numbers(model, batch.replace(condition_mask=torch.ones_like(batch.valid)))
            sound = np.all([np.isfinite(x.reshape(len(x), -1)).all(1) for x in of_these], axis=0)
            found.append((of_these[0][sound], of_these[1][sound], of_these[2][sound]))
            layout.append(np.tile(layout_of(model.schema, places), (int(sound.sum()), 1)))
    if sum(map(len, layout)) <= NEAREST:
        return None
    return Typical(np.concatenate(layout), *(np.concatenate(x) for x in zip(*found, strict=True)))


def numbers(model: Model, batch: TokenBatch) -> tuple[Array, Array, Array]:
    """log density (n,), mean square apart (n,), implied parameters (n, P) of data sets (n, L) read at the same places.

    All is observed; what is not `valid` is told to nobody.
    """
    value, is_reading, order = batch.value.double().numpy(), ~batch.of_arrays()[0], in_order(batch)
    folds = _folds(batch, order)
    mean, sd = held_out(model, batch, folds)
    z = (value[:, folds.numpy()].transpose(1, 0, 2) - mean) / (sd := np.maximum(sd, _SMALLEST_SD))
    log_density, apart = (-0.5 * z**2 - np.log(sd)).mean((0, 2)), list[Array]()
    variable = variables_of(model, batch.variable[0])
    for number in variable[is_reading].unique().tolist():
        own = (variable == number) & is_reading
        asked = _spread_out(order[own[order]], _FOLD)
        mean, sd = expected(model, batch, ~own, asked, spread=True)
        apart.append(((value[:, asked.numpy()] - mean) / np.maximum(sd, _SMALLEST_SD)) ** 2)
    return log_density, np.concatenate(apart, axis=1).mean(1), implied_parameters(model, batch)


def _folds(batch: TokenBatch, order: Tensor) -> Tensor:
    """Positions of the readings that are asked for, (folds, ·): those of a fold are held out together."""
    of = fold_of(batch, order, min(_FOLDS, len(order)))
    size = min(_FOLD, int(torch.bincount(of).min()))  # no fold is without readings
    return torch.stack([_spread_out(order[of == k], size) for k in range(int(of.max()) + 1)])


def layout_of(schema: Schema, tokens: TokenSet) -> Array:
    """log(1 + n) of each data variable, and w times mean and √3·sd of its places along each of its indexes, (K,)."""
    out, dims = list[float](), [d.name for d in schema.indexes]
    for name in schema.data:
        own = torch.isin(tokens.variable, torch.tensor(schema.ids(name)))
        index = tokens.index[own].double().numpy()
        out.append(float(np.log1p(len(index))))
        for d in (dims.index(d) for d in schema.index_dims(name)):
            places = index[:, d] if len(index) else np.zeros(1)
            out += [_WEIGHT * float(places.mean()), _WEIGHT * 3**0.5 * float(places.std())]
    return np.array(out)


def _spread_out(order: Tensor, most: int) -> Tensor:
    """At most so many of them, evenly."""
    return order[torch.linspace(0, len(order) - 1, min(most, len(order))).round().long()]
