"""Targets of each task, and answers about them."""

from __future__ import annotations

import json
from typing import Any

from verl_visionr1 import Target
from verl_visionr1.boxes import Box

VISIONR1 = ("format", "recall", "precision")
BOUNDED = ["visionr1", "visionr1-paper"]

Labelled = tuple[Box, str]
CAT: Labelled = ((100, 100, 200, 200), "cat")
DOG: Labelled = ((300, 100, 400, 300), "dog")
COW: Labelled = ((450, 300, 600, 400), "cow")
TARGET = Target(task="detection", size_wh=(640, 480), boxes_xyxy=[CAT[0], DOG[0]], labels=["cat", "dog"])
NEGATIVE = Target(task="detection", size_wh=(640, 480), categories=["cat", "dog"])
TARGETS = {
    "detection": (TARGET, NEGATIVE),
    "grounding": (
        Target(task="grounding", size_wh=(640, 480), boxes_xyxy=[CAT[0]], labels=["the cat"]),
        Target(task="grounding", size_wh=(640, 480), categories=["the cat"]),
    ),
    "counting": (
        Target(task="counting", size_wh=(640, 480), boxes_xyxy=[CAT[0], DOG[0]], count=2),
        Target(task="counting", size_wh=(640, 480), count=0),
    ),
    "pointing": (
        Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[CAT[0], DOG[0]], labels=["cat", "dog"]),
        Target(task="pointing", size_wh=(640, 480), points_xy=[(5, 6)], labels=["cat"], categories=["dog"]),
        Target(task="pointing", size_wh=(640, 480), categories=["cat"]),
    ),
    "text": (
        Target(task="text", answer="B", choices=["a cat", "a dog"]),
        Target(task="text", answer="yes"),
        Target(task="text", answer="1/2", size_wh=(640, 480)),
    ),
}


def said(*items: Labelled, **more: Any) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label, **more} for box, label in items])


def shifted(item: Labelled, by: float) -> Labelled:
    (x1, y1, x2, y2), label = item
    return (x1 + by, y1, x2 + by, y2), label
