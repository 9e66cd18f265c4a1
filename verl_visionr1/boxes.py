"""Geometry of xyxy boxes: area, overlap, pairwise IoU and GIoU.

Legend: a box is `(x1, y1, x2, y2)` with x1 < x2 and y1 < y2, half-open, so its area is `(x2 - x1) * (y2 - y1)`. P
counts predicted, T target boxes: `iou_pt[p, t]`. Arrays are used only for many pairs: below about eight boxes plain
Python is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = tuple[float, float, float, float]
"""One box: x1, y1, x2, y2."""
Boxes: TypeAlias = tuple[Box, ...]
Point: TypeAlias = tuple[float, float]
"""One point: x, y."""
Points: TypeAlias = tuple[Point, ...]
Array: TypeAlias = NDArray[np.float64]
_CACHED_PAIRS = 2**14  # pairs whose arrays fit the processor's cache; more are compared in blocks


def area(box_xyxy: Box) -> float:
    """Area in squared units of the box's frame."""
    x1, y1, x2, y2 = box_xyxy
    return (x2 - x1) * (y2 - y1)


def intersection(a_xyxy: Box, b_xyxy: Box) -> float:
    """Area that two boxes share; 0.0 if they are disjoint or only touch."""
    width = min(a_xyxy[2], b_xyxy[2]) - max(a_xyxy[0], b_xyxy[0])
    height = min(a_xyxy[3], b_xyxy[3]) - max(a_xyxy[1], b_xyxy[1])
    return width * height if width > 0.0 and height > 0.0 else 0.0


def widen(box_xyxy: Box, grid_wh: tuple[float, float], margin: float = 0.0) -> Box:
    """Widen a box around its middle to at least one step of a frame's grid in each direction; `margin`: beyond that."""
    x1, y1, x2, y2 = box_xyxy
    more_x = max(grid_wh[0] - (x2 - x1), 0.0) / 2.0 + margin
    more_y = max(grid_wh[1] - (y2 - y1), 0.0) / 2.0 + margin
    return x1 - more_x, y1 - more_y, x2 + more_x, y2 + more_y


def iou(a_xyxy: Box, b_xyxy: Box) -> float:
    """Intersection over union, in [0, 1]; symmetric, and 1.0 for a box with itself."""
    ax1, ay1, ax2, ay2 = a_xyxy
    bx1, by1, bx2, by2 = b_xyxy
    width = (ax2 if ax2 < bx2 else bx2) - (ax1 if ax1 > bx1 else bx1)
    height = (ay2 if ay2 < by2 else by2) - (ay1 if ay1 > by1 else by1)
    if width <= 0.0 or height <= 0.0:
        return 0.0
    shared = width * height
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    # If areas underflow, the overlap counts as 0; rounding may give a ratio above 1.
    return min(shared / union, 1.0) if 0.0 < union < float("inf") else 0.0


def as_array(boxes_xyxy: Sequence[Box]) -> Array:
    """Boxes as a float64 array of shape (N, 4); N = 0 gives (0, 4)."""
    array: Array = np.array(boxes_xyxy, dtype=np.float64)
    return array.reshape(len(boxes_xyxy), 4)  # pyright: ignore[reportUnknownMemberType]  (numpy's own gap)


def pairwise_iou(predicted_xyxy: Sequence[Box], target_xyxy: Sequence[Box]) -> Array:
    """IoU in [0, 1] of each of P predicted boxes with each of T target boxes, shape (P, T)."""
    return array_iou(as_array(predicted_xyxy), as_array(target_xyxy))


def array_iou(p_xyxy: Array, t_xyxy: Array) -> Array:
    """`pairwise_iou` for arrays of shape (..., P, 4) and (..., T, 4); returns shape (..., P, T)."""
    p, t = np.ascontiguousarray(np.moveaxis(p_xyxy, -1, 0)), np.ascontiguousarray(np.moveaxis(t_xyxy, -1, 0))
    n_rows = max(_CACHED_PAIRS * p.shape[-1] // max(p[0].size * t.shape[-1], 1), 1)
    if n_rows >= p.shape[-1]:
        return _iou_of_sides(p, t)
    blocks = [_iou_of_sides(p[..., row : row + n_rows], t) for row in range(0, p.shape[-1], n_rows)]
    return np.concatenate(blocks, axis=-2)


def _iou_of_sides(p: Array, t: Array) -> Array:
    """IoU of sides x1, y1, x2, y2 of shape (4, ..., P) and (4, ..., T)."""
    with np.errstate(all="ignore"):
        iou_pt, union = _shared_and_union(p, t)
        iou_pt /= union
        if not np.isfinite(iou_pt.sum()):  # areas over- or underflowed: their overlap counts as 0
            iou_pt[~np.isfinite(iou_pt)] = 0.0
    return np.minimum(iou_pt, 1.0, out=iou_pt)


def array_intersection(p_xyxy: Array, t_xyxy: Array) -> tuple[Array, Array]:
    """Return `intersection` of each of P with each of T boxes, shape (P, T), and the areas of the P boxes."""
    p, t = np.transpose(p_xyxy)[..., None], np.transpose(t_xyxy)[:, None]
    width = np.minimum(p[2], t[2]) - np.maximum(p[0], t[0])
    height = np.minimum(p[3], t[3]) - np.maximum(p[1], t[1])
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    return shared, ((p[2] - p[0]) * (p[3] - p[1]))[:, 0]


def pairwise_giou(predicted_xyxy: Sequence[Box], target_xyxy: Sequence[Box]) -> Array:
    """Generalised IoU (Rezatofighi et al. 2019), in (-1, 1], shape (P, T); nan if an area over- or underflows."""
    p, t = np.transpose(as_array(predicted_xyxy)), np.transpose(as_array(target_xyxy))
    shared, union = _shared_and_union(p, t)
    hull = (np.maximum(p[2, :, None], t[2]) - np.minimum(p[0, :, None], t[0])) * (
        np.maximum(p[3, :, None], t[3]) - np.minimum(p[1, :, None], t[1])
    )
    return shared / union - (hull - union) / hull


def _shared_and_union(p: Array, t: Array) -> tuple[Array, Array]:
    """Return the shared area and the union, for sides x1, y1, x2, y2 of shape (4, ..., P) and (4, ..., T)."""
    p, t = p[..., None], t[..., None, :]
    width = np.minimum(p[2], t[2])
    width -= np.maximum(p[0], t[0])
    height = np.minimum(p[3], t[3])
    height -= np.maximum(p[1], t[1])
    np.maximum(width, 0.0, out=width)
    np.maximum(height, 0.0, out=height)
    shared = np.multiply(width, height, out=width)
    union = (p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1])
    union -= shared
    return shared, union
