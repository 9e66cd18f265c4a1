"""Guess the coordinate convention of boxes from many of them at once, with the evidence.

Under the right one nearly all boxes are valid (corners in order, inside the image) and some reach its far edges. One
box is little evidence; thirty are nearly always enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verl_visionr1.processed import PROCESSORS, SizeError, processed_size

Array = NDArray[np.float64]
FEWEST = 8
"""With fewer boxes, a guess needs two that do not fit at all."""
_WIDER = 16  # on images from this side on, a box within the first pixel is no object
_ORDERS = {"xyxy": "x1 y1 x2 y2", "xywh": "x y width height"}
_ORDERS |= {"cxcywh": "centre x y, width height", "yxyx": "y1 x1 y2 x2"}
UNITS = {"pixels": "abs", "1": "norm1", "100": "norm100", "1000": "norm1000"}
"""Unit -> its name in `--box-format`."""
_BUDGETS: tuple[tuple[str, int | None], ...] = (
    ("qwen2.5-vl", None),
    ("qwen2.5-vl", 401_408),
    ("qwen2.5-vl", 1_003_520),
    ("qwen3-vl", None),
)
_TOLERANCE, _MOST_TOLERANCE = 0.004, 0.02  # of a side: rounding to whole pixels, of any image and of the smallest
_SURE = 0.98  # share of boxes that must fit the right convention
_WRONG = 0.05  # share of misfits that makes the declared one wrong
_MANY = 0.3  # share of misfits that overhanging boxes cannot explain
_TOUCHING = 0.05  # share of boxes at the far edges that makes another unit likely if the declared one has none
_NEAR = 0.8  # many boxes reach at least this share of the way to the far edges
_FEW_MISFITS, _FEW_BOXES = 0.05, 2  # share and number of boxes that may be wrong themselves
_REACH = (0.93, 1.004)  # reach of boxes under the right convention


@dataclass(frozen=True, slots=True)
class Convention:
    """A convention for box coordinates.

    Attributes:
        order: meaning of the four numbers: xyxy, xywh, cxcywh or yxyx.
        unit: "pixels"; a number ("1", "100", "1000"), which is the whole side; "processed": pixels of the image after
            the resize of a model family's processor (`family`, `max_pixels`).

    >>> str(Convention("xyxy", "pixels")), str(Convention("xywh", "1"))
    ('x1 y1 x2 y2 in pixels', 'x y width height in fractions (0-1)')
    """

    order: str
    unit: str
    family: str = ""
    max_pixels: int | None = None

    def __str__(self) -> str:
        if self.unit == "processed":
            budget = f" with max_pixels {self.max_pixels}" if self.max_pixels else ""
            return f"{_ORDERS[self.order]} in pixels of the image as {self.family}'s processor resizes it{budget}"
        known = {"pixels": "in pixels", "1": "in fractions (0-1)", "100": "in percent (0-100)"}
        return f"{_ORDERS[self.order]} {known.get(self.unit, f'in 0-{self.unit}')}"

    @property
    def name(self) -> str:
        """Its name in the converters' `--box-format` and doctor's `--boxes-are`; "" if it has none."""
        unit = UNITS.get(self.unit)
        return "" if unit is None or self.order == "yxyx" else f"{self.order}-{unit}"

    @property
    def fixed_wh(self) -> tuple[float, float] | None:
        """The numbers for the whole width and height of any image; None if those are its size in pixels."""
        return None if self.unit in ("pixels", "processed") else (float(self.unit), float(self.unit))

    def as_corners(self, box: Sequence[Any]) -> list[Any]:
        """Convert to x1, y1, x2, y2 in the same unit; also for four arrays.

        >>> Convention("cxcywh", "1").as_corners([0.5, 0.5, 0.2, 0.4])
        [0.4, 0.3, 0.6, 0.7]
        """
        a, b, c, d = box
        if self.order == "xywh":
            return [a, b, a + c, b + d]
        if self.order == "cxcywh":
            return [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
        return [b, a, d, c] if self.order == "yxyx" else [a, b, c, d]

    def as_written(self, corners: Sequence[float]) -> list[float]:
        """Convert corners back to this convention; the inverse of `as_corners`."""
        a, b, c, d = corners
        if self.order == "xywh":
            return [a, b, c - a, d - b]
        if self.order == "cxcywh":
            return [(a + c) / 2, (b + d) / 2, c - a, d - b]
        return [b, a, d, c] if self.order == "yxyx" else [a, b, c, d]

    def in_pixels(self, box: Sequence[float], size_wh: tuple[int, int]) -> list[float]:
        """Convert a box on an image to x1, y1, x2, y2 in pixels."""
        x1, y1, x2, y2 = self.as_corners(box)
        if self.unit == "pixels":
            return [x1, y1, x2, y2]
        whole_w, whole_h = self.fixed_wh or _processed(*size_wh, self.family, self.max_pixels)
        x, y = size_wh[0] / whole_w, size_wh[1] / whole_h
        return [x1 * x, y1 * y, x2 * x, y2 * y]

    def corners(self, box: Sequence[float], size_wh: tuple[int, int]) -> list[float]:
        """As `in_pixels`, rounded to 0.01.

        >>> Convention("xywh", "1").corners([0.25, 0.5, 0.5, 0.25], (640, 480))
        [160.0, 240.0, 480.0, 360.0]
        """
        return [round(float(v), 2) for v in self.in_pixels(box, size_wh)]

    def whole_wh(self, sizes_wh: Array) -> Array:
        """The numbers for the whole width and height of N images, as (N, 2)."""
        if self.unit == "pixels":
            return sizes_wh
        if self.unit == "processed":
            resized = [_processed(int(w), int(h), self.family, self.max_pixels) for w, h in sizes_wh]
            return np.array(resized, dtype=float).reshape(-1, 2)
        return np.full_like(sizes_wh, float(self.unit))


@lru_cache(maxsize=65536)
def _processed(width: int, height: int, family: str, max_pixels: int | None) -> tuple[int, int]:
    try:
        least = None if max_pixels is None else PROCESSORS[family].min_pixels
        return processed_size((width, height), family, min_pixels=least, max_pixels=max_pixels)
    except SizeError:
        return width, height


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a convention fits some boxes."""

    convention: Convention
    misfits: float  # share of boxes that are invalid under it, or outside their image
    reach: float  # how near they come to the far edges: the largest x2 / width or y2 / height, whichever is less
    touching: float  # share of boxes within 3 % of a far edge
    example: int | None  # index of a misfit


