"""Which variables are latent in the posterior and which observed, by number; in the likelihood they change places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_LATENT, _OBSERVED = "posterior_latent_idx", "posterior_observed_idx"


@dataclass(frozen=True)
class Indexes:
    """Numbers of latent and observed variables, each from 0 on; None = not said."""

    latent: tuple[int, ...] | None = None
    observed: tuple[int, ...] | None = None

    @classmethod
    def read(cls, latent: Any, observed: Any) -> Indexes:
        """From sequences or tensors of integers.

        Raises:
            TypeError: no integers; a boolean mask. ValueError: as for `require`, of as many variables as are named.
        """
        out = cls(_numbers(_LATENT, latent), _numbers(_OBSERVED, observed))
        out.require(None)
        return out

    def require(self, n_variables: int | None) -> None:
        """Checks that, where both are said, each of the variables is in one of the two, once.

        Args:
            n_variables: None = not known yet.

        Raises:
            ValueError: numbers out of range, doubles, overlaps, variables that are in neither, another order.
        """
        named = [*(self.latent or ()), *(self.observed or ())]
        n = max(named, default=-1) + 1 if n_variables is None else n_variables
        both = set(self.latent or ()) & set(self.observed or ())
        absent = set(range(n)) - set(named) if self.latent is not None and self.observed is not None else set()
        wrong = {
            "out of range": {i for i in named if not 0 <= i < n},
            "in both": both,
            "twice in one": {i for part in (self.latent, self.observed) if part for i in part if part.count(i) > 1},
            "in neither": absent,
            "not in increasing order, in which values and draws come": {
                i for part in (self.latent, self.observed) if part for i, j in pairwise(part) if i > j
            },
        }
        if any(wrong.values()):
            range_ = "0 on" if n_variables is None else f"0 to {n - 1}"
            found = "; ".join(f"{what}: {sorted(which)}" for what, which in wrong.items() if which)
            latent, observed = ("None" if part is None else list(part) for part in (self.latent, self.observed))
            raise ValueError(
                f"{_LATENT} and {_OBSERVED}: expected every variable from {range_} in one of the two, got {latent} and "
                f"{observed}; {found}."
            )

    def mask(self, n_variables: int) -> Tensor:
        """The posterior's condition mask, (n_variables,), True = observed.

        Raises:
            ValueError: not both are said, or not of these variables.
        """
        if self.latent is None or self.observed is None:
            raise ValueError(
                "build: which variables are latent in the posterior, and which observed? Call "
                "set_condition_indexes(new_posterior_latent_idx=…, new_posterior_observed_idx=…) first."
            )
        self.require(n_variables)
        mask = torch.zeros(n_variables, dtype=torch.bool)
        mask[list(self.observed)] = True
        return mask


def _numbers(name: str, given: Sequence[int] | Tensor | None) -> tuple[int, ...] | None:
    if given is None:
        return None
    try:
        x = torch.as_tensor(given).flatten()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected numbers of variables such as [0, 2], got {given!r}.") from error
    if x.dtype == torch.bool:
        raise TypeError(
            f"{name}: expected numbers of variables such as [0, 2], got the boolean mask {x.tolist()}; a mask is for "
            "build_conditional(condition_mask=…)."
        )
    if x.numel() and (x.is_floating_point() or x.is_complex()):
        raise TypeError(f"{name}: expected integers such as [0, 2], got {x.tolist()}.")
    return tuple(x.long().tolist())
