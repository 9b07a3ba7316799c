"""What a network says of readings given others, by single evaluations of its denoiser.

E[x | ·] is the denoiser's answer at a noise so high that the latent value says nothing. The variance is what it implies
at lower noise: from y = x + λε it answers E[x | y], whose slope is g = v/(v + λ²) where x has the variance v; hence

    v = λ² g/(1 − g),

of some λ the geometric mean with weights g(1 − g): a λ far off √v tells nothing. Exact for a Gaussian that is asked for
one value. Several that are asked for together are moved by ±λ in turns, and what is found is the sd along that zigzag:
of readings of a smooth series, which tell much of each other, far less than the sd of any one of them. It is a scale,
then, on which observed and simulated readings are compared alike, and no prediction.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fsimformer.model_file import Model
from fsimformer.tokens import Streams, TokenBatch, split
from fsimformer.typical import PLACES, implied_variables

Array = NDArray[np.float64]

_FOLDS = 16  # groups of readings held out together, in each every 16th of a series
_RATIO = 33.0  # noise over signal at which a latent value says nothing; within the levels of training
_LADDER = (0.03, 0.1, 0.3, 1.0)  # noise over signal at which variances are told
_ROWS = 512  # rows in one network call


@dataclass(frozen=True)
class Evidence:
    """What the network says of B data sets of one design, each by itself; whitened.

    Args:
        value: (B, L) the readings.
        others, sd: (B, L) mean and standard deviation of each given all others; 1 of arrays.
        variables: (B, L) mean given the other variables; (B, 0) where there are none.
        parameters: (B, P) mean of the parameters given everything.
        scored: (B, L) readings that count; the same in every row but for implausible ones.
    """

    value: Array
    others: Array
    sd: Array
    variables: Array
    parameters: Array
    scored: NDArray[np.bool_]

    def rows(self, which: Array) -> Evidence:
        """Of some of the data sets."""
        return Evidence(*(getattr(self, f.name)[which] for f in fields(self)))

    @classmethod
    def of(cls, model: Model, batch: TokenBatch) -> Evidence:
        """What is not `valid` is told to nobody."""
        ids, value = batch.variable[0], batch.value.double().numpy()
        scored, variable, order = ~batch.of_arrays()[0], variables_of(model, ids), in_order(batch)
        others, sd = np.zeros_like(value), np.ones_like(value)
        folds = fold_of(batch, order, min(_FOLDS, len(order)))
        for k in folds.unique().tolist():
            fold = order[folds == k]
            kept = torch.ones_like(scored)
            kept[fold] = False
            others[:, fold.numpy()], sd[:, fold.numpy()] = expected(model, batch, kept, fold, spread=True)
        several = variable[scored].unique()
        variables = np.zeros((len(value), 0))
        if len(several) > 1 or bool((~scored).any()):
            variables = np.zeros_like(value)
            for number in several.tolist():
                own = (variable == number) & scored
                asked = own.nonzero()[:, 0]
                variables[:, asked.numpy()] = expected(model, batch, ~own, asked)[0]
        return cls(value, others, sd, variables, implied_parameters(model, batch), (scored & batch.valid).numpy())


def variables_of(model: Model, ids: Tensor) -> Tensor:
    """Number of the variable that each token belongs to."""
    owner = torch.zeros(model.schema.n_ids, dtype=torch.long)
    for number, v in enumerate(model.schema.variables):
        owner[list(model.schema.ids(v.name))] = number
    return owner[ids]


def in_order(batch: TokenBatch) -> Tensor:
    """Positions of the readings, arrays left out, by id and place; of data sets that are read at the same places."""
    ids, positions = batch.variable[0], (~batch.of_arrays()[0]).nonzero()[:, 0]
    return positions[np.lexsort((*batch.index[0, positions].double().numpy().T[::-1], ids[positions].numpy()))]


def fold_of(batch: TokenBatch, order: Tensor, n_folds: int) -> Tensor:
    """Numbers of the folds, 0 to n_folds − 1, in which readings `order` (by id and place) are held out together.

    Each alone where there are folds enough. Else each series goes through the folds in turn, so that neighbours along
    its index are apart, from the fold at which it meets the fewest readings of other series at the same places: what is
    held out of one series others may help to tell, whatever their numbers and gaps.
    """
    if len(order) <= n_folds:
        return torch.arange(len(order))
    n = torch.unique_consecutive(batch.variable[0, order], return_counts=True)[1].tolist()
    place = np.unique(batch.index[0, order].double().numpy(), axis=0, return_inverse=True)[1].reshape(-1)
    held, folds, start = np.zeros((int(place.max()) + 1, n_folds), dtype=int), np.zeros(len(order), dtype=int), 0
    for size in n:
        own, turns = place[start : start + size], np.arange(start, start + size)
        meets = [int(held[own, (turns + first) % n_folds].sum()) for first in range(n_folds)]
        mine = (turns + int(np.argmin(meets))) % n_folds
        np.add.at(held, (own, mine), 1)
        folds[start : start + size] = mine
        start += size
    if len(np.unique(folds)) < n_folds:  # few readings, and some fold has none
        folds = np.arange(len(order)) % n_folds
    return torch.from_numpy(folds)


def plausible(model: Model, batch: TokenBatch) -> Tensor:
    """(B, L) bool: readings that training may have observed, of variables for which a simulator says so."""
    out = torch.ones_like(batch.valid)
    for name in model.plausible:
        for component, id in enumerate(model.schema.ids(name)):
            ends = torch.tensor(model.value_range[name], dtype=torch.float64)
            lower, upper = model.whitening.part(name, component).forward(ends).tolist()
            out &= (batch.variable != id) | ((batch.value >= lower - 1e-5) & (batch.value <= upper + 1e-5))
    return out


def implied_parameters(model: Model, batch: TokenBatch) -> Array:
    """E[θ | all readings] (B, P): scalars, vectors, and functions of one index at some places."""
    schema, ids, places = model.schema, list[int](), list[Tensor]()
    for v in implied_variables(schema):
        dims = schema.index_dims(v.name)
        for id in schema.ids(v.name):
            at = torch.zeros(PLACES if dims else 1, len(schema.indexes))
            if dims:
                at[:, [d.name for d in schema.indexes].index(dims[0])] = torch.linspace(-0.8, 0.8, PLACES)
            ids += [id] * len(at)
            places.append(at)
    rows, n = batch.shape
    if not ids:
        return np.zeros((rows, 0))
    some = torch.ones(rows, len(ids), dtype=torch.bool)
    whole = TokenBatch(
        torch.cat([batch.variable, torch.tensor(ids).expand(rows, -1)], 1),
        torch.cat([batch.index, torch.cat(places).to(batch.index).expand(rows, -1, -1)], 1),
        torch.cat([batch.value, torch.zeros(rows, len(ids)).to(batch.value)], 1),
        torch.cat([batch.condition_mask, ~some], 1),
        torch.cat([batch.valid, some], 1),
        batch.arrays,
    )
    kept = torch.arange(n + len(ids)) < n
    return expected(model, whole, kept, (~kept).nonzero()[:, 0])[0]


def expected(model: Model, batch: TokenBatch, kept: Tensor, asked: Tensor, spread: bool = False) -> tuple[Array, Array]:
    """E[x | the tokens kept] (B, len(asked)) of the tokens asked, and with `spread` their standard deviations."""
    stays = kept.clone()
    stays[asked] = True
    where = stays.nonzero()[:, 0]
    rows = batch.gather(where.expand(batch.shape[0], -1))
    rows = rows.replace(condition_mask=kept[where].expand(batch.shape[0], -1).contiguous())
    rows = rows.replace(valid=rows.valid | rows.condition_mask.logical_not())
    mean, sd = _solved(model, rows, spread)
    place = np.argsort(np.argsort(asked.numpy()))  # found in the order in which the tokens stand in the row
    return mean[:, place], sd[:, place]


def held_out(model: Model, batch: TokenBatch, folds: Tensor) -> tuple[Array, Array]:
    """Mean and standard deviation (F, B, k) of the tokens of each fold, folds (F, k), given all that are not in it."""
    n, (f, k) = batch.shape[0], folds.shape
    condition_mask = torch.ones(f, n, batch.shape[1], dtype=torch.bool)
    condition_mask.scatter_(2, folds[:, None].expand(-1, n, -1), False)
    rows = batch.rows(torch.arange(n).repeat(f)).replace(condition_mask=condition_mask.flatten(0, 1))
    rows = rows.replace(valid=rows.valid | rows.condition_mask.logical_not())
    mean, sd = (x.reshape(f, n, k) for x in _solved(model, rows, spread=True))
    place = np.argsort(np.argsort(folds.numpy(), axis=1), axis=1)[:, None]  # found in the order of the row
    return tuple(np.take_along_axis(x, np.broadcast_to(place, x.shape), axis=2) for x in (mean, sd))  # type: ignore[return-value]


def _solved(model: Model, rows: TokenBatch, spread: bool) -> tuple[Array, Array]:
    """`_moments` of all rows, (rows, k), some of them at a time."""
    parts = []
    for start in range(0, rows.shape[0], _ROWS):
        streams = split(rows.rows(slice(start, start + _ROWS)), model.n_active_observed)
        parts.append(_moments(model, streams.to(model.denoiser.device), spread))
    mean, sd = (np.asarray(torch.cat(x).numpy(), dtype=np.float64) for x in zip(*parts, strict=True))
    return mean, sd


def _moments(model: Model, streams: Streams, spread: bool) -> tuple[Tensor, Tensor]:
    """Mean and sd (B, k) of the latents of each row, k of them; sd 1 without `spread`."""
    latent = streams.active.latent
    b, ladder = len(latent), torch.tensor(_LADDER, device=latent.device)[:, None]
    with torch.no_grad():
        encoded = model.denoiser.encode(streams)

        def solve(values: Tensor, ratio: Tensor) -> Tensor:
            """x̂ (b, R, k) of latent values (b, R, k) at the levels (R,)."""
            mask = latent[:, None].expand(b, len(ratio), -1)
            y = torch.zeros(mask.shape, device=latent.device)
            y[mask] = values.reshape(-1)
            return model.denoiser.at_ratio(y, ratio.expand(b, -1), encoded)[mask].view(values.shape)

        k = int(latent[0].sum())
        mean = solve(torch.zeros(b, 1, k, device=latent.device), ladder.new_tensor([_RATIO]))
        if not spread:
            return mean[:, 0].double().cpu(), torch.ones(b, k).double()
        signs = 1.0 - 2.0 * (torch.arange(k, device=latent.device) % 2)  # what one latent tells another cancels, mostly
        shift = ladder * signs
        found = solve(mean + torch.cat([shift, -shift]), torch.cat([ladder, ladder])[:, 0])
    up, down = found.double().cpu().chunk(2, dim=1)
    gain = ((up - down) / (2 * shift.cpu())).clamp(0.002, 0.998)
    weight, log_variance = gain * (1 - gain), (ladder.cpu().double() ** 2 * gain / (1 - gain)).log()
    return mean[:, 0].double().cpu(), (0.5 * (weight * log_variance).sum(1) / weight.sum(1)).exp()
