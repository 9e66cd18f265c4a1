"""COCO masks, and whether a point is inside one, without building an image array.

A mask is a set of outlines (polygons) or a run-length code. Pixel (column, row) covers the square from (column, row)
to (column + 1, row + 1). A code is unpacked into its run ends once; a point is then found by bisection.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from verl_visionr1.boxes import Array, Box, Points

FEW = 200
"""Up to this many pairs of point and corner, plain Python is faster than numpy."""
BLOCK = 100_000
"""Pairs of point and corner that are computed together."""
ON_EDGE = 1e-9
"""Tolerance for a point on an outline after a change of frame, as a share of the edge's length."""
MAX_GROUPS = 12
"""Most characters of one compressed run length: 60 bits, more than any image needs."""


class Mask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, cache_hash=True):
    """One object's mask, in pixels of the original image: polygons, or a COCO run-length code.

    Attributes:
        polygons: outlines, each flat x1, y1, x2, y2, ... of at least three corners; a point in any of them is inside.
        size_hw: height and width of the run-length code (of the whole image).
        counts: COCO's run lengths, column by column, zeros first: compressed text, or whole numbers.

    Raises:
        ValueError: neither or both of polygons and counts, an invalid outline, a code that does not fit its size, or a
            mask without area. Reading such a mask from JSON is a `msgspec.ValidationError`.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    size_hw: tuple[int, int] | None = None
    counts: str | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if bool(self.polygons) == (self.counts is not None):
            both = "both" if self.polygons else "neither"
            raise ValueError(f"mask has {both} of polygons and counts: needs one of them")
        if self.counts is None:
            if self.size_hw is not None:
                raise ValueError(f"size_hw = {self.size_hw!r}: goes with counts, not with polygons")
            msgspec.structs.force_setattr(self, "polygons", _outlines(self.polygons))
        else:
            msgspec.structs.force_setattr(self, "size_hw", _size(self.size_hw))
            if not isinstance(self.counts, str):
                msgspec.structs.force_setattr(self, "counts", _whole_numbers(self.counts))
            _run_ends(self)
        if not area(self) > 0.0:
            raise ValueError(f"mask {_shorten(self.polygons or self.counts)}: has no area")

    @property
    def size_wh(self) -> tuple[int, int] | None:
        """Width and height of the image of a run-length code; None for polygons."""
        return None if self.size_hw is None else (self.size_hw[1], self.size_hw[0])


def contains(mask: Mask, x: float, y: float) -> bool:
    """Whether the point is inside the mask.

    The outline belongs to a polygon. A pixel of a code is half-open, except that the image's far edges belong to its
    last pixels. A point that is not finite, or outside the image, is in no mask.
    """
    left, top, right, bottom = bounds_xyxy(mask)
    if not (left <= x <= right and top <= y <= bottom):  # nan fails too
        return False
    if mask.size_hw is None:
        return any(_in_outline(outline, x, y) for outline in mask.polygons)
    height, width = mask.size_hw
    index = min(int(x), width - 1) * height + min(int(y), height - 1)
    return bisect_right(_run_ends(mask), index) % 2 == 1


def contains_each(mask: Mask, points_xy: Points) -> list[bool]:
    """As `contains`, for many points."""
    n_corners = sum(map(len, mask.polygons)) // 2
    if len(points_xy) * n_corners <= FEW:  # always true for a code
        return [contains(mask, x, y) for x, y in points_xy]
    xy: Array = np.array(points_xy, dtype=np.float64)
    left, top, right, bottom = bounds_xyxy(mask)
    x: Array = xy[:, 0]
    y: Array = xy[:, 1]
    is_inside = (left <= x) & (x <= right) & (top <= y) & (y <= bottom)
    near = np.flatnonzero(is_inside)
    block = 1 + BLOCK // n_corners
    for begin in range(0, near.size, block):
        chosen = near[begin : begin + block]
        is_inside[chosen] = _in_outlines(mask, xy[chosen])
    return [bool(each) for each in is_inside]


@lru_cache(maxsize=4096)
def bounds_xyxy(mask: Mask) -> Box:
    """Return the smallest box around the mask."""
    if mask.size_hw is None:
        x = [number for outline in mask.polygons for number in outline[::2]]
        y = [number for outline in mask.polygons for number in outline[1::2]]
        return min(x), min(y), max(x), max(y)
    height = mask.size_hw[0]
    runs = _runs(mask)
    tops = [0 if start // height != (end - 1) // height else start % height for start, end in runs]
    bottoms = [height if start // height != (end - 1) // height else (end - 1) % height + 1 for start, end in runs]
    left, right = runs[0][0] // height, (runs[-1][1] - 1) // height + 1
    return float(left), float(min(tops)), float(right), float(max(bottoms))


@lru_cache(maxsize=4096)
def area(mask: Mask) -> float:
    """Return the area in square pixels: the pixels of a code, or the sum of polygon areas (overlaps count twice)."""
    if mask.size_hw is None:
        return float(sum(_outline_area(outline) for outline in mask.polygons))
    return float(sum(end - start for start, end in _runs(mask)))


def _outline_area(outline: Sequence[float]) -> float:
    x0, y0 = outline[0], outline[1]  # from a corner, so that an outline far from 0 loses no digits
    corners = [(outline[i] - x0, outline[i + 1] - y0) for i in range(0, len(outline), 2)]
    following = [*corners[1:], corners[0]]
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in zip(corners, following, strict=True))) / 2.0


def _in_outline(outline: Sequence[float], x: float, y: float) -> bool:
    """Apply the even-odd rule; a point on the outline is inside."""
    is_inside = False
    x1, y1 = outline[-2], outline[-1]
    for i in range(0, len(outline), 2):
        x2, y2 = outline[i], outline[i + 1]
        dx, dy = x2 - x1, y2 - y1
        across = dx * (y - y1) - dy * (x - x1)
        length2 = dx * dx + dy * dy
        if length2 and abs(across) <= ON_EDGE * length2 and 0.0 <= dx * (x - x1) + dy * (y - y1) <= length2:
            return True
        if (y1 > y) != (y2 > y) and (across > 0.0) == (dy > 0.0):
            is_inside = not is_inside
        x1, y1 = x2, y2
    return is_inside


def _in_outlines(mask: Mask, xy: Array) -> NDArray[np.bool_]:
    """As `_in_outline`, for many points and any of the mask's outlines."""
    found = np.zeros(len(xy), dtype=np.bool_)
    x, y = xy[:, :1], xy[:, 1:]
    for x1, y1, x2, y2 in _edges(mask):
        dx, dy, right, below = x2 - x1, y2 - y1, x - x1, y - y1
        across = dx * below - dy * right
        along = dx * right + dy * below
        length2 = dx * dx + dy * dy
        on_edge = (np.abs(across) <= ON_EDGE * length2) & (along >= 0.0) & (along <= length2)
        crosses = ((y1 > y) != (y2 > y)) & ((across > 0.0) == (dy > 0.0))
        found |= (crosses.sum(axis=1) % 2 == 1) | on_edge.any(axis=1)
    return found


