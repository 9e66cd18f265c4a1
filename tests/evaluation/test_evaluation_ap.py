"""Average precision over kept predictions: the twin of pycocotools, and what is COCO's image, category and score."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_visionr1.criteria.average_precision import IOU_THRESHOLDS
from verl_visionr1.evaluation.average_precision import N_ORDERS, AveragePrecision, after_nms
from verl_visionr1.evaluation.confidence import confidences
from verl_visionr1.evaluation.detections import Detections, detections_of
from verl_visionr1.evaluation.evaluating import evaluate
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.ranking import AREAS, image_orders
from verl_visionr1.evaluation.reading import read_all
from verl_visionr1.evaluation.settings import EvaluationError, EvaluationSettings
from verl_visionr1.rollouts.bootstrap import resamples
from verl_visionr1.targets import Target

WH = (640, 480)
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


# --- the twin --------------------------------------------------------------------------------------------------------


def random_detections(seed: int, n_images: int = 12, n_categories: int = 3) -> Detections:
    """Scenes with crowds, all sizes, ties, surplus and missed boxes, images without truth or without boxes."""
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        corner, size = rng.uniform(0, 300, (n, 2)), np.exp(rng.uniform(1.0, 5.5, (n, 2)))
        return np.concatenate([corner, corner + size], axis=1)

    n_gt = int(rng.integers(0, 6 * n_images))
    gt_image, gt_category, gt = rng.integers(0, n_images, n_gt), rng.integers(0, n_categories, n_gt), boxes(n_gt)
    again = rng.integers(0, max(n_gt, 1), n_gt + n_gt // 3) if n_gt else np.empty(0, dtype=int)
    near = gt[again] + rng.normal(0, 0.07, (len(again), 4)) * np.tile(gt[again, 2:] - gt[again, :2], 2)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 0.5)
    near[::4] = gt[again][::4]  # exact ones: IoU 1
    n_more = int(rng.integers(0, 20))
    image = np.concatenate([gt_image[again], rng.integers(0, n_images, n_more)]).astype(np.intp)
    category = np.concatenate([gt_category[again], rng.integers(0, n_categories, n_more)]).astype(np.intp)
    order = np.argsort(image, kind="stable")
    score = rng.random(len(image))
    score = (score, np.round(score * 3) / 3, np.ones(len(image)))[seed % 3]
    return Detections(
        tuple(f"c{k}" for k in range(n_categories)),
        np.arange(n_images),
        gt_image,
        gt_category,
        gt,
        rng.random(n_gt) < 0.15,
        image[order],
        category[order],
        np.concatenate([near, boxes(n_more)])[order],
        score,
        np.full(n_categories, n_images),
        names=tuple(f"{i:04}" for i in range(n_images)),
    )


def coco_annotations(
    image: np.ndarray, category: np.ndarray, xyxy: np.ndarray, **columns: np.ndarray
) -> list[dict[str, Any]]:
    xywh = np.hstack([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]])
    return [
        {"id": i + 1, "image_id": int(image[i]) + 1, "category_id": int(category[i]) + 1, "bbox": xywh[i].tolist()}
        | {"area": float(xywh[i, 2] * xywh[i, 3])}
        | {name: column[i].item() for name, column in columns.items()}
        for i in range(len(image))
    ]


def pycocotools_says(detections: Detections, max_dets: tuple[int, ...] = (1, 10, 100)) -> Any:
    """Its evaluator, accumulated: `eval` and, for the default limits, `stats`."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    some = detections
    parts: dict[str, Any] = {
        "images": [{"id": i + 1} for i in range(some.n_images)],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(some.categories)],
    }
    gt = coco_annotations(some.gt_image, some.gt_category, some.gt_xyxy, iscrowd=some.gt_crowd.astype(int))
    dt = coco_annotations(some.dt_image, some.dt_category, some.dt_xyxy, score=some.dt_score)
    truth, found = COCO(), COCO()
    datasets: Any = {**parts, "annotations": gt}, {**parts, "annotations": dt}
    truth.dataset, found.dataset = datasets
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.maxDets = list(max_dets)
        evaluator.evaluate()
        evaluator.accumulate()
        if max_dets == (1, 10, 100):
            evaluator.summarize()
    return evaluator


