"""THE parquet schema of a row, its writer and its reader.

A row is one question about one image, in the layout that verl's `RLHFDataset` reads:

    data_source   string                                       groups verl's validation metrics
    prompt        list<struct<role, content>>                  content starts with a literal "<image>"
    images        list<string> | list<struct<bytes>>           path mode (absolute paths) | embed mode (raw file bytes)
    ability       string                                       the task
    reward_model  struct<style, ground_truth>                  ground_truth is `Target.to_json()`
    extra_info    struct<split, index, image_id, width, height, task, question, file_name, source_ann>

Both schemas are frozen: verl concatenates files, and a column of another type stops the trainer at its start.
Path-mode and embed-mode files cannot be mixed in one run. Road of a row: `images.prepare_image` ->
`images.in_upright_frame` -> `Target` -> `Row` -> `RowWriter`; `tools.doctor.check_parquet` looks at the result, or at
anybody's file, before a training run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowError, RowsError, disk_error, sync_folder
from verl_visionr1.images import RowImage
from verl_visionr1.targets import Target, TargetError

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""Texts that verl cuts a prompt at; a question must not hold one."""
METADATA_KEY = b"visionr1"
"""Key of the provenance (JSON) in the parquet metadata."""
SCHEMA_VERSION = 1
CONVERT_AGAIN = "convert it again with `visionr1 convert`"
"""What to do about a file that is not as this module writes it."""

_PATH_GROUP_ROWS = 10_000
_EMBED_GROUP_ROWS = 100
_EMBED_GROUP_BYTES = 64 << 20  # pyarrow cannot read back a nested column of 2 GB in one row group


def _schema(image: pa.DataType) -> pa.Schema:
    text, whole = pa.string(), pa.int64()
    return pa.schema(
        [
            ("data_source", text),
            ("prompt", pa.list_(pa.struct([("role", text), ("content", text)]))),
            ("images", pa.list_(image)),
            ("ability", text),
            ("reward_model", pa.struct([("style", text), ("ground_truth", text)])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("split", text),
                        ("index", whole),
                        ("image_id", text),
                        ("width", whole),
                        ("height", whole),
                        ("task", text),
                        ("question", text),
                        ("file_name", text),
                        ("source_ann", text),
                    ]
                ),
            ),
        ]
    )


PATH_SCHEMA = _schema(pa.string())
"""Images as absolute paths: small files, and the images stay out of Ray's messages."""
EMBED_SCHEMA = _schema(pa.struct([("bytes", pa.binary())]))
"""Images as the raw bytes of their files: one file to ship. No further key may stand beside `bytes` (verl)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question about one image.

    Attributes:
        question: the user's turn without "<image>", which the writer puts first.
        target: ground truth, in the frame of `image.size_wh`.
        image_id, file_name, source_ann: where it came from (`source_ann`: JSON).

    Raises:
        RowError: a placeholder of verl in the question, or a target of another size than the image.
    """

    data_source: str
    question: str
    image: RowImage
    target: Target
    split: str = "train"
    image_id: str = ""
    file_name: str = ""
    source_ann: str = "{}"

    def __post_init__(self) -> None:
        found = [text for text in PLACEHOLDERS if text in self.question]
        if found:
            reason = f"{self.image.path}: the question {self.question!r} holds {found[0]}, which verl takes for a file"
            raise RowError("placeholder in the question", f"{reason}; rename the category or mend the template")
        if tuple(self.target.size_wh) != self.image.size_wh:
            reason = f"{self.image.path}: the target is for size_wh {tuple(self.target.size_wh)}"
            raise RowError("target of another size", f"{reason}, the image has {self.image.size_wh}")


