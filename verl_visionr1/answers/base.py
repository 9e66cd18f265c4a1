"""What all answer formats share: `Answer`, its `Defect`s, and `AnswerFormat` with the prompt that asks for it."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from verl_visionr1.boxes import Boxes, Points

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
        """Predicted count: the stated number, else the length of the answer's list."""
        return float(self.n_predicted) if self.count is None else self.count

    @property
    def is_parsed(self) -> bool:
        """Whether an answer was read: boxes, points, a count, words, or a well-formed empty answer."""
        return bool(self.boxes_xyxy or self.points_xy or self.text) or self.count is not None or not self.defects


_NAME_WORDS = 3
_NO_NAME = re.compile(
    r"""
    [.,;:!?"] | ^\d+\s
    | ^(?:white|black|red|green|blue|yellow|brown|gr[ae]y|pink|purple|tan|dark|light|big|small|tall|short)$
    | \s\w+(?<!s)s\s (?# a verb, as in "man wears glasses") | (?<![^\W_])(?:
    an? | the | th(?:is|at|ese|ose) | (?:t)?here | its? | he | hi[ms] | she | her | they | them
    | their | my | our | your
    | one | two | three | four | five | six | seven | eight | nine | ten | first | second | third | last
    | (?:some|any|every|no)(?:one|body|thing) | people | men | women | children | kids | guys
    | both | all | each | every | some | any | no | other | another
    | is | are | was | were | be | been | being | has | have | had | does | do | did | will | who | whose | which | what
    | in | on | at | of | by | to | with | without | near | behind | under | above | below | beside | between
    | next | for
    | left | right | middle | center | centre | top | bottom | front | back | upper | lower | far | closest
    )(?![^\W_])
    """,
    re.IGNORECASE | re.VERBOSE,
)
_EVERY = re.compile(r"every \{phrases?\} in the image")


def is_name(phrase: str) -> bool:
    """Whether a phrase is a class name, so that "every" can precede it; else it is a description.

    Taking a long name for a description does no harm: the wording for descriptions fits every phrase.
    """
    return len(phrase.split()) <= _NAME_WORDS and not _NO_NAME.search(phrase)


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """An answer format: its parser, and the prompt that asks for it.

    Attributes:
        name: key in `FORMATS`.
        parse: text -> Answer; never raises, linear time.
        example: a well-formed answer.
        templates: task -> prompt with `{phrase}` (the task takes one) or `{phrases}`; empty if no prompt should ask
            for the format.
        if_none: what to answer if there is no object, on demand; also by task.
        described: task -> prompt with quoted `{phrases}`, if one of them is a description (`is_name`); "every {phrase}
            in the image" becomes "everything in the image that ... describes" without an entry.
        separator: text between phrases.
        frames: frames of the models that write this format; empty if it belongs to no model family.
        then: text appended to a data set's own question; "" if the format cannot answer one.
    """

    name: str
    parse: Callable[[str], Answer]
    example: str
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    if_none: str | Mapping[str, str] = ""
    described: Mapping[str, str] = field(default_factory=dict[str, str])
    separator: str = ", "
    frames: tuple[str, ...] = ()
    then: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that `instruct` supports."""
        return tuple(self.templates)

    def instruct(self, task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
        """Return the user's turn that asks for this format.

        Args:
            task: "detection" (every object of the category list), "grounding" or "counting" (one phrase; the boxes
                are the count), "pointing" or "text" (one question).
            phrases: the category list, or a list of one phrase.
            allow_none: also state what to answer if there is no object. Set it for all rows of a dataset with
                negatives, or the wording gives the answer away.

        Raises:
            ValueError: a task that the format cannot answer, no phrase, or several phrases where the task takes one.
        """
        if task not in self.templates:
            known = ", ".join(self.templates)
            raise ValueError(f"task = {task!r}: answer format {self.name!r} cannot answer it; it can answer {known}")
        template = self.templates[task]
        takes_one = "{phrase}" in template
        if isinstance(phrases, str) or not phrases or (takes_one and len(phrases) != 1):
            wanted = "a list of one phrase" if takes_one else "a list of phrases"
            raise ValueError(f"phrases = {phrases!r}: task {task!r} needs {wanted}")
        listed = self.separator.join(phrases)
        if not all(map(is_name, phrases)):
            described = self.described.get(
                task, _EVERY.sub("everything in the image that {phrases} describes", template)
            )
            if described != template:
                template, listed = described, " or ".join(f'"{phrase}"' for phrase in phrases)
        text = template.replace("{phrases}", listed).replace("{phrase}", phrases[0])
        if not allow_none:
            return text
        return text + (self.if_none if isinstance(self.if_none, str) else self.if_none.get(task, ""))
