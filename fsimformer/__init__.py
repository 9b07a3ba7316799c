"""fsimformer: simulation-based inference with functional parameters and irregular, incomplete observations."""

from fsimformer import simulators
from fsimformer.convert import ObservationWarning
from fsimformer.denoise import NoiseLevels
from fsimformer.joint import Conditional, Joint, load, train
from fsimformer.masks import MaskConfig
from fsimformer.nn import NetworkConfig
from fsimformer.readings import Design
from fsimformer.sample import SamplerConfig
from fsimformer.schema import (
    POSITIVE,
    REAL,
    Components,
    Index,
    LogitNormal,
    LogNormal,
    Noise,
    Normal,
    Schema,
    Support,
    TruncatedNormal,
    Uniform,
    Variable,
)
from fsimformer.stages import Budget
from fsimformer.train import Progress, TrainConfig

__all__ = [
    "POSITIVE",
    "REAL",
    "Budget",
    "Components",
    "Conditional",
    "Design",
    "Index",
    "Joint",
    "LogNormal",
    "LogitNormal",
    "MaskConfig",
    "NetworkConfig",
    "Noise",
    "NoiseLevels",
    "Normal",
    "ObservationWarning",
    "Progress",
    "SamplerConfig",
    "Schema",
    "Support",
    "TrainConfig",
    "TruncatedNormal",
    "Uniform",
    "Variable",
    "load",
    "simulators",
    "train",
]
