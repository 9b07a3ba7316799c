"""What stands for a long observation: a few tokens, and the information that its readings add up to.

Readings are a set whose evidence adds, while softmax attention averages: a network that knows averages alone does not
know how sharp a posterior is, and cannot say so for 100 times the readings it was trained on. Here the readings of a
row, in the order of their places, are cut into chunks of `CHUNK`; one layer of attention within each chunk sees every
reading beside its neighbours, in coordinates of the chunk. Of its states z_j two things are kept, both linear in n:

 1. M tokens, one for each of M segments of consecutive chunks: a softmax average, and the logarithm of its divisor,

        a = Σ_j w_j v_j / Σ_j w_j,   log Σ_j w_j,   w_j = exp(score(z_j)),

    so that sums are as visible as averages. They pass through the frozen layers beside the tokens that stay.
 2. A Gaussian's natural parameters, with learned φ and s: precisions and precision-weighted means, as evidence adds,

        P = I + Σ_j φ(z_j) φ(z_j)ᵀ,   η = Σ_j φ(z_j) s(z_j),   g ~ N(P⁻¹η, P⁻¹).

    What a latent l has of g depends on its own id and place and on the estimate ĝ = P⁻¹η, and not on n:

        x_l = μ_l(ĝ) + c_l(ĝ)·g + e_l,   Var e_l = 1/(1 + n exp(r_l(ĝ))),

    so that beyond all n of training widths shrink as n^(−1/2), for sums do, and nothing of it is extrapolated. This
    Gaussian is learned as one, by its own likelihood (`shortfall`), and its denoiser (gaussian.py) is where the network
    starts from: F = F_g + F₀ (denoise.py). F₀ corrects it where the posterior is no such Gaussian. A bias of φ, s or μ
    does not shrink with n: what training on n readings has no power to see is seen at 100 n.

Chunks of 100 times more readings would be 100 times shorter than any that training saw, and what φ and s make of such
chunks nobody knows. But K n readings of the same parameters are K times n readings: a row of more than `most_readings`
is taken apart, every K-th reading into one part, so that all parts are as dense as rows of training were. P is the sum
over parts; ĝ and the tokens are those of the average part,

    ĝ = (I + P̄)⁻¹ η̄,   P̄ = (1/K) Σ φφᵀ,   η̄ = (1/K) Σ φ s,   g ~ N(ĝ, P⁻¹),

for of an ĝ shrunk less than any in training μ and c know nothing; what shrinkage is left is of the order of a part's
variance. That is right where readings are independent given what is inferred. Of a process that is integrated out, read
so densely that neighbours tell the same, the parts are not independent, and their sum claims too much: train on rows as
dense as those to come.

A row is compressed if it has more than `compress_above` frozen tokens, and of it only ids with more than M tokens; all
other tokens, and all other rows, are what they are without compression. Chunks are merged by their log masses: what is
held at a time is a block of chunks, never a matrix of pairs.

Where the joint is Gaussian nothing need be learned: a linear baseline (`train(..., baseline=True)`, gaussian.py) merges
any number of readings exactly, in O(n), with or without compression. It is blind to what moves no mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from fsimformer.attend import additive
from fsimformer.gaussian import FLOOR, Given, exact_device
from fsimformer.nn import Layer, Network
from fsimformer.tokens import TokenBatch

CHUNK = 64  # part of the format of a model's file: its weights know chunks of this size
_BLOCK = 256  # chunks of all rows that are held at a time, where no gradient is asked for
_BITS = 16  # of each index dim in the order of places
_FEATURES, _PAIRS = 16, 2  # length of g; pairs (φ, s) of a reading
_NONE = -1e9  # a log mass of nothing, finite


@dataclass(frozen=True)
class Summary:
    """What B rows of readings come to.

    Args:
        tokens: (B, M + 1, W): M segments, and one token for the information.
        index, uses: (B, M + 1, D), the segments' mean places, and which dims they have.
        valid: (B, M + 1); no token of rows that are not compressed.
        count: n (B,).
        precision, shift, estimate: P (B, k, k), P ĝ (B, k), ĝ (B, k), float64, on the `exact_device`.
    """

    tokens: Tensor
    index: Tensor
    uses: Tensor
    valid: Tensor
    count: Tensor
    precision: Tensor
    shift: Tensor
    estimate: Tensor

    def repeat(self, n: int) -> Summary:
        """Of n rows that share the readings of this one."""
        return Summary(*(getattr(self, f.name).expand(n, *getattr(self, f.name).shape[1:]) for f in fields(self)))


class Summariser(nn.Module):
    """Readings to a `Summary`, and what a latent reads from it.

    Args:
        network: whose embedding, rotation and sizes are used; it is not held.

    Raises:
        ValueError: no variable has an index dim.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        config = network.config
        if not any(map(any, config.uses_index)):
            raise ValueError(
                f"NetworkConfig: inducing {config.inducing}, and no variable is a function of an index dim, so that no "
                "observation gets long. Choices: inducing=0."
            )
        w, h, k, d = config.width, config.n_heads, _FEATURES, network.rotary.uses_index.shape[1]
        self.n_tokens, self.n_heads, self.most = config.inducing, h, config.most_readings
        self.anchored = network.embedding.index is not None
        self.local = Layer(config)
        self.frame = nn.Linear(2 * d + 1, w)
        self.score, self.value, self.out = nn.Linear(w, h), nn.Linear(w, w), nn.Linear(w, w)
        self.mass = nn.Linear(h + 1, w)
        n_raw = w + 1 + (d if self.anchored else 0)
        self.phi, self.s = nn.Linear(n_raw, _PAIRS * k), nn.Linear(n_raw, _PAIRS)
        self.information = nn.Linear(2 * k + 1, w)
        self.of_estimate, self.hidden, self.head = nn.Linear(k, w), nn.Linear(w, w), nn.Linear(w, k + 2)
        self.told = nn.Linear(3, w, bias=False)
        with torch.no_grad():
            self.phi.weight.mul_(0.1)  # a reading tells little; a thousand of them as much as a prior, and more
            self.phi.bias.mul_(0.1)
            self.head.weight[:k].mul_(0.3)
            self.head.weight[k:].zero_()
            self.head.bias.zero_()
            self.head.bias[-1] = -6.0
        nn.init.zeros_(self.told.weight)

    def pooled(self, frozen: TokenBatch, above: int) -> Tensor:
        """(B, n_f) bool: tokens that are compressed, those of ids with more than M of them in rows with more than
        `above`."""
        each = torch.zeros(len(frozen.valid), int(frozen.variable.max()) + 1, device=frozen.valid.device)
        each = each.scatter_add(1, frozen.variable, frozen.valid.to(each.dtype))
        long = frozen.valid.sum(1, keepdim=True) > above
        return frozen.valid & long & (each.gather(1, frozen.variable) > self.n_tokens)

    def forward(self, network: Network, frozen: TokenBatch, pooled: Tensor) -> Summary:
        """The summary of the `pooled` (B, n_f) tokens of each row; what order they come in makes no difference."""
        b, n_each = len(pooled), pooled.sum(1)
        n_parts = (-(-n_each // self.most)).clamp(min=1) if self.most else torch.ones_like(n_each)
        order = by_place(frozen.index, frozen.variable, frozen.value, pooled)[:, : int(n_each.max())]
        row, part, chunk = torch.ones(
            b, int(n_parts.max()), int((-(-n_each // (n_parts * CHUNK))).max()), device=pooled.device
        ).nonzero(as_tuple=True)
        first = part + chunk * CHUNK * n_parts[row]
        some_real = (part < n_parts[row]) & (first < n_each[row])  # chunks of padding alone are none
        row, chunk, first = row[some_real], chunk[some_real], first[some_real]
        rank = first[:, None] + torch.arange(CHUNK, device=row.device) * n_parts[row, None]
        real = rank < n_each[row, None]
        order = order[row[:, None], torch.where(real, rank, 0)]
        step = len(row) if torch.is_grad_enabled() else _BLOCK
        parts = []
        for start in range(0, len(row), step):
            some = slice(start, start + step)
            at = row[some, None], order[some]
            parts.append(self._chunks(network, frozen.variable[at], frozen.index[at], frozen.value[at], real[some]))
        mass, mean, place, uses, precision, shift = (torch.cat(x) for x in zip(*parts, strict=True))
        segments = self._segments(row, chunk, n_parts, mass, mean, place, uses, real.sum(1))
        k, to = _FEATURES, row.to(precision.device)
        precision = precision.new_zeros(b, k, k).index_add(0, to, precision)
        shift, each = shift.new_zeros(b, k).index_add(0, to, shift), n_parts.to(precision.device)[:, None]
        prior = torch.eye(k, dtype=torch.float64, device=precision.device)
        root = torch.linalg.cholesky(prior + precision / each[..., None])
        g = torch.cholesky_solve((shift / each)[..., None], root)
        log_sd = 0.5 * torch.cholesky_inverse(root).diagonal(dim1=-2, dim2=-1).log()
        precision = prior + precision
        information = precision, (precision @ g)[..., 0], g[..., 0], log_sd
        return self._summary(network, segments, information, n_parts)

    def _chunks(
        self, network: Network, variable: Tensor, index: Tensor, value: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        """Of chunks (C, CHUNK): log masses (C, H), averages (C, H, d), sums of places and of dims had (C, D), and their
        parts of P and η, float64."""
        uses = network.rotary.uses_index[variable] & valid[..., None]
        h = network.embedding(network.embedding.static(variable, index, torch.ones_like(variable)), value)
        local, size = chunk_frame(index, uses)
        log_count = valid.sum(1).to(h).log()[:, None, None].expand(-1, CHUNK, -1)
        h = h + self.frame(torch.cat([local, size, 0.25 * log_count], -1))
        h, _, _ = self.local.frozen(h, additive(valid, h)[:, None], network.rotary.phases(variable, local), last=False)
        h = layer_norm(h, h.shape[-1:])
        score = self.score(h).masked_fill(~valid[..., None], _NONE)
        mean = torch.einsum("cjh,cjhd->chd", score.softmax(1), self.value(h).unflatten(-1, (self.n_heads, -1)))
        place = index * uses
        z = torch.cat([h, value[..., None], *([place] if self.anchored else [])], -1)
        phi = (self.phi(z).unflatten(-1, (_PAIRS, _FEATURES)) * valid[..., None, None]).flatten(1, 2)
        s, exact = self.s(z).flatten(1)[..., None], exact_device(h.device)
        precision, shift = (phi.mT @ phi).to(exact).double(), (phi.mT @ s)[..., 0].to(exact).double()
        return score.logsumexp(1), mean, place.sum(1), uses.sum(1), precision, shift

    def _segments(
        self,
        row: Tensor,
        chunk: Tensor,
        n_parts: Tensor,
        mass: Tensor,
        mean: Tensor,
        place: Tensor,
        uses: Tensor,
        count: Tensor,
    ) -> tuple[Tensor, ...]:
        """Chunks, the `chunk`-th of a part of each `row` (C,), merged into M segments of equally many: mass (B, M, H)
        of the average part, mean (B, M, H, d), index and uses (B, M, D), count (B, M)."""
        m, n_rows = self.n_tokens, len(n_parts)
        n_chunks = torch.zeros_like(n_parts).scatter_reduce(0, row, chunk + 1, "amax")[row]
        at = row * m + torch.where(n_chunks > m, chunk * m // n_chunks, chunk)

        def total(x: Tensor) -> Tensor:
            return x.new_zeros(n_rows * m, *x.shape[1:]).index_add(0, at, x)

        to = at[:, None].expand_as(mass)
        highest = mass.new_full((n_rows * m, mass.shape[1]), _NONE).scatter_reduce(0, to, mass.detach(), "amax")
        weight = (mass - highest[at]).exp()
        sums, had = total(weight), total(uses).to(place)
        mean = total(weight[..., None] * mean) / sums.clamp(min=1e-30)[..., None]
        mass = highest + sums.clamp(min=1e-30).log() - n_parts.to(mass).log().repeat_interleave(m)[:, None]
        out = mass, mean, total(place) / had.clamp(min=1), had > 0, total(count)
        return tuple(x.unflatten(0, (n_rows, m)) for x in out)

    def _summary(
        self, network: Network, segments: Sequence[Tensor], information: Sequence[Tensor], n_parts: Tensor
    ) -> Summary:
        mass, mean, index, uses, here = segments
        count = here.sum(1)
        valid = here > 0
        log_parts = n_parts.to(mass).log()[:, None]
        log_count = (here.clamp(min=1).to(mass).log() - log_parts)[..., None]
        known = torch.cat([mass.clamp(min=-30.0), log_count], -1) * valid[..., None]
        tokens = self.out(mean.flatten(-2)) + self.mass(0.25 * known) + network.embedding.place(index, uses)
        precision, shift, g, log_sd = information
        log_n = count.clamp(min=1).to(tokens).log()[:, None] - log_parts
        known = torch.cat([g.to(tokens), 0.25 * log_sd.to(tokens), 0.25 * log_n], -1)
        tokens = torch.cat([tokens, self.information(known)[:, None]], 1)
        nowhere = torch.zeros_like(index[:, :1])
        return Summary(
            tokens,
            torch.cat([index, nowhere], 1),
            torch.cat([uses, nowhere.bool()], 1),
            torch.cat([valid, (count > 0)[:, None]], 1),
            count,
            precision,
            shift,
            g,
        )

    def read(self, network: Network, summary: Summary, active: TokenBatch, apart: Tensor) -> Given:
        """What each latent has of g: a Gaussian of the active tokens, given the readings.

        Args:
            apart: (n_ids,) bool, ids that nobody may see: they share no g, and each is solved by itself.
        """
        static = network.embedding.static(active.variable, active.index, torch.zeros_like(active.variable))
        e = gelu(static + self.of_estimate(summary.estimate.to(static))[:, None])
        exact = summary.precision.device
        out = self.head(gelu(self.hidden(e))).to(exact).double()
        loading, mean, rate = out[..., :-2], out[..., -2], out[..., -1].clamp(-20.0, 5.0)
        mine, seen = (active.latent & (summary.count > 0)[:, None]).to(exact), (~apart[active.variable]).to(exact)
        loading = loading * (mine & seen)[..., None]
        own = 1 / (1 + summary.count.to(exact)[:, None] * rate.exp()) + FLOOR
        return Given(summary.precision, summary.shift, mean * mine, loading, torch.where(mine, own, 1.0))


def shortfall(given: Given, x: Tensor, mine: Tensor) -> Tensor:
    """How far the Gaussian falls short of values x (B, n_a) at `mine` (B, n_a): 0, with a gradient.

    The gradient is that of the mean of √v (½ (x − m)²/v + ½ log v) with √v held: of the likelihood, but rows with sharp
    posteriors do not outweigh all others (arXiv 2203.09168, β = ½).
    """
    root = torch.linalg.cholesky(given.precision)
    g = torch.cholesky_solve(given.shift[..., None], root)[..., 0]
    spread = torch.linalg.solve_triangular(root, given.loading.mT, upper=False).square().sum(-2)
    mean, variance = given.mean + (given.loading @ g[..., None])[..., 0], spread + given.own
    each = variance.detach().sqrt() * ((x.to(mean) - mean) ** 2 / variance + variance.log()) / 2
    here = mine.to(mean.device)
    loss = ((each * here).sum() / here.sum().clamp(min=1)).to(x)
    return loss - loss.detach()


def by_place(index: Tensor, variable: Tensor, value: Tensor, which: Tensor) -> Tensor:
    """Positions (B, n) of the `which` tokens first, along a curve that fills their index dims, whatever their order.

    Of one dim its order; of several the Morton order. Tokens at one place follow by id, then by value.
    """
    b, n, d = index.shape
    order = torch.arange(n, device=index.device).expand(b, n)
    keys = [value, variable.to(value.dtype), *index.unbind(-1)]
    if d > 1:
        cell = ((index.clamp(-2, 2) + 2) / 4 * (2**_BITS - 1)).long()
        bits = [((cell[..., j] >> i) & 1) << (i * d + j) for i in range(min(_BITS, 62 // d)) for j in range(d)]
        keys.append(reduce(torch.bitwise_or, bits))
    for key in (*keys, ~which):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def chunk_frame(index: Tensor, uses: Tensor) -> tuple[Tensor, Tensor]:
    """Places (…, n, D) in coordinates of their chunk, [−1, 1] from end to end, and a quarter of the log of its half
    length, both 0 where a token lacks the dim or a chunk has no length."""
    lower = torch.where(uses, index, torch.inf).amin(-2, keepdim=True)
    upper = torch.where(uses, index, -torch.inf).amax(-2, keepdim=True)
    there = upper > lower
    lower, upper = torch.where(there, lower, 0.0), torch.where(there, upper, 2.0)
    half = (upper - lower) / 2
    local = (index - (lower + upper) / 2) / half
    size = (0.25 * half.log()).expand_as(index)
    return torch.where(uses & there, local, 0.0), torch.where(uses & there, size, 0.0)
