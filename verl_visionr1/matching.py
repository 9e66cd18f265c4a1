"""`Answer` boxes x `Target` boxes -> `Matching`: which prediction stands for which object.

Legend: P predictions, T targets, `iou_pt[p, t]`. The default is one-to-one, maximises the total IoU and never depends
on the order of predictions or targets; matching by GIoU and Vision-R1's released matcher are named variants for their
presets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Array, Box, Boxes, area, as_array, intersection, iou, pairwise_giou, pairwise_iou
from verl_visionr1.targets import Target, normal_label

SMALL = 256
"""Up to this many pairs (16 x 16) plain Python beats numpy."""
Overlap: TypeAlias = tuple[int, int, float]
"""Prediction p, target t, and their IoU > 0 (their GIoU, where that is what is matched by)."""
Assign: TypeAlias = Callable[[Boxes, Sequence[int], Boxes, Sequence[int]], list[Overlap]]
"""Boxes and the indices of some of them, the same for targets -> one-to-one pairs."""
_HUGE = 1e9  # coordinates are clipped to this where larger ones would overflow float32 areas
IGNORED_SHARE = 0.5
"""A prediction that lies in an ignore region by at least this share of its area is not counted."""


class Matching(msgspec.Struct, frozen=True, gc=False):
    """Who matches whom.

    Attributes:
        pairs: M pairs (p, t), indices into the answer's and the target's boxes; each index at most once.
        ious: M overlaps, one a pair: IoU in (0, 1] (GIoU in (-1, 1] by the rules "giou" and "visionr1-released").
        n_predicted: predictions that count: all that were claimed, less those in ignore regions. Where nothing is
            there, an answer that cannot be read counts as one wrong prediction.
        n_target: T.
    """

    pairs: tuple[tuple[int, int], ...]
    ious: tuple[float, ...]
    n_predicted: int
    n_target: int


def match_labelled(answer: Answer, target: Target) -> Matching:
    """The default: pairs must agree in label where the target knows more than one label.

    Args:
        answer: P predictions in pixels of the original image; labels are compared without case and surplus blanks.
            Claimed boxes that could not be read count as predictions and match nothing.
        target: ground truth; its labels and asked-for categories are the label set.

    >>> cat = Target(task="detection", size_wh=(10, 10), boxes_xyxy=[(0, 0, 4, 4)], labels=["cat"])
    >>> match_labelled(Answer(((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 2.0, 4.0)), ("cat", "cat")), cat)
    Matching(pairs=((0, 0),), ious=(1.0,), n_predicted=2, n_target=1)
    """
    if not target.is_multilabel:
        return match_boxes(answer, target)
    return _by_label(_assign, answer, target)


def match_boxes(answer: Answer, target: Target) -> Matching:
    """Labels play no part: the "box-only" matching of arXiv 2503.18013, Table 3."""
    boxes_xyxy, targets = answer.boxes_xyxy, cast(Boxes, target.boxes_xyxy)
    found = _assign(boxes_xyxy, range(len(boxes_xyxy)), targets, range(len(targets)))
    return _matching(found, answer, target)


def match_giou(answer: Answer, target: Target) -> Matching:
    """As `match_labelled`, but the total GIoU is the largest possible, and `ious` holds GIoU, in (-1, 1].

    As many pairs as there can be (of one label, where labels matter), however far apart their boxes: so that a box
    that misses its object still hears how far it is.

    >>> cat = Target(task="grounding", size_wh=(10, 10), boxes_xyxy=[(0, 0, 2, 2)], labels=["cat"])
    >>> match_giou(Answer(((6.0, 0.0, 8.0, 2.0),), ("cat",)), cat).ious
    (-0.5,)
    """
    if target.is_multilabel:
        return _by_label(_assign_by_giou, answer, target)
    boxes_xyxy, targets = answer.boxes_xyxy, cast(Boxes, target.boxes_xyxy)
    return _matching(_assign_by_giou(boxes_xyxy, range(len(boxes_xyxy)), targets, range(len(targets))), answer, target)


def match_nothing(answer: Answer, target: Target) -> Matching:
    """No pairs: for answers that are no boxes. n_predicted and n_target are those of the lists."""
    return Matching((), (), answer.n_predicted, target.n_objects)


def ignored(answer: Answer, target: Target, matching: Matching) -> set[int]:
    """Predictions that `matching` does not count: those without a pair that lie in an ignore region."""
    if not target.ignore_xyxy:
        return set()
    return _ignored(answer.boxes_xyxy, {p for p, _ in matching.pairs}, cast(Boxes, target.ignore_xyxy))


def _by_label(assign: Assign, answer: Answer, target: Target) -> Matching:
    """The pairs that `assign` finds within each label."""
    boxes_xyxy, targets = answer.boxes_xyxy, cast(Boxes, target.boxes_xyxy)
    said, wanted = _indices_by_label(answer.labels[: len(boxes_xyxy)]), _indices_by_label(target.labels)
    found: list[Overlap] = []
    for label in sorted(wanted):
        if label in said:
            found += assign(boxes_xyxy, said[label], targets, wanted[label])
    return _matching(found, answer, target)


def _matching(found: list[Overlap], answer: Answer, target: Target) -> Matching:
    boxes = answer.boxes_xyxy
    n_predicted = len(boxes) + answer.n_dropped
    if not n_predicted and not target.boxes_xyxy and not answer.is_parsed:
        n_predicted = 1  # "there is none" has to be said: else silence would be right wherever nothing is there
    if target.ignore_xyxy and len(found) < len(boxes):
        n_predicted -= len(_ignored(boxes, {p for p, _, _ in found}, cast(Boxes, target.ignore_xyxy)))
    pairs = tuple([(p, t) for p, t, _ in found])
    return Matching(pairs, tuple([overlap for _, _, overlap in found]), n_predicted, len(target.boxes_xyxy))


def _indices_by_label(labels: Sequence[str]) -> dict[str, list[int]]:
    """Which boxes carry a label, by the label as it is compared."""
    as_written: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        as_written.setdefault(label, []).append(i)
    indices: dict[str, list[int]] = {}
    for label, written in as_written.items():
        indices.setdefault(normal_label(label), []).extend(written)
    return indices


def _assign(boxes: Boxes, ps: Sequence[int], targets: Boxes, ts: Sequence[int]) -> list[Overlap]:
    """Pair the predictions `ps` with the targets `ts`, one to one, so that their total IoU is the largest possible.

    Both sides are put in canonical order first, so that neither ties nor rounding hang on the order they came in.
    """
    if not ps or not ts:
        return []
    if len(ps) == len(ts) == 1:
        overlap = iou(boxes[ps[0]], targets[ts[0]])
        return [(ps[0], ts[0], overlap)] if overlap > 0.0 else []
    ps, ts = sorted(ps, key=boxes.__getitem__), sorted(ts, key=targets.__getitem__)
    some, others = [boxes[p] for p in ps], [targets[t] for t in ts]
    if len(ps) * len(ts) > SMALL:
        iou_pt = pairwise_iou(some, others)
    else:
        overlaps = _overlaps(some, others)
        if _one_to_one(overlaps):
            return [(ps[row], ts[column], overlap) for row, column, overlap in overlaps]
        iou_pt = np.zeros((len(ps), len(ts)))
        for row, column, overlap in overlaps:
            iou_pt[row, column] = overlap
    rows, columns = _assignment(-iou_pt)
    chosen = zip(rows, columns, iou_pt[rows, columns].tolist(), strict=True)
    return [(ps[row], ts[column], overlap) for row, column, overlap in chosen if overlap > 0.0]


def _overlaps(some: list[Box], others: list[Box]) -> list[Overlap]:
    """The pairs with IoU > 0. Most pairs are apart, which four comparisons tell without a call."""
    overlaps: list[Overlap] = []
    for row, box in enumerate(some):
        x1, y1, x2, y2 = box
        for column, other in enumerate(others):
            if x1 < other[2] and other[0] < x2 and y1 < other[3] and other[1] < y2:
                overlap = iou(box, other)
                if overlap > 0.0:
                    overlaps.append((row, column, overlap))
    return overlaps


def _one_to_one(overlaps: list[Overlap]) -> bool:
    """Whether no prediction and no target occurs twice: then the overlaps are the matching."""
    n = len(overlaps)
    return n < 2 or (len({p for p, _, _ in overlaps}) == n and len({t for _, t, _ in overlaps}) == n)


def _assign_by_giou(boxes: Boxes, ps: Sequence[int], targets: Boxes, ts: Sequence[int]) -> list[Overlap]:
    """As `_assign`, for the largest total GIoU; the overlaps are GIoU, and pairs that are apart stay pairs."""
    if not ps or not ts:
        return []
    if len(ps) == len(ts) == 1:
        return [(ps[0], ts[0], _giou(boxes[ps[0]], targets[ts[0]]))]
    ps, ts = sorted(ps, key=boxes.__getitem__), sorted(ts, key=targets.__getitem__)
    some = np.clip(as_array([boxes[p] for p in ps]), -_HUGE, _HUGE)
    with np.errstate(all="ignore"):
        giou_pt = pairwise_giou(cast(Boxes, some), [targets[t] for t in ts])  # rows of four are boxes
    giou_pt[np.isnan(giou_pt)] = -1.0  # no box has an area that can be measured
    rows, columns = _assignment(-giou_pt)
    chosen = zip(rows, columns, giou_pt[rows, columns].tolist(), strict=True)
    return [(ps[row], ts[column], overlap) for row, column, overlap in chosen]


def _giou(a: Box, b: Box) -> float:
    """GIoU of two boxes, in (-1, 1]; -1.0 where a box is so large or thin that its area cannot be measured."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    shared = intersection(a, b)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    if not (0.0 < union <= hull * (1.0 + 1e-9) and hull < float("inf")):
        return -1.0
    return min(shared / union - (hull - union) / hull, 1.0)


