"""`Answer` boxes x `Target` boxes -> `Matching`: which prediction stands for which object.

Legend: P predictions, T targets, `iou_PT[p, t]`. The default is one-to-one, maximises the total IoU and never depends
on the order of predictions or targets; Vision-R1's released matcher is a named variant for its preset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import msgspec
import numpy as np
from scipy.optimize import linear_sum_assignment

from verl_visionr1.boxes import Box, Boxes, area, intersection, iou, pairwise_giou, pairwise_iou
from verl_visionr1.targets import Target, normal_label

SMALL = 64
"""Up to this many pairs (8 x 8) plain Python beats numpy."""
_HUGE = 1e9  # coordinates are clipped to this where larger ones would overflow float32 areas
IGNORED_SHARE = 0.5
"""A prediction that lies in an ignore region by at least this share of its area is not counted."""


class Matching(msgspec.Struct, frozen=True, gc=False):
    """Who matches whom.

    Attributes:
        pairs: M pairs (p, t), indices into the answer's and the target's boxes; each index at most once.
        ious: M overlaps, one a pair: IoU in (0, 1] (GIoU in the released variant).
        n_predicted: predictions that count: all that were claimed, less those in ignore regions.
        n_target: T.
    """

    pairs: tuple[tuple[int, int], ...]
    ious: tuple[float, ...]
    n_predicted: int
    n_target: int


def match_labelled(boxes_xyxy: Boxes, labels: Sequence[str], target: Target, n_dropped: int = 0) -> Matching:
    """The default: pairs must agree in label where the target knows more than one label.

    Args:
        boxes_xyxy: P predictions in pixels of the original image.
        labels: P labels; compared without case and surplus blanks.
        target: ground truth; its labels and asked-for categories are the label set.
        n_dropped: claimed boxes that could not be read: they count as predictions and match nothing.

    >>> cat = Target(task="detection", size_wh=(10, 10), boxes_xyxy=[(0, 0, 4, 4)], labels=["cat"])
    >>> match_labelled(((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 2.0, 4.0)), ("cat", "cat"), cat)
    Matching(pairs=((0, 0),), ious=(1.0,), n_predicted=2, n_target=1)
    """
    if not target.is_multilabel:
        return _match(boxes_xyxy, None, target, n_dropped)
    return _match(boxes_xyxy, [normal_label(label) for label in labels], target, n_dropped)


def match_boxes(boxes_xyxy: Boxes, labels: Sequence[str], target: Target, n_dropped: int = 0) -> Matching:
    """Labels play no part: the "box-only" matching of arXiv 2503.18013, Table 3."""
    return _match(boxes_xyxy, None, target, n_dropped)


def _match(boxes: Boxes, labels: list[str] | None, target: Target, n_dropped: int) -> Matching:
    targets: Boxes = target.boxes_xyxy  # type: ignore[assignment]
    target_labels = target.normal_labels if labels is not None else None
    n_p, n_t = len(boxes), len(targets)
    if n_p == 1 and n_t == 1:
        overlap = iou(boxes[0], targets[0]) if labels is None or labels[0] == target_labels[0] else 0.0
        pairs, ious = (((0, 0),), (overlap,)) if overlap > 0.0 else ((), ())
    elif n_p and n_t:
        pairs, ious = _assign(boxes, labels, targets, target_labels)
    else:
        pairs, ious = (), ()
    n_predicted = n_p + n_dropped
    if target.ignore_xyxy and len(pairs) < n_p:
        n_predicted -= _n_ignored(boxes, pairs, target)
    return Matching(pairs, ious, n_predicted, n_t)


def _assign(
    boxes: Boxes, labels: list[str] | None, targets: Boxes, target_labels: tuple[str, ...] | None
) -> tuple[tuple[tuple[int, int], ...], tuple[float, ...]]:
    """Maximise the total IoU. Both sides are put in canonical order first, so that ties do not hang on theirs."""
    order_p, boxes, labels = _canonical(boxes, labels)
    order_t, targets, target_labels = _canonical(targets, target_labels)
    overlaps = _overlaps(boxes, labels, targets, target_labels)
    if not _one_to_one(overlaps):
        iou_PT = np.zeros((len(boxes), len(targets)))
        for p, t, overlap in overlaps:
            iou_PT[p, t] = overlap
        rows, columns = linear_sum_assignment(iou_PT, maximize=True)
        chosen = iou_PT[rows, columns]
        overlaps = [found for found in zip(rows.tolist(), columns.tolist(), chosen.tolist(), strict=True) if found[2]]
    return tuple([(order_p[p], order_t[t]) for p, t, _ in overlaps]), tuple([overlap for _, _, overlap in overlaps])


def _canonical(boxes: Boxes, labels: Sequence[str] | None) -> tuple[list[int], Boxes, list[str] | None]:
    if labels is None:
        order = sorted(range(len(boxes)), key=boxes.__getitem__)
        return order, tuple([boxes[i] for i in order]), None
    order = sorted(range(len(boxes)), key=lambda i: (boxes[i], labels[i]))
    return order, tuple([boxes[i] for i in order]), [labels[i] for i in order]


def _overlaps(
    boxes: Boxes, labels: Sequence[str] | None, targets: Boxes, target_labels: Sequence[str] | None
) -> list[tuple[int, int, float]]:
    """The pairs (p, t, IoU) that may be matched: IoU > 0 and, where labels are given, equal labels. Row by row."""
    if len(boxes) * len(targets) <= SMALL:
        return [
            (p, t, overlap)
            for p, box in enumerate(boxes)
            for t, other in enumerate(targets)
            if (labels is None or labels[p] == target_labels[t]) and (overlap := iou(box, other)) > 0.0
        ]
    iou_PT = pairwise_iou(boxes, targets)
    if labels is not None:
        codes: dict[str, int] = {}
        p_codes = np.array([codes.setdefault(label, len(codes)) for label in labels])
        t_codes = np.array([codes.setdefault(label, len(codes)) for label in target_labels])
        iou_PT[p_codes[:, None] != t_codes] = 0.0
    rows, columns = np.nonzero(iou_PT)
    return list(zip(rows.tolist(), columns.tolist(), iou_PT[rows, columns].tolist(), strict=True))


def _one_to_one(overlaps: list[tuple[int, int, float]]) -> bool:
    """Whether no prediction and no target occurs twice: then the pairs are the matching."""
    n = len(overlaps)
    return len({p for p, _, _ in overlaps}) == n and len({t for _, t, _ in overlaps}) == n


def _n_ignored(boxes: Boxes, pairs: tuple[tuple[int, int], ...], target: Target) -> int:
    matched = {p for p, _ in pairs}
    return sum(
        any(intersection(box, region) >= IGNORED_SHARE * area(box) for region in target.ignore_xyxy)  # type: ignore[arg-type]
        for p, box in enumerate(boxes)
        if p not in matched
    )


def match_visionr1_released(boxes_xyxy: Boxes, labels: Sequence[str], target: Target, n_dropped: int = 0) -> Matching:
    """`BoxPriorMatcher` of the released Vision-R1 code: cost L1 in pixels, less label agreement, less GIoU.

    All min(P, T) pairs are matched, however far apart, and `ious` holds their GIoU, in (-1, 1], in float32 precision.
    """
    targets: Sequence[Box] = target.boxes_xyxy  # type: ignore[assignment]
    n_p, n_t = len(boxes_xyxy), len(targets)
    if not n_p or not n_t:
        return Matching((), (), n_p, n_t)
    p = np.clip(np.array(boxes_xyxy), -_HUGE, _HUGE).astype(np.float32)
    t = np.array(targets, dtype=np.float32)
    giou_PT = pairwise_giou(p, t).astype(np.float32)  # type: ignore[arg-type]
    l1_PT = np.abs(p[:, None] - t).sum(axis=-1)
    names = [normal_label(label) for label in labels]
    agree_PT = np.array([[a == b for b in target.normal_labels] for a in names], dtype=np.float32)
    rows, columns = linear_sum_assignment(l1_PT - agree_PT - giou_PT)
    ious = tuple(giou_PT[rows, columns].tolist())
    return Matching(tuple(zip(rows.tolist(), columns.tolist(), strict=True)), ious, n_p, n_t)


Matcher = Callable[[Boxes, Sequence[str], Target, int], Matching]
MATCHERS: Mapping[str, Matcher] = MappingProxyType(
    {
        "labelled": match_labelled,
        "boxes": match_boxes,
        "visionr1-released": match_visionr1_released,
    }
)
"""Name -> matching rule."""
