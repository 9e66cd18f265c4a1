"""The criteria of a vision reward, each a pure function into [0, 1], and the thresholds they are judged by.

Legend: n_P predicted boxes, n_T target boxes, M matched pairs, f the differentiation of Eq. 8. Equations are those of
Vision-R1 (arXiv 2503.18013). All comparisons include their bound: an IoU that is the threshold, up to `EPSILON` of
rounding, has reached it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

from verl_visionr1.answers import Answer
from verl_visionr1.matching import Matching

Judge: TypeAlias = Callable[["Answer", "Matching", "Thresholds"], float]
"""A criterion: what was said, how it matches the target, and what counts -> [0, 1]."""

EPSILON = 1e-9
"""Rounding that a change of frame may cost an IoU."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What a match, a recall and an IoU must reach. All in [0, 1].

    Attributes:
        match_iou: xi0; a matched pair counts from this IoU on.
        recall_floor, recall_full: f of the completion's recall is 0 below the floor, 1 from full on.
        iou_floor, iou_full: the same for the IoU of each matched pair, in precision.

    Raises:
        ValueError: a value outside [0, 1], or a floor above its full credit.
    """

    match_iou: float
    recall_floor: float
    recall_full: float
    iou_floor: float
    iou_full: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
                raise ValueError(f"threshold {field.name} = {value!r}: needs a number in [0, 1]")
        if self.recall_floor > self.recall_full or self.iou_floor > self.iou_full:
            raise ValueError(f"{self}: a floor lies above its full credit")

    @classmethod
    def of(cls, xi0: float, xi1: float, xi2: float) -> Thresholds:
        """The paper's triple: f is the same for recall and IoU.

        >>> Thresholds.of(0.5, 0.5, 0.75).iou_full
        0.75
        """
        return cls(match_iou=xi0, recall_floor=xi1, recall_full=xi2, iou_floor=xi1, iou_full=xi2)

    def towards(self, other: Thresholds, fraction: float) -> Thresholds:
        """The point that lies `fraction` of the way from here to `other`."""
        return Thresholds(
            *(
                (1.0 - fraction) * getattr(self, field.name) + fraction * getattr(other, field.name)
                for field in fields(self)
            )
        )


BEGINNER = Thresholds.of(0.5, 0.5, 0.75)
"""First stage of Vision-R1."""
ADVANCED = Thresholds.of(0.75, 0.75, 0.9)
"""Second stage of Vision-R1."""
OFF = Thresholds(match_iou=0.5, recall_floor=0.0, recall_full=1.0, iou_floor=0.5, iou_full=1.0)
"""No progressive rule, no differentiation: Eq. 5 and 6 as they stand."""


def differentiate(x: float, floor: float, full: float) -> float:
    """Eq. 8: f(x) = 0 below `floor`, 1 from `full` on, x between; both bounds included.

    >>> [differentiate(x, 0.5, 0.75) for x in (0.49, 0.5, 0.6, 0.75)]
    [0.0, 0.5, 0.6, 1.0]
    """
    if x < floor - EPSILON:
        return 0.0
    return 1.0 if x >= full - EPSILON else x


def well_formed(answer: Answer, matching: Matching, thresholds: Thresholds) -> float:
    """1.0 iff the answer follows the asked-for template and its content is sound (Eq. 4), else 0.0.

    Sound: a list of objects, each with a label and a box of four finite numbers, x1 < x2, y1 < y2, inside the frame.
    The empty list is sound. `{}`, `3`, `null`, prose and a cut-off list are not.
    """
    return 0.0 if answer.defects else 1.0


def recall(answer: Answer, matching: Matching, thresholds: Thresholds) -> float:
    """f(number of targets matched at xi0 / n_T), Eq. 5 with Eq. 8. n_T = 0: 1.0 iff nothing was predicted."""
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    found = 0
    needed = thresholds.match_iou - EPSILON
    for pair_iou in matching.ious:
        if pair_iou >= needed:
            found += 1
    return differentiate(found / matching.n_target, thresholds.recall_floor, thresholds.recall_full)


def precision(answer: Answer, matching: Matching, thresholds: Thresholds) -> float:
    """Sum of f(IoU) over the pairs matched at xi0, over n_P (Eq. 6 with Eq. 8).

    n_P counts every claimed box, so duplicates, junk boxes and, where labels matter, wrong labels cost.
    n_P = 0: 1.0 iff n_T = 0.
    """
    if not matching.n_predicted:
        return 0.0 if matching.n_target else 1.0
    total = 0.0
    needed = thresholds.match_iou - EPSILON
    for pair_iou in matching.ious:
        if pair_iou >= needed:
            total += differentiate(pair_iou, thresholds.iou_floor, thresholds.iou_full)
    return total / matching.n_predicted


def iou_mean(matching: Matching) -> float:
    """Sum of matched IoU over n_T: threshold-free. n_T = 0: 1.0 iff nothing was predicted.

    A miss counts as 0; a false alarm does not show here (see `f1_50`).
    """
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    return sum(matching.ious) / matching.n_target


def f1_50(matching: Matching) -> float:
    """F1 with matches at IoU >= .5, whatever the stage: 2 M / (n_P + n_T). Both empty: 1.0."""
    if not matching.n_predicted and not matching.n_target:
        return 1.0
    found = 0
    for pair_iou in matching.ious:
        if pair_iou >= 0.5 - EPSILON:
            found += 1
    return 2.0 * found / (matching.n_predicted + matching.n_target)
