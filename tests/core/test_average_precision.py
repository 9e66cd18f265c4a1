from __future__ import annotations

import contextlib
import io
import itertools
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from verl_visionr1 import Target
from verl_visionr1.answers import Answer
from verl_visionr1.boxes import Box, pairwise_iou
from verl_visionr1.criteria.average_precision import (
    IOU_THRESHOLDS,
    RECALLS,
    ap,
    ap50,
    ap_of_ranking,
    od_length,
    rank_matches,
)
from verl_visionr1.matching import match_class_aware

SIZE = (200, 200)
A, B, C, FAR = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0), (100.0, 100.0, 110.0, 110.0)
Labelled = tuple[Box, str]


def judged(
    predictions: Sequence[Labelled], targets: Sequence[Labelled], n_dropped: int = 0, **more: object
) -> list[float]:
    """ap, ap50 and od_length of a scene."""
    answer = Answer(tuple(box for box, _ in predictions), tuple(label for _, label in predictions), n_dropped)
    target = Target(
        task="detection",
        size_wh=SIZE,
        boxes_xyxy=[box for box, _ in targets],
        labels=[label for _, label in targets],
        **more,
    )
    matching = match_class_aware(answer, target)
    return [criterion(answer, target, matching) for criterion in (ap, ap50, od_length)]


# --- the order-free criteria -----------------------------------------------------------------------------------------

CATS_AND_DOG = [(A, "cat"), (B, "cat"), (C, "dog")]
HALF_A = (0.0, 0.0, 10.0, 5.0)
# predictions, targets -> ap, ap50, od_length
TABLE = {
    "perfect": (CATS_AND_DOG, CATS_AND_DOG, 1, 1, 1),
    "labels in capitals": ([(box, label.upper()) for box, label in CATS_AND_DOG], CATS_AND_DOG, 1, 1, 1),
    "IoU .5": ([(HALF_A, "cat")], [(A, "cat")], 0.1, 1, 0.1),
    "IoU .75": ([((0, 0, 10, 7.5), "cat")], [(A, "cat")], 0.6, 1, 0.6),
    "IoU .95": ([((0, 0, 10, 9.5), "cat")], [(A, "cat")], 1, 1, 1),
    "one of two": ([(A, "cat")], [(A, "cat"), (B, "cat")], 0.5, 0.5, 0.5),
    "one of two classes": ([(A, "cat")], [(A, "cat"), (B, "dog")], 0.5, 0.5, 0.5),
    "a class too many counts half in each class": (
        [*CATS_AND_DOG, (FAR, "cow")],
        CATS_AND_DOG,
        11 / 15,
        11 / 15,
        11 / 20,
    ),
    "a false alarm counts in its class": (
        [(A, "cat"), (B, "cat"), (FAR, "dog")],
        [(A, "cat"), (B, "dog")],
        0.25,
        0.25,
        1 / 6,
    ),
    "ten times": ([(A, "cat")] * 10, [(A, "cat")], 0.1, 0.1, 0.01),
    "labels swapped": ([(A, "dog"), (C, "cat")], [(A, "cat"), (C, "dog")], 0, 0, 0),
    "one label: it cannot be wrong": ([(A, "dog")], [(A, "cat")], 1, 1, 1),
    "nothing said": ([], [(A, "cat")], 0, 0, 0),
    "nothing there": ([(A, "cat")], [], 0, 0, 0),
    "neither": ([], [], 1, 1, 1),
}


@pytest.mark.parametrize(("predictions", "targets", "mean", "at_50", "length"), TABLE.values(), ids=TABLE)
def test_tied_ap(predictions: list, targets: list, mean: float, at_50: float, length: float) -> None:
    assert judged(predictions, targets) == pytest.approx([mean, at_50, length])


def test_a_box_that_cannot_be_read_is_a_false_alarm_of_all_classes() -> None:
    assert judged([(A, "cat"), (C, "dog")], [(A, "cat"), (C, "dog")], n_dropped=2) == pytest.approx([0.5, 0.5, 0.25])
    assert judged([(A, "cat")], [(A, "cat")], n_dropped=1) == pytest.approx([0.5, 0.5, 0.25])


def test_boxes_in_a_crowd_are_not_counted() -> None:
    crowd = {"ignore_xyxy": [(90, 90, 120, 120)]}
    for label in ("cat", "dog", "cow"):
        assert judged([*CATS_AND_DOG, (FAR, label)], CATS_AND_DOG, **crowd) == [1.0, 1.0, 1.0]


def test_more_than_100_boxes_count() -> None:
    many = [((x * 3.0, y * 3.0, x * 3.0 + 2, y * 3.0 + 2), "cat") for x in range(15) for y in range(10)]
    assert judged(many, many) == [1.0, 1.0, 1.0]


grid = st.tuples(*[st.integers(0, 3)] * 2, *[st.integers(1, 3)] * 2).map(
    lambda b: (b[0] * 8.0, b[1] * 8.0, (b[0] + b[2]) * 8.0, (b[1] + b[3]) * 8.0)
)
scenes = st.lists(st.tuples(grid, st.sampled_from(["cat", "dog", "Cow"])), max_size=6)


