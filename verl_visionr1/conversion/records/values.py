"""Values of records that anybody wrote: boxes, points, labels, sizes and counts, whatever they are wrapped in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from verl_visionr1.conversion.records.solutions import decoded_text
from verl_visionr1.conversion.vocabulary import visible_form
from verl_visionr1.files import RowError

ADVICE = "mend or remove the entry"
"""What to do about a bad one."""
Box = list[float]


def boxes_of(where: str, value: Any) -> list[Box] | None:
    """Boxes as a list, one box, or a text of them; None for none given.

    Raises:
        RowError: anything else.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    members = value if isinstance(value, list | tuple) else [value]
    if members and not any(isinstance(member, list | tuple) for member in members):
        members = [members]
    return [_numbers(where, "box", member, 4) for member in members]


def points_of(where: str, value: Any) -> list[Box] | None:
    """Points as a list of pairs or of {x, y}, one of these, or {x: [...], y: [...]}; None for none given.

    Raises:
        RowError: anything else.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    if isinstance(value, Mapping):
        xs, ys = (value.get(axis) for axis in "xy")
        if isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys):
            value = list(zip(xs, ys, strict=True))
        else:
            value = [(xs, ys)]
    given = value if isinstance(value, list | tuple) else [value]
    members = [(it.get("x"), it.get("y")) if isinstance(it, Mapping) else it for it in given]
    if members and not any(isinstance(member, list | tuple) for member in members):
        members = [members]
    return [_numbers(where, "point", member, 2) for member in members]


def labels_of(where: str, value: Any, class_names: Sequence[str] = ()) -> list[str]:
    """One label, or a list of them; numbers stand for `class_names`, of which each must be one where they are given.

    Raises:
        RowError: no text, a number without a name, or an unknown name.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return []
    labels: list[str] = []
    for member in value if isinstance(value, list | tuple) else [value]:
        name = member
        if isinstance(member, int) and not isinstance(member, bool) and 0 <= member < len(class_names):
            name = class_names[member]
        if not isinstance(name, str) or not name.strip():
            advice = "name them by --class-names" if isinstance(member, int) else ADVICE
            raise RowError("label without a name", f"{where}: label {member!r}: needs a text; {advice}")
        if class_names and visible_form(name) not in _visible_forms(tuple(class_names)):
            raise RowError("unknown label", f"{where}: label {name!r}: not among the {len(class_names)} --class-names")
        labels.append(name.strip())
    return labels


@lru_cache(maxsize=8)
def _visible_forms(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(visible_form, names))


def _numbers(where: str, what: str, value: Any, count: int) -> Box:
    try:
        if isinstance(value, str) or any(isinstance(v, bool) for v in value):
            raise TypeError
        numbers = [float(v) for v in value]
    except (TypeError, ValueError, OverflowError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        shown = str(list(value) if isinstance(value, tuple) else value)[:80]
        raise RowError(f"{what} malformed", f"{where}: {what} {shown}: needs {count} finite numbers; {ADVICE}")
    return numbers


def size_of(where: str, width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height; None where neither is given.

    Raises:
        RowError: no positive numbers.
    """
    if width in (None, "") and height in (None, ""):
        return None
    try:
        size_wh = (int(float(width)), int(float(height)))  # pyright: ignore[reportArgumentType] - refused below
    except (TypeError, ValueError, OverflowError):
        size_wh = (0, 0)
    if min(size_wh) < 1:
        shown = f"width and height {(width, height)}"
        raise RowError("image without size", f"{where}: {shown}: need positive numbers; {ADVICE}")
    return size_wh


def count_of(where: str, value: Any) -> int | None:
    """A whole number, also as text.

    Raises:
        RowError: anything else.
    """
    if value in (None, ""):
        return None
    try:
        count = float(value)
    except (TypeError, ValueError, OverflowError):
        count = math.nan
    if isinstance(value, bool) or not (0 <= count < 1e9 and count.is_integer()):
        raise RowError("no count", f"{where}: count {value!r}: needs a whole number; {ADVICE}")
    return int(count)


def text_of(where: str, what: str, value: Any) -> str | None:
    """A text; None for none."""
    texts = texts_of(where, what, value)
    return " ".join(texts) or None


def texts_of(where: str, what: str, value: Any) -> tuple[str, ...]:
    """A text, or a list of them; () for none.

    Raises:
        RowError: anything else.
    """
    members = value if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    if not all(isinstance(member, str) and member.strip() for member in members):
        raise RowError(f"{what} is no text", f"{where}: {what} {str(value)[:80]!r}: needs a text; {ADVICE}")
    return tuple(member.strip() for member in members)
