"""Fields of records that anybody laid out: which column means what.

record --`Columns.fields` or a preset (`frameworks`)--> Fields (raw values) --`entry_of`--> Entry (checked)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.identity import path_name
from verl_visionr1.conversion.records.notations import refuse_pairs
from verl_visionr1.conversion.records.solutions import read_solution
from verl_visionr1.conversion.records.values import Box, boxes_of, labels_of, points_of, text_of, texts_of
from verl_visionr1.conversion.values import count_of, size_of
from verl_visionr1.conversion.vocabulary import key_of
from verl_visionr1.files import RowError, RowsError

# ---------------------------------------------------------------------------------------------- columns


@dataclass(slots=True, kw_only=True)
class Fields:
    """The raw values of one record; None: it does not say.

    Attributes:
        image, id, split, width, height: of the image.
        label: categories of a vocabulary, one a box.
        phrase: what the row asks for: one phrase, or (frameworks only) a list of them, with `label` for each box.
        boxes, points, count, answer, choices: the ground truth.
        solution: a text that holds boxes, points or the answer (`solutions`).
        question: the row's own question.
        wording: the prompt to the letter, for `--keep-prompts`; None: the question.
        task: where the ground truth does not tell it; box_format: where the record itself tells it.
        left_out: why the row is none for us; "" where it is one. notes: what was dropped.
    """

    image: Any = None
    id: Any = None
    split: Any = None
    width: Any = None
    height: Any = None
    label: Any = None
    phrase: Any = None
    boxes: Any = None
    points: Any = None
    count: Any = None
    question: Any = None
    answer: Any = None
    choices: Any = None
    solution: Any = None
    wording: str | None = None
    task: str | None = None
    box_format: Convention | None = None
    left_out: str = ""
    notes: tuple[str, ...] = ()


_OF_PRESETS = ("wording", "task", "box_format", "left_out", "notes")
WHATS = tuple(field.name for field in fields(Fields) if field.name not in _OF_PRESETS)
"""What a column can be."""
_TRUTHS = ("boxes", "points", "count", "answer")
_PARTS = {"boxes": 4, "points": 2}


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """What -> name of its column, dotted where it lies in another ("objects.bbox"), or several joined by commas."""

    names: Mapping[str, str]

    @staticmethod
    def parsed(texts: Sequence[str]) -> ColumnMap:
        """Of `what=name` texts.

        Raises:
            RowsError: another form, an unknown what, or one that is given twice.
        """
        names: dict[str, str] = {}
        for text in texts:
            what, _, name = (part.strip() for part in text.partition("="))
            if what not in WHATS or not name:
                raise RowsError(f"--column {text}: needs WHAT=NAME, WHAT one of {', '.join(WHATS)}")
            if what in names:
                raise RowsError(f"--column {text}: {what} is given twice")
            n_parts = name.count(",") + 1
            if n_parts not in (1, _PARTS.get(what, 1)):
                raise RowsError(f"--column {text}: {n_parts} columns; {what} is one column, or {_PARTS.get(what, 1)}")
            names[what] = name
        return ColumnMap(names)

    @property
    def is_one_box_a_record(self) -> bool:
        """Whether each corner has a column of its own: then several records make one image."""
        return "," in self.names.get("boxes", "")

    def over(self, record: Mapping[str, Any], made: Fields | None = None) -> Fields:
        """The fields of a record; those of a preset, where given, are replaced by columns that are named."""
        made = made or Fields()
        if any(what in self.names for what in _TRUTHS):
            made.solution = None
        for what, name in self.names.items():
            setattr(made, what, _value(record, name))
        return made

    def missing(self, seen: set[str]) -> str | None:
        """A column that no record has."""
        wanted = [part.strip() for name in self.names.values() for part in name.split(",")]
        return next((name for name in wanted if not seen & {name, name.partition(".")[0]}), None)


def _value(record: Mapping[str, Any], name: str) -> Any:
    """The value of a column; of several, a list of theirs, or None where all are empty."""
    if "," not in name:
        return value_at(record, name)
    values = [value_at(record, part.strip()) for part in name.split(",")]
    return None if all(value in (None, "") for value in values) else values


def value_at(record: Any, name: str) -> Any:
    """The value at a dotted name; of a list, those of its members; None where there is none.

    >>> value_at({"objects": [{"bbox": [1, 2, 3, 4]}]}, "objects.bbox")
    [[1, 2, 3, 4]]
    """
    if isinstance(record, Mapping) and name in record:  # a name that holds a dot itself
        return record[name]
    first, _, rest = name.partition(".")
    value = record.get(first) if isinstance(record, Mapping) else None
    if not rest or value is None:
        return value
    return [value_at(member, rest) for member in value] if isinstance(value, list) else value_at(value, rest)


# ---------------------------------------------------------------------------------------------- one entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record, checked.

    Attributes:
        file_name: of the image, "" where the record holds bytes.
        boxes: four numbers each as `box_format` says; None: it does not speak of boxes, []: there is none.
        labels: one a box; or none.
        others: as in `Fields`.
    """

    where: str
    image: Any
    file_name: str
    image_id: str
    split: str
    size_wh: tuple[int, int] | None
    box_format: Convention | None
    boxes: list[Box] | None
    labels: list[str]
    phrases: tuple[str, ...]
    points: list[Box] | None
    count: int | None
    question: str | None
    wording: str | None
    answer: str | None
    choices: tuple[str, ...]
    task: str | None

    @property
    def corners(self) -> list[Box]:
        """The boxes as x1, y1, x2, y2, in the format's unit."""
        return [self.box_format.as_corners(box) for box in self.boxes or () if self.box_format is not None]


