"""Criteria of counts. All compare what the answer states (a number, or the length of its list) with `target.count`.

Legend: y the true count, s the stated one, e = |s - y| / max(y, 1) the relative error: y = 0 is a count like any
other, right only if it is met. An answer that no count can be read from scores 0, whatever the target.
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
    """max(0, 1 - e / cutoff): CrowdVLM-R1's fuzzy reward, continuous and with 0 counted.

    The released one is 1.5 - e below e = .5 and 0 from there on: it jumps from 1 to 0, pays 1.5 for the truth and
    nothing where y = 0.

    With cutoff 1 it is Video-R1's relative reward, with y = 0 counted.

    Raises:
        ValueError: a cutoff that is not above 0.
    """
    if not cutoff > 0.0:
        raise ValueError(f"count_fuzzy: cutoff = {cutoff!r}: needs a number above 0")
    error = _error(answer, target)
    return 0.0 if error is None else max(0.0, 1.0 - error / cutoff)


def count_mra(answer: Answer, target: Target) -> float:
    """Mean relative accuracy, as OneThinker rewards it: share of t in .5, .55, ... .95 with e < 1 - t.

    The bound is exact: e = .1 is not below 1 - .9. (In float32, 1 - .9 comes out above .1 and 1 - .6 below .4.)
    """
    if target.count is None or not _is_read(answer):
        return 0.0
    twentieths = 20.0 * abs(answer.stated_count - target.count)
    return sum(twentieths < step * max(target.count, 1) for step in range(1, 11)) / 10.0


def _is_read(answer: Answer) -> bool:
    """Whether the answer states a count: a number, or a list."""
    return answer.count is not None or answer.is_parsed


def _error(answer: Answer, target: Target) -> float | None:
    """e; None where no count can be read or the target has none."""
    if target.count is None or not _is_read(answer):
        return None
    return abs(answer.stated_count - target.count) / max(target.count, 1)


CRITERIA: tuple[Callable[..., float], ...] = (count_exact, count_fuzzy, count_mra)
"""What a preset may name."""
