"""Boxes and points of items on their way: are they written as their converter takes them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

from verl_visionr1.conversion.box_check import BoxCheck
from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.flags import BoxFlags, Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.point_units import PointCheck
from verl_visionr1.conversion.question_frames import QuestionFrames
from verl_visionr1.conversion.values import is_finite
from verl_visionr1.files import RowError
from verl_visionr1.images import read_size

LOOK = 64
"""Items whose boxes are asked before the first of them can fail."""


class ItemBoxes:
    """Boxes and points of items that say how they are written, and questions that say how to answer."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._checks: dict[Convention, BoxCheck] = {}
        self._points: dict[Convention, PointCheck] = {}
        self._questions = QuestionFrames()

    def add(self, item: Item, size_wh: tuple[int, int]) -> None:
        """Take the boxes and points of an item on an image of this size in pixels."""
        if item.written is None or not isinstance(self._flags, BoxFlags):
            return
        self._questions.add(item)
        name = item.where.partition(":")[0]
        if item.written not in self._checks:
            self._checks[item.written] = self._flags.box_check(name, item.written)
            self._points[item.written] = PointCheck(name, item.written, allows=self._flags.max_clipped == 1)
        self._points[item.written].evidence.add([(x, y) for x, y in item.points_xy], size_wh)
        for number, corners in enumerate(item.boxes_xyxy):
            if len(corners) == 4 and all(map(is_finite, corners)):
                written = item.written.as_written(corners)
                self._checks[item.written].add(f"{item.where}: box {number}", written, size_wh)

    def require(self, ledger: Ledger) -> None:
        """Note a doubt.

        Raises:
            RowsError: boxes or points are written otherwise.
        """
        for check in (*self._checks.values(), *self._points.values()):
            check.require(ledger)
        self._questions.note(ledger)


def after_a_look(items: Iterable[Item], flags: Flags) -> Iterator[Item]:
    """The items, once the boxes of the first `LOOK` were asked.

    Raises:
        RowsError: boxes are written otherwise.
    """
    items = iter(items)
    first = list(islice(items, 1))
    if first and first[0].written is not None:
        first += islice(items, LOOK - 1)
    boxes = ItemBoxes(flags)
    for item in first:
        with suppress(RowError):  # told when its row is made
            boxes.add(item, item.annotated_wh or read_size(item.image)[0])
    boxes.require(Ledger())
    return chain(first, items)
