"""A trained model on disk: a directory with `weights.safetensors` and `model.json`. Nothing executes on load.

`model.json` holds the format's version, the schema, what whitening fitted, every config and the provenance; an unknown
key raises. The directory is written beside its place and moved there whole: a reader never sees half a model.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fsimformer.card import read_network, read_spread, require_factors, require_size
from fsimformer.denoise import Denoiser
from fsimformer.digest import digest
from fsimformer.embeddings import build_embeddings, fingerprints, require_fingerprints, require_shapes
from fsimformer.flow_map import FLOW_MAP, log_ratios, require_levels
from fsimformer.folder import (
    CARD,
    damage_named,
    fill,
    left_aside,
    one_model,
    read_json,
    read_weights,
    require_free,
    require_keys,
    write_folder,
)
from fsimformer.functions import ReferenceSet
from fsimformer.gaussian import empty_factors
from fsimformer.graph import moral_graph, past_only, truncated_graph
from fsimformer.nn import Network, NetworkConfig
from fsimformer.schema import Schema
from fsimformer.tokens import Dial, require_dial
from fsimformer.typical import Typical, n_implied, n_layout
from fsimformer.whiten import Whitening

NETWORK = "network"  # attribute of a tree of draws: fingerprint of the network that drew them
MODELS = Path(__file__).parent / "models"
FORMAT = 2
TRUNCATED = 3  # format 2 and `refined_for`: a reader that knows nothing of it must not take the model for amortised
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # a function's repr must not differ between processes


@dataclass(frozen=True)
class Model:
    """Everything that a trained joint distribution is made of.

    Args:
        schedule: name of the schedule that training weighted.
        dependency: "dense", "undirected" or "causal", the attention mask the network was trained with.
        n_active_observed: the dial that sampling uses by default (design.md, D1; `tokens.split`).
        max_readings: readings a function had at most in training, by variable name.
        max_latents: latents a row had at most in training.
        value_range: data variable -> lowest and highest reading that training observed: what the simulator calls
            plausible, else all but one reading in a thousand.
        plausible: names of the former; not one reading outside was observed.
        spread: function with a reference set -> what the spline through its knots misses, one a component.
        refined_for: the readings (`points.readings_of`) around which sequential training truncated the prior; None =
            amortised.
        typical: what simulated observations are like to the network; None = unknown.

    Of an array variable "reading" means any of its values.
    """

    schema: Schema
    whitening: Whitening
    denoiser: Denoiser
    schedule: str
    dependency: str
    n_active_observed: Dial
    max_readings: dict[str, int]
    max_latents: int
    value_range: dict[str, tuple[float, float]]
    plausible: tuple[str, ...]
    provenance: dict[str, Any]
    refined_for: dict[str, dict[str, list[Any]]] | None = None
    spread: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    typical: Typical | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits of a hash of the weights and of the whitening: whose draws these are.

        Not of a flow map's weights: densities, and functions between knots, are those of the network it was made of.
        Computed once: a Model's weights do not change; who trains on takes a copy of its denoiser.
        """
        whitening = json.dumps(self.whitening.to_dict(), sort_keys=True).encode()
        own = {k: v for k, v in self.denoiser.state_dict().items() if not k.startswith(f"{FLOW_MAP}.")}
        return digest(own, whitening)[:16]

    @cached_property
    def flow_map_fingerprint(self) -> str | None:
        """The same of the flow map's weights alone; None where there is none."""
        own = self.denoiser.flow_map
        return None if own is None else digest(own.state_dict())[:16]

    def references(self, names: Collection[str]) -> tuple[ReferenceSet, ...]:
        """The reference sets of these functions, one a component; none of those without."""
        schema, out = self.schema, list[ReferenceSet]()
        columns = [i.name for i in schema.indexes]
        for name in (n for n in schema.references if n in names):
            dims = tuple(columns.index(d) for d in schema.index_dims(name))
            ids = zip(schema.ids(name), schema.residual_ids(name), self.spread[name], strict=True)
            out += [ReferenceSet(id, residual, dims, schema[name].reference, s) for id, residual, s in ids]
        return tuple(out)


