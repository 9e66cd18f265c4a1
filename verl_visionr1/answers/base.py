"""The parts that all answer formats share: `Answer`, its `Defect`s, and the limits of a parser."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from verl_visionr1.boxes import Box, Boxes, Points

MAX_CHARS = 100_000
"""Characters of an answer that are read (`MAX_BOXES` boxes take about as many); reasoning before it may be longer."""
MAX_BOXES = 1000
"""Boxes that are kept; further ones count as predictions, but are not matched."""


class Defect(str, enum.Enum):
    """A defect of an answer. Any defect makes the format criterion 0."""

    EMPTY = "empty"  # no text at all
    NO_LIST = "no_list"  # no JSON list: a scalar, an object, prose
    NO_ANSWER = "no_answer"  # the reasoning is never closed
    PROSE = "prose"  # text around the answer (a fence, <think> and <answer> are not prose)
    MALFORMED = "malformed"  # a list that is not valid JSON of the requested form
    TRUNCATED = "truncated"  # cut off inside the list
    BAD_BOX = "bad_box"  # not four finite numbers with x1 < x2 and y1 < y2; a point: not two finite numbers
    NO_LABEL = "no_label"  # label missing, blank or not a text
    OUTSIDE = "outside"  # a box outside the frame
    TOO_LONG = "too_long"  # an answer of more than MAX_CHARS
    TOO_MANY = "too_many"  # more than MAX_BOXES
    NO_COUNT = "no_count"  # no number, several different ones, or one that is not a valid count
    NO_TEXT = "no_text"  # the answer in words is empty
    WRONG_KIND = "wrong_kind"  # points instead of boxes, or the other way round


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer that a parser read from a completion.

    (A msgspec struct rather than a dataclass: it is built once per completion, four times faster.)

    Attributes:
        boxes_xyxy: P boxes in the model's units (the frame is not known here), x1 < x2 and y1 < y2.
        labels: P labels as written, one per box (one per point if there are no boxes); "" for a missing label.
        n_dropped: objects whose box or point is unusable; each counts as a wrong prediction.
        defects: defects of the text, each once; empty means well-formed.
        points_xy: points in the model's units.
        count: the stated number; None if the format has none (the number of boxes or points is the count).
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
        """Number of predicted boxes (or points), dropped ones included."""
        return (len(self.boxes_xyxy) or len(self.points_xy)) + self.n_dropped

    @property
    def stated_count(self) -> float:
        """Predicted count: the stated number, else the length of the answer's list.

        >>> Answer(boxes_xyxy=((0.0, 0.0, 1.0, 1.0),), labels=("cat",)).stated_count
        1.0
        """
        return float(self.n_predicted) if self.count is None else self.count

    @property
    def is_parsed(self) -> bool:
        """Whether an answer was read: boxes, points, a count, words, or a well-formed empty answer."""
        return bool(self.boxes_xyxy or self.points_xy or self.text) or self.count is not None or not self.defects


def limit_boxes(boxes: list[Box], labels: list[str], n_dropped: int, defects: tuple[Defect, ...]) -> Answer:
    """Build an `Answer` that keeps at most `MAX_BOXES` boxes."""
    if len(boxes) > MAX_BOXES:
        n_dropped += len(boxes) - MAX_BOXES
        defects = (*defects, Defect.TOO_MANY)
    return Answer(tuple(boxes[:MAX_BOXES]), tuple(labels[:MAX_BOXES]), n_dropped, defects)


class Instruct(Protocol):
    """The user's turn that asks for a format."""

    def __call__(self, task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
        """Return the question for `phrases` (for text: one question)."""
        ...


_TASKS = ("detection", "grounding", "counting", "pointing", "text")  # as `targets.TASKS`, which is not a lower layer


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """An answer format: the prompt that asks for it, and its parser.

    Attributes:
        name: key in `FORMATS`.
        parse: text -> Answer; never raises, linear time.
        instruct: (task, phrases, allow_none) -> the user's turn that asks for it; None if no prompt should ask for it.
        example: a well-formed answer.
        frames: frames of the models that write this format; empty if it belongs to no model family.
        then: text appended to a data set's own question; "" if the format cannot answer one.
    """

    name: str
    parse: Callable[[str], Answer]
    instruct: Instruct | None
    example: str
    frames: tuple[str, ...] = ()
    then: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that `instruct` supports; none without `instruct`."""
        return tuple([task for task in _TASKS if self._supports(task)])

    def _supports(self, task: str) -> bool:
        try:
            return self.instruct is not None and bool(self.instruct(task, ["x"]))
        except ValueError:
            return False
