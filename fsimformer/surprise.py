"""Is an observation unlike anything that was simulated, and which reading is the odd one?

Fresh simulations are read at the very places of the observation, with fresh noise: under the simulator's law they and
the observation are exchangeable, whatever the network is, so that ranks among them are exact p-values. The network's
part is to say what to look at. Of every reading three residuals are taken, on the whitened scale,

    (x_i − E[x_i | all others])/sd(x_i | all others),   x_i − E[x_i | the other variables],   x_i,

(a few are held out together with it), each over its robust standard deviation at that place over all n + 1 data sets.
How these are had of the denoiser, evidence.py says. The sd is the data set's own: one that is easily predicted shows
noise that, over all simulations, would be lost among those that are not.

Mean squares of the residuals tell noise that is too large or too small and a channel that does not fit the others;
their means tell units; the largest tells the odd reading. What a data set says as a whole is E[θ | x] of its
parameters, functions at five places each; its distance from where simulations have it, in their covariance, tells what
no single reading does: rates and levels that are each in range, and together are not (arXiv 2112.08866 has such a
distance, of summaries). Each such number, sizes as logarithms, is centred and scaled by medians over the n + 1 data
sets. The statistic of a variable is the largest of its own in absolute value. That of the observation is the largest of
only three of all variables together, for what is wrong is seldom wrong in one alone, and of many numbers one is far off
by chance: the mean predictive log density of its readings,

    −½ log sd² − ½ (x_i − E[x_i | all others])²/sd²,   sd = sd(x_i | all others),

in which noise shows whether the network takes it for noise (sd grows) or not; the mean square given the other variables
(given nothing, where there is one variable), in which channels show that do not go together; the distance of the
parameters. p is the rank of the observation's: P(p ≤ α) ≤ α with no approximation, in steps of 1/(n + 1).

Where a simulator says which readings are plausible, its law is meant given that all are: simulations with others are
left aside, and an observation with others gets the smallest p.

Asked for: it needs the simulator and some seconds. What `condition` says unasked (unusual.py) rests on a table that the
model keeps and that knows of the places of these readings their mean and spread alone, so that its p is near its level
and not exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from fsimformer.convert import Observation, ObservationWarning, observed_tokens, read
from fsimformer.evidence import Evidence, plausible
from fsimformer.model_file import Model, Trained
from fsimformer.readings import read_at
from fsimformer.schema import Schema
from fsimformer.seeds import generator_at
from fsimformer.simulators import Simulator
from fsimformer.tokens import TokenBatch, TokenSet, collate, concatenate
from fsimformer.trials import fresh

Array = NDArray[np.float64]

ALARM = 0.01
_TRIALS, _PURPOSE = 8, 2  # of seeds.py, and of `trials.fresh`
_FURTHER, _ROUNDS = 32, 20  # purposes of more simulations where some are implausible, and how often these are drawn
_RIDGE = 0.02  # of prior variances: what the data say less of does not count
_FEWEST = 19
_DISTANCE = "distance of the parameters"


def surprise(
    self: Trained, observed: Any, simulator: Simulator, n: int = 199, *, origin: Any = None, seed: int = 0
) -> xr.DataTree:
    """How unusual an observation is among n simulated ones of the same design: p-values, and a z for every reading.

    Args:
        observed: one data set, as for `condition`; parameters in it are left aside. Readings outside the trained range
            of an index cannot be simulated and are left out; `condition` warns of them.
        simulator: the one that the model was trained on.
        n: simulations (plausible ones); p-values come in steps of 1/(n + 1).
        origin: as for `condition`.
        seed: equal seeds, equal simulations.

    Returns:
        A DataTree. Root: `p_value` of the whole observation; `p_odd` of its largest |z|; `p_variable` (variable) and
        `statistic` (variable, kind), in robust standard deviations from what simulations have; `pooled` (pooled_kind),
        the same of all variables together; `p_parameters` of the parameters that it implies, NaN where the model has
        none to ask for. A group for each variable: `z` of its readings given all others, and `value`, with the
        coordinates by which the observation knows them. Attributes: `alarm`, and `odd`, the reading with the largest
        |z|, in words.

    Raises:
        KeyError, ValueError: as `condition`; no readings of data to judge; another simulator than the model's; n < 19;
            next to no simulation with plausible readings at these places.

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
    names = [v for v in schema.data if bool(torch.isin(tokens.variable, torch.tensor(schema.ids(v))).any())]
    names = [v for v in names if v not in schema.arrays]
    own = {name: torch.isin(tokens.variable, torch.tensor(schema.ids(name))).numpy() for name in names}
    found = Statistics.of(Evidence.of(model, batch), own)
    p_variable = [rank_p(found.of_variable(name)) for name in names]
    p, distance = rank_p(found.whole), found.pooled.get(_DISTANCE)
    p_parameters = np.nan if distance is None else rank_p(distance)
    z = found.z["all others"]
    p_odd = rank_p(np.abs(z[:, scored.numpy()]).max(1))
    labels = list(dict.fromkeys(k for kinds in found.kinds.values() for k in kinds))
    table = np.full((len(names), len(labels)), np.nan)
    for i, name in enumerate(names):
        for k, value in zip(found.kinds[name], found.scaled[name][0]):
            table[i, labels.index(k)] = value
    root = xr.Dataset(
        {
            "p_value": p,
            "p_odd": p_odd,
            "p_variable": ("variable", p_variable),
            "p_parameters": p_parameters,
            "pooled": ("pooled_kind", [x[0] for x in found.pooled.values()]),
            "statistic": (("variable", "kind"), table),
        },
        {"variable": names, "kind": labels, "pooled_kind": list(found.pooled)},
    )
    groups = {f"/{name}": _readings(schema, observation, name, tokens, z[0]) for name in names}
    tree = xr.DataTree.from_dict({"/": root, **groups})
    odd = _odd(groups)
    tree.attrs = {"alarm": int(p <= ALARM), "odd": odd, "n_simulations": int(n), "seed": seed}
    if p <= ALARM:
        off = int((~batch.valid[0]).sum())
        where = f"{off} readings off their plausible range" if off else where_it_shows(found, p_variable, p_parameters)
        warnings.warn(
            f"This observation is unlike simulated ones of its design (p = {p:.2g}). It shows in {where}; {odd}. "
            "Are units, channels and noise the model's?",
            ObservationWarning,
            stacklevel=2,
        )
    return tree


