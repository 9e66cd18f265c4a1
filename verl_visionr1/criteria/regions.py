"""Finds the points on each object and counts one-to-one pairs: shared by the criteria of points."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.answers import Answer
from verl_visionr1.assignment import MAX_PAIRS, assign
from verl_visionr1.boxes import Array, Box, Boxes, Point, Points, widen
from verl_visionr1.masks import Mask, bounds_xyxy, contains_each
from verl_visionr1.targets import Target, normalize_label

ROUNDING = 1e-6
"""Pixels by which a change of frame may move a point off a box's edge."""


class PredictedPoints(NamedTuple):
    """The usable points, sorted, so that results do not depend on their order."""

    points_xy: list[Point]
    labels: list[str]  # one per point; empty if labels are ignored
    ranks: list[int]  # index of each point in the answer
    n_predicted: int


def predicted_points(answer: Answer, target: Target, *, use_labels: bool) -> PredictedPoints:
    """Return the points of an answer. Labels are used if the target has more than one.

    A point that is not finite is unusable, but counts as predicted. So do points beyond `MAX_PAIRS` pairs with the
    objects, in sorted order.
    """
    points = answer.points_xy
    n_predicted = max(len(answer.points_xy), len(answer.boxes_xyxy)) + answer.n_dropped
    if not n_predicted and not target.n_objects and not answer.is_parsed:
        n_predicted = 1  # as in `matching`: an unreadable answer is no correct empty answer
    ranks = [p for p, (x, y) in enumerate(points) if math.isfinite(x) and math.isfinite(y)]
    most = max(MAX_PAIRS // max(target.n_objects, 1), 1)
    labels: Sequence[str] = ()
    if use_labels and target.labels and target.is_multiclass:
        labels = answer.labels if len(answer.labels) == len(points) else [""] * len(points)
        ranks.sort(key=lambda p: (points[p], labels[p]))
        ranks = ranks[:most]
        labels = [normalize_label(labels[p]) for p in ranks]
    elif len(ranks) > 1:
        ranks.sort(key=points.__getitem__)
    ranks = ranks[:most]
    return PredictedPoints([points[p] for p in ranks], list(labels), ranks, n_predicted)


class Region(NamedTuple):
    """The area in which a point hits an object."""

    bounds: Box
    label: str
    contains_each: Callable[[Points], list[bool]] | None  # None: the bounds are the region


Hit: TypeAlias = tuple[int, int]
"""(p, t): point p is in region t."""


def build_regions(target: Target, grid_wh: tuple[float, float], radius: float, *, by_mask: bool) -> list[Region]:
    """Build one region per object: the mask if `by_mask` and there is one, else the box (around the mask), else a disc.

    A mask thinner than one step of the model's frame counts as the box around it. ValueError: an invalid radius.
    """
    if not 0.0 <= radius < math.inf:
        raise ValueError(f"radius = {radius!r}: needs a share of the image's diagonal, at least 0")
    boxes = cast(Boxes, target.boxes_xyxy)
    labels: Sequence[str] = target.normalized_labels or [""] * target.n_objects
    if target.masks and by_mask:
        return [_mask_region(mask, grid_wh, label) for mask, label in zip(target.masks, labels, strict=True)]
    if target.masks and not boxes:
        boxes = tuple([bounds_xyxy(mask) for mask in target.masks])
    if boxes:
        return [Region(widen(box, grid_wh, ROUNDING), label, None) for box, label in zip(boxes, labels, strict=True)]
    reach = max(radius * math.hypot(*target.size_wh), math.hypot(*grid_wh) / 2.0) + ROUNDING
    return [_disc(centre, reach, label) for centre, label in zip(cast(Points, target.points_xy), labels, strict=True)]


def _mask_region(mask: Mask, grid_wh: tuple[float, float], label: str) -> Region:
    x1, y1, x2, y2 = bounds = bounds_xyxy(mask)
    if x2 - x1 < grid_wh[0] or y2 - y1 < grid_wh[1]:
        return Region(widen(bounds, grid_wh, ROUNDING), label, None)
    return Region(bounds, label, partial(contains_each, mask))


def _disc(centre: Point, reach: float, label: str) -> Region:
    x, y = centre

    def contains_each(points_xy: Points) -> list[bool]:
        return [math.hypot(px - x, py - y) <= reach for px, py in points_xy]

    return Region((x - reach, y - reach, x + reach, y + reach), label, contains_each)


def find_hits(predicted: PredictedPoints, regions: Sequence[Region]) -> list[Hit]:
    """Find every (p, t) with point p in region t and, if labels are used, equal labels."""
    points, labels = predicted.points_xy, predicted.labels
    hits: list[Hit] = []
    for t, (bounds, label, contains) in enumerate(regions):
        x1, y1, x2, y2 = bounds
        near: list[int] = []
        for p in range(bisect_left(points, (x1, -math.inf)), len(points)):
            x, y = points[p]
            if x > x2:
                break
            if y1 <= y <= y2 and (not labels or labels[p] == label):
                near.append(p)
        if contains is not None and near:
            inside = contains(tuple([points[p] for p in near]))
            near = [p for p, is_in in zip(near, inside, strict=True) if is_in]
        hits += [(p, t) for p in near]
    return hits


def count_pairs(predicted: PredictedPoints, regions: Sequence[Region]) -> int:
    """Return the size of the largest one-to-one pairing of points and objects."""
    hits = find_hits(predicted, regions)
    n_p, n_t = len({p for p, _ in hits}), len({t for _, t in hits})
    if n_p == len(hits) or n_t == len(hits) or min(n_p, n_t) < 2:  # there is no choice of pairs
        return min(n_p, n_t)
    from scipy.sparse import coo_array  # pyright: ignore
    from scipy.sparse.csgraph import maximum_bipartite_matching  # pyright: ignore

    hit_pt = coo_array((np.ones(len(hits)), tuple(zip(*hits, strict=True))), (len(predicted.points_xy), len(regions)))
    t_of_p = cast(NDArray[np.int32], maximum_bipartite_matching(hit_pt.tocsr(), perm_type="column"))  # -1: none
    return int(np.count_nonzero(t_of_p >= 0))


def drop_ignored(predicted: PredictedPoints, target: Target, regions: Sequence[Region]) -> PredictedPoints:
    """Remove the points in an ignore region and on no object, whatever their labels."""
    unlabelled = predicted._replace(labels=[])
    on_object = {p for p, _ in find_hits(unlabelled, regions)}
    ignored = {p for p, _ in find_hits(unlabelled, [Region(box, "", None) for box in cast(Boxes, target.ignore_xyxy)])}
    kept = [p for p in range(len(predicted.points_xy)) if p in on_object or p not in ignored]
    return PredictedPoints(
        [predicted.points_xy[p] for p in kept],
        [predicted.labels[p] for p in kept] if predicted.labels else [],
        [predicted.ranks[p] for p in kept],
        predicted.n_predicted - (len(predicted.points_xy) - len(kept)),
    )


def best_total(score_pt: Array) -> float:
    """Return the largest sum of scores of one-to-one pairs."""
    if 1 in score_pt.shape:
        return float(score_pt.max())
    rows, columns = assign(score_pt)
    return float(score_pt[rows, columns].sum())
