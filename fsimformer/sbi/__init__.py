"""The face of sbi's Simformer: change the import, keep the script. sbi itself need not be installed.

    from fsimformer.sbi import Simformer          # was: from sbi.inference import Simformer

Inputs are (simulations, variables, features). As in sbi, `condition_mask` True = observed, False = latent, and
`edge_mask[i, j]` True = variable i may attend to variable j. Observations, draws and densities are flat: the features
of the first observed (or latent) variable, then those of the next. A NaN is no value: there is no token for it.
"""

from fsimformer.sbi.conditional import FlatConditional
from fsimformer.sbi.estimator import Estimator, load
from fsimformer.sbi.inference import FlowMatchingSimformer, Simformer

__all__ = ["Estimator", "FlatConditional", "FlowMatchingSimformer", "Simformer", "load"]
