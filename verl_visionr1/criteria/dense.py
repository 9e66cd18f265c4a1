"""Further published criteria of detection and grounding, and size-aware ones.

Legend: n_P predicted boxes, n_T target boxes; sums are over the pairs of the preset's matching (one-to-one, independent
of order). All criteria are in [0, 1]; for n_T = 0 they are 1.0 iff nothing was predicted. Where g is given, the value
is the sum of g over the pairs, over max(n_P, n_T): one referent and one box give g itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, Boxes, iou, widen
from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS
from verl_visionr1.criteria.thresholds import EPSILON, Thresholds, differentiate
from verl_visionr1.matching import Matching
from verl_visionr1.targets import Target


def soft_iou(matching: Matching, *, match_iou: float = 0.0) -> float:
    """Sum of matched IoU of at least `match_iou` over max(n_P, n_T): misses and surplus boxes cost the same.

    For one referent and one box this is their IoU (VLM-R1's reward of referring expressions). With `match_iou` .5 it is
    Visual-RFT's reward (arXiv 2503.01785, `compute_reward_iou_v2`), which has a strict bound and greedy matching.
    """
    return _over_most(sum(_reaching(matching.ious, match_iou)), matching)


def iou2_over_max(matching: Matching) -> float:
    """g = IoU squared, in [0, 1]: poor boxes count less (Perception-R1, arXiv 2504.07954)."""
    return _over_most(sum([pair_iou * pair_iou for pair_iou in matching.ious]), matching)


def soft_giou(matching: Matching) -> float:
    """g = (1 + GIoU) / 2, in [0, 1]: a box that misses its object earns more the nearer it is.

    Needs pairs matched by GIoU, `matching: giou`. A box that covers its whole object earns at least .5, and a guess
    earns more than an empty answer, as in other systems that reward GIoU (NeMo-RL, Visual-RFT on LISA).
    """
    return _over_most(sum([(1.0 + pair_giou) / 2.0 for pair_giou in matching.ious]), matching)


def hit_over_max(matching: Matching, *, match_iou: float = 0.5) -> float:
    """g = 1 if IoU >= `match_iou`, else 0: the accuracy metric of referring expressions."""
    return _over_most(sum([pair_iou >= match_iou - EPSILON for pair_iou in matching.ious]), matching)


def weighted_sum(matching: Matching) -> float:
    """.7 * (sum of matched IoU >= .5) / n_T + .3 * (recall + precision) / 2, both at IoU .5 (VLM-R1).

    The second term is the released "completeness", 1 - (miss rate + false alarm rate) / 2. Repaired: pairs must agree
    in label (a wrong label still earned .3), and the matching is optimal instead of greedy. As released, duplicates
    cost little: ten boxes for one object earn .865.
    """
    return _position_and_completeness(matching, _reaching(matching.ious, 0.5))


def _over_most(total: float, matching: Matching) -> float:
    most = max(matching.n_predicted, matching.n_target)
    return total / most if most else 1.0


def _reaching(ious: Sequence[float], match_iou: float) -> list[float]:
    return [pair_iou for pair_iou in ious if pair_iou >= match_iou - EPSILON and pair_iou > 0.0]


def _position_and_completeness(matching: Matching, ious: Sequence[float]) -> float:
    n_predicted, n_target = matching.n_predicted, matching.n_target
    if not n_predicted or not n_target:
        return 1.0 if n_predicted == n_target else 0.0
    completeness = (len(ious) / n_target + len(ious) / n_predicted) / 2.0
    return 0.7 * (sum(ious) / n_target) + 0.3 * completeness  # in this order a perfect answer is exactly 1.0


def v_triune(matching: Matching, thresholds: Thresholds, *, size_penalty: float = 0.6) -> float:
    """V-Triune's dynamic IoU reward (arXiv 2505.18129, label-first): s * size_penalty ** (surplus / n_T).

    s = .7 * (sum of matched IoU >= eps) / n_T + .3 * (recall + precision at eps) / 2, where eps is
    `thresholds.match_iou`. Independent of order: in the released code each target in turn takes the best remaining box
    of its label; here the pairs of equal label have the largest total IoU, and pairs below eps do not count.

    surplus: targets without a box at IoU .5, and boxes without a target at .5. The released exponent is |n_P - n_T|:
    a false positive offsets a miss and so earns reward. Counting both would cost a scene of many objects all its reward
    for a few mistakes, so the exponent is relative to n_T. For one object it is the released one. The released code
    first removes repeated boxes; here they cost. `size_penalty` is the factor, in [0, 1], for a surplus of n_T.
    """
    if not 0.0 <= size_penalty <= 1.0:
        raise ValueError(f"size_penalty = {size_penalty!r}: needs a factor in [0, 1]")
    n_predicted, n_target = matching.n_predicted, matching.n_target
    if not n_predicted or not n_target:
        return 1.0 if n_predicted == n_target else 0.0
    counted, near = _reaching(matching.ious, thresholds.match_iou), _reaching(matching.ious, 0.5)
    surplus = n_predicted + n_target - 2 * len(near)
    return _position_and_completeness(matching, counted) * size_penalty ** (surplus / n_target)


def big_vision(matching: Matching, *, penalty: float = 0.3) -> float:
    """Detection reward of arXiv 2302.08242: mean recall at IoU .50:.05:.95, minus a penalty for surplus boxes.

    (mean over targets of the share of the ten thresholds that the IoU of their pair reaches)
    - penalty * (predictions without a target at IoU .5) / n_T, clipped to [0, 1]. The released penalty is for
    duplicates only, since scores rank false positives last. Without scores these would be free, so here every box
    without an object costs the same, whatever its label: `penalty`, at least 0, is the share of one object.
    """
    if not 0.0 <= penalty < math.inf:
        raise ValueError(f"penalty = {penalty!r}: needs a number of at least 0")
    n_predicted, n_target = matching.n_predicted, matching.n_target
    if not n_predicted or not n_target:
        return 1.0 if n_predicted == n_target else 0.0
    found, n_found = 0.0, 0
    for pair_iou in matching.ious:
        reached = sum([pair_iou >= tau - EPSILON for tau in IOU_THRESHOLDS])
        n_found += reached > 0
        found += reached
    recall = found / (len(IOU_THRESHOLDS) * n_target)
    return min(max(recall - penalty * (n_predicted - n_found) / n_target, 0.0), 1.0)


STEP_IOU = 1.0 / 3.0
"""IoU, in one direction, of two spans one step long and half a step apart: the least that a frame guarantees."""


def reachable_iou(box_xyxy: Box, grid_wh: tuple[float, float]) -> float:
    """The smallest IoU with `widen` after rounding each edge to the nearest step of `grid_wh`, in [1/9, 1].

    An edge moves by at most half a step. IoU is smallest if all four move inwards: (1 - gx/w) * (1 - gy/h), for steps
    gx, gy and size w, h. In each direction it is at least `STEP_IOU`, for any answer of a step or more around the
    middle.
    """
    x1, y1, x2, y2 = box_xyxy
    return max(1.0 - grid_wh[0] / (x2 - x1), STEP_IOU) * max(1.0 - grid_wh[1] / (y2 - y1), STEP_IOU)


def recall_size_aware(
    answer: Answer, matching: Matching, thresholds: Thresholds, target: Target, grid_wh: tuple[float, float]
) -> float:
    """`recall` (Eq. 5 with Eq. 8), with each target's threshold capped at its `reachable_iou`.

    A target smaller than a step is also compared after `widen`; the better IoU counts. For boxes of many steps it
    equals `recall`; for small boxes it ignores the loss that rounding alone can cause.
    """
    if not matching.n_target:
        return 0.0 if matching.n_predicted else 1.0
    found = 0
    for relaxed, limit in _compare(answer, matching, target, grid_wh):
        found += relaxed >= min(thresholds.match_iou, limit) - EPSILON
    return differentiate(found / matching.n_target, thresholds.recall_floor, thresholds.recall_full)


def precision_size_aware(
    answer: Answer, matching: Matching, thresholds: Thresholds, target: Target, grid_wh: tuple[float, float]
) -> float:
    """`precision` (Eq. 6 with Eq. 8), with match, floor and full credit capped at the `reachable_iou`.

    A pair that reaches its cap has full credit; small targets are compared as in `recall_size_aware`. n_P = 0: 1.0
    iff n_T = 0.
    """
    if not matching.n_predicted:
        return 0.0 if matching.n_target else 1.0
    total = 0.0
    for relaxed, limit in _compare(answer, matching, target, grid_wh):
        if relaxed >= min(thresholds.match_iou, limit) - EPSILON:
            total += differentiate(relaxed, min(thresholds.iou_floor, limit), min(thresholds.iou_full, limit))
    return total / matching.n_predicted


def _compare(
    answer: Answer, matching: Matching, target: Target, grid_wh: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return for each pair the IoU that counts, and the `reachable_iou` of its target."""
    boxes = cast(Boxes, target.boxes_xyxy)
    compared: list[tuple[float, float]] = []
    for (p, t), overlap in zip(matching.pairs, matching.ious, strict=True):
        box = boxes[t]
        if box[2] - box[0] < grid_wh[0] or box[3] - box[1] < grid_wh[1]:
            overlap = max(overlap, iou(answer.boxes_xyxy[p], widen(box, grid_wh)))
        compared.append((overlap, reachable_iou(box, grid_wh)))
    return compared


CRITERIA: tuple[Callable[..., float], ...] = (
    soft_iou,
    iou2_over_max,
    soft_giou,
    hit_over_max,
    weighted_sum,
    v_triune,
    big_vision,
    recall_size_aware,
    precision_size_aware,
)
"""Criteria for presets."""
