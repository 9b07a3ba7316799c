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

Rows with a long observation are told what its readings add up to (summary.py), a Gaussian with learned features, and
start from its x̂: F = F₀ + G·F_lin + F_g. Before training F_g is nearly the prior's, 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fsimformer.distance import Places
from fsimformer.embeddings import ArrayEmbeddings
from fsimformer.gaussian import FactorModel, Given, exact_device
from fsimformer.masks import allows_all, attention
from fsimformer.nn import Context, Network
from fsimformer.noise import RectifiedSchedule, Schedule, schedule_named
from fsimformer.summary import Summariser, Summary, shortfall
from fsimformer.tokens import Streams, TokenBatch, TokenSet, collate, select, take


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
class Shared:
    """Readings that all rows of a call have in common: their summary, of one row, and what they tell the baseline."""

    summary: Summary
    told: tuple[Tensor, Tensor] | None


@dataclass(frozen=True)
class Encoded:
    """A split batch with its context: all that is needed to denoise, draw after draw.

    `content` (B, n_a, W): embedded arrays among the active tokens; None where the model has none. `given`: what the
    linear baseline knows; None where there is none, or where rows have `edges` of their own, which it would not heed.
    `summary`: what is kept of long observations, and `learned` what active tokens have of it; None where none is long.
    `shared`: readings that are in no row, for all have them. `beside`: observed tokens whose values differ between the
    replicates of a row (`Denoiser.beside`).
    """

    streams: Streams
    context: Context
    attend: Tensor
    attend_context: Tensor
    content: Tensor | None = None
    given: Given | None = None
    summary: Summary | None = None
    learned: Given | None = None
    shared: Shared | None = None
    beside: TokenBatch | None = None

    @property
    def active(self) -> TokenBatch:
        return self.streams.active


