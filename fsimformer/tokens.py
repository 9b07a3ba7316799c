"""Token sets and padded batches: what the network sees of a data set.

A token is (variable id, index, value, condition_mask). A `TokenSet` is one ragged row, a `TokenBatch` several rows
padded to one length; `valid` is True where a token is real. All masks: True = takes part.

An array (an image, a long trace) is no value of a token: it lies beside its row, whitened, in `arrays`, under the range
of ids of the tokens that an embedding net makes of it. These tokens have index and value 0.

`split` parts a batch into the two streams of the network (design.md, D1): *frozen* tokens are observed and know nothing
of the noise level; *active* tokens are the latents and, while there are few of them, some of the observed tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenSet:
    """One row: `variable` (L,) long, `index` (L, D), `value` (L,), `condition_mask` (L,) bool.

    `index` is scaled to [-1, 1] over the trained range and 0 on dims that the variable lacks; `value` is whitened.
    `arrays`: ids of its tokens -> the array (*shape).
    """

    variable: Tensor
    index: Tensor
    value: Tensor
    condition_mask: Tensor
    arrays: Mapping[range, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = self.variable.shape[0]
        if self.index.dim() != 2 or any(x.shape[0] != n for x in (self.index, self.value, self.condition_mask)):
            shapes = {name: tuple(getattr(self, name).shape) for name in _SET}
            raise ValueError(
                f"TokenSet: expected variable (L,), index (L, D), value (L,), condition_mask (L,), got {shapes}."
            )

    def __len__(self) -> int:
        return self.variable.shape[0]


_SET = ("variable", "index", "value", "condition_mask")  # what each token has of its own
_BATCH = (*_SET, "valid")


def take(tokens: TokenSet, which: Tensor) -> TokenSet:
    """The chosen tokens of a row; its arrays stay beside it."""
    return replace(tokens, **{name: getattr(tokens, name)[which] for name in _SET})


def join(*sets: TokenSet) -> TokenSet:
    """One row with the tokens of all."""
    arrays = {ids: x for s in sets for ids, x in s.arrays.items()}
    return replace(sets[0], arrays=arrays, **{name: torch.cat([getattr(s, name) for s in sets]) for name in _SET})


@dataclass(frozen=True)
class TokenBatch:
    """Padded rows: `variable` (B, L), `index` (B, L, D), `value` (B, L), `condition_mask` (B, L), `valid` (B, L).

    `arrays`: ids of its tokens -> (B, *shape), or (1, *shape) that all rows share; what it holds in a row without valid
    tokens of these ids means nothing.
    `edges` (B, n_ids, n_ids), if given: each row's own dependency mask, True = query id may attend to key id.
    """

    variable: Tensor
    index: Tensor
    value: Tensor
    condition_mask: Tensor
    valid: Tensor
    arrays: Mapping[range, Tensor] = field(default_factory=dict)
    edges: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        return self.variable.shape[0], self.variable.shape[1]

    @property
    def observed(self) -> Tensor:
        """(B, L): real and observed."""
        return self.condition_mask & self.valid

    @property
    def latent(self) -> Tensor:
        """(B, L): real and not observed."""
        return ~self.condition_mask & self.valid

    def of_arrays(self) -> Tensor:
        """(B, L): tokens, real or not, that stand for an array."""
        out = torch.zeros_like(self.valid)
        for ids in self.arrays:
            out |= (self.variable >= ids.start) & (self.variable < ids.stop)
        return out

    def to(self, device: torch.device | str) -> TokenBatch:
        return self._each(lambda x: x.to(device))

    def rows(self, which: Tensor | slice) -> TokenBatch:
        """A batch of the chosen rows."""
        arrays = {ids: x[which] if len(x) == len(self.variable) else x for ids, x in self.arrays.items()}
        return self.replace(arrays={})._each(lambda x: x[which]).replace(arrays=arrays)

    def repeat(self, n: int) -> TokenBatch:
        """n copies of a batch's one row, which share its arrays."""
        out = self.replace(arrays={}).rows(torch.zeros(n, dtype=torch.long))
        return out.replace(arrays=self.arrays)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        arrays = {ids: change(x) for ids, x in self.arrays.items()}
        edges = None if self.edges is None else change(self.edges)
        return replace(self, arrays=arrays, edges=edges, **{name: change(getattr(self, name)) for name in _BATCH})

    def replace(self, **changes: Any) -> TokenBatch:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def gather(self, position: Tensor) -> TokenBatch:
        """Tokens at `position` (B, M) of each row; keeps `valid` as it stands there."""
        return TokenBatch(
            self.variable.gather(1, position),
            self.index.gather(1, position[..., None].expand(-1, -1, self.index.shape[-1])),
            self.value.gather(1, position),
            self.condition_mask.gather(1, position),
            self.valid.gather(1, position),
            self.arrays,
            self.edges,
        )