def entry_of(where: str, made: Fields, box_format: Convention | None, class_names: Sequence[str] = ()) -> Entry:
    """The entry of a record's fields.

    Args:
        box_format: of boxes and points whose record does not tell it.
        class_names: what labels that are numbers stand for.

    Raises:
        RowError: a value that cannot be what its column is said to be. RowsError: boxes, and no format.
    """
    boxes, points, answer = boxes_of(made.boxes, where), points_of(made.points, where), made.answer
    labels = labels_of(made.label, where, class_names)
    if made.solution is not None:
        solution = read_solution(made.solution, where)
        boxes, points, labels = solution.boxes, solution.points, solution.labels
        answer = solution.text if boxes is None and points is None else None
        if answer is not None and (made.box_format or box_format) is not None:
            refuse_pairs(answer, where)
    box_format = made.box_format or box_format
    if (boxes or points) and box_format is None:
        raise RowsError(f"{where}: has boxes or points: say in what format: --box-format {', '.join(NAMED)}")
    image = _only(where, made.image)
    name = image.get("path") if isinstance(image, Mapping) else image
    name = name if isinstance(name, str) else ""
    return Entry(
        where=where,
        image=image,
        file_name=name,
        image_id=key_of(made.id) or path_name(name).rpartition("/")[2].partition(".")[0],
        split=str(made.split or ""),
        size_wh=size_of(made.width, made.height, where),
        box_format=box_format,
        boxes=boxes,
        labels=labels,
        phrases=texts_of(made.phrase, "phrase", where),
        points=points,
        count=None if made.count in (None, "") else count_of(made.count, where),
        question=text_of(made.question, "question", where),
        wording=made.wording,
        answer=None if answer in (None, "") else str(answer),
        choices=texts_of(made.choices, "choices", where),
        task=made.task,
    )


def image_key(image: Any, where: str) -> str:
    """What tells a record's image: a digest of its bytes, where they are given, else its name as it is written.

    The `path` beside bytes is no name: tools write `image.png` for all of them.

    Args:
        where: stands for an image that is neither.
    """
    image = image[0] if isinstance(image, list) and image else image
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if isinstance(data, bytes) and data:
        return f"sha256:{hashlib.sha256(data).hexdigest()}"
    name = image.get("path") if isinstance(image, Mapping) else image
    return name if isinstance(name, str) and name else where


def _only(where: str, image: Any) -> Any:
    """One image, also as a list of one."""
    if not isinstance(image, list):
        return image
    if len(image) > 1:
        raise RowError("several images", f"{where}: {len(image)} images: a row has one; leave such rows out")
    return image[0] if image else None
