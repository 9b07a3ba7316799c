"""What `import fsimformer` offers. The package fetches it on first use: importing all of this takes seconds."""

from fsimformer import simulators
from fsimformer.constraints import Average, Between, Difference, Integral, Potential
from fsimformer.convert import ObservationWarning
from fsimformer.denoise import NoiseLevels
from fsimformer.distill import distill
from fsimformer.existing import recorded
from fsimformer.explicit import log_likelihood
from fsimformer.joint import Conditional, Joint, load
from fsimformer.learn import train
from fsimformer.masks import MaskConfig
from fsimformer.nn import NetworkConfig
from fsimformer.own import simulator
from fsimformer.priors import (
    COUNTS,
    POSITIVE,
    REAL,
    LogitNormal,
    LogNormal,
    LogUniform,
    Normal,
    Support,
    TruncatedNormal,
    Uniform,
)
from fsimformer.readings import Design
from fsimformer.regions import highest_density, shortest_interval
from fsimformer.sample import SamplerConfig
from fsimformer.schema import Axis, Components, Index, Noise, Schema, Variable
from fsimformer.sequential import Round, Sequential, train_sequential
from fsimformer.stages import Budget
from fsimformer.train import Progress, TrainConfig

__all__ = [
    "COUNTS",
    "POSITIVE",
    "REAL",
    "Average",
    "Axis",
    "Between",
    "Budget",
    "Components",
    "Conditional",
    "Design",
    "Difference",
    "Index",
    "Integral",
    "Joint",
    "LogNormal",
    "LogUniform",
    "LogitNormal",
    "MaskConfig",
    "NetworkConfig",
    "Noise",
    "NoiseLevels",
    "Normal",
    "ObservationWarning",
    "Potential",
    "Progress",
    "Round",
    "SamplerConfig",
    "Schema",
    "Sequential",
    "Support",
    "TrainConfig",
    "TruncatedNormal",
    "Uniform",
    "Variable",
    "distill",
    "highest_density",
    "load",
    "log_likelihood",
    "recorded",
    "shortest_interval",
    "simulator",
    "simulators",
    "train",
    "train_sequential",
]