class Trained(Protocol):
    """What has a model: a `Joint`, below which functions are written that become methods of it."""

    @property
    def model(self) -> Model: ...


def find_model(name: str | Path) -> Path:
    """The directory of a model that ships, by name, or of one that was saved; see `load`.

    Raises:
        FileNotFoundError: neither; the message lists the models that ship.
    """
    bare = isinstance(name, str) and Path(name).name == name
    if bare and (MODELS / name / "model.json").is_file():
        return MODELS / name
    if not Path(name).exists():
        names = sorted(p.name for p in MODELS.iterdir() if (p / "model.json").is_file()) if MODELS.is_dir() else []
        raise FileNotFoundError(
            f"No model named {str(name)!r}, and no such directory.{left_aside(Path(name))} Models that ship: {names}."
        )
    return Path(name)


def build_denoiser(
    schema: Schema,
    network: NetworkConfig,
    schedule: str,
    dependency: str,
    embeddings: Mapping[str, nn.Module] | None = None,
    truncated: bool = False,
    baseline: bool = False,
    jumps: bool = False,
) -> Denoiser:
    """An untrained denoiser for a schema; `embeddings`: array variable -> module that embeds it.

    `truncated`: its prior is truncated, as sequential training does. `baseline`: it will have a linear one. `jumps`: it
    is told to which noise level it leads, as a flow map is.

    Raises:
        ValueError: unknown schedule or dependency; embeddings that do not fit the schema's array variables; `inducing`
            with a dependency mask, with arrays, or without a function.
    """
    if dependency not in ("dense", "undirected", "causal"):
        raise ValueError(f"Unknown dependency mask {dependency!r}. Choices: 'dense', 'undirected', 'causal'.")
    if network.inducing:
        _require_compressible(schema, network, dependency)
    if schema.references and dependency != "dense":
        raise ValueError(f"dependency {dependency!r}: with reference sets ({list(schema.references)}) only 'dense'.")
    graph = truncated_graph if truncated else moral_graph
    mask = None if dependency == "dense" else torch.from_numpy(graph(schema))
    if schema.references:  # what lies between knots is solved point by point, and nobody sees it
        mask = torch.ones(schema.n_ids, schema.n_ids, dtype=torch.bool)
        mask[:, [i for name in schema.references for i in schema.residual_ids(name)]] = False
    past = torch.from_numpy(past_only(schema)) if dependency == "causal" and schema.indexes else None
    net = Network(network, 2 if baseline else 1, jumps)
    return Denoiser(net, schedule, mask, build_embeddings(schema, network.width, embeddings), past)


def _require_compressible(schema: Schema, network: NetworkConfig, dependency: str) -> None:
    """Long observations of this schema can be compressed (summary.py)."""
    where = f"NetworkConfig: inducing {network.inducing}"
    if dependency != "dense":
        raise ValueError(
            f"{where} with dependency {dependency!r}: a summary of readings would see past the mask. Choices: "
            "dependency='dense', or inducing=0."
        )
    if schema.arrays:
        raise ValueError(
            f"{where} with the array variables {list(schema.arrays)}: their tokens are no readings, and models with "
            "arrays are not compressed. Choices: inducing=0."
        )


