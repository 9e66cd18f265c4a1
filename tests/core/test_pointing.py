"""Criteria of points: in a box, on a mask, at a distance, and clicks."""

from __future__ import annotations

import itertools
import json
import math
import random
from typing import Any

import pytest
from pointed import CAT_DOG, GRID, IN_A, IN_A_AND_C, IN_B, NONE, NOWHERE, WH, A, B, C, Criterion, boxes, points

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box
from verl_visionr1.criteria.pointing import RADIUS, click, point_distance, point_in_box, point_in_mask
from verl_visionr1.masks import Mask

TRIANGLE_A = Mask(polygons=[(100, 100, 200, 100, 100, 200)])  # the upper left half of A

IN_BOX: dict[str, tuple[Answer, Target, float]] = {
    "one of one": (points(IN_A), boxes(A), 1),
    "none of one": (points(NOWHERE), boxes(A), 0),
    "a corner": (points((100, 100)), boxes(A), 1),
    "the far corner": (points((200, 200)), boxes(A), 1),
    "just outside": (points((200.01, 200)), boxes(A), 0),
    "two of two, other order": (points(IN_B, IN_A), boxes(A, B), 1),
    "one of two": (points(IN_A), boxes(A, B), 1 / 2),
    "the same object twice": (points(IN_A, IN_A), boxes(A, B), 1 / 2),
    "a duplicate": (points(IN_A, IN_A), boxes(A), 1 / 2),
    "each ten times": (points(*[IN_A, IN_B] * 10), boxes(A, B), 1 / 10),
    "junk after": (points(IN_A, *[NOWHERE] * 3), boxes(A), 1 / 4),
    "junk before": (points(*[NOWHERE] * 3, IN_A), boxes(A), 1 / 4),
    "one that cannot be read": (points(IN_A, n_dropped=1), boxes(A), 1 / 2),
    "infinite": (points(IN_A, (math.inf, 0.0)), boxes(A), 1 / 2),
    "nan": (points(IN_A, (math.nan, 0.0)), boxes(A), 1 / 2),
    "huge": (points(IN_A, (1e308, -1e308)), boxes(A), 1 / 2),
    "nothing": (points(), boxes(A), 0),
    "overlapping objects, a point for each": (points(IN_A_AND_C, IN_A), boxes(A, C), 1),
    "overlapping objects, both points in one": (points(IN_A, IN_A), boxes(A, C), 1 / 2),
    "overlapping objects, one point": (points(IN_A_AND_C), boxes(A, C), 1 / 2),
    "three to choose from": (points(IN_A_AND_C, IN_A_AND_C, IN_A), boxes(A, C, B), 2 / 3),
    "a choice for one, none for two": (points(IN_A_AND_C, IN_B, IN_B), boxes(A, C, B), 2 / 3),
    "nothing there, nothing said": (points(), NONE, 1),
    "nothing there, one said": (points(IN_A), NONE, 0),
    "nothing there, one not readable": (points(n_dropped=1), NONE, 0),
    "labels right": (points(IN_A, IN_B, labels=("cat", "dog")), CAT_DOG, 1),
    "labels in capitals": (points(IN_A, IN_B, labels=(" CAT", "Dog")), CAT_DOG, 1),
    "labels swapped": (points(IN_A, IN_B, labels=("dog", "cat")), CAT_DOG, 0),
    "one label wrong": (points(IN_A, IN_B, labels=("cat", "cow")), CAT_DOG, 1 / 2),
    "labels not given": (points(IN_A, IN_B), CAT_DOG, 0),
    "one label: it cannot be wrong": (points(IN_A, labels=("x",)), boxes(A, labels=["cat"]), 1),
    "unless the prompt names more": (points(IN_A, labels=("x",)), boxes(A, labels=["cat"], categories=["cat", "x"]), 0),
    "a target without labels": (points(IN_A, labels=("x",)), boxes(A, categories=["cat", "x"]), 1),
    "boxes are no points": (Answer(boxes_xyxy=(A,), labels=("",)), boxes(A), 0),
    "boxes are not free": (Answer(boxes_xyxy=(A,), labels=("",)), NONE, 0),
    "boxes beside points": (points(IN_A, boxes_xyxy=(A,)), boxes(A), 1),
    "more boxes than points": (points(IN_A, boxes_xyxy=(A, B)), boxes(A), 1 / 2),
    "in a crowd": (points(IN_A, NOWHERE), boxes(A, ignore_xyxy=[(500, 400, 640, 480)]), 1),
    "in a crowd and on an object": (points(IN_A), boxes(A, ignore_xyxy=[(0, 0, 640, 480)]), 1),
    "twice on an object in a crowd": (points(IN_A, IN_A), boxes(A, ignore_xyxy=[(0, 0, 640, 480)]), 1 / 2),
    "only in a crowd": (points(NOWHERE), boxes(ignore_xyxy=[(500, 400, 640, 480)]), 1),
}


