"""Completion text -> `Answer`: boxes and labels as the model spoke them, and by name what is wrong with the text.

Beside each parser stands the instruction that asks for its format. Bad model output is data, never an exception: a
parser takes any text, reads at most `MAX_CHARS` of the answer in linear time, and keeps at most `MAX_BOXES` boxes.
Nothing is evaluated, no pattern backtracks.
"""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import msgspec

from verl_visionr1.boxes import Box, Boxes

MAX_CHARS = 100_000
"""An answer is not read beyond this (one of `MAX_BOXES` boxes is about as long); reasoning before it may be longer."""
MAX_BOXES = 1000
"""Boxes beyond this are counted as predictions, but not matched."""
MAX_ITEM_CHARS = 2000
"""The longest object `{...}` that the tolerant scanner tries."""
LONG_CHARS = 20_000
"""In an answer longer than this, numbers that are slow to read (`1e308`) make the whole answer unreadable."""


class Defect(str, enum.Enum):
    """What is wrong with an answer. Any defect makes the format criterion 0."""

    EMPTY = "empty"  # no text at all
    NO_LIST = "no_list"  # no JSON list: a scalar, an object, prose
    NO_ANSWER = "no_answer"  # reasoning that was never closed
    PROSE = "prose"  # text around the list (a fence, <think> and <answer> are not prose)
    MALFORMED = "malformed"  # a list that is not valid JSON of the asked-for form
    TRUNCATED = "truncated"  # cut off inside the list
    BAD_BOX = "bad_box"  # not four finite numbers with x1 < x2 and y1 < y2
    NO_LABEL = "no_label"  # label missing, blank or not a text
    OUTSIDE = "outside"  # a box outside the frame
    TOO_LONG = "too_long"  # an answer of more than MAX_CHARS
    TOO_MANY = "too_many"  # more than MAX_BOXES


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a completion says.

    (A msgspec struct rather than a dataclass: it is built once a completion, four times faster.)

    Attributes:
        boxes_xyxy: P boxes in the units the model spoke (the frame is not known here), x1 < x2 and y1 < y2.
        labels: P labels as written; "" where there was none.
        n_dropped: objects that claimed a box but have none that can be used; each counts as a wrong prediction.
        defects: what is wrong with the text, each defect once; empty means well-formed.
    """

    boxes_xyxy: Boxes = ()
    labels: tuple[str, ...] = ()
    n_dropped: int = 0
    defects: tuple[Defect, ...] = ()

    @property
    def n_predicted(self) -> int:
        """Claimed boxes: usable ones and dropped ones."""
        return len(self.boxes_xyxy) + self.n_dropped

    @property
    def is_parsed(self) -> bool:
        """Whether an answer could be read: boxes, or a well-formed statement that there are none."""
        return bool(self.boxes_xyxy) or not self.defects


# --- Qwen JSON ----------------------------------------------------------------------------------------------------


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
    return _bounded(boxes, labels, n_dropped, defects)


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
    return _bounded(boxes, labels, n_dropped, tuple(defects))


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


def _bounded(boxes: list[Box], labels: list[str], n_dropped: int, defects: tuple[Defect, ...]) -> Answer:
    if len(boxes) > MAX_BOXES:
        n_dropped += len(boxes) - MAX_BOXES
        defects = (*defects, Defect.TOO_MANY)
    return Answer(tuple(boxes[:MAX_BOXES]), tuple(labels[:MAX_BOXES]), n_dropped, defects)


# --- Griffon-G text -----------------------------------------------------------------------------------------------

_GRIFFON_NUMBER = re.compile(r"[01]\.\d{3}")


def parse_griffon(text: str) -> Answer:
    """Read Griffon-G's `label-[0.123,0.456,0.789,0.999]&label-[...]`, frame "unit"; `None` or `[]` for nothing.

    One phrase may go without its label: `[0.123,0.456,0.789,0.999]`. Well-formed numbers have exactly three decimals.
    The last `-` before the bracket ends the label.

    >>> parse_griffon("traffic-light-[0.100,0.200,0.300,0.400]").labels
    ('traffic-light',)
    """
    body = text.strip()
    if body in ("None", "[]"):
        return Answer()
    if not body:
        return Answer((), (), 0, (Defect.EMPTY,))
    defects: dict[Defect, None] = {}
    if len(body) > MAX_CHARS:
        body = body[:MAX_CHARS]
        defects[Defect.TOO_LONG] = None
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
        if box is not None:
            boxes.append(box)
            labels.append(label)
        elif Defect.BAD_BOX in piece_defects:
            n_dropped += 1
    return _bounded(boxes, labels, n_dropped, tuple(defects))


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
        return None, "", (*defects, Defect.BAD_BOX)
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


# --- Vision-R1 as released ----------------------------------------------------------------------------------------

_RELEASED_NUMBER = r"\d{1,3}|1000"
_RELEASED_ITEM = re.compile(r'\{"bbox_2d": \[' + ", ".join([f"({_RELEASED_NUMBER})"] * 4) + r'\], "label": "([^"]+)"\}')
_RELEASED_FENCE = re.compile("```json\n|\n```")


def parse_visionr1_released(text: str) -> Answer:
    """What the released Vision-R1 code reads (`visionr1_qwen.py: extract`), and its format reward as a defect.

    A list that parses as JSON gives its items, with coordinates truncated to whole numbers; else objects in one exact
    spelling are found by pattern (whole numbers up to 1000). Unusable items are skipped, not counted. The format
    reward (`dual_format_reward`) asks for anything that parses as JSON: `MALFORMED` means it does not.
    """
    text = text[:MAX_CHARS]
    boxes, labels = _released_json(text)
    if not boxes:
        for *numbers, label in _RELEASED_ITEM.findall(text):
            x1, y1, x2, y2 = map(float, numbers)
            if x1 < x2 and y1 < y2:
                boxes.append((x1, y1, x2, y2))
                labels.append(label)
    defects = () if _released_format(text) else (Defect.MALFORMED,)
    return Answer(tuple(boxes[:MAX_BOXES]), tuple(labels[:MAX_BOXES]), 0, defects)


def _released_json(text: str) -> tuple[list[Box], list[str]]:
    lines = text.strip().split("\n")
    if lines[0].startswith("```json"):
        lines = lines[1:]
    boxes: list[Box] = []
    labels: list[str] = []
    for item in _objects(_python_json("\n".join(lines).split("```")[0])):
        box = _released_box(item.get("bbox_2d"))
        if box is not None:
            boxes.append(box)
            labels.append(str(item.get("label") or ""))
    return boxes, labels


def _released_box(value: object) -> Box | None:
    if not _is_list_of_four(value):
        return None
    try:
        x1, y1, x2, y2 = (float(int(number)) for number in cast(list[Any], value))
    except (TypeError, ValueError, OverflowError):
        return None
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


def _released_format(text: str) -> bool:
    parsed = _python_json(_RELEASED_FENCE.sub("", text).strip())
    return parsed is not _NOT_JSON and all(
        _is_list_of_four(item["bbox_2d"]) for item in _objects(parsed) if "bbox_2d" in item and "label" in item
    )


def _objects(parsed: object) -> list[dict[str, Any]]:
    """The objects in a list; none if it is no list."""
    return [item for item in cast(list[Any], parsed) if isinstance(item, dict)] if isinstance(parsed, list) else []


def _is_list_of_four(value: object) -> bool:
    return isinstance(value, list) and len(cast(list[Any], value)) == 4


_NOT_JSON = object()


def _python_json(text: str) -> object:
    """`json.loads`, which (unlike the standard) takes NaN and Infinity; `_NOT_JSON` where it fails."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


PARSERS: Mapping[str, Callable[[str], Answer]] = MappingProxyType(
    {
        "qwen-json": parse_qwen_json,
        "griffon": parse_griffon,
        "visionr1-released": parse_visionr1_released,
    }
)
"""Answer format -> its parser."""
