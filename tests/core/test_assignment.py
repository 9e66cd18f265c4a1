"""Dominant edges, numpy blocks and bounds give what scipy gives on the dense matrix, whatever the order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.assignment import MAX_ASSIGNED, MAX_PAIRS, assign, thin
from verl_visionr1.boxes import Box, iou, pairwise_iou
from verl_visionr1.matching import Matching, find_ignored, match_class_agnostic, match_class_aware, match_giou

SIDE = 1000
LABELS = ("cat", "dog", "cow")


def target_of(boxes: Sequence[Box], labels: Sequence[str] = (), **more: object) -> Target:
    names = labels or ["cat"] * len(boxes)
    return Target(task="detection", size_wh=(SIDE, SIDE), boxes_xyxy=boxes, labels=names, **more)


def best_total(answer: Answer, target: Target, *, by_label: bool) -> float:
    """The largest total IoU, by scipy on the whole matrix."""
    iou_pt = pairwise_iou(answer.boxes_xyxy, target.boxes_xyxy)
    if by_label and target.is_multiclass:
        iou_pt = np.where(np.array(answer.labels)[:, None] == np.array(target.labels), iou_pt, 0.0)
    rows, columns = linear_sum_assignment(iou_pt, maximize=True)
    return float(iou_pt[rows, columns].sum())


# --- scenes that are hard for a shortcut -----------------------------------------------------------------------------


def scattered(rng: random.Random, n: int) -> list[Box]:
    corners = [(rng.randrange(900), rng.randrange(900), rng.randrange(5, 99), rng.randrange(5, 99)) for _ in range(n)]
    return [(float(x), float(y), float(x + w), float(y + h)) for x, y, w, h in corners]


def nested(rng: random.Random, n: int) -> list[Box]:
    return [(0.0, 0.0, 900.0 - 1.5 * i, 900.0 - 1.5 * i) for i in rng.sample(range(500), n)]


def crowded(rng: random.Random, n: int) -> list[Box]:
    return [(x, y, x + 200.0, y + 200.0) for x, y in ((rng.uniform(0, 60), rng.uniform(0, 60)) for _ in range(n))]


def on_a_grid(rng: random.Random, n: int) -> list[Box]:
    """Few different boxes: equal boxes, overlaps and totals are common."""
    corners = [(rng.randrange(3), rng.randrange(3), rng.randrange(1, 3), rng.randrange(1, 3)) for _ in range(n)]
    return [(x * 8.0, y * 8.0, (x + w) * 8.0, (y + h) * 8.0) for x, y, w, h in corners]


def identical(rng: random.Random, n: int) -> list[Box]:
    return [(10.0, 10.0, 60.0, 60.0)] * n


def chained(rng: random.Random, n: int) -> list[Box]:
    """Each overlaps the next a little better than the one before: taking the best first is wrong."""
    return [(40.0 * i + 0.01 * i * i, 0.0, 40.0 * i + 70.0, 50.0) for i in range(min(n, 12))] + scattered(rng, n - 12)


SCENES = {f.__name__: f for f in (scattered, nested, crowded, on_a_grid, identical, chained)}


@settings(max_examples=40)
@given(
    st.sampled_from(list(SCENES)),
    st.sampled_from(list(SCENES)),
    st.integers(1, 70),  # pairs on both sides of SMALL_PAIRS
    st.integers(1, 70),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_the_total_is_scipys_and_the_order_plays_no_part(
    said: str, there: str, n_p: int, n_t: int, n_labels: int, rng: random.Random
) -> None:
    boxes = SCENES[said](rng, n_p)
    targets = SCENES[there](rng, n_t)
    if said == there:
        boxes = [targets[i] if rng.random() < 0.3 else box for i, box in enumerate(boxes[: len(targets)])]
    names = rng.choices(LABELS[:n_labels], k=len(boxes)), rng.choices(LABELS[:n_labels], k=len(targets))
    answer, target = Answer(tuple(boxes), tuple(names[0])), target_of(targets, names[1])
    for match in (match_class_aware, match_class_agnostic):
        matching = match(answer, target)
        assert sum(matching.ious) == pytest.approx(best_total(answer, target, by_label=match is match_class_aware))
        _holds(matching, answer, target)
        if match is match_class_aware and target.is_multiclass:
            assert all(names[0][p] == names[1][t] for p, t in matching.pairs)
        for _ in range(2):
            ps, ts = rng.sample(range(len(boxes)), len(boxes)), rng.sample(range(len(targets)), len(targets))
            other = match(
                Answer(tuple(boxes[p] for p in ps), tuple(names[0][p] for p in ps)),
                target_of([targets[t] for t in ts], [names[1][t] for t in ts]),
            )
            assert other.ious == matching.ious, "in the same order too: sums agree to the bit"


def _holds(matching: Matching, answer: Answer, target: Target) -> None:
    """One to one, and every overlap is true, to the bit."""
    assert len({p for p, _ in matching.pairs}) == len({t for _, t in matching.pairs}) == len(matching.pairs)
    for (p, t), overlap in zip(matching.pairs, matching.ious, strict=True):
        assert overlap == iou(answer.boxes_xyxy[p], target.boxes_xyxy[t]) > 0.0


@settings(max_examples=30)
@given(st.sampled_from(list(SCENES)), st.integers(2, 40), st.integers(1, 8), st.randoms(use_true_random=False))
def test_plain_python_and_numpy_agree(scene: str, n: int, n_labels: int, rng: random.Random) -> None:
    """Both sides of `SMALL_PAIRS`, labels all at once and one by one."""
    labels = [f"label{i}" for i in range(n_labels)]
    boxes, targets = SCENES[scene](rng, n), SCENES[scene](rng, n)
    answer = Answer(tuple(boxes), tuple(rng.choices(labels, k=len(boxes))))
    target = target_of(targets, rng.choices(labels, k=len(targets)), categories=labels)
    found: list[Matching] = []
    with pytest.MonkeyPatch.context() as patch:
        for small, padding in ((10**9, 4), (0, 10**9), (0, 0), (5, 0)):
            patch.setattr("verl_visionr1.matching.SMALL_PAIRS", small)
            patch.setattr("verl_visionr1.matching.MAX_PADDING", padding)
            found += [match_class_aware(answer, target), match_class_agnostic(answer, target)]
    for match in (found[0::2], found[1::2]):
        assert [sum(matching.ious) for matching in match] == pytest.approx([sum(match[0].ious)] * 4)


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [nested, crowded])
def test_beyond_the_bound_the_total_is_at_least_half_and_free_of_order(scene) -> None:
    rng = random.Random(0)
    n = int(MAX_ASSIGNED**0.5) + 20
    boxes, targets = scene(rng, n), scene(rng, n)
    answer, target = Answer(tuple(boxes), ("cat",) * n), target_of(targets)
    matching = match_class_aware(answer, target)
    _holds(matching, answer, target)
    best = best_total(answer, target, by_label=False)
    assert 0.5 * best <= sum(matching.ious) <= best + 1e-6
    rng.shuffle(boxes)
    rng.shuffle(targets)
    assert match_class_aware(Answer(tuple(boxes), ("cat",) * n), target_of(targets)).ious == matching.ious


def test_greedy_takes_the_largest_first() -> None:
    score_pt = np.zeros((MAX_ASSIGNED + 1, 1))
    score_pt[7] = 0.5
    assert assign(score_pt) == ([7], [0])


def test_the_predictions_that_are_matched_beyond_the_bound_do_not_hang_on_their_order() -> None:
    boxes = [(float(i), 0.0, i + 5.0, 5.0) for i in range(600)]
    kept = thin(range(600), boxes, 600)
    assert len(kept) == MAX_PAIRS // 600
    assert sorted(boxes)[: len(kept)] == [boxes[p] for p in kept]
    random.Random(0).shuffle(boxes)
    assert {boxes[p] for p in thin(range(600), boxes, 600)} == {(float(i), 0.0, i + 5.0, 5.0) for i in kept}
    assert len(thin(range(5), boxes, 2 * MAX_PAIRS)) == 1


def test_many_ignore_regions() -> None:
    rng = random.Random(0)
    boxes = tuple(scattered(rng, 1000))
    regions = scattered(rng, 200)
    target = target_of([(0.0, 990.0, 5.0, 999.0)], ignore_xyxy=regions)
    answer = Answer(boxes, ("cat",) * 1000)
    matching = match_class_aware(answer, target)
    found = find_ignored(answer, target, matching)
    floor = cpu_seconds(lambda: [_share(boxes[0], region) for _ in range(200) for region in regions])
    assert cpu_seconds(lambda: find_ignored(answer, target, matching)) < floor, "a fifth of the pairs in plain Python"
    expected = {p for p, box in enumerate(boxes) if any(_share(box, region) >= 0.5 for region in regions)}
    assert found == expected
    assert 0 < len(found) < 1000


def _share(box: Box, region: Box) -> float:
    width, height = min(box[2], region[2]) - max(box[0], region[0]), min(box[3], region[3]) - max(box[1], region[1])
    return max(width, 0.0) * max(height, 0.0) / ((box[2] - box[0]) * (box[3] - box[1]))


# --- what a target keeps ---------------------------------------------------------------------------------------------


def test_a_changed_copy_is_indexed_anew() -> None:
    target = target_of([(0.0, 0.0, 9.0, 9.0)], ["cat"], categories=["cat", "dog"])
    assert target.indexed.order == (0,)
    assert target.is_multiclass
    other = msgspec.structs.replace(target, boxes_xyxy=(), labels=(), categories=())
    assert (other.indexed.order, other.is_multiclass, other.normalized_labels) == ((), False, ())
    assert Target.from_json(target.to_json()) == target, "what is kept is no part of it"
    text = '[{"bbox_2d": [0, 0, 9, 9], "label": "CAT "}]'
    assert score(text, target).value == 1.0


def test_labels_agree_as_they_are_compared() -> None:
    target = target_of([(0.0, 0.0, 9.0, 9.0)] * 2, ["Red  Bus", "dog"])
    for label in ("Red  Bus", "red bus", " RED BUS "):
        assert match_class_aware(Answer(((0.0, 0.0, 9.0, 9.0),), (label,)), target).pairs == ((0, 0),)
        assert match_giou(Answer(((0.0, 0.0, 9.0, 9.0),), (label,)), target).pairs == ((0, 0),)
