"""Which readings training observes: ranges in the variables' own units, and limits of their whitened values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fsimformer.schema import Schema
from fsimformer.tokens import TokenBatch
from fsimformer.whiten import Whitening


def value_ranges(
    schema: Schema, whitening: Whitening, plausible: Mapping[str, tuple[float, float]], rows: TokenBatch
) -> dict[str, tuple[float, float]]:
    """Data variable -> range of its readings: the plausible one, else all but one in a thousand of those in `rows`.

    Of an array, whose values come and go together: the range of all in `rows`.
    """
    out = {}
    for name in schema.data:
        ids = schema.ids(name)
        if name in schema.arrays:
            ends = whitening[name].inverse(torch.stack(rows.arrays[ids].aminmax()).double())
            out[name] = (float(ends[0]), float(ends[1]))
            continue
        mine = rows.valid & torch.isin(rows.variable, torch.tensor(ids))
        z, component = rows.value[mine].double(), rows.variable[mine] - ids[0]
        some = slice(None, None, len(z) // 1_000_000 + 1)  # torch.quantile is limited to 16 M entries
        if name in plausible:
            out[name] = plausible[name]
        elif len(z):
            x = whitening.inverse(name, z[some], component[some])
            ends = torch.quantile(x, x.new_tensor([0.0005, 0.9995]))
            out[name] = (float(ends[0]), float(ends[1]))
    return out


def whitened_limits(
    schema: Schema, whitening: Whitening, plausible: Mapping[str, tuple[float, float]]
) -> torch.Tensor | None:
    """(n_ids, 2): lowest and highest whitened value that training may observe; None = any."""
    if not plausible:
        return None
    limits = torch.tensor([-torch.inf, torch.inf]).repeat(schema.n_ids, 1)
    for name, ends in plausible.items():
        for c, id in enumerate(schema.ids(name)):
            limits[id] = whitening.part(name, c).forward(torch.tensor(ends, dtype=torch.float64)).float()
    return limits
