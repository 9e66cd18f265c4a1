"""Guess the unit of points from many at once: pixels of large images are seldom all below 100."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_visionr1.boxes import Point
from verl_visionr1.conversion.conventions import UNITS, Convention
from verl_visionr1.conversion.ledger import Ledger
from verl_visionr1.files import RowsError

_FEWEST = 8  # with fewer points nothing is guessed
_STRAY = 0.01  # share of numbers that may be wrong
_WIDE = 300  # on such a side, pixels are seldom all below 100
_ENOUGH = 50  # numbers on such sides that are enough for a guess


@dataclass(slots=True)
class PointEvidence:
    """Statistics of the numbers of a source's points."""

    numbers: int = 0
    over_100: int = 0
    outside: int = 0
    wide: int = 0
    wide_over_100: int = 0
    largest: float = 0.0
    farthest: float = 0.0

    def add(self, points: Sequence[Point], size_wh: tuple[int, int]) -> None:
        """Count an image's points."""
        for point in points:
            for value, side in zip(point, size_wh, strict=True):
                self.numbers += 1
                self.over_100 += value > 100.5
                self.outside += value > side + 1
                self.wide += side >= _WIDE
                self.wide_over_100 += side >= _WIDE and value > 100.5
                self.largest = max(self.largest, value)
                self.farthest = max(self.farthest, value / side)

    def percent_or_pixel(self, name: str) -> str:
        """Guess which of the two units the points of a file have; `RowsError` if both fit, or neither does."""
        as_percent = self.over_100 <= _STRAY * self.numbers
        as_pixels = self.outside <= _STRAY * self.numbers
        if not self.numbers or as_percent != as_pixels:
            return "percent" if as_percent and self.numbers else "pixel"
        if as_percent and self.wide >= _ENOUGH:  # pixels would be larger
            return "percent" if self._stays_below_100 else "pixel"
        fit = "fit both pixels and percent" if as_percent else "fit neither pixels nor percent"
        shown = f"the largest is {self.largest:g}, the farthest {self.farthest:.2f} of its image's side"
        raise RowsError(f"{name}: the {self.numbers} numbers of points {fit} ({shown}); say which with --point-unit")

    @property
    def _stays_below_100(self) -> bool:
        return self.wide_over_100 <= _STRAY * self.wide

    def smaller_unit(self, unit: str) -> str:
        """Return a smaller unit that all points fit, "1" or "100"; "" if the given one may be right."""
        if self.wide < 2 * _FEWEST:
            return ""
        if unit != "1" and self.largest <= 1:
            return "1"
        return "100" if unit not in ("1", "100") and self._stays_below_100 else ""

    def shown(self, unit: str) -> str:
        """Describe the evidence for a smaller unit, in one line."""
        least = {"1": "between 0 and 1", "100": "below 100, on images wider than that"}[unit]
        words = {"1": "fractions (0-1)", "100": "percent (0-100)"}[unit]
        return f"the {self.numbers} numbers of points are {least} (the largest: {self.largest:g}), as {words} are"

    def require(self, name: str, convention: Convention, ledger: Ledger) -> None:
        """Refuse a unit that the numbers contradict (`RowsError` with the option that reads them); note a doubt."""
        unit = self.smaller_unit(convention.unit)
        if not unit:
            return
        found = self.shown(unit)
        if unit == "100" and self.wide < _ENOUGH:
            ledger.notes[f"unit of points in doubt: {found}"] += 1
            return
        assumed = f"points are assumed to be {Convention('xyxy', convention.unit).name or convention}, but {found}"
        advice = f"give --box-format xyxy-{UNITS[unit]}; if it is right, use the points unchanged: --max-clipped 1"
        raise RowsError(f"{name}: {assumed}; {advice}")
