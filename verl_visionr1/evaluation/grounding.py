"""Referring expressions: REC accuracy, generalised REC (gRefCOCO), gIoU and cIoU of LISA on boxes.

Every number is a sum over rows divided by another (`Part`): numerator and denominator of each row. Boxes are in pixels
of the original image; IoU is IoU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, Boxes, iou, pairwise_iou
from verl_visionr1.criteria.thresholds import EPSILON
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.targets import Target, normalize_label

Part: TypeAlias = tuple[float, float]
"""A row's numerator and denominator; (0, 0) where a metric does not concern it."""
NO_PART: Part = (0.0, 0.0)
MATCH_IOU = 0.5


def rec_parts(read: Read, settings: EvaluationSettings) -> dict[str, Part]:
    """One referent: accuracy at IoU .5 and .75 ("REC@50", "REC@75"), and mean IoU ("REC IoU").

    The box that counts is the answer's first (VLM-R1's reward; its script takes the last), its last, or its only one.
    At the threshold is right, as in gRefCOCO's evaluator, unless `strict_iou` (VLM-R1's `test_rec_r1.py`: IoU > .5). No
    box is IoU 0. Rows with no referent, or several, have no part in it (see `grec_parts`).
    """
    target = read.target
    if len(target.boxes_xyxy) != 1:
        return dict.fromkeys(("REC@50", "REC@75", "REC IoU"), NO_PART)
    box = chosen_box(read.answer, settings.which_box)
    overlap = 0.0 if box is None else iou(box, cast(Boxes, target.boxes_xyxy)[0])
    edge = EPSILON if settings.strict_iou else -EPSILON
    return {
        "REC@50": (float(overlap >= 0.5 + edge), 1.0),
        "REC@75": (float(overlap >= 0.75 + edge), 1.0),
        "REC IoU": (overlap, 1.0),
    }


def chosen_box(answer: Answer, which: str) -> Box | None:
    """The box that a referring expression is judged by.

    >>> chosen_box(Answer(((0.0, 0.0, 1.0, 1.0), (2.0, 2.0, 3.0, 3.0)), ("a", "a")), "last")
    (2.0, 2.0, 3.0, 3.0)
    """
    boxes = answer.boxes_xyxy
    if not boxes or (which == "only" and answer.n_predicted > 1):
        return None
    return boxes[-1 if which == "last" else 0]


def grec_parts(read: Read) -> dict[str, Part]:
    """Generalised REC: "GREC" = Pr@(F1 = 1, IoU >= .5), "N-acc" and "T-acc" (arXiv 2308.16182).

    A row is right if every box has an object and every object a box, in pairs of IoU >= .5 taken greedily, the largest
    IoU first, each box and object once (labels must agree where several phrases were asked for). A row without an
    object is right if it has no box and can be read. N-acc: share of the rows without an object that are right. T-acc:
    share of the rows with one in which there is a box at all. The released script of gRefCOCO compares GIoU with .5;
    here it is IoU, as the paper has it.
    """
    n_predicted, n_target = read.case.class_aware.n_predicted, read.case.class_aware.n_target
    if not n_target:
        right = float(n_predicted == 0)
        return {"GREC": (right, 1.0), "N-acc": (right, 1.0), "T-acc": NO_PART}
    n_found = len(greedy_pairs(read.answer, read.target))
    right = float(n_found == n_predicted == n_target)
    return {"GREC": (right, 1.0), "N-acc": NO_PART, "T-acc": (float(n_predicted > 0), 1.0)}


def greedy_pairs(answer: Answer, target: Target, match_iou: float = MATCH_IOU) -> list[tuple[int, int, float]]:
    """Pairs (prediction, target, IoU >= `match_iou`), the largest IoU first, each index once; of equals the first.

    >>> target = Target(task="grounding", size_wh=(9, 9), boxes_xyxy=[(0, 0, 4, 4)], labels=["a"])
    >>> greedy_pairs(Answer(((0.0, 0.0, 4.0, 3.0), (0.0, 0.0, 4.0, 4.0)), ("a", "a")), target)
    [(1, 0, 1.0)]
    """
    if not answer.boxes_xyxy or not target.boxes_xyxy:
        return []
    iou_pt = pairwise_iou(answer.boxes_xyxy, cast(Boxes, target.boxes_xyxy))
    if target.is_multiclass:
        said = np.array([normalize_label(label) for label in answer.labels[: len(iou_pt)]], dtype=object)
        iou_pt[said[:, None] != np.array(target.normalized_labels, dtype=object)[None]] = 0.0
    rows, columns = np.nonzero(iou_pt >= match_iou - EPSILON)
    overlaps = iou_pt[rows, columns]
    pairs: list[tuple[int, int, float]] = []
    taken_p: set[int] = set()
    taken_t: set[int] = set()
    for i in np.argsort(-overlaps, kind="stable").tolist():
        p, t = int(rows[i]), int(columns[i])
        if p not in taken_p and t not in taken_t:
            taken_p.add(p)
            taken_t.add(t)
            pairs.append((p, t, float(overlaps[i])))
    return pairs


def lisa_parts(read: Read) -> dict[str, Part]:
    """LISA's gIoU and cIoU (arXiv 2308.00692), with the region that boxes cover in place of a mask.

    gIoU: mean over rows of intersection over union of the predicted and the true region; cIoU: sum of the intersections
    over sum of the unions. Boxes are cut to the image, regions to ignore to nothing. Nothing there and nothing said: 1
    in gIoU (as in GRES), without weight in cIoU. VLM-R1's LISA-Grounding is REC accuracy, which is given beside.
    """
    target = read.target
    width, height = (float(side) for side in target.size_wh)
    said = [(max(a, 0.0), max(b, 0.0), min(c, width), min(d, height)) for a, b, c, d in read.answer.boxes_xyxy]
    shared, union = region_overlap(
        [box for box in said if box[0] < box[2] and box[1] < box[3]],
        cast(Boxes, target.boxes_xyxy),
        cast(Boxes, target.ignore_xyxy),
    )
    is_empty = union == 0.0 and read.case.class_aware.n_predicted == 0
    return {"gIoU": (1.0 if is_empty else shared / union if union else 0.0, 1.0), "cIoU": (shared, union)}


def region_overlap(some: Sequence[Box], others: Sequence[Box], ignore: Sequence[Box] = ()) -> tuple[float, float]:
    """Areas of the intersection and of the union of two regions that boxes cover, less a third.

    >>> region_overlap([(0, 0, 2, 2), (1, 0, 3, 2)], [(0, 0, 3, 4)])
    (6.0, 12.0)
    """
    boxes = np.array([*some, *others, *ignore], dtype=np.float64).reshape(-1, 4)
    if not len(boxes):
        return 0.0, 0.0
    xs, ys = np.unique(boxes[:, ::2]), np.unique(boxes[:, 1::2])
    cells = np.diff(xs)[:, None] * np.diff(ys)[None]
    left, top = np.searchsorted(xs, boxes[:, 0]), np.searchsorted(ys, boxes[:, 1])
    right, bottom = np.searchsorted(xs, boxes[:, 2]), np.searchsorted(ys, boxes[:, 3])
    covered = np.zeros((3, *cells.shape), dtype=bool)
    for i in range(len(boxes)):
        whose = (i >= len(some)) + (i >= len(some) + len(others))
        covered[whose, left[i] : right[i], top[i] : bottom[i]] = True
    a, b, ignored = covered
    return float(cells[a & b & ~ignored].sum()), float(cells[(a | b) & ~ignored].sum())
