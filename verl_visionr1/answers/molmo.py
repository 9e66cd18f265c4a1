"""Molmo's points: `<point x="10.0" y="20.0" alt="cat">cat</point>`, in percent."""

from __future__ import annotations

import math
import re

from verl_visionr1.answers.base import Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import empty_answer, unwrap

NOTHING = ("There are none.", "This isn't in the image.")
"""Molmo's answers if there is no object."""
MAX_TAGS = 2000  # tags that are read; further ones are counted
# None can backtrack far: a tag's content has no "<", values have at most 40 characters.
_TAG = re.compile(r"<points?\s([^<>]*)(>?)")
_POSITION = re.compile(r"\b([xy])([0-9]{0,4})\s{0,3}=\s{0,3}[\"']\s{0,9}([^\"'<>]{0,40})[\"']")
_ALT = re.compile(r"\balt\s{0,3}=\s{0,3}\"([^\"]{0,2000})\"")
_CLOSING = re.compile(r"([^<>]{0,2000})</points?>")
_TOTAL = re.compile(r"shows a total of ([0-9]{1,9})\.?")
_COUNTING = "Counting the"


def parse_molmo_points(text: str) -> Answer:
    """Read `<point x="10.0" y="20.0" alt="cat">cat</point>` or `<points x1=".." y1=".." x2=".." ...>`, in percent.

    Molmo's sentences are part of the format: `NOTHING`, and "Counting the <points ...> shows a total of 3.", whose
    number becomes `Answer.count`. `None` and `[]` are empty answers too. The label is the text in the tag, else its
    `alt`. Qwen2.5-VL writes the same format in pixels.
    """
    body, defects = unwrap(text)
    empty = Answer((), (), 0, defects) if body in NOTHING else empty_answer(body, defects)
    if empty is not None:
        return empty
    draft = Draft(defects)
    outside: list[str] = []
    position, n_tags = 0, 0
    for match in _TAG.finditer(body):
        n_tags += 1
        if n_tags > MAX_TAGS:
            draft.skip(body.count("<point", match.start()))
            break
        outside.append(body[position : match.start()])
        position = _read_tag(draft, body, match)
    outside.append(body[position:])
    if not n_tags:
        draft.add_defect(Defect.TRUNCATED if body.startswith("<point") and ">" not in body else Defect.NO_LIST)
        return draft.answer()
    total = _TOTAL.fullmatch(outside[-1].strip())
    is_counting = total is not None and "".join(outside[:-1]).strip() == _COUNTING
    if not is_counting and "".join(outside).strip() and Defect.TOO_MANY not in draft.defects:
        draft.add_defect(Defect.PROSE)
    return draft.answer(count=float(total.group(1)) if total else None)


def _read_tag(draft: Draft, body: str, tag: re.Match[str]) -> int:
    """Read one tag; return its end."""
    inside, end = tag.group(1), tag.end()
    closing = _CLOSING.match(body, end)
    if not tag.group(2) or (closing is None and "<" not in body[end:] and not inside.endswith("/")):
        draft.add_defect(Defect.TRUNCATED)
    elif closing is None:
        draft.add_defect(Defect.MALFORMED)
    alt = _ALT.search(inside)
    label = (closing.group(1).strip() if closing else "") or (alt.group(1).strip() if alt else "")
    if not label and tag.group(2):
        draft.add_defect(Defect.NO_LABEL)
    pairs: dict[str, dict[str, str]] = {}
    for axis, index, value in _POSITION.findall(inside):
        if axis in pairs.get(index, ()):
            draft.drop()  # given twice: the last one is used
        pairs.setdefault(index, {})[axis] = value
    if not pairs and tag.group(2):
        draft.drop()
    for number, pair in enumerate(pairs.values(), 1):
        if len(pair) == 1 and not tag.group(2) and number == len(pairs):
            continue  # cut off before its other half
        draft.add_point((_coordinate(pair.get("x")), _coordinate(pair.get("y"))), label)
    return closing.end() if closing else end


def _coordinate(value: str | None) -> float:
    """Read a number; nan if it is none."""
    try:
        return float(value) if value else math.nan
    except ValueError:
        return math.nan


# Molmo's training prompts, as far as they ask only for points.
MOLMO_POINTS = AnswerFormat(
    "molmo-points",
    parse_molmo_points,
    '<points x1="10.0" y1="20.0" x2="30.5" y2="40.5" alt="cats">cats</points>',
    {"counting": "How many {phrase} are there?", "pointing": "Point to {phrase}"},
    "\nPlease say 'There are none.' if it is not in the image.",
    {"counting": "How many things in the image does {phrases} describe?"},
    frames=("percent", "qwen2.5-vl"),
)
