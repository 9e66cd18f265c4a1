"""Some rows of parquet files as a file of their own: every column as it was, streamed, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


def write_filtered(out: Path, data: TrainingRows, rows: Numbers, facts: Mapping[str, Any]) -> None:
    """Write some rows of the data, in their order. The same input gives the same bytes.

    Args:
        out: a name that ends in `.parquet`.
        rows: numbers of rows, rising.
        facts: JSON-able; appended to the provenance.

    Raises:
        RowsError: another ending, a file that cannot be read, or the disk full.
    """
    if out.suffix != ".parquet":
        raise RowsError(f"--out {out}: verl reads only names that end in .parquet; add it")
    schema = data.schema.with_metadata(extended_metadata(data.files, FACTS_KEY, facts))
    with atomic_write(out) as file, RowGroups(file, schema) as groups:
        for batch in _batches(data, rows):
            groups.add(batch)


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