@given(scenes, scenes, st.sampled_from(["cat", "dog", "Cow", "horse", ""]), st.booleans())
def test_a_box_apart_never_pays(predictions: list, targets: list, label: str, readable: bool) -> None:
    before = judged(predictions, targets)
    after = judged([*predictions, (FAR, label)] if readable else predictions, targets, n_dropped=not readable)
    assert all(0.0 <= later <= earlier + 1e-12 <= 1.0 + 1e-12 for earlier, later in zip(before, after, strict=True))
    of_no_class = not readable or label.lower() not in {name.lower() for _, name in targets}
    if before[1] > 0.0 and of_no_class:
        assert after[1] < before[1], "and of no class that is there it costs wherever anything is right"


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_tied_ap_is_that_of_the_worst_order(n_hits: int, n_target: int, data: st.DataObject) -> None:
    """But for COCO's grid of recalls: of all orders of the same boxes the worst has the tied value."""
    n_hits = min(n_hits, n_target)
    n_wrong = data.draw(st.integers(0, 4))
    hits = [True] * n_hits + [False] * n_wrong
    worst = min(ap_of_ranking(order, n_target) for order in set(itertools.permutations(hits)))
    tied = (n_hits / len(hits)) * (n_hits / n_target)
    assert worst == pytest.approx(tied, abs=0.01)
    boxes = [(10.0 * i, 0.0, 10.0 * i + 9, 9.0) for i in range(n_target)]
    wrong = [(10.0 * i, 100.0, 10.0 * i + 9, 109.0) for i in range(n_wrong)]
    said = [(box, "cat") for box in boxes[:n_hits] + wrong]
    assert judged(said, [(box, "cat") for box in boxes])[0] == pytest.approx(tied)


# --- the ranked core, beside COCO's own ------------------------------------------------------------------------------


def test_the_grids_are_those_of_coco() -> None:
    parameters = COCOeval(iouType="bbox").params
    assert tuple(parameters.iouThrs.tolist()) == IOU_THRESHOLDS
    assert tuple(parameters.recThrs.tolist()) == RECALLS


def by_pycocotools(predictions: list[Labelled], targets: list[Labelled], scores: list[float]) -> list[float]:
    def xywh(box: Box) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    names = sorted({label for _, label in targets})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 0, "width": 2048, "height": 2048}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {
                **{"id": i + 1, "image_id": 0, "iscrowd": 0, "category_id": names.index(label)},
                **{"bbox": xywh(box), "area": (box[2] - box[0]) * (box[3] - box[1])},
            }
            for i, (box, label) in enumerate(targets)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        said = truth.loadRes(
            [
                {"image_id": 0, "category_id": names.index(label), "bbox": xywh(box), "score": number}
                for (box, label), number in zip(predictions, scores, strict=True)
                if label in names
            ]
        )
        judge = COCOeval(truth, said, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats[:2].tolist()


def by_the_core(predictions: list[Labelled], targets: list[Labelled], scores: list[float]) -> list[float]:
    order = np.argsort([-number for number in scores], kind="stable")
    ranked = [predictions[p] for p in order]
    of_class = []
    for name in sorted({label for _, label in targets}):
        wanted = [box for box, label in targets if label == name]
        matches_of = rank_matches(pairwise_iou([box for box, label in ranked if label == name], wanted))
        of_class.append([ap_of_ranking([t >= 0 for t in found], len(wanted)) for found in matches_of])
    return [float(np.mean(of_class)), float(np.mean([values[0] for values in of_class]))]


def crowd(rng: random.Random, n: int, labels: Sequence[str]) -> list[Labelled]:
    corners = [(rng.randrange(60), rng.randrange(60), rng.randrange(5, 40), rng.randrange(5, 40)) for _ in range(n)]
    return [((float(x), float(y), float(x + w), float(y + h)), rng.choice(labels)) for x, y, w, h in corners]


@pytest.mark.parametrize("ties", [False, True], ids=["distinct scores", "equal scores"])
@pytest.mark.parametrize("seed", range(5))
def test_twin_pycocotools(seed: int, ties: bool) -> None:
    rng = random.Random(seed)
    targets = crowd(rng, rng.choice([1, 3, 10, 40]), ["cat", "dog"])
    near = [
        (tuple(v + rng.choice([0, 0, 1, -1]) for v in box), label) for box, label in rng.sample(targets, len(targets))
    ]
    predictions = near + crowd(rng, rng.choice([0, 3, 20]), ["cat", "dog"]) + near[:3]
    rng.shuffle(predictions)
    scores = [1.0 if ties else rng.random() for _ in predictions]
    expected = by_pycocotools(predictions, targets, scores)
    assert by_the_core(predictions, targets, scores) == pytest.approx(expected, abs=1e-6)


def test_of_equal_overlaps_coco_takes_the_last() -> None:
    """The first prediction takes the target that only the second could have had."""
    targets: list[Labelled] = [((0, 0, 10, 10), "cat"), ((4, 0, 14, 10), "cat")]
    predictions: list[Labelled] = [((2, 0, 12, 10), "cat"), ((5, 0, 15, 10), "cat")]
    assert by_the_core(predictions, targets, [0.9, 0.8]) == pytest.approx(
        by_pycocotools(predictions, targets, [0.9, 0.8])
    )
    assert by_the_core(predictions, targets, [0.9, 0.8])[1] == pytest.approx(51 / 101)


@given(st.lists(st.booleans(), max_size=12), st.integers(0, 3))
def test_ranked_ap_lies_in_0_1_and_a_late_false_alarm_is_free(hits: list[bool], more: int) -> None:
    n_target = max(sum(hits) + more, 1)
    assert 0.0 <= ap_of_ranking(hits, n_target) <= 1.0
    assert ap_of_ranking([*hits, False], n_target) == ap_of_ranking(hits, n_target), "which is why it is no reward"
