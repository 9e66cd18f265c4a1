"""Average precision over kept predictions: the twin of pycocotools, resamples, and the order of images."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from asked import STATS, numbers_of

from verl_visionr1.evaluation.average_precision import MAX_DETS, N_ORDERS, AveragePrecision
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.evaluation.predictions import Prediction
from verl_visionr1.evaluation.ranking import AREAS, image_orders
from verl_visionr1.rollouts.bootstrap import resamples
from verl_visionr1.targets import Target


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


def pycocotools_says(detections: Detections) -> Any:
    """Its evaluator, accumulated and summarized."""
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
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def assert_is_pycocotools(detections: Detections) -> Any:
    """Precision of every threshold, category and size; recall of these at every limit, too."""
    theirs = pycocotools_says(detections)
    precision, recall = (np.where(theirs.eval[key] < 0, np.nan, theirs.eval[key]) for key in ("precision", "recall"))
    family = AveragePrecision(detections, detections.n_images, n_orders=0)
    ones = np.ones((1, detections.n_images))
    for k, areas in enumerate(family.ranks):
        for a, size in enumerate(AREAS):
            ours = areas[size].precision(ones)[0]
            np.testing.assert_allclose(ours, precision[:, :, k, a, -1].mean(axis=1), rtol=0, atol=1e-6)
            for m, limit in enumerate(MAX_DETS):
                ours = areas[size].recalls(ones, limit)[0]
                np.testing.assert_allclose(ours, recall[:, k, a, m], rtol=0, atol=1e-6)
    return family, theirs.stats


@pytest.mark.parametrize("seed", range(9))
def test_all_numbers_are_those_of_pycocotools(seed: int) -> None:
    family, stats = assert_is_pycocotools(random_detections(seed))
    ours = [-1.0 if (value := family.values[name][0]) is None else value for name in STATS]
    assert ours == pytest.approx(list(stats), abs=1e-6)


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


@pytest.mark.parametrize("seed", [3])
def test_a_weight_is_a_copy_of_an_image(seed: int) -> None:
    detections = random_detections(seed)  # no ties between images
    family = AveragePrecision(detections, detections.n_images)
    (weights,) = resamples(detections.n_images, 4, seed)
    found = family.resampled(weights)
    for b, some in enumerate(weights):
        stats = pycocotools_says(repeated(detections, some)).stats
        ours = [-1.0 if np.isnan(value := found[name][b]) else float(value) for name in STATS]
        assert ours == pytest.approx(list(stats), abs=1e-6)


@pytest.mark.parametrize("seed", [0])
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


@pytest.mark.parametrize("seed", [2])
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


@pytest.mark.parametrize("seed", [2])
def test_the_order_of_rows_plays_no_part(seed: int) -> None:
    detections = random_detections(seed)
    shuffled = in_order(detections, np.random.default_rng(0).permutation(detections.n_images))
    ours, others = (AveragePrecision(some, some.n_images).values for some in (detections, shuffled))
    for name, (value, _) in ours.items():
        assert others[name][0] == pytest.approx(value, abs=1e-9)
