"""Check while items are streamed that boxes and points are in the convention of their converter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice

from verl_visionr1.conversion.box_check import BoxCheck
from verl_visionr1.conversion.conventions import Convention
from verl_visionr1.conversion.flags import BoxFlags, Flags
from verl_visionr1.conversion.items import Item
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.conversion.point_units import PointEvidence
from verl_visionr1.conversion.values import is_finite
from verl_visionr1.files import RowError
from verl_visionr1.images import read_size

LOOK = 64
"""Number of first items whose boxes are checked before any row is made."""


_RANGE = r"0(?:\.0)?\s?(?:[-\u2013~]|to|and)\s?(?:1\.0|1|99|100|999|1000|1024)\b(?![-.,]?\d)"
_FRAME = re.compile(
    rf"\b(?:between|from|in|to|range|scale)\s(?:the\srange\s)?{_RANGE}|[\[(]0(?:\.0)?,\s?(?:1\.0|1|100|999|1000|1024)[\])]"
    r"|\bnormali[sz]ed\b(?!\s(?:by|for)\b)|\bpixels?\s(?:coordinates?|values?|positions?)\b"
    r"|\bin\s(?:absolute\s|image\s|whole\s)?pixels?\b|\b(?:relative|absolute)\scoordinates?\b"
    r"|\bin\spercent(?:age)?s?\b|\bpercent(?:age)?s?\sof\sthe\s(?:image|width|height)\b",
    re.IGNORECASE,
)
"""Words of a question that state the coordinates of the answer."""


class ItemBoxes:
    """Boxes and points of items with a declared convention, and questions that state their own coordinates."""

    def __init__(self, flags: Flags) -> None:
        self._flags = flags
        self._checks: dict[Convention, BoxCheck] = {}
        self._points: dict[Convention, PointEvidence] = {}
        self._framed: Counter[str] = Counter()  # by file
        self._first_framed: dict[str, str] = {}

    def add(self, item: Item, size_wh: tuple[int, int]) -> None:
        """Add the boxes and points of an item on an image of this size in pixels."""
        if item.written is None or not isinstance(self._flags, BoxFlags):
            return
        name = item.where.partition(":")[0]
        asked = item.prompt if item.prompt is not None else item.question or ""
        if item.task in ("grounding", "detection", "pointing") and (frame := _FRAME.search(asked)):
            self._framed[name] += 1
            self._first_framed.setdefault(name, f"{item.where}: {frame[0]!r}")
        if item.written not in self._checks:
            self._checks[item.written] = self._flags.box_check(name, item.written)
            self._points[item.written] = PointEvidence()
        self._points[item.written].add([(x, y) for x, y in item.points_xy], size_wh)
        for number, corners in enumerate(item.boxes_xyxy):
            if len(corners) == 4 and all(map(is_finite, corners)):
                written = item.written.as_written(corners)
                self._checks[item.written].add(f"{item.where}: box {number}", written, size_wh)

    def require(self, ledger: Ledger) -> None:
        """Check the conventions against the numbers (`RowsError`); note a doubt."""
        for convention, check in self._checks.items():
            check.require(ledger)
            if not (isinstance(self._flags, BoxFlags) and self._flags.max_clipped == 1):
                self._points[convention].require(check.name, convention, ledger)
        for file, count in self._framed.items():
            reason = f"question that states the coordinates of its answer (the first: {self._first_framed[file]})"
            advice = "if the model uses others, remove these words, or ask by a phrase with --prompt-template"
            ledger.notes[f"{reason}; {advice}"] += count


def check_first_boxes(items: Iterable[Item], flags: Flags) -> Iterator[Item]:
    """Check the boxes of the first `LOOK` items (`RowsError`), then yield all items."""
    items = iter(items)
    first = list(islice(items, 1))
    if first and first[0].written is not None:
        first += islice(items, LOOK - 1)
    boxes = ItemBoxes(flags)
    for item in first:
        with suppress(RowError):  # reported when its row is made
            boxes.add(item, item.annotated_wh or read_size(item.image)[0])
    boxes.require(Ledger())
    return chain(first, items)
