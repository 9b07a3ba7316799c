"""The face of sbi's Simformer: change the import, keep the script. sbi itself need not be installed.

    from fsimformer.sbi import Simformer          # was: from sbi.inference import Simformer

Inputs are (simulations, variables, features). As in sbi, `condition_mask` True = observed, False = latent, and
`edge_mask[i, j]` True = variable i may attend to variable j. Observations, draws and densities are flat: the features
of the first observed (or latent) variable, then those of the next. A NaN is no value: there is no token for it.
"""

from typing import TYPE_CHECKING, NoReturn

from fsimformer.sbi.conditional import FlatConditional
from fsimformer.sbi.estimator import Estimator, load
from fsimformer.sbi.inference import FlowMatchingSimformer, Simformer

__all__ = ["Estimator", "FlatConditional", "FlowMatchingSimformer", "Simformer", "load"]

_OF_SBI = {
    "NPE", "NPE_A", "NPE_B", "NPE_C", "NLE", "NLE_A", "MNLE", "NRE", "NRE_A", "NRE_B", "NRE_C", "BNRE", "NPSE", "FMPE",
    "SNPE", "SNLE", "SNRE", "simulate_for_sbi",
}  # fmt: skip

if not TYPE_CHECKING:  # or a checker would let every name pass

    def __getattr__(name: str) -> NoReturn:
        """Of sbi's other names: ImportError, with what to do instead."""
        if name in _OF_SBI:
            raise ImportError(
                f"fsimformer.sbi has no {name}, it has Simformer and FlowMatchingSimformer: one network for posterior "
                "and likelihood. Simformer(posterior_latent_idx=[0, 1], posterior_observed_idx=[2]), then "
                "append_simulations(torch.cat([theta, x], 1)).train() and build_posterior()."
            )
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.", name=name)
