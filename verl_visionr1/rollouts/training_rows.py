"""The rows of the parquet that was trained on: what a selection goes by, and what a rollout finds its row by.

Kept of a row are a few numbers and the texts of its question and image path; embedded images are read only where
nothing else tells two rows apart, and then a digest of them is kept.
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
"""Stands for a number that a row does not have: no count, no index, no ground truth that can be read."""
TURN = "\0"
"""Between the turns of a question of several."""
_NEEDED = ("data_source", "prompt", "reward_model")
_TAG = re.compile(r"<[^<>\s]{1,32}>")
_IMAGE_ROWS = 16
_LARGEST = (1 << 63) - 1

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The n rows of some files, in their order, as columns of n numbers.

    Attributes:
        files: where they stand.
        schema: of all of them.
        starts: number of the first row of each file, then n.
        sources, source_names: which data source a row is of, and what it is called.
        counts: right answer of a row that asks how many, else `NOTHING`.
        truths, truth_numbers: which ground truth a row has (`NOTHING`: it cannot be read), by `digest_of`.
        questions, question_numbers: what it asks, by `bare_question`.
        images, image_names: which image it has, and its `image_name` (None: embedded, and nobody had to know).
        indexes: `extra_info.index`, else `NOTHING`.
        prompts: what the model is shown: rows of one number have the same ground truth, question and image, and so
            the same pass rate.
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
        """How many prompts there are that are not the same."""
        return int(self.prompts.max(initial=-1)) + 1

    def where(self, row: int) -> str:
        """File and number of a row, for messages."""
        file = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[file]}: row {row - int(self.starts[file])}"


def digest_of(target: Target) -> bytes:
    """A ground truth in 16 bytes, the same however its JSON was written."""
    return hashlib.blake2b(target.to_json().encode(), digest_size=16).digest()


def bare(text: str) -> str:
    """A text without what templates and tokenizers change: blanks, and tags, which may be special tokens.

    >>> bare("<image>Where is  <ref>the cat</ref>?")
    'Whereisthecat?'
    """
    return "".join(_TAG.sub("", text).split())


def bare_question(prompt: Any) -> str:
    """What a row asks, its turns bare."""
    return TURN.join(filter(None, map(bare, prompt_turns(prompt))))


def read_training_rows(
    files: Sequence[Path], *, on_error: OnError = "fail", counts: Counts | None = None
) -> TrainingRows:
    """Read what is needed of the rows of some files.

    Args:
        on_error: what to do with a ground truth that cannot be read: "fail", or "skip", which counts it; no rollout
            belongs to such a row.

    Raises:
        RowsError: a file that cannot be read, lacks a column, or is given twice; files of different columns.
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
        reader.name_twins(files, starts)
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
    """Takes rows one by one."""

    def __init__(self, on_error: OnError, skipped: Counts) -> None:
        self.on_error = on_error
        self.skipped = skipped
        self.sources, self.counts, self.truths = array("q"), array("q"), array("q")
        self.questions, self.images, self.indexes = array("q"), array("q"), array("q")
        self.source_names, self.truth_numbers = Numbering(), Numbering()
        self.question_numbers, self.image_names = Numbering(), Numbering()

    def target_of(self, row: Mapping[str, Any], where: str) -> Target | None:
        """The ground truth of a row, or None for one that cannot be read."""
        try:
            return target_of(row)
        except TargetError as error:
            failure = RowError("ground truth", f"{where}: reward_model.{error}; {CONVERT_AGAIN}")
        if self.on_error == "fail":
            raise failure
        self.skipped.skip(str(failure))
        return None

    def take(self, row: Mapping[str, Any], target: Target | None) -> None:
        """Take one row."""
        extra = row.get("extra_info")
        count = target.count if target is not None and target.task == "counting" else None
        self.sources.append(self.source_names[str(row["data_source"])])
        self.counts.append(_number(count))
        self.truths.append(NOTHING if target is None else self.truth_numbers[digest_of(target)])
        self.questions.append(self.question_numbers[bare_question(row["prompt"])])
        self.images.append(self.image_names[image_name(row.get("images") or [])])
        self.indexes.append(_number(extra.get("index") if isinstance(extra, Mapping) else None))

    def name_twins(self, files: Sequence[Path], starts: Sequence[int]) -> None:
        """Look at the embedded images of rows that have their ground truth and question in common with another."""
        twins = _twins(np.asarray(self.truths), np.asarray(self.questions))
        unknown = self.image_names[None]
        for i in range(len(self.images)):
            self.images[i] = unknown
        for file, (start, stop) in zip(files, pairwise(starts), strict=True):
            if twins[start:stop].any():
                for number, row in enumerate(read_rows(file, columns=["images"], batch_rows=_IMAGE_ROWS), start):
                    if twins[number]:
                        self.images[number] = self.image_names[image_name(row["images"] or [])]

    def found(self, files: tuple[Path, ...], schema: pa.Schema, starts: Numbers) -> TrainingRows:
        """All rows that were taken."""
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


def _twins(truths: Numbers, questions: Numbers) -> NDArray[np.bool_]:
    """Per row, whether another has its ground truth and question."""
    _, pairs, sizes = np.unique(np.stack([truths, questions]), axis=1, return_inverse=True, return_counts=True)
    return (sizes[pairs.reshape(-1)] > 1) & (truths != NOTHING)
