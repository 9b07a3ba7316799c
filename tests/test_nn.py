"""What the two-stream network promises, on random weights (a fresh one answers 0 to everything)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from einops import rearrange, repeat
from tiny import USES, batch, cast, denoiser, network, run, seeded, streams_of
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

from fsimformer import nn
from fsimformer.masks import attention
from fsimformer.nn import Network, NetworkConfig, Rotary, _fourier, _queries_keys_values
from fsimformer.tokens import Streams, TokenBatch, split

F_LENGTHS, A_LENGTHS, R = [7, 3, 0], [4, 6, 2], 3
DEPENDENCY = torch.tensor([[1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 1]]).bool()


@pytest.fixture
def net() -> Network:
    return network().double()


@pytest.fixture
def streams() -> Streams:
    return streams_of(F_LENGTHS, A_LENGTHS)


def inputs(streams: Streams, r: int = R, seed: int = 5) -> tuple[Tensor, Tensor]:
    b, n = streams.active.shape
    g = seeded(seed)
    given = streams.active.value[:, None]
    value = torch.randn(b, r, n, generator=g, dtype=torch.float64)
    value = torch.where(streams.active.condition_mask[:, None], given, value)
    return value, torch.randn(b, r, generator=g, dtype=torch.float64)


def uncached(net: Network, s: Streams, value: Tensor, c_noise: Tensor, dependency: Tensor | None = None) -> Tensor:
    """The same function in one stream: all tokens of a replicate at once, one mask, the frozen part computed anew.

    Frozen queries see frozen keys; active queries see all; the modulation of frozen tokens is 0. Heads by a loop.
    """
    (b, n_f), (_, n_a), r = s.frozen.shape, s.active.shape, value.shape[1]
    rows = lambda x: repeat(x, "b ... -> (b r) ...", r=r)  # noqa: E731
    variable = rows(torch.cat([s.frozen.variable, s.active.variable], 1))
    index = rows(torch.cat([s.frozen.index, s.active.index], 1))
    state = rows(torch.cat([torch.ones(b, n_f, dtype=torch.bool), s.active.condition_mask], 1))
    value = torch.cat([rows(s.frozen.value), rearrange(value, "b r n -> (b r) n")], 1)
    may = rows(torch.cat([s.frozen.valid, s.active.valid], 1))[:, None].expand(-1, n_f + n_a, -1).clone()
    may[:, :n_f, n_f:] = False
    if dependency is not None:
        may &= dependency[variable[:, :, None], variable[:, None]]
    h = net.embedding(net.embedding.static(variable, index, state), value)
    c = c_noise.reshape(-1)
    noise = net.noise(torch.cat([c[:, None], _fourier(c, net.noise_frequencies)], -1))
    m = net.modulation(silu(noise))[:, None].expand(-1, n_f + n_a, -1).clone()
    m[:, :n_f] = 0
    parts = m.chunk(4 * net.config.depth + 2, dim=-1)
    width = (net.config.width,)
    for i, layer in enumerate(net.layers):
        a1, b1, a2, b2 = parts[4 * i : 4 * i + 4]
        q, k, v = layer.qkv(layer_norm(h, width) * (1 + a1) + b1).chunk(3, -1)
        heads = []
        for head, which in enumerate(torch.arange(net.config.width).chunk(net.config.n_heads)):
            angle = (index * net.rotary.uses_index[variable]) @ net.rotary.turns[head].mT
            logits = turned(q[..., which], angle) @ turned(k[..., which], angle).mT / math.sqrt(len(which))
            heads.append(logits.masked_fill(~may, -1e9).softmax(-1) @ v[..., which])
        h = h + layer.attention_out(torch.cat(heads, -1))
        h = h + layer.mlp_out(gelu(layer.mlp_in(layer_norm(h, width) * (1 + a2) + b2)))
    h = layer_norm(h, width) * (1 + parts[-2]) + parts[-1]
    return rearrange(net.out(h)[:, n_f:, 0], "(b r) n -> b r n", b=b)


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """Channels 2j and 2j + 1 of x turned by angle j."""
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def test_rotary_logits_depend_on_distances_only() -> None:
    """Where the variable has the dim: moving all tokens along it changes nothing, moving one does."""
    rotary = Rotary(NetworkConfig(uses_index=USES, width=64, n_heads=4)).double()
    g = seeded(6)
    q, k = (torch.randn(1, 4, 5, 16, generator=g, dtype=torch.float64) for _ in "qk")
    index = torch.rand(1, 5, 2, generator=g, dtype=torch.float64) * 2 - 1

    def logits(variable: list[int], index: Tensor) -> Tensor:
        phases = rotary.phases(torch.tensor([variable]), index)
        assert phases is not None
        q_, k_, _ = _queries_keys_values(torch.cat([x.transpose(1, 2).flatten(2) for x in (q, k, k)], -1), 4, phases)
        return q_ @ k_.mT

    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    torch.testing.assert_close(logits([3] * 5, index), logits([3] * 5, index + shift))
    torch.testing.assert_close(logits([2] * 5, index), logits([2] * 5, index + shift))
    assert (logits([2] * 5, index) - logits([3] * 5, index)).abs().max() > 0.1  # the second dim turns id 3 only
    moved = index.clone()
    moved[0, 0] += shift
    assert (logits([3] * 5, index) - logits([3] * 5, moved)).abs().max() > 0.1
    torch.testing.assert_close(logits([0] * 5, index), q @ k.mT)  # scalars do not turn
    assert len(rotary.turns.flatten(0, 1).unique(dim=0)) == 17  # half the pairs; the rest are still
    assert Rotary(NetworkConfig(uses_index=USES, rotary_frequency=0)).phases(torch.zeros(1, 5), index) is None


def test_pairs_turn_alike_in_complex_and_in_real_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` sees real numbers, all else complex ones; values and gradients are one."""
    x = torch.randn(3, 5, 2, 4, 16, generator=seeded(1), requires_grad=True)
    angle = 9 * torch.randn(3, 5, 1, 4, 8, generator=seeded(2))
    phases, found = torch.stack([angle.cos(), angle.sin()], -1), []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        out = nn.turned(x, phases)
        (gradient,) = torch.autograd.grad(out.square().sum() + out[..., 3].sum(), x)
        torch.testing.assert_close(out, turned(x, angle), rtol=0, atol=1e-6)
        found.append((out, gradient))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("dependency", [None, DEPENDENCY])
