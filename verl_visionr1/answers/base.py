"""What every answer format is made of: `Answer`, its `Defect`s, and the limits of what is read."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from verl_visionr1.boxes import Box, Boxes, Points

MAX_CHARS = 100_000
"""An answer is not read beyond this (one of `MAX_BOXES` boxes is about as long); reasoning before it may be longer."""
MAX_BOXES = 1000
"""Boxes beyond this are counted as predictions, but not matched."""


class Defect(str, enum.Enum):
    """What is wrong with an answer. Any defect makes the format criterion 0."""

    EMPTY = "empty"  # no text at all
    NO_LIST = "no_list"  # no JSON list: a scalar, an object, prose
    NO_ANSWER = "no_answer"  # reasoning that was never closed
    PROSE = "prose"  # text around the answer (a fence, <think> and <answer> are not prose)
    MALFORMED = "malformed"  # a list that is not valid JSON of the asked-for form
    TRUNCATED = "truncated"  # cut off inside the list
    BAD_BOX = "bad_box"  # not four finite numbers with x1 < x2 and y1 < y2; a point: not two finite numbers
    NO_LABEL = "no_label"  # label missing, blank or not a text
    OUTSIDE = "outside"  # a box outside the frame
    TOO_LONG = "too_long"  # an answer of more than MAX_CHARS
    TOO_MANY = "too_many"  # more than MAX_BOXES
    NO_COUNT = "no_count"  # no number, several different ones, or one that can be no count
    NO_TEXT = "no_text"  # nothing where the answer's words should be
    WRONG_KIND = "wrong_kind"  # points where boxes were asked for, or the other way round


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a completion says.

    (A msgspec struct rather than a dataclass: it is built once per completion, four times faster.)

    Attributes:
        boxes_xyxy: P boxes in the units the model spoke (the frame is not known here), x1 < x2 and y1 < y2.
        labels: P labels as written, one per box (one per point where there are no boxes); "" where there was none.
        n_dropped: objects that claimed a box or a point but have none that can be used; each counts as a wrong
            prediction.
        defects: what is wrong with the text, each defect once; empty means well-formed.
        points_xy: points, in the units the model spoke.
        count: the number that was stated; None where the format states none (the boxes or points are the count).
        text: the answer in words, without reasoning and tags; "" in formats of boxes and points.
    """

    boxes_xyxy: Boxes = ()
    labels: tuple[str, ...] = ()
    n_dropped: int = 0
    defects: tuple[Defect, ...] = ()
    points_xy: Points = ()
    count: float | None = None
    text: str = ""

    @property
    def n_predicted(self) -> int:
        """Claimed boxes (or points): usable ones and dropped ones."""
        return (len(self.boxes_xyxy) or len(self.points_xy)) + self.n_dropped

    @property
    def stated_count(self) -> float:
        """How many the answer says there are: the stated number, else the length of its list.

        >>> Answer(boxes_xyxy=((0.0, 0.0, 1.0, 1.0),), labels=("cat",)).stated_count
        1.0
        """
        return float(self.n_predicted) if self.count is None else self.count

    @property
    def is_parsed(self) -> bool:
        """Whether an answer could be read: boxes, points, a count, words, or a well-formed statement without any."""
        return bool(self.boxes_xyxy or self.points_xy or self.text) or self.count is not None or not self.defects


def limit_boxes(boxes: list[Box], labels: list[str], n_dropped: int, defects: tuple[Defect, ...]) -> Answer:
    """An `Answer` of boxes that keeps at most `MAX_BOXES` of them."""
    if len(boxes) > MAX_BOXES:
        n_dropped += len(boxes) - MAX_BOXES
        defects = (*defects, Defect.TOO_MANY)
    return Answer(tuple(boxes[:MAX_BOXES]), tuple(labels[:MAX_BOXES]), n_dropped, defects)


class Instruct(Protocol):
    """The user's turn that asks for a format."""

    def __call__(self, task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
        """The question for `phrases` (for text: one question)."""
        ...


_ASKED_FOR = ("detection", "grounding", "counting", "pointing", "text")  # `targets.TASKS`, a room that is not below


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """A way to answer: how it is asked for, and how it is read.

    Attributes:
        name: key in `FORMATS`.
        parse: text -> Answer; never raises, linear time.
        instruct: (task, phrases, allow_none) -> the user's turn that asks for it; None where nothing ought to ask.
        example: a well-formed answer.
        frames: names of the frames that models which write it speak in; none where no one family does.
        then: what is said after a question of a data set's own; "" where the format cannot answer one.
    """

    name: str
    parse: Callable[[str], Answer]
    instruct: Instruct | None
    example: str
    frames: tuple[str, ...] = ()
    then: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that it can be asked for; none where nothing ought to ask."""
        return tuple([task for task in _ASKED_FOR if self._can_ask_for(task)])

    def _can_ask_for(self, task: str) -> bool:
        try:
            return self.instruct is not None and bool(self.instruct(task, ["x"]))
        except ValueError:
            return False
