"""Re-scored rows as a file: one row a rollout, with its place, its value and its metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from verl_visionr1.files import RowsError, atomic_write
from verl_visionr1.rewards import Preset, Score
from verl_visionr1.rollouts.records import Rollout
from verl_visionr1.tools.score.rescore import OnRow

TEXTS = ("file", "data_source", "task", "preset")
WHOLE = ("number", "step")
NUMBERS = ("value", "saved", "other")
"""Columns; `other` is the value of the reward that is compared. The metrics follow; null where a row has none."""
_BATCH_ROWS = 2000


@contextmanager
def scored_rows(path: Path, presets: Sequence[Preset]) -> Iterator[OnRow]:
    """A writer of re-scored rows; the file appears whole when the `with` block ends well, or not at all.

    Args:
        path: ends in `.jsonl` or `.parquet`.
        presets: those that may judge a row; their metrics become columns.

    Raises:
        RowsError: another ending, or the disk full.
    """
    kinds = {".jsonl": _write_json, ".parquet": _write_parquet}
    if path.suffix not in kinds:
        raise RowsError(f"--out {path}: needs a name that ends in .jsonl or .parquet")
    metrics = tuple(dict.fromkeys(name for preset in presets for name in preset.metrics))
    with atomic_write(path) as file, kinds[path.suffix](file, metrics) as write:
        yield write


def _row_of(rollout: Rollout, preset: Preset, score: Score, other: Score | None) -> dict[str, Any]:
    return score.metrics | {
        "file": rollout.file,
        "number": rollout.number,
        "step": rollout.step,
        "data_source": rollout.source,
        "task": rollout.target.task,
        "preset": preset.name,
        "value": score.value,
        "saved": rollout.saved,
        "other": None if other is None else other.value,
    }


@contextmanager
def _write_json(file: BinaryIO, metrics: Sequence[str]) -> Iterator[OnRow]:
    columns = tuple(dict.fromkeys((*TEXTS, *WHOLE, *NUMBERS, *metrics)))

    def write(rollout: Rollout, preset: Preset, score: Score, other: Score | None) -> None:
        row = _row_of(rollout, preset, score, other)
        file.write(json.dumps({name: row.get(name) for name in columns}).encode() + b"\n")

    yield write


@contextmanager
def _write_parquet(file: BinaryIO, metrics: Sequence[str]) -> Iterator[OnRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {name: pa.float64() for name in (*metrics, *NUMBERS)}
    types |= dict.fromkeys(TEXTS, pa.string()) | dict.fromkeys(WHOLE, pa.int64())
    schema = pa.schema([(name, types[name]) for name in dict.fromkeys((*TEXTS, *WHOLE, *NUMBERS, *metrics))])
    waiting: list[dict[str, Any]] = []
    with pq.ParquetWriter(file, schema, compression="zstd") as parquet:

        def flush() -> None:
            parquet.write_batch(pa.RecordBatch.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(rollout: Rollout, preset: Preset, score: Score, other: Score | None) -> None:
            waiting.append(_row_of(rollout, preset, score, other))
            if len(waiting) >= _BATCH_ROWS:
                flush()

        yield write
        if waiting:
            flush()
