"""Check the box convention of a source on its original numbers, before clipping: many boxes together show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from verl_visionr1.conversion.conventions import FEWEST, Convention, Guess, better_convention, fit
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.files import RowsError

SAMPLE = 4096
"""Fewest boxes kept as an even sample of a larger source."""
MOST_CLIPPED = 0.05
"""Share of boxes that may be inverted or extend outside their image; `--max-clipped` overrides it."""
_ALLOW = "--max-clipped 1"
_LITTLE = 0.05  # below this share, a doubt is checked even if more is allowed


@dataclass(slots=True)
class BoxCheck:
    """Boxes as one source writes them, to check their convention."""

    name: str  # of the source
    convention: Convention  # assumed
    is_given: bool = False  # the user declared it: only misfits or fractions refute it
    most: float = MOST_CLIPPED  # share of boxes that may not fit; one box always may
    _rows: list[tuple[float, ...]] = field(default_factory=list)
    _where: list[object] = field(default_factory=list)
    _areas: list[tuple[object, Sequence[float], float]] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0

    def add(self, where: object, box: Sequence[float], size_wh: Sequence[float]) -> None:
        """Add four numbers as written, with their place or id for messages, and the size of their image in pixels."""
        if self._seen % self._stride == 0:
            self._rows.append((*box, *size_wh))
            self._where.append(where)
            if len(self._rows) == 2 * SAMPLE:
                del self._rows[1::2], self._where[1::2]
                self._stride *= 2
        self._seen += 1

    def add_area(self, where: object, box: Sequence[float], area: float) -> None:
        """Add four numbers as written, with the area of the box that the source gives in the same unit."""
        self._areas.append((where, box, area))

    def require(self, ledger: Ledger) -> None:
        """Check the convention against areas and numbers; note a doubt.

        Raises `RowsError`: they contradict it; names the likely convention, and the option that reads it.
        """
        if not self.is_given:
            self._require_areas()
        table = np.array(self._rows, dtype=float).reshape(-1, 6)
        x1, y1, x2, y2 = self.convention.as_corners(table[:, :4].T)
        kept = np.isfinite(table).all(axis=1) & (x1 != x2) & (y1 != y2)  # boxes without extent are reported one by one
        table, where = table[kept], [it for it, is_kept in zip(self._where, kept, strict=True) if is_kept]
        if not len(table):
            return
        boxes, sizes = table[:, :4], table[:, 4:]
        declared = fit(self.convention, boxes, sizes)
        is_much = round(declared.misfits * len(boxes)) > max(1, self.most * len(boxes))
        guess = None
        if is_much or declared.misfits < _LITTLE:
            guess = better_convention(self.convention, boxes.tolist(), [(int(w), int(h)) for w, h in sizes])
        if guess is not None:
            is_tiny = guess.better.convention.unit == "1" != self.convention.unit  # no box is smaller than a pixel
            if is_much or is_tiny or not (declared.misfits or self.is_given):
                raise RowsError(f"{self.name}: {self._assumption} {guess.evidence}; {self._advice(guess, is_much)}")
            ledger.notes[f"box format in doubt: {guess.evidence}"] += 1
        elif is_much and len(boxes) >= FEWEST:
            assert declared.example is not None
            shown = f"{where[declared.example]}: {' '.join(f'{value:g}' for value in table[declared.example])}"
            share = f"{100 * declared.misfits:.0f} % of {len(boxes)} boxes"
            reason = f"{share} are outside or inverted (the first, with width and height: {shown})"
            advice = "no other box format fits: check width and height of the images (rotated by EXIF?)"
            raise RowsError(f"{self.name}: {self._assumption} {reason}; {advice}, or clip them anyway: {_ALLOW}")

    def _require_areas(self) -> None:
        """Refuse boxes whose areas are those of corners. One area, or those of masks, are equal by chance."""
        corners = Convention("xyxy", self.convention.unit)
        fits = [[_has_area(it, box, area) for it in (self.convention, corners)] for _, box, area in self._areas]
        found = [i for i, fit in enumerate(fits) if fit == [False, True]]
        if len(found) < 2 or 2 * len(found) <= len(fits) - fits.count([True, True]):
            return
        where, box, area = self._areas[found[0]]
        shown = f"{where}: {' '.join(f'{value:g}' for value in box)}, area {area:g}"
        evidence = f"{len(found)} of {len(fits)} boxes have the area of {corners} (the first: {shown})"
        confirms = f"if it is right, confirm it: --box-format {self.convention.name}"
        raise RowsError(f"{self.name}: {self._assumption} {evidence}; give --box-format {corners.name}; {confirms}")

    @property
    def _assumption(self) -> str:
        source = "--box-format" if self.is_given else "boxes are assumed to be"
        return f"{source} {self.convention.name or self.convention}, but"

    def _advice(self, guess: Guess, is_much: bool) -> str:
        name = guess.better.convention.name
        other = "no --box-format reads this: convert to pixels of the original image"
        reads = f"give --box-format {name}" if name else other
        allows = f"to clip them anyway: {_ALLOW}" if is_much else f"confirm it: --box-format {self.convention.name}"
        return f"{reads}; if it is right, {allows}"


def _has_area(convention: Convention, box: Sequence[float], area: float) -> bool:
    x1, y1, x2, y2 = convention.as_corners(box)
    width, height = x2 - x1, y2 - y1
    rounding = width + height + 1  # a pixel of each side: also last pixels that are inside
    return min(width, height) > 0 and math.isclose(width * height, area, rel_tol=1e-3, abs_tol=rounding)
