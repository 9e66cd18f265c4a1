"""Metrics of single answers: REC and GREC, negatives, counting, pointing, text, and the common ones.

Every metric is a ratio of two sums over rows (`Part`: numerator and denominator of a row). Boxes are in pixels of the
original image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

from verl_visionr1.boxes import Boxes, iou
from verl_visionr1.criteria.pointing import RADIUS
from verl_visionr1.criteria.regions import build_regions, count_pairs, drop_ignored, find_hits, predicted_points
from verl_visionr1.criteria.thresholds import EPSILON
from verl_visionr1.evaluation.detections import asked_labels
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationSettings, Family
from verl_visionr1.rewards.completion import BOX_TASKS
from verl_visionr1.targets import normalize_label

Part: TypeAlias = tuple[float, float]
"""A row's numerator and denominator; (0, 0) if a metric does not apply."""
Parts: TypeAlias = dict[str, Part]
NO_PART: Part = (0.0, 0.0)
ROOTS = frozenset({"RMSE"})
"""Metrics that are the square root of their ratio."""


def parts_of(read: Read, families: Sequence[Family], settings: EvaluationSettings) -> Parts:
    """Contribution of one row to the metrics of some families, and to the common metrics."""
    parts: Parts = {}
    for family in families:
        if family in _METRICS:
            parts |= _METRICS[family](read, settings)
    if read.target.task in BOX_TASKS:
        parts["F1@50"] = (read.score.metrics["f1_50"], 1.0)
        parts["mean IoU"] = (read.score.metrics["iou_mean"], 1.0)
    parts["reward"] = (read.score.value, 1.0)
    parts["parsed"] = (read.score.metrics["parsed"], 1.0)
    parts["cut off"] = (float(read.finish_reason == "length"), 1.0)
    n_tokens = read.rollout.n_tokens
    parts["tokens"] = NO_PART if n_tokens is None else (float(n_tokens), 1.0)
    return parts


def rec_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """One referent: accuracy at IoU .5 and .75 ("REC@50", "REC@75"), and mean IoU ("REC IoU"); without a box it is 0.

    VLM-R1's reward takes the first box, its script (`test_rec_r1.py`) the last, and IoU > .5. Rows with no referent, or
    several, are left out (see `grec_parts`).
    """
    target, boxes, which = read.target, read.answer.boxes_xyxy, settings.which_box
    if len(target.boxes_xyxy) != 1:
        return dict.fromkeys(("REC@50", "REC@75", "REC IoU"), NO_PART)
    overlap = 0.0
    if boxes and (which != "only" or read.answer.n_predicted == 1):
        overlap = iou(boxes[-1 if which == "last" else 0], cast(Boxes, target.boxes_xyxy)[0])
    edge = EPSILON if settings.strict_iou else -EPSILON
    return {
        "REC@50": (float(overlap >= 0.5 + edge), 1.0),
        "REC@75": (float(overlap >= 0.75 + edge), 1.0),
        "REC IoU": (overlap, 1.0),
    }


def grec_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """Generalised REC: "GREC" = Pr@(F1 = 1, IoU >= .5), "N-acc" and "T-acc" (arXiv 2308.16182).

    A row is right if every box has an object and every object a box; without objects, if its answer is readable and
    empty. N-acc: share of right rows among those without objects. T-acc: share of rows with any box among those with
    objects. The released script of gRefCOCO pairs greedily and compares GIoU with .5.
    """
    right = (float(read.score.metrics["f1_50"] == 1.0), 1.0)
    if not read.case.class_aware.n_target:
        return {"GREC": right, "N-acc": right, "T-acc": NO_PART}
    return {"GREC": right, "N-acc": NO_PART, "T-acc": (float(read.case.class_aware.n_predicted > 0), 1.0)}


def absent_labels(read: Read) -> set[str]:
    """The negatives of a row: categories that it asked for without an object in the image."""
    return set(asked_labels(read.target)) - set(read.target.normalized_labels)


def negative_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """ "false alarms": share of negatives with a box in the answer; "boxes per negative": their mean number.

    In a row of one category all claimed boxes count, in a row of several those with the label. In a row of one
    category, boxes in a region to ignore are not false alarms.
    """
    absent = absent_labels(read)
    n_boxes = n_alarms = 0
    if absent and len(asked_labels(read.target)) == 1:
        n_boxes = len(read.answer.boxes_xyxy) + read.answer.n_dropped
        if read.target.ignore_xyxy:
            n_boxes = read.case.class_aware.n_predicted
        n_alarms = int(n_boxes > 0)
    elif absent:
        predicted = [label for label in map(normalize_label, read.answer.labels) if label in absent]
        n_boxes, n_alarms = len(predicted), len({*predicted})
    n = float(len(absent))
    return {"false alarms": (float(n_alarms), n), "boxes per negative": (float(n_boxes), n)}


def counting_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """ "accuracy" (s = y), "within 1" (|s - y| <= 1), "MAE", "RMSE", "bias" (mean of s - y), "readable".

    y is the true count, s the stated one: the number, or the length of a list of boxes or points.
    """
    answer = read.answer
    is_read = (answer.count is not None or answer.is_parsed) and math.isfinite(answer.stated_count)
    error = (answer.stated_count if is_read else 0.0) - float(read.target.count or 0)
    weight = float(is_read or settings.unreadable_count == "zero")
    return {
        "accuracy": (float(is_read and error == 0.0), 1.0),
        "within 1": (float(is_read and abs(error) <= 1.0), 1.0),
        "MAE": (weight * abs(error), weight),
        "RMSE": (weight * error * error, weight),
        "bias": (weight * error, weight),
        "readable": (float(is_read), 1.0),
    }


def pointing_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """ "precision" and "recall" over all points and objects, "all right" and "first point" over rows.

    A point hits an object if it is in its mask, else in its box, else (for an object given as a point) within 2.5 % of
    the image's diagonal; points and objects are paired one to one, as in the reward (`criteria.regions`). First point:
    ScreenSpot's rule, on any object; rows with an object.
    """
    target = read.target
    regions = build_regions(target, read.case.grid_wh, RADIUS, by_mask=True)
    predicted = predicted_points(read.answer, target, use_labels=True)
    first = {p for p, rank in enumerate(predicted.ranks) if rank == 0}
    hit = {p for p, _ in find_hits(predicted, regions)}
    counted = drop_ignored(predicted, target, regions) if target.ignore_xyxy else predicted
    n_found, n_target = float(count_pairs(counted, regions)), float(target.n_objects)
    n_predicted = float(counted.n_predicted)
    return {
        "precision": (n_found, n_predicted),
        "recall": (n_found, n_target),
        "all right": (float(n_found == n_predicted == n_target), 1.0),
        "first point": (float(bool(first & hit)), 1.0) if n_target else NO_PART,
    }


def text_parts(read: Read, settings: EvaluationSettings) -> Parts:
    """ "accuracy": that of the preset."""
    return {"accuracy": (read.case.accuracy, 1.0)}


_METRICS: Mapping[str, Callable[[Read, EvaluationSettings], Parts]] = {
    "rec": rec_parts,
    "grec": grec_parts,
    "negatives": negative_parts,
    "counting": counting_parts,
    "pointing": pointing_parts,
    "text": text_parts,
}
