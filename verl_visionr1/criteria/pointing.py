"""Criteria of points: in the box, in the mask, near the centre, and a single click on a screen.

Legend: n_P predicted points, usable or not, n_T objects. An object is given by its box, its mask or a point in it; if
it lacks the form that a criterion needs, the criterion uses another one (see each). Points and objects are paired one
to one, with equal labels if the target has several, so that the total is the largest possible. The total is divided by
max(n_P, n_T). So a second point on an object, junk, an unreadable point and a missed object all cost, and the order of
points and objects does not matter. n_T = 0: 1.0 iff n_P = 0.

A box counts as a predicted point that hits nothing. A point in an ignore region and on no
object is not counted. `use_labels=False` is for formats without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Array, Boxes, Point, Points
from verl_visionr1.criteria.regions import (
    ROUNDING,
    PredictedPoints,
    Region,
    best_total,
    build_regions,
    count_pairs,
    drop_ignored,
    find_hits,
    predicted_points,
)
from verl_visionr1.masks import bounds_xyxy
from verl_visionr1.targets import Target

RADIUS = 0.025
"""Allowed distance from an object given only by a point, as a share of the image's diagonal (VisionReasoner: 30 pixels
in 840 x 840)."""
SIGMA = {"object": 0.5, "image": 0.05}
"""Standard deviation of `point_distance`: in widths and heights of the object (GUI-G2, arXiv 2507.15846: alpha = 0.5),
or of the image (OneThinker: 50 in a frame of 0-1000)."""


def point_in_box(
    answer: Answer,
    target: Target,
    grid_wh: tuple[float, float],
    *,
    radius: float = RADIUS,
    use_labels: bool = True,
) -> float:
    """Objects with a point in their box, over max(n_P, n_T): in [0, 1] (Rex-Omni, arXiv 2510.12798, made one to one).

    The box's edge is inside. A box thinner than one step of the model's frame (`grid_wh`) counts as one step wide, so
    that it can be hit. Without a box, the box around the mask is used; for an object given only by a point, a disc of
    `radius` times the image's diagonal.
    """
    regions = build_regions(target, grid_wh, radius, by_mask=False)
    return _share(predicted_points(answer, target, use_labels=use_labels), target, regions)


def point_in_mask(
    answer: Answer,
    target: Target,
    grid_wh: tuple[float, float],
    *,
    radius: float = RADIUS,
    use_labels: bool = True,
) -> float:
    """Objects with a point in their mask, over max(n_P, n_T): in [0, 1].

    Without a mask, and for one thinner than one step of the model's frame: as in `point_in_box`.
    """
    regions = build_regions(target, grid_wh, radius, by_mask=True)
    return _share(predicted_points(answer, target, use_labels=use_labels), target, regions)


def point_distance(
    answer: Answer,
    target: Target,
    grid_wh: tuple[float, float],
    *,
    relative_to: str = "object",
    sigma: float | None = None,
    radius: float = RADIUS,
    use_labels: bool = True,
) -> float:
    """Sum of exp(-d^2 / (2 sigma^2)) over the pairs, over max(n_P, n_T): dense, in [0, 1].

    d is the distance from the object's point, or else from the middle of its box or mask. Its unit on each axis is the
    width and height of the object (at least one step of the model's frame), or of the image. An object given only by a
    point has no size: the image's size and `SIGMA` are used.

    Args:
        answer, target, grid_wh: fields of `CriterionInput`.
        relative_to: "object" (GUI-G2's Gaussian point reward) or "image" (OneThinker's kernel, which averages the
            distance over the points first).
        sigma: standard deviation; None: `SIGMA`.
        radius: as in `point_in_box`; used only with ignore regions, to find the points on an object.

    Raises:
        ValueError: another `relative_to`, or a sigma of 0 or less.
    """
    if relative_to not in SIGMA:
        raise ValueError(f"relative_to = {relative_to!r}: needs one of {', '.join(SIGMA)}")
    if sigma is not None and not 0.0 < sigma < math.inf:
        raise ValueError(f"sigma = {sigma!r}: needs a number above 0, in widths and heights of the {relative_to}")
    predicted = predicted_points(answer, target, use_labels=use_labels)
    if target.ignore_xyxy:
        predicted = drop_ignored(predicted, target, build_regions(target, grid_wh, radius, by_mask=False))
    kernels = _gaussian_kernels(target, grid_wh, relative_to, sigma)
    return _over_larger(_kernel_total(predicted, kernels), predicted.n_predicted, target.n_objects)


def click(
    answer: Answer,
    target: Target,
    grid_wh: tuple[float, float],
    *,
    radius: float = RADIUS,
) -> float:
    """1 / n_P if a point is in a box of the target, else 0.0: one click on the right element (ScreenSpot's rule).

    Unlike in `point_in_box`, one of several elements is enough, and labels are ignored. No element: 1.0 iff nothing was
    clicked.
    """
    predicted = predicted_points(answer, target, use_labels=False)
    if not target.n_objects:
        return 0.0 if predicted.n_predicted else 1.0
    if not find_hits(predicted, build_regions(target, grid_wh, radius, by_mask=False)):
        return 0.0
    return 1.0 / predicted.n_predicted


def _share(predicted: PredictedPoints, target: Target, regions: Sequence[Region]) -> float:
    """Objects paired with a point, over max(n_P, n_T)."""
    if target.ignore_xyxy:
        predicted = drop_ignored(predicted, target, regions)
    return _over_larger(float(count_pairs(predicted, regions)), predicted.n_predicted, target.n_objects)


def _over_larger(total: float, n_predicted: int, n_target: int) -> float:
    if not n_target:
        return 0.0 if n_predicted else 1.0
    return total / max(n_predicted, n_target)


class _GaussianKernel(NamedTuple):
    """Nearness to an object: 1 in the middle."""

    middle_xy: Point
    sigma_xy: Point  # in pixels
    label: str


def _gaussian_kernels(
    target: Target, grid_wh: tuple[float, float], relative_to: str, sigma: float | None
) -> list[_GaussianKernel]:
    """Build one kernel per object, sorted, so that the result does not depend on their order."""
    boxes = cast(Boxes, target.boxes_xyxy) or tuple([bounds_xyxy(mask) for mask in target.masks])
    middles = cast(Points, target.points_xy) or [((x1 + x2) / 2.0, (y1 + y2) / 2.0) for x1, y1, x2, y2 in boxes]
    if not boxes:
        relative_to, sigma = "image", sigma if relative_to == "image" else None
    share = SIGMA[relative_to] if sigma is None else sigma
    sizes: Sequence[tuple[float, float]] = [target.size_wh] * len(middles)
    if relative_to == "object":
        sizes = [(max(x2 - x1, grid_wh[0], ROUNDING), max(y2 - y1, grid_wh[1], ROUNDING)) for x1, y1, x2, y2 in boxes]
    labels = target.normalized_labels or [""] * len(middles)
    objects = zip(middles, sizes, labels, strict=True)
    return sorted(
        [_GaussianKernel(middle, (share * size[0], share * size[1]), label) for middle, size, label in objects]
    )


def _kernel_total(predicted: PredictedPoints, kernels: Sequence[_GaussianKernel]) -> float:
    """Return the largest total nearness of one-to-one pairs."""
    points, labels = predicted.points_xy, predicted.labels
    if not points or not kernels:
        return 0.0
    if len(points) == len(kernels) == 1:
        return _nearness(points[0], kernels[0]) if not labels or labels[0] == kernels[0].label else 0.0
    points_p2: Array = np.array(points)
    middle_t2: Array = np.array([kernel.middle_xy for kernel in kernels])
    sigma_t2: Array = np.array([kernel.sigma_xy for kernel in kernels])
    with np.errstate(over="ignore"):
        away_pt2 = (points_p2[:, None, :] - middle_t2) / sigma_t2
        near_pt: Array = np.exp(-0.5 * (away_pt2**2).sum(axis=2))
    if labels:
        codes = {kernel.label: code for code, kernel in enumerate(kernels)}  # numpy would pad texts to the longest
        code_p = np.array([codes.get(label, -1) for label in labels])
        near_pt[code_p[:, None] != np.array([codes[kernel.label] for kernel in kernels])] = 0.0
    return best_total(near_pt)


def _nearness(point: Point, kernel: _GaussianKernel) -> float:
    dx = (point[0] - kernel.middle_xy[0]) / kernel.sigma_xy[0]
    dy = (point[1] - kernel.middle_xy[1]) / kernel.sigma_xy[1]
    return math.exp(-0.5 * (dx * dx + dy * dy))  # dx ** 2 would raise where it overflows


CRITERIA: tuple[Callable[..., float], ...] = (point_in_box, point_in_mask, point_distance, click)
"""Criteria for presets."""
