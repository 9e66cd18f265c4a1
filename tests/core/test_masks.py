from __future__ import annotations

import math
import random
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from cpu_time import grows_too_fast
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from verl_visionr1 import Target, TargetError
from verl_visionr1.masks import FEW, Mask, area, bounds_xyxy, contains, contains_each

SQUARE = (0.0, 0.0, 10.0, 0.0, 10.0, 10.0, 0.0, 10.0)
RING_4X4 = {"size_hw": (4, 4), "counts": [5, 2, 2, 2, 5]}
"""The middle four pixels of 4 x 4."""

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "neither of polygons and counts"),
    "both": ({"polygons": [SQUARE], **RING_4X4}, "both of polygons and counts"),
    "a size with polygons": ({"polygons": [SQUARE], "size_hw": (4, 4)}, r"size_hw = \(4, 4\): goes with counts"),
    "two corners": ({"polygons": [(0, 0, 1, 1)]}, r"polygons\[0\] = \(0, 0, 1, 1\)"),
    "half a corner": ({"polygons": [SQUARE, (*SQUARE, 1.0)]}, r"polygons\[1\] = .*at least three corners"),
    "nan": ({"polygons": [(0, 0, math.nan, 0, 1, 1)]}, r"polygons\[0\] = .*needs finite numbers"),
    "texts": ({"polygons": [("0", "0", "1", "0", "1", "1")]}, "needs numbers x1, y1"),
    "a number as outline": ({"polygons": [5]}, r"polygons\[0\] = 5"),
    "one text": ({"polygons": ["123456"]}, "needs numbers"),
    "a line": ({"polygons": [(0, 0, 1, 1, 2, 2)]}, "has no area"),
    "no size": ({"counts": [1, 2]}, "size_hw = None"),
    "half pixels": ({"counts": [1, 2], "size_hw": (1.5, 2)}, r"size_hw = \(1.5, 2\)"),
    "no height": ({"counts": [1, 2], "size_hw": (0, 3)}, r"size_hw = \(0, 3\)"),
    "too few pixels": ({"counts": [1, 2], "size_hw": (2, 2)}, r"counts = \[1, 2\]: has 3 pixels, .* has 4"),
    "no runs": ({"counts": [], "size_hw": (2, 2)}, "has 0 pixels"),
    "a negative run": ({"counts": [5, -1], "size_hw": (2, 2)}, r"counts = \[5, -1\]"),
    "half a run": ({"counts": [1.5, 2.5], "size_hw": (2, 2)}, "needs compressed text or whole numbers"),
    "only background": ({"counts": [4], "size_hw": (2, 2)}, "has no area"),
    "an empty run": ({"counts": [4, 0], "size_hw": (2, 2)}, "has no area"),
    "no code": ({"counts": "a b", "size_hw": (2, 2)}, r"character 1\b"),
    "a code cut off": ({"counts": "o", "size_hw": (2, 2)}, r"character 1\b"),
    "a code without end": ({"counts": "o" * 100_000, "size_hw": (2, 2)}, r"character 12\b"),
    "a negative compressed run": ({"counts": "11A", "size_hw": (2, 2)}, "run 2 has length -15"),
    "an empty code": ({"counts": "", "size_hw": (2, 2)}, "has 0 pixels"),
}


@pytest.mark.parametrize(("fields", "message"), BAD.values(), ids=BAD)
def test_a_bad_mask_is_an_error_that_names_the_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        Mask(**fields)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250


def test_a_bad_mask_in_json_is_bad_ground_truth() -> None:
    text = '{"task":"pointing","size_wh":[4,4],"masks":[{"size_hw":[4,4],"counts":[5,2]}]}'
    with pytest.raises(TargetError, match=r"counts = \[5, 2\]: has 7 pixels"):
        Target.from_json(text)
    with pytest.raises(msgspec.ValidationError, match="neither of polygons"):
        msgspec.json.decode("{}", type=Mask)


