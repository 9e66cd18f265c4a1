"""The place in the completion from which each box of an `Answer` was read.

A box is found again by its numbers: they follow each other in the text, in the order in which the parser read the
boxes. This works for every format, and for boxes from broken text.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from verl_visionr1.answers.base import Answer
from verl_visionr1.answers.envelope import unwrap
from verl_visionr1.boxes import Box


class Span(NamedTuple):
    """The place of a box in the completion, in characters: `text[start:end]`.

    Attributes:
        box: its four numbers, from the first to the last.
        label: its label; None if it has none, or if its text differs from the label that was read (JSON escapes).
    """

    box: tuple[int, int]
    label: tuple[int, int] | None


def box_spans(text: str, answer: Answer) -> list[Span | None]:
    """Find the span of each box of a completion's answer (in the model's units); None where it is not found. Linear."""
    body = unwrap(text)[0]
    begin = max(text.rfind(body), 0) if body else 0
    spans = _spans(text, answer, begin)
    if begin and None in spans:  # this parser reads other parts of the text
        everywhere = _spans(text, answer, 0)
        return min(spans, everywhere, key=lambda some: some.count(None))
    return spans


def _spans(text: str, answer: Answer, begin: int) -> list[Span | None]:
    """Find the spans of boxes from `begin` on."""
    numbers = _numbers(text, begin)
    places = _places(text, numbers)
    spans: list[Span | None] = []
    position, free = 0, begin
    labels: Sequence[str] = answer.labels if len(answer.labels) == len(answer.boxes_xyxy) else ()
    for i, box in enumerate(answer.boxes_xyxy):
        found = _next(places.get(box, []), position)
        if found is None:
            spans.append(None)
            continue
        place = (numbers[found].start, numbers[found + 3].end)
        position = found + 4
        limit = numbers[position].start if position < len(numbers) else len(text)
        label = labels[i] if labels else ""
        before = spans[-1] if spans else None
        where = _label_place(text, label, free, place, limit)
        if where is None and before is not None and i and labels and labels[i - 1] == label:
            where = before.label  # one label for several boxes
        spans.append(Span(place, where))
        free = place[1]
    return spans


class _Number(NamedTuple):
    value: float
    start: int
    end: int


# Cannot backtrack: a number matches in one way. A digit in a word ("bbox_2d") is no number; a bin of PaliGemma is one.
_NUMBER = re.compile(r"(?:(?<=<loc)|(?<![\w.]))[-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?")


def _numbers(text: str, begin: int) -> list[_Number]:
    return [_Number(float(m.group()), m.start(), m.end()) for m in _NUMBER.finditer(text, begin)]


def _places(text: str, numbers: list[_Number]) -> dict[Box, list[int]]:
    """Map each box to the indices of its first number: as written and truncated to integers, x before y."""
    places: dict[Box, list[int]] = {}
    for i in range(len(numbers) - 3):
        a, b, c, d = (number.value for number in numbers[i : i + 4])
        if not all(map(math.isfinite, (a, b, c, d))):
            continue
        if _is_y_first(text, numbers[i].start):
            a, b, c, d = b, a, d, c
        whole = (float(int(a)), float(int(b)), float(int(c)), float(int(d)))
        for box in {(a, b, c, d), whole}:
            places.setdefault(box, []).append(i)
    return places


def _is_y_first(text: str, start: int) -> bool:
    """Whether the numbers at `start` are PaliGemma's bins or the value of Gemma's `box_2d`: y before x."""
    if text.startswith("<loc", start - 4):
        return True
    key = text[max(start - 20, 0) : start].rstrip(" [:\"'\n")
    return key.endswith("box_2d") and not key.endswith("bbox_2d")


def _next(indices: list[int], position: int) -> int | None:
    """The first of the sorted `indices` that is at least `position`."""
    i = bisect_left(indices, position)
    return indices[i] if i < len(indices) else None


def _label_place(text: str, label: str, free: int, place: tuple[int, int], limit: int) -> tuple[int, int] | None:
    """Find the label of a box: within its braces, else before it, else after it."""
    if not label:
        return None
    opening, closing = text.rfind("{", free, place[0]), text.find("}", place[1])
    regions = [(free, place[0]), (place[1], max(limit, place[1]))]
    if opening >= 0 and closing >= 0:
        regions = [(place[1], closing), (opening, place[0])]
    for start, end in regions:
        at = text.rfind(label, start, end) if end <= place[0] else text.find(label, start, end)
        if at >= 0:
            return at, at + len(label)
    return None
