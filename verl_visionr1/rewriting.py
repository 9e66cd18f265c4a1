"""Writes rows of parquet files again, with unchanged or new columns, in row groups of one size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from verl_visionr1.row_layouts import PATH_SCHEMA
from verl_visionr1.row_writer import GROUP_BYTES, GROUP_ROWS, GROUP_ROWS_EMBEDDED, open_parquet_writer
from verl_visionr1.rows import METADATA_KEY, open_parquet, parquet_errors, schema_of


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


class RowGroups:
    """Collects batches of any size into row groups of one size."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.embedded = has_embedded(schema)
        self.rows = GROUP_ROWS_EMBEDDED if self.embedded else GROUP_ROWS
        self.schema = schema
        self.parquet = open_parquet_writer(file, schema, embed=self.embedded)
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
        if self.embedded and len(batch) > 1:
            for i in range(len(batch)):
                self.add(batch.slice(i, 1))
            return
        while len(batch):
            part = batch.slice(0, self.rows - self.n_rows)
            batch = batch.slice(len(part))
            self.waiting.append(part)
            self.n_rows += len(part)
            self.n_bytes += part.nbytes if self.embedded else 0
            if self.n_rows >= self.rows or self.n_bytes >= GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self.waiting:
            table = pa.Table.from_batches(self.waiting).combine_chunks()
            self.parquet.write_table(table.replace_schema_metadata(self.schema.metadata), row_group_size=self.n_rows)
            self.waiting, self.n_rows, self.n_bytes = [], 0, 0
