"""A row (one question about one image), and the reader of files of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_visionr1.files import RowError, RowsError
from verl_visionr1.images import RowImage
from verl_visionr1.targets import Target, TargetError

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""Texts at which verl splits a prompt; a question must not contain one."""
METADATA_KEY = b"visionr1"
"""Key of the provenance (JSON) in the parquet metadata."""
TRUTH_KEY = "reward_model.ground_truth"
"""Column of the ground truth, as messages name it."""
SCHEMA_VERSION = 1
CONVERT_AGAIN = "convert it again with `visionr1 convert`"
"""Advice for a file that is not in this module's format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One question about one image.

    Attributes:
        question: the user's turn without "<image>", which the writer puts first.
        image_id, file_name, source_ann: its origin (`source_ann`: JSON).

    Raises `RowError`: a placeholder of verl in the question, or a target with another size than the image.
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
            reason = f"{self.image.path}: the question {self.question!r} holds {found[0]}, a placeholder of verl"
            raise RowError("placeholder in the question", f"{reason}; rename the category or correct the template")
        if tuple(self.target.size_wh) != self.image.size_wh:
            reason = f"{self.image.path}: the target is for size_wh {tuple(self.target.size_wh)}"
            raise RowError("target of another size", f"{reason}, the image has {self.image.size_wh}")


def read_rows(
    path: str | Path, *, columns: Sequence[str] | None = None, batch_rows: int = 1000
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file as dictionaries, with one row group in memory at a time.

    Args:
        columns: top-level columns to read; None reads all, including image bytes.
        batch_rows: rows in memory as Python objects.

    Raises `RowsError`: missing or corrupt file, not a parquet file, or a missing column.
    """
    with open_parquet(path) as parquet, parquet_errors(path):
        missing = [name for name in columns or () if name not in parquet.schema_arrow.names]
        if missing:
            raise RowsError(f"{path}: no column {missing[0]!r}; it has {', '.join(parquet.schema_arrow.names)}")
        wanted = None if columns is None else list(columns)
        for batch in parquet.iter_batches(batch_size=batch_rows, columns=wanted):
            yield from batch.to_pylist()


def target_of(row: Mapping[str, Any]) -> Target:
    """Read the ground truth of a row of `read_rows`; `TargetError` if it is missing, or no `Target.to_json`."""
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], Mapping) else None
    if truth is None:
        raise TargetError(f"{TRUTH_KEY} is null")
    if not isinstance(truth, str):
        raise TargetError(f"{TRUTH_KEY} {str(truth)[:120]!r} is of type {type(truth).__name__}: needs a JSON text")
    return Target.from_json(truth, TRUTH_KEY)


def open_parquet(path: str | Path) -> pq.ParquetFile:
    """Open a parquet file and read its footer; `RowsError` for a folder, a missing file, or not a parquet file."""
    path = Path(path)
    if path.is_dir():
        raise RowsError(f"{path}: is a folder; name its parquet files (verl takes no folder)")
    if not path.exists():
        partials = sorted(path.parent.glob(f".{escape(path.name)}.*.partial"))
        hint = f"its conversion was killed ({partials[0].name}); run it again" if partials else "check the path"
        raise RowsError(f"{path}: no such file; {hint}")
    with parquet_errors(path):
        return pq.ParquetFile(path, pre_buffer=False)  # pre_buffer would read the whole file with all images


def schema_of(path: str | Path) -> pa.Schema:
    """Read the schema of a parquet file; `RowsError` as in `open_parquet`."""
    with open_parquet(path) as parquet:
        return parquet.schema_arrow


@contextmanager
def parquet_errors(path: str | Path) -> Iterator[None]:
    """Name the file in pyarrow's errors about a corrupt one."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise RowsError(f"{path}: not a whole parquet file ({reason}); {CONVERT_AGAIN}, or copy it again") from None
