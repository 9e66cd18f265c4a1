from __future__ import annotations

import json

import numpy as np
import pytest
from cpu_time import is_quick
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import Target, TargetError, score
from verl_visionr1.masks import Mask
from verl_visionr1.targets import TASKS, normalize_label

CAT = {"task": "detection", "size_wh": (640, 480), "boxes_xyxy": [[100, 100, 200, 200]], "labels": ["cat"]}

BAD = {
    "unknown task": ({"task": "segmentation"}, "task = 'segmentation'"),
    "no width": ({"size_wh": (0, 480)}, r"size_wh = \(0, 480\)"),
    "negative height": ({"size_wh": (640, -1)}, "needs positive"),
    "half pixels": ({"size_wh": (640.5, 480)}, r"size_wh = \(640.5, 480\)"),
    "infinite size": ({"size_wh": (float("inf"), 480)}, "needs two whole numbers"),
    "size as text": ({"size_wh": ("640", "480")}, "needs two whole numbers"),
    "one side": ({"size_wh": (640,)}, "needs two whole numbers"),
    "no size": ({"size_wh": None}, "needs two whole numbers"),
    "inverted in x": (
        {"boxes_xyxy": [[200, 100, 100, 200]]},
        r"boxes_xyxy\[0\] = \(200.0, .*needs x1 < x2 and y1 < y2",
    ),
    "zero height": ({"boxes_xyxy": [[100, 200, 200, 200]]}, "needs x1 < x2 and y1 < y2"),
    "three numbers": ({"boxes_xyxy": [[1, 2, 3]]}, r"boxes_xyxy\[0\] = \[1, 2, 3\]"),
    "a text of four digits": ({"boxes_xyxy": ["0012"]}, "needs four numbers"),
    "digits as texts": ({"boxes_xyxy": [["1", "2", "3", "4"]]}, "needs four numbers"),
    "a null": ({"boxes_xyxy": [[1, 2, None, 4]]}, "needs four numbers"),
    "nan": ({"boxes_xyxy": [[1, 2, float("nan"), 4]]}, "needs finite numbers"),
    "infinity": ({"boxes_xyxy": [[1, 2, float("inf"), 4]]}, "needs finite numbers"),
    "a huge integer": ({"boxes_xyxy": [[1, 2, 10**400, 4]]}, "needs four numbers"),
    "outside to the right": ({"boxes_xyxy": [[100, 100, 642, 200]]}, r"outside the image of size_wh \(640, 480\)"),
    "outside at the top": ({"boxes_xyxy": [[100, -2, 200, 200]]}, "outside the image"),
    "boxes not a list": ({"boxes_xyxy": 5}, "boxes_xyxy = 5"),
    "boxes null": ({"boxes_xyxy": None}, "needs a list of boxes"),
    "second box bad": ({"boxes_xyxy": [[1, 2, 3, 4], [3, 3, 3, 3]], "labels": ["a", "b"]}, r"boxes_xyxy\[1\]"),
    "too few labels": ({"labels": []}, "labels has 0 entries for 1 boxes"),
    "too many labels": ({"labels": ["cat", "dog"]}, "labels has 2 entries for 1 boxes"),
    "labels as one text": ({"labels": "c"}, "labels = 'c'"),
    "labels null": ({"labels": None}, "needs a list of texts"),
    "blank label": ({"labels": [" "]}, r"labels\[0\] = ' '"),
    "a number as label": ({"labels": [7]}, "needs a non-empty text"),
    "half a surrogate pair": ({"labels": ["\ud800"]}, "surrogate"),
    "blank category": ({"categories": ["cat", ""]}, r"categories\[1\] = ''"),
    "inverted crowd": ({"ignore_xyxy": [[5, 5, 1, 1]]}, r"ignore_xyxy\[0\]"),
}


def test_minus_zero_is_written_as_zero() -> None:
    """Rounding makes it of a coordinate just below 0."""
    box, outline = [-0.0, -0.0, 4.0, 4.0], [-0.0, 0.0, 4.0, -0.0, 4.0, 4.0]
    fields = {"boxes_xyxy": [box], "ignore_xyxy": [box], "points_xy": [[-0.0, -0.0]], "masks": [Mask([outline])]}
    assert "-0" not in Target(**{**CAT, **fields}).to_json()


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_ground_truth_is_an_error_that_names_it(change: dict[str, object], message: str) -> None:
    with pytest.raises(TargetError, match=message):
        Target(**{**CAT, **change})


