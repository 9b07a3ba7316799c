"""Simulations at the door: (N, variables, features), NaN where a value is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def read_rows(inputs: Any, proposal: Any, before: Tensor | None) -> Tensor:
    """A copy of simulations as (N, variables, features), in double precision, on the CPU.

    Args:
        inputs, proposal: see `Simformer.append_simulations`.
        before: simulations that these are to join, if there are any.

    Raises:
        TypeError, ValueError: see `Simformer.append_simulations`.
    """
    where = "append_simulations"
    if isinstance(proposal, Tensor | np.ndarray):
        raise TypeError(
            f"{where}: expected one tensor, got two; stack theta and x as (N, variables, features): "
            "torch.stack([theta, x], dim=1) where they have as many features, else torch.cat([theta, x], dim=1), in "
            "which each column is a variable of one feature."
        )
    if proposal is not None:
        raise ValueError(f"{where}: rounds are not implemented; expected proposal=None.")
    numbers = isinstance(inputs, Tensor) or (isinstance(inputs, np.ndarray) and inputs.dtype.kind in "fiub")
    if not numbers or (isinstance(inputs, Tensor) and inputs.is_complex()):
        kind = getattr(inputs, "dtype", None) or type(inputs).__name__
        raise TypeError(f"{where}: expected a tensor or an array of real numbers, got {kind}.")
    # the caller's tensor stays the caller's; in double precision until they are whitened, or what varies little about
    # a large mean would be lost
    if isinstance(inputs, Tensor):
        x = inputs.detach().to("cpu", torch.float64, copy=True)
    else:
        x = torch.from_numpy(np.array(inputs, dtype=np.float64))
    x = x[..., None] if x.dim() == 2 else x
    if x.dim() != 3 or 0 in x.shape:
        raise ValueError(f"{where}: expected (N, variables, features) or (N, variables), got {tuple(inputs.shape)}.")
    if before is not None and x.shape[1:] != before.shape[1:]:
        raise ValueError(
            f"{where}: expected (N, {', '.join(map(str, before.shape[1:]))}) as before, got {tuple(x.shape)}."
        )
    infinite = x.abs() > torch.finfo(torch.float32).max  # in which draws come back
    if infinite.any():
        raise ValueError(
            f"{where}: {int(infinite.any(2).any(1).sum())} rows hold infinite values, or what is infinite in single "
            "precision; expected finite ones, or NaN where a value is missing."
        )
    if n := int(torch.isnan(x).all(2).all(1).sum()):
        raise ValueError(
            f"{where}: in {n} of {len(x)} rows everything is missing; leave them out: "
            "inputs[torch.isfinite(inputs).flatten(1).any(1)]."
        )
    return x
