"""Atomic writes of files, reading them, and errors that name a file or one of its rows."""

from __future__ import annotations

import csv
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DISK_ERRORS = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file limit"}


class RowsError(ValueError):
    """A file that cannot be read or written; the message is one line with the remedy."""


class RowError(RowsError):
    """An unusable row, or an unusable image of a row.

    Attributes:
        kind: short text, equal for all rows with this defect, for counting.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def disk_error(path: Path, error: OSError) -> RowsError:
    """Return the error to raise after an `error` in writing `path`; the partial file must be removed.

    >>> print(disk_error(Path("out.parquet"), OSError(errno.ENOSPC, "No space left on device")))
    out.parquet: the disk is full; nothing was left behind: free space or write elsewhere, and run again
    """
    if error.errno not in _DISK_ERRORS:
        return RowsError(f"{path}: cannot write: {error.strerror or error}")
    advice = "nothing was left behind: free space or write elsewhere, and run again"
    return RowsError(f"{path}: {_DISK_ERRORS[error.errno]}; {advice}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in errors raised while reading it."""
    try:
        yield
    except FileNotFoundError:
        raise RowsError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise RowsError(f"{path}: cannot be read: {error}; save it as UTF-8") from None
    except csv.Error as error:
        raise RowsError(f"{path}: cannot be read as a table: {error}; correct it") from None
    except OSError as error:
        raise RowsError(f"{path}: cannot be read: {error.strerror or error}; check the path") from None


def read_bytes(path: Path) -> bytes:
    """Read a whole file; `RowsError` if it cannot be read."""
    with reading(path):
        return path.read_bytes()


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for an atomic write, and create its folder. After a crash or power cut it is complete or absent.

    The file gets its name when the `with` block succeeds; until then an older file of that name is unchanged.
    `RowsError` if it cannot be written.
    """
    # Two threads may write the same file: copies of an image are named by content.
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
    """Write a file atomically, see `atomic_write`; `RowsError` if it cannot be written."""
    with atomic_write(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut; raises the system's `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) for a folder and its subfolders, sorted, without hidden folders.

    Links to folders are followed, each folder once, except links to folders in the walked folder or above it.
    """
    top = os.path.realpath(folder)
    seen = {top}
    for parent, folders, names in os.walk(folder, followlinks=True):
        kept = []
        for name in sorted(it for it in folders if not it.startswith(".")):
            path = os.path.join(parent, name)
            real = os.path.realpath(path)
            is_related = f"{real}/".startswith(f"{top}/") or f"{top}/".startswith(f"{real}/")
            if real not in seen and not (is_related and os.path.islink(path)):
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield parent, sorted(names)
