"""Criteria of boxes: well-formed, recall, precision (Vision-R1, arXiv 2503.18013), and the threshold-free ones.

Legend: n_P predicted boxes, n_T target boxes, M matched pairs, f the differentiation of Eq. 8. All comparisons include
their bound: an IoU equal to the threshold, up to `EPSILON` of rounding, reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

from verl_visionr1.answers import Answer
from verl_visionr1.criteria.thresholds import EPSILON, Thresholds, differentiate
from verl_visionr1.matching import Matching


def well_formed(answer: Answer) -> float:
    """1.0 iff the answer has the requested format and valid content (Eq. 4), else 0.0.

    Valid: a list of objects, each with a label and a box of four finite numbers, x1 < x2, y1 < y2, inside the frame.
    The empty list is valid. `{}`, `3`, `null`, prose and a truncated list are not.
    """
    return 0.0 if answer.defects else 1.0


def recall(matching: Matching, thresholds: Thresholds) -> float:
    """f(number of targets matched at xi0 / n_T), Eq. 5 with Eq. 8. n_T = 0: 1.0 iff nothing was predicted."""
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    found = 0
    needed = thresholds.match_iou - EPSILON
    for pair_iou in matching.ious:
        if pair_iou >= needed:
            found += 1
    return differentiate(found / matching.n_target, thresholds.recall_floor, thresholds.recall_full)


def precision(matching: Matching, thresholds: Thresholds) -> float:
    """Sum of f(IoU) over the pairs matched at xi0, over n_P (Eq. 6 with Eq. 8).

    n_P counts every predicted box, so duplicates, junk boxes and, if labels matter, wrong labels cost.
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

    A miss counts as 0; false positives have no effect (see `f1_50`).
    """
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    return sum(matching.ious) / matching.n_target


def f1_50(matching: Matching) -> float:
    """F1 with matches at IoU >= .5 at every stage: 2 M / (n_P + n_T). Both empty: 1.0."""
    if not matching.n_predicted and not matching.n_target:
        return 1.0
    found = 0
    for pair_iou in matching.ious:
        if pair_iou >= 0.5 - EPSILON:
            found += 1
    return 2.0 * found / (matching.n_predicted + matching.n_target)


CRITERIA: tuple[Callable[..., float], ...] = (well_formed, recall, precision)
"""Criteria for presets."""
