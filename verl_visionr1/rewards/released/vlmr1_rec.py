"""VLM-R1's rewards of referring expressions as its released code computes them, without its crashes.

They parse the completion themselves: the first `<answer>`, and in it the first four whole numbers in brackets. All
patterns of the released code are matched in linear time; the Qwen module's took time with the fourth power of the
number of boxes in a truncated answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from verl_visionr1.boxes import Array, Box, as_array
from verl_visionr1.criteria import OFF
from verl_visionr1.rewards.base import Criterion, CriterionFn, Preset
from verl_visionr1.schedule import constant
from verl_visionr1.targets import Target

# Linear: no two neighbours in these patterns can match the same character.
_FOUR = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")
_AFTER_BLANK = {newline: re.compile(rf"(?<=\s){newline}") for newline in ("\n", "\r")}
_THOUGHT_TO_ANSWER = re.compile(r"</think>\s*<answer>")


def iou_qwen(completion: str, target: Target, grid_wh: tuple[float, float]) -> float:
    """`iou_reward` of the Qwen module: IoU of the first box in the first `<answer>`, in [0, 1].

    Only whole numbers of at least 0 without inner blanks form a box. It is converted to original pixels (a unit is
    `grid_wh`) and compared with the target's first box; an overlap of at most one pixel in width or height counts as
    none. 0.0 without a target, where the released code crashes.
    """
    return _iou_of_first(completion, target, grid_wh, (1.0, 1.0), 1.0)


def iou_internvl(completion: str, target: Target, grid_wh: tuple[float, float]) -> float:
    """`iou_reward` of the InternVL module: as `iou_qwen`, with the target converted to the model's units."""
    return _iou_of_first(completion, target, (1.0, 1.0), grid_wh, 1.0)


def iou_glm(completion: str, target: Target, grid_wh: tuple[float, float]) -> float:
    """`iou_reward` of the GLM module: as `iou_internvl`, but any overlap counts."""
    return _iou_of_first(completion, target, (1.0, 1.0), grid_wh, 0.0)


def _iou_of_first(
    completion: str,
    target: Target,
    scale_wh: tuple[float, float],
    unit_wh: tuple[float, float],
    strip: float,
) -> float:
    box = _first_box(completion)
    if box is None or not target.boxes_xyxy:
        return 0.0
    (sx, sy), (ux, uy) = scale_wh, unit_wh
    x1, y1, x2, y2 = target.boxes_xyxy[0]
    p = (box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy)
    t = (x1 / ux, y1 / uy, x2 / ux, y2 / uy)
    return _stripped_iou_of_one(p, t, strip)


def _first_box(completion: str) -> Box | None:
    answer = next(between(completion, "<answer>", "</answer>"), None)
    found = None if answer is None else _FOUR.search(answer)
    if found is None:
        return None
    x1, y1, x2, y2 = map(float, found.groups())  # too many digits give inf, which overlaps nothing
    return x1, y1, x2, y2


def stripped_iou(predicted_xyxy: Sequence[Box], target_xyxy: Sequence[Box], strip: float) -> Array:
    """IoU of shape (P, T); an overlap of at most `strip` in width or height counts as none (1.0: the released IoU).

    Predicted boxes may be inverted, infinite or nan: they overlap nothing.
    """
    p, t = as_array(predicted_xyxy), as_array(target_xyxy)
    with np.errstate(all="ignore"):
        width = np.minimum(p[:, 2, None], t[:, 2]) - np.maximum(p[:, 0, None], t[:, 0])
        height = np.minimum(p[:, 3, None], t[:, 3]) - np.maximum(p[:, 1, None], t[:, 1])
        shared = np.where((width > strip) & (height > strip), width * height, 0.0)
        area_p, area_t = (p[:, 2] - p[:, 0]) * (p[:, 3] - p[:, 1]), (t[:, 2] - t[:, 0]) * (t[:, 3] - t[:, 1])
        iou_pt = np.where(shared > 0.0, shared / (area_p[:, None] + area_t - shared), 0.0)
    return np.where(np.isfinite(iou_pt), iou_pt, 0.0)


