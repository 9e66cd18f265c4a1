"""Writes parquet and jsonl files of rows: new rows in a framework's layout, or rows of existing files again."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.row_layouts import PATH_SCHEMA, VERL, Layout
from verl_visionr1.rows import METADATA_KEY, SCHEMA_VERSION, Row, open_parquet, parquet_errors, schema_of

GROUP_ROWS, GROUP_ROWS_EMBEDDED = 10_000, 100
GROUP_BYTES = 64 << 20
"""Sizes of row groups. pyarrow cannot read back a nested column of 2 GB in one group."""
_BATCH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Written:
    """A file of `write_rows`."""

    file: Path
    rows: int
    size_bytes: int


def write_rows(
    rows: Iterable[Row],
    out: str | Path,
    *,
    embed: bool = False,
    layout: Layout = VERL,
    provenance: Mapping[str, Any] | None = None,
) -> Written:
    """Write rows to parquet or jsonl with bounded memory; the file is complete or absent.

    Rows go to a hidden `.<name>.*.partial` file, which is renamed at the end; after an exception it is removed, after
    a kill the next writer to the same name removes it. The same rows and provenance give the same bytes.

    `extra_info.index` is unique within the file, and across files of different provenance: its upper 31 bits are a
    hash of the provenance, its lower 32 count the rows.

    Args:
        out: `<name>.parquet`, or `.jsonl` if the layout allows it.
        embed: store image bytes (every `RowImage.data` must be set), else absolute paths.
        layout: of the framework that will read the rows.
        provenance: JSON-able facts about the source; stored in parquet's metadata under "visionr1".

    Raises:
        RowsError: a name with another ending; embedded images in jsonl; an image without bytes in embed mode; another
            writer to this name; no row; full disk.
    """
    out = Path(out)
    _check_name(out, layout, embed)
    facts = json.dumps({"schema": SCHEMA_VERSION, **(provenance or {})}, sort_keys=True, ensure_ascii=False)
    first_index = (int.from_bytes(hashlib.sha256(facts.encode()).digest()[:4], "big") >> 1) << 32
    _remove_killed(out)
    with atomic_write(out) as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if out.suffix == ".jsonl":
            n_rows = _write_lines(rows, file, layout, first_index)
        else:
            schema = layout.schema(embed=embed)
            schema = schema.with_metadata({**(schema.metadata or {}), METADATA_KEY: facts.encode()})
            n_rows = _write_groups(rows, file, layout, first_index, schema, embed)
        if not n_rows:
            raise RowsError(f"{out}: no row to write; check the filters and the skipped rows")
    return Written(out, n_rows, out.stat().st_size)


def _check_name(out: Path, layout: Layout, embed: bool) -> None:
    if out.suffix not in layout.suffixes:
        endings = " or ".join(layout.suffixes)
        raise RowsError(f"{out}: the framework reads files that end in {endings}; change the name")
    if embed and out.suffix == ".jsonl":
        raise RowsError(f"{out}: jsonl cannot embed images; leave out --embed, or write .parquet")


def _remove_killed(out: Path) -> None:
    """Remove the partial files of killed writers to this name; `RowsError` if one is still running."""
    for partial in out.parent.glob(f".{escape(out.name)}.*.partial"):
        with suppress(OSError), open(partial, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RowsError(f"{out}: another conversion is writing it; wait, or choose another name") from None
            partial.unlink()


def _write_lines(rows: Iterable[Row], file: BinaryIO, layout: Layout, first_index: int) -> int:
    n_rows = 0
    for n_rows, row in enumerate(rows, 1):
        record = layout.record(row, first_index + n_rows - 1)
        file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    return n_rows


def _write_groups(
    rows: Iterable[Row], file: BinaryIO, layout: Layout, first_index: int, schema: pa.Schema, embed: bool
) -> int:
    n_rows, waiting = 0, iter(rows)
    with RowGroups(file, schema, embed=embed) as groups:
        while batch := list(islice(waiting, 1 if embed else _BATCH_ROWS)):
            if embed and batch[0].image.data is None:
                path = batch[0].image.path
                raise RowsError(f"{path}: embed mode needs the image's bytes; use prepare_image(..., embed=True)")
            groups.add(layout.record_batch(batch, first_index + n_rows, schema))
            n_rows += len(batch)
    return n_rows


class RowGroups:
    """Collects batches of any size into the row groups of a parquet file.

    Args:
        embed: rows hold image bytes: small groups, without compression, statistics and dictionaries, which would hold
            whole images.
    """

    def __init__(self, file: BinaryIO, schema: pa.Schema, *, embed: bool) -> None:
        self.embed, self.schema = embed, schema
        compression = "none" if embed else "zstd"
        options = {"compression": compression, "use_dictionary": not embed, "write_statistics": not embed}
        self.parquet = pq.ParquetWriter(file, schema, **options)
        self.waiting: list[pa.RecordBatch] = []
        self.n_rows = self.n_bytes = 0

    def __enter__(self) -> RowGroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self.parquet.close()
        else:
            with suppress(OSError):  # closing writes a footer, which fails again on a full disk
                self.parquet.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        if self.embed and len(batch) > 1:
            for i in range(len(batch)):
                self.add(batch.slice(i, 1))
            return
        group_rows = GROUP_ROWS_EMBEDDED if self.embed else GROUP_ROWS
        while len(batch):
            part = batch.slice(0, group_rows - self.n_rows)
            batch = batch.slice(len(part))
            self.waiting.append(part)
            self.n_rows += len(part)
            self.n_bytes += part.nbytes if self.embed else 0
            if self.n_rows >= group_rows or self.n_bytes >= GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self.waiting:
            table = pa.Table.from_batches(self.waiting).combine_chunks()
            self.parquet.write_table(table.replace_schema_metadata(self.schema.metadata), row_group_size=self.n_rows)
            self.waiting, self.n_rows, self.n_bytes = [], 0, 0


# ---------------------------------------------------------------------------------------------- rows of existing files


def has_embedded(schema: pa.Schema) -> bool:
    """Whether rows contain image bytes, not only paths."""
    return "images" in schema.names and schema.field("images").type != PATH_SCHEMA.field("images").type


def extended_metadata(files: Sequence[Path], key: str, facts: Mapping[str, Any]) -> dict[bytes, bytes]:
    """Return the first file's metadata, with JSON-able facts appended to the list under a key of the provenance.

    Different provenances are merged.
    """
    found = [dict(schema_of(file).metadata or {}) for file in files]
    first, *others = (_provenance(one.get(METADATA_KEY)) for one in found)
    provenance = first
    if any(other != first for other in others):
        versions = {"schema": first["schema"]} if "schema" in first else {}
        provenance = {**versions, "merged": [first, *others]}
    done = provenance.get(key)
    provenance = {**provenance, key: [*(done if isinstance(done, list) else []), facts]}
    return {**found[0], METADATA_KEY: json.dumps(provenance, sort_keys=True, ensure_ascii=False).encode()}


def _provenance(text: bytes | None) -> dict[str, Any]:
    with suppress(ValueError):
        provenance = json.loads(text or b"{}")
        if isinstance(provenance, dict):
            return provenance
    return {"earlier": (text or b"").decode(errors="replace")}


def small_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a file in batches of bounded size, whatever its row groups; errors as in `open_parquet`."""
    with open_parquet(path) as parquet, parquet_errors(path):
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            bytes_a_row = group.total_byte_size // (group.num_rows or 1)
            batch_rows = min(GROUP_ROWS, GROUP_BYTES // (bytes_a_row + 1) + 1)
            yield from parquet.iter_batches(batch_size=batch_rows, row_groups=[number])
