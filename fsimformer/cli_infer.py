"""The command `fsimformer infer`: a file of observations in, a table or JSON, draws and pictures out.

As in cli.py heavy imports wait until the command needs them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsimformer.beside import replaced
from fsimformer.cli_command import add_columns, add_command, check_folder, check_picture, once, progress_bar, renamed
from fsimformer.files import ENDINGS, ZARR, read_observations, require_netcdf, require_zarr
from fsimformer.groups import GROUPS

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from fsimformer.schema import Schema

_MOST_ROWS = 20
_LEVEL = 0.9


def add_infer(commands: Any) -> None:
    """Its parser."""
    infer = add_command(
        commands,
        "infer",
        _infer,
        "sample what was not observed, given a file of observations",
        [
            "fsimformer infer hare_lynx counts.csv --out posterior.nc --plot figure.png",
            "fsimformer infer sird cases.csv --at infected=2024-03-01:2024-04-01:32 --at contact_rate=0:50:26",
            "fsimformer infer my_model cases.csv --batch region --rename date=time --rename confirmed=infected",
            "fsimformer infer hare_lynx counts.csv --json | jq '.variables[] | select(.name == \"alpha\")'",
        ],
    )
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
    infer.add_argument("--draws", type=int, default=1000, help="how many draws, an even number (default: %(default)s)")
    infer.add_argument("--quality", choices=("sde", "fast", "exact", "few"), default="sde", help="default: %(default)s")
    infer.add_argument(
        "--batch", metavar="DIM", help="the file's dim or column, such as region, that tells data sets apart"
    )
    add_columns(infer)
    infer.add_argument(
        "--origin",
        metavar="DATE",
        help="ISO date that index 0 stands for, where the file holds dates (default: the model's, else the earliest)",
    )
    infer.add_argument("--seed", type=int, default=0)
    infer.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write all draws: FILE.nc, netCDF groups that ArviZ reads, or of many data sets FILE.zarr, some at a time",
    )
    infer.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="write a picture (png, pdf or svg), one for each data set"
    )
    infer.add_argument("--json", action="store_true", help="print the summary for machines, all points included")


def _infer(args: argparse.Namespace) -> None:
    if args.plot is not None:
        from fsimformer import plots  # before the work: without matplotlib there is no picture
    check_folder(args.out)
    check_picture(args.plot)
    streamed = args.out is not None and args.out.suffix in ZARR
    if streamed:
        require_zarr()
        if args.batch is None:
            raise ValueError(f"--out {args.out}: a .zarr is for many data sets, --batch DIM; of one write a .nc.")
    elif args.out is not None:
        require_netcdf(args.out)
    at = once("--at", [(text, *parse_at(text)) for text in args.at]) or None
    names = renamed(args)
    with progress_bar(4, "stage") as show:
        show(0, "loading")
        from fsimformer.joint import load
        from fsimformer.model_file import find_model, read_card
        from fsimformer.points import zero_dates

        if arrays := list(read_card(find_model(args.model))[0].arrays):
            raise ValueError(
                f"{args.model} has array variables {arrays}: it needs Python, fsf.load({args.model!r}, "
                "embeddings=...); the command line cannot build the modules that embed them."
            )
        joint = load(args.model)
        show(1, "reading")
        indexes = [index.name for index in joint.schema.indexes]
        scalars = joint.schema.scalars
        observed = read_observations(args.observations, indexes, args.batch, names, scalars, args.drop)
        if args.batch is None:
            _require_one(joint.schema, observed)
        conditional = joint.condition(observed, origin=args.origin, batch_dim=args.batch)
        for text in zero_dates(conditional.observations, "--origin")[1]:  # nobody said it, so it is said
            print(f"{args.prog}: {args.observations}: {text}", file=sys.stderr)
        show(2, f"drawing {args.draws:,}")
        if not streamed:
            tree = conditional.sample(args.draws, at, seed=args.seed, quality=args.quality)
        show(3, "writing")
    if streamed:
        with progress_bar(len(conditional.observations), "data set") as show:
            tree = conditional.sample_to(
                args.out,
                args.draws,
                at,
                seed=args.seed,
                quality=args.quality,
                callback=lambda done, n: show(done, None),
            )
    elif args.out is not None:
        with replaced(args.out) as part:
            tree.to_netcdf(part, engine="h5netcdf")
    parts = data_sets(tree, args.batch)
    if args.plot is not None:
        files = [args.plot] if args.batch is None else numbered(args.plot, [label for label, _ in parts])
        for file, (_, one) in zip(files, parts, strict=True):
            with replaced(file) as part:
                plots.figure(one).savefig(part)
    if args.json:
        found = [entry for label, part in parts for entry in summary(part, joint.schema, args.batch, label)]
        head = {"model": str(args.model), "observations": str(args.observations), "draws": args.draws, "level": _LEVEL}
        zero = {k: tree.attrs[k] for k in ("index_origin",) if k in tree.attrs}
        print(json.dumps({**head, "seed": args.seed, "quality": args.quality, **zero, "variables": found}, indent=1))
        return
    print("\n\n".join((f"{args.batch} {label}\n" if parts[1:] else "") + table(p, joint.schema) for label, p in parts))


def _require_one(schema: Schema, observed: Any) -> None:
    """Says which column or dim would be a batch dim, where there is one."""
    known = {d.name for d in schema.dims}
    if hasattr(observed, "data_vars"):
        places = [c for c in observed.coords.values() if any(f"{c.name}_".startswith(f"{d}_") for d in known)]
        held = {*known, *(str(d) for c in places for d in c.dims)}
        strange = [str(d) for d in observed.dims if d not in held and observed.sizes[d] > 1]
        strange += [str(k) for k, x in observed.data_vars.items() if k not in schema and x.dtype.kind in "OUTS"]
    else:
        strange = [c for c in map(str, observed.columns) if c not in {"variable", "value", *known}]
    if strange:
        raise ValueError(
            f"The model has no {strange[0]!r}. Where it tells data sets apart: --batch {strange[0]}; where it says "
            f"nothing of them: --drop {strange[0]}; where it goes by another name in the model: --rename "
            f"{strange[0]}=NAME, of {list(schema.names)}."
        )


def data_sets(tree: xr.DataTree, batch: str | None) -> list[tuple[Any, xr.DataTree]]:
    """Label and draws of each data set; the label of a tree without a batch dim is None."""
    if batch is None:
        return [(None, tree)]
    labels = next(g[batch] for g in tree.children.values() if batch in g.coords).to_numpy()
    return [(label, tree.isel({batch: i})) for i, label in enumerate(labels)]


def numbered(path: Path, labels: Sequence[Any]) -> list[Path]:
    """figure.png -> figure_north.png, a file for each data set; what no file's name may hold becomes a dash.

    Where two labels come to one name, on disks that know no capitals, too, the later ones get a number:
    figure_a-b.png, figure_a-b-2.png. A label that needs no dash keeps its name.
    """
    given = [place(label) for label in labels]
    plain = ["".join(c if c.isalnum() or c in "-." else "-" for c in text) for text in given]
    taken, out = set[str](), dict[int, Path]()
    for i in sorted(range(len(given)), key=lambda i: plain[i] != given[i]):
        names = itertools.chain([plain[i]], (f"{plain[i]}-{n}" for n in itertools.count(2)))
        name = next(name for name in names if name.casefold() not in taken)
        taken.add(name.casefold())
        out[i] = path.with_name(f"{path.stem}_{name}{path.suffix}")
    return [out[i] for i in range(len(given))]


def summary(
    tree: xr.DataTree, schema: Schema, batch: str | None = None, label: Any = None, level: float = _LEVEL
) -> list[dict[str, Any]]:
    """Median and equal-tailed interval of every value that was sampled, as plain JSON types.

    Each entry has group, name, median, lower, upper, and where there are some: the data set's label under the name of
    its dim, `component` of a vector, `at`: the place of a function's point, by index dim.
    """
    import numpy as np

    out = []
    for group in GROUPS:
        for name, draws in tree[group].data_vars.items() if group in tree.children else ():
            own, vector = draws.dims[2:], schema.component_dim(str(name))
            q = _quantiles(draws, [0.5, (1 - level) / 2, (1 + level) / 2])
            coords = {k: c for k, c in draws.coords.items() if c.dims and set(c.dims) <= set(own) and k != vector}
            for where in np.ndindex(*draws.shape[2:]):
                median, lower, upper = (float(x) for x in q[(slice(None), *where)])
                if np.isnan(median):
                    continue  # padding of ragged data sets
                entry: dict[str, Any] = {"group": group, "name": str(name)}
                if batch is not None:
                    entry[batch] = _plain(label)
                if vector in own:
                    entry["component"] = where[own.index(vector)]
                if coords:
                    at = {str(k): c.to_numpy()[tuple(where[own.index(d)] for d in c.dims)] for k, c in coords.items()}
                    entry["at"] = {k.removesuffix(f"_{name}"): _plain(x) for k, x in at.items()}
                out.append(entry | {"median": median, "lower": lower, "upper": upper})
    return out


def _quantiles(draws: xr.DataArray, probabilities: Sequence[float]) -> np.ndarray:
    """(P, ...) over the draws; NaN where draws are padding."""
    return draws.quantile(probabilities, ("chain", "draw"), skipna=False).to_numpy()


def _plain(x: Any) -> Any:
    """A label as JSON: dates as ISO text."""
    kind = getattr(getattr(x, "dtype", None), "kind", "")
    if kind in "Mm" or hasattr(x, "isoformat"):
        return place(x)
    return x.item() if kind in set("biuf") else str(x) if not isinstance(x, int | float | str) else x


def table(tree: xr.DataTree, schema: Schema, level: float = _LEVEL) -> str:
    """Median and equal-tailed interval of scalars, components and predictions, then what else was sampled.

    Up to `_MOST_ROWS` points of a variable have rows of their own.
    """
    import numpy as np

    rows, others = [("parameter", "median", f"{100 * level:g} % interval")], []
    for group in GROUPS:
        for name, draws in tree[group].data_vars.items() if group in tree.children else ():
            along = [c for c in draws.coords.values() if c.dims == draws.dims[2:]] if draws.ndim == 3 else []
            listed = len(along) == 1 and group != "posterior_predictive" and along[0].size <= _MOST_ROWS
            if schema.is_function(str(name)) and not listed:
                if n := draws[0, 0].count().item():  # of many data sets another may have some, where this has none
                    others.append(f"{name}: {n} points ({group})")
                continue
            q = _quantiles(draws, [(1 - level) / 2, 0.5, (1 + level) / 2])
            for i, (low, median, high) in enumerate(q.reshape(3, -1).T):
                if np.isnan(median):
                    continue  # padding of ragged data sets
                label = f"{name}[{i}]" if draws.ndim > 2 else str(name)
                if schema.is_function(str(name)):
                    label = f"{name}({place(along[0].to_numpy()[i])})"
                rows.append((label, f"{median:.4g}", f"[{low:.4g}, {high:.4g}]"))
    return "\n".join([*([columns(rows)] if len(rows) > 1 else []), *others])


def place(label: Any) -> str:
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
            both = [_numbers_or_dates([end])[0] if end else None for end in (start, stop)]
            if len({x.dtype.kind for x in both if x is not None}) > 1:  # 2024-03-01T12:00 is one time of day
                raise ValueError
            return name, slice(*both)
        ends, n = _numbers_or_dates([start, stop]), int(":".join(rest))
        if n < 1:
            raise ValueError
        if ends.dtype.kind == "M":
            return name, (ends[0] + (ends[1] - ends[0]) * (np.arange(n) / max(n - 1, 1))).astype(ends.dtype)
        return name, np.linspace(ends[0], ends[1], n)
    except ValueError:
        raise ValueError(
            f"--at {text}: expected START:STOP:COUNT, A,B,C or FROM:TO, numbers or ISO dates; times of day as A,B,C."
        ) from None


def _numbers_or_dates(texts: Sequence[str]) -> np.ndarray:
    import numpy as np

    try:
        return np.array([float(t) for t in texts])
    except ValueError:
        if not all(t[:1].isdigit() for t in texts):  # "now" and "today" are dates to numpy
            raise
        return np.array(texts, dtype="datetime64[us]")


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as aligned text."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
