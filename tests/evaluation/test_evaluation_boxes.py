"""Average precision over kept texts: what is COCO's image, category and score, and NMS-AP."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from answered import evaluated, read
from asked import CAT, DOG, ELSEWHERE, STATS, WH, asked, numbers_of, said
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS
from verl_visionr1.evaluation.average_precision import after_nms
from verl_visionr1.evaluation.detections import confidences, detections_of
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.settings import EvaluationSettings
from verl_visionr1.targets import Target


def test_a_prompt_for_each_category_is_one_image() -> None:
    both = asked(said((CAT, "cat"), (ELSEWHERE, "cat"), (DOG, "dog")), truth=((CAT, "cat"), (DOG, "dog")))
    one = asked(said((CAT, "kitty"), (ELSEWHERE, "cat")), 1, truth=((CAT, "cat"),), categories=["cat"], image_id="7")
    other = asked(said((DOG, "dog")), 2, truth=((DOG, "dog"),), categories=["Dog"], image_id="7")
    apart, together = numbers_of(one, other), numbers_of(both)
    assert {name: apart[name] for name in STATS} == {name: together[name] for name in STATS}
    assert together["AP"] == 1.0


def test_asked_for_and_absent_is_a_negative_and_not_asked_for_is_not_judged() -> None:
    right = asked(said((CAT, "cat")), truth=((CAT, "cat"),), categories=["cat"])
    alarm = said((ELSEWHERE, "cat"))
    absent = asked(alarm, 1, categories=["cat"])
    first = asked(alarm, 0, categories=["cat"])
    second = asked(said((CAT, "cat")), 1, truth=((CAT, "cat"),), categories=["cat"])
    assert numbers_of(first, second)["AP"] == pytest.approx(0.75, abs=0.05), "in half of the orders the alarm is first"
    assert numbers_of(right, absent)["AP"] == pytest.approx(0.75, abs=0.05), "whichever row it is"
    elsewhere = asked(said((ELSEWHERE, "cat"), (DOG, "dog")), 0, truth=((DOG, "dog"),), categories=["dog", "cow"])
    assert numbers_of(elsewhere, second)["AP"] == 1.0, "nobody asked for cats there"


STRAY = {"drop": (1.0, 1.0), "own": (0.75, 1.0), "every": (0.75, 0.5)}  # in half of the orders it ranks first


@pytest.mark.parametrize(("rule", "expected"), STRAY.items(), ids=STRAY)
def test_labels_that_were_not_asked_for(rule: str, expected: tuple[float, float]) -> None:
    second = asked(said((CAT, "cat")), 1, truth=((CAT, "cat"),), categories=["cat"])
    known = asked(said((ELSEWHERE, "CAT "), (DOG, "dog")), 0, truth=((DOG, "dog"),), categories=["dog", "cow"])
    found = numbers_of(known, second, stray_labels=rule)
    assert (found["AP/cat"], found["AP/dog"]) == (pytest.approx(expected[0], abs=0.05), 1.0)
    unknown = asked(said((ELSEWHERE, "sofa"), (DOG, "dog")), 0, truth=((DOG, "dog"),), categories=["dog", "cow"])
    found = numbers_of(unknown, second, stray_labels=rule)
    assert (found["AP/cat"], found["AP/dog"]) == (1.0, pytest.approx(expected[1]))


def test_two_rows_that_ask_for_the_same_are_two_images() -> None:
    texts = (said((CAT, "cat"), (CAT, "cat")), "[]")
    truth: dict[str, Any] = {"truth": ((CAT, "cat"),), "categories": ["cat"], "image_id": "7"}
    half = pytest.approx(51 / 101)  # the second box is no answer to the other row
    rows = [asked(text, i, **truth) for i, text in enumerate(texts)]
    assert numbers_of(*rows)["AP"] == half
    samples = [asked(text, sample=i, **truth) for i, text in enumerate(texts)]
    (section,) = evaluated(samples, EvaluationSettings(resamples=5)).sections
    assert (section.estimates["AP"].value, section.n_images, section.n_rows) == (half, 1, 2)


def test_a_region_to_ignore_is_a_crowd() -> None:
    text = said((ELSEWHERE, "cat"), (CAT, "cat"))
    assert numbers_of(asked(text, truth=((CAT, "cat"),)))["AP"] == pytest.approx(0.5)
    assert numbers_of(asked(text, truth=((CAT, "cat"),), ignore=[[390.0, 0.0, 640.0, 100.0]]))["AP"] == 1.0


def test_an_answer_that_was_cut_off_counts_as_far_as_it_goes() -> None:
    whole = said((CAT, "cat"), (DOG, "dog"))
    cut = asked(whole[: whole.rindex(",")], truth=((CAT, "cat"), (DOG, "dog")), finish_reason="length")
    found = numbers_of(cut)
    assert (found["AP/cat"], found["AP/dog"], found["cut off"]) == (1.0, 0.0, 1.0)


def test_at_the_threshold_is_right() -> None:
    half = asked(said(([10.0, 10.0, 110.0, 60.0], "cat")), truth=((CAT, "cat"),), categories=["cat"])
    found = numbers_of(half)
    assert (found["AP50"], found["AP"], found["AP75"]) == (1.0, pytest.approx(0.1), 0.0)


def test_a_row_that_asks_for_nothing_has_nothing_to_measure() -> None:
    assert numbers_of(asked(said((CAT, "cat")), categories=[]))["AP"] is None


def test_sizes_are_those_of_boxes() -> None:
    small = [5.0, 5.0, 37.0, 37.0]  # 32 x 32 belongs to both
    found = numbers_of(asked(said((small, "cat")), truth=((small, "cat"),)))
    assert (found["APs"], found["APm"], found["APl"]) == (1.0, 1.0, None)


def with_tokens(text: str, probabilities: dict[str, float], **fields: Any) -> Prediction:
    """One token a character; those of the named pieces have the probability that is given, all others 1."""
    logprobs = [0.0] * len(text)
    for piece, probability in probabilities.items():
        start = text.index(piece)
        logprobs[start : start + len(piece)] = [float(np.log(probability))] * len(piece)
    return asked(text, starts=tuple(range(len(text))), logprobs=tuple(logprobs), **fields)


def confidence_of(prediction: Prediction, rule: Any, **options: Any) -> list[float]:
    (found,) = read([prediction], **options)
    return confidences(found, rule)


def test_confidence_rules() -> None:
    text = said((CAT, "cat"), (DOG, "dog"), (ELSEWHERE, "cat"))
    numbers = [", ".join(map(str, box)) for box in (CAT, DOG)]
    prediction = with_tokens(text, {numbers[0]: 0.81, '"dog': 0.25})
    assert confidence_of(prediction, "constant") == [1.0, 1.0, 1.0]
    assert confidence_of(prediction, "order") == pytest.approx([1.0, 2 / 3, 1 / 3])
    assert confidence_of(prediction, "logprob") == pytest.approx([0.9, 0.5, 1.0])


def test_tokens_that_overlap_a_place_count() -> None:
    text = "[[10, 10, 110, 110]]"
    tokens: dict[str, Any] = {"starts": (0, 4, 15, 20), "logprobs": (-1.0, -2.0, -3.0, -100.0)}
    prediction = asked(text, task="grounding", categories=["cat"], **tokens)
    options: dict[str, Any] = {"preset": "vlmr1-rec", "answer_format": "list"}
    assert confidence_of(prediction, "logprob", **options) == pytest.approx([np.exp(-2.0)])


def test_sure_boxes_rank_first() -> None:
    text = said((ELSEWHERE, "cat"), (CAT, "cat"))
    unsure = with_tokens(text, {", ".join(map(str, ELSEWHERE)): 0.1}, truth=((CAT, "cat"),))
    found = {rule: numbers_of(unsure, confidence=rule)["AP"] for rule in ("constant", "order", "logprob")}
    assert found == {"constant": pytest.approx(0.5), "order": pytest.approx(0.5), "logprob": 1.0}


def test_nms_ap_keeps_one_label_an_object() -> None:
    """A model that gives an object all the labels it is offered: inflated AP, and what is left of it."""
    both = said((CAT, "cat"), (CAT, "dog"))
    row = asked(both, truth=((CAT, "cat"),), data_source="visionr1/OVDEval_detection")
    swapped = asked(said((CAT, "dog"), (CAT, "cat")), truth=((CAT, "cat"),), data_source="visionr1/ovdeval_detection")
    found, other = numbers_of(row, metrics=()), numbers_of(swapped, metrics=())
    assert (found["AP"], found["NMS-AP"]) == (1.0, 1.0)
    assert (other["AP"], other["NMS-AP"]) == (1.0, 0.0), "the wrong label was said first"
    assert found["false alarms"] == other["false alarms"] == 1.0


def test_nms_is_around_true_boxes() -> None:
    text = said((ELSEWHERE, "cat"), (ELSEWHERE, "dog"), (CAT, "cat"), (CAT, "dog"), (DOG, "dog"))
    reads = read([asked(text, truth=((CAT, "cat"), (DOG, "dog")))])
    kept = after_nms(detections_of(reads, [0], EvaluationSettings()))
    assert kept.dt_xyxy.tolist() == [ELSEWHERE, ELSEWHERE, CAT, DOG]


def test_nms_keeps_what_is_best_around_another_true_box() -> None:
    left, right, between = [0.0, 0.0, 100.0, 100.0], [40.0, 0.0, 140.0, 100.0], [20.0, 0.0, 120.0, 100.0]
    row = asked(said((left, "cat"), (between, "cat")), truth=((left, "cat"), (right, "cat")))
    reads = read([row])
    assert after_nms(detections_of(reads, [0], EvaluationSettings())).dt_xyxy.tolist() == [left, between]


ODD = st.sampled_from(
    ["[", "]", "{", "}", '"bbox_2d"', ":", "1e308", "-5", "7, 8, 90, 100", '"label"', '"cat"', "None"]
)


@given(st.lists(st.lists(ODD, max_size=25).map("".join), min_size=1, max_size=3))
@settings(max_examples=25)
def test_odd_answers_are_data(texts: list[str]) -> None:
    rows = [asked(text, i, truth=((CAT, "cat"),)) for i, text in enumerate(texts)]
    assert 0.0 <= (numbers_of(*rows)["AP"] or 0.0) <= 1.0


def test_huge_and_thin_boxes_are_data() -> None:
    text = said(([-1e200, -1e200, 1e200, 1e200], "cat"), ([0.0, 0.0, 1e-200, 1.0], "cat"), (CAT, "cat"))
    assert numbers_of(asked(text, truth=((CAT, "cat"),)))["AP"] == pytest.approx(0.5)
    assert len(IOU_THRESHOLDS) == 10


@pytest.mark.parametrize(("n_cats", "n_dogs", "n_capped"), [(101, 101, 1), (100, 100, 0)])
def test_images_with_more_objects_than_max_dets_are_counted(n_cats: int, n_dogs: int, n_capped: int) -> None:
    boxes = [[2 * i, 0, 2 * i + 1, 9] for i in range(n_cats + n_dogs)]
    labels = ["cat"] * n_cats + ["dog"] * n_dogs
    target = Target(task="detection", size_wh=WH, boxes_xyxy=boxes, labels=labels)
    few = Target(task="detection", size_wh=WH, boxes_xyxy=boxes[:1], labels=["cat"])
    rows = [msgspec.structs.replace(asked("[]", i), gts=gts.to_json()) for i, gts in enumerate((target, few))]
    (section,) = evaluated(rows).sections
    assert [note.split()[0] for note in section.notes if "maxDets" in note] == [str(n_capped)] * (n_capped > 0)
