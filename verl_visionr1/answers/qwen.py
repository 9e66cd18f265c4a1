"""JSON lists of objects with a place and a label: Qwen's boxes and points, Gemma's and Gemini's boxes.

Qwen: `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]`, or `point_2d` with two numbers. Gemma: `box_2d` with y
before x. Well-formed is that list alone, optionally in a ``` fence, after a closed `<think>` and inside `<answer>`;
`[]` and `None` are empty answers; further keys in an object are allowed. From truncated lists, prose and broken JSON
the complete objects are read, and the defect is named. An object with only another kind's key is of the wrong kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from verl_visionr1.answers.base import MAX_BOXES, Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import UNREADABLE, unwrap
from verl_visionr1.answers.objects import LONG_CHARS, decode_cut_off, has_slow_numbers, read_objects
from verl_visionr1.boxes import Box


class _Boxed(msgspec.Struct, gc=False):
    place: Box = msgspec.field(name="bbox_2d")
    label: str


class _Pointed(msgspec.Struct, gc=False):
    place: tuple[float, float] = msgspec.field(name="point_2d")
    label: str


class _Gemma(msgspec.Struct, gc=False):
    place: Box = msgspec.field(name="box_2d")
    label: str


def _parser(item_type: type[msgspec.Struct]) -> Callable[[str], Answer]:
    """Return the parser of lists of these items. It never reads the reasoning, closed or not."""
    decode: Callable[[str], list[Any]] = msgspec.json.Decoder(list[item_type]).decode
    kind = item_type.__struct_encode_fields__[0]
    build = _points_answer if kind == "point_2d" else _boxes_answer

    def parse(text: str) -> Answer:
        body, defects = unwrap(text)
        if len(body) > LONG_CHARS and has_slow_numbers(body):
            return Answer((), (), body.count(kind), (*defects, Defect.BAD_BOX))
        try:
            items = decode(body)
        except UNREADABLE:
            complete = decode_cut_off(body, decode)
            if complete is None:
                return read_objects(body, defects, kind)
            return build(complete, defects, (Defect.TRUNCATED,))
        return build(items, defects, ())

    return parse


def _boxes_answer(items: list[Any], defects: tuple[Defect, ...], cut_off: tuple[Defect, ...]) -> Answer:
    boxes: list[Box] = []
    labels: list[str] = []
    for item in items:
        box = item.place
        if box[0] < box[2] and box[1] < box[3]:
            boxes.append(box)
            labels.append(item.label)
    n_dropped = len(items) - len(boxes)
    if n_dropped:
        defects = (*defects, Defect.BAD_BOX)
    if not all(labels) or any(map(str.isspace, labels)):
        defects = (*defects, Defect.NO_LABEL)
    if len(boxes) > MAX_BOXES:
        n_dropped += len(boxes) - MAX_BOXES
        cut_off = (*cut_off, Defect.TOO_MANY)
    return Answer(tuple(boxes[:MAX_BOXES]), tuple(labels[:MAX_BOXES]), n_dropped, (*defects, *cut_off))


def _points_answer(items: list[Any], defects: tuple[Defect, ...], cut_off: tuple[Defect, ...]) -> Answer:
    draft = Draft(defects)
    for item in items:
        draft.add_point(item.place, item.label)
        if not item.label or item.label.isspace():
            draft.add_defect(Defect.NO_LABEL)
    for defect in cut_off:
        draft.add_defect(defect)
    return draft.answer()


parse_qwen_json = _parser(_Boxed)
_parse_y_first = _parser(_Gemma)


def parse_gemma_json(text: str) -> Answer:
    """Read Gemma's boxes. Objects with a `bbox_2d` and no `box_2d` are of the wrong kind: their axes are unknown."""
    answer = _parse_y_first(text)
    return replace(answer, boxes_xyxy=tuple([(x1, y1, x2, y2) for y1, x1, y2, x2 in answer.boxes_xyxy]))


