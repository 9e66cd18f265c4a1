"""Read other programs' answers as rollouts: a .jsonl or parquet of answers, and the parquet of the questions.

A line names its row by `row` (and `file`, if there are several), by `index` (`extra_info.index`), or by `uid`; lines
without these are matched to the rows in order. Several lines of one row are its samples. A line with its own ground
truth (`gts`, as in verl's dumps) needs no parquet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from verl_visionr1.evaluation.generation.prompts import Asked, asked_rows
from verl_visionr1.evaluation.predictions import identity_of, uid_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.routing import value_at
from verl_visionr1.rollouts.columns import Columns, RowColumns, require_object
from verl_visionr1.rollouts.dumps import rows_of
from verl_visionr1.rollouts.records import Rollout, image_name

ANSWERS = ("output", "completion", "response", "answer", "prediction", "generated_text", "text")
"""Columns of the answer; the first one present is used."""
_NAMES = ("row", "index", "uid")


def read_answers(answers: Path, data: Sequence[Path] = ()) -> Iterator[Rollout]:
    """Read the answers of a file, with the rows that they answer.

    Args:
        answers: .jsonl, .jsonl.gz or .parquet.
        data: parquet files of the questions, in order; empty if each line has its ground truth.

    Raises:
        RowsError: an unreadable file, or lines that name no row and differ in number from the rows.
        RowError: a line without an answer, a ground truth or a row; names file and line.
    """
    reader = RowColumns(Columns(completion=ANSWERS))
    # for embedded images, their digests
    asked = [replace(it, columns={**it.columns, "images": image_name(it.columns.get("images"))})
             for it in asked_rows(data)]  # fmt: skip
    lines = list(rows_of(answers, {*reader.top_level, *_NAMES, "file", "n_tokens", "finish_reason"}))
    is_named = any(isinstance(line, dict) and any(line.get(key) is not None for key in _NAMES) for _, line in lines)
    if asked and not is_named and len(lines) != len(asked):
        reason = f"{len(lines)} answers for {len(asked)} rows, and no answer names its row"
        raise RowsError(f'{answers}: {reason}; give each line "row" (from 0), or "index" (extra_info.index)')
    rows = _by_name(asked)
    samples: Counter[tuple[str, int]] = Counter()
    for place, (number, line) in enumerate(lines):
        label = "row" if answers.name.endswith(".parquet") else "line"
        try:
            line = require_object(line)
            row = _row_of(line, place, rows) if asked else Asked(answers, number, line)
            yield _rollout(reader, line, row, samples[row.key])
        except RowError as error:
            raise RowError(error.kind, f"{answers}: {label} {number}: {error}") from None
        samples[row.key] += 1


def _by_name(asked: Sequence[Asked]) -> dict[str, Asked]:
    """The rows by each of their names, in the words of messages."""
    has_files = len({it.file.name for it in asked}) > 1
    found: dict[str, Asked] = {}
    for place, it in enumerate(asked):
        index = value_at(it.columns, ("extra_info", "index"))
        names = [f"answer {place}", f"index {index}", f"row {it.number} of {it.file.name}"]
        found |= dict.fromkeys(names if has_files else [*names, f"row {it.number}"], it)
    return found


def _row_of(line: Mapping[str, Any], place: int, rows: Mapping[str, Asked]) -> Asked:
    """Find the row that a line names, else the one at its place."""
    file, row, index, uid = (line.get(key) for key in ("file", *_NAMES))
    if row is None and index is None and isinstance(uid, str) and ":" in uid:  # `uid_of`
        file, _, rest = uid.rpartition(":")
        row = rest.partition("_")[0]
    if row is not None:
        name = f"row {row}" if file is None else f"row {row} of {Path(str(file)).name}"
    else:
        name = f"answer {place}" if index is None else f"index {index}"
    if name not in rows:
        files = ", ".join(sorted({it.file.name for it in rows.values()}))
        raise RowError("unknown row", f'{name} not found in {files}; rows count from 0; of several files give "file"')
    return rows[name]


def _rollout(reader: RowColumns, line: Mapping[str, Any], asked: Asked, sample: int) -> Rollout:
    output = reader.required(line, "completion")
    if not isinstance(output, str):
        raise RowError("completion", f"the answer {str(output)[:60]!r} is not text")
    _, target = reader.truth(asked.columns)
    n_tokens = line.get("n_tokens")
    return Rollout(
        prompt=reader.prompt(asked.columns) or "",
        completion=output,
        target=target,
        source=str(reader.get(asked.columns, "data_source") or target.task),
        file=asked.file.name,
        number=asked.number,
        sample=sample,
        uid=uid_of(*asked.key, sample),
        image=image_name(reader.get(asked.columns, "image")),
        n_tokens=n_tokens if isinstance(n_tokens, int) else None,
        finish_reason=str(line.get("finish_reason") or "stop"),
        image_id=identity_of(asked.columns)["image_id"],
    )
