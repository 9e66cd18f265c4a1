"""The parser of Vision-R1's released code."""

from __future__ import annotations

import json
import re
from typing import Any, cast

from verl_visionr1.answers.base import MAX_BOXES, MAX_CHARS, Answer, AnswerFormat, Defect
from verl_visionr1.boxes import Box

_RELEASED_NUMBER = r"\d{1,3}|1000"
_RELEASED_ITEM = re.compile(r'\{"bbox_2d": \[' + ", ".join([f"({_RELEASED_NUMBER})"] * 4) + r'\], "label": "([^"]+)"\}')
_RELEASED_FENCE = re.compile("```json\n|\n```")


def parse_visionr1_released(text: str) -> Answer:
    """Read what the released Vision-R1 code reads (`visionr1_qwen.py: extract`), with its format reward as a defect.

    The items of a valid JSON list are read, with coordinates truncated to whole numbers. Otherwise a pattern finds
    objects in one exact spelling (whole numbers up to 1000). Unusable items are skipped, not counted. The format
    reward (`dual_format_reward`) accepts any valid JSON; `MALFORMED` means invalid JSON.
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
    text = text.strip()
    lines = text.splitlines()  # all line ends of Unicode, including a bare carriage return
    if lines and lines[0].startswith("```json"):
        text = "\n".join(lines[1:])
    boxes: list[Box] = []
    labels: list[str] = []
    for item in _objects(_python_json(text.split("```")[0])):
        box = _released_box(item.get("bbox_2d"))
        if box is not None:
            boxes.append(box)
            labels.append(str(item.get("label") or ""))
    return boxes, labels


def _released_box(value: object) -> Box | None:
    if not _is_list_of_four(value):
        return None
    try:
        whole = [int(number) for number in cast(list[Any], value)]
    except (TypeError, ValueError, OverflowError):
        return None
    x1, y1, x2, y2 = (float(max(-_HUGE, min(number, _HUGE))) for number in whole)
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


_HUGE = 10**300
"""Larger numbers are clipped to this; the released code fails on far smaller ones (`match_visionr1_released`)."""


def _released_format(text: str) -> bool:
    parsed = _python_json(_RELEASED_FENCE.sub("", text).strip())
    return parsed is not _NOT_JSON and all(
        _is_list_of_four(item["bbox_2d"]) for item in _objects(parsed) if "bbox_2d" in item and "label" in item
    )


def _objects(parsed: object) -> list[dict[str, Any]]:
    """Return the objects in a list; empty for other values."""
    return [item for item in cast(list[Any], parsed) if isinstance(item, dict)] if isinstance(parsed, list) else []


def _is_list_of_four(value: object) -> bool:
    return isinstance(value, list) and len(cast(list[Any], value)) == 4


_NOT_JSON = object()


def _python_json(text: str) -> object:
    """Decode with `json.loads`, which (unlike the standard) accepts NaN and Infinity; `_NOT_JSON` if it fails."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return _NOT_JSON


VISIONR1_RELEASED = AnswerFormat(
    "visionr1-released",
    parse_visionr1_released,
    '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```',
    frames=("qwen2.5-vl",),
)
