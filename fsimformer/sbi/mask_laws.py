"""Laws of condition and edge masks over the rows of a training batch: a callable, a collection, or one fixed mask.

Masks are of variables, True = observed (condition, (T,)) and True = query i may attend to key j (edges, (T, T)). Every
row draws its own. The default condition law is Bernoulli(½) for each variable; a row in which every variable that is
there came out observed makes a random one of them latent: it would have nothing to learn. Where another law observes
all that is there of a row, another row takes its place.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

MaskSource = Callable[[Tensor], Any] | Tensor | Iterable[Any]
ConditionLaw = Callable[[Tensor, torch.Generator], Tensor]
"""Rows (n, T, F), NaN where missing -> condition masks (n, T)."""
EdgeLaw = Callable[[Tensor, torch.Generator], Tensor | None]
"""Condition masks (n, T) -> edge masks (n, T, T), or None where everything may attend to everything."""

CONDITION, EDGE = "condition mask", "edge mask"  # their names in messages
_CHOICES = {
    CONDITION: "a mask (variables,), a collection of such masks, or a callable rows (n, variables, features) -> "
    "(n, variables)",
    EDGE: "a mask (variables, variables), a collection of such masks, or a callable condition masks (n, variables) -> "
    "(n, variables, variables)",
}
_ROUNDS = 100


def require_source(where: str, source: Any) -> None:
    """Refuses what cannot be a source of masks, before any training reads it; `where` is CONDITION or EDGE.

    An iterator is refused: reading it uses it up, and may never end.

    Raises:
        TypeError: no callable of one argument, no tensor and no collection.
    """
    expected = f"expected {_CHOICES[where]}, or None"
    if callable(source):
        try:
            inspect.signature(source).bind(None)
        except TypeError as error:
            raise TypeError(f"{where}: {source!r} cannot be called with one argument ({error}); {expected}.") from error
        except ValueError:  # written in C, without a signature
            pass
    elif hasattr(source, "__next__"):
        raise TypeError(
            f"{where}: a {type(source).__name__} can be read only once, and may never end; {expected}. Wrap it in a "
            "callable: lambda rows: next(masks)."
        )
    elif source is not None and (
        isinstance(source, str | bytes | Mapping) or not isinstance(source, Tensor | Iterable)
    ):
        raise TypeError(f"{where}: {expected}, got {type(source).__name__}.")


def _tensor(where: str, mask: Any, expected: str) -> Tensor:
    try:
        return torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{where}: expected {expected}, got {type(mask).__name__} {str(mask)[:40]!r}.") from error


def read_mask(where: str, mask: Any, shape: tuple[int, ...], expected: str | None = None) -> Tensor:
    """A boolean mask of this shape from a tensor, an array or nested lists of True/False or 1/0.

    Args:
        expected: the shape in a message's words.

    Raises:
        ValueError: another shape, or entries that are neither 0 nor 1.
    """
    expected = f"shape {shape}" if expected is None else expected
    mask = _tensor(where, mask, f"a mask of {expected}")
    if tuple(mask.shape) != shape:
        raise ValueError(f"{where}: expected {expected}, got {tuple(mask.shape)}.")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{where}: expected True/False or 1/0, got {mask.unique().tolist()[:5]}.")
    return mask.bool().cpu()


def read_masks(where: str, source: Tensor | Iterable[Any], shape: tuple[int, ...]) -> Tensor:
    """A collection of masks, or one mask, as (K, *shape)."""
    expected = f"shape {shape} for one mask or (K, {', '.join(map(str, shape))}) for a collection"
    if isinstance(source, set | frozenset):  # tensors hash by address: without an order of their own, no equal runs
        source = sorted(source, key=lambda mask: torch.as_tensor(mask).tolist())
    if not isinstance(source, Tensor):
        entries = list(source)
        if not entries:
            raise ValueError(f"{where}: expected at least one mask, got an empty collection.")
        parts = [_tensor(where, mask, f"masks of {expected}") for mask in entries]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{where}: expected masks of one shape, got {[tuple(part.shape) for part in parts]}.")
        source = torch.stack(parts)
    many = source.dim() == len(shape) + 1 and tuple(source.shape[1:]) == shape
    return read_mask(where, source, (len(source), *shape) if many else shape, expected).view(-1, *shape)


def listed(where: str, source: MaskSource | None, shape: tuple[int, ...]) -> Tensor | None:
    """All masks (K, *shape) of this source, each once; K = 0 where nobody can list them, None of no source."""
    if source is None:
        return None
    if callable(source):
        return torch.zeros(0, *shape, dtype=torch.bool)
    return read_masks(where, source, shape).unique(dim=0)


def warn_of_untrained(
    trained: Tensor | None, graphs: Tensor | None, condition_mask: Tensor, edge_mask: Tensor | None, stacklevel: int
) -> None:
    """Of a condition mask that none listed for training is, and of full attention where none listed for training is.

    Of an edge mask that somebody asks for nothing is said: they have said what they want.

    Args:
        trained, graphs: condition masks (K, T) and edge masks (K, T, T), as `listed` has them.
        condition_mask, edge_mask: (T,) and (T, T), those of the conditional; no edge mask is full attention.
    """
    diagonal = torch.eye(len(condition_mask), dtype=torch.bool)  # which every mask has, see `edges_of_ids`
    if edge_mask is None and graphs is not None and len(graphs) and not (graphs | diagonal).flatten(1).all(1).any():
        warnings.warn(
            "edge_mask: training drew from masks that are not full attention, which this conditional uses for want of "
            "one: the network has not learned it. Pass one of those masks as edge_mask=.",
            UserWarning,
            stacklevel=stacklevel,
        )
    if trained is not None and len(trained) and not any(torch.equal(condition_mask, mask) for mask in trained):
        warnings.warn(
            f"condition_mask {condition_mask.int().tolist()} is none of the {len(trained)} that training drew from: "
            "the network has not learned this conditional. Train with masks that ask for it, or without "
            "set_condition_masks_generator.",
            UserWarning,
            stacklevel=stacklevel,
        )


def _answered(where: str, mask: Any, n: int, shape: tuple[int, ...]) -> Tensor:
    """What a callable answered for n rows, (n, *shape); a lone mask is that of every row."""
    where, expected = f"{where} from the callable", f"shape {(n, *shape)}, one for each row, or {shape} for all of them"
    mask = _tensor(where, mask, expected)
    if tuple(mask.shape) == shape:
        return read_mask(where, mask, shape).expand(n, *shape)
    return read_mask(where, mask, (n, *shape), expected)


def _one_each(masks: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(n, …): each row one of the masks (K, …), uniformly."""
    return masks[torch.randint(len(masks), (n,), generator=generator)]


