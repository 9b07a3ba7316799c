"""The denoiser E[x | x_t, observed] from a backbone, and the loss that trains it.

With λ = σ_t/α_t and whitened data (unit variance) the network F sees and returns numbers of unit size
(arXiv 2206.00364):

    y = x_t/α_t = x + λ ε,    x̂ = y/(1 + λ²) + λ/√(1 + λ²) · F(y/√(1 + λ²), ¼ log λ, context).

The loss is the velocity's squared error, averaged over the latent tokens of a row, then over rows:

    L = E w(λ) |x̂ − x|²,   w = (1 + λ²)/λ² for variance-preserving paths (score matching),
                           w = (1 + λ)²/λ² for the rectified path (flow matching),

that is |F − F*|² times 1, or times (1 + λ)²/(1 + λ²). Only latent tokens count: observed ones are given, not guessed.

With a linear baseline (gaussian.py) the network is told the best linear x̂ and weighs it: F = F₀ + G·F_lin, F_lin the F
of the linear x̂, F₀ and G its two outputs a token. Where the joint is Gaussian F₀ = 0, G = 1 is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsimformer.embeddings import ArrayEmbeddings
from fsimformer.gaussian import FactorModel, Given, exact_device
from fsimformer.masks import allows_all, attention
from fsimformer.nn import Context, Network
from fsimformer.noise import RectifiedSchedule, Schedule, schedule_named
from fsimformer.tokens import Streams, TokenBatch


@dataclass(frozen=True)
class NoiseLevels:
    """The noise levels of training: log λ ~ N(mean, sd²), truncated to [log_min, log_max].

    The defaults reach three decades below the data's scale: the posterior may be that much sharper than the prior.
    """

    mean: float = -2.2
    sd: float = 2.0
    log_min: float = -7.0
    log_max: float = 4.0

    def __post_init__(self) -> None:
        if not (self.sd > 0 and self.log_min < self.log_max):
            raise ValueError(f"NoiseLevels: expected sd > 0 and log_min < log_max, got {self}.")

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """log λ of this shape, stratified: one draw in each of `numel` equal-probability strata, in random order."""
        n = int(torch.Size(shape).numel())
        device = generator.device
        u = (
            torch.randperm(n, generator=generator, device=device) + torch.rand(n, generator=generator, device=device)
        ) / n
        ends = torch.special.ndtr(
            (torch.tensor([self.log_min, self.log_max], dtype=torch.float64) - self.mean) / self.sd
        )
        u = float(ends[0]) + u.to(exact_device(device)).double() * float(ends[1] - ends[0])
        return (self.mean + self.sd * torch.special.ndtri(u)).float().to(device).view(shape)


@dataclass(frozen=True)
class Encoded:
    """A split batch with its context: all that is needed to denoise, draw after draw.

    `content` (B, n_a, W): embedded arrays among the active tokens; None where the model has none. `given`: what the
    linear baseline knows; None where there is none, or where rows have `edges` of their own, which it would not heed.
    """

    streams: Streams
    context: Context
    attend: Tensor
    attend_context: Tensor
    content: Tensor | None = None
    given: Given | None = None

    @property
    def active(self) -> TokenBatch:
        return self.streams.active


class Denoiser(nn.Module):
    """E[x | x_t, context].

    Args:
        network: the backbone; of two outputs a token, the second weighs the linear baseline.
        schedule: "trig", "vp" or "rectified"; fixes the training weight, and the path that samplers take by default.
        dependency: (n_ids, n_ids) bool, True = may attend; None = everything may.
        embeddings: the nets that embed array variables; None = there are no such variables.
        past: (D, n_ids, n_ids) bool, edges that hold in the order of an index dim; see `masks.attention`.

    Attributes:
        baseline: the linear baseline, None until `moments.fit_factors` has fitted it.
        flow_map: the network that `distill` has made of this one, for draws in few evaluations; None = there is none.
    """

    dependency: Tensor | None
    past: Tensor | None
    baseline: FactorModel | None
    flow_map: Denoiser | None

    def __init__(
        self,
        network: Network,
        schedule: str = "trig",
        dependency: Tensor | None = None,
        embeddings: ArrayEmbeddings | None = None,
        past: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule: Schedule = schedule_named(schedule)
        self.register_buffer("dependency", dependency, persistent=False)
        self.register_buffer("past", past, persistent=False)
        self.embeddings = embeddings
        self.baseline, self.flow_map = None, None
        if network.n_outputs > 1:
            self.estimate = nn.Linear(3, network.config.width, bias=False)
            nn.init.zeros_(self.estimate.weight)

    @property
    def n_parameters(self) -> int:
        """Weights, those of embedding nets among them, those of a flow map not."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("flow_map."))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.out.weight.device

    def encode(self, streams: Streams, told: bool = True) -> Encoded:
        """Encode the frozen stream and embed arrays, once for all draws and noise levels.

        `told`: the network is told the linear baseline, where there is one; False in the first part of a training.
        Rows with `edges` of their own attend where both these and `dependency` allow it.
        """
        dependency, edges = self.dependency, streams.active.edges
        if edges is not None:
            dependency = edges if dependency is None else edges & dependency
        f, a = streams.frozen, streams.active
        if dependency is not None and edges is None and self.past is None and self.device.type == "cpu":
            dependency = None if allows_all(dependency, f, a) else dependency  # elsewhere asking costs a wait
        masks = attention(f, a, dependency, self.past)
        frozen, active = (None, None) if self.embeddings is None else self.embeddings(f.arrays, f, a)
        context = self.network.encode(f.variable, f.index, f.value, masks.frozen, frozen)
        given = self._given(streams) if told and edges is None else None
        return Encoded(streams, context, masks.active, masks.context, active, given)

    def reuse(self, encoded: Encoded, active: TokenBatch) -> Encoded:
        """The same context with other active tokens, latents all of them."""
        streams = Streams(encoded.streams.frozen, active, torch.zeros_like(active.variable))
        masks = attention(streams.frozen, active, self.dependency, self.past)
        given = None if encoded.given is None else self._given(streams)
        return Encoded(streams, encoded.context, masks.active, masks.context, given=given)

    def _given(self, streams: Streams) -> Given | None:
        """What the baseline knows of the rows; None where it knows none of the active ids, or where there is none."""
        if self.baseline is None or not bool(self.baseline.knows[streams.active.variable].any()):
            return None
        return self.baseline.given(streams)

    def raw(self, value: Tensor, log_ratio: Tensor, encoded: Encoded, log_target: Tensor | None = None) -> Tensor:
        """F above. value (B, R, n_a): scaled at latents, clean at observed tokens; log_ratio, log_target (B, R)."""
        a, told, linear = encoded.active, None, None
        if encoded.given is not None:
            assert self.baseline is not None
            ratio = log_ratio.exp()
            norm = (1 + ratio**2).rsqrt()[..., None]
            scale = ratio[..., None] * norm
            x_hat, error = self.baseline.denoise(value / norm, ratio, encoded.given)
            linear = (x_hat - value * norm) / scale
            features = torch.stack([x_hat, value - x_hat, 0.5 * error.log() - scale.log()], -1)
            told = self.estimate(features * (a.latent & self.baseline.knows[a.variable])[:, None, :, None])
        out = self.network.decode(
            a.variable,
            a.index,
            a.condition_mask,
            value,
            0.25 * log_ratio,
            encoded.context,
            encoded.attend,
            encoded.attend_context,
            encoded.content,
            told,
            *(() if log_target is None else (0.25 * log_target,)),
        )
        if self.network.n_outputs > 1:
            return out[..., 0] if linear is None else out[..., 0] + out[..., 1] * linear
        return out

    def forward(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """x̂ (B, R, n_a) from x_t (B, R, n_a) and t (B, R) in (0, 1); at observed tokens x̂ is their value."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        y, ratio = x_t / alpha[..., None], sigma / alpha
        return self.at_ratio(y, ratio, encoded)

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Encoded, target: Tensor | None = None) -> Tensor:
        """x̂ from y = x_t/α_t (B, R, n_a) and λ (B, R); of a flow map g, with the λ (B, R) that it leads to."""
        given = encoded.active.value[:, None]
        observed = encoded.active.condition_mask[:, None]
        norm = (1 + ratio**2).rsqrt()[..., None]
        value, log_target = torch.where(observed, given, y * norm), None if target is None else target.log()
        f = self.raw(value, ratio.log(), encoded, log_target)
        return torch.where(observed, given, y * norm**2 + ratio[..., None] * norm * f)

    def loss(self, streams: Streams, log_ratio: Tensor, epsilon: Tensor, told: bool = True) -> Tensor:
        """Mean over rows and levels of the row's mean weighted squared error.

        Args:
            streams: clean rows, split.
            log_ratio: (B, R) log λ; R noise levels share one encoded context.
            epsilon: (B, R, n_a) standard normals.
            told: as in `encode`.

        Returns:
            A scalar. On variance-preserving paths, whitened Gaussian latents of which nothing is learned give 1.
        """
        encoded = self.encode(streams, told)
        active = encoded.active
        x, observed = active.value[:, None], active.condition_mask[:, None]
        ratio = log_ratio.exp()[..., None]
        norm = (1 + ratio**2).rsqrt()
        y = (x + ratio * epsilon) * norm  # unit variance
        f = self.raw(torch.where(observed, x, y), log_ratio, encoded)
        target = (x - y * norm) / (ratio * norm)
        error = (f - target) ** 2
        if isinstance(self.schedule, RectifiedSchedule):
            error = error * (1 + ratio) ** 2 * norm**2
        latent = active.latent[:, None].to(error.dtype)
        return ((error * latent).sum(-1) / latent.sum(-1).clamp(min=1)).mean()
