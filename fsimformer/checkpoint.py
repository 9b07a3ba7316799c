"""The state of a training run, and its file: safetensors with JSON metadata, written beside and moved into place."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fsimformer.beside import replaced
from fsimformer.damage import DAMAGE

_MOMENTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # what AdamW and Muon keep of a parameter

_NUMBERS = (
    "step", "best_loss", "best_step", "gain_loss", "gain_step", "turn", "history", "recent", "cpu_seconds",
)  # fmt: skip


@dataclass
class Run:
    """State of a run; `best` holds the averaged weights of the lowest validation loss. What `fit` returns has in their
    place those that it keeps; a file never has."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    gain_loss: float = math.inf  # validation loss of the last gain that counts against patience, and its step
    gain_step: int = 0
    turn: int | None = None  # step at which patience ran out and the cool-down began, or the baseline was told
    history: list[tuple[int, float, float]] = field(default_factory=list)  # step, mean training loss, validation loss
    recent: list[float] = field(default_factory=list)  # training losses since the last validation
    cpu_seconds: float = 0.0  # of all processes that worked on the run
    ema: dict[str, Tensor] = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)


class Stateful(Protocol):
    """Rows that remember which they have given."""

    def tensors(self) -> dict[str, Tensor]: ...
    def load(self, tensors: Mapping[str, Tensor], /) -> None: ...


def save_checkpoint(
    path: Path,
    run: Run,
    parameters: dict[str, torch.nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Mapping[str, Any],
    rows: Mapping[str, Tensor] | None = None,
) -> None:
    """Weights, averages, best weights, the optimizers' moments and the state of the rows; atomic."""
    tensors: dict[str, Tensor] = {f"rows/{k}": x for k, x in (rows or {}).items()}
    for k, p in parameters.items():
        tensors[f"model/{k}"], tensors[f"ema/{k}"] = p.detach(), run.ema[k]
        if run.best:
            tensors[f"best/{k}"] = run.best[k]
        for optimizer in optimizers:
            for name, value in optimizer.state.get(p, {}).items():
                tensors[f"{type(optimizer).__name__}/{name}/{k}"] = value
    meta = {k: getattr(run, k) for k in _NUMBERS}
    text = json.dumps({"run": meta, "settings": settings})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as part:
        save_file({k: v.contiguous() for k, v in tensors.items()}, part, metadata={"fsimformer": text})


def load_checkpoint(
    path: Path,
    run: Run,
    parameters: dict[str, torch.nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    settings: Mapping[str, Any],
    rows: Stateful | None = None,
) -> None:
    """Fill run, parameters, optimizers and the state of the rows from a checkpoint.

    Raises:
        ValueError: it was written under other settings, by another version, or is damaged; nothing is filled then.
    """
    meta, tensors = _read(path)
    wanted, found = _flat(settings), _flat(meta["settings"])
    if changed := sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k)):
        raise ValueError(f"Checkpoint {path}: written with other settings of {changed}; resume needs the same.")
    _require_fits(path, meta["run"], tensors, parameters)
    with torch.no_grad():
        for k, p in parameters.items():
            p.copy_(tensors[f"model/{k}"])
            run.ema[k].copy_(tensors[f"ema/{k}"])
            if f"best/{k}" in tensors:
                run.best[k] = tensors[f"best/{k}"].clone().to(p.device)
            for optimizer in optimizers:
                names = {f"{type(optimizer).__name__}/{s}/{k}": s for s in _MOMENTS}
                state = {s: tensors[n] for n, s in names.items() if n in tensors}
                if state:
                    optimizer.state[p] = {s: (v if s == "step" else v.to(p.device)) for s, v in state.items()}
    if rows is not None:
        rows.load({k.removeprefix("rows/"): x for k, x in tensors.items() if k.startswith("rows/")})
    for k in _NUMBERS:
        setattr(run, k, meta["run"][k])
    run.history = [tuple(h) for h in meta["run"]["history"]]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("fsimformer")
            meta = {} if text is None else json.loads(text)
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except PermissionError:
        raise
    except (SafetensorError, OSError, *DAMAGE) as error:
        raise ValueError(f"Checkpoint {path} is damaged: {error}; remove it to start anew.") from error
    if not isinstance(meta, dict) or not {"run", "settings"} <= set(meta):
        raise ValueError(f"Checkpoint {path}: not written by this version of fsimformer; remove it to start anew.")
    if not isinstance(meta["settings"], dict) or not isinstance(meta["run"], dict):
        raise ValueError(f"Checkpoint {path} is damaged: no settings or no state of a run; remove it to start anew.")
    return meta, tensors


def _require_fits(
    path: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor], parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """All that will be filled is there in its shape, before anything is filled: `copy_` would broadcast.

    Raises:
        ValueError: it is not.
    """
    where = f"Checkpoint {path} is damaged"
    if absent := [n for k in parameters for n in (f"model/{k}", f"ema/{k}") if n not in tensors]:
        raise ValueError(f"{where}: no {absent[0]} in it; remove it to start anew.")
    for name, x in tensors.items():
        part, _, rest = name.partition("/")
        if part == "rows" or rest.startswith("step/"):
            continue
        p = parameters.get(rest if part in ("model", "ema", "best") else rest.partition("/")[2])
        if p is None or x.shape != p.shape or x.dtype != p.dtype:
            wanted = "nothing of this name" if p is None else f"{tuple(p.shape)} {p.dtype}"
            raise ValueError(
                f"{where}: {name} is {tuple(x.shape)} {x.dtype}, expected {wanted}; remove it to start anew."
            )
    numbers = {k: state.get(k) for k in _NUMBERS if k not in ("history", "recent", "turn")}
    numbers["turn"] = 0 if state.get("turn") is None else state["turn"]
    lists = [state.get(k) for k in ("history", "recent")]
    wrong = [k for k, v in numbers.items() if not isinstance(v, int | float) or isinstance(v, bool)]
    if wrong or not all(isinstance(x, list) for x in lists) or not all(map(_is_validation, state["history"])):
        raise ValueError(f"{where}: its state of a run is none, see {wrong or 'history'}; remove it to start anew.")


def _is_validation(entry: Any) -> bool:
    return isinstance(entry, list) and len(entry) == 3 and all(isinstance(x, int | float) for x in entry)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    out: dict[str, Any] = {}
    for k, v in settings.items():
        out |= _flat(v, f"{prefix}{k}.") if isinstance(v, Mapping) else {prefix + k: v}
    return out
