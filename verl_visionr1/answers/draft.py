"""Builds an answer from brackets with numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verl_visionr1.answers.base import MAX_BOXES, Answer, Defect
from verl_visionr1.boxes import Box, Point

MAX_GROUPS = 4 * MAX_BOXES
"""Brackets that are read: a box takes at most two, and a label may contain some."""


class Draft:
    """An answer under construction: boxes or points with labels, in the order of the text, and defects."""

    __slots__ = ("boxes", "defects", "labels", "n_dropped", "points")

    def __init__(self, defects: Iterable[Defect] = ()) -> None:
        self.boxes: list[Box] = []
        self.points: list[Point] = []
        self.labels: list[str] = []
        self.n_dropped = 0
        self.defects = dict.fromkeys(defects)  # an ordered set

    def add_defect(self, defect: Defect) -> None:
        """Add a defect, once however often it occurs."""
        self.defects[defect] = None

    def drop(self, defect: Defect = Defect.BAD_BOX) -> None:
        """Count an unusable prediction."""
        self.n_dropped += 1
        self.defects[defect] = None

    def add_box(self, numbers: Sequence[float] | None, label: str = "") -> None:
        """Add a box of four numbers, or count it as dropped. None: the numbers are unreadable."""
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
        """Add a point of two numbers, or count it as dropped. None: the numbers are unreadable."""
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
        """Count predictions beyond the limit, which are not read."""
        if n_unread:
            self.n_dropped += n_unread
            self.add_defect(Defect.TOO_MANY)

    def answer(self, *, count: float | None = None) -> Answer:
        """Return the answer with at most `MAX_BOXES` boxes or points."""
        self.skip(max(0, len(self.labels) - MAX_BOXES))
        boxes, points, labels = self.boxes[:MAX_BOXES], self.points[:MAX_BOXES], self.labels[:MAX_BOXES]
        return Answer(tuple(boxes), tuple(labels), self.n_dropped, tuple(self.defects), tuple(points), count)


class Group(NamedTuple):
    """Numbers in brackets, `text[start:end]`."""

    start: int
    end: int
    numbers: tuple[float, ...] | None
    """None if they are unreadable."""


# Neither can backtrack: a bracket's content has no bracket, and a number matches in one way.
_BRACKETS = re.compile(r"[\[(<{]([^\[\](){}<>]{1,200})[\])}>]")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
_CLAIM = re.compile(r"\s*(?:[-+.]?[0-9]|[-+]?(?:nan|inf))", re.IGNORECASE)
_FURTHER = re.compile(r"[\[(<{]\s{0,9}[-+.]?[0-9]")


def number_groups(text: str) -> tuple[list[Group], int]:
    """Find the innermost brackets, of any kind, with two or more numbers; also return how many were not read."""
    groups: list[Group] = []
    for n_seen, match in enumerate(_BRACKETS.finditer(text)):
        if n_seen >= MAX_GROUPS or len(groups) >= 2 * MAX_BOXES:
            return groups, len(_FURTHER.findall(text, match.start()))
        content = match.group(1)
        numbers = _numbers(content) if _CLAIM.match(content) or _is_list_of_numbers(content) else ()
        if numbers is None or len(numbers) > 1:
            groups.append(Group(match.start(), match.end(), numbers))
    return groups, 0


def _is_list_of_numbers(content: str) -> bool:
    """Whether a list holds several numbers after something else: "null, 2, 3, 4"."""
    return "," in content and sum([_NUMBER.fullmatch(piece.strip()) is not None for piece in content.split(",")]) > 1


def _numbers(content: str) -> tuple[float, ...] | None:
    """Read a list of numbers with or without commas; () for text that merely begins with a number: "(2 of them)"."""
    has_commas = "," in content
    pieces = [piece.strip() for piece in content.split(",")] if has_commas else content.split()
    if all(map(_NUMBER.fullmatch, pieces)):
        return tuple(map(float, pieces))
    return None if has_commas else ()


def gaps(text: str, groups: Sequence[Group]) -> list[str]:
    """Return the stripped text before, between and after the groups: one more than there are groups."""
    starts, ends = [group.start for group in groups], [group.end for group in groups]
    return [text[end:start].strip() for end, start in zip([0, *ends], [*starts, len(text)], strict=True)]


def list_defect(text: str, groups: Sequence[Group], openings: str = "[(") -> Defect | None:
    """Return the defect of `text` as one group, or as one bracketed list of `groups` (all its `number_groups`)."""
    if not groups:
        return Defect.TRUNCATED if text[:1] in ("[", "(") and is_cut_off(text) else Defect.NO_LIST
    first, *between, last = gaps(text, groups)
    if (first, last) == ("[", "]") or (first, last, between) == ("", "", []):
        is_valid = all(gap == "," for gap in between) and all(
            text[group.start] in openings and text.find(",", group.start, group.end) > 0 for group in groups
        )
        return None if is_valid else Defect.MALFORMED
    if is_cut_off(text):
        return Defect.TRUNCATED
    return Defect.PROSE if first.strip("[({< ") or last.strip("])}>, ") else Defect.MALFORMED


def read_lists(parts: Sequence[str], draft: Draft, *, openings: str = "[(", are_boxes: bool = True) -> Answer:
    """Read boxes or points from texts that are groups of numbers, or bracketed lists of groups."""
    add = draft.add_box if are_boxes else draft.add_point
    for part in parts:
        groups, n_unread = number_groups(part)
        for group in groups:
            add(group.numbers)
        draft.skip(n_unread)
        defect = list_defect(part, groups, openings)
        if defect is not None and not n_unread:
            draft.add_defect(defect)
    return draft.answer()


def is_cut_off(text: str) -> bool:
    """Whether a bracket is never closed."""
    return any(
        text.rfind(opening) > text.rfind(closing) or text.count(opening) > text.count(closing)
        for opening, closing in ("[]", "()")
    )
