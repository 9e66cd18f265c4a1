"""COCO's average precision, by faster-coco-eval (the same numbers as pycocotools).

AP is the mean over IoU .50:.05:.95 and over the categories that have a true box; precision is interpolated at 101
recalls. AR@m is the recall with at most m boxes an image and category, likewise averaged. Sizes: small below 32 x 32,
medium to 96 x 96, large above, of box areas. Source: Lin et al. 2014 and cocodataset.org, "Metrics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verl_visionr1.boxes import Array
from verl_visionr1.evaluation.detections import Detections
from verl_visionr1.evaluation.settings import EvaluationError
from verl_visionr1.rollouts.bootstrap import Indices

AREAS = ("all", "small", "medium", "large")
N_TAUS = 10
TAU_50, TAU_75 = 0, 5
"""Where IoU .50 and .75 stand in the thresholds."""
MAX_PAIRS = 2_000_000
"""Pairs of an image and a category that are evaluated at once: the library keeps a list for each."""
INSTALL = "pip install 'verl-visionr1[eval]'"


@dataclass(frozen=True, slots=True)
class CocoNumbers:
    """What COCO's evaluator found; NaN where there is no true box.

    Attributes:
        precision: mean interpolated precision, shape (T, K, A): thresholds, categories, areas; with all boxes.
        recall: shape (T, K, A, M): M limits on the boxes.
    """

    precision: Array
    recall: Array


def coco_numbers(detections: Detections, max_dets: Sequence[int] = (1, 10, 100)) -> CocoNumbers:
    """Evaluate detections.

    Raises:
        EvaluationError: faster-coco-eval is not installed.
    """
    n = max(MAX_PAIRS // max(detections.n_images, 1), 1)
    blocks = [
        _block(detections, range(begin, min(begin + n, len(detections.categories))), max_dets)
        for begin in range(0, len(detections.categories), n)
    ]
    if not blocks:
        return CocoNumbers(np.empty((N_TAUS, 0, len(AREAS))), np.empty((N_TAUS, 0, len(AREAS), len(max_dets))))
    return CocoNumbers(
        np.concatenate([block.precision for block in blocks], axis=1),
        np.concatenate([block.recall for block in blocks], axis=1),
    )


def _block(detections: Detections, categories: range, max_dets: Sequence[int]) -> CocoNumbers:
    """The numbers of some categories."""
    try:
        from faster_coco_eval.core.coco import COCO
        from faster_coco_eval.core.faster_eval_api import COCOeval_faster
    except ImportError as error:
        raise EvaluationError(f"average precision needs faster-coco-eval ({error}): {INSTALL}") from None
    truth, found = COCO(), COCO()
    truth.dataset, found.dataset = coco_json(detections, categories)
    truth.createIndex()
    found.createIndex()
    evaluator: Any = COCOeval_faster(truth, found, "bbox")
    evaluator.params.maxDets = list(max_dets)
    evaluator.evaluate()
    evaluator.accumulate()
    precision: Array = np.asarray(evaluator.eval["precision"], dtype=np.float64)[..., -1]  # (T, R, K, A)
    recall: Array = np.asarray(evaluator.eval["recall"], dtype=np.float64)  # (T, K, A, M)
    mean = np.where((precision < 0.0).any(axis=1), np.nan, precision.mean(axis=1))
    return CocoNumbers(mean, np.where(recall < 0.0, np.nan, recall))


def coco_json(detections: Detections, categories: range | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ground truth and detections as COCO's evaluators take them; ids count from 1."""
    chosen = range(len(detections.categories)) if categories is None else categories
    images = [{"id": i + 1} for i in range(detections.n_images)]
    names = [{"id": k + 1, "name": detections.categories[k]} for k in chosen]
    truth = _annotations(detections.gt_image, detections.gt_category, detections.gt_xyxy, chosen)
    for annotation, i in truth:
        annotation["iscrowd"] = int(detections.gt_crowd[i])
    found = _annotations(detections.dt_image, detections.dt_category, detections.dt_xyxy, chosen)
    for annotation, i in found:
        annotation |= {"score": float(detections.dt_score[i]), "iscrowd": 0}
    parts = {"images": images, "categories": names}
    return (
        {**parts, "annotations": [annotation for annotation, _ in truth]},
        {**parts, "annotations": [annotation for annotation, _ in found]},
    )


def _annotations(image: Indices, category: Indices, xyxy: Array, chosen: range) -> list[tuple[dict[str, Any], int]]:
    """The boxes of some categories, and which box each is."""
    size = xyxy[:, 2:] - xyxy[:, :2]
    xywh = np.concatenate([xyxy[:, :2], size], axis=1).tolist()
    with np.errstate(over="ignore"):  # a model may write any number
        areas = (size[:, 0] * size[:, 1]).tolist()
    found: list[tuple[dict[str, Any], int]] = []
    for n, i in enumerate(np.flatnonzero((category >= chosen.start) & (category < chosen.stop)).tolist(), 1):
        place = {"image_id": int(image[i]) + 1, "category_id": int(category[i]) + 1}
        found.append(({"id": n, **place, "bbox": xywh[i], "area": areas[i]}, i))
    return found