@dataclass(frozen=True, slots=True)
class Guess:
    """A convention that fits far better than the declared one; `evidence` explains why in one line."""

    declared: Fit
    better: Fit
    evidence: str


NAMED = {it.name: it for order in tuple(_ORDERS)[:3] for unit in UNITS for it in (Convention(order, unit),)}
"""Name -> convention."""


def fit(convention: Convention, boxes: Array, sizes_wh: Array) -> Fit:
    """Measure how well a convention fits (N, 4) numbers on images of (N, 2) sizes in pixels."""
    a, b, c, d = convention.as_corners(boxes.T)
    whole = convention.whole_wh(sizes_wh)
    x1, x2, y1, y2 = a / whole[:, 0], c / whole[:, 0], b / whole[:, 1], d / whole[:, 1]
    slack_x, slack_y = np.clip(1 / sizes_wh.T, _TOLERANCE, _MOST_TOLERANCE)  # a pixel
    inside = (x1 >= -slack_x) & (y1 >= -slack_y) & (x2 <= 1 + slack_x) & (y2 <= 1 + slack_y)
    fits = (x1 < x2) & (y1 < y2) & inside
    far = np.maximum(x2, y2)
    reach = float(min(x2[fits].max(), y2[fits].max())) if fits.any() else 0.0
    touching = float((fits & (far >= 0.97)).mean())
    misfit = np.flatnonzero(~fits)
    return Fit(convention, float(1 - fits.mean()), reach, touching, int(misfit[0]) if len(misfit) else None)


