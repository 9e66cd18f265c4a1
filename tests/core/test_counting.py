"""Criteria and presets of counting."""

from __future__ import annotations

import json
import math
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_visionr1 import Target, score
from verl_visionr1.answers import Answer, Defect
from verl_visionr1.criteria.counting import count_exact, count_fuzzy, count_mra
from verl_visionr1.rewards import PRESETS, Criterion

ALL = [name for name in PRESETS if PRESETS[name].tasks == ("counting",)]


def target(count: int) -> Target:
    return Target(task="counting", size_wh=(640, 480), count=count)


def boxes(n: int) -> str:
    return json.dumps([{"bbox_2d": [5 * i, 0, 5 * i + 5, 9], "label": "cat"} for i in range(n)])


# (stated, true) -> exact, relative, fuzzy, mra
VALUES = {
    (10, 10): (1, 1, 1, 1),
    (9, 10): (0, 0.9, 0.8, 0.8),
    (11, 10): (0, 0.9, 0.8, 0.8),
    (6, 10): (0, 0.6, 0.2, 0.2),
    (5, 10): (0, 0.5, 0, 0),
    (0, 10): (0, 0, 0, 0),
    (100, 10): (0, 0, 0, 0),
    (9.5, 10): (0, 0.95, 0.9, 0.9),
    (0, 0): (1, 1, 1, 1),
    (1, 0): (0, 0, 0, 0),
    (2, 1): (0, 0, 0, 0),
    (1, 1): (1, 1, 1, 1),
    (99, 100): (0, 0.99, 0.98, 1),
    (None, 3): (0, 0, 0, 0),
    (None, 0): (0, 0, 0, 0),
}


@pytest.mark.parametrize(("stated", "true", "expected"), [(*key, value) for key, value in VALUES.items()])
def test_values(stated: float | None, true: int, expected: tuple[float, ...]) -> None:
    answer = Answer(count=stated, defects=() if stated is not None else (Defect.NO_COUNT,))
    relative = partial(count_fuzzy, cutoff=1.0)
    judged = [fn(answer, target(true)) for fn in (count_exact, relative, count_fuzzy, count_mra)]
    assert judged == pytest.approx(expected)


@given(st.integers(1, 500), st.integers(0, 1000))
def test_mra_by_definition(true: int, stated: int) -> None:
    """|s - y| / y < 1 - t, in fractions, for t = .5, .55, ... .95."""
    met = [100 * abs(stated - true) < (100 - t) * true for t in range(50, 100, 5)]
    assert count_mra(Answer(count=float(stated)), target(true)) == pytest.approx(sum(met) / 10)


def test_fuzzy_has_no_jump() -> None:
    values = [count_fuzzy(Answer(count=x / 10), target(100)) for x in range(2001)]
    assert max(abs(a - b) for a, b in pairwise(values)) < 0.0021


def test_the_cutoff_of_fuzzy() -> None:
    assert count_fuzzy(Answer(count=6.0), target(10), cutoff=1.0) == pytest.approx(0.6)
    assert Criterion("near", count_fuzzy, options={"cutoff": 0.8}).options == {"cutoff": 0.8}
    for cutoff in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="cutoff"):
            count_fuzzy(Answer(count=6.0), target(10), cutoff=cutoff)


def test_a_target_without_a_count_is_met_by_nothing() -> None:
    nothing = Target(task="detection", size_wh=(640, 480))
    for fn in (count_exact, count_fuzzy, count_mra):
        assert fn(Answer(count=0.0), nothing) == 0.0


# text, true count -> format, exact, near
JUDGED: dict[str, tuple[str, str, int, tuple[float, float, float]]] = {
    "right": ("counting", "7", 7, (1, 1, 1)),
    "right, in prose": ("counting", "There are seven.", 7, (0, 1, 1)),
    "near": ("counting", "<think>7</think><answer>9</answer>", 10, (1, 0, 0.8)),
    "only reasoned": ("counting", "<think>7</think>", 7, (0, 0, 0)),
    "nothing said of nothing": ("counting", "", 0, (0, 0, 0)),
    "prose of nothing": ("counting", "I cannot tell", 0, (0, 0, 0)),
    "none": ("counting", "none", 0, (1, 1, 1)),
    "a list": ("counting-list", boxes(7), 7, (1, 1, 1)),
    "a list too short": ("counting-list", boxes(9), 10, (1, 0, 0.8)),
    "the empty list": ("counting-list", "[]", 0, (1, 1, 1)),
    "the empty list of something": ("counting-list", "[]", 3, (1, 0, 0)),
    "no list of nothing": ("counting-list", "There are none", 0, (0, 0, 0)),
    "a list that cannot be read, of nothing": ("counting-list", '[{"bbox_2d": [1, 2]}]', 0, (0, 0, 0)),
    "a number is no list": ("counting-list", "7", 7, (0, 0, 0)),
}


@pytest.mark.parametrize(("preset", "text", "true", "expected"), JUDGED.values(), ids=JUDGED)
def test_presets(preset: str, text: str, true: int, expected: tuple[float, ...]) -> None:
    result = score(text, target(true), preset=preset)
    assert [result.metrics[name] for name in ("format", "exact", "near")] == pytest.approx(expected)
    assert result.value == pytest.approx((0.5 * expected[0] + expected[1] + expected[2]) / 2.5)
    assert result.metrics["accuracy"] == expected[1]