def test_two_streams_are_one_masked_transformer(net: Network, streams: Streams, dependency: Tensor | None) -> None:
    value, c = inputs(streams)
    out, _ = run(net, streams, value, c, dependency)
    expected = uncached(net, streams, value, c, dependency)
    valid = streams.active.valid[:, None].expand(-1, R, -1)
    torch.testing.assert_close(out[valid], expected[valid], rtol=0, atol=1e-10)
    assert out[valid].std() > 0.1  # not vacuous


def test_cached_is_uncached_in_float32() -> None:
    """Encoding once = encoding for every call; R replicates at once = one by one."""
    net, s = network(), streams_of(F_LENGTHS, A_LENGTHS)
    s = Streams(cast(s.frozen, torch.float32), cast(s.active, torch.float32), s.position)
    value, c = (x.float() for x in inputs(s, r=8))
    out, context = run(net, s, value, c)
    masks = attention(s.frozen, s.active)
    a, valid = s.active, s.active.valid
    for r in range(8):
        one, again = run(net, s, value[:, r : r + 1], c[:, r : r + 1])
        assert torch.equal(again.keys[1], context.keys[1])
        assert (out[:, r] - one[:, 0])[valid].abs().max() < 1e-5
        assert (out[:, r] - uncached(net, s, value[:, r : r + 1], c[:, r : r + 1])[:, 0])[valid].abs().max() < 1e-5
        cached = net.decode(
            a.variable, a.index, a.condition_mask, value[:, r : r + 1], c[:, r : r + 1], context, masks.active,
            masks.context,
        )  # fmt: skip
        assert (cached - one)[:, 0][valid].abs().max() < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_padded_is_alone(dtype: torch.dtype, tolerance: float) -> None:
    net, s = network().to(dtype), streams_of(F_LENGTHS, A_LENGTHS)
    value, c = inputs(s)
    s = Streams(cast(s.frozen, dtype), cast(s.active, dtype), s.position)
    out, _ = run(net, s, value.to(dtype), c.to(dtype))
    for i, (n_f, n_a) in enumerate(zip(F_LENGTHS, A_LENGTHS, strict=True)):
        frozen, active = s.frozen.rows(slice(i, i + 1)), s.active.rows(slice(i, i + 1))
        alone = Streams(cut(frozen, range(n_f)), cut(active, range(n_a)), s.position)
        one, _ = run(net, alone, value[i : i + 1, :, :n_a].to(dtype), c[i : i + 1].to(dtype))
        assert (out[i, :, :n_a] - one[0]).abs().max() < tolerance


