"""Is a trained joint to be believed? Every diagnostic over fresh data sets, as one DataTree.

Trials (trials.py) have truths; if the model is right, truth and draws are exchangeable given the data, and all that is
tested here follows from that alone:

| group | what should hold |
|---|---|
| `sbc` | ranks of truths among draws are uniform: parameters, functionals of functions |
| `coverage` | highest-density regions of level c hold the share c of truths (ranks of the log density) |
| `tarp` | so do balls about random points |
| `scores` | truths score (CRPS, energy score) as draws do |
| `local` | at single data sets no classifier tells draws from truths (L-C2ST) |
| `predictive` | readings that were held out have the statistics of their predictions |

`tests` lists every test with its p-value, Holm's adjusted p-value over all of them, and verdict. A model that is
rejected may still be good enough, and with enough data sets every network is: `effect` says how much is wrong, the
largest distance of an ECDF from the diagonal; for scores the relative excess; for L-C2ST how far the classifier's
probability lies from ½, root mean square, above what chance gives. `shift` is that of u from ½ in standard errors,
`dispersion` 12·E(u − ½)² − 1: positive where draws are too narrow, negative where they are too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from fsimformer import functionals as shapes
from fsimformer.diagnostics import coverage, density_levels
from fsimformer.functionals import Functional
from fsimformer.lc2st import lc2st
from fsimformer.model_file import Model, Trained
from fsimformer.predictive import STATISTICS, predictive_p_values
from fsimformer.sample import DEFAULT_QUALITY, SamplerConfig, quality_named
from fsimformer.sbc import ranks
from fsimformer.schema import Index
from fsimformer.scores import score_test
from fsimformer.simulators import Simulator
from fsimformer.tarp import coverage_curve, tarp_levels
from fsimformer.trials import Callback, Plan, Trials, fresh, run_trials
from fsimformer.uniformity import Ecdf, holm, rank_test, uniform_test

Array = NDArray[np.float64]

NOMINAL = (0.5, 0.8, 0.9, 0.95)
ALPHA = 0.01
_POINTS = 25  # of a function's grid
_N_LOCAL = 5  # data sets at which L-C2ST is asked
_N_PILOT = 200  # simulations that say which level a function crosses
_N_DENSITY = 50  # draws that get a log density: the dearest part
_VALUES = 3  # values of a function among the coordinates of TARP, energy score and L-C2ST
_FEWEST = 20  # data sets


@dataclass(frozen=True)
class _Test:
    """One row of `tests`; `shift` and `dispersion` of uniform numbers u: mean − ½ in standard errors, 12·var − 1."""

    kind: str
    quantity: str
    effect: float
    p_value: float
    shift: float = np.nan
    dispersion: float = np.nan


def check(
    self: Trained,
    simulator: Simulator,
    n: int = 200,
    n_draws: int = 100,
    *,
    at: Mapping[str, Any] | None = None,
    functionals: Mapping[str, Functional] | None = None,
    quality: str | SamplerConfig = DEFAULT_QUALITY,
    seed: int = 0,
    callback: Callback | None = None,
) -> xr.DataTree:
    """Whether draws are calibrated, tested on n fresh data sets of the simulator: all diagnostics and a verdict.

    Args:
        simulator: the one that the model was trained on; it is drawn from anew, and read as in training.
        n, n_draws: data sets, and draws for each; about a second of CPU time a data set.
        at: functional parameter -> rising index points to draw it at; by default 25 over the trained range.
        functionals: name -> f(values (..., T), points (T,)) -> (...), in the place of the six of functionals.py.
        quality: of the draws, as for `sample`.
        seed: equal seeds, equal checks.
        callback: told how many data sets are done, of how many.

    Returns:
        A DataTree with the groups named in check.py; `tree.attrs["verdict"]` says it in a sentence.

    Raises:
        KeyError, ValueError: a simulator of another schema, too few data sets or draws, points off the trained range,
            a Joint that was refined for one observation.
    """
    model = self.model
    if not isinstance(n, int | np.integer) or n < _FEWEST:
        raise ValueError(f"check: expected at least {_FEWEST} data sets, got n={n!r}.")
    if not isinstance(n_draws, int | np.integer) or n_draws < 20 or n_draws % 2:
        raise ValueError(f"check: expected an even number of draws >= 20, got n_draws={n_draws!r}.")
    if model.refined_for is not None:
        raise ValueError("check: this Joint was refined for one observation; its prior is no longer the simulator's.")
    grid = _grids(model, at or {})
    data = fresh(model, simulator, int(n), seed)
    plan = Plan(grid, int(n_draws), min(_N_DENSITY, int(n_draws)), quality_named(quality), seed)
    of_functions = functionals if functionals is not None else _functionals(model, simulator, grid, seed)
    trials = run_trials(model, data, plan, callback)
    about = {
        "n_data_sets": int(n), "n_draws": int(n_draws), "seed": seed, "alpha": ALPHA, "network": model.fingerprint,
        "simulator": type(simulator).__name__, "not_checked": list(trials.skipped),
    }  # fmt: skip
    return diagnose(trials, of_functions, seed=seed, about=about)


def diagnose(
    trials: Trials, functionals: Mapping[str, Any], *, seed: int = 0, about: Mapping[str, Any] | None = None
) -> xr.DataTree:
    """All diagnostics of trials, whoever drew them.

    Args:
        functionals: name -> functional of every function; or function -> such a mapping of its own.
    """
    tests: list[_Test] = []
    quantities = _quantities(trials, functionals)
    theta, draws = _coordinates(trials)
    groups = {
        "sbc": _sbc(quantities, seed, tests),
        "coverage": _coverage(trials, seed, tests),
        "tarp": _tarp(theta, draws, seed, tests),
        "scores": _scores(trials, theta, draws, seed, tests),
        "local": _local(theta, draws, seed, tests),
        "predictive": _predictive(trials, seed, tests),
    }
    tree = xr.DataTree.from_dict(
        {f"/{name}": g for name, g in {"tests": _table(tests), **groups}.items() if g is not None}
    )
    rejected = tree["tests"]["rejected"]
    n_rejected = int(rejected.sum())
    verdict = (
        f"nothing rejected: {rejected.size} tests of {len(trials.n_readings)} data sets find no miscalibration"
        if not n_rejected
        else f"{n_rejected} of {rejected.size} tests reject calibration"
    )
    tree.attrs = {"verdict": f"{verdict} (family-wise level {ALPHA:g}, Holm)", "alpha": ALPHA, **(about or {})}
    return tree


def _grids(model: Model, at: Mapping[str, Any]) -> dict[str, Array]:
    """Of every functional parameter on one index."""
    schema, out = model.schema, {}
    names = [v.name for v in schema.variables if v.role == "parameter" and len(schema.index_dims(v.name)) == 1]
    if unknown := [name for name in at if name not in names]:
        raise KeyError(f"check: at names {unknown}; expected parameters that are functions on one index: {names}.")
    for name in names:
        index = schema.dim(schema.index_dims(name)[0])
        assert isinstance(index, Index)
        points = np.asarray(at.get(name, np.linspace(index.lower, index.upper, _POINTS)), dtype=np.float64)
        inside = points.ndim == 1 and len(points) >= 2 and bool((np.diff(points) > 0).all())
        if not inside or points[0] < index.lower or points[-1] > index.upper:
            raise ValueError(
                f"check: at[{name!r}]: expected at least two rising numbers in [{index.lower:g}, {index.upper:g}], got "
                f"{at.get(name)!r}."
            )
        out[name] = points
    return out


def _functionals(model: Model, simulator: Simulator, grid: Mapping[str, Array], seed: int) -> dict[str, Any]:
    """The six of each function; the level to cross is the median of other simulations, whose truths none rank."""
    if not grid:
        return {}
    pilot = fresh(model, simulator, _N_PILOT, seed, purpose=1)
    out = {}
    for name, points in grid.items():
        level, place = float(pilot.values[name].double().median()), float(points[len(points) // 2])
        out[name] = {
            "integral": shapes.integral,
            "maximum": shapes.maximum,
            "argmax": shapes.argmax,
            f"first crossing of {level:.3g}": shapes.first_crossing(level),
            "total variation": shapes.total_variation,
            f"value at {place:.3g}": shapes.value_at(place),
        }
    return out


def _components(name: str, truth: Array, draws: Array, is_function: bool) -> dict[str, tuple[Array, Array]]:
    """Scalars as they are, vectors component by component."""
    if truth.ndim == (2 if is_function else 1):
        return {name: (truth, draws)}
    return {f"{name}[{c}]": (truth[:, c], draws[:, :, c]) for c in range(truth.shape[1])}


def _quantities(trials: Trials, functionals: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
    """What is ranked: name -> truth (n,), draws (n, m)."""
    out = {}
    for name, truth in trials.truth.items():
        parts = _components(name, truth, trials.draws[name], name in trials.grid)
        if name not in trials.grid:
            out.update(parts)
            continue
        own = functionals.get(name, functionals)
        for part, (t, d) in parts.items():
            for what, f in own.items():
                if callable(f):
                    out[f"{what} of {part}"] = (f(t, trials.grid[name]), f(d, trials.grid[name]))
    return out


def _coordinates(trials: Trials) -> tuple[Array, Array]:
    """Scalars, components, and a few values of each function: (n, d), (n, m, d), in sd of all draws."""
    truths, draws = [], []
    for name, truth in trials.truth.items():
        for t, d in _components(name, truth, trials.draws[name], name in trials.grid).values():
            if name in trials.grid:
                few = np.unique(np.linspace(0, t.shape[-1] - 1, _VALUES + 2).round().astype(int)[1:-1])
                truths += list(t[:, few].T)
                draws += list(np.moveaxis(d[..., few], -1, 0))
            else:
                truths.append(t)
                draws.append(d)
    if not truths:
        n = len(trials.n_readings)
        return np.zeros((n, 0)), np.zeros((n, 0, 0))
    theta, every = np.stack(truths, axis=-1), np.stack(draws, axis=-1)
    sd = every.std((0, 1))
    scale = np.where(sd > 0, sd, 1.0)
    return theta / scale, every / scale


def _uniform(kind: str, quantity: str, u: Array, ecdf: Ecdf) -> _Test:
    effect = float(np.abs(ecdf.ecdf - ecdf.z).max())
    shift = float((u.mean() - 0.5) * np.sqrt(12 * len(u)))
    return _Test(kind, quantity, effect, ecdf.p_value, shift, float(12 * np.mean((u - 0.5) ** 2) - 1))


def _ecdfs(tested: Mapping[str, Ecdf], dim: str) -> dict[str, Any]:
    """Variables of a group: ecdf, lower, upper over (dim, z)."""
    return {
        name: ((dim, "z"), np.stack([getattr(e, name) for e in tested.values()])) for name in ("ecdf", "lower", "upper")
    }


def _sbc(quantities: Mapping[str, tuple[Array, Array]], seed: int, tests: list[_Test]) -> xr.Dataset | None:
    if not quantities:
        return None
    n_draws = next(iter(quantities.values()))[1].shape[1]
    found, tested = {}, {}
    for i, (name, (truth, draws)) in enumerate(quantities.items()):
        found[name] = ranks(truth, draws, seed + i)
        tested[name] = rank_test(found[name], n_draws)
        tests.append(_uniform("sbc", name, (found[name] + 0.5) / (n_draws + 1), tested[name]))
    z = next(iter(tested.values())).z
    return xr.Dataset(
        {"rank": (("quantity", "data_set"), np.stack(list(found.values()))), **_ecdfs(tested, "quantity")},
        {"quantity": list(found), "z": z},
        {"n_draws": n_draws},
    )


def _coverage(trials: Trials, seed: int, tests: list[_Test]) -> xr.Dataset | None:
    if trials.log_density.shape[1] < 2:
        return None
    levels = density_levels(trials.log_density[:, 0], trials.log_density[:, 1:], seed)
    ecdf = uniform_test(levels)
    tests.append(_uniform("coverage", "highest-density regions", levels, ecdf))
    shares = np.array([coverage(levels, p) for p in NOMINAL])
    return xr.Dataset(
        {
            "level": ("data_set", levels),
            "ecdf": ("z", ecdf.ecdf), "lower": ("z", ecdf.lower), "upper": ("z", ecdf.upper),
            "share": ("nominal", shares[:, 0]), "standard_error": ("nominal", shares[:, 1]),
        },
        {"z": ecdf.z, "nominal": list(NOMINAL)},
    )  # fmt: skip


def _tarp(theta: Array, draws: Array, seed: int, tests: list[_Test]) -> xr.Dataset | None:
    if not theta.shape[1]:
        return None
    levels = tarp_levels(theta, draws, seed=seed)
    tests.append(_uniform("tarp", "all parameters", levels, uniform_test(levels)))
    curve = coverage_curve(levels, seed=seed)
    return xr.Dataset(
        {
            "level": ("data_set", levels), "ecdf": ("z", curve.coverage),
            "lower": ("z", curve.lower), "upper": ("z", curve.upper),
        },
        {"z": curve.level},
    )  # fmt: skip


def _scores(trials: Trials, theta: Array, draws: Array, seed: int, tests: list[_Test]) -> xr.Dataset | None:
    parts: dict[str, tuple[Array, Array]] = {}
    for name, truth in trials.truth.items():
        for part, (t, d) in _components(name, truth, trials.draws[name], name in trials.grid).items():
            parts[part] = (t[:, None], d[..., None]) if name not in trials.grid else (t, d)
    if len(parts) > 1:
        parts["all parameters"] = (theta, draws)
    if not parts:
        return None
    rows = []
    for i, (name, (t, d)) in enumerate(parts.items()):
        found = score_test(t, d, seed=seed + i)
        excess = found.score / found.expected - 1 if found.expected else 0.0
        tests.append(_Test("scores", name, excess, found.p_value))
        rows.append((found.score, found.expected, found.z))
    names = ("score", "expected", "standardised")
    return xr.Dataset({k: ("quantity", x) for k, x in zip(names, np.array(rows).T)}, {"quantity": list(parts)})


def _local(theta: Array, draws: Array, seed: int, tests: list[_Test]) -> xr.Dataset | None:
    """Data are summarised by the mean of half of the draws; the other half is tested."""
    n, m, d = draws.shape
    if not d or n < 2 * _N_LOCAL:
        return None
    summary, rest = draws[:, : m // 2].mean(1), draws[:, m // 2 :]
    k = slice(None, _N_LOCAL)
    others = slice(_N_LOCAL, None)
    found = lc2st(theta[others], summary[others], rest[others, 0], summary[k], rest[k], seed=seed)
    for i, (t, p) in enumerate(zip(found.statistic, found.p_value)):
        excess = max(0.0, float(t) - float(np.median(found.null[:, i])))
        tests.append(_Test("local", f"data set {i}", float(np.sqrt(excess)), float(p)))
    levels = [0.5, 0.95, 1 - 0.05 / _N_LOCAL]  # the last: simultaneous over the data sets
    null = np.quantile(found.null, levels, axis=0)
    return xr.Dataset(
        {
            "statistic": ("data_set", found.statistic), "p_value": ("data_set", found.p_value),
            "null": (("quantile", "data_set"), null),
        },
        {"data_set": np.arange(_N_LOCAL), "quantile": levels},
    )  # fmt: skip


def _predictive(trials: Trials, seed: int, tests: list[_Test]) -> xr.Dataset | None:
    found: dict[str, Array] = {}
    tested = {}
    for i, (name, sets) in enumerate(trials.held_out.items()):
        for j, (what, statistic) in enumerate(STATISTICS.items()):
            enough = [(y, x) for y, x in sets if len(y) >= (2 if what in _OF_SEVERAL else 1)]
            if len(enough) < _FEWEST // 2:
                continue
            observed = np.array([statistic(y) for y, _ in enough])
            p = predictive_p_values(observed, np.stack([statistic(x) for _, x in enough]), seed + 100 * i + j)
            label = f"{what} of {name}"
            found[label], tested[label] = p, uniform_test(p)
            tests.append(_uniform("predictive", label, p, tested[label]))
    if not found:
        return None
    most = max(map(len, found.values()))
    padded = np.stack([np.concatenate([p, np.full(most - len(p), np.nan)]) for p in found.values()])
    z = next(iter(tested.values())).z
    return xr.Dataset(
        {"p_value": (("quantity", "case"), padded), **_ecdfs(tested, "quantity")}, {"quantity": list(found), "z": z}
    )


_OF_SEVERAL = ("spread", "roughness")


def _table(tests: Sequence[_Test]) -> xr.Dataset:
    names = [f"{t.kind}: {t.quantity}" for t in tests]
    adjusted = holm({name: t.p_value for name, t in zip(names, tests)})
    columns: dict[str, Callable[[_Test], Any]] = {
        "kind": lambda t: t.kind, "quantity": lambda t: t.quantity, "effect": lambda t: t.effect,
        "shift": lambda t: t.shift, "dispersion": lambda t: t.dispersion, "p_value": lambda t: t.p_value,
    }  # fmt: skip
    data: dict[str, Any] = {k: ("test", [f(t) for t in tests]) for k, f in columns.items()}
    p = np.array([adjusted[name] for name in names])
    data["p_adjusted"], data["rejected"] = ("test", p), ("test", p <= ALPHA)
    return xr.Dataset(data, {"test": names})
