"""Curves for a figure: a moving mean with its standard error, the stages of a run, and the range of an axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from verl_visionr1.tools.runs.steps import Step

WINDOW = 5
"""Steps of a moving mean."""
LEAST_POINTS = 3
"""With fewer points in the window there is no band."""
LEAST_SPAN = 0.1
"""Of an axis: what is smaller than a tenth of this is no change worth a look."""
MARGIN = 0.08


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a smoothed curve; `error` is the standard error of the mean, None where it is not known."""

    x: int
    mean: float
    error: float | None


def smooth(points: Sequence[tuple[int, float]], window: int = WINDOW) -> list[Point]:
    """The centred moving mean.

    Args:
        points: (step, value), in order.
        window: points that a mean is over; fewer at both ends.

    >>> [round(point.mean, 2) for point in smooth([(1, 0.0), (2, 1.0), (3, 2.0)], window=3)]
    [0.5, 1.0, 1.5]
    """
    half = window // 2
    found: list[Point] = []
    for i, (x, _) in enumerate(points):
        values = [value for _, value in points[max(i - half, 0) : i + half + 1]]
        mean = math.fsum(values) / len(values)
        error = None
        if len(values) >= LEAST_POINTS:
            error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
        found.append(Point(x, mean, error))
    return found


def split_by_stage(steps: Sequence[Step]) -> list[list[Step]]:
    """The training steps in runs of one stage: rewards of different stages are not averaged."""
    trained = [step for step in steps if step.training("value") is not None]
    return [list(each) for _, each in groupby(trained, key=lambda step: step.training("stage"))]


def find_switches(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """(first step, stage) of each later stage."""
    firsts = [part[0] for part in split_by_stage(steps)[1:]]
    return [(step.number, int(stage)) for step in firsts if (stage := step.training("stage")) is not None]


def axis_range(
    values: Iterable[float], bounds: tuple[float | None, float | None] = (None, None)
) -> tuple[float, float] | None:
    """The ends of an axis that shows all values, spans at least `LEAST_SPAN`, and ends at the bounds; None without any.

    >>> axis_range([0.75, 0.77], (0.0, 1.0)), axis_range([0.97, 1.0], (0.0, 1.0))
    ((0.71, 0.81), (0.9, 1.0))
    """
    kept = [value for value in values if math.isfinite(value)]
    if not kept:
        return None
    low, high = min(kept), max(kept)
    span = max((high - low) * (1.0 + 2.0 * MARGIN), LEAST_SPAN)
    middle = (low + high) / 2.0
    low, high = middle - span / 2.0, middle + span / 2.0
    least, most = bounds
    if most is not None and high > most:
        low, high = min(low, most - LEAST_SPAN) if low > most - LEAST_SPAN else low, most
    if least is not None and low < least:
        low, high = least, max(high, least + LEAST_SPAN)
    return round(low, 6), round(high, 6)
