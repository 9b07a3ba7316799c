"""Long observations: what a summary keeps, whom it leaves alone, and what it costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import SCHEMA, batch, cast, randomise, seeded
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fsimformer import summary
from fsimformer.denoise import Denoiser
from fsimformer.gaussian import Given
from fsimformer.model_file import build_denoiser
from fsimformer.nn import NetworkConfig
from fsimformer.schema import Axis, Index, Schema, Variable
from fsimformer.summary import CHUNK, Summariser, by_place, chunk_frame, shortfall
from fsimformer.tokens import TokenBatch, collate, concatenate, join, split, take, uncollate

M, ABOVE = 8, 60


def network(schema: Schema = SCHEMA, **changes: Any) -> NetworkConfig:
    uses = tuple(tuple(bool(x) for x in row) for row in schema.uses_index())
    return NetworkConfig(uses, width=16, depth=2, n_heads=2, **{"inducing": M, "compress_above": ABOVE, **changes})


def compressing(seed: int = 0, dtype: torch.dtype = torch.float64) -> Denoiser:
    out = build_denoiser(SCHEMA, network(), "trig", "dense")
    randomise(out, seed, gain=0.7)
    return out.to(dtype).eval()


def rows(*lengths: int, seed: int = 3) -> TokenBatch:
    """Mostly readings: ids 3 (a function of time) and 4, 5 are many, the scalars of a row few."""
    out = batch(list(lengths), n_ids=6, n_index=1, seed=seed, observed=0.9)
    few = torch.arange(out.shape[1]) < 6
    variable = torch.where(few, out.variable % 3, 3 + out.variable % 3)
    return out.replace(variable=variable, index=torch.where((variable < 3)[..., None], 0.0, out.index))


def answers(model: Denoiser, part: TokenBatch, r: int = 3) -> Tensor:
    """x̂ (B, r, L) at every latent token of a batch, 0 elsewhere; the noise of a place is the same in every batch."""
    streams = split(part, 0)
    g = seeded(5)
    noise = torch.randn(8, r, 2_000, generator=g, dtype=torch.float64)[: part.shape[0], :, : part.shape[1]]
    y = noise.gather(2, streams.position[:, None].expand(-1, r, -1)).to(part.value.dtype)
    x_hat = model.at_ratio(y, torch.tensor([0.05, 0.4, 2.0][:r]).to(y).expand(len(y), r), model.encode(streams))
    x_hat = torch.where(streams.active.latent[:, None], x_hat, 0.0)
    return torch.zeros_like(noise).to(y).scatter_add(2, streams.position[:, None].expand(-1, r, -1), x_hat)


def test_short_rows_are_what_they_are_without_compression_bit_for_bit() -> None:
    with_it = compressing(dtype=torch.float32)
    plain = build_denoiser(SCHEMA, network(inducing=0), "trig", "dense").eval()
    plain.load_state_dict({k: v for k, v in with_it.state_dict().items() if not k.startswith("summariser")})
    short = cast(rows(ABOVE, 40, 3), torch.float32)
    assert torch.equal(answers(with_it, short), answers(plain, short))
    long = cast(rows(3 * ABOVE), torch.float32)
    assert (answers(with_it, long) - answers(plain, long)).abs().max() > 0.01


def test_a_row_does_not_depend_on_its_batch_mates_or_on_padding() -> None:
    model, whole = compressing(), rows(400, 45, 150, 131)
    for i, n in enumerate((400, 45, 150, 131)):
        alone = whole.rows(slice(i, i + 1)).gather(torch.arange(n)[None])
        beside = answers(model, whole.rows(torch.tensor([i, 0, 1, 2, 3])))[:1]  # the noise is that of the first row
        torch.testing.assert_close(answers(model, alone), beside[..., :n], rtol=0, atol=1e-10)
        assert not beside[..., n:].any() and beside.abs().max() > 0.1


def test_order_makes_no_difference() -> None:
    model, whole = compressing(), rows(500)
    order = torch.randperm(500, generator=seeded(1))
    found = model.encode(split(whole, 0))
    shuffled = model.encode(split(whole.gather(order[None]), 0))
    for x, y in zip(found.context.keys, shuffled.context.keys, strict=True):
        summaries = slice(-M - 1, None)  # tokens that stay come in their own order
        torch.testing.assert_close(x[:, :, summaries], y[:, :, summaries], rtol=0, atol=1e-10)
    a, b = found.summary, shuffled.summary
    assert a is not None and b is not None
    torch.testing.assert_close((a.tokens, a.shift, a.precision), (b.tokens, b.shift, b.precision), rtol=0, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_places_have_one_order_ties_or_not(d: int) -> None:
    """Equal places, ids and values included; neighbours on the curve are neighbours."""
    g = seeded(d)
    index = (torch.rand(1, 300, d, generator=g) * 40).round() / 20 - 1
    variable, value = torch.randint(3, (1, 300), generator=g), torch.randint(4, (1, 300), generator=g).double()
    which = torch.rand(1, 300, generator=g) < 0.8
    n = int(which.sum())
    order = by_place(index, variable, value, which)[0, :n]
    assert bool(which[0, order].all()) and len(order.unique()) == n
    p = torch.randperm(300, generator=g)[None]
    again = by_place(index[:, p[0]], variable.gather(1, p), value.gather(1, p), which.gather(1, p))[0, :n]
    for x in (index[0], variable[0], value[0]):
        assert torch.equal(x[order], x[p[0, again]])
    step = index[0, order].diff(dim=0).abs().amax(1).mean()
    assert step < 0.4 * index[0].roll(1, 0).sub(index[0]).abs().amax(1).mean()


def test_chunks_have_coordinates_of_their_own() -> None:
    """The same at every scale and place, but for the size that is told."""
    index = torch.rand(1, 20, 1, generator=seeded(2), dtype=torch.float64)
    uses = torch.ones_like(index, dtype=torch.bool)
    local, size = chunk_frame(index, uses)
    small, small_size = chunk_frame(0.6 + 1e-3 * index, uses)
    torch.testing.assert_close(local, small, rtol=0, atol=1e-9)
    torch.testing.assert_close(4 * (size - small_size), torch.full_like(size, math.log(1e3)))
    torch.testing.assert_close(torch.stack([local.min(), local.max()]), torch.tensor([-1.0, 1.0]).double())
    nothing = chunk_frame(index, torch.zeros_like(uses))
    one = chunk_frame(index[:, :1], uses[:, :1])
    assert not any(x.any() for x in (*nothing, *one))


@pytest.mark.parametrize("distance_decay", [False, True])
def test_a_network_of_differences_stays_one(distance_decay: bool) -> None:
    """Without index features nothing tells where the readings lie, but for how far from each other and from latents."""
    config = network(index_features=0, rotary_frequency=0.0 if distance_decay else 4.0, distance_decay=distance_decay)
    model = build_denoiser(SCHEMA, config, "trig", "dense")
    randomise(model, 2, gain=0.7)
    model, whole = model.double().eval(), rows(300)
    on_time = (whole.variable > 2)[..., None]
    there = answers(model, whole)
    shifted = answers(model, whole.replace(index=whole.index + 0.2 * on_time))
    torch.testing.assert_close(shifted, there, rtol=0, atol=1e-8)
    stretched = answers(model, whole.replace(index=1.2 * whole.index))
    assert (stretched - there).abs().max() > 1e-4


def test_every_reading_counts() -> None:
    """A gradient to the value and the place of each pooled reading, none to those of padding."""
    model, whole = compressing(), rows(300, 200)
    value, index = whole.value.clone().requires_grad_(), whole.index.clone().requires_grad_()
    encoded = model.encode(split(whole.replace(value=value, index=index), 0))
    size = sum(x.square().sum() for x in (*encoded.context.values, *encoded.context.keys))
    assert isinstance(size, Tensor)
    of_value, of_index = torch.autograd.grad(size, [value, index])
    readings = whole.observed & (whole.variable > 2)
    assert bool((of_value[readings] != 0).all()) and bool((of_index[readings] != 0).all())
    assert not of_value[~whole.valid].any() and not of_index[~whole.valid].any()


def test_information_adds() -> None:
    """Of two sets of readings that lie apart: P_AB − I = (P_A − I) + (P_B − I), η_AB = η_A + η_B."""
    model, n = compressing(), 4 * CHUNK
    assert model.summariser is not None
    both = rows(2 * n).replace(variable=torch.full((1, 2 * n), 3), condition_mask=torch.ones(1, 2 * n).bool())
    left = torch.arange(2 * n) < n
    both = both.replace(index=torch.where(left[:, None], -1.0, 1.0) * both.index.abs().clamp(min=0.01))
    halves = both.gather(torch.arange(n)[None]), both.gather(torch.arange(n, 2 * n)[None])
    found = [model.summariser(model.network, x, x.valid) for x in (both, *halves)]
    one = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(found[0].precision - one, found[1].precision + found[2].precision - 2 * one)
    torch.testing.assert_close(found[0].shift, found[1].shift + found[2].shift)
    assert (found[0].precision - one).norm() > 1


def test_parts_of_a_long_row_are_rows_of_their_own() -> None:
    """Information is the sum of that of every third reading, from the first, second and third on."""
    model, n = compressing(), 500
    assert model.summariser is not None
    whole = rows(n).replace(variable=torch.full((1, n), 3), condition_mask=torch.ones(1, n).bool())
    whole = whole.replace(index=torch.rand(1, n, 1, generator=seeded(3), dtype=torch.float64))
    order = whole.index[0, :, 0].argsort()
    alone = [model.summariser(model.network, p, p.valid) for p in (whole.gather(order[None, k::3]) for k in range(3))]
    model.summariser.most = 170
    found = model.summariser(model.network, whole, whole.valid)
    one = torch.eye(16, dtype=torch.float64)
    torch.testing.assert_close(found.precision - one, sum(x.precision - one for x in alone))
    average, shift = sum(x.precision for x in alone) / 3, sum(x.shift for x in alone) / 3
    torch.testing.assert_close(found.estimate, torch.linalg.solve(average, shift))
    torch.testing.assert_close(found.shift[..., None], found.precision @ found.estimate[..., None])
    assert found.count == n and found.valid.sum() == alone[0].valid.sum() < M
    batch = concatenate([whole, rows(100, seed=1)])
    together = model.summariser(model.network, batch, batch.valid & (batch.variable > 2))
    torch.testing.assert_close(together.tokens[:1], found.tokens, rtol=0, atol=1e-10)
    torch.testing.assert_close(together.shift[:1], found.shift, rtol=0, atol=1e-10)


def test_segments_are_sums_over_their_chunks() -> None:
    """Log masses and averages of merged chunks against those of all weights at once."""
    made = Summariser(compressing().network).double()
    n_chunks, h, d, g = (19, 0, 5), 3, 4, seeded(4)
    row = torch.arange(3).repeat_interleave(torch.tensor(n_chunks))
    chunk = torch.cat([torch.arange(n) for n in n_chunks])
    order = torch.randperm(24, generator=g)  # in whatever order they come
    mass, mean = torch.randn(24, h, generator=g).double() * 4, torch.randn(24, h, d, generator=g).double()
    place, uses = torch.zeros(24, 1).double(), torch.zeros(24, 1).long()
    log_mass, average, _, _, count = made._segments(
        row[order], chunk[order], torch.ones(3).long(), mass[order], mean[order], place, uses, torch.full((24,), CHUNK)
    )
    for number, n in enumerate(n_chunks):
        groups = [[k for k in range(n) if (k * M // n if n > M else k) == m] for m in range(M)]
        for m, group in enumerate(groups):
            assert count[number, m] == CHUNK * len(group)
            if group:
                mine = torch.tensor(group) + sum(n_chunks[:number])
                w = mass[mine].exp()
                torch.testing.assert_close(log_mass[number, m], w.sum(0).log())
                expected = (w[..., None] * mean[mine]).sum(0) / w.sum(0)[:, None]
                torch.testing.assert_close(average[number, m], expected)


def test_blocks_of_chunks_are_all_chunks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, whole = compressing(), rows(900, 500)
    at_once = answers(model, whole)
    monkeypatch.setattr(summary, "_BLOCK", 6)
    with torch.no_grad():
        torch.testing.assert_close(answers(model, whole), at_once, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [200, 20_000])
def test_the_exact_posterior_of_a_mean_is_among_what_can_be_learned(n: int) -> None:
    """μ ~ N(0, 1), y = μ + σε: φ = 1/σ, s = y/σ, c = 1 and F₀ = 0 are exact at every n, with the same weights."""
    schema = Schema((Variable("mu", "parameter"), Variable("y", "data", ("t",))), (Index("t", 0, 1),))
    model = build_denoiser(schema, network(schema), "trig", "dense").double().eval()
    made, sd = model.summariser, 2.0
    assert made is not None
    with torch.no_grad():
        for p in (made.phi.weight, made.phi.bias, made.s.weight, made.s.bias, made.head.weight, made.head.bias):
            p.zero_()
        made.phi.bias[0], made.s.weight[0, 16] = 1 / sd, 1 / sd
        made.head.bias[0], made.head.bias[-1] = 1.0, 5.0
    y = 0.3 + sd * torch.randn(n, generator=seeded(6), dtype=torch.float64)
    index = torch.rand(1, n + 1, 1, generator=seeded(7), dtype=torch.float64)
    tokens = TokenBatch(
        (torch.arange(n + 1) > 0).long()[None], index * (torch.arange(n + 1) > 0)[:, None],
        torch.cat([torch.zeros(1), y])[None], (torch.arange(n + 1) > 0)[None], torch.ones(1, n + 1).bool(),
    )  # fmt: skip
    ratio = torch.tensor([[1e-3, 0.02, 0.3, 5.0]], dtype=torch.float64)
    noisy = torch.tensor([0.31, 0.25, 0.6, -3.0], dtype=torch.float64)[None, :, None]
    with torch.no_grad():
        x_hat = model.at_ratio(noisy, ratio, model.encode(split(tokens, 0)))[0, :, 0]
    mean, variance = y.sum() / (sd**2 + n), 1 / (1 + n / sd**2) + 1e-6 + 1 / (1 + n * math.exp(5))
    exact = (mean * ratio[0] ** 2 + variance * noisy[0, :, 0]) / (variance + ratio[0] ** 2)
    torch.testing.assert_close(x_hat, exact, rtol=0, atol=1e-7)


def test_the_shortfall_has_the_gradient_of_a_likelihood() -> None:
    """In one dim at unit variance: m − x and ½ (1 − (x − m)²) for the log variance; and its value is 0."""
    one = torch.ones(1, 1, dtype=torch.float64)
    mean, own = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True), one.clone().requires_grad_()
    given = Given(one[None], 0 * one, mean, torch.zeros(1, 1, 1, dtype=torch.float64), own)
    loss = shortfall(given, 2 * one, torch.ones(1, 1, dtype=torch.bool))
    assert loss == 0
    of_mean, of_own = torch.autograd.grad(loss, [mean, own])
    torch.testing.assert_close((of_mean.item(), of_own.item()), (0.3 - 2, (1 - 1.7**2) / 2))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_no_tensor_grows_faster_than_the_readings() -> None:
    """Not even in training, where no block is let go."""

    def largest(model: Denoiser, n: int, grad: bool) -> int:
        part = cast(rows(n, seed=9), torch.float32)
        with torch.set_grad_enabled(grad), Largest() as seen:
            model.encode(split(part, 0))
        return seen.numel

    model = compressing(dtype=torch.float32)
    for grad in (False, True):
        few, many = largest(model, 2_000, grad), largest(model, 16_000, grad)
        assert few >= 16 * 2_000 and many < 8.5 * few and many < 120 * 16_000


def test_rows_that_share_readings_share_their_summary() -> None:
    """`shorten`, then rows of what stays, is what rows with all readings are."""
    model, whole = compressing(), rows(400)
    (tokens,) = uncollate(whole)
    observed = take(tokens, tokens.condition_mask.nonzero()[:, 0])
    latent = take(tokens, (~tokens.condition_mask).nonzero()[:, 0])
    rest, shared = model.shorten(observed)
    assert shared is not None and len(rest) < 10
    full = split(collate([join(observed, latent)]).repeat(3), 0)
    short = split(collate([join(rest, latent)]).repeat(3), 0)
    a, b = model.encode(full), model.encode(short, shared=shared)
    y = torch.randn(3, 2, a.active.shape[1], generator=seeded(8), dtype=torch.float64)
    ratio = torch.full((3, 2), 0.3, dtype=torch.float64)
    torch.testing.assert_close(model.at_ratio(y, ratio, a), model.at_ratio(y, ratio, b), rtol=0, atol=1e-10)
    fresh = a.active.replace(index=-a.active.index)
    other = [model.reuse(x, fresh) for x in (a, b)]
    again = model.encode(split(collate([join(observed, latent)]).repeat(3), 0))
    torch.testing.assert_close(*(model.at_ratio(y, ratio, x) for x in other), rtol=0, atol=1e-10)
    assert (model.at_ratio(y, ratio, other[0]) - model.at_ratio(y, ratio, again)).abs().max() > 1e-3
    unchanged, none = model.shorten(rest)
    assert none is None and unchanged is rest


@pytest.mark.parametrize(
    ("changes", "dependency", "message"),
    [
        ({}, "undirected", "inducing 8 with dependency 'undirected': a summary of readings would see past the mask"),
        ({}, "causal", "inducing 8 with dependency 'causal'"),
        ({"inducing": -1}, "dense", "expected inducing >= 0 .* compress_above > inducing and .*, got -1, 60, 0"),
        ({"compress_above": 8}, "dense", "compress_above > inducing and most_readings >= 0, got 8, 8, 0"),
        ({"most_readings": -3}, "dense", "most_readings >= 0, got 8, 60, -3"),
    ],
)
def test_what_cannot_be_compressed_is_refused(changes: dict[str, int], dependency: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_denoiser(SCHEMA, network(**changes), "trig", dependency)


def test_arrays_edges_and_models_without_functions_are_refused() -> None:
    arrays = Schema(
        (Variable("f", "parameter", ("t",)), Variable("image", "data", ("k",), n_tokens=2)),
        (Axis("k", 3), Index("t", 0, 1)),
    )
    with pytest.raises(ValueError, match=r"inducing 8 with the array variables \['image'\]"):
        build_denoiser(arrays, network(arrays), "trig", "dense")
    scalars = Schema((Variable("a", "parameter"), Variable("x", "data")))
    with pytest.raises(ValueError, match="inducing 8, and no variable is a function of an index dim"):
        build_denoiser(scalars, network(scalars), "trig", "dense")
    edges = torch.ones(1, 6, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match="edges of their own and .* frozen tokens, more than compress_above 60"):
        compressing().encode(split(rows(200).replace(edges=edges), 0))