def _pairs(attend: Tensor, n: int) -> Tensor:
    """(B, m) or (B, n, m) -> (B, n, m)."""
    return attend[:, None].expand(-1, n, -1) if attend.dim() == 2 else attend


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
        self.summariser = Summariser(network) if network.config.inducing else None

    @property
    def n_parameters(self) -> int:
        """Weights, those of embedding nets among them, those of a flow map not."""
        return sum(p.numel() for name, p in self.named_parameters() if not name.startswith("flow_map."))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.out.weight.device

    @property
    def lower(self) -> bool:
        """Whether products of its layers are computed in less than float32 (precision.py)."""
        return self.network.precision != torch.float32

    def shorten(self, observed: TokenSet) -> tuple[TokenSet, Shared | None]:
        """Of observed tokens that many rows are to share those that stay tokens, and what stands for the others.

        A short observation stays as it is.
        """
        if self.summariser is None or len(observed) <= (above := self.network.config.compress_above):
            return observed, None
        batch = collate([observed]).to(self.device)
        pooled = self.summariser.pooled(batch, above)
        if not bool(pooled.any()):
            return observed, None
        told = None
        if self.baseline is not None:
            told = self.baseline.information(batch.replace(valid=pooled).to(exact_device(self.device)))
        rest = take(observed, (~pooled[0]).nonzero()[:, 0].to(observed.value.device))
        return rest, Shared(self.summariser(self.network, batch, pooled), told)

    def encode(
        self, streams: Streams, told: bool = True, above: int | None = None, shared: Shared | None = None
    ) -> Encoded:
        """Encode the frozen stream and embed arrays, once for all draws and noise levels.

        `told`: the network is told the linear baseline, where there is one; False in the first part of a training.
        `above`: frozen tokens of a row above which it is compressed; None = the network's `compress_above`.
        `shared`: what `shorten` took out of all rows.
        Rows with `edges` of their own attend where both these and `dependency` allow it.

        Raises:
            ValueError: rows to be compressed that have edges of their own.
        """
        if (summariser := self.summariser) is not None:
            f, above = streams.frozen, self.network.config.compress_above if above is None else above
            if shared is not None:
                return self._summarised(summariser, streams, shared.summary.repeat(f.shape[0]), f.valid, told, shared)
            if f.shape[1] > above and bool((pooled := summariser.pooled(f, above)).any()):
                return self._summarised(
                    summariser, streams, summariser(self.network, f, pooled), f.valid & ~pooled, told
                )
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
        if encoded.summary is not None:
            given = None if encoded.given is None else self._given(streams, encoded.shared)
            learned = self._read(encoded.summary, active)
            attend = self._among(active)
            return replace(encoded, streams=streams, attend=attend, content=None, given=given, learned=learned)
        masks = attention(streams.frozen, active, self.dependency, self.past)
        if (known := encoded.beside) is not None:
            to_known = _pairs(attention(known, active, self.dependency, self.past).context, active.shape[1])
            among = torch.cat([to_known, _pairs(masks.active, active.shape[1])], -1)
            return replace(encoded, streams=streams, attend=among, attend_context=masks.context)
        given = None if encoded.given is None else self._given(streams)
        return Encoded(streams, encoded.context, masks.active, masks.context, given=given)

    @property
    def shares(self) -> bool:
        """Whether `beside` is to be had."""
        return isinstance(self.network, Network) and self.network.decay is None and self.embeddings is None

    def beside(self, encoded: Encoded, known: TokenBatch, values: Tensor) -> Encoded:
        """Observed tokens added to a context, with values (B, R, K) of each replicate's own; to be `reuse`d.

        The readings of the context are encoded once, without them: in training they would have seen them. Whoever
        calls this knows that it does not matter (extension.py).

        Args:
            encoded: of rows without active tokens, not compressed. known: (B, K), its values have no meaning.
        """
        masks = attention(encoded.streams.frozen, known, self.dependency, self.past)
        context = self.network.beside(encoded.context, known.variable, known.index, values, masks.active, masks.context)
        return replace(encoded, context=context, beside=known, given=None)

    def _summarised(
        self,
        summariser: Summariser,
        streams: Streams,
        summary: Summary,
        stays: Tensor,
        told: bool,
        shared: Shared | None = None,
    ) -> Encoded:
        """As `encode`, with a summary in the place of all frozen tokens but those that stay, (B, n_f)."""
        f, a, net = streams.frozen, streams.active, self.network
        if a.edges is not None:
            raise ValueError(
                f"Rows with edges of their own and {f.shape[1]} frozen tokens, more than compress_above "
                f"{net.config.compress_above}: a summary of readings would see past such edges. Use a network without "
                "`inducing`."
            )
        position, taken = select(stays)
        rest = f.replace(arrays={}).gather(position)
        static = net.embedding.static(rest.variable, rest.index, torch.ones_like(rest.variable))
        h = torch.cat([net.embedding(static, rest.value), summary.tokens], 1)
        index = torch.cat([rest.index, summary.index], 1)
        uses = torch.cat([net.rotary.uses_index[rest.variable], summary.uses], 1)
        valid = torch.cat([rest.valid & taken, summary.valid], 1)
        phases = net.rotary.turned(index, uses)
        context = net.through(h, valid, phases, None if net.decay is None else Places(index, uses))
        given = self._given(streams, shared) if told else None
        return Encoded(streams, context, self._among(a), valid, None, given, summary, self._read(summary, a), shared)

    def _among(self, active: TokenBatch) -> Tensor:
        """Who among active tokens may attend to whom; every one to a whole context."""
        none = active.gather(torch.zeros_like(active.variable[:, :0]))
        return attention(none, active, self.dependency, self.past).active

    def _read(self, summary: Summary, active: TokenBatch) -> Given:
        assert self.summariser is not None
        apart = torch.zeros(len(self.network.config.uses_index), dtype=torch.bool, device=self.device)
        if self.dependency is not None:
            apart = ~self.dependency.any(0)
        return self.summariser.read(self.network, summary, active, apart)

    def _given(self, streams: Streams, shared: Shared | None = None) -> Given | None:
        """What the baseline knows of the rows; None where it knows none of the active ids, or where there is none."""
        if self.baseline is None or not bool(self.baseline.knows[streams.active.variable].any()):
            return None
        return self.baseline.given(streams, None if shared is None else shared.told)

    def raw(self, value: Tensor, log_ratio: Tensor, encoded: Encoded, log_target: Tensor | None = None) -> Tensor:
        """F above. value (B, R, n_a): scaled at latents, clean at observed tokens; both log λ (B, R or 1)."""
        a, told, linear, start = encoded.active, None, None, None
        ratio = log_ratio.exp()
        norm = (1 + ratio**2).rsqrt()[..., None]
        scale = ratio[..., None] * norm
        if encoded.given is not None:
            assert self.baseline is not None
            x_hat, error = FactorModel.denoise(value / norm, ratio, encoded.given)
            linear = (x_hat - value * norm) / scale
            features = torch.stack([x_hat, value - x_hat, 0.5 * error.log() - scale.log()], -1)
            told = self.estimate(features * (a.latent & self.baseline.knows[a.variable])[:, None, :, None])
        if encoded.learned is not None and encoded.summary is not None and self.summariser is not None:
            x_hat, error = FactorModel.denoise(value / norm, ratio, encoded.learned.detached())
            mine = a.latent & (encoded.summary.count > 0)[:, None]
            start = (x_hat - value * norm) / scale * mine[:, None]
            features = torch.stack([x_hat, start, 0.5 * error.log() - scale.log()], -1)
            more = self.summariser.told(features * mine[:, None, :, None])
            told = more if told is None else told + more
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
            out = out[..., 0] if linear is None else out[..., 0] + out[..., 1] * linear
        return out if start is None else out + start

    def forward(self, x_t: Tensor, t: Tensor, encoded: Encoded) -> Tensor:
        """x̂ (B, R, n_a) from x_t (B, R, n_a) and t (B, R) in (0, 1); at observed tokens x̂ is their value."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        y, ratio = x_t / alpha[..., None], sigma / alpha
        return self.at_ratio(y, ratio, encoded)

    def at_ratio(self, y: Tensor, ratio: Tensor, encoded: Encoded, target: Tensor | None = None) -> Tensor:
        """x̂ from y = x_t/α_t (B, R, n_a) and λ (B, R or 1); of a flow map g, with the λ that it leads to."""
        given = encoded.active.value[:, None]
        observed = encoded.active.condition_mask[:, None]
        norm = (1 + ratio**2).rsqrt()[..., None]
        value, log_target = torch.where(observed, given, y * norm), None if target is None else target.log()
        f = self.raw(value, ratio.log(), encoded, log_target)
        return torch.where(observed, given, y * norm**2 + ratio[..., None] * norm * f)

    def loss(
        self, streams: Streams, log_ratio: Tensor, epsilon: Tensor, told: bool = True, above: int | None = None
    ) -> Tensor:
        """Mean over rows and levels of the row's mean weighted squared error.

        Args:
            streams: clean rows, split.
            log_ratio: (B, R) log λ; R noise levels share one encoded context.
            epsilon: (B, R, n_a) standard normals.
            told, above: as in `encode`.

        Returns:
            A scalar. On variance-preserving paths, whitened Gaussian latents of which nothing is learned give 1.
        """
        encoded = self.encode(streams, told, above)
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
        loss = ((error * latent).sum(-1) / latent.sum(-1).clamp(min=1)).mean()
        if encoded.learned is not None and encoded.summary is not None:
            loss = loss + shortfall(encoded.learned, active.value, active.latent & (encoded.summary.count > 0)[:, None])
        return loss
