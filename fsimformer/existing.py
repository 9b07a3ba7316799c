"""Simulations that exist already: a file, an archive, or a folder of files, as something that can be trained on.

::

    runs = fsf.recorded("runs/", priors={"rate": fsf.LogNormal(-1.0, 0.5)}, noise={"level": ("lognormal", 0.1)})
    joint = fsf.train(runs, simulations=runs.simulations)

The schema is read off the first simulation (outline.py); whoever has a `Schema` takes `Recorded.read` (recorded.py). A
prior that is stated is compared with the draws, D = sup |F_n − F|, for whitening relies on it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from fsimformer.archive import Archive, is_archive
from fsimformer.files import ARRAYS, read_dataset
from fsimformer.outline import Statements, schema_of
from fsimformer.priors import Noise, Prior, Support
from fsimformer.recorded import Recorded
from fsimformer.simulators.protocol import check_grid
from fsimformer.spelling import require_known
from fsimformer.whiten import prior_to_z


class PriorWarning(UserWarning):
    """Recorded parameters do not follow the prior that was stated of them."""


def recorded(
    source: str | Path | xr.Dataset,
    *,
    priors: Mapping[str, Prior] | None = None,
    parameters: Iterable[str] = (),
    noise: Mapping[str, Any] | Noise | tuple[Any, Any] | None = None,
    parents: Mapping[str, Iterable[str]] | None = None,
    support: Mapping[str, Support] | None = None,
    reference: Mapping[str, Any] | None = None,
    natural: Sequence[str] = (),
    plausible: Mapping[str, tuple[float, float]] | None = None,
    dim: str = "simulation",
    seed: int = 0,
) -> Recorded:
    """Simulations that have been made: `train(runs, simulations=runs.simulations)`.

    Args:
        source: a netCDF or Zarr file or a Dataset with a dim of simulations; an archive (`fsimformer simulate`); or a
            folder of such files, each of one simulation or of many.
        priors: parameter -> the prior that it was drawn from, one for all components; not needed, but exact.
        parameters: further parameters, whose prior is learnt from the simulations.
        noise, parents, support, reference, natural, plausible: as for `simulator`.
        dim: that of the simulations.
        seed: of their order; `train` holds out the last ones.

    Raises:
        FileNotFoundError: nothing there. KeyError: names of nothing. ValueError: files that do not belong together;
            what `Recorded.of` raises.

    Warns:
        PriorWarning: draws that do not follow the stated prior.
    """
    say = Statements.of(priors, parameters, noise, parents, support, reference)
    if say.sizes:
        raise TypeError(f"priors: expected a prior for {sorted(say.sizes)}, whose size the simulations tell.")
    data = source if isinstance(source, xr.Dataset) else _read(Path(source), dim)
    if isinstance(data, Archive):
        if data.schema is not None and not (say.priors or say.parameters):
            return replace(Recorded.read(data.path, data.schema), natural=tuple(natural), plausible=plausible or {})
        data = data.read()
    if dim not in data.dims:
        raise ValueError(f"recorded: no dim {dim!r} of simulations; the dims are {list(map(str, data.dims))}.")
    require_known("priors", say.priors, map(str, data.data_vars))
    schema, grid = schema_of(data.isel({dim: 0}).drop_vars(dim, errors="ignore"), say)
    check_grid(schema, grid)
    found = replace(Recorded.of(data, schema, dim, seed), natural=tuple(natural), plausible=plausible or {})
    for name, prior in say.priors.items():
        _warn_prior(name, prior, found.simulations.values[name])
    return found


def _read(path: Path, dim: str) -> xr.Dataset | Archive:
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    if is_archive(path):
        return Archive.open(path)
    if path.suffix in ARRAYS:
        return read_dataset(path)
    files = sorted(p for p in path.iterdir() if p.suffix in ARRAYS) if path.is_dir() else []
    if not files:
        raise ValueError(f"{path}: expected a file, or a folder of files: {', '.join(ARRAYS)}.")
    parts = []
    for file in files:
        data = read_dataset(file)
        parts.append(data if dim in data.dims else data.expand_dims(dim))
        first, here = parts[0], parts[-1]
        for a, b in ((first.data_vars, here.data_vars), (first.coords, here.coords)):
            if set(a) != set(b):
                raise ValueError(f"{file}: has {sorted(map(str, b))}, where {files[0].name} has {sorted(map(str, a))}.")
        for name, c in first.coords.items():
            if dim not in c.dims and not c.equals(here[name]):
                raise ValueError(
                    f"{file}: its coordinate {name!r} differs from that of {files[0].name}; expected one grid."
                )
    return xr.concat(parts, dim, coords="minimal", compat="override", join="override", combine_attrs="override")


def _warn_prior(name: str, prior: Prior, values: Tensor) -> None:
    """Kolmogorov's distance D to the prior, beyond what chance explains.

    Values (n, ...): of each of m columns P(D_j > d) <= 2 exp(−2 n d²), and that of all together is at most the largest
    D_j. So P(D > d) <= 2 m exp(−2 n d²), however columns hang together: a function's points do.
    """
    u = torch.special.ndtr(prior_to_z(prior, values.double().flatten())).sort().values
    n, m = len(values), values[0].numel()
    steps = torch.arange(n * m + 1, dtype=torch.float64) / (n * m)
    distance = float(torch.maximum((steps[1:] - u).max(), (u - steps[:-1]).max()))
    if distance > math.sqrt(math.log(2 * m / 1e-6) / (2 * n)):
        warnings.warn(
            f"{name!r}: the recorded values do not follow {prior} (Kolmogorov distance {distance:.2f} in {n}). Leave "
            "the prior out and name it in `parameters`: what is learnt is then the law of the simulations.",
            PriorWarning,
            stacklevel=3,
        )
