"""Values of records that anybody wrote: boxes, points, labels and texts, whatever they are wrapped in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from verl_visionr1.conversion import values
from verl_visionr1.conversion.records.solutions import decoded_text
from verl_visionr1.conversion.values import ADVICE
from verl_visionr1.conversion.vocabulary import visible_form
from verl_visionr1.files import RowError

Box = list[float]


def boxes_of(value: Any, where: str) -> list[Box] | None:
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
    return [values.numbers_of(member, 4, where, texts=True) for member in members]


def points_of(value: Any, where: str) -> list[Box] | None:
    """Points as a list or a text of them; None for none given.

    Raises:
        RowError: anything else.
    """
    value = decoded_text(value)
    if value is None or value == "":
        return None if value is None else []
    return [list(point) for point in values.points_of(value, where, texts=True)]


def labels_of(value: Any, where: str, class_names: Sequence[str] = ()) -> list[str]:
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


def text_of(value: Any, what: str, where: str) -> str | None:
    """A text; None for none."""
    texts = texts_of(value, what, where)
    return " ".join(texts) or None


def texts_of(value: Any, what: str, where: str) -> tuple[str, ...]:
    """A text, or a list of them; () for none.

    Raises:
        RowError: anything else.
    """
    members = value if isinstance(value, list | tuple) else [] if value in (None, "") else [value]
    if not all(isinstance(member, str) and member.strip() for member in members):
        raise RowError(f"{what} is no text", f"{where}: {what} {str(value)[:80]!r}: needs a text; {ADVICE}")
    return tuple(member.strip() for member in members)