@pytest.mark.parametrize(("answer", "target", "expected"), IN_BOX.values(), ids=IN_BOX)
def test_point_in_box(answer: Answer, target: Target, expected: float) -> None:
    assert point_in_box(answer, target, GRID) == pytest.approx(expected)


def test_options() -> None:
    assert point_in_box(points(IN_A, IN_B), CAT_DOG, GRID, use_labels=False) == 1.0


BAD_OPTIONS = {
    "relative_to": (point_distance, {"relative_to": "box"}, "relative_to = 'box'"),
    "no sigma": (point_distance, {"sigma": 0.0}, "sigma = 0.0"),
    "nan": (point_distance, {"sigma": math.nan}, "sigma = nan"),
    "negative radius": (point_in_box, {"radius": -0.1}, "radius = -0.1"),
    "infinite radius": (click, {"radius": math.inf}, "radius = inf"),
}


@pytest.mark.parametrize(("criterion", "options", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_a_bad_option_is_an_error_whatever_was_said(criterion: Criterion, options: Any, message: str) -> None:
    target = Target(task="pointing", size_wh=WH, points_xy=[IN_A])
    for answer in (points(), points(IN_A)):
        with pytest.raises(ValueError, match=message):
            criterion(answer, target, GRID, **options)


UPPER, LOWER = (120.0, 120.0), (180.0, 180.0)  # both in A, only the first in the triangle


def test_point_in_mask() -> None:
    target = boxes(A, B, masks=[TRIANGLE_A, Mask(polygons=[(300, 100, 400, 100, 400, 300, 300, 300)])])
    assert point_in_mask(points(UPPER, IN_B), target, GRID) == 1.0
    assert point_in_mask(points(LOWER, IN_B), target, GRID) == 0.5
    assert point_in_box(points(LOWER, IN_B), target, GRID) == 1.0
    assert point_in_mask(points(LOWER, IN_B), boxes(A, B), GRID) == 1.0, "no masks: boxes"
    only_masks = Target(task="pointing", size_wh=WH, masks=[TRIANGLE_A])
    assert point_in_mask(points(LOWER), only_masks, GRID) == 0.0
    assert point_in_box(points(LOWER), only_masks, GRID) == 1.0, "no boxes: the box around the mask"


# step of the frame -> whether the nearest point, half a step away, is on a mask one pixel wide
@pytest.mark.parametrize(("grid_wh", "is_hit"), [((1.0, 1.0), 0.0), ((4.0, 4.0), 1.0), ((4.0, 1.0), 1.0)])
@pytest.mark.parametrize("has_box", [True, False])
def test_a_mask_thinner_than_a_step(grid_wh: tuple[float, float], is_hit: float, *, has_box: bool) -> None:
    box = (101.0, 100.0, 102.0, 300.0)
    mask = Mask(polygons=[(101, 100, 102, 100, 102, 300, 101, 300)])
    target = boxes(box, masks=[mask]) if has_box else Target(task="pointing", size_wh=WH, masks=[mask])
    assert point_in_mask(points((103.0, 200.0)), target, grid_wh) == is_hit
    assert point_in_mask(points((106.0, 200.0)), target, grid_wh) == 0.0


def test_masks_with_labels_and_crowds() -> None:
    other = Mask(polygons=[(200, 200, 200, 100, 100, 200)])
    target = Target(
        task="pointing",
        size_wh=WH,
        masks=[TRIANGLE_A, other],
        labels=["cat", "dog"],
        ignore_xyxy=[(500, 400, 640, 480)],
    )
    assert point_in_mask(points(UPPER, LOWER, NOWHERE, labels=("cat", "dog", "cow")), target, GRID) == 1.0
    assert point_in_mask(points(UPPER, LOWER, NOWHERE, labels=("dog", "cat", "cow")), target, GRID) == 0.0


def test_objects_known_by_a_point() -> None:
    target = Target(task="pointing", size_wh=(600, 800), points_xy=[(100, 100), (300, 300)])
    near, off = 0.999 * RADIUS * 1000, 1.001 * RADIUS * 1000  # the diagonal is 1000
    for criterion in (point_in_box, point_in_mask):
        assert criterion(points((100, 100 + near), (300 - near, 300)), target, GRID) == 1.0
        assert criterion(points((100, 100 + off), (300 - near, 300)), target, GRID) == 0.5
        assert criterion(points((100, 100), (105, 100)), target, GRID) == 0.5
        assert criterion(points((100, 100 + off)), target, GRID, radius=0.1) == 0.5
    assert point_in_box(points((103, 103), (300, 300)), target, (10, 10), radius=0.0) == 1.0, "half a step of the grid"


def test_a_box_thinner_than_a_step_can_be_hit() -> None:
    """An icon of 2 pixels on a screen of 3840, which a frame of 0-1000 sees in steps of 3.84."""
    rng = random.Random(0)
    step = 3840 / 1000
    for _ in range(200):
        x, y = rng.uniform(0, 3800), rng.uniform(0, 2100)
        target = Target(task="pointing", size_wh=(3840, 2160), boxes_xyxy=[(x, y, x + 2, y + 2)])
        nearest = tuple(round((start + 1) / step) * step for start in (x, y))
        assert click(points(nearest), target, (step, step)) == 1.0
        assert click(points((nearest[0] + 2 * step, nearest[1])), target, (step, step)) == 0.0


def test_a_change_of_frame_costs_nothing_at_the_edge() -> None:
    for x in range(8, 1000):
        edge = x * 640 / 1000
        target = Target(task="pointing", size_wh=(640, 480), boxes_xyxy=[(edge - 5, 0, edge, 480)])
        text = json.dumps([{"point_2d": [x, 500], "label": "cat"}])
        assert score(text, target, preset="pointing", frame="qwen3-vl").value == 1.0
        lying = Target(task="pointing", size_wh=(480, 640), boxes_xyxy=[(0, edge - 5, 480, edge)])
        text = json.dumps([{"point_2d": [500, x], "label": "cat"}])
        assert score(text, lying, preset="pointing", frame="qwen3-vl").value == 1.0


def test_distance_is_gui_g2s_gaussian() -> None:
    """exp(-(dx^2 / (alpha w)^2 + dy^2 / (alpha h)^2) / 2) with alpha = .5."""
    for dx, dy in ((0, 0), (50, 0), (0, 100), (50, 100), (-20, 30)):
        expected = math.exp(-0.5 * ((dx / (0.5 * 100)) ** 2 + (dy / (0.5 * 200)) ** 2))
        assert point_distance(points((350 + dx, 200 + dy)), boxes(B), GRID) == pytest.approx(expected)
    assert point_distance(points((400, 200)), boxes(B), GRID, sigma=1.0) == pytest.approx(math.exp(-0.125))


def test_distance_in_the_image_is_onethinkers_kernel() -> None:
    """exp(-d^2 / (2 50^2)) in a frame of 0-1000."""
    said, wanted = (350.0, 210.0), (320.0, 180.0)
    target = Target(task="pointing", size_wh=WH, points_xy=[wanted])
    d = math.hypot((said[0] - wanted[0]) * 1000 / 640, (said[1] - wanted[1]) * 1000 / 480)
    expected = math.exp(-(d**2) / (2 * 50**2))
    assert point_distance(points(said), target, GRID, relative_to="image") == pytest.approx(expected)
    assert point_distance(points(said), target, GRID) == pytest.approx(expected), "a point has no size"
    assert point_distance(points(said), target, GRID, sigma=0.5) == pytest.approx(expected), "the object's sigma"
    wider = point_distance(points(said), target, GRID, relative_to="image", sigma=0.1)
    assert wider == pytest.approx(math.exp(-(d**2) / (2 * 100**2)))


def test_distance_goes_to_the_objects_own_point() -> None:
    target = boxes(A, points_xy=[(110, 120)])
    assert point_distance(points((110, 120)), target, GRID) == 1.0
    assert point_distance(points((150, 150)), target, GRID) < 1.0
    assert point_distance(points((150, 150)), Target(task="pointing", size_wh=WH, masks=[TRIANGLE_A]), GRID) == 1.0


def test_distance_falls_all_the_way() -> None:
    for relative_to in ("object", "image"):
        values = [
            point_distance(points((150 + d, 150)), boxes(A), GRID, relative_to=relative_to) for d in range(0, 200, 10)
        ]
        assert values[0] == 1.0
        assert all(a > b > 0 for a, b in itertools.pairwise(values))
        assert point_distance(points((1e308, -1e308)), boxes(A), GRID, relative_to=relative_to) == 0.0
        far = points((1e308, -1e308), (150, 150))
        assert point_distance(far, boxes(A, B), GRID, relative_to=relative_to) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_distance_finds_the_best_pairs(seed: int) -> None:
    """Against every assignment, with and without labels."""
    rng = random.Random(seed)
    n_p, n_t = rng.randint(1, 5), rng.randint(1, 5)
    corners = [(rng.uniform(0, 500), rng.uniform(0, 400)) for _ in range(n_t)]
    targets: list[Box] = [(x, y, x + rng.uniform(5, 100), y + rng.uniform(5, 60)) for x, y in corners]
    said = [(rng.uniform(0, 600), rng.uniform(0, 450)) for _ in range(n_p)]
    labels = [rng.choice("ab") for _ in targets] if seed % 2 else []
    said_labels = [rng.choice("ab") for _ in said]
    near = [
        [
            0.0
            if labels and len({*labels}) > 1 and said_labels[p] != labels[t]
            else point_distance(points(said[p]), boxes(targets[t]), GRID)
            for t in range(n_t)
        ]
        for p in range(n_p)
    ]
    padded = [row + [0.0] * max(n_p - n_t, 0) for row in near] + [[0.0] * max(n_p, n_t)] * max(n_t - n_p, 0)
    n = max(n_p, n_t)
    best = max(sum(padded[p][t] for p, t in enumerate(order)) for order in itertools.permutations(range(n)))
    answer = points(*said, labels=tuple(said_labels))
    assert point_distance(answer, boxes(*targets, labels=labels), GRID) == pytest.approx(best / n)


@pytest.mark.parametrize("seed", range(8))
def test_in_box_finds_the_most_pairs(seed: int) -> None:
    rng = random.Random(seed)
    n_p, n_t = rng.randint(1, 6), rng.randint(1, 5)
    corners = [(rng.uniform(0, 60), 0.0) for _ in range(n_t)]
    targets: list[Box] = [(x, y, x + rng.uniform(10, 40), 100.0) for x, y in corners]
    said = [(rng.uniform(0, 100), rng.uniform(0, 100)) for _ in range(n_p)]
    hit = [[t[0] <= x <= t[2] and t[1] <= y <= t[3] for t in targets] for x, y in said]
    n = max(n_p, n_t)
    best = max(
        sum(p < n_p and t < n_t and hit[p][t] for p, t in enumerate(order))
        for order in itertools.permutations(range(n))
    )
    assert point_in_box(points(*said), boxes(*targets), GRID) == pytest.approx(best / n)


CLICKS: dict[str, tuple[Answer, Target, float]] = {
    "a hit": (points(IN_A), boxes(A), 1),
    "a miss": (points(NOWHERE), boxes(A), 0),
    "two clicks, the first hits": (points(IN_A, NOWHERE), boxes(A), 1 / 2),
    "two clicks, the second hits": (points(NOWHERE, IN_A), boxes(A), 1 / 2),
    "three, the third hits": (points(NOWHERE, IN_B, IN_A), boxes(A), 1 / 3),
    "a scan in a row": (points((0, 150), (75, 150), IN_A_AND_C, (150, 150)), boxes(A), 1 / 4),
    "a scan along a line": (points((0, 150), (75, 150), (150, 150)), boxes(A), 1 / 3),
    "one place three times": (points(IN_A, IN_A, IN_A), boxes(A), 1 / 3),
    "one of several elements": (points(IN_B), boxes(A, B), 1),
    "labels play no part": (points(IN_B), CAT_DOG, 1),
    "nothing": (points(), boxes(A), 0),
    "one that cannot be read": (points(IN_A, n_dropped=1), boxes(A), 1 / 2),
    "no element, no click": (points(), NONE, 1),
    "no element, a click": (points(IN_A), NONE, 0),
    "infinite": (points((math.inf, math.nan)), boxes(A), 0),
}


@pytest.mark.parametrize(("answer", "target", "once"), CLICKS.values(), ids=CLICKS)
def test_clicks(answer: Answer, target: Target, once: float) -> None:
    assert click(answer, target, GRID) == pytest.approx(once)
