"""The command line: `fsimformer infer | train | simulate | info`.

An error is one line on stderr and exit code 2, a warning one line on stderr. Progress is shown on a terminal only.
Heavy imports wait until a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fsimformer.files import ENDINGS, ZARR, read_observations, require_netcdf

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from fsimformer.recorded import Recorded
    from fsimformer.schema import Schema
    from fsimformer.simulators import Simulator

SIMULATORS = {"hare_lynx": "HareLynx", "lotka_volterra": "LotkaVolterra", "sird": "SIRD"}
_MOST_ROWS = 20
_SIMULATOR_HELP = f"{', '.join(SIMULATORS)}, or your own: MODULE:NAME or FILE.py:NAME"
_OWN_HELP = "; for an archive also a function of a seed that returns a Dataset or a mapping"


class Parser(argparse.ArgumentParser):
    """argparse prints its usage before an error; here an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        with _one_line_warnings(args.prog):
            args.run(args)
    except (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"{args.prog}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fsimformer", description="Every conditional of a simulator's joint distribution.")
    parser.add_argument("--version", action="version", version=f"fsimformer {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    infer = _command(commands, "infer", _infer, "sample what was not observed, given a file of observations")
    infer.add_argument("model", help="name of a model that ships, or a model's directory")
    infer.add_argument("observations", type=Path, help=f"a file: {', '.join(ENDINGS)}")
    infer.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="VARIABLE=POINTS",
        help="sample a function or series at these points, beside the parameters: START:STOP:COUNT (both ends "
        "included), A,B,C, or FROM:TO (those in the file); numbers or ISO dates. May be given several times. "
        "Default: whatever the file lacks, at the points in the file",
    )
    infer.add_argument("--draws", type=int, default=1000, help="how many draws (default: %(default)s)")
    infer.add_argument("--quality", choices=("sde", "fast", "exact"), default="sde", help="default: %(default)s")
    infer.add_argument("--origin", help="ISO date that index 0 stands for, where the file holds dates")
    infer.add_argument("--seed", type=int, default=0)
    infer.add_argument("--out", type=Path, metavar="FILE.nc", help="write all draws as netCDF groups that ArviZ reads")
    infer.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture (png, pdf or svg)")

    train = _command(commands, "train", _train, "train a model on a simulator")
    train.add_argument("simulator", help=f"{_SIMULATOR_HELP}; with --archive also a Schema of its variables")
    train.add_argument("--simulations", type=int, default=100_000, help="fixed budget (default: %(default)s)")
    source = train.add_mutually_exclusive_group()
    source.add_argument("--fresh", action="store_true", help="new simulations at every step, no fixed budget")
    source.add_argument("--archive", type=Path, metavar="FILE", help="these simulations: an archive, .nc or .zarr")
    train.add_argument("--steps", type=int, help="optimiser steps (default: the library's)")
    train.add_argument("--checkpoint", type=Path, metavar="FILE", help="written as it runs; resumed from if it exists")
    train.add_argument("--device", default="cpu", help="torch device (default: %(default)s)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="the model's directory")

    simulate = _command(commands, "simulate", _simulate, "write draws of a simulator, clean paths without noise")
    simulate.add_argument("simulator", help=_SIMULATOR_HELP + _OWN_HELP)
    simulate.add_argument("--n", type=int, default=100, help="how many (default: %(default)s)")
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .nc file, or an archive: .zarr")
    archive = simulate.add_argument_group("archive", "run in parallel, failures kept apart; resumed or extended")
    archive.add_argument("--workers", type=int, help="how many simulations at a time (default: one a CPU)")
    archive.add_argument("--limit", type=float, metavar="SECONDS", help="kill a simulation that takes longer")
    archive.add_argument("--chunk", type=int, default=100, help="simulations a chunk (default: %(default)s)")

    info = _command(commands, "info", _info, "what a model knows: variables, ranges, provenance")
    info.add_argument("model", help="name of a model that ships, or a model's directory")
    info.add_argument("--json", action="store_true", help="everything, for machines")
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run, prog=parser.prog)
    return parser


def _infer(args: argparse.Namespace) -> None:
    if args.plot is not None:
        from fsimformer import plots  # before the work: without matplotlib there is no picture
    for path in (args.out, args.plot):
        _check_folder(path)
    if args.out is not None:
        require_netcdf(args.out)
    from fsimformer.joint import find_model, load
    from fsimformer.model_file import read_card

    if arrays := list(read_card(find_model(args.model))[0].arrays):
        raise ValueError(
            f"{args.model} has array variables {arrays}: it needs Python, fsf.load({args.model!r}, embeddings=...); "
            "the command line cannot build the modules that embed them."
        )
    joint = load(args.model)
    observed = read_observations(args.observations, [index.name for index in joint.schema.indexes])
    at = dict(parse_at(text) for text in args.at)
    conditional = joint.condition(observed, origin=args.origin)
    tree = conditional.sample(args.draws, at or None, seed=args.seed, quality=args.quality)
    print(table(tree, joint.schema))
    if args.out is not None:
        tree.to_netcdf(args.out, engine="h5netcdf")
    if args.plot is not None:
        plots.figure(tree).savefig(args.plot)


