"""A transformer over tokens with two streams and one set of weights. It knows nothing of diffusion.

*Frozen* tokens attend to frozen tokens and do not see the noise level: `encode` computes their keys and values once.
*Active* tokens attend to the context and to the active tokens of their own replicate (a draw, or a noise level) and are
modulated, once per replicate and not per token, by the noise level: `decode`.

    h ← h + Attention((1 + a₁)·LN(h) + b₁),   h ← h + MLP((1 + a₂)·LN(h) + b₂),   (a, b) = 0 in the frozen stream.

Context keys are shared by all replicates without a copy: the queries of R replicates are folded into one matrix product
against them, and one softmax runs over context and own logits together. Masks are True = may attend.

Shapes: B rows, R replicates, n_f frozen and n_a active tokens, D index dims, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention, silu

from fsimformer.attend import Bias, additive, attend, biases
from fsimformer.distance import DistanceDecay, Places
from fsimformer.network_config import NetworkConfig as NetworkConfig  # where it is looked for
from fsimformer.precision import products


@dataclass(frozen=True)
class Context:
    """Keys and values of the frozen tokens: `keys`, `values` (depth entries of (B, H, n_f, W/H)).

    `places`: where the tokens lie, for the distances of active ones to them; None where no logit depends on distance.
    `beside`: keys and values of further frozen tokens that each replicate has of its own, depth pairs of
    (B, H, R, K, W/H); see `Network.beside`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    places: Places | None = None
    beside: tuple[tuple[Tensor, Tensor], ...] | None = None