def plain(obj: Any) -> Any:
    """A simulator's settings as JSON types, for the card; what is no plain value is described by its repr."""
    if is_dataclass(obj) and not isinstance(obj, type):
        return {f.name: plain(getattr(obj, f.name)) for f in fields(obj) if not f.name.startswith("_")}
    if isinstance(obj, Mapping):
        return {str(k): plain(v) for k, v in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(v) for v in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return repr(obj)  # JSON has no infinity
    if hasattr(obj, "__qualname__"):  # a function or a class: its repr would hold its own settings again
        return f"{obj.__module__}.{obj.__qualname__}"
    return obj if isinstance(obj, str | int | float | bool | None) else _ADDRESS.sub("", repr(obj))[:200]


def save_model(model: Model, path: str | Path) -> None:
    """Write a model's directory; an existing model there is replaced, anything else is refused.

    Raises:
        FileExistsError: the path exists and is no model, or holds something besides.
    """
    path = Path(path)
    require_free(path)
    card = {
        "format": FORMAT if model.refined_for is None else TRUNCATED,
        "schema": model.schema.to_dict(),
        "whitening": model.whitening.to_dict(),
        "network": asdict(model.denoiser.network.config),
        "schedule": model.schedule,
        "dependency": model.dependency,
        "n_active_observed": model.n_active_observed,
        "max_readings": model.max_readings,
        "max_latents": model.max_latents,
        "value_range": model.value_range,
        "plausible": list(model.plausible),
        "provenance": model.provenance,
    }
    if model.denoiser.embeddings is not None:
        card["embeddings"] = fingerprints(model.schema, model.denoiser.embeddings)
    if model.refined_for is not None:
        card["refined_for"] = model.refined_for
    if model.denoiser.baseline is not None:
        card["baseline"] = model.denoiser.baseline.shape()
    if model.denoiser.flow_map is not None:
        card["flow_map"] = log_ratios().tolist()
    if model.spread:
        card["spread"] = {name: [s.tolist() for s in parts] for name, parts in model.spread.items()}
    if model.typical is not None:
        card["typical"] = model.typical.to_dict()
    write_folder(path, card, model.denoiser)


def read_card(path: str | Path) -> tuple[Schema, dict[str, Any]]:
    """The schema and the whole `model.json` of a model's directory; needs neither its weights nor its modules.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: a damaged one, another format, unknown keys.
    """
    path = Path(path)
    card = read_json(path)
    with damage_named(path):
        _check_card(card, path)
        return Schema.from_dict(card["schema"]), card


def load_model(path: str | Path, embeddings: Mapping[str, nn.Module] | None = None) -> Model:
    """Read a model's directory; `embeddings` as in training, where the model has array variables.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: a damaged file, another format, unknown keys, weights that do not fit; embeddings that are absent,
            that nobody asked for, or that are not those of training.
    """
    path = Path(path)
    with one_model(path):
        schema, card = read_card(path)
        weights = read_weights(path)
    with damage_named(path):
        return _read(schema, card, weights, path, embeddings)


def _read(
    schema: Schema,
    card: dict[str, Any],
    weights: dict[str, Tensor],
    path: Path,
    embeddings: Mapping[str, nn.Module] | None,
) -> Model:
    network = read_network(card["network"], path)
    require_size(network, weights, path)
    whitening = Whitening.from_dict(schema, card["whitening"])
    if len(network.uses_index) != schema.n_ids or network.uses_index != tuple(
        tuple(bool(x) for x in row) for row in schema.uses_index()
    ):
        raise ValueError(f"{path / CARD}: the network's uses_index is not that of the schema.")
    with torch.random.fork_rng(devices=[]):  # torch's initialisers draw from the global generator
        truncated = card.get("refined_for") is not None
        settings = schema, network, card["schedule"], card["dependency"], embeddings, truncated, "baseline" in card
        denoiser = build_denoiser(*settings)
        denoiser.flow_map = build_denoiser(*settings, jumps=True) if "flow_map" in card else None
    require_levels(card.get("flow_map"), f"{path / CARD}: flow_map")
    if "baseline" in card:
        require_factors(schema, card["baseline"], weights, path)
        denoiser.baseline = empty_factors(schema.n_ids, **card["baseline"])
        if denoiser.flow_map is not None:
            denoiser.flow_map.baseline = denoiser.baseline  # one and the same: it has not been trained
    if denoiser.embeddings is not None:
        own = {k.removeprefix("embeddings."): x for k, x in weights.items() if k.startswith("embeddings.")}
        require_shapes(schema, denoiser.embeddings, own)
    fill(denoiser, weights, path)
    if denoiser.embeddings is not None:
        require_fingerprints(schema, denoiser.embeddings, card["embeddings"])
    return Model(
        schema,
        whitening,
        denoiser.eval(),
        card["schedule"],
        card["dependency"],
        card["n_active_observed"],
        card["max_readings"],
        card["max_latents"],
        {k: (float(lower), float(upper)) for k, (lower, upper) in card["value_range"].items()},
        tuple(card["plausible"]),
        card["provenance"],
        card.get("refined_for"),
        read_spread(schema, card.get("spread", {}), path),
        _read_typical(schema, card.get("typical"), path),
    )


def _read_typical(schema: Schema, held: Any, path: Path) -> Typical | None:
    if held is None:
        return None
    if isinstance(held, dict) and "counts" in held:  # before simulations were told apart by their places
        text = "its table of typical data is an older version's; observations are not judged. Train anew for one."
        warnings.warn(f"{path / CARD}: {text}", stacklevel=4)
        return None
    try:
        typical = Typical.from_dict(held)
    except ValueError as error:
        raise ValueError(f"{path / CARD}: {error}") from error
    if typical.layout.shape[1] != (k := n_layout(schema)):
        raise ValueError(
            f"{path / CARD}: expected a layout of {k} numbers of each data set in typical, got "
            f"{typical.layout.shape[1]}."
        )
    if typical.implied.shape[1] != (n := n_implied(schema)):
        raise ValueError(
            f"{path / CARD}: expected {n} implied parameters of each data set in typical, got "
            f"{typical.implied.shape[1]}."
        )
    return typical


def _check_card(card: Any, path: Path) -> None:
    optional = {"denoiser", "refined_for", "spread", "typical"}
    expected = {"format", "network"} | {f.name for f in fields(Model)} - optional
    if not isinstance(card, dict) or card.get("format") not in (FORMAT, TRUNCATED):
        found = card.get("format") if isinstance(card, dict) else type(card).__name__
        hint = "; it was saved by fsimformer.sbi: read it with fsimformer.sbi.load" if "sbi" in str(found) else ""
        raise ValueError(f"{path / CARD}: expected format {FORMAT} or {TRUNCATED}, got {found!r}{hint}.")
    # with arrays, with a linear baseline, distilled, with a table of what simulations look like
    expected |= {"embeddings", "baseline", "flow_map", "typical"} & set(card)
    expected |= {"refined_for"} if card["format"] == TRUNCATED else set()
    with_knots = [v["name"] for v in card["schema"]["variables"] if v.get("reference")]
    expected |= {"spread"} if with_knots else set()
    require_keys(path, card, expected)
    if not isinstance(card["provenance"], dict):
        raise ValueError(f"{path / CARD}: expected provenance as an object, got {type(card['provenance']).__name__}.")
    latents, readings = card["max_latents"], card["max_readings"]
    if not all(isinstance(n, int) and n >= 0 for n in (latents - 1, *readings.values())):
        raise ValueError(f"{path / CARD}: expected counts in max_latents and max_readings, got {latents}, {readings}.")
    names = {v["name"] for v in card["schema"]["variables"]}
    ranges = card["value_range"]
    if sorted(card.get("spread", {})) != sorted(with_knots):
        raise ValueError(f"{path / CARD}: expected spread of {with_knots}, got {list(card.get('spread', {}))}.")
    sound = all(len(ends) == 2 and float(ends[0]) <= float(ends[1]) for ends in ranges.values())
    if not {*ranges, *card["plausible"]} <= names or not sound:
        raise ValueError(f"{path / CARD}: expected value_range as name -> two ends, of {sorted(names)}, got {ranges}.")
    if not all(
        name in names and set(held) == {"component", "index", "value"} and len({*map(len, held.values())}) == 1
        for name, held in card.get("refined_for", {}).items()
    ):
        raise ValueError(f"{path / CARD}: expected refined_for as data variable -> component, index, value.")
    try:
        require_dial(card["n_active_observed"])
    except ValueError as error:
        raise ValueError(f"{path / CARD}: {error}") from error
