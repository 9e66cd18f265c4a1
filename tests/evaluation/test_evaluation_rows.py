"""Metrics of rows: referring expressions, counting, pointing, negatives, each against a count by hand."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from answered import evaluated

from verl_visionr1.answers import FORMATS, PARSERS
from verl_visionr1.answers.spans import box_spans
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.targets import Target

WH = (100, 100)
BOX, OTHER = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


def row(i: int, output: str, source: str = "refcoco", **target: Any) -> Prediction:
    truth = Target(**({"size_wh": WH, "task": "grounding", "categories": ["cat"]} | target))
    fields: dict[str, Any] = {"file": "val.parquet", "row": i, "uid": f"{i}", "image_id": f"{i}"}
    return Prediction(input="", output=output, gts=truth.to_json(), data_source=source, **fields)


def said(*boxes: list[float], label: str = "cat") -> str:
    return json.dumps([{"bbox_2d": box, "label": label} for box in boxes])


def cat(*boxes: list[float]) -> dict[str, Any]:
    return {"boxes_xyxy": boxes, "labels": ["cat"] * len(boxes)}


def numbers_of(predictions: list[Prediction], **options: Any) -> dict[str, float | None]:
    (section,) = evaluated(predictions, EvaluationSettings(**({"resamples": 0} | options))).sections
    return {name: estimate.value for name, estimate in section.estimates.items()}


# --- one referent ----------------------------------------------------------------------------------------------------

HALF = [10.0, 10.0, 50.0, 30.0]  # IoU .5 to the bit
THREE_QUARTERS = [10.0, 10.0, 50.0, 40.0]
REC = [
    (said(BOX), 1.0),
    (said(THREE_QUARTERS), 0.75),
    (said(HALF), 0.5),
    (said(OTHER), 0.0),
    (said(OTHER, BOX), 0.0),
    (said(BOX, OTHER), 1.0),
    ("[]", 0.0),
    ("I cannot see it.", 0.0),
    (said(BOX, label="dog"), 1.0),
    (said(BOX)[:-1], 1.0),
]
REC_OPTIONS = {
    "default": ({}, 6, 5, 5.25),
    "strict": ({"strict_iou": True}, 5, 4, 5.25),
    "last": ({"which_box": "last"}, 6, 5, 5.25),
    "only": ({"which_box": "only"}, 5, 4, 4.25),
}


@pytest.mark.parametrize(("options", "at_50", "at_75", "iou"), REC_OPTIONS.values(), ids=REC_OPTIONS)
def test_rec_is_what_a_hand_counts(options: dict[str, Any], at_50: int, at_75: int, iou: float) -> None:
    found = numbers_of([row(i, text, **cat(BOX)) for i, (text, _) in enumerate(REC)], **options)
    n = len(REC)
    assert (found["REC@50"], found["REC@75"]) == (pytest.approx(at_50 / n), pytest.approx(at_75 / n))
    assert found["REC IoU"] == pytest.approx(iou / n)
    assert "GREC" not in found, "rows of one referent each"


def test_first_and_last_differ() -> None:
    rows = [row(0, said(BOX, OTHER), **cat(BOX)), row(1, said(OTHER, BOX), **cat(BOX)), row(2, said(BOX), **cat(BOX))]
    ours = [
        evaluated(rows, EvaluationSettings(resamples=0, which_box=which)).rows for which in ("first", "last", "only")
    ]
    assert [[one.measured["REC@50"] for one in some] for some in ours] == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]


# --- any number of referents -----------------------------------------------------------------------------------------

GREC = {
    "both found": (cat(BOX, OTHER), said(OTHER, BOX), 1.0),
    "one missed": (cat(BOX, OTHER), said(BOX), 0.0),
    "one too many": (cat(BOX), said(BOX, OTHER), 0.0),
    "twice": (cat(BOX), said(BOX, BOX), 0.0),
    "too loose": (cat(BOX), said([10.0, 10.0, 50.0, 29.0]), 0.0),
    "at the edge": (cat(BOX), said(HALF), 1.0),
    "one of them no box": (cat(BOX), '[{"bbox_2d": [1, 2], "label": "cat"}, ' + said(BOX)[1:], 0.0),
    "none": ({}, "[]", 1.0),
    "none, in words": ({}, "None", 1.0),
    "false alarm": ({}, said(BOX), 0.0),
    "nothing that can be read": ({}, "I do not know", 0.0),
}


@pytest.mark.parametrize(("truth", "text", "expected"), GREC.values(), ids=GREC)
def test_grec_rows(truth: dict[str, Any], text: str, expected: float) -> None:
    assert numbers_of([row(0, text, **truth)], metrics=("grec",))["GREC"] == expected


def test_grec_shares() -> None:
    found = numbers_of([row(i, text, **truth) for i, (truth, text, _) in enumerate(GREC.values())])
    assert found["GREC"] == pytest.approx(4 / 11)
    assert (found["N-acc"], found["T-acc"]) == (pytest.approx(2 / 4), 1.0)
    assert found["false alarms"] == pytest.approx(1 / 4), "an answer that says nothing is no alarm"
    silent = [row(0, "[]", **cat(BOX)), row(1, said(OTHER), **cat(BOX))]
    assert numbers_of(silent, metrics=("grec",))["T-acc"] == 0.5


def test_phrases_are_told_apart() -> None:
    truth = {"boxes_xyxy": [BOX, OTHER], "labels": ["cat", "dog"], "categories": ["cat", "dog"]}
    items = [{"bbox_2d": BOX, "label": "DOG"}, {"bbox_2d": OTHER, "label": "cat"}]
    swapped = json.dumps(items)
    items[0]["label"], items[1]["label"] = "cat", "dog"
    assert numbers_of([row(0, swapped, **truth)], metrics=("grec",))["GREC"] == 0.0
    assert numbers_of([row(0, json.dumps(items), **truth)], metrics=("grec",))["GREC"] == 1.0


# --- negatives -------------------------------------------------------------------------------------------------------


def test_negatives_of_a_list_are_counted_one_by_one() -> None:
    truth = {"task": "detection", "boxes_xyxy": [BOX], "labels": ["cat"], "categories": ["cat", "dog", "cow"]}
    items = [(BOX, "cat"), (BOX, "Dog"), (OTHER, "dog"), (OTHER, "sofa")]
    text = json.dumps([{"bbox_2d": box, "label": label} for box, label in items])
    found = numbers_of([row(0, text, **truth)], metrics=("negatives",))
    assert (found["false alarms"], found["boxes per negative"]) == (0.5, 1.0)


# --- counting --------------------------------------------------------------------------------------------------------

COUNTS = [("3", 3), ("4", 3), ("There are five.", 3), ("none", 0), ("1", 0), ("I cannot", 12), ("12", 12)]


def count_rows() -> list[Prediction]:
    return [row(i, text, "count", task="counting", count=true) for i, (text, true) in enumerate(COUNTS)]


def test_counting_is_what_a_hand_counts() -> None:
    found = numbers_of(count_rows())
    assert (found["accuracy"], found["within 1"]) == (pytest.approx(3 / 7), pytest.approx(5 / 7))
    assert (found["MAE"], found["RMSE"]) == (pytest.approx(4 / 6), pytest.approx(1.0))
    assert (found["bias"], found["readable"]) == (pytest.approx(4 / 6), pytest.approx(6 / 7))
    zero = numbers_of(count_rows(), unreadable_count="zero")
    assert (zero["accuracy"], zero["MAE"], zero["readable"]) == (3 / 7, pytest.approx(16 / 7), pytest.approx(6 / 7))


def test_no_count_is_never_right() -> None:
    rows = [row(0, "I cannot", "count", task="counting", count=0)]
    assert numbers_of(rows, unreadable_count="zero")["accuracy"] == 0.0
    assert numbers_of(rows)["MAE"] is None


def test_a_list_of_boxes_is_a_count() -> None:
    rows = [row(0, said(BOX, OTHER), "count", task="counting", count=2)]
    (section,) = evaluated(rows, route=["counting=counting-list"]).sections
    assert section.estimates["accuracy"].value == 1.0


# --- pointing --------------------------------------------------------------------------------------------------------


def points(*places: tuple[float, float]) -> str:
    return json.dumps([{"point_2d": place, "label": "cat"} for place in places])


POINTS = [
    (points((20, 20), (70, 70)), (2, 2, 2)),
    (points((70, 70)), (1, 1, 2)),
    (points((5, 5), (20, 20), (21, 21)), (1, 3, 2)),
    ("nothing", (0, 0, 2)),
]


def test_pointing_is_what_a_hand_counts() -> None:
    rows = [row(i, text, "point", task="pointing", **cat(BOX, OTHER)) for i, (text, _) in enumerate(POINTS)]
    found = numbers_of(rows)
    hit, n_said, there = np.sum([counts for _, counts in POINTS], axis=0)
    assert (found["precision"], found["recall"]) == (pytest.approx(hit / n_said), pytest.approx(hit / there))
    assert (found["all right"], found["first point"]) == (pytest.approx(1 / 4), pytest.approx(2 / 4))


def test_a_mask_is_narrower_than_its_box() -> None:
    triangle = {"polygons": [[10, 10, 50, 10, 10, 50]]}
    rows = [row(0, points((45, 45)), "point", task="pointing", masks=[triangle], **cat(BOX))]
    assert numbers_of(rows)["recall"] == 0.0


def test_words_are_right_or_wrong() -> None:
    rows = [row(i, text, "vqa", task="text", answer="a dog") for i, text in enumerate(["A dog.", "a cat"])]
    assert numbers_of(rows)["accuracy"] == 0.5


def test_a_metric_that_no_row_can_have() -> None:
    with pytest.raises(EvaluationError, match=r"metrics = 'ap': .*counting"):
        numbers_of(count_rows(), metrics=("ap",))


# --- where a box was said --------------------------------------------------------------------------------------------

PLACES = [name for name, known in FORMATS.items() if known.parse(known.example).boxes_xyxy]


@pytest.mark.parametrize("name", PLACES)
def test_every_format_of_boxes_has_places(name: str) -> None:
    text = FORMATS[name].example
    answer = PARSERS[name](text)
    spans = box_spans(text, answer)
    for box, label, span in zip(answer.boxes_xyxy, answer.labels, spans, strict=True):
        assert span is not None
        digits = "".join(c if c in "0123456789." else " " for c in text[slice(*span.box)]).split()
        assert sorted(map(float, digits)) == sorted(box)
        if label:
            assert span.label is not None
            assert text[slice(*span.label)] == label
    starts = [span.box[0] for span in spans if span is not None]
    assert starts == sorted(set(starts))


def test_places_of_equal_boxes_and_broken_text() -> None:
    reasoning = "<think>[1, 2, 3, 4] maybe</think>"
    items = '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [4, 2, 3, 4], "label": "x"}, '
    text = reasoning + items + '{"label": "b", "bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5,'
    spans = box_spans(text, PARSERS["qwen-json"](text))
    assert [span and text[slice(*span.box)] for span in spans] == ["1, 2, 3, 4"] * 2
    assert [span and span.label and text[slice(*span.label)] for span in spans] == ["a", "b"]
    assert spans[0] is not None
    assert spans[0].box[0] > len(reasoning)


def test_one_label_for_several_boxes() -> None:
    text = FORMATS["internvl"].example
    spans = box_spans(text, PARSERS["internvl"](text))
    assert spans[0] is not None
    assert spans[1] is not None
    assert spans[0].label == spans[1].label


def test_boxes_that_a_parser_read_elsewhere_are_found() -> None:
    text = '{"bbox_2d": [1, 2, 3, 4], "label": "a"}</think>[]'
    (span,) = box_spans(text, PARSERS["visionr1-released"](text))
    assert span is not None
    assert text[slice(*span.box)] == "1, 2, 3, 4"
