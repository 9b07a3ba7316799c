"""A Hodgkin–Huxley neuron under a step of current, seen through features of its voltage and the energy it spends.

    C V' = I(t) − g_Na m³ h (V − E_Na) − g_K n⁴ (V − E_K) − g_L (V − E_L) + noise,    x' = α_x(V)(1 − x) − β_x(V) x,

x = m, h, n with the rates of Pospischil et al. (Biol. Cybern. 2008) about −65 mV, as in the Simformer paper
(arXiv 2404.09636): I = 4 µA/cm² on [50, 150) of 200 ms, seven parameters with uniform priors, white noise of 0.05
mV/√ms on the voltage. Steps of 0.04 ms: Euler–Maruyama for the voltage, exponential for the gates, which are linear
given it.

Seven features of the voltage: the number of spikes (upward crossings of −10 mV), mean and sd before the current, and
mean, variance, skewness and kurtosis during it. `energy` is the charge that sodium carries in, −∫ I_Na dt in nC/cm²: it
has to be pumped out again, at a fixed cost a charge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fsimformer.priors import POSITIVE, REAL, Prior, Uniform
from fsimformer.schema import Schema, Variable
from fsimformer.simulators.protocol import draw_priors, require_priors

_PARAMETERS = ("capacitance", "g_na", "g_k", "g_leak", "e_na", "e_k", "e_leak")
_FEATURES = ("spikes", "rest_mean", "rest_sd", "mean", "variance", "skewness", "kurtosis", "energy")
_START, _SPIKE = -65.0, -10.0  # mV
_STEP, _ON, _OFF, _END = 0.04, 50.0, 150.0, 200.0  # ms
_ROWS = 2048  # rows solved together: bounds memory; the noise of a row hangs on its batch of rows


def _linoid(x: Tensor) -> Tensor:
    """x/(eˣ − 1), whose limit at 0 is 1."""
    small = x.abs() < 1e-4
    return torch.where(small, 1 - x / 2, x / torch.expm1(torch.where(small, 1.0, x)))


def rates(v: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """(α, β) of the gates m, h, n at voltages v in mV, per ms."""
    u = v - _START
    return (
        (1.28 * _linoid((13 - u) / 4), 1.4 * _linoid((u - 40) / 5)),
        (0.128 * torch.exp((17 - u) / 18), 4 / (1 + torch.exp((40 - u) / 5))),
        (0.16 * _linoid((15 - u) / 5), 0.5 * torch.exp((10 - u) / 40)),
    )


@dataclass(frozen=True)
class HodgkinHuxley:
    """Seven parameters, eight numbers that are observed: seven of the voltage, and the energy.

    What is observed of a trace of 200 ms, so that a recording can be put in its place: `spikes`, how often the voltage
    rises through −10 mV; `rest_mean` and `rest_sd` in mV, before the current sets in at 50 ms; from then to its end at
    150 ms `mean` in mV, `variance` in mV², `skewness`, and `kurtosis`, which is 3 of a normal law; `energy`, the charge
    of sodium of the whole trace in nC/cm².

    Args:
        priors: of capacitance (µF/cm²), the conductances g_na, g_k, g_leak (mS/cm²) and the reversal potentials e_na,
            e_k, e_leak (mV).
        current: while it is on, µA/cm².
        noise: of the voltage, mV/√ms.
    """

    priors: dict[str, Prior] = field(
        default_factory=lambda: {
            "capacitance": Uniform(1.0, 2.0),
            "g_na": Uniform(60.0, 120.0),
            "g_k": Uniform(10.0, 30.0),
            "g_leak": Uniform(0.1, 0.5),
            "e_na": Uniform(40.0, 70.0),
            "e_k": Uniform(-100.0, -60.0),
            "e_leak": Uniform(-90.0, -60.0),
        }
    )
    current: float = 4.0
    noise: float = 0.05

    def __post_init__(self) -> None:
        require_priors(self.priors, _PARAMETERS)

    @property
    def schema(self) -> Schema:
        parameters = [Variable(k, "parameter", prior=self.priors[k]) for k in _PARAMETERS]
        positive = ("rest_sd", "variance", "kurtosis", "energy")
        features = [
            Variable(k, "data", support=POSITIVE if k in positive else REAL, parents=_PARAMETERS) for k in _FEATURES
        ]
        return Schema((*parameters, *features))

    @property
    def grid(self) -> dict[str, Tensor]:
        return {}

    def simulate(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """n draws, each (n,) float64."""
        draws = draw_priors(self.schema, n, generator)
        return {**draws, **self.simulate_at(draws, generator)}

    def simulate_at(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Features (n,) float64 for given parameters, each (n,) float64."""
        stacked = torch.stack([parameters[k].double() for k in _PARAMETERS])
        parts = [self._features(p, generator) for p in stacked.split(_ROWS, dim=1)]
        return dict(zip(_FEATURES, torch.cat(parts, 1), strict=True))

    def voltage(self, parameters: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times (T,) in ms and voltages (n, T) in mV, to look at."""
        paths: list[Tensor] = []
        self._run(
            torch.stack([parameters[k].double() for k in _PARAMETERS]), generator, lambda _, v, __: paths.append(v)
        )
        return torch.arange(len(paths)) * _STEP, torch.stack(paths, 1)

    def _features(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """(8, n)."""
        n = parameters.shape[1]
        sums = {True: torch.zeros(5, n, dtype=torch.float64), False: torch.zeros(5, n, dtype=torch.float64)}
        spikes, charge, before = torch.zeros(n).double(), torch.zeros(n).double(), torch.full((n,), _START).double()

        def see(t: float, v: Tensor, sodium: Tensor) -> None:
            nonlocal before
            spikes.add_(((before < _SPIKE) & (v >= _SPIKE)).double())
            charge.sub_(_STEP * sodium)
            before = v
            if t < _OFF:  # powers about a fixed voltage: central moments follow
                u = (v - _START) / 10
                sums[t >= _ON] += torch.stack((torch.ones_like(u), u, u**2, u**3, u**4))

        self._run(parameters, generator, see)
        (_, rest, rest_2, *_), on = (s / s[0] for s in (sums[False], sums[True]))
        mean, variance = on[1], (on[2] - on[1] ** 2).clamp(min=1e-12)
        third = on[3] - 3 * mean * on[2] + 2 * mean**3
        fourth = on[4] - 4 * mean * on[3] + 6 * mean**2 * on[2] - 3 * mean**4
        rest_sd = (rest_2 - rest**2).clamp(min=1e-12).sqrt()
        moments = (100 * variance, third / variance**1.5, (fourth / variance**2).clamp(min=1e-6))
        return torch.stack(
            (spikes, _START + 10 * rest, 10 * rest_sd, _START + 10 * mean, *moments, charge.clamp(min=1e-6))
        )

    def _run(
        self, parameters: Tensor, generator: torch.Generator, see: Callable[[float, Tensor, Tensor], None]
    ) -> None:
        """Solves; `see` gets time, voltage (n,) and sodium's current (n,) before every step."""
        capacitance, g_na, g_k, g_leak, e_na, e_k, e_leak = parameters
        v = torch.full_like(capacitance, _START)
        gates = [a / (a + b) for a, b in rates(v)]
        kick = self.noise * math.sqrt(_STEP)
        for step in range(round(_END / _STEP)):
            t = step * _STEP
            m, h, n = gates
            sodium = g_na * m**3 * h * (v - e_na)
            see(t, v, sodium)
            out = sodium + g_k * n**4 * (v - e_k) + g_leak * (v - e_leak)
            current = self.current if _ON <= t < _OFF else 0.0
            gates = [
                a / (a + b) + (x - a / (a + b)) * torch.exp(-(a + b) * _STEP)
                for x, (a, b) in zip(gates, rates(v), strict=True)
            ]
            z = torch.randn(v.shape, generator=generator, dtype=torch.float64)
            v = v + _STEP * (current - out) / capacitance + kick * z
