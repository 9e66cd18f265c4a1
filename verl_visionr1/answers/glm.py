"""GLM-4.1V, GLM-4.5V and GLM-4.6V: `<|begin_of_box|>[[x1,y1,x2,y2]]<|end_of_box|>`, or JSON with labels inside."""

from __future__ import annotations

from msgspec.structs import replace

from verl_visionr1.answers.base import MAX_BOXES, Answer, AnswerFormat, Defect
from verl_visionr1.answers.draft import Draft, read_lists
from verl_visionr1.answers.envelope import after_reasoning, cut, empty_answer, inside_fence
from verl_visionr1.answers.qwen import parse_qwen_json

BOX_START, BOX_END = "<|begin_of_box|>", "<|end_of_box|>"


def parse_glm(text: str) -> Answer:
    """Read the text between each `<|begin_of_box|>` and its `<|end_of_box|>`.

    The text is a box or a list of boxes without labels, in brackets of any kind (the model card: `[]`, `[[]]`, `()`,
    `<>` all mean the same); or Qwen's JSON, with labels. Words around the tokens are part of the format. Without the
    tokens (a tokenizer may skip them), the content alone is well-formed. `None` and `[]` are empty answers.
    """
    body, around = cut(*after_reasoning(text.strip()))
    parts, is_closed = _split_boxes(body)
    if not is_closed:
        around = (*around, Defect.TRUNCATED)
    inner, fenced = inside_fence("\n".join(parts) if parts else body)
    if not fenced and Defect.PROSE not in around:
        around = (*around, Defect.PROSE)
    empty = empty_answer(inner, around)
    if empty is not None:
        return empty
    if "_2d" in inner:
        answer = parse_qwen_json(inner)
        return replace(answer, defects=tuple(dict.fromkeys((*around, *answer.defects))))
    return read_lists(parts if len(parts) > 1 else [inner], Draft(around), openings="[(<{")


def _split_boxes(body: str) -> tuple[list[str], bool]:
    """Return the texts between the tokens, and whether the last one is closed."""
    pieces = body.split(BOX_START, MAX_BOXES)[1:]
    parts = [piece.split(BOX_END, 1)[0].strip() for piece in pieces]
    return parts, not pieces or BOX_END in pieces[-1]


# The grounding question is the model card's; the other two are worded after it.
_PINPOINT = (
    "Please pinpoint the bounding box [[x1,y1,x2,y2], ...] {}in the image as per the given description. {{phrase}}"
)
GLM = AnswerFormat(
    "glm",
    parse_glm,
    "<|begin_of_box|>[[10,20,30,40]]<|end_of_box|>",
    {
        "detection": "Please detect all objects of these categories in the image: {phrases}. Output the result as "
        'a JSON list: [{"label": "category", "bbox_2d": [x1,y1,x2,y2]}, ...].',
        "grounding": _PINPOINT.format(""),
        "counting": _PINPOINT.format("of every object "),
    },
    " If there is none, output None.",
    frames=("glm",),
)