def assert_is_pycocotools(detections: Detections, max_dets: tuple[int, ...] = (1, 10, 100)) -> Any:
    """Precision of every threshold, category and size; recall of these at every limit, too."""
    theirs = pycocotools_says(detections, max_dets)
    precision, recall = (np.where(theirs.eval[key] < 0, np.nan, theirs.eval[key]) for key in ("precision", "recall"))
    family = AveragePrecision(detections, detections.n_images, max_dets, n_orders=0)
    ones = np.ones((1, detections.n_images))
    for k, areas in enumerate(family.ranks):
        for a, size in enumerate(AREAS):
            ours = areas[size].precision(ones, range(10))[0]
            np.testing.assert_allclose(ours, precision[:, :, k, a, -1].mean(axis=1), rtol=0, atol=1e-6)
            for m, limit in enumerate(max_dets):
                ours = areas[size].recalls(ones, limit)[0]
                np.testing.assert_allclose(ours, recall[:, k, a, m], rtol=0, atol=1e-6)
    return family, theirs.stats


@pytest.mark.parametrize("seed", range(24))
def test_all_numbers_are_those_of_pycocotools(seed: int) -> None:
    family, stats = assert_is_pycocotools(random_detections(seed))
    ours = [-1.0 if (value := family.values[name][0]) is None else value for name in STATS]
    assert ours == pytest.approx(list(stats), abs=1e-6)


@pytest.mark.parametrize("max_dets", [(1, 2, 3), (2,), (1, 10, 100, 300)])
def test_other_limits_on_the_boxes(max_dets: tuple[int, ...]) -> None:
    assert_is_pycocotools(random_detections(4), max_dets)


# --- resamples -------------------------------------------------------------------------------------------------------


def repeated(detections: Detections, weights: np.ndarray) -> Detections:
    """The images written out as often as they count."""
    copies = np.repeat(np.arange(detections.n_images), weights.astype(int))
    gt = [np.flatnonzero(detections.gt_image == i) for i in copies]
    dt = [np.flatnonzero(detections.dt_image == i) for i in copies]
    g, d = np.concatenate(gt), np.concatenate(dt)
    return replace(
        detections,
        units=np.arange(len(copies)),
        gt_image=np.repeat(np.arange(len(copies)), [len(some) for some in gt]),
        gt_category=detections.gt_category[g],
        gt_xyxy=detections.gt_xyxy[g],
        gt_crowd=detections.gt_crowd[g],
        dt_image=np.repeat(np.arange(len(copies)), [len(some) for some in dt]),
        dt_category=detections.dt_category[d],
        dt_xyxy=detections.dt_xyxy[d],
        dt_score=detections.dt_score[d],
    )


@pytest.mark.parametrize("seed", [3, 6, 9])
def test_a_weight_is_a_copy_of_an_image(seed: int) -> None:
    detections = random_detections(seed)  # no ties between images
    family = AveragePrecision(detections, detections.n_images)
    (weights,) = resamples(detections.n_images, 4, seed)
    found = family.resampled(weights)
    for b, some in enumerate(weights):
        stats = pycocotools_says(repeated(detections, some)).stats
        ours = [-1.0 if np.isnan(value := found[name][b]) else float(value) for name in STATS]
        assert ours == pytest.approx(list(stats), abs=1e-6)


# --- from texts ------------------------------------------------------------------------------------------------------


def said(*items: tuple[list[float], str]) -> str:
    return json.dumps([{"bbox_2d": box, "label": label} for box, label in items])


def asked(output: str, row: int = 0, *, truth: tuple[tuple[list[float], str], ...] = (), **fields: Any) -> Prediction:
    """A prediction for a detection row that asked for `categories`."""
    target = Target(
        task=fields.pop("task", "detection"),
        size_wh=WH,
        boxes_xyxy=[box for box, _ in truth],
        labels=[label for _, label in truth],
        categories=fields.pop("categories", ["cat", "dog"]),
        ignore_xyxy=fields.pop("ignore", []),
    )
    fields = {"data_source": "coco", "file": "val.parquet", "uid": f"{row}_0_0", "image_id": str(row)} | fields
    return Prediction(input="", output=output, gts=target.to_json(), row=row, **fields)


CAT, DOG, ELSEWHERE = [10.0, 10.0, 110.0, 110.0], [200.0, 200.0, 300.0, 400.0], [400.0, 10.0, 500.0, 60.0]


