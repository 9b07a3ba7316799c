"""Does a diffusion over all points of a function do better with correlated noise? The resolution curve says no or yes.

The process, probe points, data sets, figures, simulations, steps and network of resolution.py ("white_plain": no
reference set, no linear baseline), trained here twice: the noise on theta is white, or a Matérn-3/2 process of the
index with unit variance and f's own lengthscale. With noise of covariance K the marginals of every single value are
those of white noise, so that levels, preconditioning and the flow

    dx/dt = α' x̂ + σ' (x − α x̂)/σ

are the same, and only the noise's law changes, in the loss and at the sampler's start. Readings x keep white noise.
All points are drawn together by the ODE, which needs no noise on its way ("exact").

    python benchmarks/correlated_noise.py white
    python benchmarks/correlated_noise.py matern
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from record import ROOT, save
from resolution import N_SETS, PROBE, SIMULATIONS, SIZES, STEPS, N, figures, problems, row_of, times_of
from torch import Tensor, nn

import fsimformer as fsf
from fsimformer.convert import observed_tokens, read
from fsimformer.denoise import Denoiser
from fsimformer.kernels import Kernel
from fsimformer.model_file import build_denoiser
from fsimformer.nn import Network
from fsimformer.readings import read as read_rows
from fsimformer.sample import QUALITY, sample_active
from fsimformer.seeds import generator_at
from fsimformer.simulations import build_store, simulate
from fsimformer.simulators import GaussianProcess
from fsimformer.summary import Summariser
from fsimformer.tokens import Streams, TokenBatch, TokenSet, collate, join, split
from fsimformer.train import TrainConfig, fit
from fsimformer.whiten import Whitening

LENGTHSCALE = 0.2
N_HELD_OUT = 1_000
CHUNK = 50  # draws in one network call


def correlated(standard: Tensor, active: TokenBatch, theta: int, process: Kernel) -> Tensor:
    """Standard normals (B, R, n_a) -> noise: the Matérn process on theta's latent tokens, white elsewhere."""
    mine = (active.variable == theta) & active.latent
    at = (active.index[..., :1].double() + 1) / 2  # of [−1, 1] -> [0, 1], the index in its own units
    k = process(at, at)
    both = mine[:, :, None] & mine[:, None, :]
    eye = torch.eye(k.shape[-1], dtype=torch.float64)
    factor = torch.linalg.cholesky(torch.where(both, k, 0.0) * (1 - 1e-6) + eye * torch.where(mine, 1e-6, 1.0)[:, None])
    return (standard.double() @ factor.mT).to(standard.dtype)


class Correlated(nn.Module):
    """What `train.fit` trains (`noised.Learner`): a denoiser whose noise on theta is correlated."""

    def __init__(self, denoiser: Denoiser, theta: int, process: Kernel) -> None:
        super().__init__()
        self.denoiser, self.theta, self.process = denoiser, theta, process
        self.baseline = None

    @property
    def network(self) -> Network:
        return self.denoiser.network

    @property
    def summariser(self) -> Summariser | None:
        return self.denoiser.summariser

    @property
    def schedule(self) -> object:
        return self.denoiser.schedule

    @property
    def device(self) -> torch.device:
        return self.denoiser.device

    @property
    def n_parameters(self) -> int:
        return self.denoiser.n_parameters

    def loss(
        self, streams: Streams, log_ratio: Tensor, epsilon: Tensor, told: bool = True, above: int | None = None
    ) -> Tensor:
        epsilon = correlated(epsilon, streams.active, self.theta, self.process)
        return self.denoiser.loss(streams, log_ratio, epsilon, told, above)


