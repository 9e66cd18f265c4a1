"""Qwen JSON: `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]`, as Qwen2.5-VL and Qwen3-VL write it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec

from verl_visionr1.answers.base import Answer, AnswerFormat, Defect, limit_boxes
from verl_visionr1.answers.envelope import UNREADABLE, unwrap
from verl_visionr1.answers.objects import LONG_CHARS, decode_cut_off, has_slow_numbers, read_objects
from verl_visionr1.answers.wording import Wording
from verl_visionr1.boxes import Box

_ASK = Wording(
    "qwen-json",
    {
        "detection": "Locate every item from the category list in the image and output the coordinates in JSON format. "
        "The category set includes {phrases}.",
        "grounding": "Locate every {phrase} in the image and output the coordinates in JSON format.",
        "counting": "Locate every {phrase} in the image and output the coordinates in JSON format.",
    },
    " If there is none, output [].",
    described=dict.fromkeys(
        ("grounding", "counting"),
        "Locate everything in the image that {phrases} describes and output the coordinates in JSON format.",
    ),
)


def write_json(places: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """Write boxes (four numbers each) or points (two) as Qwen's models do; missing labels become "".

    >>> write_json([(1, 2)], ["cat"])
    '[{"point_2d": [1, 2], "label": "cat"}]'
    """
    pairs = zip(places, labels or ("",) * len(places), strict=True)
    items = [{"bbox_2d" if len(xs) == 4 else "point_2d": [*xs], "label": label} for xs, label in pairs]
    return json.dumps(items, ensure_ascii=False)


def instruction(task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
    """Return the user's turn that asks for Qwen JSON, in Vision-R1's wording (arXiv 2503.18013, released code).

    Args:
        task: "detection" (every object of the category list), "grounding" or "counting" (one phrase; the boxes are
            the count).
        phrases: the category list, or a list of one phrase.
        allow_none: also state what to answer if there is no object. Set it for all rows of a dataset with negatives,
            or the wording gives the answer away.

    Raises:
        ValueError: another task, no phrase, or several phrases where the task takes one.

    >>> instruction("grounding", ["red circle"])
    'Locate every red circle in the image and output the coordinates in JSON format.'
    """
    return _ASK(task, phrases, allow_none=allow_none)


class _Item(msgspec.Struct, gc=False):
    bbox_2d: tuple[float, float, float, float]
    label: str


_decode_items = msgspec.json.Decoder(list[_Item]).decode


def parse_qwen_json(text: str) -> Answer:
    r"""Read `[{"bbox_2d": [x1, y1, x2, y2], "label": "..."}, ...]`, as Qwen2.5-VL and Qwen3-VL write it.

    Well-formed: that list alone, optionally in a ``` fence, after a closed `<think>` and inside `<answer>`. `[]` and
    `None` are empty answers; further keys in an object are allowed. From truncated lists, prose and broken JSON the
    complete objects are read, and the defect is named. Boxes in the reasoning are never read, closed or not. An object
    with a `point_2d` and no box is of the wrong kind.

    >>> parse_qwen_json('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]').boxes_xyxy
    ((1.0, 2.0, 3.0, 4.0),)
    >>> cut = parse_qwen_json('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6')
    >>> cut.labels, [defect.value for defect in cut.defects]
    (('cat',), ['truncated'])
    >>> parse_qwen_json("None").defects
    ()
    """
    body, defects = unwrap(text)
    if len(body) > LONG_CHARS and has_slow_numbers(body):
        return Answer((), (), body.count("bbox_2d"), (*defects, Defect.BAD_BOX))
    cut_off: tuple[Defect, ...] = ()
    try:
        items = _decode_items(body)
    except UNREADABLE:
        complete = decode_cut_off(body, _decode_items)
        if complete is None:
            return read_objects(body, defects, "bbox_2d")
        items, cut_off = complete, (Defect.TRUNCATED,)
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
    return limit_boxes(boxes, labels, n_dropped, (*defects, *cut_off))


_THINK = (
    "First output the thinking process in <think> </think> tags and then output the final answer in "
    "<answer> </answer> tags."
)
_ask_vlmr1 = Wording(
    "vlmr1-json",
    {
        "detection": "First thinks about the reasoning process in the mind and then provides the user with the answer. "
        "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
        "respectively, i.e., <think> reasoning process here </think><answer> answer here </answer>\n"
        "Please carefully check the image and detect the following objects: {phrases}. Output each detected target's "
        "bbox coordinates in JSON format. The format of the bbox coordinates is:\n```json\n"
        '[{"bbox_2d": [x1, y1, x2, y2], "label": "target name"}, ...]\n```\n'
        "If there are no such targets in the image, simply respond with None.",
        "grounding": "Please provide the bounding box coordinate of the region this sentence describes: {phrase}. "
        f"{_THINK} Output the final answer in JSON format.",
    },
)


def instruction_vlmr1(task: str, phrases: Sequence[str], *, allow_none: bool = False) -> str:
    """Like `instruction`, in VLM-R1's wording (arXiv 2504.07615 and its released code), which asks for reasoning first.

    Its detection prompt always states what to answer if there is no object; for grounding `allow_none` adds it.

    >>> instruction_vlmr1("grounding", ["the left cat"])[:88]
    'Please provide the bounding box coordinate of the region this sentence describes: the le'
    """
    text = _ask_vlmr1(task, phrases)
    return text + " If there is none, output None." if allow_none and task == "grounding" else text


QWEN_JSON = AnswerFormat(
    name="qwen-json",
    parse=parse_qwen_json,
    instruct=instruction,
    example='[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]',
    frames=("qwen2.5-vl", "qwen3-vl"),
    then="Output the coordinates in JSON format.",
)
VLMR1_JSON = AnswerFormat(
    name="vlmr1-json",
    parse=parse_qwen_json,
    instruct=instruction_vlmr1,
    example="<think>The cat is on the left.</think>\n<answer>\n"
    '```json\n[{"bbox_2d": [10, 20, 30, 40], "label": "cat"}]\n```\n</answer>',
    frames=("qwen2.5-vl", "qwen3-vl"),
    then=f"{_THINK} Output the final answer in JSON format.",
)
