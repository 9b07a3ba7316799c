"""What training leaves: a denoiser, and the whitening of every feature of every variable.

Feature f of variable v is a scalar token with id v·F + f. Each id has its own centre and scale,

    z = (y − loc)/scale,   or asinh-compressed where its simulations have heavy tails (`whiten.Standardise`),

so that features of different units do not drown each other.

On disk an estimator is a directory as in `model_file.py`, safetensors and JSON: nothing executes on load.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fsimformer.card import read_network, require_size
from fsimformer.denoise import Denoiser
from fsimformer.folder import (
    CARD,
    damage_named,
    fill,
    one_model,
    read_json,
    read_weights,
    require_free,
    require_keys,
    write_folder,
)
from fsimformer.nn import Network
from fsimformer.sbi.mask_laws import eliminate, read_mask
from fsimformer.tokens import TokenBatch, TokenSet
from fsimformer.typed import require_types
from fsimformer.whiten import Standardise, fit_standardise, read_standardise

FORMAT = "sbi 1"
FARTHEST = 1e15
"""Whitened: from some 1e20 on what a network multiplies overflows single precision, and answers are NaN."""
_SINGLE = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Columns:
    """The flat columns of inputs (N, T, F): `n_variables` T, `n_features` F, one `Standardise` an id.

    Args:
        value_range: of each id the 0.0005 and 0.9995 quantile of the simulations; () = not known.
        gaps: of each id, did some simulation lack it? () = not known.
        constants: of each id, had all simulations the same value? Such a feature is no token: there is nothing to learn
            of it, and drawn it is what it always was. () = none.
    """

    n_variables: int
    n_features: int
    standardise: tuple[Standardise, ...]
    value_range: tuple[tuple[float, float], ...] = ()
    gaps: tuple[bool, ...] = ()
    constants: tuple[bool, ...] = ()

    @classmethod
    def fit(cls, inputs: Tensor, held_out: Tensor | None = None) -> Columns:
        """Fit to simulations (N, T, F), NaN where missing.

        Args:
            held_out: simulations in which a constant must be the same, of which nothing else is taken.

        Raises:
            ValueError: a feature without a single value.

        Warns:
            UserWarning: features that vary by less than a thousand steps of single precision about their mean.
        """
        _, t, f = inputs.shape
        absent = ~torch.isfinite(inputs).any(0)
        if absent.any():
            raise ValueError(
                f"Simulations: no row has a value of (variable, feature) {absent.nonzero().tolist()[:5]}; expected one."
            )
        columns = inputs.flatten(1).unbind(1)
        ends = torch.tensor([0.0005, 0.9995], dtype=torch.float64)
        few = max(1, len(inputs) // 1_000_000)  # torch.nanquantile is limited to 16 M entries
        ranges = [torch.nanquantile(column[::few].double(), ends).tolist() for column in columns]
        gaps = torch.isnan(inputs).any(0).flatten().tolist()
        every = inputs if held_out is None else torch.cat([inputs, held_out])
        constants = tuple(map(_is_constant, every.flatten(1).unbind(1)))
        standardise = tuple(
            Standardise(float(column[torch.isfinite(column)][0]), 1.0) if constant else fit_standardise(column)
            for column, constant in zip(columns, constants, strict=True)
        )
        out = cls(t, f, standardise, tuple((low, high) for low, high in ranges), tuple(gaps), constants)
        for coarse in out.coarse(torch.arange(t * f)):
            warnings.warn(coarse, UserWarning, stacklevel=3)
        return out

    def name(self, i: int) -> tuple[int, int]:
        """(variable, feature) of an id."""
        return divmod(i, self.n_features)

    def coarse(self, ids: Tensor) -> list[str]:
        """Which of these features vary by less than a thousand steps of single precision about their mean, in words."""
        out = []
        for i in ids[~self.constant[ids]].tolist():
            s = self.standardise[i]
            step = max(_SINGLE.eps * abs(s.loc), _SINGLE.tiny)
            if s.scale < 1_000 * step:
                out.append(
                    f"(variable, feature) {self.name(i)} varies by {s.scale:.3g} about {s.loc:.9g}: single precision, "
                    "in which draws come back, tells few values apart there; subtract an offset first, or rescale."
                )
        return out

    @property
    def constant(self) -> Tensor:
        """(ids,) bool: `constants`."""
        return torch.tensor(self.constants or (False,) * len(self.standardise))

    @property
    def varies(self) -> Tensor:
        """(T, F) bool: which features are tokens."""
        return ~self.constant.view(self.n_variables, self.n_features)

    def new_gaps(self, ids: Tensor, x: Tensor) -> Tensor:
        """What is NaN in observations (…, k) of these ids and was in no simulation, bool; False where nobody knows."""
        known = torch.tensor(self.gaps)[ids] if self.gaps else torch.ones(len(ids), dtype=torch.bool)
        return torch.isnan(x) & ~known & ~self.constant[ids]

    def doubts(self, ids: Tensor, x: Tensor, density: bool = False) -> list[str]:
        """What training knows little of in observations (B, k) of these ids, in words.

        Observations without a value; values outside `value_range` by more than its width; of a density, gaps that no
        simulation had: a network that never met one has not learned to leave the value out.
        """
        out, there, constant = [], torch.isfinite(x), self.constant[ids]
        names = [self.name(i) for i in ids.tolist()]
        if len(ids) and (n := int((~there | constant).all(1).sum())):
            which = " of a feature that varies" if constant.any() else ""
            out.append(f"x: {n} of {len(x)} observations have no finite value{which}; what follows is the prior.")
        if len(ids) and self.value_range:
            low, high = torch.tensor(self.value_range, dtype=torch.float64)[ids].unbind(1)
            step = 2 * _SINGLE.eps * torch.maximum(low.abs(), high.abs()) * constant  # has no width of its own
            far = there & ((x < low - (high - low) - step) | (x > high + (high - low) + step))
            for row, k in far.nonzero()[:1].tolist():
                out.append(
                    f"x: {int(far.sum())} of {int(there.sum())} values lie outside what training saw, by more than the "
                    f"width of its range; the first is {float(x[row, k]):.6g} of (variable, feature) {names[k]}, "
                    f"{float(low[k]):.3g} to {float(high[k]):.3g} there. Are the units those of the simulations?"
                )
        if density and (new := [names[k] for k in self.new_gaps(ids, x).any(0).nonzero()[:, 0].tolist()]):
            out.append(
                f"x: no simulation lacked (variable, feature) {new}, as these observations do: a density without it "
                "was not trained (draws take it along as latent). Let simulations have such gaps, NaN."
            )
        return out

    def ids(self, variables: Tensor) -> Tensor:
        """(T,) bool of variables -> token ids of their features, in order."""
        return variables.repeat_interleave(self.n_features).nonzero()[:, 0]

    def whiten(self, y: Tensor, ids: Tensor) -> Tensor:
        """Values (…, k) of these ids (k,) -> z."""
        return self._each(y, ids, Standardise.forward)

    def require_near(self, ids: Tensor, x: Tensor) -> None:
        """Observations (B, k) of these ids lie where a network in single precision can take them.

        Raises:
            ValueError: one does not.
        """
        z = self.whiten(x, ids)
        for row, k in (z.abs() > FARTHEST).nonzero()[:1].tolist():
            raise ValueError(
                f"x: {float(x[row, k]):.6g} of (variable, feature) {self.name(int(ids[k]))}, observation {row}, lies "
                f"{float(z[row, k].abs()):.2g} of its scales from the simulations; expected at most {FARTHEST:g}. Are "
                "the units those of the simulations?"
            )

    def unwhiten(self, z: Tensor, ids: Tensor) -> Tensor:
        """z (…, k) of these ids (k,) -> values."""
        return self._each(z, ids, Standardise.inverse)

    def log_det(self, z: Tensor, ids: Tensor) -> Tensor:
        """log |dy/dz| summed over the ids, (…, k) -> (…)."""
        return self._each(z, ids, Standardise.log_det).sum(-1)

    def _each(self, x: Tensor, ids: Tensor, function: Callable[[Standardise, Tensor], Tensor]) -> Tensor:
        if not len(ids):
            return x
        return torch.stack([function(self.standardise[i], x[..., k]) for k, i in enumerate(ids.tolist())], dim=-1)

    def batch(self, inputs: Tensor, condition: Tensor, edges: Tensor | None) -> TokenBatch:
        """Rows of the network from simulations (n, T, F); what is NaN there is no token, its neighbours are joined.

        A constant is no token either, but it is known and parts what it stands between: nobody is joined.

        Args:
            condition: (n, T) bool. edges: (n, n_ids, n_ids) bool or None.
        """
        z = self.whiten(inputs.flatten(1).double(), torch.arange(len(self.standardise))).float()
        finite, varies = torch.isfinite(z), ~self.constant
        missing, there = ~finite & varies, finite & varies
        n, d = z.shape
        return TokenBatch(
            torch.arange(d).expand(n, d),
            torch.zeros(n, d, 0),
            torch.where(there, z, 0.0),
            condition.repeat_interleave(self.n_features, 1),
            there,
            edges=None if edges is None else eliminate(edges, missing),
        )

    def tokens(self, ids: Tensor, values: Tensor | None) -> TokenSet:
        """One row of scalar tokens: observed ones with values (k,), NaN left out, or latent ones without."""
        if values is None:
            z, observed = torch.zeros(len(ids)), False
        else:
            there = torch.isfinite(values) & ~self.constant[ids]
            ids, values, observed = ids[there], values[there], True
            z = self.whiten(values.double(), ids).float()
        return TokenSet(ids, torch.zeros(len(ids), 0), z, torch.full((len(ids),), observed))


@dataclass(frozen=True, repr=False)
class Estimator:
    """A trained network with its columns.

    Args:
        edge_mask: (T, T), that of training, if it was a fixed one.
        condition_masks, edge_masks: those of training, (K, T) and (K, T, T), each once; K = 0 where a callable made
            them; None = the default, or an estimator that was saved before they were kept.
    """

    denoiser: Denoiser
    schedule: str
    columns: Columns
    edge_mask: Tensor | None = None
    condition_masks: Tensor | None = None
    edge_masks: Tensor | None = None

    def __repr__(self) -> str:
        """`Estimator(3 variables × 2 features, 82433 weights)`."""
        n, of = sum(p.numel() for p in self.denoiser.parameters()), self.columns
        return f"Estimator({of.n_variables} variables × {of.n_features} features, {n} weights)"

    def save(self, path: str | Path) -> None:
        """Write a directory that `load` reads; a model there is replaced.

        Raises:
            FileExistsError: the path exists and is no model, or holds something besides.
        """
        path = Path(path)
        require_free(path)
        card = {
            "format": FORMAT,
            "schedule": self.schedule,
            "columns": asdict(self.columns),
            **{name: None if mask is None else mask.int().tolist() for name, mask in self._masks().items()},
            "network": asdict(self.denoiser.network.config),
        }
        write_folder(path, card, self.denoiser)

    def _masks(self) -> dict[str, Tensor | None]:
        return {"edge_mask": self.edge_mask, "condition_masks": self.condition_masks, "edge_masks": self.edge_masks}


def load(path: str | Path) -> Estimator:
    """An estimator that was saved, on the CPU, for `build_conditional(…, mvf_estimator=…)`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: damaged files, another format, unknown keys, weights that do not fit.
    """
    path = Path(path)
    with one_model(path):
        card, weights = read_json(path), read_weights(path)
    found = card.get("format") if isinstance(card, dict) else type(card).__name__
    if found != FORMAT:
        raise ValueError(
            f"{path / CARD}: expected format {FORMAT!r}, got {found!r}; fsimformer.load reads models of a schema."
        )
    with damage_named(path):
        return _read(card, weights, path)


def _read(card: dict[str, Any], weights: dict[str, Tensor], path: Path) -> Estimator:
    card = {"condition_masks": None, "edge_masks": None, **card}  # estimators were saved without them at first
    require_keys(path, card, {"format", "schedule", "columns", "edge_mask", "condition_masks", "edge_masks", "network"})
    if isinstance(card["columns"], dict):
        card["columns"] = {"constants": [], **card["columns"]}
    require_keys(path, card["columns"], {f.name for f in fields(Columns)})
    for one in card["columns"]["standardise"]:
        require_keys(path, one, {f.name for f in fields(Standardise)})
    held = dict(card["columns"])
    require_types(f"{path / CARD}: columns", Columns, held)
    held["standardise"] = tuple(read_standardise(f"column {i}", one) for i, one in enumerate(held["standardise"]))
    held["value_range"] = tuple((float(low), float(high)) for low, high in held["value_range"])
    held |= {name: tuple(bool(x) for x in held[name]) for name in ("gaps", "constants")}
    columns, network = Columns(**held), read_network(card["network"], path)
    t, d = columns.n_variables, columns.n_variables * columns.n_features
    sizes = {"standardise": len(columns.standardise), "uses_index": len(network.uses_index)}
    sizes |= {name: len(held[name]) for name in ("value_range", "gaps", "constants") if held[name]}
    if set(sizes.values()) != {d}:
        raise ValueError(f"{path / CARD}: expected {d} entries for {t} variables, got {sizes}.")
    require_size(network, weights, path)
    edges = card["edge_mask"]
    edges = None if edges is None else read_mask(f"{path / CARD}: edge_mask", edges, (t, t))
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from the global generator
        denoiser = Denoiser(Network(network), card["schedule"])
    fill(denoiser, weights, path)
    where = f"{path / CARD}: "
    trained = _read_list(f"{where}condition_masks", card["condition_masks"], (t,))
    graphs = _read_list(f"{where}edge_masks", card["edge_masks"], (t, t))
    return Estimator(denoiser.eval(), card["schedule"], columns, edges, trained, graphs)


def _read_list(where: str, held: Any, shape: tuple[int, ...]) -> Tensor | None:
    if held is None:
        return None
    if not isinstance(held, list):
        raise ValueError(f"{where}: expected a list of masks or null, got {held!r}.")
    return read_mask(where, held, (len(held), *shape)) if held else torch.zeros(0, *shape, dtype=torch.bool)


def _is_constant(column: Tensor) -> bool:
    """Do its finite values differ by no more than sums of equal terms do?"""
    x = column[torch.isfinite(column)]
    return bool(x.max() - x.min() <= 16 * torch.finfo(torch.float64).eps * x.abs().max())


def flat(where: str, given: object, n: int, n_variables: int, n_features: int, batched: bool) -> Tensor:
    """Values of some variables as (B, n), n = n_variables · n_features, in double precision.

    Args:
        given: (n,) or (n_variables, F); (B, n) or (B, n_variables, F) for B of them.
        batched: is the first dim a batch? Otherwise it must be absent or 1.

    Raises:
        TypeError, ValueError: what is no numbers; another shape; infinite values.
    """
    try:
        x = torch.as_tensor(given).detach().double().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{where}: expected a tensor, got {type(given).__name__}.") from error
    full: Sequence[int] = (n_variables, n_features)
    if not batched and (tuple(x.shape) in {(n,), tuple(full)}):
        x = x.reshape(1, n)
    elif tuple(x.shape[1:]) in {(n,), tuple(full)} and (batched or x.shape[0] == 1):
        x = x.reshape(-1, n)
    else:
        b = "B" if batched else "1"
        shapes = [] if batched else [f"({n},)", str(tuple(full))]
        shapes += [f"({b}, {n})", f"({b}, {n_variables}, {n_features})"]
        many = "; several go to sample_batched and log_prob_batched" if not batched and x.dim() > 1 else ""
        raise ValueError(
            f"{where}: expected {' or '.join(dict.fromkeys(shapes))}, for {n_variables} variables of {n_features} "
            f"features{many}, got shape {tuple(x.shape)}."
        )
    if torch.isinf(x).any():
        raise ValueError(f"{where}: expected finite numbers, or NaN where a value is missing; got infinite ones.")
    return x
