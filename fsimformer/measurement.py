"""The noise of a reading about the clean path at its place, as a schema states it.

    normal: y = f + sd·ε;    lognormal: y = f·exp(sd·ε);    counts: negative binomial about f (counts.py),

ε independent at every reading. Training reads in working units, where the first two are additive: readings.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fsimformer.counts import draw_counts
from fsimformer.schema import Noise
from fsimformer.seeds import normals


def noisy(noise: Noise, f: Tensor, sd: Tensor, generator: torch.Generator) -> Tensor:
    """Readings about clean values f (n, …), sd broadcast against them; the first rows do not depend on n."""
    if noise.kind == "negbinomial":
        return draw_counts(f, sd, generator)
    shift = sd * normals(len(f), math.prod(f.shape[1:]), generator).view(f.shape).to(f.dtype)
    return f + shift if noise.kind == "normal" else f * shift.exp()