def numbers_of(*predictions: Prediction, **options: Any) -> dict[str, float | None]:
    options = {"resamples": 0, "metrics": ("ap",)} | options
    (section,) = evaluate(predictions, EvaluationSettings(**options)).sections
    return {name: estimate.value for name, estimate in section.estimates.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_prompt_for_all_categories_is_coco_itself(seed: int) -> None:
    """The whole road from text, against pycocotools on the boxes."""
    detections = replace(random_detections(3 * seed + 2), gt_crowd=np.zeros(0, dtype=bool))  # constant scores
    detections = replace(detections, gt_crowd=np.zeros(len(detections.gt_image), dtype=bool))
    predictions: list[Prediction] = []
    for i in range(detections.n_images):
        truth, found = detections.gt_image == i, detections.dt_image == i
        target = Target(
            task="detection",
            size_wh=(9999, 9999),
            boxes_xyxy=detections.gt_xyxy[truth].tolist(),
            labels=[f"C{k}" for k in detections.gt_category[truth]],
            categories=["c0", "C1", "c2"],
        )
        both = zip(detections.dt_xyxy[found].tolist(), detections.dt_category[found], strict=True)
        text = json.dumps([{"bbox_2d": box, "label": f"c{k}"} for box, k in both])
        fields: dict[str, Any] = {"data_source": "coco", "file": "val", "uid": "", "image_id": f"{i}"}
        predictions.append(Prediction(input="", output=text, gts=target.to_json(), row=i, **fields))
    detections = replace(detections, names=tuple(f"{i}\0{0}" for i in range(detections.n_images)))
    family = AveragePrecision(detections, detections.n_images)  # which the tests above hold against pycocotools
    found = numbers_of(*reversed(predictions))
    for name in STATS:
        assert found[name] == pytest.approx(family.values[name][0], abs=1e-6)


def in_order(detections: Detections, images: np.ndarray) -> Detections:
    """The images in another order."""
    place = np.argsort(images)
    gt, dt = (
        np.argsort(place[detections.gt_image], kind="stable"),
        np.argsort(place[detections.dt_image], kind="stable"),
    )
    return replace(
        detections,
        **{name: getattr(detections, name)[gt] for name in ("gt_category", "gt_xyxy", "gt_crowd")},
        **{name: getattr(detections, name)[dt] for name in ("dt_category", "dt_xyxy", "dt_score")},
        gt_image=place[detections.gt_image][gt],
        dt_image=place[detections.dt_image][dt],
        names=tuple(detections.names[i] for i in images),
    )


@pytest.mark.parametrize("seed", [2, 5])
def test_ties_of_images_are_the_mean_over_their_orders(seed: int) -> None:
    detections = random_detections(seed)  # constant scores
    family = AveragePrecision(detections, detections.n_images)
    assert family.has_ties
    orders = [np.argsort(places) for places in image_orders(detections.names, N_ORDERS)]
    each = [pycocotools_says(in_order(detections, order)).stats for order in orders[:: N_ORDERS // 10]]
    spread = np.std([stats[0] for stats in each])
    assert spread > 0.0
    assert family.values["AP"][0] == pytest.approx(np.mean([stats[0] for stats in each]), abs=2 * spread)
    draws = family.resampled(np.ones((N_ORDERS, detections.n_images)))["AP"]
    assert draws[:: N_ORDERS // 10] == pytest.approx([stats[0] for stats in each], abs=1e-6), "each order is COCO's"


@pytest.mark.parametrize("seed", [2, 5])
def test_the_order_of_rows_plays_no_part(seed: int) -> None:
    detections = random_detections(seed)
    shuffled = in_order(detections, np.random.default_rng(0).permutation(detections.n_images))
    ours, others = (AveragePrecision(some, some.n_images).values for some in (detections, shuffled))
    for name, (value, _) in ours.items():
        assert others[name][0] == pytest.approx(value, abs=1e-9)


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
    (section,) = evaluate(samples, EvaluationSettings(resamples=5)).sections
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


# --- confidence ------------------------------------------------------------------------------------------------------


def with_tokens(text: str, probabilities: dict[str, float], **fields: Any) -> Prediction:
    """One token a character; those of the named pieces have the probability that is given, all others 1."""
    logprobs = [0.0] * len(text)
    for piece, probability in probabilities.items():
        start = text.index(piece)
        logprobs[start : start + len(piece)] = [float(np.log(probability))] * len(piece)
    return asked(text, starts=tuple(range(len(text))), logprobs=tuple(logprobs), **fields)


def confidence_of(prediction: Prediction, rule: str, **options: Any) -> list[float]:
    (read,) = read_all([prediction], EvaluationSettings(**options))
    return confidences(read, rule)


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


def test_no_logprobs_were_kept() -> None:
    with pytest.raises(EvaluationError, match=r"val.parquet: row 0: no log-probabilities"):
        numbers_of(asked(said((CAT, "cat"))), confidence="logprob")


# --- NMS-AP ----------------------------------------------------------------------------------------------------------


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
    reads = read_all([asked(text, truth=((CAT, "cat"), (DOG, "dog")))], EvaluationSettings())
    kept = after_nms(detections_of(reads, [0], EvaluationSettings()))
    assert kept.dt_xyxy.tolist() == [ELSEWHERE, ELSEWHERE, CAT, DOG]


def test_nms_keeps_what_is_best_around_another_true_box() -> None:
    left, right, between = [0.0, 0.0, 100.0, 100.0], [40.0, 0.0, 140.0, 100.0], [20.0, 0.0, 120.0, 100.0]
    row = asked(said((left, "cat"), (between, "cat")), truth=((left, "cat"), (right, "cat")))
    reads = read_all([row], EvaluationSettings())
    assert after_nms(detections_of(reads, [0], EvaluationSettings())).dt_xyxy.tolist() == [left, between]


# --- what the released VLM-R1 says of one image ----------------------------------------------------------------------

READ_OTHERWISE = ("label case", "unfenced", "dict instead of list", "two json blocks", "without answer tags")
"""Notes of known answers whose texts we read otherwise, or whose labels differ in case: no matter of AP."""


def released_cases() -> list[tuple[str, str, Target, float]]:
    """Completion, metric, truth and AP of VLM-R1's `od_ap` and `od_ap50` (pycocotools, every score 1)."""
    cases: list[tuple[str, str, Target, float]] = []
    for line in (Path(__file__).parents[1] / "golden" / "vlmr1.jsonl").read_text().splitlines():
        case = json.loads(line)
        fence = re.search(r"```json\n(.*?)\n```", str(case["solution"]), re.DOTALL)
        is_odd = any(note in case["note"] for note in READ_OTHERWISE)
        if case["reward"] not in ("accuracy:od_ap", "accuracy:od_ap50") or fence is None or is_odd:
            continue
        truth = json.loads(fence[1])
        if any(not isinstance(item, dict) or item["bbox_2d"][0] >= item["bbox_2d"][2] for item in truth):
            continue  # no ground truth of ours
        boxes, labels = [item["bbox_2d"] for item in truth], [item["label"] for item in truth]
        target = Target(  # a category that is nowhere, so that labels matter as they do there
            task="detection", size_wh=(9999, 9999), boxes_xyxy=boxes, labels=labels, categories=[*labels, "nothing"]
        )
        metric = "AP50" if case["reward"].endswith("50") else "AP"
        cases.append((case["completion"], metric, target, case["value"]))
    return cases


def test_the_released_ap_of_single_images_is_ours() -> None:
    cases = released_cases()
    assert len(cases) >= 40
    for completion, metric, target, expected in cases:
        row = msgspec.structs.replace(asked(completion), gts=target.to_json())
        assert numbers_of(row)[metric] == pytest.approx(expected, abs=1e-6), completion[:200]


# --- no text makes it raise ------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("n_cats", "n_dogs", "n_capped"), [(101, 0, 1), (100, 100, 0), (101, 101, 1)])
def test_images_with_more_objects_than_max_dets_are_counted(n_cats: int, n_dogs: int, n_capped: int) -> None:
    boxes = [[2 * i, 0, 2 * i + 1, 9] for i in range(n_cats + n_dogs)]
    labels = ["cat"] * n_cats + ["dog"] * n_dogs
    target = Target(task="detection", size_wh=WH, boxes_xyxy=boxes, labels=labels)
    few = Target(task="detection", size_wh=WH, boxes_xyxy=boxes[:1], labels=["cat"])
    rows = [
        Prediction(
            input="", output="[]", gts=gts.to_json(), data_source="coco", file="a", row=i, uid=str(i), image_id=str(i)
        )
        for i, gts in enumerate((target, few))
    ]
    (section,) = evaluate(rows, EvaluationSettings(resamples=0)).sections
    assert [note.split()[0] for note in section.notes if "maxDets" in note] == [str(n_capped)] * (n_capped > 0)