def trained(noise: str, steps: int) -> tuple[Denoiser, GaussianProcess, Whitening, float]:
    """A network without a reference set, as resolution.py's "white_plain"; resumes from its checkpoint in runs/."""
    started = time.process_time()
    process = GaussianProcess(Kernel(lengthscale=LENGTHSCALE))
    schema = process.schema
    config = TrainConfig(steps=steps, batch_size=64, n_micro=4, pool=4, cooldown=0.3, ema=0.995, seed=0)
    uses = tuple(map(tuple, schema.uses_index().tolist()))
    network = fsf.NetworkConfig(width=64, depth=4, n_heads=4, uses_index=uses)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        denoiser = build_denoiser(schema, network, "trig", "dense")
    drawn = simulate(process, SIMULATIONS, generator_at(0, 2, 0))
    whitening = Whitening.fit(schema, drawn.values)
    store, design = build_store(schema, whitening, drawn.values), fsf.Design((24, 24))

    def between(first: int, last: int) -> Any:
        return lambda n, generator: read_rows(
            store, torch.randint(first, last, (n,), generator=generator), design, generator
        )

    is_parameter = torch.tensor([v.role == "parameter" for v in schema.variables])
    kernel = Kernel(1.5, LENGTHSCALE)
    learner: Any = denoiser if noise == "white" else Correlated(denoiser, schema.ids("theta")[0], kernel)
    checkpoint = ROOT / "runs" / "resolution" / f"correlated_{noise}_{steps}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    cut = SIMULATIONS - N_HELD_OUT
    run = fit(
        learner, between(0, cut), between(cut, SIMULATIONS), is_parameter, fsf.MaskConfig(), fsf.NoiseLevels(), config,
        checkpoint=checkpoint, about={"noise": noise},
    )  # fmt: skip
    return denoiser.eval(), process, whitening, run.cpu_seconds + time.process_time() - started


def draws_of(denoiser: Denoiser, noise: str, given: TokenSet, query: TokenSet, theta: int, seed: int) -> Tensor:
    """(N, len(query)) whitened draws of all points of the query together."""
    streams = split(collate([join(given, query)]), "few")
    latent = streams.active.latent[0]
    out = []
    with torch.no_grad():
        encoded = denoiser.encode(streams)
        for start in range(0, N, CHUNK):
            epsilon = torch.randn(1, CHUNK, len(latent), generator=generator_at(seed, 9, start))
            if noise == "matern":
                epsilon = correlated(epsilon, streams.active, theta, Kernel(1.5, LENGTHSCALE))
            out.append(sample_active(denoiser, encoded, epsilon, QUALITY["exact"])[0][:, latent])
    return torch.cat(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noise", choices=("white", "matern"))
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, process, whitening, seconds = trained(args.noise, args.steps)
    schema, theta = process.schema, process.schema.ids("theta")[0]
    sets, floors = problems(process)
    tokens = [observed_tokens(schema, whitening, read(schema, observed)) for observed, _ in sets]
    rows: list[dict[str, Any]] = []
    for size in SIZES["white"]:
        asked = xr.Dataset({"theta": ("time", np.zeros(size))}, {"time": times_of(size)})
        query = observed_tokens(schema, whitening, read(schema, asked))  # in the order of the times given
        query = TokenSet(query.variable, query.index, query.value, torch.zeros(size, dtype=torch.bool))
        place = [int((query.index[:, 0] - (2 * t - 1)).abs().argmin()) for t in PROBE]
        start, found = time.process_time(), []
        for i, (given, (_, moments)) in enumerate(zip(tokens, sets, strict=True)):
            z = draws_of(denoiser, args.noise, given, query, theta, i)[:, place]
            draws = whitening["theta"].inverse(z.double()).numpy()
            found.append(figures(draws, *moments))
        rows.append(row_of(size, time.process_time() - start, found, floors))
    results = {
        "n": N, "n_sets": N_SETS, "variant": f"joint, {args.noise} noise", "steps": args.steps,
        "train_cpu_seconds": round(seconds, 1), "rows": rows,
    }  # fmt: skip
    print(save(f"correlated_noise_{args.noise}", 0, results))


if __name__ == "__main__":
    main()
