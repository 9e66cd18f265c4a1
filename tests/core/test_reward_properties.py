"""What holds for any answer: the definition written down a second time, order, bounds, and no text that harms."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_cases import BOUNDED, Labelled, said

from verl_visionr1 import Target, score
from verl_visionr1.boxes import iou
from verl_visionr1.targets import normalize_label


def by_definition(
    predictions: list[Labelled], target: Target, preset: str, xi0: float, xi1: float, xi2: float
) -> float:
    """DESIGN section 4 for a well-formed answer, by trying all matchings."""
    targets = list(zip(target.boxes_xyxy, target.labels, strict=True))
    n_p, n_t = len(predictions), len(targets)
    if not n_t or not n_p:
        return 1.0 if n_t == n_p else 1 / 3
    use_labels = preset == "visionr1" and len(set(map(normalize_label, target.labels))) > 1

    def worth(p: Labelled, t: Labelled) -> float:
        return iou(p[0], t[0]) if not use_labels or normalize_label(p[1]) == normalize_label(t[1]) else 0.0

    rows, columns = (predictions, targets) if n_p <= n_t else (targets, predictions)
    matchings = (
        [worth(a, b) if n_p <= n_t else worth(b, a) for a, b in zip(rows, chosen, strict=True)]
        for chosen in itertools.permutations(columns, len(rows))
    )
    counted = [overlap for overlap in max(matchings, key=sum) if overlap >= xi0]

    def f(x: float) -> float:
        return 0.0 if x < xi1 else 1.0 if x >= xi2 else x

    return (1.0 + f(len(counted) / n_t) + sum(map(f, counted)) / n_p) / 3


# Odd fractions: ties between matchings, where a definition by "the best total" has no single answer, do not happen.
odd = st.floats(0, 300).map(lambda x: x + math.pi / 100)
boxes = st.tuples(odd, odd, odd, odd).map(lambda b: (b[0], b[1], b[0] + b[2] + 1, b[1] + b[3] + 1))
jitter = st.tuples(*[st.floats(-15, 15)] * 4)
names = st.sampled_from(["cat", "Dog", "red  bus"])


@st.composite
def answers_and_targets(draw: st.DrawFn) -> tuple[list[Labelled], Target]:
    target_boxes = draw(st.lists(boxes, max_size=4))
    labels = draw(st.lists(names, min_size=len(target_boxes), max_size=len(target_boxes)))
    near = [
        (tuple(v + d for v, d in zip(box, draw(jitter), strict=True)), draw(st.sampled_from([label, "cat"])))
        for box, label in zip(target_boxes, labels, strict=True)
    ]
    near = [(box, label) for box, label in near if 0 < box[0] < box[2] and 0 < box[1] < box[3]]
    predictions = draw(st.permutations(near))[: draw(st.integers(0, 4))] + draw(
        st.lists(st.tuples(boxes, names), max_size=1)
    )
    return predictions, Target(task="detection", size_wh=(1000, 1000), boxes_xyxy=target_boxes, labels=labels)


@settings(max_examples=200)
@given(answers_and_targets(), st.sampled_from(BOUNDED), st.sampled_from([0.2, 0.8]))
def test_twin_of_the_definition(case: tuple[list[Labelled], Target], preset: str, progress: float) -> None:
    predictions, target = case
    triple = (0.5, 0.5, 0.75) if progress < 0.5 else (0.75, 0.75, 0.9)
    expected = by_definition(predictions, target, preset, *triple)
    assert score(said(*predictions), target, preset=preset, progress=progress).value == pytest.approx(
        expected, abs=1e-9
    )
