"""A finding about a completion, and the examination that it comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from verl_visionr1.answers import FORMATS, Answer
from verl_visionr1.boxes import Boxes, Points
from verl_visionr1.criteria import Thresholds
from verl_visionr1.rewards.base import CriterionInput, Preset
from verl_visionr1.rewards.completion import BOX_TASKS, ResponseContext, apply_criteria, match_answer, read_completion
from verl_visionr1.targets import NO_IMAGE, Target, object_boxes, object_points

LEARN = "model error; no setting fixes this"
LONGER = "raise data.max_response_length, or ask for less text"
NO_COST = 0.005
"""A finding that costs less than this share of the full reward is only a remark."""
BOX, POINT = ("box", "boxes"), ("point", "points")


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of a completion, or of how it is read.

    Attributes:
        cause: its kind, one of a fixed set of short names ("wrong frame", "truncated", "duplicate", ...).
        what, fix: description of the problem, beginning with the kind; what to do about it.
        gain: how much the reward would rise without it; for text that is missing (a cut-off answer), the most possible.
    """

    cause: str
    what: str
    fix: str = ""
    gain: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} -> {self.fix}" if self.fix else self.what


@dataclass(frozen=True, slots=True)
class Exam:
    """One completion under examination.

    Attributes:
        preset, thresholds, response: how it is scored.
        case: the input of the criteria.
        is_clipped: whether it filled the response budget; None: unknown.
    """

    preset: Preset
    thresholds: Thresholds
    response: ResponseContext
    case: CriterionInput
    is_clipped: bool | None = None

    @classmethod
    def of(
        cls,
        completion: str,
        target: Target,
        preset: Preset,
        thresholds: Thresholds,
        response: ResponseContext,
        is_clipped: bool | None = None,
    ) -> Exam:
        """Read and match a completion; `is_clipped` defaults to tokens >= budget if both are known."""
        if is_clipped is None and response.n_tokens is not None and response.max_tokens is not None:
            is_clipped = response.n_tokens >= response.max_tokens
        case = read_completion(completion, target, preset, thresholds, response)
        return cls(preset, thresholds, response, case, is_clipped)

    @property
    def completion(self) -> str:
        """The model's text."""
        return self.case.completion

    @property
    def target(self) -> Target:
        """The ground truth."""
        return self.case.target

    @property
    def answer(self) -> Answer:
        """The parsed answer, in original pixels."""
        return self.case.answer

    @property
    def spoken(self) -> Answer:
        """The parsed answer, in the model's units."""
        return FORMATS[self.preset.answer_format].parse(self.completion)

    @property
    def spoken_places(self) -> tuple[tuple[float, ...], ...]:
        """Its boxes, or its points."""
        spoken = self.spoken
        return spoken.boxes_xyxy or spoken.points_xy

    @property
    def nouns(self) -> tuple[str, str]:
        """Noun for a prediction, singular and plural."""
        return BOX if self.target.task in BOX_TASKS else POINT

    @property
    def expected(self) -> str:
        """The right count or words as text; "" for boxes and points."""
        return str(self.target.count) if self.target.task == "counting" else self.target.answer or ""

    @property
    def value(self) -> float:
        """The reward."""
        return apply_criteria(self.case, self.preset).value

    @property
    def full(self) -> float:
        """The reward of a faultless answer."""
        return sum(self.preset.weights.values()) / self.preset.divisor

    @property
    def to_full(self) -> float:
        """The largest possible rise of the reward."""
        return max(0.0, self.full - self.value)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Pixels of the original image in one unit of the model's frame; (1, 1) without an image."""
        size_wh = self.target.size_wh
        if size_wh == NO_IMAGE:
            return 1.0, 1.0
        frame_wh = self.response.frame.size_wh(size_wh, self.response.processed_wh)
        return size_wh[0] / frame_wh[0], size_wh[1] / frame_wh[1]

    def with_text(self, completion: str, response: ResponseContext | None = None) -> Exam:
        """The examination of another text, or of another response context."""
        response = response or self.response
        return Exam.of(completion, self.target, self.preset, self.thresholds, response, self.is_clipped)

    def with_answer(self, answer: Answer) -> Exam:
        """The examination of another answer, in original pixels; the text stays."""
        kept = ("completion", "thresholds", "n_tokens", "max_tokens", "grid_wh")
        case = match_answer(answer, self.target, self.preset, **{name: getattr(self.case, name) for name in kept})
        return replace(self, case=case)

    @property
    def cut_off_fix(self) -> str:
        """What to do about an unfinished answer: a longer budget helps only if it was used up."""
        if self.is_clipped is None:
            return f"{LONGER}, if the response filled its budget; else {LEARN}"
        return LONGER if self.is_clipped else f"the model ended it before the budget: {LEARN}"


def perfect_answer(target: Target) -> Answer:
    """The perfect answer to a target, in original pixels."""
    labels = tuple(target.labels) or ("",) * target.n_objects
    if target.task == "pointing":
        return Answer((), labels, points_xy=object_points(target))
    boxes = cast(Boxes, tuple(target.boxes_xyxy))
    labels = labels if len(boxes) == len(labels) else ("",) * len(boxes)
    count = None if target.count is None else float(target.count)
    return Answer(boxes, labels, count=count, text=target.answer or "")


def labelled_objects(target: Target) -> Iterator[tuple[tuple[float, ...], str]]:
    """Place and label of each object; the place is a point if the task has points, else a box."""
    has_points = target.task == "pointing" and target.points_xy
    places = cast(Points, target.points_xy) if has_points else object_boxes(target)
    return zip(places, tuple(target.labels) or ("",) * target.n_objects, strict=True)


def numbered(nouns: tuple[str, str], numbers: Iterable[int], *, limit: int = 5) -> str:
    """Write a noun (singular, plural) with indices as numbers from 1.

    >>> numbered(BOX, [0]), numbered(BOX, [0, 1]), numbered(BOX, range(9))
    ('box 1', 'boxes 1, 2', 'boxes 1, 2, 3, 4, 5 and 4 more')
    """
    every = [str(number + 1) for number in numbers]
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return f"{nouns[len(every) != 1]} {', '.join(every[:limit])}{more}"


def plural(n: int, word: str, words: str | None = None) -> str:
    """Write a number with its noun."""
    return f"{n} {word if n == 1 else words or word + 's'}"


def iou_text(value: float) -> str:
    """Format an IoU with three decimals, rounded down, so that it never seems to reach a threshold.

    >>> iou_text(0.82149), iou_text(0.49996), iou_text(1 - 1e-12)
    ('0.821', '0.499', '1.000')
    """
    return f"{math.floor(value * 1000 + 1e-6) / 1000:.3f}"


def quoted(text: str, limit: int = 40) -> str:
    """Quote a model's text for a sentence: on one line, short, without control characters."""
    return repr(text if len(text) <= limit else text[:limit] + "...")
