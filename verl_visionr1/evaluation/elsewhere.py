"""Read other programs' answers as predictions: a .jsonl or parquet of answers, and the parquet of the questions.

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
from verl_visionr1.evaluation.predictions import Prediction, identity_of, uid_of
from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rollouts.columns import Columns, RowColumns, require_object, value_at
from verl_visionr1.rollouts.dumps import rows_of
from verl_visionr1.rollouts.records import image_name

ANSWERS = ("output", "completion", "response", "answer", "prediction", "generated_text", "text")
"""Columns of the answer; the first one present is used."""
_KEYS = ("file", "row", "index", "uid", "n_tokens", "finish_reason")


def read_answers(answers: Path, data: Sequence[Path] = ()) -> Iterator[Prediction]:
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
    lines = list(rows_of(answers, {*reader.top_level, *_KEYS}))
    rows = _Rows(answers, asked, [line for _, line in lines])
    samples: Counter[tuple[str, int]] = Counter()
    for place, (number, line) in enumerate(lines):
        label = "row" if answers.name.endswith(".parquet") else "line"
        try:
            line = require_object(line)
            row = rows.row_of(line, place) if asked else Asked(answers, number, line)
            yield _prediction(reader, line, row, samples[row.key])
        except RowError as error:
            raise RowError(error.kind, f"{answers}: {label} {number}: {error}") from None
        samples[row.key] += 1


class _Rows:
    """Finds the row of a line."""

    def __init__(self, answers: Path, asked: Sequence[Asked], lines: Sequence[Any]) -> None:
        self._asked = asked
        self._files = {it.file.name for it in asked}
        self._by_row = {(it.file.name, str(it.number)): it for it in asked}
        self._by_index = {str(value_at(it.columns, ("extra_info", "index"))): it for it in asked}
        named = [isinstance(line, dict) and any(line.get(key) is not None for key in _KEYS[1:4]) for line in lines]
        if asked and not any(named) and len(lines) != len(asked):
            reason = f"{len(lines)} answers for {len(asked)} rows, and no answer names its row"
            raise RowsError(f'{answers}: {reason}; give each line "row" (from 0), or "index" (extra_info.index)')

    def row_of(self, line: Mapping[str, Any], place: int) -> Asked:
        """Find the row of a line.

        Raises:
            RowError: it names an unknown row, or none while other lines do.
        """
        file, row, index, uid = (line.get(key) for key in _KEYS[:4])
        if row is None and index is None and isinstance(uid, str) and ":" in uid:  # `uid_of`
            file, _, rest = uid.rpartition(":")
            row = rest.partition("_")[0]
        if row is not None:
            file = Path(str(file)).name if file is not None else next(iter(self._files), "")
            if line.get("file") is None and len(self._files) > 1 and ":" not in str(uid):
                raise RowError("no file", f'row {row}: in which of {", ".join(sorted(self._files))}? give "file" too')
            found, name = self._by_row.get((file, str(row))), f"row {row} of {file}"
        elif index is not None:
            found, name = self._by_index.get(str(index)), f"index {index}"
        else:
            found, name = (self._asked[place] if place < len(self._asked) else None), f"answer {place}"
        if found is None:
            raise RowError("unknown row", f"{name} not found in {', '.join(sorted(self._files))}; rows count from 0")
        return found


def _prediction(reader: RowColumns, line: Mapping[str, Any], asked: Asked, sample: int) -> Prediction:
    output = reader.required(line, "completion")
    if not isinstance(output, str):
        raise RowError("completion", f"the answer {str(output)[:60]!r} is not text")
    gts, target = reader.truth(asked.columns)
    n_tokens = line.get("n_tokens")
    return Prediction(
        input=reader.prompt(asked.columns) or "",
        output=output,
        gts=gts,
        data_source=str(reader.get(asked.columns, "data_source") or target.task),
        file=asked.file.name,
        row=asked.number,
        sample=sample,
        uid=uid_of(*asked.key, sample),
        image=image_name(reader.get(asked.columns, "image")),
        n_tokens=n_tokens if isinstance(n_tokens, int) else None,
        finish_reason=str(line.get("finish_reason") or "stop"),
        **identity_of(asked.columns),
    )