def cut(part: TokenBatch, keep: range | list[int]) -> TokenBatch:
    return part.gather(torch.tensor(list(keep), dtype=torch.long).expand(part.shape[0], -1))


def test_masked_is_deleted(net: Network) -> None:
    s = streams_of([6], [5])
    value, c = inputs(s)
    drop_f, drop_a = s.frozen.valid.clone(), s.active.valid.clone()
    drop_f[0, 2], drop_a[0, [0, 3]] = False, False
    masked, _ = run(net, Streams(s.frozen.replace(valid=drop_f), s.active.replace(valid=drop_a), s.position), value, c)
    keep = [1, 2, 4]
    deleted, _ = run(net, Streams(cut(s.frozen, [0, 1, 3, 4, 5]), cut(s.active, keep), s.position), value[..., keep], c)
    torch.testing.assert_close(masked[..., keep], deleted, rtol=0, atol=1e-10)
    whole, _ = run(net, s, value, c)
    assert (whole[..., keep] - deleted).abs().max() > 1e-3  # the deleted tokens did matter


def test_rows_without_active_tokens_are_rows(net: Network) -> None:
    """Rows of functions may have nothing latent, a whole batch of them too."""
    streams = streams_of(F_LENGTHS, (0,) * len(F_LENGTHS))
    value, c = inputs(streams)
    assert run(net, streams, value, c, None)[0].shape == (len(F_LENGTHS), R, 0)


def test_permuting_tokens_permutes_the_output(net: Network) -> None:
    s = streams_of([6], [5])
    value, c = inputs(s)
    out, _ = run(net, s, value, c, DEPENDENCY)
    f, a = torch.randperm(6, generator=seeded(1)), torch.randperm(5, generator=seeded(2))
    shuffled, _ = run(net, Streams(cut(s.frozen, f.tolist()), cut(s.active, a.tolist()), s.position), value[..., a], c,
                      DEPENDENCY)  # fmt: skip
    torch.testing.assert_close(shuffled, out[..., a], rtol=0, atol=1e-10)


def test_a_cut_edge_has_exactly_zero_gradient() -> None:
    """One layer: no edge, no gradient, and an edge has one. Two layers: nothing without a path."""
    s = streams_of([6], [6])
    reach = {1: DEPENDENCY, 2: (DEPENDENCY.double() @ DEPENDENCY.double()).bool()}
    for depth, may in reach.items():
        net = network(depth=depth).double()
        value, c = inputs(s, r=1)
        value.requires_grad_()
        f = s.frozen.replace(value=s.frozen.value.clone().requires_grad_())
        out, _ = run(net, Streams(f, s.active, s.position), value, c, DEPENDENCY)
        edges = set()
        for i, query in enumerate(s.active.variable[0].tolist()):
            of_active, of_frozen = torch.autograd.grad(out[0, 0, i], [value, f.value], retain_graph=True)
            for j, key in enumerate(s.active.variable[0].tolist()):
                assert (of_active[0, 0, j] != 0) == (i == j or bool(may[query, key]))
            for j, key in enumerate(s.frozen.variable[0].tolist()):
                # frozen keys of the last layer saw their own graph once less: a path of `depth` edges all the same
                assert (of_frozen[0, j] != 0) == bool(may[query, key])
                edges.add(bool(may[query, key]))
        assert edges == {True, False}


def test_context_knows_neither_latents_nor_noise() -> None:
    """The encoding of a batch is the same whatever its latents hold, and has no gradient to them."""
    whole = cast(batch([12], n_ids=6, n_index=1, seed=3), torch.float32)
    model = denoiser()
    latent = whole.latent
    other = whole.replace(value=torch.where(latent, whole.value + 5.0, whole.value).requires_grad_())
    a, b = model.encode(split(whole, 3)), model.encode(split(other, 3))
    for x, y in zip((*a.context.keys, *a.context.values), (*b.context.keys, *b.context.values), strict=True):
        assert torch.equal(x, y)
    (slope,) = torch.autograd.grad(sum(k.square().sum() for k in b.context.keys), other.value)
    assert bool((slope[latent] == 0).all()) and bool((slope != 0).any())


def test_replicates_do_not_see_each_other(net: Network, streams: Streams) -> None:
    value, c = inputs(streams)
    out, _ = run(net, streams, value, c)
    value2, c2 = value.clone(), c.clone()
    value2[:, 1:] += 3.0
    c2[:, 1:] -= 1.0
    changed, _ = run(net, streams, value2, c2)
    torch.testing.assert_close(changed[:, 0], out[:, 0], rtol=0, atol=1e-12)
    assert (changed[:, 1:] - out[:, 1:])[streams.active.valid[:, None].expand(-1, R - 1, -1)].abs().min() > 0


