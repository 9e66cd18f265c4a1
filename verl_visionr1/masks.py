"""Masks as COCO writes them, and whether a point lies in one. No image array is made."""

from __future__ import annotations

import msgspec


class Mask(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One object's mask, in pixels of the original image: polygons, or a COCO run-length code.

    Attributes:
        polygons: outlines, each flat x1, y1, x2, y2, ... of at least three corners; a point in any of them is inside.
        size_hw: height and width of the run-length code.
        counts: COCO's run lengths, column by column, zeros first: compressed text, or whole numbers.
    """

    polygons: tuple[tuple[float, ...], ...] = ()
    size_hw: tuple[int, int] | None = None
    counts: str | tuple[int, ...] | None = None
