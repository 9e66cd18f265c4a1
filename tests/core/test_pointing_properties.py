"""Points: what holds for any answer under each criterion, and what each preset earns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pointed import CAT_DOG, GRID, NONE, NOWHERE, WH, A, B, Criterion, boxes, points

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, Point
from verl_visionr1.criteria.pointing import CRITERIA, point_distance, point_in_box, point_in_mask
from verl_visionr1.masks import Mask

VARIANTS: dict[str, Criterion] = {
    **{criterion.__name__: criterion for criterion in CRITERIA},
    "point_distance image": partial(point_distance, relative_to="image"),
    "no labels": partial(point_in_box, use_labels=False),
}

coordinate = st.one_of(st.integers(-20, 660).map(float), st.floats())
sides = st.integers(1, 200)
any_box = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), st.integers(0, 400), st.integers(0, 250), sides, sides)
any_answer = st.builds(
    lambda said, n_dropped, boxed: Answer(
        points_xy=tuple(point for point, _ in said),
        labels=tuple(label for _, label in said) or ("",) * len(boxed),
        n_dropped=n_dropped,
        boxes_xyxy=tuple(boxed),
    ),
    st.lists(st.tuples(st.tuples(coordinate, coordinate), st.sampled_from(["cat", "dog", " CAT", ""])), max_size=8),
    st.integers(0, 2),
    st.lists(any_box, max_size=2),
)


@st.composite
def any_target(draw: st.DrawFn) -> Target:
    given_boxes: list[Box] = draw(st.lists(any_box, max_size=5))
    fields: dict[str, Any] = {}
    kind = draw(st.sampled_from(["boxes", "masks", "points", "all"]))
    if kind in ("boxes", "all"):
        fields["boxes_xyxy"] = given_boxes
    if kind in ("masks", "all"):
        fields["masks"] = [Mask(polygons=[(x1, y1, x2, y1, x1, y2)]) for x1, y1, x2, y2 in given_boxes]
    if kind in ("points", "all"):
        fields["points_xy"] = [(x1 + 1, y1 + 1) for x1, y1, _, _ in given_boxes]
    if draw(st.booleans()):
        fields["labels"] = [draw(st.sampled_from(["cat", "dog"])) for _ in given_boxes]
    if draw(st.booleans()):
        fields["ignore_xyxy"] = [draw(any_box)]
    return Target(task="pointing", size_wh=WH, categories=draw(st.sampled_from([(), ("cat", "dog")])), **fields)


def reordered(target: Target, order: Sequence[int]) -> Target:
    lists = {name: getattr(target, name) for name in ("boxes_xyxy", "masks", "points_xy", "labels")}
    changed = {name: [values[i] for i in order] if values else () for name, values in lists.items()}
    return Target(task="pointing", size_wh=WH, categories=target.categories, ignore_xyxy=target.ignore_xyxy, **changed)


@pytest.mark.parametrize("name", VARIANTS)
@settings(max_examples=30)
@given(data=st.data(), answer=any_answer, target=any_target())
def test_any_answer_has_a_value_that_order_does_not_change(
    name: str, data: st.DataObject, answer: Answer, target: Target
) -> None:
    value = VARIANTS[name](answer, target, GRID)
    assert isinstance(value, float)
    assert 0.0 <= value <= 1.0
    assert VARIANTS[name](answer, reordered(target, data.draw(st.permutations(range(target.n_objects)))), GRID) == value
    if not answer.points_xy:
        return
    order = data.draw(st.permutations(range(len(answer.points_xy))))
    shuffled = Answer(
        points_xy=tuple(answer.points_xy[i] for i in order),
        labels=tuple(answer.labels[i] for i in order),
        n_dropped=answer.n_dropped,
        boxes_xyxy=answer.boxes_xyxy,
    )
    assert VARIANTS[name](shuffled, target, GRID) == value


@pytest.mark.parametrize("name", sorted(VARIANTS))
@settings(max_examples=30)
@given(answer=any_answer, target=any_target())
def test_junk_and_duplicates_never_help(name: str, answer: Answer, target: Target) -> None:
    """A further point that is not an object's own lowers the value, or leaves it where it was for want of points."""
    if name.startswith("point_distance") or not answer.points_xy or target.ignore_xyxy:
        return
    value = VARIANTS[name](answer, target, GRID)
    junk = Answer(
        points_xy=(*answer.points_xy, (639.0, 479.0)), labels=(*answer.labels, "junk"), n_dropped=answer.n_dropped
    )
    unreadable = Answer(points_xy=answer.points_xy, labels=answer.labels, n_dropped=answer.n_dropped + 1)
    for worse in (junk, unreadable):
        assert VARIANTS[name](worse, target, GRID) <= value
    if not answer.boxes_xyxy and answer.n_predicted >= target.n_objects and value > 0:
        assert VARIANTS[name](unreadable, target, GRID) < value


