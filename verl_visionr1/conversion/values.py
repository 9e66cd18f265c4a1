"""Checks for values of source entries; each error names the place, the value and what is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeGuard

from verl_visionr1.files import RowError

ADVICE = "correct or remove the entry"
"""Advice for a bad entry."""


def record_of(record: Any, where: str) -> Mapping[str, Any]:
    """Return the entry if it is a JSON object; else raise `RowError`, or the error from `sources.read_records`."""
    if isinstance(record, RowError):
        raise record
    if not isinstance(record, Mapping):
        raise RowError("malformed entry", f"{where}: {str(record)[:80]!r}: needs an object with keys; {ADVICE}")
    return record


def text_of(record: Mapping[str, Any], keys: Sequence[str], where: str) -> str:
    """Return the text under the first of these keys that a record has, without surplus blanks.

    Raises `RowError`: no text, or a blank one.
    """
    for key in keys:
        value = record.get(key)
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())
    shown = str({key: record[key] for key in keys if key in record} or dict(record))[:80]
    raise RowError(f"no {keys[0]}", f"{where}: {shown}: needs a text under {' or '.join(keys)}; {ADVICE}")


def is_numbers(value: Any, n: int) -> TypeGuard[Sequence[float]]:
    """Whether a value is a list of n JSON numbers, each within the range of a float."""
    is_list = isinstance(value, list | tuple) and len(value) == n
    return is_list and all(type(it) is float or (type(it) is int and is_finite(it)) for it in value)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float.

    >>> is_finite(7), is_finite(10**400), is_finite(math.nan)
    (True, False, False)
    """
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _to_float(value: Any) -> float:
    """Convert a number, also from text; nan for anything else."""
    with suppress(TypeError, ValueError, OverflowError):
        return math.nan if isinstance(value, bool) else float(value)
    return math.nan


def parsed_number(text: str) -> float | None:
    """Parse a finite number; None for any other text."""
    number = _to_float(text)
    return number if math.isfinite(number) else None


def numbers_of(value: Any, n: int, where: str, what: str = "box", *, texts: bool = False) -> list[float]:
    """Return n finite numbers.

    Args:
        what: the numbers are, for the message.
        texts: also accept numbers as text, as in tables; all are returned as floats.

    Raises `RowError`: anything else.

    >>> numbers_of(["1", 2], 2, "row 1", "point", texts=True)
    [1.0, 2.0]
    """
    numbers = value
    if texts and isinstance(value, list | tuple):
        numbers = [it if math.isnan(number := _to_float(it)) else number for it in value]
    if not is_numbers(numbers, n) or not all(map(math.isfinite, numbers)):
        shown = str(list(value) if isinstance(value, tuple) else value)[:80]
        raise RowError(f"{what} malformed", f"{where}: {what} {shown}: needs {n} finite numbers; {ADVICE}")
    return list(numbers)


def points_of(value: Any, where: str, *, texts: bool = False) -> list[tuple[float, float]]:
    """Return points, written as `[[x, y]]`, `[{"x": x, "y": y}]`, `{"x": [x], "y": [y]}`, or one point.

    Args:
        texts: as in `numbers_of`.

    Raises `RowError`: none of these, or a number that is not finite.

    >>> points_of({"x": [1, 2], "y": [3, 4]}, "row 1") == points_of([[1, 3], [2, 4]], "row 1")
    True
    """
    if isinstance(value, Mapping):
        xs, ys = (value.get(axis) for axis in "xy")
        value = [(xs, ys)]
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            value = list(zip(xs, ys, strict=True))
    if not isinstance(value, list | tuple):
        raise RowError("point malformed", f"{where}: points {str(value)[:80]}: needs a list of points; {ADVICE}")
    members = [(it.get("x"), it.get("y")) if isinstance(it, Mapping) else it for it in value]
    if members and not any(isinstance(member, list | tuple) for member in members):
        members = [members]
    pairs = [numbers_of(member, 2, where, "point", texts=texts) for member in members]
    return [(x, y) for x, y in pairs]


def size_of(width: Any, height: Any, where: str) -> tuple[int, int] | None:
    """Return width and height in pixels; None if neither is given; `RowError` if not positive numbers."""
    if width in (None, "") and height in (None, ""):
        return None
    sides = _to_float(width), _to_float(height)
    if not all(1 <= side < math.inf for side in sides):
        reason = f"width and height {(width, height)}: need positive numbers"
        raise RowError("image without size", f"{where}: {reason}; {ADVICE}")
    return int(sides[0]), int(sides[1])


def count_of(value: Any, where: str) -> int:
    """Return a whole number, also from text; `RowError` for anything else.

    >>> count_of("3", "row 1"), count_of(3.0, "row 1")
    (3, 3)
    """
    count = _to_float(value)
    if not (0 <= count < 1e9 and count.is_integer()):
        raise RowError("no count", f"{where}: count {str(value)[:60]!r}: needs a whole number of at least 0; {ADVICE}")
    return int(count)
