"""Gemma 4 and Gemini: `[{"box_2d": [y1, x1, y2, x2], "label": "..."}, ...]`, in thousandths, y before x."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from verl_visionr1.answers.base import Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft
from verl_visionr1.answers.envelope import UNREADABLE, unwrap
from verl_visionr1.answers.objects import LONG_CHARS, has_slow_numbers, read_objects
from verl_visionr1.answers.wording import Wording
from verl_visionr1.boxes import Boxes


class _Item(msgspec.Struct, gc=False):
    box_2d: tuple[float, float, float, float]
    label: str


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def parse_gemma_json(text: str) -> Answer:
    """Read `[{"box_2d": [y1, x1, y2, x2], "label": "..."}, ...]`, as Gemma 4 and Gemini write it.

    The rules are those of `parse_qwen_json`. Objects with a `bbox_2d` or a `point_2d` and no `box_2d` are of the wrong
    kind: the order of their axes is unknown.

    >>> parse_gemma_json('[{"box_2d": [20, 10, 40, 30], "label": "cat"}]').boxes_xyxy
    ((10.0, 20.0, 30.0, 40.0),)
    >>> parse_gemma_json('[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]').n_dropped
    1
    """
    body, defects = unwrap(text)
    if len(body) > LONG_CHARS and has_slow_numbers(body):
        return Answer((), (), body.count("box_2d"), (*defects, Defect.BAD_BOX))
    try:
        items = _decode_items(body)
    except UNREADABLE:
        answer = read_objects(body, defects, "box_2d")
        return replace(answer, boxes_xyxy=_x_first(answer.boxes_xyxy))
    draft = Draft(defects)
    for item in items:
        y1, x1, y2, x2 = item.box_2d
        draft.add_box((x1, y1, x2, y2), item.label)
        if not item.label or item.label.isspace():
            draft.add_defect(Defect.NO_LABEL)
    return draft.answer()


def _x_first(boxes_yxyx: Boxes) -> Boxes:
    return tuple([(x1, y1, x2, y2) for y1, x1, y2, x2 in boxes_yxyx])


# Google publishes the format (Gemini's page on bounding boxes), but no fixed wording.
_FORM = (
    'Output a JSON list, in which each entry holds the box in "box_2d" as [y1, x1, y2, x2], normalized to 0-1000, and '
    'its name in "label".'
)
GEMMA_JSON = AnswerFormat(
    name="gemma-json",
    parse=parse_gemma_json,
    instruct=Wording(
        "gemma-json",
        {
            "detection": f"Detect all objects of these categories in the image: {{phrases}}. {_FORM}",
            "grounding": f"Detect every {{phrase}} in the image. {_FORM}",
            "counting": f"Detect every {{phrase}} in the image. {_FORM}",
        },
        " If there is none, output [].",
        described=dict.fromkeys(
            ("grounding", "counting"), f"Detect everything in the image that {{phrases}} describes. {_FORM}"
        ),
    ),
    example='[{"box_2d": [20, 10, 40, 30], "label": "cat"}]',
    frames=("gemma",),
    then=_FORM,
)
