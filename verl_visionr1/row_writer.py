"""Writes rows to complete files in a framework's layout, as parquet or jsonl."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowsError, disk_error, sync_folder
from verl_visionr1.row_layouts import VERL, Layout
from verl_visionr1.rows import METADATA_KEY, SCHEMA_VERSION, Row

GROUP_ROWS, GROUP_ROWS_EMBEDDED = 10_000, 100
GROUP_BYTES = 64 << 20
"""Sizes of row groups. pyarrow cannot read back a nested column of 2 GB in one group."""


def open_parquet_writer(file: BinaryIO, schema: pa.Schema, *, embed: bool) -> pq.ParquetWriter:
    """Open a parquet file; `embed`: without compression, statistics and dictionaries of image bytes, which would
    hold whole images."""
    compression = "none" if embed else "zstd"
    return pq.ParquetWriter(file, schema, compression=compression, use_dictionary=not embed, write_statistics=not embed)


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a finished `RowWriter`: the files in order, their rows and bytes."""

    files: tuple[Path, ...]
    rows: int
    size_bytes: int


class RowWriter:
    """Streams rows into parquet or jsonl with bounded memory; files are complete or absent.

    Rows go to hidden `.<name>.partial` files. When the `with` block succeeds, they are flushed and renamed; after an
    exception they are removed; after a kill the next writer to the same name replaces them. The same rows and
    provenance give the same bytes.

    `extra_info.index` is unique within the file, and across files of different provenance: its upper 31 bits are a
    hash of the provenance, its lower 32 count the rows.

    Args:
        out: `<name>.parquet`, or `.jsonl` if the layout allows it. With `shard_rows`: `<name>-00000-of-00003.parquet`
            and so on.
        embed: store image bytes (every `RowImage.data` must be set), else absolute paths.
        layout: of the framework that will read the rows.
        provenance: JSON-able facts about the source; stored in parquet's metadata under "visionr1".
        shard_rows: rows per file.

    Raises:
        RowsError: a name with another ending; embedded images in jsonl; shards of an earlier run under this name;
            another writer using it; no row written; full disk.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        embed: bool = False,
        layout: Layout = VERL,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int | None = None,
    ) -> None:
        self.out = Path(out)
        self.written: Written | None = None
        self._suffix = self.out.suffix
        if self._suffix not in layout.suffixes:
            endings = " or ".join(layout.suffixes)
            raise RowsError(f"{out}: the framework reads files that end in {endings}; change the name")
        if embed and self._suffix == ".jsonl":
            raise RowsError(f"{out}: jsonl cannot embed images; leave out --embed, or write .parquet")
        if shard_rows is not None and shard_rows < 1:
            raise RowsError(f"shard_rows = {shard_rows}: needs at least 1")
        shards = f"{escape(self.out.stem)}-[0-9]*-of-[0-9]*{self._suffix}"
        if shard_rows and (old := sorted(self.out.parent.glob(shards))):
            raise RowsError(f"{old[0]}: shards of an earlier conversion exist; remove them or choose another name")
        facts = json.dumps({"schema": SCHEMA_VERSION, **(provenance or {})}, sort_keys=True, ensure_ascii=False)
        schema = layout.schema(embed=embed)
        self._layout, self._embed, self._shard_rows = layout, embed, shard_rows
        self._schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: facts.encode()})
        self._first_index = (int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big") >> 1) << 32
        self._rows = self._buffer_bytes = 0
        self._buffer: list[Row] = []
        self._partials: list[tuple[Path, BinaryIO]] = []
        self._is_open = False
        self._parquet: pq.ParquetWriter | None = None  # of the open shard; None for jsonl

    def __enter__(self) -> RowWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._open_shard()  # takes the lock
            for left in self.out.parent.glob(f".{escape(self.out.stem)}-{'[0-9]' * 5}{self._suffix}.partial"):
                if left != self._partials[0][0]:  # from a killed run with shards
                    left.unlink()
        except OSError as error:
            self._abort()
            raise disk_error(self.out, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        except OSError as failure:
            raise disk_error(self.out, failure) from failure
        finally:
            self._abort()  # after a commit nothing is left to remove

    def write(self, row: Row) -> None:
        """Add one row; `RowsError` if the disk is full, or for an image without bytes in embed mode."""
        if self._embed and row.image.data is None:
            raise RowsError(f"{row.image.path}: embed mode needs the image's bytes; use prepare_image(..., embed=True)")
        self._buffer.append(row)
        self._buffer_bytes += len(row.image.data or b"")
        self._rows += 1
        shard_full = self._shard_rows is not None and self._rows % self._shard_rows == 0
        group_rows = GROUP_ROWS_EMBEDDED if self._embed else GROUP_ROWS
        try:
            if shard_full or len(self._buffer) >= group_rows or self._buffer_bytes >= GROUP_BYTES:
                self._flush()
            if shard_full:
                self._close_shard()
        except OSError as error:
            raise disk_error(self.out, error) from error

    def _open_shard(self) -> None:
        path = self.out.with_name(f".{self.out.stem}-{len(self._partials):05d}{self._suffix}.partial")
        self._partials.append((path, file := _open_locked(path, self.out)))
        self._is_open = True
        if self._suffix == ".parquet":
            self._parquet = open_parquet_writer(file, self._schema, embed=self._embed)

    def _flush(self) -> None:
        if not self._buffer:
            return
        if not self._is_open:
            self._open_shard()
        first_index = self._first_index + self._rows - len(self._buffer)
        if self._parquet is not None:
            self._parquet.write_batch(self._layout.record_batch(self._buffer, first_index, self._schema))
        else:
            for index, row in enumerate(self._buffer, first_index):
                line = json.dumps(self._layout.record(row, index), ensure_ascii=False)
                self._partials[-1][1].write(line.encode() + b"\n")
        self._buffer, self._buffer_bytes = [], 0

    def _close_shard(self) -> None:
        if not self._is_open:
            return
        if self._parquet is not None:
            self._parquet.close()
        self._is_open, self._parquet = False, None
        file = self._partials[-1][1]
        file.flush()
        os.fsync(file.fileno())
        if len(self._partials) > 1:  # only the first one holds the lock; closing avoids thousands of open files
            file.close()

    def _commit(self) -> None:
        self._flush()
        if self._rows == 0:
            raise RowsError(f"{self.out}: no row to write; check the filters and the skipped rows")
        self._close_shard()
        names = [self.out]
        if self._shard_rows is not None:
            total = len(self._partials)
            names = [self.out.with_name(f"{self.out.stem}-{i:05d}-of-{total:05d}{self._suffix}") for i in range(total)]
        size_bytes = sum(partial.stat().st_size for partial, _ in self._partials)
        for (partial, _), name in zip(self._partials, names, strict=True):
            os.replace(partial, name)
        sync_folder(self.out.parent)
        self._drop_partials()
        self.written = Written(tuple(names), self._rows, size_bytes)

    def _drop_partials(self) -> None:
        for _, file in self._partials:
            with suppress(OSError):  # closing flushes, which fails again on a full disk
                file.close()
        self._partials.clear()

    def _abort(self) -> None:
        for path, _ in self._partials:
            path.unlink(missing_ok=True)
        if self._parquet is not None:
            with suppress(OSError):  # closing writes a footer
                self._parquet.close()
        self._is_open, self._parquet = False, None
        self._drop_partials()


def _open_locked(path: Path, out: Path) -> BinaryIO:
    """Open an empty file for one writer: replace that of a killed run, refuse that of a running one."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise BlockingIOError  # the other writer has just renamed it
    except (BlockingIOError, FileNotFoundError):
        file.close()
        raise RowsError(f"{out}: another conversion is writing it; wait, or choose another name") from None
    except OSError:  # a file system without locks
        pass
    file.truncate(0)
    return file