def collate(sets: Sequence[TokenSet], length: int | None = None) -> TokenBatch:
    """Pad rows to the longest of them, or to `length`.

    Raises:
        ValueError: no rows, rows of different index width, or a row longer than `length`.
    """
    if not sets:
        raise ValueError("collate: expected at least one TokenSet, got none.")
    widths = {s.index.shape[1] for s in sets}
    if len(widths) > 1:
        raise ValueError(f"collate: rows have different numbers of index dims: {sorted(widths)}.")
    longest = max(len(s) for s in sets)
    n = longest if length is None else length
    if longest > n:
        raise ValueError(f"collate: a row of {longest} tokens does not fit into length {n}.")
    b, d, first = len(sets), widths.pop(), sets[0]
    some = {ids: x for s in sets for ids, x in s.arrays.items()}
    out = TokenBatch(
        first.variable.new_zeros(b, n),
        first.index.new_zeros(b, n, d),
        first.value.new_zeros(b, n),
        first.condition_mask.new_zeros(b, n),
        first.condition_mask.new_zeros(b, n),
        {ids: torch.stack([s.arrays.get(ids, torch.zeros_like(x)) for s in sets]) for ids, x in some.items()},
    )
    for i, s in enumerate(sets):
        m = len(s)
        out.variable[i, :m], out.index[i, :m], out.value[i, :m] = s.variable, s.index, s.value
        out.condition_mask[i, :m], out.valid[i, :m] = s.condition_mask, True
    return out


def concatenate(batches: Sequence[TokenBatch]) -> TokenBatch:
    """The rows of all batches, padded to the longest."""
    length = max(b.shape[1] for b in batches)
    some = {ids: x for b in batches for ids, x in b.arrays.items()}

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(x.shape[0], length - x.shape[1], *x.shape[2:])], dim=1)

    def of_rows(ids: range, shape: tuple[int, ...]) -> Tensor:
        zeros = batches[0].value.new_zeros(1, *shape)
        return torch.cat([b.arrays.get(ids, zeros).expand(len(b.variable), *shape) for b in batches])

    arrays = {ids: of_rows(ids, tuple(x.shape[1:])) for ids, x in some.items()}
    changes: dict[str, Any] = {name: torch.cat([padded(getattr(b, name)) for b in batches]) for name in _BATCH}
    edges = [b.edges for b in batches if b.edges is not None]
    if len(edges) not in (0, len(batches)):
        raise ValueError(f"concatenate: {len(edges)} of {len(batches)} batches have edges; expected all or none.")
    return replace(batches[0], arrays=arrays, edges=torch.cat(edges) if edges else None, **changes)


def uncollate(batch: TokenBatch) -> list[TokenSet]:
    """The ragged rows of a batch, padding removed; inverse of `collate`."""
    out = []
    for i, v in enumerate(batch.valid):
        variable = batch.variable[i][v]
        held = {ids: x for ids, x in batch.arrays.items() if bool((variable == ids.start).any())}
        arrays = {ids: x[i if len(x) == len(batch.valid) else 0] for ids, x in held.items()}
        out.append(TokenSet(variable, batch.index[i][v], batch.value[i][v], batch.condition_mask[i][v], arrays))
    return out