def _ignored(boxes: Boxes, matched: set[int], regions: Boxes) -> set[int]:
    found: set[int] = set()
    for p, box in enumerate(boxes):
        if p in matched:
            continue
        needed = IGNORED_SHARE * area(box)  # 0 or inf for absurd boxes: such a box lies in no region
        if needed > 0.0 and any(intersection(box, region) >= needed for region in regions):
            found.add(p)
    return found


def match_visionr1_released(answer: Answer, target: Target) -> Matching:
    """`BoxPriorMatcher` of the released Vision-R1 code: cost L1 in pixels, less label agreement, less GIoU.

    All min(P, T) pairs are matched, however far apart, and `ious` holds their GIoU, in (-1, 1], in float32 precision.
    Ignore regions and dropped boxes play no part. One box so large that float32 cannot measure it stops the released
    code: here nothing is matched then.
    """
    boxes_xyxy, labels = answer.boxes_xyxy, answer.labels
    targets = cast(Boxes, target.boxes_xyxy)
    n_p, n_t = len(boxes_xyxy), len(targets)
    if not n_p or not n_t:
        return Matching((), (), n_p, n_t)
    if _stops_float32(as_array(boxes_xyxy), as_array(targets)):
        return Matching((), (), n_p, n_t)
    p = as_array(boxes_xyxy).astype(np.float32)
    t = as_array(targets).astype(np.float32)
    giou_pt = pairwise_giou(cast(Boxes, p), cast(Boxes, t)).astype(np.float32)  # rows of four are boxes
    cost_pt = np.abs(p[:, 0, None] - t[:, 0])
    for side in (1, 2, 3):
        cost_pt += np.abs(p[:, side, None] - t[:, side])
    codes = {label: float(code) for code, label in enumerate(target.normal_labels)}
    p_codes = np.array([codes.get(normal_label(label), -1.0) for label in labels])
    t_codes = np.array([codes[label] for label in target.normal_labels])
    cost_pt -= p_codes[:, None] == t_codes
    cost_pt -= giou_pt
    rows, columns = _assignment(cost_pt)
    return Matching(tuple(zip(rows, columns, strict=True)), tuple(giou_pt[rows, columns].tolist()), n_p, n_t)


