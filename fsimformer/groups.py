"""The groups of a tree of draws that hold sampled variables, as ArviZ calls them, in the order in which we show them.

Parameters come first: of a tree that `sample` gives one of `posterior` and `prior` is there.
"""

from __future__ import annotations

GROUPS = ("posterior", "prior", "posterior_predictive", "predictions", "prior_predictive")
