"""One file a simulator, and the protocol."""

from fsimformer.simulators.darcy import DarcyFlow
from fsimformer.simulators.epidemic import Epidemic
from fsimformer.simulators.gaussian_process import GaussianProcess, GaussianProcessPosterior
from fsimformer.simulators.hare_lynx import HareLynx, hudson_bay
from fsimformer.simulators.hodgkin_huxley import HodgkinHuxley
from fsimformer.simulators.influenza import Influenza, boarding_school
from fsimformer.simulators.lotka_volterra import LotkaVolterra
from fsimformer.simulators.predator_prey import PredatorPrey
from fsimformer.simulators.protocol import FunctionSimulator, Simulator, check
from fsimformer.simulators.sird import SIRD
from fsimformer.simulators.structured import hmm, tree
from fsimformer.simulators.tasks import bernoulli_glm, gaussian_linear, gaussian_mixture, slcp, two_moons

__all__ = [
    "SIRD",
    "DarcyFlow",
    "Epidemic",
    "FunctionSimulator",
    "GaussianProcess",
    "GaussianProcessPosterior",
    "HareLynx",
    "HodgkinHuxley",
    "Influenza",
    "LotkaVolterra",
    "PredatorPrey",
    "Simulator",
    "bernoulli_glm",
    "boarding_school",
    "check",
    "gaussian_linear",
    "gaussian_mixture",
    "hmm",
    "hudson_bay",
    "slcp",
    "tree",
    "two_moons",
]
