from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, iou, widen
from verl_visionr1.criteria import ADVANCED, BEGINNER, OFF, Thresholds, precision, recall
from verl_visionr1.criteria.dense import (
    big_vision,
    precision_size_aware,
    reachable_iou,
    recall_size_aware,
    soft_iou,
    v_triune,
    weighted_sum,
)
from verl_visionr1.matching import Matching

STRICT = Thresholds(match_iou=0.99, recall_floor=0.0, recall_full=1.0, iou_floor=0.99, iou_full=1.0)
STEP = (1.0, 1.0)


def matched(ious: list[float], n_predicted: int, n_target: int) -> Matching:
    return Matching(tuple((i, i) for i in range(len(ious))), tuple(ious), n_predicted, n_target)


def target_of(n: int, side: float = 400.0, labels: list[str] | None = None) -> Target:
    """`n` squares of one size."""
    box = (0.0, 0.0, side, side)
    return Target(task="detection", size_wh=(1000, 1000), boxes_xyxy=[box] * n, labels=labels or ["cat"] * n)


# ious, n_P, n_T -> soft_iou, weighted_sum, v_triune at eps .85, big_vision
EPS_85 = Thresholds(match_iou=0.85, recall_floor=0.0, recall_full=1.0, iou_floor=0.85, iou_full=1.0)
TABLE = {
    "perfect": ([1.0, 1.0], 2, 2, 1, 1, 1, 1),
    "IoU .6": ([0.6], 1, 1, 0.6, 0.72, 0, 0.3),
    "IoU .4": ([0.4], 1, 1, 0.4, 0, 0, 0),
    "IoU .9": ([0.9], 1, 1, 0.9, 0.93, 0.93, 0.9),
    "one of two": ([1.0], 1, 2, 0.5, 0.575, 0.575 * 0.6**0.5, 0.5),
    "one of two, and junk": ([1.0], 2, 2, 0.5, 0.5, 0.5 * 0.6, 0.35),
    "ten times": ([1.0], 10, 1, 0.1, 0.865, 0.865 * 0.6**9, 0),
    "twice": ([1.0], 2, 1, 0.5, 0.925, 0.925 * 0.6, 0.7),
    "below eps, but there": ([1.0, 0.8], 2, 2, 0.9, 0.93, 0.5, 0.85),
    "nothing said": ([], 0, 2, 0, 0, 0, 0),
    "nothing right": ([], 3, 2, 0, 0, 0, 0),
    "nothing there": ([], 1, 0, 0, 0, 0, 0),
    "neither": ([], 0, 0, 1, 1, 1, 1),
}


@pytest.mark.parametrize(("ious", "n_p", "n_t", "over", "total", "triune", "vision"), TABLE.values(), ids=TABLE)
def test_values(ious: list[float], n_p: int, n_t: int, over: float, total: float, triune: float, vision: float) -> None:
    matching = matched(ious, n_p, n_t)
    assert soft_iou(matching) == pytest.approx(over)
    assert weighted_sum(matching) == pytest.approx(total)
    assert v_triune(matching, EPS_85) == pytest.approx(triune)
    assert big_vision(matching) == pytest.approx(vision)


def test_visual_rft_has_a_bound() -> None:
    assert soft_iou(matched([1.0, 0.5, 0.4], 3, 3), match_iou=0.5) == pytest.approx(0.5)


# --- big_vision ------------------------------------------------------------------------------------------------------


def test_big_vision_is_the_mean_over_ten_thresholds() -> None:
    for tenths in range(10):
        overlap = 0.5 + 0.05 * tenths
        assert big_vision(matched([overlap], 1, 1)) == pytest.approx((tenths + 1) / 10)
        assert big_vision(matched([overlap - 0.001], 1, 1), penalty=0.0) == pytest.approx(tenths / 10)