@lru_cache(maxsize=1024)
def _edges(mask: Mask) -> list[tuple[Array, Array, Array, Array]]:
    """Return x1, y1, x2, y2 of the edges of each outline, without zero-length edges of repeated corners."""
    edges: list[tuple[Array, Array, Array, Array]] = []
    for outline in mask.polygons:
        x2: Array = np.array(outline[::2])
        y2: Array = np.array(outline[1::2])
        x1, y1 = np.roll(x2, 1), np.roll(y2, 1)
        kept = (x1 != x2) | (y1 != y2)
        edges.append((x1[kept], y1[kept], x2[kept], y2[kept]))
    return edges


def _outlines(polygons: Any) -> tuple[tuple[float, ...], ...]:
    outlines: list[tuple[float, ...]] = []
    for i, polygon in enumerate(polygons):
        where = f"polygons[{i}] = {_shorten(polygon)}"
        try:
            if any(isinstance(number, str | bytes) for number in polygon):  # float() would accept them
                raise TypeError
            outline = tuple([float(number) + 0.0 for number in polygon])  # -0.0 becomes 0.0
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{where}: needs numbers x1, y1, x2, y2, ...") from None
        if len(outline) < 6 or len(outline) % 2:
            raise ValueError(f"{where}: needs x, y of at least three corners")
        if not all(map(math.isfinite, outline)):
            raise ValueError(f"{where}: needs finite numbers")
        outlines.append(outline)
    return tuple(outlines)


def _run_ends(mask: Mask) -> tuple[int, ...]:
    """Return the end of each run, as an index into the pixels column by column; runs of 0 and 1 alternate, 0 first."""
    assert mask.size_hw is not None
    assert mask.counts is not None
    return _unpack(mask.counts, mask.size_hw)


@lru_cache(maxsize=4096)
def _unpack(counts: str | tuple[int, ...], size_hw: tuple[int, int]) -> tuple[int, ...]:
    lengths = _run_lengths(counts) if isinstance(counts, str) else counts
    ends = tuple(accumulate(lengths))
    n_pixels = size_hw[0] * size_hw[1]
    if not ends or ends[-1] != n_pixels:
        n_held = ends[-1] if ends else 0
        shown = _shorten(counts if isinstance(counts, str) else list(counts))
        raise ValueError(f"counts = {shown}: has {n_held} pixels, but size_hw = {size_hw} has {n_pixels}")
    return ends


def _run_lengths(text: str) -> list[int]:
    """Decode COCO's compressed code: five bits per character, low bits first; from the fourth run on, a difference to
    the run before the previous one."""
    lengths: list[int] = []
    position = 0
    while position < len(text):
        value = shift = 0
        more = True
        while more:
            code = ord(text[position]) - 48 if position < len(text) else -1
            if not 0 <= code < 64 or shift >= 5 * MAX_GROUPS:
                raise ValueError(f"counts = {_shorten(text)}: character {position} is invalid in COCO's encoding")
            value |= (code & 31) << shift
            shift += 5
            position += 1
            more = bool(code & 32)
            if not more and code & 16:
                value -= 1 << shift
        if len(lengths) > 2:
            value += lengths[-2]
        if value < 0:
            raise ValueError(
                f"counts = {_shorten(text)}: not a COCO run-length code: run {len(lengths)} has length {value}"
            )
        lengths.append(value)
    return lengths


def _runs(mask: Mask) -> list[tuple[int, int]]:
    """Return start and end of each non-empty run of ones."""
    ends = _run_ends(mask)
    return [(start, end) for start, end in zip(ends[::2], ends[1::2], strict=False) if start < end]


def _size(size_hw: Any) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size_hw)
    except (TypeError, ValueError):
        raise ValueError(f"size_hw = {size_hw!r}: needs two whole numbers, height and width") from None
    if height <= 0 or width <= 0:
        raise ValueError(f"size_hw = {(height, width)}: needs positive height and width")
    return height, width


def _whole_numbers(counts: Any) -> tuple[int, ...]:
    try:
        lengths = tuple(map(operator.index, counts))
    except TypeError:
        raise ValueError(f"counts = {_shorten(counts)}: needs compressed text or whole numbers") from None
    if any(length < 0 for length in lengths):
        raise ValueError(f"counts = {_shorten(counts)}: needs run lengths of at least 0")
    return lengths


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
