"""What the converters of counting data sets share: which rows to make, and how they are asked.

A count needs no place: points that a data set gives go with it where they can be used. Pointing is nothing without.
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
        "counting: how many there are; pointing: where each is; both: a row of each.",
    ] = "counting"

    def __post_init__(self) -> None:
        super().__post_init__()
        for task in self.tasks:
            self.format_of(task)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that rows are made of.

        >>> CountFlags(data_source="crowds", task="both").tasks
        ('counting', 'pointing')
        """
        return ("counting", "pointing") if self.task == "both" else (self.task,)

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
