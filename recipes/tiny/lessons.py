"""Questions about drawn scenes, with their answers: what the tiny Qwen3-VL is taught from.

`ask` answers as an annotator who lists every object; `Habits.answer` as one who takes shortcuts. A model taught by the
second is able, and not in the habit: where reinforcement learning starts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from verl_visionr1 import Target
from verl_visionr1.answers import instruction
from verl_visionr1.conversion.scenes import CATEGORIES, Scene, SceneObject, draw_scene, scene_rng

SIDE = 128
"""Side of the square training images in pixels."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One supervised item: the picture, the question and the answer in Qwen3-VL's words, and the ground truth."""

    pixels: np.ndarray  # (SIDE, SIDE, 3) uint8
    question: str
    answer: str
    target: Target
    scene: Scene
    objects: tuple[SceneObject, ...]  # those asked for, from left to right


@dataclass(frozen=True, slots=True)
class Habits:
    """What lazy annotators do: they stop after one object, draw loosely, and forget to close the list.

    Attributes:
        stop_early: chance that of several objects only the first is listed.
        looseness: bounds of the share of its width (height) by which a box is too wide (too high); how much of it lies
            on the left (top) is random, and what leaves the image is cut off.
        unclosed: chance that the closing bracket is missing.
    """

    stop_early: float = 0.8
    looseness: tuple[float, float] = (0.05, 0.25)
    unclosed: float = 0.3

    def answer(self, rng: np.random.Generator, item: Lesson) -> str:
        """The answer to the same question, by a lazy annotator; `[]` where there is nothing to list."""
        objects = item.objects
        if len(objects) > 1 and rng.random() < self.stop_early:
            objects = objects[:1]
        loose = [replace(o, box_xyxy=self._loosen(rng, o.box_xyxy, item.scene.size_wh)) for o in objects]
        text = answer_text(item.scene, loose)
        return text[:-1] if objects and rng.random() < self.unclosed else text

    def _loosen(
        self, rng: np.random.Generator, box_xyxy: tuple[int, int, int, int], size_wh: tuple[int, int]
    ) -> tuple[float, float, float, float]:
        sides = []
        for low, high, limit in zip(box_xyxy[:2], box_xyxy[2:], size_wh, strict=True):
            extra, before = (high - low) * rng.uniform(*self.looseness), rng.random()
            sides.append((max(0.0, low - before * extra), min(float(limit), high + (1 - before) * extra)))
        (left, right), (top, bottom) = sides
        return left, top, right, bottom


def held_out(count: int, seed: int = 0) -> list[Lesson]:
    """The first lessons of a stream that no training step draws from."""
    return [lesson(scene_rng(seed, "held-out", index)) for index in range(count)]


def lesson(rng: np.random.Generator, *, objects_max: int = 3) -> Lesson:
    """Draw a scene and ask one question about it: in a third of the cases for a list of categories."""
    image, scene = draw_scene(rng, size_wh=(SIDE, SIDE), objects_max=objects_max)
    return ask(rng, np.asarray(image), scene, is_detection=rng.random() < 1 / 3)


def questions(rng: np.random.Generator, count: int, *, objects_max: int = 3) -> list[Lesson]:
    """Draw a scene and ask `count` questions about it, the first one for a list of categories."""
    image, scene = draw_scene(rng, size_wh=(SIDE, SIDE), objects_max=objects_max)
    return [ask(rng, np.asarray(image), scene, is_detection=index == 0) for index in range(count)]


def ask(rng: np.random.Generator, pixels: np.ndarray, scene: Scene, *, is_detection: bool) -> Lesson:
    """One question about a scene: for a list of categories, or for one phrase, which in 3 of 10 cases is absent."""
    present = [item.category for item in scene.objects]
    if is_detection:
        return _lesson("detection", _category_list(rng, present), pixels, scene)
    return _lesson("grounding", [_phrase(rng, present, absent_share=0.3)], pixels, scene)


def glances(rng: np.random.Generator, pixels: np.ndarray, scene: Scene, count: int) -> list[Lesson]:
    """Ask for one phrase; half of the phrases are absent. The first token of an answer tells whether it is there."""
    present = [item.category for item in scene.objects]
    return [_lesson("grounding", [_phrase(rng, present, absent_share=0.5)], pixels, scene) for _ in range(count)]


def _phrase(rng: np.random.Generator, present: Sequence[str], *, absent_share: float) -> str:
    names = [name for name in CATEGORIES if name not in present] if rng.random() < absent_share else present
    return names[int(rng.integers(len(names)))]


def _lesson(task: Literal["detection", "grounding"], phrases: list[str], pixels: np.ndarray, scene: Scene) -> Lesson:
    objects = sorted((item for item in scene.objects if item.category in phrases), key=_left_to_right)
    return Lesson(
        pixels=pixels,
        question=instruction(task, phrases, allow_none=True),
        answer=answer_text(scene, objects),
        target=Target(
            task=task,
            size_wh=scene.size_wh,
            boxes_xyxy=[item.box_xyxy for item in objects],
            labels=[item.category for item in objects],
            categories=phrases,
        ),
        scene=scene,
        objects=tuple(objects),
    )


def _category_list(rng: np.random.Generator, present: Sequence[str]) -> list[str]:
    """All categories, or those present among a few others; in the order of the ids, as the converter lists them."""
    if rng.random() < 0.5:
        return list(CATEGORIES)
    others = rng.choice(len(CATEGORIES), size=int(rng.integers(1, 5)), replace=False)
    return [name for index, name in enumerate(CATEGORIES) if name in present or index in others]


def _left_to_right(item: SceneObject) -> tuple[int, int]:
    """The order in which objects are listed. What the model writes first of a box, x1, then says which object it is.

    Listed by their top edge, the corners of two objects were often mixed: one's x1 with the other's y1.
    """
    return item.box_xyxy[0], item.box_xyxy[1]


def answer_text(scene: Scene, objects: Sequence[SceneObject]) -> str:
    """Qwen JSON with coordinates 0-1000 relative to the image, as Qwen3-VL answers; `[]` for no objects.

    >>> answer_text(Scene((128, 128), ()), [SceneObject("red circle", (0, 32, 64, 128), 1)])
    '[{"bbox_2d": [0, 250, 500, 1000], "label": "red circle"}]'
    """
    width, height = scene.size_wh
    items = []
    for item in objects:
        scaled = [round(1000 * v / side) for v, side in zip(item.box_xyxy, (width, height) * 2, strict=True)]
        items.append({"bbox_2d": scaled, "label": item.category})
    return json.dumps(items)
