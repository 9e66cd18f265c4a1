"""What a completion would earn if one thing about it were right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from msgspec.structs import replace

from verl_visionr1.answers import Answer, Defect
from verl_visionr1.tools.explain.diagnosis.base import Exam
from verl_visionr1.tools.explain.diagnosis.wrapping import reads_text, rewrite

Place: TypeAlias = tuple[float, ...]
"""Four numbers of a box, or two of a point."""


def repair_answer(exam: Exam, answer: Answer) -> Exam:
    """The examination of another answer, in original pixels.

    Criteria that read the text themselves see it rewritten, where it is one that can be.
    """
    tries = [exam.with_answer(answer)]
    if reads_text(exam):
        tries += [exam.with_text(text) for text in rewrite(exam, answer)]
    return max(tries, key=lambda tried: tried.value)


def gain_of(exam: Exam, answer: Answer) -> float:
    """By how much the reward would rise with that answer; never below 0."""
    return max(0.0, repair_answer(exam, answer).value - exam.value)


def without(answer: Answer, ps: Collection[int]) -> Answer:
    """The answer without some predictions (boxes, or points)."""
    places = answer.boxes_xyxy or answer.points_xy
    kept = [p for p in range(len(places)) if p not in set(ps)]
    labels = tuple(answer.labels[p] for p in kept) if len(answer.labels) == len(places) else answer.labels
    return replace(_with_all_places(answer, [places[p] for p in kept]), labels=labels)


def with_labels(answer: Answer, label_of: Mapping[int, str]) -> Answer:
    """The answer with other labels for some predictions."""
    return replace(answer, labels=tuple(label_of.get(p, label) for p, label in enumerate(answer.labels)))


def with_places(answer: Answer, place_of: Mapping[int, Place]) -> Answer:
    """The answer with some boxes (or points) moved."""
    places = answer.boxes_xyxy or answer.points_xy
    return _with_all_places(answer, [place_of.get(p, place) for p, place in enumerate(places)])


def with_more(answer: Answer, more: Collection[tuple[Place, str]], *, n_dropped: int = 0) -> Answer:
    """The answer with further boxes (or points), in place of so many dropped ones."""
    n_left = max(0, answer.n_dropped - n_dropped)
    gone = {Defect.BAD_BOX} if n_dropped and not n_left else set[Defect]()
    labels = (*answer.labels, *(label for _, label in more))
    defects = tuple(defect for defect in answer.defects if defect not in gone)
    answer = replace(answer, labels=labels, n_dropped=n_left, defects=defects)
    return _with_all_places(answer, [*(answer.boxes_xyxy or answer.points_xy), *(place for place, _ in more)])


def _with_all_places(answer: Answer, places: Collection[Place]) -> Answer:
    """The answer with these boxes, or these points, by how many numbers they have."""
    boxes = tuple(place for place in places if len(place) == 4)
    points = tuple(place for place in places if len(place) == 2)
    return replace(answer, boxes_xyxy=boxes, points_xy=answer.points_xy if answer.boxes_xyxy else points)
