"""Some rows of parquet files as a file of their own: every column as it was, with bounded memory, whole or not at all.

Rows that stay in their order are streamed. Rows in another order are first written aside as they come, uncompressed,
where any of them can be read by its place: what is kept in memory is where each row stands.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowsError, disk_error, sync_folder
from verl_visionr1.rows import METADATA_KEY, open_parquet
from verl_visionr1.tools.difficulty.training_rows import Numbers, TrainingRows, has_embedded

GROUP_ROWS, GROUP_ROWS_EMBEDDED = 10_000, 100
GROUP_BYTES = 64 << 20
"""Sizes of the row groups that are written, as `rows.RowWriter` has them."""
FACTS_KEY = "difficulty"
"""Key, in the provenance, of what was done."""
_OPEN_BATCHES = 256


def write_filtered(out: Path, data: TrainingRows, rows: Numbers, facts: Mapping[str, Any]) -> None:
    """Write some rows of the data, in the order given. The same input gives the same bytes.

    Args:
        out: a name that ends in `.parquet`.
        rows: numbers of rows, none twice.
        facts: JSON-able; appended to the provenance.

    Raises:
        RowsError: another ending, a file that cannot be read, or the disk full.
    """
    if out.suffix != ".parquet":
        raise RowsError(f"--out {out}: verl reads only names that end in .parquet; add it")
    schema = data.schema.with_metadata(_metadata(data.files, facts))
    aside = out.with_name(f".{out.name}.{os.getpid()}.aside")
    try:
        with _whole_file(out) as file, _Groups(file, schema) as groups:
            kept = np.sort(rows)
            batches = _batches(data, kept)
            for batch in batches if np.array_equal(kept, rows) else _in_order(batches, aside, kept, rows):
                groups.add(batch)
    except OSError as error:
        raise disk_error(out, error) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def _whole_file(out: Path) -> Iterator[BinaryIO]:
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, out)
        sync_folder(out.parent)
    finally:
        partial.unlink(missing_ok=True)


def _metadata(files: Sequence[Path], facts: Mapping[str, Any]) -> dict[bytes, bytes]:
    """The first file's metadata, its provenance extended by what was done; of several files, all provenances."""
    found: list[dict[bytes, bytes]] = []
    for file in files:
        with open_parquet(file) as parquet:
            found.append(dict(parquet.schema_arrow.metadata or {}))
    provenances = [_provenance(one.get(METADATA_KEY)) for one in found]
    provenance = provenances[0]
    if any(other != provenance for other in provenances):
        versions = {"schema": provenance["schema"]} if "schema" in provenance else {}
        provenance = {**versions, "merged": provenances}
    done = provenance.get(FACTS_KEY)
    provenance = {**provenance, FACTS_KEY: [*(done if isinstance(done, list) else []), facts]}
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=False)
    return {**found[0], METADATA_KEY: text.encode()}


def _provenance(text: bytes | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        provenance = json.loads(text)
    except ValueError:
        provenance = None
    return provenance if isinstance(provenance, dict) else {"earlier": text.decode(errors="replace")}


def _batches(data: TrainingRows, kept: Numbers) -> Iterator[pa.RecordBatch]:
    """The kept rows (numbers in order) of all files, as they stand."""
    first = 0
    for path in data.files:
        with open_parquet(path) as parquet:
            try:
                for batch in _small_batches(parquet):
                    start, stop = np.searchsorted(kept, (first, first + len(batch)))
                    places = kept[start:stop] - first
                    first += len(batch)
                    if len(places):
                        yield batch if len(places) == len(batch) else batch.take(pa.array(places))
            except (pa.ArrowException, OSError) as error:
                raise RowsError(f"{path}: cannot be read to its end ({str(error).splitlines()[0]})") from None


def _small_batches(parquet: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """All rows, in batches of bounded size whatever the size of the row groups."""
    for number in range(parquet.metadata.num_row_groups):
        group = parquet.metadata.row_group(number)
        bytes_a_row = group.total_byte_size // (group.num_rows or 1)
        batch_rows = min(GROUP_ROWS, GROUP_BYTES // (bytes_a_row + 1) + 1)
        yield from parquet.iter_batches(batch_size=batch_rows, row_groups=[number])


def _in_order(batches: Iterator[pa.RecordBatch], aside: Path, kept: Numbers, rows: Numbers) -> Iterator[pa.RecordBatch]:
    """The rows of some batches (numbers `kept`, in order), one by one, in the order of `rows`."""
    starts, offsets = [0], [0]
    with pa.OSFile(str(aside), "wb") as file:
        for batch in batches:
            with pa.ipc.new_stream(file, batch.schema) as stream:  # one each: dictionaries differ between row groups
                stream.write_batch(batch)
            starts.append(starts[-1] + len(batch))
            offsets.append(file.tell())
    with pa.memory_map(str(aside)) as file:

        @lru_cache(maxsize=_OPEN_BATCHES)
        def opened(number: int) -> pa.RecordBatch:
            file.seek(offsets[number])
            part = file.read_buffer(offsets[number + 1] - offsets[number])  # no copy: the disk is read row by row
            return pa.ipc.open_stream(part).read_next_batch()

        places = np.searchsorted(kept, rows)
        numbers = np.searchsorted(starts, places, side="right") - 1
        for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
            yield opened(number).slice(place - starts[number], 1)


class _Groups:
    """Gathers rows to row groups of one size, whatever pieces they come in."""

    def __init__(self, file: BinaryIO, schema: pa.Schema) -> None:
        self.embedded = has_embedded(schema)
        self.rows = GROUP_ROWS_EMBEDDED if self.embedded else GROUP_ROWS
        self.schema = schema
        # As in `rows.RowWriter`: statistics and dictionaries of image bytes would hold whole images.
        options: dict[str, Any] = {"compression": "none" if self.embedded else "zstd"}
        options |= {"use_dictionary": not self.embedded, "write_statistics": not self.embedded}
        self.parquet = pq.ParquetWriter(file, schema, **options)
        self.waiting: list[pa.RecordBatch] = []
        self.n_rows = self.n_bytes = 0

    def __enter__(self) -> _Groups:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self.parquet.close()
        else:
            with suppress(OSError):  # closing writes a footer: on a full disk that fails again
                self.parquet.close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take some rows."""
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
