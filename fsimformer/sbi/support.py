"""The support of a prior: where the draws of a posterior may lie.

A network that approximates a density with a bounded support leaks over its edge. Draws outside are drawn again, and

    log p(y | x, y in S) = log p(y | x) − log P(S | x)  for y in S,   −∞ elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Support = Callable[[Tensor], Tensor]
"""Values (…, d) -> (…) bool, inside or not."""

LEAST_SHARE = 0.01
"""With a smaller share of draws inside, rejection is given up."""


def read_support(prior: Any, d: int) -> Support:
    """The support of a prior over d values.

    Args:
        prior: a torch distribution over (d,), or one of batch shape (d,) whose entries are independent; anything else
            with a `log_prob` of values (n, d), which is finite inside.

    Raises:
        TypeError: no prior. ValueError: one over another number of values.
    """
    if not callable(getattr(prior, "log_prob", None)):
        raise TypeError(f"prior: expected a distribution, with log_prob, over {d} values, got {type(prior).__name__}.")
    shape = (*getattr(prior, "batch_shape", ()), *getattr(prior, "event_shape", (d,)))
    if shape != (d,):
        raise ValueError(
            f"prior: expected a distribution over {d} values, the latent features in the order of the variables, got "
            f"one of shape {tuple(shape)}."
        )

    def inside(values: Tensor) -> Tensor:
        flat = values.reshape(-1, d)
        try:
            found = prior.support.check(flat)
        except (AttributeError, NotImplementedError):  # sbi's priors may be no torch distributions
            found = torch.isfinite(torch.as_tensor(prior.log_prob(flat)))
        return (found if found.dim() == 1 else found.all(-1)).reshape(values.shape[:-1])

    return inside


def draw_inside(draw: Callable[[int], Tensor], inside: Support, n: int) -> Tensor:
    """(n, B, d) draws inside, of `draw(m)` (m, B, d), of which more draws change none of the first.

    Raises:
        RuntimeError: less than a hundredth of the draws lie inside.
    """
    m = n
    while True:
        y = draw(m)
        within = inside(y)
        if bool((within.sum(0) >= n).all()):
            break
        share = float(within.double().mean(0).min())
        if m >= 1_000 and share < LEAST_SHARE:
            raise RuntimeError(
                f"sample: {share:.2%} of {m} draws lie in the prior's support; expected at least {LEAST_SHARE:.0%}. Is "
                "the observation one that this prior produces, and was the network trained on its draws?"
            )
        m = max(round(1.1 * n / max(share, LEAST_SHARE)), m + m // 4, 100)
    return torch.stack([rows[kept][:n] for rows, kept in zip(y.unbind(1), within.unbind(1), strict=True)], dim=1)
