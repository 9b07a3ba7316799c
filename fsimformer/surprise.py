"""Is an observation unlike anything that was simulated, and which reading is the odd one?

Fresh simulations are read at the very places of the observation, with fresh noise: under the simulator's law they and
the observation are exchangeable, whatever the network is, so that ranks among them are exact p-values. The network's
part is to say what to look at. Of every reading three residuals are taken, on the whitened scale and divided by their
robust standard deviation at that place over all n + 1 data sets:

    given all others (but for a few that are held out with it), given the other variables alone, given nothing,

where the expectation E[x_i | ·] is one evaluation of the denoiser at a noise so high that the latent value says
nothing. Their mean squares tell noise that is too large or too small and a channel that does not fit the others; their
means tell units; the largest tells the odd reading. Each such number is centred and scaled by medians over the n + 1
data sets; the statistic of a variable is the largest of its own in absolute value, that of the observation the
largest of all, and p is the rank of the observation's: P(p ≤ α) ≤ α with no approximation, in steps of 1/(n + 1).

Asked for, not done in `condition`: it needs the simulator and some seconds, and a table kept with the model would know
nothing of the places of these readings.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from fsimformer.convert import Observation, ObservationWarning, observed_tokens, read
from fsimformer.model_file import Model
from fsimformer.readings import read_at
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.simulators import Simulator
from fsimformer.tokens import TokenBatch, TokenSet, concatenate, split
from fsimformer.trials import fresh

Array = NDArray[np.float64]

ALARM = 0.01
_TRIALS, _PURPOSE = 8, 2  # of seeds.py, and of `trials.fresh`
_FOLDS = 16  # readings held out together: every 16th, far from each other
_RATIO = 33.0  # noise over signal at which a latent value says nothing; within the levels of training
_ROWS = 512  # rows in one network call
_FEWEST = 19


class Trained(Protocol):
    """What has a model: a `Joint`, whose method `surprise` is."""

    @property
    def model(self) -> Model: ...


def surprise(
    self: Trained, observed: Any, simulator: Simulator, n: int = 199, *, origin: Any = None, seed: int = 0
) -> xr.DataTree:
    """How unusual an observation is among n simulated ones of the same design: p-values, and a z for every reading.

    Args:
        observed: one data set, as for `condition`; parameters in it are left aside. Readings outside the trained range
            of an index cannot be simulated and are left out; `condition` warns of them.
        simulator: the one that the model was trained on.
        n: simulations; p-values come in steps of 1/(n + 1).
        origin: as for `condition`.
        seed: equal seeds, equal simulations.

    Returns:
        A DataTree. Root: `p_value` of the whole observation; `p_odd` of its largest |z|; `p_variable` (variable) and
        `statistic` (variable, kind), in robust standard deviations from what simulations have. A group for each
        variable: `z` of its readings given all others, and `value`, with the coordinates by which the observation knows
        them. Attributes: `alarm`, and `odd`, the reading with the largest |z|, in words.

    Raises:
        KeyError, ValueError: as `condition`; no readings of data to judge; another simulator than the model's; n < 19.

    Warns:
        ObservationWarning: p of the whole is at most .01, and hence n >= 99.
    """
    model, schema = self.model, self.model.schema
    if not isinstance(n, int | np.integer) or n < _FEWEST:
        raise ValueError(f"surprise: expected at least {_FEWEST} simulations, got n={n!r}.")
    observation = _inside(schema, read(schema, observed, origin=origin))
    tokens = observed_tokens(schema, model.whitening, observation)
    scored = ~torch.isin(tokens.variable, torch.tensor([i for ids in tokens.arrays for i in ids], dtype=torch.long))
    if not bool(scored.any()):
        raise ValueError(f"surprise: no readings to judge; expected some of {list(schema.data)} in the trained range.")
    batch = with_simulations(model, simulator, tokens, int(n), seed)
    z = residuals(model, batch)
    kinds = {}
    names = [v for v in schema.data if bool(torch.isin(tokens.variable, torch.tensor(schema.ids(v))).any())]
    names = [v for v in names if v not in schema.arrays]
    for name in names:
        mine = torch.isin(tokens.variable, torch.tensor(schema.ids(name))).numpy()
        kinds[name] = summaries({k: x[:, mine] for k, x in z.items()})
    scaled = {name: robust(np.stack(list(k.values()), axis=1)) for name, k in kinds.items()}
    p_variable = [rank_p(np.abs(x).max(1)) for x in scaled.values()]
    p = rank_p(np.abs(np.concatenate(list(scaled.values()), axis=1)).max(1))
    p_odd = rank_p(np.abs(z["all others"][:, scored.numpy()]).max(1))
    labels = list(dict.fromkeys(k for own in kinds.values() for k in own))
    table = np.full((len(names), len(labels)), np.nan)
    for i, (name, own) in enumerate(kinds.items()):
        for k, value in zip(own, scaled[name][0]):
            table[i, labels.index(k)] = value
    root = xr.Dataset(
        {
            "p_value": p,
            "p_odd": p_odd,
            "p_variable": ("variable", p_variable),
            "statistic": (("variable", "kind"), table),
        },
        {"variable": names, "kind": labels},
    )
    groups = {f"/{name}": _readings(schema, observation, name, tokens, z["all others"][0]) for name in names}
    tree = xr.DataTree.from_dict({"/": root, **groups})
    odd = _odd(groups)
    tree.attrs = {"alarm": int(p <= ALARM), "odd": odd, "n_simulations": int(n), "seed": seed}
    if p <= ALARM:
        worst = names[int(np.argmin(p_variable))]
        at = int(np.nanargmax(np.abs(table[names.index(worst)])))
        far = table[names.index(worst), at]
        warnings.warn(
            f"This observation is unlike simulated ones of its design (p = {p:.2g}). It shows in {worst!r}: "
            f"{labels[at]} is {far:+.1f} robust sd from theirs; {odd}. Are units, channels and noise the model's?",
            ObservationWarning,
            stacklevel=2,
        )
    return tree


def with_simulations(model: Model, simulator: Simulator, tokens: TokenSet, n: int, seed: int) -> TokenBatch:
    """(1 + n, L): the observation, then n simulated ones at the same ids and places with fresh noise, all observed."""
    data = fresh(model, simulator, n, seed, purpose=_PURPOSE)
    simulated = read_at(data.store, torch.arange(n), tokens, generator_at(seed, _TRIALS, 4, 0))
    arrays = {ids: x[None] for ids, x in tokens.arrays.items()}
    valid = torch.ones(1, len(tokens), dtype=torch.bool)
    mine = TokenBatch(
        tokens.variable[None], tokens.index[None], tokens.value[None].float(), valid.clone(), valid, arrays
    )
    both = concatenate([mine, simulated])
    return both.replace(condition_mask=torch.ones_like(both.valid))


def residuals(model: Model, batch: TokenBatch) -> dict[str, Array]:
    """Residuals (1 + n, L) over their standard deviation at each place, by what the expectation is given.

    "other variables" only where there are such.
    """
    ids, value = batch.variable[0], batch.value.double().numpy()
    scored = ~batch.of_arrays()[0]
    owner = torch.zeros(model.schema.n_ids, dtype=torch.long)
    for number, v in enumerate(model.schema.variables):
        owner[list(model.schema.ids(v.name))] = number
    variable, positions = owner[ids], scored.nonzero()[:, 0]
    order = positions[np.lexsort((*batch.index[0, positions].double().numpy().T[::-1], ids[positions].numpy()))]
    n_folds = min(_FOLDS, len(order))
    folds = [order[k::n_folds] for k in range(n_folds)]
    out = {"nothing": _scaled(value)}
    mean = np.zeros_like(value)
    for fold in folds:
        kept = torch.ones_like(scored)
        kept[fold] = False
        mean[:, fold.numpy()] = _expected(model, batch, kept, fold)
    out["all others"] = _scaled(value - mean)
    several = variable[scored].unique()
    if len(several) > 1 or bool((~scored).any()):
        mean = np.zeros_like(value)
        for number in several.tolist():
            own = (variable == number) & scored
            asked = own.nonzero()[:, 0]
            mean[:, asked.numpy()] = _expected(model, batch, ~own, asked)
        out["other variables"] = _scaled(value - mean)
    return out


def summaries(z: Mapping[str, Array]) -> dict[str, Array]:
    """Of one variable's residuals (1 + n, r): what is compared, name -> (1 + n,)."""
    out = {}
    for given, x in z.items():
        out[f"mean square given {given}"] = np.cbrt((x**2).mean(1))  # nearly normal (Wilson and Hilferty 1931)
        out[f"mean given {given}"] = x.mean(1)
    out["largest given all others"] = np.cbrt((z["all others"] ** 2).max(1))
    return out


