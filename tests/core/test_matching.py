from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from verl_visionr1 import Target
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, pairwise_giou
from verl_visionr1.matching import (
    MAX_PAIRS,
    Matching,
    find_ignored,
    match_class_agnostic,
    match_class_aware,
    match_giou,
    match_nothing,
    match_visionr1_released,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "visionr1.jsonl"
SIDE = 200


def target_of(boxes: Sequence[Box], labels: Sequence[str], **more: object) -> Target:
    return Target(task="detection", size_wh=(SIDE, SIDE), boxes_xyxy=boxes, labels=labels, **more)


def answer_of(boxes: Sequence[Box], labels: Sequence[str], n_dropped: int = 0) -> Answer:
    return Answer(tuple(boxes), tuple(labels), n_dropped)


A, B, C = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)
HALF_A = (0.0, 0.0, 10.0, 5.0)

# predictions, their labels, targets, their labels -> pairs, ious, n_predicted
TABLE = {
    "perfect, other order": ([B, A], "cat dog", [A, B], "dog cat", {(0, 1): 1.0, (1, 0): 1.0}, 2),
    "case and blanks of a label do not matter": ([A, B], " CAT dog", [A, B], "cat DOG", {(0, 0): 1.0, (1, 1): 1.0}, 2),
    "labels swapped": ([A, B], "dog cat", [A, B], "cat dog", {}, 2),
    "one wrong label": ([A, B], "cat cat", [A, B], "cat dog", {(0, 0): 1.0}, 2),
    "an unknown label": ([A, B], "cat horse", [A, B], "cat dog", {(0, 0): 1.0}, 2),
    "one label in the target: labels play no part": ([A, B], "x y", [A, B], "cat cat", {(0, 0): 1.0, (1, 1): 1.0}, 2),
    "duplicates: one counts": ([A, A, A], "cat cat cat", [A], "cat", {(0, 0): 1.0}, 3),
    "the better of two": ([HALF_A, A], "cat cat", [A], "cat", {(1, 0): 1.0}, 2),
    "two halves: the better": ([HALF_A, (0, 0, 10, 4)], "cat cat", [A], "cat", {(0, 0): 0.5}, 2),
    "apart": ([B], "cat", [A], "cat", {}, 1),
    "junk beside": ([A, B, C], "cat cat cat", [A], "cat", {(0, 0): 1.0}, 3),
    "nothing said": ([], "", [A], "cat", {}, 0),
    "nothing there": ([A], "cat", [], "", {}, 1),
    "neither": ([], "", [], "", {}, 0),
    "the total counts, not the best pair": (
        [(0, 0, 10, 10), (0, 0, 10, 8)],
        "cat cat",
        [(0, 0, 10, 9), (0, 0, 10, 20)],
        "cat cat",
        {(1, 0): 8 / 9, (0, 1): 0.5},  # not (0, 0) at .9 and (1, 1) at .4
        2,
    ),
}


@pytest.mark.parametrize(("boxes", "labels", "targets", "target_labels", "expected", "n_p"), TABLE.values(), ids=TABLE)
def test_match_labelled(
    boxes: list[Box], labels: str, targets: list[Box], target_labels: str, expected: dict, n_p: int
) -> None:
    matching = match_class_aware(answer_of(boxes, labels.split()), target_of(targets, target_labels.split()))
    assert dict(zip(matching.pairs, matching.ious, strict=True)) == pytest.approx(expected)
    assert (matching.n_predicted, matching.n_target) == (n_p, len(targets))


def test_labels_of_points_match_no_box() -> None:
    target = Target(
        task="detection", size_wh=(9, 9), boxes_xyxy=[[1, 1, 4, 4]], labels=["cat"], categories=["cat", "dog"]
    )
    answer = Answer(labels=("cat",), points_xy=((2.0, 2.0),))
    assert match_class_aware(answer, target).pairs == match_giou(answer, target).pairs == ()


def test_a_label_can_be_wrong_where_the_prompt_names_several() -> None:
    target = target_of([A], ["cat"], categories=["cat", "dog"])
    assert match_class_aware(answer_of([A], ["dog"]), target).pairs == ()
    assert match_class_agnostic(answer_of([A], ["dog"]), target).pairs == ((0, 0),)


@pytest.mark.parametrize("match", [match_class_aware, match_class_agnostic])
def test_dropped_claims_count_as_predictions(match) -> None:
    assert match(answer_of([A], ["cat"], 3), target_of([A], ["cat"])) == Matching(((0, 0),), (1.0,), 4, 1)


IGNORE = {
    "inside the crowd": ((52, 52, 60, 60), 0),
    "half inside": ((45, 50, 55, 60), 0),
    "less than half inside": ((44, 50, 54, 60), 1),
    "outside": ((70, 70, 80, 80), 1),
    "a point-like box outside": ((70, 70, 70 + 1e-13, 70 + 1e-13), 1),
    "a box whose area underflows": ((0, 0, 1e-200, 1e-200), 1),
}


@pytest.mark.parametrize(("box", "counted"), IGNORE.values(), ids=IGNORE)
def test_an_unmatched_prediction_in_a_crowd_is_not_counted(box: Box, counted: int) -> None:
    target = target_of([A], ["cat"], ignore_xyxy=[(50, 50, 65, 65), (90, 90, 95, 95)])
    assert match_class_aware(answer_of([A, box], ["cat", "cat"]), target).n_predicted == 1 + counted
    nothing = target_of([], [], ignore_xyxy=[(50, 50, 65, 65)])
    matching = match_class_aware(answer_of([box], ["cat"]), nothing)
    assert matching.n_predicted == counted
    assert find_ignored(answer_of([box], ["cat"]), nothing, matching) == (set() if counted else {0})


