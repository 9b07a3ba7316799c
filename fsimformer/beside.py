"""Whole or not at all: what is written lies beside its place, locked, until it is moved there.

::

    runs.zarr/                    what readers see
    .runs.zarr.writing/           beside it, on the same disk, while somebody writes: the lock, and what is not finished

A rename is the commit. The lock belongs to a process and ends with it, however it ends. Locks need a POSIX system; a
single file (`replaced`) or directory (`exchange`) is written without one.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def locked(target: Path, what: str) -> Iterator[Path]:
    """The directory beside `target`, made if it is not there; one process at a time has it.

    Args:
        target: what is written.
        what: what it is, for the message.

    Raises:
        BlockingIOError: another process has it.
    """
    import fcntl

    beside = place(target)
    beside.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(open(beside / "lock", "a"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
            mine = os.fstat(lock.fileno()).st_ino == os.stat(beside / "lock").st_ino
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:  # somebody holds it, or has removed it just now
            raise BlockingIOError(f"{target}: another process is writing to this {what}.")
        yield beside


def place(target: Path) -> Path:
    """Where that directory is."""
    whole = target.absolute()
    return whole.with_name(f".{whole.name}.writing")


def sweep(beside: Path) -> None:
    """Removes what somebody left there who was killed; the lock stays."""
    for entry in beside.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)


def remove(beside: Path) -> None:
    """With all that is in it, unless the next writer, who came as soon as the lock was gone, has made it its own."""
    try:
        shutil.rmtree(beside)
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise


def commit(part: Path, target: Path) -> None:
    """Moves a finished file or directory to its place, after all of it has reached the disk."""
    settle(part)
    move(part, target)


def settle(part: Path) -> None:
    """Waits until a file, or a directory and all that is in it, is on the disk."""
    for entry in [*part.rglob("*"), part]:
        sync(entry)


def move(part: Path, target: Path) -> None:
    """As `commit`, of what is on the disk already."""
    os.rename(part, target)
    sync(target.absolute().parent)


def sync(path: Path) -> None:
    """Waits until a file, or a directory's list of names, is on the disk; not every system can wait for the latter.

    Windows, some network disks and a directory that may be written but not read cannot: what is in place stays there.
    """
    names = path.is_dir()
    if os.name == "nt" and names:
        return
    try:
        file = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        if names:
            return
        raise
    try:
        os.fsync(file)
    except OSError as error:
        if not names or error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """Where to write what shall be at `target`: beside it, with the same ending; it is moved there when all is written.

    Until then, and for ever where writing fails, `target` is what it was. A device or a pipe is written to as it is.
    """
    if target.exists() and not target.is_file():
        yield target
        return
    whole = Path(os.path.realpath(target))  # a link stays a link
    part = unfinished(whole)
    try:
        yield part
        settle(part)
        os.replace(part, whole)  # Windows renames nothing to what is there
        sync(whole.parent)
    finally:
        part.unlink(missing_ok=True)


def unfinished(target: Path) -> Path:
    """A name beside `target`, with the same ending, that no other thread, process or machine comes upon."""
    return target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}.part{target.suffix}")


def exchange(part: Path, target: Path) -> None:
    """Puts a finished directory that is on the disk in the place of another, which is then removed.

    In one step where the system has one. Elsewhere in two, and who is killed between them leaves both directories
    beside the place, the old one as `aside` calls it.
    """
    if _swapped(part, target):
        sync(target.absolute().parent)  # the new one is in its place for good before the old one goes
        shutil.rmtree(part)
        return
    old = aside(target)
    shutil.rmtree(old, ignore_errors=True)
    os.rename(target, old)
    os.rename(part, target)
    sync(target.absolute().parent)
    shutil.rmtree(old)


def aside(target: Path) -> Path:
    """Where a directory lies while another takes its place."""
    whole = target.absolute()
    return whole.with_name(f".{whole.name}.old")


def _swapped(a: Path, b: Path) -> bool:
    """Linux's renameat2(RENAME_EXCHANGE) or macOS's renamex_np(RENAME_SWAP); False where there is neither."""
    import ctypes

    with suppress(OSError, TypeError, AttributeError):  # Windows has no such library
        libc, names = ctypes.CDLL(None), (os.fsencode(a), os.fsencode(b))
        if hasattr(libc, "renameat2"):
            here = -100  # AT_FDCWD
            return bool(libc.renameat2(here, names[0], here, names[1], 2) == 0)
        return bool(libc.renamex_np(*names, 2) == 0)
    return False
