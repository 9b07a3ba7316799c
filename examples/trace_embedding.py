"""A trace of a thousand samples as one observation, through a small convolution into four tokens.

A damped oscillator, x(t) = exp(−damping · t) cos(frequency · t) + noise · ε, sampled at 100 Hz for ten seconds; three
parameters. As readings of an `Index` the trace would be a thousand tokens; as an array it is what the user's net makes
of it. Trains in under two minutes of one core, prints posterior against truth on 300 new traces, and for one of them
the posterior that the exact likelihood gives (importance weights).

Measured: 90 % intervals hold 88 to 92 % of the truths (± 2). So short a training is honest and not yet sharp: for trace
0 the means lie 0.4 to 0.8 exact sds off, the frequency's sd is 1.4 times the exact one. With 30,000 stored simulations
in place of fresh ones the intervals held 84 to 89 %: the net had begun to learn them by heart.

    python examples/trace_embedding.py
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from torch import nn

import fsimformer as fsf

SECONDS = torch.arange(1000, dtype=torch.float64) / 100
SCHEMA = fsf.Schema(
    variables=(
        fsf.Variable("frequency", "parameter", prior=fsf.Uniform(2.0, 6.0)),
        fsf.Variable("damping", "parameter", prior=fsf.LogNormal(-1.5, 0.5)),
        fsf.Variable("noise", "parameter", prior=fsf.LogNormal(0.0, 0.3)),
        fsf.Variable("trace", "data", ("sample",), n_tokens=4),
    ),
    dims=(fsf.Axis("sample", 1000),),
)


def clean(frequency: torch.Tensor, damping: torch.Tensor) -> torch.Tensor:
    return torch.exp(-damping[:, None] * SECONDS) * torch.cos(frequency[:, None] * SECONDS)


def simulate(n: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """n draws; an array comes with its noise, for it is never read at other places."""
    frequency = 2 + 4 * torch.rand(n, generator=generator, dtype=torch.float64)
    damping = torch.exp(-1.5 + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64))
    noise = torch.exp(0.3 * torch.randn(n, generator=generator, dtype=torch.float64))
    trace = clean(frequency, damping) + noise[:, None] * torch.randn(n, 1000, generator=generator)
    return {"frequency": frequency, "damping": damping, "noise": noise, "trace": trace.float()}


def network() -> nn.Module:
    """(B, 1000) -> (B, 4 · 16): the library reads it as 16 features for each of four tokens."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 1000)),
        nn.Conv1d(1, 16, 32, stride=8),
        nn.GELU(),
        nn.Conv1d(16, 16, 8, stride=4),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(16 * 29, 128),
        nn.GELU(),
        nn.Linear(128, 64),
    )


def log_likelihood(trace: xr.DataArray) -> Callable[[xr.Dataset], xr.DataArray]:
    x = torch.from_numpy(trace.to_numpy())

    def of(draws: xr.Dataset) -> xr.DataArray:
        columns = {k: torch.from_numpy(v.transpose("chain", "draw").to_numpy().reshape(-1)) for k, v in draws.items()}
        residual = (x - clean(columns["frequency"], columns["damping"])) / columns["noise"][:, None]
        value = -0.5 * (residual**2).sum(1) - len(x) * columns["noise"].log()
        return draws["noise"].transpose("chain", "draw").copy(data=value.numpy().reshape(draws["noise"].shape))

    return of


def main() -> None:
    oscillator = fsf.simulators.FunctionSimulator(SCHEMA, simulate)
    torch.manual_seed(0)  # the net starts from the weights it comes with
    config = fsf.TrainConfig(steps=2_300, batch_size=64, n_micro=1, pool=1, n_validation=512, dial=((None, 1.0),))
    small = fsf.NetworkConfig(width=48, depth=2, n_heads=4)
    joint = fsf.train(
        oscillator,
        simulations=None,  # fresh ones at every step: a net on raw traces learns a fixed set by heart
        config=config,
        network=small,
        n_active_observed=None,
        embeddings={"trace": network()},
    )
    joint.save("oscillator_model")
    joint = fsf.load("oscillator_model", embeddings={"trace": network()})  # a model's file holds weights and no code
    print(f"trained in {joint.provenance['cpu_seconds']:.0f} CPU seconds")

    new = simulate(300, torch.Generator().manual_seed(1))
    traces = xr.DataArray(new["trace"].numpy(), dims=("trial", "sample"), name="trace")
    posterior = joint.condition(traces, batch_dim="trial").sample(200)["posterior"].to_dataset()
    print("parameter   correlation of mean and truth   90 % intervals hold   sd, posterior / prior")
    for name in ("frequency", "damping", "noise"):
        truth, draws = new[name].numpy(), posterior[name].stack(s=("chain", "draw"))
        low, high = draws.quantile([0.05, 0.95], "s").to_numpy()
        held = np.mean((low < truth) & (truth < high))
        r = np.corrcoef(draws.mean("s"), truth)[0, 1]
        print(f"{name:11} {r:29.3f} {held:21.0%} {float(draws.std('s').mean()) / truth.std():23.2f}")

    one = traces[0].astype(np.float64)
    conditional = joint.condition(one)
    draws = conditional.sample(4_000, quality="exact")
    exact = conditional.refine(draws, log_likelihood(one))
    for name in ("frequency", "damping", "noise"):
        a, b = draws["posterior"][name], exact["posterior"][name]
        print(
            f"trace 0, {name}: truth {float(new[name][0]):.3f}, network {a.mean():.3f} ± {a.std():.3f}, "
            f"exact {b.mean():.3f} ± {b.std():.3f}"
        )
    stats = exact["sample_stats"]
    worth, k = float(stats["ess"]), float(stats["pareto_k"])
    print(f"4,000 draws are worth {worth:.0f} of the exact posterior (Pareto k {k:.2f})")


if __name__ == "__main__":
    main()
