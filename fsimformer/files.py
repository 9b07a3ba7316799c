"""Files of data: observations as a Dataset or a long table, simulations as a Dataset, draws as a tree.

What they mean is the business of `convert`, `recorded` and `plots`.

A table is long (an index column, `variable`, `value`) or wide (an index column, one column a variable, blanks =
missing); of several data sets it has one more column, which tells them apart. A scalar's column of a wide table, such
as a region's population, repeats one value in all rows of a data set; blanks say nothing. NetCDF needs the extra
`files`, Zarr `archive`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsimformer.damage import DAMAGE
from fsimformer.spelling import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

NETCDF, TABLE, ZARR = (".nc", ".nc4", ".h5"), (".csv", ".tsv"), (".zarr",)
ARRAYS, ENDINGS = (*NETCDF, *ZARR), (*NETCDF, *TABLE, *ZARR)


def read_observations(
    path: Path,
    indexes: Sequence[str],
    batch: str | None = None,
    renamed: Mapping[str, str] | None = None,
    scalars: Sequence[str] = (),
    dropped: Sequence[str] = (),
) -> xr.Dataset | pd.DataFrame:
    """An observation file as `Joint.condition` takes it.

    Args:
        path: the file; its ending says what it is.
        indexes: names of the schema's index dims. A table's index column that holds text is read as ISO dates.
        batch: the dim or column that tells data sets apart; a wide table with such a column comes back in long form.
        renamed: names of the file -> names to use in their place.
        scalars: names of the schema's variables without dims.
        dropped: names of columns or variables to leave out, as the file has them.

    Raises:
        FileNotFoundError: no such file.
        KeyError: nothing in the file has a name that is to be replaced or left out, or that of `batch`.
        ValueError: an unknown ending; a damaged file, or one of another format; nothing but groups, as in a saved
            result; a table without its index column or with text that is no date; a scalar with several values; a Zarr
            store that holds pickles.
        ImportError: netCDF or Zarr without the extra that reads it.
    """
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    if path.suffix in TABLE:
        return _read_table(path, indexes, batch, renamed or {}, scalars, dropped)
    found = _read_dataset(path, ENDINGS)
    for name in (*(renamed or {}), *dropped, *([batch] if batch and batch not in (renamed or {}).values() else [])):
        if name not in found.variables and name not in found.dims:
            raise KeyError(
                f"{path} has no {name!r}; it has {sorted({*map(str, found.variables), *map(str, found.dims)})}."
            )
    return found.drop_vars(list(dropped)).rename(renamed or {})


def read_dataset(path: Path) -> xr.Dataset:
    """All of a netCDF or Zarr file's variables at its root, in memory.

    Raises:
        FileNotFoundError: no such file. ValueError: another ending; a damaged file, or one of another format; nothing
            but groups; a Zarr store that holds pickles. ImportError: the extra that reads it is missing.
    """
    _require_ending(path, ARRAYS)
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    return _read_dataset(path, ARRAYS)


def read_tree(path: Path) -> xr.DataTree:
    """A tree of groups from a file; of a Zarr store the values are read when they are asked for.

    Raises:
        FileNotFoundError: no such file. ValueError: another ending, a damaged file, one that holds pickles.
        ImportError: the extra that reads it is missing.
    """
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    import xarray as xr

    if path.suffix in ZARR:
        require_zarr()
        require_no_pickle(path)
        with damage_named(path, "Zarr"):
            tree = xr.open_datatree(path, engine="zarr", consolidated=False, chunks=None)
            return xr.DataTree.from_dict({n.path: _by_name(n.to_dataset(inherit=False)) for n in tree.subtree})
    _require_ending(path, ARRAYS)
    require_netcdf(path)
    with damage_named(path, "netCDF 4"), xr.open_datatree(path, engine="h5netcdf") as tree:
        return tree.load()


def _by_name(data: xr.Dataset) -> xr.Dataset:
    """Variables in the order of their names: a Zarr store lists them as its disk does."""
    return data.drop_vars(list(data.data_vars)).assign({k: data[k] for k in sorted(data.data_vars, key=str)})


def _require_ending(path: Path, choices: Sequence[str]) -> None:
    if path.suffix not in choices:
        raise ValueError(f"{path}: unknown ending {path.suffix!r}. Choices: {', '.join(choices)}.")


def _read_dataset(path: Path, choices: Sequence[str]) -> xr.Dataset:
    _require_ending(path, choices)
    import xarray as xr

    if path.suffix in NETCDF:
        require_netcdf(path)
        with damage_named(path, "netCDF 4"):
            with open(path, "rb") as file:
                if file.read(3) == b"CDF":
                    raise ValueError("it is netCDF 3; turn it into netCDF 4 first, say with nccopy -k netCDF-4")
            try:
                with xr.open_dataset(path, engine="h5netcdf") as data:
                    found = data.load()
            except ValueError:  # "years since 1900": no calendar for xarray, but `convert` reads such units itself
                with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as data:
                    found = data.load()
        if not found.variables:
            raise ValueError(f"{path}: no variables at its root, at most in groups; is it a result of `infer`?")
        return found
    require_zarr()
    require_no_pickle(path)
    with (
        damage_named(path, "Zarr"),
        xr.open_zarr(path, consolidated=False, chunks=None) as data,
    ):  # every store has its metadata apart as well
        return data.load()


def _read_table(
    path: Path,
    indexes: Sequence[str],
    batch: str | None,
    renamed: Mapping[str, str],
    scalars: Sequence[str],
    dropped: Sequence[str],
) -> xr.Dataset | pd.DataFrame:
    import pandas as pd
    import xarray as xr

    sep = "\t" if path.suffix == ".tsv" else ","
    # no index_col: where rows have more fields than the header pandas would take the first for labels, and names shift
    like: Any = {"sep": sep, "skipinitialspace": True, "index_col": False}
    before = tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1)  # whose default is off by one in the last bit
    exact: Any = {"float_precision": "round_trip"} if before else {}
    if batch is not None:
        exact["dtype"] = {next((old for old, new in renamed.items() if new == batch), batch): str}
    with damage_named(path, "a table"), warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            header = pd.read_csv(path, header=None, nrows=1, dtype=str, **like)
            if ";" in str(header.iloc[0, 0]):
                raise ValueError(
                    "its fields are separated by semicolons; write it anew with commas, in Python: "
                    "pandas.read_csv(FILE, sep=';', decimal=',').to_csv('NEW.csv', index=False)"
                )
            if sep == "," and header.shape[1] == 1 and "\t" in str(header.iloc[0, 0]):
                raise ValueError(f"its fields are separated by tabs; call it {path.stem}.tsv")
            frame = pd.read_csv(path, **like, **exact)
        except pd.errors.ParserWarning:
            raise ValueError("its rows have more fields than its header") from None
        except UnicodeDecodeError:
            raise ValueError(_not_utf8(path)) from None
    blank = frame.isna().all(axis=1).to_numpy()  # spreadsheets end in rows of commas
    if blank.any():  # read anew: whole numbers beside a blank are floats
        last = int((~blank).nonzero()[0].max(initial=-1)) + 1
        frame = pd.read_csv(path, nrows=last, **like, **exact).dropna(how="all")
    names = header.iloc[0].dropna().tolist()
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: expected each column once, {twice} come twice in {names}.")
    for name in (*renamed, *dropped):
        if name not in frame.columns:
            raise KeyError(_no_column(path, name, frame.columns))
    frame = frame.drop(columns=list(dropped))
    for old, new in renamed.items():
        if new != old and new in frame.columns and new not in renamed:
            raise ValueError(
                f"{path}: --rename {old}={new}: it has a column {new!r} already; leave it out: --drop {new}."
            )
    frame = frame.rename(columns=dict(renamed))
    if batch is not None and batch not in frame.columns:
        raise KeyError(_no_column(path, batch, frame.columns))
    if batch is not None:
        frame[batch] = _labels(frame[batch])
    found = [name for name in indexes if name in frame.columns]
    if indexes and not found:
        raise ValueError(
            f"{path}: expected an index column {list(indexes)}, got the columns {list(frame.columns)}. Where one of "
            f"them is it, say so: --rename COLUMN={indexes[0]}."
        )
    for name in found:
        if not pd.api.types.is_numeric_dtype(frame[name]):
            try:
                frame[name] = pd.to_datetime(frame[name], format="ISO8601")
            except ValueError as error:
                why = str(error).splitlines()[0].split(" You might")[0]
                raise ValueError(f"{path}: column {name!r} holds neither numbers nor ISO dates: {why}") from None
        elif _is_compact(frame[name]):
            first = int(frame[name].dropna().iloc[0])
            text = f"{first // 10_000}-{first // 100 % 100:02}-{first % 100:02}"
            raise ValueError(f"{path}: column {name!r} holds numbers that look like dates, {first}; write {text}.")
    if {"variable", "value"} <= set(frame.columns):
        return frame
    if len(found) > 1:
        raise ValueError(f"{path}: with several index columns {found} use the long form: {found}, variable, value.")
    once = [name for name in scalars if found and name in frame.columns and name != batch and len(frame)]
    held = _constants(path, frame, once, batch) if once else pd.DataFrame()
    if batch is not None and found:
        rows = frame.drop(columns=once).melt([found[0], batch], var_name="variable", value_name="value")
        if not once:
            return rows
        apart = held.reset_index().melt(batch, var_name="variable", value_name="value")
        return pd.concat([rows, apart])  # a scalar has no place along the index
    if batch is not None:
        rows = frame.set_index(batch)
        return xr.Dataset({k: (batch, x.to_numpy()) for k, x in rows.items()}, {batch: rows.index.to_numpy()})
    if not found:  # scalars and nothing else: one row
        if len(frame) != 1:
            raise ValueError(f"{path}: expected one row of scalars, got {len(frame)}.")
        return xr.Dataset({name: ((), frame[name].iloc[0]) for name in frame.columns})
    rest = [name for name in frame.columns if name not in (found[0], *once)]
    series: dict[str, Any] = {name: (found[0], frame[name].to_numpy()) for name in rest}
    series |= {str(name): ((), x.iloc[0]) for name, x in held.items()}
    return xr.Dataset(series, {found[0]: frame[found[0]].to_numpy()})


def _labels(column: pd.Series[Any]) -> pd.Series[Any]:
    """Whole numbers as such where every digit of every label is kept, else text: 01 is not 1, nor 1.10 1.1."""
    column = column.str.strip()
    whole = bool(column.str.fullmatch(r"0|-?[1-9]\d{0,17}", na=False).all())
    return column.astype("int64") if whole else column


def _not_utf8(path: Path) -> str:
    """What such a file is, and what to do: spreadsheets write other encodings as CSV or Unicode text."""
    with open(path, "rb") as file:
        first = file.read(2)
    if first == b"PK":
        return "it is a spreadsheet or another archive; save it as CSV in UTF-8"
    encoding = "utf-16" if first in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
    return (
        f"it is not written in UTF-8; if it is {encoding}, write it anew, in Python: "
        f"pathlib.Path('NEW.csv').write_text(pathlib.Path(FILE).read_text({encoding!r}), 'utf-8')"
    )


def _is_compact(column: pd.Series[Any]) -> bool:
    """Whole numbers, all of them dates as 20250901 is one."""
    import pandas as pd

    x = column.dropna()
    if not len(x) or not bool(((x > 18_000_000) & (x < 22_000_000) & (x % 1 == 0)).all()):
        return False
    return bool(pd.to_datetime(x.astype("int64").astype(str), format="%Y%m%d", errors="coerce").notna().all())


def _no_column(path: Path, name: str, held: Iterable[str]) -> str:
    return f"{path} has no column {name!r}. {did_you_mean(name, held)}It has {list(held)}."


def _constants(path: Path, frame: pd.DataFrame, names: Sequence[str], batch: str | None) -> pd.DataFrame:
    """The one value that each column has in each data set, a row a data set; blank where all of its rows are.

    Raises:
        ValueError: several values.
    """
    groups = frame.groupby((lambda _: 0) if batch is None else batch, sort=False)[list(names)]
    for name, n in groups.nunique().items():
        if (n > 1).any():
            rows = frame if batch is None else frame[frame[batch] == n.idxmax()]
            raise ValueError(
                f"{path}: {name!r} is a scalar of the model: expected one value"
                + ("" if batch is None else f" for {batch} {n.idxmax()}")
                + f", the same on all rows, got {rows[name].dropna().unique()[:3].tolist()}."
                + (" Where the file holds several data sets: --batch COLUMN." if batch is None else "")
            )
    return groups.first()


def require_netcdf(path: Path) -> None:
    """Checks that `path` can be read or written as netCDF, before any work is done for it.

    Raises:
        ValueError: another ending.
        ImportError: the extra is missing.
    """
    _require_ending(path, NETCDF)
    if find_spec("h5netcdf") is None or find_spec("h5py") is None:
        raise ImportError("netCDF files need h5netcdf and h5py: pip install 'fsimformer[files]'.")


def require_zarr() -> None:
    """Checks that Zarr can be read and written, before any work is done for it.

    Raises:
        ImportError: the extra is missing.
    """
    if find_spec("zarr") is None:
        raise ImportError("Zarr files need zarr: pip install 'fsimformer[archive]'.")


def require_no_pickle(path: Path) -> None:
    """Checks that no array of a Zarr store is decoded by unpickling, which runs what the file says.

    Raises:
        ValueError: one would be.
    """
    for card in (p for name in (".zarray", ".zmetadata", "zarr.json") for p in path.rglob(name) if p.is_file()):
        with damage_named(card, "Zarr metadata"):
            codecs = set(_codecs(json.loads(card.read_text(encoding="utf-8"))))
        if "pickle" in {name.rpartition(".")[2].lower() for name in codecs}:
            raise ValueError(
                f"{card}: its data are pickled, and unpickling would run what they say. They are not read."
            )


def _codecs(entry: Any) -> Iterator[str]:
    """Every codec's name in Zarr's metadata, of format 2 (`id`) or 3 (`name`)."""
    if isinstance(entry, dict):
        yield from (v for k, v in entry.items() if k in ("id", "name") and isinstance(v, str))
        for key, value in entry.items():
            if key != "attributes" and not key.endswith(".zattrs"):
                yield from _codecs(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from _codecs(value)


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """What goes wrong in another library while a file is read is the file's fault, and it is one ValueError."""
    try:
        yield
    except PermissionError:
        raise
    except (OSError, *DAMAGE) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(f"{path} cannot be read as {what}: {lines[0]}") from error
