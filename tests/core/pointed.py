"""Objects in an image, and points in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verl_visionr1 import Target
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, Point

Criterion = Callable[..., float]

GRID = (1.0, 1.0)
WH = (640, 480)
A: Box = (100, 100, 200, 200)
B: Box = (300, 100, 400, 300)
C: Box = (150, 150, 250, 250)  # overlaps A
IN_A, IN_B, IN_A_AND_C, IN_C = (150.0, 149.0), (350.0, 200.0), (175.0, 175.0), (220.0, 220.0)
NOWHERE = (600.0, 450.0)


def boxes(*boxes_xyxy: Box, **more: Any) -> Target:
    return Target(task="pointing", size_wh=WH, boxes_xyxy=boxes_xyxy, **more)


def points(*points_xy: Point, **more: Any) -> Answer:
    return Answer(points_xy=points_xy, **{"labels": ("",) * len(points_xy), **more})


CAT_DOG = boxes(A, B, labels=["cat", "dog"])
NONE = boxes()
