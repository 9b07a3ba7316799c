"""Sizes of the network, and how it sees values, places and long observations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a `Network`.

    Args:
        uses_index: (n_ids, D) nested tuples; False = the id's variable lacks this index dim, its features are zeroed.
            `train` fills it in from the schema.
        width, depth, n_heads, mlp_ratio: the transformer; the defaults have about 0.3 M parameters.
        value_features: pairs of Fourier features of the value, 0.5 to `value_frequency` rad per sd (smooth on purpose).
        index_features: pairs a dim of Fourier features of the index in [-1, 1], π/4 to `index_frequency`·π rad. 0 =
            none, nor the index itself: the network sees differences of indexes alone, and its answer stays what it is
            when all indexes are shifted.
        rotary_frequency: half of every head's pairs of channels turn with the index, by π/4 to `rotary_frequency`·π
            rad: logits see distances between tokens, the other half does not (arXiv 2104.09864). 0 = no rotation.
        distance_decay: logits fall with the distance between tokens, by a slope a layer, head and index dim, learned
            (fixed in arXiv 2108.12409).
        inducing: tokens that stand for the readings of a long observation (summary.py); 0 = long ones are not
            compressed, and cost the square of their length.
        compress_above: observed tokens of the frozen stream from which on an observation is long; up to here nothing
            is compressed, and the network answers as one without `inducing` of the same weights.
        most_readings: more of them are summed up in interleaved parts of at most so many each, as dense as training's
            rows; 0 = never. `train` fills it in from the design where there are inducing tokens.
    """

    uses_index: tuple[tuple[bool, ...], ...] = ()
    width: int = 96
    depth: int = 4
    n_heads: int = 6
    mlp_ratio: int = 2
    value_features: int = 8
    value_frequency: float = 4.0
    index_features: int = 16
    index_frequency: float = 16.0
    rotary_frequency: float = 16.0
    noise_width: int = 32
    distance_decay: bool = False
    inducing: int = 0
    compress_above: int = 2048
    most_readings: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "uses_index", tuple(tuple(bool(x) for x in row) for row in self.uses_index))
        sizes = ("width", "depth", "n_heads", "mlp_ratio", "value_features", "noise_width")
        whole = (*sizes, "index_features", "inducing", "compress_above", "most_readings")
        if broken := {k: x for k in whole if not isinstance(x := getattr(self, k), Integral) or isinstance(x, bool)}:
            raise TypeError(f"NetworkConfig: expected whole numbers, got {broken}.")
        for name in whole:  # numpy's, too, which JSON does not know
            object.__setattr__(self, name, int(getattr(self, name)))
        if small := [name for name in sizes if getattr(self, name) < 1]:
            raise ValueError(f"NetworkConfig: expected {small} >= 1, got {self}.")
        if self.width % self.n_heads:
            fit = [h for h in range(1, 1 + self.width // 4) if self.width % h == 0 and self.width // h % 2 == 0]
            near = max((h for h in fit if h <= self.n_heads), default=1)
            raise ValueError(
                f"NetworkConfig: width {self.width} is not a multiple of n_heads {self.n_heads}. Pass n_heads={near}."
            )
        if not (self.rotary_frequency == 0 or 0.25 <= self.rotary_frequency < math.inf):
            raise ValueError(f"NetworkConfig: expected rotary_frequency 0 or >= 0.25, got {self.rotary_frequency}.")
        if self.rotary_frequency > 0 and self.width // self.n_heads % 2:
            raise ValueError(
                f"NetworkConfig: expected an even number of channels a head (width/n_heads) to turn in pairs, got "
                f"{self.width // self.n_heads}; or rotary_frequency=0."
            )
        if min(self.inducing, self.most_readings) < 0 or self.compress_above <= self.inducing:
            raise ValueError(
                "NetworkConfig: expected inducing >= 0 (0 = long observations are not compressed), compress_above > "
                f"inducing and most_readings >= 0, got {self.inducing}, {self.compress_above}, {self.most_readings}."
            )
        n_index = len(self.uses_index[0]) if self.uses_index else 0
        if self.index_features < 0:
            raise ValueError(f"NetworkConfig: expected index_features >= 0, got {self.index_features}.")
        if n_index and not (self.index_features or self.rotary_frequency or self.distance_decay):
            raise ValueError(
                "NetworkConfig: nothing tells the network where a token lies; expected index_features > 0, "
                "rotary_frequency > 0 or distance_decay=True."
            )
        if self.rotary_frequency > 0 and self.width // 4 < n_index * self.n_heads:
            raise ValueError(
                f"NetworkConfig: width {self.width} has fewer than 4 channels a head for each of {n_index} index dims "
                f"to turn; expected at least {4 * n_index * self.n_heads}, or rotary_frequency=0."
            )
