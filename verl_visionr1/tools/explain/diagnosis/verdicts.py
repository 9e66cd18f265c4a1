"""How each prediction and each object was counted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast

import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Array, Box, Boxes, Point, area, intersection, iou, pairwise_iou
from verl_visionr1.criteria import EPSILON
from verl_visionr1.masks import contains
from verl_visionr1.matching import IGNORED_SHARE
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.targets import Target, normalize_label, object_boxes
from verl_visionr1.tools.explain.diagnosis.base import Exam, labelled_objects

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


def verdicts_of(exam: Exam) -> tuple[list[Verdict], list[Fate]]:
    """Count each prediction and each object; empty for answers without boxes and points."""
    target, answer = exam.target, exam.answer
    if target.task in BOX_TASKS:
        verdicts = _box_verdicts(exam)
    elif target.task == "pointing" and answer.points_xy:
        verdicts = _point_verdicts(answer, target)
    else:
        verdicts = []
    best: dict[int, Verdict] = {}
    for kind in ("match", "below threshold", "wrong label", "outside"):
        for verdict in verdicts:
            if verdict.counted_as == kind and verdict.target is not None:
                best.setdefault(verdict.target, verdict)
    fates: list[Fate] = []
    for t, (place, label) in enumerate(labelled_objects(target)):
        kind, prediction = (best[t].counted_as, best[t].index) if t in best else ("missed", None)
        fates.append(Fate(t, label, tuple(place), kind, prediction))
    return verdicts, fates


def _box_verdicts(exam: Exam) -> list[Verdict]:
    boxes, labels = exam.answer.boxes_xyxy, exam.answer.labels
    targets = cast(Boxes, tuple(exam.target.boxes_xyxy))
    needed = exam.thresholds.match_iou - EPSILON if "thresholds" in exam.preset.looks_at else 0.0
    verdicts: dict[int, Verdict] = {}
    for p, t in exam.case.matching.pairs:
        overlap = iou(boxes[p], targets[t])
        if overlap > 0.0:  # released matchers pair boxes without overlap
            kind = "match" if overlap >= needed else "below threshold"
            verdicts[p] = Verdict(p, labels[p], boxes[p], kind, t, overlap)
    taken = {it.target: it.index for it in verdicts.values() if it.counted_as == "match" and it.target is not None}
    iou_pt = pairwise_iou(boxes, targets) if boxes and targets else np.zeros((len(boxes), len(targets)))
    return [verdicts[p] if p in verdicts else _unmatched(exam, p, iou_pt[p], taken) for p in range(len(boxes))]


def _unmatched(exam: Exam, p: int, iou_t: Array, taken: dict[int, int]) -> Verdict:
    """Why a box has no match."""
    answer, target = exam.answer, exam.target
    box, label = answer.boxes_xyxy[p], answer.labels[p]
    near = int(iou_t.argmax()) if iou_t.any() else None
    overlap = float(iou_t[near]) if near is not None else None
    junk = Verdict(p, label, box, "junk", near, overlap)
    if near is None or overlap is None or overlap < SAME_PLACE:
        if _in_ignored(box, target):
            return Verdict(p, label, box, "ignored")
        same = _repeated(answer, p)
        return junk if same is None else replace(junk, counted_as="duplicate", repeats=same)
    before = taken.get(near)
    meant = [target.labels[near]] if target.is_multiclass else [label]
    meant += [] if before is None else [answer.labels[before]]
    if normalize_label(label) in map(normalize_label, meant):
        return replace(junk, counted_as="duplicate", repeats=before)
    return replace(junk, counted_as="wrong label")


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


def _point_verdicts(answer: Answer, target: Target) -> list[Verdict]:
    """Assign each point to the nearest object that it may mean; an object's first point counts."""
    verdicts: list[Verdict] = []
    taken: dict[int, int] = {}
    labels = answer.labels if len(answer.labels) == len(answer.points_xy) else ("",) * len(answer.points_xy)
    for p, (point, label) in enumerate(zip(answer.points_xy, labels, strict=True)):
        distance_t = _distances(point, target)
        if not distance_t:
            verdicts.append(Verdict(p, label, point, "junk"))
            continue
        t = min(range(len(distance_t)), key=distance_t.__getitem__)
        if distance_t[t] > 0.0:
            kind = "outside"
        elif target.is_multiclass and normalize_label(label) != normalize_label(target.labels[t]):
            kind = "wrong label"
        else:
            kind = "duplicate" if t in taken else "match"
        repeats = taken[t] if kind == "duplicate" else None
        verdicts.append(Verdict(p, label, point, kind, t, distance_t[t], repeats))
        if kind == "match":
            taken[t] = p
    return verdicts


def _distances(point: Point, target: Target) -> list[float]:
    """Distance from a point to each object in pixels; 0.0 on the object."""
    x, y = point
    boxes = object_boxes(target)
    distances = [math.hypot(max(x1 - x, 0.0, x - x2), max(y1 - y, 0.0, y - y2)) for x1, y1, x2, y2 in boxes]
    for t, mask in enumerate(target.masks if target.task == "pointing" else ()):
        if distances[t] == 0.0 and not contains(mask, *point):
            distances[t] = 1.0  # at least: inside the mask's bounds, not on it
    return distances