def bernoulli(rows: Tensor, generator: torch.Generator) -> Tensor:
    """The default condition law, see the module; rows (n, T, F) -> (n, T)."""
    there = torch.isfinite(rows).any(-1)
    observed = torch.rand(there.shape, generator=generator) < 0.5
    u = torch.rand(there.shape, generator=generator)
    chosen = torch.where(there, u, -1.0).argmax(1)  # one variable of those that are there
    full = (observed | ~there).all(1)
    observed[full.nonzero()[:, 0], chosen[full]] = False
    return observed


def condition_law(source: MaskSource | None, n_variables: int) -> ConditionLaw:
    """The law of condition masks that `source` describes.

    Args:
        source: a callable rows (n, T, F) -> masks (n, T), or (T,) for all rows of the call; a collection of masks (T,),
            one drawn uniformly for each row; one mask (T,); None = `bernoulli`. A callable brings its own randomness.

    Raises:
        ValueError, TypeError: what is no mask of `n_variables`, or no source; a mask that leaves nothing latent.
    """
    where = CONDITION
    require_source(where, source)
    if source is None:
        return bernoulli
    if callable(source):
        return lambda rows, generator: _answered(where, source(rows), len(rows), (n_variables,))
    masks = read_masks(where, source, (n_variables,))
    if masks.all(1).any():
        raise ValueError(f"{where}: a mask observes all {n_variables} variables: nothing is latent, nothing to train.")
    return lambda rows, generator: _one_each(masks, len(rows), generator)


