"""The command line: `fsimformer infer | train | simulate | check | plot | explore | info`.

An error is one line on stderr and exit code 2, a warning one line on stderr. Progress is shown on a terminal only.
Heavy imports wait until a command needs them, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from importlib.metadata import PackageNotFoundError, version
from textwrap import fill
from typing import TYPE_CHECKING, Any

from fsimformer.cli_check import add_check
from fsimformer.cli_command import Parser, add_command, settled
from fsimformer.cli_explore import add_explore
from fsimformer.cli_infer import add_infer, columns
from fsimformer.cli_plot import add_plot
from fsimformer.cli_train import add_simulate, add_train

if TYPE_CHECKING:
    from fsimformer.priors import Prior

_Z_90 = 1.6448536269514722  # Φ(z) = .95


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    parser = _parser()
    args = parser.parse_args(argv)
    prog = args.prog
    try:
        args = settled(parser, args, argv)
        with _one_line_warnings(prog):
            args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read this has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        return 141
    except (ValueError, KeyError, TypeError, OSError, ImportError, FloatingPointError) as error:
        print(f"{prog}: error: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="fsimformer",
        description="Every conditional of a simulator's joint distribution.",
        epilog="fsimformer COMMAND --help shows a command's options, with examples.",
    )
    parser.add_argument("--version", action="version", version=f"fsimformer {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_infer(commands)
    add_train(commands)
    add_simulate(commands)
    add_check(commands)
    add_plot(commands)
    add_explore(commands)
    info = add_command(
        commands,
        "info",
        _info,
        "what a model knows: variables, ranges, provenance",
        ["fsimformer info sird", "fsimformer info my_model --json | jq .provenance.seed"],
    )
    info.add_argument("model", help="name of a model that ships, or a model's directory")
    info.add_argument("--json", action="store_true", help="everything, for machines")
    return parser


def _info(args: argparse.Namespace) -> None:
    import torch

    from fsimformer.model_file import find_model, read_card
    from fsimformer.whiten import prior_from_z

    schema, card = read_card(find_model(args.model))  # the card alone: a model with arrays has modules we cannot build
    provenance = card["provenance"]
    n = provenance.get("n_parameters")
    if args.json:
        print(json.dumps({"schema": schema.to_dict(), "n_parameters": n, "provenance": provenance}, indent=2))
        return
    print(args.model if n is None else f"{args.model}: {n:,} parameters")
    rows = [("variable", "role", "dims", "prior or support", "90 % of the prior", "noise")]
    middle = torch.tensor([-1.0, 1.0], dtype=torch.float64) * _Z_90
    for v in schema.variables:
        noise = "" if v.noise is None else f"{v.noise.kind}, sd {v.noise.sd}"
        ends = "" if v.prior is None else "{:.3g} to {:.3g}".format(*prior_from_z(v.prior, middle).tolist())
        counted = v.noise is not None and v.noise.kind == "negbinomial"
        law = ("0, 1, 2, ..." if counted else str(v.support)) if v.prior is None else _law(v.prior)
        rows.append((v.name, v.role, ", ".join(v.dims), law, ends, noise))
    print(columns(rows))
    for index in schema.indexes:
        print(f"{index.name}: trained on [{index.lower:g}, {index.upper:g}] {index.units or ''}".rstrip())
    for key, value in provenance.items():
        if key not in ("history", "initial"):  # a line for every validation: --json has them
            print(fill(f"{key}: {told(value)}", 100, subsequent_indent="    ", break_long_words=False))


def _law(prior: Prior) -> str:
    """Uniform(0, 0.5)"""
    return f"{type(prior).__name__}({', '.join(f'{x:.6g}' for x in astuple(prior))})"


def told(value: Any, within: bool = False) -> str:
    """JSON as a person reads it: names before what they name, parentheses around what belongs together."""
    if isinstance(value, Mapping):
        text = ", ".join(f"{k} {told(v, within=True)}" for k, v in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(told(v, within=True) for v in value)
    elif value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    else:
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    return (f"({text})" if within else text) if text else "none"


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