def _stops_float32(p: Array, t: Array) -> bool:
    """Whether a coordinate, or the hull of a pair, is beyond float32: then GIoU is nan, and no assignment exists."""
    if float(np.abs(p).max()) < 1e18:
        return False
    with np.errstate(over="ignore"):
        sides_pt2 = np.maximum(p[:, None, 2:], t[:, 2:]) - np.minimum(p[:, None, :2], t[:, :2])
        largest = max(float(sides_pt2.prod(axis=2).max()), 4.0 * float(np.abs(p).max()))
    return not largest < float(np.finfo(np.float32).max)


def _assignment(cost_pt: Array) -> tuple[list[int], list[int]]:
    """Rows and columns of the one-to-one pairs, min(P, T) of them, whose total cost is least."""
    # scipy.optimize takes three times as long to load as all the rest of the package: only where it is needed.
    from scipy.optimize import linear_sum_assignment  # pyright: ignore

    rows, columns = cast(tuple[NDArray[np.intp], NDArray[np.intp]], linear_sum_assignment(cost_pt))
    return rows.tolist(), columns.tolist()


Matcher: TypeAlias = Callable[[Answer, Target], Matching]
MATCHERS: Mapping[str, Matcher] = MappingProxyType(
    {
        "labelled": match_labelled,
        "boxes": match_boxes,
        "giou": match_giou,
        "none": match_nothing,
        "visionr1-released": match_visionr1_released,
    }
)
"""Name -> matching rule."""
