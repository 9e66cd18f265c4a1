"""An answer that is being put together, and the brackets with numbers that it is put together from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verl_visionr1.answers.base import MAX_BOXES, Answer, Defect
from verl_visionr1.boxes import Box, Point

MAX_GROUPS = 4 * MAX_BOXES
"""Brackets that are looked at: a box takes two at most, and a label may hold some."""


class Draft:
    """Boxes or points with their labels, in the order in which they were said, and what was wrong on the way."""

    __slots__ = ("boxes", "defects", "labels", "n_dropped", "points")

    def __init__(self, defects: Iterable[Defect] = ()) -> None:
        self.boxes: list[Box] = []
        self.points: list[Point] = []
        self.labels: list[str] = []
        self.n_dropped = 0
        self.defects = dict.fromkeys(defects)  # an ordered set

    def name(self, defect: Defect) -> None:
        """Name a defect, once however often it occurs."""
        self.defects[defect] = None

    def drop(self, defect: Defect = Defect.BAD_BOX) -> None:
        """Count a claim that cannot be used."""
        self.n_dropped += 1
        self.defects[defect] = None

    def add_box(self, numbers: Sequence[float] | None, label: str = "") -> None:
        """Take four numbers as a box, or count what was claimed. None: the numbers could not be read."""
        if numbers is None or len(numbers) != 4:
            self.drop(Defect.WRONG_KIND if numbers is not None and len(numbers) == 2 else Defect.BAD_BOX)
            return
        x1, y1, x2, y2 = numbers
        if x1 < x2 and y1 < y2 and all(map(math.isfinite, numbers)):
            self.boxes.append((x1, y1, x2, y2))
            self.labels.append(label)
        else:
            self.drop()

    def add_point(self, numbers: Sequence[float] | None, label: str = "") -> None:
        """Take two numbers as a point, or count what was claimed. None: the numbers could not be read."""
        if numbers is None or len(numbers) != 2:
            self.drop(Defect.WRONG_KIND if numbers is not None and len(numbers) == 4 else Defect.BAD_BOX)
            return
        x, y = numbers
        if math.isfinite(x) and math.isfinite(y):
            self.points.append((x, y))
            self.labels.append(label)
        else:
            self.drop()

    def skip(self, n_unread: int) -> None:
        """Count claims beyond the bound, which were not read."""
        if n_unread:
            self.n_dropped += n_unread
            self.name(Defect.TOO_MANY)

    def answer(self, *, count: float | None = None) -> Answer:
        """The answer, of at most `MAX_BOXES` boxes or points."""
        self.skip(max(0, len(self.labels) - MAX_BOXES))
        boxes, points, labels = self.boxes[:MAX_BOXES], self.points[:MAX_BOXES], self.labels[:MAX_BOXES]
        return Answer(tuple(boxes), tuple(labels), self.n_dropped, tuple(self.defects), tuple(points), count)


class Group(NamedTuple):
    """Numbers in brackets, `text[start:end]`."""

    start: int
    end: int
    numbers: tuple[float, ...] | None
    """None where they could not be read."""


# Neither can backtrack: a bracket's content holds no bracket, and a number has one way to be read.
_BRACKETS = re.compile(r"[\[(<{]([^\[\](){}<>]{1,200})[\])}>]")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
_CLAIM = re.compile(r"\s*(?:[-+.]?[0-9]|[-+]?(?:nan|inf))", re.IGNORECASE)
_FURTHER = re.compile(r"[\[(<{]\s{0,9}[-+.]?[0-9]")


def number_groups(text: str) -> tuple[list[Group], int]:
    """The innermost brackets, of any kind, that hold two numbers or more, and how many further ones were not read.

    >>> number_groups("cat (left)[[1, 2, 3, 4]]")[0]
    [Group(start=11, end=23, numbers=(1.0, 2.0, 3.0, 4.0))]
    >>> [group.numbers for group in number_groups("(1,2),(3,x)")[0]]
    [(1.0, 2.0), None]
    """
    groups: list[Group] = []
    n_seen = 0
    for match in _BRACKETS.finditer(text):
        n_seen += 1
        if n_seen > MAX_GROUPS or len(groups) >= 2 * MAX_BOXES:
            return groups, len(_FURTHER.findall(text, match.start()))
        content = match.group(1)
        if not _CLAIM.match(content):
            continue
        numbers = _numbers(content)
        if numbers is None or len(numbers) > 1:
            groups.append(Group(match.start(), match.end(), numbers))
    return groups, 0


def _numbers(content: str) -> tuple[float, ...] | None:
    """The numbers of a list with or without commas; () for text that merely begins with a number: "(2 of them)"."""
    has_commas = "," in content
    pieces = [piece.strip() for piece in content.split(",")] if has_commas else content.split()
    if all(map(_NUMBER.fullmatch, pieces)):
        return tuple(map(float, pieces))
    return None if has_commas else ()


def gaps(text: str, groups: Sequence[Group]) -> list[str]:
    """The text before, between and after the groups, stripped: one more than there are groups.

    >>> gaps("[(1, 2), (3, 4)]", number_groups("[(1, 2), (3, 4)]")[0])
    ['[', ',', ']']
    """
    starts, ends = [group.start for group in groups], [group.end for group in groups]
    return [text[end:start].strip() for end, start in zip([0, *ends], [*starts, len(text)], strict=True)]


def list_defect(text: str, groups: Sequence[Group], openings: str = "[(") -> Defect | None:
    """What is wrong with `text` as one group, or as one bracketed list of groups.

    Args:
        text: the answer.
        groups: all its `number_groups`.
        openings: the brackets that may stand around a group.
    """
    if not groups:
        return Defect.TRUNCATED if text[:1] in ("[", "(") and is_cut_off(text) else Defect.NO_LIST
    first, *between, last = gaps(text, groups)
    if (first, last) == ("[", "]") or (first, last, between) == ("", "", []):
        is_sound = all(gap == "," for gap in between) and all(
            text[group.start] in openings and text.find(",", group.start, group.end) > 0 for group in groups
        )
        return None if is_sound else Defect.MALFORMED
    if is_cut_off(text):
        return Defect.TRUNCATED
    return Defect.PROSE if first.strip("[({< ") or last.strip("])}>, ") else Defect.MALFORMED


def read_lists(parts: Sequence[str], draft: Draft, *, openings: str = "[(", are_boxes: bool = True) -> Answer:
    """The answer of texts that are groups of numbers, or bracketed lists of groups: boxes, or points."""
    take = draft.add_box if are_boxes else draft.add_point
    for part in parts:
        groups, n_unread = number_groups(part)
        for group in groups:
            take(group.numbers)
        draft.skip(n_unread)
        defect = list_defect(part, groups, openings)
        if defect is not None and not n_unread:
            draft.name(defect)
    return draft.answer()


def is_cut_off(text: str) -> bool:
    """Whether a bracket was opened that is not closed again."""
    return any(
        text.rfind(opening) > text.rfind(closing) or text.count(opening) > text.count(closing)
        for opening, closing in ("[]", "()")
    )
