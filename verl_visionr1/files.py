"""Files that are there whole or not at all, and the errors that say what is wrong with a file or with one row of it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DISK_ERRORS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file limit"}


class RowsError(ValueError):
    """A file that cannot be read or written; one line that says what to do."""


class RowError(RowsError):
    """One row, or the image of one row, that cannot be used.

    Attributes:
        kind: short text, the same for all rows with this defect, to count by.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def disk_error(path: Path, error: OSError) -> RowsError:
    """What to raise for an `error` met while writing `path`, once its traces are removed.

    >>> print(disk_error(Path("out.parquet"), OSError(errno.ENOSPC, "No space left on device")))
    out.parquet: the disk is full; nothing was left behind: free space or write elsewhere, and run again
    """
    reason = _DISK_ERRORS.get(error.errno or 0)
    if reason is None:
        return RowsError(f"{path}: cannot write: {error.strerror or error}")
    return RowsError(f"{path}: {reason}; nothing was left behind: free space or write elsewhere, and run again")


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write, and its folder where that is missing. After a crash or a power cut it is whole, or not there.

    It appears under its name when the `with` block ends well; until then, and if it does not, an older file of that
    name is untouched.

    Raises:
        RowsError: it cannot be written.
    """
    # threads too may write one file at a time: copies of an image are named by content
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def write_whole(path: Path, data: bytes) -> None:
    """Write a file as `atomic_write` does.

    Raises:
        RowsError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut.

    Raises:
        OSError: as the system says it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of a folder and all below it, sorted; hidden folders are left out.

    Links to folders are followed, each folder once: not those to what lies in the walked folder itself, or around it.
    """
    top = os.path.realpath(folder)
    seen = {top}
    for parent, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(it for it in folders if not it.startswith(".")):
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            is_ours = f"{real}/".startswith(f"{top}/") or f"{top}/".startswith(f"{real}/")
            if real not in seen and not (is_ours and os.path.islink(path)):
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield parent, sorted(names)
