"""Reads JSON objects one by one from text that is no valid list: truncated, in prose, or broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from verl_visionr1.answers.base import Answer, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import UNREADABLE, is_none

MAX_ITEM_CHARS = 2000
"""The longest object `{...}` that is read."""
LONG_CHARS = 20_000
"""In an answer longer than this, numbers that are slow to read (`1e308`) make the whole answer unreadable."""
OTHERS = {"bbox_2d": ("point_2d",), "point_2d": ("bbox_2d",), "box_2d": ("bbox_2d", "point_2d")}
"""Key of a format -> keys of other kinds."""

# Cannot backtrack: a scan ends at the second unclosed brace.
_OBJECT = re.compile(r"\{[^{}]*\}")
_NESTED = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
_CONTROL = re.compile(r"[\x00-\x1f]+")
_NUMBERS = re.compile(r"[\"']?\s{0,3}:\s{0,3}(\[[^\[\]{}]{0,200}\])")
_QUOTES = ("'", '"')
_SLOW_NUMBER = re.compile(r"\d[eE][+-]?\d{3}")  # msgspec needs 8 us for each near the ends of float64


class _LooseItem(msgspec.Struct, gc=False):
    bbox_2d: msgspec.Raw = msgspec.Raw(b"null")
    box_2d: msgspec.Raw = msgspec.Raw(b"null")
    point_2d: msgspec.Raw = msgspec.Raw(b"null")
    label: msgspec.Raw = msgspec.Raw(b"null")


_decode_item = msgspec.json.Decoder(_LooseItem).decode
_decode_box = msgspec.json.Decoder(tuple[float, float, float, float]).decode
_decode_point = msgspec.json.Decoder(tuple[float, float]).decode
_decode_text = msgspec.json.Decoder(str).decode


def has_slow_numbers(body: str) -> bool:
    """Whether an answer holds numbers (`1e308`) that are slow to read."""
    return _SLOW_NUMBER.search(body) is not None


Item = TypeVar("Item")


def decode_cut_off(body: str, decode: Callable[[str], list[Item]]) -> list[Item] | None:
    """Decode the complete objects of a truncated list in one call; None for other texts, and for other objects."""
    end = body.rfind("}") + 1
    rest = body[end:]
    if not end or not body.startswith("[") or ("]" in rest and "{" not in rest):
        return None
    try:
        return decode(body[:end] + "]")
    except UNREADABLE:
        return None


def read_objects(body: str, envelope_defects: tuple[Defect, ...], kind: str) -> Answer:
    """Read the objects with the key `kind` (one of `OTHERS`), in the order of the text, in linear time. One with only
    another kind's key is of the wrong kind; one without any of these keys is no prediction.
    """
    if is_none(body):
        return Answer((), (), 0, envelope_defects)
    draft = Draft(envelope_defects)
    position = 0
    for end, chunk in _chunks(body):
        position = end
        if _holds(chunk, kind):
            _read_object(draft, chunk, kind)
        elif any(other in chunk for other in OTHERS[kind]):
            draft.drop(Defect.WRONG_KIND)
    explained = bool(draft.defects)
    for defect in _list_defects(body, position, bool(draft.labels or draft.n_dropped), explained):
        draft.add_defect(defect)
    return draft.answer()


def _chunks(body: str) -> Iterator[tuple[int, str]]:
    """Yield the end and the text of each innermost object; braces of one with a key of `OTHERS` belong to its text."""
    for match in _NESTED.finditer(body):
        chunk = match.group()
        inner = list(_OBJECT.finditer(chunk)) if "{" in chunk[1:] else []
        if not inner or not any(key in each.group() for each in inner for key in OTHERS):
            yield match.end(), chunk
        else:
            yield from ((match.start() + each.end(), each.group()) for each in inner)


def _holds(chunk: str, kind: str) -> bool:
    """Whether an object has a key; "bbox_2d" does not count as "box_2d"."""
    return kind in (chunk.replace("bbox_2d", "") if kind == "box_2d" else chunk)


def _list_defects(body: str, position: int, claims: bool, explained: bool) -> tuple[Defect, ...]:
    """Return why `body`, whose last object ends at `position`, is no valid list."""
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


def _read_object(draft: Draft, chunk: str, kind: str) -> None:
    item = _loose_item(chunk) if len(chunk) <= MAX_ITEM_CHARS else None
    label = _decode(_decode_text, item.label) if item else None
    n_before = len(draft.labels)
    if kind == "point_2d":
        draft.add_point(_decode(_decode_point, item.point_2d) if item else None, label or "")
    else:
        draft.add_box(_decode(_decode_box, getattr(item, kind)) if item else None, label or "")
    if len(draft.labels) > n_before and (not label or label.isspace()):
        draft.add_defect(Defect.NO_LABEL)


def _loose_item(chunk: str) -> _LooseItem | None:
    """Read one `{...}` with single or double quotes, and raw line breaks in its label; None if it is unreadable."""
    plain = _CONTROL.sub(" ", chunk)
    decode = _decode_item
    for attempt, read in ((plain, decode), (plain.replace("'", '"'), decode), (plain, _item_by_keys)):
        try:
            return read(attempt)
        except UNREADABLE:
            continue
    return None


def _item_by_keys(chunk: str) -> _LooseItem | None:
    """Read an object whose label breaks the JSON around it: the numbers after its key, and its probable label."""
    for key in ("bbox_2d", "box_2d", "point_2d"):
        at = chunk.find(key)
        numbers = _NUMBERS.match(chunk, at + len(key)) if at >= 0 else None
        if numbers is not None:
            label = _label_by_key(chunk, at)
            return _LooseItem(**{key: msgspec.Raw(numbers[1]), "label": msgspec.Raw(msgspec.json.encode(label))})
    return None


def _label_by_key(chunk: str, box_at: int) -> str:
    """Return the text after "label", up to the box's key or to the end."""
    at = chunk.find("label")
    colon = chunk.find(":", at)
    if at < 0 or colon < 0:
        return ""
    end = chunk.rfind(",", colon, box_at) if box_at > colon else len(chunk) - 1
    label = chunk[colon + 1 : end].strip()
    return label[label[:1] in _QUOTES : len(label) - (label[-1:] in _QUOTES)]


def _decode(decode: Callable[[msgspec.Raw], Item], raw: msgspec.Raw) -> Item | None:
    try:
        return decode(raw)
    except UNREADABLE:
        return None
