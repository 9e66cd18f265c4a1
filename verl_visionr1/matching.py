"""`Answer` boxes x `Target` boxes -> `Matching`: pairs of predictions and objects.

Legend: P predictions, T targets, `iou_pt[p, t]`. The default is one-to-one, maximises the total IoU and never depends
on the order of predictions or targets; matching by GIoU and Vision-R1's released matcher are variants for their
presets. `assignment` finds the pairs. Beyond `MAX_PAIRS` candidate pairs (of one label, if labels matter) some
predictions remain unpaired; beyond `MAX_ASSIGNED` undecided entries the total may be below the best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias, cast

import msgspec
import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.assignment import (
    MAX_ASSIGNED,
    MAX_PAIRS,
    SMALL_PAIRS,
    Edge,
    Group,
    IndexedBoxes,
    Row,
    assign,
    best_edges,
    best_edges_of_groups,
    by_target,
    find_edges,
    pad_groups,
    thin,
)
from verl_visionr1.boxes import Array, Box, Boxes, array_intersection, as_array, intersection, pairwise_giou
from verl_visionr1.targets import Target, normalize_label

__all__ = [
    "MATCHERS",
    "MAX_ASSIGNED",
    "MAX_PAIRS",
    "Matching",
    "find_ignored",
    "match_class_agnostic",
    "match_giou",
    "match_class_aware",
    "match_nothing",
    "match_visionr1_released",
]

MAX_PADDING = 4
"""All labels are matched at once if that multiplies the work by at most this factor."""
_HUGE = 1e9  # coordinates are clipped to this, since larger ones would overflow float32 areas
IGNORED_SHARE = 0.5
"""A prediction with at least this share of its area in an ignore region is not counted."""


class Matching(msgspec.Struct, frozen=True, gc=False):
    """Pairs of predictions and targets.

    Attributes:
        pairs: M pairs (p, t), indices into the answer's and the target's boxes; each index at most once.
        ious: M overlaps, one per pair: IoU in (0, 1] (GIoU in (-1, 1] by the rules "giou" and "visionr1-released").
        n_predicted: predictions that count: all of them, dropped ones included, except those in ignore regions. For
            an empty target, an unreadable answer counts as one wrong prediction.
        n_target: T.
    """

    pairs: tuple[tuple[int, int], ...]
    ious: tuple[float, ...]
    n_predicted: int
    n_target: int


def match_class_aware(answer: Answer, target: Target) -> Matching:
    """The default: pairs must agree in label if the target has more than one label.

    Args:
        answer: P predictions in pixels of the original image; labels are compared without case and surplus blanks.
            Dropped boxes count as predictions and match nothing.
        target: ground truth; its labels and the prompt's categories form the label set.

    >>> cat = Target(task="detection", size_wh=(10, 10), boxes_xyxy=[(0, 0, 4, 4)], labels=["cat"])
    >>> match_class_aware(Answer(((0.0, 0.0, 4.0, 4.0), (0.0, 0.0, 2.0, 4.0)), ("cat", "cat")), cat)
    Matching(pairs=((0, 0),), ious=(1.0,), n_predicted=2, n_target=1)
    """
    if not target.is_multiclass:
        return match_class_agnostic(answer, target)
    boxes_xyxy, indexed = answer.boxes_xyxy, target.indexed
    rows_of = _candidate_rows(answer.labels[: len(boxes_xyxy)], indexed)
    n_pairs = sum(map(len, rows_of))
    if n_pairs <= SMALL_PAIRS:
        return _matching(best_edges(find_edges(boxes_xyxy, rows_of), boxes_xyxy), answer, target)
    groups = _groups(rows_of, indexed)
    if n_pairs > MAX_PAIRS:
        groups = [(thin(ps, boxes_xyxy, len(indexed.rows)), rows) for ps, rows in groups]
    return _matching(_match_many(boxes_xyxy, groups, indexed), answer, target)


def match_class_agnostic(answer: Answer, target: Target) -> Matching:
    """Ignore labels: the "box-only" matching of arXiv 2503.18013, Table 3.

    Of equal boxes with different labels, the first in alphabetical order is matched first, so that criteria that use
    labels do not depend on the order of the answer.
    """
    boxes_xyxy, indexed = answer.boxes_xyxy, target.indexed
    if target.is_multiclass and len(set(boxes_xyxy)) < len(boxes_xyxy):
        by_label = sorted(range(len(boxes_xyxy)), key=lambda p: normalize_label(answer.labels[p]))
        if by_label != list(range(len(boxes_xyxy))):
            found = match_class_agnostic(_reordered(answer, by_label), target)
            return msgspec.structs.replace(found, pairs=tuple([(by_label[p], t) for p, t in found.pairs]))
    n_pairs = len(boxes_xyxy) * len(indexed.rows)
    if n_pairs <= SMALL_PAIRS:
        edges = find_edges(boxes_xyxy, [indexed.rows] * len(boxes_xyxy))
        return _matching(best_edges(edges, boxes_xyxy), answer, target)
    ps: Sequence[int] = range(len(boxes_xyxy))
    if n_pairs > MAX_PAIRS:
        ps = thin(ps, boxes_xyxy, len(indexed.rows))
    return _matching(best_edges_of_groups(boxes_xyxy, [ps], indexed.block), answer, target)


def _reordered(answer: Answer, order: Sequence[int]) -> Answer:
    boxes_xyxy, labels = tuple([answer.boxes_xyxy[p] for p in order]), tuple([answer.labels[p] for p in order])
    return msgspec.structs.replace(answer, boxes_xyxy=boxes_xyxy, labels=labels)


def match_giou(answer: Answer, target: Target) -> Matching:
    """Like `match_class_aware`, but the total GIoU is the largest possible, and `ious` contains GIoU, in (-1, 1].

    There are as many pairs as possible, however far apart: a box that misses its object gets a value by its distance.
    """
    boxes_xyxy, indexed = answer.boxes_xyxy, target.indexed
    groups: list[Group] = [(range(len(boxes_xyxy)), indexed.rows)]
    if target.is_multiclass:
        groups = _groups(_candidate_rows(answer.labels[: len(boxes_xyxy)], indexed), indexed)
    if sum([len(ps) * len(rows) for ps, rows in groups]) > MAX_PAIRS:
        groups = [(thin(ps, boxes_xyxy, len(indexed.rows)), rows) for ps, rows in groups]
    edges = [edge for ps, rows in groups for edge in _by_giou(boxes_xyxy, ps, rows)]
    return _matching(edges, answer, target)


def match_nothing(answer: Answer, target: Target) -> Matching:
    """No pairs: for answers without boxes. n_predicted and n_target are those of the lists."""
    return Matching((), (), answer.n_predicted, target.n_objects)


def find_ignored(answer: Answer, target: Target, matching: Matching) -> set[int]:
    """Return the predictions that `matching` does not count: those without a pair in an ignore region."""
    if not target.ignore_xyxy:
        return set()
    return _find_ignored(answer.boxes_xyxy, {p for p, _ in matching.pairs}, cast(Boxes, target.ignore_xyxy))


def _matching(edges: list[Edge], answer: Answer, target: Target) -> Matching:
    boxes = answer.boxes_xyxy
    n_predicted = len(boxes) + answer.n_dropped
    if not n_predicted and not target.boxes_xyxy and not answer.is_parsed:
        n_predicted = 1  # an unreadable answer must not count as a correct empty answer
    if target.ignore_xyxy and len(edges) < len(boxes):
        n_predicted -= len(_find_ignored(boxes, {p for p, _, _ in edges}, cast(Boxes, target.ignore_xyxy)))
    order = target.indexed.order
    pairs = tuple([(p, order[t]) for p, t, _ in edges])
    return Matching(pairs, tuple([overlap for _, _, overlap in edges]), n_predicted, len(order))


def _candidate_rows(labels: Sequence[str], indexed: IndexedBoxes) -> list[Sequence[Row]]:
    """Return the candidate targets of predictions with these labels."""
    as_written, by_label = indexed.as_written, indexed.by_label
    rows_of = [as_written.get(label) for label in labels]
    if None in rows_of:  # other spellings, and labels that the target lacks
        rows_of = [
            by_label.get(normalize_label(label), ()) if rows is None else rows
            for label, rows in zip(labels, rows_of, strict=True)
        ]
    return cast(list[Sequence[Row]], rows_of)


def _groups(rows_of: list[Sequence[Row]], indexed: IndexedBoxes) -> list[Group]:
    """Group the predictions by the labels of the target."""
    ps_of: dict[int, list[int]] = {id(rows): [] for rows in indexed.by_label.values()}
    for p, rows in enumerate(rows_of):
        if rows:
            ps_of[id(rows)].append(p)
    return [(ps_of[id(rows)], rows) for rows in indexed.by_label.values()]


def _match_many(boxes_xyxy: Boxes, groups: list[Group], indexed: IndexedBoxes) -> list[Edge]:
    """Return `best_edges` of groups with many pairs: all groups at once in numpy, if padding to one size is cheap."""
    n_pairs = sum([len(ps) * len(rows) for ps, rows in groups])
    n_padded = len(groups) * max([len(ps) for ps, _ in groups]) * max([len(rows) for _, rows in groups])
    if n_padded <= MAX_PADDING * n_pairs:
        return best_edges_of_groups(boxes_xyxy, [ps for ps, _ in groups], indexed.block_by_label)
    edges: list[Edge] = []
    rows_of: list[Sequence[Row]] = [()] * len(boxes_xyxy)
    for ps, rows in groups:
        if len(ps) * len(rows) > SMALL_PAIRS:
            edges += best_edges_of_groups(boxes_xyxy, [ps], pad_groups((rows,)))
        else:
            for p in ps:
                rows_of[p] = rows
    edges += best_edges(find_edges(boxes_xyxy, rows_of), boxes_xyxy)
    edges.sort(key=by_target)
    return edges


def _by_giou(boxes_xyxy: Boxes, ps: Sequence[int], rows: Sequence[Row]) -> list[Edge]:
    """Return the pairs with the largest total GIoU, disjoint boxes included."""
    if not ps or not rows:
        return []
    if len(ps) == len(rows) == 1:
        return [(ps[0], rows[0][5], _giou(boxes_xyxy[ps[0]], rows[0][:4]))]
    ps = sorted(ps, key=boxes_xyxy.__getitem__)
    clipped = np.clip(as_array([boxes_xyxy[p] for p in ps]), -_HUGE, _HUGE)
    with np.errstate(all="ignore"):
        giou_pt = pairwise_giou(cast(Boxes, clipped), [row[:4] for row in rows])  # rows of four are boxes
    giou_pt[np.isnan(giou_pt)] = -1.0  # areas underflowed
    found, columns = assign(giou_pt)
    chosen = zip(found, columns, giou_pt[found, columns].tolist(), strict=True)
    return [(ps[row], rows[column][5], overlap) for row, column, overlap in chosen]


def _giou(a: Box, b: Box) -> float:
    """GIoU of two boxes, in (-1, 1]; -1.0 if an area over- or underflows."""
    ax1, ay1, ax2, ay2 = a
    bx1, by1, bx2, by2 = b
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    shared = intersection(a, b)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    if not (0.0 < union <= hull * (1.0 + 1e-9) and hull < float("inf")):
        return -1.0
    return min(shared / union - (hull - union) / hull, 1.0)


def _find_ignored(boxes: Boxes, matched: set[int], regions: Boxes) -> set[int]:
    left = [p for p in range(len(boxes)) if p not in matched]
    p_xyxy, r_xyxy = as_array([boxes[p] for p in left]), as_array(regions)
    found: set[int] = set()
    rows = max(MAX_PAIRS // len(regions), 1)
    for start in range(0, len(left), rows):  # in parts, to bound memory
        with np.errstate(all="ignore"):
            shared, needed = array_intersection(p_xyxy[start : start + rows], r_xyxy)
            needed *= IGNORED_SHARE  # 0 or inf for extreme boxes, which are in no region
            is_inside = (shared >= needed[:, None]).any(axis=1) & (needed > 0.0)
        inside: list[int] = np.flatnonzero(is_inside).tolist()
        found.update([left[start + i] for i in inside])
    return found


def match_visionr1_released(answer: Answer, target: Target) -> Matching:
    """`BoxPriorMatcher` of the released Vision-R1 code: cost is L1 in pixels minus label agreement minus GIoU.

    All min(P, T) pairs are matched, however far apart, and `ious` contains their GIoU, in (-1, 1], in float32
    precision. Ignore regions and dropped boxes are ignored. A box too large for float32 crashes the released code; here
    nothing is matched then.
    """
    boxes_xyxy, labels = answer.boxes_xyxy, answer.labels
    targets = cast(Boxes, target.boxes_xyxy)
    n_p, n_t = len(boxes_xyxy), len(targets)
    if not n_p or not n_t:
        return Matching((), (), n_p, n_t)
    if _stops_float32(as_array(boxes_xyxy), as_array(targets)):
        return Matching((), (), n_p, n_t)
    ps: Sequence[int] = range(n_p)
    if n_p * n_t > MAX_PAIRS:
        ps = thin(ps, boxes_xyxy, n_t)
        boxes_xyxy, labels = tuple([boxes_xyxy[p] for p in ps]), tuple([labels[p] for p in ps])
    p = as_array(boxes_xyxy).astype(np.float32)
    t = as_array(targets).astype(np.float32)
    giou_pt = pairwise_giou(cast(Boxes, p), cast(Boxes, t)).astype(np.float32)  # rows of four are boxes
    cost_pt = np.abs(p[:, 0, None] - t[:, 0])
    for side in (1, 2, 3):
        cost_pt += np.abs(p[:, side, None] - t[:, side])
    codes = {label: float(code) for code, label in enumerate(target.normalized_labels)}
    p_codes = np.array([codes.get(normalize_label(label), -1.0) for label in labels])
    t_codes = np.array([codes[label] for label in target.normalized_labels])
    cost_pt -= p_codes[:, None] == t_codes
    cost_pt -= giou_pt
    rows, columns = assign(-cost_pt)
    pairs = tuple([(ps[row], column) for row, column in zip(rows, columns, strict=True)])
    return Matching(pairs, tuple(giou_pt[rows, columns].tolist()), n_p, n_t)


def _stops_float32(p: Array, t: Array) -> bool:
    """Whether a coordinate, or the hull of a pair, overflows float32: then GIoU is nan, and no assignment exists."""
    if float(np.abs(p).max()) < 1e18:
        return False
    with np.errstate(over="ignore"):
        sides_pt2 = np.maximum(p[:, None, 2:], t[:, 2:]) - np.minimum(p[:, None, :2], t[:, :2])
        largest = max(float(sides_pt2.prod(axis=2).max()), 4.0 * float(np.abs(p).max()))
    return not largest < float(np.finfo(np.float32).max)


Matcher: TypeAlias = Callable[[Answer, Target], Matching]
MATCHERS: Mapping[str, Matcher] = MappingProxyType(
    {
        "class_aware": match_class_aware,
        "class_agnostic": match_class_agnostic,
        "giou": match_giou,
        "none": match_nothing,
        "visionr1-released": match_visionr1_released,
    }
)
"""Name -> matching rule."""
