"""VLM-R1's rewards of boxes as released, for a model that speaks in another frame and without VLM-R1's tags.

The released code compares the model's numbers with pixels as they stand and reads a fenced list between `<answer>`
tags. So the answer is first written as that code expects it. Criteria of the study's arms; see `arms.py`.
"""

from __future__ import annotations

import json
from typing import Any

from verl_visionr1 import Target
from verl_visionr1.answers import Answer
from verl_visionr1.rewards.released import vlmr1_boxes


def released_ap(answer: Answer, target: Target) -> float:
    """`od_reward`: COCO's AP with equal scores, so that boxes after the good ones cost nothing."""
    return vlmr1_boxes.od_ap(_as_released(answer), target)


def released_od_length(answer: Answer, target: Target) -> float:
    """`odLength_reward`: that AP, times n_T / n_P where the answer has more boxes than there are objects."""
    return vlmr1_boxes.od_length(_as_released(answer), target)


def released_weighted_sum(answer: Answer, target: Target) -> float:
    """`weighted_sum`: .7 * position + .3 * completeness."""
    return vlmr1_boxes.released_weighted_sum(_as_released(answer), target)


def _as_released(answer: Answer) -> str:
    """The answer, whose boxes are in pixels of the original image, in VLM-R1's form; what cannot be used is an item."""
    items: list[dict[str, Any]] = [
        {"bbox_2d": [*box], "label": label} for box, label in zip(answer.boxes_xyxy, answer.labels, strict=True)
    ]
    return f"<answer>```json\n{json.dumps(items + [{}] * answer.n_dropped)}\n```</answer>"