def _stripped_iou_of_one(p: Box, t: Box, strip: float) -> float:
    """`stripped_iou` of two boxes; the target's is valid."""
    width, height = min(p[2], t[2]) - max(p[0], t[0]), min(p[3], t[3]) - max(p[1], t[1])
    if not (width > strip and height > strip):  # nan fails too
        return 0.0
    shared = width * height
    overlap = shared / ((p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - shared)
    return overlap if math.isfinite(overlap) else 0.0


def format_rec_qwen(completion: str) -> float:
    """`format_reward_rec` of the Qwen module: 1.0 iff thinking, then an answer with four whole numbers inside braces.

    Any text may surround them, and the braces may even be between two answers.
    """
    return _format_rec(completion, braces=True)


def format_rec_internvl(completion: str) -> float:
    """`format_reward_rec` of the InternVL module: as `format_rec_qwen`, without the braces."""
    return _format_rec(completion, braces=False)


def format_rec_glm(completion: str) -> float:
    """`format_reward_rec` of the GLM module: 1.0 iff `<think>`, `<answer>` and `</answer>` follow one another."""
    return 1.0 if _follow(completion, 0, ("<think>", "<answer>", "</answer>")) else 0.0


def _format_rec(completion: str, *, braces: bool) -> float:
    # A pattern with gaps of any length matches iff its parts, each at its first possible place, follow one another.
    end = _follow(completion, 0, ("<think>",))
    turn = _THOUGHT_TO_ANSWER.search(completion, end) if end else None
    if turn is None:
        return 0.0
    start = _follow(completion, turn.end(), ("{",)) if braces else turn.end()
    box = _FOUR.search(completion, start) if start else None
    closing = ("}", "</answer>") if braces else ("</answer>",)
    return 1.0 if box is not None and _follow(completion, box.end(), closing) else 0.0


def _follow(text: str, start: int, parts: Sequence[str]) -> int:
    """Find `parts` one after the other from `start`; return the end of the last one, or 0 if one is missing."""
    for part in parts:
        at = text.find(part, start)
        if at < 0:
            return 0
        start = at + len(part)
    return start


def answer_format(completion: str) -> float:
    """`format_reward`: 1.0 iff the whole text is `<think>...</think>`, blanks, `<answer>...</answer>`."""
    if not completion.startswith("<think>") or not completion.endswith("</answer>"):
        return 0.0
    found = _THOUGHT_TO_ANSWER.search(completion, len("<think>"), len(completion) - len("</answer>"))
    return 0.0 if found is None else 1.0


def between(text: str, opening: str, closing: str) -> Iterator[str]:
    """Yield the text between each opening and the next closing, from left to right without overlap."""
    end = 0
    while (start := text.find(opening, end)) >= 0:
        start += len(opening)
        stop = text.find(closing, start)
        if stop < 0:
            return
        yield text[start:stop]
        end = stop + len(closing)


def cleaned_answer(text: str) -> str:
    """`clean_text`: the last `<answer>` (else all), in one line and lower case, without final full stops."""
    answer = (list(between(text, "<answer>", "</answer>")) or [text])[-1]
    for newline, after_blank in _AFTER_BLANK.items():
        answer = after_blank.sub("", answer).replace(newline, " ")
    return answer.strip().rstrip(".").lower()


def _preset(name: str, module: str, iou_of: CriterionFn, format_of: CriterionFn) -> Preset:
    return Preset(
        name,
        (Criterion("format", format_of), Criterion("iou", iou_of)),
        tasks=("grounding",),
        schedule=constant(OFF),
        is_sum=True,
        source=f"om-ai-lab/VLM-R1, vlm_modules/{module}.py",
    )


PRESETS = (
    _preset("vlmr1-rec-released", "qwen_module", iou_qwen, format_rec_qwen),
    _preset("vlmr1-rec-internvl-released", "internvl_module", iou_internvl, format_rec_internvl),
    _preset("vlmr1-rec-glm-released", "glm_module", iou_glm, format_rec_glm),
)
