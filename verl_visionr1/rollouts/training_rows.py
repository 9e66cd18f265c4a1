"""Rows of the training data, with the columns for selecting rows and for matching rollouts to rows.

Only a few numbers, the question and the image path of a row are kept. Embedded images are read only if nothing else
distinguishes two rows; then a digest is kept.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from verl_visionr1.files import RowError, RowsError
from verl_visionr1.rewriting import has_embedded
from verl_visionr1.rollouts.columns import prompt_turns
from verl_visionr1.rollouts.judged import Numbering
from verl_visionr1.rollouts.records import Counts, OnError, image_name
from verl_visionr1.rows import CONVERT_AGAIN, open_parquet, read_rows, target_of
from verl_visionr1.targets import Target, TargetError

NOTHING = -1
"""Value of a missing number: no count, no index, no readable ground truth."""
TURN = "\0"
"""Separator between the turns of a question."""
_NEEDED = ("data_source", "prompt", "reward_model")
_TAG = re.compile(r"<[^<>\s]{1,32}>")
_IMAGE_ROWS = 16
_LARGEST = (1 << 63) - 1

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The n rows of some files in order, as columns of n numbers.

    Attributes:
        files: files of the rows.
        schema: common schema.
        starts: number of the first row of each file, then n.
        sources, source_names: data source of each row, and names of the sources.
        counts: right answer of a counting row, else `NOTHING`.
        truths, truth_numbers: ground truth of each row (`NOTHING`: unreadable), by `digest_of`.
        questions, question_numbers: question of each row, by `bare_question`.
        images, image_names: image of each row, and its `image_name` (None: embedded, name not needed).
        indexes: `extra_info.index`, else `NOTHING`.
        prompts: model input of each row: rows of one number have the same ground truth, question and image, and so the
            same pass rate.
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


def bare_question(prompt: Any) -> str:
    """The question of a row, each turn bare."""
    return TURN.join(filter(None, map(bare, prompt_turns(prompt))))


def read_training_rows(
    files: Sequence[Path], *, on_error: OnError = "fail", counts: Counts | None = None
) -> TrainingRows:
    """Read the needed columns of some files.

    Args:
        on_error: what to do with an unreadable ground truth: "fail", or "skip", which counts it; no rollout matches
            such a row.

    Raises:
        RowsError: a file that is unreadable, lacks a column, or is given twice; files with different columns.
        RowError: a row whose ground truth cannot be read.
    """
    resolved = [file.resolve() for file in files]
    for i, file in enumerate(files):
        if resolved[i] in resolved[:i]:
            raise RowsError(f"--data {file}: given twice; name each file once")
    schema = _schema_of(files)
    reader = _Reader(on_error, Counts() if counts is None else counts)
    names = [*_NEEDED, *(name for name in ("extra_info", "images") if name in schema.names)]
    if has_embedded(schema):
        names.remove("images")
    starts = [0]
    for file in files:
        for number, row in enumerate(read_rows(file, columns=names)):
            reader.take(row, reader.target_of(row, f"{file}: row {number}"))
        starts.append(len(reader.truths))
    if has_embedded(schema):
        reader.name_equal_rows(files, starts)
    return reader.found(tuple(files), schema, np.asarray(starts, dtype=np.int64))


def _schema_of(files: Sequence[Path]) -> pa.Schema:
    schemas: list[pa.Schema] = []
    for file in files:
        with open_parquet(file) as parquet:
            schemas.append(parquet.schema_arrow)
        if not schemas[-1].equals(schemas[0]):
            raise RowsError(f"--data {file}: columns differ from those of {files[0]}; run the command once per file")
    return schemas[0]


class _Reader:
    """Collects rows one by one."""

    def __init__(self, on_error: OnError, skipped: Counts) -> None:
        self.on_error = on_error
        self.skipped = skipped
        self.sources, self.counts, self.truths = array("q"), array("q"), array("q")
        self.questions, self.images, self.indexes = array("q"), array("q"), array("q")
        self.source_names, self.truth_numbers = Numbering(), Numbering()
        self.question_numbers, self.image_names = Numbering(), Numbering()

    def target_of(self, row: Mapping[str, Any], where: str) -> Target | None:
        """The ground truth of a row; None if unreadable."""
        try:
            return target_of(row)
        except TargetError as error:
            failure = RowError("ground truth", f"{where}: {error}; {CONVERT_AGAIN}")
        if self.on_error == "fail":
            raise failure
        self.skipped.skip(str(failure))
        return None

    def take(self, row: Mapping[str, Any], target: Target | None) -> None:
        """Add one row."""
        extra = row.get("extra_info")
        count = target.count if target is not None and target.task == "counting" else None
        self.sources.append(self.source_names[str(row["data_source"])])
        self.counts.append(_number(count))
        self.truths.append(NOTHING if target is None else self.truth_numbers[digest_of(target)])
        self.questions.append(self.question_numbers[bare_question(row["prompt"])])
        self.images.append(self.image_names[image_name(row.get("images") or [])])
        self.indexes.append(_number(extra.get("index") if isinstance(extra, Mapping) else None))

    def name_equal_rows(self, files: Sequence[Path], starts: Sequence[int]) -> None:
        """Name the embedded images of rows that share ground truth and question with another row."""
        has_equal = _has_equal(np.asarray(self.truths), np.asarray(self.questions))
        unknown = self.image_names[None]
        for i in range(len(self.images)):
            self.images[i] = unknown
        for file, (start, stop) in zip(files, pairwise(starts), strict=True):
            if has_equal[start:stop].any():
                for number, row in enumerate(read_rows(file, columns=["images"], batch_rows=_IMAGE_ROWS), start):
                    if has_equal[number]:
                        self.images[number] = self.image_names[image_name(row["images"] or [])]

    def found(self, files: tuple[Path, ...], schema: pa.Schema, starts: Numbers) -> TrainingRows:
        """All collected rows."""
        truths, questions, images = map(_column, (self.truths, self.questions, self.images))
        _, prompts = np.unique(np.stack([truths, questions, images]), axis=1, return_inverse=True)
        return TrainingRows(
            files=files,
            schema=schema,
            starts=starts,
            sources=_column(self.sources),
            source_names=tuple(self.source_names),
            counts=_column(self.counts),
            truths=truths,
            truth_numbers=dict(self.truth_numbers),
            questions=questions,
            question_numbers=dict(self.question_numbers),
            images=images,
            image_names=tuple(self.image_names),
            indexes=_column(self.indexes),
            prompts=prompts.reshape(-1).astype(np.int64),
        )


def _column(numbers: array[int]) -> Numbers:
    return np.asarray(numbers, dtype=np.int64)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return NOTHING
    return min(value, _LARGEST)


def _has_equal(truths: Numbers, questions: Numbers) -> NDArray[np.bool_]:
    """Per row, whether another has its ground truth and question."""
    _, pairs, sizes = np.unique(np.stack([truths, questions]), axis=1, return_inverse=True, return_counts=True)
    return (sizes[pairs.reshape(-1)] > 1) & (truths != NOTHING)