def test_one_noise_level_may_stand_for_those_of_all_replicates(net: Network, streams: Streams) -> None:
    value, c_noise = inputs(streams)
    each, _ = run(net, streams, value, c_noise[:, :1].expand(-1, R))
    torch.testing.assert_close(run(net, streams, value, c_noise[:, :1])[0], each, rtol=0, atol=1e-12)


def test_scalars_are_idle_where_angles_are_zero() -> None:
    rotary = network().rotary
    scalars = torch.tensor([[i for i, uses in enumerate(USES) if not any(uses)]])
    assert rotary.idle(scalars) and not rotary.idle(torch.arange(len(USES))[None])
    x = torch.randn(1, scalars.shape[1], 1, rotary.turns.shape[0], 2 * rotary.turns.shape[1], generator=seeded(0))
    phases = rotary.phases(scalars, torch.rand(*scalars.shape, len(USES[0])))
    assert phases is not None
    torch.testing.assert_close(nn.turned(x, phases), x, rtol=0, atol=0)


def test_everything_a_token_carries_matters(net: Network) -> None:
    """Id, index, value, state and noise level of an active token; id, index and value of a frozen one."""
    s = streams_of([4], [3])
    value, c = inputs(s, r=1)
    base, _ = run(net, s, value, c)

    def moved(streams: Streams = s, value: Tensor = value, c: Tensor = c) -> float:
        return float((run(net, streams, value, c)[0] - base).detach().abs().max())

    def with_frozen(**changes: Tensor) -> Streams:
        return Streams(s.frozen.replace(**changes), s.active, s.position)

    def with_active(**changes: Tensor) -> Streams:
        return Streams(s.frozen, s.active.replace(**changes), s.position)

    assert moved() == 0
    assert moved(with_frozen(variable=(s.frozen.variable + 1) % 5)) > 1e-3
    assert moved(with_frozen(value=s.frozen.value + 1)) > 1e-3
    assert moved(with_frozen(index=-s.frozen.index)) > 1e-3
    assert moved(with_active(variable=(s.active.variable + 1) % 5)) > 1e-3
    assert moved(with_active(index=-s.active.index)) > 1e-3
    assert moved(with_active(condition_mask=~s.active.condition_mask)) > 1e-3
    assert moved(value=value + 1) > 1e-3
    assert moved(c=c + 1) > 1e-3


@pytest.mark.parametrize("id", range(5))
def test_an_id_ignores_the_index_dims_that_its_variable_lacks(net: Network, id: int) -> None:
    s = streams_of([4], [3])
    for d in range(2):
        where = s.active.variable.clone(), s.frozen.variable.clone()
        where[0][:], where[1][:] = id, id
        before = Streams(s.frozen.replace(variable=where[1]), s.active.replace(variable=where[0]), s.position)
        value, c = inputs(before, r=1)
        index_f, index_a = s.frozen.index.clone(), s.active.index.clone()
        index_f[..., d] += 0.3
        index_a[..., d] -= 0.4
        after = Streams(before.frozen.replace(index=index_f), before.active.replace(index=index_a), s.position)
        change = (run(net, after, value, c)[0] - run(net, before, value, c)[0]).abs().max()
        assert bool(change > 1e-4) if USES[id][d] else bool(change == 0)


def test_a_fresh_network_answers_zero_and_a_config_is_checked() -> None:
    s = streams_of([4], [3])
    net = Network(NetworkConfig(USES, width=16, depth=2, n_heads=2)).double()
    assert not run(net, s, *inputs(s))[0].any()
    with pytest.raises(ValueError, match="width 16 is not a multiple of n_heads 3. Pass n_heads=2"):
        NetworkConfig(USES, width=16, n_heads=3)
    for wrong, said in ({"width": 24.0}, "'width': 24.0"), ({"inducing": 8.5}, "'inducing': 8.5"):
        with pytest.raises(TypeError, match=f"expected whole numbers, got .*{said}"):
            NetworkConfig(USES, **wrong)  # type: ignore[arg-type]
    assert type(NetworkConfig(USES, width=np.int64(96)).width) is int  # type: ignore[arg-type]
    assert 0.25e6 < Network(NetworkConfig(USES)).n_parameters < 0.4e6