# ------------------------------------------------------------------------------------------------ writer


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished `RowWriter` left on disk: the files in order, their rows and bytes."""

    files: tuple[Path, ...]
    rows: int
    size_bytes: int


class RowWriter:
    """Streams rows into parquet with bounded memory; the files appear whole, or not at all.

    Rows go to hidden `.<name>.partial` files, which no `*.parquet` pattern finds; they are flushed to disk and renamed
    when the `with` block ends well. After an exception they are removed; after a kill they stay, and the next writer
    to the same name takes them over. The same rows and provenance give the same bytes.

    Args:
        out: `<name>.parquet`. With `shard_rows`: `<name>-00000-of-00003.parquet` and so on.
        embed: store image bytes (every `RowImage.data` must be set), else absolute paths.
        provenance: JSON-able facts of where the rows come from; kept in the metadata under "visionr1".
        shard_rows: rows a file.

    Raises:
        RowsError: a name without `.parquet`; shards of an earlier run under this name; another writer at work on it;
            no row written; the disk full.

    `extra_info.index` is unique within the file, and across files of different provenance: its upper 31 bits are a
    hash of the provenance, its lower 32 count the rows.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        embed: bool = False,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int | None = None,
    ) -> None:
        self.out = Path(out)
        self.written: Written | None = None
        if self.out.suffix != ".parquet":
            raise RowsError(f"{out}: verl reads only names that end in .parquet; add it")
        if shard_rows is not None and shard_rows < 1:
            raise RowsError(f"shard_rows = {shard_rows}: needs at least 1")
        if shard_rows and (old := sorted(self.out.parent.glob(f"{escape(self.out.stem)}-[0-9]*-of-[0-9]*.parquet"))):
            raise RowsError(f"{old[0]}: shards of an earlier conversion are there; remove them or choose another name")
        facts = json.dumps({"schema": SCHEMA_VERSION, **(provenance or {})}, sort_keys=True, ensure_ascii=False)
        self._schema = (EMBED_SCHEMA if embed else PATH_SCHEMA).with_metadata({METADATA_KEY: facts.encode()})
        self._first_index = (int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big") >> 1) << 32
        self._embed = embed
        self._shard_rows = shard_rows
        self._rows = 0
        self._buffer: list[Row] = []
        self._buffer_bytes = 0
        self._partials: list[tuple[Path, BinaryIO]] = []
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> RowWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._open_shard()  # takes the lock
            for left in self.out.parent.glob(f".{escape(self.out.stem)}-{'[0-9]' * 5}.parquet.partial"):
                if left != self._partials[0][0]:  # by a killed run with shards
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
        """Take one row.

        Raises:
            RowsError: the disk is full, or an image without bytes in embed mode.
        """
        if self._embed and row.image.data is None:
            raise RowsError(f"{row.image.path}: embed mode needs the image's bytes; prepare_image(..., embed=True)")
        self._buffer.append(row)
        self._buffer_bytes += len(row.image.data or b"")
        self._rows += 1
        shard_full = self._shard_rows is not None and self._rows % self._shard_rows == 0
        group_rows = _EMBED_GROUP_ROWS if self._embed else _PATH_GROUP_ROWS
        try:
            if shard_full or len(self._buffer) >= group_rows or self._buffer_bytes >= _EMBED_GROUP_BYTES:
                self._flush()
            if shard_full:
                self._close_shard()
        except OSError as error:
            raise disk_error(self.out, error) from error

    def _open_shard(self) -> None:
        path = self.out.with_name(f".{self.out.stem}-{len(self._partials):05d}.parquet.partial")
        file = _open_locked(path, self.out)
        self._partials.append((path, file))
        self._parquet = pq.ParquetWriter(
            file,
            self._schema,
            # statistics and dictionaries of image bytes would hold whole images, and JPEG does not compress further
            compression="none" if self._embed else "zstd",
            use_dictionary=not self._embed,
            write_statistics=not self._embed,
        )

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._parquet is None:
            self._open_shard()
        assert self._parquet is not None
        first = self._first_index + self._rows - len(self._buffer)
        self._parquet.write_batch(_record_batch(self._buffer, first, self._schema))
        self._buffer, self._buffer_bytes = [], 0

    def _close_shard(self) -> None:
        if self._parquet is not None:
            self._parquet.close()
            self._parquet = None
            file = self._partials[-1][1]
            file.flush()
            os.fsync(file.fileno())
            if len(self._partials) > 1:  # the first one holds the lock; thousands of open files are too many
                file.close()

    def _commit(self) -> None:
        self._flush()
        if self._rows == 0:
            raise RowsError(f"{self.out}: no row to write; look at the filters and at what was skipped")
        self._close_shard()
        names = [self.out]
        if self._shard_rows is not None:
            total = len(self._partials)
            names = [self.out.with_name(f"{self.out.stem}-{i:05d}-of-{total:05d}.parquet") for i in range(total)]
        size_bytes = sum(partial.stat().st_size for partial, _ in self._partials)
        for (partial, _), name in zip(self._partials, names, strict=True):
            os.replace(partial, name)
        sync_folder(self.out.parent)
        self._drop_partials()
        self.written = Written(tuple(names), self._rows, size_bytes)

    def _drop_partials(self) -> None:
        for _, file in self._partials:
            with suppress(OSError):  # closing flushes: on a full disk that fails again
                file.close()
        self._partials.clear()

    def _abort(self) -> None:
        for path, _ in self._partials:
            path.unlink(missing_ok=True)
        if self._parquet is not None:
            with suppress(OSError):  # closing writes a footer
                self._parquet.close()
            self._parquet = None
        self._drop_partials()


def _open_locked(path: Path, out: Path) -> BinaryIO:
    """An empty file for one writer: what a killed run left is taken over, what a running one writes is refused."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise BlockingIOError  # the other writer has just finished and renamed it
    except (BlockingIOError, FileNotFoundError):
        file.close()
        raise RowsError(f"{out}: another conversion is writing it; wait, or choose another name") from None
    except OSError:  # a file system without locks
        pass
    file.truncate(0)
    return file


def _record_batch(rows: Sequence[Row], first_index: int, schema: pa.Schema) -> pa.RecordBatch:
    columns: dict[str, list[Any]] = {
        "data_source": [row.data_source for row in rows],
        "prompt": [[{"role": "user", "content": "<image>" + row.question}] for row in rows],
        "images": [[{"bytes": row.image.data}] if row.image.data is not None else [row.image.path] for row in rows],
        "ability": [row.target.task for row in rows],
        "reward_model": [{"style": "rule", "ground_truth": row.target.to_json()} for row in rows],
        "extra_info": [_extra_info(row, first_index + i) for i, row in enumerate(rows)],
    }
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def _extra_info(row: Row, index: int) -> dict[str, Any]:
    return {
        "split": row.split,
        "index": index,
        "image_id": row.image_id,
        "width": row.image.size_wh[0],
        "height": row.image.size_wh[1],
        "task": row.target.task,
        "question": row.question,
        "file_name": row.file_name,
        "source_ann": row.source_ann,
    }


# ------------------------------------------------------------------------------------------------ reader


def read_rows(
    path: str | Path, *, columns: Sequence[str] | None = None, batch_rows: int = 1000
) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file as dictionaries, one row group in memory at a time.

    Args:
        columns: top-level columns to read; None reads all, image bytes included.
        batch_rows: rows that are in memory as Python objects.

    Raises:
        RowsError: missing or garbled file, not a parquet file, or a column that is not there.
    """
    with open_parquet(path) as parquet, _parquet_errors(path):
        missing = [name for name in columns or () if name not in parquet.schema_arrow.names]
        if missing:
            raise RowsError(f"{path}: no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
        wanted = None if columns is None else list(columns)
        for batch in parquet.iter_batches(batch_size=batch_rows, columns=wanted):
            yield from batch.to_pylist()


def target_of(row: Mapping[str, Any]) -> Target:
    """The ground truth of a row that `read_rows` gave.

    Raises:
        TargetError: it is missing, or not what `Target.to_json` writes.
    """
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], Mapping) else None
    if truth is None:
        raise TargetError("ground truth is null")
    if not isinstance(truth, str):
        raise TargetError(f"ground truth {str(truth)[:120]!r} is of type {type(truth).__name__}: needs a JSON text")
    return Target.from_json(truth)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """A parquet file, its footer read.

    Raises:
        RowsError: a folder, a missing file, or not a parquet file.
    """
    path = Path(path)
    if path.is_dir():
        raise RowsError(f"{path}: is a folder; name its parquet files (verl takes no folder)")
    if not path.exists():
        partials = sorted(path.parent.glob(f".{escape(path.stem)}-*.parquet.partial"))
        hint = f"a conversion to it was killed ({partials[0].name}); run it again" if partials else "check the path"
        raise RowsError(f"{path}: no such file; {hint}")
    with _parquet_errors(path):
        return pq.ParquetFile(path, pre_buffer=False)  # which would read the whole file ahead, images and all


@contextmanager
def _parquet_errors(path: str | Path) -> Iterator[None]:
    """Name the file in what pyarrow raises about a garbled one."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise RowsError(f"{path}: not a whole parquet file ({reason}); {CONVERT_AGAIN}, or copy it again") from None
