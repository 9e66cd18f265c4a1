"""Criteria of counts. All compare the predicted count (a number, or the length of a list) with `target.count`.

Legend: y is the true count, s the predicted one, e = |s - y| / max(y, 1) the relative error. y = 0 is a count like any
other: only 0 is right. An answer without a count scores 0, whatever the target.
"""

from __future__ import annotations

from collections.abc import Callable

from verl_visionr1.answers import Answer
from verl_visionr1.targets import Target


def count_exact(answer: Answer, target: Target) -> float:
    """1.0 iff s = y, else 0.0."""
    error = _error(answer, target)
    return 1.0 if error == 0.0 else 0.0


def count_fuzzy(answer: Answer, target: Target, *, cutoff: float = 0.5) -> float:
    """max(0, 1 - e / cutoff): CrowdVLM-R1's fuzzy reward, made continuous and defined for y = 0.

    The released reward is 1.5 - e below e = .5 and 0 from there on: it jumps from 1 to 0, gives 1.5 for the exact count
    and nothing for y = 0. With cutoff 1 this is Video-R1's relative reward, defined for y = 0.

    Raises:
        ValueError: a cutoff of 0 or less.
    """
    if not cutoff > 0.0:
        raise ValueError(f"count_fuzzy: cutoff = {cutoff!r}: needs a number above 0")
    error = _error(answer, target)
    return 0.0 if error is None else max(0.0, 1.0 - error / cutoff)


def count_mra(answer: Answer, target: Target) -> float:
    """Mean relative accuracy, OneThinker's reward: share of t in .5, .55, ... .95 with e < 1 - t.

    The bound is exact: e = .1 is not below 1 - .9. (In float32, 1 - .9 is above .1 and 1 - .6 below .4.)
    """
    if target.count is None or not _is_read(answer):
        return 0.0
    twentieths = 20.0 * abs(answer.stated_count - target.count)
    return sum(twentieths < step * max(target.count, 1) for step in range(1, 11)) / 10.0


def _is_read(answer: Answer) -> bool:
    """Whether the answer states a count: a number, or a list."""
    return answer.count is not None or answer.is_parsed


def _error(answer: Answer, target: Target) -> float | None:
    """Return e; None if the answer or the target has no count."""
    if target.count is None or not _is_read(answer):
        return None
    return abs(answer.stated_count - target.count) / max(target.count, 1)


CRITERIA: tuple[Callable[..., float], ...] = (count_exact, count_fuzzy, count_mra)
"""Criteria for presets."""
