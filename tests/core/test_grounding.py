from __future__ import annotations

import json

import pytest

from verl_visionr1 import Target, score
from verl_visionr1.boxes import Box

LEFT, RIGHT = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0)
SIZE = (640, 480)
METRIC = {"vlmr1-rec": "iou", "rec-iou2": "iou2", "rec-giou": "giou", "rec-hit": "hit"}


def phrases(**referents: list[Box]) -> Target:
    boxes = [(box, phrase) for phrase, its_boxes in referents.items() for box in its_boxes]
    return Target(
        task="grounding",
        size_wh=SIZE,
        boxes_xyxy=[box for box, _ in boxes],
        labels=[phrase for _, phrase in boxes],
        categories=list(referents),
    )


def said(*items: tuple[Box, str]) -> str:
    return json.dumps([{"bbox_2d": list(box), "label": label} for box, label in items])


def judged(text: str, target: Target) -> list[float]:
    return [score(text, target, preset=preset).metrics[metric] for preset, metric in METRIC.items()]


def moved(box: Box, by: float) -> Box:
    return (box[0] + by, box[1], box[2] + by, box[3])


ONE, TWO = phrases(cat=[LEFT]), phrases(cat=[LEFT], dog=[RIGHT])
HALF: Box = (0.0, 0.0, 100.0, 50.0)
WHOLE: Box = (0.0, 0.0, 640.0, 480.0)
SHARE = 100 * 100 / (640 * 480)
# completion, target -> iou, iou2, giou, hit
TABLE = {
    "perfect": (said((LEFT, "cat")), ONE, [1, 1, 1, 1]),
    "one phrase: its label cannot be wrong": (said((LEFT, "the animal")), ONE, [1, 1, 1, 1]),
    "IoU .5": (said((HALF, "cat")), ONE, [0.5, 0.25, 0.75, 1]),
    "IoU .6": (said((moved(LEFT, 25), "cat")), ONE, [0.6, 0.36, 0.8, 1]),
    "IoU 1/3": (said((moved(LEFT, 50), "cat")), ONE, [1 / 3, 1 / 9, 2 / 3, 0]),
    "apart, but near": (said((moved(LEFT, 100), "cat")), ONE, [0, 0, 0.5, 0]),
    "apart, and farther": (said((moved(LEFT, 300), "cat")), ONE, [0, 0, 0.25, 0]),
    "the whole image": (said((WHOLE, "cat")), ONE, [SHARE, SHARE**2, (1 + SHARE) / 2, 0]),
    "the right box and another": (said((LEFT, "cat"), (RIGHT, "cat")), ONE, [0.5] * 4),
    "twice": (said((LEFT, "cat"), (LEFT, "cat")), ONE, [0.5] * 4),
    "nothing said": ("[]", ONE, [0, 0, 0, 0]),
    "prose": ("the cat on the left", ONE, [0, 0, 0, 0]),
    "inverted": (said(((100, 100, 0, 0), "cat")), ONE, [0, 0, 0, 0]),
    "two phrases": (said((RIGHT, "dog"), (LEFT, "cat")), TWO, [1, 1, 1, 1]),
    "two phrases, one said": (said((RIGHT, "dog")), TWO, [0.5] * 4),
    "two phrases, both boxes for one": (said((RIGHT, "cat"), (LEFT, "cat")), TWO, [0.5] * 4),
    "two phrases, a label nobody asked for": (said((RIGHT, "dog"), (LEFT, "cow")), TWO, [0.5] * 4),
    "two referents": (said((RIGHT, "cats"), (LEFT, "cats")), phrases(cats=[LEFT, RIGHT]), [1, 1, 1, 1]),
    "two referents, one box around both": (
        said(((0, 0, 300, 100), "cats")),
        phrases(cats=[LEFT, RIGHT]),
        [1 / 6, 1 / 18, 1 / 3, 0],
    ),
    "a phrase without a referent": ("[]", phrases(cat=[]), [1, 1, 1, 1]),
    "a phrase without a referent: None": ("None", phrases(cat=[]), [1, 1, 1, 1]),
    "a box for a phrase without a referent": (said((LEFT, "cat")), phrases(cat=[]), [0, 0, 0, 0]),
    "one of two phrases has a referent": (said((LEFT, "cat")), phrases(cat=[LEFT], dog=[]), [1, 1, 1, 1]),
    "the other is named too": (said((LEFT, "cat"), (RIGHT, "dog")), phrases(cat=[LEFT], dog=[]), [0.5] * 4),
}


@pytest.mark.parametrize(("text", "target", "expected"), TABLE.values(), ids=TABLE)
def test_values(text: str, target: Target, expected: list[float]) -> None:
    assert judged(text, target) == pytest.approx(expected)


def test_only_giou_tells_near_from_far() -> None:
    """A box that misses its object: each step towards it pays."""
    values = [judged(said((moved(LEFT, by), "cat")), ONE)[2] for by in range(500, -1, -20)]
    assert values == sorted(values)
    assert len(set(values)) == len(values)


def test_two_boxes_are_matched_by_what_is_judged() -> None:
    """By IoU nothing matches; by GIoU each box goes to its own side."""
    target = phrases(cats=[LEFT, RIGHT])
    text = said((moved(RIGHT, 110), "cats"), (moved(LEFT, -0.5), "cats"))
    assert judged(text, target)[2] > judged(said((moved(LEFT, -0.5), "cats")), target)[2]
