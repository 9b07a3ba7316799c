"""What the commands share: parsers with examples, settings from a TOML file, progress bars, files that are whole.

Settings come, in this order, from the command line, from the file of `--config`, from the defaults. A key of the file
is an option's name without its dashes ("seed"); a table, where a command takes some, holds the fields of one config of
the library ("[train]": `TrainConfig`). A key that nobody knows is refused, with the nearest that is known.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from fsimformer.spelling import did_you_mean

T = TypeVar("T")
PICTURES = (".png", ".pdf", ".svg")
_ABSENT = object()


class Parser(argparse.ArgumentParser):
    """argparse prints its usage before an error; here an error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any, name: str, run: Any, text: str, examples: Sequence[str] = (), required: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """A command's parser; `run` is called with what it parsed.

    Args:
        examples: lines that its --help ends with.
        required: names that the command line or a --config file must give.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, prog=parser.prog, parser=parser, required=tuple(required), tables={})
    return parser


def add_config(parser: argparse.ArgumentParser, tables: Sequence[str] = ()) -> None:
    """The option --config, and the tables that its file may have; `args.tables` holds what they say."""
    holds = f", and the tables {', '.join(f'[{t}]' for t in tables)}" if tables else ""
    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help=f"options from a file, by their names{holds}; the line wins"
    )
    parser.set_defaults(known_tables=tuple(tables))


def settled(
    parser: argparse.ArgumentParser, args: argparse.Namespace, argv: Sequence[str] | None
) -> argparse.Namespace:
    """What was parsed, with the values of a --config file where the line does not say otherwise.

    Raises:
        SystemExit: something that is required is neither here nor there.
        FileNotFoundError: no such file. ValueError: it is no TOML, or holds unknown keys or values of another type.
    """
    if getattr(args, "config", None) is not None:
        args = _with_config(parser, argv, args.parser, args.config, args.known_tables)
    if missing := [_shown(args.parser, k) for k in args.required if getattr(args, k) is None]:
        where = ", on the line or in the file of --config" if hasattr(args, "config") else ""
        args.parser.error(f"the following arguments are required: {', '.join(missing)}{where}")
    return args


def _with_config(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    command: argparse.ArgumentParser,
    path: Path,
    known_tables: Sequence[str],
) -> argparse.Namespace:
    """Parses once more, with the file's values as defaults; which options were given is found out before."""
    actions = {a.dest: a for a in command._actions if a.dest not in ("help", "config")}
    values, tables = _read(path, actions, known_tables)
    own = {dest: a.default for dest, a in actions.items()}
    command.set_defaults(**dict.fromkeys(actions, _ABSENT))
    given = {k for k, v in vars(parser.parse_args(argv)).items() if k in actions and v is not _ABSENT}
    for group in command._mutually_exclusive_groups:
        rivals = {a.dest for a in group._group_actions}
        if len(both := sorted(rivals & values.keys())) > 1:
            raise ValueError(f"{path}: {both[0]!r} and {both[1]!r} exclude each other.")
        if rivals & given:
            values = {k: v for k, v in values.items() if k not in rivals}
    command.set_defaults(**{**own, **values}, tables=tables)
    return parser.parse_args(argv)