def rows_with_latents(
    simulations: Tensor, law: ConditionLaw, n: int, generator: torch.Generator, varies: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """n rows drawn with replacement, (n, T, F), and their masks, (n, T), of rows that have a latent value.

    Args:
        varies: (T, F) bool, features that are tokens; None = all. The law is shown the others too, in single precision.

    Raises:
        ValueError: fewer than one row in a hundred has one under this law.
    """
    rows, masks, found = [], [], 0
    for _ in range(_ROUNDS):
        drawn = simulations[torch.randint(len(simulations), (n,), generator=generator)]
        mask = law(drawn.float(), generator)
        there = torch.isfinite(drawn) if varies is None else torch.isfinite(drawn) & varies
        useful = (there.any(-1) & ~mask).any(1)
        rows.append(drawn[useful])
        masks.append(mask[useful])
        found += int(useful.sum())
        if found >= n:
            return torch.cat(rows)[:n], torch.cat(masks)[:n]
    raise ValueError(
        f"condition mask: {_ROUNDS * n - found} of {_ROUNDS * n} rows drawn with their masks leave nothing latent "
        "that is there, nothing to train; expected masks that leave a value that is not NaN latent in at least one row "
        "of a hundred."
    )


def edge_law(source: MaskSource | None, n_variables: int) -> EdgeLaw:
    """The law of edge masks that `source` describes.

    Args:
        source: a callable condition masks (n, T) -> edge masks (n, T, T), (T, T) for all, or None for full attention; a
            collection of masks (T, T), one drawn uniformly for each row; one mask (T, T); None = full attention.

    Raises:
        ValueError, TypeError: what is no mask of `n_variables`, or no source.
    """
    where, t = EDGE, n_variables
    require_source(where, source)
    if source is None:
        return lambda conditions, generator: None
    if callable(source):

        def called(conditions: Tensor, generator: torch.Generator) -> Tensor | None:
            mask = source(conditions)
            return None if mask is None else _answered(where, mask, len(conditions), (t, t))

        return called
    masks = read_masks(where, source, (t, t))
    return lambda conditions, generator: _one_each(masks, len(conditions), generator)


def edges_of_ids(edges: Tensor, n_features: int) -> Tensor:
    """Edge masks of variables (…, T, T) as masks of token ids (…, T·F, T·F).

    The features of a variable always see each other: a query without a single key would attend to all of them alike.
    """
    edges = edges | torch.eye(edges.shape[-1], dtype=torch.bool)
    return edges.repeat_interleave(n_features, -2).repeat_interleave(n_features, -1)


def eliminate(edges: Tensor, missing: Tensor) -> Tensor:
    """Edge masks (…, d, d) of rows in which some entries are no tokens: the neighbours of these are joined.

    What is missing parts nothing. For each missing i, in order, graph |= graph[:, i] ⊗ graph[i, :]: then q sees k just
    where a path of edges leads from q to k through missing entries alone, which is exact variable elimination where
    the mask is a moral graph (Lauritzen, Graphical Models, 1996). Rows without gaps keep their masks.

    Args:
        edges: bool. missing: (…, d) bool.
    """
    edges = edges.clone()
    for i in missing.reshape(-1, missing.shape[-1]).any(0).nonzero()[:, 0].tolist():
        edges |= missing[..., i, None, None] & edges[..., :, i, None] & edges[..., None, i, :]
    return edges