def _train(args: argparse.Namespace) -> None:
    _check_folder(args.out)
    import fsimformer
    from fsimformer.folder import require_free
    from fsimformer.train import TrainConfig

    require_free(args.out)  # not after hours of training

    recorded = None if args.archive is None else _recorded(args)
    simulator: Simulator = recorded or find_simulator(args.simulator)
    if arrays := list(simulator.schema.arrays):
        raise ValueError(f"{args.simulator} has array variables {arrays}; train it in Python: train(embeddings=...).")
    config = TrainConfig(seed=args.seed) if args.steps is None else TrainConfig(steps=args.steps, seed=args.seed)
    simulations = None if args.fresh else args.simulations if recorded is None else recorded.simulations
    with _progress_bar(config.steps, "step") as show:
        joint = fsimformer.train(
            simulator,
            simulations=simulations,
            config=config,
            checkpoint=args.checkpoint,
            callback=lambda at: show(at.step, None if at.validation is None else f"validation={at.validation:.4f}"),
            device=args.device,
        )
    joint.save(args.out)
    loss, best = joint.provenance["best_validation_loss"], joint.provenance["best_step"]
    print(f"{args.out}: {joint.n_parameters:,} parameters, validation loss {loss:.4f} (step {best})")


def _recorded(args: argparse.Namespace) -> Recorded:
    """The archive's simulations. Who has a black box has no Simulator, so a Schema of its variables will do."""
    from fsimformer import Schema, simulators
    from fsimformer.recorded import Recorded

    own = _find(args.simulator)
    if not isinstance(own, Schema | simulators.Simulator):
        raise ValueError(f"{args.simulator} is a {type(own).__name__}; --archive needs a Schema or a Simulator.")
    return Recorded.read(args.archive, own)


def _simulate(args: argparse.Namespace) -> None:
    if args.n < 1:
        raise ValueError(f"--n: expected at least 1, got {args.n}.")
    _check_folder(args.out)
    if args.out.suffix in ZARR:
        from fsimformer.campaign import simulate_to

        with _progress_bar(args.n, "simulation") as show:
            archive = simulate_to(
                args.out,
                _find(args.simulator),
                args.n,
                seed=args.seed,
                chunk=args.chunk,
                limit=args.limit,
                workers=args.workers,
                callback=lambda at: show(at.n_done, f"failed={at.n_failed}" if at.n_failed else None),
            )
        print(f"{args.out}: {len(archive)} simulations, {len(archive.failures)} of them failed")
        return
    require_netcdf(args.out)
    from fsimformer.recorded import draw

    drawn = draw(find_simulator(args.simulator), args.n, args.seed)
    drawn.to_netcdf(args.out, engine="h5netcdf")
    dropped = drawn.attrs["n_dropped"]
    print(f"{args.out}: {args.n} simulations" + (f"; {dropped} more were not finite and dropped" if dropped else ""))


def _info(args: argparse.Namespace) -> None:
    from fsimformer.joint import find_model
    from fsimformer.model_file import read_card

    schema, card = read_card(find_model(args.model))  # the card alone: a model with arrays has modules we cannot build
    provenance = card["provenance"]
    n = provenance.get("n_parameters")
    if args.json:
        print(json.dumps({"schema": schema.to_dict(), "n_parameters": n, "provenance": provenance}, indent=2))
        return
    print(args.model if n is None else f"{args.model}: {n:,} parameters")
    rows = [("variable", "role", "dims", "prior or support", "noise")]
    for v in schema.variables:
        noise = "" if v.noise is None else f"{v.noise.kind}, sd {v.noise.sd}"
        rows.append((v.name, v.role, ", ".join(v.dims), str(v.support if v.prior is None else v.prior), noise))
    print(_columns(rows))
    for index in schema.indexes:
        print(f"{index.name}: trained on [{index.lower:g}, {index.upper:g}] {index.units or ''}".rstrip())
    for key, value in provenance.items():
        if key not in ("history", "initial"):  # a line for every validation: --json has them
            print(f"{key}: {value}")


def table(tree: xr.DataTree, schema: Schema, level: float = 0.9) -> str:
    """Median and equal-tailed interval of scalars, components and predictions, then what else was sampled.

    Up to `_MOST_ROWS` points of a variable have rows of their own.
    """
    rows, others = [("parameter", "median", f"{100 * level:g} % interval")], []
    for group in ("posterior", "prior", "posterior_predictive", "predictions"):
        for name, draws in tree[group].data_vars.items() if group in tree.children else ():
            along = [c for c in draws.coords.values() if c.dims == draws.dims[2:]] if draws.ndim == 3 else []
            listed = len(along) == 1 and group != "posterior_predictive" and along[0].size <= _MOST_ROWS
            if schema.is_function(str(name)) and not listed:
                others.append(f"{name}: {draws[0, 0].size} points ({group})")
                continue
            q = draws.quantile([(1 - level) / 2, 0.5, (1 + level) / 2], ("chain", "draw")).to_numpy()
            for i, (low, median, high) in enumerate(q.reshape(3, -1).T):
                label = f"{name}[{i}]" if draws.ndim > 2 else str(name)
                if schema.is_function(str(name)):
                    label = f"{name}({_place(along[0].to_numpy()[i])})"
                rows.append((label, f"{median:.4g}", f"[{low:.4g}, {high:.4g}]"))
    return "\n".join([*([_columns(rows)] if len(rows) > 1 else []), *others])


