from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1.answers import Answer, Defect
from verl_visionr1.criteria import (
    ADVANCED,
    BEGINNER,
    OFF,
    Thresholds,
    differentiate,
    f1_50,
    iou_mean,
    precision,
    recall,
    well_formed,
)
from verl_visionr1.matching import Matching


def matched(ious: list[float], n_predicted: int, n_target: int) -> Matching:
    return Matching(tuple((i, i) for i in range(len(ious))), tuple(ious), n_predicted, n_target)


# Thresholds are inclusive: an IoU that is the threshold has reached it.
F = {
    "far below": (0.0, 0.0),
    "just below the floor": (0.4999, 0.0),
    "at the floor": (0.5, 0.5),
    "just above the floor": (0.5001, 0.5001),
    "between": (0.6, 0.6),
    "just below full": (0.7499, 0.7499),
    "at full": (0.75, 1.0),
    "above": (0.9, 1.0),
    "perfect": (1.0, 1.0),
    "at the floor, less rounding": (0.5 - 1e-12, 0.5),
    "at full, less rounding": (0.75 - 1e-12, 1.0),
}


@pytest.mark.parametrize(("x", "expected"), F.values(), ids=F)
def test_differentiate(x: float, expected: float) -> None:
    assert differentiate(x, 0.5, 0.75) == pytest.approx(expected, abs=1e-9)


def test_equal_bounds_are_a_step() -> None:
    assert [differentiate(x, 0.5, 0.5) for x in (0.4999, 0.5, 0.5001)] == [0.0, 1.0, 1.0]


# ious, n_P, n_T, thresholds -> recall, precision
TABLE = {
    "perfect": ([1.0, 1.0], 2, 2, BEGINNER, 1.0, 1.0),
    "at xi0": ([0.5], 1, 1, BEGINNER, 1.0, 0.5),
    "just below xi0": ([0.4999], 1, 1, BEGINNER, 0.0, 0.0),
    "at xi2: full credit": ([0.75], 1, 1, BEGINNER, 1.0, 1.0),
    "at xi0, advanced": ([0.75], 1, 1, ADVANCED, 1.0, 0.75),
    "just below xi0, advanced": ([0.7499], 1, 1, ADVANCED, 0.0, 0.0),
    "at xi2, advanced": ([0.9], 1, 1, ADVANCED, 1.0, 1.0),
    "off: IoU itself": ([0.6], 1, 1, OFF, 1.0, 0.6),
    "half found is kept": ([1.0], 1, 2, BEGINNER, 0.5, 1.0),
    "half found, advanced: nothing": ([1.0], 1, 2, ADVANCED, 0.0, 1.0),
    "a third found: nothing": ([1.0], 1, 3, BEGINNER, 0.0, 1.0),
    "a third found, off": ([1.0], 1, 3, OFF, 1 / 3, 1.0),
    "two thirds found": ([1.0, 1.0], 2, 3, BEGINNER, 2 / 3, 1.0),
    "three quarters found: full": ([1.0] * 3, 3, 4, BEGINNER, 1.0, 1.0),
    "duplicates cost": ([1.0], 10, 1, BEGINNER, 1.0, 0.1),
    "20 junk boxes cost": ([1.0, 1.0], 22, 2, BEGINNER, 1.0, 2 / 22),
    "mixed quality": ([1.0, 0.6, 0.3], 4, 3, BEGINNER, 2 / 3, 1.6 / 4),
    "nothing said": ([], 0, 3, BEGINNER, 0.0, 0.0),
    "nothing right": ([], 3, 3, BEGINNER, 0.0, 0.0),
    "nothing there, nothing said": ([], 0, 0, BEGINNER, 1.0, 1.0),
    "nothing there, one box said": ([], 1, 0, BEGINNER, 0.0, 0.0),
}


@pytest.mark.parametrize(("ious", "n_p", "n_t", "thresholds", "r", "p"), TABLE.values(), ids=TABLE)
def test_recall_and_precision(
    ious: list[float], n_p: int, n_t: int, thresholds: Thresholds, r: float, p: float
) -> None:
    matching = matched(ious, n_p, n_t)
    assert recall(matching, thresholds) == pytest.approx(r)
    assert precision(matching, thresholds) == pytest.approx(p)


def test_recall_has_its_own_bounds() -> None:
    loose = Thresholds(match_iou=0.75, recall_floor=0.0, recall_full=0.5, iou_floor=0.75, iou_full=0.9)
    assert recall(matched([1.0], 1, 2), loose) == 1.0


@pytest.mark.parametrize("defect", Defect)
def test_any_defect_costs_the_format(defect: Defect) -> None:
    assert well_formed(Answer()) == 1.0
    assert well_formed(Answer(defects=(defect,))) == 0.0


FREE = {
    "perfect": ([1.0], 1, 1, 1.0, 1.0),
    "half found": ([1.0], 1, 2, 0.5, 2 / 3),
    "duplicates": ([1.0], 3, 1, 1.0, 0.5),
    "poor overlap counts in the mean only": ([0.4], 1, 1, 0.4, 0.0),
    "at .5": ([0.5], 1, 1, 0.5, 1.0),
    "nothing said": ([], 0, 2, 0.0, 0.0),
    "nothing there, nothing said": ([], 0, 0, 1.0, 1.0),
    "nothing there, one box said": ([], 1, 0, 0.0, 0.0),
}


@pytest.mark.parametrize(("ious", "n_p", "n_t", "mean", "f1"), FREE.values(), ids=FREE)
def test_threshold_free(ious: list[float], n_p: int, n_t: int, mean: float, f1: float) -> None:
    assert iou_mean(matched(ious, n_p, n_t)) == pytest.approx(mean)
    assert f1_50(matched(ious, n_p, n_t)) == pytest.approx(f1)


share = st.floats(0.0, 1.0)
triples = st.lists(share, min_size=3, max_size=3).map(sorted)
thresholds_of = triples.map(lambda xs: Thresholds.of(xs[0], xs[1], xs[2]))
positive_ious = st.lists(st.floats(0.001, 1.0), max_size=5)


@given(positive_ious, st.integers(0, 3), st.integers(0, 3), thresholds_of)
def test_one_more_wrong_box_never_pays(ious: list[float], more_p: int, more_t: int, thresholds: Thresholds) -> None:
    n_p, n_t = len(ious) + more_p, len(ious) + more_t
    before, after = matched(ious, n_p, n_t), matched(ious, n_p + 1, n_t)
    assert recall(after, thresholds) <= recall(before, thresholds)
    # n_P = 0 with targets is 0 already, so this holds there too.
    assert precision(after, thresholds) <= precision(before, thresholds)


BAD = {
    "above 1": ((1.5, 0.5, 0.75), r"threshold match_iou = 1\.5"),
    "below 0": ((0.5, -0.1, 0.75), "threshold recall_floor = -0.1"),
    "nan": ((0.5, 0.5, float("nan")), "threshold recall_full = nan"),
    "a text": ((0.5, "0.5", 0.75), "threshold recall_floor = '0.5'"),
    "true": ((True, 0.5, 0.75), "threshold match_iou = True"),
    "floor above full": ((0.5, 0.8, 0.75), "recall_floor=0.8, recall_full=0.75"),
}


@pytest.mark.parametrize(("triple", "message"), BAD.values(), ids=BAD)
def test_bad_thresholds(triple: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thresholds.of(*triple)
