"""Griffon-G text: `label-[0.123,0.456,0.789,0.999]&label-[...]`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from verl_visionr1.answers.base import MAX_BOXES, Answer, AnswerFormat, Defect, bounded
from verl_visionr1.answers.envelope import said_nothing, unwrap
from verl_visionr1.answers.wording import Wording
from verl_visionr1.boxes import Box

_CATEGORY_SET = (
    "Examine the image for any objects from the category set. Report the coordinates of each detected object. "
    "The category set includes {phrases}."
)
_ask = Wording(
    "griffon",
    {
        "detection": _CATEGORY_SET,
        "grounding": "Can you point out {phrase} in the image and provide the coordinates of its location?",
        "counting": _CATEGORY_SET,
    },
    " If there is none, output None.",
)

_GRIFFON_NUMBER = re.compile(r"[01]\.\d{3}")


def parse_griffon(text: str) -> Answer:
    """Read Griffon-G's `label-[0.123,0.456,0.789,0.999]&label-[...]`, frame "unit"; `None` or `[]` for nothing.

    One phrase may go without its label: `[0.123,0.456,0.789,0.999]`. Well-formed numbers have exactly three decimals.
    The last `-` before the bracket ends the label.

    >>> parse_griffon("traffic-light-[0.100,0.200,0.300,0.400]").labels
    ('traffic-light',)
    """
    body, around = unwrap(text)
    nothing = said_nothing(body, around)
    if nothing is not None:
        return nothing
    defects = dict.fromkeys(around)  # an ordered set
    boxes: list[Box] = []
    labels: list[str] = []
    n_dropped = 0
    pieces = body.split("&")
    if len(pieces) > MAX_BOXES:
        n_dropped = sum("[" in piece for piece in pieces[MAX_BOXES:])
        pieces = pieces[:MAX_BOXES]
        defects[Defect.TOO_MANY] = None
    for i, piece in enumerate(pieces):
        box, label, piece_defects = _griffon_piece(piece.strip(), is_last=i + 1 == len(pieces))
        defects |= dict.fromkeys(piece_defects)
        n_more = piece.count("[") - 1
        if n_more > 0:  # boxes that no "&" parts: one is read, none is free
            n_dropped += n_more
            defects[Defect.MALFORMED] = None
        if box is not None:
            boxes.append(box)
            labels.append(label)
        elif Defect.BAD_BOX in piece_defects or Defect.WRONG_KIND in piece_defects:
            n_dropped += 1
    return bounded(boxes, labels, n_dropped, tuple(defects))


def _griffon_piece(piece: str, *, is_last: bool) -> tuple[Box | None, str, tuple[Defect, ...]]:
    opening = piece.rfind("[")
    if opening < 0:
        return None, "", (Defect.TRUNCATED if is_last and piece else Defect.NO_LIST,)
    closing = piece.find("]", opening)
    if closing < 0:
        return None, "", (Defect.TRUNCATED,) if is_last else (Defect.BAD_BOX,)
    label = piece[:opening]
    label = label[:-1] if label.endswith("-") else label
    numbers = piece[opening + 1 : closing].split(",")
    defects: tuple[Defect, ...] = () if closing + 1 == len(piece) else (Defect.PROSE,)
    box = _finite_box(numbers)
    if box is None:
        is_point = len(numbers) == 2 and all(_GRIFFON_NUMBER.fullmatch(number.strip()) for number in numbers)
        return None, "", (*defects, Defect.WRONG_KIND if is_point else Defect.BAD_BOX)
    if not all(_GRIFFON_NUMBER.fullmatch(number.strip()) for number in numbers):
        defects = (*defects, Defect.MALFORMED)
    return box, label.strip(), defects


def _finite_box(numbers: Sequence[str]) -> Box | None:
    if len(numbers) != 4 or any(len(number) > 40 for number in numbers):
        return None
    try:
        x1, y1, x2, y2 = map(float, numbers)
    except ValueError:
        return None
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        return None
    return x1, y1, x2, y2


GRIFFON = AnswerFormat(
    name="griffon",
    parse=parse_griffon,
    instruct=_ask,
    example="cat-[0.100,0.200,0.300,0.400]&dog-[0.500,0.500,0.900,1.000]",
    frames=("unit",),
)