def _fourier(x: Tensor, frequencies: Tensor) -> Tensor:
    """(…,) -> (…, 2F): sine and cosine of x at each frequency."""
    phase = x[..., None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def _geometric(lower: float, upper: float, n: int) -> Tensor:
    return torch.exp(torch.linspace(math.log(lower), math.log(upper), n))


class Embedding(nn.Module):
    """Token = MLP(id + index features + condition state + value features); the first three do not change over draws."""

    value_frequencies: Tensor
    index_frequencies: Tensor
    uses_index: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        uses = torch.tensor(config.uses_index, dtype=torch.bool).reshape(len(config.uses_index), -1)
        w, n_index = config.width, uses.shape[1]
        self.register_buffer("uses_index", uses, persistent=False)
        self.register_buffer(
            "value_frequencies", _geometric(0.5, config.value_frequency, config.value_features), persistent=False
        )
        self.register_buffer(
            "index_frequencies",
            _geometric(math.pi / 4, config.index_frequency * math.pi, config.index_features),
            persistent=False,
        )
        self.id = nn.Embedding(uses.shape[0], w)
        self.state = nn.Embedding(2, w)  # latent, observed
        n_features = max(1, n_index) * (2 * config.index_features + 1) if config.index_features else 0
        self.index = nn.Linear(n_features, w, bias=False) if n_features else None
        self.value = nn.Linear(2 * config.value_features + 1, w)
        self.out = nn.Linear(w, w)
        nn.init.normal_(self.id.weight, std=0.5)
        nn.init.normal_(self.state.weight, std=0.5)

    def static(self, variable: Tensor, index: Tensor, observed: Tensor) -> Tensor:
        """What does not depend on the value: (B, n) ids, (B, n, D) index, (B, n) bool -> (B, n, W)."""
        static = self.id(variable) + self.state(observed.long())
        if index.shape[-1] == 0 or self.index is None:
            return static
        return static + self.place(index, self.uses_index[variable])

    def place(self, index: Tensor, uses: Tensor) -> Tensor:
        """Of (…, D) index, where `uses` (…, D) bool says so: (…, W); 0 where nothing may tell the index itself."""
        if self.index is None:
            return index.new_zeros(*index.shape[:-1], self.id.weight.shape[1])
        features = torch.cat([index[..., None], _fourier(index, self.index_frequencies)], dim=-1)
        out: Tensor = self.index((features * uses[..., None]).flatten(-2))
        return out

    def forward(self, static: Tensor, value: Tensor) -> Tensor:
        """static (…, W) and value (…) -> tokens (…, W)."""
        features = torch.cat([value[..., None], _fourier(value, self.value_frequencies)], dim=-1)
        return self.out(gelu(static + self.value(features)))


class Rotary(nn.Module):
    """Turns half of the channels of queries and keys by angles proportional to the token's index.

    Pair j of head h turns by f_hj·index[dim_hj], so that q·k depends on the difference of the indices. Frequencies are
    spread over heads and pairs, dims take turns; ids whose variable lacks the dim do not turn: to the others they lie
    at index 0. Where nothing may tell the index itself (no additive features), their pairs are 0 instead.
    """

    turns: Tensor
    uses_index: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        uses = torch.tensor(config.uses_index, dtype=torch.bool).reshape(len(config.uses_index), -1)
        d, n_pairs = uses.shape[1], config.width // config.n_heads // 4
        turns = torch.zeros(config.n_heads, config.width // config.n_heads // 2, max(1, d))
        self.active = d > 0 and n_pairs > 0 and config.rotary_frequency > 0
        self.anchored = config.index_features > 0
        for dim in range(d if self.active else 0):
            mine = [(h, j) for j in range(n_pairs) for h in range(config.n_heads) if (h + j) % d == dim]
            for (h, j), f in zip(mine, _geometric(0.25, config.rotary_frequency, len(mine)), strict=True):
                turns[h, j, dim] = math.pi * f
        self.register_buffer("turns", turns, persistent=False)
        self.register_buffer("uses_index", uses, persistent=False)

    def phases(self, variable: Tensor, index: Tensor) -> Tensor | None:
        """(B, n) ids and (B, n, D) index -> cosine and sine, (B, n, 1, H, pairs, 2)."""
        return self.turned(index, self.uses_index[variable]) if self.active else None

    def idle(self, variable: Tensor) -> bool:
        """Whether all angles of these ids are 0; not asked but on the CPU, where it costs no wait."""
        return self.anchored and variable.device.type == "cpu" and not bool(self.uses_index[variable].any())

    def turned(self, index: Tensor, uses: Tensor) -> Tensor | None:
        """As `phases`, of tokens that have the dims `uses` (B, n, D) bool."""
        if not self.active:
            return None
        angle = torch.einsum("bnd,hpd->bnhp", index * uses, self.turns)
        modulus = torch.ones_like(angle)
        if not self.anchored:
            modulus = modulus - torch.einsum("bnd,hpd->bnhp", (~uses).to(angle), (self.turns > 0).to(angle))
        return torch.stack([modulus * angle.cos(), modulus * angle.sin()], -1)[:, :, None]


def turned(x: Tensor, phases: Tensor) -> Tensor:
    """Pairs of channels (…, 2·pairs) by cosines and sines (…, pairs, 2).

    As one product of complex numbers, a fifth of the time of four real ones, except where `torch.compile` is at work:
    it fuses the real ones and has no code for complex numbers (docs/speed.md). Places are told in float32.
    """
    pairs = x.to(phases.dtype).unflatten(-1, (-1, 2))
    if not torch.compiler.is_compiling():
        out = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(phases))
    else:
        (a, b), (cos, sin) = pairs.unbind(-1), phases.unbind(-1)
        out = torch.stack([a * cos - b * sin, a * sin + b * cos], -1)
    return out.flatten(-2).to(x.dtype)


def _queries_keys_values(qkv: Tensor, n_heads: int, phases: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (B, …, n, 3W) -> three of (B, H, …, n, W/H), queries and keys turned by phases (B, …, n, 1, H, pairs, 2)."""
    width = qkv.shape[-1] // 3
    both, v = qkv.split([2 * width, width], dim=-1)  # the gradient of a split is one cat; slices would fill zeros
    both = rearrange(both, "... (two h d) -> ... two h d", two=2, h=n_heads)
    v = rearrange(v, "... (h d) -> ... h d", h=n_heads)
    if phases is not None:
        both = turned(both, phases)
    q, k = both.unbind(-3)
    return q.movedim(-2, 1), k.movedim(-2, 1), v.movedim(-2, 1)


class Layer(nn.Module):
    """Pre-norm attention and MLP; `modulation` is (scale₁, shift₁, scale₂, shift₂) or None in the frozen stream."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        w = config.width
        self.width, self.n_heads = w, config.n_heads
        self.qkv = nn.Linear(w, 3 * w)
        self.attention_out = nn.Linear(w, w)
        self.mlp_in = nn.Linear(w, config.mlp_ratio * w)
        self.mlp_out = nn.Linear(config.mlp_ratio * w, w)
        for linear in (self.attention_out, self.mlp_out):  # residual branches start small: depth does not blow up
            with torch.no_grad():
                linear.weight.mul_(1 / math.sqrt(2 * config.depth))

    def _norm(self, h: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
        h = layer_norm(h, (self.width,))
        return h if scale is None or shift is None else torch.addcmul(shift, h, scale)

    def frozen(self, h: Tensor, bias: Tensor, phases: Tensor | None, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, n_f, W), additive bias (B, 1, n_f or 1, n_f), phases (B, n_f, 1, H, ·, 2) -> h, keys, values.

        The last h is nobody's input.
        """
        q, k, v = _queries_keys_values(self.qkv(self._norm(h, None, None)), self.n_heads, phases)
        if last:
            return h, k, v
        a = scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype).expand(-1, -1, q.shape[2], -1))
        h = h + self.attention_out(rearrange(a, "b h n d -> b n (h d)"))
        h = h + self.mlp_out(gelu(self.mlp_in(self._norm(h, None, None))))
        return h, k, v

    def beside(
        self, h: Tensor, keys: Tensor, values: Tensor, bias: Bias, phases: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `frozen`, of tokens (B, R, K, W) that each replicate has of its own beside keys, values (B, H, n_f, d)."""
        q, k, v = _queries_keys_values(self.qkv(self._norm(h, None, None)), self.n_heads, phases)
        if last:
            return h, k, v
        h = h + self.attention_out(attend(q, k, v, keys, values, bias))
        return h + self.mlp_out(gelu(self.mlp_in(self._norm(h, None, None)))), k, v

    def active(
        self,
        h: Tensor,
        modulation: tuple[Tensor, ...],
        keys: Tensor,
        values: Tensor,
        bias: Bias,
        phases: Tensor | None,
        beside: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """h (B, R, n_a, W); modulation four of (B, R or 1, 1, W), scales as 1 + a; keys, values (B, H, n_f, d); phases
        (B, 1, n_a, 1, H, ·, 2); beside two of (B, H, R, K, d)."""
        scale_1, shift_1, scale_2, shift_2 = modulation
        q, k, v = _queries_keys_values(self.qkv(self._norm(h, scale_1, shift_1)), self.n_heads, phases)
        if beside is not None:
            k, v = torch.cat([beside[0], k], 3), torch.cat([beside[1], v], 3)
        h = h + self.attention_out(attend(q, k, v, keys, values, bias))
        return h + self.mlp_out(gelu(self.mlp_in(self._norm(h, scale_2, shift_2))))


class Network(nn.Module):
    """`encode` the frozen tokens once, `decode` the active ones many times; `n_outputs` numbers a token.

    `jumps`: it is also told the noise level to which one evaluation is to lead (flow_map.py); at first it ignores it.
    `precision`: of its layers' products (precision.py); set on an instance, no part of the weights.
    """

    precision = torch.float32

    def __init__(self, config: NetworkConfig, n_outputs: int = 1, jumps: bool = False) -> None:
        super().__init__()
        self.config, self.n_outputs = config, n_outputs
        self.embedding = Embedding(config)
        self.rotary = Rotary(config)
        decays = config.distance_decay and any(map(any, config.uses_index))
        self.decay = DistanceDecay(config.uses_index, config.depth, config.n_heads) if decays else None
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.register_buffer("noise_frequencies", _geometric(0.5, 8.0, 8), persistent=False)
        is_scale = (torch.arange(4 * config.depth + 2) % 2 == 0).float().repeat_interleave(config.width)
        self.register_buffer("is_scale", is_scale, persistent=False)  # of the modulation: added, for h scales by 1 + a
        self.noise = nn.Linear(17, config.noise_width)
        self.target = nn.Linear(17, config.noise_width, bias=False) if jumps else None
        self.modulation = nn.Linear(config.noise_width, (4 * config.depth + 2) * config.width)
        self.out = nn.Linear(config.width, n_outputs)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        if self.target is not None:
            nn.init.zeros_(self.target.weight)

    noise_frequencies: Tensor
    is_scale: Tensor

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def encode(
        self, variable: Tensor, index: Tensor, value: Tensor, attend: Tensor, content: Tensor | None = None
    ) -> Context:
        """Keys and values of observed tokens.

        Args:
            variable: (B, n_f) long; index: (B, n_f, D); value: (B, n_f).
            attend: bool, (B, n_f) = which keys are real, or (B, n_f, n_f) = query may attend to key.
            content: (B, n_f, W), what else is known of a token than its value; 0 where nothing is.
        """
        places = None if self.decay is None else self.decay.places(variable, index)
        if variable.shape[1] == 0:
            shape = len(variable), self.config.n_heads, 0, self.config.width // self.config.n_heads
            none = (self.out.weight.new_zeros(shape),) * self.config.depth
            return Context(none, none, places)
        static = self.embedding.static(variable, index, torch.ones_like(variable))
        h = self.embedding(static if content is None else static + content, value)
        return self.through(h, attend, self.rotary.phases(variable, index), places)

    def through(self, h: Tensor, attend: Tensor, phases: Tensor | None, places: Places | None) -> Context:
        """The context of frozen tokens h (B, n_f, W); `attend` as in `encode`."""
        bias = additive(attend, h)[:, None]  # (B, 1, n_f or 1, n_f)
        keys, values = [], []
        with products(h.device, self.precision):
            for i, layer in enumerate(self.layers):
                assert isinstance(layer, Layer)
                near = bias if self.decay is None or places is None else bias + self.decay.bias(i, places, places)
                h, k, v = layer.frozen(h, near, phases, last=i == len(self.layers) - 1)
                keys.append(k)
                values.append(v)
        return Context(tuple(keys), tuple(values), places)

    def beside(
        self, context: Context, variable: Tensor, index: Tensor, value: Tensor, attend: Tensor, attend_context: Tensor
    ) -> Context:
        """The context with K observed tokens added whose values differ between replicates; `context` is shared by all.

        Of a network without `decay`: tokens of the context do not see what is added, and are encoded once.

        Args:
            variable: (B, K); index: (B, K, D); value: (B, R, K).
            attend, attend_context: as in `decode`, of the K tokens.
        """
        h = self.embedding(self.embedding.static(variable, index, torch.ones_like(variable))[:, None], value)
        bias, phases = biases(attend, attend_context, h, self.config.n_heads), self.rotary.phases(variable, index)
        phases, pairs = None if phases is None else phases[:, None], []
        with products(h.device, self.precision):
            for i, layer in enumerate(self.layers):
                assert isinstance(layer, Layer)
                last = i == len(self.layers) - 1
                h, k, v = layer.beside(h, context.keys[i], context.values[i], bias, phases, last)
                pairs.append((k, v))
        return replace(context, beside=tuple(pairs))

    def decode(
        self,
        variable: Tensor,
        index: Tensor,
        observed: Tensor,
        value: Tensor,
        c_noise: Tensor,
        context: Context,
        attend: Tensor,
        attend_context: Tensor,
        content: Tensor | None = None,
        estimate: Tensor | None = None,
        c_target: Tensor | None = None,
    ) -> Tensor:
        """One number a token, (B, R, n_a), or (B, R, n_a, n_outputs) where there are several.

        Args:
            variable, observed: (B, n_a); index: (B, n_a, D): shared by the replicates.
            value: (B, R, n_a), c_noise: (B, R or 1): one noise level a replicate, or one of all.
            attend: bool (B, n_a) or (B, n_a, n_a), active to active; of a context with K tokens `beside` these first,
                (B, K + n_a) or (B, n_a, K + n_a).
            attend_context: bool (B, n_f) or (B, n_a, n_f), active to frozen.
            content: (B, n_a, W), as in `encode`, of active tokens that are observed.
            estimate: (B, R, n_a, W), what is known of a latent token besides its noisy value.
            c_target: as c_noise, the noise level that is led to; of a network with `jumps`.
        """
        static = self.embedding.static(variable, index, observed)
        static = static if content is None else static + content
        static = static[:, None] if estimate is None else static[:, None] + estimate
        h = self.embedding(static, value)  # (B, R, n_a, W)
        level = self.noise(self._level(c_noise))
        if c_target is not None:
            assert self.target is not None
            level = level + self.target(self._level(c_target))
        modulation = self.modulation(silu(level))[:, :, None]  # (B, R or 1, 1, ·)
        m = (modulation + self.is_scale).chunk(4 * self.config.depth + 2, dim=-1)
        places = None if self.decay is None else self.decay.places(variable, index)
        bias = self._biases(attend, attend_context, h, places, context.places)
        phases = None if self.rotary.idle(variable) else self.rotary.phases(variable, index)
        phases = None if phases is None else phases[:, None]
        with products(h.device, self.precision):
            for i, layer in enumerate(self.layers):
                assert isinstance(layer, Layer)
                own = None if context.beside is None else context.beside[i]
                h = layer.active(h, m[4 * i : 4 * i + 4], context.keys[i], context.values[i], bias[i], phases, own)
        h = torch.addcmul(m[-1], layer_norm(h, (self.config.width,)), m[-2])
        out: Tensor = self.out(h)
        return out if self.n_outputs > 1 else out[..., 0]

    def _level(self, c_noise: Tensor) -> Tensor:
        return torch.cat([c_noise[..., None], _fourier(c_noise, self.noise_frequencies)], dim=-1)

    def _biases(
        self, attend: Tensor, attend_context: Tensor, h: Tensor, places: Places | None, frozen: Places | None
    ) -> list[Bias]:
        """Of active tokens, one a layer."""
        n_heads = self.config.n_heads
        if self.decay is None or places is None or frozen is None:
            return [biases(attend, attend_context, h, n_heads)] * self.config.depth
        out = []
        for i in range(self.config.depth):
            far = self.decay.bias(i, places, frozen), self.decay.bias(i, places, places)
            out.append(biases(attend, attend_context, h, n_heads, far))
        return out
