"""What `condition` warns of: observations that training did not have, by their number, values and numbers in all.

Many data sets are ranked among the same simulations (unusual.py), whose tail may lie higher or lower than the law's:
where p ≤ a/(n + 1) of a data set means that at most a − 1 of n simulations are as odd, the share of all data sets that
have it is Beta(a, n + 1 − a). So chance makes k of N data sets odd by the beta-binomial law,

    P(k) = C(N, k) B(k + a, N − k + n + 1 − a)/B(a, n + 1 − a),

much wider than the binomial one: of 10,000 data sets 100 are expected at .01, and 300 are not rare.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsimformer.convert import Observation, ObservationWarning
from fsimformer.model_file import Model
from fsimformer.points import readings_of, same_readings
from fsimformer.surprise import ALARM
from fsimformer.typical import NEAREST


def warn_of(
    model: Model,
    observations: Sequence[Observation],
    labels: NDArray[Any] | None,
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
            where = "" if labels is None else f" of {labels[i]}"
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


def _unusual(p: NDArray[np.float64], labels: NDArray[Any] | None) -> list[str]:
    """Where p <= .01 of more data sets than chance has: of one, of any; of many, P(so many) <= .01."""
    judged, odd = int(np.isfinite(p).sum()), np.flatnonzero(p <= ALARM + 1e-9)
    if not len(odd) or chance_of(len(odd), judged) > ALARM + 1e-9:
        return []
    which = ""
    if labels is not None:
        named = ", ".join(str(labels[i]) for i in odd[:5]) + (", …" if len(odd) > 5 else "")
        which = f" ({len(odd)} of {judged} data sets: {named})"
    as_odd = max(0, round((NEAREST + 1) * float(p[odd].max())) - 1)
    return [
        f"The data are unlike what the model was trained on{which}: of {NEAREST} simulations with about as many "
        f"readings at most {as_odd} are as odd (p = {float(p[odd].min()):.2g}). Are units, channels and noise the "
        "model's? joint.surprise says where it shows."
    ]


def chance_of(n_odd: int, judged: int) -> float:
    """P that at least `n_odd` of `judged` data sets, ranked among the same simulations, have p <= ALARM by chance."""
    a = math.floor(ALARM * (NEAREST + 1) + 1e-9)
    b, log = NEAREST + 1 - a, math.lgamma
    whole = log(judged + 1) - log(judged + a + b) + log(a + b) - log(a) - log(b)
    fewer = (
        math.exp(whole + log(k + a) - log(k + 1) + log(judged - k + b) - log(judged - k + 1)) for k in range(n_odd)
    )
    return 1 - math.fsum(fewer)
