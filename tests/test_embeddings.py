"""Embedding nets: what one makes of a trace stands where a value stood, and every promise of tokens holds for it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import seeded
from torch import Tensor, nn
from traces import IMAGE, TRACE, denoiser, joint, trace

import fsimformer as fsf
from fsimformer.denoise import Denoiser
from fsimformer.masks import KINDS, draw_condition_masks, drop_latent_arrays
from fsimformer.stages import Budget
from fsimformer.tokens import TokenBatch, collate, concatenate, split, uncollate

IS_PARAMETER = torch.tensor([True, False, False, False, True, False])


def rows(n: int, seed: int = 0) -> TokenBatch:
    """n rows with a, b, both arrays and two readings of y; nothing observed."""
    g = seeded(seed)
    variable = torch.tensor([0, 4, 3, 3, *TRACE, *IMAGE]).expand(n, -1)
    value = torch.randn(n, 7, generator=g) * torch.tensor([1, 1, 1, 1, 0, 0, 0])
    index = (torch.rand(n, 7, 1, generator=g) * 2 - 1) * (variable == 3)[..., None]
    mask = torch.zeros(n, 7, dtype=torch.bool)
    arrays = {TRACE: torch.randn(n, 20, generator=g), IMAGE: torch.randn(n, 3, 4, generator=g)}
    return TokenBatch(variable, index, value, mask, ~mask, arrays)


def answers(net: Denoiser, batch: TokenBatch, dial: Any = 0, n: int = 1) -> Tensor:
    """x̂ of each row's latents, replicates as the last dim: (B, latents, n)."""
    streams = split(batch, dial)
    latent = streams.active.latent
    y = torch.zeros(*latent.shape[:1], n, latent.shape[1])
    y[:] = torch.where(latent, (streams.active.variable.float() - 2).sin(), 0.0)[:, None]
    ratio = torch.linspace(0.5, 2.0, n).expand(len(latent), -1)
    with torch.no_grad():
        out = net.at_ratio(y, ratio, net.encode(streams))
    return out.movedim(1, 2)[latent].view(len(latent), -1, n)


def observe(batch: TokenBatch, *ids: int) -> TokenBatch:
    return batch.replace(condition_mask=torch.isin(batch.variable, torch.tensor(ids)))


# a trace of a thousand samples, x_k = θ sin(2π t_k) + s ε_k, θ ~ N(0, 1); its statistic m = Σ sin·x / Σ sin² is
# sufficient, m ~ N(θ, s²/500), so that θ | x ~ N(m/(1 + v), v/(1 + v)) with v = s²/500
T = torch.arange(1000) / 1000
SHAPE = (2 * math.pi * T).sin()
S = 10.0
V = S**2 / 500
WAVE = fsf.Schema(
    (fsf.Variable("theta", "parameter", prior=fsf.Normal()), fsf.Variable("x", "data", ("sample",))),
    (fsf.Axis("sample", 1000),),
)
STATISTIC = fsf.Schema((fsf.Variable("theta", "parameter", prior=fsf.Normal()), fsf.Variable("m", "data")))


def simulate_wave(n: int, generator: torch.Generator) -> dict[str, Tensor]:
    theta = torch.randn(n, generator=generator)
    return {"theta": theta, "x": theta[:, None] * SHAPE + S * torch.randn(n, 1000, generator=generator)}


class Projection(nn.Module):
    """The sufficient statistic, and what a network would see of it were it a token's value."""

    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies.clone())

    frequencies: Tensor

    def forward(self, x: Tensor) -> Tensor:
        m = (x @ SHAPE / 500)[:, None]
        phase = m * self.frequencies
        return torch.cat([m, phase.sin(), phase.cos() - 1], 1)


@pytest.mark.parametrize("dial", [0, None])
def test_the_statistic_as_an_embedding_is_the_statistic_as_a_value(dial: int | None) -> None:
    plain = denoiser(3, STATISTIC, {})
    embedded = denoiser(4, WAVE, {"x": Projection(plain.network.embedding.value_frequencies)})
    embedded.network.load_state_dict(plain.network.state_dict())
    assert embedded.embeddings is not None
    part = embedded.embeddings.parts[0]
    with torch.no_grad():  # cos − 1: the token's value, 0, adds the features of 0
        part.out.weight.copy_(plain.network.embedding.value.weight)
        part.out.bias.zero_()
    x = simulate_wave(5, seeded())["x"]
    mask = torch.tensor([False, True]).expand(5, -1)
    ids, index = torch.arange(2).expand(5, -1), torch.zeros(5, 2, 0)
    value = torch.stack([torch.zeros(5), x @ SHAPE / 500], 1)
    statistic = TokenBatch(ids, index, value, mask, torch.ones_like(mask))
    array = statistic.replace(value=torch.zeros(5, 2), arrays={range(1, 2): x})
    torch.testing.assert_close(answers(embedded, array, dial, 3), answers(plain, statistic, dial, 3))


