"""What `condition` warns of: observations that training did not have, by their number, values and numbers in all."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fsimformer.convert import Observation, ObservationWarning
from fsimformer.model_file import Model
from fsimformer.points import readings_of, same_readings

ALARM = 0.01


def warn_of(
    model: Model,
    observations: Sequence[Observation],
    labels: xr.DataArray | None,
    p: NDArray[np.float64] | None,
    *,
    stacklevel: int,
) -> None:
    """Warn of data sets that are not like those of training.

    Args:
        labels: of the data sets, where there are many.
        p: of unusual.py, one a data set; None = not known.
        stacklevel: frames up to who is to be warned, this function's caller being 2.
    """
    said = [*_refined(model, observations), *_counts(model, observations)]
    for name, ends in model.value_range.items():
        for i, o in enumerate(observations):
            values = o.channels[name].value if name in o.channels else np.zeros(0)
            where = "" if labels is None else f" of {labels.values[i]}"
            said += _values(model, name, values[np.isfinite(values)], ends, where)
    if p is not None:
        said += _unusual(p, labels)
    for text in said:
        warnings.warn(text, ObservationWarning, stacklevel=stacklevel)


def _refined(model: Model, observations: Sequence[Observation]) -> list[str]:
    refined_for = model.refined_for
    if refined_for is None:
        return []
    others = sum(not same_readings(readings_of(o, model.schema.data), refined_for) for o in observations)
    return [
        f"{others} of {len(observations)} data sets: this Joint was refined for one observation of "
        f"{list(refined_for)}, and this is another. It knows only parameters that are likely given the "
        "first; for others take a Joint of fsimformer.train."
    ] * bool(others)


def _counts(model: Model, observations: Sequence[Observation]) -> list[str]:
    out = []
    for name, most in model.max_readings.items():
        held = (o.channels[name].value for o in observations if name in o.channels)
        n = max((int(np.isfinite(x).sum()) for x in held), default=0)
        if n > most:
            out.append(f"{name!r} has {n} readings; training had 0 to {most} a channel. Results may be off.")
    return out


def _values(model: Model, name: str, values: np.ndarray, ends: tuple[float, float], where: str) -> list[str]:
    """Of readings that training never observed: any off a plausible range, else more than chance would have."""
    outside = values[(values < ends[0]) | (values > ends[1])]
    if len(outside) <= (0 if name in model.plausible else max(1, 0.01 * len(values))):
        return []
    return [
        f"{len(outside)} of {len(values)} readings of {name!r}{where} lie outside what training observed, "
        f"{ends[0]:.3g} to {ends[1]:.3g}; the first is {outside[0]:.6g}. Are the units those of the model?"
    ]


def _unusual(p: NDArray[np.float64], labels: xr.DataArray | None) -> list[str]:
    """Where p is small of more data sets than chance has: of one, p <= .01; of many, P(so many) <= .01."""
    judged, odd = int(np.isfinite(p).sum()), np.flatnonzero(p <= ALARM + 1e-9)
    fewer = sum(math.comb(judged, k) * ALARM**k * (1 - ALARM) ** (judged - k) for k in range(min(len(odd), 40)))
    if not len(odd) or (len(odd) < 40 and 1 - fewer > ALARM + 1e-9):
        return []
    which = ""
    if labels is not None:
        named = ", ".join(str(labels.values[i]) for i in odd[:5]) + (", …" if len(odd) > 5 else "")
        which = f" ({len(odd)} of {judged} data sets: {named})"
    return [
        f"The data are unlike what the model was trained on{which}: of 199 simulations with about as many readings at "
        f"most {max(0, round(200 * float(p[odd].max())) - 1)} are as odd (p = {float(p[odd].min()):.2g}). Are units, "
        "channels and noise the model's? joint.surprise says where it shows."
    ]
