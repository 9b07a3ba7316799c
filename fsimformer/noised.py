"""The loss of a step: micro-batches with their noise, drawn by every process alike, and each process's share of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from fsimformer.denoise import NoiseLevels
from fsimformer.devices import Group
from fsimformer.nn import Network, NetworkConfig
from fsimformer.summary import Summariser
from fsimformer.tokens import Streams, TokenBatch, more_ride, split
from fsimformer.train_config import TrainConfig


class Learner(Protocol):
    """What a step trains: a `Denoiser`, or what learns from one (distill.py)."""

    @property
    def network(self) -> Network: ...
    @property
    def summariser(self) -> Summariser | None: ...
    @property
    def baseline(self) -> object | None:
        """Not None: there is something that it is told late."""

    @property
    def schedule(self) -> object: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def n_parameters(self) -> int: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def loss(
        self, streams: Streams, log_ratio: Tensor, epsilon: Tensor, told: bool = True, above: int | None = None
    ) -> Tensor:
        """As `Denoiser.loss`."""


@dataclass(frozen=True)
class Noised:
    """A micro-batch as the loss takes it: streams, log λ (B, R), standard normals (B, R, n_a).

    `above`: readings from which on a row's are compressed; None = as the network says.
    """

    streams: Streams
    log_ratio: Tensor
    epsilon: Tensor
    above: int | None = None

    @classmethod
    def draw(
        cls,
        batch: TokenBatch,
        levels: NoiseLevels,
        config: TrainConfig,
        network: NetworkConfig,
        generator: torch.Generator,
    ) -> Noised:
        """Dial, riders, noise levels and noise drawn from the generator, and whether its readings are compressed."""
        choice = torch.multinomial(torch.tensor([p for _, p in config.dial]), 1, generator=generator)
        dial, above = config.dial[int(choice)][0], None
        if network.inducing:
            if config.compressed and float(torch.rand((), generator=generator)) < config.compressed:
                above = network.inducing
            if more_ride(dial, network.compress_above) and int(batch.observed.sum(1).max()) > network.compress_above:
                dial = "few"  # full attention among them is what compression is there to avoid
        streams = split(batch, dial, generator)
        b, n_a = streams.active.shape
        n_levels = max(1, min(config.max_levels, config.level_tokens // max(1, n_a)))
        log_ratio = levels.draw((b, n_levels), generator)
        return cls(streams, log_ratio, torch.randn(b, n_levels, n_a, generator=generator), above)

    @property
    def n_rows(self) -> int:
        return len(self.log_ratio)

    @property
    def row_tokens(self) -> int:
        """Tokens that the network sees of one row."""
        return self.streams.frozen.shape[1] + self.epsilon[0].numel()

    def rows(self, which: slice) -> Noised:
        """Some of its rows."""
        s = self.streams
        return Noised(
            replace(s, frozen=s.frozen.rows(which), active=s.active.rows(which), position=s.position[which]),
            self.log_ratio[which],
            self.epsilon[which],
            self.above,
        )

    def loss(self, denoiser: Learner, told: bool) -> Tensor:
        """Mean over its rows."""
        weight = denoiser.network.out.weight  # noise comes in its precision, on its device
        noise = self.log_ratio.to(weight), self.epsilon.to(weight)
        return denoiser.loss(self.streams.to(weight.device), *noise, told, self.above)


def mean_loss(
    denoiser: Learner,
    batches: Sequence[TokenBatch],
    levels: NoiseLevels,
    config: TrainConfig,
    generator: torch.Generator,
    told: bool = True,
    group: Group = Group(),  # noqa: B008 (frozen)
    backward: bool = False,
) -> float:
    """The mean loss over the rows of all batches; `backward`: this process's share of its gradient is left behind."""
    parts = [Noised.draw(batch, levels, config, denoiser.network.config, generator) for batch in batches]
    n, total = sum(part.n_rows for part in parts), 0.0
    shares = group.shares([part.n_rows for part in parts], [part.row_tokens for part in parts])
    for part, share in zip(parts, shares):
        if share.start == share.stop:
            continue
        mine = part if share.stop - share.start == part.n_rows else part.rows(share)
        loss = mine.loss(denoiser, told) * (mine.n_rows / n)
        if backward:
            loss.backward()
        total += float(loss.detach())
    return group.sum(total)