def with_simulations(model: Model, simulator: Simulator, tokens: TokenSet, n: int, seed: int) -> TokenBatch:
    """(1 + n, L): the observation, then n simulated ones at the same ids and places with fresh noise, all observed.

    Implausible readings of the observation are not valid; simulations with such are left aside.
    """
    mine, kept, n_kept = collate([tokens]), list[TokenBatch](), 0
    for k in range(_ROUNDS):
        data = fresh(model, simulator, n, seed, purpose=_FURTHER + k if k else _PURPOSE)
        simulated = read_at(data.store, torch.arange(n), tokens, generator_at(seed, _TRIALS, 4, k))
        good = plausible(model, simulated).all(1).nonzero()[:, 0][: n - n_kept]
        kept.append(simulated.rows(good))
        n_kept += len(good)
        if n_kept == n:
            break
    else:
        raise ValueError(
            f"surprise: {n_kept} of {_ROUNDS * n:,} simulations have plausible readings at these places, {n} are asked "
            "for. Lower n, or widen what the simulator calls `plausible`."
        )
    both = concatenate([mine.replace(valid=plausible(model, mine)), *kept])
    return both.replace(condition_mask=torch.ones_like(both.valid))


@dataclass(frozen=True)
class Statistics:
    """Numbers by which 1 + n data sets are compared, each centred and scaled over all of them.

    Args:
        z: residuals (1 + n, L) by what the expectation is given.
        kinds: variable -> names of its numbers. scaled: variable -> (1 + n, kinds).
        pooled: of all variables together, name -> (1 + n,).
        implausible: variables of which the first data set has an implausible reading.
    """

    z: dict[str, Array]
    kinds: dict[str, list[str]]
    scaled: dict[str, Array]
    pooled: dict[str, Array]
    implausible: frozenset[str]

    @classmethod
    def of(cls, evidence: Evidence, own: Mapping[str, NDArray[np.bool_]]) -> Statistics:
        """`own`: variable -> (L,) its readings."""
        z = residuals(evidence)
        kinds = {name: summaries({k: x[:, mine] for k, x in z.items()}) for name, mine in own.items()}
        scaled = {name: robust(np.stack(list(k.values()), axis=1)) for name, k in kinds.items()}
        every, apart = np.any(list(own.values()), axis=0), "other variables" if "other variables" in z else "nothing"
        means = log_density(evidence)[:, every].mean(1), (z[apart][:, every] ** 2).mean(1)
        return cls(
            z,
            {name: list(k) for name, k in kinds.items()},
            scaled,
            pooled(*means, evidence.parameters, apart),
            frozenset(name for name, mine in own.items() if not evidence.scored[0, mine].all()),
        )

    def of_variable(self, name: str) -> Array:
        """(1 + n,) the largest number of a variable in absolute value; inf of an implausible one."""
        out = np.abs(self.scaled[name]).max(1)
        out[0] = np.inf if name in self.implausible else out[0]
        return np.asarray(out, dtype=np.float64)

    @property
    def whole(self) -> Array:
        """(1 + n,) the largest of the pooled; inf of a data set with an implausible reading."""
        out = largest(self.pooled)
        out[0] = np.inf if self.implausible else out[0]
        return out