def _place(label: Any) -> str:
    """An index point as it is printed: dates to the day where that is all they hold."""
    text = str(label)
    return text.removesuffix(".000000000").removesuffix(".000000").removesuffix("T00:00:00") if "T" in text else text


def parse_at(text: str) -> tuple[str, np.ndarray | slice | None]:
    """Reads VARIABLE=START:STOP:COUNT, VARIABLE=A,B,C, VARIABLE=FROM:TO or VARIABLE alone.

    Returns:
        the name, and the points, a slice of the observation's own points, or None.
    """
    name, equals, points = text.partition("=")
    if name and not equals:
        return name, None
    import numpy as np

    try:
        if not name or not points:
            raise ValueError
        if "," in points or ":" not in points:
            return name, _numbers_or_dates(points.split(","))
        start, stop, *rest = points.split(":")
        if not rest:
            return name, slice(*(_numbers_or_dates([end])[0] if end else None for end in (start, stop)))
        ends, n = _numbers_or_dates([start, stop]), int(":".join(rest))
        if n < 1:
            raise ValueError
        if ends.dtype.kind == "M":
            return name, (ends[0] + (ends[1] - ends[0]) * (np.arange(n) / max(n - 1, 1))).astype(ends.dtype)
        return name, np.linspace(ends[0], ends[1], n)
    except ValueError:
        raise ValueError(f"--at {text}: expected START:STOP:COUNT, A,B,C or FROM:TO, numbers or ISO dates.") from None


def _numbers_or_dates(texts: Sequence[str]) -> np.ndarray:
    import numpy as np

    try:
        return np.array([float(t) for t in texts])
    except ValueError:
        return np.array(texts, dtype="datetime64[us]")


def find_simulator(name: str) -> Simulator:
    """A simulator that ships, by name, or the user's own from MODULE:NAME or FILE.py:NAME.

    Raises:
        KeyError: no such name.
        ValueError: the named object is no simulator.
        FileNotFoundError, ImportError: no such file or module.
    """
    from fsimformer import simulators

    own = _find(name)
    if not isinstance(own, simulators.Simulator):
        raise ValueError(f"{name} is a {type(own).__name__}; a Simulator has `schema`, `grid` and `simulate`.")
    return own


def _find(name: str) -> Any:
    from fsimformer import simulators

    if name in SIMULATORS:
        return getattr(simulators, SIMULATORS[name])()
    place, colon, attribute = name.rpartition(":")
    if not colon:
        raise KeyError(f"No simulator named {name!r}. Choices: {', '.join(SIMULATORS)}, MODULE:NAME, FILE.py:NAME.")
    module = _import(place)
    if not hasattr(module, attribute):
        raise KeyError(f"{place} has no {attribute!r}.")
    own = getattr(module, attribute)
    return own() if isinstance(own, type) else own


def _import(place: str) -> Any:
    import importlib
    import importlib.util

    if not place.endswith(".py"):
        return importlib.import_module(place)
    if not Path(place).exists():
        raise FileNotFoundError(f"No such file: {place}")
    spec = importlib.util.spec_from_file_location(Path(place).stem, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _check_folder(path: Path | None) -> None:
    """Before the work, not after it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"No such directory: {path.absolute().parent}")


def _version() -> str:
    try:
        return version("fsimformer")
    except PackageNotFoundError:  # run from a source tree
        return "(not installed)"


def _one_line(error: Exception) -> str:
    """A KeyError's str() is the repr of its message, an OSError's starts with its number."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


@contextmanager
def _progress_bar(total: int, unit: str) -> Iterator[Callable[[int, str | None], None]]:
    """A callback (how many are done, a remark) that moves a bar; the bar shows on a terminal only."""
    from tqdm import tqdm

    with tqdm(total=total, unit=unit, disable=None) as bar:

        def show(done: int, remark: str | None) -> None:
            bar.update(done - bar.n)  # a resumed run starts in the middle
            if remark is not None:
                bar.set_postfix_str(remark)

        yield show


@contextmanager
def _one_line_warnings(prog: str) -> Iterator[None]:
    """Our own warnings, a line each; what other libraries warn of is nothing that the program's user can change."""

    def show(message: Warning | str, category: type[Warning], *rest: object) -> None:
        if category.__module__.startswith("fsimformer"):
            print(f"{prog}: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]  # catch_warnings puts the old one back
        yield


if __name__ == "__main__":
    sys.exit(main())
