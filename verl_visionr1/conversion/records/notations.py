"""Right answers in a model's own notation: boxes between special tokens; and what holds coordinates at all."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

from verl_visionr1.answers import Answer, parse_glm, parse_griffon, parse_internvl, parse_qwen2_vl
from verl_visionr1.files import RowError

_NUMBER = r"\s{0,8}[-+]?\d{1,9}(?:\.\d{0,20})?\s{0,8}"
_FOUR = rf"[\[(<]{_NUMBER}(?:,{_NUMBER}){{3}}(?:(?:,{_NUMBER}){{4}})?[\])>]"
_TWO_POINTS = rf"[\[(]{_NUMBER},{_NUMBER}[\])]\s{{0,8}}(?:,\s{{0,8}})?[\[(]{_NUMBER},{_NUMBER}[\])]"
_AND = r"[,;|/\s]"
_ALONE = rf"\A[\[(<]?{_NUMBER}(?:{_AND}{_NUMBER}){{3}}(?:(?:{_AND}{_NUMBER}){{4}})?[\])>]?\Z"
_YOLO = r"\A\d{1,4}(?:\s{1,8}(?:0?\.\d{1,20}|[01](?:\.0{1,20})?)){4}\Z"
_TOKENS = "|".join(
    (
        r"<\|(?:box|quad|object_ref|point)_(?:start|end)\|>|<\|(?:begin|end)_of_box\|>|<\|/?(?:ref|det|grounding)\|>",
        r"</?(?:ref|box|quad|bbox|points?|poly|ref-object)\b[^<>]{0,200}>|<(?:loc_?|bin_|patch_index_)?\d{1,4}>",
        r"\b(?:bbox|box|point)_2d\b|\b(?:start|end)_box\b|[\"'](?:bbox|box|point|[Pp]osition)[\"']\s{0,8}:",
        r"\bx_?min\b\W{1,4}\d|\bx_?1\b\W{1,4}\d[\d.]{0,20}\W{1,6}y_?1\b",
    )
)
_PLACES = re.compile(f"{_TOKENS}|{_FOUR}")
_COORDINATES = re.compile(f"{_TOKENS}|{_FOUR}|{_TWO_POINTS}|{_ALONE}|{_YOLO}")
_PAIRS = re.compile(_TWO_POINTS)
_POINTS = re.compile(r"<points?>[^<>]{0,200}</points?>")
_TAGGED = re.compile(r"<box>|<\|box_start\|>")
_LABELLED = re.compile(r"<ref>|<\|object_ref_start\|>")
_CORNERS = re.compile(rf"<box>{_TWO_POINTS}</box>")
_QWEN_VL = {
    "<ref>": "<|object_ref_start|>",
    "</ref>": "<|object_ref_end|>",
    "<box>": "<|box_start|>",
    "</box>": "<|box_end|>",
}
"""Qwen-VL's tokens, which Seg-Zero writes too, as Qwen2-VL calls them."""


class Noted(NamedTuple):
    """Boxes of an answer, x1 y1 x2 y2 in whatever unit it is written, and their labels: one each, or none at all."""

    boxes: list[list[float]]
    labels: list[str]


def read_notation(text: str, where: str) -> Noted | None:
    """The boxes of an answer in the notation of Qwen-VL, Qwen2-VL, InternVL, GLM or Griffon; None for words.

    Raises:
        RowError: it holds coordinates, and is in none of these notations throughout.

    >>> read_notation("<ref>cat</ref><box>[[1, 2, 3, 4]]</box>", "row 1")
    Noted(boxes=[[1.0, 2.0, 3.0, 4.0]], labels=['cat'])
    >>> read_notation("on the left", "row 1") is None
    True
    """
    if "<box>" in text:  # Seg-Zero writes points beside its boxes
        text = _POINTS.sub("", text)
    for parse, spelled in _candidates(text):
        answer = parse(spelled)
        labels = list(answer.labels) if any(answer.labels) else []
        is_prose = bool(labels and _TAGGED.search(text) and not _LABELLED.search(text))  # words before the token
        if answer.boxes_xyxy and not answer.defects and not answer.n_dropped and not is_prose:
            return Noted([list(box) for box in answer.boxes_xyxy], labels)
    _refuse(_COORDINATES, text, where)
    return None


def refuse_places(text: str, where: str) -> None:
    """Refuse a decoded list or object without boxes in which places can be seen; pairs of numbers may be anything.

    Raises:
        RowError: it holds tokens or keys of places, or four numbers in brackets.
    """
    _refuse(_PLACES, text, where)


def refuse_pairs(text: str, where: str) -> None:
    """Refuse two pairs of numbers, which may be corners: for answers that are said to be boxes.

    Raises:
        RowError: it holds two pairs in brackets.
    """
    _refuse(_PAIRS, text, where)


def _refuse(pattern: re.Pattern[str], text: str, where: str) -> None:
    found = pattern.search(unicodedata.normalize("NFKC", text))
    if found is not None:
        reason = f"the answer {text[:80]!r} holds coordinates ({found[0].strip()[:40]}) in a notation that is not read"
        advice = "write [x1, y1, x2, y2], or a JSON list of bbox_2d and label; if it is words, take the coordinates out"
        raise RowError("answer unreadable", f"{where}: {reason}; {advice}")


def _candidates(text: str) -> list[tuple[Callable[[str], Answer], str]]:
    """Parsers that may read a text, and how it is spelled for each."""
    if _CORNERS.search(text):
        for token, name in _QWEN_VL.items():
            text = text.replace(token, name)
    if "<|begin_of_box|>" in text:
        return [(parse_glm, text)]
    if _COORDINATES.search(text) is None:
        return []
    return [(parse_qwen2_vl, text), (parse_internvl, text), (parse_griffon, text)]