def _read(
    path: Path, actions: Mapping[str, argparse.Action], known_tables: Sequence[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML: {error}") from None
    values: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        name = key.replace("-", "_")
        if isinstance(value, dict) and key in known_tables:
            tables[key] = value
        elif name in actions:
            values[name] = _value(path, key, actions[name], value)
        else:
            known = [*actions, *(f"[{t}]" for t in known_tables)]
            raise ValueError(_unknown(str(path), f"[{key}]" if isinstance(value, dict) else key, known))
    return values, tables


def _value(path: Path, key: str, action: argparse.Action, value: Any) -> Any:
    """A value as the option of this name would have it."""
    kind: Any = bool if action.nargs == 0 else action.type or str
    wanted: Any = {bool: bool, int: int, float: (int, float)}.get(kind, str)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
        name = "text" if wanted is str else kind.__name__
        raise ValueError(f"{path}: expected {name} for {key!r}, got {value!r}.")
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"{path}: unknown {key} {value!r}. Choices: {', '.join(map(str, action.choices))}.")
    return kind(value)


def settings(kind: Callable[..., T], where: str, table: Mapping[str, Any], **given: Any) -> T:
    """A config of the library from a file's table; `given` are fields that the command line says.

    Raises:
        ValueError: a key that is none of its fields; a value of another type than the field's default.
    """
    known = {f.name: f.default for f in fields(kind) if f.init}  # type: ignore[arg-type]  # a frozen dataclass
    for key, value in table.items():
        if key not in known:
            raise ValueError(_unknown(where, key, list(known)))
        default = known[key]
        wanted = (int, float) if isinstance(default, float) else type(default)
        fits = isinstance(_plain(value), wanted) and (isinstance(default, bool) or not isinstance(value, bool))
        if default is not MISSING and default is not None and not fits:
            raise ValueError(f"{where}: expected {type(default).__name__} for {key!r}, got {value!r}.")
    try:
        return kind(**{k: _plain(v) for k, v in table.items()} | given)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _unknown(where: str, key: str, known: Sequence[str]) -> str:
    return f"{where}: unknown key {key!r}. {did_you_mean(key, known, 0.5)}Keys: {', '.join(known)}."


def _shown(parser: argparse.ArgumentParser, dest: str) -> str:
    action = next(a for a in parser._actions if a.dest == dest)
    return action.option_strings[0] if action.option_strings else str(action.metavar or dest).upper()


def once(option: str, given: Sequence[tuple[str, str, T]]) -> dict[str, T]:
    """What an option that may come several times says, by its key.

    Args:
        given: text, as it came, key and value of each.

    Raises:
        ValueError: a key that comes twice.
    """
    texts: dict[str, str] = {}
    for text, key, _ in given:
        if key in texts:
            raise ValueError(f"{option} {texts[key]} and {option} {text}: expected {key!r} once.")
        texts[key] = text
    return {key: value for _, key, value in given}


def add_columns(parser: argparse.ArgumentParser) -> None:
    """The options that say what columns of a file mean; see `renamed`."""
    parser.add_argument(
        "--rename",
        action="append",
        default=[],
        metavar="COLUMN=NAME",
        help="what a column, variable or dim of the file is called in the model. May be given several times",
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="COLUMN",
        help="leave this column or variable of the file out, such as remarks. May be given several times",
    )


def renamed(args: argparse.Namespace) -> dict[str, str]:
    """What `--rename` says: names of the file -> names of the model.

    Raises:
        ValueError: no pair; a name that comes twice, here or there.
    """
    pairs = []
    for text in args.rename:
        old, _, new = text.partition("=")
        if not old or not new:
            raise ValueError(f"--rename {text}: expected COLUMN=NAME.")
        pairs.append((text, old, new))
    once("--rename", [(text, new, old) for text, old, new in pairs])
    return once("--rename", pairs)


def check_folder(path: Path | None) -> None:
    """Before the work, not after it."""
    if path is not None and not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"No such directory: {path.absolute().parent}")


def check_picture(path: Path | None) -> None:
    """Before the work: a folder that is there, and a format that is known."""
    check_folder(path)
    if path is not None and path.suffix not in PICTURES:
        raise ValueError(f"{path}: unknown ending {path.suffix!r}. Choices: {', '.join(PICTURES)}.")


@contextmanager
def progress_bar(total: int, unit: str, shown: bool = True) -> Iterator[Callable[[int, str | None], None]]:
    """A callback (how many are done, a remark) that moves a bar; the bar shows on a terminal only."""
    if not (shown and sys.stderr.isatty()):  # nobody looks
        yield lambda done, remark: None
        return
    from tqdm import tqdm

    with tqdm(total=total, unit=unit) as bar:

        def show(done: int, remark: str | None) -> None:
            bar.update(done - bar.n)  # a resumed run starts in the middle
            if remark is not None:
                bar.set_postfix_str(remark)

        yield show
