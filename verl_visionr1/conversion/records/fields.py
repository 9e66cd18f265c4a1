"""Fields of records in any layout: the meaning of each column.

record --`Layout.fields`--> Fields (raw values) --`entry_of`--> Entry (checked)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from verl_visionr1.conversion import values
from verl_visionr1.conversion.conventions import NAMED, Convention
from verl_visionr1.conversion.identity import path_name
from verl_visionr1.conversion.records.solutions import decoded_text, read_solution, refuse_pairs
from verl_visionr1.conversion.values import ADVICE, count_of, numbers_of, record_of, size_of
from verl_visionr1.conversion.vocabulary import key_of, visible_form
from verl_visionr1.files import RowError, RowsError

Box = list[float]

# ---------------------------------------------------------------------------------------------- columns


@dataclass(slots=True, kw_only=True)
class Fields:
    """The raw values of one record; None: not given.

    Attributes:
        image, id, split, width, height: of the image.
        label: categories of a vocabulary, one per box.
        phrase: the requested phrase, or (frameworks only) a list of them, with `label` for each box.
        boxes, points, count, answer, choices: the ground truth.
        solution: a text with boxes, points or the answer (`solutions`).
        question: the row's own question.
        wording: the exact prompt, for `--keep-prompts`; None: the question.
        task: set if the ground truth does not determine it; box_format: set if the record states it.
        left_out: why the row is left out, or "". notes: what was dropped.
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
WHATS = tuple(it.name for it in fields(Fields) if it.name not in _OF_PRESETS)
"""Meanings that a column can have."""
_TRUTHS = ("boxes", "points", "count", "answer")
_PARTS = {"boxes": 4, "points": 2}


def columns_of(*texts: str) -> dict[str, str]:
    """Parse `what=name` texts: what -> name of its column, dotted if nested, or several names joined by commas.

    Raises:
        RowsError: another form, or an unknown or repeated what.

    >>> columns_of("image=file", "boxes=objects.bbox")
    {'image': 'file', 'boxes': 'objects.bbox'}
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
    return names


@dataclass(frozen=True, slots=True)
class Layout:
    """How records are read: the layout of a framework (`frameworks`), changed by the user's options.

    Attributes:
        read: (record, place) -> its fields.
        box_format: of all its boxes; None: no boxes, or given by each record or the user.
        columns: meaning -> column name; `read` handles the rest.
        header: names of the columns of a table without a header.
        image_columns: columns with images, which are not needed to know a row's question.
        class_names: names of numeric labels.
    """

    read: Callable[[Mapping[str, Any], str], Fields] = lambda record, where: Fields()
    box_format: Convention | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    header: tuple[str, ...] = ()
    image_columns: tuple[str, ...] = ("image", "images")
    class_names: tuple[str, ...] = ()

    @property
    def is_vocabulary(self) -> bool:
        """Whether boxes have labels of a vocabulary, so that rows have to be planned."""
        return "label" in self.columns and not {"phrase", "question"} & self.columns.keys()

    @property
    def is_one_box_a_record(self) -> bool:
        """Whether each corner has its own column; then several records make one image."""
        return "," in self.columns.get("boxes", "")

    def fields(self, where: str, record: Any) -> Fields:
        """Return the fields of a record; named columns replace the result of `read`.

        Raises:
            RowError: not an object.
        """
        record = record_of(record, where)
        made = self.read(record, where)
        if any(what in self.columns for what in _TRUTHS):
            made.solution = None
        for what, name in self.columns.items():
            setattr(made, what, _value(record, name))
        return made

    def missing(self, seen: set[str]) -> str | None:
        """Return a column that no record has, or None."""
        wanted = [part.strip() for name in self.columns.values() for part in name.split(",")]
        return next((name for name in wanted if not seen & {name, name.partition(".")[0]}), None)


def _value(record: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column; for several, a list of values, or None if all are empty."""
    if "," not in name:
        return value_at(record, name)
    values = [value_at(record, part.strip()) for part in name.split(",")]
    return None if all(value in (None, "") for value in values) else values