def test_a_matched_prediction_in_a_crowd_counts() -> None:
    target = target_of([A], ["cat"], ignore_xyxy=[(0, 0, 20, 20)])
    assert match_class_aware(answer_of([A, A], ["cat", "cat"]), target) == Matching(((0, 0),), (1.0,), 1, 1)


# A coarse grid makes equal boxes, equal overlaps and equal totals common.
grid_boxes = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 3)] * 2).map(
    lambda b: (b[0] * 8.0, b[1] * 8.0, (b[0] + b[2]) * 8.0, (b[1] + b[3]) * 8.0)
)
float_boxes = st.tuples(*[st.floats(0, 60)] * 2, *[st.floats(1, 39)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
labelled = st.tuples(grid_boxes | float_boxes, st.sampled_from(["cat", "dog", "Cat "]))
scenes = st.lists(labelled, max_size=6)


def split(scene: list[tuple[Box, str]]) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    return tuple(box for box, _ in scene), tuple(label for _, label in scene)


@given(
    scenes,
    scenes,
    st.randoms(use_true_random=False),
    st.sampled_from([match_class_aware, match_class_agnostic, match_giou]),
)
def test_order_does_not_matter(predictions: list, targets: list, rng: random.Random, match) -> None:
    reference = match(answer_of(*split(predictions)), target_of(*split(targets)))
    for _ in range(4):
        rng.shuffle(predictions)
        rng.shuffle(targets)
        matching = match(answer_of(*split(predictions)), target_of(*split(targets)))
        assert matching.ious == reference.ious, "the overlaps come in the same order too, so sums agree to the bit"
        assert (matching.n_predicted, matching.n_target) == (reference.n_predicted, reference.n_target)


def golden_matchings() -> list[object]:
    rows = map(json.loads, GOLDEN.read_text().splitlines())
    return [pytest.param(row, id=row["id"]) for row in rows if row["reward"].startswith("matcher:")]


@pytest.mark.parametrize("row", golden_matchings())
def test_released_matcher_gives_what_the_released_code_gave(row: dict) -> None:
    predicted, truth = json.loads(row["completion"]), json.loads(row["solution"])
    target = target_of(truth["gt_boxes"], [f"class {code}" for code in truth["gt_class"]])
    boxes = tuple(tuple(map(float, box)) for box in predicted["pred_boxes"])
    matching = match_visionr1_released(answer_of(boxes, [f"class {code}" for code in predicted["pred_class"]]), target)
    assert sorted(matching.ious) == pytest.approx(sorted(row["value"]), abs=1e-6)


@pytest.mark.parametrize("n_target", [500, 600])
def test_released_matcher_looks_at_a_bounded_number_of_pairs(n_target: int) -> None:
    rows = [(i % 100.0, i // 100.0, i % 100 + 2.0, i // 100 + 2.0) for i in range(n_target)]
    target = target_of(rows, ["cat"] * n_target)
    boxes = rows[:512]
    matching = match_visionr1_released(answer_of(boxes, ["cat"] * len(boxes)), target)
    assert len(matching.pairs) == min(len(boxes), MAX_PAIRS // n_target)
    assert (matching.n_predicted, matching.n_target) == (len(boxes), n_target)


# --- by GIoU ---------------------------------------------------------------------------------------------------------


def test_giou_pairs_boxes_that_are_apart() -> None:
    near, far = (
        match_giou(answer_of([B], ["cat"]), target_of([A], ["cat"])),
        match_giou(answer_of([C], ["cat"]), target_of([A], ["cat"])),
    )
    assert near.pairs == far.pairs == ((0, 0),)
    assert near.ious == pytest.approx((-1 / 3,))
    assert far.ious == pytest.approx((-3 / 5,))
    assert match_giou(answer_of([], []), target_of([A], ["cat"])) == Matching((), (), 0, 1)
    assert match_giou(answer_of([A], ["cat"], 2), target_of([], [])) == Matching((), (), 3, 0)


def test_giou_pairs_agree_in_label() -> None:
    target = target_of([A, B], ["cat", "dog"])
    assert match_giou(answer_of([B, A], ["cat", "horse"]), target).pairs == ((0, 0),)


@settings(max_examples=60)
@given(scenes, scenes)
def test_giou_is_the_best_total_and_true(predictions: list, targets: list) -> None:
    boxes, labels = split(predictions)
    target = target_of(*[list(column) for column in split(targets)])
    matching = match_giou(answer_of(boxes, labels), target)
    if not target.is_multiclass and boxes and targets:
        giou_pt = pairwise_giou(boxes, target.boxes_xyxy)
        rows, columns = linear_sum_assignment(giou_pt, maximize=True)
        assert len(matching.pairs) == min(len(boxes), len(targets))
        assert sum(matching.ious) == pytest.approx(giou_pt[rows, columns].sum())
    for (p, t), overlap in zip(matching.pairs, matching.ious, strict=True):
        assert overlap == pytest.approx(float(pairwise_giou([boxes[p]], [target.boxes_xyxy[t]])[0, 0]))
        assert -1.0 < overlap <= 1.0


@pytest.mark.parametrize("n", [1, 2])
def test_giou_of_boxes_too_thin_to_have_an_area(n: int) -> None:
    thin = (0.0, 0.0, 5e-324, 5e-324)
    assert match_giou(answer_of([thin] * n, ["cat"] * n), target_of([thin] * n, ["cat"] * n)).ious == (-1.0,) * n


def test_nothing_is_matched_where_answers_are_no_boxes() -> None:
    assert match_nothing(answer_of([A, B], ["", ""], 1), target_of([A], ["cat"])) == Matching((), (), 3, 1)
