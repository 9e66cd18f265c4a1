"""Read files of saved rollouts row by row: `.jsonl`, `.jsonl.gz` or `.parquet`."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from verl_visionr1.files import RowError, RowsError

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def rollout_files(paths: Sequence[Path]) -> list[Path]:
    """List the files of some paths; a folder gives its dumps, in the order of their steps."""
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


def rows_of(file: Path, columns: Collection[str]) -> Iterator[tuple[int, Any]]:
    """Yield (number, row): lines count from 1, rows of parquet from 0; empty lines are skipped.

    A line that is not JSON is yielded as a `RowError`.

    Args:
        columns: columns to read from parquet.
    """
    if file.name.endswith(".parquet"):
        from verl_visionr1.rows import read_rows, schema_of

        present = [name for name in schema_of(file).names if name in columns]
        yield from enumerate(read_rows(file, columns=present))
        return
    try:
        with (gzip.open if file.name.endswith(".gz") else open)(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.isspace():
                    yield number, _decoded(line)
    except (OSError, EOFError) as error:
        raise RowsError(f"{file}: cannot be read to its end ({error}); copy it again") from None


def place_of(file: Path, number: int) -> str:
    """Name a row of `rows_of`, for messages."""
    return f"{file}: {'row' if file.name.endswith('.parquet') else 'line'} {number}"


def _decoded(line: bytes) -> Any:
    try:
        return _decode(line)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass
    try:  # verl writes with Python: NaN, Infinity and half surrogate pairs are invalid JSON
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError("not JSON", f"{start_of(line)} is not JSON ({str(error)[:80]}); is it still being written?")


def start_of(value: object) -> str:
    """The start of a value, for messages."""
    text = repr(value[:60]) if isinstance(value, str | bytes) else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def visible(text: str, *, newline: str = " ") -> str:
    r"""Escape everything in a model's text that could control a terminal; `newline` replaces line breaks.

    >>> visible("a\x1b[31mb\u202e\ud800c\td")
    'a\\x1b[31mb\\u202e\\ud800c    d'
    """
    if text.isprintable():
        return text
    blanks = {"\t": "    ", "\n": newline}
    escaped = (blanks.get(char) or char.encode("unicode_escape", "surrogatepass").decode() for char in text)
    return "".join([char if char.isprintable() else other for char, other in zip(text, escaped, strict=True)])


_decode = msgspec.json.Decoder().decode