_HYPOTHESES = (
    *(Convention(order, unit) for unit in ("pixels", "1", "1000", "100") for order in _ORDERS),
    *(Convention("xyxy", "processed", family, budget) for family, budget in _BUDGETS),
)
"""The conventions to try, the likelier first."""


def better_convention(
    declared: Convention, boxes: Sequence[Sequence[float]], sizes_wh: Sequence[tuple[int, int]]
) -> Guess | None:
    """Return a convention that fits N boxes if the declared one does not; None if the declared one may be right.

    >>> boxes = [(10 * i, 5 * i, 30 + i, 40 + 2 * i) for i in range(20, 56)]  # x, y, width, height on 640 x 480
    >>> guess = better_convention(Convention("xyxy", "pixels"), boxes, [(640, 480)] * 36)
    >>> print(guess.evidence)
    100 % of 36 boxes are invalid or outside as x1 y1 x2 y2 in pixels (the first: 200 100 50 80 on 640 x 480); \
as x y width height in pixels all fit
    """
    numbers, sizes = np.array(boxes, dtype=float), np.array(sizes_wh, dtype=float)
    if not len(numbers):
        return None
    own = fit(declared, numbers, sizes)
    if (guess := _guess_fractions(own, numbers, sizes)) is not None:
        return guess
    others = [fit(convention, numbers, sizes) for convention in _HYPOTHESES if convention != declared]
    fitting = [it for it in others if it.misfits <= 1 - _SURE and it.misfits < own.misfits]
    plain = [it for it in fitting if not it.misfits and it.convention.unit != "processed"]
    if len(numbers) < FEWEST:  # two of few do not fit, and all fit another convention
        is_wrong = plain and own.misfits * len(numbers) > 1.5
        return Guess(own, plain[0], _misfit_evidence(own, plain[0], numbers, sizes)) if is_wrong else None
    # a processor's size differs by a few pixels: a few boxes over the edge are the evidence
    is_resized = any(it.convention.unit == "processed" and not it.misfits for it in fitting)
    if own.misfits >= _WRONG or (own.misfits and is_resized):
        near = [it for it in fitting if _REACH[0] <= it.reach <= _REACH[1]]
        # boxes slightly over the edge also fit a larger unit, far from its edges
        near = near or [it for it in fitting if it.reach >= _NEAR or own.misfits >= _MANY]
        if near:
            best = min(near, key=lambda it: (it.misfits, others.index(it)))
            return Guess(own, best, _misfit_evidence(own, best, numbers, sizes) + _mention_other_order(best, near))
    return _guess_from_reach(own, others, len(numbers))


def _guess_fractions(declared: Fit, numbers: Array, sizes: Array) -> Guess | None:
    """Guess fractions if all boxes are within the first pixel, however few they are."""
    is_in_first = numbers.min() >= -1 and numbers.max() <= 1 + _TOLERANCE and sizes.min() >= _WIDER
    if declared.convention.unit == "1" or not is_in_first or (len(numbers) == 1 and (numbers == numbers.round()).all()):
        return None
    fits = [fit(Convention(order, "1"), numbers, sizes) for order in _ORDERS]
    best = min(fits, key=lambda it: (it.misfits, it.convention.order != declared.convention.order, fits.index(it)))
    shown = " ".join(f"{value:g}" for value in numbers[0])
    evidence = f"all numbers of {len(numbers)} boxes are between 0 and 1 (the first: {shown})"
    return Guess(declared, best, f"{evidence}: {best.convention}{_mention_other_order(best, fits)}?")


def _guess_from_reach(declared: Fit, others: Sequence[Fit], n_boxes: int) -> Guess | None:
    """Guess another unit if all boxes fit, but none comes near the far edges; or corners, for width and height."""
    if declared.misfits or n_boxes < 2 * FEWEST or declared.reach > _NEAR:
        return None
    orders = (declared.convention.order, *(["xyxy"] if declared.convention.order in ("xywh", "cxcywh") else []))
    fitting = (it for it in others if it.convention.order in orders and not it.misfits)
    near = [it for it in fitting if it.touching >= _TOUCHING and _REACH[0] <= it.reach <= _REACH[1]]
    if not near:
        return None
    share = f"{100 * declared.reach:.0f} % as {declared.convention}"
    reaches = f"none of {n_boxes} boxes comes nearer to the far edges than {share}"
    return Guess(declared, near[0], f"{reaches}; as {near[0].convention} they reach {100 * near[0].reach:.0f} %")