BAD_OPTIONS = {
    "penalty below 0": (lambda: big_vision(matched([], 1, 1), penalty=-1), "penalty = -1: needs"),
    "penalty nan": (lambda: big_vision(matched([], 1, 1), penalty=math.nan), "penalty = nan: needs"),
    "size penalty above 1": (
        lambda: v_triune(matched([], 1, 1), OFF, size_penalty=1.5),
        "size_penalty = 1.5: needs",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- what the grid can write -----------------------------------------------------------------------------------------


def rounded(box: Box, step_w: float, step_h: float, ways: tuple[int, int, int, int]) -> Box | None:
    """The box on the grid; an edge half-way between two steps goes the way it is told. None if it vanishes."""
    edges = []
    for edge, step, way in zip(box, (step_w, step_h) * 2, ways, strict=True):
        steps = edge / step
        low = math.floor(steps)
        is_half = abs(steps - low - 0.5) < 1e-9
        edges.append(step * (low + way if is_half else math.floor(steps + 0.5)))
    return tuple(edges) if edges[0] < edges[2] and edges[1] < edges[3] else None


@given(
    *[st.integers(0, 40)] * 2, *[st.integers(1, 60)] * 2, st.sampled_from([0.5, 1.0, 1.6]), st.sampled_from([1.0, 2.0])
)
def test_no_rounding_falls_below_the_reachable_iou(
    x: int, y: int, w: int, h: int, step_w: float, step_h: float
) -> None:
    """By brute force: eighths of a pixel, all ways to round half-way edges that leave a box."""
    box = (x / 8, y / 8, x / 8 + w / 8, y / 8 + h / 8)
    step = (step_w, step_h)
    limit = reachable_iou(box, step)
    for ways in itertools.product((0, 1), repeat=4):
        said = rounded(box, step_w, step_h, ways)
        if said is not None:
            assert max(iou(said, box), iou(said, widen(box, step))) >= limit - 1e-9
    middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    cell = [step[side] * math.floor(middle[side] / step[side]) for side in (0, 1)]
    if box[2] - box[0] <= step_w and box[3] - box[1] <= step_h:
        said = (cell[0], cell[1], cell[0] + step_w, cell[1] + step_h)
        assert iou(said, widen(box, step)) >= limit - 1e-9, "the cell in which its middle lies"


@pytest.mark.parametrize(("n_w", "n_h", "step"), [(2, 2, 0.25), (3, 7, 1.0), (10, 50, 2.5), (100, 7, 1.0)])
def test_the_reachable_iou_is_reached(n_w: int, n_h: int, step: float) -> None:
    """Half-way edges that all round inwards: the bound is no lower than it must be."""
    box = (step / 2, step / 2, step * (n_w + 0.5), step * (n_h + 0.5))
    worst = rounded(box, step, step, (1, 1, 0, 0))
    assert worst is not None
    assert iou(worst, box) == pytest.approx(reachable_iou(box, (step, step)))


# side of the target, IoU -> recall and precision at the advanced stage
SIZES = {
    "large: as ever": (400, 0.74, 0, 0),
    "large, at the threshold": (400, 0.75, 1, 0.75),
    "small: below what rounding keeps": (4, 0.56, 0, 0),
    "small: at what rounding keeps": (4, 0.5625, 1, 1),
    "small: above": (4, 0.7, 1, 1),
    "medium: match as ever, full credit earlier": (10, 0.81, 1, 1),
    "medium: below full credit": (10, 0.8, 1, 0.8),
    "less than a step: the cell is right": (0.5, 0.25, 1, 1),
    "less than a step: four cells": (0.5, 0.0625, 1, 1),
    "less than a step: sixteen cells": (0.5, 0.015625, 0, 0),
    "less than a step: the whole image": (0.5, 2.5e-7, 0, 0),
    "a step: two by two": (1, 0.25, 1, 1),
    "a step: four by four": (1, 0.0625, 0, 0),
}


@pytest.mark.parametrize(("side", "overlap", "r", "p"), SIZES.values(), ids=SIZES)
def test_size_aware(side: float, overlap: float, r: float, p: float) -> None:
    matching, target = matched([overlap], 1, 1), target_of(1, side)
    said = side / overlap**0.5 if side <= 1 else side  # the square that has this IoU
    answer = Answer(((0.0, 0.0, said, said),), ("cat",))
    assert recall_size_aware(answer, matching, ADVANCED, target, STEP) == pytest.approx(r)
    assert precision_size_aware(answer, matching, ADVANCED, target, STEP) == pytest.approx(p)


THIN = Target(task="grounding", size_wh=(1920, 1080), boxes_xyxy=[[900, 100, 902, 900]], labels=["cat"])
SAID = {
    "the whole image": ((0, 0, 840, 476), 0.0),
    "a column of five steps": ((392, 44, 397, 397), 0.0),
    "the step in which it lies": ((394, 44, 395, 397), 1.0),
    "two steps": ((393, 44, 395, 397), 1.0),
    "another step": ((390, 44, 391, 397), 0.0),
}


@pytest.mark.parametrize(("box", "precise"), SAID.values(), ids=SAID)
def test_a_target_thinner_than_a_step(box: tuple[int, int, int, int], precise: float) -> None:
    """The frame's step is 2.29 pixels, the object 2 pixels wide."""
    text = f'[{{"bbox_2d": {list(box)}, "label": "cat"}}]'
    for progress in (0.0, 1.0):
        judged = score(
            text, THIN, preset="visionr1-size-aware", frame="qwen2.5-vl", processed_wh=(840, 476), progress=progress
        )
        assert (judged.metrics["recall"], judged.metrics["precision"]) == (precise, precise)


def test_what_can_be_written_exactly_is_right_however_thin() -> None:
    text = '[{"bbox_2d": [0.25, 0.25, 0.75, 0.75], "label": "cat"}]'
    target = Target(task="grounding", size_wh=(100, 100), boxes_xyxy=[[0.25, 0.25, 0.75, 0.75]], labels=["cat"])
    assert score(text, target, preset="visionr1-size-aware", progress=1.0).value == 1.0


def test_v_triune_of_many_objects_is_not_the_format_alone() -> None:
    """50 objects, 43 found: F1 .86. Released .84; by the number of misses and false alarms alone .004."""
    matching = matched([0.97] * 43, 50, 50)
    assert v_triune(matching, EPS_85) == pytest.approx((0.7 * 0.97 + 0.3) * 0.86 * 0.6**0.28)


# --- properties ------------------------------------------------------------------------------------------------------

ious_of = st.lists(st.floats(0.001, 1.0), max_size=5)
sides = st.floats(0.1, 900.0)
stages = st.sampled_from([BEGINNER, ADVANCED, OFF, STRICT])


@given(ious_of, st.integers(0, 4), st.integers(0, 4), stages, sides)
def test_criteria_lie_in_0_1_and_one_more_wrong_box_never_pays(
    ious: list[float], more_p: int, more_t: int, stage: Thresholds, side: float
) -> None:
    n_p, n_t = len(ious) + more_p, len(ious) + more_t
    target = target_of(n_t, side)
    answer = Answer(((0.0, 0.0, side, side),) * (n_p + 1), ("cat",) * (n_p + 1))
    criteria = (
        soft_iou,
        weighted_sum,
        lambda matching: v_triune(matching, stage),
        big_vision,
        lambda matching: recall_size_aware(answer, matching, stage, target, STEP),
        lambda matching: precision_size_aware(answer, matching, stage, target, STEP),
    )
    for criterion in criteria:
        before, after = criterion(matched(ious, n_p, n_t)), criterion(matched(ious, n_p + 1, n_t))
        assert 0.0 <= after <= before <= 1.0


@given(ious_of, st.integers(0, 3), st.integers(0, 3), st.sampled_from([BEGINNER, ADVANCED, OFF]), sides)
def test_size_awareness_only_forgives(
    ious: list[float], more_p: int, more_t: int, stage: Thresholds, side: float
) -> None:
    matching = matched(ious, len(ious) + more_p, len(ious) + more_t)
    target = target_of(matching.n_target, side)
    answer = Answer(((0.0, 0.0, 7.0, 7.0),) * matching.n_predicted, ("cat",) * matching.n_predicted)
    pairs = ((recall, recall_size_aware), (precision, precision_size_aware))
    for plain, aware in pairs:
        assert aware(answer, matching, stage, target, STEP) >= plain(matching, stage)
        assert aware(answer, matching, stage, target, (0.0, 0.0)) == plain(matching, stage), (
            "without steps they are the same"
        )