def robust(x: Array) -> Array:
    """(1 + n, k): each column less its median, over the median deviation of its side, as a standard deviation."""
    x = x - np.median(x, axis=0)
    above, below = (1.4826 * np.nanmedian(np.where(s * x >= 0, np.abs(x), np.nan), axis=0) for s in (1, -1))
    mad = np.where(x >= 0, above, below)
    return x / np.where(mad > 0, mad, 1.0)


def rank_p(statistic: Array) -> float:
    """Share of all n + 1 data sets whose statistic is at least as large as that of the first."""
    return float((statistic >= statistic[0]).mean())


def _expected(model: Model, batch: TokenBatch, kept: Tensor, asked: Tensor) -> Array:
    """E[x | the tokens kept] (1 + n, len(asked)) of the tokens asked, each latent at high noise."""
    stays = kept.clone()
    stays[asked] = True
    where = stays.nonzero()[:, 0]
    rows = batch.gather(where.expand(batch.shape[0], -1))
    rows = rows.replace(condition_mask=kept[where].expand(batch.shape[0], -1).contiguous())
    parts = []
    for start in range(0, batch.shape[0], _ROWS):
        streams = split(rows.rows(slice(start, start + _ROWS)), model.n_active_observed)
        streams = streams.to(model.denoiser.device)
        latent = streams.active.latent
        with torch.no_grad():
            encoded = model.denoiser.encode(streams)
            y = torch.zeros(latent.shape[0], 1, latent.shape[1], device=latent.device)
            x_hat = model.denoiser.at_ratio(y, torch.full_like(y[..., 0], _RATIO), encoded)[:, 0]
        parts.append(x_hat[latent].view(latent.shape[0], -1).double().cpu())
    found = torch.cat(parts).numpy()  # in the order in which the tokens stand in the row
    place = np.argsort(np.argsort(asked.numpy()))
    return np.asarray(found[:, place], dtype=np.float64)


