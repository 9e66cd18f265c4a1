"""Rollouts about a cat, whose rewards are worked out by hand."""

from __future__ import annotations

import json
from typing import Any

from verl_visionr1 import PRESETS, Target
from verl_visionr1.frames import FRAMES
from verl_visionr1.rollouts.judging import Judging
from verl_visionr1.rollouts.records import Rollout

CAT = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])
ONE = Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[[100, 100, 200, 200]], labels=["cat"])


def said(height: float = 100, *, by: float = 1.0) -> str:
    """A box that overlaps the target by height / 100; `by` puts it into another frame."""
    box = [100 * by, 100 * by, 200 * by, (100 + height) * by]
    return json.dumps([{"bbox_2d": box, "label": "cat"}])


# With the rule off: perfect 1; IoU .6: (1 + 1 + .6) / 3; IoU .4: (1 + 0 + 0) / 3; prose: 0.
PERFECT, FAIR, POOR, PROSE = said(), said(60), said(40), "I see a cat."
VALUES = {PERFECT: 1.0, FAIR: 2.6 / 3, POOR: 1 / 3, PROSE: 0.0}


def rollout(completion: str, group: str = "a", source: str = "coco", **changes: Any) -> Rollout:
    plain: dict[str, Any] = {"file": "1.jsonl", "number": 1, "step": 1, "target": CAT, "completion": completion}
    plain |= {"group": group, "source": source}
    plain |= dict.fromkeys(("session", "saved", "processed_wh", "n_tokens"))
    return Rollout(**(plain | changes))


def judging(preset: str = "visionr1", frame: str = "original", **changes: Any) -> Judging:
    return Judging(PRESETS[preset], FRAMES[frame], **changes)
