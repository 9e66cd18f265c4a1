"""Qwen JSON: `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]`, as Qwen2.5-VL and Qwen3-VL write it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from verl_visionr1.answers.base import MAX_CHARS, Answer, Defect, bounded
from verl_visionr1.boxes import Box

MAX_ITEM_CHARS = 2000
"""The longest object `{...}` that the tolerant scanner tries."""
LONG_CHARS = 20_000
"""In an answer longer than this, numbers that are slow to read (`1e308`) make the whole answer unreadable."""


def instruction(task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
    """The user's turn that asks for Qwen JSON: Vision-R1's own wording (arXiv 2503.18013, released code).

    Args:
        task: "detection" (every object of the category list) or "grounding" (one phrase).
        phrases: the category list, or a list of one phrase.
        allow_none: also say what to answer when nothing is there. Give it to all rows of a dataset with negatives,
            or the wording gives the answer away.

    >>> instruction("grounding", ["red circle"])
    'Locate every red circle in the image and output the coordinates in JSON format.'
    """
    if task == "detection":
        text = (
            "Locate every item from the category list in the image and output the coordinates in JSON format. "
            f"The category set includes {', '.join(phrases)}."
        )
    else:
        (phrase,) = phrases
        text = f"Locate every {phrase} in the image and output the coordinates in JSON format."
    return text + (" If there is none, output []." if allow_none else "")


class _Item(msgspec.Struct, gc=False):
    bbox_2d: tuple[float, float, float, float]
    label: str


class _LooseItem(msgspec.Struct, gc=False):
    bbox_2d: msgspec.Raw = msgspec.Raw(b"null")
    label: msgspec.Raw = msgspec.Raw(b"null")


_decode_items = msgspec.json.Decoder(list[_Item]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_loose = msgspec.json.Decoder(_LooseItem).decode
_decode_box = msgspec.json.Decoder(tuple[float, float, float, float]).decode
_decode_text = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


def parse_qwen_json(text: str) -> Answer:
    r"""Read `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]`, as Qwen2.5-VL and Qwen3-VL write it.

    Well-formed: that list alone, in a ``` fence or not, after a closed `<think>` and inside `<answer>` or not; `[]` or
    `None` for nothing; further keys in an object are allowed. Everything else is read as far as it goes: complete
    objects are taken out of truncated lists, of prose and of broken JSON, with the defect named. Boxes in the
    reasoning are never read, whether it was closed or not.

    >>> parse_qwen_json('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]').boxes_xyxy
    ((1.0, 2.0, 3.0, 4.0),)
    >>> cut = parse_qwen_json('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6')
    >>> cut.labels, [defect.value for defect in cut.defects]
    (('cat',), ['truncated'])
    >>> parse_qwen_json("None").defects
    ()
    """
    body, defects = _body(text)
    if len(body) > LONG_CHARS and _SLOW_NUMBER.search(body):
        return Answer((), (), body.count("bbox_2d"), (*defects, Defect.BAD_BOX))
    try:
        items = _decode_items(body)
    except _UNREADABLE:
        return _parse_loosely(body, defects)
    boxes: list[Box] = []
    labels: list[str] = []
    for item in items:
        box = item.bbox_2d
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
            labels.append(item.label)
    n_dropped = len(items) - len(boxes)
    if n_dropped:
        defects = (*defects, Defect.BAD_BOX)
    if not all(labels) or any(map(str.isspace, labels)):
        defects = (*defects, Defect.NO_LABEL)
    return bounded(boxes, labels, n_dropped, defects)


_NONE: tuple[Defect, ...] = ()
_SLOW_NUMBER = re.compile(r"\d[eE][+-]?\d{3}")  # msgspec needs 8 us for each near the ends of float64


def _body(text: str) -> tuple[str, tuple[Defect, ...]]:
    """The part of a completion that should be the list, and what is wrong around it."""
    body = text.strip()
    is_bracketed = body.startswith("[") and body.endswith("]") and len(body) <= MAX_CHARS
    if is_bracketed and ("</think>" not in body or _is_list(body)):  # reasoning may begin with a bracket too
        return body, _NONE
    if not body:
        return body, (Defect.EMPTY,)
    body, reasoned = _after_thinking(body)
    if not reasoned:
        return "", (Defect.NO_ANSWER,)
    body, answered = _inside_answer(body)
    body, fenced = _inside_fence(body)
    defects = _NONE if answered and fenced else (Defect.PROSE,)
    if len(body) > MAX_CHARS:
        return body[:MAX_CHARS], (*defects, Defect.TOO_LONG)
    return body, defects


def _is_list(text: str) -> bool:
    try:
        _decode_list(text)
    except _UNREADABLE:
        return False
    return True


def _after_thinking(text: str) -> tuple[str, bool]:
    """What follows the last `</think>`, whose opening tag may be part of the prompt; False if it was never closed."""
    end = text.rfind("</think>")
    if end < 0:
        return text, not text.startswith("<think>")
    return text[end + len("</think>") :].strip(), True


def _inside_answer(text: str) -> tuple[str, bool]:
    """The last `<answer>`; True if the whole text is one closed `<answer>`, or has none."""
    start = text.rfind("<answer>")
    if start < 0:
        return text, True
    inner = text[start + len("<answer>") :]
    end = inner.find("</answer>")
    if end < 0:
        return inner.strip(), False
    return inner[:end].strip(), start == 0 and end + len("</answer>") == len(inner)


def _inside_fence(text: str) -> tuple[str, bool]:
    """The first ``` fence; True if the whole text is one closed fence, or has none.

    A fence that was never closed is no prose: the list inside it shows whether it was cut off.
    """
    start = text.find("```")
    if start < 0:
        return text, True
    inner = text[start + 3 :]
    if inner[:4].lower() == "json":
        inner = inner[4:]
    end = inner.find("```")
    if end < 0:
        return inner.strip(), start == 0
    return inner[:end].strip(), start == 0 and end + 3 == len(inner)


_OBJECT = re.compile(r"\{[^{}]*\}")  # cannot backtrack: a scan ends at the first brace


def _parse_loosely(body: str, envelope_defects: tuple[Defect, ...]) -> Answer:
    """Objects one by one, for text that is not a valid list of boxes. Linear: the objects it tries do not overlap."""
    if body == "None":
        return Answer((), (), 0, envelope_defects)
    boxes: list[Box] = []
    labels: list[str] = []
    n_dropped = 0
    defects = dict.fromkeys(envelope_defects)  # an ordered set
    position = 0
    for match in _OBJECT.finditer(body):
        position = match.end()
        chunk = match.group()
        if "bbox_2d" not in chunk:
            continue
        box, label = _loose_item(chunk) if len(chunk) <= MAX_ITEM_CHARS else (None, None)
        if box is None:
            n_dropped += 1
            defects[Defect.BAD_BOX] = None
            continue
        if not label or label.isspace():
            defects[Defect.NO_LABEL] = None
        boxes.append(box)
        labels.append(label or "")
    defects |= dict.fromkeys(_list_defects(body, position, bool(boxes or n_dropped), bool(defects)))
    return bounded(boxes, labels, n_dropped, tuple(defects))


def _list_defects(body: str, position: int, claims: bool, explained: bool) -> tuple[Defect, ...]:
    """Why `body`, whose last object ends at `position`, is no valid list."""
    if not body:
        return () if explained else (Defect.EMPTY,)
    opening, first_object = body.find("["), body.find("{")
    if opening < 0 or 0 <= first_object < opening or (not claims and opening > 0):
        return (Defect.NO_LIST,)
    rest = body[position:]
    if "]" not in rest or rest.rfind("{") > rest.rfind("}"):
        return (Defect.TRUNCATED,)
    if not body.startswith("[") or not body.endswith("]"):
        return (Defect.PROSE,)
    return () if explained else (Defect.MALFORMED,)


def _loose_item(chunk: str) -> tuple[Box | None, str | None]:
    """Box and label of one `{...}`; None for what it lacks. Single quotes are read as double ones."""
    for attempt in (chunk, chunk.replace("'", '"')):
        try:
            item = _decode_loose(attempt)
        except _UNREADABLE:
            continue
        return _loose_box(item.bbox_2d), _loose_label(item.label)
    return None, None


def _loose_box(raw: msgspec.Raw) -> Box | None:
    try:
        box = _decode_box(raw)
    except _UNREADABLE:
        return None
    return box if box[0] < box[2] and box[1] < box[3] else None


def _loose_label(raw: msgspec.Raw) -> str | None:
    try:
        return _decode_text(raw)
    except _UNREADABLE:
        return None