def _scaled(x: Array) -> Array:
    x = x - np.median(x, axis=0)
    sd = 1.4826 * np.median(np.abs(x), axis=0)
    return x / np.where(sd > 0, sd, 1.0)


def _inside(schema: Schema, observation: Observation) -> Observation:
    """Data alone, without readings outside the trained range."""
    channels = {}
    for name, channel in observation.channels.items():
        if schema[name].role != "data":
            continue
        keep = np.ones(len(channel.value), dtype=bool)
        for j, d in enumerate(schema.index_dims(name)):
            ends = schema.dim(d)
            x = channel.points.index[:, j]
            slack = 1e-9 * (ends.upper - ends.lower)  # type: ignore[union-attr]
            keep &= (x >= ends.lower - slack) & (x <= ends.upper + slack)  # type: ignore[union-attr]
        whole = name in schema.arrays or bool(keep.all())
        value = channel.value if whole else np.where(keep, channel.value, np.nan)
        channels[name] = type(channel)(channel.points, value, channel.attrs)
    return Observation(channels, observation.held, observation.origins, observation.implied)


def _readings(schema: Schema, observation: Observation, name: str, tokens: TokenSet, z: Array) -> xr.Dataset:
    """z and value of a variable's finite readings, along `reading`, with their own coordinates."""
    channel = observation.channels[name]
    finite = np.isfinite(channel.value)
    mine = torch.isin(tokens.variable, torch.tensor(schema.ids(name))).numpy()
    coords = {d: ("reading", labels[finite]) for d, labels in channel.points.labels.items()}
    data = {"z": ("reading", z[mine]), "value": ("reading", channel.value[finite])}
    return xr.Dataset(data, coords, {"variable": name})


def _odd(groups: Mapping[str, xr.Dataset]) -> str:
    name, group = max(groups.items(), key=lambda item: float(np.abs(item[1]["z"].to_numpy()).max()))
    one = group.isel(reading=int(np.abs(group["z"].to_numpy()).argmax()))
    at = ", ".join(f"{d} {one[d].item() if one[d].dtype.kind != 'M' else str(one[d].values)[:19]}" for d in one.coords)
    where = f" at {at}" if at else ""
    return f"the oddest reading is {name[1:]!r}{where}: {one['value'].item():.4g}, z = {one['z'].item():+.1f}"