def write_json(places: Sequence[Sequence[float | str]], labels: Sequence[str], key: str = "") -> str:
    """Write boxes (four numbers, or their texts) or points (two) as Qwen's models do; missing labels become "".

    >>> write_json([(1, 2)], ["cat"])
    '[{"point_2d": [1, 2], "label": "cat"}]'
    """
    pairs = zip(places, labels or ("",) * len(places), strict=True)
    rows = [
        f'{{"{key or ("bbox_2d" if len(xs) == 4 else "point_2d")}": [{", ".join(map(str, xs))}], "label": {label}}}'
        for xs, label in ((xs, json.dumps(label, ensure_ascii=False)) for xs, label in pairs)
    ]
    return f"[{', '.join(rows)}]"


# Vision-R1's wording (arXiv 2503.18013, released code).
_EVERY = "Locate every {phrase} in the image and output the coordinates in JSON format."
QWEN_JSON = AnswerFormat(
    "qwen-json",
    parse_qwen_json,
    '[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]',
    {
        "detection": "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes {phrases}.",
        "grounding": _EVERY,
        "counting": _EVERY,
    },
    " If there is none, output [].",
    frames=("qwen2.5-vl", "qwen3-vl"),
    then="Output the coordinates in JSON format.",
)
# VLM-R1's wording (arXiv 2504.07615 and its released code), which asks for reasoning first.
_THINK = (
    "First output the thinking process in <think> </think> tags and then output the final answer in "
    "<answer> </answer> tags. Output the final answer in JSON format."
)
VLMR1_JSON = AnswerFormat(
    "vlmr1-json",
    parse_qwen_json,
    "<think>The cat is on the left.</think>\n<answer>\n"
    '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```\n</answer>',
    {
        "detection": "First thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think><answer> answer here </answer>\n"
        "Please carefully check the image and detect the following objects: {phrases}. Output each detected target's "
        "bbox coordinates in JSON format. The format of the bbox coordinates is:\n```json\n"
        '[{"bbox_2d": [x1, y1, x2, y2], "label": "target name"}, ...]\n```\n'
        "If there are no such targets in the image, simply respond with None.",
        "grounding": "Please provide the bounding box coordinate of the region this sentence describes: {phrase}. "
        + _THINK,
    },
    {"grounding": " If there is none, output None."},
    frames=("qwen2.5-vl", "qwen3-vl"),
    then=_THINK,
)
# Verbatim from Qwen3-VL's cookbook.
_POINT_LIST = 'in JSON format like this: [{"point_2d": [x, y], "label": "name"}, ...].'
_WITH_POINTS = f" in the image with points, report their point coordinates {_POINT_LIST}"
QWEN_POINTS = AnswerFormat(
    "qwen-points",
    _parser(_Pointed),
    '[{"point_2d": [10, 20], "label": "cat"}]',
    {"counting": "Locate every {phrase}" + _WITH_POINTS, "pointing": "Locate every {phrases}" + _WITH_POINTS},
    " If there is none, output [].",
    frames=("qwen2.5-vl", "qwen3-vl"),
    then=f"Report the point coordinates {_POINT_LIST}",
)
# Google publishes the format (Gemini's page on bounding boxes), but no fixed wording.
_FORM = (
    'Output a JSON list, in which each entry holds the box in "box_2d" as [y1, x1, y2, x2], normalized to 0-1000, and '
    'its name in "label".'
)
GEMMA_JSON = AnswerFormat(
    "gemma-json",
    parse_gemma_json,
    '[{"box_2d": [20, 10, 40, 30], "label": "cat"}]',
    {
        "detection": f"Detect all objects of these categories in the image: {{phrases}}. {_FORM}",
        "grounding": f"Detect every {{phrase}} in the image. {_FORM}",
        "counting": f"Detect every {{phrase}} in the image. {_FORM}",
    },
    " If there is none, output [].",
    frames=("gemma",),
    then=_FORM,
)