BAD_JSON = {
    "empty": ("", "ground truth ''"),
    "not JSON": ("cat", "ground truth 'cat'"),
    "a list": ("[]", "Expected `object`"),
    "task missing": ('{"size_wh": [1, 1]}', "missing required field `task`"),
    "unknown field": ('{"task": "detection", "size_wh": [1, 1], "boxs": []}', "unknown field `boxs`"),
    "size as text": ('{"task": "detection", "size_wh": "640x480"}', "size_wh"),
    "bad value": ('{"task": "x", "size_wh": [1, 1]}', "task = 'x'"),
    "inverted box": (
        '{"task": "detection", "size_wh": [9, 9], "boxes_xyxy": [[5, 5, 1, 1]], "labels": ["a"]}',
        r"boxes_xyxy\[0\] = \(5.0, 5.0, 1.0, 1.0\)",
    ),
    "not UTF-8": (b"\xff", "ground truth b"),
    "half a surrogate pair": ("\ud800", "ground truth"),
    "long: shown in part": ("x" * 1000, "ground truth 'x{120}'\\.\\.\\.: "),
}


@pytest.mark.parametrize(("text", "message"), BAD_JSON.values(), ids=BAD_JSON)
def test_bad_json_is_an_error_that_shows_it(text: str | bytes, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        Target.from_json(text)


def test_a_target_is_frozen_and_hashable() -> None:
    target = Target(**CAT)
    with pytest.raises(AttributeError):
        target.task = "grounding"  # type: ignore[misc]
    assert hash(target) == hash(Target(**CAT))


def test_lists_arrays_and_tuples_build_the_same_target() -> None:
    arrays = Target(
        task="detection", size_wh=np.array([640, 480]), boxes_xyxy=np.array([[100, 100, 200, 200]]), labels=("cat",)
    )
    assert arrays == Target(**CAT)
    assert arrays.to_json() == Target(**CAT).to_json()
    assert arrays.boxes_xyxy == ((100.0, 100.0, 200.0, 200.0),)


def test_one_pixel_of_rounding_outside_is_taken() -> None:
    Target(task="detection", size_wh=(640, 480), boxes_xyxy=[[-1, -1, 641, 481]], labels=["cat"])


def test_an_image_without_the_object_is_a_target() -> None:
    assert Target(task="grounding", size_wh=(5, 5)).boxes_xyxy == ()


POINTING = {"task": "pointing", "size_wh": (640, 480)}
BAD_OBJECTS = {
    "counting without a count": ({"task": "counting", "size_wh": (9, 9)}, "count = None: a counting target needs"),
    "a count in words": ({"task": "counting", "size_wh": (9, 9), "count": "2"}, "count = '2'"),
    "half a count": ({"task": "counting", "size_wh": (9, 9), "count": 2.5}, "count = 2.5"),
    "half an object": ({"task": "counting", "size_wh": (9, 9), "count": -1}, "count = -1"),
    "text without an answer": ({"task": "text"}, "answer = None: a text target needs the right answer"),
    "blank answer": ({"task": "text", "answer": " "}, r"answer\[0\] = ' '"),
    "boxes without an image": (CAT | {"size_wh": (0, 0)}, r"size_wh = \(0, 0\)"),
    "point outside": (POINTING | {"points_xy": [[700, 5]]}, r"points_xy\[0\] = \(700.0, 5.0\): "),
    "point not finite": (POINTING | {"points_xy": [[float("nan"), 5]]}, r"points_xy\[0\] = \(nan, 5.0\)"),
    "three coordinates": (POINTING | {"points_xy": [[1, 2, 3]]}, "needs two numbers x, y"),
    "fewer points than boxes": (
        POINTING | {"boxes_xyxy": [[0, 0, 5, 5]] * 2, "points_xy": [[1, 1]]},
        "points_xy has 1 entries for 2 objects",
    ),
    "labels for some": (
        POINTING | {"points_xy": [[1, 1], [2, 2]], "labels": ["a"]},
        "labels has 1 entries for 2 objects",
    ),
    "mask of another image": (
        POINTING | {"masks": [Mask(size_hw=(2, 2), counts=(1, 3))]},
        r"masks\[0\] is for an image of size_wh \(2, 2\), this one has \(640, 480\)",
    ),
    "mask outside": (
        POINTING | {"masks": [Mask(polygons=((0.0, 0.0, 900.0, 0.0, 0.0, 9.0),))]},
        r"masks\[0\], whose bounds",
    ),
    "no mask": (POINTING | {"masks": [3]}, r"masks\[0\] = 3"),
    "a mask of nothing": (POINTING | {"masks": [{"polygons": []}]}, r"masks\[0\] = "),
}


@pytest.mark.parametrize(("fields", "message"), BAD_OBJECTS.values(), ids=BAD_OBJECTS)
def test_bad_objects_name_field_and_value(fields: dict, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        Target(**fields)


def test_masks_there_and_back() -> None:
    target = Target(**POINTING, masks=[{"polygons": [[0, 0, 9, 0, 0, 9]]}], labels=["cat"])
    assert Target.from_json(target.to_json()) == target
    assert Target(**json.loads(target.to_json())) == target
    assert target.n_objects == 1


MULTILABEL = {
    "one box": (["cat"], [], False),
    "one label twice": (["cat", "cat"], [], False),
    "one label in two spellings": (["cat", " CAT "], [], False),
    "two labels": (["cat", "dog"], [], True),
    "one label, asked for that one": (["cat"], ["Cat"], False),
    "one label, asked for two": (["cat"], ["cat", "dog"], True),
    "nothing there, asked for two": ([], ["cat", "dog"], True),
    "nothing there, asked for one": ([], ["cat"], False),
    "nothing": ([], [], False),
}


@pytest.mark.parametrize(("labels", "categories", "expected"), MULTILABEL.values(), ids=MULTILABEL)
def test_a_label_can_be_wrong_where_several_are_known(labels: list[str], categories: list[str], expected: bool) -> None:
    target = Target(
        task="detection", size_wh=(9, 9), boxes_xyxy=[[0, 0, 1, 1]] * len(labels), labels=labels, categories=categories
    )
    assert target.is_multiclass is expected


# labels of one name
SPELLINGS = {
    "case": ("Traffic  Light", "traffic light"),
    "composed and decomposed": ("caf\u00e9", "cafe\u0301"),
    "sharp s": ("STRASSE", "stra\u00dfe"),
    "final sigma": ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
    "dotted capital": ("\u0130zmir", "i\u0307zmir"),
    "full-width letters": ("\uff43\uff41\uff54", "cat"),
    "ligature": ("o\ufb03ce", "office"),
    "Hangul": ("\u1112\u1161\u11ab", "\ud55c"),
    "a blank of its own": ("red\u00a0bus", "red bus"),
    "iota below": ("\u1fb3", "\u03b1\u0345"),
    "a zero-width blank": ("cat\u200b", "cat"),
    "a byte order mark": ("\ufeffcat", "cat"),
    "a soft hyphen": ("traf\u00adfic light", "traffic light"),
    "a mark of direction": ("\u200ecat", "cat"),
    "a variant of a sign": ("\u26bd\ufe0f", "\u26bd"),
    "a joiner between marks": ("a\u0323\u034f\u0302", "\u1ead"),
}


@pytest.mark.parametrize(("one", "other"), SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_one_label(one: str, other: str) -> None:
    assert normalize_label(one) == normalize_label(other)
    target = Target(
        task="detection", size_wh=(99, 99), boxes_xyxy=[[0, 0, 9, 9], [50, 50, 60, 60]], labels=[one, "dog"]
    )
    said = f'[{{"bbox_2d": [0, 0, 9, 9], "label": "{other}"}}, {{"bbox_2d": [50, 50, 60, 60], "label": "DOG"}}]'
    for preset in ("visionr1", "vlmr1-ovd", "v-triune", "big-vision"):
        assert score(said, target, preset=preset, progress=0.0).value == 1.0
    assert not Target(task="detection", size_wh=(9, 9), categories=[one, other]).is_multiclass


@pytest.mark.parametrize(("one", "other"), [("cat", "dog"), ("\u00e9", "e"), ("\u0131", "i"), ("\uff43", "d")])
def test_other_labels_stay_apart(one: str, other: str) -> None:
    assert normalize_label(one) != normalize_label(other)


def test_labels_of_many_marks_take_little_time() -> None:
    """Ordering marks takes quadratic time in the standard library: a long run of them is compared as it is."""
    label = "a" + "\u0301\u0316" * 50_000
    assert is_quick(lambda: normalize_label(label), 0.1)
    assert normalize_label("x" * 200 + "e\u0301") == "x" * 200 + "\u00e9"


@given(st.text())
def test_normal_label_is_stable(label: str) -> None:
    normal = normalize_label(label)
    assert normalize_label(f"  {normal}\n ") == normal


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
sides = st.integers(1, 10_000)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    w, h = draw(sides), draw(sides)

    def box() -> st.SearchStrategy[tuple[float, ...]]:
        # Made sound rather than drawn until they are: most would be thrown away.
        x, y = (st.lists(st.floats(-1, side + 1), min_size=2, max_size=2, unique=True).map(sorted) for side in (w, h))
        return st.tuples(x, y).map(lambda sides: (sides[0][0], sides[1][0], sides[0][1], sides[1][1]))

    boxes = draw(st.lists(box(), max_size=4))
    task = draw(st.sampled_from(TASKS))
    has_points = task in ("counting", "pointing") and draw(st.booleans())
    return Target(
        task=task,
        size_wh=(w, h),
        boxes_xyxy=boxes,
        points_xy=[((x1 + x2) / 2, (y1 + y2) / 2) for x1, y1, x2, y2 in boxes] if has_points else (),
        count=draw(st.integers(0, 99)) if task == "counting" else None,
        answer=draw(texts) if task == "text" else None,
        choices=draw(st.lists(texts, max_size=3)),
        labels=draw(st.lists(texts, min_size=len(boxes), max_size=len(boxes))),
        categories=draw(st.lists(texts, max_size=3)),
        ignore_xyxy=draw(st.lists(box(), max_size=2)),
    )


@given(targets())
def test_json_there_and_back(target: Target) -> None:
    text = target.to_json()
    assert Target.from_json(text) == target
    assert Target.from_json(text.encode()) == target
    assert "\n" not in text
    assert Target(**json.loads(text)) == target, "any JSON reader gets the same"
