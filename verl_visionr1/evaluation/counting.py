"""Counting: accuracy, within one, MAE and RMSE, by true count.

Legend: y the true count, s the stated one: the number, or the length of a list of boxes or points. An answer without
either cannot be read: it is wrong in accuracy; MAE and RMSE are over those that can be read ("readable" is their
share), unless `unreadable_count` takes it for a 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from verl_visionr1.evaluation.grounding import NO_PART, Part
from verl_visionr1.evaluation.reading import Read
from verl_visionr1.evaluation.settings import EvaluationSettings

ROOTS = frozenset({"RMSE"})
BINS = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100)
"""Lower ends of the rows of the table by true count."""


def stated_count(read: Read) -> float | None:
    """s; None where no count can be read."""
    answer = read.answer
    is_read = answer.count is not None or answer.is_parsed
    return answer.stated_count if is_read and math.isfinite(answer.stated_count) else None


def counting_parts(read: Read, settings: EvaluationSettings) -> dict[str, Part]:
    """ "accuracy" (s = y), "within 1" (|s - y| <= 1), "MAE", "RMSE", "bias" (mean of s - y), "readable"."""
    true = float(read.target.count or 0)
    stated = stated_count(read)
    readable = (float(stated is not None), 1.0)
    if stated is None and settings.unreadable_count == "zero":
        stated = 0.0
    if stated is None:
        wrong = {"accuracy": (0.0, 1.0), "within 1": (0.0, 1.0)}
        return wrong | dict.fromkeys(("MAE", "RMSE", "bias"), NO_PART) | {"readable": readable}
    error = stated - true
    is_right = error == 0.0 and readable[0] > 0.0
    return {
        "accuracy": (float(is_right), 1.0),
        "within 1": (float(abs(error) <= 1.0 and readable[0] > 0.0), 1.0),
        "MAE": (abs(error), 1.0),
        "RMSE": (error * error, 1.0),
        "bias": (error, 1.0),
        "readable": readable,
    }


def by_count(reads: Sequence[Read], parts: Sequence[dict[str, Part]]) -> list[list[str | float | int | None]]:
    """Rows of a table: true count (or a range), rows, accuracy, MAE, bias."""
    table: list[list[str | float | int | None]] = []
    for low, high in zip(BINS, (*BINS[1:], math.inf), strict=True):
        chosen = [part for read, part in zip(reads, parts, strict=True) if low <= (read.target.count or 0) < high]
        if chosen:
            name = f"{low}" if high - low == 1 else f"{low}-{high - 1:.0f}" if high < math.inf else f"{low} and more"
            table.append([name, len(chosen), *(_ratio(chosen, key) for key in ("accuracy", "MAE", "bias"))])
    return table


def _ratio(parts: Sequence[dict[str, Part]], key: str) -> float | None:
    below = sum(part[key][1] for part in parts)
    return sum(part[key][0] for part in parts) / below if below else None
