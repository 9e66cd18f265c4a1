"""What a completion would earn if one thing about it were right."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from msgspec.structs import replace

from verl_visionr1.answers import Answer, Defect
from verl_visionr1.boxes import Box
from verl_visionr1.tools.explain.diagnosis.base import Exam
from verl_visionr1.tools.explain.diagnosis.wrapping import reads_text, rewritten


def repaired(exam: Exam, answer: Answer) -> Exam:
    """The examination of another answer, in original pixels.

    Criteria that read the text themselves see it rewritten, where it is one that can be.
    """
    tries = [exam.with_answer(answer)]
    if reads_text(exam):
        tries += [exam.with_text(text) for text in rewritten(exam, answer)]
    return max(tries, key=lambda tried: tried.value)


def gain_of(exam: Exam, answer: Answer) -> float:
    """By how much the reward would rise with that answer; never below 0."""
    return max(0.0, repaired(exam, answer).value - exam.value)


def without_boxes(answer: Answer, ps: Collection[int]) -> Answer:
    """Some predictions (boxes, or points) left out."""
    gone = set(ps)
    n = len(answer.boxes_xyxy) or len(answer.points_xy)
    kept = [p for p in range(n) if p not in gone]
    return replace(
        answer,
        boxes_xyxy=tuple(answer.boxes_xyxy[p] for p in kept) if answer.boxes_xyxy else (),
        points_xy=tuple(answer.points_xy[p] for p in kept) if not answer.boxes_xyxy else answer.points_xy,
        labels=tuple(answer.labels[p] for p in kept) if len(answer.labels) == n else answer.labels,
    )


def with_labels(answer: Answer, label_of: Mapping[int, str]) -> Answer:
    """Some predictions under other labels."""
    return replace(answer, labels=tuple(label_of.get(p, label) for p, label in enumerate(answer.labels)))


def with_places(answer: Answer, place_of: Mapping[int, tuple[float, ...]]) -> Answer:
    """Some boxes (or points) moved."""
    moved = {p: tuple(place) for p, place in place_of.items()}
    if answer.boxes_xyxy:
        return replace(answer, boxes_xyxy=tuple(moved.get(p, box) for p, box in enumerate(answer.boxes_xyxy)))
    return replace(answer, points_xy=tuple(moved.get(p, point) for p, point in enumerate(answer.points_xy)))


def with_boxes(answer: Answer, boxes: Collection[tuple[Box, str]], *, n_dropped: int = 0) -> Answer:
    """Further boxes, in place of so many dropped ones."""
    n_left = max(0, answer.n_dropped - n_dropped)
    gone = {Defect.BAD_BOX} if n_dropped and not n_left else set[Defect]()
    return replace(
        answer,
        boxes_xyxy=(*answer.boxes_xyxy, *(box for box, _ in boxes)),
        labels=(*answer.labels, *(label for _, label in boxes)),
        n_dropped=n_left,
        defects=tuple(defect for defect in answer.defects if defect not in gone),
    )
