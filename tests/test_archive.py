"""An archive has a chunk or has it not, whoever writes, reads or is killed; what it has is what was simulated."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import black_boxes
import numpy as np
import pytest
import xarray as xr

import fsimformer.archive
from fsimformer.archive import Archive, Failure
from fsimformer.blocks import SIMULATION, join, row, structure_of
from fsimformer.child import Field, fields_of
from fsimformer.seeds import seed_at

Results = dict[int, Mapping[str, Field] | Failure]


def result(number: int) -> Mapping[str, Field] | Failure:
    """Every fifth simulation fails."""
    seed = seed_at(1, 7, number)
    if number % 5 == 4:
        return Failure(number, seed, "ArithmeticError", f"no {number}")
    return fields_of(black_boxes.ragged(seed))


RESULTS: Results = {k: result(k) for k in range(23)}


def filled(path: Path, n: int = 23, order: int = 1) -> Archive:
    archive = Archive.create(path, 1, 10, "ragged")
    write(archive, n, order)
    return archive


def write(archive: Archive, n: int, order: int = 1) -> None:
    with archive.writing() as writer:
        for numbers in archive.missing(n)[::order]:
            writer.write({k: RESULTS[k] for k in numbers})


def files(path: Path) -> dict[str, bytes]:
    """Name and content of every file below."""
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def require_holds(data: xr.Dataset, numbers: list[int]) -> None:
    """`data` has these simulations, padded with NaN, and no others."""
    good = [k for k in numbers if not isinstance(RESULTS[k], Failure)]
    np.testing.assert_array_equal(data[SIMULATION], good)
    for k in good:
        expected = RESULTS[k]
        assert not isinstance(expected, Failure)
        one = data.sel(simulation=k)
        n = len(expected["time"].values)
        np.testing.assert_array_equal(one["count"], n)
        np.testing.assert_array_equal(one["rate"], expected["rate"].values)
        for name in ("time", "level"):
            np.testing.assert_array_equal(one[name][:n], expected[name].values)
            assert one[name][n:].isnull().all()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    data = filled(tmp_path / "a.zarr").read()
    require_holds(data, list(range(23)))
    assert dict(data.dtypes) == {"rate": np.float64, "count": np.int64, "level": np.float32}
    assert data["time"].dims == data["level"].dims == ("simulation", "time") and "time" in data.coords
    assert data["level"].attrs == {"units": "m"} and data.attrs == {"seed": 1, "n_failed": 4}
    archive = Archive.open(tmp_path / "a.zarr")
    assert archive.failures == tuple(RESULTS[k] for k in (4, 9, 14, 19)) and len(archive) == 23
    assert archive.read(["level"]).identical(data[["level"]])
    for name in ("simulation", "rate"):
        np.testing.assert_array_equal(np.concatenate([part[name] for part in archive.datasets()]), data[name])
    with pytest.raises(KeyError, match=r"no variables \['x'\]; variables: \['rate', 'count', 'level'\]"):
        archive.read(["x"])


def test_the_order_of_writing_leaves_no_trace(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr"), filled(tmp_path / "b.zarr", order=-1)
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")


def test_an_extended_archive_is_a_longer_one(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr", 13)
    assert archive.missing(13) == [] and archive.missing(32) == [range(13, 20), range(20, 30), range(30, 32)]
    write(archive, 23)
    assert archive.read().identical(filled(tmp_path / "b.zarr").read())
    assert archive.failures == Archive.open(tmp_path / "b.zarr").failures


def test_missing_simulations_are_those_of_chunks_that_are_gone(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr")
    before = files(archive.path)
    shutil.rmtree(archive.chunks()[1].path)
    require_holds(archive.read(), [*range(10), *range(20, 23)])
    assert archive.missing(23) == [range(10, 20)]
    write(archive, 23)
    assert files(archive.path) == before


def test_a_chunk_of_failures_alone_and_no_chunk_at_all(tmp_path: Path) -> None:
    archive = Archive.create(tmp_path / "a.zarr", 1, 3, "ragged")
    assert archive.read().sizes == {"simulation": 0} and len(archive) == 0
    bad = {k: Failure(k, 0, "OSError", "full \N{SNOWMAN}") for k in range(3)}
    with archive.writing() as writer:
        writer.write(bad)
        assert archive.read().sizes == {"simulation": 0} and archive.failures == tuple(bad.values())
        writer.write({k: RESULTS[k] for k in (3,)})
    require_holds(archive.read(), [3])


@pytest.mark.parametrize("numbers", [range(5), range(10, 20), range(7, 22), range(4, 5), range(30, 40)])
def test_a_part_is_the_whole_s(tmp_path: Path, numbers: range) -> None:
    """Chunks that nobody asks for are not opened: a damaged one does not count."""
    archive = filled(tmp_path / "a.zarr")
    for c in archive.chunks():
        if c.last < numbers.start or c.first >= numbers.stop:
            (c.path / "junk").touch()
    part = archive.read(numbers=numbers)
    assert part.attrs["n_failed"] == sum(k % 5 == 4 for k in numbers if k < 23)
    require_holds(part, [k for k in numbers if k < 23])
    assert archive.holds(numbers) == (numbers.stop <= 23)


def test_other_tools_read_a_chunk_and_the_whole(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr")
    with xr.open_zarr(archive.chunks()[0].path, consolidated=False) as data:
        require_holds(data.load(), list(range(10)))
    with xr.open_datatree(archive.path, engine="zarr", consolidated=False) as tree:
        assert sorted(tree.children) == [c.path.name for c in archive.chunks()] and tree.attrs["fsimformer_archive"]


def test_nothing_in_it_is_code(tmp_path: Path) -> None:
    """Plain numbers in zstd, and JSON: no codec that unpickles, no object."""
    archive, kinds = filled(tmp_path / "a.zarr"), set()
    for name, content in files(archive.path).items():
        if name.endswith("zarr.json"):
            about = json.loads(content)
            if about["node_type"] == "array":
                kinds |= {about["data_type"], *(codec["name"] for codec in about["codecs"])}
        else:
            assert "/c/" in name
    assert kinds == {"int64", "float64", "float32", "bytes", "zstd"}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted", "added"])
def test_a_damaged_chunk_is_refused(tmp_path: Path, damage: str) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    for file in [p for p in archive.chunks()[0].path.rglob("*") if p.is_file()]:
        content = file.read_bytes()
        match damage:
            case "truncated":
                file.write_bytes(content[:-1])
            case "flipped":
                file.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
            case "deleted":
                file.unlink()
            case "added":
                (file.parent / "x").touch()
        with pytest.raises(ValueError, match="chunk-000000000-000000009-.* is damaged: its files have the digest"):
            archive.read()
        (file.parent / "x").unlink(missing_ok=True)
        file.write_bytes(content)
    require_holds(archive.read(), list(range(10)))


def test_a_damaged_list_of_failures_is_refused(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    (archive.chunks()[0].path / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match="chunk-000000000-000000009-.* is damaged: JSONDecodeError"):
        _ = archive.failures


def test_a_damaged_or_foreign_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    card = archive.path / "zarr.json"
    text = card.read_text()
    for n in range(0, len(text) - 2, 7):
        card.write_text(text[:n])
        with pytest.raises(ValueError, match="zarr.json is damaged: "):
            Archive.open(archive.path)
    card.write_text(text.replace('"seed": 1', '"seed": 2'))
    with pytest.raises(ValueError, match="is damaged: its digest is not that of its content"):
        Archive.open(archive.path)
    xr.Dataset({"a": 1.0}).to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False)
    with pytest.raises(ValueError, match=r"no archive of fsimformer; read it with xarray.open_zarr"):
        Archive.open(tmp_path / "b.zarr")
    with pytest.raises(FileNotFoundError, match=r"c.zarr is no archive: no zarr.json"):
        Archive.open(tmp_path / "c.zarr")
    with pytest.raises(FileExistsError, match=r"b.zarr exists"):
        Archive.create(tmp_path / "b.zarr", 1, 10, "ragged")
    with monkeypatch.context() as patch:
        patch.setattr(fsimformer.archive, "FORMAT", 2)
        Archive.create(tmp_path / "d.zarr", 1, 10, "ragged")
    with pytest.raises(ValueError, match="has the format 2; this version reads 1"):
        Archive.open(tmp_path / "d.zarr")


def test_chunks_that_overlap_are_refused(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    other = filled(tmp_path / "b.zarr", 13).chunks()[0]
    shutil.copytree(other.path, archive.path / other.path.name.replace("000000009", "000000010"))
    with pytest.raises(ValueError, match="chunk-000000000-000000009-.* and chunk-000000000-000000010-.* hold the same"):
        archive.chunks()


@pytest.mark.parametrize("stops", ["to_zarr", "fsync", "rename"])
def test_who_stops_at_any_step_leaves_the_last_good_state(
    tmp_path: Path, stops: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is half written lies beside the archive; the next writer sweeps it away."""
    archive = filled(tmp_path / "a.zarr", 10)
    before = files(archive.path)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((xr.Dataset, stops) if stops == "to_zarr" else (os, stops)), stop)
        patch.setattr(shutil, "rmtree", lambda _: None)  # who is killed sweeps nothing
        with pytest.raises(KeyboardInterrupt):
            write(archive, 23)
    assert files(archive.path) == before and (tmp_path / ".a.zarr.writing" / "lock").exists()
    assert (tmp_path / ".a.zarr.writing" / "chunk").exists() == (stops != "to_zarr")
    write(archive, 23)
    assert files(archive.path) == files(filled(tmp_path / "b.zarr").path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]


