"""Shared by the converters of counting data sets: which rows to make, and their questions.

Counting needs no points, and keeps those that lie in the image. Pointing needs all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from verl_visionr1.answers import FORMATS
from verl_visionr1.boxes import Point
from verl_visionr1.conversion.flags import Flags
from verl_visionr1.conversion.ledger import Ledger


@dataclass(frozen=True, kw_only=True)
class CountFlags(Flags):
    """The flags of converters whose objects are points; `--help` explains each."""

    task: Annotated[
        Literal["counting", "pointing", "both"],
        "counting: the number of objects; pointing: the place of each; both: one row of each.",
    ] = "counting"

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            self.format_of(task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks for which rows are made.

        >>> CountFlags(data_source="crowds", task="both").tasks
        ('counting', 'pointing')
        """
        return ("counting", "pointing") if self.task == "both" else (self.task,)

    def how_many(self, plural: str, task: str = "counting") -> str | None:
        """Return the counting question for a name in the plural; the package's own wording expects a singular.

        None for pointing, a user's template, or an answer format that cannot follow a question.

        >>> CountFlags(data_source="fruit").how_many("apples")
        'How many apples are there in the image?'
        """
        if task != "counting" or self.prompt_template is not None or not FORMATS[self.format_of(task)].then:
            return None
        return f"How many {plural} are there in the image?"


def points_inside(
    points: Sequence[Point], size_wh: tuple[int, int], ledger: Ledger, whole_wh: tuple[float, float] | None = None
) -> list[Point]:
    """Return the points inside the image, with a pixel of tolerance for rounding; the others are noted.

    For counting: an object marked outside the image counts, but its point is dropped.

    Args:
        whole_wh: the whole width and height in the unit of the points, if that is not pixels.
    """
    (width, height), (whole_x, whole_y) = size_wh, whole_wh or size_wh
    dx, dy = whole_x / width, whole_y / height
    inside = [(x, y) for x, y in points if -dx <= x <= whole_x + dx and -dy <= y <= whole_y + dy]
    if len(inside) < len(points):
        ledger.notes["point outside its image: counted without its place"] += len(points) - len(inside)
    return inside
