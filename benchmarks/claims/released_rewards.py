"""VLM-R1's released rewards of boxes, for a model with another frame and without VLM-R1's tags.

The released code compares the model's numbers with pixels without conversion, and reads a fenced list between
`<answer>` tags. So the answer is first rewritten in that form. Criteria of the study's arms; see `arms.py`.
"""

from __future__ import annotations

import json
from typing import Any

from verl_visionr1 import Target
from verl_visionr1.answers import Answer
from verl_visionr1.rewards.released import vlmr1_boxes


def released_ap(answer: Answer, target: Target) -> float:
    """`od_reward`: COCO's AP with equal scores, so that boxes after the correct ones cost nothing."""
    return vlmr1_boxes.od_ap(_as_released(answer), target)


def released_od_length(answer: Answer, target: Target) -> float:
    """`odLength_reward`: that AP, times n_T / n_P if there are more boxes than objects."""
    return vlmr1_boxes.od_length(_as_released(answer), target)


def released_weighted_sum(answer: Answer, target: Target) -> float:
    """`weighted_sum`: .7 * position + .3 * completeness."""
    return vlmr1_boxes.released_weighted_sum(_as_released(answer), target)


def _as_released(answer: Answer) -> str:
    """Write an answer with boxes in original pixels in VLM-R1's form; each dropped box becomes an empty item."""
    items: list[dict[str, Any]] = [
        {"bbox_2d": [*box], "label": label} for box, label in zip(answer.boxes_xyxy, answer.labels, strict=True)
    ]
    return f"<answer>```json\n{json.dumps(items + [{}] * answer.n_dropped)}\n```</answer>"