def test_one_writes_at_a_time(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    with archive.writing(), pytest.raises(BlockingIOError, match="another process is writing"):
        write(Archive.open(archive.path), 23)
    write(archive, 23)
    require_holds(archive.read(), list(range(23)))


def test_simulations_that_differ_in_kind_are_refused(tmp_path: Path) -> None:
    archive = filled(tmp_path / "a.zarr", 10)
    before = files(archive.path)
    other = fields_of({"rate": 1.0})
    with archive.writing() as writer:
        with pytest.raises(ValueError, match="Simulations 10 to 10 have the variables and dims {'rate': .*; those of"):
            writer.write({10: other})
        with pytest.raises(ValueError, match="Simulations 10 and 11 differ in their variables or dims"):
            writer.write({10: RESULTS[10], 11: other})
    assert files(archive.path) == before


def test_attributes_are_those_that_all_agree_on_and_units_must(tmp_path: Path) -> None:
    """A number means something else in other units: within a chunk and between chunks."""

    def one(**attrs: Any) -> dict[str, Field]:
        return fields_of({"x": ("t", [1.0, 2.0], attrs), "t": ("t", [0.0, 1.0], attrs)})

    a, b, c = (one(units="m", note="a", run=k) for k in range(3))
    joined = join([row(0, a), row(1, b), row(2, c)])
    assert joined["x"].attrs == joined["t"].attrs == {"units": "m", "note": "a"}
    assert join([join([row(0, a), row(1, b)]), row(2, c)])["x"].attrs == joined["x"].attrs
    for other in (one(units="km"), one()):
        with pytest.raises(ValueError, match="differ in the units of 'x': \\['m', (None|'km')\\]; expected the same"):
            join([row(0, a), row(1, other)])
        archive = Archive.create(tmp_path / f"{len(other['x'].attrs)}.zarr", 1, 1, "own")
        with archive.writing() as writer:
            writer.write({0: a})
            with pytest.raises(ValueError, match="Simulations 1 to 1 have the units .*; those of chunk-000000000-"):
                writer.write({1: other})
            writer.write({1: b})
        assert archive.read()["x"].attrs == {"units": "m", "note": "a"}


def test_a_coordinate_that_all_share_stays_one_row() -> None:
    def at(number: int, times: list[float], values: list[Any]) -> dict[str, Field]:
        return row(number, fields_of({"time": ("time", times), "x": ("time", values)}))

    shared = join([at(0, [1.0, 2.0], [3, 4]), at(1, [1.0, 2.0], [5, 6])])
    assert shared["time"].dims == ("time",) and shared["x"].values.tolist() == [[3, 4], [5, 6]]
    mixed = join([shared, at(2, [1.0], [7])])
    np.testing.assert_array_equal(mixed["time"].values, [[1, 2], [1, 2], [1, np.nan]])
    np.testing.assert_array_equal(mixed["x"].values, [[3, 4], [5, 6], [7, np.nan]])
    assert structure_of(mixed) == structure_of(shared) == {"time": ["time"], "x": ["time"]}


@pytest.mark.parametrize("word", ["scale_factor", "add_offset", "_FillValue", "missing_value", "dtype", "coordinates"])
def test_attributes_that_mean_something_to_files_mean_nothing_here(tmp_path: Path, word: str) -> None:
    """xarray would multiply by a `scale_factor`, or take a `missing_value` for NaN."""
    archive, attrs = Archive.create(tmp_path / "a.zarr", 1, 3, "own"), {word: "bool" if word == "dtype" else 2}
    with archive.writing() as writer:
        writer.write({0: fields_of({"x": ("time", [0.0, 1.0, 2.0], attrs)})})
    x = archive.read()["x"]
    np.testing.assert_array_equal(x, [[0.0, 1.0, 2.0]])
    assert x.dtype == np.float64 and x.attrs == attrs


def test_writers_who_come_while_another_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last two steps of leaving, the lock gone and the directory not yet: both writers are right."""
    archive, rmdir = filled(tmp_path / "a.zarr", 10), os.rmdir

    def late(path: Any, *args: Any, **kwargs: Any) -> None:
        if str(path).endswith(".writing"):
            (tmp_path / ".a.zarr.writing" / "lock").touch()
        rmdir(path, *args, **kwargs)

    monkeypatch.setattr(os, "rmdir", late)
    write(archive, 20)
    monkeypatch.setattr(os, "rmdir", rmdir)
    write(archive, 23)
    assert archive.missing(23) == [] and sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)  # it was there, and is gone before its lock is opened
    with pytest.raises(BlockingIOError, match="another process is writing"), archive.writing():
        pass


def test_attributes_and_sizes_that_files_have_opinions_about(tmp_path: Path) -> None:
    """Units of time stay words beside numbers; a series may be empty."""
    archive = Archive.create(tmp_path / "a.zarr", 1, 3, "own")
    units = {"units": "days since 2020-01-01"}
    for n in (0, 2):
        values = {
            "x": ("time", np.arange(n)),
            "time": ("time", np.arange(n) / 4, units),
            "d": ((), 3, {"units": "days"}),
        }
        with archive.writing() as writer:
            writer.write({n: fields_of(values)})
    data = archive.read()
    np.testing.assert_array_equal(data["time"], [[np.nan, np.nan], [0, 0.25]])
    np.testing.assert_array_equal(data["x"], [[np.nan, np.nan], [0, 1]])
    assert data["d"].dtype == np.int64 and data["d"].attrs == {"units": "days"} and data["time"].attrs == units


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_joining_in_parts_is_joining_at_once(cut: int) -> None:
    rng = np.random.default_rng(cut)
    rows = []
    for k in range(5):
        n, m = rng.integers(1, 4, 2)
        kind = rng.choice(["f4", "f8", "i4", "?"])
        x = rng.integers(0, 2, (n, m)).astype(kind)
        rows.append(row(k, fields_of({"x": (("a", "b"), x), "a": ("a", np.arange(n)), "s": x[0, 0]})))
    whole, parts = join(rows), join([join(rows[:cut]), join(rows[cut:])])
    assert list(whole) == list(parts)
    for name, field in whole.items():
        assert field.dims == parts[name].dims
        np.testing.assert_array_equal(field.values, parts[name].values)
