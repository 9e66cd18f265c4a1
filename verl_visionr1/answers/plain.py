"""Bare numbers in brackets: the prompt names one phrase, so no label is needed."""

from __future__ import annotations

import re

from verl_visionr1.answers.base import Answer, AnswerFormat
from verl_visionr1.answers.draft import Draft, read_lists
from verl_visionr1.answers.envelope import empty_answer, unwrap


def parse_list(text: str) -> Answer:
    """Read `[x1, y1, x2, y2]`, or a list of such lists; `[]` and `None` are empty answers. Labels are "".

    Round brackets are well-formed too. Points are of the wrong kind.
    """
    body, defects = unwrap(text)
    return empty_answer(body, defects) or read_lists([body], Draft(defects))


def parse_point(text: str) -> Answer:
    """Read `[x, y]`, `(x, y)`, a list of them, or one click of a GUI model; `[]` and `None` are empty answers.

    Clicks: `click(x, y)`, `click(x=0.4, y=0.2)` (Kimi-VL), `pyautogui.click(x, y)`, `click(start_box='(x,y)')`
    (UI-TARS; also with Qwen2-VL's box tokens around the point), `click(point='<point>x y</point>')` (UI-TARS 1.5).
    `<point>` tags are read without a click too. Boxes are of the wrong kind.
    """
    body, defects = unwrap(text)
    body = _BOX_TOKENS.sub("", body)
    if "<point>" in body:
        body = _without_tags(body)
    click = _CLICK.fullmatch(body)
    if click:
        body = f"({_COORDINATE_NAME.sub('', click.group(1))})"
    return empty_answer(body, defects) or read_lists([body], Draft(defects), are_boxes=False)


def _without_tags(body: str) -> str:
    """Write `<point>x y</point>` as "(x, y)", several of them in a row as a list."""
    n_tags = len(_POINT_TAG.findall(body))
    if n_tags > 1 and not _POINT_TAG.sub("", body).strip(", \n"):
        body = f"[{', '.join(tag.group() for tag in _POINT_TAG.finditer(body))}]"
    return _POINT_TAG.sub(lambda tag: f"({', '.join(tag.group(1).replace(',', ' ').split())})", body)


_POINT_TAG = re.compile(r"<point>([^<>()\[\]]{1,120})</point>")
_BOX_TOKENS = re.compile(r"<\|box_(?:start|end)\|>")
_CLICK = re.compile(
    r"(?:pyautogui\.)?click\s{0,3}\(\s{0,3}(?:(?:start_box|point)\s{0,3}=\s{0,3})?['\"]?\(?"
    r"([^()'\"]{1,120})\)?['\"]?\s{0,3}\)"
)
_COORDINATE_NAME = re.compile(r"\b[xy]\s{0,3}=\s{0,3}")

LIST = AnswerFormat(
    "list",
    parse_list,
    "[[10, 20, 30, 40], [50, 60, 70, 80]]",
    {
        "grounding": "Locate {phrase} in the image and output its bounding box as [x1, y1, x2, y2].",
        "counting": "Locate every {phrase} in the image and output the list of their bounding boxes: "
        "[[x1, y1, x2, y2], ...].",
    },
    " If there is none, output [].",
    {"grounding": "Locate what {phrases} describes in the image and output its bounding box as [x1, y1, x2, y2]."},
    then="Output the bounding boxes as [[x1, y1, x2, y2], ...].",
)
POINT = AnswerFormat(
    "point",
    parse_point,
    "[10, 20]",
    {
        "counting": "Point to every {phrase} in the image: output the list of their coordinates: [[x, y], ...].",
        "pointing": "Point to {phrase} in the image: output its coordinates as [x, y].",
    },
    " If there is none, output [].",
    {"pointing": "Point to what {phrases} describes in the image: output its coordinates as [x, y]."},
    then="Output the coordinates as [x, y].",
)
