"""Ground truths at five image sizes, and answers to them, for the tests of other frameworks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from verl_visionr1 import FRAMES, Target, score

SIZES_WH = ((640, 480), (500, 375), (4032, 3024), (332, 1000), (64, 48))
Processed = Callable[[tuple[int, int]], tuple[int, int]]


def make_target(size_wh: tuple[int, int]) -> Target:
    """Two objects in the image, of two labels, at quarters of its sides: whole numbers in each frame."""
    width, height = size_wh
    boxes = [[0.25 * width, 0.25 * height, 0.5 * width, 0.75 * height], [0.5 * width, 0, 1.0 * width, 0.5 * height]]
    return Target(task="detection", size_wh=size_wh, boxes_xyxy=boxes, labels=["cat", "dog"])


def perfect_answer(target: Target, frame: str, processed_wh: tuple[int, int] | None = None) -> str:
    """What a model that sees everything writes, in whole numbers of its frame."""
    width, height = FRAMES[frame].size_wh(target.size_wh, processed_wh)
    sx, sy = width / target.size_wh[0], height / target.size_wh[1]
    boxes = [[round(x1 * sx), round(y1 * sy), round(x2 * sx), round(y2 * sy)] for x1, y1, x2, y2 in target.boxes_xyxy]
    objects = [{"bbox_2d": box, "label": label} for box, label in zip(boxes, target.labels, strict=True)]
    return json.dumps(objects)


def make_answers(frame: str, processed: Processed, seed: int = 0) -> list[tuple[Target, str]]:
    """40 answers: a perfect one at each size first, then shifted, cut off, doubled, empty and wordy ones."""
    rng = random.Random(seed)
    targets = [make_target(size_wh) for size_wh in SIZES_WH]
    perfect = [(target, perfect_answer(target, frame, processed(target.size_wh))) for target in targets]
    spoiled = []
    for target, answer in perfect:
        objects = json.loads(answer)
        shifted = [dict(one, bbox_2d=[value + rng.randint(-20, 20) for value in one["bbox_2d"]]) for one in objects]
        swapped = [dict(one, label="dog" if one["label"] == "cat" else "cat") for one in objects]
        texts = [json.dumps(shifted), json.dumps(swapped), json.dumps(objects[:1]), json.dumps(objects * 2)]
        texts += [answer[:-20], "[]", f"<think>two</think>{answer}"]
        spoiled += [(target, text) for text in texts]
    return [*perfect, *spoiled]


def largest_difference(
    given: list[float], rows: list[tuple[Target, str]], frame: str, processed: Processed, metric: str = "value", **when
) -> float:
    """The largest difference between what a framework gave and what `score` says."""
    told = [score(text, one, frame=frame, processed_wh=processed(one.size_wh), **when) for one, text in rows]
    expected = [one.value if metric == "value" else one.metrics[metric] for one in told]
    return max(abs(a - b) for a, b in zip(given, expected, strict=True))
