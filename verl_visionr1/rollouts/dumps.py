"""Read files of saved rollouts row by row: `.jsonl`, `.jsonl.gz` or `.parquet`."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.files import RowError, RowsError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
Advance = Callable[[int], None]
"""Called with the number of bytes read since the last call."""
_ROWS_A_TICK = 512


def rollout_files(paths: Sequence[Path]) -> list[Path]:
    """List the files of some paths; a folder gives its dumps, in the order of their steps.

    Raises:
        RowsError: a missing path, a folder without dumps, a file of another kind.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [file for file in path.iterdir() if is_dump(file) and not file.name.startswith(".")]
            if not inside:
                below = [name for name in ("rollouts", "validation") if (path / name).is_dir()]
                hint = f"did you mean {path / below[0]}?" if below else "is it trainer.rollout_data_dir?"
                raise RowsError(f"{path}: no {', '.join(SUFFIXES)} in it; {hint}")
            found += sorted(inside, key=_step_and_name)
        elif not path.exists():
            raise RowsError(f"{path}: no such file or folder; check the path")
        elif not is_dump(path):
            raise RowsError(f"{path}: not a dump of rollouts; needs one of {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def is_dump(path: Path) -> bool:
    """Whether a path is a file of rollouts, by its name."""
    # `visionr1 eval` writes `report.rows.jsonl` beside its answers: numbers without completions.
    return path.name.endswith(SUFFIXES) and not path.name.endswith(".rows.jsonl") and path.is_file()


def _step_and_name(path: Path) -> tuple[float, str]:
    stem = path.name.partition(".")[0]
    return (float(stem) if stem.isascii() and stem.isdigit() else math.inf), path.name


def rows_of(file: Path, columns: Collection[str], advance: Advance | None = None) -> Iterator[tuple[int, Any]]:
    """Yield (number, row): lines count from 1, rows of parquet from 0; empty lines are skipped.

    A line that is not JSON is yielded as a `RowError`.

    Args:
        columns: columns to read from parquet.

    Raises:
        RowsError: a file that cannot be read.
    """
    return _parquet_rows(file, columns, advance) if file.name.endswith(".parquet") else _json_rows(file, advance)


def _json_rows(file: Path, advance: Advance | None) -> Iterator[tuple[int, Any]]:
    try:
        unpacked = gzip.open if file.name.endswith(".gz") else nullcontext
        with open(file, "rb") as raw, unpacked(raw) as lines:
            reported = 0
            for number, line in enumerate(lines, 1):
                if advance is not None and number % _ROWS_A_TICK == 0:
                    advance(raw.tell() - reported)
                    reported = raw.tell()
                if not line.isspace():
                    yield number, _decoded(line)
            if advance is not None:
                advance(raw.tell() - reported)
    except (OSError, EOFError) as error:
        raise RowsError(f"{file}: cannot be read to its end ({error}); copy it again") from None


def _decoded(line: bytes) -> Any:
    try:
        return _decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:  # verl writes with Python: NaN, Infinity and half surrogate pairs are invalid JSON
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError("not JSON", f"{start_of(line)} is not JSON ({str(error)[:80]}); is it still being written?")


def _parquet_rows(file: Path, columns: Collection[str], advance: Advance | None) -> Iterator[tuple[int, Any]]:
    from verl_visionr1.rows import open_parquet, read_rows

    with open_parquet(file) as parquet:
        present = [name for name in parquet.schema_arrow.names if name in columns]
        bytes_a_row = file.stat().st_size / max(parquet.metadata.num_rows, 1)
    number = -1
    for number, row in enumerate(read_rows(file, columns=present)):
        if advance is not None and number % _ROWS_A_TICK == _ROWS_A_TICK - 1:
            advance(int(_ROWS_A_TICK * bytes_a_row))
        yield number, row
    if advance is not None:
        advance(int((number + 1) % _ROWS_A_TICK * bytes_a_row))


def start_of(value: object) -> str:
    """The start of a value, for messages.

    >>> start_of(b"x" * 100)
    "b'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'"
    """
    text = repr(value[:60]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


_decode = msgspec.json.Decoder().decode