@pytest.mark.parametrize("criterion", [point_in_box, point_in_mask, point_distance])
@given(target=any_target())
def test_perfect_is_one_and_a_duplicate_costs(criterion: Criterion, target: Target) -> None:
    if target.points_xy:
        middles = tuple(target.points_xy)
    else:
        frames = target.boxes_xyxy or [
            (min(p[::2]), min(p[1::2]), max(p[::2]), max(p[1::2])) for mask in target.masks for p in mask.polygons
        ]
        middles = tuple(((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in frames)
    perfect = points(*middles, labels=tuple(target.labels) or ("cat",) * len(middles))
    if target.masks and criterion is point_in_mask and target.points_xy:
        return  # a thin triangle need not hold the point beside its corner
    assert criterion(perfect, target, GRID) == pytest.approx(1.0)
    if middles:
        twice = points(*middles, middles[0], labels=(*perfect.labels, perfect.labels[0]))
        assert criterion(twice, target, GRID) <= len(middles) / (len(middles) + 1) + 1e-9


def said(*items: tuple[Point, str]) -> str:
    return json.dumps([{"point_2d": list(point), "label": label} for point, label in items])


MIDDLE_A, MIDDLE_B = (150, 150), (350, 200)

# completion -> format, in box / in mask
TEXTS = {
    "perfect": (said((MIDDLE_A, "cat"), (MIDDLE_B, "dog")), 1, 1),
    "other order": (said((MIDDLE_B, "dog"), (MIDDLE_A, "cat")), 1, 1),
    "one missing": (said((MIDDLE_A, "cat")), 1, 1 / 2),
    "labels swapped": (said((MIDDLE_A, "dog"), (MIDDLE_B, "cat")), 1, 0),
    "well-formed junk": (said((NOWHERE, "cat"), (NOWHERE, "dog")), 1, 0),
    "each twice": (said(*[(MIDDLE_A, "cat"), (MIDDLE_B, "dog")] * 2), 1, 1 / 2),
    "boxes": (json.dumps([{"bbox_2d": A, "label": "cat"}, {"bbox_2d": B, "label": "dog"}]), 0, 0),
    "a box beside": (said((MIDDLE_A, "cat"), (MIDDLE_B, "dog"))[:-1] + ', {"bbox_2d": [1, 2, 3, 4]}]', 0, 2 / 3),
    "prose": ("The cat is on the left.", 0, 0),
    "nothing": ("[]", 1, 0),
    "empty": ("", 0, 0),
    "cut off": (said((MIDDLE_A, "cat"), (MIDDLE_B, "dog"))[:-15], 0, 1 / 2),
    "nan": ('[{"point_2d": [NaN, 1], "label": "cat"}]', 0, 0),
    "huge": ('[{"point_2d": [1e400, 1], "label": "cat"}]', 0, 0),
}


@pytest.mark.parametrize("preset", ["pointing", "point-in-mask"])
@pytest.mark.parametrize(("text", "form", "place"), TEXTS.values(), ids=TEXTS)
def test_presets_of_points(preset: str, text: str, form: float, place: float) -> None:
    result = score(text, CAT_DOG, preset=preset)
    assert result.value == pytest.approx(0.2 * form + 0.8 * place)
    assert result.metrics["format"] == form
    assert result.metrics["accuracy"] == pytest.approx(place)


def test_the_dense_preset_reports_the_hits() -> None:
    near = said(((150, 190), "cat"), (MIDDLE_B, "dog"))
    result = score(near, CAT_DOG, preset="point-distance")
    assert result.metrics["in_mask"] == result.metrics["accuracy"] == 1.0
    assert result.metrics["distance"] == pytest.approx((1 + math.exp(-0.5 * (40 / 50) ** 2)) / 2)
    assert result.value == pytest.approx(0.2 + 0.8 * result.metrics["distance"])


@pytest.mark.parametrize("preset", ["pointing", "point-in-mask", "point-distance", "gui-click"])
def test_images_without_the_object(preset: str) -> None:
    point = {"gui-click": "[10, 20]"}.get(preset, said(((10, 20), "cat")))
    assert score("[]", NONE, preset=preset).value == 1.0
    assert score("None", NONE, preset=preset).value == 1.0
    assert score(point, NONE, preset=preset).value == pytest.approx(0.2)
    assert score("[[1, 2, 3, 4]]", NONE, preset=preset).metrics["accuracy"] < 1.0 or preset != "gui-click"
    box = json.dumps([{"bbox_2d": [1, 2, 3, 4], "label": "cat"}])
    assert score(box, NONE, preset=preset).metrics["accuracy"] == 0.0


GUI = {
    "a hit": ("[150, 150]", 1.0),
    "in words of a GUI model": ("click(150, 150)", 1.0),
    "a miss": ("[10, 10]", 0.2),
    "two clicks": ("[[150, 150], [10, 10]]", 0.6),
    "the box instead": ("[100, 100, 200, 200]", 0.0),
    "prose": ("Click on the button.", 0.0),
}


@pytest.mark.parametrize(("text", "value"), GUI.values(), ids=GUI)
def test_gui_click(text: str, value: float) -> None:
    assert score(text, boxes(A), preset="gui-click").value == pytest.approx(value)
