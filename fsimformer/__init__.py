"""fsimformer: simulation-based inference with functional parameters and irregular, incomplete observations."""

from fsimformer import simulators
from fsimformer.joint import Joint, load, train
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
from fsimformer.train import TrainConfig

__all__ = [
    "POSITIVE",
    "REAL",
    "Components",
    "Index",
    "Joint",
    "LogNormal",
    "LogitNormal",
    "Noise",
    "Normal",
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
