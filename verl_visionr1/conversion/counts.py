"""What the converters of counting data sets share: which rows to make, and how counts and points are read and asked.

A count needs no place: points that a data set gives go with it where they can be used. Pointing is nothing without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import typer

from verl_visionr1.answers import FORMATS
from verl_visionr1.boxes import Point
from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.files import RowError


class CountTask(str, Enum):
    """Which rows to make."""

    counting = "counting"
    pointing = "pointing"
    both = "both"


@dataclass(frozen=True, kw_only=True)
class CountFlags(Flags):
    """The flags of converters whose objects are points; `--help` explains each.

    Raises:
        RowsError: a value out of range, or an answer format that cannot answer a task.
    """

    task: Annotated[
        CountTask, typer.Option(help="counting: how many there are; pointing: where each is; both: a row of each.")
    ] = CountTask.counting

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            self.format_of(task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that rows are made of.

        >>> CountFlags(data_source="crowds", task=CountTask.both).tasks
        ('counting', 'pointing')
        """
        name = CountTask(self.task).value
        return ("counting", "pointing") if name == "both" else (name,)

    def how_many(self, plural: str, task: str = "counting") -> str | None:
        """The question of counting for a name in the plural, which the package's own wording would take for a singular.

        None where it does not apply: pointing, a template of the user's, a format that is not asked for after a
        question.

        >>> CountFlags(data_source="fruit").how_many("apples")
        'How many apples are there in the image?'
        """
        if task != "counting" or self.prompt_template is not None or not FORMATS[self.format_of(task)].then:
            return None
        return f"How many {plural} are there in the image?"


def whole_number(value: Any, where: str) -> int:
    """A count, as a number or as text.

    Raises:
        RowError: it is none.

    >>> whole_number("3", "row 1"), whole_number(3.0, "row 1")
    (3, 3)
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RowError("no count", f"{where}: count {str(value)[:60]!r}: needs a whole number of at least 0; mend it")
    return value


def record_of(record: Any, where: str) -> Mapping[str, Any]:
    """An entry of a data set, which must be an object; `sources.read_records` hands over some as errors.

    Raises:
        RowError: it is none, or that error.
    """
    if isinstance(record, RowError):
        raise record
    if not isinstance(record, Mapping):
        raise RowError("malformed entry", f"{where}: {str(record)[:80]!r} is no object with keys; mend it")
    return record


def text_of(record: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    """The text under the first of some keys that a record has, without surplus blanks.

    Raises:
        RowError: there is none, or it is blank.
    """
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
    reason = f"needs a text under {' or '.join(keys)}"
    raise RowError(f"no {keys[0]}", f"{where}: {str(dict(record))[:80]}: {reason}; mend it")


def points_of(value: Any, where: str) -> list[Point]:
    """Points, in whichever way a data set writes them: `[[x, y]]`, `[{"x": x, "y": y}]` or `{"x": [x], "y": [y]}`.

    Raises:
        RowError: none of these, or a number that is not finite.

    >>> points_of({"x": [1, 2], "y": [3, 4]}, "row 1") == points_of([[1, 3], [2, 4]], "row 1")
    True
    """
    advice = "needs points of two finite numbers; mend it"
    try:
        if isinstance(value, Mapping):
            value = list(zip(value["x"], value["y"], strict=True))
        pairs = [(it["x"], it["y"]) if isinstance(it, Mapping) else tuple(it) for it in value]
    except (KeyError, TypeError, ValueError):
        raise RowError("points malformed", f"{where}: points {str(value)[:80]}: {advice}") from None
    for pair in pairs:
        are_numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in pair)
        if len(pair) != 2 or not are_numbers:
            raise RowError("points malformed", f"{where}: point {str(pair)[:80]}: {advice}")
    return [(float(x), float(y)) for x, y in pairs]


def points_inside(
    points: Sequence[Point], size_wh: tuple[int, int], ledger: Ledger, whole_wh: tuple[float, float] | None = None
) -> list[Point]:
    """The points that lie in the image, or by a pixel of rounding outside it; the others are noted.

    For counting: what an annotator marked over the edge was counted, but has no place.

    Args:
        whole_wh: what stands for the whole image where points are not in pixels.
    """
    (width, height), (whole_x, whole_y) = size_wh, whole_wh or size_wh
    dx, dy = whole_x / width, whole_y / height
    inside = [(x, y) for x, y in points if -dx <= x <= whole_x + dx and -dy <= y <= whole_y + dy]
    if len(inside) < len(points):
        ledger.notes["point outside its image: counted, its place left out"] += len(points) - len(inside)
    return inside
