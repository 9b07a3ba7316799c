"""What a training was asked for, checked and completed: by the schema, and by the Joint that it goes on from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from fsimformer.joint import DEFAULT_DIAL, Joint
from fsimformer.moments import MAX_DIMS
from fsimformer.nn import NetworkConfig
from fsimformer.readings import Design
from fsimformer.schema import Schema
from fsimformer.simulations import default_design
from fsimformer.tokens import Dial, require_dial
from fsimformer.train import TrainConfig


@dataclass(frozen=True)
class TrainPlan:
    """Make it with `of`.

    Args:
        design: how many readings each of `series` has in a row; these are names, those of components several times.
        scalar: (n_ids,) bool, ids without an index, arrays apart.
        baseline: whether the network is told a linear baseline.
    """

    schema: Schema
    network: NetworkConfig
    design: Design
    series: tuple[str, ...]
    scalar: torch.Tensor
    schedule: str
    dependency: str
    dial: Dial
    baseline: bool

    @classmethod
    def of(
        cls,
        schema: Schema,
        config: TrainConfig,
        network: NetworkConfig | None,
        design: Design | None,
        schedule: str | None,
        dependency: str | None,
        n_active_observed: int | str | None,
        baseline: bool | None,
        initial: Joint | None,
    ) -> TrainPlan:
        """Arguments as of `learn.train`.

        Raises:
            ValueError: a design for another number of series; rows that cannot hold what is drawn together; a baseline
                of functions of more than three index dims, or asked for or ruled out beside an `initial`; an `initial`
                of another schema, network, schedule or dependency.
        """
        design = design or default_design(schema)
        series = tuple(v.name for v in schema.variables if schema.is_function(v.name) for _ in schema.ids(v.name))
        if len(design.n_max) != len(series):
            raise ValueError(f"Design: expected n_max for each of the series {list(series)}, got {design.n_max}.")
        uses_index = schema.uses_index()
        start = (NetworkConfig(), "trig", "dense", "few") if initial is None else _settings(initial)
        network = replace(network or start[0], uses_index=tuple(map(tuple, uses_index.tolist())))
        if network.inducing:
            most = sum(design.n_max) if initial is None else start[0].most_readings
            network = replace(network, most_readings=most)
        schedule, dependency = schedule or start[1], dependency or start[2]
        dial = require_dial(start[3] if n_active_observed == DEFAULT_DIAL else n_active_observed)
        scalar = torch.from_numpy(~uses_index.any(axis=1))
        scalar[[id for name in schema.arrays for id in schema.ids(name)]] = False
        _require_room(schema, scalar, config.max_latents, dependency)
        baseline = _has_baseline(baseline, initial, schema, dependency)
        if initial is not None:
            _require_same(initial, schema, network, schedule, dependency)
        return cls(schema, network, design, series, scalar, schedule, dependency, dial, baseline)

    @property
    def max_readings(self) -> dict[str, int]:
        """Series -> most readings in a row, of all components."""
        out = dict.fromkeys(self.series, 0)
        for name, n_max in zip(self.series, self.design.n_max, strict=True):
            out[name] += n_max
        return out


def _require_room(schema: Schema, scalar: torch.Tensor, max_latents: int, dependency: str) -> None:
    """A row can hold all scalars and the largest reference set as latents."""
    most = int(scalar.sum()) + max((math.prod(schema[name].reference) for name in schema.references), default=0)
    for name in schema.references:
        n = int(scalar.sum()) + math.prod(schema[name].reference)
        if n > max_latents:
            raise ValueError(
                f"TrainConfig: max_latents {max_latents} is less than the {n} latents of all scalars and the reference "
                f"set of {name!r}; a draw of it solves them together. Pass config=TrainConfig(max_latents={most}), or "
                "give it fewer points, reference=."
            )
    if dependency != "dense" and int(scalar.sum()) > max_latents:
        raise ValueError(
            f"TrainConfig: max_latents {max_latents} would lose some of the {int(scalar.sum())} scalars that a "
            f"{dependency!r} mask relies on. Pass config=TrainConfig(max_latents={int(scalar.sum())}) or more."
        )


def _has_baseline(asked: bool | None, initial: Joint | None, schema: Schema, dependency: str) -> bool:
    """Whether the network is told a linear baseline: as asked, else where a parameter is a function, nothing is masked,
    and tables can hold every function."""
    if asked is not None and not isinstance(asked, bool):
        raise ValueError(f"train: expected baseline True, False or None (where it pays), got {asked!r}.")
    functions = [v for v in schema.variables if schema.is_function(v.name)]
    large = [v.name for v in functions if len(schema.index_dims(v.name)) > MAX_DIMS]
    if initial is not None:
        if asked is not None:
            raise ValueError(
                "train: an `initial` Joint brings its baseline with it, or has none; choices: leave `baseline` out "
                "(None), or train anew with it."
            )
        return initial.model.denoiser.baseline is not None
    if asked and large:
        raise ValueError(
            f"train: a baseline holds functions of at most {MAX_DIMS} index dims, {large} have more; choices: "
            "baseline=False or None."
        )
    functional = any(v.role == "parameter" for v in functions)
    return functional and dependency == "dense" and not large if asked is None else asked


def _settings(initial: Joint) -> tuple[NetworkConfig, str, str, Dial]:
    model = initial.model
    return model.denoiser.network.config, model.schedule, model.dependency, model.n_active_observed


def _require_same(initial: Joint, schema: Schema, network: NetworkConfig, schedule: str, dependency: str) -> None:
    """`initial` can be trained on as asked."""
    have = initial.model.schema
    if have != schema:
        names = sorted({v.name for v in {*have.variables} ^ {*schema.variables}} | {*have.names} ^ {*schema.names})
        raise ValueError(f"initial: expected a Joint with the same schema; variables {names} or index dims differ.")
    for what, a, b in zip(("network", "schedule", "dependency"), _settings(initial), (network, schedule, dependency)):
        if a != b:
            raise ValueError(f"initial: expected a Joint with the same {what}, {b}; got {a}.")