MASKS = {
    "polygon": Mask(polygons=[SQUARE]),
    "polygons": Mask(polygons=[SQUARE, (20, 20, 30, 20, 30, 30)]),
    "run lengths": Mask(**RING_4X4),
    "a code": Mask(size_hw=(4, 4), counts=coco.encode(np.asfortranarray(np.eye(4, dtype=np.uint8)))["counts"].decode()),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_survives_json_hashing_and_a_target(mask: Mask) -> None:
    again = msgspec.json.decode(msgspec.json.encode(mask), type=Mask)
    assert again == mask
    assert hash(again) == hash(mask)
    target = Target(task="pointing", size_wh=mask.size_wh or (40, 40), masks=[mask])
    assert Target.from_json(target.to_json()) == target


CONTAINS = {
    "inside": ("polygon", 5, 5, True),
    "a corner": ("polygon", 0, 0, True),
    "the far corner": ("polygon", 10, 10, True),
    "on an edge": ("polygon", 10, 3.5, True),
    "just outside": ("polygon", 10.001, 3.5, False),
    "the second of two": ("polygons", 29, 21, True),
    "between two": ("polygons", 15, 15, False),
    "in the box of the second only": ("polygons", 21, 29, False),
    "pixel": ("run lengths", 1.0, 2.999, True),
    "a pixel's far edge": ("run lengths", 3.0, 2.0, False),
    "the image's far corner is its last pixel's": ("a code", 4.0, 4.0, True),
    "beyond the image": ("a code", 4.001, 4.0, False),
    "before the image": ("a code", -0.001, 0.0, False),
    "nan": ("polygon", math.nan, 5, False),
    "infinity": ("run lengths", math.inf, 1, False),
    "huge": ("a code", 1e308, -1e308, False),
}


@pytest.mark.parametrize(("name", "x", "y", "expected"), CONTAINS.values(), ids=CONTAINS)
def test_contains(name: str, x: float, y: float, expected: bool) -> None:
    assert contains(MASKS[name], x, y) is expected
    assert contains_each(MASKS[name], ((x, y),) * (FEW + 1)) == [expected] * (FEW + 1)


def test_a_repeated_corner_changes_nothing() -> None:
    mask = Mask(polygons=[(0, 0, 0, 0, 10, 0, 0, 10, 0, 0)])
    points = ((2.0, 3.0), (9.0, 9.5), (11.0, 5.0), (0.0, 0.0), *[(1.0, 1.5)] * FEW)
    expected = [True, False, False, True, *[True] * FEW]
    assert [contains(mask, x, y) for x, y in points] == contains_each(mask, points) == expected
    assert area(mask) == 50.0


def test_overlapping_polygons_are_one_mask() -> None:
    mask = Mask(polygons=[SQUARE, SQUARE])
    assert contains(mask, 5, 5)
    assert contains_each(mask, ((5.0, 5.0),) * (FEW + 1)) == [True] * (FEW + 1)


# --- twins -----------------------------------------------------------------------------------------------------------


def blob(rng: random.Random, height: int, width: int) -> np.ndarray:
    """(height, width) uint8: a few rectangles and specks; at least one pixel."""
    pixels = np.zeros((height, width), dtype=np.uint8)
    for _ in range(rng.randint(1, 4)):
        top, left = rng.randrange(height), rng.randrange(width)
        pixels[top : top + rng.randint(1, height), left : left + rng.randint(1, width)] ^= 1
    pixels[rng.randrange(height), rng.randrange(width)] = 1
    return pixels


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("is_compressed", [True, False], ids=["text", "numbers"])
def test_run_lengths_are_as_pycocotools_reads_them(seed: int, is_compressed: bool) -> None:
    rng = random.Random(seed)
    height, width = rng.randint(1, 40), rng.randint(1, 40)
    pixels = blob(rng, height, width)
    code = coco.encode(np.asfortranarray(pixels))
    column_by_column = pixels.ravel(order="F")
    if is_compressed:
        mask = Mask(size_hw=(height, width), counts=code["counts"].decode())
    else:
        changes = np.flatnonzero(np.diff(np.concatenate([[0], column_by_column, [2]])))
        mask = Mask(size_hw=(height, width), counts=np.diff(np.concatenate([[0], changes])).tolist())
    decoded = coco.decode(code).astype(bool)
    points = tuple((column + rng.random(), row + rng.random()) for row in range(height) for column in range(width))
    assert contains_each(mask, points) == [contains(mask, x, y) for x, y in points] == decoded.ravel().tolist()
    assert area(mask) == coco.area(code)
    x, y, w, h = coco.toBbox(code)
    assert bounds_xyxy(mask) == (x, y, x + w, y + h)
    assert mask.size_wh == (width, height)


@pytest.mark.parametrize("seed", range(60))
def test_polygons_are_as_opencv_sees_them(seed: int) -> None:
    """Any outline, crossing itself or not, with whole and with half coordinates."""
    rng = random.Random(seed)
    n_corners = rng.randint(3, 12)
    corners = [(rng.randint(0, 60) / 2, rng.randint(0, 60) / 2) for _ in range(n_corners)]
    contour = np.array(corners, dtype=np.float32)
    if cv2.contourArea(contour) == 0:
        corners[0] = (corners[0][0] + 3.5, corners[0][1] + 40)
        contour = np.array(corners, dtype=np.float32)
    mask = Mask(polygons=[tuple(number for corner in corners for number in corner)])
    points = [(rng.randint(-4, 128) / 2, rng.randint(-4, 128) / 2) for _ in range(200)]
    points += corners
    expected = [cv2.pointPolygonTest(contour, point, False) >= 0 for point in points]
    assert [contains(mask, x, y) for x, y in points] == expected
    assert contains_each(mask, tuple(points)) == expected
    assert area(mask) == pytest.approx(cv2.contourArea(contour))


coordinates = st.one_of(st.floats(), st.floats(-2, 12), st.integers(-2, 12).map(float))


@given(
    mask=st.sampled_from([*MASKS.values(), Mask(polygons=[(0, 0, 10, 3, 4, 10, 7, 1), (2, 2, 9, 9, 1, 8)])]),
    points=st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=70),
)
def test_one_by_one_or_together_any_point_is_judged_alike(mask: Mask, points: list[tuple[float, float]]) -> None:
    one_by_one = [contains(mask, x, y) for x, y in points]
    assert contains_each(mask, tuple(points)) == one_by_one
    left, top, right, bottom = bounds_xyxy(mask)
    for (x, y), is_in in zip(points, one_by_one, strict=True):
        assert not is_in or (left <= x <= right and top <= y <= bottom)


def test_a_thousand_points_in_a_detailed_outline_take_milliseconds() -> None:
    angles = np.linspace(0, 2 * math.pi, 500, endpoint=False)
    outline = np.stack([100 + 90 * np.cos(angles), 100 + 90 * np.sin(angles)], axis=1).ravel().tolist()
    mask = Mask(polygons=[outline])
    points = tuple((50.0 + i / 10, 100.0) for i in range(1000))
    contains_each(mask, points[:1])
    assert all(contains_each(mask, points))
    assert not grows_too_fast(lambda n: contains_each(mask, points[:n]), 1000)
