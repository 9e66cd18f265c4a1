"""Some rows of parquet files as a file of their own: every column as it was, with bounded memory, whole or not at all.

Rows that stay in their order are streamed. Rows in another order are first written aside as they come, uncompressed,
where any of them can be read by its place: what is kept in memory is where each row stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewriting import RowGroups, extended_metadata, small_batches
from verl_visionr1.rollouts.training_rows import Numbers, TrainingRows
from verl_visionr1.rows import open_parquet

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
    schema = data.schema.with_metadata(extended_metadata(data.files, FACTS_KEY, facts))
    aside = out.with_name(f".{out.name}.{os.getpid()}.aside")
    try:
        with atomic_write(out) as file, RowGroups(file, schema) as groups:
            kept = np.sort(rows)
            batches = _batches(data, kept)
            for batch in batches if np.array_equal(kept, rows) else _in_order(batches, aside, kept, rows):
                groups.add(batch)
    finally:
        aside.unlink(missing_ok=True)


def _batches(data: TrainingRows, kept: Numbers) -> Iterator[pa.RecordBatch]:
    """The kept rows (numbers in order) of all files, as they stand."""
    first = 0
    for path in data.files:
        with open_parquet(path) as parquet:
            try:
                for batch in small_batches(parquet):
                    start, stop = np.searchsorted(kept, (first, first + len(batch)))
                    places = kept[start:stop] - first
                    first += len(batch)
                    if len(places):
                        yield batch if len(places) == len(batch) else batch.take(pa.array(places))
            except (pa.ArrowException, OSError) as error:
                raise RowsError(f"{path}: cannot be read to its end ({str(error).splitlines()[0]})") from None


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
