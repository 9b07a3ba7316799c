"""The support of a prior: where the draws of a posterior may lie.

A network that approximates a density with a bounded support leaks over its edge. Draws outside are drawn again, and

    log p(y | x, y in S) = log p(y | x) − log P(S | x)  for y in S,   −∞ elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LEAST_SHARE = 0.01
"""With a smaller share of draws inside, rejection is given up."""
_ENOUGH = 1_000  # draws that tell such a share


@dataclass(frozen=True)
class Support:
    """Where a prior over d values says that it lives; its `support`, or, without one, where its `log_prob` is finite.

    The `support` of torch's transformed distributions and mixtures may be wider than where they live: what is believed
    is what it says.
    """

    prior: Any
    d: int

    @classmethod
    def read(cls, prior: Any, d: int) -> Support:
        """Of a torch distribution over (d,), or of one of batch shape (d,) whose entries are independent, or of sbi's.

        Raises:
            TypeError: no prior. ValueError: one over another number of values, or that cannot be asked on the CPU.
        """
        if not callable(getattr(prior, "log_prob", None)):
            raise TypeError(
                f"prior: expected a distribution, with log_prob, over {d} values, got {type(prior).__name__}."
            )
        shape = (*getattr(prior, "batch_shape", ()), *getattr(prior, "event_shape", (d,)))
        if shape != (d,):
            raise ValueError(
                f"prior: expected a distribution over {d} values, the latent features in the order of the variables, "
                f"got one of shape {tuple(shape)}; torch.distributions.Independent and sbi's BoxUniform make them."
            )
        out = cls(prior, d)
        try:
            out(torch.zeros(2, d, dtype=torch.float64))
        except (ValueError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"prior: expected one that can be asked for {d} values a row, on the CPU; {type(prior).__name__} "
                f"answered: {error}"
            ) from error
        return out

    def __call__(self, values: Tensor) -> Tensor:
        """Values (…, d) -> (…) bool, inside or not."""
        flat = values.reshape(-1, self.d)
        try:
            found = self.prior.support.check(flat)
        except (AttributeError, NotImplementedError):  # sbi's priors may be no torch distributions
            found = torch.isfinite(torch.as_tensor(self.prior.log_prob(flat.float())))
        return (found if found.dim() == 1 else found.all(-1)).reshape(values.shape[:-1])


def share_of(inside: Tensor, observation: int) -> float:
    """The share of draws (m,) that lie inside.

    Raises:
        RuntimeError: of a thousand draws or more, less than a hundredth does.
    """
    share = float(inside.double().mean())
    if len(inside) >= _ENOUGH and share < LEAST_SHARE:
        raise RuntimeError(
            f"prior: {share:.2%} of {len(inside)} draws given observation {observation} lie in its support; expected "
            f"{LEAST_SHARE:.0%} at least. Is the observation one that this prior produces, and was the network trained "
            "on its draws?"
        )
    return share


def draw_inside(draw: Callable[[int | None, int], Tensor], inside: Support, n: int) -> Tensor:
    """(n, B, d) draws inside.

    Args:
        draw: (b, m) -> m draws given observation b, (m, 1, d), or of all of them where b is None, (m, B, d). More draws
            change none of the first, so that what is drawn again begins with what was drawn.

    Raises:
        RuntimeError: see `share_of`.
    """
    out = []
    for b, y in enumerate(draw(None, n + n // 8).unbind(1)):  # an eighth more: most leak less
        while int((within := inside(y)).sum()) < n:
            share = max(share_of(within, b), LEAST_SHARE)
            (y,) = draw(b, max(round(1.1 * n / share), 2 * len(y), 100)).unbind(1)
        out.append(y[within][:n])
    return torch.stack(out, dim=1)
