"""What three numbers of simulated observations are like to a trained network: the table that a model keeps of them.

How the numbers are had, and an observation is ranked among them, unusual.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fsimformer.schema import Schema, Variable

Array = NDArray[np.float64]

NEAREST = 199  # simulations that an observation is ranked among: p comes in steps of 1/200
PLACES = 5  # of a function among the parameters that readings imply
_KEYS = ("layout", "log_density", "apart", "implied")


@dataclass(frozen=True)
class Typical:
    """Finite numbers of m simulated data sets that training held out, more than NEAREST of them.

    Args:
        layout: (m, K) how many readings each has and where, K numbers of which unusual.py tells.
        log_density: (m,) mean predictive log density of a reading given all others, whitened, normal, less a constant.
        apart: (m,) mean square of what a reading differs by from its expectation given the other variables.
        implied: (m, P) E[θ | x], whitened.
    """

    layout: Array
    log_density: Array
    apart: Array
    implied: Array

    def __len__(self) -> int:
        return len(self.layout)

    def to_dict(self) -> dict[str, list[Any]]:
        """As JSON types; of whitened means three decimals tell enough."""
        return {
            "layout": np.round(self.layout, 3).tolist(),
            "log_density": _short(self.log_density),
            "apart": _short(self.apart),
            "implied": np.round(self.implied, 3).tolist(),
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Typical:
        """What `to_dict` gave.

        Raises:
            ValueError: it did not.
        """
        try:
            layout, log_density, apart, implied = (np.asarray(held[k], dtype=np.float64) for k in _KEYS)
            implied = implied.reshape(len(layout), -1)
            shapes = layout.ndim == 2 and log_density.shape == apart.shape == (len(layout),) and set(held) == {*_KEYS}
            finite = all(np.isfinite(x).all() for x in (layout, log_density, apart, implied))
            sound = shapes and finite and len(layout) > NEAREST
        except (KeyError, TypeError, ValueError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(f"typical: expected {', '.join(_KEYS)} of more than {NEAREST} data sets.")
        return cls(layout, log_density, apart, implied)


def implied_variables(schema: Schema) -> list[Variable]:
    """Parameters whose E[θ | x] is kept: scalars, vectors, and functions of one index at `PLACES`."""
    return [
        v
        for v in schema.variables
        if v.role == "parameter" and len(schema.index_dims(v.name)) <= 1 and v.name not in schema.paths
    ]


def n_layout(schema: Schema) -> int:
    """K."""
    return sum(1 + 2 * len(schema.index_dims(v)) for v in schema.data)


def n_implied(schema: Schema) -> int:
    """P."""
    each = ((len(schema.ids(v.name)), schema.is_function(v.name)) for v in implied_variables(schema))
    return sum(n * (PLACES if function else 1) for n, function in each)


def _short(x: Array) -> list[float]:
    return [float(f"{v:.5g}") for v in x]
