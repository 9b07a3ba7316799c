"""A small world with every sort of variable, for the tests of the way in and the way home."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
import xarray as xr

from fsimformer.convert import Query, query, read, to_tree
from fsimformer.priors import POSITIVE, LogNormal, Support, Uniform
from fsimformer.schema import Components, Index, Schema, Variable
from fsimformer.whiten import Standardise, Transform, Whitening

SCHEMA = Schema(
    (
        Variable("alpha", "parameter", prior=LogNormal()),
        Variable("weights", "parameter", ("part",), prior=Uniform(0, 2)),
        Variable("rate", "parameter", ("time",), support=Support(0, 1)),
        Variable("hare", "data", ("time",), support=POSITIVE),
        Variable("lynx", "data", ("time",), support=POSITIVE),
        Variable("height", "data", ("x", "time")),
        Variable("counts", "data", ("time", "part")),
        Variable("total", "data"),
    ),
    (Index("x", -1, 1), Index("time", 0, 20, "days"), Components("part", 3)),
)
WHITENING = Whitening({v.name: Transform(v.prior, v.support, Standardise(0.3, 2.0)) for v in SCHEMA.variables})
DAYS = pd.date_range("2020-03-01", periods=6, freq="D")


def draws(q: Query, n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, len(q), generator=torch.Generator().manual_seed(seed))


def tree(observed: Any, at: Any = None, z: torch.Tensor | None = None) -> xr.DataTree:
    o = read(SCHEMA, observed)
    q = query(SCHEMA, o, at)
    return to_tree(SCHEMA, WHITENING, o, q, draws(q) if z is None else z, {})


def hare(values: Any, times: Any, **attrs: Any) -> xr.Dataset:
    return xr.Dataset({"hare": ("time", values, attrs)}, coords={"time": times})