def _mention_other_order(best: Fit, fits: Sequence[Fit]) -> str:
    """Mention the other order of x and y if it fits equally well, as on square images."""
    other = Convention({"xyxy": "yxyx", "yxyx": "xyxy"}.get(best.convention.order, ""), best.convention.unit)
    is_equal = any(it.convention == other and it.misfits == best.misfits for it in fits)
    return f", or {other}" if is_equal else ""


def _misfit_evidence(declared: Fit, best: Fit, numbers: Array, sizes: Array) -> str:
    assert declared.example is not None
    shown = " ".join(f"{value:g}" for value in numbers[declared.example])
    width, height = (int(side) for side in sizes[declared.example])
    share = f"{100 * declared.misfits:.0f} %" if declared.misfits >= 0.01 else f"{100 * declared.misfits:.1f} %"
    fits = "all fit" if not best.misfits else f"{100 - 100 * best.misfits:.1f} % fit"
    wrong = f"{share} of {len(numbers)} boxes are invalid or outside as {declared.convention}"
    return f"{wrong} (the first: {shown} on {width} x {height}); as {best.convention} {fits}"


def best_convention(boxes: Sequence[Sequence[float]], sizes_wh: Sequence[tuple[int, int]]) -> str:
    """Describe the likeliest convention of N boxes in one line, with the evidence and others that fit as well.

    >>> boxes = [(0.01 * i, 0.2, 0.5 + 0.01 * i, 0.9) for i in range(40)]
    >>> print(best_convention(boxes, [(640, 480)] * 40))
    x1 y1 x2 y2 in fractions (0-1) (xyxy-norm1): 100 % of 40 boxes fit, reaching 89 % of the way to the far edges; \
also fits y1 x1 y2 x2 in fractions (0-1)
    """
    best, *fitting = _fitting(boxes, sizes_wh)
    also = [it for it in fitting if it.reach >= _NEAR and it.convention.unit != "processed"]
    rest = [it for it in fitting if it not in also and it.misfits < best.misfits]
    parts = [_describe(best, len(boxes)), *(f"also fits {it.convention}" for it in also)]
    if rest:
        parts.append(f"less likely {_describe(max(rest, key=lambda it: it.reach), len(boxes))}")
    return "; ".join(parts)


def likeliest_convention(boxes: Sequence[Sequence[float]], sizes_wh: Sequence[tuple[int, int]]) -> Convention:
    """Return the convention that `best_convention` names first."""
    return _fitting(boxes, sizes_wh)[0].convention


def _fitting(boxes: Sequence[Sequence[float]], sizes_wh: Sequence[tuple[int, int]]) -> list[Fit]:
    """Return the conventions that (nearly) all boxes fit, the likeliest first."""
    numbers, sizes = np.array(boxes, dtype=float), np.array(sizes_wh, dtype=float)
    fits = [fit(convention, numbers, sizes) for convention in _HYPOTHESES]
    fewest = min(it.misfits for it in fits)
    few = max(_FEW_MISFITS, _FEW_BOXES / len(numbers))  # boxes over the edge, or of a rotated image
    fitting = [it for it in fits if it.misfits <= fewest + few]
    # a wrong, larger unit fits too, in a corner of the image
    best = max(fitting, key=lambda it: (min(it.reach, _NEAR), -round(it.misfits, 3), -fits.index(it)))
    return [best, *(it for it in fitting if it is not best)]


def _describe(it: Fit, n_boxes: int) -> str:
    share = f"{100 - 100 * it.misfits:.3g} % of {n_boxes} boxes fit"
    name = f" ({it.convention.name})" if it.convention.name else ""
    return f"{it.convention}{name}: {share}, reaching {100 * it.reach:.0f} % of the way to the far edges"
