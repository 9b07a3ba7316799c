"""The command line: `fsimformer infer | train | simulate | check | info`.

An error is one line on stderr and exit code 2, a warning one line on stderr. Progress is shown on a terminal only.
Heavy imports wait until a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fsimformer.beside import replaced
from fsimformer.cli_check import add_check
from fsimformer.cli_train import add_command, add_simulate, add_train, check_folder
from fsimformer.files import ENDINGS, read_observations, require_netcdf

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from fsimformer.schema import Schema

_MOST_ROWS = 20
PICTURES = (".png", ".pdf", ".svg")


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

    infer = add_command(commands, "infer", _infer, "sample what was not observed, given a file of observations")
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
    infer.add_argument("--quality", choices=("sde", "fast", "exact", "few"), default="sde", help="default: %(default)s")
    infer.add_argument("--origin", help="ISO date that index 0 stands for, where the file holds dates")
    infer.add_argument("--seed", type=int, default=0)
    infer.add_argument("--out", type=Path, metavar="FILE.nc", help="write all draws as netCDF groups that ArviZ reads")
    infer.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture (png, pdf or svg)")

    add_train(commands)
    add_simulate(commands)
    add_check(commands)

    info = add_command(commands, "info", _info, "what a model knows: variables, ranges, provenance")
    info.add_argument("model", help="name of a model that ships, or a model's directory")
    info.add_argument("--json", action="store_true", help="everything, for machines")
    return parser


def _infer(args: argparse.Namespace) -> None:
    if args.plot is not None:
        from fsimformer import plots  # before the work: without matplotlib there is no picture

        if args.plot.suffix not in PICTURES:
            raise ValueError(f"{args.plot}: unknown ending {args.plot.suffix!r}. Choices: {', '.join(PICTURES)}.")
    for path in (args.out, args.plot):
        check_folder(path)
    if args.out is not None:
        require_netcdf(args.out)
    from fsimformer.joint import load
    from fsimformer.model_file import find_model, read_card

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
        with replaced(args.out) as part:
            tree.to_netcdf(part, engine="h5netcdf")
    if args.plot is not None:
        with replaced(args.plot) as part:
            plots.figure(tree).savefig(part)


def _info(args: argparse.Namespace) -> None:
    from fsimformer.model_file import find_model, read_card

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


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


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