def test_training_on_traces_finds_the_closed_form() -> None:
    simulator = fsf.simulators.FunctionSimulator(WAVE, simulate_wave)
    config = fsf.TrainConfig(
        steps=160, batch_size=32, n_micro=2, warmup=20, ema=0.98, n_validation=64, dial=((0, 1.0),), seed=1
    )
    joint = fsf.train(
        simulator,
        simulations=1_500,
        config=config,
        network=fsf.NetworkConfig(width=24, depth=2, n_heads=2, rotary_frequency=0),
        masks=fsf.MaskConfig(1, 0, 0, 0, 0, 0, 0, 0),
        n_active_observed=0,
        embeddings={"x": Projection(torch.tensor([0.5, 1.0]))},
    )
    x = simulate_wave(25, seeded(7))["x"]
    many = xr.DataArray(x.numpy(), dims=("data", "sample"), name="x")
    theta = joint.condition(many, batch_dim="data").sample(300, quality="exact")["posterior"]["theta"]
    mean, sd = theta.mean(("chain", "draw")).to_numpy(), theta.std(("chain", "draw")).to_numpy()
    exact = (x @ SHAPE / 500 / (1 + V)).numpy()
    posterior_sd = math.sqrt(V / (1 + V))
    assert np.sqrt(np.mean((mean - exact) ** 2)) < 0.3 * posterior_sd
    assert np.mean(np.abs(sd / posterior_sd - 1)) < 0.2


def test_rows_keep_their_arrays() -> None:
    batch = rows(4)
    some = batch.rows(torch.tensor([2, 0]))
    assert torch.equal(some.arrays[TRACE], batch.arrays[TRACE][[2, 0]])
    short = observe(batch, *TRACE, *IMAGE).rows(slice(1, 2)).gather(torch.tensor([[4, 5, 0]]))
    both = concatenate([some, short])
    assert both.valid[2].tolist() == [True] * 3 + [False] * 4
    assert torch.equal(both.arrays[IMAGE], batch.arrays[IMAGE][[2, 0, 1]])
    sets = uncollate(both)
    assert [set(s.arrays) for s in sets] == [{TRACE, IMAGE}, {TRACE, IMAGE}, {TRACE}]  # the third has no image token
    again = collate(sets)
    assert torch.equal(again.arrays[TRACE], both.arrays[TRACE])
    assert torch.equal(again.arrays[IMAGE][:2], both.arrays[IMAGE][:2])
    shared = batch.rows(slice(0, 1)).repeat(3)
    assert shared.shape == (3, 7) and shared.arrays[TRACE].shape == (1, 20)
    assert shared.rows(slice(0, 2)).arrays[TRACE].shape == (1, 20)
    shared = shared.replace(value=shared.value + torch.arange(3.0)[:, None])
    for which in (torch.tensor([2, 0, 2]), torch.tensor([True, False, True])):
        chosen = shared.rows(which)
        assert torch.equal(chosen.value, shared.value[which]) and torch.equal(
            chosen.arrays[TRACE], shared.arrays[TRACE]
        )


def test_shared_arrays_are_those_of_every_row() -> None:
    one, net = observe(rows(1), *TRACE, *IMAGE), denoiser()
    torch.testing.assert_close(answers(net, one.repeat(3)), answers(net, one.rows(torch.zeros(3, dtype=torch.long))))


@pytest.mark.parametrize("dial", [0, 2, None])
def test_neither_batch_mates_nor_junk_in_absent_arrays_matter(dial: int | None) -> None:
    net = denoiser()
    batch = observe(rows(4), 3, *TRACE, *IMAGE)
    absent = batch.of_arrays() & (torch.arange(4) == 1)[:, None]
    batch = batch.replace(valid=batch.valid & ~absent)
    whole = answers(net, batch, dial, 2)
    for i in range(4):
        torch.testing.assert_close(answers(net, batch.rows(slice(i, i + 1)), dial, 2), whole[i : i + 1])
    junk = {ids: x.index_fill(0, torch.tensor([1]), torch.nan) for ids, x in batch.arrays.items()}
    torch.testing.assert_close(answers(net, batch.replace(arrays=junk), dial, 2), whole)


