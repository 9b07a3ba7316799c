"""Tiny networks, batches and models, seeded; networks have random weights, for a fresh one answers 0 to everything."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from fsimformer.denoise import Denoiser
from fsimformer.joint import Joint
from fsimformer.masks import attention
from fsimformer.model_file import Model, build_denoiser
from fsimformer.nn import Context, Network, NetworkConfig
from fsimformer.priors import POSITIVE, LogNormal, Normal, Uniform
from fsimformer.schema import Components, Index, Noise, Schema, Variable
from fsimformer.tokens import Dial, Streams, TokenBatch, TokenSet
from fsimformer.whiten import Standardise, Transform, Whitening

# ids 0, 1: scalars; 2: a function of the first index dim; 3: of both; 4: of the second
USES = ((False, False), (False, False), (True, False), (True, True), (False, True))

SCHEMA = Schema(
    (
        Variable("a", "parameter", prior=Uniform(-2, 2)),
        Variable("w", "parameter", ("part",), prior=LogNormal()),
        Variable("rate", "parameter", ("time",), prior=Normal()),
        Variable("y", "data", ("time",), support=POSITIVE, noise=Noise("lognormal", 0.1), parents=("a", "rate")),
        Variable("x", "data", ("time", "part"), parents=("w",)),
    ),
    (Index("time", 0, 20, "days"), Components("part", 2)),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(module: torch.nn.Module, seed: int = 0, gain: float = 1.0) -> None:
    """Every weight ~ N(0, gain²/fan in), biases included: nothing stays zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            scale = gain / (p.shape[1] ** 0.5 if p.dim() > 1 else 3)
            p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def network(uses: tuple[tuple[bool, ...], ...] = USES, depth: int = 2, seed: int = 0, gain: float = 1.0) -> Network:
    out = Network(NetworkConfig(uses, width=16, depth=depth, n_heads=2))
    randomise(out, seed, gain)
    return out.eval()


def batch(lengths: list[int], n_ids: int = 5, n_index: int = 2, seed: int = 0, observed: float = 0.6) -> TokenBatch:
    """Random rows of these lengths, float64; ids and condition masks random, padding filled with junk."""
    b, n, generator = len(lengths), max(lengths), seeded(seed)
    valid = torch.arange(n)[None] < torch.tensor(lengths)[:, None]
    return TokenBatch(
        torch.randint(n_ids, (b, n), generator=generator),
        torch.rand(b, n, n_index, generator=generator, dtype=torch.float64) * 2 - 1,
        torch.randn(b, n, generator=generator, dtype=torch.float64),
        torch.rand(b, n, generator=generator) < observed,
        valid,
    )


def streams_of(n_frozen: list[int], n_active: list[int], n_observed: int = 1, seed: int = 0) -> Streams:
    """Random streams; the first `n_observed` active tokens of a row are observed."""
    frozen, active = batch(n_frozen, seed=seed), batch(n_active, seed=seed + 1)
    frozen = frozen.replace(condition_mask=torch.ones_like(frozen.valid))
    observed = (torch.arange(active.shape[1]) < n_observed).expand(active.shape)
    active = active.replace(condition_mask=observed.clone())
    return Streams(frozen, active, torch.zeros_like(active.variable))


def cast(part: TokenBatch, dtype: torch.dtype) -> TokenBatch:
    return part.replace(index=part.index.to(dtype), value=part.value.to(dtype))


def run(
    net: Network, streams: Streams, value: Tensor, c_noise: Tensor, dependency: Tensor | None = None
) -> tuple[Tensor, Context]:
    """Encode and decode: value (B, R, n_a), c_noise (B, R)."""
    masks = attention(streams.frozen, streams.active, dependency)
    f, a = streams.frozen, streams.active
    context = net.encode(f.variable, f.index, f.value, masks.frozen)
    out = net.decode(a.variable, a.index, a.condition_mask, value, c_noise, context, masks.active, masks.context)
    return out, context


def denoiser(schedule: str = "trig", seed: int = 0, schema: Schema = SCHEMA, dependency: str = "dense") -> Denoiser:
    uses = tuple(tuple(bool(x) for x in row) for row in schema.uses_index())
    out = build_denoiser(schema, NetworkConfig(uses, width=16, depth=2, n_heads=2), schedule, dependency)
    randomise(out, seed, gain=0.7)
    return out.eval()


def joint(seed: int = 0, n_active_observed: Dial = 2, max_latents: int = 12) -> Joint:
    """A Joint of SCHEMA with random weights: draws mean nothing, and their invariances everything."""
    whitening = Whitening(
        {v.name: Transform(v.prior, v.support, Standardise(0.3, 0.8, 3.0)) for v in SCHEMA.variables if not v.prior}
        | {v.name: Transform(v.prior, v.support) for v in SCHEMA.variables if v.prior}
    )
    readings = {"rate": 8, "y": 10, "x": 10}
    model = Model(
        SCHEMA,
        whitening,
        denoiser(seed=seed),
        "trig",
        "dense",
        n_active_observed,
        readings,
        max_latents,
        {"y": (1e-3, 1e3), "x": (-1e3, 1e3)},
        (),
        {"seed": seed},
    )
    return Joint(model)


def token_set(ids: list[int], times: list[float], values: list[float], observed: bool, n_index: int = 1) -> TokenSet:
    index = torch.zeros(len(ids), n_index)
    index[:, 0] = torch.tensor(times)
    return TokenSet(torch.tensor(ids, dtype=torch.long), index, torch.tensor(values), torch.full((len(ids),), observed))


def double(streams: Streams) -> Streams:
    return replace(streams, frozen=cast(streams.frozen, torch.float64), active=cast(streams.active, torch.float64))
