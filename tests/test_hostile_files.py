"""Files that are damaged, or made to do harm: one clear error, nothing executed, nothing half loaded."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import joint

import fsimformer as fsf
import fsimformer.model_file
from fsimformer.archive import Archive, Failure
from fsimformer.archive import _digest as digest
from fsimformer.archive import _digest_of_json as digest_of_json
from fsimformer.beside import replaced
from fsimformer.files import read_observations
from fsimformer.folder import CARD, WEIGHTS

PATIENT = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "model"
    joint().save(path)
    return path


@pytest.fixture
def saved(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def refused_or_same(path: Path, finger: str) -> None:
    """It loads with the same weights, its settings told in other words, or is a ValueError that names the file."""
    try:
        again = fsf.load(path)
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert again.model.fingerprint == finger or again.model.whitening != joint().model.whitening


@PATIENT
@given(st.integers(0, 2**31), st.integers(0, 255), st.booleans())
def test_a_byte_of_the_card_or_its_end_is_lost(whole: Path, tmp_path: Path, at: int, byte: int, cut: bool) -> None:
    text = (whole / CARD).read_bytes()
    k = at % len(text)
    wrong = text[:k] if cut else text[:k] + bytes([byte]) + text[k + 1 :]
    path = tmp_path / "model"
    path.mkdir(exist_ok=True)
    shutil.copy(whole / WEIGHTS, path / WEIGHTS)
    (path / CARD).write_bytes(wrong)
    refused_or_same(path, joint().model.fingerprint)


@PATIENT
@given(st.integers(0, 2**31), st.integers(0, 255), st.booleans())
def test_a_byte_of_the_weights_header_or_their_end_is_lost(
    whole: Path, tmp_path: Path, at: int, byte: int, cut: bool
) -> None:
    """A flipped bit among the numbers is another number: that the file cannot tell. Its header it can."""
    data = (whole / WEIGHTS).read_bytes()
    k = at % (len(data) if cut else 8 + struct.unpack("<Q", data[:8])[0])
    path = tmp_path / "model"
    path.mkdir(exist_ok=True)
    shutil.copy(whole / CARD, path / CARD)
    (path / WEIGHTS).write_bytes(data[:k] if cut else data[:k] + bytes([byte]) + data[k + 1 :])
    try:
        again = fsf.load(path)
    except ValueError as error:
        assert "weights of this model" in str(error) or "is damaged" in str(error)
        return
    assert set(again.model.denoiser.state_dict()) == set(load_file(whole / WEIGHTS))


def change(path: Path, *keys: Any, to: Any) -> None:
    card = entry = json.loads((path / CARD).read_text())
    for key in keys[:-1]:
        entry = entry[key]
    entry[keys[-1]] = to
    (path / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(
    ("keys", "to", "message"),
    [
        (("network", "width"), 50_000, "are not those of a network of width 50000"),
        (("network", "depth"), 90_000, "are not those of a network of width 16 and depth 90000"),
        (("network", "width"), 10**12 + 1, r"network: expected \['width'\] of at most 100,000, got 1000000000001"),
        (("network", "width"), 10**30, "network: expected width as int, got 1000000000"),
        (("network", "width"), "16", "network: expected width as int, got '16'"),
        (("network", "depth"), True, "network: expected depth as int, got True"),
        (("network", "value_frequency"), float("nan"), "network: expected value_frequency as float, got nan"),
        (("schema", "dims", 0, "lower"), "0", "Index: expected lower as float, got '0'"),
        (("schema", "dims", 0, "name"), 7, "Index: expected name as str, got 7"),
        (("schema", "dims", 0, "origin"), ["2020-01-01"], "Index: expected origin as str | None, got"),
        (("schema", "dims", 1, "size"), 10**9, "uses_index is not that of the schema"),
        (("schema", "variables", 0, "prior", "lower"), float("nan"), "Uniform: expected lower as float, got nan"),
        (
            ("schema", "variables", 0, "name"),
            "../../etc/passwd",
            "unknown parent 'a'",
        ),
        (("whitening", "y", "scale"), 0.0, r"Whitening of 'y': expected scale > 0"),
        (("whitening", "y", "loc"), float("inf"), "Whitening of 'y': expected loc as float, got inf"),
        (("value_range", "y"), [float("nan"), 1.0], "expected value_range"),
        (("value_range", "y"), [2.0, 1.0], "expected value_range"),
        (("provenance",), [1], "expected provenance as an object, got list"),
    ],
)
def test_a_card_of_wrong_types_or_sizes(saved: Path, keys: tuple[Any, ...], to: Any, message: str) -> None:
    """Before memory is spent on what it says."""
    change(saved, *keys, to=to)
    with pytest.raises(ValueError, match=message) as error:
        fsf.load(saved)
    assert str(saved) in str(error.value)


def test_json_that_is_no_card(saved: Path) -> None:
    text = (saved / CARD).read_text()
    deep, long, twice = "[" * 200_000, '{"format": ' + "9" * 10_000 + "}", text.replace("{", '{"format": 2, ', 1)
    for wrong in (deep, long, twice, text.replace('"format": 2', '"format": NaN', 1), "\ufeff" + text, "\x00" * 50):
        (saved / CARD).write_text(wrong)
        with pytest.raises(ValueError, match="is not valid JSON|expected format 2"):
            fsf.load(saved)


def header(data: bytes, edit: Callable[[dict[str, Any]], None]) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    edit(entries)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def test_weights_whose_header_lies(saved: Path) -> None:
    data = (saved / WEIGHTS).read_bytes()
    entries = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    first, second = [k for k in entries if k != "__metadata__"][:2]

    def overlap(e: dict[str, Any]) -> None:
        e[second] = e[first]

    def outside(e: dict[str, Any]) -> None:
        e[first]["data_offsets"][1] += 10**9

    def huge(e: dict[str, Any]) -> None:
        e[first]["shape"] = [2**62, 2**62]

    def dtype(e: dict[str, Any]) -> None:
        e[first]["dtype"] = "I32"

    def unknown(e: dict[str, Any]) -> None:
        e[first]["dtype"] = "pickle"

    def path(e: dict[str, Any]) -> None:
        e["../../" + first] = e.pop(first)

    def negative(e: dict[str, Any]) -> None:
        e[first]["data_offsets"] = [-4, 4]

    lies = [header(data, edit) for edit in (overlap, outside, huge, dtype, unknown, path, negative)]
    lies += [struct.pack("<Q", 2**63) + data[8:], struct.pack("<Q", 10**7) + data[8:]]
    for lie in lies:
        (saved / WEIGHTS).write_bytes(lie)
        with pytest.raises(ValueError, match="does not hold the weights of this model|is damaged: expected"):
            fsf.load(saved)


def test_weights_that_are_no_numbers(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    name = next(k for k, p in joint().model.denoiser.named_parameters() if p.numel() > 1)
    for wrong, message in (
        (torch.full_like(tensors[name], torch.nan), "to be finite"),
        (tensors[name].int(), "as torch.float32, got torch.int32"),
        (tensors[name].double(), "as torch.float32, got torch.float64"),
    ):
        save_file({**tensors, name: wrong}, saved / WEIGHTS)
        with pytest.raises(ValueError, match=message):
            fsf.load(saved)


TABLES = [
    (b"", "cannot be read as a table: No columns"),
    (bytes(range(11, 256)), "cannot be read as a table"),
    (
        "time,y\n0,1\n".encode("utf-16"),
        r"cannot be read as a table: it is not written in UTF-8; if it is utf-16, .*read_text\('utf-16'\), 'utf-8'\)",
    ),
    (
        "Tag,Fälle\n0,1\n".encode("latin-1"),
        "cannot be read as a table: it is not written in UTF-8; if it is cp1252, write it anew, in Python: ",
    ),
    (b"PK\x03\x04\xff\xfe", "it is a spreadsheet or another archive; save it as CSV in UTF-8"),
    (b"time\ty\n0\t1\n", "its fields are separated by tabs; call it a.tsv"),
    (b"time;y\n0;1\n", "its fields are separated by semicolons; write it anew with commas, in Python: pandas.read_csv"),
    (b"time,y\n0,1,5\n1,2,6\n", "rows have more fields than its header"),
    (b"time,y\n0,1\n1,2,6\n", "cannot be read as a table: Error tokenizing"),
    (b'time,y\n0,"1\n', "cannot be read as a table"),
    (b"time,y,y\n0,1,2\n", r"expected each column once, \['y'\] come twice"),
    (b"time,y\n01/02/2020,1\n", "holds neither numbers nor ISO dates"),
]


@pytest.mark.parametrize(("data", "message"), TABLES)
def test_tables_that_pandas_would_misread_or_name_in_its_own_words(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        read_observations(tmp_path / "a.csv", ["time"])
    assert str(error.value).startswith(str(tmp_path / "a.csv"))


def test_a_separator_at_the_end_of_every_row_shifts_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,y\n0,3,\n1,4,\n")
    data = read_observations(tmp_path / "a.csv", ["time"])
    assert isinstance(data, xr.Dataset) and data["time"].values.tolist() == [0, 1]
    assert data["y"].values.tolist() == [3, 4]


def test_rows_of_commas_at_the_end_of_a_spreadsheet_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,region,y\n0,1,3\n1,1,\n,,\n,,\n")
    frame = read_observations(tmp_path / "a.csv", ["time"], "region")
    assert frame["region"].tolist() == [1, 1] and frame["region"].dtype.kind == "i"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
@PATIENT
def test_numbers_of_a_table_are_read_to_the_last_bit(tmp_path: Path, values: list[float]) -> None:
    (tmp_path / "a.csv").write_text("time,y\n" + "".join(f"{k},{v!r}\n" for k, v in enumerate(values)))
    data = read_observations(tmp_path / "a.csv", ["time"])
    assert isinstance(data, xr.Dataset) and [float(x).hex() for x in data["y"].values] == [v.hex() for v in values]


@pytest.mark.parametrize("data", [b"", b"junk" * 50, b"\x89HDF\r\n\x1a\n" + b"\0" * 600])
def test_netcdf_that_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.nc").write_bytes(data)
    with pytest.raises(ValueError, match="a.nc cannot be read as netCDF 4: "):
        read_observations(tmp_path / "a.nc", [])


def test_netcdf_3_truncated_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.nc").write_bytes(b"CDF\x01" + b"\0" * 60)
    with pytest.raises(ValueError, match="it is netCDF 3; turn it into netCDF 4 first"):
        read_observations(tmp_path / "a.nc", [])
    xr.Dataset({"y": ("time", np.arange(500.0))}, {"time": np.arange(500.0)}).to_netcdf(
        tmp_path / "b.nc", engine="h5netcdf"
    )
    data = (tmp_path / "b.nc").read_bytes()
    for k in (10, len(data) // 3, len(data) // 2, len(data) - 1):
        (tmp_path / "b.nc").write_bytes(data[:k])
        with pytest.raises(ValueError, match="b.nc cannot be read as netCDF 4"):
            read_observations(tmp_path / "b.nc", [])
    (tmp_path / "c.zarr").write_text("no store")
    (tmp_path / "d.zarr").mkdir()
    for name in ("c.zarr", "d.zarr"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as Zarr"):
            read_observations(tmp_path / name, [])


class Bomb:
    def __init__(self, where: Path) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.where),)


def test_a_zarr_store_that_is_decoded_by_unpickling(tmp_path: Path) -> None:
    """Older versions of numcodecs do, the newest can be told to."""
    store = tmp_path / "evil.zarr"
    (store / "y").mkdir(parents=True)
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / "y" / ".zattrs").write_text('{"_ARRAY_DIMENSIONS": ["time"]}')
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "compressor": None, "fill_value": None}
    array |= {"order": "C", "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}
    escaped = json.dumps(array).replace("pickle", "\\u0070ickle")
    (store / "y" / ".zarray").write_text(escaped)
    (store / "y" / "0").write_bytes(pickle.dumps([Bomb(tmp_path / "ran")]))
    with pytest.raises(ValueError, match="its data are pickled, and unpickling would run what they say"):
        read_observations(store, [])
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_was_made_to_deceive(tmp_path: Path) -> None:
    """Digests guard against accidents; whoever writes them can write others."""
    archive = Archive.create(tmp_path / "a.zarr", 1, 10, "box")
    with archive.writing() as writer:
        writer.write({0: Failure(0, 3, "E", "m")})
    card = json.loads((archive.path / "zarr.json").read_text())
    (chunk,) = archive.chunks()
    for key, value in (("chunk", 0), ("chunk", "ten"), ("seed", None), ("schema", {"variables": 3}), ("format", "1")):
        about = card["attributes"]["fsimformer_archive"] | {key: value}
        attributes = {"fsimformer_archive": about, "digest": digest_of_json(about)}
        (archive.path / "zarr.json").write_text(json.dumps(card | {"attributes": attributes}))
        with pytest.raises(ValueError, match="zarr.json is damaged"):
            Archive.open(archive.path)
    (archive.path / "zarr.json").write_text(json.dumps(card))
    held = json.loads((chunk.path / "zarr.json").read_text())
    for failures in ([{"number": 7}], [{"number": 99, "seed": 1, "error": "E", "message": "m"}], {"a": 1}, [3]):
        held["attributes"]["fsimformer_archive"]["failures"] = failures
        (chunk.path / "zarr.json").write_text(json.dumps(held))
        place = archive.path / f"chunk-000000000-000000000-{digest(chunk.path)}"
        chunk.path.rename(place)
        (chunk,) = archive.chunks()
        for read in (archive.read, lambda: archive.failures):
            with pytest.raises(ValueError, match="is damaged"):
                read()
    chunk.path.rename(archive.path / f"chunk-000000009-000000000-{digest(chunk.path)}")
    with pytest.raises(ValueError, match="is no chunk of at most 10 simulations"):
        archive.chunks()


def test_what_cannot_be_written_whole_is_not_written(tmp_path: Path) -> None:
    target = tmp_path / "draws.nc"
    target.write_text("last good")
    link = tmp_path / "link.nc"
    link.symlink_to(target)
    for name in (target, link):
        with pytest.raises(OSError, match="disk"), replaced(name) as part:
            part.write_text("half")
            raise OSError("disk full")
        assert target.read_text() == "last good"
    with replaced(link) as part:
        assert part.suffix == ".nc" and part.parent == tmp_path
        part.write_text("new")
    assert link.is_symlink() and target.read_text() == "new"
    with replaced(Path("/dev/null")) as part:
        assert part == Path("/dev/null")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["draws.nc", "link.nc"]


def test_a_model_that_is_replaced_while_it_is_read_is_not_read_half(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card of one and the weights of another fit each other, and their draws would be nobody's."""
    read = fsimformer.model_file.read_weights

    def late(path: Path) -> Any:
        joint(seed=1).save(path)
        return read(path)

    monkeypatch.setattr(fsimformer.model_file, "read_weights", late)
    with pytest.raises(ValueError, match="was replaced while it was read; load it again"):
        fsf.load(saved)
    monkeypatch.undo()
    assert fsf.load(saved).provenance == {"seed": 1}


def test_warnings_and_generators_are_left_alone(saved: Path) -> None:
    """A refusal changes nothing beside it."""
    change(saved, "network", "width", to=10**9)
    state = torch.get_rng_state()
    with warnings.catch_warnings(), pytest.raises(ValueError):
        warnings.simplefilter("error")
        fsf.load(saved)
    assert torch.equal(torch.get_rng_state(), state)
