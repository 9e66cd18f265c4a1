"""Synthetic targets of the battery: a few scenes per task, each with its perfect answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from verl_visionr1.answers.writers import SIDE, Item
from verl_visionr1.masks import Mask
from verl_visionr1.targets import Target

SIZE_WH = (SIDE, SIDE)
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Scene:
    """One target of the battery.

    Attributes:
        items: the perfect answer, in the target's order.
        wrong, hedges: for texts, a wrong answer of the same kind, and answers that only seem right.
    """

    name: str
    target: Target
    items: tuple[Item, ...]
    wrong: str = ""
    hedges: tuple[str, ...] = ()

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases asked for."""
        return tuple(dict.fromkeys((*self.target.labels, *self.target.categories)))


# Multiples of 125, so that every frame can write them exactly (1000, 1 and 1024 are all whole multiples of an eighth).
_CORNERS: tuple[Box, ...] = ((125, 125, 375, 375), (500, 125, 750, 375), (125, 500, 375, 750), (500, 500, 750, 750))
_GRID: tuple[Box, ...] = tuple(
    [(10.0 + 80 * i, 10.0 + 75 * j, 60.0 + 80 * i, 60.0 + 75 * j) for j in range(10) for i in range(12)]
)
_NAMES = ("cat", "dog", "cow", "red bus")
JUNK: tuple[Box, ...] = tuple([(104.0 + 44 * i, 820.0, 144.0 + 44 * i, 860.0) for i in range(20)])
"""Boxes below every object of every scene."""


SIZES: Mapping[str, Box] = MappingProxyType(
    {
        "step": (500, 125, 501, 126),
        "thin": (500, 125, 501, 750),
        "tiny": (500, 125, 504, 129),
        "whole": (0, 0, SIDE, SIDE),
    }
)
"""One object of an extreme size: one step of the frame, one step wide, a few steps, the whole image."""


_ONE_LABEL = ("one", "several", *SIZES)


def centre(box: Box) -> tuple[float, float]:
    """The centre of a box."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _scene(task: str, name: str, things: tuple[tuple[Box, str], ...]) -> Scene:
    """A scene with boxes, for pointing also with masks and points."""
    boxes, labels = [box for box, _ in things], [label for _, label in things]
    points = [centre(box) for box in boxes] if task == "pointing" else []
    corners = [(x1, y1, x2, y1, x2, y2, x1, y2) for x1, y1, x2, y2 in boxes]
    masks = [Mask(polygons=(polygon,)) for polygon in corners] if points else []
    asked = () if name in _ONE_LABEL else _NAMES[:1] if task == "grounding" else _NAMES
    target = Target(
        task=task, size_wh=SIZE_WH, boxes_xyxy=boxes, points_xy=points, masks=masks, labels=labels, categories=asked
    )
    return Scene(name, target, tuple(zip(points or boxes, labels, strict=True)))


def _count_scenes(kind: str) -> tuple[Scene, ...]:
    """Scenes of counting; `kind` of the answer: "count", or "boxes" or "points" to be counted."""
    scenes: list[Scene] = []
    for name, n in (("negative", 0), ("one", 1), ("several", 7), ("many", len(_GRID))):
        boxes = _GRID[:n]
        target = Target(task="counting", size_wh=SIZE_WH, count=n, boxes_xyxy=boxes, labels=["cat"] * n)
        coordinates = boxes if kind == "boxes" else [centre(box) for box in boxes]
        scenes.append(Scene(name, target, tuple([(tuple(xs), "cat") for xs in coordinates])))
    return tuple(scenes)


def _question(name: str, answer: str, wrong: str, hedges: Sequence[str], choices: Sequence[str] = ()) -> Scene:
    target = Target(task="text", answer=answer, choices=choices)
    return Scene(name, target, (((), answer),), wrong, tuple(hedges))


_QUESTIONS = (
    _question("choice", "B", "C", ("A B C D", "B or C", "A, B", "Because"), ("a cat", "a dog", "a cow", "a red bus")),
    _question("yes-no", "no", "yes", ("yes and no", "no or yes", "I know nothing", "Not yet", "nothing")),
    _question("number", "42", "17", ("17 42 58", "421", "1424", "42 or 17")),
    _question("phrase", "red traffic light", "blue bicycle", ("red traffic light or blue bicycle", "r")),
    _question("math", "\\frac{1}{2}", "\\frac{1}{3}", ("\\frac{1}{2} or \\frac{1}{3}", "\\frac{1}{2}, \\frac{1}{3}")),
)


def list_scenes(task: str, kind: str) -> tuple[Scene, ...]:
    """The scenes of a task for answers of boxes, points, a count or words."""
    if task == "text":
        return _QUESTIONS
    if task == "counting":
        return _count_scenes(kind)
    layouts = {
        "one": ((_CORNERS[0], "cat"),),
        "several": tuple([(box, "cat") for box in _CORNERS[:3]]),
        "labels": tuple(zip(_CORNERS, ("cat", "cat", "dog", "cow"), strict=True)),
        "many": tuple([(box, _NAMES[i % 4]) for i, box in enumerate(_GRID)]),
        "negative": (),
    }
    sizes = {} if task == "pointing" else {name: ((box, "cat"),) for name, box in SIZES.items()}
    return tuple(_scene(task, name, things) for name, things in {**layouts, **sizes}.items())
