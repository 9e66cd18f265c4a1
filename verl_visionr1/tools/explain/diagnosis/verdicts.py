"""How each prediction and each object was counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Array, Box, Boxes, Point, area, intersection, iou, pairwise_iou
from verl_visionr1.criteria import EPSILON
from verl_visionr1.masks import contains
from verl_visionr1.matching import IGNORED_SHARE
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.targets import Target, normalize_label
from verl_visionr1.tools.explain.diagnosis.base import Exam, labelled_objects, object_boxes

Kind: TypeAlias = Literal[
    "match", "below threshold", "wrong label", "duplicate", "junk", "outside", "ignored", "missed"
]
"""Ways to count a prediction or an object, in the order of legends."""
SAME_PLACE = 0.5
"""Least IoU at which a prediction refers to an object, or repeats another prediction."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One prediction.

    Attributes:
        index: number of the prediction among those that were read, from 0.
        label: as written.
        place: box x1, y1, x2, y2, or point x, y, in original pixels.
        counted_as: objects are "missed", and never "duplicate", "junk" or "ignored"; only points are "outside".
        target: the object it was compared with; None if none is near.
        overlap: IoU with it; for points the distance to it in original pixels (0.0: on it).
        repeats: for a duplicate, the repeated prediction; None: the object is matched by another.
    """

    index: int
    label: str
    place: tuple[float, ...]
    counted_as: Kind
    target: int | None = None
    overlap: float | None = None
    repeats: int | None = None


@dataclass(frozen=True, slots=True)
class Fate:
    """One object: counted as "match", "below threshold", "wrong label", "outside" or "missed".

    `prediction` is the one counted for it, if any.
    """

    index: int
    label: str
    place: tuple[float, ...]
    counted_as: Kind
    prediction: int | None = None


def needed_iou(exam: Exam) -> float:
    """IoU from which a pair counts; 0.0 for presets without thresholds."""
    return exam.thresholds.match_iou - EPSILON if "thresholds" in exam.preset.looks_at else 0.0


def verdicts_of(exam: Exam) -> tuple[list[Verdict], list[Fate]]:
    """Count each prediction and each object; empty for answers without boxes and points."""
    target, answer = exam.target, exam.answer
    if target.task in BOX_TASKS:
        verdicts = _box_verdicts(exam)
    elif target.task == "pointing" and answer.points_xy:
        verdicts = _point_verdicts(answer, target)
    else:
        verdicts = []
    return verdicts, _fates(target, verdicts)


def _fates(target: Target, verdicts: Sequence[Verdict]) -> list[Fate]:
    best: dict[int, Verdict] = {}
    for kind in ("match", "below threshold", "wrong label", "outside"):
        for verdict in verdicts:
            if verdict.counted_as == kind and verdict.target is not None:
                best.setdefault(verdict.target, verdict)
    fates: list[Fate] = []
    for t, (place, label) in enumerate(labelled_objects(target)):
        verdict = best.get(t)
        kind = "missed" if verdict is None else verdict.counted_as
        fates.append(Fate(t, label, tuple(place), kind, None if verdict is None else verdict.index))
    return fates


# ------------------------------------------------------------------------------------------------ boxes


def _box_verdicts(exam: Exam) -> list[Verdict]:
    boxes, target = exam.answer.boxes_xyxy, exam.target
    targets = cast(Boxes, tuple(target.boxes_xyxy))
    needed = needed_iou(exam)
    verdicts: dict[int, Verdict] = {}
    for p, t in exam.case.matching.pairs:
        overlap = iou(boxes[p], targets[t])
        if overlap > 0.0:  # released matchers pair boxes without overlap
            kind = "match" if overlap >= needed else "below threshold"
            verdicts[p] = Verdict(p, exam.answer.labels[p], boxes[p], kind, t, overlap)
    taken = {verdict.target: verdict.index for verdict in verdicts.values() if verdict.counted_as == "match"}
    iou_pt = pairwise_iou(boxes, targets) if boxes and targets else np.zeros((len(boxes), len(targets)))
    for p in range(len(boxes)):
        if p not in verdicts:
            verdicts[p] = _unmatched(exam, p, iou_pt[p], taken)
    return [verdicts[p] for p in sorted(verdicts)]


def _unmatched(exam: Exam, p: int, iou_t: Array, taken: dict[int | None, int]) -> Verdict:
    """Why a box has no match."""
    answer, target = exam.answer, exam.target
    box, label = answer.boxes_xyxy[p], answer.labels[p]
    near = int(iou_t.argmax()) if len(iou_t) else None
    overlap = float(iou_t[near]) if near is not None else None
    if near is None or overlap is None or overlap < SAME_PLACE:
        same = _repeated(answer, p)
        if _in_ignored(box, target):
            return Verdict(p, label, box, "ignored")
        if same is not None:
            return Verdict(p, label, box, "duplicate", near if overlap else None, overlap or None, same)
        return Verdict(p, label, box, "junk", near if overlap else None, overlap or None)
    is_same = not target.is_multiclass or normalize_label(label) == normalize_label(target.labels[near])
    if is_same or near in taken:
        before = taken.get(near)
        agrees = before is not None and normalize_label(answer.labels[before]) == normalize_label(label)
        if is_same or agrees:
            return Verdict(p, label, box, "duplicate", near, overlap, before)
    return Verdict(p, label, box, "wrong label", near, overlap)


def _repeated(answer: Answer, p: int) -> int | None:
    """The first earlier box at the same place with the same label."""
    box, label = answer.boxes_xyxy[p], normalize_label(answer.labels[p])
    for q in range(min(p, 50)):
        if normalize_label(answer.labels[q]) == label and iou(answer.boxes_xyxy[q], box) >= 0.9:
            return q
    return None


def _in_ignored(box: Box, target: Target) -> bool:
    needed = IGNORED_SHARE * area(box)
    regions = cast(Boxes, tuple(target.ignore_xyxy))
    return needed > 0.0 and any(intersection(box, region) >= needed for region in regions)


# ------------------------------------------------------------------------------------------------ points


def _point_verdicts(answer: Answer, target: Target) -> list[Verdict]:
    """Assign each point to the nearest object that it may mean; an object's first point counts."""
    verdicts: list[Verdict] = []
    taken: dict[int, int] = {}
    labels = answer.labels if len(answer.labels) == len(answer.points_xy) else ("",) * len(answer.points_xy)
    distance_pt = [_distances(point, target) for point in answer.points_xy]
    nearest = [min(range(len(row)), key=row.__getitem__) if row else None for row in distance_pt]
    for p, (point, label) in enumerate(zip(answer.points_xy, labels, strict=True)):
        t = nearest[p]
        if t is None:
            verdicts.append(Verdict(p, label, point, "junk"))
            continue
        distance = distance_pt[p][t]
        if distance > 0.0:
            verdicts.append(Verdict(p, label, point, "outside", t, distance))
        elif target.is_multiclass and normalize_label(label) != normalize_label(target.labels[t]):
            verdicts.append(Verdict(p, label, point, "wrong label", t, 0.0))
        elif t in taken:
            verdicts.append(Verdict(p, label, point, "duplicate", t, 0.0, taken[t]))
        else:
            taken[t] = p
            verdicts.append(Verdict(p, label, point, "match", t, 0.0))
    return verdicts


def _distances(point: Point, target: Target) -> list[float]:
    """Distance from a point to each object in pixels; 0.0 on the object."""
    distances = [_to_box(point, region) for region in object_boxes(target)]
    for t, mask in enumerate(target.masks if target.task == "pointing" else ()):
        if distances[t] == 0.0 and not contains(mask, *point):
            distances[t] = 1.0  # at least: inside the mask's bounds, not on it
    return distances


def _to_box(point: Point, box: Box) -> float:
    across = max(box[0] - point[0], 0.0, point[0] - box[2])
    down = max(box[1] - point[1], 0.0, point[1] - box[3])
    return math.hypot(across, down)
