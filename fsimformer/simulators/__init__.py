"""One file a simulator, and the protocol."""

from fsimformer.simulators.hare_lynx import HareLynx, hudson_bay
from fsimformer.simulators.lotka_volterra import LotkaVolterra
from fsimformer.simulators.protocol import FunctionSimulator, Simulator, check
from fsimformer.simulators.sird import SIRD
from fsimformer.simulators.tasks import gaussian_linear, gaussian_mixture, slcp, two_moons

__all__ = [
    "SIRD",
    "FunctionSimulator",
    "HareLynx",
    "LotkaVolterra",
    "Simulator",
    "check",
    "gaussian_linear",
    "gaussian_mixture",
    "hudson_bay",
    "slcp",
    "two_moons",
]