def residuals(evidence: Evidence) -> dict[str, Array]:
    """Residuals (1 + n, L) over their robust standard deviation at each place, by what the expectation is given.

    "other variables" only where there are such; 0 where a reading does not count.
    """
    out = {"nothing": evidence.value, "all others": (evidence.value - evidence.others) / evidence.sd}
    if evidence.variables.shape[1]:
        out["other variables"] = evidence.value - evidence.variables
    return {k: np.where(evidence.scored, _scaled(x), 0.0) for k, x in out.items()}


def pooled(log_density: Array, apart: Array, parameters: Array, given: str) -> dict[str, Array]:
    """What tells of all variables together, each name -> (1 + n,) centred and scaled.

    Args:
        log_density: (1 + n,) mean over readings. apart: (1 + n,) mean square of the residuals given `given`.
        parameters: (1 + n, P) their expectations; no distance where P = 0.
    """
    found = {"log density given all others": log_density, f"mean square given {given}": log_size(apart)}
    if parameters.shape[1]:
        found[_DISTANCE] = log_size(distances(parameters))
    return {name: robust(x[:, None])[:, 0] for name, x in found.items()}


def largest(pooled: Mapping[str, Array]) -> Array:
    """(1 + n,) the largest of them in absolute value; of the distance a small one is not odd."""
    parts = [x if name == _DISTANCE else np.abs(x) for name, x in pooled.items()]
    return np.asarray(np.max(parts, axis=0), dtype=np.float64)


def log_density(evidence: Evidence) -> Array:
    """(1 + n, L) of each reading given all others, normal, less a constant; 0 where it does not count."""
    z = (evidence.value - evidence.others) / evidence.sd
    return np.where(evidence.scored, -0.5 * z**2 - np.log(evidence.sd), 0.0)


def distances(x: Array) -> Array:
    """(1 + n,) d²/P of data sets (1 + n, P), d from their mean, in their covariance."""
    x = x - x.mean(0)
    covariance = x.T @ x / len(x) + _RIDGE * np.eye(x.shape[1])
    return np.asarray((x * np.linalg.solve(covariance, x.T).T).mean(1), dtype=np.float64)


def log_size(x: Array) -> Array:
    """Of squares: a factor tells, whatever the tails; where they are about 1, none is odd for being nearly 0."""
    return np.asarray(np.log(0.1 + x), dtype=np.float64)


def summaries(z: Mapping[str, Array]) -> dict[str, Array]:
    """Of one variable's residuals (1 + n, r): what is compared, name -> (1 + n,)."""
    out = {}
    for given, x in z.items():
        out[f"mean square given {given}"] = log_size((x**2).mean(1))
        out[f"mean given {given}"] = x.mean(1)
    out["largest given all others"] = log_size((z["all others"] ** 2).max(1))
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


def where_it_shows(found: Statistics, p_variable: list[float], p_parameters: float) -> str:
    """What is oddest of the first data set, in words: a variable, unless what all say together is rarer."""
    worst = list(found.kinds)[int(np.argmin(p_variable))]
    far = found.scaled[worst][0]
    at = int(np.abs(far).argmax())
    together = max((k for k in found.pooled if k != _DISTANCE), key=lambda k: abs(found.pooled[k][0]))
    if p_parameters < min(p_variable):  # NaN is not
        return f"the parameters that it implies, {found.pooled[_DISTANCE][0]:.1f} robust sd farther off than theirs"
    if rank_p(np.abs(found.pooled[together])) < min(p_variable):
        return f"all readings together: {together} is {found.pooled[together][0]:+.1f} robust sd from theirs"
    return f"{worst!r}: {found.kinds[worst][at]} is {far[at]:+.1f} robust sd from theirs"


def _odd(groups: Mapping[str, xr.Dataset]) -> str:
    name, group = max(groups.items(), key=lambda item: float(np.abs(item[1]["z"].to_numpy()).max()))
    one = group.isel(reading=int(np.abs(group["z"].to_numpy()).argmax()))
    at = ", ".join(f"{d} {one[d].item() if one[d].dtype.kind != 'M' else str(one[d].values)[:19]}" for d in one.coords)
    where = f" at {at}" if at else ""
    return f"the oddest reading is {name[1:]!r}{where}: {one['value'].item():.4g}, z = {one['z'].item():+.1f}"