def select(mask: Tensor, priority: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Positions of the True entries of each row, padded to the longest row.

    Args:
        mask: (B, L) bool.
        priority: (B, L); entries come in rising priority, by default in the order in which they stand.

    Returns:
        position (B, M) long and taken (B, M) bool; M is the largest row count (at least 0).
    """
    b, length = mask.shape
    key = torch.arange(length, device=mask.device).expand(b, -1).to(torch.float32) if priority is None else priority
    order = torch.where(mask, key, torch.inf).argsort(dim=1, stable=True)
    count = mask.sum(1)
    m = int(count.max()) if b else 0
    taken = torch.arange(m, device=mask.device)[None] < count[:, None]
    return order[:, :m], taken


Dial = int | Literal["few"] | None
"""Which observed tokens ride in the active stream: as many of a row, all of them in rows that have few, or all."""

FEW = 8  # part of the format of a model's file: "few" means this number there


def require_dial(dial: object, where: str = "n_active_observed") -> Dial:
    """The dial, checked; `where` is its name in the caller's words.

    Raises:
        ValueError: with the choices.
    """
    if dial is None or dial == "few":
        return dial
    if isinstance(dial, bool) or not isinstance(dial, int) or dial < 0:
        raise ValueError(f"{where}: expected an integer >= 0, 'few' or None (all), got {dial!r}.")
    return dial


def more_ride(dial: Dial, n: int) -> bool:
    """The dial may put more than n observed tokens of a row, n > `FEW`, into the active stream."""
    return dial is None or (dial != "few" and dial > n)


@dataclass(frozen=True)
class Streams:
    """A batch parted in two; `position` (B, n_a) says where each active token stands in the batch.

    Arrays lie beside the frozen stream, for tokens of either.
    """

    frozen: TokenBatch
    active: TokenBatch
    position: Tensor

    def to(self, device: torch.device | str) -> Streams:
        return Streams(self.frozen.to(device), self.active.to(device), self.position.to(device))


def split(batch: TokenBatch, n_active_observed: Dial = 0, generator: torch.Generator | None = None) -> Streams:
    """Part a batch into the frozen and the active stream.

    Args:
        batch: (B, L).
        n_active_observed: observed tokens of a row that ride in the active stream; None = all of them; "few" = all of
            them in rows that have at most `FEW`, none in others: freezing costs accuracy where little is observed, and
            full attention is cheap there (benchmarks, dial).
        generator: picks the riders at random (training). Without one they are spread evenly over the row's observed
            tokens (sampling: the same observation is always split the same way, whatever its batch-mates).
    """
    observed = batch.observed
    if n_active_observed is None:
        riding = observed
    elif n_active_observed == "few":
        riding = observed & (observed.sum(1, keepdim=True) <= FEW)
    elif n_active_observed == 0:
        riding = torch.zeros_like(observed)
    else:
        if generator is None:
            n = observed.sum(1, keepdim=True).clamp(min=1)
            rank = observed.cumsum(1) - 1  # 0 … n-1 at observed tokens
            k = min(n_active_observed, batch.shape[1])
            # token r rides if a multiple of n/k lies in [r, r+1): exactly min(k, n) tokens, evenly spread
            riding = observed & (((rank * k) % n < k) | (n <= k))
        else:
            u = torch.rand(observed.shape, generator=generator, device=observed.device)
            order = torch.where(observed, u, torch.inf).argsort(dim=1).argsort(dim=1)
            riding = observed & (order < n_active_observed)
    at, taken = select(observed & ~riding)
    frozen = batch.gather(at)
    frozen = frozen.replace(valid=frozen.valid & taken)
    position, taken = select(batch.latent | riding)
    active = batch.gather(position)
    active = active.replace(valid=active.valid & taken, arrays={})
    return Streams(frozen, active, position)
