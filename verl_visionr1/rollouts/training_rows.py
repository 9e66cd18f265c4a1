"""Rows of the training data as columns of numbers, for selecting rows and for matching rollouts to rows.

Embedded images are read only if nothing else distinguishes two rows; then a digest is kept.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewards.routing import value_at
from verl_visionr1.rollouts.columns import prompt_turns
from verl_visionr1.rollouts.judged import Numbering
from verl_visionr1.rollouts.records import Counts, OnError, image_name
from verl_visionr1.row_writer import has_embedded
from verl_visionr1.rows import CONVERT_AGAIN, open_parquet, read_rows, schema_of, target_of
from verl_visionr1.targets import Target, TargetError

NOTHING = -1  # value of a missing number: no count, no index, no readable ground truth
TURN = "\0"  # separator between the turns of a question
_NEEDED = ("data_source", "prompt", "reward_model")
_EXTRA = ("extra_info", "images")
_TAG = re.compile(r"<[^<>\s]{1,32}>")
_IMAGE_ROWS = 16

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The n rows of some files in order, as columns of n numbers.

    Attributes:
        starts: number of the first row of each file, then n.
        sources, source_names: data source of each row, and names of the sources.
        counts: right answer of a counting row, else `NOTHING`.
        truths, truth_numbers: ground truth of each row (`NOTHING`: unreadable), by `digest_of`.
        questions, question_numbers: question of each row, by its `bare` turns.
        images, image_names: image of each row, and its `image_name` (None: embedded, name not needed).
        indexes: `extra_info.index`, else `NOTHING`.
        prompts: rows of one number have the same ground truth, question and image, and so the same pass rate.
    """

    files: tuple[Path, ...]
    schema: pa.Schema
    starts: Numbers
    sources: Numbers
    source_names: tuple[str, ...]
    counts: Numbers
    truths: Numbers
    truth_numbers: Mapping[bytes, int]
    questions: Numbers
    question_numbers: Mapping[str, int]
    images: Numbers
    image_names: tuple[str | None, ...]
    indexes: Numbers
    prompts: Numbers

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts."""
        return int(self.prompts.max(initial=-1)) + 1

    def where(self, row: int) -> str:
        """File and number of a row, for messages."""
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[file]}: row {row - int(self.starts[file])}"


def digest_of(target: Target) -> bytes:
    """Digest of a ground truth in 16 bytes, independent of the JSON's formatting."""
    return hashlib.blake2b(target.to_json().encode(), digest_size=16).digest()


def bare(text: str) -> str:
    """Remove what templates and tokenizers may change: blanks, and tags, which may be special tokens.

    >>> bare("<image>Where is  <ref>the cat</ref>?")
    'Whereisthecat?'
    """
    return "".join(_TAG.sub("", text).split())


def read_training_rows(
    files: Sequence[Path], *, on_error: OnError = "fail", counts: Counts | None = None
) -> TrainingRows:
    """Read the needed columns of some files; with "skip", unreadable ground truths are counted and match nothing."""
    schema = _schema_of(files)
    is_embedded = has_embedded(schema)
    extra = [name for name in _EXTRA if name in schema.names and not (is_embedded and name == "images")]
    names = {name: Numbering() for name in ("sources", "truths", "questions", "images")}
    columns = {name: array("q") for name in (*names, "counts", "indexes")}
    starts = [0]
    for file in files:
        for number, row in enumerate(read_rows(file, columns=[*_NEEDED, *extra])):
            target = _target(row, f"{file}: row {number}", on_error, counts)
            is_count = target is not None and target.task == "counting"
            facts = {
                "sources": names["sources"][str(row["data_source"])],
                "truths": NOTHING if target is None else names["truths"][digest_of(target)],
                "questions": names["questions"][TURN.join(filter(None, map(bare, prompt_turns(row["prompt"]))))],
                "images": names["images"][image_name(row.get("images") or [])],
                "counts": _number(target.count if target is not None and is_count else None),
                "indexes": _number(value_at(row, ("extra_info", "index"))),
            }
            for name, value in facts.items():
                columns[name].append(value)
        starts.append(len(columns["truths"]))
    found = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
    if is_embedded:
        found["images"] = _embedded_images(files, found, names["images"])
    _, prompts = np.unique(
        np.stack([found[name] for name in ("truths", "questions", "images")]), axis=1, return_inverse=True
    )
    return TrainingRows(
        files=tuple(files),
        schema=schema,
        starts=np.array(starts, dtype=np.int64),
        source_names=tuple(names["sources"]),
        truth_numbers=names["truths"],
        question_numbers=names["questions"],
        image_names=tuple(names["images"]),
        prompts=prompts.reshape(-1).astype(np.int64),
        **found,
    )


def _schema_of(files: Sequence[Path]) -> pa.Schema:
    schemas: list[pa.Schema] = []
    resolved = [file.resolve() for file in files]
    for i, file in enumerate(files):
        if resolved[i] in resolved[:i]:
            raise RowsError(f"--data {file}: given twice; name each file once")
        schemas.append(schema_of(file))
        if not schemas[-1].equals(schemas[0]):
            raise RowsError(f"--data {file}: columns differ from those of {files[0]}; run the command once per file")
    return schemas[0]


def _target(row: Mapping[str, Any], where: str, on_error: OnError, counts: Counts | None) -> Target | None:
    """The ground truth of a row; None if unreadable."""
    try:
        return target_of(row)
    except TargetError as error:
        failure = RowError("ground truth", f"{where}: {error}; {CONVERT_AGAIN}")
    if on_error == "fail":
        raise failure
    if counts is not None:
        counts.skip(str(failure))
    return None


def _embedded_images(files: Sequence[Path], found: Mapping[str, Numbers], names: Numbering) -> Numbers:
    """Images of all rows; unknown (None) if no other row has the same ground truth and question."""
    pairs = np.stack([found["truths"], found["questions"]])
    _, member, sizes = np.unique(pairs, axis=1, return_inverse=True, return_counts=True)
    has_equal = (sizes[member.reshape(-1)] > 1) & (found["truths"] != NOTHING)
    images = np.full(len(has_equal), names[None])
    first = 0
    for file in files:
        with open_parquet(file) as parquet:
            stop = first + parquet.metadata.num_rows
        if has_equal[first:stop].any():
            for row, values in enumerate(read_rows(file, columns=["images"], batch_rows=_IMAGE_ROWS), first):
                if has_equal[row]:
                    images[row] = names[image_name(values["images"] or [])]
        first = stop
    return images


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return NOTHING
    return min(value, np.iinfo(np.int64).max)