def value_at(record: Any, name: str) -> Any:
    """Return the value at a dotted name; for a list, the values of its members; None if missing.

    >>> value_at({"objects": [{"bbox": [1, 2, 3, 4]}]}, "objects.bbox")
    [[1, 2, 3, 4]]
    """
    if isinstance(record, Mapping) and name in record:  # a name with a dot in it
        return record[name]
    first, _, rest = name.partition(".")
    value = record.get(first) if isinstance(record, Mapping) else None
    if not rest or value is None:
        return value
    return [value_at(member, rest) for member in value] if isinstance(value, list) else value_at(value, rest)


# ---------------------------------------------------------------------------------------------- one entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checked record.

    Attributes:
        file_name: of the image, "" if the record embeds it.
        boxes: four numbers each, in `box_format`; None: no box field, []: no object.
        labels: one per box, or none.
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


def entry_of(where: str, made: Fields, layout: Layout) -> Entry:
    """Check the fields of a record.

    Raises:
        RowError: a value that does not fit its column. RowsError: boxes without a format.
    """
    boxes, points, answer = boxes_of(made.boxes, where), points_of(made.points, where), made.answer
    box_format = made.box_format or layout.box_format
    labels = labels_of(made.label, where, layout.class_names)
    if made.solution is not None:
        solution = read_solution(made.solution, where)
        boxes, points, labels = solution.boxes, solution.points, solution.labels
        answer = solution.text if boxes is None and points is None else None
        if answer is not None and box_format is not None:
            refuse_pairs(answer, where)
    if (boxes or points) and box_format is None:
        raise RowsError(f"{where}: has boxes or points, but no format; give --box-format {', '.join(NAMED)}")
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


def _only(where: str, image: Any) -> Any:
    """Return the one image, also from a list of one."""
    if not isinstance(image, list):
        return image
    if len(image) > 1:
        raise RowError("several images", f"{where}: {len(image)} images: a row has one; leave such rows out")
    return image[0] if image else None


# ---------------------------------------------------------------------------------------------- values


def boxes_of(value: Any, where: str) -> list[Box] | None:
    """Read boxes from a list, one box, or a text; None if not given.

    Raises:
        RowError: anything else.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    members = value if isinstance(value, list | tuple) else [value]
    if members and not any(isinstance(member, list | tuple) for member in members):
        members = [members]
    return [numbers_of(member, 4, where, texts=True) for member in members]


def points_of(value: Any, where: str) -> list[Box] | None:
    """Read points from a list or a text; None if not given.

    Raises:
        RowError: anything else.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    return [list(point) for point in values.points_of(value, where, texts=True)]


def labels_of(value: Any, where: str, class_names: Sequence[str] = ()) -> list[str]:
    """Read one label, or a list; numbers are indexes into `class_names`, which limits the labels if given.

    Raises:
        RowError: not a text, a number without a name, or an unknown name.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return []
    labels: list[str] = []
    for member in value if isinstance(value, list | tuple) else [value]:
        name = member
        if isinstance(member, int) and not isinstance(member, bool) and 0 <= member < len(class_names):
            name = class_names[member]
        if not isinstance(name, str) or not name.strip():
            advice = "name them by --class-names" if isinstance(member, int) else ADVICE
            raise RowError("label without a name", f"{where}: label {member!r}: needs a text; {advice}")
        if class_names and visible_form(name) not in _visible_forms(tuple(class_names)):
            raise RowError("unknown label", f"{where}: label {name!r}: not among the {len(class_names)} --class-names")
        labels.append(name.strip())
    return labels


@lru_cache(maxsize=8)
def _visible_forms(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(visible_form, names))


def text_of(value: Any, what: str, where: str) -> str | None:
    """Read a text; None if not given."""
    return " ".join(texts_of(value, what, where)) or None


def texts_of(value: Any, what: str, where: str) -> tuple[str, ...]:
    """Read a text, or a list of texts; () if not given.

    Raises:
        RowError: anything else.
    """
    members = value if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    if not all(isinstance(member, str) and member.strip() for member in members):
        raise RowError(f"{what} is no text", f"{where}: {what} {str(value)[:80]!r}: needs a text; {ADVICE}")
    return tuple(member.strip() for member in members)