def test_every_array_and_every_token_of_it_counts() -> None:
    net, batch = denoiser(), observe(rows(1), 3, *TRACE, *IMAGE)
    before = answers(net, batch)
    for ids in (TRACE, IMAGE):
        other = {**batch.arrays, ids: batch.arrays[ids] + 0.5}
        assert (answers(net, batch.replace(arrays=other)) - before).abs().max() > 1e-4
    for k in range(3):
        without = batch.replace(valid=batch.valid & (torch.arange(7) != 4 + k))
        assert (answers(net, without) - before).abs().max() > 1e-4


def counted(net: Denoiser) -> list[int]:
    """Rows of each run of the trace's module."""
    assert net.embeddings is not None
    seen: list[int] = []
    net.embeddings.parts[0].module.register_forward_hook(lambda module, args, out: seen.append(len(args[0])))
    return seen


def test_a_net_runs_once_for_all_levels_and_draws() -> None:
    net, batch = denoiser(), observe(rows(3), 3, *TRACE, *IMAGE)
    seen = counted(net)
    cached = answers(net, batch, None, 5)
    assert seen == [3]
    ratio = torch.linspace(0.5, 2.0, 5)
    streams = split(batch, None)
    y = torch.where(streams.active.latent, (streams.active.variable.float() - 2).sin(), 0.0)[:, None]
    with torch.no_grad():
        each = [net.at_ratio(y, ratio[k].expand(3, 1), net.encode(streams)) for k in range(5)]
    uncached = torch.cat([x[:, 0][streams.active.latent].view(3, -1, 1) for x in each], -1)
    torch.testing.assert_close(cached, uncached)


def test_stages_run_the_net_once_a_stage_not_once_a_draw() -> None:
    model = joint()
    seen = counted(model.model.denoiser)
    conditional = model.condition({"trace": trace(), "y": xr.DataArray([0.1], {"time": [1.0]}, "time")})
    at = {"y": np.linspace(0, 10, 8)}
    draws = conditional.sample(20, at, budget=Budget(n_joint=4, max_tokens=10**6))
    assert seen == [1, 1, 1]
    again = conditional.sample(20, at, budget=Budget(n_joint=4, max_tokens=60))
    xr.testing.assert_allclose(draws["posterior"].to_dataset(), again["posterior"].to_dataset(), atol=1e-5)


def test_a_latent_array_is_dropped_and_the_others_stay_as_they_were() -> None:
    batch, n_kinds = rows(40 * len(KINDS)), len(KINDS)
    kinds = torch.arange(n_kinds).repeat(40)
    mask = draw_condition_masks(batch, IS_PARAMETER, kinds, seeded(1))
    assert torch.equal(mask[:, 4], mask[:, 5])  # a trace is observed as a whole
    kept = drop_latent_arrays(batch.replace(condition_mask=mask))
    assert torch.equal(kept.valid[:, :4], batch.valid[:, :4]) and torch.equal(kept.valid[:, 4:], mask[:, 4:])
    assert not (kept.latent & kept.of_arrays()).any() and bool(kept.latent.any(1).all())
    for kind, share in {"posterior": 1.0, "joint": 0.0, "likelihood": 0.0, "variable": 0.5, "token": 0.5}.items():
        found = float(mask[kinds == KINDS.index(kind), 4].float().mean())
        assert abs(found - share) <= (0.3 if 0 < share < 1 else 0), kind
    # deleted, not masked: no other latent knows that there could have been an array
    net, likelihood = denoiser(), observe(batch.rows(slice(0, 3)), 0, 4)
    without = likelihood.gather(torch.arange(4).expand(3, -1)).replace(arrays={})
    torch.testing.assert_close(answers(net, drop_latent_arrays(likelihood)), answers(net, without))


def test_where_arrays_are_the_only_data_a_likelihood_row_becomes_a_posterior_row() -> None:
    batch = rows(6).gather(torch.tensor([[0, 1, 4, 5, 6]]).expand(6, -1))
    mask = draw_condition_masks(batch, IS_PARAMETER, torch.full((6,), KINDS.index("likelihood")), seeded())
    assert mask.tolist() == [[False, False, True, True, True]] * 6


def test_gradients_reach_the_module() -> None:
    net = denoiser().train()
    streams = split(observe(rows(3), *TRACE, *IMAGE), 0)
    n_a = streams.active.shape[1]
    net.loss(streams, torch.zeros(3, 1), torch.ones(3, 1, n_a)).backward()
    assert net.embeddings is not None
    grads = [p.grad for p in net.embeddings.parameters()]
    assert all(g is not None and bool((g != 0).any()) for g in grads)
