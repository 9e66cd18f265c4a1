"""What criteria share: thresholds, the differentiation of Eq. 8 (arXiv 2503.18013), and the mark of slow ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., float])
EPSILON = 1e-9
"""Rounding error of an IoU after a change of frame."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of a match, a recall and an IoU. All in [0, 1].

    Attributes:
        match_iou: xi0; a matched pair counts from this IoU on.
        recall_floor, recall_full: f of the completion's recall is 0 below the floor, 1 from full on.
        iou_floor, iou_full: the same for the IoU of each matched pair, in precision.

    Raises:
        ValueError: a value outside [0, 1], or a floor above its full credit.
    """

    match_iou: float
    recall_floor: float
    recall_full: float
    iou_floor: float
    iou_full: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0.0 <= value <= 1.0:
                raise ValueError(f"threshold {field.name} = {value!r}: needs a number in [0, 1]")
        if self.recall_floor > self.recall_full or self.iou_floor > self.iou_full:
            raise ValueError(f"{self}: a floor is above its full credit")

    @classmethod
    def of(cls, xi0: float, xi1: float, xi2: float) -> Thresholds:
        """Build from the paper's triple: f is the same for recall and IoU.

        >>> Thresholds.of(0.5, 0.5, 0.75).iou_full
        0.75
        """
        return cls(match_iou=xi0, recall_floor=xi1, recall_full=xi2, iou_floor=xi1, iou_full=xi2)

    def towards(self, other: Thresholds, fraction: float) -> Thresholds:
        """Interpolate: `fraction` of the way from these thresholds to `other`."""
        return Thresholds(
            *(
                (1.0 - fraction) * getattr(self, field.name) + fraction * getattr(other, field.name)
                for field in fields(self)
            )
        )


BEGINNER = Thresholds.of(0.5, 0.5, 0.75)
"""First stage of Vision-R1."""
ADVANCED = Thresholds.of(0.75, 0.75, 0.9)
"""Second stage of Vision-R1."""
OFF = Thresholds(match_iou=0.5, recall_floor=0.0, recall_full=1.0, iou_floor=0.5, iou_full=1.0)
"""No progressive rule, no differentiation: plain Eq. 5 and 6."""


def differentiate(x: float, floor: float, full: float) -> float:
    """Eq. 8: f(x) = 0 below `floor`, 1 from `full` on, x between, including both bounds."""
    if x < floor - EPSILON:
        return 0.0
    return 1.0 if x >= full - EPSILON else x


def needs(module: str, *, may_block: bool = False) -> Callable[[F], F]:
    """Mark a criterion that needs a package of the extra `text`: without it a run that uses it does not start.

    `may_block`: it may take milliseconds or seconds, so training scores its rows in a thread.
    """

    def mark(fn: F) -> F:
        fn.needs, fn.may_block = module, may_block  # type: ignore[attr-defined]
        return fn

    return mark
