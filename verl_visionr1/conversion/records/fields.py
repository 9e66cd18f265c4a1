"""What the columns of a record mean: `Layout.read` finds raw values, `Entry.check` checks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
WHATS = (
    *("image", "id", "split", "width", "height", "label", "phrase", "boxes", "points", "count"),
    *("question", "answer", "choices", "solution"),
)
"""Meanings that a column can have."""
_TRUTHS = ("boxes", "points", "count", "answer")
_PARTS = {"boxes": 4, "points": 2}


@dataclass(slots=True, kw_only=True)
class Entry:
    """One record. `check` replaces raw values by checked ones; None: not given.

    Attributes:
        where: file and place, for messages.
        image: path, bytes or a dictionary of them; id, split, width, height: of the image.
        label: categories of a vocabulary, or names of the phrases, one per box: checked, a list.
        phrase: what to find; checked, a tuple.
        boxes: checked, lists of four numbers in `box_format`; []: no object. points: lists of two numbers.
        count, answer, choices: the other kinds of ground truth; solution: a text that has any of them.
        question: the row's own question; wording: the exact prompt, for `--keep-prompts`.
        task: set if the ground truth does not determine it; box_format: set if the record states it.
        left_out: why the row is left out; notes: what was dropped.
    """

    where: str = ""
    image: Any = None
    id: Any = None
    split: Any = None
    width: Any = None
    height: Any = None
    size_wh: tuple[int, int] | None = None
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

    @property
    def file_name(self) -> str:
        """The name of the image; "" if it has none."""
        name = self.image.get("path") if isinstance(self.image, Mapping) else self.image
        return name if isinstance(name, str) else ""

    @property
    def image_id(self) -> str:
        """The id of the image, else its name without folders and suffix."""
        return key_of(self.id) or path_name(self.file_name).rpartition("/")[2].partition(".")[0]

    @property
    def corners(self) -> list[Box]:
        """The boxes as x1, y1, x2, y2, in the format's unit."""
        return [self.box_format.as_corners(box) for box in self.boxes or () if self.box_format is not None]

    def check(self, layout: Layout) -> None:
        """Check all values.

        Raises `RowError`: a value that does not fit its column. RowsError: boxes without a format.
        """
        where = self.where
        self.box_format = self.box_format or layout.box_format
        self.boxes, self.points = boxes_of(self.boxes, where), points_of(self.points, where)
        self.label = labels_of(self.label, where, layout.class_names)
        if self.solution is not None:
            self._take_solution()
        if (self.boxes or self.points) and self.box_format is None:
            raise RowsError(f"{where}: has boxes or points, but no format; give --box-format {', '.join(NAMED)}")
        if isinstance(self.image, list):
            n_images = len(self.image)
            raise RowError("several images", f"{where}: {n_images} images: a row has one; leave such rows out")
        self.size_wh = size_of(self.width, self.height, where)
        self.phrase = texts_of(self.phrase, "phrase", where)
        self.choices = texts_of(self.choices, "choices", where)
        self.question = " ".join(texts_of(self.question, "question", where)) or None
        self.count = None if self.count in (None, "") else count_of(self.count, where)
        self.answer = None if self.answer in (None, "") else str(self.answer)
        self.split = str(self.split or "")

    def _take_solution(self) -> None:
        found = read_solution(self.solution, self.where)
        self.boxes, self.points, self.label = found.boxes, found.points, found.labels
        self.answer = found.text if found.boxes is None and found.points is None else None
        if self.answer is not None and self.box_format is not None:
            refuse_pairs(self.answer, self.where)


# ---------------------------------------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True)
class Layout:
    """How records are read: the layout of a framework (`frameworks`), changed by the user's options."""

    read: Callable[[Mapping[str, Any], str], Entry] = lambda record, where: Entry()
    box_format: Convention | None = None  # of all boxes; None: no boxes, or given by each record or the user
    columns: Mapping[str, str] = field(default_factory=dict)  # meaning -> column name; `read` handles the rest
    header: tuple[str, ...] = ()  # names of the columns of a table without a header
    class_names: tuple[str, ...] = ()  # of numeric labels

    @property
    def is_vocabulary(self) -> bool:
        """Whether boxes have labels of a vocabulary, so that rows have to be planned."""
        return "label" in self.columns and not {"phrase", "question"} & self.columns.keys()

    @property
    def is_one_box_a_record(self) -> bool:
        """Whether each corner has its own column; then several records make one image."""
        return "," in self.columns.get("boxes", "")

    def entry(self, where: str, record: Any) -> Entry:
        """Return the raw values of a record; named columns replace the result of `read`.

        Raises `RowError`: not an object.
        """
        record = record_of(record, where)
        made = self.read(record, where)
        made.where = where
        if any(what in self.columns for what in _TRUTHS):
            made.solution = None
        for what, name in self.columns.items():
            setattr(made, what, _value(record, name))
        while isinstance(made.image, list) and len(made.image) < 2:
            made.image = made.image[0] if made.image else None
        return made

    def missing(self, seen: set[str]) -> str | None:
        """Return a column that no record has, or None."""
        wanted = [part.strip() for name in self.columns.values() for part in name.split(",")]
        return next((name for name in wanted if not seen & {name, name.partition(".")[0]}), None)


def columns_of(*texts: str) -> dict[str, str]:
    """Parse `what=name` texts: what -> name of its column, dotted if nested, or several names joined by commas.

    Raises `RowsError`: another form, or an unknown or repeated what.

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


def _value(record: Mapping[str, Any], name: str) -> Any:
    """Return the value of a column; for several, a list of values, or None if all are empty."""
    if "," not in name:
        return value_at(record, name)
    found = [value_at(record, part.strip()) for part in name.split(",")]
    return None if all(value in (None, "") for value in found) else found


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


# ---------------------------------------------------------------------------------------------- values


def boxes_of(value: Any, where: str) -> list[Box] | None:
    """Read boxes from a list, one box, or a text; None if not given; `RowError` for anything else."""
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    members = value if isinstance(value, list | tuple) else [value]
    if members and not any(isinstance(member, list | tuple) for member in members):
        members = [members]
    return [numbers_of(member, 4, where, texts=True) for member in members]


def points_of(value: Any, where: str) -> list[Box] | None:
    """Read points from a list or a text; None if not given; `RowError` for anything else."""
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    return [list(point) for point in values.points_of(value, where, texts=True)]


def labels_of(value: Any, where: str, class_names: Sequence[str] = ()) -> list[str]:
    """Read one label, or a list; numbers are indexes into `class_names`, which limits the labels if given.

    Raises `RowError`: not a text, a number without a name, or an unknown name.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return []
    labels: list[str] = []
    for member in value if isinstance(value, list | tuple) else [value]:
        is_index = type(member) is int and 0 <= member < len(class_names)
        name = class_names[member] if is_index else member
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


def texts_of(value: Any, what: str, where: str) -> tuple[str, ...]:
    """Read a text, or a list of texts; () if not given; `RowError` for anything else."""
    members = value if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    if not all(isinstance(member, str) and member.strip() for member in members):
        raise RowError(f"{what} is no text", f"{where}: {what} {str(value)[:80]!r}: needs a text; {ADVICE}")
    return tuple(member.strip() for member in members)
