"""How the index enters the network: what depends on the index itself, and what on differences alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import USES, cast, randomise, run, seeded, streams_of
from torch import Tensor

from fsimformer.distance import DistanceDecay
from fsimformer.model_file import read_network
from fsimformer.nn import Network, NetworkConfig
from fsimformer.tokens import Streams

BASE = NetworkConfig(USES, width=16, depth=2, n_heads=2)
RELATIVE = {
    "rotary": replace(BASE, index_features=0),
    "distance": replace(BASE, index_features=0, rotary_frequency=0.0, distance_decay=True),
    "both": replace(BASE, index_features=0, distance_decay=True),
}
ABSOLUTE = {
    "fourier": replace(BASE, rotary_frequency=0.0),
    "default": BASE,
    "all": replace(BASE, distance_decay=True),
}


def outputs(config: NetworkConfig, streams: Streams, dtype: torch.dtype = torch.float32) -> Tensor:
    net = Network(config).eval()
    randomise(net)
    r, (b, n) = 3, streams.active.shape
    value = torch.randn(b, r, n, generator=seeded(5), dtype=torch.float64)
    value = torch.where(streams.active.condition_mask[:, None], streams.active.value[:, None], value).to(dtype)
    c_noise = torch.randn(b, r, generator=seeded(6), dtype=dtype)
    streams = Streams(cast(streams.frozen, dtype), cast(streams.active, dtype), streams.position)
    return run(net.to(dtype), streams, value, c_noise)[0]


def moved(streams: Streams, by: Tensor) -> Streams:
    """Every index of row i shifted by by[i] (B, D), those of scalars too."""
    frozen, active = streams.frozen, streams.active
    return replace(
        streams,
        frozen=frozen.replace(index=frozen.index + by[:, None]),
        active=active.replace(index=active.index + by[:, None]),
    )


SHIFTS = torch.tensor([[0.2, -0.3], [-1.4, 0.7], [0.0, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("name", RELATIVE)
def test_without_additive_features_a_shift_of_all_indexes_changes_nothing(name: str) -> None:
    """Rows hold scalars, functions of one dim and of both; the shift is each row's own, beyond the range too."""
    streams = streams_of([7, 5, 6], [6, 4, 5])
    before, after = outputs(RELATIVE[name], streams), outputs(RELATIVE[name], moved(streams, SHIFTS))
    assert (after - before).abs().max() < 1e-5
    one = streams.frozen.index.clone()
    one[0, 0] += SHIFTS[1]  # of one token alone: differences change
    changed = outputs(RELATIVE[name], replace(streams, frozen=streams.frozen.replace(index=one)))
    ids = streams.frozen.variable[0, 0]
    assert any(USES[int(ids)]) and (changed - before)[0].abs().max() > 1e-3


@pytest.mark.parametrize("name", ABSOLUTE)
def test_with_additive_features_a_shift_counts(name: str) -> None:
    streams = streams_of([7, 5, 6], [6, 4, 5])
    before, after = outputs(ABSOLUTE[name], streams), outputs(ABSOLUTE[name], moved(streams, SHIFTS))
    assert (after - before).abs().max() > 1e-2


def test_logits_fall_with_the_distance_along_the_dims_that_both_have() -> None:
    """−Σ_d slope |difference|, by hand; a token far away counts for nothing, whatever it holds."""
    decay = DistanceDecay(USES, depth=2, n_heads=2).double()
    variable = torch.tensor([[0, 2, 3, 4]])  # a scalar, functions of the first dim, of both, of the second
    index = torch.rand(1, 4, 2, generator=seeded(), dtype=torch.float64)
    places = decay.places(variable, index)
    slopes = torch.tensor([0.25, 16.0], dtype=torch.float64)  # of the heads
    difference = (index[0, :, None] - index[0]).abs()
    first, second = difference.unbind(-1)
    distance = torch.zeros(4, 4, dtype=torch.float64)
    distance[1, 2] = distance[2, 1] = first[1, 2]
    distance[2, 3] = distance[3, 2] = second[2, 3]
    distance.fill_diagonal_(0.0)
    torch.testing.assert_close(decay.bias(1, places, places)[0].detach(), -slopes[:, None, None] * distance)
    two = decay.places(torch.tensor([[3, 3, 3, 3]]), index)
    torch.testing.assert_close(decay.bias(0, two, two)[0, 0].detach(), -0.25 * (first + second))


def test_far_tokens_count_for_nothing_where_logits_fall() -> None:
    streams = streams_of([4, 4], [3, 3])
    functions = torch.full_like(streams.frozen.variable, 2)
    streams = Streams(
        streams.frozen.replace(variable=functions),
        streams.active.replace(variable=functions[:, :3]),
        streams.position,
    )
    config = RELATIVE["distance"]

    def far(by: float, value: float) -> Tensor:
        index, values = streams.frozen.index.clone(), streams.frozen.value.clone()
        index[:, 0] += by
        values[:, 0] = value
        return outputs(config, replace(streams, frozen=streams.frozen.replace(index=index, value=values)))

    assert (far(0.0, 1.0) - far(0.0, -1.0)).abs().max() > 1e-2
    assert (far(100.0, 1.0) - far(100.0, -1.0)).abs().max() < 1e-6


def test_choices_are_checked_and_older_cards_load() -> None:
    with pytest.raises(ValueError, match="expected index_features >= 0, got -1"):
        replace(BASE, index_features=-1)
    with pytest.raises(ValueError, match="nothing tells the network where a token lies"):
        replace(BASE, index_features=0, rotary_frequency=0.0)
    settings = {**vars(replace(BASE, distance_decay=False))}
    settings.pop("distance_decay")
    assert read_network(settings, Path("old")) == BASE
    names = dict(Network(BASE).named_parameters())
    assert not any(name.startswith("decay") for name in names)  # weights of older models fit


def test_padding_order_and_batch_mates_change_nothing_where_logits_fall() -> None:
    lengths = [7, 5, 6], [6, 4, 5]
    streams = streams_of(*lengths)
    config, dtype = ABSOLUTE["all"], torch.float64
    together = outputs(config, streams, dtype)
    value = torch.randn(3, 3, 6, generator=seeded(5), dtype=dtype)
    value = torch.where(streams.active.condition_mask[:, None], streams.active.value[:, None], value)
    c_noise = torch.randn(3, 3, generator=seeded(6), dtype=dtype)
    net = Network(config).eval()
    randomise(net)
    for i, (n_f, n_a) in enumerate(zip(*lengths, strict=True)):
        frozen, active = torch.randperm(n_f, generator=seeded(i))[None], torch.arange(n_a).flip(0)[None]
        row = slice(i, i + 1)
        alone = Streams(streams.frozen.rows(row).gather(frozen), streams.active.rows(row).gather(active), active)
        one = run(net.double(), alone, value[row][..., active[0]], c_noise[row])[0]
        torch.testing.assert_close(one[0], together[i][:, active[0]], rtol=0, atol=1e-10)
    assert (together[0] - together[1]).abs().max() > 0.1
